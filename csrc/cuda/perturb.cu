// perturb: a thread keeps its elements of x in registers and writes them, with the noise of one
// sample after another, to every sample.
#include "launch.h"
#include "perturb.h"

namespace fwdgrad::cuda {
namespace {

// ---- elements that have a draw each, and nothing else ------------------------------------

// Every sample of a thread's n elements; whole: in accesses of 16 bytes.
template <typename T, Distribution distribution, int n, bool whole>
FWDGRAD_HD void perturb_run(const Call<T>& call, int64_t k) {
  using C = typename Compute<T>::type;
  const int inside = whole || call.numel - k > n ? n : static_cast<int>(call.numel - k);
  C value[n];
  if constexpr (whole)
    Pack<T, n>::load(call.x + k, value);
  else
    for (int j = 0; j < n; ++j) value[j] = j < inside ? load(call.x[k + j]) : C(0);
  const auto write = [&](const C* values, T* to) {
    if constexpr (whole) {
      Pack<T, n>::store(values, to);
    } else {
      for (int j = 0; j < n; ++j)
        if (j < inside) store(values[j], to + j);
    }
  };
  T* out = call.out + blockIdx.y * call.numel + k;
#pragma unroll 1
  for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
    float noise[n];
    draw_run<distribution, false, n>(k, call.first + static_cast<uint64_t>(i), call.source, noise);
    C result[n];
    for (int j = 0; j < n; ++j) result[j] = value[j] + call.scale * static_cast<C>(noise[j]);
    write(result, out);
    if (call.opposite) {
      for (int j = 0; j < n; ++j) result[j] = value[j] - call.scale * static_cast<C>(noise[j]);
      write(result, out + call.opposite);
    }
    out += gridDim.y * call.numel;
  }
}

template <typename T, Distribution distribution, int n>
__global__ void __launch_bounds__(kThreads, 4) perturb_dense(const Call<T> call) {
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k >= call.numel) return;
  if (call.numel % n == 0 && is_aligned(call.x, 16) && is_aligned(call.out, 16))
    perturb_run<T, distribution, n, true>(call, k);
  else
    perturb_run<T, distribution, n, false>(call, k);
}

// ---- elements that have a draw each, with anything else ----------------------------------

// A thread has four consecutive elements of each of `planes` planes: of one, or of all three of an
// image whose pixels' values lie side by side.
template <typename T, int planes>
__global__ void __launch_bounds__(kThreads, 2) perturb_elements(const Call<T> call) {
  using C = typename Compute<T>::type;
  constexpr int n = 4, m = n * planes;
  using Memory = Pack<T, m>;
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k * planes >= call.numel) return;

  // Value j is of plane j % planes and pixel j / planes of the run, and lies at start + at[j].
  const int64_t start = k * planes, pixels = call.numel / call.spec.leading;
  const int inside = static_cast<int>(call.numel - start < m ? call.numel - start : m);
  const bool side_by_side = planes > 1 || call.interleaved == 1;
  int64_t at[m];
  for (int j = 0; j < m; ++j)
    at[j] = (side_by_side ? start + j : offset_of(k + j, pixels, call.interleaved));
  const auto plane_of = [&](int j) { return planes > 1 ? j % planes : (k + j) / pixels; };
  const bool whole = side_by_side && inside == m;

  C value[m];
  if (whole && is_aligned(call.x + start, Memory::kBytes)) {
    Memory::load(call.x + start, value);
  } else {
    for (int j = 0; j < m; ++j) value[j] = load(call.x[j < inside ? at[j] : at[0]]);
  }
  Blend<T> blend[m];
  for (int j = 0; j < m; ++j) {
    const bool there = j < inside;
    blend[j] =
        Blend<T>::of(call, value[j], there ? at[j] : at[0], there ? plane_of(j) : plane_of(0));
  }

  const Run run = Run::at(k, n, call.spec);
  for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
    Sample sample{call.first + static_cast<uint64_t>(i), 0};
    uint32_t covered = ~0u;
    if (call.placed) {
      sample = {call.placed[i].number, call.placed[i].row};
      covered = run.covered(call.placed[i].at, n);
      if (call.held && !covered && !run.covered(call.held[i].at, n)) continue;
    }
    float noise[m];  // plane after plane
    for (int j = 0; j < m; ++j) noise[j] = 0.0f;
    if (covered) {
#pragma unroll 1
      for (int p = 0; p < planes; ++p) {
        for (int j = 0; j < m - n; ++j) noise[j] = noise[j + n];
        draw_four<false>(k + p * pixels, sample, call.source, noise + m - n);
      }
    }
    T* out = call.out + i * call.numel;
#pragma unroll 1
    for (int sign = 0; sign < (call.opposite ? 2 : 1); ++sign) {
      C result[m];
      for (int j = 0; j < m; ++j)
        result[j] = blend[j].at(call, static_cast<C>(noise[j % planes * n + j / planes]),
                                covered >> (j / planes) & 1u, sign);
      if (whole && is_aligned(out + start, Memory::kBytes)) {
        Memory::store(result, out + start);
      } else {
        for (int j = 0; j < m; ++j)
          if (j < inside) store(result[j], out + at[j]);
      }
      out += call.opposite;
    }
  }
}

// ---- which kernel serves a call ----------------------------------------------------------

template <typename T, Distribution distribution>
void launch_dense(const Call<T>& call, Where where) {
  constexpr int n = 16 / sizeof(T);
  const auto kernel = perturb_dense<T, distribution, n>;
  FWDGRAD_LAUNCH(kernel, grid_for((call.numel + n - 1) / n, call.count, where.device), where, call);
}

template <typename T>
void launch(const Call<T>& call, Where where) {
  const Spec& spec = call.spec;
  if (!spec.is_elementwise()) return perturb_features(call, where);
  const auto grid = [&](int64_t threads) { return grid_for(threads, call.count, where.device); };
  if constexpr (sizeof(T) < 8) {
    if (call.is_plain()) switch (spec.distribution) {
        case Distribution::kNormal:
          return launch_dense<T, Distribution::kNormal>(call, where);
        case Distribution::kCauchy:
          return launch_dense<T, Distribution::kCauchy>(call, where);
        case Distribution::kHyperbolic:
          return launch_dense<T, Distribution::kHyperbolic>(call, where);
        case Distribution::kLogistic:
          return launch_dense<T, Distribution::kLogistic>(call, where);
        case Distribution::kUniform:
          return launch_dense<T, Distribution::kUniform>(call, where);
        case Distribution::kRademacher:
          return launch_dense<T, Distribution::kRademacher>(call, where);
        case Distribution::kHadamard:
          break;
      }
    // Twelve float64 values would not fit into registers.
    if (call.interleaved == 3 && spec.height * spec.width % 4 == 0) {
      const auto kernel = perturb_elements<T, 3>;
      FWDGRAD_LAUNCH(kernel, grid(spec.numel() / 12), where, call);
      return;
    }
  }
  const auto kernel = perturb_elements<T, 1>;
  FWDGRAD_LAUNCH(kernel, grid((spec.numel() + 3) / 4), where, call);
}

}  // namespace

void perturb(const Perturb& call, Type type, Where where) {
  if (call.count == 0 || call.spec.numel() == 0) return;
  const DeviceGuard guard(where.device);
  switch (type) {
    case Type::kFloat32:
      return launch(Call<float>::of(call), where);
    case Type::kFloat64:
      return launch(Call<double>::of(call), where);
    case Type::kFloat16:
      return launch(Call<Half>::of(call), where);
    case Type::kBFloat16:
      return launch(Call<BFloat16>::of(call), where);
  }
}

}  // namespace fwdgrad::cuda
