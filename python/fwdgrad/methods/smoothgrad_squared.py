"""SmoothGrad squared: the mean of squared gradients."""

from __future__ import annotations

from fwdgrad.importance import Sampling
from fwdgrad.methods.base import method
from fwdgrad.methods.smoothgrad import Smoothed


@method
class SmoothGradSquared(Smoothed):
    """The mean of the squares of the model's gradients at noisy inputs.

    Args:
        scale, distribution, antithetic, clip, sampling: see ``SmoothGrad``.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        >>> import torch, fwdgrad
        >>> model = lambda batch: batch @ torch.tensor([1.0, -2.0])
        >>> fwdgrad.explain(model, torch.zeros(2), method=SmoothGradSquared(0.1)).attribution
        tensor([1., 4.])

    Source: Hooker et al., *A benchmark for interpretability methods in deep neural networks*,
    NeurIPS 2019.
    """

    name = "smoothgrad-squared"
    line = "the mean squared gradient of noisy inputs"
    source = "Hooker et al. 2019"
    statistic = "square"

    sampling: Sampling | None = None
