"""A changed model in a folder that timm makes a model of."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm
import torch

import foveate
from foveate.integrations import timm as timm_folders
from tests.surgery.models import difference, images


def changed():
    model = timm.create_model("resnet10t", num_classes=5, in_chans=1, zero_init_last=False).eval()
    foveate.insert(model, "cbam", where="layer[34]*", reduction=8)
    for parameter in foveate.added(model):
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def test_one_string_gives_the_changed_model_with_its_weights(tmp_path):
    model, x = changed(), images(64)[:, :1]
    timm_folders.save(model, tmp_path)
    twin = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(twin) is type(model)
    assert difference(twin(x), model(x)) == 0
    assert foveate.changes(twin).recipe == foveate.changes(model).recipe
    timm_folders.save(twin, tmp_path / "again")
    again = timm.create_model(f"local-dir:{tmp_path / 'again'}", pretrained=True).eval()
    assert difference(again(x), model(x)) == 0


def test_arguments_beside_the_string_are_those_of_the_base(tmp_path):
    timm_folders.save(changed(), tmp_path)
    fresh = timm.create_model(f"local-dir:{tmp_path}", drop_rate=0.5)
    assert fresh.drop_rate == 0.5
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7).eval()
    assert other(images(64)[:, :1]).shape == (2, 7)
    gates = [name for name in changed().state_dict() if "foveate" in name]
    saved = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).state_dict()
    assert gates
    assert all(torch.equal(other.state_dict()[name], saved[name]) for name in gates)


def test_the_name_is_known_once_the_module_is_imported(tmp_path):
    timm_folders.save(changed(), tmp_path)
    code = "import timm{}; timm.create_model('local-dir:' + {!r})"
    for imported, worked in (("", False), (", foveate.integrations.timm", True)):
        ran = subprocess.run(
            [sys.executable, "-c", code.format(imported, str(tmp_path))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ran.returncode == 0) is worked, ran.stderr
    with pytest.raises(ValueError, match="made from a folder"):
        timm.create_model(timm_folders.ARCHITECTURE)


def test_a_base_that_lacks_a_place_is_told(tmp_path):
    timm_folders.save(changed(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] |= {"base": "efficientnet_lite0"}
    config["model_args"].pop("zero_init_last")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"no branch at 'layer3\.0\.bn2'"):
        timm.create_model(f"local-dir:{tmp_path}")


def test_what_timm_cannot_make_again_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not state its architecture"):
        timm_folders.save(torch.nn.Conv2d(3, 3, 1), tmp_path)
    model = timm.create_model("resnet10t", norm_layer=torch.nn.BatchNorm2d)
    with pytest.raises(ValueError, match="norm_layer"):
        timm_folders.save(model, tmp_path)
    model = timm.create_model("resnet10t")
    foveate.insert(model, "cbam", example=images(64))
    with pytest.raises(ValueError, match="example input"):
        timm_folders.save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
