"""Photos of every kind come out in the colours that a person sees, or are refused by name."""

import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch

from fwdgrad.adapters import cropping, photos
from fwdgrad.adapters.images import ImageClassifier, _OfPixels, imagenet_labels
from fwdgrad.adapters.photos import FITS, load_mask, load_photo, read_photo

from . import worker
from .models import mostly_slow

Image = pytest.importorskip("PIL.Image")

SIZE = 28  # 32 pixels before the crop
ROWS, COLUMNS = np.mgrid[0:48, 0:64]

# Smooth, so that lossy formats keep it, and different in each quarter, so that turns show.
RGB = np.stack([4 * COLUMNS, 5 * ROWS, 255 - 2 * COLUMNS - 2 * ROWS], 2).astype(np.uint8)
GREY = (3 * COLUMNS + ROWS).astype(np.uint8)
ALPHA = np.where(COLUMNS < 32, 255, 51).astype(np.uint8)  # 1, and a fifth
WHITE = np.full_like(RGB, 255)

EXACT, ROUNDED, LOSSY = 1e-6, 1.01 / 255, 0.05


def picture(values, mode=None):
    result = Image.fromarray(np.ascontiguousarray(values))
    return result.convert(mode) if mode else result


def photo(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return load_photo(path, SIZE)


def seen(folder, rgb):
    """What the same picture gives as plain RGB."""
    return photo(folder, picture(rgb, "RGB"), "plain.png")


def on_white(rgb, alpha):
    share = alpha[..., None] / 255
    return np.round(rgb * share + 255 * (1 - share)).astype(np.uint8)


def grey_as_rgb(values):
    return np.repeat(values[..., None], 3, 2)


# Keeps about the colours of RGB in a table of 256.
PALETTE = picture(RGB).quantize(256, method=Image.Quantize.MEDIANCUT)
WAVES = (127 + 100 * np.sin(COLUMNS / 9)).astype(np.uint8)

# name of the file, picture, what is seen, tolerance, how it is saved
KINDS = {
    "rgb": ("a.png", picture(RGB), RGB, EXACT, {}),
    "rgb jpeg": ("a.jpg", picture(RGB), RGB, LOSSY, {"quality": 95}),
    "progressive jpeg": ("a.jpg", picture(RGB), RGB, LOSSY, {"quality": 95, "progressive": True}),
    "webp": ("a.webp", picture(RGB), RGB, LOSSY, {"quality": 95}),
    "bmp": ("a.bmp", picture(RGB), RGB, EXACT, {}),
    "no suffix": ("a", picture(RGB), RGB, EXACT, {"format": "png"}),
    "wrong suffix": ("a.jpg", picture(RGB), RGB, EXACT, {"format": "png"}),
    "greyscale": ("a.png", picture(GREY), grey_as_rgb(GREY), EXACT, {}),
    "greyscale jpeg": ("a.jpg", picture(GREY), grey_as_rgb(GREY), LOSSY, {"quality": 95}),
    "bilevel": ("a.png", picture(GREY > 99), grey_as_rgb(255 * np.uint8(GREY > 99)), EXACT, {}),
    "palette": ("a.png", PALETTE, np.asarray(PALETTE.convert("RGB")), EXACT, {}),
    "gif": ("a.gif", PALETTE, np.asarray(PALETTE.convert("RGB")), EXACT, {}),
    "rgba": (
        "a.png",
        picture(np.dstack([RGB, ALPHA])),
        on_white(RGB, ALPHA),
        ROUNDED,
        {},
    ),
    "la": (
        "a.png",
        picture(np.dstack([GREY, ALPHA])),
        on_white(grey_as_rgb(GREY), ALPHA),
        ROUNDED,
        {},
    ),
    "rgba tiff": ("a.tiff", picture(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA), ROUNDED, {}),
    "rgba webp": (
        "a.webp",
        picture(np.dstack([RGB, ALPHA])),
        on_white(RGB, ALPHA),
        ROUNDED,
        {"lossless": True, "exact": True},
    ),
    "palette with a transparent colour": (
        "a.png",
        picture(np.uint8(GREY > 99) * 100, "P"),
        np.where(GREY[..., None] > 99, 255, 0).repeat(3, 2).astype(np.uint8),
        EXACT,
        {"transparency": 100},
    ),
    "greyscale with a transparent value": (
        "a.png",
        picture(np.uint8(GREY > 99) * 100),
        np.where(GREY[..., None] > 99, 255, 0).repeat(3, 2).astype(np.uint8),
        EXACT,
        {"transparency": 100},
    ),
    "16-bit png": ("a.png", picture(GREY * np.uint16(257)), grey_as_rgb(GREY), EXACT, {}),
    "16-bit tiff": ("a.tiff", picture(GREY * np.uint16(257)), grey_as_rgb(GREY), EXACT, {}),
    # A dark picture of 16 bits must not be taken for a bright one of 8.
    "dark 16-bit": ("a.tiff", picture(GREY.astype(np.uint16)), grey_as_rgb(GREY * 0), ROUNDED, {}),
    "32-bit of 16 bits": ("a.tiff", picture(GREY * np.int32(257)), grey_as_rgb(GREY), EXACT, {}),
    "32-bit of 8 bits": ("a.tiff", picture(GREY.astype(np.int32)), grey_as_rgb(GREY), EXACT, {}),
    "float in 0 .. 1": ("a.tiff", picture(np.float32(GREY / 255)), grey_as_rgb(GREY), ROUNDED, {}),
    "float in 0 .. 255": ("a.tiff", picture(GREY.astype(np.float32)), grey_as_rgb(GREY), EXACT, {}),
    "cmyk jpeg": ("a.jpg", picture(RGB).convert("CMYK"), RGB, LOSSY, {"quality": 95}),
    "cmyk tiff": ("a.tiff", picture(RGB).convert("CMYK"), RGB, EXACT, {}),
    "ycbcr tiff": ("a.tiff", picture(RGB).convert("YCbCr"), RGB, LOSSY, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_colours(tmp_path, kind):
    name, image, rgb, tolerance, options = KINDS[kind]
    result = photo(tmp_path, image, name, **options)
    assert result.shape == (3, SIZE, SIZE)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert result.min() >= 0
    assert result.max() <= 1
    assert (result - seen(tmp_path, rgb)).abs().max() <= tolerance


@pytest.mark.parametrize("limit", [photos._WHOLE, 1], ids=["as a whole", "part by part"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_all_of_a_photo_is_kept_to_be_shown(tmp_path, monkeypatch, suffix, limit):
    monkeypatch.setattr(photos, "_WHOLE", limit)
    exif = Image.Exif()
    exif[274] = 6
    big = picture(np.rot90(RGB, 1)).resize((480, 640))
    path = tmp_path / f"a.{suffix}"
    big.save(path, exif=exif, **({"quality": 95} if suffix == "jpg" else {}))
    plain = read_photo(path, SIZE)
    found = read_photo(path, SIZE, side=160)
    assert plain.whole is None
    assert torch.equal(found.pixels, plain.pixels)
    assert found.whole.dtype == np.uint8
    if suffix == "png":  # a JPEG is made smaller by its decoder, perhaps more than asked for
        assert found.whole.shape == (120, 160, 3)
    assert max(found.whole.shape) <= 160
    small = np.asarray(picture(RGB).resize(found.whole.shape[1::-1]), int)
    assert np.abs(found.whole - small).mean() < 3
    assert found.cut.box == (110, 30, 530, 450)
    assert read_photo(path, SIZE, side=10**6).whole.shape[1] <= 640


def test_big_endian_16_bit_tiff(tmp_path):
    # Written by hand: Pillow writes the machine's order, cameras and microscopes often the other.
    height, width = GREY.shape
    data = (GREY * np.uint16(257)).astype(">u2").tobytes()
    tags = [(256, width), (257, height), (258, 16), (259, 1), (262, 1), (273, 8), (278, height)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    folder = struct.pack(">H", len(tags)) + entries + struct.pack(">I", 0)
    content = b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + folder
    (tmp_path / "a.tiff").write_bytes(content)
    result = load_photo(tmp_path / "a.tiff", SIZE)
    assert (result - seen(tmp_path, grey_as_rgb(GREY))).abs().max() <= EXACT


# What a camera that was held so stores of a picture that is upright: EXIF 2.3, tag 274.
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
EXIF_KINDS = {
    "jpg": (RGB, "RGB", LOSSY, {"quality": 95}),
    "png": (RGB, "RGB", EXACT, {}),
    "tiff": (RGB, "RGB", EXACT, {}),
    "webp": (RGB, "RGB", EXACT, {"lossless": True}),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("suffix", EXIF_KINDS)
def test_a_cameras_turn_is_obeyed(tmp_path, suffix, turn):
    values, mode, tolerance, options = EXIF_KINDS[suffix]
    exif = Image.Exif()
    exif[274] = turn
    stored = picture(TURNS[turn](values), mode)
    result = photo(tmp_path, stored, f"a.{suffix}", exif=exif, **options)
    assert (result - seen(tmp_path, values)).abs().max() <= tolerance


@pytest.mark.parametrize(
    ("name", "image", "rgb", "tolerance"),
    [
        ("a.png", picture(np.rot90(GREY * np.uint16(257), 1)), grey_as_rgb(GREY), EXACT),
        ("a.tiff", picture(np.rot90(GREY * np.uint16(257), 1)), grey_as_rgb(GREY), EXACT),
        ("a.tiff", picture(np.rot90(GREY, 1)), grey_as_rgb(GREY), EXACT),
        ("a.tiff", picture(np.rot90(RGB, 1)).convert("CMYK"), RGB, EXACT),
        ("a.tiff", picture(np.rot90(np.float32(GREY), 1)), grey_as_rgb(GREY), EXACT),
        ("a.png", picture(np.rot90(np.dstack([RGB, ALPHA]), 1)), on_white(RGB, ALPHA), ROUNDED),
        ("a.jpg", picture(np.rot90(RGB, 1)).convert("CMYK"), RGB, LOSSY),
    ],
    ids=["16-bit png", "16-bit tiff", "grey tiff", "cmyk tiff", "float tiff", "rgba", "cmyk jpeg"],
)
def test_a_turn_survives_the_change_to_rgb(tmp_path, name, image, rgb, tolerance):
    exif = Image.Exif()
    exif[274] = 6
    result = photo(tmp_path, image, name, exif=exif)
    assert (result - seen(tmp_path, rgb)).abs().max() <= tolerance


# ---- size and crop -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 300), (300, 1), (7, 5), (28, 28)])
def test_any_shape_gives_the_square(tmp_path, shape):
    values = np.empty((*shape, 3), np.uint8)
    values[:] = (200, 100, 50)
    result = photo(tmp_path, picture(values), "a.png")
    colour = torch.tensor([200, 100, 50])[:, None, None] / 255
    assert torch.allclose(result, colour.expand(3, SIZE, SIZE))


@pytest.mark.parametrize("wide", [True, False])
def test_the_centre_is_cut_out(tmp_path, wide):
    # A white square in the middle third of a black strip fills the crop.
    values = np.zeros((40, 120, 3), np.uint8)
    values[:, 40:80] = 255
    values = values if wide else values.swapaxes(0, 1)
    result = photo(tmp_path, picture(values), "a.png")
    assert (result[:, 2:-2, 2:-2] == 1).all()
    assert result.mean() > 0.99


def test_the_crop_is_the_usual_share(tmp_path):
    # Of 32 x 32 pixels an eighth less a side is kept: 28 x 28, two at each border left out.
    values = np.zeros((32, 32, 3), np.uint8)
    values[2:-2, 2:-2] = 255
    values[16, 16] = 0
    assert photo(tmp_path, picture(values), "a.png").sum() == 3 * (28 * 28 - 1)


# ---- fit -----------------------------------------------------------------------------------


def test_a_photo_is_padded_with_grey(tmp_path):
    path = tmp_path / "a.png"
    picture(np.full((20, 80, 3), 200, np.uint8)).save(path)
    result = read_photo(path, 40, "pad")
    want = torch.full((3, 40, 40), 127 / 255)
    want[:, 15:25] = 200 / 255  # 10 rows of the 40, in the middle
    assert torch.equal(result.pixels, want)
    assert (result.width, result.height, result.fit, result.share) == (80, 20, "pad", 1)


def test_a_photo_is_stretched(tmp_path):
    # Halves and quarters of it stay halves and quarters.
    values = np.zeros((20, 80, 3), np.uint8)
    values[:10, :, 0] = 255
    values[:, :20, 1] = 255
    path = tmp_path / "a.png"
    picture(values).save(path)
    result = read_photo(path, 40, "stretch")
    red, green, _ = result.pixels > 0.5
    assert red[:20].all() and not red[20:].any()  # noqa: PT018 one fact
    assert green[:, :10].all() and not green[:, 10:].any()  # noqa: PT018
    assert result.share == 1


def test_what_has_the_size_is_taken_as_it_is(tmp_path):
    digit = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8)
    path = tmp_path / "digit.png"
    picture(digit).save(path)
    result = read_photo(path, 28, None)
    assert torch.equal(result.pixels, torch.from_numpy(digit).permute(2, 0, 1) / 255)
    assert (result.fit, result.share) == ("stretch", 1)
    assert read_photo(path, 24, None).fit == "crop"
    assert read_photo(path, 28).fit == "crop"


def test_the_share_that_is_kept(tmp_path):
    path = tmp_path / "a.png"
    picture(RGB).save(path)
    assert read_photo(path, 28).share == 42 * 42 / (64 * 48)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (7, 5)])
@pytest.mark.parametrize("fit", FITS)
def test_any_shape_with_any_fit(tmp_path, fit, shape):
    values = np.full((*shape, 3), 127, np.uint8)
    path = tmp_path / "a.png"
    picture(values).save(path)
    assert torch.equal(load_photo(path, SIZE, fit), torch.full((3, SIZE, SIZE), 127 / 255))


@pytest.mark.parametrize("fit", FITS)
def test_a_mask_is_cut_as_its_photo(tmp_path, fit):
    values = np.zeros((60, 40, 3), np.uint8)
    values[20:50, 6:30] = 255
    for name in ("a.png", "mask.png"):
        picture(values).save(tmp_path / name)
    photo = read_photo(tmp_path / "a.png", 32, fit)
    mask = load_mask(tmp_path / "mask.png", (32, 32), (40, 60), fit)
    inside = {"pad": slice(5, 26)}.get(fit, slice(None))  # beside it the photo is grey
    assert torch.equal(mask[:, inside], photo.pixels[0, :, inside] > 0.5)
    assert mask.sum() == (photo.pixels[0] > 0.5).sum()


def test_a_fit_that_there_is_not(tmp_path):
    with pytest.raises(ValueError, match="fit must be crop, pad, stretch or None, got 'squeeze'"):
        load_photo(tmp_path / "a.png", SIZE, "squeeze")


# ---- large ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    "kind", mostly_slow(["a.jpg", "rgba.png", "a.png", "16.png", "palette.png"], keep=2)
)
def test_a_large_photo_is_reduced_on_its_way(tmp_path, monkeypatch, kind, turn, fit):
    rows, columns = np.mgrid[0:500, 0:713]
    colours = np.stack([columns * 255 / 712, rows * 255 / 499, 127 + 100 * np.sin(columns / 60)], 2)
    values = np.ascontiguousarray(TURNS[turn](colours.astype(np.uint8)))
    stored = {
        "rgba.png": lambda: picture(np.dstack([values, values[..., 0]])),
        "16.png": lambda: picture(values[..., 2] * np.uint16(257)),
        "palette.png": lambda: picture(values // 64 * 64).quantize(256),
    }.get(kind, lambda: picture(values))()
    exif = Image.Exif()
    exif[274] = turn
    path = tmp_path / kind
    stored.save(path, exif=exif, **({"quality": 95} if kind == "a.jpg" else {}))
    whole = read_photo(path, SIZE, fit)
    monkeypatch.setattr(photos, "_WHOLE", 1000)
    monkeypatch.setattr(cropping, "_BLOCK", 64)
    reduced = read_photo(path, SIZE, fit)
    assert (reduced.width, reduced.height) == (whole.width, whole.height) == (713, 500)
    assert (reduced.pixels - whole.pixels).abs().mean() < 0.003
    assert (reduced.pixels - whole.pixels).abs().max() < 0.1  # an edge of the palette's


def png(path, width, height, whole=True, bits=8, colour=2):
    """Black, or its header alone."""
    bytes_a_row = 1 + -(-width * bits * {0: 1, 2: 3, 6: 4}[colour] // 8)

    def chunk(kind, data):
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(bytes_a_row * height)) if whole else b""
    content = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


@pytest.mark.slow
def test_the_memory_that_a_large_photo_takes(tmp_path):
    # What is converted is a part of it at a time: it is never there twice.
    million = 10**6
    for name, shape in {"a.jpg": (5000, 8000, 3), "strip.png": (4, 10_000, 3)}.items():
        picture(np.zeros(shape, np.uint8)).save(tmp_path / name)
    most = {
        tmp_path / "strip.png": 20 * million,  # scaled whole it would be most of a gigabyte
        tmp_path / "a.jpg": 40 * million,  # whole it would be 160
        png(tmp_path / "rgb.png", 6000, 4000): 4 * 24 * million,
        png(tmp_path / "16.png", 6000, 4000, bits=16, colour=0): 2 * 24 * million,
        png(tmp_path / "rgba.png", 6000, 4000, bits=16, colour=6): 4 * 24 * million,
    }
    for path, peak in zip(most, worker.result_of("photos", 224, *most), strict=True):
        assert peak < 1.1 * most[path] + 20 * million, path.name


@pytest.mark.parametrize(
    ("width", "height", "needed"),
    [(18_000, 18_000, 324_000_000), (2, 40_000_000, 5_120_000_000), (2**31 - 1, 2**31 - 1, None)],
)
def test_too_many_pixels_are_refused_by_the_header(tmp_path, width, height, needed):
    path = png(tmp_path / "a.png", width, height, whole=False)
    message = refused(path)
    assert f"{width} x {height} pixels" in message
    assert f"give max_pixels={needed or (2**31 - 1) ** 2}" in message


def test_the_number_that_an_error_names_would_do(tmp_path):
    # A side of more than a 128th counts, and a palette no less than colours.
    path = png(tmp_path / "a.png", 300, 200)
    with pytest.raises(ValueError, match="give max_pixels=60000"):
        load_photo(path, SIZE, max_pixels=59_999)
    assert load_photo(path, SIZE, max_pixels=60_000).sum() == 0
    with pytest.raises(ValueError, match="give max_pixels=38400"):
        load_photo(png(tmp_path / "strip.png", 300, 2), SIZE, max_pixels=38_399)


def test_formats_that_are_held_several_times_over(tmp_path):
    for name, times in {"a.webp": 5, "a.jp2": 8, "a.tiff": 2}.items():
        picture(RGB).save(tmp_path / name)
        with pytest.raises(ValueError, match=f"give max_pixels={max(times * 48, 128) * 64}"):
            load_photo(tmp_path / name, SIZE, max_pixels=1024)
    picture(RGB).resize((640, 480)).save(tmp_path / "a.jpg", progressive=True)
    with pytest.raises(ValueError, match=f"give max_pixels={2 * 640 * 480}"):
        load_photo(tmp_path / "a.jpg", SIZE, max_pixels=640 * 480)


def test_a_tile_that_is_larger_than_its_picture(tmp_path):
    data = zlib.compress(bytes(16))
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 10_000}
    tags |= {324: 8, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    folder = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path = tmp_path / "a.tiff"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + folder)
    assert "give max_pixels=400000512" in refused(path)


def test_a_file_that_is_itself_too_large(tmp_path):
    path = tmp_path / "a.webp"
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8X")
    with path.open("r+b") as file:
        file.truncate(10**10)  # no block of it is on the disk
    assert "its file has more than 8 bytes for each of max_pixels=125000000" in refused(path)


def test_a_jpeg_of_many_scans(tmp_path):
    # The same scan again and again: each takes the time of the whole picture.
    path = tmp_path / "a.jpg"
    picture(RGB).save(path, progressive=True)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 91 + b"\xff\xd9")
    assert load_photo(path, SIZE).shape == (3, SIZE, SIZE)  # ten, and 90 more
    path.write_bytes(content[:last] + content[last:-2] * 92 + b"\xff\xd9")
    assert "it has 101 scans, more than the 100" in refused(path)


def test_pillows_own_limit_is_not_ours(tmp_path, monkeypatch):
    # It is one number for the whole process.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_photo(png(tmp_path / "a.png", 300, 200), SIZE).sum() == 0


# ---- what is no photo ----------------------------------------------------------------------


def refused(path, error=ValueError):
    with pytest.raises(error, match=re.escape(f"photo {path} ")) as caught:
        load_photo(path, SIZE)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_photo_and_a_folder(tmp_path):
    assert "does not exist" in refused(tmp_path / "none.png", FileNotFoundError)
    assert "as a file" in refused(tmp_path, FileNotFoundError)


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"a cat\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0"]
)
def test_what_is_no_picture(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert "cannot be read" in refused(path)


def test_no_program_is_run(tmp_path, monkeypatch):
    # Ghostscript does what an EPS file says; here it leaves a file, whatever it is asked.
    made = tmp_path / "made"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {made}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n")
    assert "it looks like EPS, which is not read; convert it to PNG or JPEG" in refused(path)
    assert not made.exists()


@pytest.mark.parametrize("suffix", ["ico", "icns", "pcx", "sgi", "dds", "eps", "pdf"])
def test_formats_that_are_not_read(tmp_path, suffix):
    path = tmp_path / "a.png"
    picture(RGB).save(path, format=suffix)
    message = refused(path)
    assert f"it looks like {suffix.upper()}, which is not read" in message
    assert "convert it to PNG or JPEG (formats: PNG, JPEG, GIF" in message


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "gif", "bmp", "webp", "16.png", "jp2"])
def test_a_truncated_photo(tmp_path, suffix, share):
    # Noise, since what compresses to almost nothing is whole after almost nothing.
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    image = picture(noise[..., 0] * np.uint16(257)) if suffix == "16.png" else picture(noise)
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot be read" in refused(path)


def test_damaged_bytes_are_refused_or_read(tmp_path):
    # A flipped byte may leave a picture that can be read; nothing but ValueError else.
    random = np.random.default_rng(1)
    refusals = []
    for suffix in ("jpg", "png", "tiff", "gif", "webp"):
        path = tmp_path / f"a.{suffix}"
        picture(RGB).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = content.copy()
            damaged[random.integers(0, len(content), 3)] ^= random.integers(1, 256, 3, np.uint8)
            path.write_bytes(damaged.tobytes())
            try:
                result = load_photo(path, SIZE)
            except ValueError as error:
                refusals.append(str(path) in str(error))
            else:
                assert result.shape == (3, SIZE, SIZE)
    assert all(refusals)
    assert len(refusals) > 30


# ---- names of classes ----------------------------------------------------------------------

BOX = ImageClassifier("a network", lambda batch: batch, 224, imagenet_labels())


def test_imagenet_names():
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert [labels[i].split(",")[0] for i in (0, 282, 999)] == [
        "tench",
        "tiger cat",
        "toilet tissue",
    ]


@pytest.mark.parametrize(
    ("name", "number"),
    [("tiger cat", 282), ("Tinca tinca", 0), (" TENCH ", 0), ("man-eating shark", 2)],
)
def test_a_class_is_found_by_any_of_its_names(name, number):
    assert BOX.find(name) == number


def test_the_bird_and_the_machine():
    with pytest.raises(
        ValueError, match="'crane' is the name of classes 134, 517; give the number"
    ):
        BOX.find("crane")


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(ValueError, match=r"'tiger' is no class|tiger") as caught:
        BOX.find("tiger c")
    assert "perhaps tiger cat (282)" in str(caught.value)
    with pytest.raises(ValueError, match=r"'zzz' is no class of a network$"):
        BOX.find("zzz")


def test_labels():
    assert BOX.label(282) == "tiger cat (class 282)"
    assert BOX.label(None) == "the model's output"
    assert ImageClassifier("own", BOX.forward, 8).label(3) == "class 3"


@pytest.mark.parametrize("graph", [False, True])
def test_the_models_argument_is_left_as_it_is(graph):
    pixels = torch.tensor([0.0, 127 / 255, 1.0]).reshape(1, 3, 1, 1).requires_grad_(graph)
    model = _OfPixels(torch.nn.Flatten())
    first, second = model(pixels), model(pixels)
    assert pixels.flatten().tolist() == pytest.approx([0, 127 / 255, 1])
    assert torch.equal(first, second)
    torch.testing.assert_close(first.detach(), torch.tensor([[-127 / 128, 0.0, 1.0]]))
    if graph:
        first.sum().backward()
        assert pixels.grad.flatten().tolist() == [255 / 128] * 3
