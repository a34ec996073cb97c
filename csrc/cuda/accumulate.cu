// accumulate: a thread keeps the sums of its elements in registers and goes through the samples of
// a chunk in ascending order. Chunks are shared out among blocks where there is scratch memory for
// their sums, which a second kernel then adds up in ascending order.
#include "draws.h"
#include "features.h"
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

// A call as the kernels take it.
template <typename T>
struct Call {
  T* total;
  T* square;
  T* scratch;
  bool resumes;
  const T* weights;
  int64_t own, repeats;  // elements with sums of their own, and planes that have the same sums
  int64_t count, chunks;
  uint64_t first;
  Source source;
  Table table;
  Axes axes;
  const Placed* placed;
  Spec spec;

  static Call of(const Accumulate& a) {
    const int64_t repeats = a.spec.shared ? a.spec.leading : 1;
    const uint64_t last = a.first + static_cast<uint64_t>(a.count) - 1;
    return {static_cast<T*>(a.total),
            static_cast<T*>(a.square),
            static_cast<T*>(a.scratch),
            a.resumes,
            static_cast<const T*>(a.weights),
            a.spec.numel() / repeats,
            repeats,
            a.count,
            static_cast<int64_t>(last / kChunk - a.first / kChunk) + 1,
            a.first,
            Source::of(a.spec),
            {a.draws, a.stride, is_sign(a.spec.distribution)},
            Axes::of(a.spec),
            a.placed,
            a.spec};
  }
  // The samples begin .. end - 1 of a chunk.
  FWDGRAD_HD int64_t begin(int64_t chunk) const {
    return chunk ? chunk * kChunk - static_cast<int64_t>(first % kChunk) : 0;
  }
  FWDGRAD_HD int64_t end(int64_t chunk) const {
    const int64_t next = begin(chunk + 1);
    return next < count ? next : count;
  }
};

// The sums of n of a thread's elements, k onwards, over a chunk.
template <typename T, bool squared, int n>
struct Sums {
  T total[n], square[squared ? n : 1];

  FWDGRAD_HD static T* at(const Call<T>& call, int64_t chunk, int64_t k) {
    return call.scratch + chunk * call.own * (squared ? 2 : 1) + k;
  }
  FWDGRAD_HD void start(const Call<T>& call, int64_t chunk, int64_t k, int inside) {
    for (int j = 0; j < n; ++j) {
      const bool before = call.resumes && j < inside;
      total[j] = before ? at(call, chunk, k)[j] : T(0);
      if constexpr (squared) square[j] = before ? at(call, chunk, k)[call.own + j] : T(0);
    }
  }
  FWDGRAD_HD void add(int j, T weight, float score) {
    total[j] = fused(weight, static_cast<T>(score), total[j]);
    if constexpr (squared) {
      const T term = weight * static_cast<T>(score);
      square[j] = fused(term, term, square[j]);
    }
  }
  FWDGRAD_HD void finish(const Call<T>& call, int64_t chunk, int64_t k, int inside,
                         int64_t repeats = 1) const {
    for (int j = 0; j < n; ++j) {
      if (j >= inside) continue;
      if (call.scratch) {
        at(call, chunk, k)[j] = total[j];
        if constexpr (squared) at(call, chunk, k)[call.own + j] = square[j];
        continue;
      }
#pragma unroll 1
      for (int64_t r = 0, e = k + j; r < repeats; ++r, e += call.own) {
        call.total[e] += total[j];
        if constexpr (squared) call.square[e] += square[j];
      }
    }
  }
};

// Elements that have a draw each, and nothing else.
template <Distribution distribution, bool squared, int n>
__global__ void __launch_bounds__(kThreads, 4) accumulate_dense(const Call<float> call) {
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k >= call.own) return;
  const int inside = static_cast<int>(call.own - k < n ? call.own - k : n);
  for (int64_t chunk = blockIdx.y; chunk < call.chunks; chunk += gridDim.y) {
    Sums<float, squared, n> sums;
    sums.start(call, chunk, k, inside);
    const int64_t end = call.end(chunk);
#pragma unroll 1
    for (int64_t i = call.begin(chunk); i < end; ++i) {
      float score[n];
      draw_run<distribution, true, n>(k, call.first + static_cast<uint64_t>(i), call.source, score);
      const float weight = call.weights[i];
      for (int j = 0; j < n; ++j) sums.add(j, weight, score[j]);
    }
    sums.finish(call, chunk, k, inside);
  }
}

// Elements that have a draw each, with anything else.
template <typename T, bool squared>
__global__ void __launch_bounds__(kThreads, 2) accumulate_elements(const Call<T> call) {
  constexpr int n = 4;
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k >= call.own) return;
  const int inside = static_cast<int>(call.own - k < n ? call.own - k : n);
  const Run run = Run::at(k, n, call.spec);
  for (int64_t chunk = blockIdx.y; chunk < call.chunks; chunk += gridDim.y) {
    Sums<T, squared, n> sums;
    sums.start(call, chunk, k, inside);
    const int64_t end = call.end(chunk);
    for (int64_t i = call.begin(chunk); i < end; ++i) {
      Sample sample{call.first + static_cast<uint64_t>(i), 0};
      uint32_t covered = ~0u;
      if (call.placed) {
        covered = run.covered(call.placed[i].at, n);
        if (!covered) continue;
        sample = {call.placed[i].number, call.placed[i].row};
      }
      float score[n];
      draw_four<true>(k, sample, call.source, score);
      const T weight = call.weights[i];
      for (int j = 0; j < n; ++j)
        if (covered >> j & 1u) sums.add(j, weight, score[j]);
    }
    sums.finish(call, chunk, k, inside);
  }
}

// Elements that share draws. Planes that share them all have the same sum.
template <typename T, bool squared>
__global__ void __launch_bounds__(kThreads, 2) accumulate_lattice(const Call<T> call) {
  const Spec& spec = call.spec;
  const Piece piece = Piece::at(static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, spec, 1);
  if (piece.plane >= spec.leading / call.repeats) return;
  const Taken taken = Taken::of(piece, spec, call.axes, false);
  const int64_t k =
      ((piece.plane * spec.depth + piece.z) * spec.height + piece.y) * spec.width + piece.x;
  const Run run{piece.y, piece.x, true, spec.height, spec.width};
  for (int64_t chunk = blockIdx.y; chunk < call.chunks; chunk += gridDim.y) {
    Sums<T, squared, kAcross> sums;
    sums.start(call, chunk, k, piece.inside);
    const int64_t end = call.end(chunk);
    for (int64_t i = call.begin(chunk); i < end; ++i) {
      const Placement* const at = call.placed ? &call.placed[i].at : nullptr;
      const uint32_t covered = at ? run.covered(*at, kAcross) : ~0u;
      if (!covered) continue;
      float score[kAcross];
      taken.values(call.table, i, call.axes, at, score);
      const T weight = call.weights[i];
      for (int j = 0; j < kAcross; ++j)
        if (covered >> j & 1u) sums.add(j, weight, score[j]);
    }
    sums.finish(call, chunk, k, piece.inside, call.repeats);
  }
}

// The chunks' sums, from scratch memory to the totals.
template <typename T>
__global__ void __launch_bounds__(kThreads) add_chunks(const Call<T> call) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (e >= call.own * call.repeats) return;
  const T* from = call.scratch + e % call.own;
  T total = call.total[e], square = call.square ? call.square[e] : T(0);
  for (int64_t chunk = 0; chunk < call.chunks; ++chunk) {
    total += *from;
    from += call.own;
    if (!call.square) continue;
    square += *from;
    from += call.own;
  }
  call.total[e] = total;
  if (call.square) call.square[e] = square;
}

// ---- which kernel serves a call ----------------------------------------------------------

// Blocks for threads; chunks are shared out where their sums can be told apart.
template <typename T>
dim3 grid_of(const Call<T>& call, int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  const int64_t rows = call.scratch ? std::min<int64_t>(call.chunks, 65535) : 1;
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows));
}

template <Distribution distribution, bool squared>
void launch_dense(const Call<float>& call, Where where) {
  // Signs are cheap once there is a Philox call for them; the sums must stay in registers.
  constexpr int n = is_sign(distribution) ? (squared ? 8 : 16) : 4;
  const auto kernel = accumulate_dense<distribution, squared, n>;
  FWDGRAD_LAUNCH(kernel, grid_of(call, (call.own + n - 1) / n), where, call);
}

template <typename T, bool squared>
void launch(const Call<T>& call, Where where) {
  const Spec& spec = call.spec;
  if (!spec.is_elementwise()) {
    const int64_t pieces = Piece::count(spec, spec.leading / call.repeats, 1);
    const auto kernel = accumulate_lattice<T, squared>;
    FWDGRAD_LAUNCH(kernel, grid_of(call, pieces), where, call);
    return;
  }
  if constexpr (sizeof(T) == 4) {
    if (!call.placed) switch (spec.distribution) {
        case Distribution::kNormal:
          return launch_dense<Distribution::kNormal, squared>(call, where);
        case Distribution::kCauchy:
          return launch_dense<Distribution::kCauchy, squared>(call, where);
        case Distribution::kHyperbolic:
          return launch_dense<Distribution::kHyperbolic, squared>(call, where);
        case Distribution::kLogistic:
          return launch_dense<Distribution::kLogistic, squared>(call, where);
        case Distribution::kRademacher:
          return launch_dense<Distribution::kRademacher, squared>(call, where);
        case Distribution::kUniform:  // has no score
        case Distribution::kHadamard:
          break;
      }
  }
  const auto kernel = accumulate_elements<T, squared>;
  FWDGRAD_LAUNCH(kernel, grid_of(call, (call.own + 3) / 4), where, call);
}

template <typename T>
void launch(const Call<T>& call, bool adds, Where where) {
  call.square ? launch<T, true>(call, where) : launch<T, false>(call, where);
  if (!adds) return;
  const auto kernel = add_chunks<T>;
  FWDGRAD_LAUNCH(kernel, grid_for(call.own * call.repeats, 1, where.device), where, call);
}

}  // namespace

void accumulate(const Accumulate& call, Type type, Where where) {
  if (call.count == 0 || call.spec.numel() == 0) return;
  const DeviceGuard guard(where.device);
  if (type == Type::kFloat64)
    launch(Call<double>::of(call), call.adds, where);
  else
    launch(Call<float>::of(call), call.adds, where);
}

}  // namespace fwdgrad::cuda
