"""What an export is asked for: sizes, which of them are free, and precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from foveate.arguments import nearest

Axis = Literal["batch", "height", "width"]
AXES: tuple[Axis, ...] = get_args(Axis)
Precision = Literal["float32", "float16", "int8"]


class Size(NamedTuple):
    """Of a batch of images."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


class Request(NamedTuple):
    """What a file is to take and how it is to compute.

    Attributes:
        size: height and width of the images.
        channels: of the images.
        free: which axes the file takes at any length; a batch that is not free holds one image.
        precision: of weights and products.
    """

    size: tuple[int, int]
    channels: int = 3
    free: tuple[Axis, ...] = ()
    precision: Precision = "float32"

    @property
    def stated(self) -> Size:
        """One image of the size that was asked for."""
        return Size(1, *self.size)

    @property
    def traced(self) -> Size:
        """What the model is traced at: lengths that a free axis does not have by chance.

        A batch of one, or the size that a model was built for, would count as fixed.
        """
        height, width = self.size
        return Size(
            2 if "batch" in self.free else 1,
            height + 32 if "height" in self.free else height,
            width + 64 if "width" in self.free else width,
        )

    def checked(self) -> tuple[Size, ...]:
        """The stated size, and of free axes five other lengths, two of them awkward.

        Awkward are one image and three, with sides that are odd.
        """
        if not self.free:
            return (self.stated,)
        height, width = self.size
        others = (
            Size(2, height + 32, width),
            Size(1, height * 7 // 8 | 1, width * 9 // 8 | 1),
            Size(3, height * 6 // 5 | 1, width * 3 // 4 | 1),
            Size(2, height, width + 32),
            Size(4, height * 3 // 4 // 32 * 32 or height, width),
        )
        found = [self.stated, *(self._fixed(size) for size in others)]
        if self.free == ("batch",):
            found[2] = found[2]._replace(batch=5)  # one image is the stated size already
        return tuple(dict.fromkeys(found))

    def _fixed(self, size: Size) -> Size:
        """``size`` where axes are free, and the stated one's where they are not."""
        axes = zip(AXES, size, self.stated, strict=True)
        return Size(*(free if axis in self.free else stated for axis, free, stated in axes))

    def __str__(self) -> str:
        lengths = zip(AXES, self.stated, strict=True)
        return " x ".join(axis if axis in self.free else str(length) for axis, length in lengths)


def free_axes(dynamic: Sequence[str]) -> tuple[Axis, ...]:
    """``dynamic`` as axes, in their order.

    Raises:
        ValueError: if a name is not that of an axis.
    """
    if isinstance(dynamic, str):
        raise ValueError(f"dynamic takes several names, as ({dynamic!r},)")
    for name in dynamic:
        if name not in AXES:
            raise ValueError(
                f"dynamic takes {', '.join(AXES)}, got {name!r}{nearest(name, list(AXES))}"
            )
    return tuple(axis for axis in AXES if axis in dynamic)
