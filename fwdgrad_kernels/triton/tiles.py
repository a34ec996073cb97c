"""What a program works on: a tile of elements, and the draws of one copy there."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import aligned_draws, field_draws
from fwdgrad_kernels.triton.laws import HADAMARD


@triton.jit
def tile_elements(
    tile, across, rows, columns, width,
    FLAT: tl.constexpr, UNIT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The elements of a tile of a view (rows, columns) of the input.

    FLAT: the view is one row of all elements; else it is the input's own rows. Returns the first
    element of each unit of UNIT consecutive ones; and of each element its index, its row and column
    in the input and whether it is there.
    """
    TILE_COLUMNS: tl.constexpr = TILE // TILE_ROWS
    UNITS: tl.constexpr = TILE_COLUMNS // UNIT
    top, left = (tile // across) * TILE_ROWS, (tile % across) * TILE_COLUMNS
    unit = tl.arange(0, TILE // UNIT)
    unit_row, unit_column = top + unit // UNITS, left + (unit % UNITS) * UNIT
    start = unit_row * columns + unit_column
    element = tl.arange(0, TILE)
    row, column = top + element // TILE_COLUMNS, left + element % TILE_COLUMNS
    inside = (row < rows) & (column < columns)
    index = row * columns + column
    if FLAT:
        row, column = index // width, index % width
    return start, index, row, column, inside


@triton.jit
def tile_reached(
    tile, across, columns, placement, height, width, numel,
    FLAT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Whether a copy's block may reach a tile (a scalar)."""
    TILE_COLUMNS: tl.constexpr = TILE // TILE_ROWS
    if FLAT:
        begin = tile * TILE
        first, last = begin // width, (tl.minimum(begin + TILE, numel) - 1) // width
        left, right = begin * 0, width
    else:
        first, left = (tile // across) * TILE_ROWS, (tile % across) * TILE_COLUMNS
        last = tl.minimum(first + TILE_ROWS, numel // width) - 1
        right = left + TILE_COLUMNS
    y0, y1 = tl.load(placement), tl.load(placement + 1)
    x0, x1 = tl.load(placement + 2), tl.load(placement + 3)
    one_plane = (first // height) == (last // height)
    beside = one_plane & (((last % height) < y0) | ((first % height) >= y1))
    return (~beside) & (left < x1) & (right > x0)


@triton.jit
def tile_covered(row, column, placement, height):
    """Which elements a copy's block covers."""
    y0, y1 = tl.load(placement), tl.load(placement + 1)
    x0, x1 = tl.load(placement + 2), tl.load(placement + 3)
    y = row % height
    return (y >= y0) & (y < y1) & (column >= x0) & (column < x1)


@triton.jit
def tile_draws(
    start, index, row, column, placement, copy, k0, k1, stream, height, width,
    cell_height, cell_width, grid_rows, grid_columns, shared,
    LAW: tl.constexpr, SCORE: tl.constexpr, ELEMENTWISE: tl.constexpr, CELLS_Y: tl.constexpr,
    CELLS_X: tl.constexpr, BILINEAR: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """xi_i of a copy at a tile, or its score; also beside the copy's block."""
    number, order = copy, copy * 0
    if LAW == HADAMARD:
        order, number = tl.load(placement + 6), tl.load(placement + 7)
    if ELEMENTWISE:
        drawn = aligned_draws(start, index, number, order, k0, k1, stream, LAW, SCORE, TILE)
    else:
        drawn = field_draws(
            row // height, row % height, column, placement, number, order, k0, k1, stream,
            cell_height, cell_width, grid_rows, grid_columns, shared, LAW, SCORE, CELLS_Y,
            CELLS_X, BILINEAR,
        )  # fmt: skip
    return drawn
