"""accumulate_: the weighted sum of scores, made again; reads weights and placements alone."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.tiles import tile_covered, tile_draws, tile_elements, tile_reached


@triton.jit
def accumulate_kernel(
    total, square, weights, placements, first, k0, k1, stream, count, numel, across, view_rows,
    view_columns, height, width, cell_height, cell_width, grid_rows, grid_columns, shared,
    LAW: tl.constexpr, SQUARED: tl.constexpr, BLOCKED: tl.constexpr, ELEMENTWISE: tl.constexpr,
    CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr, BILINEAR: tl.constexpr, FLAT: tl.constexpr,
    UNIT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements, which adds its copies in ascending order."""
    tile = tl.program_id(0).to(tl.int64)
    first, numel = tl.cast(first, tl.int64), tl.cast(numel, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    start, index, row, column, inside = tile_elements(
        tile, across, view_rows, view_columns, width, FLAT, UNIT, TILE_ROWS, TILE
    )
    sums = tl.load(total + index, inside, other=0.0)
    squares = sums
    if SQUARED:
        squares = tl.load(square + index, inside, other=0.0)
    for i in range(count):
        copy = tl.cast(i, tl.int64)
        placement = placements + copy * 8
        reached = True
        if BLOCKED:
            reached = tile_reached(
                tile, across, view_columns, placement, height, width, numel, FLAT, TILE_ROWS, TILE
            )
        if reached:
            score = tile_draws(
                start, index, row, column, placement, first + copy, k0, k1, stream, height, width,
                cell_height, cell_width, grid_rows, grid_columns, shared, LAW, True, ELEMENTWISE,
                CELLS_Y, CELLS_X, BILINEAR, TILE,
            )  # fmt: skip
            # Fused by name, so that total's bits do not turn on whether squares are summed, too.
            score = score.to(total.dtype.element_ty)
            weight = tl.load(weights + i)
            term = weight * score
            if BLOCKED:
                covered = tile_covered(row, column, placement, height)
                sums = tl.where(covered, tl.fma(weight, score, sums), sums)
                if SQUARED:
                    squares = tl.where(covered, tl.fma(term, term, squares), squares)
            else:
                sums = tl.fma(weight, score, sums)
                if SQUARED:
                    squares = tl.fma(term, term, squares)
    tl.store(total + index, sums, inside)
    if SQUARED:
        tl.store(square + index, squares, inside)
