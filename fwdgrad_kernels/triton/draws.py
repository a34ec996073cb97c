"""Where the draws of a sample live, the twin of draws.h; and tables of the draws of features.

A sample's placement is a row of nine int64: y0, y1, x0, x1 (its block), shift z, shift y, shift x
(its grid), row (of the Hadamard matrix), number (of the sample, or of the group that shares random
signs).
"""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.distributions import HADAMARD, RADEMACHER, four_words
from fwdgrad_kernels.triton.philox import HADAMARD_ORDER, HADAMARD_SIGNS, PLACEMENT, words_of

PLACEMENT_COLUMNS = tl.constexpr(9)
BLOCK_COLUMNS = tl.constexpr(4)
# What changes from call to call, or from features to features: Triton would compile anew where one
# of these is 1, or a multiple of 16, or no longer fits 32 bits. Those that change from call to call
# and may not fit have their type in the signature.
CHANGING = ("first", "k0", "k1", "stream", "count", "before", "opposite", "holds", "low")
CHANGING += ("high", "position", "scale", "floor", "factor", "confidence", "start_far")
CHANGING += ("start_near", "draws", "mask", "shared", "inner", "period")


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


@triton.jit(do_not_specialize=CHANGING)
def placements_kernel(
    out, count, first: tl.int64, k0: tl.uint32, k1: tl.uint32, height, width, block_height,
    block_width, shifts, mask: tl.int64,
    IS_HADAMARD: tl.constexpr, COLUMNS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Writes the first COLUMNS (those of the block, or all) of the placements of samples."""
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    inside = i < count
    samples = tl.cast(first, tl.int64) + i.to(tl.int64)
    zero = samples * 0
    nought = tl.zeros((SIZE,), tl.uint32)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    w0, w1, w2, w3 = words_of(nought, PLACEMENT, samples, k0, k1)
    y0, y1 = place_axis(w0, zero + height, zero + block_height)
    x0, x1 = place_axis(w1, zero + width, zero + block_width)
    row = out + i.to(tl.int64) * COLUMNS
    tl.store(row, y0, inside)
    tl.store(row + 1, y1, inside)
    tl.store(row + 2, x0, inside)
    tl.store(row + 3, x1, inside)
    if COLUMNS == PLACEMENT_COLUMNS:
        number = samples
        order = zero
        if IS_HADAMARD:  # a group of samples shares its grid and its random signs
            mask = tl.cast(mask, tl.int64)
            number = samples // (mask + 1)
            _, _, w2, w3 = words_of(nought, PLACEMENT, number, k0, k1)
            a, b, _, _ = words_of(nought, HADAMARD_ORDER, number, k0, k1)
            order = ((a | 1).to(tl.int64) * (samples & mask) + b.to(tl.int64)) & mask
        w4, _, _, _ = words_of(nought + 1, PLACEMENT, number, k0, k1)
        tl.store(row + 4, place(w4, zero + shifts[0]), inside)
        tl.store(row + 5, place(w2, zero + shifts[1]), inside)
        tl.store(row + 6, place(w3, zero + shifts[2]), inside)
        tl.store(row + 7, order, inside)
        tl.store(row + 8, number, inside)


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
def sign_word(word, sample, k0, k1, stream, DISTRIBUTION: tl.constexpr):
    """The 32 signs of a word as bits, set for +1; of hadamard, those of its random signs."""
    group = (word // 4).to(tl.uint32)
    if DISTRIBUTION == HADAMARD:
        w0, w1, w2, w3 = words_of(group, HADAMARD_SIGNS, sample, k0, k1)
    else:
        w0, w1, w2, w3 = words_of(group, stream, sample, k0, k1)
    which = word % 4
    return tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))


@triton.jit
def aligned_draws(
    start, index, sample, row, k0, k1, stream,
    DISTRIBUTION: tl.constexpr, SCORE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Draws of whole units from element `start` of each on: a Philox call for a unit.

    A unit is a group of four of a real-valued distribution, or a word of 32 signs.
    """
    if DISTRIBUTION == RADEMACHER or DISTRIBUTION == HADAMARD:  # noqa: SIM109
        words = sign_word(start // 32, sample, k0, k1, stream, DISTRIBUTION)
        bits = (words[:, None] >> tl.arange(0, 32).to(tl.uint32)[None, :]) & 1
        bits = tl.reshape(bits, (TILE,))
        if DISTRIBUTION == HADAMARD:
            bits = bits ^ parity((index & row.to(index.dtype)).to(tl.uint32))
        values = tl.where(bits != 0, 1.0, -1.0)
    else:
        w0, w1, w2, w3 = words_of((start // 4).to(tl.uint32), stream, sample, k0, k1)
        a, b, c, d = four_words(w0, w1, w2, w3, DISTRIBUTION, SCORE)
        values = four_to_one(a, b, c, d)
    return values


@triton.jit
def drawn_as(placement, sample, DISTRIBUTION: tl.constexpr):
    """The number that a sample's draws are made from, and its row of the Hadamard matrix."""
    number, row = sample, sample * 0
    if DISTRIBUTION == HADAMARD:
        row, number = tl.load(placement + 7), tl.load(placement + 8)
    return number, row


@triton.jit(do_not_specialize=CHANGING)
def draws_kernel(
    out, placements, first: tl.int64, k0: tl.uint32, k1: tl.uint32, stream, draws,
    DISTRIBUTION: tl.constexpr, SCORE: tl.constexpr, UNIT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of the draws of one sample, or of their scores; out is (count, draws)."""
    sample = tl.program_id(1).to(tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    placement = placements + sample * PLACEMENT_COLUMNS
    number, row = drawn_as(placement, tl.cast(first, tl.int64) + sample, DISTRIBUTION)
    begin = tl.program_id(0).to(tl.int64) * TILE
    start, index = begin + tl.arange(0, TILE // UNIT) * UNIT, begin + tl.arange(0, TILE)
    values = aligned_draws(start, index, number, row, k0, k1, stream, DISTRIBUTION, SCORE, TILE)
    tl.store(out + sample * draws + index, values, index < draws)
