// Grids of cells: samples that blend x with a baseline, cell by cell, and Phi of given values. A
// line of the grid is interpolated along x once and serves all rows of pixels between it and the
// next; a row of pixels is interpolated once and serves all planes.
#include <algorithm>
#include <vector>

#include "fill.h"
#include "kernels.h"
#include "simd.h"

namespace fwdgrad::cpu {
namespace {

constexpr int64_t kBandRows = 32;        // of pixels that a piece of work has
constexpr int64_t kMostDraws = 1 << 18;  // that are held at once: 1 MiB, or one sample's

// A line of the grid at the pixels of a row.
#define FWDGRAD_LINES(C)                                                                       \
  FWDGRAD_SIMD void spread_line(const C* __restrict cells, const int32_t* __restrict index,    \
                                const float* __restrict fraction, int64_t count,               \
                                C* __restrict out) {                                           \
    for (int64_t k = 0; k < count; ++k) {                                                      \
      const C low = cells[index[k]], next = cells[index[k] + 1];                               \
      out[k] = fraction[k] != 0 ? low + C(fraction[k]) * (next - low) : low;                   \
    }                                                                                          \
  }                                                                                            \
  FWDGRAD_SIMD void spread_squares(const C* __restrict cells, const int32_t* __restrict index, \
                                   const float* __restrict fraction, int64_t count,            \
                                   C* __restrict out) {                                        \
    for (int64_t k = 0; k < count; ++k) {                                                      \
      const C t = C(fraction[k]), low = cells[index[k]], next = cells[index[k] + 1];           \
      out[k] = t != 0 ? (1 - t) * (1 - t) * low + t * t * next : low;                          \
    }                                                                                          \
  }                                                                                            \
  FWDGRAD_SIMD void weigh(const C* __restrict low, const C* __restrict high, C a, C b,         \
                          int64_t count, C* __restrict out) {                                  \
    for (int64_t k = 0; k < count; ++k) out[k] = a * low[k] + b * high[k];                     \
  }
FWDGRAD_LINES(float)
FWDGRAD_LINES(double)
#undef FWDGRAD_LINES

// position + scale (low + t (high - low)).
#define FWDGRAD_SHARES(C)                                                                      \
  FWDGRAD_SIMD void shares(const float* __restrict low, const float* __restrict high, float t, \
                           C position, C scale, int64_t count, C* __restrict out) {            \
    for (int64_t k = 0; k < count; ++k)                                                        \
      out[k] = position + scale * C(low[k] + t * (high[k] - low[k]));                          \
  }
FWDGRAD_SHARES(float)
FWDGRAD_SHARES(double)
#undef FWDGRAD_SHARES

#define FWDGRAD_BLEND(T)                                                                  \
  FWDGRAD_SIMD void blend(const T* __restrict x, const T* __restrict b,                   \
                          const Compute<T>::type* __restrict share, Compute<T>::type low, \
                          Compute<T>::type high, int64_t count, T* __restrict out) {      \
    using C = Compute<T>::type;                                                           \
    for (int64_t k = 0; k < count; ++k) {                                                 \
      const C from = load(b[k]);                                                          \
      store(clamp(from + (load(x[k]) - from) * share[k], low, high), out + k);            \
    }                                                                                     \
  }                                                                                       \
  FWDGRAD_SIMD void blend(const T* __restrict x, Compute<T>::type from,                   \
                          const Compute<T>::type* __restrict share, Compute<T>::type low, \
                          Compute<T>::type high, int64_t count, T* __restrict out) {      \
    for (int64_t k = 0; k < count; ++k)                                                   \
      store(clamp(from + (load(x[k]) - from) * share[k], low, high), out + k);            \
  }
FWDGRAD_BLEND(float)
FWDGRAD_BLEND(double)
FWDGRAD_BLEND(Half)
FWDGRAD_BLEND(BFloat16)
#undef FWDGRAD_BLEND

// Where each pixel of a row lies between the columns of the grid: that of a grid that is shifted
// is `shift` further on.
struct Across {
  std::vector<int32_t> low;
  std::vector<float> fraction;

  explicit Across(const Spec& spec) {
    const int64_t length = spec.width + spec.cell_width - 1;
    low.resize(length);
    fraction.resize(length);
    for (int64_t x = 0; x < length; ++x) {
      const GridPosition at = GridPosition::of(x, 0, spec.cell_width, spec.linear);
      low[x] = static_cast<int32_t>(at.low);
      fraction[x] = at.fraction();
    }
  }
};

// A layer of the grid, rows x columns, at depth z: where that is between two, in `between`.
template <typename C>
const C* layer_at(const C* cells, const Grid& grid, const GridPosition& z, bool squared,
                  C* between) {
  const int64_t size = grid.rows * grid.columns;
  const C* const low = cells + z.low * size;
  const C t = C(z.fraction());
  if (t == 0) return low;
  weigh(low, low + size, squared ? (1 - t) * (1 - t) : 1 - t, squared ? t * t : t, size, between);
  return between;
}

template <typename T>
void perturb_grid_typed(const Perturb& call) {
  using C = typename Compute<T>::type;
  const Spec& spec = call.spec;
  const Grid grid = Grid::of(spec);
  const uint64_t mask = hadamard_mask(draws_of(spec));
  const int64_t width = spec.width, pixels = spec.height * width, numel = spec.numel();
  const int64_t lines_each = grid.lines(), bands = (spec.height + kBandRows - 1) / kBandRows;
  const int64_t together = std::max<int64_t>(1, std::min(call.count, kMostDraws / lines_each));
  const auto* const x = static_cast<const T*>(call.x);
  const C position = C(call.baseline.position), low = C(call.low), high = C(call.high);
  // A line is read one column further, with weight 0 at the last.
  std::vector<float> table(together * lines_each + 1);
  const Across across(spec);
  // These elements take an eighth of what a draw for each would.
  const int threads = useful_threads(call.threads, call.count, numel / 8);
  for (int64_t start = 0; start < call.count; start += together) {
    const int64_t some = std::min(together, call.count - start);
    const uint64_t first = call.first + static_cast<uint64_t>(start);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      std::vector<float> drawn(spec.is_ordered() ? spec.labels : 0);
#pragma omp for schedule(static)
      for (int64_t i = 0; i < some; ++i) {
        const Source source(spec, mask, first + static_cast<uint64_t>(i), false);
        float* const to = table.data() + i * lines_each;
        if (!spec.is_ordered()) {
          fill_all(source, lines_each, to);
          continue;
        }
        fill_all(source, spec.labels, drawn.data());
        for (int64_t k = 0; k < lines_each; ++k) to[k] = drawn[spec.mask[k]];
      }
      std::vector<float> lines(2 * width);
      std::vector<float> between(spec.cell_depth > 1 ? grid.rows * grid.columns + 1 : 0);
      std::vector<C> share(width);
      // A band's samples come one after the other: x and the baseline stay in the cache.
#pragma omp for schedule(static)
      for (int64_t work = 0; work < spec.depth * bands * some; ++work) {
        const int64_t i = work % some, top = work / some % bands * kBandRows;
        const int64_t z = work / some / bands;
        const Placement at = placement_of(spec, first + static_cast<uint64_t>(i));
        const float* const cells = layer_at(
            table.data() + i * lines_each, grid,
            GridPosition::of(z, at.shift_z, spec.cell_depth, spec.linear), false, between.data());
        float* line[2] = {lines.data(), lines.data() + width};
        int64_t held[2] = {-1, -1};
        const auto spread = [&](int which, int64_t row) {
          if (held[which] == row) return;
          if (held[1 - which] == row) {
            std::swap(line[0], line[1]);
            std::swap(held[0], held[1]);
            return;
          }
          spread_line(cells + row * grid.columns, across.low.data() + at.shift_x,
                      across.fraction.data() + at.shift_x, width, line[which]);
          held[which] = row;
        };
        for (int64_t y = top; y < std::min(top + kBandRows, spec.height); ++y) {
          const GridPosition down = GridPosition::of(y, at.shift_y, spec.cell_height, spec.linear);
          const float t = down.fraction();
          spread(0, down.low);
          if (t != 0) spread(1, down.low + 1);
          for (int sign = 0; sign < (call.pairs ? 2 : 1); ++sign) {
            shares(line[0], t != 0 ? line[1] : line[0], t, position,
                   C(sign ? -call.scale : call.scale), width, share.data());
            T* const out = static_cast<T*>(call.out) +
                           (start + i + (sign ? call.count : 0)) * numel + y * width;
            for (int64_t p = z; p < spec.planes(); p += spec.depth) {
              const int64_t from = p * pixels + y * width;
              if (call.baseline.by_plane)
                blend(x + from, static_cast<const C*>(call.baseline.at)[p], share.data(), low, high,
                      width, out + p * pixels);
              else
                blend(x + from, static_cast<const T*>(call.baseline.at) + from, share.data(), low,
                      high, width, out + p * pixels);
            }
          }
        }
      }
    }
  }
}

template <typename C>
void expand_typed(C* out, const C* values, const Spec& spec, uint64_t first, bool squared,
                  int threads) {
  const Grid grid = Grid::of(spec);
  const Across across(spec);
  const Placement lies = placement_of(spec, first);
  const int32_t* const low_of = across.low.data() + lies.shift_x;
  const float* const fraction_of = across.fraction.data() + lies.shift_x;
  const int64_t bands = (spec.height + kBandRows - 1) / kBandRows;
  // A line is read one column further, with weight 0 at the last.
  std::vector<C> cells(values, values + grid.lines());
  cells.push_back(C(0));
  const auto spread = [&](const C* from, C* to) {
    if (squared)
      spread_squares(from, low_of, fraction_of, spec.width, to);
    else
      spread_line(from, low_of, fraction_of, spec.width, to);
  };
  threads = useful_threads(threads, grid.planes * spec.depth, spec.height * spec.width / 8);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    std::vector<C> line(2 * spec.width);
    std::vector<C> between(spec.cell_depth > 1 ? grid.rows * grid.columns + 1 : 0);
    C* const next = line.data() + spec.width;
#pragma omp for schedule(static)
    for (int64_t work = 0; work < grid.planes * spec.depth * bands; ++work) {
      const int64_t plane = work / bands, top = work % bands * kBandRows;
      const C* const of_plane = cells.data() + plane / spec.depth * (grid.lines() / grid.planes);
      const C* const layer =
          layer_at(of_plane, grid,
                   GridPosition::of(plane % spec.depth, lies.shift_z, spec.cell_depth, spec.linear),
                   squared, between.data());
      int64_t low = -1, high = -1;  // the rows of the grid that are held
      for (int64_t y = top; y < std::min(top + kBandRows, spec.height); ++y) {
        const GridPosition at = GridPosition::of(y, lies.shift_y, spec.cell_height, spec.linear);
        const C t = C(at.fraction());
        C* const to = out + (plane * spec.height + y) * spec.width;
        if (low != at.low) spread(layer + at.low * grid.columns, line.data());
        low = at.low;
        if (t == 0) {
          std::copy(line.data(), line.data() + spec.width, to);
          continue;
        }
        if (high != at.low + 1) spread(layer + (at.low + 1) * grid.columns, next);
        high = at.low + 1;
        const C a = squared ? (1 - t) * (1 - t) : 1 - t, b = squared ? t * t : t;
        weigh(line.data(), next, a, b, spec.width, to);
      }
    }
  }
}

}  // namespace

bool is_plain_grid(const Perturb& call) {
  const Spec& spec = call.spec;
  return call.baseline.at && call.interleaved == 1 && call.held < 0 && spec.has_cells() &&
         (spec.shared || spec.leading == 1) && !spec.has_blocks() &&
         Grid::of(spec).columns < INT32_MAX;
}

void perturb_grid(const Perturb& call, Type type) {
  switch (type) {
    case Type::kFloat32:
      return perturb_grid_typed<float>(call);
    case Type::kFloat64:
      return perturb_grid_typed<double>(call);
    case Type::kFloat16:
      return perturb_grid_typed<Half>(call);
    case Type::kBFloat16:
      return perturb_grid_typed<BFloat16>(call);
  }
}

void expand(void* out, const void* values, Type type, const Spec& spec, uint64_t first,
            bool squared, int threads) {
  if (type == Type::kFloat64)
    expand_typed(static_cast<double*>(out), static_cast<const double*>(values), spec, first,
                 squared, threads);
  else
    expand_typed(static_cast<float*>(out), static_cast<const float*>(values), spec, first, squared,
                 threads);
}

}  // namespace fwdgrad::cpu
