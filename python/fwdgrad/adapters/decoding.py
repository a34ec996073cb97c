"""Opens pictures of known formats within a limit of memory, without other programs."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, BinaryIO

from fwdgrad.errors import Message, Option

if TYPE_CHECKING:
    from PIL import ImageFile

# What Pillow decodes itself or by a library. It hands EPS to Ghostscript, which runs code in the
# file, and an ICO or ICNS may hold a picture of another format or size than it says.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_OTHERS = {b"%PDF": "PDF", b"<svg": "SVG", b"<?xml": "XML (SVG, perhaps)"}

MAX_PIXELS = 125_000_000  # 500 MB: Pillow has 4 bytes for a pixel of most kinds
# How many times 4 bytes a pixel their decoders take (measured; a TIFF's strips come on top).
_TIMES = {"TIFF": 2, "WEBP": 5, "AVIF": 4, "JPEG2000": 8}
_SCANS = 100  # of a JPEG; one or ten are usual, and each takes the time of a whole picture
_SIDE = 128  # a side may have a 128th of max_pixels at most: each row takes memory of its own, too


def open_picture(file: BinaryIO, max_pixels: int) -> ImageFile.ImageFile:
    """Opens a picture whose pixels will fit into memory, by its header.

    ``Image.open`` would take any format, and its limit of pixels is one for the whole process.

    Args:
        file: in one of ``FORMATS``, which its first bytes tell.
        max_pixels: the memory that decoding may take, in pixels of 4 bytes.

    Raises:
        ValueError: it has another format, or needs more memory.
        Exception: the header is damaged; Pillow raises errors of any kind.
    """
    from PIL import Image

    least = (os.fstat(file.fileno()).st_size - 2**20) / 8  # some formats are read as a whole
    if least > max_pixels:
        raise _too_large(
            "its file has more than 8 bytes for each of ", max_pixels, "", math.ceil(least)
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
    what = (
        f"it looks like {known}, which is not read" if known else "it is no picture of a known kind"
    )
    raise ValueError(f"{what}; convert it to PNG or JPEG (formats: {', '.join(FORMATS)})")


def _check_memory(opened: ImageFile.ImageFile, max_pixels: int) -> None:
    """Raises where, by its header, a picture takes more memory than that to decode."""
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
        many = f"its {width} x {height} pixels take more memory than "
        raise _too_large(many, max_pixels, " allows", needed)


def _too_large(before: str, max_pixels: int, after: str, needed: int) -> ValueError:
    given, wanted = (Option("max_pixels", number) for number in (max_pixels, needed))
    return ValueError(Message(before, given, f"{after}; make it smaller, or give ", wanted))


def _check_scans(file: BinaryIO) -> None:
    """Raises where a JPEG has so many scans that decoding would seem to hang."""
    place, scans, last = file.tell(), 0, b""
    file.seek(0)
    while part := file.read(2**20):
        scans += (last + part).count(b"\xff\xda")  # among the pixels 0xff is followed by 0
        last = part[-1:]
    file.seek(place)
    if scans > _SCANS:
        raise ValueError(f"it has {scans} scans, more than the {_SCANS} that are read")
