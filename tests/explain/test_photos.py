"""Photos of every kind come out in the colours that a person sees, or are refused by name."""

import re
import struct

import numpy as np
import pytest
import torch

from fwdgrad.boxes.images import ImageClassifier, imagenet_labels, load_photo

from . import worker

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


def test_a_strip_takes_no_more_memory_than_it_has_to(tmp_path):
    # To scale the whole strip before cutting it would take the most of a gigabyte.
    path = tmp_path / "strip.png"
    picture(np.zeros((4, 10_000, 3), np.uint8)).save(path)
    assert worker.result_of("photo", path, 224) < 200 * 2**20


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
