// The two ops on raw memory. Every pointer is to dense memory; nothing is checked here.
#pragma once

#include "../include/fwdgrad/elements.h"
#include "../include/fwdgrad/scale.h"
#include "../include/fwdgrad/spec.h"

namespace fwdgrad::cpu {

// out[i] = clamp(x + scale * J_i xi_i, low, high) for samples first .. first + count - 1 and, with
// pairs, out[count + i] = clamp(x - scale * J_i xi_i, low, high). With a baseline b it is
// clamp(b + (x - b) (position + scale * J_i xi_i), low, high).
struct Perturb {
  void* out;
  const void* x;
  const void* scale_map;  // null, or of x's layout: float64 where type is, else float32
  const void* bounds;     // of that type: the lows of all planes, then their highs, for rule
  ScaleRule rule;         // of kind kNone where the scale does not depend on x
  Baseline baseline;
  double scale, low, high;
  Spec spec;
  uint64_t first;
  int64_t held;  // -1, or the first of the samples that out holds: all else in out is x already
  int64_t count;
  bool pairs;
  // 1: memory has the order of the elements. Else the number of planes, and a pixel's values lie
  // side by side in out, x and scale_map (channels last).
  int64_t interleaved;
  int threads;
};
void perturb(const Perturb& call, Type type);

// The same for a grid of cells that all planes share, without blocks: the common case.
bool is_plain_grid(const Perturb& call);
void perturb_grid(const Perturb& call, Type type);

// out = Phi values: the grid's values, (planes, rows, columns), at the elements of planes; out
// has as many planes as the grid, which lies as that of sample `first`. squared: by the squares of
// Phi's weights. Both are float64 where type is, else float32.
void expand(void* out, const void* values, Type type, const Spec& spec, uint64_t first,
            bool squared, int threads);

// total += sum_i weights[i] J_i s1(xi_i) and, unless null, square += the sum of the squares of
// the terms, a chunk of samples at a time. All are of one type, float32 or float64.
void accumulate(void* total, void* square, const void* weights, Type type, const Spec& spec,
                uint64_t first, int64_t count, int threads);

// out[k] = sum_i weights[i] xi_i[k] for all M directions k of the group that samples first .. first
// + count - 1 are of; of those without a draw the sign is any.
void hadamard_sums(double* out, const double* weights, const Spec& spec, uint64_t first,
                   int64_t count);

}  // namespace fwdgrad::cpu
