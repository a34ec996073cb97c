"""A model in one safetensors file: its weights, and the arguments that make it again."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

from fwdgrad.files import read_tensors, write_tensors

Model = TypeVar("Model")

_FORMAT = 2


def save_model(
    path: str | os.PathLike[str], kind: str, weights: nn.Module, about: dict[str, Any]
) -> None:
    """Writes a model whole or not at all; ``about`` goes to ``make`` of ``load_model``."""
    write_tensors(path, kind, {**about, "format": _FORMAT}, weights.state_dict())


def load_model(
    path: str | os.PathLike[str],
    kind: str,
    name: str,
    make: Callable[[dict[str, Any], dict[str, Tensor]], Model],
) -> Model:
    """Reads what ``save_model`` wrote: ``make`` gets ``about`` and the weights.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is damaged, or no file of a ``name``.
    """
    try:
        about, tensors = read_tensors(path, kind)
        if about.pop("format", None) != _FORMAT:
            raise ValueError("it has another version's format")
        return make(about, tensors)
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:  # damaged files raise errors of any kind
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no {name}, or damaged: {reason}") from None
