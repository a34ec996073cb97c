#include "kernels.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "../include/fwdgrad/half.h"
#include "fill.h"
#include "simd.h"

namespace fwdgrad::cpu {
namespace {

// Work is cut into tiles of the input at fixed places, whatever the threads and the copies, so
// that an element is always computed by the same instructions: its bits depend on nothing else.
constexpr int64_t kTile = 2 * kRun;

// Waking a thread costs about as much as it does in this many elements.
constexpr int64_t kElementsPerThread = 16384;

int useful_threads(int threads, int64_t count, int64_t numel) {
  return static_cast<int>(std::min<int64_t>(threads, 1 + count * numel / kElementsPerThread));
}

// ---- element types ---------------------------------------------------------------------

template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

FWDGRAD_HD float load(float x) { return x; }
FWDGRAD_HD double load(double x) { return x; }
FWDGRAD_HD float load(Half x) { return to_float(x); }
FWDGRAD_HD float load(BFloat16 x) { return to_float(x); }

FWDGRAD_HD void store(float x, float* to) { *to = x; }
FWDGRAD_HD void store(double x, double* to) { *to = x; }
FWDGRAD_HD void store(float x, Half* to) { *to = to_half(x); }
FWDGRAD_HD void store(float x, BFloat16* to) { *to = to_bfloat16(x); }

// Keeps NaN.
template <typename C>
FWDGRAD_HD C clamp(C x, C low, C high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// ---- the inner loops: macros because GCC makes no clones of a template's instances -------

#define FWDGRAD_ADD_NOISE(T)                                                                       \
  FWDGRAD_SIMD void add_noise(const T* __restrict x, const Compute<T>::type* __restrict map,       \
                              Compute<T>::type scale, const float* __restrict noise,               \
                              Compute<T>::type low, Compute<T>::type high, int64_t count,          \
                              T* __restrict out) {                                                 \
    using C = Compute<T>::type;                                                                    \
    if (map)                                                                                       \
      for (int64_t k = 0; k < count; ++k)                                                          \
        store(clamp(load(x[k]) + scale * map[k] * C(noise[k]), low, high), out + k);               \
    else                                                                                           \
      for (int64_t k = 0; k < count; ++k)                                                          \
        store(clamp(load(x[k]) + scale * C(noise[k]), low, high), out + k);                        \
  }                                                                                                \
  FWDGRAD_SIMD void clamp_only(const T* __restrict x, Compute<T>::type low, Compute<T>::type high, \
                               int64_t count, T* __restrict out) {                                 \
    for (int64_t k = 0; k < count; ++k) store(clamp(load(x[k]), low, high), out + k);              \
  }
FWDGRAD_ADD_NOISE(float)
FWDGRAD_ADD_NOISE(double)
FWDGRAD_ADD_NOISE(Half)
FWDGRAD_ADD_NOISE(BFloat16)
#undef FWDGRAD_ADD_NOISE

#define FWDGRAD_ADD_TERMS(T)                                                          \
  FWDGRAD_SIMD void add_terms(T weight, const float* __restrict score, int64_t count, \
                              T* __restrict total, T* __restrict square) {            \
    if (square)                                                                       \
      for (int64_t k = 0; k < count; ++k) {                                           \
        const T term = weight * T(score[k]);                                          \
        total[k] += term;                                                             \
        square[k] += term * term;                                                     \
      }                                                                               \
    else                                                                              \
      for (int64_t k = 0; k < count; ++k) total[k] += weight * T(score[k]);           \
  }
FWDGRAD_ADD_TERMS(float)
FWDGRAD_ADD_TERMS(double)
#undef FWDGRAD_ADD_TERMS

// Row x + t (next row - row) of a bilinear field, at grid resolution.
FWDGRAD_SIMD void blend_rows(const float* __restrict low, const float* __restrict high,
                             float fraction, int64_t count, float* __restrict out) {
  for (int64_t k = 0; k < count; ++k) out[k] = low[k] + fraction * (high[k] - low[k]);
}

FWDGRAD_SIMD void take_cells(const float* __restrict cells, const int32_t* __restrict index,
                             int64_t count, float* __restrict out) {
  for (int64_t k = 0; k < count; ++k) out[k] = cells[index[k]];
}

FWDGRAD_SIMD void blend_cells(const float* __restrict cells, const int32_t* __restrict index,
                              const float* __restrict fraction, int64_t count,
                              float* __restrict out) {
  for (int64_t k = 0; k < count; ++k) {
    const float low = cells[index[k]];
    out[k] = low + fraction[k] * (cells[index[k] + 1] - low);
  }
}

// ---- the field of one copy ---------------------------------------------------------------

// grid_position along a row, once for all copies: it depends on element + shift alone, and one
// cell further it is one line further.
struct RowPositions {
  std::vector<int32_t> low;
  std::vector<float> fraction;

  explicit RowPositions(const Spec& spec) {
    if (spec.cell_width == 1) return;
    const int64_t length = std::min<int64_t>(kRun, spec.width) + spec.cell_width;
    low.resize(length);
    fraction.resize(length);
    for (int64_t t = 0; t < length; ++t) {
      const GridPosition at = grid_position(t, 0, spec.cell_width, spec.bilinear);
      low[t] = static_cast<int32_t>(at.low);
      fraction[t] = at.fraction;
    }
  }
};

// What is the same for all copies and tiles of a call.
struct Plan {
  const Spec spec;
  const Grid grid;
  const uint64_t hadamard_mask;
  const RowPositions across;

  explicit Plan(const Spec& spec)
      : spec(spec),
        grid(Grid::of(spec)),
        hadamard_mask(fwdgrad::hadamard_mask(grid.draws())),
        across(spec) {}
};

// The unit values, noise or score, of runs of elements of one copy.
class Field {
 public:
  Field(const Plan& plan, uint64_t copy, const Placement& placement, bool score)
      : plan_(plan), placement_(placement), source_(plan.spec, plan.hadamard_mask, copy, score) {}

  // Elements first .. first + count - 1 (count <= kRun). Where draws are not elementwise the
  // run must lie in one row.
  const float* run(int64_t first, int count) {
    const Spec& spec = plan_.spec;
    if (spec.is_elementwise()) return fill(source_, first, count, line_[0].values);
    const int64_t row = first / spec.width, x = first - row * spec.width;
    const int64_t plane = spec.shared ? 0 : row / spec.height;
    const GridPosition y =
        grid_position(row % spec.height, placement_.shift_y, spec.cell_height, spec.bilinear);
    const int64_t grid_row = (plane * plan_.grid.rows + y.low) * plan_.grid.columns;
    if (spec.cell_width == 1) return cells(grid_row + x, count, y.fraction);

    const int64_t t = x + placement_.shift_x, whole = t / spec.cell_width;
    const int32_t* low = plan_.across.low.data() + (t - whole * spec.cell_width);
    const float* fraction = plan_.across.fraction.data() + (t - whole * spec.cell_width);
    const int columns = low[count - 1] - low[0] + (spec.bilinear ? 2 : 1);
    const float* from = cells(grid_row + whole + low[0], columns, y.fraction) - low[0];
    if (spec.bilinear)
      blend_cells(from, low, fraction, count, values_);
    else
      take_cells(from, low, count, values_);
    return values_;
  }

 private:
  struct Line {
    int64_t first = -1;
    int count = 0;
    const float* at = nullptr;
    alignas(64) float values[kRunCapacity];
  };

  // Draws of one row of the grid, blended with the next row where fraction says so.
  const float* cells(int64_t first, int count, float fraction) {
    const float* low = line(first, count);
    if (fraction == 0) return low;
    // line() keeps the two rows last asked for, so `low` stays where it is.
    blend_rows(low, line(first + plan_.grid.columns, count), fraction, count, blended_);
    return blended_;
  }

  // Draws of one row of the grid, from the cache of two where they are there.
  const float* line(int64_t first, int count) {
    for (int i = 0; i < 2; ++i)
      if (line_[i].first == first && line_[i].count == count) {
        latest_ = i;
        return line_[i].at;
      }
    latest_ = 1 - latest_;
    Line& line = line_[latest_];
    line.first = first;
    line.count = count;
    line.at = fill(source_, first, count, line.values);
    return line.at;
  }

  const Plan& plan_;
  const Placement& placement_;
  const Source source_;
  int latest_ = 0;
  Line line_[2];
  alignas(64) float blended_[kRun + 2];
  alignas(64) float values_[kRun];
};

// Calls body(first, count) for the runs of elements of [begin, end) that the block covers.
template <typename Body>
void for_each_run(const Spec& spec, const Placement& block, int64_t begin, int64_t end, Body body) {
  const int64_t plane = spec.height * spec.width;
  const bool whole_rows = block.x0 == 0 && block.x1 == spec.width && spec.is_elementwise();
  const bool whole = whole_rows && block.y0 == 0 && block.y1 == spec.height;
  // A stretch is what the block covers without a gap: all, a plane's rows, or one row.
  const int64_t stretch = whole ? spec.numel() : whole_rows ? plane : spec.width;
  for (int64_t s = begin / stretch; s * stretch < end; ++s) {
    int64_t from = s * stretch, to = from + stretch;
    if (whole_rows && !whole) {
      to = from + block.y1 * spec.width;
      from += block.y0 * spec.width;
    } else if (!whole_rows) {
      const int64_t y = s % spec.height;
      if (y < block.y0 || y >= block.y1) continue;
      to = from + block.x1;
      from += block.x0;
    }
    from = std::max(from, begin);
    to = std::min(to, end);
    for (; from < to; from += kRun)
      body(from, static_cast<int>(std::min<int64_t>(kRun, to - from)));
  }
}

std::vector<Placement> placements_of(const Spec& spec, uint64_t first, int64_t count) {
  std::vector<Placement> placements(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    placements[i] = placement_of(spec, first + static_cast<uint64_t>(i));
  return placements;
}

template <typename T>
void perturb_typed(T* out, const T* x, const typename Compute<T>::type* map, double scale,
                   const Spec& spec, uint64_t first, int64_t count, bool pairs, double low,
                   double high, int threads) {
  using C = typename Compute<T>::type;
  const Plan plan(spec);
  const std::vector<Placement> placements = placements_of(spec, first, count);
  const int64_t numel = spec.numel(), tiles = (numel + kTile - 1) / kTile;
  const bool clips = low > -std::numeric_limits<double>::infinity() ||
                     high < std::numeric_limits<double>::infinity();
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t work = 0; work < count * tiles; ++work) {
    const int64_t i = work / tiles, begin = work % tiles * kTile;
    const int64_t end = std::min(begin + kTile, numel);
    const Placement& block = placements[i];
    T* const copy = out + i * numel;
    T* const opposite = pairs ? out + (count + i) * numel : nullptr;
    const bool whole =
        block.y0 == 0 && block.y1 == spec.height && block.x0 == 0 && block.x1 == spec.width;
    for (T* to : {copy, opposite}) {
      if (whole || !to) continue;
      if (clips)
        clamp_only(x + begin, C(low), C(high), end - begin, to + begin);
      else
        std::memcpy(to + begin, x + begin, sizeof(T) * (end - begin));
    }
    Field field(plan, first + static_cast<uint64_t>(i), block, false);
    for_each_run(spec, block, begin, end, [&](int64_t from, int length) {
      const float* noise = field.run(from, length);
      const C* const scales = map ? map + from : nullptr;
      add_noise(x + from, scales, C(scale), noise, C(low), C(high), length, copy + from);
      if (opposite)
        add_noise(x + from, scales, C(-scale), noise, C(low), C(high), length, opposite + from);
    });
  }
}

template <typename T>
void accumulate_typed(T* total, T* square, const T* weights, const Spec& spec, uint64_t first,
                      int64_t count, int threads) {
  constexpr int64_t kCopies = 4096;  // placements held at once
  const Plan plan(spec);
  const int64_t numel = spec.numel(), tiles = (numel + kTile - 1) / kTile;
  for (int64_t base = 0; base < count; base += kCopies) {
    const int64_t some = std::min(kCopies, count - base);
    const uint64_t start = first + static_cast<uint64_t>(base);
    const std::vector<Placement> placements = placements_of(spec, start, some);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = tile * kTile, end = std::min(begin + kTile, numel);
      for (int64_t i = 0; i < some; ++i) {
        Field field(plan, start + static_cast<uint64_t>(i), placements[i], true);
        for_each_run(spec, placements[i], begin, end, [&](int64_t from, int length) {
          add_terms(weights[base + i], field.run(from, length), length, total + from,
                    square ? square + from : nullptr);
        });
      }
    }
  }
}

}  // namespace

void perturb(void* out, const void* x, const void* scale_map, double scale, Type type,
             const Spec& spec, uint64_t first, int64_t count, bool pairs, double low, double high,
             int threads) {
  threads = useful_threads(threads, count, spec.numel());
  const auto run = [&](auto* typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    using C = typename Compute<T>::type;
    perturb_typed(static_cast<T*>(out), static_cast<const T*>(x), static_cast<const C*>(scale_map),
                  scale, spec, first, count, pairs, low, high, threads);
  };
  switch (type) {
    case Type::kFloat32:
      return run(static_cast<float*>(nullptr));
    case Type::kFloat64:
      return run(static_cast<double*>(nullptr));
    case Type::kFloat16:
      return run(static_cast<Half*>(nullptr));
    case Type::kBFloat16:
      return run(static_cast<BFloat16*>(nullptr));
  }
}

void accumulate(void* total, void* square, const void* weights, Type type, const Spec& spec,
                uint64_t first, int64_t count, int threads) {
  threads = useful_threads(threads, count, spec.numel());
  if (type == Type::kFloat64)
    accumulate_typed(static_cast<double*>(total), static_cast<double*>(square),
                     static_cast<const double*>(weights), spec, first, count, threads);
  else
    accumulate_typed(static_cast<float*>(total), static_cast<float*>(square),
                     static_cast<const float*>(weights), spec, first, count, threads);
}

}  // namespace fwdgrad::cpu
