"""ResNet-50 with relation-aware global attention behind every stage, for person re-identification.

    conv1, max-pool -> (layer, attention) x 4 -> pool -> batch norm (the neck) -> classifier

The last stage keeps its size: maps at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/16. The attention has
weights for the maps of ``img_size``; maps of other images are resampled to them and their gates
back. Retrieval compares features before the neck (``global_pool(x)``) or behind it
(``forward_head(x, pre_logits=True)``), and training adds a loss on each side of it.

Paper: Zhang et al., "Relation-Aware Global Attention for Person Re-identification", CVPR 2020,
arXiv:1904.02998.
Published code: microsoft/Relation-Aware-Global-Attention-Networks
@cdc9965e779d383ddf17c25472d732c029a0e2ec (MIT). It starts from ImageNet weights of ResNet-50, which
here the convolutions start as timm's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import get_device_dtype
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from foveate.arguments import pair
from foveate.attention.gates.relation_aware import RelationAwareAttention
from foveate.models._backbone import Published, State, cfg, create, rename
from foveate.models._resnet import TimmResNet, stages
from foveate.ops._dropout import dropout
from foveate.published import of_today, reads_older

__all__ = ["RgaResNet", "rga_resnet50"]


class Neck(nn.Module):
    """``norm(x) * weight + bias``, batch normalisation whose shift is held at its start, zero.

    The shift is a buffer: a parameter that never has a gradient is none to those who train.

    Args:
        num_features: features of a sample.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.norm = nn.BatchNorm1d(num_features, affine=False)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        reads_older(self)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, self.norm(x), self.weight)

    def convert_older(self, state: dict[str, Any], prefix: str) -> None:
        """Read 0.1: the neck was one ``nn.BatchNorm1d``."""
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            if f"{prefix}{name}" in state:
                state[f"{prefix}norm.{name}"] = state.pop(f"{prefix}{name}")


class RgaResNet(TimmResNet):
    """The network; a timm model in full.

    Args:
        img_size: height and width of the images for whose maps the attention has weights.
        spatial: whether the attention gates positions.
        channel: whether it gates channels.
        ratio: by how much it shrinks channels and positions, as features and as relations.
        down_ratio: by how much its last layer's input shrinks.
        last_stride: of the last stage.
        layers: blocks a stage.
        drop_rate: dropout behind the neck.
        **kwargs: those of timm's ``ResNet``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = (256, 128),
        spatial: bool = True,
        channel: bool = True,
        ratio: int = 8,
        down_ratio: int = 8,
        last_stride: int = 1,
        layers: Sequence[int] = (3, 4, 6, 3),
        drop_rate: float = 0.0,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            Bottleneck, layers, drop_rate=drop_rate, zero_init_last=zero_init_last, **kwargs
        )
        first = self.layer4[0]
        first.conv2.stride = first.downsample[0].stride = pair(last_stride, "last_stride")
        self.feature_info[-1]["reduction"] = self.feature_info[-2]["reduction"] * last_stride
        self.img_size = pair(img_size, "img_size")
        for stage, info in zip(stages(self), self.feature_info[1:], strict=True):
            size = tuple(-(-side // info["reduction"]) for side in self.img_size)
            stage.append(
                RelationAwareAttention(
                    info["num_chs"],
                    size,
                    spatial=spatial,
                    channel=channel,
                    channel_ratio=ratio,
                    spatial_ratio=ratio,
                    down_ratio=down_ratio,
                )
            )
        self.neck: nn.Module = nn.Identity()
        self.reset_classifier(self.num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place; the neck goes where nothing is pooled."""
        super().reset_classifier(num_classes, global_pool)
        where = get_device_dtype(self)
        width = self.head_hidden_size if self.global_pool.pool_type else 0
        if width != getattr(self.neck, "num_features", 0):
            self.neck = Neck(width).to(**where) if width else nn.Identity()
        if isinstance(self.fc, nn.Linear):
            self.fc = nn.Linear(width, num_classes, bias=False, **where)
            nn.init.normal_(self.fc.weight, std=0.001)
        self.neck.train(self.training)
        self.fc.train(self.training)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, neck, dropout and, unless ``pre_logits``, the classifier."""
        x = self.neck(self.global_pool(x))
        x = dropout(x, self.drop_rate if self.training else 0.0)
        return x if pre_logits else self.fc(x)

    def convert_published(self, state: State) -> State:
        """Read the published names."""
        rules = [(r"^backbone\.", ""), (r"^feat_bn\.", "neck."), (r"^cls\.", "fc.")]
        for number, stage in enumerate(stages(self), 1):
            rules.append((rf"^rga_att{number}\.", f"layer{number}.{len(stage) - 1}."))
        return super().convert_published(of_today(self, rename(state, rules)))


PUBLISHED = {
    "rga_resnet50": Published(size=(256, 128), source="the paper and its README print no counts"),
}

default_cfgs = generate_default_cfgs(
    {
        "rga_resnet50.untrained": cfg(
            input_size=(3, 256, 128),
            pool_size=(16, 8),
            num_classes=767,
            crop_pct=1.0,
            crop_mode="squash",
            interpolation="bilinear",
            first_conv="conv1",
            classifier="fc",
            origin_url="https://github.com/microsoft/Relation-Aware-Global-Attention-Networks",
            license="mit",
            paper_ids="arXiv:1904.02998",
        )
    }
)


@register_model
def rga_resnet50(pretrained: bool = False, **kwargs: Any) -> RgaResNet:
    """RGA-SC: attention over positions, then channels."""
    kwargs = {"num_classes": 767, "out_indices": (0, 1, 2, 3, 4), **kwargs}
    return create(RgaResNet, "rga_resnet50", pretrained, **kwargs)
