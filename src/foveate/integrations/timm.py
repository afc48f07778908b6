"""A changed model in one string: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.

timm's names of architectures have no room for a recipe: a slash in one is refused, and what stands
behind a dot is a tag of weights. But a folder (or a repository on a hub, ``hf-hub:OWNER/NAME``)
can name an architecture with its arguments. :func:`save` writes one whose architecture is
``foveate_changed``, with the base and the recipe as arguments. timm knows that name once this
module has been imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.models import load_pretrained, register_model
from torch import nn

from foveate._files import replacing
from foveate.surgery import recipe as recipes

ARCHITECTURE = "foveate_changed"
_OURS = ("base", "recipe")
_NOT_OF_THE_WEIGHTS = {"url", "file", "source", "state_dict", "hf_hub_id", "hf_hub_filename", "tag"}


def save(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write ``model`` so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives it.

    ``config.json`` names the base, its arguments and the recipe; ``model.safetensors`` has the
    weights, with the recipe too. Whoever reads it imports ``foveate.integrations.timm`` before.

    Args:
        model: made by ``timm.create_model``, changed or not.
        folder: is made where it is missing.

    Raises:
        ValueError: if timm cannot make its base again: it is no model of timm's, was made with
            arguments that JSON does not have, or was changed with an example input.
    """
    config = _config(model)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipes.save(model, folder / "model.safetensors")
    with replacing(folder / "config.json") as file:
        file.write(json.dumps(config, indent=2).encode())


def _config(model: nn.Module) -> dict[str, Any]:
    known = getattr(model, "pretrained_cfg", None) or {}
    if not known.get("architecture"):
        raise ValueError(
            f"expected a model of timm.create_model, got a {type(model).__name__} that does not "
            "state its architecture; foveate.surgery.recipe.save writes any model"
        )
    recipe = recipes.changes(model).recipe
    if any(step["input"] is None for step in recipe["steps"]):
        raise ValueError(
            "the model was changed with an example input, which timm cannot give again; "
            "foveate.surgery.recipe.save writes it, and load takes example="
        )
    given = {k: v for k, v in getattr(model, "_model_args", {}).items() if k not in _OURS}
    given |= {"num_classes": getattr(model, "num_classes", known.get("num_classes"))}
    for name, value in given.items():
        if json.loads(_json(name, value)) != (list(value) if isinstance(value, tuple) else value):
            raise ValueError(f"JSON does not give back {name}={value!r}, an argument of the model")
    kept = {k: v for k, v in known.items() if k not in _NOT_OF_THE_WEIGHTS and v is not None}
    return {
        "architecture": ARCHITECTURE,
        "num_classes": given["num_classes"],
        "model_args": {**given, "base": known["architecture"], "recipe": recipe},
        "pretrained_cfg": kept | {"num_classes": given["num_classes"]},
    }


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:
        raise ValueError(
            f"the model was made with {name}={value!r}, which JSON cannot hold"
        ) from error


@register_model
def foveate_changed(
    pretrained: bool = False,
    base: str = "",
    recipe: Mapping[str, Any] | None = None,
    pretrained_cfg: Mapping[str, Any] | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """The model ``base`` of timm's with the changes of ``recipe``; what a folder names.

    Args:
        pretrained: load the folder's weights.
        base: an architecture of timm's.
        recipe: what :func:`foveate.changes` gives.
        pretrained_cfg: of the folder.
        pretrained_cfg_overlay: instead of some of that.
        cache_dir: of timm.
        **arguments: for the base.

    Raises:
        ValueError: if base or recipe are missing, or the base lacks a place of the recipe.
    """
    if not base or recipe is None:
        raise ValueError(
            f"{ARCHITECTURE} is made from a folder of foveate.integrations.timm.save: "
            'timm.create_model("local-dir:FOLDER", pretrained=True)'
        )
    arguments.pop("pretrained_model_args", None)
    model = recipes.apply(timm.create_model(base, **arguments), recipe)
    config = {**(pretrained_cfg or {}), **(pretrained_cfg_overlay or {}), "architecture": base}
    model.pretrained_cfg = model.default_cfg = config
    if pretrained:
        load_pretrained(
            model, config, num_classes=getattr(model, "num_classes", 0),
            in_chans=arguments.get("in_chans", 3), cache_dir=cache_dir,
        )  # fmt: skip
    return model
