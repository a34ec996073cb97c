// Placements: one thread per sample.
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

template <bool rows>
__global__ void __launch_bounds__(kThreads)
    place_samples(int64_t* out, const Spec spec, uint64_t mask, uint64_t first, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  if constexpr (rows) {
    reinterpret_cast<Placed*>(out)[i] = Placed::of(spec, first + static_cast<uint64_t>(i), mask);
  } else {
    const Placement p = placement_of(spec, first + static_cast<uint64_t>(i));
    out += 4 * i;
    out[0] = p.y0, out[1] = p.y1, out[2] = p.x0, out[3] = p.x1;
  }
}

template <bool rows>
void launch(int64_t* out, const Spec& spec, uint64_t first, int64_t count, Where where) {
  if (count == 0) return;
  const DeviceGuard guard(where.device);
  const auto kernel = place_samples<rows>;
  const dim3 grid(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  FWDGRAD_LAUNCH(kernel, grid, where, out, spec, hadamard_mask(draws_of(spec)), first, count);
}

}  // namespace

void place(Placed* out, const Spec& spec, uint64_t first, int64_t count, Where where) {
  launch<true>(reinterpret_cast<int64_t*>(out), spec, first, count, where);
}

void blocks(int64_t* out, const Spec& spec, uint64_t first, int64_t count, Where where) {
  launch<false>(out, spec, first, count, where);
}

}  // namespace fwdgrad::cuda
