"""perturb: x + scale J_i xi_i for a micro-batch of copies, in one kernel."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import real
from fwdgrad_kernels.triton.scale import adaptive_scale
from fwdgrad_kernels.triton.tiles import tile_covered, tile_draws, tile_elements, tile_reached


@triton.jit
def perturb_kernel(
    out, x, scale_map, bounds, placements, held, baseline, position, scale, low, high, floor,
    factor, confidence, start_far, start_near, first, k0, k1, stream, count, opposite, holds,
    leading, numel, across, view_rows, view_columns, height, width, planes, cell_height,
    cell_width, grid_rows, grid_columns, shared,
    LAW: tl.constexpr, MAPPED: tl.constexpr, RULE: tl.constexpr, BASELINE: tl.constexpr,
    BLOCKED: tl.constexpr, ELEMENTWISE: tl.constexpr, CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr,
    BILINEAR: tl.constexpr, INTERLEAVED: tl.constexpr, WIDE: tl.constexpr, FLAT: tl.constexpr,
    UNIT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of x, which it writes to every so many copies with their noise."""
    tile = tl.program_id(0).to(tl.int64)
    first, numel = tl.cast(first, tl.int64), tl.cast(numel, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    start, index, row, column, inside = tile_elements(
        tile, across, view_rows, view_columns, width, FLAT, UNIT, TILE_ROWS, TILE
    )
    at = index
    if INTERLEAVED:  # channels last
        pixels = numel // planes
        at = (index % pixels) * planes + index // pixels
    wide: tl.constexpr = tl.float64 if WIDE else tl.float32
    value = tl.load(x + at, inside, other=0.0).to(wide)
    lowest, highest = real(low, wide), real(high, wide)
    step = real(scale, wide)
    if MAPPED:
        step = step * tl.load(scale_map + at, inside, other=0.0)
    if RULE:
        plane = tl.minimum(index // (numel // leading), leading - 1)
        narrow: tl.constexpr = tl.float32
        step = step * adaptive_scale(
            value, tl.load(bounds + plane), tl.load(bounds + leading + plane),
            real(floor, narrow), real(factor, narrow), real(confidence, narrow),
            real(start_far, narrow), real(start_near, narrow), LAW, RULE,
        )  # fmt: skip
    from_b, way, centre = value, value, value
    if BASELINE:  # 1: of a value for each plane, 2: of x's shape
        if BASELINE == 1:
            plane = tl.minimum(index // (numel // leading), leading - 1)
            from_b = tl.load(baseline + plane).to(wide)
        else:
            from_b = tl.load(baseline + at, inside, other=0.0).to(wide)
        way = value - from_b
        centre = tl.zeros((TILE,), wide) + real(position, wide)
    for i in range(tl.program_id(1), count, tl.num_programs(1)):
        copy = tl.cast(i, tl.int64)
        placement = placements + copy * 8
        reached = True
        touched = True
        if BLOCKED:
            reached = tile_reached(
                tile, across, view_columns, placement, height, width, numel, FLAT, TILE_ROWS, TILE
            )
            touched = reached | (holds == 0)
            if holds != 0:
                touched = touched | tile_reached(
                    tile, across, view_columns, held + copy * 8, height, width, numel, FLAT,
                    TILE_ROWS, TILE,
                )  # fmt: skip
        if touched:
            noise = tl.zeros((TILE,), tl.float32)
            if reached:
                noise = tile_draws(
                    start, index, row, column, placement, first + copy, k0, k1, stream,
                    height, width, cell_height, cell_width, grid_rows, grid_columns, shared, LAW,
                    False, ELEMENTWISE, CELLS_Y, CELLS_X, BILINEAR, TILE,
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
            tl.store(out + copy * numel + at, plus.to(out.dtype.element_ty), inside)
            if opposite != 0:
                minus = tl.where(minus < lowest, lowest, minus)
                minus = tl.where(minus > highest, highest, minus)
                tl.store(
                    out + (copy + opposite) * numel + at, minus.to(out.dtype.element_ty), inside
                )
