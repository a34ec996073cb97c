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

// Placements of copies first .. first + count - 1: whole rows, or bounds [y0, y1, x0, x1] alone.
void place(Placed* out, const Spec& spec, uint64_t first, int64_t count, Where where);
void blocks(int64_t* out, const Spec& spec, uint64_t first, int64_t count, Where where);

// out[i] = clamp(x + scale * J_i xi_i, low, high) for copies first .. first + count - 1 and, with
// pairs, out[opposite + i] = clamp(x - scale * J_i xi_i, low, high). With a baseline b it is
// clamp(b + (x - b) (position + scale * J_i xi_i), low, high).
struct Perturb {
  void* out;
  const void* x;
  const void* scale_map;  // null, or of x's layout: float64 where type is, else float32
  const void* bounds;     // of that type: the lows of all planes, then their highs, for rule
  ScaleRule rule;         // of kind kNone where the scale does not depend on x
  const Placed* placed;   // null where no copy needs one
  const Placed* held;     // null, or of the copies that out holds: all else in out is x already
  Baseline baseline;
  double scale, low, high;
  Spec spec;
  uint64_t first;
  int64_t count;
  int64_t opposite;  // 0, or with pairs how many copies further the opposite of each lies
  // 1: memory has the order of the elements. Else the number of planes, and a pixel's values lie
  // side by side in out and x (channels last).
  int64_t interleaved;
};
void perturb(const Perturb& call, Type type, Where where);

// out = Phi values: the grid's values, (planes, rows, columns), at the elements of planes; out
// has as many planes as the grid, and the grid does not shift. squared: by the squares of Phi's
// weights. Both are float64 where type is, else float32.
void expand(void* out, const void* values, Type type, const Spec& spec, bool squared, Where where);

// total += sum_i weights[i] J_i s1(xi_i) and, unless null, square += the sum of the squares of
// the terms; each element adds its copies in ascending order. All of one type, float32 or float64.
struct Accumulate {
  void* total;
  void* square;
  const void* weights;
  const Placed* placed;
  Spec spec;
  uint64_t first;
  int64_t count;
};
void accumulate(const Accumulate& call, Type type, Where where);

}  // namespace fwdgrad::cuda
