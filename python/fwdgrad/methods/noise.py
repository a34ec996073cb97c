"""From a method's options to the noise on an input."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad.checks import check_choice, check_clip, check_no_array, check_number, first_outside
from fwdgrad.directions import directions
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.importance import Sampling
from fwdgrad.inputs import numbers_of
from fwdgrad.methods.base import Method
from fwdgrad.plan import sum_dtype
from fwdgrad.smoothing import check_alike, check_bounds, warn_of_resolution, with_floor
from fwdgrad_kernels import (
    DISTRIBUTIONS,
    AdaptiveScale,
    Elements,
    Features,
    Grid,
    Labels,
    NoiseSpec,
)


def check_noise(method: Method, **also: Any) -> None:
    """Checks the options of noise that a method has; sets scale and clip as they are used.

    Args:
        method: a value that is being made.
        **also: what its distribution may be as well.
    """
    options = vars(method)
    if "scale" in options:
        object.__setattr__(method, "scale", _checked_scale(numbers_of(options["scale"])))
    for name in ("distribution", "antithetic", "clip", "sampling"):
        check_no_array(name, options.get(name))
    distribution = options.get("distribution", "normal")
    if distribution is not None:
        check_choice("distribution", distribution, DISTRIBUTIONS)
    if not isinstance(options.get("antithetic", False), bool):
        raise ArgumentTypeError(
            "antithetic", f"must be True or False, got {options['antithetic']!r}"
        )
    if options.get("clip") is not None:
        object.__setattr__(method, "clip", check_clip(options["clip"]))
    sampling = options.get("sampling")
    if sampling is not None:
        if not isinstance(sampling, Sampling):
            raise ArgumentTypeError("sampling", f"must be a Sampling, got {sampling!r}")
        if isinstance(options["scale"], AdaptiveScale):
            raise ArgumentError(
                "sampling",
                f"needs noise whose scale is a number or a tensor, got scale={options['scale']!r}",
            )
        sampling.check(distribution)


def _checked_scale(scale: Any) -> Any:
    if scale is None or isinstance(scale, AdaptiveScale):
        return scale
    if isinstance(scale, Tensor):
        if not scale.is_floating_point():
            raise ArgumentTypeError("scale", f"must be a floating tensor, got {scale.dtype}")
        bad = first_outside(scale, torch.isfinite(scale) & (scale >= 0))
        if bad is not None:
            raise ArgumentError(
                "scale", f"must be >= 0 and finite, got {bad[1]} at element {bad[0]}"
            )
        return scale
    value = check_number("scale", scale)
    if not (math.isfinite(value) and value > 0):
        raise ArgumentError("scale", f"must be positive and finite, got {value}")
    return value


def scale_on(
    x: Tensor, scale: float | Tensor | AdaptiveScale | None, floor: bool = False
) -> float | Tensor | AdaptiveScale:
    """The scale of the noise on an input: a number, one for each element, or a rule.

    Args:
        x: the input.
        scale: as a method has it; None is a fifth of x's range.
        floor: whether a rule needs one that is not zero.
    """
    found: float | Tensor | AdaptiveScale
    if scale is None:
        low, high = x.aminmax()
        found = 0.2 * (high.double() - low.double()).item()
        if found == 0:
            raise ArgumentError("scale", "must be given: x is constant, so it has no range")
        check_alike(x, found)
    elif isinstance(scale, AdaptiveScale):
        found = with_floor(scale) if floor else scale
        check_bounds(x, found)
        if not (found.floor or any(bool(s.any()) for _, s in found.pieces(x, "normal"))):
            raise ArgumentError(
                "scale",
                "must leave noise somewhere: every element of x lies on a bound; give the "
                "rule a floor",
            )
        return found
    elif isinstance(scale, Tensor):
        if scale.shape != x.shape:
            raise ArgumentError(
                "scale",
                f"must be a number or have x's shape {tuple(x.shape)}, got {tuple(scale.shape)}",
            )
        found = scale.to(x.device, sum_dtype(x))
        if not bool(found.any()):
            raise ArgumentError("scale", "must not be zero everywhere: there would be no noise")
    else:
        found = float(scale)
        check_alike(x, found)
    warn_of_resolution(x, found)
    return found


def features_of(features: Any) -> Features | None:
    """Features as they are given: a value, a mask of integers, or None.

    >>> features_of(torch.tensor([0, 0, 1])).mask.tolist()
    [0, 0, 1]
    """
    if isinstance(features, np.ndarray):
        features = torch.from_numpy(features)
    if isinstance(features, Tensor):
        try:
            return Labels(features)
        except (TypeError, ValueError) as error:
            raise type(error)(f"features: {error}") from None
    if features is None or isinstance(features, (Elements, Grid, Labels)):
        return features
    raise ArgumentTypeError(
        "features",
        "must be Elements(), Grid(cell), Labels(mask) or a mask of integers, got "
        f"{' '.join(repr(features).split()):.80}",
    )


def check_no_features(method: Method, features: Features | None) -> None:
    """Raises where features are given to a method whose noise is of single elements."""
    if features is not None:
        raise ArgumentError(
            "features",
            f"must be None with {type(method).__name__}, whose noise is drawn for single "
            f"elements, got {' '.join(repr(features).split()):.80}; Regions and ForwardGradient "
            "take some",
        )


def on_device(features: Features | None, device: torch.device) -> Features:
    """Features for an input there; each element by itself where None."""
    if isinstance(features, Labels) and features.mask.device != device:
        return Labels(features.mask.to(device))
    if isinstance(features, Grid) and features.order is not None:
        return dataclasses.replace(features, order=features.order.to(device))
    return Elements() if features is None else features


def hadamard_spec(
    x: Tensor,
    features: Features,
    scale: float | Tensor | AdaptiveScale,
    seed: int,
    samples: int,
    paired: bool,
    block: tuple[int, ...] | int | None = None,
) -> NoiseSpec:
    """Noise of the Hadamard design: random signs, orthogonal in a group of samples.

    Without pairs each feature takes a direction that ``directions`` gives it, and none the first,
    which has one sign in all samples, where features lie alike in all samples. What has an order
    keeps it.
    """
    shape = tuple(x.shape)
    if not paired and block is None:
        features = _directed(features, shape, seed, samples, x.device)
    return NoiseSpec(shape, "rademacher", scale, block, features, "hadamard", seed)


def _directed(
    features: Features,
    shape: tuple[int, ...],
    seed: int,
    samples: int,
    device: torch.device | None,
) -> Features:
    """The same features with directions of the smallest group that holds them.

    Or of one of twice that size, where there are the samples for it: then no two of them disturb a
    third one.
    """
    if not isinstance(features, Elements) and features.order is not None:
        return features
    if isinstance(features, Grid) and features.jitter:
        return features
    labels = labels_of(features, shape, device)
    if labels is not None:
        lines: tuple[int, ...] = (labels.count,)
    else:
        lines = NoiseSpec(shape, "rademacher", features=features, design="hadamard").grid
    group = 1 << math.prod(lines).bit_length()
    group *= 2 if samples >= 2 * group else 1
    order = directions(lines, group, seed).to(device)
    if labels is not None:
        return labels.taking(order)
    assert isinstance(features, Grid)
    return dataclasses.replace(features, order=order)


def labels_of(
    features: Features, shape: tuple[int, ...], device: torch.device | None
) -> Labels | None:
    """The same features as labels; None where they have smooth or moving borders.

    Their numbers are those of the lines, whatever draws these take.

    >>> labels_of(Grid((2,), "nearest"), (4,), None).mask.tolist()
    [0, 0, 1, 1]
    """
    if isinstance(features, Labels):
        return features
    if isinstance(features, Elements):
        return Labels(torch.arange(math.prod(shape), device=device).reshape(shape))
    view = features.view(shape)
    if view.jitters or view.linear:
        return None
    sizes = features.sizes(shape)
    sizes = (1,) * (len(shape) - len(sizes)) + sizes
    own = len(features.sizes(shape)) if view.shared else len(shape)
    mask = torch.zeros((), dtype=torch.int64, device=device)
    for length, size in zip(shape[-own:], sizes[-own:], strict=True):
        line = torch.arange(length, device=device) // size
        mask = mask[..., None] * (int(line[-1]) + 1) + line
    return Labels(mask)
