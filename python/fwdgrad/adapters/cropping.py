"""The square of a picture that a classifier sees: cropped, reduced, scaled and turned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)
Box = tuple[float, float, float, float]  # left, top, right, bottom
Converter = Callable[["Image.Image"], "Image.Image"]

_CROP = 0.875  # the share of a photo's shorter side that the usual ImageNet crop keeps
_GREY = (127, 127, 127)  # beside a padded photo; what ImageNet's usual normalisations take for zero
_GAP = 3.0  # reducing by whole numbers keeps this many times the pixels of the result
_BLOCK = 512  # the side of the parts that are converted at a time


@dataclass(frozen=True)
class Cut:
    """Which box of a picture is scaled to which size, centred in a result.

    Both are symmetric about the centre, so a picture may be turned before or after.

    Attributes:
        box: of the picture, in its pixels.
        scaled: the width and height that the box is scaled to.
        result: the width and height of the result.
    """

    box: Box
    scaled: tuple[int, int]
    result: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, size: int | None, fit: Fit) -> Cut:
        """The cut of a picture of this size to a square; without a size, all of it as it is.

        >>> Cut.of(40, 80, 8, "pad")
        Cut(box=(0.0, 0.0, 40.0, 80.0), scaled=(4, 8), result=(8, 8))
        """
        box = (0.0, 0.0, float(width), float(height))
        if size is None:
            return cls(box, (width, height), (width, height))
        if fit == "crop":
            side = min(width, height) * _CROP
            left, top = (width - side) / 2, (height - side) / 2
            box = (left, top, left + side, top + side)
        scaled = (size, size)
        if fit == "pad":
            longer = max(width, height)
            scaled = (max(1, round(size * width / longer)), max(1, round(size * height / longer)))
        return cls(box, scaled, (size, size))

    @property
    def extent(self) -> Box:
        """Where the whole result lies on the picture, in its pixels.

        What is beside a padded picture lies outside of it.

        >>> Cut.of(40, 80, 8, "pad").extent
        (-20.0, 0.0, 60.0, 80.0)
        """
        left, top = (self.box[i] - self.margins[i] * self.scale[i] for i in (0, 1))
        right, bottom = (
            first + length * scale
            for first, length, scale in zip((left, top), self.result, self.scale, strict=True)
        )
        return left, top, right, bottom

    @property
    def margins(self) -> tuple[int, int]:
        """Pixels of the result to the left of the scaled box, and above it."""
        (width, height), (wide, high) = self.result, self.scaled
        return (width - wide) // 2, (height - high) // 2

    def shrunk(self, factor: float) -> Cut:
        """The same cut of the picture after it was made smaller by a factor."""
        left, top, right, bottom = (side / factor for side in self.box)
        return replace(self, box=(left, top, right, bottom))

    @property
    def scale(self) -> tuple[float, float]:
        """How many pixels of the picture become one, along its width and its height."""
        left, top, right, bottom = self.box
        return (right - left) / self.scaled[0], (bottom - top) / self.scaled[1]

    @property
    def draft(self) -> float:
        """How many times smaller a decoder may make the picture without a visible loss."""
        return min(self.scale) / _GAP


def parts(picture: Image.Image) -> Iterator[Image.Image]:
    """All of a picture, part by part: a large one is never converted as a whole."""
    return (part for _, _, part in _blocks(picture, (0, 0, *picture.size)))


def _blocks(
    picture: Image.Image, window: tuple[int, int, int, int], factors: tuple[int, int] = (1, 1)
) -> Iterator[tuple[int, int, Image.Image]]:
    """Parts of a window of a picture, with their left and top; sides are multiples of factors."""
    left, top, right, bottom = window
    step_x, step_y = (f * max(1, _BLOCK // f) for f in factors)
    for y in range(top, bottom, step_y):
        for x in range(left, right, step_x):
            yield x, y, picture.crop((x, y, min(x + step_x, right), min(y + step_y, bottom)))


def reduced(picture: Image.Image, cut: Cut, convert: Converter) -> tuple[Image.Image, Box]:
    """The part of a picture that a cut needs, converted and reduced by whole numbers.

    Args:
        picture: in its own colours.
        cut: of the picture.
        convert: applied to its parts.

    Returns:
        The reduced part, and the cut's box in it.
    """
    from PIL import Image

    fx, fy = (max(1, int(scale / _GAP)) for scale in cut.scale)
    margins = [2 * max(1.0, scale) + f for scale, f in zip(cut.scale, (fx, fy), strict=True)]
    left, top = (max(0, math.floor(cut.box[i] - margins[i])) for i in (0, 1))
    right, bottom = (min(picture.size[i], math.ceil(cut.box[i + 2] + margins[i])) for i in (0, 1))
    size = (-((left - right) // fx), -((top - bottom) // fy))
    result: Image.Image | None = None
    for x, y, part in _blocks(picture, (left, top, right, bottom), (fx, fy)):
        made = convert(part)
        if (fx, fy) != (1, 1):
            made = made.reduce((fx, fy))
        if result is None:
            result = Image.new(made.mode, size)
        result.paste(made, ((x - left) // fx, (y - top) // fy))
    assert result is not None
    box = cut.box
    inside = ((box[0] - left) / fx, (box[1] - top) / fy, (box[2] - left) / fx)
    return result, (*inside, (box[3] - top) / fy)


def scaled(picture: Image.Image, box: Box, cut: Cut) -> Image.Image:
    """A box of a picture, scaled and centred in the result of a cut."""
    from PIL import Image

    # Scaled by the box, so that a long strip is never scaled whole.
    part = picture.resize(cut.scaled, Image.Resampling.BICUBIC, box=box)
    if part.size == cut.result:
        return part
    result = Image.new(part.mode, cut.result, _GREY if part.mode == "RGB" else 0)
    result.paste(part, cut.margins)
    return result


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture upright, by its camera's mark: EXIF 2.3, tag 274."""
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return picture.transpose(methods[orientation]) if orientation in methods else picture
