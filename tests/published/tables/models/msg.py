"""MSG-Transformer: maps and messengers of every stage, after the down-sampling that ends it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.models.msg import MSGTransformer
from tests.published.golden import Golden, Row


def _msg(
    embed_dim: int, depths: list[int], shuffle_size: list[int], **options: Any
) -> MSGTransformer:
    manipulation = options.pop("manip_type", "shuf")
    return MSGTransformer(
        dims=[embed_dim * 2**level for level in range(len(depths))],
        depths=depths,
        regions=shuffle_size,
        shuffle=manipulation == "shuf",
        **options,
    )


def _tokens(model: MSGTransformer, golden: Golden) -> dict[str, Tensor]:
    maps = model.stem(golden.inputs["x"])
    outputs = {}
    for number, stage in enumerate(model.stages, 1):
        maps = stage.blocks(maps)
        if number < len(model.stages):
            maps = model.stages[number].downsample(maps)
        tokens = torch.cat([x.flatten(2) for x in maps], 2)
        outputs[f"stage{number}_out_mean"] = tokens.mean(2)
        outputs[f"stage{number}_out_msg0"] = maps[1][:, :, 0, 0]
    return {"logits": model.forward_head(model.as_features(model.finish(maps))), **outputs}


ROWS = [Row("msg_t", _msg, _tokens)]
