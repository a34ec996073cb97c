// Features as one thread sees them: where four elements of a row lie on the grid of draws, and what
// they take from the table of draws.
#pragma once

#include "draws.h"

namespace fwdgrad::cuda {

// The draws of samples as `draw` leaves them: signs as bits, 32 in a word, others as floats.
struct Table {
  const uint32_t* words;
  int64_t stride;  // words of a sample
  bool signs;

  FWDGRAD_HD const uint32_t* of(int64_t sample) const { return words + sample * stride; }
  FWDGRAD_HD float at(const uint32_t* own, int64_t k) const {
    return signs ? sign_of(own[k / 32] >> (k & 31), 0) : bit_cast<float>(own[k]);
  }
};

// An axis of the grid, the same for all threads: a step is what the next element adds to `rest`.
struct Axis {
  int64_t cell, whole;
  float per_step;
  int step;
  bool linear, between;

  static Axis of(int64_t cell, bool linear) {
    const GridPosition at = GridPosition::of(0, 0, cell, linear);
    return {cell, at.whole, 1.0f / static_cast<float>(at.whole), at.step, linear, at.between};
  }
};

// An element's place on an axis: at line `low`, or `rest` of axis.whole steps on the way to the
// next. Found by a division once; a thread then moves by less than a cell, which leads at most one
// line further.
struct Place {
  int64_t low, rest;

  FWDGRAD_HD static Place of(int64_t index, const Axis& axis) {
    const GridPosition at = GridPosition::of(index, 0, axis.cell, axis.linear);
    return {at.low, at.rest};
  }
  FWDGRAD_HD Place moved(int64_t elements, const Axis& axis) const {
    const int64_t after = rest + axis.step * elements;
    return after < axis.whole ? Place{low, after} : Place{low + 1, after - axis.whole};
  }
  // Whether the next line has any weight: else there may be none.
  FWDGRAD_HD bool reaches_next(const Axis& axis) const { return axis.between && rest != 0; }
  FWDGRAD_HD float fraction(const Axis& axis) const {
    return axis.between ? static_cast<float>(static_cast<uint32_t>(rest)) * axis.per_step : 0.0f;
  }
};

struct Axes {
  Grid grid;
  Axis z, y, x;

  static Axes of(const Spec& spec) {
    return {Grid::of(spec), Axis::of(spec.cell_depth, spec.linear),
            Axis::of(spec.cell_height, spec.linear), Axis::of(spec.cell_width, spec.linear)};
  }
  FWDGRAD_HD int64_t line(int64_t plane, int64_t layer, int64_t row) const {
    return ((plane * grid.layers + layer) * grid.rows + row) * grid.columns;
  }
};

constexpr int kAcross = 4;  // elements of a row that a thread has

// Which elements a thread has: of planes plane .. plane + planes - 1 those at (z, y, x) and after.
struct Piece {
  int64_t plane, z, y, x;
  int inside;  // how many of them the row has

  // Pieces are numbered along rows, then along height, depth and groups of planes.
  FWDGRAD_HD static Piece at(int64_t thread, const Spec& spec, int planes) {
    const int64_t pieces = (spec.width + kAcross - 1) / kAcross;
    const int64_t row = thread / pieces, layer = row / spec.height, group = layer / spec.depth;
    const int64_t x = (thread - row * pieces) * kAcross;
    return {group * planes, layer - group * spec.depth, row - layer * spec.height, x,
            static_cast<int>(spec.width - x < kAcross ? spec.width - x : kAcross)};
  }
  static int64_t count(const Spec& spec, int64_t planes, int64_t each) {
    return (planes + each - 1) / each * spec.depth * spec.height *
           ((spec.width + kAcross - 1) / kAcross);
  }
};

// What the elements of a piece take from a sample's draws.
struct Taken {
  int64_t plane;
  Place z, y, x;  // x: of the first element
  int32_t label[kAcross];
  int inside;
  bool labelled;

  FWDGRAD_HD static Taken of(const Piece& piece, const Spec& spec, const Axes& axes,
                             bool may_be_labelled) {
    Taken taken{spec.shared ? 0 : piece.plane,
                Place::of(piece.z, axes.z),
                Place::of(piece.y, axes.y),
                Place::of(piece.x, axes.x),
                {},
                piece.inside,
                may_be_labelled && spec.is_labelled()};
    const int64_t first =
        ((piece.plane * spec.depth + piece.z) * spec.height + piece.y) * spec.width + piece.x;
    for (int j = 0; taken.labelled && j < kAcross; ++j)
      taken.label[j] =
          spec.mask[(first + (j < piece.inside ? j : 0)) / spec.label_inner % spec.label_period];
    return taken;
  }
  // shift: where the sample's grid lies, or null.
  FWDGRAD_HD void values(const Table& table, int64_t sample, const Axes& axes,
                         const Placement* shift, float* out) const {
    const uint32_t* const own = table.of(sample);
    if (labelled) {
      for (int j = 0; j < kAcross; ++j) out[j] = table.at(own, label[j]);
      return;
    }
    const Place layer = z.moved(shift ? shift->shift_z : 0, axes.z);
    const Place row = y.moved(shift ? shift->shift_y : 0, axes.y);
    const Place first = x.moved(shift ? shift->shift_x : 0, axes.x);
#pragma unroll 1
    for (int l = 0; l <= layer.reaches_next(axes.z); ++l) {
      float here[kAcross];
#pragma unroll 1
      for (int r = 0; r <= row.reaches_next(axes.y); ++r) {
        const int64_t line = axes.line(plane, layer.low + l, row.low + r);
        Place across = first;
        for (int j = 0; j < kAcross; ++j) {
          float value = 0.0f;
          if (j < inside) {  // the grid may end with the row
            value = table.at(own, line + across.low);
            if (across.reaches_next(axes.x))
              value += across.fraction(axes.x) * (table.at(own, line + across.low + 1) - value);
          }
          here[j] = r ? here[j] + row.fraction(axes.y) * (value - here[j]) : value;
          across = across.moved(1, axes.x);
        }
      }
      for (int j = 0; j < kAcross; ++j)
        out[j] = l ? out[j] + layer.fraction(axes.z) * (here[j] - out[j]) : here[j];
    }
  }
};

}  // namespace fwdgrad::cuda
