"""What publications say of detectors: parameters, multiply-adds and AP on COCO as printed.

Their FLOPs are multiply-adds of one image of 800x1280 pixels with 1,000 regions and, of mask heads,
100: what mmdetection's own counting runs. The size is stated by Slide and Swin; all others agree
with it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedDetector:
    """A row of a publication.

    Attributes:
        detector: for ``create_detector``.
        backbone: likewise.
        params: as printed, such as ``"48M"``; empty where none are given.
        multiply_adds: of one image, as printed; empty where none are given.
        box_ap: AP of boxes on COCO's 2017 validation images, in percent.
        mask_ap: of masks; None without.
        schedule: ``"1x"``, 12 epochs, or ``"3x"``, 36 at several scales.
        source: where it stands.
        size: height and width of the image.
        num_classes: of COCO.
        note: why ours differ, wherever they do by more than one percent and the printed rounding.
    """

    detector: str
    backbone: str
    params: str
    multiply_adds: str
    box_ap: float
    mask_ap: float | None
    schedule: str
    source: str
    size: tuple[int, int] = (800, 1280)
    num_classes: int = 80
    note: str = ""


_SLIDE = "LeapLabTHU/Slide-Transformer@6b1e184 figs/exp_det.png"
_PVT = "whai362/PVT@57e2dfa detection/README.md"
_SWIN = "SwinTransformer/Swin-Transformer-Object-Detection@c7b2011 README.md"
_CSWIN = "microsoft/CSWin-Transformer@f111ae2 README.md"
_NAT = "SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md and DiNAT.md"
_DAT = "LeapLabTHU/DAT-Detection@4d4023d README.md"

FIGURES = (
    PublishedDetector("mask_rcnn", "pvt_tiny", "33M", "240G", 36.7, 35.1, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "pvt_small", "44M", "305G", 40.4, 37.8, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "pvt_medium", "64M", "392G", 42.0, 39.0, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "pvt_v2_b1", "34M", "244G", 41.8, 38.8, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "pvt_v2_b2", "45M", "309G", 45.3, 41.2, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_pvt_tiny", "32M", "219G", 40.4, 38.1, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_pvt_small", "42M", "269G", 42.8, 40.1, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_pvt_medium", "62M", "357G", 44.4, 40.8, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_pvt_v2_b1", "33M", "222G", 42.6, 39.7, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_pvt_v2_b2", "43M", "274G", 46.0, 41.9, "1x", _SLIDE),
    PublishedDetector("mask_rcnn", "slide_swin_tiny", "48M", "268G", 46.8, 42.3, "3x", _SLIDE),
    PublishedDetector(
        "cascade_mask_rcnn", "slide_swin_tiny", "86M", "747G", 51.1, 44.3, "3x", _SLIDE
    ),
    PublishedDetector(
        "cascade_mask_rcnn", "slide_swin_small", "107M", "838G", 52.5, 45.4, "3x", _SLIDE
    ),
    PublishedDetector(
        "cascade_mask_rcnn", "slide_swin_base", "145M", "983G", 52.7, 45.5, "3x", _SLIDE
    ),
    PublishedDetector(
        "mask_rcnn", "swin_tiny_patch4_window7_224", "48M", "267G", 43.7, 39.8, "1x", _SWIN
    ),
    PublishedDetector(
        "mask_rcnn", "swin_tiny_patch4_window7_224", "48M", "267G", 46.0, 41.6, "3x", _SWIN
    ),
    PublishedDetector(
        "mask_rcnn", "swin_small_patch4_window7_224", "69M", "359G", 48.5, 43.3, "3x", _SWIN
    ),
    PublishedDetector(
        "cascade_mask_rcnn", "swin_tiny_patch4_window7_224", "86M", "745G", 48.1, 41.7, "1x", _SWIN
    ),
    PublishedDetector(
        "cascade_mask_rcnn", "swin_tiny_patch4_window7_224", "86M", "745G", 50.4, 43.7, "3x", _SWIN
    ),
    PublishedDetector(
        "cascade_mask_rcnn",
        "swin_small_patch4_window7_224",
        "107M",
        "838G",
        51.9,
        45.0,
        "3x",
        _SWIN,
    ),
    PublishedDetector(
        "cascade_mask_rcnn", "swin_base_patch4_window7_224", "145M", "982G", 51.9, 45.0, "3x", _SWIN
    ),
    PublishedDetector("mask_rcnn", "cswin_tiny", "42M", "279G", 49.0, 43.6, "3x", _CSWIN),
    PublishedDetector("mask_rcnn", "cswin_small", "54M", "342G", 50.0, 44.5, "3x", _CSWIN),
    PublishedDetector("mask_rcnn", "cswin_base", "97M", "526G", 50.8, 44.9, "3x", _CSWIN),
    PublishedDetector("cascade_mask_rcnn", "cswin_tiny", "80M", "757G", 52.5, 45.3, "3x", _CSWIN),
    PublishedDetector("cascade_mask_rcnn", "cswin_small", "92M", "820G", 53.7, 46.4, "3x", _CSWIN),
    PublishedDetector("cascade_mask_rcnn", "cswin_base", "135M", "1004G", 53.9, 46.4, "3x", _CSWIN),
    PublishedDetector("mask_rcnn", "nat_mini", "40M", "225G", 46.5, 41.7, "3x", _NAT),
    PublishedDetector("mask_rcnn", "nat_tiny", "48M", "258G", 47.7, 42.6, "3x", _NAT),
    PublishedDetector("mask_rcnn", "nat_small", "70M", "330G", 48.4, 43.2, "3x", _NAT),
    PublishedDetector("mask_rcnn", "dinat_mini", "40M", "225G", 47.2, 42.5, "3x", _NAT),
    PublishedDetector("mask_rcnn", "dinat_tiny", "48M", "258G", 48.6, 43.5, "3x", _NAT),
    PublishedDetector("mask_rcnn", "dinat_small", "70M", "330G", 49.3, 44.0, "3x", _NAT),
    PublishedDetector("mask_rcnn", "dinat_s_tiny", "48M", "263G", 46.6, 42.1, "3x", _NAT),
    PublishedDetector("mask_rcnn", "dinat_s_small", "69M", "350G", 48.6, 43.5, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "nat_mini", "77M", "704G", 50.3, 43.6, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "nat_tiny", "85M", "737G", 51.4, 44.5, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "nat_small", "108M", "809G", 52.0, 44.9, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "nat_base", "147M", "931G", 52.3, 45.1, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_mini", "77M", "704G", 51.2, 44.4, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_tiny", "85M", "737G", 52.2, 45.1, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_small", "108M", "809G", 52.9, 45.8, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_base", "147M", "931G", 53.4, 46.2, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_large", "258M", "1276G", 55.3, 47.8, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_s_tiny", "86M", "742G", 51.0, 44.1, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_s_small", "107M", "829G", 52.3, 45.2, "3x", _NAT),
    PublishedDetector("cascade_mask_rcnn", "dinat_s_base", "145M", "966G", 52.6, 45.3, "3x", _NAT),
    PublishedDetector(
        "cascade_mask_rcnn", "dinat_s_large", "253M", "1357G", 54.8, 47.2, "3x", _NAT
    ),
    PublishedDetector("retinanet", "pvt_tiny", "", "", 36.7, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_small", "", "", 40.4, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_medium", "", "", 41.9, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_large", "", "", 42.6, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b0", "", "", 37.2, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b1", "", "", 41.2, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b2_li", "", "", 43.6, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b2", "", "", 44.6, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b3", "", "", 45.9, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b4", "", "", 46.1, None, "1x", _PVT),
    PublishedDetector("retinanet", "pvt_v2_b5", "", "", 46.2, None, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_large", "", "", 42.9, 39.5, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_v2_b0", "", "", 38.2, 36.2, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_v2_b2_li", "", "", 44.1, 40.5, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_v2_b3", "", "", 47.0, 42.5, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_v2_b4", "", "", 47.5, 42.7, "1x", _PVT),
    PublishedDetector("mask_rcnn", "pvt_v2_b5", "", "", 47.4, 42.5, "1x", _PVT),
    PublishedDetector("retinanet", "dat_tiny", "", "", 46.8, None, "1x", _DAT),
    PublishedDetector("retinanet", "dat_small", "", "", 48.3, None, "1x", _DAT),
    PublishedDetector("mask_rcnn", "dat_tiny", "", "", 48.7, 43.7, "1x", _DAT),
    PublishedDetector("mask_rcnn", "dat_small", "", "", 49.8, 44.5, "1x", _DAT),
    PublishedDetector("cascade_mask_rcnn", "dat_tiny", "", "", 53.0, 46.0, "3x", _DAT),
    PublishedDetector("cascade_mask_rcnn", "dat_small", "", "", 54.2, 46.9, "3x", _DAT),
    PublishedDetector("cascade_mask_rcnn", "dat_base", "", "", 54.5, 47.0, "3x", _DAT),
)
