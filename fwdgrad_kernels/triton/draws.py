"""Where the draws of a copy live, the twin of draws.h; and tiles of unit noise or scores.

A copy's placement is a row of eight int64: y0, y1, x0, x1 (its block), shift y, shift x (its
grid), row, group (of the Hadamard matrix).
"""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.laws import (
    HADAMARD,
    NORMAL,
    RADEMACHER,
    four_words,
    normal_pair,
    one_word,
)
from fwdgrad_kernels.triton.philox import (
    HADAMARD_ORDER,
    HADAMARD_SIGNS,
    PLACEMENT,
    words_of,
)

PLACEMENT_COLUMNS = 8


@triton.jit
def place(word, range_):
    """Uniform over 0 .. range - 1: the high half of word x range."""
    return ((word.to(tl.uint64) * range_.to(tl.uint64)) >> 32).to(tl.int64)


@triton.jit
def place_axis(word, length, block):
    start = tl.where(block == length, 0, place(word, length + block - 1) - (block - 1))
    return tl.maximum(start, 0), tl.minimum(start + block, length)


@triton.jit
def real(bits, wide: tl.constexpr):
    """A float64 that came as the integer of its bits: Triton would pass a float as float32."""
    return tl.cast(bits, tl.int64).to(tl.float64, bitcast=True).to(wide)


@triton.jit
def placements_kernel(
    out, count, first, k0, k1, height, width, block_height, block_width, shifts_y, shifts_x,
    mask, IS_HADAMARD: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Writes the first COLUMNS (4 or 8) columns of the placements of copies first onwards."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < count
    copies = tl.cast(first, tl.int64) + i.to(tl.int64)
    zero = copies * 0
    nought = tl.zeros((SIZE,), tl.uint32)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    w0, w1, w2, w3 = words_of(nought, PLACEMENT, copies, k0, k1)
    y0, y1 = place_axis(w0, zero + height, zero + block_height)
    x0, x1 = place_axis(w1, zero + width, zero + block_width)
    row = out + i.to(tl.int64) * COLUMNS
    tl.store(row, y0, inside)
    tl.store(row + 1, y1, inside)
    tl.store(row + 2, x0, inside)
    tl.store(row + 3, x1, inside)
    if COLUMNS == 8:
        group = copies
        order = zero
        if IS_HADAMARD:  # a group of copies shares its grid and its random signs
            group = copies // (mask + 1)
            _, _, w2, w3 = words_of(nought, PLACEMENT, group, k0, k1)
            a, b, _, _ = words_of(nought, HADAMARD_ORDER, group, k0, k1)
            order = ((a | 1).to(tl.int64) * (copies & mask) + b.to(tl.int64)) & mask
        tl.store(row + 4, place(w2, zero + shifts_y), inside)
        tl.store(row + 5, place(w3, zero + shifts_x), inside)
        tl.store(row + 6, order, inside)
        tl.store(row + 7, group, inside)


@triton.jit
def parity(bits):
    bits = bits ^ (bits >> 16)
    bits = bits ^ (bits >> 8)
    bits = bits ^ (bits >> 4)
    bits = bits ^ (bits >> 2)
    return (bits ^ (bits >> 1)) & 1


@triton.jit
def four_to_one(a, b, c, d):
    """[n] four times to [4n], element 4 i + j from the j-th."""
    both = tl.join(tl.join(a, c), tl.join(b, d))  # [n, 2, 2]: j = 2 middle + last
    return tl.reshape(both, (a.shape[0] * 4,))


@triton.jit
def sign_word(word, copy, row, k0, k1, stream, LAW: tl.constexpr):
    """The 32 signs of a word as bits, set for +1; of hadamard, those of its random signs."""
    group = (word // 4).to(tl.uint32)
    if LAW == HADAMARD:
        w0, w1, w2, w3 = words_of(group, HADAMARD_SIGNS, copy, k0, k1)
    else:
        w0, w1, w2, w3 = words_of(group, stream, copy, k0, k1)
    which = word % 4
    return tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))


@triton.jit
def aligned_draws(
    start,
    index,
    copy,
    row,
    k0,
    k1,
    stream,
    LAW: tl.constexpr,
    SCORE: tl.constexpr,
    TILE: tl.constexpr,
):
    """Draws of whole units from element `start` of each on: a Philox call for a unit.

    A unit is a group of four of a real-valued law, or a word of 32 signs.
    """
    if LAW == RADEMACHER or LAW == HADAMARD:  # noqa: SIM109
        words = sign_word(start // 32, copy, row, k0, k1, stream, LAW)
        bits = (words[:, None] >> tl.arange(0, 32).to(tl.uint32)[None, :]) & 1
        bits = tl.reshape(bits, (TILE,))
        if LAW == HADAMARD:
            bits = bits ^ parity((index & row).to(tl.uint32))
        values = tl.where(bits != 0, 1.0, -1.0)
    else:
        w0, w1, w2, w3 = words_of((start // 4).to(tl.uint32), stream, copy, k0, k1)
        a, b, c, d = four_words(w0, w1, w2, w3, LAW, SCORE)
        values = four_to_one(a, b, c, d)
    return values


@triton.jit
def draw_at(index, copy, row, k0, k1, stream, LAW: tl.constexpr, SCORE: tl.constexpr):
    """Any draws of a copy: a Philox call for each."""
    if LAW == RADEMACHER or LAW == HADAMARD:  # noqa: SIM109
        word = sign_word(index // 32, copy, row, k0, k1, stream, LAW)
        bits = (word >> (index % 32).to(tl.uint32)) & 1
        if LAW == HADAMARD:
            bits = bits ^ parity((index & row).to(tl.uint32))
        value = tl.where(bits != 0, 1.0, -1.0)
    else:
        w0, w1, w2, w3 = words_of((index // 4).to(tl.uint32), stream, copy, k0, k1)
        which = index % 4
        if LAW == NORMAL:
            a, b = normal_pair(tl.where(which < 2, w0, w2), tl.where(which < 2, w1, w3))
            value = tl.where(which % 2 == 0, a, b)
        else:
            word = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
            value = one_word(word, LAW, SCORE)
    return value


@triton.jit
def grid_position(index, shift, cell, CELLS: tl.constexpr, BILINEAR: tl.constexpr):
    """The grid line at or below an element of an axis, and the fraction of the way to the next."""
    if CELLS:
        if BILINEAR:
            twice = 2 * (index + shift) + 1 + cell
            line = twice // (2 * cell)
            fraction = (twice - line * 2 * cell).to(tl.float32) / tl.cast(2 * cell, tl.float32)
        else:
            line = (index + shift) // cell
            fraction = (index * 0).to(tl.float32)
    else:
        line = index
        fraction = (index * 0).to(tl.float32)
    return line, fraction


@triton.jit
def field_draws(
    plane, y, x, placement, copy, row, k0, k1, stream, cell_height, cell_width, rows, columns,
    shared,
    LAW: tl.constexpr, SCORE: tl.constexpr, CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr,
    BILINEAR: tl.constexpr,
):  # fmt: skip
    """The field of a copy, or of its scores, at elements that share draws."""
    plane = tl.where(shared != 0, plane * 0, plane)
    line, down = grid_position(y, tl.load(placement + 4), cell_height, CELLS_Y, BILINEAR)
    column, across = grid_position(x, tl.load(placement + 5), cell_width, CELLS_X, BILINEAR)
    at = (plane * rows + line) * columns + column
    value = draw_at(at, copy, row, k0, k1, stream, LAW, SCORE)
    if BILINEAR:  # down first, as the CPU kernels do
        right = value
        if CELLS_Y:
            low = draw_at(at + columns, copy, row, k0, k1, stream, LAW, SCORE)
            value = value + down * (low - value)
        if CELLS_X:
            right = draw_at(at + 1, copy, row, k0, k1, stream, LAW, SCORE)
            if CELLS_Y:
                low = draw_at(at + columns + 1, copy, row, k0, k1, stream, LAW, SCORE)
                right = right + down * (low - right)
            value = value + across * (right - value)
    return value
