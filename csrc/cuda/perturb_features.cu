// perturb where elements share draws, which come from a table: a thread has four elements of a row
// in a few planes that take the same draws, and goes through the samples with what it hoisted.
#include "launch.h"
#include "perturb.h"

namespace fwdgrad::cuda {
namespace {

// ---- any features, with anything else ----------------------------------------------------

template <typename T, int planes>
__global__ void __launch_bounds__(kThreads, 2) perturb_lattice(const Call<T> call) {
  using C = typename Compute<T>::type;
  const Spec& spec = call.spec;
  const Piece piece =
      Piece::at(static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, spec, planes);
  if (piece.plane >= spec.leading) return;
  const Taken taken = Taken::of(piece, spec, call.axes, true);
  const int some =
      static_cast<int>(spec.leading - piece.plane < planes ? spec.leading - piece.plane : planes);
  const int64_t pixels = spec.height * spec.width, pixel = piece.y * spec.width + piece.x;
  const bool apart = call.interleaved > 1;
  const int64_t plane = piece.plane * spec.depth + piece.z;
  const int64_t start = apart ? pixel * call.interleaved + plane : plane * pixels + pixel;
  const int64_t down = apart ? spec.depth : spec.depth * pixels, across = call.interleaved;
  Blend<T> blend[planes][kAcross];
  for (int p = 0; p < planes; ++p) {
    for (int j = 0; j < kAcross; ++j) {
      const bool there = p < some && j < piece.inside;
      const int64_t at = there ? start + p * down + j * across : start;
      blend[p][j] =
          Blend<T>::of(call, load(call.x[at]), at, there ? plane + p * spec.depth : plane);
    }
  }
  const Run run{piece.y, piece.x, true, spec.height, spec.width};
  for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
    const Placement* const at = call.placed ? &call.placed[i].at : nullptr;
    const uint32_t covered = at ? run.covered(*at, kAcross) : ~0u;
    if (call.held && !covered && !run.covered(call.held[i].at, kAcross)) continue;
    float noise[kAcross];
    for (int j = 0; j < kAcross; ++j) noise[j] = 0.0f;
    if (covered) taken.values(call.table, i, call.axes, at, noise);
    T* out = call.out + i * call.numel + start;
#pragma unroll 1
    for (int sign = 0; sign < (call.opposite ? 2 : 1); ++sign) {
      for (int p = 0; p < planes; ++p)
        for (int j = 0; j < kAcross; ++j)
          if (p < some && j < piece.inside)
            store(blend[p][j].at(call, static_cast<C>(noise[j]), covered >> j & 1u, sign),
                  out + p * down + j * across);
      out += call.opposite;
    }
  }
}

// ---- the common case: signs on a linear grid of two axes, shared, without blocks or jitter ------

// Four signs a row of the grid, of which a thread needs a window of five at most.
template <typename T, int planes, bool apart>
__global__ void __launch_bounds__(kThreads, 2) perturb_linear(const Call<T> call) {
  using C = typename Compute<T>::type;
  const Spec& spec = call.spec;
  const Piece piece =
      Piece::at(static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, spec, planes);
  if (piece.plane >= spec.leading) return;
  const int64_t pixels = spec.height * spec.width, pixel = piece.y * spec.width + piece.x;
  const int64_t start = apart ? pixel * planes : piece.plane * pixels + pixel;

  // Between two columns of the grid whose signs differ an element is at +-near, else at +-1; the
  // first of the two is `further` on than the first element's.
  const Axis &rows = call.axes.y, &columns = call.axes.x;
  const Place row = Place::of(piece.y, rows);
  Place column = Place::of(piece.x, columns);
  const int64_t above = call.axes.line(0, 0, row.low) + column.low;
  const int64_t below = above + row.reaches_next(rows) * call.axes.grid.columns;
  const float fraction = row.fraction(rows);
  const int64_t first = column.low;
  float near[kAcross];
  int further[kAcross];
  for (int j = 0; j < kAcross; ++j, column = column.moved(1, columns)) {
    near[j] = 1.0f - 2.0f * column.fraction(columns);
    further[j] = static_cast<int>(column.low - first);
  }

  constexpr int m = planes * kAcross;
  Blend<T> blend[m];  // in the order of memory, as far as that goes
  const auto plane_of = [](int k) { return apart ? k % planes : k / kAcross; };
  const auto pixel_of = [](int k) { return apart ? k / planes : k % kAcross; };
  const auto offset_of = [&](int k) { return apart ? k : plane_of(k) * pixels + pixel_of(k); };
  for (int k = 0; k < m; ++k) {
    const int64_t at = start + (pixel_of(k) < piece.inside ? offset_of(k) : 0);
    blend[k] = Blend<T>::of(call, load(call.x[at]), at, piece.plane + plane_of(k));
  }

  const auto samples = [&](auto whole) {
    const auto write = [&](const C* noise, bool negative, T* out) {
      C result[m];
      for (int k = 0; k < m; ++k) result[k] = blend[k].plain(call, noise[pixel_of(k)], negative);
      constexpr int n = apart ? m : kAcross;  // side by side in memory
      if constexpr (decltype(whole)::value) {
        for (int k = 0; k < m; k += n) Pack<T, n>::store(result + k, out + offset_of(k));
      } else {
        for (int k = 0; k < m; ++k)
          if (pixel_of(k) < piece.inside) store(result[k], out + offset_of(k));
      }
    };
    const uint32_t* own = call.table.of(blockIdx.y);
    T* out = call.out + blockIdx.y * call.numel + start;
#pragma unroll 1
    for (int64_t i = blockIdx.y; i < call.count; i += gridDim.y) {
      const auto window = [&](int64_t at) {
        const uint64_t two = own[at / 32] | static_cast<uint64_t>(own[at / 32 + 1]) << 32;
        return static_cast<uint32_t>(two >> (at & 31));
      };
      const auto between = [&](uint32_t signs, int j) {
        const float size = (signs ^ signs >> 1) >> further[j] & 1u ? near[j] : 1.0f;
        return bit_cast<float>(bit_cast<uint32_t>(size) ^ (~signs >> further[j] & 1u) << 31);
      };
      const uint32_t high = window(above), low = window(below);
      C noise[kAcross];
      for (int j = 0; j < kAcross; ++j) {
        const float from = between(high, j);
        noise[j] = static_cast<C>(from + fraction * (between(low, j) - from));
      }
      write(noise, false, out);
      if (call.opposite) write(noise, true, out + call.opposite);
      own += gridDim.y * call.table.stride;
      out += gridDim.y * call.numel;
    }
  };
  if (spec.width % kAcross == 0 && is_aligned(call.out, 16))
    samples(std::true_type());
  else
    samples(std::false_type());
}

// ---- which kernel serves a call ----------------------------------------------------------

constexpr int64_t kSamples = 4;  // that are worth what a thread hoists

template <typename T>
dim3 grid_of(const Call<T>& call, int64_t each, Where where) {
  const int64_t pieces = Piece::count(call.spec, call.spec.leading, each);
  return grid_for(pieces, (call.count + kSamples - 1) / kSamples, where.device);
}

template <typename T>
bool is_common(const Call<T>& call) {
  const Spec& spec = call.spec;
  return call.table.signs && spec.linear && spec.depth == 1 && spec.cell_depth == 1 &&
         (spec.shared || spec.leading == 1) && !spec.has_blocks() && !spec.jitters && !call.clips;
}

}  // namespace

template <typename T>
void perturb_features(const Call<T>& call, Where where) {
  const Spec& spec = call.spec;
  if constexpr (sizeof(T) < 8) {
    const bool threes = spec.shared && spec.leading % 3 == 0;
    if (is_common(call) && (call.interleaved == 1 || spec.leading == 3)) {
      const auto kernel = call.interleaved > 1 ? perturb_linear<T, 3, true>
                          : threes             ? perturb_linear<T, 3, false>
                                               : perturb_linear<T, 1, false>;
      FWDGRAD_LAUNCH(kernel, grid_of(call, threes ? 3 : 1, where), where, call);
      return;
    }
    if (spec.shared && spec.leading > 1) {
      const auto kernel = perturb_lattice<T, 3>;
      FWDGRAD_LAUNCH(kernel, grid_of(call, 3, where), where, call);
      return;
    }
  }
  const auto kernel = perturb_lattice<T, 1>;
  FWDGRAD_LAUNCH(kernel, grid_of(call, 1, where), where, call);
}

template void perturb_features(const Call<float>& call, Where where);
template void perturb_features(const Call<double>& call, Where where);
template void perturb_features(const Call<Half>& call, Where where);
template void perturb_features(const Call<BFloat16>& call, Where where);

}  // namespace fwdgrad::cuda
