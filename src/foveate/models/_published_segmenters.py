"""What publications say of segmentation models: parameters, multiply-adds and mIoU as printed.

Their FLOPs are multiply-adds of one image without the auxiliary head, whose parameters count. The
size of the image is in no README; 512x2048 is what an author says of Swin's
(SwinTransformer/Swin-Transformer-Semantic-Segmentation, issue 16), and what all of them agree with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedSegmenter:
    """A row of a publication.

    Attributes:
        head: for ``create_segmenter``.
        backbone: likewise.
        params: as printed, such as ``"60M"``; empty where none are given.
        multiply_adds: of one image, as printed; empty where none are given.
        miou: in percent, of whole images at one scale.
        source: where it stands.
        size: height and width of the image.
        data: what it was trained for.
        num_classes: of that.
        note: why ours differ, wherever they do by more than one percent and the printed rounding.
    """

    head: str
    backbone: str
    params: str
    multiply_adds: str
    miou: float
    source: str
    size: tuple[int, int] = (512, 2048)
    data: str = "ADE20K"
    num_classes: int = 150
    note: str = ""


_SLIDE = "LeapLabTHU/Slide-Transformer@6b1e184 figs/exp_seg.png"
_PVT = "whai362/PVT@57e2dfa segmentation/README.md"
_SWIN = "SwinTransformer/Swin-Transformer-Semantic-Segmentation@87e6f90 README.md"
_SWIN_22K = "microsoft/Swin-Transformer@f82860b README.md"
_CSWIN = "microsoft/CSWin-Transformer@f111ae2 README.md"
_NAT = "SHI-Labs/Neighborhood-Attention-Transformer@d334f5b NAT.md and DiNAT.md"
_DAT = "LeapLabTHU/DAT-Segmentation@fdd2039 README.md"
_TWINS = "Meituan-AutoML/Twins@c1ff671 README.md"
_SEAFORMER = "fudan-zvg/SeaFormer@9718d05 seaformer-seg/README.md"

_WIDE = (640, 2560)
_SQUARE = (512, 512)


def _cityscapes(
    backbone: str, multiply_adds: str, miou: float, size: tuple[int, int], added: str
) -> PublishedSegmenter:
    note = f"{added} with norms, activations and biases counted as well"
    return PublishedSegmenter(
        "light", backbone, "", multiply_adds, miou, _SEAFORMER, size, "Cityscapes", 19, note
    )


def _twins(
    backbone: str, params: str, multiply_adds: str, miou: float, classifier: str
) -> PublishedSegmenter:
    note = f"The backbone's unused classifier, of {classifier}, would make up the parameters."
    return PublishedSegmenter(
        "upernet", backbone, params, multiply_adds, miou, _TWINS, _SQUARE, note=note
    )


FIGURES = (
    PublishedSegmenter("semantic_fpn", "pvt_tiny", "17M", "158G", 36.57, _SLIDE),
    PublishedSegmenter("semantic_fpn", "pvt_small", "28M", "225G", 41.95, _SLIDE),
    PublishedSegmenter("semantic_fpn", "pvt_medium", "", "", 43.5, _PVT),
    PublishedSegmenter("semantic_fpn", "pvt_large", "", "", 43.5, _PVT),
    PublishedSegmenter("semantic_fpn", "slide_pvt_tiny", "16M", "136G", 38.43, _SLIDE),
    PublishedSegmenter("semantic_fpn", "slide_pvt_small", "26M", "188G", 42.47, _SLIDE),
    PublishedSegmenter("semantic_fpn", "cswin_tiny", "26M", "202G", 48.2, _CSWIN),
    PublishedSegmenter(
        "semantic_fpn",
        "cswin_small",
        "39M",
        "271G",
        49.2,
        _CSWIN,
        note="The classifier is printed with 0.4M more than its code has as well.",
    ),
    PublishedSegmenter("semantic_fpn", "cswin_base", "81M", "464G", 49.9, _CSWIN),
    PublishedSegmenter("semantic_fpn", "dat_tiny", "", "", 48.4, _DAT),
    PublishedSegmenter("semantic_fpn", "dat_small", "", "", 49.9, _DAT),
    PublishedSegmenter("semantic_fpn", "dat_base", "", "", 50.4, _DAT),
    PublishedSegmenter("upernet", "swin_tiny_patch4_window7_224", "60M", "945G", 44.51, _SWIN),
    PublishedSegmenter("upernet", "swin_small_patch4_window7_224", "81M", "1038G", 47.64, _SWIN),
    PublishedSegmenter("upernet", "swin_base_patch4_window7_224", "121M", "1188G", 48.13, _SWIN),
    PublishedSegmenter(
        "upernet", "swin_base_patch4_window7_224", "121M", "1841G", 50.04, _SWIN_22K, _WIDE
    ),
    PublishedSegmenter(
        "upernet",
        "swin_large_patch4_window7_224",
        "234M",
        "3230G",
        52.05,
        _SWIN_22K,
        _WIDE,
        note="Unexplained: DiNAT_s-L, of the same shape, is printed with 2466G at this size; with "
        "windows of 12 it would be 2580G.",
    ),
    PublishedSegmenter("upernet", "slide_swin_tiny", "60M", "946G", 45.67, _SLIDE),
    PublishedSegmenter("upernet", "slide_swin_small", "81M", "1038G", 48.46, _SLIDE),
    PublishedSegmenter(
        "upernet",
        "cswin_tiny",
        "60M",
        "959G",
        49.3,
        _CSWIN,
        note="Unexplained: the published configuration has these 52.1M; 60M is Swin-T's figure.",
    ),
    PublishedSegmenter("upernet", "cswin_small", "65M", "1027G", 50.4, _CSWIN),
    PublishedSegmenter("upernet", "cswin_base", "109M", "1222G", 51.1, _CSWIN),
    PublishedSegmenter("upernet", "cswin_base", "109M", "1941G", 51.8, _CSWIN, _WIDE),
    PublishedSegmenter(
        "upernet",
        "cswin_large_384",
        "208M",
        "2745G",
        53.4,
        _CSWIN,
        _WIDE,
        note="Its configuration is not published: with stripes of 7 in the third stage, as the "
        "base variant's figure has them, it would be 2611G.",
    ),
    PublishedSegmenter("upernet", "nat_mini", "50M", "900G", 45.1, _NAT),
    PublishedSegmenter("upernet", "nat_tiny", "58M", "934G", 47.1, _NAT),
    PublishedSegmenter("upernet", "nat_small", "82M", "1010G", 48.0, _NAT),
    PublishedSegmenter("upernet", "nat_base", "123M", "1137G", 48.5, _NAT),
    PublishedSegmenter("upernet", "dinat_mini", "50M", "900G", 45.8, _NAT),
    PublishedSegmenter("upernet", "dinat_tiny", "58M", "934G", 47.8, _NAT),
    PublishedSegmenter("upernet", "dinat_small", "82M", "1010G", 48.9, _NAT),
    PublishedSegmenter("upernet", "dinat_base", "123M", "1137G", 49.6, _NAT),
    PublishedSegmenter("upernet", "dinat_large", "238M", "2335G", 54.0, _NAT, _WIDE),
    PublishedSegmenter("upernet", "dinat_s_tiny", "60M", "941G", 46.0, _NAT),
    PublishedSegmenter("upernet", "dinat_s_small", "81M", "1030G", 48.6, _NAT),
    PublishedSegmenter("upernet", "dinat_s_base", "121M", "1173G", 49.4, _NAT),
    PublishedSegmenter("upernet", "dinat_s_large", "234M", "2466G", 53.4, _NAT, _WIDE),
    PublishedSegmenter("upernet", "dat_tiny", "", "", 49.4, _DAT),
    PublishedSegmenter("upernet", "dat_small", "", "", 50.5, _DAT),
    PublishedSegmenter("upernet", "dat_base", "", "", 51.0, _DAT),
    _twins("twins_pcpvt_small", "54.6M", "234G", 46.2, "0.51M"),
    _twins("twins_pcpvt_base", "74.3M", "250G", 47.1, "0.51M"),
    _twins("twins_pcpvt_large", "91.5M", "269G", 48.6, "0.51M"),
    _twins("twins_svt_small", "54.4M", "228G", 46.2, "0.51M"),
    _twins("twins_svt_base", "88.5M", "261G", 47.4, "0.77M"),
    _twins("twins_svt_large", "133M", "297G", 48.8, "1.03M"),
    PublishedSegmenter("light", "seaformer_tiny", "1.7M", "0.6G", 35.0, _SEAFORMER, _SQUARE),
    PublishedSegmenter(
        "light",
        "seaformer_small",
        "4.0M",
        "1.1G",
        38.9,
        _SEAFORMER,
        _SQUARE,
        note="1.09G with norms, activations and biases counted as well",
    ),
    PublishedSegmenter("light", "seaformer_base", "8.6M", "1.8G", 41.2, _SEAFORMER, _SQUARE),
    PublishedSegmenter(
        "light",
        "seaformer_large",
        "14.0M",
        "6.5G",
        43.0,
        _SEAFORMER,
        _SQUARE,
        note="6.53G with norms, activations and biases counted as well",
    ),
    _cityscapes("seaformer_small", "2.0G", 71.1, (512, 1024), "2.03G"),
    _cityscapes("seaformer_base", "3.4G", 72.2, (512, 1024), "3.47G"),
    _cityscapes("seaformer_small", "8.0G", 76.4, (1024, 2048), "8.11G"),
    _cityscapes("seaformer_base", "13.7G", 77.7, (1024, 2048), "13.83G"),
)
