// The scale of every element where it follows from the element's value: a thread has one.
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

template <typename C>
FWDGRAD_HD C scale_of(Distribution distribution, C value, C low, C high, const ScaleRule& rule) {
  switch (distribution) {
    case Distribution::kNormal:
      return adaptive_scale<Distribution::kNormal>(value, low, high, rule);
    case Distribution::kCauchy:
      return adaptive_scale<Distribution::kCauchy>(value, low, high, rule);
    case Distribution::kHyperbolic:
      return adaptive_scale<Distribution::kHyperbolic>(value, low, high, rule);
    case Distribution::kLogistic:
      return adaptive_scale<Distribution::kLogistic>(value, low, high, rule);
    default:  // draws of at most 1: P(|xi| <= t) is taken as the uniform distribution's
      return adaptive_scale<Distribution::kUniform>(value, low, high, rule);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) scale_elements(const Scale call) {
  using C = typename Compute<T>::type;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k >= call.planes * call.pixels) return;
  const int64_t plane = call.interleaved == 1 ? k / call.pixels : k % call.planes;
  const C* const bounds = static_cast<const C*>(call.bounds);
  static_cast<C*>(call.out)[k] = scale_of(call.distribution, load(static_cast<const T*>(call.x)[k]),
                                          bounds[plane], bounds[call.planes + plane], call.rule);
}

template <typename T>
void launch(const Scale& call, Where where) {
  const auto kernel = scale_elements<T>;
  FWDGRAD_LAUNCH(kernel, grid_for(call.planes * call.pixels, 1, where.device), where, call);
}

}  // namespace

void scale(const Scale& call, Type type, Where where) {
  if (call.planes * call.pixels == 0) return;
  const DeviceGuard guard(where.device);
  switch (type) {
    case Type::kFloat32:
      return launch<float>(call, where);
    case Type::kFloat64:
      return launch<double>(call, where);
    case Type::kFloat16:
      return launch<Half>(call, where);
    case Type::kBFloat16:
      return launch<BFloat16>(call, where);
  }
}

}  // namespace fwdgrad::cuda
