"""Selective kernel: convolutions of several reaches, each channel choosing among them.

    U_i = relu(BN(conv_3x3(x, dilation_i))),   z = relu(BN(W1 mean_{H,W}(sum_i U_i)))
    a = softmax_i(W2 z),   out = sum_i a_i * U_i

Shapes: x, U_i (B, C, H, W), z (B, d), a (B, branches, C); d = max(C / reduction, min_width).
Cost: ``9 H W C C / groups`` multiply-adds for each branch, and ``(1 + branches) C d``.

Paper: Li et al., "Selective Kernel Networks", CVPR 2019, arXiv:1903.06586.
Published code: implus/SKNet (Caffe), whose 5x5 branch is a 3x3 convolution with dilation 2; timm's
``SelectiveKernel`` is it with ``split_input=False``. The modified unit of implus/PytorchInsight has
``dilations=(1, 1), groups=(1, 32), min_width=1``. timm's default is ``split_input=True`` with
``groups=1, min_width=8``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from foveate.arguments import check_map, odd, positive
from foveate.attention.gates._common import as_linear, reduced_width, rename
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "selective_kernel",
    family="gates",
    title="Selective kernel: convolutions of several reaches, chosen by channel (SKNet)",
    paper="Li et al., Selective Kernel Networks, CVPR 2019, arXiv:1903.06586",
    source="implus/SKNet@17dd7086d4959be0c8c6ccce52e4fd8187836770",
    tags=("batch_statistics", "published"),
    parity="timm's SelectiveKernel in the paper's form, exactly; timm's agrees with the authors' "
    "Caffe definition",
)
class SelectiveKernel(Mixer):
    """Branches of convolutions, summed with a softmax over branches for each channel.

    Args:
        dim: channels C.
        reduction: C / d, how much narrower the bottleneck is.
        dilations: of the branches' convolutions, one each.
        kernel_sizes: sides of the branches' convolutions, odd, one number or one each.
        stride: of the convolutions.
        dim_out: channels that come out; ``dim`` by default.
        groups: of the convolutions, one number or one each; ``dim`` where that is less.
        min_width: the least d.
        split_input: give each branch its share of the channels and not all of them.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 16,
        *,
        dilations: Sequence[int] = (1, 2),
        kernel_sizes: int | Sequence[int] = 3,
        stride: int = 1,
        dim_out: int | None = None,
        groups: int | Sequence[int] = 32,
        min_width: int = 32,
        split_input: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.dim_out = out = dim if dim_out is None else positive(dim_out, "dim_out")
        self.stride = positive(stride, "stride")
        self.hidden = max(positive(min_width, "min_width"), reduced_width(out, reduction))
        shares = _shares(dim, len(dilations), groups, split_input, out)
        sides = _one_each(kernel_sizes, len(dilations), "kernel_sizes")
        self.split_input = split_input
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(
                    width,
                    out,
                    odd(side, "kernel_sizes"),
                    stride,
                    padding=dilation * (side // 2),
                    dilation=dilation,
                    groups=group,
                    bias=False,
                ),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            )
            for dilation, side, (width, group) in zip(dilations, sides, shares, strict=True)
        )
        self.reduce = nn.Linear(out, self.hidden, bias=False)
        self.bn = nn.BatchNorm1d(self.hidden)
        self.select = nn.Linear(self.hidden, len(dilations) * out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        count = len(self.branches)
        inputs = x.chunk(count, 1) if self.split_input else [x] * count
        maps = [branch(part) for branch, part in zip(self.branches, inputs, strict=True)]
        z = self.bn(self.reduce(sum(maps[1:], maps[0]).mean((2, 3)))).relu()  # (B, d)
        choice = self.select(z).unflatten(1, (count, self.dim_out)).softmax(1)[..., None, None]
        chosen = [choice[:, i] * one for i, one in enumerate(maps)]
        return sum(chosen[1:], chosen[0])

    def multiply_adds(self, height: int, width: int) -> int:
        convolutions = sum(branch[0].weight.numel() for branch in self.branches)
        choice = (1 + len(self.branches)) * self.dim_out * self.hidden
        return -(-height // self.stride) * -(-width // self.stride) * convolutions + choice

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read timm's names and 1x1 convolutions."""
        names = {"attn.fc_reduce": "reduce", "attn.bn": "bn", "attn.fc_select": "select"}
        for i in range(len(self.branches)):
            names |= {f"paths.{i}.conv": f"branches.{i}.0", f"paths.{i}.bn": f"branches.{i}.1"}
        return {
            key: as_linear(value) if key.startswith(("reduce", "select")) else value
            for key, value in rename(state, names).items()
        }


def _shares(
    dim: int, branches: int, groups: int | Sequence[int], split_input: bool, out: int
) -> list[tuple[int, int]]:
    """Input channels and groups of each branch's convolution."""
    if branches == 0:
        raise ValueError("dilations must name one branch at least")
    each = _one_each(groups, branches, "groups")
    if split_input and dim % branches:
        raise ValueError(f"dim={dim} does not split into {branches} equal shares")
    width = dim // branches if split_input else dim
    each = [min(width, positive(group, "groups")) for group in each]
    for group in each:
        if width % group or out % group:
            raise ValueError(f"{width} to {out} channels do not divide into groups={group}")
    return [(width, group) for group in each]


def _one_each(values: int | Sequence[int], branches: int, name: str) -> list[int]:
    each = [values] * branches if isinstance(values, int) else list(values)
    if len(each) != branches:
        raise ValueError(f"{name} must be one number or {branches}, got {values!r}")
    return each
