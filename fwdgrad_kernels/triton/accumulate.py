"""accumulate_: the weighted sum of scores, made again; reads weights and placements alone."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import aligned_tile, covered, field_tile, may_cover


@triton.jit
def accumulate_kernel(
    total, square, weights, placements, first, k0, k1, count, numel,
    height, width, cell_height, cell_width, rows, columns,
    LAW: tl.constexpr, BLOCKED: tl.constexpr, ELEMENTWISE: tl.constexpr,
    CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr, BILINEAR: tl.constexpr, SHARED: tl.constexpr,
    SQUARED: tl.constexpr, PLACED: tl.constexpr, GROUPS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements, which adds its copies in ascending order."""
    tile = tl.program_id(0).to(tl.int64)
    first, numel = tl.cast(first, tl.int64), tl.cast(numel, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    index = tile * TILE + tl.arange(0, TILE)
    inside = index < numel
    wide = total.dtype.element_ty
    sums = tl.load(total + index, inside, other=0.0)
    squares = sums
    if SQUARED:
        squares = tl.load(square + index, inside, other=0.0)
    for i in range(count):
        placement = placements
        number = first + i
        row = number * 0
        if PLACED:
            placement = placements + tl.cast(i, tl.int64) * 8
            row = tl.load(placement + 6)
            number = tl.load(placement + 7)
        reached = True
        if BLOCKED:
            reached = may_cover(
                tile * TILE, tl.minimum((tile + 1) * TILE, numel), placement, height, width
            )
        if reached:
            if ELEMENTWISE:
                score = aligned_tile(tile, number, row, k0, k1, LAW, True, GROUPS)
            else:
                score = field_tile(
                    index, placement, number, row, k0, k1, height, width, cell_height,
                    cell_width, rows, columns, LAW, True, CELLS_Y, CELLS_X, BILINEAR, SHARED,
                )  # fmt: skip
            term = tl.load(weights + i) * score.to(wide)
            if BLOCKED:
                term = tl.where(covered(index, placement, height, width), term, 0.0)
            sums += term
            if SQUARED:
                squares += term * term
    tl.store(total + index, sums, inside)
    if SQUARED:
        tl.store(square + index, squares, inside)
