"""accumulate_: the weighted sum of scores, made again; reads weights, placements and draws."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import CHANGING, PLACEMENT_COLUMNS
from fwdgrad_kernels.triton.tiles import (
    tile_covered,
    tile_draws,
    tile_elements,
    tile_positions,
    tile_reached,
)


@triton.jit(do_not_specialize=CHANGING, do_not_specialize_on_alignment=("weights",))
def accumulate_kernel(
    total, square, weights, placements, table, first: tl.int64, k0: tl.uint32, k1: tl.uint32,
    stream, count, before, draws, numel, view, sizes, cells, lines, shared,
    DISTRIBUTION: tl.constexpr, SQUARED: tl.constexpr, GOES_ON: tl.constexpr, BLOCKED: tl.constexpr,
    ELEMENTWISE: tl.constexpr, LABELS: tl.constexpr, JITTERS: tl.constexpr, CELLS: tl.constexpr,
    LINEAR: tl.constexpr, LARGE: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements and a chunk of samples, for a total of that chunk's own.

    The chunk's samples are summed from 0 in ascending order, and the sum is added to the total;
    GOES_ON: the total is the sum so far of the one chunk that all samples are of. `before` samples
    of the first chunk are not in this call.
    """
    chunk = tl.program_id(1)
    first = tl.cast(first, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    height, width = sizes[1], sizes[2]
    tile, start, index, row, column, inside = tile_elements(
        view, width, LARGE, FLAT, UNIT, TILE_ROWS, TILE
    )
    at, into, down, across = tile_positions(
        row, column, index, inside, placements, placements, 1, 1, sizes, cells, lines, shared,
        ELEMENTWISE, LABELS, False, CELLS, LINEAR,
    )  # fmt: skip
    total += chunk.to(tl.int64) * numel
    square += chunk.to(tl.int64) * numel
    sums = tl.zeros((TILE,), total.dtype.element_ty)
    squares = sums
    if GOES_ON:
        sums = tl.load(total + index, inside, other=0.0)
        if SQUARED:
            squares = tl.load(square + index, inside, other=0.0)
    begin = tl.maximum(chunk * CHUNK - before, 0)
    for i in range(begin, tl.minimum((chunk + 1) * CHUNK - before, count)):
        sample = tl.cast(i, tl.int64)
        placement = placements + sample * PLACEMENT_COLUMNS
        reached = True
        if BLOCKED:
            reached = tile_reached(
                tile, view, placement, height, width, numel, FLAT, TILE_ROWS, TILE
            )
        if reached:
            if JITTERS:
                at, into, down, across = tile_positions(
                    row, column, index, inside, placement, placements, 1, 1, sizes, cells, lines,
                    shared, ELEMENTWISE, LABELS, True, CELLS, LINEAR,
                )  # fmt: skip
            score = tile_draws(
                start, index, at, into, down, across, inside, table, draws, sample, placement,
                first, k0, k1, stream, lines, DISTRIBUTION, True, ELEMENTWISE, CELLS, LINEAR, TILE,
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
    if not GOES_ON:
        sums += tl.load(total + index, inside, other=0.0)
        if SQUARED:
            squares += tl.load(square + index, inside, other=0.0)
    tl.store(total + index, sums, inside)
    if SQUARED:
        tl.store(square + index, squares, inside)
