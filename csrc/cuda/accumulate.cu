// accumulate: a thread keeps the sums of its elements in registers and adds every copy's term to
// them in ascending order; it reads weights and placements alone.
#include "draws.h"
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

// a b + c, rounded once. By name, because whether a compiler fuses a product with a sum turns on
// what else the product is for, and a total must not depend on whether squares are summed, too.
FWDGRAD_HD float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}
FWDGRAD_HD double fused(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

// The sums of a thread's elements, `stride` apart in memory.
template <typename T, bool squared, int n>
struct Sums {
  T total[n], square[squared ? n : 1];

  FWDGRAD_HD void load(const Accumulate& call, int64_t k, int64_t stride, int inside) {
    for (int j = 0; j < n; ++j) {
      total[j] = j < inside ? static_cast<const T*>(call.total)[k + j * stride] : T(0);
      if constexpr (squared)
        square[j] = j < inside ? static_cast<const T*>(call.square)[k + j * stride] : T(0);
    }
  }
  FWDGRAD_HD void add(int j, T weight, float score) {
    total[j] = fused(weight, static_cast<T>(score), total[j]);
    if constexpr (squared) {
      const T term = weight * static_cast<T>(score);
      square[j] = fused(term, term, square[j]);
    }
  }
  FWDGRAD_HD void store(const Accumulate& call, int64_t k, int64_t stride, int inside) const {
    for (int j = 0; j < n; ++j) {
      if (j >= inside) continue;
      static_cast<T*>(call.total)[k + j * stride] = total[j];
      if constexpr (squared) static_cast<T*>(call.square)[k + j * stride] = square[j];
    }
  }
};

template <typename T, Law law, bool squared, int n>
__global__ void __launch_bounds__(kThreads, 4) accumulate_elements(const Accumulate call) {
  const Spec& spec = call.spec;
  const int64_t numel = spec.numel();
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k >= numel) return;
  const int inside = static_cast<int>(numel - k < n ? numel - k : n);
  const Run run = Run::at(k, n, spec);
  const T* const weights = static_cast<const T*>(call.weights);
  Sums<T, squared, n> sums;
  sums.load(call, k, 1, inside);
  Copy copy = Copy::of(spec, 0, 0);
  for (int64_t i = 0; i < call.count; ++i) {
    uint32_t covered = ~0u;
    if (call.placed) {
      covered = run.covered(call.placed[i].at, n);
      if (!covered) continue;
      copy.number = call.placed[i].number;
      copy.row = call.placed[i].row;
    } else {
      copy.number = call.first + static_cast<uint64_t>(i);
    }
    float score[n];
    draw_run<law, true, n>(k, copy, score);
    for (int j = 0; j < n; ++j)
      if (covered >> j & 1u) sums.add(j, weights[i], score[j]);
  }
  sums.store(call, k, 1, inside);
}

// Rows of a thread's strip: as many as leave their sums in registers.
template <typename T>
constexpr int kRows = sizeof(T) == 8 ? 4 : 8;

template <typename T, Law law, bool squared>
__global__ void __launch_bounds__(kThreads, 2)
    accumulate_field(const Accumulate call, const Grid grid) {
  constexpr int rows = kRows<T>;
  const Spec& spec = call.spec;
  const int64_t strips = (spec.height + rows - 1) / rows;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t plane = thread / (strips * spec.width);
  if (plane >= spec.leading) return;
  const int64_t x = thread % spec.width, y = thread / spec.width % strips * rows;
  const int inside = static_cast<int>(spec.height - y < rows ? spec.height - y : rows);
  const int64_t k = (plane * spec.height + y) * spec.width + x;
  const T* const weights = static_cast<const T*>(call.weights);
  Sums<T, squared, rows> sums;
  sums.load(call, k, spec.width, inside);
  for (int64_t i = 0; i < call.count; ++i) {
    const Placed& placed = call.placed[i];
    const Placement& block = placed.at;
    if (x < block.x0 || x >= block.x1 || y >= block.y1 || y + inside <= block.y0) continue;
    const T weight = weights[i];
    draw_strip<law, true, rows>(spec, grid, block, spec.shared ? 0 : plane, y, x, inside,
                                Copy::of(spec, placed.number, placed.row), [&](int j, float score) {
                                  if (y + j >= block.y0 && y + j < block.y1)
                                    sums.add(j, weight, score);
                                });
  }
  sums.store(call, k, spec.width, inside);
}

template <typename T, Law law, bool squared>
void launch(const Accumulate& call, Where where) {
  const Spec& spec = call.spec;
  if (!spec.is_elementwise()) {
    const int64_t threads = spec.leading * ((spec.height + kRows<T> - 1) / kRows<T>)*spec.width;
    const auto kernel = accumulate_field<T, law, squared>;
    FWDGRAD_LAUNCH(kernel, grid_for(threads, 1, where.device), where, call, Grid::of(spec));
  } else {
    // Signs are cheap once there is a Philox call for them; the sums must stay in registers.
    constexpr int n = is_sign(law) ? (squared || sizeof(T) == 8 ? 8 : 16) : 4;
    const auto kernel = accumulate_elements<T, law, squared, n>;
    FWDGRAD_LAUNCH(kernel, grid_for((spec.numel() + n - 1) / n, 1, where.device), where, call);
  }
}

template <typename T, bool squared>
void launch(const Accumulate& call, Where where) {
  switch (call.spec.law) {
    case Law::kNormal:
      return launch<T, Law::kNormal, squared>(call, where);
    case Law::kCauchy:
      return launch<T, Law::kCauchy, squared>(call, where);
    case Law::kHyperbolic:
      return launch<T, Law::kHyperbolic, squared>(call, where);
    case Law::kLogistic:
      return launch<T, Law::kLogistic, squared>(call, where);
    case Law::kUniform:  // has no score
      return;
    case Law::kRademacher:
      return launch<T, Law::kRademacher, squared>(call, where);
    case Law::kHadamard:
      return launch<T, Law::kHadamard, squared>(call, where);
  }
}

template <typename T>
void launch(const Accumulate& call, Where where) {
  call.square ? launch<T, true>(call, where) : launch<T, false>(call, where);
}

}  // namespace

void accumulate(const Accumulate& call, Type type, Where where) {
  if (call.count == 0 || call.spec.numel() == 0) return;
  const DeviceGuard guard(where.device);
  if (type == Type::kFloat64)
    launch<double>(call, where);
  else
    launch<float>(call, where);
}

}  // namespace fwdgrad::cuda
