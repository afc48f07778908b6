"""Mechanisms by name in the model files of Ultralytics' YOLO, and inserted into its models.

Written against its public behaviour: its parser looks modules up by name in
``ultralytics.nn.tasks``, and a trainer's ``get_model`` gives the model to train. Its license is
AGPL-3.0: read it before you pass on what you build with it. It is imported when a function of this
module is called, never before, and is no dependency.

    # in a model's YAML: from, repeats, module, arguments; options as a mapping, channels are known
    - [-1, 1, foveate.cbam, [{reduction: 8}]]
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from foveate.attention.adapt import Place, adapt
from foveate.registry import describe, list_attention
from foveate.surgery.change import insert as insert_into
from foveate.surgery.recipe import apply, changes

PREFIX = "foveate."
_HEAD_CHANNELS = 32
_ROLES = ("gate", "mixer")
"""What a place between the layers of a YAML takes; a token mixer reads the map row by row."""


class Layer(nn.Module):
    """A mechanism as a layer of a YAML, ``x -> g(x)`` for a gate and ``x + m(x)`` for a mixer.

    The parser does not tell a layer its channels, and the width of a YAML is scaled; so the
    mechanism is made at the first image, which a detector sees while it is built.

    Args:
        name: of the mechanism.
        options: of it.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.name = name
        self.options = dict(options or {})
        adapt(name, Place(64, num_heads=2, size=(8, 8), roles=_ROLES), self.options)  # or refuse
        self.mechanism: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.mechanism is None:
            self.mechanism = self._made(x)
        y = self.mechanism(x)
        return y if describe(self.name).role == "gate" else x + y

    def _made(self, x: Tensor) -> nn.Module:
        channels = x.shape[1]
        heads = max(channels // _HEAD_CHANNELS, 1)
        while channels % heads:
            heads -= 1
        place = Place(channels, num_heads=heads, size=(x.shape[2], x.shape[3]), roles=_ROLES)
        made = adapt(self.name, place, self.options).module
        return made.to(device=x.device, dtype=x.dtype).train(self.training)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.mechanism is None and any(key.startswith(f"{prefix}mechanism.") for key in state):
            raise RuntimeError(
                f"{prefix}{self.name} has not seen an image yet, and so no channels: call the "
                "model once before loading weights into it"
            )
        super()._load_from_state_dict(state, prefix, *rest)


def register() -> list[str]:
    """Make every gate and mixer a module name in the YAML of YOLO models: ``foveate.NAME``.

    Call it before ``YOLO("model.yaml")``; for a saved model no call is needed, since its file names
    the class. A name that Ultralytics has is never replaced: the prefix is this library's.

    Returns:
        The names.

    Raises:
        ModuleNotFoundError: if Ultralytics is not installed.
    """
    tasks = _tasks()
    names = []
    for name in list_attention():
        if describe(name).role != "aligner":
            setattr(tasks, PREFIX + name, partial(Layer, name))
            names.append(PREFIX + name)
    return names


def insert(yolo: Any, mechanism: Any, **options: Any) -> Any:
    """Put ``mechanism`` into the network of a loaded YOLO, whose weights are kept.

    Args:
        yolo: a ``YOLO`` (or another ``ultralytics`` model that holds a network).
        mechanism: as for :func:`foveate.insert`.
        **options: of :func:`foveate.insert` (``at``, ``where``, ``start``) and of the mechanism.

    Returns:
        ``yolo``; train it with ``yolo.train(..., trainer=trainer(yolo))``, since training alone
        builds the network anew from its YAML, without what was inserted.

    Raises:
        TypeError: if ``yolo`` holds no network.
        ValueError: as :func:`foveate.insert` does.
    """
    network = _network(yolo)
    unchanged = not len(changes(network))
    insert_into(network, mechanism, **options)
    if unchanged:
        yolo.add_callback("on_pretrain_routine_end", _refuse_unchanged)
    return yolo


def _refuse_unchanged(trainer: Any) -> None:
    """A callback of training: what was inserted must be in the network that is trained."""
    if not len(changes(trainer.model)):
        raise ValueError(
            "training builds the network anew, without what foveate inserted: pass "
            "trainer=foveate.integrations.ultralytics.trainer(yolo)"
        )


def trainer(yolo: Any) -> type:
    """The trainer of the task of ``yolo`` that keeps what was inserted, and all weights that fit.

    Args:
        yolo: that was changed by :func:`insert`, or :func:`foveate.replace` on ``yolo.model``.

    Raises:
        TypeError: if ``yolo`` holds no network.
        ValueError: if nothing was inserted.
    """
    network = _network(yolo)
    if not len(changes(network)):
        raise ValueError("nothing was inserted into this model: train it without this trainer")
    base = yolo.task_map[yolo.task]["trainer"]
    before = copy.deepcopy(network).float()

    class Trainer(base):
        def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
            fresh = super().get_model(*args, **kwargs)
            return _as_before(fresh, before)

    Trainer.__name__ = f"Changed{base.__name__}"
    return Trainer


def _as_before(fresh: nn.Module, before: nn.Module) -> nn.Module:
    """Make the changes of ``before`` to ``fresh``, and take its weights where they fit."""
    apply(fresh, changes(before).recipe)
    own = fresh.state_dict()
    fits = {
        key: value
        for key, value in before.state_dict().items()
        if key in own and own[key].shape == value.shape
    }
    fresh.load_state_dict(fits, strict=False)
    if left := [key for key in own if key not in fits]:
        warnings.warn(
            f"{len(left)} of {len(own)} entries start fresh, since they do not fit those of the "
            f"model before (another number of classes): {', '.join(left[:4])}",
            stacklevel=3,
        )
    return fresh


def _network(yolo: Any) -> nn.Module:
    network = getattr(yolo, "model", None)
    if not isinstance(network, nn.Module):
        raise TypeError(f"expected a YOLO that holds a network, got {type(yolo).__name__}")
    return network


def _tasks() -> Any:
    """The module in which the parser looks names up."""
    try:
        return import_module("ultralytics.nn.tasks")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "foveate.integrations.ultralytics needs ultralytics (AGPL-3.0), which foveate does not "
            f"depend on: pip install ultralytics ({error})"
        ) from error
