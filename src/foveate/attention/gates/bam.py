"""Bottleneck attention: a channel gate and a spatial gate, side by side, fused before a sigmoid.

    c = W2 relu(BN(W1 mean_{H,W}(x)))                        (channel)
    s = conv_1x1(f(f(relu(BN(conv_1x1(x))))))                (spatial)
    f = relu(BN(conv_3x3, dilated))
    out = x * (1 + sigmoid(c * s))

Shapes: x (B, C, H, W), c (B, C, 1, 1), s (B, 1, H, W); C' = C / reduction inside both.
Cost: ``2 C C' + H W C' (C + 18 C' + 1)`` multiply-adds.

Paper: Park et al., "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514.
Published code: Jongchan/attention-module. It multiplies c and s where the paper adds them
(``fusion="sum"``), and pools over H x H windows, which is the mean on square maps alone; here it is
the mean on any.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.arguments import check_map, one_of, positive
from foveate.attention.gates._common import reduced_width, rename
from foveate.contracts import Gate
from foveate.registry import register

PUBLISHED_NAMES = {
    "channel_att.gate_c.gate_c_fc_0": "channel.0",
    "channel_att.gate_c.gate_c_bn_1": "channel.1",
    "channel_att.gate_c.gate_c_fc_final": "channel.3",
    "spatial_att.gate_s.gate_s_conv_reduce0": "spatial.0",
    "spatial_att.gate_s.gate_s_bn_reduce0": "spatial.1",
    "spatial_att.gate_s.gate_s_conv_di_0": "spatial.3",
    "spatial_att.gate_s.gate_s_bn_di_0": "spatial.4",
    "spatial_att.gate_s.gate_s_conv_di_1": "spatial.6",
    "spatial_att.gate_s.gate_s_bn_di_1": "spatial.7",
    "spatial_att.gate_s.gate_s_conv_final": "spatial.9",
}


@register(
    "bam",
    family="gates",
    title="Bottleneck attention: channel and spatial gates fused side by side",
    paper="Park et al., BAM: Bottleneck Attention Module, BMVC 2018, arXiv:1807.06514",
    source="Jongchan/attention-module@459efad0e05ee7dde50c41ca10a3d0800bc3792a",
    license="MIT",
    tags=("batch_statistics", "published"),
    parity="Jongchan/attention-module on square maps, exactly; its pooling ignores the width",
)
class BAM(Gate):
    """One plus a sigmoid of a channel gate and a spatial gate.

    Args:
        dim: channels C.
        reduction: C / C', how much narrower both are inside.
        dilation: of the spatial gate's 3x3 convolutions.
        fusion: "product", as in the code, or "sum", as in the paper.
    """

    def __init__(
        self, dim: int, reduction: int = 16, *, dilation: int = 4, fusion: str = "product"
    ) -> None:
        super().__init__()
        self.dim = dim
        self.fusion = one_of(fusion, ("product", "sum"), "fusion")
        self.hidden = reduced_width(dim, reduction)
        positive(dilation, "dilation")
        self.channel = nn.Sequential(
            nn.Linear(dim, self.hidden),
            nn.BatchNorm1d(self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, dim),
        )
        self.spatial = nn.Sequential(
            *_conv_bn_relu(dim, self.hidden),
            *_conv_bn_relu(self.hidden, self.hidden, 3, dilation),
            *_conv_bn_relu(self.hidden, self.hidden, 3, dilation),
            nn.Conv2d(self.hidden, 1, 1),
        )

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        channel = self.channel(x.mean((2, 3)))[:, :, None, None]  # (B, C, 1, 1)
        spatial = self.spatial(x)  # (B, 1, H, W)
        fused = channel * spatial if self.fusion == "product" else channel + spatial
        return 1 + fused.sigmoid()  # (B, C, H, W)

    def multiply_adds(self, height: int, width: int) -> int:
        spatial = self.hidden * (self.dim + 18 * self.hidden + 1)
        return 2 * self.dim * self.hidden + height * width * spatial

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read Jongchan/attention-module's names."""
        return rename(state, PUBLISHED_NAMES)


def _conv_bn_relu(dim: int, out: int, kernel_size: int = 1, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(dim, out, kernel_size, padding=padding, dilation=dilation)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]
