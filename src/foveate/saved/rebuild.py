"""A model from how it is built: by timm, by this library's heads on timm's, or by the user's file.

Studies build their models by this as well, so that what a file says is what was done.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import timm
from torch import nn

import foveate.models  # noqa: F401  registers this library's backbones with timm
from foveate._user_code import import_file
from foveate.arguments import nearest
from foveate.models import create_detector, create_segmenter
from foveate.saved.info import Architecture


def rebuild(architecture: Architecture, num_classes: int, code: str | None = None) -> nn.Module:
    """The model, with fresh weights unless its options name others.

    Args:
        architecture: how it is built.
        num_classes: that it tells apart.
        code: for one of the user's own, ``FILE.py:FUNCTION`` that builds it; the file is run.

    Raises:
        ValueError: if a name is unknown, ``code`` is needed or names no function, or an option
            does not fit.
    """
    if architecture.kind == "own":
        if code is None:
            raise ValueError(f"the model is built by code of your own, {architecture.backbone}")
        return of_file(code, num_classes, dict(architecture.backbone_options))
    name, options = architecture.backbone, dict(architecture.backbone_options)
    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    if architecture.kind == "classifier":
        return timm.create_model(name, num_classes=num_classes, **options)
    backbone: Any = name
    if architecture.plain:
        backbone, options = timm.create_model(name, features_only=True, **options), {}
    create = {"segmenter": create_segmenter, "detector": create_detector}[architecture.kind]
    return create(
        architecture.head or "",
        backbone,
        num_classes,
        head_options=dict(architecture.head_options),
        **architecture.options,
        **options,
    )


def of_file(code: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """What a function of the user's gives.

    Args:
        code: ``FILE.py:FUNCTION``.
        num_classes: its first argument.
        options: its others.

    Raises:
        ValueError: if there is no such function, it fails, or gives no module.
    """
    name, _, function = code.rpartition(":")
    path = Path(name)
    build = getattr(import_file(path, "host"), function, None)
    if not callable(build):
        functions = [name for name, value in vars(sys.modules[path.stem]).items()
                     if callable(value) and not name.startswith("_")]  # fmt: skip
        raise ValueError(f"{path} has no function {function!r}{nearest(function, functions)}")
    call = f"{function}({num_classes}) of {path}"
    try:
        model = build(num_classes, **options)
    except Exception as error:
        raise ValueError(f"{call} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{call} gives {type(model).__name__}, and should a torch.nn.Module")
    return model
