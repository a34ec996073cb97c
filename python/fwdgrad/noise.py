"""From the options of noise to a ``NoiseSpec``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fwdgrad_kernels import AdaptiveScale, Elements, Grid, Labels, NoiseSpec
from fwdgrad_kernels.checks import check_integer
from fwdgrad_kernels.features import Features

FIELDS = ("nearest", "bilinear")
PLAIN: dict[str, Any] = {"cell": 1, "field": "nearest", "shared": False, "shift": True}
"""The options that make a ``Grid`` in other words, where none is made."""


def noise_spec(
    shape: tuple[int, ...],
    law: str = "normal",
    scale: float | Tensor | AdaptiveScale = 1.0,
    *,
    block: tuple[int, ...] | int | None = None,
    cell: int = 1,
    field: str = "nearest",
    shared: bool = False,
    shift: bool = True,
    features: Features | None = None,
    seed: int = 0,
    paired: bool = True,
    device: torch.device | None = None,
) -> NoiseSpec:
    """The noise that a method's options describe.

    Args:
        shape: the input's.
        law: one of ``LAWS``, or "hadamard": random signs, orthogonal in a group of samples.
        scale, block, seed: see ``NoiseSpec``.
        cell: cells of so many elements over the trailing two axes of a picture, three of a volume
            (C, D, H, W), at most the longest of these; an axis that is shorter is one cell.
        field: "nearest" or "bilinear": between the centres of cells.
        shared: all axes before take the same draws.
        shift: every sample (every group of "hadamard") shifts its grid.
        features: what moves together, in place of cell, field, shared and shift.
        paired: whether samples come in antithetic pairs. Without them the first draw of "hadamard"
            is given to no feature where that can be, see ``Labels.without_draw_0``; a linear grid
            over two axes or more has it in a corner, mostly outside.
        device: of the input.

    Example:
        >>> noise_spec((3, 224, 224), cell=16, shared=True).draws
        225
    """
    if isinstance(features, Labels) and device is not None and features.mask.device != device:
        features = Labels(features.mask.to(device))
    design = "hadamard" if law == "hadamard" else "independent"
    law = "rademacher" if law == "hadamard" else law
    given = {"cell": cell, "field": field, "shared": shared, "shift": shift}
    if features is None:
        features = _grid(shape, **given)
    elif given != PLAIN:
        raise ValueError(
            "features must be None beside cell, field, shared or shift, which make some, got "
            f"{features!r}"
        )
    if design == "hadamard" and not paired and block is None:
        features = _without_draw_0(features, shape, device)
    return NoiseSpec(shape, law, scale, block, features, design, seed)


def _grid(shape: tuple[int, ...], cell: Any, field: Any, shared: Any, shift: Any) -> Features:
    for name, value in (("shared", shared), ("shift", shift)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if field not in FIELDS:
        raise ValueError(f"field must be one of {', '.join(FIELDS)}, got {field!r}")
    sides = shape[-3:] if len(shape) == 4 else shape[-2:]
    cell = check_integer("cell", cell, 1, max(*sides, 1))
    if cell == 1 and not shared:
        return Elements()
    sizes = tuple(min(cell, max(length, 1)) for length in sides)
    return Grid(sizes, "linear" if field == "bilinear" else "nearest", shift, shared)


def _without_draw_0(
    features: Features, shape: tuple[int, ...], device: torch.device | None
) -> Features:
    """The same features without the first draw, where their elements can be named."""
    if not math.prod(shape):
        return features
    if isinstance(features, Labels):
        return features.without_draw_0()
    if isinstance(features, Elements):
        index = torch.arange(math.prod(shape), device=device)
        return Labels(index.reshape(shape)).without_draw_0()
    view = features.view(shape)
    if view.jitters or view.linear:
        return features
    sizes = features.sizes(shape)
    sizes = (1,) * (len(shape) - len(sizes)) + sizes
    own = len(features.sizes(shape)) if view.shared else len(shape)
    mask = torch.zeros((), dtype=torch.int64, device=device)
    for length, size in zip(shape[-own:], sizes[-own:], strict=True):
        line = torch.arange(length, device=device) // size
        mask = mask[..., None] * (int(line[-1]) + 1) + line
    return Labels(mask).without_draw_0()
