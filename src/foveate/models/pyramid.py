"""A small pyramid backbone with one place a block for any attention mechanism, by name.

    stem /4, then four stages at 1/4, 1/8, 1/16, 1/32; a block of a stage is
    x = x + conv3x3(x)              depthwise: position, for mixers that know none
    x = x + s * attention(norm(x))  the only thing that a comparison changes
    x = x + mlp(norm(x))

``s`` is a learnable scale a channel that starts at zero (``start="identity"``), so that at the
start every pyramid of a seed is the control ``"none"`` exactly, and learns from there what its
attention is good for (SkipInit, De and Smith 2020; ReZero, Bachlechner et al. 2020; LayerScale,
Touvron et al. 2021). ``start="plain"`` leaves it out. What stands in the place draws its weights
apart from the rest, so that the rest starts alike whatever stands there.

The place of attention takes, by ``attention``:

* a mixer as it is, or a token mixer, which reads the map row by row;
* a gate, after a depthwise convolution: ``project(gate(depthwise(x)))``;
* ``"depthwise_conv"`` (a control): the same without the gate, ``project(depthwise(x))``;
* ``"none"`` (a control): nothing; the branch is left out.

Shapes: images (B, in_chans, H, W) of any H, W >= 1, features (B, C_i, ceil(H / r_i), ceil(W / r_i))
with r = 4, 8, 16, 32. Every stage sees its own map size, down to 1x1; nothing depends on the
size at construction. The design is of this library; there is no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate._random import seed_all, undisturbed
from foveate.arguments import nearest, odd, one_of
from foveate.attention.adapt import Place, adapt
from foveate.models._backbone import Backbone, Stage, cfg, create
from foveate.models._layers import MapMlp
from foveate.published import reads_older
from foveate.registry import describe, list_attention

CONTROLS = {
    "none": "No attention: the branch is left out",
    "depthwise_conv": "A plain depthwise convolution and a projection",
}
"""What mechanisms are compared with in their place, and what it is."""

STARTS = ("identity", "plain")
"""How the attention's branch begins: scaled by zero, or as it is."""

SCALE_RATE = 10.0
"""How much faster than other weights the branch's scale is learnt: it is the parameter times this.

An optimizer such as Adam moves a weight by about the learning rate a step, so that without it a few
hundred steps end with branches that count some hundredths: every row would be the control still.
"""


def list_for_place() -> list[str]:
    """Names that ``attention`` takes: every mechanism but aligners, then the controls."""
    return [name for name in list_attention() if describe(name).role != "aligner"] + list(CONTROLS)


def create_for_place(
    name: str, dim: int, num_heads: int, index: int = 0, options: dict[str, Any] | None = None
) -> nn.Module | None:
    """What ``attention=name`` puts into the place of a block.

    Args:
        name: one of :func:`list_for_place`.
        dim: channels.
        num_heads: heads, for mechanisms that have them and unless ``options`` says otherwise.
        index: number of the block in its stage; mechanisms that shift their windows do so in
            every second block, as published.
        options: passed to the mechanism.

    Returns:
        ``(B, C, H, W) -> (B, C, H, W)``, or None for ``"none"``.

    Raises:
        ValueError: if the name or an option is unknown, or the mechanism does not accept them.
    """
    if name in CONTROLS:
        return _control(name, dim, options or {})
    one_of(name, list_for_place(), "attention")
    place = Place(dim, num_heads, shifted=index % 2 == 1, roles=("mixer", "gate"))
    made = adapt(name, place, options)
    return GatedConvolution(dim, gate=made.module) if made.role == "gate" else made.module


def _control(name: str, dim: int, options: dict[str, Any]) -> nn.Module | None:
    known = ["kernel_size"] if name == "depthwise_conv" else []
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, known)}")
    return None if name == "none" else GatedConvolution(dim, **options)


class GatedConvolution(nn.Module):
    """``project(gate(depthwise(x)))``; without a gate it is the control.

    Args:
        dim: channels.
        kernel_size: of the depthwise convolution; odd.
        gate: re-weights what the convolution gives.
    """

    def __init__(self, dim: int, kernel_size: int = 3, gate: nn.Module | None = None) -> None:
        super().__init__()
        odd(kernel_size, "kernel_size")
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.gate = nn.Identity() if gate is None else gate
        self.project = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.gate(self.depthwise(x)))


class PyramidBlock(nn.Module):
    """Position, attention and MLP, each beside the identity.

    Args:
        dim: channels.
        num_heads: heads of the attention.
        index: number of the block in its stage.
        attention: one of :func:`list_for_place`.
        attention_kwargs: its options.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: probability that a branch is left out for a sample.
        start: one of :data:`STARTS`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        index: int,
        attention: str,
        attention_kwargs: dict[str, Any] | None,
        mlp_ratio: float,
        drop_path: float,
        start: str = "identity",
    ) -> None:
        super().__init__()
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        seed = int(torch.randint(2**62, (), device="cpu"))
        with undisturbed():  # what is drawn after it is the same whatever stands in the place
            seed_all(seed)
            self.attention = create_for_place(attention, dim, num_heads, index, attention_kwargs)
        scaled = self.attention is not None and start == "identity"
        self.scale = nn.Parameter(torch.zeros(dim)) if scaled else None
        self.norm1 = nn.Identity() if self.attention is None else LayerNorm2d(dim)
        self.norm2 = LayerNorm2d(dim)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        reads_older(self)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        if self.attention is not None:
            x = x + self.drop_path(self._scaled(self.attention(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * (SCALE_RATE * self.scale).view(-1, 1, 1)

    def convert_older(self, state: dict[str, Any], prefix: str) -> None:
        """Read 0.1: the attention was called the block's slot, and had no scale."""
        old, ours = f"{prefix}slot.", f"{prefix}attention."
        for key in [key for key in state if key.startswith(old)]:
            state[ours + key.removeprefix(old)] = state.pop(key)
        trained = [value for key, value in state.items() if key.startswith(ours)]
        if self.scale is not None and trained:
            whole = torch.full_like(self.scale, 1 / SCALE_RATE, device=trained[0].device)
            state.setdefault(f"{prefix}scale", whole)


class Pyramid(Backbone):
    """The pyramid backbone; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        attention: one of :func:`list_for_place`, for every block: a mixer, token mixer or gate
            by name, ``"depthwise_conv"`` or ``"none"``.
        attention_kwargs: options of the mechanism.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage, for mechanisms that have heads.
        mlp_ratio: hidden channels of the MLP over the stage's.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising to this in the last block.
        start: ``"identity"``: the attention's branches begin scaled by zero; or ``"plain"``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        attention: str = "multi_head",
        attention_kwargs: dict[str, Any] | None = None,
        depths: Sequence[int] = (1, 2, 2, 1),
        dims: Sequence[int] = (32, 64, 96, 128),
        num_heads: Sequence[int] = (2, 4, 6, 8),
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        start: str = "identity",
    ) -> None:
        one_of(start, STARTS, "start")
        if not len(depths) == len(dims) == len(num_heads):
            raise ValueError(
                "depths, dims and num_heads need one number a stage, got "
                f"{tuple(depths)}, {tuple(dims)} and {tuple(num_heads)}"
            )
        stem = nn.Sequential(
            nn.Conv2d(in_chans, dims[0] // 2, 3, stride=2, padding=1),
            LayerNorm2d(dims[0] // 2),
            nn.GELU(),
            nn.Conv2d(dims[0] // 2, dims[0], 3, stride=2, padding=1),
        )
        stages = []
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        for level, dim in enumerate(dims):
            blocks = [
                PyramidBlock(
                    dim,
                    num_heads[level],
                    index,
                    attention,
                    attention_kwargs,
                    mlp_ratio,
                    rate,
                    start,
                )
                for index, rate in enumerate(rates[level])
            ]
            stages.append(Stage(blocks, _halve(dims[level - 1], dim) if level else None))
        super().__init__(
            stem,
            stages,
            dims=dims,
            reductions=[4 * 2**level for level in range(len(dims))],
            norm=LayerNorm2d(dims[-1]),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        self.attention = attention


def _halve(in_chans: int, dim: int) -> nn.Module:
    return nn.Sequential(LayerNorm2d(in_chans), nn.Conv2d(in_chans, dim, 3, stride=2, padding=1))


_CFG = cfg(crop_pct=0.95, first_conv="stem.0", license="apache-2.0")

default_cfgs = generate_default_cfgs(
    {"pyramid_pico.untrained": _CFG, "pyramid_tiny.untrained": _CFG}
)


@register_model
def pyramid_pico(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """About 0.5 M parameters: for small images and for studies on a laptop."""
    return create(Pyramid, "pyramid_pico", pretrained, **kwargs)


@register_model
def pyramid_tiny(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """About 5 M parameters: for photographs."""
    sizes = {"depths": (2, 2, 4, 2), "dims": (64, 128, 192, 320), "num_heads": (2, 4, 6, 10)}
    return create(Pyramid, "pyramid_tiny", pretrained, **{**sizes, **kwargs})
