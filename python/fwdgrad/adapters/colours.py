"""The colours of a picture: to RGB as a person sees it, or to a mask of its object."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fwdgrad.adapters.cropping import Converter, Cut, parts, reduced

if TYPE_CHECKING:
    from PIL import Image


def rgb_converter(picture: Image.Image) -> Converter:
    """What converts parts of a picture to RGB, chosen by a look at the whole.

    Greyscale, palette, transparent (laid on white), 16-bit and CMYK pictures are understood.
    """
    if picture.mode.startswith("I") or picture.mode == "F":  # Pillow itself would cut off at 255
        largest = max(np.nan_to_num(np.asarray(part)).max(initial=0) for part in parts(picture))
        if picture.mode == "F" and largest < 2:  # fractions, perhaps a little over
            return partial(_levels, top=1.0)
        wide = largest > 255 or picture.mode.startswith("I;16")
        return partial(_levels, top=65535.0 if wide else 255.0)
    if _has_alpha(picture):
        return _on_white
    return _as_rgb


def object_converter(picture: Image.Image) -> Converter:
    """What converts parts of a mask to grey: its opacity where some is transparent, else its light.

    Raises:
        ValueError: it is neither, but in colours.
    """
    if _has_alpha(picture) and any(
        _opacity(part).getextrema() != (255, 255) for part in parts(picture)
    ):
        return _opacity
    convert = rgb_converter(picture)
    coloured = sum(
        int((np.ptp(np.asarray(convert(part)), axis=2) > 64).sum()) for part in parts(picture)
    )
    if coloured > 0.01 * picture.width * picture.height:
        raise ValueError("it is in colours; it must be white on black, or opaque on transparent")
    return lambda part: convert(part).convert("L")


def converted(picture: Image.Image, convert: Converter) -> Image.Image:
    """All of a picture, converted part by part."""
    if convert is _as_rgb and picture.mode == "RGB":
        return picture
    return reduced(picture, Cut.of(*picture.size, None, "stretch"), convert)[0]


def _has_alpha(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


def _as_rgb(part: Image.Image) -> Image.Image:
    return part.convert("RGB")


def _levels(part: Image.Image, top: float) -> Image.Image:
    from PIL import Image

    values = np.nan_to_num(np.asarray(part, dtype=np.float64))
    levels = np.round(values.clip(0, top) * (255 / top)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


def _on_white(part: Image.Image) -> Image.Image:
    from PIL import Image

    part = part.convert("RGBA")
    result = Image.new("RGBA", part.size, "white")
    result.alpha_composite(part)
    return result.convert("RGB")


def _opacity(part: Image.Image) -> Image.Image:
    return part.convert("RGBA").getchannel("A")
