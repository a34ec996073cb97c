"""Pictures from files as tensors, in bounded memory and by decoders of this process alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.decoding import MAX_PIXELS, open_picture

if TYPE_CHECKING:
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

_CROP = 0.875  # the share of a photo's shorter side that the usual ImageNet crop keeps
_GREY = (127, 127, 127)  # beside a padded photo; what ImageNet's usual normalisations take for zero
_WHOLE = 2**24  # pixels: above, a photo is reduced on its way; below, it is converted as a whole
_GAP = 3.0  # what is reduced by whole numbers keeps this many times the pixels of the result
_BLOCK = 512  # the side of what is converted at a time

Converter = Callable[["Image.Image"], "Image.Image"]


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as a classifier sees it, and what it was cut from.

    Attributes:
        pixels: float32 (3, size, size) in [0, 1].
        width: of the whole photo in pixels, upright.
        height: of the whole photo in pixels, upright.
        fit: how it was made a square; see ``read_photo``.
    """

    pixels: Tensor
    width: int
    height: int
    fit: Fit

    @property
    def share(self) -> float:
        """The share of the photo's area that is in ``pixels``.

        >>> Photo(torch.zeros(3, 8, 8), 200, 100, "crop").share
        0.3828125
        """
        left, top, right, bottom = _Cut.of(self.width, self.height, 8, self.fit).box
        return (right - left) * (bottom - top) / (self.width * self.height)


def read_photo(
    path: str | os.PathLike[str],
    size: int,
    fit: Fit | None = "crop",
    max_pixels: int = MAX_PIXELS,
) -> Photo:
    """A photo as a classifier sees it.

    Greyscale, palette, transparent (laid on white), 16-bit and CMYK pictures become RGB; a
    camera's rotation mark is obeyed; of an animation the first picture is taken.

    Args:
        path: a file in one of ``fwdgrad.adapters.decoding.FORMATS``, whatever its name ends in.
        size: of the square that is made of it, in pixels.
        fit: "crop": the shorter side is scaled to size / 0.875 and the centre cut out, the usual
            preparation for ImageNet; "pad": the longer side is scaled to size and the rest is grey
            (127 of 255); "stretch": either side is scaled to size. None: "crop", but a photo that
            has the size already is taken as it is, which "stretch" does.
        max_pixels: a photo that takes more memory than so many pixels of 4 bytes is refused by what
            its header says. Formats that are held several times over count so much more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, of another format, damaged, or too large.
    """
    picture, (width, height), fit = _read(path, "photo", _rgb, size, fit, max_pixels)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255
    return Photo(pixels, width, height, fit)


def load_photo(
    path: str | os.PathLike[str],
    size: int,
    fit: Fit | None = "crop",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """The pixels of ``read_photo`` alone: float32 (3, size, size) in [0, 1]."""
    return read_photo(path, size, fit, max_pixels).pixels


def photo_of(photo: str | os.PathLike[str] | Image.Image, size: int | None = None) -> Tensor:
    """All of a photo, or its middle as ``read_photo`` cuts it; see there for its colours.

    Args:
        photo: a file, or a picture of Pillow.
        size: of the square that is cut out; None: all of it, in its own size.

    Returns:
        float32 (3, height, width) in [0, 1].

    Raises:
        FileNotFoundError, ValueError: see ``read_photo``.
    """
    if isinstance(photo, (str, os.PathLike)):
        picture = _read(photo, "photo", _rgb, size, None, MAX_PIXELS)[0]
    else:
        turn = photo.getexif().get(0x0112, 1)
        picture = _turned(_converted(photo, _rgb(photo)), turn)
        fits = picture.width == picture.height == size
        cut = _Cut.of(*picture.size, size, "stretch" if fits else "crop")
        picture = _scaled(picture, cut.box, cut)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255


def load_mask(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    photo: tuple[int, int] | None = None,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Where the object of a photo is.

    Args:
        path: a picture that is opaque on the object and transparent beside it, or white and black.
        shape: of the map that the mask is for: (H, W).
        photo: width and height of the photo that ``read_photo`` read. The mask must have them, and
            is cut in the same way; without them it must have the map's.
        fit: how the photo was made a square.
        max_pixels: see ``read_photo``.

    Returns:
        bool (H, W): true where the picture is more than half opaque, or half white.

    Raises:
        FileNotFoundError, ValueError: see ``read_photo``; the mask is in colours, has another
            size, or marks nothing or everything.
    """
    wanted, whose = (photo, "photo") if photo else ((shape[1], shape[0]), "map")
    size = shape[0] if photo else None
    picture, found, _ = _read(path, "mask", _of_object, size, fit, max_pixels)
    if found != wanted:
        raise ValueError(
            f"mask {path} must be {wanted[0]} x {wanted[1]} pixels, as the {whose} is, "
            f"got {found[0]} x {found[1]}"
        )
    mask = torch.from_numpy(np.array(picture)) > 127
    if not bool(mask.any()):
        raise ValueError(
            f"mask {path} marks nothing that the map covers: it must be white, or opaque on "
            "transparent, where the object is"
        )
    if bool(mask.all()):
        raise ValueError(
            f"mask {path} marks all that the map covers: beside the object it must be black, or "
            "transparent"
        )
    return mask


# ---- from the file to the square -----------------------------------------------------------


@dataclass(frozen=True)
class _Cut:
    """What of a picture goes where: a box of it is scaled to ``scaled``, within ``result``.

    Either is symmetric about the middle, so that it does not matter whether a picture is turned
    before or after.
    """

    box: tuple[float, float, float, float]
    scaled: tuple[int, int]
    result: tuple[int, int]

    @classmethod
    def of(cls, width: int, height: int, size: int | None, fit: Fit) -> _Cut:
        """Of a picture of this size; it is left as it is where there is no size to scale to."""
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

    def shrunk(self, factor: float) -> _Cut:
        """The same of a picture that is so many times smaller."""
        left, top, right, bottom = (side / factor for side in self.box)
        return replace(self, box=(left, top, right, bottom))

    @property
    def scale(self) -> tuple[float, float]:
        """How many pixels of the picture become one, along its width and its height."""
        left, top, right, bottom = self.box
        return (right - left) / self.scaled[0], (bottom - top) / self.scaled[1]


def _read(
    path: str | os.PathLike[str],
    name: str,
    prepare: Callable[[Image.Image], Converter],
    size: int | None,
    fit: Fit | None,
    max_pixels: int,
) -> tuple[Image.Image, tuple[int, int], Fit]:
    """A picture, upright, converted and scaled; its width and height before; how it was fitted.

    Args:
        path: of the file.
        name: what an error calls it.
        prepare: looks at the whole picture; returns what converts parts of it.
        size: of the square; None: as large as it is.
        fit: see ``read_photo``.
        max_pixels: see ``read_photo``.
    """
    if fit not in (None, *FITS):
        raise ValueError(f"fit must be {', '.join(FITS)} or None, got {fit!r}")
    for argument, value in (("size", size), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise ValueError(f"{argument} must be at least 1, got {value}")
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ImportError(
            f"reading a {name} needs Pillow: pip install 'fwdgrad-kernels[image]'"
        ) from None
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{name} {path} does not exist" + (" as a file" * path.exists()))
    try:
        # From a file object: from a path Pillow maps an uncompressed TIFF into memory, and then
        # gets a rotated one wrong.
        with path.open("rb") as file, open_picture(file, max_pixels) as opened:
            width, height = opened.size
            if fit is None:
                fit = "stretch" if width == height == size else "crop"
            cut = _Cut.of(width, height, size, fit)
            is_large = width * height > _WHOLE
            if is_large and opened.format in ("JPEG", "MPO"):
                scale = min(cut.scale) / _GAP
                wanted = math.ceil(width / scale), math.ceil(height / scale)
                if drafted := opened.draft(None, wanted):  # a half, a quarter or an eighth
                    cut = cut.shrunk(width / drafted[1][2])
            opened.load()
            turn = opened.getexif().get(0x0112, 1)  # only now: a PNG's may come after its pixels
            whole = (width, height) if turn < 5 else (height, width)
            convert = prepare(opened)
            if is_large:
                return _turned(_scaled(*_reduced(opened, cut, convert), cut), turn), whole, fit
            picture = _turned(_converted(opened, convert), turn)
            cut = _Cut.of(*picture.size, size, fit)
            return _scaled(picture, cut.box, cut), whole, fit
    except Exception as error:  # Pillow raises what it comes to on damaged files, struct.error say
        text = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{name} {path} cannot be read: {text}") from error


def _blocks(
    picture: Image.Image, window: tuple[int, int, int, int], factors: tuple[int, int] = (1, 1)
) -> Iterator[tuple[int, int, Image.Image]]:
    """Parts of a window of a picture, of whole multiples of the factors, and where they begin."""
    left, top, right, bottom = window
    step_x, step_y = (f * max(1, _BLOCK // f) for f in factors)
    for y in range(top, bottom, step_y):
        for x in range(left, right, step_x):
            yield x, y, picture.crop((x, y, min(x + step_x, right), min(y + step_y, bottom)))


def _all(picture: Image.Image) -> Iterator[Image.Image]:
    return (part for _, _, part in _blocks(picture, (0, 0, *picture.size)))


def _converted(picture: Image.Image, convert: Converter) -> Image.Image:
    """All of it, converted part by part."""
    if convert is _as_rgb and picture.mode == "RGB":
        return picture
    return _reduced(picture, _Cut.of(*picture.size, None, "stretch"), convert)[0]


def _reduced(
    picture: Image.Image, cut: _Cut, convert: Converter
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """What a cut needs of a picture, converted and reduced by whole numbers; its box therein."""
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


def _scaled(picture: Image.Image, box: tuple[float, float, float, float], cut: _Cut) -> Image.Image:
    """A box of a picture, scaled and laid in the middle of the result."""
    from PIL import Image

    # Scaled by the box, so that a long strip is never scaled whole.
    scaled = picture.resize(cut.scaled, Image.Resampling.BICUBIC, box=box)
    if scaled.size == cut.result:
        return scaled
    result = Image.new(scaled.mode, cut.result, _GREY if scaled.mode == "RGB" else 0)
    width, height = (whole - part for whole, part in zip(cut.result, scaled.size, strict=True))
    result.paste(scaled, (width // 2, height // 2))
    return result


def _turned(picture: Image.Image, turn: int) -> Image.Image:
    """Upright, by a camera's mark: EXIF 2.3, tag 274."""
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
    return picture.transpose(methods[turn]) if turn in methods else picture


# ---- conversions ---------------------------------------------------------------------------


def _rgb(picture: Image.Image) -> Converter:
    """What makes its parts RGB, by a look at the whole."""
    if picture.mode.startswith("I") or picture.mode == "F":  # Pillow itself would cut off at 255
        largest = max(np.nan_to_num(np.asarray(part)).max(initial=0) for part in _all(picture))
        if picture.mode == "F" and largest < 2:  # fractions, perhaps a little over
            return partial(_levels, top=1.0)
        wide = largest > 255 or picture.mode.startswith("I;16")
        return partial(_levels, top=65535.0 if wide else 255.0)
    if "A" in picture.getbands() or "transparency" in picture.info:
        return _on_white
    return _as_rgb


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


def _of_object(picture: Image.Image) -> Converter:
    """What makes its parts grey: how opaque where some is transparent, otherwise how bright."""
    has_alpha = "A" in picture.getbands() or "transparency" in picture.info
    if has_alpha and any(_opacity(part).getextrema() != (255, 255) for part in _all(picture)):
        return _opacity
    convert = _rgb(picture)
    coloured = sum(
        int((np.ptp(np.asarray(convert(part)), axis=2) > 64).sum()) for part in _all(picture)
    )
    if coloured > 0.01 * picture.width * picture.height:
        raise ValueError("it is in colours; it must be white on black, or opaque on transparent")
    return lambda part: convert(part).convert("L")


def _opacity(part: Image.Image) -> Image.Image:
    return part.convert("RGBA").getchannel("A")
