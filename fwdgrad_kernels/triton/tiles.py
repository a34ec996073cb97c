"""What a program works on: a tile of elements, and the draws of one sample there."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import aligned_draws, drawn_as
from fwdgrad_kernels.triton.features import grid_position, spread


@triton.jit
def tile_elements(
    view, width, LARGE: tl.constexpr, FLAT: tl.constexpr, UNIT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The elements of a program's tile of a view (tiles across, rows, columns) of the input.

    FLAT: the view is one row of all elements; else it is the input's own rows. LARGE: they need 64
    bits, which take twice the registers, and divisions many times the time. Returns the tile's
    number; the first element of each unit of UNIT consecutive ones; and of each element its index,
    its row and column in the input and whether it is there.
    """
    tile = tl.program_id(0)
    if LARGE:
        tile = tile.to(tl.int64)
    TILE_COLUMNS: tl.constexpr = TILE // TILE_ROWS
    UNITS: tl.constexpr = TILE_COLUMNS // UNIT
    across, rows, columns = view[0], view[1], view[2]
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
    return tile, start, index, row, column, inside


@triton.jit
def tile_reached(
    tile, view, placement, height, width, numel,
    FLAT: tl.constexpr, TILE_ROWS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Whether a sample's block may reach a tile (a scalar)."""
    TILE_COLUMNS: tl.constexpr = TILE // TILE_ROWS
    if FLAT:
        begin = tile * TILE
        first, last = begin // width, (tl.minimum(begin + TILE, numel) - 1) // width
        left, right = begin * 0, width
    else:
        first, left = (tile // view[0]) * TILE_ROWS, (tile % view[0]) * TILE_COLUMNS
        last = tl.minimum(first + TILE_ROWS, numel // width) - 1
        right = left + TILE_COLUMNS
    y0, y1 = tl.load(placement), tl.load(placement + 1)
    x0, x1 = tl.load(placement + 2), tl.load(placement + 3)
    one_plane = (first // height) == (last // height)
    beside = one_plane & (((last % height) < y0) | ((first % height) >= y1))
    return (~beside) & (left < x1) & (right > x0)


@triton.jit
def tile_covered(row, column, placement, height):
    """Which elements a sample's block covers."""
    y0, y1 = tl.load(placement).to(row.dtype), tl.load(placement + 1).to(row.dtype)
    x0, x1 = tl.load(placement + 2).to(row.dtype), tl.load(placement + 3).to(row.dtype)
    y = row % height
    return (y >= y0) & (y < y1) & (column >= x0) & (column < x1)


@triton.jit
def tile_positions(
    row, column, index, inside, placement, labels, inner, period, sizes, cells, lines, shared,
    ELEMENTWISE: tl.constexpr, LABELS: tl.constexpr, JITTERS: tl.constexpr, CELLS: tl.constexpr,
    LINEAR: tl.constexpr,
):  # fmt: skip
    """Where each element's value lies in a table of draws, and the fractions to the next ones."""
    into = (column * 0).to(tl.float32)
    at, down, across = index, into, into
    if LABELS:
        at = tl.load(labels + (index // inner) % period, inside, other=0).to(index.dtype)
    elif not ELEMENTWISE:
        at, into, down, across = grid_position(
            row, column, placement, sizes, cells, lines, shared, JITTERS, CELLS, LINEAR
        )
    return at, into, down, across


@triton.jit
def tile_draws(
    start, index, at, into, down, across, inside, table, draws, sample, placement, first, k0, k1,
    stream, lines,
    DISTRIBUTION: tl.constexpr, SCORE: tl.constexpr, ELEMENTWISE: tl.constexpr, CELLS: tl.constexpr,
    LINEAR: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """xi_i of a sample at a tile, or its score; also beside the sample's block."""
    if ELEMENTWISE:
        number, row = drawn_as(placement, first + sample, DISTRIBUTION)
        drawn = aligned_draws(start, index, number, row, k0, k1, stream, DISTRIBUTION, SCORE, TILE)
    else:
        drawn = spread(
            table + sample * draws, at, into, down, across, inside, lines, CELLS, LINEAR, False
        )
    return drawn
