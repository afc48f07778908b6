"""What people do with a changed model: nothing of it may be lost silently."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import foveate
from foveate.surgery._norms import is_held, norms_of
from foveate.surgery._weights_file import DamagedFileError, write_tensors
from foveate.surgery.recipe import freeze_norms, load, save
from tests.surgery.models import difference, images, resnet, swin, vit


def changed(build=resnet):
    """A changed model whose gates do something, and what it gives for some images."""
    model = build()
    if build is resnet:
        foveate.insert(model, "cbam", where="layer[34]*")
    else:
        foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    _stir(model)
    x = images(64 if build is resnet else 32)
    with torch.no_grad():
        return model, x, model(x)


def _stir(model):
    for parameter in foveate.added(model):
        parameter.data.add_(torch.randn_like(parameter) * 0.2)


def test_old_checkpoints_load_with_nothing_left_over():
    model, old = resnet(), copy.deepcopy(resnet().state_dict())
    foveate.insert(model, "cbam")
    loaded = model.load_state_dict(old, strict=False)
    assert loaded.unexpected_keys == []
    assert all("foveate" in key for key in loaded.missing_keys)


@pytest.mark.parametrize("build", [resnet, swin, vit])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_changed_alike_and_stand_alone(build, copied):
    model, x, y = changed(build)
    twin = copied(model)
    assert difference(twin(x), y) == 0
    _stir(twin)
    assert difference(twin(x), y) > 0
    assert difference(model(x), y) == 0


@pytest.mark.parametrize("build", [resnet, swin, vit])
def test_a_recipe_rebuilds_the_model_exactly(build):
    model, x, y = changed(build)
    recipe = json.loads(json.dumps(foveate.changes(model).recipe))
    twin = foveate.apply(build(), recipe)
    twin.load_state_dict(model.state_dict())
    assert difference(twin(x), y) == 0
    assert foveate.changes(twin).recipe == foveate.changes(model).recipe


def test_a_file_holds_weights_and_recipe(tmp_path):
    model, x, y = changed()
    save(model, tmp_path / "model.safetensors")
    assert difference(load(resnet(), tmp_path / "model.safetensors")(x), y) == 0
    with pytest.raises(ValueError, match="changed in another way"):
        load(foveate.insert(resnet(), "cbam"), tmp_path / "model.safetensors")


def test_a_finished_handover_is_rebuilt_finished():
    model, x = swin(), images()
    foveate.replace(model, "attention", "neighborhood", start="handover", kernel_size=3)
    foveate.finish(model)
    twin = foveate.apply(swin(), foveate.changes(model).recipe)
    twin.load_state_dict(model.state_dict())
    assert difference(twin(x), model(x)) == 0


def test_a_recipe_for_another_model_names_the_first_missing_place():
    model = vit()
    recipe = foveate.changes(foveate.insert(vit(depth=3), "cbam")).recipe
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=r"no branch at 'blocks\.2\.attn'"):
        foveate.apply(model, recipe)
    assert list(model.state_dict()) == names
    with pytest.raises(ValueError, match="expected a recipe"):
        foveate.apply(model, {"steps": []})


def test_a_mechanism_of_the_users_is_imported_or_asked_for():
    model = foveate.insert(resnet(), lambda dim: nn.Conv2d(dim, dim, 1))
    recipe = foveate.changes(model).recipe
    with pytest.raises(ValueError, match="mechanisms="):
        foveate.apply(resnet(), recipe)
    name = recipe["steps"][0]["mechanism"]
    twin = foveate.apply(resnet(), recipe, mechanisms={name: lambda dim: nn.Conv2d(dim, dim, 1)})
    twin.load_state_dict(model.state_dict())


@pytest.mark.parametrize("build", [resnet, swin, vit])
def test_restoring_is_exact(build):
    model = build()
    x = images(64 if build is resnet else 32)
    before, names = model(x), list(model.state_dict())
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    foveate.insert(model, "cbam")
    if build is not resnet:
        foveate.replace(model, "attention", "neighborhood", kernel_size=3)
    foveate.restore(model)
    assert difference(model(x), before) == 0
    assert list(model.state_dict()) == names
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks


def test_a_pickled_replacement_cannot_be_undone_and_says_so():
    model = pickle.loads(pickle.dumps(changed(swin)[0]))
    with pytest.raises(ValueError, match="was not saved"):
        foveate.restore(model)


def test_freezing_holds_weights_and_batch_statistics():
    model, x, _ = changed()
    foveate.freeze(model)
    model.train()
    held = {n: b.clone() for n, b in model.named_buffers() if "foveate" not in n}
    model(x).square().sum().backward()
    assert all(torch.equal(held[n], b) for n, b in model.named_buffers() if n in held)
    learning = {id(p) for p in foveate.added(model)}
    assert all((p.grad is not None) == (id(p) in learning) for p in model.parameters())
    foveate.freeze(model, False)
    assert all(p.requires_grad for p in model.parameters())
    model(x)
    assert not torch.equal(held["bn1.running_mean"], model.bn1.running_mean)
    with pytest.raises(ValueError, match="nothing was added"):
        foveate.freeze(resnet())


def test_restoring_leaves_frozen_what_the_user_froze():
    model = resnet()
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    freeze_norms(model)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    statistics = model.bn1.running_mean.clone()
    for frozen in (False, True):
        foveate.insert(model, "cbam")
        if frozen:
            foveate.freeze(model)
        foveate.restore(model)
        assert {name: p.requires_grad for name, p in model.named_parameters()} == before
        model.train()(images())
        assert torch.equal(model.bn1.running_mean, statistics)


def test_frozen_statistics_stay_held_in_norms_of_another_class():
    model, x, _ = changed()
    foveate.freeze(model)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    before = model.bn1.running_mean.clone()
    with pytest.warns(UserWarning, match="their statistics are held again"):
        model.eval()(x)
    assert all(map(is_held, norms_of(model, foveate.surgery._ledger.ledger_of(model).added)))
    assert torch.equal(model.bn1.running_mean, before)


def test_converting_to_synchronised_norms_keeps_the_gates_and_says_so():
    model, x, y = changed()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    with pytest.warns(UserWarning, match="attached again"):
        assert difference(converted(x), y) < 1e-6


def test_fusing_keeps_the_gates():
    model, x, y = changed()
    assert difference(foveate.fuse(model)(x), y) < 1e-4


def test_a_place_that_is_gone_is_told():
    model, x, _ = changed()
    model.layer4 = nn.Identity()
    with pytest.raises(RuntimeError, match=r"layer4\.0\.bn2"):
        model(x)


@pytest.mark.parametrize("build", [resnet, swin, vit])
def test_export_keeps_what_was_inserted(build):
    model, x, y = changed(build)
    exported = torch.export.export(model, (x,)).module()
    assert difference(exported(x), y) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("build", [resnet, swin, vit])
def test_compilation_has_one_graph(build):
    model, x, y = changed(build)
    assert difference(torch.compile(model, fullgraph=True)(x), y) < 1e-4


def test_checkpointing_gives_the_same_gradients():
    model, x, _ = changed(swin)  # in evaluation mode: nothing is drawn
    model(x).square().sum().backward()
    plain = [p.grad.clone() for p in foveate.added(model)]
    model.zero_grad()
    checkpoint(model, x, use_reentrant=False).square().sum().backward()
    for one, other in zip(plain, foveate.added(model), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_features_and_averages_keep_what_was_inserted():
    from timm.utils import ModelEmaV3
    from torchvision.models.feature_extraction import create_feature_extractor

    model, x, y = changed()
    assert difference(ModelEmaV3(model).module(x), y) == 0
    features = create_feature_extractor(model, {"layer3": "c4", "fc": "logits"})
    assert difference(features(x)["logits"], y) < 1e-6


def test_timms_feature_networks_keep_what_was_inserted():
    from timm.models._features import FeatureListNet

    model, x, _ = changed()
    expected = model.forward_intermediates(x, indices=[3, 4], intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in expected] == [(256, 4, 4), (512, 2, 2)]
    listed = FeatureListNet(model, out_indices=(3, 4))
    for one, other in zip(listed(x), expected, strict=True):
        assert difference(one, other) == 0
    foveate.restore(model)
    for one, other in zip(listed(x), expected, strict=True):
        assert difference(one, other) > 1e-3


def test_a_network_of_features_is_changed_like_any_other():
    model = timm.create_model("resnet10t", features_only=True, zero_init_last=False).eval()
    x = images(64)
    before = model(x)
    foveate.insert(model, "cbam")
    assert len(foveate.changes(model)) == 4
    for one, other in zip(model(x), before, strict=True):
        assert difference(one, other) == 0
    _stir(model)
    twin = timm.create_model("resnet10t", features_only=True).eval()
    foveate.apply(twin, foveate.changes(model).recipe).load_state_dict(model.state_dict())
    for one, other in zip(twin(x), model(x), strict=True):
        assert difference(one, other) == 0
    assert difference(model(x)[-1], before[-1]) > 1e-5


def test_symbolic_tracing_keeps_what_was_inserted():
    model, x, y = changed()
    graph = torch.fx.symbolic_trace(model)
    assert difference(graph(x), y) < 1e-6
    assert any("foveate" in name for name, _ in graph.named_parameters())


def test_timms_own_checkpointing_keeps_what_was_inserted():
    model, x, _ = changed(vit)
    model(x).square().sum().backward()
    plain = [p.grad.clone() for p in foveate.added(model)]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).square().sum().backward()
    for one, other in zip(plain, foveate.added(model), strict=True):
        torch.testing.assert_close(one, other.grad)


def test_what_was_added_has_a_learning_rate_of_its_own():
    model, x, _ = changed()
    new = {id(p) for p in foveate.added(model)}
    rest = [p for p in model.parameters() if id(p) not in new]
    held = [p.detach().clone() for p in rest]
    groups = [{"params": rest, "lr": 0.0}, {"params": foveate.added(model), "lr": 0.1}]
    optimizer = torch.optim.SGD(groups)
    before = [p.detach().clone() for p in foveate.added(model)]
    model(x).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(rest, held, strict=True))
    moved = [not torch.equal(a, b) for a, b in zip(foveate.added(model), before, strict=True)]
    assert sum(moved) > len(moved) / 2


def test_a_model_of_other_channels_is_seen_with_its_own():
    model = timm.create_model("resnet10t", in_chans=1).eval()  # timm's configuration says three
    foveate.insert(model, "cbam")
    assert foveate.changes(model).recipe["steps"][0]["input"][0] == 1


def test_distributed_training_finds_a_gradient_everywhere():
    model, x, _ = changed()
    model.train()
    model(x).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_recipe_for_fewer_places_says_that_others_are_left():
    recipe = foveate.changes(foveate.insert(timm.create_model("resnet18"), "cbam")).recipe
    with pytest.warns(UserWarning, match="changed 8 of 8 places .*; this ResNet has 16"):
        foveate.apply(timm.create_model("resnet34"), recipe)


def test_the_same_insertion_twice_is_said():
    model = foveate.insert(resnet(), "cbam")
    with pytest.warns(UserWarning, match="cbam stands at .* already"):
        foveate.insert(model, "cbam")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        foveate.insert(model, "coordinate")


def test_weights_and_recipe_are_read_by_a_process_that_did_nothing_else(tmp_path):
    model, _, _ = changed()
    foveate.surgery.save(model, tmp_path / "model.safetensors")
    code = (
        "import sys, foveate; from tests.surgery.models import resnet; "
        "print(len(foveate.changes(foveate.surgery.load(resnet(), sys.argv[1]))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.safetensors")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(run.stdout) == len(foveate.changes(model))


def test_a_load_that_fails_leaves_the_model_as_it_was(tmp_path):
    foveate.surgery.save(foveate.insert(resnet(), "cbam"), tmp_path / "m.safetensors")
    other = timm.create_model("resnet10t", num_classes=7).eval()
    x = images()
    before, names = other(x), list(other.state_dict())
    with pytest.raises(ValueError, match=r"of the wrong shape|missing"):
        load(other, tmp_path / "m.safetensors")
    assert list(other.state_dict()) == names
    assert difference(other(x), before) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"call": "inserted"}, "unknown call in step 1"),
        ({"start": "identit"}, "unknown start in step 1 .*did you mean 'identity'"),
        ({"start": "swap"}, "unknown start in step 1"),
        ({"keep": "x"}, "unknown keep in step 1"),
        ({"among": "x"}, "among in step 1 of the recipe cannot be 'x'"),
        ({"mechanism": 3}, "mechanism in step 1 of the recipe cannot be 3"),
        ({"mechanism": "os:system"}, "is no class of modules that has been imported"),
        ({"mechanism": "torch:relu"}, "is no class of modules that has been imported"),
        ({"paths": None}, "paths in step 1 of the recipe cannot be None"),
        ({"paths": []}, "must be names of modules"),
        ({"input": "3,64,64"}, "input in step 1"),
        (
            {"input": ["a", 1, 2]},
            "must be three positive whole numbers",
        ),
        ({"input": [3, 64]}, "must be three positive whole numbers"),
        (
            {"input": [True, 64, 64]},
            "must be three positive whole numbers",
        ),
        ({"among": -1}, "among in step 1 of the recipe cannot be -1"),
        (
            {"paths": ["layer1.0.bn2", "layer1.0.bn2"]},
            "names 'layer1.0.bn2' twice",
        ),
        ({"finished": True}, "finished in step 1 of the recipe cannot be True"),
        ({"more": 1}, "unknown key in step 1 of the recipe 'more'"),
    ],
)
def test_a_recipe_edited_by_hand_is_read_word_by_word(change, message):
    recipe = foveate.changes(foveate.insert(resnet(), "cbam")).recipe
    recipe["steps"][0].update(change)
    model = resnet()
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        foveate.apply(model, recipe)
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("recipe", ["{", {"foveate": True, "steps": []}, {"foveate": 1}, "[]"])
def test_what_is_no_recipe_is_refused(recipe):
    with pytest.raises(ValueError, match=r"no JSON|expected a recipe"):
        foveate.apply(resnet(), recipe)


def test_a_whole_whose_part_was_changed_is_not_saved_without_its_recipe(tmp_path):
    whole = nn.Sequential(foveate.insert(resnet(), "cbam"), nn.Linear(10, 2))
    with pytest.raises(
        ValueError, match="0 was changed before it became a part of this Sequential"
    ):
        save(whole, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_overlapping_and_conjugate_tensors_are_saved(tmp_path):
    model = nn.Linear(3, 3)
    model.register_buffer("view", model.weight.detach()[1:])
    model.register_buffer("conjugate", torch.randn(2, dtype=torch.complex64).conj())
    save(model, tmp_path / "m.safetensors")
    twin = nn.Linear(3, 3)
    twin.register_buffer("view", torch.zeros(2, 3))
    twin.register_buffer("conjugate", torch.zeros(2, dtype=torch.complex64))
    load(twin, tmp_path / "m.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value)


def test_a_folder_is_no_file_to_save_to_or_load_from(tmp_path):
    model = resnet()
    for call in (foveate.surgery.save, foveate.surgery.load):
        with pytest.raises(ValueError, match=r"is a folder; name a file: .*model\.safetensors"):
            call(model, tmp_path)
        with pytest.raises(ValueError, match="NUL byte"):
            call(model, "model\0.safetensors")


def frozen_names(model):
    return [name for name, parameter in model.named_parameters() if not parameter.requires_grad]


def test_a_restored_model_learns_where_it_did_whatever_was_frozen_and_set_aside():
    model = vit()
    foveate.freeze(foveate.replace(model, "attention", "multi_head", start="handover"))
    assert frozen_names(foveate.restore(foveate.finish(model))) == []
    model = vit()
    foveate.freeze(foveate.insert(model, "cbam"))
    foveate.replace(model, "attention", "multi_head")
    assert frozen_names(foveate.restore(model)) == []
    model = vit()
    model.blocks[0].attn.qkv.weight.requires_grad_(False)
    foveate.freeze(foveate.replace(model, "attention", "multi_head"))
    assert frozen_names(foveate.restore(model)) == ["blocks.0.attn.qkv.weight"]
    copied = copy.deepcopy(foveate.freeze(foveate.insert(vit(), "cbam")))
    assert frozen_names(foveate.restore(copied)) == []


@pytest.mark.parametrize("training", [True, False])
def test_what_stood_aside_comes_back_in_the_mode_and_type_of_the_model(training):
    model = vit(attn_drop_rate=0.5).train(not training)
    foveate.replace(model, "attention", "multi_head").train(training).double()
    foveate.restore(model)
    assert {module.training for module in model.modules()} == {training}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("words", ["nope", "null", "[]", "3", '{"foveate": 1}'])
def test_a_file_whose_recipe_is_damaged_is_named(tmp_path, words):
    path = tmp_path / "m.safetensors"
    write_tensors(path, resnet().state_dict(), {"foveate": words})
    with pytest.raises(DamagedFileError, match=r"m\.safetensors is damaged: its recipe"):
        load(resnet(), path)
