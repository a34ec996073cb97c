"""How much noise to add: the papers' scale rules, their kernels, and what leaves the bounds."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fwdgrad.checks import check_integer, first_outside
from fwdgrad.errors import ArgumentError, Message, Option, warn
from fwdgrad_kernels import AdaptiveScale, NoiseSpec, perturb, probability_within

MOLLIFIERS = {
    "Gaussian": "normal",
    "Poisson": "cauchy",  # the kernel of that name is Cauchy's density
    "Hyperbolic": "hyperbolic",
    "Sigmoid": "logistic",
    "Rect": "uniform",
}
"""The distribution of each kernel in *Axiomatization of gradient smoothing in neural networks*."""


def smoothgrad_scale(low: float, high: float, alpha: float = 0.2) -> float:
    """The scale by SmoothGrad's rule: a share of the range of values.

    Args:
        low: the least value of an input.
        high: the largest.
        alpha: the share.

    Example:
        >>> smoothgrad_scale(-1.0, 1.0)
        0.4

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equation 6.
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    return alpha * (high - low)


def check_bounds(x: Tensor, rule: AdaptiveScale) -> None:
    """Raises where an input leaves the bounds of a rule; an error of a rounding is let pass.

    Example:
        >>> check_bounds(torch.tensor([0.5, 1.5]), AdaptiveScale(0.0, 1.0))
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: scale must have bounds that contain x, got 1.5 at element 1 \
where they are 0.0 and 1.0
    """
    leading = x.numel() // max(1, x.shape[-1] * (x.shape[-2] if x.dim() > 1 else 1))
    rule.check("normal", leading)
    planes = x.reshape(leading, -1)
    for plane, (low, high) in enumerate(zip(*rule.bounds(leading), strict=True)):
        slack = torch.finfo(x.dtype).eps * max(abs(low), abs(high), high - low)
        values = planes[plane]
        bad = first_outside(values, (values >= low - slack) & (values <= high + slack))
        if bad is not None:
            index = plane * planes.shape[1] + bad[0]
            raise ArgumentError(
                "scale",
                f"must have bounds that contain x, got {bad[1]} at element {index} where they are "
                f"{low} and {high}",
            )


_ROW = 128  # numbers at most of what is taken for a row of a table
_SERIES = 16  # channels at most of what is taken for a series (T, C) or (C, T)


def check_alike(x: Tensor, scale: float) -> None:
    """Raises where one scale is meant for elements of unlike scale, such as a table's columns.

    That is where values are beyond 10, so neither standardised nor fractions, and a tenth of the
    elements at least are less than a tenth of the scale and than a fiftieth of the largest: the
    noise takes them far away from what they are. Zeros of a row of up to 128 numbers, of one-hot
    columns say, count as 1; of longer ones they tell nothing. Of a series the channels are
    compared. What is smaller than 10 throughout cannot be told apart.

    Args:
        x: the input; one of more axes than a series has no columns.
        scale: the one that is meant for all of it.

    Example:
        >>> check_alike(torch.randn(20), 0.8)
        >>> check_alike(torch.tensor([40.0, 50_000.0]), 9992.0)
        Traceback (most recent call last):
        fwdgrad.errors.ArgumentError: scale must have a value for each element where they are as \
unlike as these, from 40 to 5e+04 in size, got 9992 for all: give a tensor of their deviations, \
such as 0.2 * X.std(0) of a table X that x is a row of (times it, attributions of columns can be \
compared), or a baseline, such as X.mean(0); torch.full_like(x, 9992) takes one for all
    """
    sizes = x.detach().double().abs()
    if x.dim() == 2 and min(x.shape) <= _SERIES:
        sizes = sizes.square().mean(0 if x.shape[1] <= x.shape[0] else 1).sqrt()
    elif x.dim() != 1:
        return
    elif len(x) <= _ROW:
        sizes[sizes == 0] = 1.0
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return
    largest, low = float(sizes.max()), float(sizes.kthvalue(-(-len(sizes) // 10)).values)
    if largest > 10 and scale > 10 * low and largest > 50 * low:
        raise ArgumentError(
            "scale",
            "must have a value for each element where they are as unlike as these, from "
            f"{low:.4g} to {largest:.4g} in size, got {scale:.4g} for all: give a tensor of their "
            "deviations, such as 0.2 * X.std(0) of a table X that x is a row of (times it, "
            "attributions of columns can be compared), or a baseline, such as X.mean(0); "
            f"torch.full_like(x, {scale:.4g}) takes one for all",
        )


def warn_of_resolution(x: Tensor, scale: float | Tensor) -> None:
    """Warns where noise is finer than the numbers of x's type: samples are rounded back to x.

    Args:
        x: the input.
        scale: of the noise, a number or one for each element; what is 0 has none.
    """
    step = x.detach().abs().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    step *= torch.finfo(x.dtype).eps
    fine = (step > scale) & (torch.as_tensor(scale, device=x.device) > 0)
    if bool(fine.any()):
        k = int(fine.flatten().nonzero()[0])
        own = float(scale.flatten()[k]) if isinstance(scale, Tensor) else scale
        message = Message(
            Option("scale"),
            f" is finer than {x.dtype} is at {int(fine.sum())} of {x.numel()} elements of x "
            f"({own:.3g} at element {k}, which is {float(x.flatten()[k]):.6g}): noise is rounded "
            "away there, and the attribution is too small; give x in a wider type, such as "
            "x.double(), less what is common to all values, or a larger ",
            Option("scale"),
        )
        warn(message)


def with_floor(rule: AdaptiveScale) -> AdaptiveScale:
    """The rule with a floor, for forward gradients: by default a tenth of the narrowest bounds.

    Example:
        >>> with_floor(AdaptiveScale((0.0, -1.0), (1.0, 1.0))).floor
        0.1
    """
    if rule.floor is not None:
        return rule
    lows, highs = rule.bounds(
        max(len(b) if isinstance(b, tuple) else 1 for b in (rule.low, rule.high))
    )
    narrowest = min(high - low for low, high in zip(lows, highs, strict=True))
    return dataclasses.replace(rule, floor=0.1 * narrowest)


def inherent_noise(
    x: Tensor, scale: float | Tensor, low: float, high: float, distribution: str = "normal"
) -> Tensor:
    """The probability that noise takes an element out of the bounds of values.

    Args:
        x: the input, within the bounds.
        scale: the noise's scale, a number or of x's shape.
        low: the least value of an input.
        high: the largest.
        distribution: of the noise.

    Returns:
        Of x's shape, float64.

    Example:
        >>> x = torch.tensor([0.0, 0.5])  # on a bound, half of the noise leaves
        >>> inherent_noise(x, 0.2, 0.0, 1.0).round(decimals=4)
        tensor([0.5000, 0.0124], dtype=torch.float64)

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, equations 9
    and 10.
    """
    wide = x.double()
    sizes = torch.as_tensor(scale, dtype=torch.float64, device=x.device)
    inside = torch.zeros_like(wide)
    for distance in (high - wide, wide - low):
        inside += distance.sign() * probability_within(distribution, distance.abs() / sizes) / 2
    return torch.where(sizes > 0, 1 - inside, 0.0)


def out_of_bounds(
    x: Tensor, spec: NoiseSpec, low: float, high: float, samples: int = 64
) -> tuple[float, float]:
    """How often samples leave the bounds of values.

    Args:
        x: the input.
        spec: what noise.
        low: the least value of an input.
        high: the largest.
        samples: how many are drawn.

    Returns:
        The share of elements outside, and the share of samples with any.

    Example:
        >>> x = torch.full((1000,), 0.5)
        >>> elements, images = out_of_bounds(x, NoiseSpec((1000,), scale=0.2), 0.0, 1.0)
        >>> round(elements, 2), images
        (0.01, 1.0)

    Source: *Rethinking the principle of gradient smooth methods in model explanation*, section 3.2.
    """
    check_integer("samples", samples, 1)
    outside, images = 0, 0
    for number in range(samples):
        noisy = perturb(x, spec, number, 1)
        left = int(((noisy < low) | (noisy > high)).sum())
        outside, images = outside + left, images + (left > 0)
    return outside / (samples * x.numel()), images / samples
