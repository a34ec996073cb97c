"""VarGrad: the variance of gradients."""

from __future__ import annotations

from torch import Tensor

from fwdgrad.errors import ArgumentError
from fwdgrad.methods.base import Request, method
from fwdgrad.methods.smoothgrad import Smoothed
from fwdgrad.plan import Plan


@method
class VarGrad(Smoothed):
    """The variance of the model's gradients at noisy inputs.

    Args:
        scale, distribution, antithetic, clip: see ``SmoothGrad``.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> square = lambda batch: (batch**2).sum(1)  # the gradient 2 x varies by 4 scale^2
        >>> run = {"method": VarGrad(0.5), "n_samples": 10_000}
        >>> fwdgrad.explain(square, torch.ones(2), **run).attribution.round()
        tensor([1., 1.])

    Source: *Noise-adding methods of saliency map as series of higher order partial derivative*,
    equation 8.
    """

    name = "vargrad"
    line = "the variance of the gradients of noisy inputs"
    source = "NA equation 8"
    statistic = "variance"

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples, whose gradients' variance is taken."""
        if request.n_samples == 1:
            raise ArgumentError("n_samples", "must be at least 2 for VarGrad, a variance, got 1")
        return super().plan(x, request)
