// What one thread draws: short runs of draws, and which of its elements a block covers.
#pragma once

#include "../include/fwdgrad/draws.h"

namespace fwdgrad::cuda {

// Philox's round keys, made once on the host: a kernel's rounds read them as constants.
struct Keys {
  uint32_t words[20];

  static Keys of(uint64_t seed) {
    Keys keys;
    PhiloxRound round{Key::of(seed).low, Key::of(seed).high};
    for (int i = 0; i < 20; i += 2, round.next_key()) {
      keys.words[i] = round.k0;
      keys.words[i + 1] = round.k1;
    }
    return keys;
  }
};

FWDGRAD_HD Words words_of(uint32_t group, uint32_t stream, uint64_t sample, const Keys& keys) {
  Words c{group, stream, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)};
  for (int i = 0; i < 20; i += 2)
    PhiloxRound{keys.words[i], keys.words[i + 1]}(c.w0, c.w1, c.w2, c.w3);
  return c;
}

// What a kernel's draws are made from.
struct Source {
  Distribution distribution;
  uint32_t stream;
  Keys keys;

  static Source of(const Spec& spec) {
    return {spec.distribution,
            spec.distribution == Distribution::kHadamard ? kHadamardSigns : spec.stream,
            Keys::of(spec.seed)};
  }
};

// A sample, as far as its draws go.
struct Sample {
  uint64_t number, row;
};

FWDGRAD_HD float sign_of(uint32_t bits, int i) {  // a set bit is +1
  return bit_cast<float>(0x3f800000u | (~bits >> i & 1u) << 31);
}

// Four words' draws of a real-valued distribution, as noise or as scores.
template <Distribution distribution, bool score>
FWDGRAD_HD void draws_of(const Words& w, float* out) {
  if constexpr (distribution == Distribution::kNormal) {  // its own score
    const Pair p = normal_pair(w.w0, w.w1), q = normal_pair(w.w2, w.w3);
    out[0] = p.a, out[1] = p.b, out[2] = q.a, out[3] = q.b;
  } else if constexpr (score) {
    out[0] = unit_score<distribution>(w.w0), out[1] = unit_score<distribution>(w.w1);
    out[2] = unit_score<distribution>(w.w2), out[3] = unit_score<distribution>(w.w3);
  } else {
    out[0] = unit_noise<distribution>(w.w0), out[1] = unit_noise<distribution>(w.w1);
    out[2] = unit_noise<distribution>(w.w2), out[3] = unit_noise<distribution>(w.w3);
  }
}

// Draws k .. k + n - 1 of a distribution known at compile time; k is a multiple of n, and n of 4.
template <Distribution distribution, bool score, int n>
FWDGRAD_HD void draw_run(int64_t k, uint64_t sample, const Source& source, float* out) {
  static_assert(n % 4 == 0 && n <= 32 && 32 % n == 0, "a run of signs lies in one word");
  static_assert(distribution != Distribution::kHadamard,
                "its signs depend on more than a sample's number");
  if constexpr (is_sign(distribution)) {
    const Words w = words_of(static_cast<uint32_t>(k / 128), source.stream, sample, source.keys);
    const uint32_t bits = w[static_cast<uint32_t>(k / 32) & 3u] >> (k & 31);
    for (int i = 0; i < n; ++i) out[i] = sign_of(bits, i);
  } else {
    for (int i = 0; i < n; i += 4)
      draws_of<distribution, score>(
          words_of(static_cast<uint32_t>((k + i) / 4), source.stream, sample, source.keys),
          out + i);
  }
}

// Draws k .. k + 3 of any distribution; k is a multiple of 4.
template <bool score>
FWDGRAD_HD void draw_four(int64_t k, const Sample& sample, const Source& source, float* out) {
  const uint32_t word = static_cast<uint32_t>(k / 32);
  const uint32_t group = static_cast<uint32_t>(is_sign(source.distribution) ? k / 128 : k / 4);
  const Words w = words_of(group, source.stream, sample.number, source.keys);
  switch (source.distribution) {
    case Distribution::kNormal:
      return draws_of<Distribution::kNormal, score>(w, out);
    case Distribution::kCauchy:
      return draws_of<Distribution::kCauchy, score>(w, out);
    case Distribution::kHyperbolic:
      return draws_of<Distribution::kHyperbolic, score>(w, out);
    case Distribution::kLogistic:
      return draws_of<Distribution::kLogistic, score>(w, out);
    case Distribution::kUniform:
      return draws_of<Distribution::kUniform, score>(w, out);
    case Distribution::kRademacher:
    case Distribution::kHadamard:
      break;
  }
  uint32_t bits = w[word & 3u];
  if (source.distribution == Distribution::kHadamard)
    bits ^= hadamard_word(static_cast<uint32_t>(sample.row), word);
  for (int i = 0; i < 4; ++i) out[i] = sign_of(bits >> (k & 31), i);
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

}  // namespace fwdgrad::cuda
