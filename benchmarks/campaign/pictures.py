"""Mutated pictures: each is read or refused in one line, in bounded memory, and runs nothing."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import struct
import tempfile
import time
import warnings
import zlib
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from fwdgrad.adapters.photos import FITS, read_photo
from fwdgrad.runner.memory import process_memory

MAX_PIXELS = 10_000_000
MOST_BYTES = 8 * MAX_PIXELS + 16 * 2**20  # 4 bytes a pixel, twice where it is converted
SECONDS = 10.0  # for one picture
_SIZES = (8, 28, 224)
_SUFFIXES = ("png", "jpg", "gif", "webp", "tiff", "bmp", "ppm", "eps", "")
_LARGE = (0, 1, 255, 4000, 40_000, 65_535, 2**24, 2**31 - 1, 2**32 - 1)


def run(count: int, seed: int) -> dict[str, object]:
    """Reads mutated pictures in a process of its own, which is started again where one hangs it.

    Args:
        count: how many.
        seed: of the mutations.

    Returns:
        How many were tried, loaded and refused; wrong: any other answer, a crash or a hang; files
        that a picture made; the most memory that one took; seconds.
    """
    started = time.perf_counter()
    rng = random.Random(seed)
    originals = _originals()
    loaded = refused = 0
    wrong: list[str] = []
    peak = 0
    with tempfile.TemporaryDirectory() as name:
        folder, trap = Path(name, "pictures"), Path(name, "trap")
        folder.mkdir()
        trap.mkdir()
        made = _set_trap(trap)
        paths = []
        for i in range(count):
            kind = rng.choice(sorted(originals))
            suffix = kind if rng.random() < 0.5 else f"{kind}.{rng.choice(_SUFFIXES)}"
            path = folder / f"{i}-{suffix}"
            path.write_bytes(_mutated(rng, originals, kind, made))
            paths.append(path)
        before = set(Path(name).rglob("*"))
        for path, (answer, taken) in zip(paths, _read_all(paths, trap), strict=True):
            peak = max(peak, taken)
            if taken > MOST_BYTES:
                answer = f"took {taken / 2**20:.0f} MiB"
            loaded += answer == "loaded"
            refused += answer == "refused"
            if answer not in ("loaded", "refused"):
                wrong.append(f"{path.name}: {answer}")
        files = len(set(Path(name).rglob("*")) - before)
    return {
        "tried": count,
        "loaded": loaded,
        "refused": refused,
        "wrong": len(wrong),
        **({"examples": "; ".join(wrong[:3])} if wrong else {}),
        "left_over": files,
        "most for one picture, MiB": round(peak / 2**20),
        "seconds": round(time.perf_counter() - started, 1),
    }


# ---- pictures ------------------------------------------------------------------------------


def _originals() -> dict[str, bytes]:
    """A picture of each kind: small ones, and large ones in small files."""
    rows, columns = np.mgrid[0:48, 0:64]
    values = np.stack([4 * columns, 5 * rows, (columns * rows) % 256], 2).astype(np.uint8)
    rgb, grey = Image.fromarray(values), Image.fromarray(values[..., 2])
    rgba = Image.fromarray(np.dstack([values, values[..., 0]]))
    exif = Image.Exif()
    exif[274] = 6
    kinds: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {"exif": exif}),
        "palette.png": (rgb.quantize(64), {"transparency": 3}),
        "16.png": (Image.fromarray(values[..., 2] * np.uint16(257)), {}),
        "rgb.jpg": (rgb, {"exif": exif}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "a.gif": (rgb.quantize(64), {"save_all": True, "append_images": [rgb.quantize(8)]}),
        "raw.tiff": (rgb, {"exif": exif}),
        "lzw.tiff": (rgba, {"compression": "tiff_lzw"}),
        "float.tiff": (Image.fromarray(values[..., 1].astype(np.float32)), {}),
        "a.bmp": (rgb, {}),
        "a.ppm": (rgb, {}),
        "a.pgm": (grey, {}),
        "a.eps": (rgb, {}),
        "large.png": (Image.new("RGB", (3000, 3000), "navy"), {"compress_level": 1}),
        "bomb.png": (Image.new("RGB", (6000, 6000), "navy"), {"compress_level": 1}),
        "large.jpg": (Image.new("RGB", (3000, 3000), "navy"), {"progressive": True}),
    }
    for feature, kind in {"webp": "a.webp", "jpg_2000": "a.jp2", "avif": "a.avif"}.items():
        if features.check(feature):
            kinds[kind] = (rgba if kind == "a.webp" else rgb, {})
    result = {"plain.ppm": b"P3 2 2 255 " + b"9 99 200 " * 4}
    for kind, (image, options) in kinds.items():
        content = io.BytesIO()
        suffix = f".{kind.partition('.')[2]}"
        image.save(content, Image.registered_extensions()[suffix], **options)
        result[kind] = content.getvalue()
    return result


def _mutated(rng: random.Random, originals: dict[str, bytes], kind: str, made: Path) -> bytes:
    """A picture with some of it changed, cut off, or put in from another."""
    content = bytearray(originals[kind])
    if kind == "a.eps":  # would leave a file, if it were run
        content += f"\n({made}) (w) file closefile\n".encode()
        return bytes(content) if rng.random() < 0.7 else bytes(content[rng.randrange(99) :])
    how = rng.choice(["flips", "cut", "header", "number", "splice"])
    if how == "flips":
        for _ in range(rng.randint(1, 8)):
            content[rng.randrange(len(content))] ^= rng.randint(1, 255)
    elif how == "cut":
        del content[rng.randrange(len(content)) :]
    elif how == "header":
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(64, len(content)))] = rng.randrange(256)
    elif how == "number":
        place = rng.randrange(max(1, min(200, len(content) - 4)))
        form = rng.choice([">I", "<I", ">H", "<H"])
        number = struct.pack(form, rng.choice(_LARGE) % 2 ** (8 * struct.calcsize(form)))
        content[place : place + len(number)] = number
    else:
        other = originals[rng.choice(sorted(originals))]
        start = rng.randrange(len(other))
        place = rng.randrange(len(content))
        content[place:place] = other[start : start + rng.randint(1, 400)]
    if content.startswith(b"\x89PNG") and rng.random() < 0.7:
        _mend_checksums(content)
    return bytes(content)


def _mend_checksums(content: bytearray) -> None:
    """A PNG's, so that what was changed is not refused for them."""
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + struct.unpack_from(">I", content, place)[0]
        if end + 4 > len(content):
            return
        struct.pack_into(">I", content, end, zlib.crc32(content[place + 4 : end]))
        place = end + 4


# ---- reading -------------------------------------------------------------------------------


def _set_trap(folder: Path) -> Path:
    """A Ghostscript that leaves a file whatever it is asked; the file's path."""
    made = folder / "made"
    program = folder / "gs"
    program.write_text(f"#!/bin/sh\n: >'{made}'\n")
    program.chmod(0o755)
    return made


def _read_all(paths: list[Path], trap: Path) -> list[tuple[str, int]]:
    """What came of each, and the bytes that it took at the most."""
    spawn = multiprocessing.get_context("spawn")
    answers: list[tuple[str, int]] = []
    while len(answers) < len(paths):
        ours, theirs = spawn.Pipe()
        reader = spawn.Process(target=_reader, args=(theirs, str(trap)), daemon=True)
        reader.start()
        theirs.close()
        try:
            ours.recv()  # it is ready: only now does the time of a picture begin
            while len(answers) < len(paths):
                ours.send((str(paths[len(answers)]), len(answers)))
                if not ours.poll(SECONDS):
                    answers.append((f"hung for {SECONDS} s", 0))
                    break
                answers.append(ours.recv())
        except (EOFError, OSError):
            answers.append(("crashed", 0))
        finally:
            reader.kill()
            reader.join()
            ours.close()
    return answers


def _reader(pipe: Connection, trap: str) -> None:
    """The other process: answers for each path that it is sent."""
    os.environ["PATH"] = trap + os.pathsep + os.environ.get("PATH", "")
    os.chdir(trap)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libtiff tells of every tag
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    Image.init()
    pipe.send("ready")
    while True:
        path, i = pipe.recv()
        resident = _reset_peak()
        answer = _answer(path, _SIZES[i % len(_SIZES)], i)
        pipe.send((answer, max(0, process_memory("VmHWM") - resident)))


def _reset_peak() -> int:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux: no memory is told
        return 0
    return process_memory("VmRSS")


def _answer(path: str, size: int, i: int) -> str:
    fit = (None, *FITS)[i % 4]
    try:
        photo = read_photo(path, size, fit, MAX_PIXELS)
    except ValueError as error:
        text = str(error)
        is_told = text.startswith(f"photo {path} cannot be read: ") and "\n" not in text
        return "refused" if is_told else f"ValueError: {text[:100]!r}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:100]!r}"
    pixels = photo.pixels
    if pixels.shape != (3, size, size) or pixels.dtype != torch.float32:
        return f"{pixels.dtype} of shape {tuple(pixels.shape)}"
    low, high = pixels.aminmax()
    return "loaded" if 0 <= low <= high <= 1 else f"values from {low} to {high}"
