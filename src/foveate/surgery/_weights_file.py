"""Tensors and a few words about them in one file, which tells when its bytes have changed.

The file is plain safetensors; the SHA-256 of its content stands in its metadata, where other
readers pass over it. Files without one, of others or of Foveate 0.1, are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping

import torch
from torch import Tensor

from foveate._files import file_path, replacing

__all__ = ["DamagedFileError", "read_tensors", "read_words", "write_tensors"]

_CHECKSUM = "foveate.sha256"


class DamagedFileError(ValueError):
    """A file of weights is cut off, or not what was written; the message names it."""


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write ``tensors``, which share no memory, and ``metadata``, whole or not at all.

    Raises:
        ValueError: if ``path`` is a folder.
    """
    from safetensors.torch import save

    words = {**metadata, _CHECKSUM: _digest(tensors, metadata)}
    with replacing(file_path(path)) as file:
        file.write(save(dict(tensors), words))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors at ``path`` and the words about them.

    Raises:
        ValueError: if ``path`` is a folder.
        DamagedFileError: if the file cannot be read, or its content has changed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file_path(path), framework="pt") as file:
            words = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is damaged, or no safetensors: {error}") from error
    written = words.pop(_CHECKSUM, None)
    if written not in (None, _digest(tensors, words)):
        raise DamagedFileError(f"{path} is damaged: its content is not what was written (SHA-256)")
    return tensors, words


def read_words(path: str | os.PathLike[str]) -> dict[str, str]:
    """The words at ``path`` alone, as they are: whether they have changed is not looked at.

    Raises:
        ValueError: if ``path`` is a folder.
        DamagedFileError: if the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file_path(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise DamagedFileError(f"{path} is damaged, or no safetensors: {error}") from error


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of names, kinds, shapes, values and words, in an order of their own."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
