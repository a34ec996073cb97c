"""expand: what a grid's values are at the elements."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import grid_position


@triton.jit
def between(low, high, fraction, SQUARED: tl.constexpr):
    rest = 1.0 - fraction
    if SQUARED:
        value = rest * rest * low + fraction * fraction * high
    else:
        value = rest * low + fraction * high
    return tl.where(fraction != 0, value, low)


@triton.jit
def expand_kernel(
    out, values, numel, height, width, cell_height, cell_width, rows, columns,
    CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr, BILINEAR: tl.constexpr, SQUARED: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements. A line without weight is not read."""
    index = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = index < numel
    row, x = index // width, index % width
    line, down = grid_position(row % height, x * 0, cell_height, CELLS_Y, BILINEAR)
    column, across = grid_position(x, x * 0, cell_width, CELLS_X, BILINEAR)
    at = values + ((row // height) * rows + line) * columns + column
    kind: tl.constexpr = out.dtype.element_ty
    down, across = down.to(kind), across.to(kind)
    value = tl.load(at, inside, other=0.0)
    if BILINEAR:
        right = inside & (across != 0)
        below = inside & (down != 0)
        value = between(value, tl.load(at + 1, right, other=0.0), across, SQUARED)
        low = tl.load(at + columns, below, other=0.0)
        low = between(low, tl.load(at + columns + 1, right & below, other=0.0), across, SQUARED)
        value = between(value, low, down, SQUARED)
    tl.store(out + index, value, inside)
