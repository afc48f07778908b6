from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

import foveate
from foveate.analysis.flops import count_flops
from foveate.checks import HOSTS
from foveate.reduction import reducer_of, solve_budget
from foveate.reduction.dvt import finer
from foveate.surgery import load, save
from foveate.tasks import Classification, ReducedClassification


def vit(**options):
    return VisionTransformer(
        **{"img_size": 32, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3,
           "num_classes": 5, **options}
    ).eval()  # fmt: skip


@pytest.fixture
def cascade():
    torch.manual_seed(0)
    model = foveate.reduce(vit(), "dvt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def confident(cascade, x):
    """Thresholds by which a half and then a half of the rest of ``x`` leave."""
    with torch.no_grad():
        confidence = cascade.confidence(x)
    thresholds = foveate.reduction.find_thresholds(confidence, [0.5, 0.25, 0.25])
    return [each - 1e-5 for each in thresholds]  # a smaller batch rounds in another way


def test_host_is_left_as_it_is():
    host = vit()
    before = copy.deepcopy(host.state_dict())
    foveate.reduce(host, "dvt")
    after = host.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert reducer_of(host) is None


def test_grids_of_the_stages():
    model = foveate.reduce(timm.create_model("vit_tiny_patch16_224"), "dvt")
    assert [stage.patch_embed.grid_size for stage in model.stages] == [(7, 7), (10, 10), (14, 14)]
    # As published: kernels of 32 and 23 pixels, the second over an image padded by 3.
    assert [stage.patch_embed.patch_size[0] for stage in model.stages] == [32, 23, 16]


@pytest.mark.parametrize(
    ("grids", "said"),
    [
        ((0, 4), "ascend from at least 1 to below the model's 8 rows"),
        ((4, 4), "ascend"),
        ((4, 8), "ascend"),
        ((2.5,), "ascend"),
        ((5, 6, 7), "no grid of 7 rows of equal patches in 36 pixels: the nearest has 6"),
    ],
)
def test_wrong_grids(grids, said):
    host = vit(img_size=36 if len(grids) == 3 else 32)
    with pytest.raises(ValueError, match=said):
        foveate.reduce(host, "dvt", grids=grids)


def test_images_leave_at_their_exit(cascade):
    x = torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        every = torch.stack(cascade.exits(x))
        cascade.set_thresholds(confident(cascade, x))
        logits, taken = cascade.leave(x)
        assert torch.bincount(taken, minlength=3).tolist() == [4, 2, 2]
        torch.testing.assert_close(logits, every[taken, torch.arange(8)])
        torch.testing.assert_close(cascade(x), logits)
        for i in range(8):
            torch.testing.assert_close(cascade(x[i : i + 1]), logits[i : i + 1])


def test_images_that_left_are_not_computed(cascade):
    x = torch.randn(8, 3, 32, 32)
    cascade.set_thresholds(confident(cascade, x))
    costs = cascade.exit_multiply_adds((32, 32))
    assert count_flops(cascade, x) / 2 == 4 * costs[0] + 2 * costs[1] + 2 * costs[2]


def test_mean_cost_is_the_budget(cascade):
    x = torch.randn(40, 3, 32, 32)
    costs = cascade.exit_multiply_adds((32, 32))
    budget = sum(costs) / 3
    with torch.no_grad():
        thresholds, cost = solve_budget(cascade.confidence(x), costs, budget)
    cascade.set_thresholds([each - 1e-5 for each in thresholds])
    assert count_flops(cascade, x) / 2 / 40 == pytest.approx(cost)
    assert cost <= budget


def test_thresholds_are_saved_with_the_weights(cascade):
    x = torch.randn(8, 3, 32, 32)
    cascade.set_thresholds(confident(cascade, x))
    other = foveate.reduce(vit(), "dvt")
    other.load_state_dict(cascade.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(x), cascade(x))
        assert other.leave(x)[1].tolist() == cascade.leave(x)[1].tolist()


def test_a_saved_cascade_is_built_again(cascade, tmp_path):
    x = torch.randn(8, 3, 32, 32)
    cascade.set_thresholds(confident(cascade, x))
    save(cascade, tmp_path / "model.safetensors")
    again = load(vit(), tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(x), cascade(x))
    with pytest.raises(ValueError, match="not there any more"):
        foveate.restore(cascade)


def test_training_asks_no_exit(cascade):
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        last = cascade.exits(x)[-1]
        cascade.set_thresholds([0.0, 0.0])
        assert not torch.allclose(cascade(x), last)
        torch.testing.assert_close(cascade.train()(x), last)


def test_every_exit_learns(cascade):
    x, target = torch.randn(4, 3, 32, 32), torch.arange(4)
    loss = ReducedClassification(Classification(5)).losses(cascade.train(), (x, target))["loss"]
    each = [F.cross_entropy(y, target) for y in cascade.exits(x)]
    torch.testing.assert_close(loss, sum(each) / 3)
    loss.backward()
    assert all(parameter.grad is not None for parameter in cascade.parameters())


@pytest.mark.parametrize("thresholds", [[0.5], [0.5, -0.1], [0.5, float("nan")]])
def test_wrong_thresholds(cascade, thresholds):
    with pytest.raises(ValueError, match="must be 2 numbers of at least 0"):
        cascade.set_thresholds(thresholds)


def test_exits_are_not_exported(cascade):
    cascade.set_thresholds([0.5, 0.5])
    with pytest.raises(ValueError, match="depends on the image"):
        torch.export.export(cascade, (torch.randn(2, 3, 32, 32),))
    cascade.set_thresholds([2.0, 2.0])
    torch.export.export(cascade, (torch.randn(2, 3, 32, 32),))


def test_nothing_is_reused_at_first():
    """Relations add nothing, and features have no weight: without the wider norm, copies alone."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    host = vit()
    model = foveate.reduce(host, "dvt", feature_reuse=False)
    with torch.no_grad():
        torch.testing.assert_close(model(x), host(x))


def test_finer_grids_repeat_then_average():
    x = torch.arange(4.0).view(1, 4)
    assert finer(x, (2, 2), (4, 4)).view(4, 4).tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]
    ]  # fmt: skip
    y = finer(torch.randn(2, 3, 49), (7, 7), (10, 10))
    assert y.shape == (2, 3, 100)
    x = torch.randn(1, 49)
    up = F.interpolate(x.view(1, 1, 7, 7), scale_factor=2, mode="nearest")
    expected = F.adaptive_avg_pool2d(up, 10).flatten(1)
    torch.testing.assert_close(finer(x, (7, 7), (10, 10)), expected)


def test_published_costs():
    """DeiT-S of three exits, as its authors' code is counted by fvcore: within two percent."""
    model = foveate.reduce(timm.create_model("deit_small_patch16_224"), "dvt")
    ours = model.exit_multiply_adds((224, 224))
    assert [round(cost / 1e9, 3) for cost in ours] == [1.143, 3.642, 8.799]
    for cost, published in zip(ours, (1.145e9, 3.656e9, 8.843e9), strict=True):
        assert abs(cost / published - 1) < 0.006
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 70.442


def test_other_models_are_refused():
    for host, said in (
        (HOSTS["rotary"](), "takes timm's VisionTransformer"),
        (vit(patch_drop_rate=0.2), "patch_drop"),
        (nn.Conv2d(3, 4, 3), "without tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            foveate.reduce(host, "dvt")
