"""Swin, and the networks that change its attention."""

from __future__ import annotations

from timm.models.swin_transformer import SwinTransformer, checkpoint_filter_fn
from torch import Tensor

from foveate.models.acmix_swin import ACmixSwin
from foveate.models.slide_swin import SlideSwin
from tests.published.golden import Golden, Row
from tests.published.networks import after_downsampling, summary


class _Swin(SwinTransformer):
    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return checkpoint_filter_fn(state, self)


def _swin(**kwargs):
    return _Swin(**kwargs)


def _swin_stages(model: _Swin, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    outputs = {"logits": model(x)}
    x = model.patch_embed(x)
    # Published stages end with the merging that starts the next one here.
    for index, stage in enumerate(model.layers):
        x = stage.blocks(x)
        x = x if index == len(model.layers) - 1 else model.layers[index + 1].downsample(x)
        outputs |= summary(f"stage{index + 1}_out", x.permute(0, 3, 1, 2))
    return outputs


def _slide_swin(ka: int, num_slide_stages: int, **kwargs):
    return SlideSwin(slide_kernel_size=ka, slide_stages=num_slide_stages, **kwargs)


ROWS = [
    Row("acmix_swin_t", ACmixSwin, after_downsampling),
    Row("slide_swin_t", _slide_swin, after_downsampling),
    Row("swin_t", _swin, _swin_stages, mechanism="Swin of timm"),
]
