// Where the draws of a sample live: which element takes which draw, which block is noisy, how
// the grid of cells is shifted, and the signs of the two distributions that have only signs.
#pragma once

#include "spec.h"

namespace fwdgrad {

// The number of cells that can touch an axis, whatever the shift; a linear grid has the
// centres of cells, from one before the first to the last that an element can reach.
FWDGRAD_HD int64_t grid_length(int64_t length, int64_t cell, bool linear, bool jitters) {
  if (cell == 1) return length;
  const int64_t last = length - 1 + (jitters ? cell - 1 : 0);
  return (linear ? (2 * last + 3 * cell) / (2 * cell) : last / cell) + 1;
}

// Where an element of an axis lies on the grid: at line `low` or the fraction `rest` / `whole` of
// the way to the next. Nearest: the cell that it falls in, fraction 0. Linear: line 0 is the
// centre of the cell before the first.
struct GridPosition {
  int64_t low, rest, whole;
  int step;  // what the next element adds to rest
  bool between;

  FWDGRAD_HD static GridPosition of(int64_t index, int64_t shift, int64_t cell, bool linear) {
    if (cell == 1) return {index, 0, 1, 1, false};
    const int64_t at = linear ? 2 * (index + shift) + 1 + cell : index + shift;
    const int64_t whole = linear ? 2 * cell : cell;
    const int64_t low = at / whole;
    return {low, at - low * whole, whole, linear ? 2 : 1, linear};
  }
  FWDGRAD_HD float fraction() const {
    return between ? static_cast<float>(rest) / static_cast<float>(whole) : 0.0f;
  }
};

// The lines that take the draws of a sample, in this order but for a spec's own; with labels, as
// many columns as there are.
struct Grid {
  int64_t planes, layers, rows, columns;

  FWDGRAD_HD static Grid of(const Spec& spec) {
    if (spec.is_labelled()) return {1, 1, 1, spec.labels};
    return {spec.shared ? 1 : spec.leading,
            grid_length(spec.depth, spec.cell_depth, spec.linear, spec.jitters),
            grid_length(spec.height, spec.cell_height, spec.linear, spec.jitters),
            grid_length(spec.width, spec.cell_width, spec.linear, spec.jitters)};
  }
  FWDGRAD_HD int64_t lines() const { return planes * layers * rows * columns; }
};

FWDGRAD_HD int64_t draws_of(const Spec& spec) {
  return spec.labels ? spec.labels : Grid::of(spec).lines();
}

// One sample's block [y0, y1) x [x0, x1), cut at the border, and the shift of its grid.
struct Placement {
  int64_t y0, y1, x0, x1;
  int64_t shift_z, shift_y, shift_x;
};

// Uniform over 0 .. range - 1: the high half of word x range.
FWDGRAD_HD int64_t place(uint32_t word, int64_t range) {
  return static_cast<int64_t>(static_cast<uint64_t>(word) * static_cast<uint64_t>(range) >> 32);
}

// The smallest power of two not below the number of draws, less one.
FWDGRAD_HD uint64_t hadamard_mask(int64_t draws) {
  uint64_t mask = 0;
  while (mask + 1 < static_cast<uint64_t>(draws)) mask = mask * 2 + 1;
  return mask;
}

FWDGRAD_HD void place_axis(uint32_t word, int64_t length, int64_t block, int64_t* start,
                           int64_t* stop) {
  const int64_t from = block == length ? 0 : place(word, length + block - 1) - (block - 1);
  *start = from < 0 ? 0 : from;
  *stop = from + block > length ? length : from + block;
}

FWDGRAD_HD Placement placement_of(const Spec& spec, uint64_t sample) {
  const Key key = Key::of(spec.seed);
  const Words words = words_of(0, kPlacement, sample, key);
  Placement placement{};
  place_axis(words.w0, spec.height, spec.block_height, &placement.y0, &placement.y1);
  place_axis(words.w1, spec.width, spec.block_width, &placement.x0, &placement.x1);
  if (!spec.jitters) return placement;
  if (spec.distribution == Distribution::kHadamard)  // a group of samples shares its grid
    sample /= hadamard_mask(draws_of(spec)) + 1;
  const Words shifts = words_of(0, kPlacement, sample, key);
  placement.shift_y = place(shifts.w2, spec.cell_height);
  placement.shift_x = place(shifts.w3, spec.cell_width);
  if (spec.cell_depth > 1)
    placement.shift_z = place(words_of(1, kPlacement, sample, key).w0, spec.cell_depth);
  return placement;
}

// A sample's place in the Hadamard order: row r' of the matrix, and the group of samples that
// shares random signs.
struct HadamardRow {
  uint32_t row;
  uint64_t group;
};

// The order of rows in a group of samples.
struct HadamardOrder {
  uint64_t group, mask, step, start;

  FWDGRAD_HD static HadamardOrder of(uint64_t sample, uint64_t mask, Key key) {
    const uint64_t group = sample / (mask + 1);
    const Words order = words_of(0, kHadamardOrder, group, key);
    return {group, mask, order.w0 | 1u, order.w1};
  }
  FWDGRAD_HD uint32_t row(uint64_t sample) const {
    return static_cast<uint32_t>((step * (sample & mask) + start) & mask);
  }
};

FWDGRAD_HD HadamardRow hadamard_row(uint64_t sample, uint64_t mask, Key key) {
  const HadamardOrder order = HadamardOrder::of(sample, mask, key);
  return {order.row(sample), order.group};
}

FWDGRAD_HD uint32_t parity(uint32_t bits) {
  bits ^= bits >> 16;
  bits ^= bits >> 8;
  bits ^= bits >> 4;
  return 0x6996u >> (bits & 15u) & 1u;
}

// The 32 Hadamard signs of draws 32 `index` onwards, as bits that are set for -1: bit b is
// the parity of row & (32 index + b), which is that of the low five bits flipped or not by
// that of the rest.
FWDGRAD_HD uint32_t hadamard_word(uint32_t row, uint32_t index) {
  uint32_t low = 0;
  low ^= (row & 1u) ? 0xAAAAAAAAu : 0u;
  low ^= (row & 2u) ? 0xCCCCCCCCu : 0u;
  low ^= (row & 4u) ? 0xF0F0F0F0u : 0u;
  low ^= (row & 8u) ? 0xFF00FF00u : 0u;
  low ^= (row & 16u) ? 0xFFFF0000u : 0u;
  return low ^ (0u - parity(row & index << 5));
}

// All that a sample's number decides: 72 bytes, a row of the table that the GPU kernels read.
struct Placed {
  Placement at;
  uint64_t row;     // of the Hadamard matrix
  uint64_t number;  // the sample, or its group where groups share their random signs

  FWDGRAD_HD static Placed of(const Spec& spec, uint64_t sample, uint64_t mask) {
    Placed placed{placement_of(spec, sample), 0, sample};
    if (spec.distribution == Distribution::kHadamard) {
      const HadamardRow order = hadamard_row(sample, mask, Key::of(spec.seed));
      placed.row = order.row;
      placed.number = order.group;
    }
    return placed;
  }
};

}  // namespace fwdgrad
