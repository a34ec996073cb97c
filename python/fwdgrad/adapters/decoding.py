"""Files of pictures, opened by decoders of this process alone, within a limit of memory."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import ImageFile

# What Pillow decodes itself or by a library. Of the others EPS goes to Ghostscript, which runs what
# is in the file, and some hold a picture of another format or size than they say (ICO, ICNS).
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_OTHERS = {b"%PDF": "PDF", b"<svg": "SVG", b"<?xml": "XML (SVG, perhaps)"}

MAX_PIXELS = 125_000_000  # 500 MB: Pillow has 4 bytes for a pixel of most kinds
# How many times 4 bytes a pixel their decoders take (measured; a TIFF's strips come on top).
_TIMES = {"TIFF": 2, "WEBP": 5, "AVIF": 4, "JPEG2000": 8}
_SCANS = 100  # of a JPEG; one or ten are usual, and each takes the time of a whole picture
_SIDE = 128  # a side of more than a 128th of max_pixels: rows, too, take memory, each for itself


def open_picture(file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    """A picture whose header was read, and whose pixels will fit.

    ``Image.open`` would take any format, and its limit of pixels is one for the whole process.

    Args:
        file: in one of ``FORMATS``, which is known by its first bytes.
        max_pixels: what decoding it may take at the most, in pixels of 4 bytes.

    Raises:
        ValueError: it is of another format, or takes more. What Pillow raises on a damaged header
            is of any kind.
    """
    from PIL import Image

    least = (os.fstat(file.fileno()).st_size - 2**20) / 8  # some formats are read as a whole
    if least > max_pixels:
        raise ValueError(
            f"its file has more than 8 bytes for each of max_pixels={max_pixels}; make it smaller, "
            f"or give max_pixels={math.ceil(least)}"
        )
    Image.init()
    prefix = file.read(16)
    file.seek(0)
    known: str | None = None
    for name, (factory, accept) in Image.OPEN.items():
        accepted = accept(prefix) if accept is not None else False
        if name in FORMATS and isinstance(accepted, str):
            raise ValueError(accepted)  # Pillow was built without its library
        if name in FORMATS and accepted:
            opened = factory(file, "")
            _check_memory(opened, max_pixels)
            if name == "JPEG":
                _check_scans(file)
            return opened
        if accepted and not isinstance(accepted, str):
            known = known or name
    if prefix[4:11] == b"ftyphei":
        known = "HEIC"
    for start, kind in _OTHERS.items():
        if prefix.startswith(start):
            known = kind
    what = f"it looks like {known}, which is not read" if known else "it is no picture we know of"
    raise ValueError(f"{what}; convert it to PNG or JPEG (read are {', '.join(FORMATS)})")


def _check_memory(opened: ImageFile.ImageFile, max_pixels: int) -> None:
    """Raises where decoding takes more than so many pixels of 4 bytes, by what the header says."""
    width, height = opened.size
    pixels = _TIMES.get(opened.format or "", 1) * width * height
    if opened.format == "TIFF" and opened.info.get("compression") != "raw":
        tags = opened.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(322, width), tags.get(323, tags.get(278, height))
        pixels += int(tile[0]) * (int(tile[1]) if 323 in tags else min(height, int(tile[1])))
    if opened.info.get("progressive"):  # a JPEG whose coefficients are all held, 2 bytes each
        pixels *= 2
    needed = max(pixels, _SIDE * max(width, height))
    if needed > max_pixels:
        raise ValueError(
            f"its {width} x {height} pixels take more memory than max_pixels={max_pixels} allows; "
            f"make it smaller, or give max_pixels={needed}"
        )


def _check_scans(file: BinaryIO) -> None:
    """Raises where a JPEG goes over its pixels so often that it would seem to hang."""
    place, scans, last = file.tell(), 0, b""
    file.seek(0)
    while part := file.read(2**20):
        scans += (last + part).count(b"\xff\xda")  # among the pixels 0xff is followed by 0
        last = part[-1:]
    file.seek(place)
    if scans > _SCANS:
        raise ValueError(f"it has {scans} scans, more than the {_SCANS} that are read")
