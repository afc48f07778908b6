"""A small pyramid backbone with one slot a block, in which any attention stands by name.

    stem /4, then four stages at 1/4, 1/8, 1/16, 1/32; a block of a stage is
    x = x + conv3x3(x)              depthwise: position, for mixers that know none
    x = x + slot(norm(x))           the only thing that a comparison changes
    x = x + mlp(norm(x))

What stands in the slot, by ``attention``:

* a mixer, or a token mixer read row by row, as it is;
* a gate, after a depthwise convolution: ``project(gate(depthwise(x)))``;
* ``"depthwise_conv"`` (a control): the same without the gate, ``project(depthwise(x))``;
* ``"none"`` (a control): the slot is left out.

Shapes: images (B, in_chans, H, W) of any H, W >= 1, features (B, C_i, ceil(H / r_i), ceil(W / r_i))
with r = 4, 8, 16, 32. Every stage sees its own map size, down to 1x1; nothing depends on the
size at construction. The design is of this library; there is no publication.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm2d, NormMlpClassifierHead, calculate_drop_path_rates
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from foveate.arguments import nearest, odd, one_of, pair
from foveate.contracts import Attention
from foveate.layout import to_channels_last
from foveate.registry import Spec, create_attention, describe, list_attention, option_names

CONTROLS = {
    "none": "No attention: the slot is left out",
    "depthwise_conv": "A plain depthwise convolution and a projection in the slot",
}
"""What can stand in the slot without being an attention mechanism, and what it is."""

register_notrace_module(Attention)


def list_slots() -> list[str]:
    """Names that ``attention`` takes: mechanisms that can stand in the slot, then the controls."""
    return [name for name in list_attention() if describe(name).role != "aligner"] + list(CONTROLS)


def create_slot(
    name: str, dim: int, num_heads: int, index: int = 0, options: dict[str, Any] | None = None
) -> nn.Module | None:
    """What stands in the slot of a block.

    Args:
        name: one of :func:`list_slots`.
        dim: channels.
        num_heads: heads, for mechanisms that have them and unless ``options`` says otherwise.
        index: number of the block in its stage; mechanisms that shift their windows do so in
            every second block, as published.
        options: passed to the mechanism.

    Returns:
        ``(B, C, H, W) -> (B, C, H, W)``, or None for ``"none"``.

    Raises:
        ValueError: if the name or an option is unknown, or the mechanism refuses them.
    """
    options = dict(options or {})
    if name in CONTROLS:
        known = ["kernel_size"] if name == "depthwise_conv" else []
        for option in options:
            if option not in known:
                raise ValueError(f"{name} has no option {option!r}{nearest(option, known)}")
        return None if name == "none" else ConvolutionSlot(dim, **options)
    one_of(name, list_slots(), "attention")
    spec = describe(name)
    if spec.role == "gate":
        return ConvolutionSlot(dim, gate=create_attention(name, dim, **options))
    return create_attention(
        name, dim, role="mixer", **_mixer_options(spec, num_heads, index, options)
    )


def _mixer_options(
    spec: Spec, num_heads: int, index: int, options: dict[str, Any]
) -> dict[str, Any]:
    known = option_names(spec)
    if "num_heads" in known:
        options.setdefault("num_heads", num_heads)
    if "shift_size" in known and index % 2 and "shift_size" not in options:
        window = options.get("window_size", signature(spec.cls).parameters["window_size"].default)
        options["shift_size"] = tuple(side // 2 for side in pair(window, "window_size"))
    return options


class ConvolutionSlot(nn.Module):
    """``project(gate(depthwise(x)))``; without a gate it is the control.

    Args:
        dim: channels.
        kernel_size: of the depthwise convolution; odd.
        gate: re-weights what the convolution gives.
    """

    def __init__(self, dim: int, kernel_size: int = 3, gate: nn.Module | None = None) -> None:
        super().__init__()
        odd(kernel_size, "kernel_size")
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.gate = nn.Identity() if gate is None else gate
        self.project = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.gate(self.depthwise(x)))


class MapMlp(nn.Module):
    """Two linear layers on the channels of ``(B, C, H, W)``.

    Args:
        dim: channels.
        hidden: channels between the two.
    """

    def __init__(self, dim: int, hidden: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(to_channels_last(x)))).permute(0, 3, 1, 2)


class PyramidBlock(nn.Module):
    """Position, slot and MLP, each beside the identity.

    Args:
        dim: channels.
        num_heads: heads for the slot.
        index: number of the block in its stage.
        attention: what stands in the slot.
        attention_kwargs: its options.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        index: int,
        attention: str,
        attention_kwargs: dict[str, Any] | None,
        mlp_ratio: float,
        drop_path: float,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        with torch.device(device if device is not None else torch.get_default_device()):
            slot = create_slot(attention, dim, num_heads, index, attention_kwargs)
        self.norm1 = nn.Identity() if slot is None else LayerNorm2d(dim, **dd)
        self.slot = None if slot is None else slot.to(dtype=dtype)
        self.norm2 = LayerNorm2d(dim, **dd)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        if self.slot is not None:
            x = x + self.drop_path(self.slot(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PyramidStage(nn.Module):
    """Down-sampling by two where the width changes, then blocks.

    Args:
        in_chs: channels of the input.
        dim: channels of the stage.
        drop_path: one probability a block.
        **block: passed to every :class:`PyramidBlock`.
    """

    def __init__(
        self,
        in_chs: int,
        dim: int,
        drop_path: Sequence[float],
        downsample: bool,
        device: Any = None,
        dtype: Any = None,
        **block: Any,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.grad_checkpointing = False
        self.downsample = nn.Identity()
        if downsample:
            self.downsample = nn.Sequential(
                LayerNorm2d(in_chs, **dd), nn.Conv2d(in_chs, dim, 3, stride=2, padding=1, **dd)
            )
        self.blocks = nn.Sequential(
            *(
                PyramidBlock(dim, index=index, drop_path=rate, **block, **dd)
                for index, rate in enumerate(drop_path)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class Pyramid(nn.Module):
    """The pyramid backbone; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        attention: what stands in the slot of every block: a mixer, token mixer or gate by name,
            ``"depthwise_conv"`` or ``"none"``.
        attention_kwargs: options of the mechanism.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage, for mechanisms that have heads.
        mlp_ratio: hidden channels of the MLP over the stage's.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising to this in the last block.
        device: where the parameters are made.
        dtype: of the parameters.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        attention: str = "multi_head",
        attention_kwargs: dict[str, Any] | None = None,
        depths: Sequence[int] = (1, 2, 2, 1),
        dims: Sequence[int] = (32, 64, 96, 128),
        num_heads: Sequence[int] = (2, 4, 6, 8),
        mlp_ratio: float = 3.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not len(depths) == len(dims) == len(num_heads):
            raise ValueError(
                "depths, dims and num_heads need one number a stage, got "
                f"{tuple(depths)}, {tuple(dims)} and {tuple(num_heads)}"
            )
        dd = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = dims[-1]
        self.drop_rate = drop_rate
        self.attention = attention
        self.grad_checkpointing = False
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, dims[0] // 2, 3, stride=2, padding=1, **dd),
            LayerNorm2d(dims[0] // 2, **dd),
            nn.GELU(),
            nn.Conv2d(dims[0] // 2, dims[0], 3, stride=2, padding=1, **dd),
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *(
                PyramidStage(
                    dims[max(i - 1, 0)],
                    dims[i],
                    rates[i],
                    downsample=i > 0,
                    num_heads=num_heads[i],
                    attention=attention,
                    attention_kwargs=attention_kwargs,
                    mlp_ratio=mlp_ratio,
                    **dd,
                )
                for i in range(len(depths))
            )
        )
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"stages.{i}"}
            for i, dim in enumerate(dims)
        ]
        self.head = NormMlpClassifierHead(
            dims[-1], num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd
        )

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters beside biases and norms that weight decay should spare."""
        return {name for name, _ in self.named_parameters() if "relative_position_bias" in name}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters group into layers, for layer-wise learning rates."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        )
        return {"stem": r"^stem", "blocks": blocks}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in backward instead of keeping their activations."""
        self.grad_checkpointing = enable
        for stage in self.stages:
            stage.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        reset_other: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Put a new classifier in place.

        Args:
            num_classes: classes; 0 gives features.
            global_pool: other pooling; ``""`` keeps the map.
            reset_other: leave out the norm before it too.
            device: where its parameters are made; the model's otherwise.
            dtype: of its parameters; the model's otherwise.
        """
        parameter = next(self.parameters())
        self.num_classes = num_classes
        self.head.reset(
            num_classes,
            global_pool,
            reset_other=reset_other,
            in_features=self.num_features if reset_other else None,
            device=parameter.device if device is None else device,
            dtype=parameter.dtype if dtype is None else dtype,
        )

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The output of the stages.

        Args:
            x: images (B, in_chans, H, W).
            indices: which stages: the last n if an int, all if None.
            norm: there is no norm between the stages; must be False.
            stop_early: stop after the last stage asked for.
            output_fmt: ``"NCHW"``.
            intermediates_only: leave out the final features.

        Raises:
            ValueError: if another format is asked for.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        take, last = feature_take_indices(len(self.stages), indices)
        x = self.stem(x)
        stages = self.stages[: last + 1] if stop_early else self.stages
        intermediates = []
        for index, stage in enumerate(stages):
            x = stage(x)
            if index in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for, and the head."""
        take, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if cut:
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if cut or prune_head:
            self.reset_classifier(0, "", reset_other=True)
        return take

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, C, H/32, W/32)``."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, norm and, unless ``pre_logits``, the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "min_input_size": (3, 1, 1),
        "pool_size": (7, 7),
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {"pyramid_pico.untrained": _cfg(), "pyramid_tiny.untrained": _cfg()}
)


def _create_pyramid(variant: str, pretrained: bool, **kwargs: Any) -> Pyramid:
    return build_model_with_cfg(
        Pyramid,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )


@register_model
def pyramid_pico(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """About 0.5 M parameters: for small images and for studies on a laptop."""
    return _create_pyramid("pyramid_pico", pretrained, **kwargs)


@register_model
def pyramid_tiny(pretrained: bool = False, **kwargs: Any) -> Pyramid:
    """About 5 M parameters: for photographs."""
    sizes = {"depths": (2, 2, 4, 2), "dims": (64, 128, 192, 320), "num_heads": (2, 4, 6, 10)}
    return _create_pyramid("pyramid_tiny", pretrained, **{**sizes, **kwargs})
