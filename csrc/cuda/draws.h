// What one thread draws: short runs of elements that have a draw each, and strips of fields.
#pragma once

#include "../include/fwdgrad/draws.h"

namespace fwdgrad::cuda {

// A copy, as far as its draws go.
struct Copy {
  uint64_t number, row;
  Key key;
  uint32_t stream;

  FWDGRAD_HD static Copy of(const Spec& spec, uint64_t number, uint64_t row) {
    return {number, row, Key::of(spec.seed), spec.stream};
  }
};

FWDGRAD_HD float sign_of(uint32_t bits, int i) {  // a set bit is +1
  return bit_cast<float>(0x3f800000u | (~bits >> i & 1u) << 31);
}

// Bits of a law of signs from draw k on; at least those of k's word are there.
template <Law law>
FWDGRAD_HD uint32_t sign_bits(int64_t k, const Copy& copy) {
  const uint32_t word = static_cast<uint32_t>(k / 32);
  const Words words =
      words_of(static_cast<uint32_t>(k / 128), law == Law::kHadamard ? kHadamardSigns : copy.stream,
               copy.number, copy.key);
  uint32_t bits = words[word & 3u];
  if constexpr (law == Law::kHadamard) bits ^= hadamard_word(static_cast<uint32_t>(copy.row), word);
  return bits >> (k & 31);
}

// Draws k .. k + n - 1, as noise or as scores; k is a multiple of n, and n of 4. A Philox call
// makes four of a real-valued law, or up to 32 signs.
template <Law law, bool score, int n>
FWDGRAD_HD void draw_run(int64_t k, const Copy& copy, float* out) {
  static_assert(n % 4 == 0 && n <= 32 && 32 % n == 0, "a run of signs lies in one word");
  if constexpr (is_sign(law)) {
    const uint32_t bits = sign_bits<law>(k, copy);
    for (int i = 0; i < n; ++i) out[i] = sign_of(bits, i);
  } else {
    for (int i = 0; i < n; i += 4) {
      const Words w =
          words_of(static_cast<uint32_t>((k + i) / 4), copy.stream, copy.number, copy.key);
      if constexpr (law == Law::kNormal) {  // its own score
        const Pair p = normal_pair(w.w0, w.w1), q = normal_pair(w.w2, w.w3);
        out[i] = p.a, out[i + 1] = p.b, out[i + 2] = q.a, out[i + 3] = q.b;
      } else if constexpr (score) {
        out[i] = unit_score<law>(w.w0), out[i + 1] = unit_score<law>(w.w1);
        out[i + 2] = unit_score<law>(w.w2), out[i + 3] = unit_score<law>(w.w3);
      } else {
        out[i] = unit_noise<law>(w.w0), out[i + 1] = unit_noise<law>(w.w1);
        out[i + 2] = unit_noise<law>(w.w2), out[i + 3] = unit_noise<law>(w.w3);
      }
    }
  }
}

// Any one draw.
template <Law law, bool score>
FWDGRAD_HD float draw_at(int64_t k, const Copy& copy) {
  if constexpr (is_sign(law)) {
    return sign_of(sign_bits<law>(k, copy), 0);
  } else {
    const Words w = words_of(static_cast<uint32_t>(k / 4), copy.stream, copy.number, copy.key);
    if constexpr (law == Law::kNormal) {
      const Pair p = normal_pair(k & 2 ? w.w2 : w.w0, k & 2 ? w.w3 : w.w1);
      return k & 1 ? p.b : p.a;
    } else {
      const uint32_t word = w[static_cast<uint32_t>(k & 3)];
      return score ? unit_score<law>(word) : unit_noise<law>(word);
    }
  }
}

// Where a thread's run of consecutive elements lies.
struct Run {
  int64_t y, x;  // of its first element
  bool one_row;  // whether all of it lies in that row
  int64_t height, width;

  FWDGRAD_HD static Run at(int64_t first, int length, const Spec& spec) {
    const int64_t row = first / spec.width, x = first - row * spec.width;
    return {row % spec.height, x, x + length <= spec.width, spec.height, spec.width};
  }
  // Which of the run's n elements a block covers, as bits.
  FWDGRAD_HD uint32_t covered(const Placement& block, int n) const {
    const uint32_t all = n == 32 ? ~0u : (1u << n) - 1u;
    if (one_row) {
      if (y < block.y0 || y >= block.y1 || x + n <= block.x0 || x >= block.x1) return 0;
      const int64_t skip = block.x0 > x ? block.x0 - x : 0;
      const int64_t end = block.x1 - x < n ? block.x1 - x : n;
      return (all << skip) & (all >> (n - end));
    }
    uint32_t bits = 0;
    int64_t row = y, column = x;
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
      const bool inside =
          row >= block.y0 && row < block.y1 && column >= block.x0 && column < block.x1;
      bits |= static_cast<uint32_t>(inside) << i;
      if (++column == width) {
        column = 0;
        row = row + 1 == height ? 0 : row + 1;
      }
    }
    return bits;
  }
};

// A column of a field's elements of one copy, `inside` rows (at most `rows`) down from element
// (plane, y, x): calls emit(j, value) for each. Lines of the grid are the outer loop, so that each
// is drawn once; rows are the inner one and unrolled, so that what emit keeps for each stays in
// registers. Neighbouring threads have neighbouring columns, so they draw at the same steps.
template <Law law, bool score, int rows, typename Emit>
FWDGRAD_HD void draw_strip(const Spec& spec, const Grid& grid, const Placement& at, int64_t plane,
                           int64_t y, int64_t x, int inside, const Copy& copy, Emit emit) {
  const GridPosition down = GridPosition::of(y, at.shift_y, spec.cell_height, spec.bilinear);
  const GridPosition across = GridPosition::of(x, at.shift_x, spec.cell_width, spec.bilinear);
  const float right = across.fraction(), per_step = 1.0f / static_cast<float>(down.whole);
  int64_t k = (plane * grid.rows + down.low) * grid.columns + across.low;
  int64_t left = down.whole - down.rest;  // how far the next line is from the first row
  float above = 0.0f;
  int done = 0;
#pragma unroll 1
  for (bool ready = !down.between; done < inside; k += grid.columns) {
    float value = draw_at<law, score>(k, copy);
    if (across.between) value += right * (draw_at<law, score>(k + 1, copy) - value);
    if (!ready) {  // the line above the first row
      above = value;
      ready = true;
      continue;
    }
    const int near = static_cast<int>(left < 64 ? left : 64);
    const int until = (near + down.step - 1) / down.step < inside
                          ? (near + down.step - 1) / down.step
                          : inside;  // the first row that is not before the next line
    const float before = static_cast<float>(down.whole - left);
#pragma unroll
    for (int j = 0; j < rows; ++j) {
      if (j < done || j >= until) continue;
      const float down_here = (before + static_cast<float>(j * down.step)) * per_step;
      emit(j, down.between ? above + down_here * (value - above) : value);
    }
    done = until;
    left += down.whole;
    above = value;
  }
}

}  // namespace fwdgrad::cuda
