"""Relation-aware global attention: a node's gate is read off its relations to all nodes.

    G = relu(BN(T X))^T relu(BN(P X))                            relations, (nodes, nodes)
    y_i = [mean(relu(BN(E x_i))), relu(BN(R [G_{:,i}, G_{i,:}]))]
    gate_i = sigmoid(BN(W2 relu(BN(W1 y_i))))

RGA-S: the nodes are positions, their features channels. RGA-C: the other way round. Together they
stand in this order, the second on what the first let through.

Shapes: X (B, features, nodes), G (B, nodes, nodes), gates (B, 1, H, W) and (B, C, 1, 1).
Cost: for N nodes of F features, ratios n and f, down-ratio r, d = (1 + N/n) / r:
``3 N F F/f + 4 N (N/n) F/f + N d (2 + N/n)`` multiply-adds: G itself is not made,
since what reads it is linear in it.

Paper: Zhang et al., "Relation-Aware Global Attention for Person Re-identification", CVPR 2020,
arXiv:1904.02998.
Published code: microsoft/Relation-Aware-Global-Attention-Networks. Relations are neither scaled
nor normalised, incoming ones come first. The weights know one map size: maps of another size are
resampled to it (bilinear), and so is the gate over positions on its way back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, pair, positive
from foveate.attention._softmax import wide_product
from foveate.attention.gates._common import reduced_width
from foveate.contracts import Gate
from foveate.registry import register

PUBLISHED_NAMES = {
    "theta": "theta",
    "phi": "phi",
    "gx": "embed",
    "gg": "relate",
    "W": "score",
}


class RelationGate(nn.Module):
    """A gate for each of ``nodes`` nodes, from their features and relations.

    Args:
        nodes: how many nodes there are.
        features: what each of them has.
        node_ratio: by how much the stacked relations shrink.
        feature_ratio: by how much the features shrink.
        down_ratio: by how much the last layer's input shrinks.
    """

    def __init__(
        self, nodes: int, features: int, node_ratio: int, feature_ratio: int, down_ratio: int
    ) -> None:
        super().__init__()
        self.nodes, self.features = nodes, features
        self.inner = reduced_width(features, feature_ratio)
        self.relations = reduced_width(nodes, node_ratio)
        self.last = reduced_width(1 + self.relations, down_ratio)
        self.theta = nn.Sequential(*_conv_bn(features, self.inner), nn.ReLU())
        self.phi = nn.Sequential(*_conv_bn(features, self.inner), nn.ReLU())
        self.embed = nn.Sequential(*_conv_bn(features, self.inner), nn.ReLU())
        self.relate = nn.Sequential(*_conv_bn(2 * nodes, self.relations), nn.ReLU())
        self.score = nn.Sequential(
            *_conv_bn(1 + self.relations, self.last), nn.ReLU(), *_conv_bn(self.last, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        own = self.embed(x).mean(1, keepdim=True)  # (B, 1, nodes)
        related = self._relate(self.theta(x), self.phi(x)).to(own.dtype)
        return self.score(torch.cat([own, related], 1)).sigmoid()  # (B, 1, nodes)

    def _relate(self, theta: Tensor, phi: Tensor) -> Tensor:
        """``relate`` of the relations to each node and from it, (B, relations, nodes).

        Its convolution is linear in the relations, and these in theta and phi: so the weights meet
        phi and theta first, and no map of pairs is made. Products are in the precision that holds
        them.
        """
        conv, *rest = self.relate
        to, out_of = conv.weight.squeeze(-1).chunk(2, 1)  # (relations, nodes) each
        y = wide_product(wide_product(to, phi.mT), theta)
        y = y + wide_product(wide_product(out_of, theta.mT), phi)
        y = y if conv.bias is None else y + conv.bias[:, None]
        for layer in rest:
            y = layer(y.to(conv.weight.dtype))
        return y

    def multiply_adds(self) -> int:
        embeddings = (3 * self.features + 4 * self.relations) * self.inner
        return self.nodes * (embeddings + self.last * (2 + self.relations))


@register(
    "relation_aware",
    family="gates",
    title="Relation-aware global attention over positions, then channels (RGA-SC)",
    paper="Zhang et al., Relation-Aware Global Attention for Person Re-identification, CVPR 2020, "
    "arXiv:1904.02998",
    source="microsoft/Relation-Aware-Global-Attention-Networks"
    "@cdc9965e779d383ddf17c25472d732c029a0e2ec",
    license="MIT",
    tags=("batch_statistics", "published"),
    parity="the published RGA_Module on maps of its own size, exactly",
)
class RelationAwareAttention(Gate):
    """RGA-S, RGA-C, or one after the other.

    Args:
        dim: channels C.
        size: the map's height and width for which there are weights.
        spatial: whether positions are gated.
        channel: whether channels are gated.
        channel_ratio: by how much channels shrink, as features and as relations.
        spatial_ratio: by how much positions shrink, as features and as relations.
        down_ratio: by how much the last layer's input shrinks.
    """

    def __init__(
        self,
        dim: int,
        size: int | tuple[int, int] = 16,
        *,
        spatial: bool = True,
        channel: bool = True,
        channel_ratio: int = 8,
        spatial_ratio: int = 8,
        down_ratio: int = 8,
    ) -> None:
        super().__init__()
        if not (spatial or channel):
            raise ValueError("relation_aware needs its spatial gate, its channel gate or both")
        self.dim = positive(dim, "dim")
        self.size = pair(size, "size")
        positions = self.size[0] * self.size[1]
        ratios = {"channel": channel_ratio, "spatial": spatial_ratio}
        c, s = (positive(ratio, f"{name}_ratio") for name, ratio in ratios.items())
        self.spatial = RelationGate(positions, dim, s, c, down_ratio) if spatial else None
        self.channel = RelationGate(dim, positions, c, s, down_ratio) if channel else None

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        if self.spatial is None:
            return self._channel(x)
        a = self._spatial(x)  # (B, 1, H, W)
        return a if self.channel is None else a * self._channel(x * a)  # (B, C, H, W)

    def _spatial(self, x: Tensor) -> Tensor:
        a = self.spatial(_resample(x, self.size).flatten(2))  # (B, 1, N)
        return _resample(a.unflatten(2, self.size), x.shape[2:])

    def _channel(self, x: Tensor) -> Tensor:
        a = self.channel(_resample(x, self.size).flatten(2).transpose(1, 2))  # (B, 1, C)
        return a.transpose(1, 2)[..., None]  # (B, C, 1, 1)

    def multiply_adds(self, height: int, width: int) -> int:
        parts = [part for part in (self.spatial, self.channel) if part is not None]
        return sum(part.multiply_adds() for part in parts)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the published names, and 1x1 convolutions over maps."""
        converted = {}
        for key, value in state.items():
            first, dot, rest = key.partition(".")
            name, _, part = first.rpartition("_")
            if part in ("spatial", "channel") and name in PUBLISHED_NAMES:
                key = f"{part}.{PUBLISHED_NAMES[name]}{dot}{rest}"
            converted[key] = value.squeeze(-1) if value.dim() == 4 else value
        return converted


def _conv_bn(dim: int, out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv1d(dim, out, 1, bias=False), nn.BatchNorm1d(out)


def _resample(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """``x`` at ``size``; itself where it already has it, since the weights are then 1 and 0."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
