"""Pictures from files as tensors, in bounded memory and decoded in this process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.adapters.colours import converted, object_converter, rgb_converter
from fwdgrad.adapters.cropping import FITS, Converter, Cut, Fit, reduced, scaled, turned
from fwdgrad.adapters.decoding import MAX_PIXELS, open_picture
from fwdgrad.errors import ArgumentError, Message

if TYPE_CHECKING:
    from PIL import Image

_WHOLE = 2**24  # pixels: a larger photo is reduced while it is read, a smaller one as a whole


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as a classifier sees it, and what it was cut from.

    Attributes:
        pixels: float32 (3, size, size) in [0, 1].
        width: of the whole photo in pixels, upright.
        height: of the whole photo in pixels, upright.
        fit: how it was made a square; see ``read_photo``.
        whole: all of the photo, made smaller: uint8 (h, w, 3); None where it was not asked for.
    """

    pixels: Tensor
    width: int
    height: int
    fit: Fit
    whole: np.ndarray[Any, Any] | None = None

    @property
    def cut(self) -> Cut:
        """What of the photo is in ``pixels``, and where.

        >>> Photo(torch.zeros(3, 8, 8), 200, 100, "stretch").cut.box
        (0.0, 0.0, 200.0, 100.0)
        """
        return Cut.of(self.width, self.height, self.pixels.shape[-1], self.fit)

    @property
    def share(self) -> float:
        """The share of the photo's area that is in ``pixels``.

        >>> Photo(torch.zeros(3, 8, 8), 200, 100, "crop").share
        0.3828125
        """
        left, top, right, bottom = self.cut.box
        return (right - left) * (bottom - top) / (self.width * self.height)


def read_photo(
    path: str | os.PathLike[str],
    size: int,
    fit: Fit | None = "crop",
    max_pixels: int = MAX_PIXELS,
    side: int | None = None,
) -> Photo:
    """Reads a photo as a classifier sees it.

    Greyscale, palette, transparent (laid on white), 16-bit and CMYK pictures become RGB; a
    camera's rotation mark is obeyed; of an animation the first picture is taken.

    Args:
        path: a file in one of ``fwdgrad.adapters.decoding.FORMATS``, whatever its name ends in.
        size: of the square that is made of it, in pixels.
        fit: "crop": the shorter side is scaled to size / 0.875 and the centre cut out, the usual
            preparation for ImageNet; "pad": the longer side is scaled to size and the rest is grey
            (127 of 255); "stretch": either side is scaled to size. None: "crop", but a photo that
            has the size already is taken as it is, which "stretch" does.
        max_pixels: the memory that decoding may take, in pixels of 4 bytes. A photo whose header
            says that it needs more is refused; formats that decoders hold several times over count
            so much more.
        side: of all of the photo, to be shown: its longer side is made that long, where it is
            longer. None: that is left out.

    Returns:
        The photo, with its size before.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, of another format, damaged, or too large.
    """
    read = _read(path, "photo", rgb_converter, size, fit, max_pixels, side)
    whole = None if read.small is None else np.array(read.small)
    return Photo(_pixels(read.picture), *read.size, read.fit, whole)


def load_photo(
    path: str | os.PathLike[str],
    size: int,
    fit: Fit | None = "crop",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """The pixels of ``read_photo`` alone: float32 (3, size, size) in [0, 1]."""
    return read_photo(path, size, fit, max_pixels).pixels


def photo_of(photo: str | os.PathLike[str] | Image.Image, size: int | None = None) -> Tensor:
    """A photo's pixels in their own size, or the square that ``read_photo`` cuts out of it.

    Args:
        photo: a file, or a picture of Pillow.
        size: of the square that is cut out; None: all of it, in its own size.

    Returns:
        float32 (3, height, width) in [0, 1]; for colours see ``read_photo``.

    Raises:
        FileNotFoundError, ValueError: see ``read_photo``.
    """
    return _pixels(picture_of(photo, size))


def picture_of(photo: str | os.PathLike[str] | Image.Image, size: int | None = None) -> Image.Image:
    """The same as an RGB picture of Pillow, upright."""
    if isinstance(photo, (str, os.PathLike)):
        return _read(photo, "photo", rgb_converter, size, None, MAX_PIXELS).picture
    orientation = photo.getexif().get(0x0112, 1)
    picture = turned(converted(photo, rgb_converter(photo)), orientation)
    fits = picture.width == picture.height == size
    cut = Cut.of(*picture.size, size, "stretch" if fits else "crop")
    return scaled(picture, cut.box, cut)


def load_mask(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    photo: tuple[int, int] | None = None,
    fit: Fit = "crop",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Reads the mask of a photo's object.

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
    read = _read(path, "mask", object_converter, size, fit, max_pixels)
    found = read.size
    if found != wanted:
        raise ArgumentError(
            "mask",
            f"{path} must be {wanted[0]} x {wanted[1]} pixels, as the {whose} is, got {found[0]} x "
            f"{found[1]}",
        )
    mask = torch.from_numpy(np.array(read.picture)) > 127
    if not bool(mask.any()):
        raise ArgumentError(
            "mask",
            f"{path} marks nothing that the map covers: it must be white, or opaque on "
            "transparent, where the object is",
        )
    if bool(mask.all()):
        raise ArgumentError(
            "mask",
            f"{path} marks all that the map covers: beside the object it must be black, or "
            "transparent",
        )
    return mask


def _pixels(picture: Image.Image) -> Tensor:
    """An RGB picture as float32 (3, height, width) in [0, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255


@dataclass(frozen=True)
class _Read:
    """A picture, upright, converted and scaled; its width and height before; how it was fitted."""

    picture: Image.Image
    size: tuple[int, int]
    fit: Fit
    small: Image.Image | None


def _read(
    path: str | os.PathLike[str],
    name: str,
    converter_of: Callable[[Image.Image], Converter],
    size: int | None,
    fit: Fit | None,
    max_pixels: int,
    side: int | None = None,
) -> _Read:
    """Reads a picture.

    Args:
        path: of the file.
        name: what an error calls it.
        converter_of: looks at the whole picture; returns what converts parts of it.
        size: of the square; None: as large as it is.
        fit: see ``read_photo``.
        max_pixels: see ``read_photo``.
        side: see ``read_photo``.
    """
    if fit not in (None, *FITS):
        raise ValueError(f"fit must be {', '.join(FITS)} or None, got {fit!r}")
    for argument, value in (("size", size), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise ArgumentError(argument, f"must be at least 1, got {value}")
    try:
        import PIL.Image  # noqa: F401
    except ImportError:
        raise ImportError(
            f"reading a {name} needs Pillow: pip install 'fwdgrad-kernels[image]'"
        ) from None
    given, path = os.fspath(path), Path(path)
    if not path.is_file():
        hint = ": an address is not read, download it first" * ("://" in given)
        raise FileNotFoundError(
            f"{name} {given} does not exist{' as a file' * path.exists()}{hint}"
        )
    try:
        # From a file object: from a path Pillow maps an uncompressed TIFF into memory, and then
        # gets a rotated one wrong.
        with path.open("rb") as file, open_picture(file, max_pixels) as opened:
            width, height = opened.size
            if fit is None:
                fit = "stretch" if width == height == size else "crop"
            cut = Cut.of(width, height, size, fit)
            is_large = width * height > _WHOLE
            if is_large and opened.format in ("JPEG", "MPO"):
                wanted = math.ceil(width / cut.draft), math.ceil(height / cut.draft)
                if drafted := opened.draft(None, wanted):  # a half, a quarter or an eighth
                    cut = cut.shrunk(width / drafted[1][2])
            opened.load()
            # Only now: a PNG's mark may come after its pixels.
            orientation = opened.getexif().get(0x0112, 1)
            whole = (width, height) if orientation < 5 else (height, width)
            convert = converter_of(opened)
            if is_large:
                picture = turned(scaled(*reduced(opened, cut, convert), cut), orientation)
                small = side and turned(_small(opened, side, convert), orientation)
                return _Read(picture, whole, fit, small or None)
            picture = turned(converted(opened, convert), orientation)
            cut = Cut.of(*picture.size, size, fit)
            small = side and _small(picture, side)
            return _Read(scaled(picture, cut.box, cut), whole, fit, small or None)
    except Exception as error:  # Pillow raises whatever it meets in damaged files: struct.error, ..
        text = " ".join(str(error).split()) or type(error).__name__
        reason = error if error.args and isinstance(error.args[0], Message) else text
        raise ArgumentError(name, f"{path} cannot be read: ", reason) from error


def _small(picture: Image.Image, side: int, convert: Converter = lambda part: part) -> Image.Image:
    """All of a picture, with its longer side at most so long."""
    factor = min(1.0, side / max(picture.size))
    width, height = (max(1, round(factor * length)) for length in picture.size)
    box = (0.0, 0.0, float(picture.width), float(picture.height))
    cut = Cut(box, (width, height), (width, height))
    return scaled(*reduced(picture, cut, convert), cut)
