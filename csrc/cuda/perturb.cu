// perturb: a thread keeps its elements of x in registers and writes them, with the noise of one
// copy after another, to every copy.
#include <type_traits>

#include "draws.h"
#include "launch.h"

namespace fwdgrad::cuda {
namespace {

// Where element k lies in memory.
FWDGRAD_HD int64_t offset_of(int64_t k, int64_t pixels, int64_t interleaved) {
  return interleaved == 1 ? k : k % pixels * interleaved + k / pixels;
}

FWDGRAD_HD bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Writes 16 or 8 bytes at once. By hand, because the compiler writes a vector in pieces where a
// branch beside it does.
FWDGRAD_HD void write_whole(uint4* to, uint4 v) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
#else
  *to = v;
#endif
}

FWDGRAD_HD void write_whole(uint2* to, uint2 v) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x),
               "r"(v.y)
               : "memory");
#else
  *to = v;
#endif
}

// n values between registers and consecutive memory, in accesses of 16 bytes where n is a
// multiple of them, else of 8.
template <typename T, int n>
struct Pack {
  static constexpr int kBytes = n * sizeof(T) % 16 == 0 ? 16 : 8;
  static constexpr int kEach = kBytes / sizeof(T);
  using Access = std::conditional_t<kBytes == 16, uint4, uint2>;
  using C = typename Compute<T>::type;

  FWDGRAD_HD static void load(const T* from, C* values) {
    for (int a = 0; a < n / kEach; ++a) {
      const Access access = reinterpret_cast<const Access*>(from)[a];
      T some[kEach];
      std::memcpy(some, &access, kBytes);
      for (int i = 0; i < kEach; ++i) values[a * kEach + i] = fwdgrad::load(some[i]);
    }
  }
  FWDGRAD_HD static void store(const C* values, T* to) {
    for (int a = 0; a < n / kEach; ++a) {
      T some[kEach];
      for (int i = 0; i < kEach; ++i) fwdgrad::store(values[a * kEach + i], &some[i]);
      Access access;
      std::memcpy(&access, some, kBytes);
      write_whole(reinterpret_cast<Access*>(to) + a, access);
    }
  }
};

template <typename T>
struct Bounds {
  using C = typename Compute<T>::type;
  C low, high;
  bool clips;

  FWDGRAD_HD explicit Bounds(const Perturb& call)
      : low(static_cast<C>(call.low)),
        high(static_cast<C>(call.high)),
        clips(call.low > -INFINITY || call.high < INFINITY) {}
  FWDGRAD_HD C operator()(C value) const { return clips ? clamp(value, low, high) : value; }
};

// The scale that a value of a plane asks for.
template <Law law, typename C>
FWDGRAD_HD C scale_of(const Perturb& call, C value, int64_t plane) {
  const C* const bounds = static_cast<const C*>(call.bounds);
  return adaptive_scale<law>(value, bounds[plane], bounds[call.spec.leading + plane], call.rule);
}

// Elements that have a draw each. A thread has n consecutive elements of each of `planes` planes:
// of one, or of all three of an image whose pixels' values lie side by side.
template <typename T, Law law, int n, int planes>
__global__ void __launch_bounds__(kThreads, planes > 1       ? 2
                                            : sizeof(T) == 4 ? 4
                                                             : 3)
    perturb_elements(const Perturb call) {
  using C = typename Compute<T>::type;
  constexpr int m = n * planes;
  using Memory = Pack<T, m>;
  const Spec& spec = call.spec;
  const int64_t numel = spec.numel();
  const int64_t k = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (k * planes >= numel) return;

  // In the order of memory, where value j is of plane j % planes and pixel j / planes.
  const int64_t start = k * planes;
  const int inside = static_cast<int>(numel - start < m ? numel - start : m);
  const T* const x = static_cast<const T*>(call.x) + start;
  C value[m];
  if (inside == m && is_aligned(x, Memory::kBytes)) {
    Memory::load(x, value);
  } else {
    for (int j = 0; j < m; ++j) value[j] = j < inside ? load(x[j]) : C(0);
  }

  // The scale where it follows from x, else the number that multiplies the map.
  C scale[m];
  const int64_t pixels = numel / spec.leading;
#pragma unroll  // values are in registers, which have no index
  for (int j = 0; j < m; ++j) {
    scale[j] = static_cast<C>(call.scale);
    if (call.rule.kind == ScaleRule::kNone) continue;
    const int64_t plane = planes > 1 ? j % planes : (k + j) / pixels;
    if (planes > 1 || j < inside) scale[j] *= scale_of<law>(call, value[j], plane);
  }
  const C* const map = call.scale_map ? static_cast<const C*>(call.scale_map) + start : nullptr;
  const Bounds<T> bounds(call);
  const Run run = Run::at(k, n, spec);
  Copy copy = Copy::of(spec, 0, 0);
  for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
    uint32_t covered = ~0u;
    if (call.placed) {
      copy.number = call.placed[i].number;
      copy.row = call.placed[i].row;
      covered = run.covered(call.placed[i].at, n);
      if (call.held && !covered && !run.covered(call.held[i].at, n)) continue;
    } else {
      copy.number = call.first + static_cast<uint64_t>(i);
    }
    C step[m];
    for (int j = 0; j < m; ++j) step[j] = C(0);
    if (covered) {
      for (int p = 0; p < planes; ++p) {
        float noise[n];
        draw_run<law, false, n>(k + p * (numel / planes), copy, noise);
        for (int j = 0; j < n; ++j)
          if (covered >> j & 1u)
            step[j * planes + p] = scale[j * planes + p] * static_cast<C>(noise[j]);
      }
      // Where the block does not cover, an infinite scale must not make NaN of 0.
      if (map)
        for (int j = 0; j < m; ++j)
          if (j < inside && (covered >> (j / planes) & 1u)) step[j] *= map[j];
    }
    T* out = static_cast<T*>(call.out) + i * numel + start;
    for (int sign = 0; sign < 2; ++sign) {
      if (sign && !call.opposite) break;
      C result[m];
      for (int j = 0; j < m; ++j)
        result[j] = bounds(sign ? value[j] - step[j] : value[j] + step[j]);
      if (inside == m && is_aligned(out, Memory::kBytes)) {
        Memory::store(result, out);
      } else {
        for (int j = 0; j < m; ++j)
          if (j < inside) store(result[j], out + j);
      }
      out += call.opposite * numel;
    }
  }
}

constexpr int kRows = 16;  // of a thread's strip

// Elements that share draws, and any other layout: a thread has a strip of a column.
template <typename T, Law law>
__global__ void __launch_bounds__(kThreads, 2) perturb_field(const Perturb call, const Grid grid) {
  using C = typename Compute<T>::type;
  const Spec& spec = call.spec;
  const int64_t pixels = spec.height * spec.width;
  const int64_t strips = (spec.height + kRows - 1) / kRows;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t plane = thread / (strips * spec.width);
  if (plane >= grid.planes) return;
  const int64_t x = thread % spec.width, y = thread / spec.width % strips * kRows;
  const int inside = static_cast<int>(spec.height - y < kRows ? spec.height - y : kRows);
  const Bounds<T> bounds(call);
  const int64_t down = spec.width * call.interleaved;
  for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
    const Placed& placed = call.placed[i];
    const Placement& block = placed.at;
    const auto reaches = [&](const Placement& b) {
      return x >= b.x0 && x < b.x1 && y < b.y1 && y + inside > b.y0;
    };
    const bool reached = reaches(block);
    if (call.held && !reached && !reaches(call.held[i].at)) continue;
    float noise[kRows];
    for (int j = 0; j < kRows; ++j) noise[j] = 0.0f;
    if (reached) {
      draw_strip<law, false, kRows>(spec, grid, block, plane, y, x, inside,
                                    Copy::of(spec, placed.number, placed.row),
                                    [&](int j, float drawn) {
                                      if (y + j >= block.y0 && y + j < block.y1) noise[j] = drawn;
                                    });
    }
    // Shared draws serve every plane.
    for (int64_t p = spec.shared ? 0 : plane; p < (spec.shared ? spec.leading : plane + 1); ++p) {
      const int64_t at = offset_of(p * pixels + y * spec.width + x, pixels, call.interleaved);
      T* const out = static_cast<T*>(call.out) + i * spec.numel() + at;
      T* const opposite = call.opposite ? out + call.opposite * spec.numel() : nullptr;
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        if (j >= inside) continue;
        const C value = load(static_cast<const T*>(call.x)[at + j * down]);
        if (call.baseline.at) {
          const C from = call.baseline.by_plane
                             ? static_cast<const C*>(call.baseline.at)[p]
                             : load(static_cast<const T*>(call.baseline.at)[at + j * down]);
          const C position = static_cast<C>(call.baseline.position);
          const bool covered = reached && y + j >= block.y0 && y + j < block.y1;
          const C part = covered ? static_cast<C>(call.scale) * static_cast<C>(noise[j]) : C(0);
          store(bounds(from + (value - from) * (position + part)), out + j * down);
          if (opposite)
            store(bounds(from + (value - from) * (position - part)), opposite + j * down);
          continue;
        }
        C step = C(0);
        if (reached && y + j >= block.y0 && y + j < block.y1) {
          step = static_cast<C>(call.scale) * static_cast<C>(noise[j]);
          if (call.rule.kind != ScaleRule::kNone) step *= scale_of<law>(call, value, p);
          if (call.scale_map) step *= static_cast<const C*>(call.scale_map)[at + j * down];
        }
        store(bounds(value + step), out + j * down);
        if (opposite) store(bounds(value - step), opposite + j * down);
      }
    }
  }
}

template <typename T, Law law>
void launch(const Perturb& call, Where where) {
  const Spec& spec = call.spec;
  const auto grid = [&](int64_t threads) { return grid_for(threads, call.count, where.device); };
  const bool plain = spec.is_elementwise() && !call.baseline.at;
  if (plain && call.interleaved == 1) {
    constexpr int n = sizeof(T) == 2 ? 8 : 4;
    const auto kernel = perturb_elements<T, law, n, 1>;
    FWDGRAD_LAUNCH(kernel, grid((spec.numel() + n - 1) / n), where, call);
    return;
  }
  if constexpr (sizeof(T) < 8) {  // twelve float64 values would not fit into registers
    if (plain && call.interleaved == 3 && spec.height * spec.width % 4 == 0) {
      const auto kernel = perturb_elements<T, law, 4, 3>;
      FWDGRAD_LAUNCH(kernel, grid(spec.numel() / 12), where, call);
      return;
    }
  }
  const Grid draws = Grid::of(spec);
  const int64_t strips = (spec.height + kRows - 1) / kRows;
  const auto kernel = perturb_field<T, law>;
  FWDGRAD_LAUNCH(kernel, grid(draws.planes * strips * spec.width), where, call, draws);
}

template <typename T>
void launch(const Perturb& call, Where where) {
  switch (call.spec.law) {
    case Law::kNormal:
      return launch<T, Law::kNormal>(call, where);
    case Law::kCauchy:
      return launch<T, Law::kCauchy>(call, where);
    case Law::kHyperbolic:
      return launch<T, Law::kHyperbolic>(call, where);
    case Law::kLogistic:
      return launch<T, Law::kLogistic>(call, where);
    case Law::kUniform:
      return launch<T, Law::kUniform>(call, where);
    case Law::kRademacher:
      return launch<T, Law::kRademacher>(call, where);
    case Law::kHadamard:
      return launch<T, Law::kHadamard>(call, where);
  }
}

}  // namespace

void perturb(const Perturb& call, Type type, Where where) {
  if (call.count == 0 || call.spec.numel() == 0) return;
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
