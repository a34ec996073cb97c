"""Moving a model and its input to a device that is given by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.outputs import cause, told
from fwdgrad.scorer import module_of


def device_of(device: Any) -> torch.device:
    """A device by its name; an error where it is not there.

    Args:
        device: "cpu", "cuda", "cuda:1", ..., or a ``torch.device``.

    Raises:
        TypeError, ValueError: it is no device, or cannot be used here; what would do.

    Example:
        >>> device_of("cpu")
        device(type='cpu')
        >>> device_of("gpu")
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: device must be 'cpu', 'cuda', 'cuda:1' or another that torch \
knows, got 'gpu'
    """
    if not isinstance(device, (str, torch.device)):
        raise ArgumentTypeError(
            "device",
            f"must be a name such as 'cuda' or a torch.device, got {told(repr(device), 80)}",
        )
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ArgumentError(
            "device", f"must be 'cpu', 'cuda', 'cuda:1' or another that torch knows, got {device!r}"
        ) from None
    there = torch.cuda.device_count()
    if found.type == "meta":
        raise ArgumentError("device", "must have values, got 'meta'; give 'cpu' or 'cuda'")
    if found.type == "cuda" and not there:
        why = "finds no GPU" if torch.version.cuda or torch.version.hip else "is built without CUDA"
        raise ArgumentError(
            "device",
            f"{str(found)!r} is not available: this torch {why}; give ",
            Option("device", "cpu"),
        )
    if found.type == "cuda" and (found.index or 0) >= there:
        raise ArgumentError("device", f"must be cuda:0 .. cuda:{there - 1}, got {str(found)!r}")
    try:
        return torch.empty(0, device=found).device  # with its number
    except Exception as error:
        raise ArgumentError(
            "device",
            f"{str(found)!r} is not available: {cause(error)}; give ",
            Option("device", "cpu"),
        ) from None


def move_model(model: Any, device: torch.device) -> None:
    """Moves the module that a model is, as its ``to(device)`` does: it stays there.

    Args:
        model: a module, a method of one, or an ``ImageClassifier`` of one; of anything else nothing
            is moved.
        device: where to.

    Raises:
        ValueError: its parts are on several devices, or it cannot be moved.

    Example:
        >>> move_model(torch.nn.Linear(2, 2), torch.device("cpu"))
    """
    module = module_of(model)
    if module is None:
        return
    places = {part.device for part in (*module.parameters(), *module.buffers())}
    if places <= {device}:
        return
    if len(places) > 1:
        names = ", ".join(sorted(map(str, places)))
        raise ArgumentError(
            "device",
            f"must be left out where the model is on several, got {str(device)!r} for one on "
            f"{names}; or move it first: model.to({str(device)!r})",
        )
    try:
        module.to(device)
    except Exception as error:
        raise ArgumentError(
            "device", f"{str(device)!r} is not where the model can be moved: {cause(error)}"
        ) from error


def placed(model: Any, x: Tensor, device: Any) -> Tensor:
    """The input on a device, with the model moved there; where it is None, the input as it is.

    >>> placed(torch.sin, torch.ones(2), "cpu")
    tensor([1., 1.])
    """
    if device is None:
        return x
    where = device_of(device)
    move_model(model, where)
    return x.to(where)
