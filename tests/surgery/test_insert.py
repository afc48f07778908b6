from __future__ import annotations

import pytest
import torch
from torch import nn

import foveate
from foveate.surgery import change
from tests.surgery.models import convnext, difference, images, resnet, swin, vit

GATES = foveate.list_attention(role="gate")


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_starts_as_nothing_and_learns(gate):
    model, x = resnet(), images(64)
    before = model(x)
    assert foveate.insert(model, gate) is model
    assert difference(model(x), before) == 0
    model(x).square().sum().backward()
    scales = [p for n, p in model.named_parameters() if n.endswith("foveate.scale")]
    assert len(scales) == 4
    assert all(p.grad.abs().max() > 0 for p in scales)
    torch.optim.SGD(scales, 0.1).step()
    model.zero_grad()
    model(x).square().sum().backward()
    inside = [p for n, p in model.named_parameters() if "foveate.mechanism" in n]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in inside)
    assert difference(model(x), before) > 0


@pytest.mark.parametrize(
    ("build", "at", "mechanism"),
    [
        # Each of each once, all pairs in the slow sweep.
        pytest.param(build, at, mechanism, marks=[] if (i + j + k) % 4 == 0 else pytest.mark.slow)
        for i, build in enumerate((resnet, convnext, vit, swin))
        for j, at in enumerate(("branch", "stage"))
        for k, mechanism in enumerate(("cbam", "neighborhood", "multi_head"))
    ],
)
def test_any_role_stands_in_any_layout(build, at, mechanism):
    model = build()
    size = 64 if build in (resnet, convnext) else 32
    x = images(size)
    before = model(x)
    foveate.insert(model, mechanism, at=at)
    assert difference(model(x), before) == 0
    for parameter in foveate.added(model):
        parameter.data.add_(0.1)
    if mechanism != "multi_head" and (build, at) == (vit, "stage"):
        assert "no attention follows" in foveate.changes(model).table()[0]["note"]
    else:
        assert difference(model(x), before) > 1e-5


def test_a_scale_of_one_is_the_gate_itself():
    model, x = resnet(), images(64)
    naive = resnet()
    naive.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    foveate.insert(model, "squeeze_excitation")
    torch.manual_seed(1)
    foveate.insert(naive, "squeeze_excitation", start="naive")
    for name, parameter in model.named_parameters():
        if name.endswith("foveate.scale"):
            parameter.data.fill_(1)
    torch.testing.assert_close(model(x), naive(x))


def test_class_tokens_pass_a_gate_untouched():
    model, x = vit(), images()
    foveate.insert(model, lambda dim: nn.Conv2d(dim, dim, 1), where="blocks.1.mlp", start="naive")
    given = {}
    model.blocks[1].mlp.fc2.register_forward_hook(lambda m, a, out: given.update(before=out))
    model.blocks[1].mlp.register_forward_hook(lambda m, a, out: given.update(behind=out))
    model(x)
    assert torch.equal(given["before"][:, 0], given["behind"][:, 0])
    assert difference(given["before"][:, 1:], given["behind"][:, 1:]) > 0


def test_other_image_sizes_work_without_another_look():
    model = vit(dynamic_img_size=True)
    foveate.insert(model, "cbam")
    seen = []
    model.blocks[0].mlp.foveate.mechanism.register_forward_pre_hook(
        lambda module, args: seen.append(tuple(args[0].shape[2:]))
    )
    model(images((32, 64)))
    model.forward_features(images((64, 24)))
    assert seen == [(4, 8), (8, 3)]


def test_patch_drop_is_refused():
    model = vit(dynamic_img_size=True, patch_drop_rate=0.4)
    foveate.insert(model, "cbam")
    model.train()
    with pytest.raises(RuntimeError, match="patch drop"):
        model(images())


def test_a_function_of_dim_and_options_and_places_are_chosen():
    model = resnet()
    foveate.insert(
        model, lambda dim, groups: nn.Conv2d(dim, dim, 3, 1, 1, groups=groups),
        where=lambda place: place.channels > 100, groups=4,
    )  # fmt: skip
    assert [change.path for change in foveate.changes(model)] == [
        "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"
    ]  # fmt: skip


def test_dry_run_shows_and_changes_nothing():
    model = resnet()
    names = list(model.state_dict())
    table = foveate.insert(model, "cbam", dry_run=True)
    assert "cbam" in str(table)
    assert len(table) == 4
    assert list(model.state_dict()) == names
    assert len(foveate.changes(model)) == 0


def test_two_insertions_at_one_place_both_run():
    model, x = resnet(), images(64)
    before = model(x)
    foveate.insert(model, "cbam", where="layer1*")
    foveate.insert(model, "efficient_channel", where="layer1*")
    assert {"foveate", "foveate_2"} <= dict(model.layer1[0].bn2.named_children()).keys()
    assert difference(model(x), before) == 0


def test_branches_of_replaced_attention_are_still_found():
    model = vit()
    foveate.replace(model, "attention", "multi_head")
    assert len(foveate.places(model).of("branch")) == 4


def wrong_width(dim: int) -> nn.Module:
    return nn.Conv2d(dim, dim + 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: foveate.insert(m, "cbam", where="layr1.*"), r"did you mean 'layer1\.\*.bn2'"),
        (lambda m: foveate.insert(m, "cbm"), "did you mean 'cbam'"),
        (lambda m: foveate.insert(m, "additive"), "aligner and cannot stand"),
        (lambda m: foveate.insert(m, "neighborhood", num_heads=7), "layer1.0.bn2 .*num_heads"),
        (lambda m: foveate.insert(m, "cbam", reduktion=3), "no option 'reduktion'"),
        (lambda m: foveate.insert(m, wrong_width), "as it was"),
        (lambda m: foveate.insert(m, "cbam", at="branches"), "did you mean 'branch'"),
        (lambda m: foveate.insert(m, "cbam", example="photo.jpg"), "example to be a tensor"),
    ],
)
def test_bad_input_is_told_and_leaves_the_model_as_it_was(call, message):
    model, x = resnet(), images(64)
    before, names = model(x), list(model.state_dict())
    with pytest.raises((ValueError, TypeError), match=message):
        call(model)
    assert list(model.state_dict()) == names
    assert difference(model(x), before) == 0
    assert not model._forward_pre_hooks


def test_a_failure_half_way_leaves_the_model_as_it_was(monkeypatch):
    model = resnet()
    foveate.insert(model, "cbam", where="layer1*")
    names, before = list(model.state_dict()), foveate.changes(model).recipe
    put = change.attach
    done = []

    def fails_at_the_third(host, name, child):
        if len(done) == 2:
            raise RuntimeError("no")
        done.append(name)
        put(host, name, child)

    monkeypatch.setattr(change, "attach", fails_at_the_third)
    with pytest.raises(RuntimeError, match="no"):
        foveate.insert(model, "efficient_channel")
    assert list(model.state_dict()) == names
    assert foveate.changes(model).recipe == before
