"""Heads: what turns a backbone's maps into dense predictions, one file a head.

A head knows no backbone: it takes maps (B, C_i, h_i, w_i), the finest first, and is told their
channels. Names of parameters, and numbers, are those of mmsegmentation and mmdetection, from whose
checkpoints :func:`foveate.load_published` reads.
"""

from foveate.heads.anchors import Anchors
from foveate.heads.box_head import BoxHead
from foveate.heads.boxes import Assigner
from foveate.heads.dual import DualHead
from foveate.heads.fcn import FCNHead
from foveate.heads.fpn import FPN
from foveate.heads.light import LightHead
from foveate.heads.mask_head import MaskHead
from foveate.heads.pixel import PixelHead
from foveate.heads.psp import PSPHead
from foveate.heads.retina import RetinaHead
from foveate.heads.roi_head import RoIHead
from foveate.heads.rpn import RPNHead
from foveate.heads.semantic_fpn import FPNHead, SemanticFPN
from foveate.heads.upernet import UPerHead

__all__ = [
    "FPN",
    "Anchors",
    "Assigner",
    "BoxHead",
    "DualHead",
    "FCNHead",
    "FPNHead",
    "LightHead",
    "MaskHead",
    "PSPHead",
    "PixelHead",
    "RPNHead",
    "RetinaHead",
    "RoIHead",
    "SemanticFPN",
    "UPerHead",
]
