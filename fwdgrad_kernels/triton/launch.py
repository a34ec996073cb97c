"""Launches: from a decoded spec to grids and compile-time constants."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import torch
import triton
from torch import Tensor

from fwdgrad_kernels.layout import Geometry, interleaved
from fwdgrad_kernels.spec import CHUNK
from fwdgrad_kernels.triton.accumulate import accumulate_kernel
from fwdgrad_kernels.triton.draws import (
    BLOCK_COLUMNS,
    PLACEMENT_COLUMNS,
    draws_kernel,
    placements_kernel,
)
from fwdgrad_kernels.triton.expand import expand_kernel
from fwdgrad_kernels.triton.perturb import perturb_kernel

_RADEMACHER, _HADAMARD = 5, 6
_SAMPLES = 16384  # whose placements are held at once: 1.1 MiB
_DRAWS = 1 << 22  # that are held at once: 16 MiB
_LARGE = 1 << 28  # elements or draws: positions, up to five times that, might not fit 32 bits
_SLICES = 8  # programs that share the samples of a tile
_PROGRAMS = 1024  # that fill a GPU: up to so many share out the chunks of a sum


def _distribution(g: Geometry) -> int:
    return _HADAMARD if g.design else g.distribution


def _unit(g: Geometry) -> int:
    """How many consecutive draws a Philox call makes, at least."""
    return 32 if g.distribution == _RADEMACHER else 4


def _constants(g: Geometry, exact: bool = False) -> dict[str, Any]:
    """What the kernels are specialised for; exact scales take registers."""
    unit = _unit(g) if g.elementwise else 1
    # Tiles of rows, so that columns beside a block are left out, where units do not cross rows.
    flat = not g.blocked or g.width % unit != 0
    # Beside a block values are kept by a mask, and registers with it: smaller tiles spill none.
    whole = (512 if exact else 1024) // (2 if g.blocked else 1)
    rows = triton.next_power_of_2(g.planes * g.height)
    cells = (g.cell_width > 1) + 2 * (g.cell_height > 1) + 4 * (g.cell_depth > 1)
    return {
        # Else the table of draws knows it.
        "DISTRIBUTION": _distribution(g) if g.elementwise or exact else -1,
        "BLOCKED": g.blocked,
        "ELEMENTWISE": g.elementwise,
        "LABELS": g.labelled,
        "JITTERS": bool(g.jitters),
        "CELLS": cells,
        "LINEAR": bool(g.linear),
        "LARGE": max(g.numel, g.draws) >= _LARGE,
        "FLAT": flat,
        "UNIT": unit,
        # The positions of a grid take registers.
        "TILE": whole if g.elementwise else whole // 2,
        "TILE_ROWS": 1 if flat else min(rows, 16 if g.elementwise else 4),
    }


def _tiles(g: Geometry, fixed: dict[str, Any]) -> tuple[int, tuple[int, int, int]]:
    """How many tiles there are, and (across, rows, columns): how they lie on the view."""
    rows, columns = (1, g.numel) if fixed["FLAT"] else (g.planes * g.height, g.width)
    across = triton.cdiv(columns, fixed["TILE"] // fixed["TILE_ROWS"])
    return triton.cdiv(rows, fixed["TILE_ROWS"]) * across, (across, rows, columns)


def _grid(g: Geometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Of the axes (depth, height, width): elements, elements of a cell, lines of draws."""
    sizes, cells = (g.depth, g.height, g.width), (g.cell_depth, g.cell_height, g.cell_width)
    return sizes, cells, g.grid


def _bits(value: float) -> int:
    """A float64 as the integer of its bits: Triton would pass a float as float32."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _at_once(g: Geometry) -> int:
    """Of how many samples placements and draws are held: a power of two."""
    fit = _SAMPLES if g.elementwise else min(max(_DRAWS // max(g.draws, 1), 1), _SAMPLES)
    return 1 << (fit.bit_length() - 1)


def _pieces(first: int, count: int, size: int) -> list[tuple[int, int]]:
    """(start, stop) of the samples, cut where their numbers are multiples of size."""
    cuts = [0, *range(size - first % size, count, size), count]
    return list(itertools.pairwise(cuts))


def _placements(g: Geometry, first: int, count: int, columns: int, out: Tensor) -> Tensor:
    size = 128
    if not count:
        return out
    placements_kernel[(triton.cdiv(count, size),)](
        out, count, first, *g.key, g.height, g.width, g.block_height, g.block_width,
        g.shift_ranges, g.mask, IS_HADAMARD=bool(g.design), COLUMNS=columns, SIZE=size,
    )  # fmt: skip
    return out


def _placed(g: Geometry, first: int, count: int, like: Tensor) -> Tensor:
    if not (g.blocked or g.jitters or g.design):
        return like  # not read
    columns = PLACEMENT_COLUMNS.value
    out = torch.empty((count, columns), dtype=torch.int64, device=like.device)
    return _placements(g, first, count, columns, out)


def _drawn(g: Geometry, placements: Tensor, first: int, count: int, score: bool) -> Tensor:
    """The draws of each sample, or their scores: (count, K)."""
    if g.elementwise:
        return placements  # not read: kernels make them
    out = torch.empty((count, g.draws), dtype=torch.float32, device=placements.device)
    size = 256
    draws_kernel[(triton.cdiv(g.draws, size), count)](
        out, placements if g.design else out, first, *g.key, g.stream, g.draws,
        DISTRIBUTION=_distribution(g),
        SCORE=score, UNIT=_unit(g), TILE=size,
    )  # fmt: skip
    return out


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
    labels: Tensor | None,
    first: int,
    held: int | None,
    pairs: bool,
    low: float,
    high: float,
) -> None:
    """The op of that name."""
    g = Geometry(*spec)
    count = len(out) // (2 if pairs else 1)
    fixed = _constants(g, exact=rule[0] == 2)
    tiles, view = _tiles(g, fixed)
    holds = held is not None and g.blocked
    for start, stop in _pieces(0, count, _at_once(g)):
        some = stop - start
        placements = _placed(g, first + start, some, x)
        before = _placed(g, held + start, some, x) if held is not None and holds else placements
        drawn = _drawn(g, placements, first + start, some, False)
        if labels is not None and not g.labelled:
            drawn = drawn.index_select(1, labels)  # the lines' order
        perturb_kernel[(tiles, min(some, _SLICES))](
            out[start:], x, x if scale_map is None else scale_map, x if bounds is None else bounds,
            placements, before, drawn, labels if labels is not None and g.labelled else placements,
            x if baseline is None else baseline,
            _bits(position), _bits(scale), _bits(low), _bits(high), *map(_bits, rule[1:]),
            first + start, *g.key, g.stream, some, count if pairs else 0, int(holds), g.lines,
            g.numel, g.planes, view, *_grid(g), g.shared, g.inner, g.period,
            MAPPED=scale_map is not None, RULE=int(rule[0]),
            BASELINE=0 if baseline is None else 1 if by_plane else 2,
            INTERLEAVED=interleaved(out) > 1, WIDE=x.dtype == torch.float64, **fixed,
        )  # fmt: skip


def accumulate_(
    total: Tensor, square: Tensor | None, weights: Tensor, spec: list[int], first: int
) -> None:
    """The op of that name. Where there are few tiles, programs share the chunks of a sum out."""
    g, count = Geometry(*spec), len(weights)
    fixed = _constants(g)
    tiles, view = _tiles(g, fixed)
    size = _at_once(g)
    chunks = triton.cdiv(first % CHUNK + count, CHUNK)
    parts = max(min(chunks, _PROGRAMS // tiles, size // CHUNK), 1)
    sums = [total] if square is None else [total, square]
    # Sums of chunks lie apart where there is more than one at a time, or less than one.
    apart, goes_on = parts > 1 or size < CHUNK, size < CHUNK
    own = total.new_zeros((len(sums), parts, *total.shape)) if apart else sums
    for start, stop in _pieces(first, count, min(size, parts * CHUNK)):
        placements = _placed(g, first + start, stop - start, total)
        accumulate_kernel[(tiles, parts)](
            own[0], own[-1], weights[start:stop], placements,
            _drawn(g, placements, first + start, stop - start, True), first + start, *g.key,
            g.stream, stop - start, 0 if goes_on else (first + start) % CHUNK, g.draws, g.numel,
            view, *_grid(g), g.shared, SQUARED=square is not None, GOES_ON=goes_on, CHUNK=CHUNK,
            **fixed,
        )  # fmt: skip
        if isinstance(own, Tensor) and ((first + stop) % CHUNK == 0 or stop == count):
            for to, parts_of in zip(sums, own, strict=True):
                for part in parts_of:
                    to.add_(part)
            own.zero_()


def expand_(out: Tensor, values: Tensor, spec: list[int], first: int, squared: bool) -> None:
    """The op of that name."""
    g, size = Geometry(*spec), 256
    fixed = {name: _constants(g)[name] for name in ("LARGE", "JITTERS", "CELLS", "LINEAR")}
    expand_kernel[(triton.cdiv(out.numel(), size),)](
        out, values, _placed(g, first, 1, values), out.numel(), *_grid(g), SQUARED=squared,
        TILE=size, **fixed,
    )  # fmt: skip


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    _placements(Geometry(*spec), first, len(out), BLOCK_COLUMNS.value, out)
