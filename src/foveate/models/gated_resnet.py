"""ResNet with a gate in every block or between its stages: CBAM, BAM, triplet attention.

    block = relu(shortcut(x) + gate(residual(x)))                 place="block"
    stage = gate(block(...block(x)))     for all stages but the last        place="stage"

Any gate stands by name. The convolutions are those of timm's ResNet, with the stride in the 3x3;
maps at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32.

Papers: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521; Park
et al., "BAM: Bottleneck Attention Module", BMVC 2018, arXiv:1807.06514; Misra et al., "Rotate to
Attend: Convolutional Triplet Attention Module", WACV 2021, arXiv:2010.03045.
Published code: Jongchan/attention-module@459efad0e05ee7dde50c41ca10a3d0800bc3792a (MIT) and
landskape-ai/triplet-attention@2cf02fb91196408ac6352f7984a0336aa4f7677a (MIT). Both average 7x7
windows at the end, 4x4 ones for CIFAR; here it is the whole map, which is the same at their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from foveate.arguments import one_of
from foveate.attention.adapt import create_attention
from foveate.attention.gates.cbam import SpatialGate
from foveate.attention.gates.triplet import TripletAttention
from foveate.models._backbone import Published, State, cfg, create, rename
from foveate.models._resnet import TimmResNet, for_small_images, stages

__all__ = ["GatedResNet", "resnet50_bam", "resnet50_cbam", "resnet50_triplet"]


class GatedResNet(TimmResNet):
    """ResNet with one kind of gate; a timm model in full.

    Args:
        gate: name of the gate.
        gate_kwargs: its options.
        place: "block", on the residual branch of every block, or "stage", behind every stage but
            the last.
        block: ``BasicBlock`` (ResNet-18 and 34) or ``Bottleneck`` of ``timm.models.resnet``.
        layers: blocks a stage.
        small_images: a 3x3 stem without stride or pooling, for 32x32 images.
        zero_init_last: whether residual branches start silent; published ones do not.
        **kwargs: those of timm's ``ResNet``.
    """

    def __init__(
        self,
        gate: str,
        gate_kwargs: dict[str, Any] | None = None,
        place: str = "block",
        block: type[BasicBlock] | type[Bottleneck] = Bottleneck,
        layers: Sequence[int] = (3, 4, 6, 3),
        small_images: bool = False,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        def make(dim: int, **_: Any) -> nn.Module:
            return create_attention(gate, dim, role="gate", **(gate_kwargs or {}))

        one_of(place, ("block", "stage"), "place")
        in_blocks = {"attn_layer": make} if place == "block" else {}
        super().__init__(
            block, layers, block_args=in_blocks, zero_init_last=zero_init_last, **kwargs
        )
        self.place = place
        if small_images:
            for_small_images(self)
        if place == "stage":
            for stage, info in zip(stages(self)[:-1], self.feature_info[1:], strict=False):
                stage.append(make(info["num_chs"]))
        if small_images or place == "stage":
            self.init_weights(zero_init_last)

    def init_weights(self, zero_init_last: bool = False) -> None:
        """Start parameters as published: convolutions by their fan-out, spatial gates at 1/2."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d) and "downsample" not in name:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, SpatialGate):
                nn.init.zeros_(module.bn.weight)
            if isinstance(module, TripletAttention) and module.spatial is not None:
                nn.init.zeros_(module.spatial.bn.weight)
            if zero_init_last and isinstance(module, BasicBlock | Bottleneck):
                module.zero_init_last()
        if isinstance(self.fc, nn.Linear):
            nn.init.kaiming_normal_(self.fc.weight)

    def convert_published(self, state: State) -> State:
        """Read the names of both repositories."""
        rules = [(r"\.(cbam|triplet_attention|se|eca)\.", ".se.")]
        if self.place == "stage":
            for number, stage in enumerate(stages(self), 1):
                rules.append((rf"^bam{number}\.", f"layer{number}.{len(stage) - 1}."))
        return super().convert_published(rename(state, rules))


_INSIGHT = "parameters and multiply-adds: README of implus/PytorchInsight"

PUBLISHED = {
    "resnet50_cbam": Published(
        params="28.09M",
        multiply_adds="4.139G",
        top1=77.622,
        source=f"top-1: README of Jongchan/attention-module; {_INSIGHT}",
        note="4.096G: norms and pooling, which they count, are not multiply-adds here",
    ),
    "resnet50_bam": Published(
        params="25.92M",
        multiply_adds="4.205G",
        top1=76.860,
        source=f"top-1: README of Jongchan/attention-module; {_INSIGHT}",
    ),
    "resnet50_triplet": Published(
        params="25.56M",
        multiply_adds="4.169G",
        top1=77.48,
        source="README of landskape-ai/triplet-attention",
    ),
}

_CFG = cfg(interpolation="bilinear", first_conv="conv1", classifier="fc")
_ATTENTION_MODULE = {
    **_CFG, "origin_url": "https://github.com/Jongchan/attention-module", "license": "mit"
}  # fmt: skip
_TRIPLET = {
    **_CFG, "origin_url": "https://github.com/landskape-ai/triplet-attention", "license": "mit"
}  # fmt: skip

default_cfgs = generate_default_cfgs(
    {
        "resnet50_cbam.untrained": {**_ATTENTION_MODULE, "paper_ids": "arXiv:1807.06521"},
        "resnet50_bam.untrained": {**_ATTENTION_MODULE, "paper_ids": "arXiv:1807.06514"},
        "resnet50_triplet.untrained": {**_TRIPLET, "paper_ids": "arXiv:2010.03045"},
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> GatedResNet:
    return create(GatedResNet, variant, pretrained, **{"out_indices": (0, 1, 2, 3, 4), **kwargs})


@register_model
def resnet50_cbam(pretrained: bool = False, **kwargs: Any) -> GatedResNet:
    """ResNet-50 with CBAM in every block."""
    return _create("resnet50_cbam", pretrained, **{"gate": "cbam", **kwargs})


@register_model
def resnet50_bam(pretrained: bool = False, **kwargs: Any) -> GatedResNet:
    """ResNet-50 with BAM behind its first three stages."""
    return _create("resnet50_bam", pretrained, **{"gate": "bam", "place": "stage", **kwargs})


@register_model
def resnet50_triplet(pretrained: bool = False, **kwargs: Any) -> GatedResNet:
    """ResNet-50 with triplet attention in every block."""
    return _create("resnet50_triplet", pretrained, **{"gate": "triplet", **kwargs})
