"""Exact values of features from the scores of all their coalitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.errors import ReliabilityWarning, warn
from fwdgrad.estimate.moments import Result
from fwdgrad.plan import Plan, sum_dtype
from fwdgrad.powers import exponent_of, times_power

_ALIKE = 0.01  # of the scores' range, by which one input's may differ: of roundings


def values_of(scores: Any, value: str) -> tuple[Any, Any]:
    """Each feature's Banzhaf or Shapley value.

    It is a mean over coalitions of the others: of all of them, or of those of each size first and
    then over sizes. Where a score is missing the rest of the coalitions count for it, which leaves
    an error: that of a mean of some out of so many.

    Args:
        scores: float64 (2^K,), an array: of the coalition of the features whose bits its place has;
            NaN where one is missing.
        value: "banzhaf" or "shapley".

    Returns:
        Values and standard errors, arrays (K,); an error is NaN where it cannot be told.

    Example:
        >>> values_of(np.array([0.0, 1.0, 2.0, 9.0]), "banzhaf")[0].tolist()  # 1, 2, and 6 together
        [4.0, 5.0]
    """
    features = len(scores).bit_length() - 1
    numbers = np.arange(len(scores))
    sizes = np.zeros(len(scores), dtype=np.int64)
    if value == "shapley":
        sizes = np.asarray(sum(numbers >> j & 1 for j in range(features)))
    found = []
    for j in range(features):
        pairs = scores.reshape(-1, 2, 1 << j)  # without feature j, and with it
        gains = (pairs[:, 1] - pairs[:, 0]).ravel()
        others = sizes.reshape(pairs.shape)[:, 0].ravel()
        means = [_mean(gains[others == size]) for size in range(int(others.max()) + 1)]
        there = [one for one in means if not math.isnan(one[0])]
        error = math.sqrt(sum(one[1] for one in there)) if len(there) == len(means) else math.nan
        count = len(there) or math.nan
        found.append((sum(one[0] for one in there) / count, error / count))
    values, errors = np.array(found).T
    return values, errors


def _mean(gains: Any) -> tuple[float, float]:
    """The mean of those that are there, and its variance, of a draw without putting back."""
    there = gains[~np.isnan(gains)]
    if len(there) == len(gains):
        # By NumPy, whose sums do not depend on the number of threads.
        return float(there.mean()), 0.0
    if len(there) < 2:
        return float(there.mean()) if len(there) else math.nan, math.nan
    return float(there.mean()), float(there.var(ddof=1)) * (1 / len(there) - 1 / len(gains))


def of_coalitions(plan: Plan, scores: Tensor, clean: list[float]) -> list[Result]:
    """The map of each target, as ``fwdgrad.estimate.scores.attributions`` gives it."""
    assert plan.labels is not None
    value = getattr(plan.method, "value", "banzhaf")
    _warn_of_chance(scores[:, 0], clean)
    results = []
    for own in scores[:, 0].unbind(1):
        unit = exponent_of(own.nan_to_num())  # so that differences are in range
        values, errors = values_of(times_power(own, -unit).numpy(), value)
        agreement = 1.0
        if errors.any():  # as NaN is
            spread = float(values.var())
            share = 1 - float(np.square(errors).mean()) / spread if spread else math.nan
            agreement = 0.0 if share < 0 else share
        maps = []
        for each in (values, errors):
            wide = times_power(torch.from_numpy(each), unit)
            maps.append(wide.to(plan.x.device, sum_dtype(plan.x))[plan.labels])
        results.append((maps[0], maps[1], agreement))
    return results


def _warn_of_chance(scores: Tensor, clean: list[float]) -> None:
    """Warns where the coalition of all features, which is the input, has another score than it.

    Args:
        scores: float64 (2^K, targets).
        clean: of the input, for each target.
    """
    for own, at_x in zip(scores.unbind(1), clean, strict=True):
        there, again = own[~own.isnan()], float(own[-1])
        spread = float(there.max() - there.min()) if len(there) else 0.0
        if abs(again - at_x) > _ALIKE * spread:
            warn(
                f"the model scores the same input {at_x:.4g} and then {again:.4g}: that noise is "
                "in the map, and no error tells it; Regions, in place of all coalitions, tells it, "
                "and more samples of Regions lessen it",
                ReliabilityWarning,
            )
            return
