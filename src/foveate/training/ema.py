"""The exponential moving average of the weights; timm's.

    average <- d average + (1 - d) weights        after every update; d = ema_decay
    d = min(ema_decay, 1 - (1 + update)^(-2/3))   with ema_warmup

Statistics of batch norms are averaged likewise. After the first update the average is the weights.
Where there is an average it is what is measured after every epoch, what an epoch is chosen by, and
what ``best.safetensors``, ``model.safetensors`` and the model hold at the end; the weights that
learn, which a training goes on from, are in the checkpoint beside it.

Lightning's ``EMAWeightAveraging`` swaps weights for an evaluation and back before what is saved is
saved, copies the whole loop, and takes no warm-up.
"""

from __future__ import annotations

from timm.utils import ModelEmaV3
from torch import nn

from foveate.training.recipe import Recipe


def average_of(model: nn.Module, recipe: Recipe) -> ModelEmaV3 | None:
    """The average that ``recipe`` asks for, beginning at the weights of ``model``."""
    if recipe.ema_decay is None:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
