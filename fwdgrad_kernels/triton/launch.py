"""Launches: from a decoded spec to grids and compile-time constants."""

from __future__ import annotations

import struct
from typing import Any

import torch
import triton
from torch import Tensor

from fwdgrad_kernels.layout import Geometry, interleaved
from fwdgrad_kernels.triton.accumulate import accumulate_kernel
from fwdgrad_kernels.triton.draws import PLACEMENT_COLUMNS, placements_kernel
from fwdgrad_kernels.triton.expand import expand_kernel
from fwdgrad_kernels.triton.perturb import perturb_kernel

_RADEMACHER, _HADAMARD = 5, 6
_COPIES = 16384  # whose placements are held at once: 1 MiB
_SLICES = 8  # programs that share the copies of a tile


def constants(g: Geometry, exact: bool = False) -> dict[str, Any]:
    """What the kernels are specialised for; exact scales take registers."""
    unit = 32 if g.law in (_RADEMACHER, _HADAMARD) else 4
    if not g.elementwise:
        unit = 1
    # Tiles of rows, so that columns beside a block are left out, where units do not cross rows.
    flat = not g.blocked or g.width % unit != 0
    # Beside a block sums are kept by a mask, and registers with it: smaller tiles spill none.
    whole = (512 if exact else 1024) // (1 if flat else 2)
    return {
        "LAW": g.law,
        "BLOCKED": g.blocked,
        "ELEMENTWISE": g.elementwise,
        "CELLS_Y": g.cell_height > 1,
        "CELLS_X": g.cell_width > 1,
        "BILINEAR": bool(g.bilinear),
        "FLAT": flat,
        "UNIT": unit,
        # A field's elements take a Philox call each, or up to four, and registers with it.
        "TILE": whole if g.elementwise else 128 if g.bilinear else 256,
        "TILE_ROWS": 1 if flat else 16 if g.elementwise else 4,
    }


def _tiles(g: Geometry, fixed: dict[str, Any]) -> tuple[int, tuple[int, int, int]]:
    """How many tiles there are, and (across, rows, columns): how they lie on the view."""
    rows, columns = (1, g.numel) if fixed["FLAT"] else (g.leading * g.height, g.width)
    across = triton.cdiv(columns, fixed["TILE"] // fixed["TILE_ROWS"])
    return triton.cdiv(rows, fixed["TILE_ROWS"]) * across, (across, rows, columns)


def _field(g: Geometry) -> tuple[int, ...]:
    return g.cell_height, g.cell_width, *g.grid, g.shared


def _bits(value: float) -> int:
    """A float64 as the integer of its bits: Triton would pass a float as float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _placements(g: Geometry, first: int, count: int, columns: int, out: Tensor) -> Tensor:
    size = 128
    if not count:
        return out
    placements_kernel[(triton.cdiv(count, size),)](
        out, count, first, *g.key, g.height, g.width, g.block_height, g.block_width,
        *g.shift_ranges, g.mask, IS_HADAMARD=g.law == _HADAMARD, COLUMNS=columns,
        SIZE=size,
    )  # fmt: skip
    return out


def _placed(g: Geometry, first: int, count: int, like: Tensor) -> Tensor:
    out = torch.empty((count, PLACEMENT_COLUMNS), dtype=torch.int64, device=like.device)
    return _placements(g, first, count, PLACEMENT_COLUMNS, out)


def perturb_(
    out: Tensor,
    x: Tensor,
    scale_map: Tensor | None,
    bounds: Tensor | None,
    rule: list[float],
    baseline: Tensor | None,
    by_plane: bool,
    position: float,
    scale: float,
    spec: list[int],
    first: int,
    held: int | None,
    pairs: bool,
    low: float,
    high: float,
) -> None:
    """The op of that name."""
    g, planes = Geometry(*spec), interleaved(out)
    count = len(out) // (2 if pairs else 1)
    fixed = constants(g, exact=rule[0] == 2)
    tiles, view = _tiles(g, fixed)
    holds = held is not None and g.blocked
    for base in range(0, count, _COPIES):
        some = min(_COPIES, count - base)
        placements = _placed(g, first + base, some, x) if g.placed else x  # not read
        before = _placed(g, held + base, some, x) if held is not None and holds else placements
        perturb_kernel[(tiles, min(some, _SLICES))](
            out[base:], x, x if scale_map is None else scale_map, x if bounds is None else bounds,
            placements, before, x if baseline is None else baseline, _bits(position),
            _bits(scale), _bits(low), _bits(high), *map(_bits, rule[1:]), first + base, *g.key,
            g.stream, some, count if pairs else 0, int(holds), g.leading, g.numel, *view,
            g.height, g.width, planes, *_field(g), MAPPED=scale_map is not None,
            RULE=int(rule[0]), BASELINE=0 if baseline is None else 1 if by_plane else 2,
            INTERLEAVED=planes > 1, WIDE=x.dtype == torch.float64, **fixed,
        )  # fmt: skip


def accumulate_(
    total: Tensor, square: Tensor | None, weights: Tensor, spec: list[int], first: int
) -> None:
    """The op of that name."""
    g = Geometry(*spec)
    fixed = constants(g)
    tiles, view = _tiles(g, fixed)
    for base in range(0, len(weights), _COPIES):
        some = weights[base : base + _COPIES]
        placements = _placed(g, first + base, len(some), total) if g.placed else total  # not read
        accumulate_kernel[(tiles,)](
            total, total if square is None else square, some, placements, first + base, *g.key,
            g.stream, len(some), g.numel, *view, g.height, g.width, *_field(g),
            SQUARED=square is not None, **fixed,
        )  # fmt: skip


def expand_(out: Tensor, values: Tensor, spec: list[int], squared: bool) -> None:
    """The op of that name."""
    g, size = Geometry(*spec), 256
    expand_kernel[(triton.cdiv(out.numel(), size),)](
        out, values, out.numel(), g.height, g.width, g.cell_height, g.cell_width, *g.grid,
        CELLS_Y=g.cell_height > 1, CELLS_X=g.cell_width > 1, BILINEAR=bool(g.bilinear),
        SQUARED=squared, TILE=size,
    )  # fmt: skip


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    _placements(Geometry(*spec), first, len(out), 4, out)
