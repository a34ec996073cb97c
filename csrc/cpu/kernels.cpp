#include "kernels.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "fill.h"
#include "simd.h"

namespace fwdgrad::cpu {
namespace {

// Work is cut into tiles of the input at fixed places, whatever the threads and the samples, so
// that an element is always computed by the same instructions: its bits depend on nothing else.
constexpr int64_t kTile = 2 * kRun;

// Samples for which an adaptive scale is computed once.
constexpr int64_t kSamplesPerScale = 32;

// Samples whose placements are held at once: 224 KiB, whatever the call's count; whole chunks.
constexpr int64_t kSamples = 4096;
static_assert(kSamples % kChunk == 0, "no chunk is cut");

// Draws of labels that are held at once: 1 MiB, or one sample's.
constexpr int64_t kMostDraws = 1 << 18;

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
  FWDGRAD_SIMD void add_noise_apart(const T* __restrict x, const Compute<T>::type* __restrict map, \
                                    Compute<T>::type scale, const float* __restrict noise,         \
                                    Compute<T>::type low, Compute<T>::type high, int64_t count,    \
                                    int64_t stride, T* __restrict out) {                           \
    using C = Compute<T>::type;                                                                    \
    for (int64_t k = 0; k < count; ++k) {                                                          \
      const C step = scale * (map ? map[k * stride] : C(1)) * C(noise[k]);                         \
      store(clamp(load(x[k * stride]) + step, low, high), out + k * stride);                       \
    }                                                                                              \
  }                                                                                                \
  FWDGRAD_SIMD void add_noise_nearest(const T* __restrict x, Compute<T>::type least,               \
                                      Compute<T>::type most, Compute<T>::type factor,              \
                                      Compute<T>::type floor, Compute<T>::type sign,               \
                                      const float* __restrict noise, Compute<T>::type low,         \
                                      Compute<T>::type high, int64_t count, T* __restrict out) {   \
    using C = Compute<T>::type;                                                                    \
    for (int64_t k = 0; k < count; ++k) {                                                          \
      const C value = load(x[k]), scale = factor * Distances<C>(value, least, most).near;          \
      const C step = sign * (scale < floor ? floor : scale) * C(noise[k]);                         \
      store(clamp(value + step, low, high), out + k);                                              \
    }                                                                                              \
  }                                                                                                \
  FWDGRAD_SIMD void blend_noise(const Compute<T>::type* __restrict from,                           \
                                const Compute<T>::type* __restrict way, Compute<T>::type position, \
                                Compute<T>::type scale, const float* __restrict noise,             \
                                Compute<T>::type low, Compute<T>::type high, int64_t count,        \
                                int64_t stride, T* __restrict out) {                               \
    using C = Compute<T>::type;                                                                    \
    for (int64_t k = 0; k < count; ++k) {                                                          \
      const C part = position + scale * C(noise[k]);                                               \
      store(clamp(from[k * stride] + way[k * stride] * part, low, high), out + k * stride);        \
    }                                                                                              \
  }                                                                                                \
  FWDGRAD_SIMD void blend_only(const Compute<T>::type* __restrict from,                            \
                               const Compute<T>::type* __restrict way, Compute<T>::type position,  \
                               Compute<T>::type low, Compute<T>::type high, int64_t count,         \
                               T* __restrict out) {                                                \
    for (int64_t k = 0; k < count; ++k)                                                            \
      store(clamp(from[k] + way[k] * position, low, high), out + k);                               \
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

// Squares have a loop of their own: where one served both, the compiler fused the product and the
// sum in the one case and not in the other, and the sum's bits turned on whether squares were
// asked.
#define FWDGRAD_ADD_TERMS(T)                                                            \
  FWDGRAD_SIMD void add_terms(T weight, const float* __restrict score, int64_t count,   \
                              T* __restrict total) {                                    \
    for (int64_t k = 0; k < count; ++k) total[k] += weight * T(score[k]);               \
  }                                                                                     \
  FWDGRAD_SIMD void add_squares(T weight, const float* __restrict score, int64_t count, \
                                T* __restrict square) {                                 \
    for (int64_t k = 0; k < count; ++k) {                                               \
      const T term = weight * T(score[k]);                                              \
      square[k] += term * term;                                                         \
    }                                                                                   \
  }
FWDGRAD_ADD_TERMS(float)
FWDGRAD_ADD_TERMS(double)
#undef FWDGRAD_ADD_TERMS

// ---- scales that follow from x: once for a tile, for many samples --------------------------

#define FWDGRAD_DISTANCES(T)                                                                       \
  FWDGRAD_SIMD void nearest_scale(                                                                 \
      const T* __restrict x, Compute<T>::type low, Compute<T>::type high, Compute<T>::type factor, \
      Compute<T>::type floor, int64_t count, int64_t stride, Compute<T>::type* __restrict out) {   \
    using C = Compute<T>::type;                                                                    \
    for (int64_t k = 0; k < count; ++k) {                                                          \
      const C scale = factor * Distances<C>(load(x[k * stride]), low, high).near;                  \
      out[k * stride] = scale < floor ? floor : scale;                                             \
    }                                                                                              \
  }                                                                                                \
  FWDGRAD_SIMD void distances(const T* __restrict x, Compute<T>::type low, Compute<T>::type high,  \
                              int64_t count, int64_t stride, float* __restrict near,               \
                              float* __restrict far) {                                             \
    for (int64_t k = 0; k < count; ++k) {                                                          \
      const Distances<Compute<T>::type> d(load(x[k * stride]), low, high);                         \
      near[k] = static_cast<float>(d.near);                                                        \
      far[k] = static_cast<float>(d.far);                                                          \
    }                                                                                              \
  }
FWDGRAD_DISTANCES(float)
FWDGRAD_DISTANCES(double)
FWDGRAD_DISTANCES(Half)
FWDGRAD_DISTANCES(BFloat16)
#undef FWDGRAD_DISTANCES

// Steps outside, elements inside: the form that vectorises.
#define FWDGRAD_EXACT(name, distribution)                                            \
  FWDGRAD_SIMD void name(const float* __restrict near, const float* __restrict far,  \
                         ScaleRule rule, int64_t count, float* __restrict out) {     \
    for (int64_t k = 0; k < count; ++k) out[k] = exact_start(near[k], far[k], rule); \
    for (int step = 0; step < kNewtonSteps; ++step)                                  \
      for (int64_t k = 0; k < count; ++k)                                            \
        out[k] = exact_step<distribution>(out[k], near[k], far[k], rule);            \
    for (int64_t k = 0; k < count; ++k) out[k] = exact_end(out[k], near[k]);         \
  }
FWDGRAD_EXACT(exact_normal, Distribution::kNormal)
FWDGRAD_EXACT(exact_cauchy, Distribution::kCauchy)
FWDGRAD_EXACT(exact_hyperbolic, Distribution::kHyperbolic)
FWDGRAD_EXACT(exact_logistic, Distribution::kLogistic)
FWDGRAD_EXACT(exact_uniform, Distribution::kUniform)
#undef FWDGRAD_EXACT

void exact_scales(Distribution distribution, const float* near, const float* far,
                  const ScaleRule& rule, int64_t count, float* out) {
  switch (distribution) {
    case Distribution::kNormal:
      return exact_normal(near, far, rule, count, out);
    case Distribution::kCauchy:
      return exact_cauchy(near, far, rule, count, out);
    case Distribution::kHyperbolic:
      return exact_hyperbolic(near, far, rule, count, out);
    case Distribution::kLogistic:
      return exact_logistic(near, far, rule, count, out);
    default:
      return exact_uniform(near, far, rule, count, out);
  }
}

// The scales of positions begin .. end - 1 of a plane, `stride` apart in memory.
template <typename T>
void plane_scales(const T* x, typename Compute<T>::type low, typename Compute<T>::type high,
                  Distribution distribution, const ScaleRule& rule, int64_t count, int64_t stride,
                  typename Compute<T>::type* out) {
  using C = typename Compute<T>::type;
  if (rule.kind == ScaleRule::kNearest)
    return nearest_scale(x, low, high, C(rule.factor), C(rule.floor), count, stride, out);
  for (int64_t base = 0; base < count; base += kRun) {
    const int64_t some = std::min<int64_t>(kRun, count - base);
    float near[kRun], far[kRun], scale[kRun];
    distances(x + base * stride, low, high, some, stride, near, far);
    exact_scales(distribution, near, far, rule, some, scale);
    for (int64_t k = 0; k < some; ++k)
      out[(base + k) * stride] = C(scale[k] < rule.floor ? rule.floor : scale[k]);
  }
}

// Row x + t (next row - row) of a linear grid, at grid resolution.
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

// ---- the field of one sample -------------------------------------------------------------

// grid_position along a row, once for all samples: it depends on element + shift alone, and one
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
      const GridPosition at = GridPosition::of(t, 0, spec.cell_width, spec.linear);
      low[t] = static_cast<int32_t>(at.low);
      fraction[t] = at.fraction();
    }
  }
};

// What is the same for all samples and tiles of a call.
struct Plan {
  const Spec spec;
  const Grid grid;
  const uint64_t hadamard_mask;
  const RowPositions across;

  explicit Plan(const Spec& spec)
      : spec(spec),
        grid(Grid::of(spec)),
        hadamard_mask(fwdgrad::hadamard_mask(draws_of(spec))),
        across(spec) {}
};

// The unit values, noise or score, of runs of elements of one sample.
class Field {
 public:
  // drawn: with labels or an order, all of the sample's draws.
  Field(const Plan& plan, uint64_t sample, const Placement& placement, bool score,
        const float* drawn = nullptr)
      : plan_(plan),
        placement_(placement),
        source_(plan.spec, plan.hadamard_mask, sample, score),
        drawn_(drawn) {}

  // Elements first .. first + count - 1 (count <= kRun). Where draws are those of a grid the run
  // must lie in one row.
  const float* run(int64_t first, int count) {
    const Spec& spec = plan_.spec;
    if (spec.is_labelled()) return labelled(first, count);
    if (spec.is_elementwise()) return fill(source_, first, count, line_[0].values);
    const int64_t row = first / spec.width, x = first - row * spec.width;
    const int64_t plane = row / spec.height;
    const GridPosition y =
        GridPosition::of(row % spec.height, placement_.shift_y, spec.cell_height, spec.linear);
    const GridPosition z =
        GridPosition::of(plane % spec.depth, placement_.shift_z, spec.cell_depth, spec.linear);
    const int64_t layer = (spec.shared ? 0 : plane / spec.depth) * plan_.grid.layers + z.low;
    const int64_t grid_row = (layer * plan_.grid.rows + y.low) * plan_.grid.columns;
    if (spec.cell_width == 1) return cells(grid_row + x, count, y, z);

    const int64_t t = x + placement_.shift_x, whole = t / spec.cell_width;
    const int32_t* low = plan_.across.low.data() + (t - whole * spec.cell_width);
    const float* fraction = plan_.across.fraction.data() + (t - whole * spec.cell_width);
    const int columns = low[count - 1] - low[0] + (spec.linear ? 2 : 1);
    const float* from = cells(grid_row + whole + low[0], columns, y, z) - low[0];
    if (spec.linear)
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

  const float* labelled(int64_t first, int count) {
    const int64_t inner = plan_.spec.label_inner, period = plan_.spec.label_period;
    for (int64_t k = 0; k < count;) {
      const int64_t index = (first + k) / inner, at = index % period;
      if (inner == 1) {
        const int64_t some = std::min(count - k, period - at);
        take_cells(drawn_, plan_.spec.mask + at, some, values_ + k);
        k += some;
      } else {
        const int64_t stop = std::min<int64_t>(count, (index + 1) * inner - first);
        std::fill(values_ + k, values_ + stop, drawn_[plan_.spec.mask[at]]);
        k = stop;
      }
    }
    return values_;
  }

  // Draws of one row of the grid, blended with the next row and the next layer.
  const float* cells(int64_t first, int count, const GridPosition& y, const GridPosition& z) {
    const float* low = rows(first, count, y, z.low, blended_[0]);
    const float back = z.fraction();
    if (back == 0) return low;
    const int64_t layer = plan_.grid.rows * plan_.grid.columns;
    blend_rows(low, rows(first + layer, count, y, z.low + 1, blended_[1]), back, count,
               blended_[0]);
    return blended_[0];
  }

  const float* rows(int64_t first, int count, const GridPosition& y, int64_t layer,
                    float* blended) {
    const float* low = line(first, count, layer, y.low);
    const float down = y.fraction();
    if (down == 0) return low;
    blend_rows(low, line(first + plan_.grid.columns, count, layer, y.low + 1), down, count,
               blended);
    return blended;
  }

  // Draws of one row of the grid, from the cache of two rows of two layers where they are there.
  const float* line(int64_t first, int count, int64_t layer, int64_t row) {
    Line& line = line_[2 * (layer & 1) + (row & 1)];
    if (line.first == first && line.count == count) return line.at;
    line.first = first;
    line.count = count;
    if (!plan_.spec.is_ordered()) return line.at = fill(source_, first, count, line.values);
    const int64_t there = std::min<int64_t>(count, plan_.grid.lines() - first);
    take_cells(drawn_, plan_.spec.mask + first, there, line.values);
    std::fill(line.values + there, line.values + count, 0.0f);  // read, with weight 0
    return line.at = line.values;
  }

  const Plan& plan_;
  const Placement& placement_;
  const Source source_;
  const float* const drawn_;
  Line line_[4];
  alignas(64) float blended_[2][kRun + 2];
  alignas(64) float values_[kRun];
};

// All draws of samples first onwards, one sample after the other: of labels, which any element may
// have, and of grids with an order.
std::vector<float> draw_all(const Plan& plan, uint64_t first, int64_t count, int threads) {
  const int64_t draws = draws_of(plan.spec);
  std::vector<float> table(static_cast<size_t>(count * draws));
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t i = 0; i < count; ++i) {
    const Source source(plan.spec, plan.hadamard_mask, first + static_cast<uint64_t>(i), false);
    fill_all(source, draws, table.data() + i * draws);
  }
  return table;
}

// Calls body(first, count) for the runs of elements of [begin, end) that the block covers; by_rows
// ends a run where its row ends.
template <typename Body>
void for_each_run(const Spec& spec, const Placement& block, int64_t begin, int64_t end,
                  bool by_rows, Body body) {
  const int64_t plane = spec.height * spec.width;
  const bool whole_rows = block.x0 == 0 && block.x1 == spec.width && !by_rows;
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

// The scales of positions begin .. end - 1, laid out as x is.
template <typename T>
void tile_scales(const Perturb& call, int64_t begin, int64_t end, typename Compute<T>::type* out) {
  using C = typename Compute<T>::type;
  const int64_t apart = call.interleaved, planes = call.spec.planes();
  const int64_t pixels = call.spec.height * call.spec.width;
  const auto* const x = static_cast<const T*>(call.x);
  const auto* const bounds = static_cast<const C*>(call.bounds);
  for (int64_t from = begin; from < end;) {
    const int64_t first = apart > 1 ? 0 : from / pixels, last = apart > 1 ? planes : first + 1;
    const int64_t to = std::min(end, apart > 1 ? end : (first + 1) * pixels);
    for (int64_t p = first; p < last; ++p) {
      const int64_t at = from * apart + (apart > 1 ? p : 0);
      plane_scales(x + at, bounds[p], bounds[planes + p], call.spec.distribution, call.rule,
                   to - from, apart, out + (at - begin * apart));
    }
    from = to;
  }
}

// The baseline b and the way x - b of positions begin .. end - 1, laid out as x is.
template <typename T>
void tile_blend(const Perturb& call, int64_t begin, int64_t end, typename Compute<T>::type* from,
                typename Compute<T>::type* way) {
  using C = typename Compute<T>::type;
  const int64_t apart = call.interleaved, pixels = call.spec.height * call.spec.width;
  const auto* const x = static_cast<const T*>(call.x);
  for (int64_t k = begin * apart; k < end * apart; ++k, ++from, ++way) {
    const int64_t plane = apart > 1 ? k % apart : k / pixels;
    *from = call.baseline.by_plane ? static_cast<const C*>(call.baseline.at)[plane]
                                   : load(static_cast<const T*>(call.baseline.at)[k]);
    *way = load(x[k]) - *from;
  }
}

bool covers_all(const Spec& spec, const Placement& block) {
  return block.y0 == 0 && block.y1 == spec.height && block.x0 == 0 && block.x1 == spec.width;
}

template <typename T>
void perturb_typed(const Perturb& call) {
  using C = typename Compute<T>::type;
  const Spec& spec = call.spec;
  const Plan plan(spec);
  // Memory is a line of positions: elements, or pixels that hold a value of every plane.
  const int64_t apart = call.interleaved, numel = spec.numel(), line = numel / apart;
  const bool by_rows = !spec.is_elementwise();
  Spec positions = spec;
  if (apart > 1) positions.leading = 1;  // of (C, H, W)
  const C low = C(call.low), high = C(call.high);
  const bool clips = call.low > -std::numeric_limits<double>::infinity() ||
                     call.high < std::numeric_limits<double>::infinity();
  const auto* const x = static_cast<const T*>(call.x);
  const auto* const map = static_cast<const C*>(call.scale_map);
  const int threads = useful_threads(call.threads, call.count, numel);
  // The nearest bound's scale costs less than reading it back: it is computed with each sample. Any
  // other adaptive one is computed once a tile for several samples; else samples are by themselves.
  const bool nearest = call.rule.kind == ScaleRule::kNearest && apart == 1;
  const bool adapts = call.rule.kind != ScaleRule::kNone && !nearest;
  const int64_t pixels = spec.height * spec.width;
  const auto* const bounds = static_cast<const C*>(call.bounds);
  const int64_t tiles = (line + kTile - 1) / kTile;
  const bool blends = call.baseline.at != nullptr;
  const C position = C(call.baseline.position);
  const int64_t together = adapts || blends ? kSamplesPerScale : 1;
  const int64_t draws = spec.labels ? std::max<int64_t>(1, kMostDraws / spec.labels) : kSamples;
  const int64_t samples = std::min(kSamples, draws);
  for (int64_t base = 0; base < call.count; base += samples) {
    const int64_t some = std::min(samples, call.count - base);
    const uint64_t start = call.first + static_cast<uint64_t>(base);
    const std::vector<Placement> placements = placements_of(spec, start, some);
    const std::vector<Placement> held =
        call.held < 0 ? std::vector<Placement>()
                      : placements_of(spec, static_cast<uint64_t>(call.held + base), some);
    const std::vector<float> table =
        spec.labels ? draw_all(plan, start, some, threads) : std::vector<float>();
    const int64_t slices = (some + together - 1) / together;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t work = 0; work < slices * tiles; ++work) {
      const int64_t begin = work % tiles * kTile, end = std::min(begin + kTile, line);
      std::vector<C> own(adapts ? (end - begin) * apart : 0);
      if (adapts) tile_scales<T>(call, begin, end, own.data());
      std::vector<C> blend(blends ? 2 * (end - begin) * apart : 0);
      if (blends) tile_blend<T>(call, begin, end, blend.data(), blend.data() + blend.size() / 2);
      const C* const from_b = blend.data() - begin * apart;
      const C* const way = from_b + (end - begin) * apart;
      // Indexed as x is.
      const C* const scales = adapts ? own.data() - begin * apart : map;
      const int64_t last = std::min(some, (work / tiles + 1) * together);
      for (int64_t i = work / tiles * together; i < last; ++i) {
        const Placement& block = placements[i];
        T* const sample = static_cast<T*>(call.out) + (base + i) * numel;
        T* const opposite = call.pairs ? sample + call.count * numel : nullptr;
        const auto restore = [&](int64_t from, int64_t length) {
          for (T* to : {sample, opposite}) {
            if (!to) continue;
            if (blends)
              blend_only(from_b + from * apart, way + from * apart, position, low, high,
                         length * apart, to + from * apart);
            else if (clips)
              clamp_only(x + from * apart, low, high, length * apart, to + from * apart);
            else
              std::memcpy(to + from * apart, x + from * apart, sizeof(T) * length * apart);
          }
        };
        if (call.held >= 0)
          for_each_run(positions, held[i], begin, end, false, restore);
        else if (!covers_all(spec, block))
          restore(begin, end - begin);
        Field field(plan, start + static_cast<uint64_t>(i), block, false,
                    table.data() + i * spec.labels);
        for (int64_t plane = 0; plane < apart; ++plane)
          for_each_run(positions, block, begin, end, by_rows, [&](int64_t from, int length) {
            const float* noise = field.run(plane * line + from, length);
            const int64_t at = from * apart + plane;
            for (T* to : {sample, opposite}) {
              if (!to) continue;
              const C scale = C(to == sample ? call.scale : -call.scale);
              if (blends) {
                blend_noise(from_b + at, way + at, position, scale, noise, low, high, length, apart,
                            to + at);
                continue;
              }
              for (int64_t k = 0; nearest && k < length;) {  // a plane at a time
                const int64_t plane = (at + k) / pixels;
                const int64_t some = std::min<int64_t>(length - k, (plane + 1) * pixels - (at + k));
                add_noise_nearest(x + at + k, bounds[plane], bounds[spec.planes() + plane],
                                  C(call.rule.factor), C(call.rule.floor), scale, noise + k, low,
                                  high, some, to + at + k);
                k += some;
              }
              if (nearest) continue;
              const C* const factors = scales ? scales + at : nullptr;
              if (apart == 1)
                add_noise(x + at, factors, scale, noise, low, high, length, to + at);
              else
                add_noise_apart(x + at, factors, scale, noise, low, high, length, apart, to + at);
            }
          });
      }
    }
  }
}

template <typename T>
void accumulate_typed(T* total, T* square, const T* weights, const Spec& spec, uint64_t first,
                      int64_t count, int threads) {
  const Plan plan(spec);
  const int64_t numel = spec.numel(), tiles = (numel + kTile - 1) / kTile;
  for (int64_t base = 0; base < count;) {
    const uint64_t start = first + static_cast<uint64_t>(base);
    const int64_t whole = kSamples - static_cast<int64_t>(start % kSamples);
    const int64_t some = std::min(whole, count - base);
    const std::vector<Placement> placements = placements_of(spec, start, some);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1) if (threads > 1)
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = tile * kTile, end = std::min(begin + kTile, numel);
      T sums[kTile], squares[kTile];  // of a chunk
      for (int64_t i = 0; i < some;) {
        const int64_t left = kChunk - static_cast<int64_t>((start + i) % kChunk);
        const int64_t stop = std::min(some, i + left);
        std::fill(sums, sums + (end - begin), T(0));
        if (square) std::fill(squares, squares + (end - begin), T(0));
        for (; i < stop; ++i) {
          Field field(plan, start + static_cast<uint64_t>(i), placements[i], true);
          for_each_run(spec, placements[i], begin, end, !spec.is_elementwise(),
                       [&](int64_t from, int length) {
                         const T weight = weights[base + i];
                         const float* const score = field.run(from, length);
                         add_terms(weight, score, length, sums + (from - begin));
                         if (square) add_squares(weight, score, length, squares + (from - begin));
                       });
        }
        for (int64_t k = begin; k < end; ++k) total[k] += sums[k - begin];
        if (square)
          for (int64_t k = begin; k < end; ++k) square[k] += squares[k - begin];
      }
    }
    base += some;
  }
}

}  // namespace

void perturb(const Perturb& call, Type type) {
  if (is_plain_grid(call)) return perturb_grid(call, type);
  switch (type) {
    case Type::kFloat32:
      return perturb_typed<float>(call);
    case Type::kFloat64:
      return perturb_typed<double>(call);
    case Type::kFloat16:
      return perturb_typed<Half>(call);
    case Type::kBFloat16:
      return perturb_typed<BFloat16>(call);
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
