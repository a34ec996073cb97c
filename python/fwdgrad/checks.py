"""Checks of Python arguments: each raises a one-line error that names the argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError, did_you_mean
from fwdgrad.outputs import told


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number of Python's or NumPy's kinds as an int.

    Args:
        name: the argument's.
        value: what was given.
        low: the least that it may be.
        high: the most that it may be; None: there is no limit.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> check_integer("seed", np.int64(3), 0)
        3
        >>> check_integer("steps", 0, 1)
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: steps must be at least 1, got 0
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ArgumentTypeError(name, f"must be an integer, got {told(repr(value), 80)}")
    number = int(value)
    if high is None and number < low:
        raise ArgumentError(name, f"must be at least {low}, got {number}")
    if high is not None and not low <= number <= high:
        raise ArgumentError(name, f"must lie in {low} .. {high}, got {number}")
    return number


def check_number(name: str, value: Any) -> float:
    """A number of Python's or NumPy's kinds as a float; it may be infinite or NaN.

    Args:
        name: the argument's.
        value: what was given.

    Raises:
        TypeError: naming the argument.

    Example:
        >>> check_number("scale", np.float32(0.5))
        0.5
        >>> check_number("scale", "large")
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentTypeError: scale must be a number, got str 'large'
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.number)):
        raise ArgumentTypeError(
            name, f"must be a number, got {type(value).__name__} {told(repr(value), 60)}"
        )
    return float(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises where a value is none of some names; says which one is near.

    >>> check_choice("baseline", "gray", ("black", "grey", "white"))
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentError: baseline must be one of black, grey, white, got 'gray'; did you \
mean 'grey'?
    """
    if isinstance(value, str) and value in choices:
        return
    hint = did_you_mean(_KNOWN_AS.get(str(value), str(value)), choices)
    raise ArgumentError(
        name, f"must be one of {', '.join(choices)}, got {told(repr(value), 80)}{hint}"
    )


_KNOWN_AS = {"gaussian": "normal", "softmax": "probability", "ig": "integrated-gradients"}


def check_no_array(name: str, value: Any) -> None:
    """Raises TypeError for a tensor or an array where an option has a single value.

    >>> import torch
    >>> check_no_array("seed", torch.zeros(2))
    Traceback (most recent call last):
    fwdgrad.errors.ArgumentTypeError: seed must not be an array, got a Tensor of shape (2,)
    """
    if isinstance(value, (Tensor, np.ndarray)):
        raise ArgumentTypeError(
            name,
            f"must not be an array, got a {type(value).__name__} of shape {tuple(value.shape)}",
        )


def check_clip(clip: Any) -> tuple[float, float]:
    """The bounds that samples are cut off at, as floats.

    Args:
        clip: (low, high); either may be infinite.

    Raises:
        TypeError, ValueError: it is no pair of numbers, or low is above high.

    Example:
        >>> check_clip([0, 1])
        (0.0, 1.0)
        >>> check_clip((1, 0))
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: clip must be (low, high) with low <= high, got (1, 0)
    """
    try:
        low, high = (float(bound) for bound in clip)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(
            "clip", f"must be (low, high), got {told(repr(clip), 80)}"
        ) from None
    if not low <= high:
        raise ArgumentError(
            "clip", f"must be (low, high) with low <= high, got {told(repr(clip), 80)}"
        )
    return low, high


def first_outside(values: Tensor, good: Tensor) -> tuple[int, float] | None:
    """The number and the value of the first element that is not good; None where all are.

    Args:
        values: of any shape.
        good: bool, of the same shape.

    Example:
        >>> import torch
        >>> values = torch.tensor([[0.5, 2.0], [3.0, 0.0]])
        >>> first_outside(values, values < 1)
        (1, 2.0)
    """
    if bool(good.all()):
        return None
    index = int((~good).flatten().nonzero()[0])
    return index, values.flatten()[index].item()
