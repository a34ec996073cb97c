"""perturb: x + scale J_i xi_i for a micro-batch of samples, in one kernel."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import CHANGING, PLACEMENT_COLUMNS, real
from fwdgrad_kernels.triton.scale import adaptive_scale
from fwdgrad_kernels.triton.tiles import (
    tile_covered,
    tile_draws,
    tile_elements,
    tile_positions,
    tile_reached,
)


@triton.jit(do_not_specialize=CHANGING)
def perturb_kernel(
    out, x, scale_map, bounds, placements, held, table, labels, baseline, position: tl.int64,
    scale: tl.int64, low: tl.int64, high: tl.int64, floor: tl.int64, factor: tl.int64,
    confidence: tl.int64, start_far: tl.int64, start_near: tl.int64, first: tl.int64,
    k0: tl.uint32, k1: tl.uint32, stream, count, opposite, holds, draws, numel, planes, view, sizes,
    cells, lines, shared, inner, period,
    DISTRIBUTION: tl.constexpr, MAPPED: tl.constexpr, RULE: tl.constexpr, BASELINE: tl.constexpr,
    BLOCKED: tl.constexpr, ELEMENTWISE: tl.constexpr, LABELS: tl.constexpr, JITTERS: tl.constexpr,
    CELLS: tl.constexpr, LINEAR: tl.constexpr, INTERLEAVED: tl.constexpr, WIDE: tl.constexpr,
    LARGE: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr, TILE_ROWS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of x, which it writes to every so many samples with their noise."""
    first = tl.cast(first, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    height, width = sizes[1], sizes[2]
    tile, start, index, row, column, inside = tile_elements(
        view, width, LARGE, FLAT, UNIT, TILE_ROWS, TILE
    )
    at, into, down, across = tile_positions(
        row, column, index, inside, placements, labels, inner, period, sizes, cells, lines, shared,
        ELEMENTWISE, LABELS, False, CELLS, LINEAR,
    )  # fmt: skip
    lies = index
    if INTERLEAVED:  # channels last
        pixels = numel // planes
        lies = (index % pixels) * planes + index // pixels
    wide: tl.constexpr = tl.float64 if WIDE else tl.float32
    value = tl.load(x + lies, inside, other=0.0).to(wide)
    lowest, highest = real(low, wide), real(high, wide)
    step = real(scale, wide)
    if MAPPED:
        step = step * tl.load(scale_map + lies, inside, other=0.0)
    if RULE:
        plane = tl.minimum(index // (numel // planes), planes - 1)
        narrow: tl.constexpr = tl.float32
        step = step * adaptive_scale(
            value, tl.load(bounds + plane), tl.load(bounds + planes + plane),
            real(floor, narrow), real(factor, narrow), real(confidence, narrow),
            real(start_far, narrow), real(start_near, narrow), DISTRIBUTION, RULE,
        )  # fmt: skip
    from_b, way, centre = value, value, value
    if BASELINE:  # 1: of a value for each plane, 2: of x's shape
        if BASELINE == 1:
            plane = tl.minimum(index // (numel // planes), planes - 1)
            from_b = tl.load(baseline + plane).to(wide)
        else:
            from_b = tl.load(baseline + lies, inside, other=0.0).to(wide)
        way = value - from_b
        centre = tl.zeros((TILE,), wide) + real(position, wide)
    for i in range(tl.program_id(1), count, tl.num_programs(1)):
        sample = tl.cast(i, tl.int64)
        placement = placements + sample * PLACEMENT_COLUMNS
        reached = True
        touched = True
        if BLOCKED:
            reached = tile_reached(
                tile, view, placement, height, width, numel, FLAT, TILE_ROWS, TILE
            )
            touched = reached | (holds == 0)
            if holds != 0:
                touched = touched | tile_reached(
                    tile, view, held + sample * PLACEMENT_COLUMNS, height, width, numel, FLAT,
                    TILE_ROWS, TILE,
                )  # fmt: skip
        if touched:
            noise = tl.zeros((TILE,), tl.float32)
            if reached:
                if JITTERS:
                    at, into, down, across = tile_positions(
                        row, column, index, inside, placement, labels, inner, period, sizes, cells,
                        lines, shared, ELEMENTWISE, LABELS, True, CELLS, LINEAR,
                    )  # fmt: skip
                noise = tile_draws(
                    start, index, at, into, down, across, inside, table, draws, sample, placement,
                    first, k0, k1, stream, lines, DISTRIBUTION, False, ELEMENTWISE, CELLS, LINEAR,
                    TILE,
                )  # fmt: skip
            added = noise.to(wide) * step
            if BLOCKED:  # x as it is, where an infinite step would make NaN of 0
                covered = tile_covered(row, column, placement, height)
                plus = tl.where(covered, centre + added, centre)
                minus = tl.where(covered, centre - added, centre)
            else:
                plus = centre + added
                minus = centre - added
            if BASELINE:
                plus = from_b + way * plus
                minus = from_b + way * minus
            plus = tl.where(plus < lowest, lowest, plus)  # keeps NaN
            plus = tl.where(plus > highest, highest, plus)
            tl.store(out + sample * numel + lies, plus.to(out.dtype.element_ty), inside)
            if opposite != 0:
                minus = tl.where(minus < lowest, lowest, minus)
                minus = tl.where(minus > highest, highest, minus)
                other = out + (sample + opposite) * numel + lies
                tl.store(other, minus.to(out.dtype.element_ty), inside)
