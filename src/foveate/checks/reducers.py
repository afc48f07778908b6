"""What every reducer keeps: the model it was given, and the tokens that it may not touch."""

from __future__ import annotations

import copy
import io
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.analysis.flops import count_flops
from foveate.checks.refusals import require_refusal
from foveate.checks.running import check, checks_for, require, require_close
from foveate.checks.tables import REDUCED, REFUSED
from foveate.contracts import Reducer
from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction.whole import (
    finish,
    multiply_adds,
    reduce,
    reducer_of,
    sources,
    watching,
)
from foveate.registry import describe, list_reducers, reducer_name

_SIZE = (32, 40)
_SMALL: dict[str, Any] = {
    "img_size": _SIZE, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3,
    "num_classes": 5,
}  # fmt: skip
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vision_transformer.VisionTransformer", {"dynamic_img_size": True}),
    "without_class_token": (
        "vision_transformer.VisionTransformer", {"class_token": False, "global_pool": "avg"}
    ),
    "registers": (
        "vision_transformer.VisionTransformer",
        {"reg_tokens": 4, "init_values": 0.1, "dynamic_img_size": True},
    ),
    "distilled": ("deit.VisionTransformerDistilled", {}),
    "rotary": ("eva.Eva", {"use_rot_pos_emb": True, "init_values": 0.1, "swiglu_mlp": True}),
    "class_attention": ("cait.Cait", {"init_values": 0.1}),
}  # fmt: skip


def _small(name: str, options: dict[str, Any]) -> nn.Module:
    module, _, cls = name.partition(".")  # imported late, since timm brings torchvision
    return getattr(import_module(f"timm.models.{module}"), cls)(**_SMALL, **options)


HOSTS: dict[str, Callable[[], nn.Module]] = {
    kind: partial(_small, *how) for kind, how in _KINDS.items()
}
"""Small models of every kind that reducers take, by name."""


@dataclass(frozen=True)
class ReducerSubject:
    """A reducer with the options and the model that it is examined on.

    Attributes:
        name: of the reducer.
        reducer: its class.
        host: makes the model.
        kind: what the model is called, such as ``"registers"``.
        options: with which it reduces.
        tags: capabilities, as registered.
    """

    name: str
    reducer: type[Reducer]
    host: Callable[[], nn.Module]
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    role = "reducer"

    def __str__(self) -> str:
        return f"{self.name} of {self.kind}"

    def plain(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The model before it is reduced, in eval mode, no parameter of it zero or one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _moved(self.host()).to(dtype).eval()

    def build(self, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
        """The reduced model, in eval mode."""
        plain = self.plain(dtype)
        known = {name for name, _ in plain.named_parameters()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            reduced = reduce(plain, self.reducer, **{**self.options, **options})
            return finish(_moved(reduced, known)).eval()

    def images(
        self, batch: int = 2, size: tuple[int, int] = _SIZE, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Seeded standard-normal images."""
        generator = torch.Generator().manual_seed(2)
        return torch.randn(batch, 3, *size, generator=generator).to(dtype)


def reducer_subjects(
    reducers: Iterable[str | type[Reducer]] | None = None,
    hosts: Mapping[str, Callable[[], nn.Module]] | None = None,
    **options: Any,
) -> list[ReducerSubject]:
    """Every reducer with every model that it takes (:data:`~foveate.checks.tables.REFUSED`).

    Args:
        reducers: names or classes; all that are registered by default.
        hosts: models by name, each made anew by a call; :data:`HOSTS` by default.
        **options: with which to reduce.
    """
    made = []
    for reducer in list_reducers() if reducers is None else reducers:
        name = (
            reducer
            if isinstance(reducer, str)
            else reducer_name(reducer) or reducer.__name__.lower()
        )
        spec = describe(name) if name in list_reducers() or isinstance(reducer, str) else None
        cls: Any = reducer if spec is None else spec.cls
        tags = frozenset() if spec is None else spec.tags
        chosen = {**REDUCED.get(name, {}), **options}
        refused = REFUSED.get(name, {}) if hosts is None else {}
        for kind, host in (HOSTS if hosts is None else hosts).items():
            if kind in refused:
                continue
            made.append(ReducerSubject(name, cls, host, kind, chosen, tags))
    return made


def check_reducer(
    reducer: str | type[Reducer],
    /,
    *,
    hosts: Mapping[str, Callable[[], nn.Module]] | None = None,
    slow: bool = False,
    **options: Any,
) -> None:
    """Run every check of reducers; the first failure raises.

    >>> check_reducer("tome", r=4)

    Args:
        reducer: a registered name, or a class derived from ``foveate.contracts.Reducer``.
        hosts: models by name, each made anew by a call that takes nothing; small ones of every kind
            by default.
        slow: also run the checks that need a compiler or an exporter and take seconds each.
        **options: with which to reduce.

    Raises:
        CheckFailure: if a check fails.
    """
    for subject in reducer_subjects([reducer], hosts, **options):
        for applicable in checks_for(subject, slow=slow):
            applicable(subject)


@check(roles=("reducer",))
def check_unreduced(subject: ReducerSubject) -> None:
    """With the options that reduce nothing, the model computes what it did."""
    x, plain = subject.images(), subject.plain()
    reduced = subject.build(**subject.reducer.unreduced)
    with torch.no_grad():
        require_close(reduced(x), plain(x), "nothing reduced", tolerance=1e-6)


@check(roles=("reducer",))
def check_still_the_model(subject: ReducerSubject) -> None:
    """Class, head and features of the host stay; the number of classes can be changed."""
    plain, model, x = subject.plain(), subject.build(), subject.images()
    if reducer_of(model) is not model:
        require(type(model) is type(plain), f"a {type(plain).__name__} became {type(model)}")
    whole: Any = model
    with torch.no_grad():
        y = whole(x)
        require_close(whole.forward_head(whole.forward_features(x)), y, "features, then head")
        whole.reset_classifier(3)
        require(tuple(whole(x).shape) == (len(x), 3), "reset_classifier(3) gives other logits")
        whole.reset_classifier(0)
        require(whole(x).shape[-1] == whole.num_features, "reset_classifier(0) keeps a head")


@check(roles=("reducer",))
def check_images_alone(subject: ReducerSubject) -> None:
    """An image alone gives what it gives in a batch."""
    model, x = subject.build(), subject.images(3)
    with torch.no_grad():
        together = model(x)
        for i in range(len(x)):
            require_close(model(x[i : i + 1]), together[i : i + 1], f"image {i} alone")


@check(roles=("reducer",))
def check_image_gradients(subject: ReducerSubject) -> None:
    """Gradients in eval mode are those of finite differences; in training all weights get one."""
    model = subject.build(torch.float64)
    x = subject.images(1, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(model, x, fast_mode=True, atol=1e-6, rtol=1e-3)
    model.train()
    torch.manual_seed(0)
    logits = _logits_in_training(model, subject.images(dtype=torch.float64))
    torch.stack([each.square().sum() for each in logits]).sum().backward()
    for name, parameter in model.named_parameters():
        require(parameter.grad is not None, f"{name} gets no gradient in training")
        require(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite")


def _logits_in_training(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The logits of the model, and of heads that it has for training alone."""
    with watching(model) as watch:
        logits = model(x)
    return [logits, *watch.logits]


@check(roles=("reducer",))
def check_recomputed_blocks(subject: ReducerSubject) -> None:
    """Blocks that are computed again for their gradients give the same ones."""
    found = []
    for recomputed in (False, True):
        model: Any = subject.build().train()
        model.set_grad_checkpointing(recomputed)
        torch.manual_seed(0)
        model(subject.images()).square().sum().backward()
        found.append(tuple(p.grad for p in model.parameters() if p.grad is not None))
    require_close(found[1], found[0], "with set_grad_checkpointing")


@check(roles=("reducer",))
def check_reduced_multiply_adds(subject: ReducerSubject) -> None:
    """The closed form is half of what the FLOP counter counts, and less than before."""
    model = subject.build()
    stated = multiply_adds(model, _SIZE)
    counted = count_flops(model, subject.images(1)) / 2
    require(stated == counted, f"multiply_adds states {stated}, the counter counts {counted:g}")
    before = count_flops(subject.plain(), subject.images(1)) / 2
    require(stated < before, f"{stated} multiply-adds are not fewer than the model's {before:g}")


@check(roles=("reducer",))
def check_any_images(subject: ReducerSubject) -> None:
    """Sizes that the host takes, the reduced model takes, at the stated cost."""
    model: Any = subject.build()
    if not getattr(model, "dynamic_img_size", False):
        return
    for size in ((32, 40), (8, 8), (40, 24), (56, 8)):
        x = subject.images(size=size)
        with torch.no_grad():
            require(bool(model(x).isfinite().all()), f"size {size}: not finite")
        stated, counted = multiply_adds(model, size), count_flops(model, x[:1]) / 2
        require(stated == counted, f"size {size}: states {stated}, counted {counted:g}")


@check(roles=("reducer",))
def check_tokens_stand_for_patches(subject: ReducerSubject) -> None:
    """Prefix tokens pass untouched; each other token is made of the patches it stands for.

    In blocks whose branches give zero, so that only what the reducer does is seen: a token is one
    of its patches or a mean of them, of any weights, so that no channel leaves their bounds.
    """
    model = subject.build()
    blocks = reducer_of(model)
    if not isinstance(blocks, ReducedBlocks):
        return
    for block in blocks.blocks:
        last = (block.attn.proj, block.mlp.fc2)
        for parameter in (p for layer in last for p in layer.parameters()):
            nn.init.zeros_(parameter)
    seen: list[Tensor] = []
    model.norm = nn.Identity()
    for module in (blocks.blocks[0].norm1, model.norm):
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    blocks.reads_patches = False  # or each token would be put back at all of its patches
    found = sources(model, subject.images())
    tokens, left = seen
    require(len(found) > 0, "sources finds no block that reduces")
    token = list(found.values())[-1]
    prefix, patches = blocks.prefix, tokens.shape[1] - blocks.prefix
    require(tuple(token.shape) == (len(tokens), patches), f"sources has shape {tuple(token.shape)}")
    require_close(left[:, :prefix], tokens[:, :prefix], "prefix tokens")
    low, high = _bounds(tokens[:, prefix:], token)
    left = left[:, -low.shape[1] :]
    require_close(left, left.clamp(low, high), "tokens that are left, in their patches' bounds")


def _bounds(patches: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each channel among a token's patches."""
    stands_for = torch.arange(int(token.max()) + 1)[:, None] == token[:, None]  # (B, tokens, N)
    stands_for, each = stands_for[..., None], patches[:, None]
    low = torch.where(stands_for, each, torch.inf).amin(2)
    high = torch.where(stands_for, each, -torch.inf).amax(2)
    return low, high


@check(roles=("reducer",))
def check_reduced_state(subject: ReducerSubject) -> None:
    """A plain model's state loads, a reduced one's strictly, that of other reducers not at all."""
    plain, model, x = subject.plain(), subject.build(), subject.images()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    again = subject.build()
    for parameter in again.parameters():
        nn.init.zeros_(parameter)
    again.load_state_dict(state)
    with torch.no_grad():
        require_close(again(x), model(x), "loaded from its own state")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.load_state_dict(plain.state_dict())
    with torch.no_grad():
        require_close(model(x), again(x), "loaded from the plain model's state")
    for other in list_reducers():
        if other != subject.name:
            foreign = {**state, f"blocks.0.{other}.weight": torch.zeros(1)}
            require_refusal(lambda s=foreign: model.load_state_dict(s), "a foreign state", other)


@check(roles=("reducer",))
def check_reduced_copies(subject: ReducerSubject) -> None:
    """Copied and pickled, the model gives the same."""
    model, x = subject.build(), subject.images()
    file = io.BytesIO(pickle.dumps(model))
    with torch.no_grad():
        require_close(copy.deepcopy(model)(x), model(x), "a copy")
        require_close(pickle.load(file)(x), model(x), "pickled")


@check(roles=("reducer",))
def check_reduced_refusals(subject: ReducerSubject) -> None:
    """A model without tokens, one reduced before and an unknown option are refused."""
    cls = subject.reducer
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    require_refusal(lambda: reduce(convolution, cls, **subject.options), "no tokens", "tokens")
    require_refusal(lambda: reduce(subject.plain(), cls, kep=1), "an unknown option", "kep")
    reduced = subject.build()
    require_refusal(lambda: reduce(reduced, cls), "a reduced model", "already")


@check(roles=("reducer",))
def check_compiled_reducer(subject: ReducerSubject) -> None:
    """``torch.compile`` makes one graph, whatever the images (nothing is generated)."""
    model, graphs = subject.build(), []

    def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend=keep)
    with torch.no_grad():
        for x in subject.images(6).split(2):
            require_close(compiled(x), model(x), "compiled")
    require(len(graphs) == 1, f"three batches are compiled {len(graphs)} times")


@check(roles=("reducer",), slow=True)
def check_reducer_onnx(subject: ReducerSubject) -> None:
    """Exported at one size, ONNX Runtime gives the same."""
    from foveate.deploy.export import export

    with tempfile.TemporaryDirectory() as folder:
        export(subject.build(), Path(folder) / "model.onnx", size=_SIZE)


def _moved(model: nn.Module, known: Collection[str] = ()) -> nn.Module:
    """Parameters that are not ``known``, here or in a copy, moved from zero and one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.sub(r"^stages\.\d+\.", "", name) not in known:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model
