"""A model in one safetensors file: its weights, and what it takes to make it again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from fwdgrad.stream import read_header, write_atomically

Model = TypeVar("Model")


def save_model(
    path: str | os.PathLike[str], kind: str, weights: nn.Module, about: dict[str, Any]
) -> None:
    """Writes a file whole or not at all; ``about`` goes to ``load_model``'s ``make``."""
    tensors = {name: value.cpu().contiguous() for name, value in weights.state_dict().items()}
    metadata = {f"fwdgrad.{kind}": json.dumps({**about, "format": 1})}
    write_atomically(Path(path), save_safetensors(tensors, metadata))


def kind_of(path: str | os.PathLike[str]) -> str | None:
    """What ``save_model`` was given as the kind of a file; None where it is none of its."""
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.metadata() or {})
    except (SafetensorError, OSError):
        return None
    names = [key.removeprefix("fwdgrad.") for key in keys if key.startswith("fwdgrad.")]
    return names[0] if names else None


def load_model(
    path: str | os.PathLike[str],
    kind: str,
    name: str,
    make: Callable[[dict[str, Any], dict[str, Tensor]], Model],
) -> Model:
    """What ``make`` makes of what ``save_model`` was given, and of the weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or something else than a ``name``.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = read_header(file, kind)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if about.pop("format") != 1:
            raise ValueError("it has a later format")
        return make(about, tensors)
    except (FileNotFoundError, PermissionError):
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no {name}, or damaged: {reason}") from None
