// Sums along all directions of a group of a Hadamard design: by the fast transform, M log M.
#include <algorithm>
#include <vector>

#include "fill.h"
#include "kernels.h"
#include "simd.h"

namespace fwdgrad::cpu {
namespace {

FWDGRAD_SIMD void butterflies(double* __restrict one, double* __restrict other, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    const double a = one[k], b = other[k];
    one[k] = a + b;
    other[k] = a - b;
  }
}

FWDGRAD_SIMD void neighbours(double* __restrict values, int64_t pairs) {
  for (int64_t k = 0; k < pairs; ++k) {
    const double a = values[2 * k], b = values[2 * k + 1];
    values[2 * k] = a + b;
    values[2 * k + 1] = a - b;
  }
}

}  // namespace

void hadamard_sums(double* out, const double* weights, const Spec& spec, uint64_t first,
                   int64_t count) {
  const int64_t draws = draws_of(spec);
  const uint64_t mask = hadamard_mask(draws);
  const int64_t group = static_cast<int64_t>(mask + 1);
  std::fill(out, out + group, 0.0);
  const Key key = Key::of(spec.seed);
  const HadamardOrder order = HadamardOrder::of(first, mask, key);
  for (int64_t i = 0; i < count; ++i) out[order.row(first + static_cast<uint64_t>(i))] = weights[i];
  if (group > 1) neighbours(out, group / 2);
  for (int64_t size = 2; size < group; size *= 2)
    for (int64_t base = 0; base < group; base += 2 * size)
      butterflies(out + base, out + base + size, size);
  Source signs(spec, mask, first, false);  // of row 0 they are the group's random ones alone
  signs.hadamard.row = 0;
  alignas(64) float run[kRunCapacity];
  for (int64_t k = 0; k < draws; k += kRun) {
    const int some = static_cast<int>(std::min<int64_t>(kRun, draws - k));
    const float* const sign = fill(signs, k, some, run);
    for (int i = 0; i < some; ++i) out[k + i] *= sign[i];
  }
}

}  // namespace fwdgrad::cpu
