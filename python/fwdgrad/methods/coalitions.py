"""Coalitions: the exact value of each of a few features, from all that can be in or out."""

from __future__ import annotations

import torch
from torch import Tensor

from fwdgrad.checks import check_choice, check_integer
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.methods.base import Method, Request, method
from fwdgrad.methods.baseline import baseline_on, checked_baseline
from fwdgrad.methods.blur import light_blur
from fwdgrad.methods.noise import labels_of, on_device
from fwdgrad.plan import Plan

VALUES = ("banzhaf", "shapley")
MOST = 16  # features: 65,536 samples


@method
class Coalitions(Method):
    """The exact Banzhaf or Shapley value of each of at most 16 features.

    A coalition is which features are the input's; the others are the baseline's. With K features
    there are 2^K, and the model is called on each: sample ``i`` has feature ``j`` in where bit
    ``j`` of ``i`` is set. Nothing is drawn, so the standard error is 0.

    Args:
        value: what is made of a feature's contributions, by how much each coalition of the others
            gains as it joins: "banzhaf", their mean, as ``Regions`` estimates it, or "shapley",
            their mean over all orders of joining, which sum to the score at the input less that at
            the baseline.
        baseline: what is where a feature is out: a number, a tensor, "grey", "black", "white", or
            "blur" of pictures and volumes.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch[:, 0] * batch[:, 1] + batch[:, 2]
        >>> x = torch.tensor([2.0, 3.0, 1.0])
        >>> fwdgrad.explain(model, x, method=Coalitions()).attribution
        tensor([3., 3., 1.])

    Source: Banzhaf, *Weighted voting doesn't work*, 1965; Shapley, *A value for n-person games*,
    1953.
    """

    name = "coalitions"
    line = "the exact Banzhaf or Shapley values of a few features"
    source = "Banzhaf 1965; Shapley 1953"
    grows = True

    value: str = "banzhaf"
    baseline: str | float | Tensor = 0.0

    def __post_init__(self) -> None:
        """Checks each option."""
        check_choice("value", self.value, VALUES)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples, all coalitions in the order of their numbers."""
        features = on_device(request.features, x.device)
        shape = tuple(x.shape)
        features.view(shape)  # checks that they fit
        labels = labels_of(features, shape, x.device)
        if labels is None:
            raise ArgumentError(
                "features",
                "must be in or out as a whole with Coalitions, got cells with smooth or moving "
                f"borders, {features!r}; give Grid(cell, 'nearest')",
            )
        count = labels.count
        if count > MOST:
            raise ArgumentError(
                "features",
                f"must be at most {MOST} with Coalitions, which calls the model 2^K times, got "
                f"{count}; group them by a mask, or give ",
                Option("method", "regions"),
            )
        samples = 1 << count
        n = request.n_samples
        if n is not None and check_integer("n_samples", n, 1) != samples:
            raise ArgumentError(
                "n_samples",
                f"must be None or {samples}, of all coalitions of {count} features, got {n}; or "
                "give ",
                Option("method", "regions"),
            )
        if isinstance(self.baseline, str) and self.baseline == "blur" and x.dim() not in (3, 4):
            raise ArgumentError(
                "baseline", f"must be a number or a tensor for x of shape {shape}, got 'blur'"
            )
        baseline = baseline_on(x, self.baseline, light_blur)
        if isinstance(baseline, Tensor) and baseline.shape != x.shape:
            raise ArgumentError(
                "baseline", f"must have x's shape {shape}, got {tuple(baseline.shape)}"
            )
        if bool(torch.eq(x, torch.as_tensor(baseline, dtype=x.dtype, device=x.device)).all()):
            raise ArgumentError(
                "baseline",
                "must differ from x somewhere: all coalitions would be alike; give another, such "
                "as 0.5",
            )
        return Plan(
            method=self,
            x=x,
            gradient="forward",
            samples=samples,
            seed=request.seed,
            features=request.features,
            baseline=baseline,
            position=0.5,
            control_variate="mean",
            labels=labels.mask.long().expand(shape),
        )
