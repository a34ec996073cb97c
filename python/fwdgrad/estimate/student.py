"""Student's t: how often chance alone leaves a value so many standard errors from zero."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NORMAL = 1e5  # degrees of freedom from which on it is the normal distribution


def two_sided(ratios: Tensor, degrees: float) -> Tensor:
    """P(|T| > ratio) of Student's t: by the incomplete beta function's continued fraction.

    Args:
        ratios: values over their standard errors; infinite ones may be among them.
        degrees: of freedom, above 0; infinite: of the normal distribution.

    Returns:
        float64, of the ratios' shape.

    Example:
        >>> two_sided(torch.tensor([0.0, 1.0, 12.706]), 1.0).round(decimals=4)
        tensor([1.0000, 0.5000, 0.0500], dtype=torch.float64)

    Source: Press et al., *Numerical recipes*, section 6.4, in Lentz's form.
    """
    t = ratios.double().abs()
    if degrees > _NORMAL:
        return torch.erfc(t / math.sqrt(2))
    a, b = degrees / 2, 0.5
    x = degrees / (degrees + t.square())
    turned = x > (a + 1) / (a + b + 2)  # there the fraction of the other tail converges faster
    one = _beta(torch.where(turned, 0.0, x), a, b)
    other = 1 - _beta(torch.where(turned, t.square() / (degrees + t.square()), 0.0), b, a)
    return torch.where(turned, other, one)


def _beta(x: Tensor, a: float, b: float) -> Tensor:
    """The regularized incomplete beta function I_x(a, b)."""
    tiny = 1e-300
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - math.log(a)
    front = torch.exp(log_front + a * torch.log(x) + b * torch.log1p(-x))
    d = 1 / (1 - (a + b) * x / (a + 1)).clamp(min=tiny)
    c, value = torch.ones_like(x), d
    for m in range(1, 400):
        for term in (
            m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m)) * x,
            -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1)) * x,
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            step = c * d
            value = value * step
        if bool((step - 1).abs().max() < 1e-14):
            break
    return front * value
