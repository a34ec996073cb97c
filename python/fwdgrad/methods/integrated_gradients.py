"""Integrated gradients: the mean gradient on a path from a baseline to the input."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, Option
from fwdgrad.methods.base import Method, Request, check_gradient, method
from fwdgrad.methods.baseline import baseline_on, checked_baseline
from fwdgrad.methods.blur import blurred
from fwdgrad.methods.gradient import Gradient
from fwdgrad.methods.gradient_x_input import (
    GRADIENTS,
    check_no_baseline,
    check_own_elements,
)
from fwdgrad.plan import Path, Plan
from fwdgrad_kernels import AdaptiveScale, path_positions


@method
class IntegratedGradients(Method):
    """The mean gradient on the straight path from a baseline to the input, times their difference.

    The map's sum is the score at the input less that at the baseline (completeness); an
    explanation's ``convergence_delta`` is by how much the sum that was found exceeds it.

    Args:
        baseline: where the path starts: "black" (0), "grey" (0.5), "white" (1), "blur" (the input
            under a Gaussian a tenth as wide as its shorter side; images alone), a number, or a
            tensor of the input's shape.
        steps: points of Gauss-Legendre quadrature, which samples take in turn. None draws each
            sample's place at random, so that any number of samples integrates without bias.
        gradient: how each gradient is taken, see ``GradientXInput``; ``ForwardGradient()`` needs
            forward calls alone.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> square = lambda batch: (batch**2).sum(1)
        >>> e = fwdgrad.explain(square, torch.tensor([1.0, -2.0]), method=IntegratedGradients(0.0))
        >>> e.attribution.round(decimals=4), round(e.convergence_delta, 4) + 0.0
        (tensor([1., 4.]), 0.0)

    Source: Sundararajan et al., *Axiomatic attribution for deep networks*, ICML 2017, equation 1.
    """

    name = "integrated-gradients"
    line = "the mean gradient on the path from a baseline, times the path"
    source = "Sundararajan et al. 2017, equation 1"

    baseline: str | float | Tensor = "black"
    steps: int | None = 50
    gradient: Method = Gradient()

    def __post_init__(self) -> None:
        """Checks each option."""
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))
        if self.steps is not None:
            object.__setattr__(self, "steps", check_integer("steps", self.steps, 1, 10_000))
        check_gradient(self.gradient, *GRADIENTS)
        check_no_baseline(self.gradient)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples of the gradient, each at its place on the path."""
        check_own_elements(self, request)
        steps = self.steps or 1
        multiple = steps * request.multiple
        wanted = dataclasses.replace(
            request, multiple=multiple, is_random=request.is_random or self.steps is None
        )
        plan = self.gradient.plan(x, wanted)
        if plan.gradient == "forward" and isinstance(self.noise_scale, AdaptiveScale):
            raise ArgumentError(
                "scale",
                "must be a number or a tensor on a path with ForwardGradient, which divides "
                "by one scale for all samples, got an AdaptiveScale",
            )
        own = dataclasses.replace(self, gradient=plan.method)
        path = self._path(x, plan.samples, plan.signs, request.seed)
        return dataclasses.replace(plan, method=own, path=path)

    def _path(self, x: Tensor, samples: int, signs: int, seed: int) -> Path:
        """Where on the path each sample lies, and its weight in the mean."""
        found = baseline_on(x, self.baseline, _heavy_blur)
        start = found if isinstance(found, Tensor) else torch.full_like(x, found)
        if start.shape != x.shape:
            raise ArgumentError(
                "baseline",
                f"must be a number or have x's shape {tuple(x.shape)}, got {tuple(start.shape)}",
            )
        start = start.contiguous()
        if torch.equal(start, x):
            raise ArgumentError(
                "baseline", "must differ from x somewhere: the path to it has no length"
            )
        if self.steps is None:
            positions = path_positions(seed, 0, samples)
            return Path(start, positions, torch.ones_like(positions), 1, True)
        if samples % self.steps:
            many = self.steps * signs
            raise ArgumentError(
                "n_samples",
                f"must give each of the {self.steps} steps as many samples"
                f"{', with both signs of the noise' if signs > 1 else ''}, got "
                f"{samples * signs}; ask for a multiple of {many}, or ",
                Option("steps", None),
            )
        nodes, weights = np.polynomial.legendre.leggauss(self.steps)
        at = torch.arange(samples) % self.steps
        positions = torch.from_numpy((nodes + 1) / 2)[at]
        of_each = torch.from_numpy(weights / 2)[at] * self.steps
        return Path(start, positions, of_each, self.steps, False)


def _heavy_blur(x: Tensor) -> Tensor:
    return blurred(x, min(x.shape[-2:]) / 10 if x.dim() > 1 else 0.0)
