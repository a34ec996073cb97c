// The ops on a GPU's memory. Nothing is checked here but the launches, which throw what went wrong.
// All run in stream order on the device and stream that are given, and wait for nothing.
#pragma once

#include "../include/fwdgrad/draws.h"
#include "../include/fwdgrad/elements.h"
#include "../include/fwdgrad/scale.h"

namespace fwdgrad::cuda {

struct Where {
  int device;
  void* stream;  // a cudaStream_t
};

// Placements of samples first .. first + count - 1: whole rows, or bounds [y0, y1, x0, x1] alone.
void place(Placed* out, const Spec& spec, uint64_t first, int64_t count, Where where);
void blocks(int64_t* out, const Spec& spec, uint64_t first, int64_t count, Where where);

// The draws of samples first .. first + count - 1, or their scores: `stride` words for each, a
// multiple of 4, of which a word has 32 signs or is a float.
struct Draw {
  uint32_t* out;
  int64_t stride;
  Spec spec;
  uint64_t first;
  int64_t count;
  bool score;
};
void draw(const Draw& call, Where where);

// Such a table for the lines of a grid, `stride` words a sample: line k has draw order[k].
struct Reorder {
  uint32_t* out;
  int64_t stride;
  const uint32_t* drawn;
  int64_t drawn_stride;
  const int32_t* order;
  int64_t lines, count;
  bool signs;
};
void reorder(const Reorder& call, Where where);

// out = the scale that each value of x asks for: float64 where x's type is, else float32.
struct Scale {
  void* out;
  const void* x;
  const void* bounds;  // of out's type: the lows of all planes, then their highs
  ScaleRule rule;
  Distribution distribution;
  int64_t planes, pixels, interleaved;  // as in Perturb
};
void scale(const Scale& call, Type type, Where where);

// out[i] = clamp(x + scale * J_i xi_i, low, high) for samples first .. first + count - 1 and, with
// pairs, out[opposite + i] = clamp(x - scale * J_i xi_i, low, high). With a baseline b it is
// clamp(b + (x - b) (position + scale * J_i xi_i), low, high).
struct Perturb {
  void* out;
  const void* x;
  const void* scale_map;  // null, or of x's layout: float64 where type is, else float32
  const uint32_t* draws;  // null for elements that have a draw each, else what `draw` made of
  int64_t stride;         // the samples, and a word after it that may be read
  const Placed* placed;   // null where no sample needs one
  const Placed* held;     // null, or of the samples that out holds: all else in out is x already
  Baseline baseline;
  double scale, low, high;
  Spec spec;
  uint64_t first;
  int64_t count;
  int64_t opposite;  // 0, or with pairs how many samples further the opposite of each lies
  // 1: memory has the order of the elements. Else the number of planes, and a pixel's values lie
  // side by side in out and x (channels last).
  int64_t interleaved;
};
void perturb(const Perturb& call, Type type, Where where);

// out = Phi values: the grid's values, (planes, layers, rows, columns), at the elements of planes;
// out has as many planes as the grid, which lies as that of sample `first`. squared: by the squares
// of Phi's weights. Both are float64 where type is, else float32.
void expand(void* out, const void* values, Type type, const Spec& spec, uint64_t first,
            bool squared, Where where);

// total += sum_i weights[i] J_i s1(xi_i) and, unless null, square += the sum of the squares of
// the terms, a chunk of samples at a time. All of one type, float32 or float64.
struct Accumulate {
  void* total;
  void* square;
  const void* weights;
  const uint32_t* draws;  // as in Perturb, as scores
  int64_t stride;
  const Placed* placed;
  // Null, or of that type: a row of sums for each chunk that the samples touch, the squares' after
  // the others. A row has the elements, of one plane where all share their draws.
  void* scratch;
  bool resumes;  // the samples follow others of their chunk, whose sums scratch holds
  bool adds;     // scratch's sums are complete and go to total
  Spec spec;
  uint64_t first;
  int64_t count;
};
void accumulate(const Accumulate& call, Type type, Where where);

}  // namespace fwdgrad::cuda
