"""A few of timm's families as the survey tries them; the whole is ``tools/survey_surgery.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import foveate
from tests.surgery.models import vit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    import survey_surgery

    yield survey_surgery
    sys.path.remove(str(ROOT / "tools"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "family",
    ["swin_transformer", "hiera", "nest", "maxxvit", "tnt", "mobilevit", "mvitv2", "crossvit",
     "efficientvit_msra", "coat", "gcvit", "davit"],
)  # fmt: skip
def test_replaced_attention_has_every_cell_in_its_place(tool, family):
    row = tool.survey(tool.FAMILIES[family])
    assert row["attention"] is None
    assert row["probe"]["checked"] > 0
    assert row["probe"]["wrong"] == []
    assert row["branch_change"] == row["stage_change"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", ["densenet", "resnest", "sknet", "inception_v3", "rdnet"])
def test_networks_without_plain_residuals_or_gates_are_served(tool, family):
    row = tool.survey(tool.FAMILIES[family])
    assert row["branch"] is row["stage"] is None
    assert row["branch_change"] == row["stage_change"] == 0
    if family in ("resnest", "sknet"):
        assert row["gates"] in (["SplitAttn"], ["SelectiveKernel"])
        assert row["gate"] is None


def test_the_probe_finds_a_scrambled_order_and_passes_a_right_one(tool):
    model = vit(img_size=64, patch_size=4)
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    with torch.no_grad():
        assert tool.probe(model, (3, 64, 64)) == {"checked": 2, "wrong": [], "untold": []}
        geometry = model.blocks[1].attn.foveate.geometry
        split = geometry.split

        def turned(x):
            cells, others, known = split(x)
            return cells.transpose(2, 3), others, known

        geometry.split = turned
        assert tool.probe(model, (3, 64, 64))["wrong"] == ["blocks.1.attn.foveate"]


def test_every_family_has_a_model_that_timm_knows(tool):
    import timm

    assert set(tool.FAMILIES.values()) <= set(timm.list_models())
    assert len(tool.FAMILIES) == 98
