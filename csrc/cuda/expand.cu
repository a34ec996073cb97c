// expand: what a grid's values are at the elements; a thread has one element.
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

template <typename T, bool squared>
__global__ void __launch_bounds__(kThreads)
    expand_grid(T* out, const T* values, const Spec spec, const Grid grid) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= grid.planes * spec.height * spec.width) return;
  const int64_t x = k % spec.width, row = k / spec.width, plane = row / spec.height;
  const GridPosition down = GridPosition::of(row % spec.height, 0, spec.cell_height, spec.bilinear);
  const GridPosition across = GridPosition::of(x, 0, spec.cell_width, spec.bilinear);
  const T* const at = values + (plane * grid.rows + down.low) * grid.columns + across.low;
  const auto blend = [](T low, T high, float fraction) {
    const T t = static_cast<T>(fraction);
    return squared ? (1 - t) * (1 - t) * low + t * t * high : (1 - t) * low + t * high;
  };
  // A line that has no weight is not read: there may be none, or it may not be finite.
  const float right = across.fraction(), below = down.fraction();
  T value = right != 0 ? blend(at[0], at[1], right) : at[0];
  if (below != 0) {
    const T* const next = at + grid.columns;
    value = blend(value, right != 0 ? blend(next[0], next[1], right) : next[0], below);
  }
  out[k] = value;
}

template <typename T, bool squared>
void launch(void* out, const void* values, const Spec& spec, Where where) {
  const Grid grid = Grid::of(spec);
  const int64_t numel = grid.planes * spec.height * spec.width;
  if (numel == 0) return;
  const DeviceGuard guard(where.device);
  const auto kernel = expand_grid<T, squared>;
  const dim3 blocks(static_cast<unsigned>((numel + kThreads - 1) / kThreads));
  FWDGRAD_LAUNCH(kernel, blocks, where, static_cast<T*>(out), static_cast<const T*>(values), spec,
                 grid);
}

}  // namespace

void expand(void* out, const void* values, Type type, const Spec& spec, bool squared, Where where) {
  if (type == Type::kFloat64)
    squared ? launch<double, true>(out, values, spec, where)
            : launch<double, false>(out, values, spec, where);
  else
    squared ? launch<float, true>(out, values, spec, where)
            : launch<float, false>(out, values, spec, where);
}

}  // namespace fwdgrad::cuda
