"""Maps as the metrics take them: a tensor or an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checks import first_outside
from fwdgrad.explanation import Explanation
from fwdgrad.objectives import Objective, check_objective, objective_again
from fwdgrad.outputs import told
from fwdgrad.shown import OfExplanation


def heatmap_of(value: Any, shape: Sequence[int] | None = None, name: str = "heatmap") -> Tensor:
    """A map as one number a pixel.

    Args:
        value: a floating or integer tensor, or an ``Explanation``: its attribution for all axes
            before the trailing two together, as its ``heatmap`` has it.
        shape: of the input that it belongs to: the map's own must be its trailing axes.
        name: of the argument, for errors.

    Returns:
        float64, detached.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> heatmap_of(torch.tensor([1, 2]), (3, 2))
        tensor([1., 2.], dtype=torch.float64)
    """
    value = _map_of(value)
    if isinstance(value, Explanation):
        attribution = value.attribution
        value = value.over_planes(attribution) if attribution.dim() > 2 else attribution
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor or an Explanation, got {type(value).__name__}")
    if value.layout != torch.strided or value.is_meta:
        raise TypeError(f"{name} must be a dense tensor with values, got {told(repr(value), 60)}")
    if value.is_complex() or value.dtype == torch.bool or not value.numel():
        raise TypeError(
            f"{name} must have numbers, got {value.dtype} of shape {tuple(value.shape)}"
        )
    found = value.detach().double()
    bad = first_outside(found, torch.isfinite(found))
    if bad is not None:
        raise ValueError(f"{name} must be finite, got {bad[1]} at element {bad[0]}")
    if shape is not None and tuple(shape)[len(shape) - found.dim() :] != tuple(found.shape):
        raise ValueError(
            f"{name} must have the trailing axes of the input's shape {tuple(shape)}, got "
            f"{tuple(found.shape)}"
        )
    return found


def followed(heatmap: Any, target: Any, objective: Objective, x: Tensor) -> tuple[Any, Objective]:
    """The target and the objective that a metric follows: by default the explanation's.

    Args:
        heatmap: a map, or an ``Explanation``.
        target: "auto" for the explanation's.
        objective: "auto" for the explanation's.
        x: the input, which must be the explanation's.

    Raises:
        ValueError: the map is of another input, or the explanation's objective is a callable, of
            which it has the name alone.

    Example:
        >>> followed(torch.ones(2), "auto", "auto", torch.ones(2))
        ('auto', 'auto')
    """
    check_objective(objective)
    heatmap = _map_of(heatmap)
    if not isinstance(heatmap, Explanation):
        return target, objective
    own = heatmap.input.to(x.device, torch.float64)
    if own.shape == x.shape and not torch.allclose(own, x.double(), rtol=1e-2, atol=1e-6):
        raise ValueError(
            "x must be the input that heatmap explains, got another of its shape; give "
            "heatmap.input, or heatmap.attribution to judge a map by another input"
        )
    if callable(objective):
        return target, objective
    if objective == "auto":
        objective = objective_again(heatmap.objective, "heatmap explains")
    return heatmap.target if isinstance(target, str) and target == "auto" else target, objective


def elements_of(value: Any, name: str) -> Tensor:
    """All elements of a map; those of an explanation are not summed over channels.

    >>> elements_of(torch.tensor([[1.0], [2.0]]), "one").tolist()
    [[1.0], [2.0]]
    """
    value = _map_of(value)
    return heatmap_of(value.attribution if isinstance(value, Explanation) else value, name=name)


def _map_of(value: Any) -> Any:
    """The map of what the model saw, where it is one of a photo, a text or a row."""
    return value._whole() if isinstance(value, OfExplanation) else value


def pair_of(one: Any, other: Any) -> tuple[Tensor, Tensor]:
    """Two maps of one shape, as vectors.

    Example:
        >>> [len(v) for v in pair_of(torch.ones(2, 3), torch.zeros(2, 3))]
        [6, 6]
    """
    a, b = elements_of(one, "one"), elements_of(other, "other")
    if a.shape != b.shape:
        raise ValueError(f"the maps must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    return a.flatten(), b.flatten().to(a.device)
