"""The blocks of a reduced model, and what they hand on to each other within one forward.

timm's models run ``blocks(x)``, or ``for block in blocks: x = block(x, ...)``. Iterating over
:class:`ReducedBlocks` starts a forward: what it yields runs one block as the reducer says, and
hands the reducer's state (sizes of merged tokens, which patches are left) to the next. The state
belongs to that iteration, so that nothing stays on the module, several forwards may run at once,
and a block that is computed again for its gradient (``set_grad_checkpointing``) finds the state
that it had.

The blocks themselves stay the model's own modules under their names (``blocks.0. ...``). What a
reducer adds to a block is a child of it that has the reducer's name, so that a state dict says
which reducer it is of.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.contracts import Reducer
from foveate.reduction._vit import Vit, attention_cost, hooked, linear_cost, read, reads_patches
from foveate.registry import list_reducers, reducer_name


class ReducedBlocks(Reducer):
    """Base of reducers that stand where the blocks of a model stood.

    A subclass states :meth:`layer`, and :meth:`begin` and :meth:`end` where it has a state or
    something to do at the end; it is built with what :func:`~foveate.reduction._vit.read` gives and
    its own options, by keyword.

    Args:
        vit: what is read of the model.
    """

    def __init__(self, vit: Vit) -> None:
        super().__init__()
        self.name = reducer_name(type(self)) or type(self).__name__.lower()
        self.dim = vit.dim
        self.prefix = vit.prefix
        self.reads_patches = vit.reads_patches
        self.container = vit.container
        self.watch: Watch | None = None
        for index, block in enumerate(vit.blocks):
            self.add_module(str(index), block)
        self.register_load_state_dict_pre_hook(_check_state)

    @classmethod
    def reduce(cls, model: nn.Module, **options: Any) -> nn.Module:
        blocks = cls(read(model), **options)
        blocks.training = model.training
        model.blocks = blocks
        # A function of this module and not a bound one: it is pickled and copied by its name.
        vars(model)["forward_intermediates"] = refuse_intermediates
        if hasattr(model, "reset_classifier"):
            vars(model)["reset_classifier"] = ResetClassifier(model)
        if cls.convert_published is not ReducedBlocks.convert_published:
            vars(model)["convert_published"] = blocks.convert_published
        return model

    def undo(self, model: nn.Module) -> None:
        for block in self.blocks:
            block._modules.pop(self.name, None)
        blocks = self.container()
        for index, block in enumerate(self.blocks):
            blocks.add_module(str(index), block)
        blocks.training = self.training
        model.blocks = blocks
        for name in ("forward_intermediates", "reset_classifier", "convert_published"):
            vars(model).pop(name, None)

    def added(self) -> list[nn.Parameter]:
        own = [block._modules[self.name] for block in self.blocks if self.name in block._modules]
        return [parameter for module in own if module for parameter in module.parameters()]

    def begin(self, x: Tensor) -> Any:
        """The state before the first block, for tokens (B, N, C)."""
        return None

    def layer(
        self, index: int, block: Any, x: Tensor, state: Any, rope: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Block number ``index`` on ``x``: its output, and the state after it.

        Args:
            index: from 0.
            block: the model's own module.
            x: tokens (B, N, C).
            state: as :meth:`begin` or the block before has left it; it is not written to.
            rope: rotary embedding of all patches, where the model has one.
        """
        raise NotImplementedError

    def end(self, x: Tensor, state: Any) -> Tensor:
        """What follows the last block: the tokens that the model's norm gets."""
        return x

    def classified_anew(self, model: Any) -> None:
        """Told when ``model`` has got another classifier, of other classes or of other tokens."""
        self.reads_patches = reads_patches(model)

    def put_back(self, x: Tensor, token: Tensor | None) -> Tensor:
        """``x`` with ``token`` (B, patches) at each patch of the image; None where all are left."""
        if token is None:
            return x
        patches = x[:, self.prefix :]
        spread = patches.gather(1, token[..., None].expand(-1, -1, x.shape[2]))
        return torch.cat([x[:, : self.prefix], spread], 1)

    def counts(self, patches: int) -> list[tuple[int, int]]:
        """Patches' tokens that the attention and the MLP of each block get, in eval mode."""
        raise NotImplementedError

    def tokens_out(self, patches: int) -> int:
        """Patches' tokens that leave the last block, in eval mode."""
        return self.counts(patches)[-1][1]

    def own_multiply_adds(self, patches: int) -> int:
        """Multiply-adds of what the reducer does beside the blocks."""
        return 0

    def multiply_adds(self, tokens: int) -> int:
        patches = tokens - self.prefix
        total = self.own_multiply_adds(patches)
        for block, (attending, mixing) in zip(self.blocks, self.counts(patches), strict=True):
            total += attention_cost(block.attn, attending + self.prefix)
            total += linear_cost(block.mlp, mixing + self.prefix)
        return total

    def convert_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published reduced model's state under the names of the model here."""
        return dict(state)

    @property
    def blocks(self) -> list[Any]:
        """The model's own modules, in order."""
        return list(self.children())

    def add_to(self, index: int, module: nn.Module) -> None:
        """Make ``module`` a child of block ``index``, on its device, under the reducer's name."""
        block = self.blocks[index]
        like = next(block.parameters())
        block.add_module(self.name, module.to(like.device, like.dtype).train(block.training))

    def own(self, block: nn.Module) -> Any:
        """What :meth:`add_to` added to ``block``."""
        return getattr(block, self.name)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            return self.blocks[index]
        part = copy.copy(self)  # as timm's prune_intermediate_layers asks for, with the same blocks
        part._modules = dict(list(self._modules.items())[index])
        return part

    def __iter__(self) -> Iterator[_Step]:
        run = _Run()
        for index, block in enumerate(self._modules.values()):
            yield _Step(self, run, index, block)

    def forward(self, x: Tensor) -> Tensor:
        for step in self:
            x = step(x)
        return x

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class _Run:
    """One forward: what the blocks hand on."""

    def __init__(self) -> None:
        self.state: Any = None


class _Step:
    """One block in one forward; what else is asked of it or given to it is the model's own block's.

    Attributes:
        before: once it has run, the state that it had and whether it was watched.
    """

    reducer: ReducedBlocks
    run: _Run
    index: int
    block: Any
    before: tuple[Any, bool] | None

    def __init__(self, reducer: ReducedBlocks, run: _Run, index: int, block: Any) -> None:
        self.reducer = reducer
        self.run = run
        self.index = index
        self.block = block
        self.before = None

    def __call__(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("a reduced model takes no attn_mask: it is of all tokens, not of few")
        reducer, run = self.reducer, self.run
        if self.before is None:
            warn_of_hooks(self.index, self.block)
            state = reducer.begin(x) if self.index == 0 else run.state
            self.before = state, reducer.watch is not None
            return self._run(x, state, rope)
        # The block is computed again for its gradient, from what it had.
        state, watched = self.before
        now = reducer.watch
        reducer.watch = Watch(reducer.penalties) if watched else None
        try:
            return self._run(x, state, rope)
        finally:
            reducer.watch = now

    def _run(self, x: Tensor, state: Any, rope: Tensor | None) -> Tensor:
        reducer, run = self.reducer, self.run
        x, run.state = reducer.layer(self.index, self.block, x, state, rope)
        return reducer.end(x, run.state) if self.index == len(reducer) - 1 else x

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)

    def __setattr__(self, name: str, value: Any) -> None:
        own = name in ("reducer", "run", "index", "block", "before")
        object.__setattr__(self, name, value) if own else setattr(self.block, name, value)


def warn_of_hooks(index: int, block: Any) -> None:
    """Say that hooks on a block, or on its attention, may not be run: it is computed in parts."""
    for path, part in ((f"blocks.{index}", block), (f"blocks.{index}.attn", block.attn)):
        if hooked(part):
            warnings.warn(
                f"a hook on {path} is not run where the reducer computes the block in parts: hook "
                "what is inside, or the model before it is reduced",
                stacklevel=4,
            )


class ResetClassifier:
    """The ``reset_classifier`` of a reduced model, which tells its blocks as well.

    Args:
        model: is not kept alive by this.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        model: Any = self._model()
        type(model).reset_classifier(model, *args, **kwargs)
        model.blocks.classified_anew(model)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._model = weakref.ref(state["model"])


class Watch:
    """Which token stands for each patch, noted while a model runs.

    Attributes:
        layers: by the number of the block from which on it holds, (B, N): the number of the token
            among those of patches, -1 where the patch was dropped.
        decisions: in training, by the number of the block that decided, (B, N): 1 for a patch that
            is kept and 0 for another, with their gradient.
        logits: in training, of heads beside the model's own; each learns what that one does, and
            counts as much.
    """

    def __init__(self, penalties: Callable[[Watch], dict[str, Tensor]]) -> None:
        self._penalties = penalties
        self.layers: dict[int, Tensor] = {}
        self.decisions: dict[int, Tensor] = {}
        self.logits: list[Tensor] = []

    def penalties(self) -> dict[str, Tensor]:
        """What the reducer asks for, of what was noted."""
        return self._penalties(self)

    def decided(self, index: int, kept: Tensor) -> None:
        """Note what block ``index`` decided of each patch."""
        self.decisions[index] = kept

    def moved(self, index: int, to: Tensor) -> None:
        """Note what token each patches' token became at block ``index``; -1 for none."""
        if not self.layers:
            self.layers[index] = to
            return
        before = list(self.layers.values())[-1]
        now = to.gather(1, before.clamp_min(0))
        self.layers[index] = torch.where(before < 0, before, now)


def refuse_intermediates(*_: Any, **__: Any) -> Any:
    """Refuse maps of a model whose blocks give fewer tokens than a map has cells."""
    raise ValueError(
        "the blocks of a reduced model give fewer tokens than there are patches, and so no maps: "
        "take them from the model before it is reduced; foveate.reduction.sources(model, images) "
        "says which token stands for which patch"
    )


def _check_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse the state of a model that another reducer changed; take that of a plain model."""
    assert isinstance(module, ReducedBlocks)
    here = [key.removeprefix(prefix).split(".") for key in state if key.startswith(prefix)]
    found = {parts[1] for parts in here if len(parts) > 2}
    others = sorted(found & set(list_reducers()) - {module.name})
    if others:
        raise ValueError(
            f"the state dict is of a model that was reduced by {others[0]!r}, and this one was by "
            f"{module.name!r}: foveate.reduce the plain model by {others[0]!r} first"
        )
    own = module.state_dict(prefix=prefix, keep_vars=True)
    added = {key: v for key, v in own.items() if key[len(prefix) :].split(".")[1] == module.name}
    if added and module.name not in found and found:
        warnings.warn(
            f"the state dict is of the model before it was reduced by {module.name!r}: what that "
            f"added ({len(added)} tensors) stays as it is",
            stacklevel=4,
        )
        state.update(added)
