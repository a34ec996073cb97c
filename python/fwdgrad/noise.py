"""From the options of noise to a ``NoiseSpec``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fwdgrad_kernels import AdaptiveScale, Elements, Grid, NoiseSpec
from fwdgrad_kernels.checks import check_integer
from fwdgrad_kernels.features import Features

FIELDS = ("nearest", "bilinear")


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

    Example:
        >>> noise_spec((3, 224, 224), cell=16, shared=True).draws
        225
    """
    design = "hadamard" if law == "hadamard" else "independent"
    law = "rademacher" if law == "hadamard" else law
    given = {"cell": cell, "field": field, "shared": shared, "shift": shift}
    if features is None:
        features = _grid(shape, **given)
    elif given != {"cell": 1, "field": "nearest", "shared": False, "shift": True}:
        raise ValueError(
            "features must be None beside cell, field, shared or shift, which make some, got "
            f"{features!r}"
        )
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
