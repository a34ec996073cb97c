"""What features' values are at elements: Phi, the twin of draws.h's grid positions.

CELLS says which axes are cut into cells: 1 the last, 2 the second last, 4 the third last. sizes
(elements), cells (elements of each) and lines (of draws) are of the axes (depth, height, width).
"""

import triton
import triton.language as tl


@triton.jit
def axis_position(index, shift, cell, DIVIDED: tl.constexpr, LINEAR: tl.constexpr):
    """The grid line at or below an element of an axis, and the fraction of the way to the next."""
    line = index
    fraction = (index * 0).to(tl.float32)
    if DIVIDED:
        if LINEAR:
            twice = 2 * (index + shift) + 1 + cell
            line = twice // (2 * cell)
            fraction = (twice - line * 2 * cell).to(tl.float32) / tl.cast(2 * cell, tl.float32)
        else:
            line = (index + shift) // cell
    return line, fraction


@triton.jit
def grid_position(
    row, column, placement, sizes, cells, lines, shared,
    JITTERS: tl.constexpr, CELLS: tl.constexpr, LINEAR: tl.constexpr,
):  # fmt: skip
    """The draw at or before each element on every axis, and the three fractions to the next."""
    shift_z, shift_y, shift_x = 0, 0, 0
    if JITTERS:
        shift_z = tl.load(placement + 4).to(row.dtype)
        shift_y = tl.load(placement + 5).to(row.dtype)
        shift_x = tl.load(placement + 6).to(row.dtype)
    plane = row // sizes[1]
    y, z, plane = row % sizes[1], plane % sizes[0], plane // sizes[0]
    plane = tl.where(shared != 0, plane * 0, plane)
    layer, into = axis_position(z, shift_z, cells[0], (CELLS & 4) != 0, LINEAR)
    line, down = axis_position(y, shift_y, cells[1], (CELLS & 2) != 0, LINEAR)
    place, across = axis_position(column, shift_x, cells[2], (CELLS & 1) != 0, LINEAR)
    at = ((plane * lines[0] + layer) * lines[1] + line) * lines[2] + place
    return at, into, down, across


@triton.jit
def between(low, high, fraction, SQUARED: tl.constexpr):
    """high is 0 where the fraction is."""
    fraction = fraction.to(low.dtype)
    rest = 1.0 - fraction
    if SQUARED:
        rest, fraction = rest * rest, fraction * fraction
    return rest * low + fraction * high


@triton.jit
def along_x(
    values, at, inside, across, CELLS: tl.constexpr, LINEAR: tl.constexpr, SQUARED: tl.constexpr
):
    value = tl.load(values + at, inside, other=0.0)
    if LINEAR and (CELLS & 1):
        next = tl.load(values + at + 1, inside & (across != 0), other=0.0)
        value = between(value, next, across, SQUARED)
    return value


@triton.jit
def along_y(
    values, at, inside, down, across, lines,
    CELLS: tl.constexpr, LINEAR: tl.constexpr, SQUARED: tl.constexpr,
):  # fmt: skip
    value = along_x(values, at, inside, across, CELLS, LINEAR, SQUARED)
    if LINEAR and (CELLS & 2):
        there = inside & (down != 0)
        next = along_x(values, at + lines[2], there, across, CELLS, LINEAR, SQUARED)
        value = between(value, next, down, SQUARED)
    return value


@triton.jit
def spread(
    values, at, into, down, across, inside, lines,
    CELLS: tl.constexpr, LINEAR: tl.constexpr, SQUARED: tl.constexpr,
):  # fmt: skip
    """Phi values, or by the squares of its weights. A line without weight is not read."""
    value = along_y(values, at, inside, down, across, lines, CELLS, LINEAR, SQUARED)
    if LINEAR and (CELLS & 4):
        there, layer = inside & (into != 0), lines[1] * lines[2]
        next = along_y(values, at + layer, there, down, across, lines, CELLS, LINEAR, SQUARED)
        value = between(value, next, into, SQUARED)
    return value
