"""Local attention by the compiled CPU kernel: packs the arguments of ``native/local.c``."""

from __future__ import annotations

import torch

DTYPES: tuple[torch.dtype, ...] = ()
