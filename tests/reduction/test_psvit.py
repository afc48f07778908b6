from __future__ import annotations

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import multiply_adds, reducer_of, sources
from foveate.surgery import load, save


def vit(**options):
    return VisionTransformer(
        **{"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3,
           "num_classes": 5, **options}
    ).eval()  # fmt: skip


def test_a_sharing_block_weighs_its_values_by_the_map_before():
    torch.manual_seed(0)
    model, plain = vit(), vit()
    plain.load_state_dict(model.state_dict())
    foveate.reduce(model, "psvit", share=(1, 2), pool=())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = plain._pos_embed(plain.patch_embed(x))
        first = plain.blocks[0]
        q, k, _ = first.attn.qkv(first.norm1(tokens)).unflatten(-1, (3, 3, 8)).unbind(2)
        weights = (torch.einsum("bnhd,bmhd->bhnm", q, k) * 8**-0.5).softmax(-1)
        tokens = first(tokens)
        for block in plain.blocks[1:3]:
            v = block.attn.qkv(block.norm1(tokens))[..., 48:].unflatten(-1, (3, 8))
            tokens = tokens + block.attn.proj(
                torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
            )
            tokens = tokens + block.mlp(block.norm2(tokens))
        y = plain.forward_head(plain.norm(plain.blocks[3](tokens)))
        torch.testing.assert_close(model(x), y)


def test_a_sharing_block_has_no_queries_and_keys():
    model = foveate.reduce(vit(), "psvit", share=(1,), pool=())
    assert model.blocks.blocks[1].attn.qkv.weight.shape == (24, 24)
    assert model.blocks.blocks[0].attn.qkv.weight.shape == (72, 24)


def test_pooling_begins_as_a_maximum():
    torch.manual_seed(0)
    model, plain = vit(class_token=False, global_pool="avg"), vit(
        class_token=False, global_pool="avg"
    )  # fmt: skip
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    foveate.reduce(model, "psvit", share=(), pool=(2,), grid=(4, 4))
    with torch.no_grad():
        tokens = plain.blocks[:2](plain._pos_embed(plain.patch_embed(x)))
        pooled = tokens.view(2, 2, 2, 2, 2, 24).amax((2, 4)).view(2, 4, 24)
        y = plain.forward_head(plain.norm(plain.blocks[2:](pooled)))
        torch.testing.assert_close(model(x), y)


def test_windows_of_two_patches():
    model = foveate.reduce(vit(), "psvit", pool=(1,))
    (token,) = sources(model, torch.randn(1, 3, 32, 32)).values()
    assert token.tolist() == [[i // 2 for i in range(16)]]


def test_windows_of_the_map():
    model = foveate.reduce(vit(img_size=(24, 32)), "psvit", pool=(1, 3), grid=(3, 4))
    found = sources(model, torch.randn(1, 3, 24, 32))
    assert found[1].view(3, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]
    assert found[3].view(3, 4).tolist() == [[0] * 4] * 3


def test_images_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"grid=\(4, 4\) needs a model that takes images of one"):
        foveate.reduce(vit(dynamic_img_size=True), "psvit", pool=(1,), grid=(4, 4))
    model = foveate.reduce(vit(), "psvit", pool=(1,), grid=(4, 4))
    model.set_input_size((24, 32))
    with pytest.raises(ValueError, match="grid of 4 x 4 patches, and these images have 12"):
        model(torch.randn(1, 3, 24, 32))


def test_by_default_a_third_of_the_depth_apart():
    reducer = reducer_of(foveate.reduce(timm.create_model("vit_tiny_patch16_224"), "psvit"))
    assert reducer.pool == (4, 8)
    assert reducer.share == (1, 3, 5, 7, 9, 11)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pool": (4,)}, "pool must be numbers of blocks, 0 to 3"),
        ({"share": (-1,)}, "share must be numbers of blocks"),
        ({"pool": (1, 1)}, "each once"),
        ({"share": (1.0,)}, "share must be"),
        ({"share": (0,)}, "no attention map before it"),
        ({"pool": (2,), "share": (1, 2)}, "tokens are pooled between the two"),
        ({"grid": (0, 4)}, "grid must be at least 1"),
    ],
)
def test_wrong_options(options, said):
    with pytest.raises(ValueError, match=said):
        foveate.reduce(vit(), "psvit", **options)


def test_cost_of_deit_small():
    plain = timm.create_model("deit_small_patch16_224")
    dense = foveate.count_flops(plain, torch.zeros(1, 3, 224, 224)) / 2
    model = foveate.reduce(plain, "psvit")
    assert multiply_adds(model, 224) / dense == pytest.approx(0.5547, abs=1e-4)


def test_a_saved_model_is_built_again(tmp_path):
    x = torch.randn(2, 3, 32, 32)
    model = foveate.reduce(vit(), "psvit", pool=(1,), share=(3,))
    save(model, tmp_path / "model.safetensors")
    again = load(vit(), tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    with pytest.raises(ValueError, match="dropped for good"):
        foveate.restore(model)


def test_weights_learn():
    model = foveate.reduce(vit(), "psvit").train()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
