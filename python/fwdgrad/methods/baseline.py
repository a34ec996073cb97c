"""Baselines: what an input is compared with, by name, number or tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_choice, first_outside
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.inputs import numbers_of
from fwdgrad.outputs import told

LEVELS = {"black": 0.0, "grey": 0.5, "white": 1.0}
BASELINES = (*LEVELS, "blur")


def checked_baseline(baseline: Any) -> Any:
    """A baseline as a name, a float or a tensor of finite numbers.

    Raises:
        TypeError, ValueError: it is none of these.

    Example:
        >>> checked_baseline("grey"), checked_baseline(np.zeros(1)).tolist()
        ('grey', [0.0])
    """
    value = numbers_of(baseline)
    known = f"one of {', '.join(BASELINES)}, a number or a tensor"
    if isinstance(value, str):
        check_choice("baseline", value, BASELINES)
        return value
    if not isinstance(value, Tensor):
        if not isinstance(value, (int, float, np.number)) or isinstance(value, bool):
            raise ArgumentTypeError(
                "baseline", f"must be {known}, got {type(value).__name__} {told(repr(value), 60)}"
            )
        value = float(value)
    values = torch.as_tensor(value)
    bad = first_outside(values, torch.isfinite(values))
    if bad is not None:
        raise ArgumentError("baseline", f"must be finite, got {bad[1]}")
    return value


def baseline_on(x: Tensor, baseline: Any, blur: Callable[[Tensor], Tensor]) -> float | Tensor:
    """A baseline for an input: a number, or a tensor of its type and device.

    Args:
        x: the input.
        baseline: as ``checked_baseline`` returns it.
        blur: what "blur" makes of the input.

    Raises:
        ValueError: it does not fit the input.

    Example:
        >>> baseline_on(torch.ones(2), "white", torch.clone)
        1.0
    """
    if isinstance(baseline, Tensor):
        return baseline.to(x) if baseline.dim() else float(baseline)
    if baseline == "blur":
        return blur(x)
    if isinstance(baseline, str):
        bad = first_outside(x, (x >= -1e-3) & (x <= 1 + 1e-3))
        if bad is not None:
            raise ValueError(
                f"baseline {baseline!r} is for values in [0, 1], got x = {bad[1]} at element "
                f"{bad[0]}; give a number or a tensor"
            )
        return LEVELS[baseline]
    return float(baseline)
