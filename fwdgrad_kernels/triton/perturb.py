"""perturb: x + scale J_i xi_i for a micro-batch of copies, in one kernel."""

import triton
import triton.language as tl

from fwdgrad_kernels.triton.draws import aligned_tile, covered, field_tile, may_cover, real


@triton.jit
def perturb_kernel(
    out, x, scale_map, placements, scale, low, high, first, k0, k1, count, numel, tiles,
    height, width, cell_height, cell_width, rows, columns,
    LAW: tl.constexpr, MAPPED: tl.constexpr, BLOCKED: tl.constexpr, ELEMENTWISE: tl.constexpr,
    CELLS_Y: tl.constexpr, CELLS_X: tl.constexpr, BILINEAR: tl.constexpr, SHARED: tl.constexpr,
    PAIRS: tl.constexpr, CLIPS: tl.constexpr, PLACED: tl.constexpr, WIDE: tl.constexpr,
    GROUPS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program: a tile of elements of one copy, and of its opposite with PAIRS."""
    program = tl.program_id(0).to(tl.int64)
    first, numel = tl.cast(first, tl.int64), tl.cast(numel, tl.int64)
    k0, k1 = tl.cast(k0, tl.uint32), tl.cast(k1, tl.uint32)
    copy, tile = program // tiles, program % tiles
    index = tile * TILE + tl.arange(0, TILE)
    inside = index < numel
    at = copy * numel + index
    number = first + copy
    row = copy * 0
    placement = placements
    if PLACED:
        placement = placements + copy * 8
        row = tl.load(placement + 6)
        number = tl.load(placement + 7)  # of the copy, or of its Hadamard group
    wide: tl.constexpr = tl.float64 if WIDE else tl.float32
    value = tl.load(x + index, inside, other=0.0).to(wide)
    noise = tl.zeros((TILE,), tl.float32)
    reached = True
    if BLOCKED:
        reached = may_cover(
            tile * TILE, tl.minimum((tile + 1) * TILE, numel), placement, height, width
        )
    if reached:
        if ELEMENTWISE:
            noise = aligned_tile(tile, number, row, k0, k1, LAW, False, GROUPS)
        else:
            noise = field_tile(
                index, placement, number, row, k0, k1, height, width, cell_height, cell_width,
                rows, columns, LAW, False, CELLS_Y, CELLS_X, BILINEAR, SHARED,
            )  # fmt: skip
        if BLOCKED:
            noise = tl.where(covered(index, placement, height, width), noise, 0.0)
    lowest, highest = real(low, wide), real(high, wide)
    step = noise.to(wide) * real(scale, wide)
    if MAPPED:
        step = step * tl.load(scale_map + index, inside, other=0.0)
    plus = value + step
    if CLIPS:
        plus = tl.where(plus < lowest, lowest, plus)
        plus = tl.where(plus > highest, highest, plus)
    tl.store(out + at, plus.to(out.dtype.element_ty), inside)
    if PAIRS:
        minus = value - step
        if CLIPS:
            minus = tl.where(minus < lowest, lowest, minus)
            minus = tl.where(minus > highest, highest, minus)
        tl.store(
            out + tl.cast(count, tl.int64) * numel + at, minus.to(out.dtype.element_ty), inside
        )
