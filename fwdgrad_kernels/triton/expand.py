"""expand: what a grid's values are at the elements."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.features import grid_position, spread


@triton.jit
def expand_kernel(
    out, values, placement, numel, sizes, cells, lines,
    LARGE: tl.constexpr, JITTERS: tl.constexpr, CELLS: tl.constexpr, LINEAR: tl.constexpr,
    SQUARED: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements."""
    tile = tl.program_id(0)
    if LARGE:
        tile = tile.to(tl.int64)
    index = tile * TILE + tl.arange(0, TILE)
    at, into, down, across = grid_position(
        index // sizes[2],
        index % sizes[2],
        placement,
        sizes,
        cells,
        lines,
        0,
        JITTERS,
        CELLS,
        LINEAR,
    )
    inside = index < numel
    value = spread(values, at, into, down, across, inside, lines, CELLS, LINEAR, SQUARED)
    tl.store(out + index, value, inside)
