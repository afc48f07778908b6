"""SAN; the patchwise cases are recorded in training mode.

The patchwise SAN10 magnifies rounding some hundredfold; the shallow network is the sharp case.
"""

from __future__ import annotations

from torch import Tensor

from foveate.models.san import SAN
from tests.published.golden import Golden, Row
from tests.published.networks import summary


def _build(sa_type: int, **kwargs):
    return SAN(attention=("san_pairwise", "san_patchwise")[sa_type], **kwargs)


def _stages(model: SAN, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    outputs = {"logits": model(x)}
    x = model.stem(x)
    for index, stage in enumerate(model.stages):
        x = stage.blocks[:-1](stage.downsample(x))  # recorded before the norm that ends a stage
        outputs |= summary(f"stage{index}", x)
        x = stage.blocks[-1](x)
    return outputs


ROWS = [
    Row("san10_pair", _build, _stages, slow=True),
    Row("san10_patch", _build, _stages, train=True, tolerance=1e-2, slow=True),
    Row("san_patch_shallow", _build, _stages, train=True, tolerance=1e-3),
]
