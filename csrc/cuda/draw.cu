// A table of the draws of samples, for the kernels of features: a thread makes four words of it.
#include "draws.h"
#include "launch.h"
#include "memory.h"

namespace fwdgrad::cuda {
namespace {

// signs: a word has 32 of them, else one draw.
template <bool score, bool signs>
__global__ void __launch_bounds__(kThreads)
    draw_words(const Draw call, const Source source, uint64_t mask) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t groups = call.stride / 4, sample = thread / groups;
  if (sample >= call.count) return;
  const uint32_t group = static_cast<uint32_t>(thread - sample * groups);
  const uint64_t number = call.first + static_cast<uint64_t>(sample);
  uint4 made;
  if constexpr (signs) {
    const bool rows = source.distribution == Distribution::kHadamard;
    const HadamardRow of =
        rows ? hadamard_row(number, mask, Key::of(call.spec.seed)) : HadamardRow{0, number};
    Words w = words_of(group, source.stream, of.group, source.keys);
    if (rows) {
      w.w0 ^= hadamard_word(of.row, 4 * group), w.w1 ^= hadamard_word(of.row, 4 * group + 1);
      w.w2 ^= hadamard_word(of.row, 4 * group + 2), w.w3 ^= hadamard_word(of.row, 4 * group + 3);
    }
    made = {w.w0, w.w1, w.w2, w.w3};
  } else {
    float values[4];
    draw_four<score>(4 * static_cast<int64_t>(group), {number, 0}, source, values);
    std::memcpy(&made, values, sizeof(made));
  }
  write_whole(reinterpret_cast<uint4*>(call.out) + thread, made);
}

// A thread makes a word of the table.
template <bool signs>
__global__ void __launch_bounds__(kThreads) reorder_words(const Reorder call) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t sample = thread / call.stride, word = thread - sample * call.stride;
  if (sample >= call.count) return;
  const uint32_t* const own = call.drawn + sample * call.drawn_stride;
  constexpr int each = signs ? 32 : 1;
  const int64_t left = call.lines - word * each;
  uint32_t made = 0;
  for (int i = 0; i < each && i < left; ++i) {
    const int32_t from = call.order[word * each + i];
    if constexpr (signs)
      made |= (own[from / 32] >> (from & 31) & 1u) << i;
    else
      made = own[from];
  }
  call.out[thread] = made;
}

}  // namespace

void draw(const Draw& call, Where where) {
  if (call.count * call.stride == 0) return;
  const DeviceGuard guard(where.device);
  const auto kernel = is_sign(call.spec.distribution) ? draw_words<false, true>
                      : call.score                    ? draw_words<true, false>
                                                      : draw_words<false, false>;
  FWDGRAD_LAUNCH(kernel, grid_for(call.count * call.stride / 4, 1, where.device), where, call,
                 Source::of(call.spec), hadamard_mask(draws_of(call.spec)));
}

void reorder(const Reorder& call, Where where) {
  if (call.count * call.stride == 0) return;
  const DeviceGuard guard(where.device);
  const auto kernel = call.signs ? reorder_words<true> : reorder_words<false>;
  FWDGRAD_LAUNCH(kernel, grid_for(call.count * call.stride, 1, where.device), where, call);
}

}  // namespace fwdgrad::cuda
