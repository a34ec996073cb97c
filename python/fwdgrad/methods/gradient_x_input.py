"""Gradient x input."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from fwdgrad.errors import ArgumentError
from fwdgrad.methods.adaptgrad import AdaptGrad
from fwdgrad.methods.base import Method, Request, check_gradient, method
from fwdgrad.methods.forward_gradient import ForwardGradient
from fwdgrad.methods.fusiongrad import FusionGrad
from fwdgrad.methods.gradient import Gradient
from fwdgrad.methods.noisegrad import NoiseGrad
from fwdgrad.methods.smoothgrad import SmoothGrad
from fwdgrad.plan import Plan
from fwdgrad_kernels import Elements

GRADIENTS = (Gradient, SmoothGrad, AdaptGrad, NoiseGrad, FusionGrad, ForwardGradient)


@method
class GradientXInput(Method):
    """The gradient times the input: how the score changes as an element grows in proportion.

    Args:
        gradient: how the gradient is taken: ``Gradient()``, ``SmoothGrad(...)``,
            ``AdaptGrad(...)``, ``NoiseGrad(...)``, ``FusionGrad(...)`` or, from forward calls
            alone, ``ForwardGradient(...)``.

    Raises:
        TypeError, ValueError: naming the option.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0])
        >>> x = torch.tensor([3.0, 0.5])
        >>> fwdgrad.explain(model, x, method=GradientXInput()).attribution
        tensor([ 3., -1.])

    Source: Shrikumar et al., *Not just a black box*, 2016 (arXiv 1605.01713).
    """

    name = "gradient-x-input"
    line = "the gradient times the input"
    source = "Shrikumar et al. 2016"

    gradient: Method = Gradient()

    def __post_init__(self) -> None:
        """Checks each option."""
        check_gradient(self.gradient, *GRADIENTS)
        check_no_baseline(self.gradient)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples of the gradient."""
        check_own_elements(self, request)
        plan = self.gradient.plan(x, request)
        own = dataclasses.replace(self, gradient=plan.method)
        return dataclasses.replace(plan, method=own, times_input=True)


def check_no_baseline(gradient: Method) -> None:
    """Raises where a gradient is the derivative along a direction already."""
    inner = gradient.gradient if isinstance(gradient, NoiseGrad) else gradient
    if isinstance(inner, ForwardGradient) and inner.baseline is not None:
        raise ArgumentError(
            "gradient",
            "must have no baseline here: along input - baseline the attribution is the "
            f"derivative already, got {gradient!r}",
        )


def check_own_elements(method: Method, request: Request) -> None:
    """Raises where features share a draw, whose elements' gradients come as their sum."""
    if request.features is not None and not isinstance(request.features, Elements):
        raise ArgumentError(
            "features",
            f"must be None with {type(method).__name__}: of elements that share their noise the "
            "sum of the gradients is estimated, which is not theirs to multiply; "
            "ForwardGradient(baseline=0.0) moves each feature along the input",
        )
