// expand: what a grid's values are at the elements; a thread has one element.
#include "features.h"
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

template <typename T, bool squared>
__global__ void __launch_bounds__(kThreads)
    expand_grid(T* out, const T* values, const Spec spec, const Axes axes, const Placement lies) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = k / spec.width, layer = row / spec.height, plane = layer / spec.depth;
  if (plane >= axes.grid.planes) return;
  const Place z = Place::of(layer - plane * spec.depth, axes.z).moved(lies.shift_z, axes.z);
  const Place y = Place::of(row - layer * spec.height, axes.y).moved(lies.shift_y, axes.y);
  const Place x = Place::of(k - row * spec.width, axes.x).moved(lies.shift_x, axes.x);
  // A line that has no weight is not read: there may be none, or it may not be finite.
  const auto blend = [](T low, T high, float fraction) {
    const T t = static_cast<T>(fraction);
    return squared ? (1 - t) * (1 - t) * low + t * t * high : (1 - t) * low + t * high;
  };
  T value = T(0);
  for (int l = 0; l <= z.reaches_next(axes.z); ++l) {
    T here = T(0);
    for (int r = 0; r <= y.reaches_next(axes.y); ++r) {
      const T* const at = values + axes.line(plane, z.low + l, y.low + r) + x.low;
      const T across = x.reaches_next(axes.x) ? blend(at[0], at[1], x.fraction(axes.x)) : at[0];
      here = r ? blend(here, across, y.fraction(axes.y)) : across;
    }
    value = l ? blend(value, here, z.fraction(axes.z)) : here;
  }
  out[k] = value;
}

template <typename T, bool squared>
void launch(void* out, const void* values, const Spec& spec, uint64_t first, Where where) {
  const Axes axes = Axes::of(spec);
  const int64_t numel = axes.grid.planes * spec.depth * spec.height * spec.width;
  if (numel == 0) return;
  const DeviceGuard guard(where.device);
  const auto kernel = expand_grid<T, squared>;
  FWDGRAD_LAUNCH(kernel, grid_for(numel, 1, where.device), where, static_cast<T*>(out),
                 static_cast<const T*>(values), spec, axes, placement_of(spec, first));
}

}  // namespace

void expand(void* out, const void* values, Type type, const Spec& spec, uint64_t first,
            bool squared, Where where) {
  const auto run = type == Type::kFloat64 ? (squared ? launch<double, true> : launch<double, false>)
                                          : (squared ? launch<float, true> : launch<float, false>);
  run(out, values, spec, first, where);
}

}  // namespace fwdgrad::cuda
