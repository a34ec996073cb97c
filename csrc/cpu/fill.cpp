#include "fill.h"

#include <algorithm>

#include "simd.h"

namespace fwdgrad::cpu {
namespace {

constexpr int kMaxGroups = kRunCapacity / 4;
static_assert(kMaxGroups % kGroupsPerChunk == 0, "a run is a whole number of chunks");

// Words of consecutive groups: 0 and 2 of each in `even`, 1 and 3 in `odd`. Draw 2k is made of
// even[k] and draw 2k + 1 of odd[k].
struct WordBuffer {
  alignas(64) uint32_t even[2 * kMaxGroups];
  alignas(64) uint32_t odd[2 * kMaxGroups];
};

#if FWDGRAD_HAS_LANES
// Each lane of 64 bits has a group's word in its low half. The instruction that multiplies low
// halves takes them as they are, and the high halves, where products leave what they like, are
// nothing to it: the rounds have no shuffles, of which GCC 12 makes two thirds of a plain loop.
// Two vectors go side by side, as each round waits for the last. The rounds are unrolled, so that
// what is the same for all groups (keys, half of the first three rounds) is computed once. A macro
// because a function that is inlined into several levels can use the instructions of none.
#define FWDGRAD_FILL_WORDS(attributes, bytes, multiply)                                    \
  attributes void fill_words(uint32_t first, int groups, uint32_t stream, uint64_t sample, \
                             Key key, WordBuffer* __restrict out) {                        \
    typedef uint64_t Lanes __attribute__((vector_size(bytes)));                            \
    constexpr int lanes = bytes / 8, n = 2;                                                \
    static_assert(kMaxGroups % (n * lanes) == 0, "room for what the last step makes");     \
    typedef uint32_t Halves __attribute__((vector_size(bytes)));                           \
    Lanes group, zero{};                                                                   \
    Halves in_turn;                                                                        \
    for (unsigned i = 0; i < lanes; ++i) {                                                 \
      group[i] = first + static_cast<uint64_t>(i);                                         \
      in_turn[2 * i] = 2 * i;                                                              \
      in_turn[2 * i + 1] = 2 * (lanes + i);                                                \
    }                                                                                      \
    for (int64_t base = 0; base < groups; base += n * lanes) {                             \
      Lanes c0[n], c1[n], c2[n], c3[n];                                                    \
      for (int i = 0; i < n; ++i, group += lanes) {                                        \
        c0[i] = group;                                                                     \
        c1[i] = zero + stream;                                                             \
        c2[i] = zero + sample;                                                             \
        c3[i] = zero + (sample >> 32);                                                     \
      }                                                                                    \
      PhiloxRound round{key.low, key.high};                                                \
      _Pragma("GCC unroll 10") for (int r = 0; r < 10; ++r) {                              \
        _Pragma("GCC unroll 2") for (int i = 0; i < n; ++i) {                              \
          const Lanes p0 = Lanes(multiply(c0[i], zero + PhiloxRound::kFactor0));           \
          const Lanes p1 = Lanes(multiply(c2[i], zero + PhiloxRound::kFactor1));           \
          c0[i] = (p1 >> 32) ^ (c1[i] ^ round.k0);                                         \
          c1[i] = p1;                                                                      \
          c2[i] = (p0 >> 32) ^ (c3[i] ^ round.k1);                                         \
          c3[i] = p0;                                                                      \
        }                                                                                  \
        round.next_key();                                                                  \
      }                                                                                    \
      for (int i = 0; i < n; ++i) {                                                        \
        const int64_t at = 2 * (base + i * lanes);                                         \
        *reinterpret_cast<Lanes*>(out->even + at) =                                        \
            Lanes(__builtin_shuffle(Halves(c0[i]), Halves(c2[i]), in_turn));               \
        *reinterpret_cast<Lanes*>(out->odd + at) =                                         \
            Lanes(__builtin_shuffle(Halves(c1[i]), Halves(c3[i]), in_turn));               \
      }                                                                                    \
    }                                                                                      \
  }
FWDGRAD_LANES(FWDGRAD_FILL_WORDS)
#undef FWDGRAD_FILL_WORDS
#else
// The state of a chunk is four short arrays and each round a loop over them.
void fill_words(uint32_t first, int groups, uint32_t stream, uint64_t sample, Key key,
                WordBuffer* __restrict out) {
  constexpr int n = kGroupsPerChunk;
  for (int64_t base = 0; base < groups; base += n) {
    uint32_t c0[n], c1[n], c2[n], c3[n];
    for (int64_t i = 0; i < n; ++i) {
      c0[i] = first + static_cast<uint32_t>(base + i);
      c1[i] = stream;
      c2[i] = static_cast<uint32_t>(sample);
      c3[i] = static_cast<uint32_t>(sample >> 32);
    }
    PhiloxRound round{key.low, key.high};
    for (int r = 0; r < 10; ++r) {
      for (int64_t i = 0; i < n; ++i) round(c0[i], c1[i], c2[i], c3[i]);
      round.next_key();
    }
    for (int64_t i = 0; i < n; ++i) {
      out->even[2 * (base + i)] = c0[i];
      out->even[2 * (base + i) + 1] = c2[i];
      out->odd[2 * (base + i)] = c1[i];
      out->odd[2 * (base + i) + 1] = c3[i];
    }
  }
}
#endif

FWDGRAD_SIMD void normal(const WordBuffer& words, int groups, float* __restrict out) {
  for (int64_t i = 0; i < 2 * static_cast<int64_t>(groups); ++i) {
    const Pair p = normal_pair(words.even[i], words.odd[i]);
    out[2 * i] = p.a;
    out[2 * i + 1] = p.b;
  }
}

// A macro because GCC makes no clones of a template's instances.
#define FWDGRAD_FILL(name, function)                                                   \
  FWDGRAD_SIMD void name(const WordBuffer& words, int groups, float* __restrict out) { \
    for (int64_t i = 0; i < 2 * static_cast<int64_t>(groups); ++i) {                   \
      out[2 * i] = function(words.even[i]);                                            \
      out[2 * i + 1] = function(words.odd[i]);                                         \
    }                                                                                  \
  }
FWDGRAD_FILL(cauchy_noise, unit_noise<Distribution::kCauchy>)
FWDGRAD_FILL(cauchy_scores, unit_score<Distribution::kCauchy>)
FWDGRAD_FILL(hyperbolic_noise, unit_noise<Distribution::kHyperbolic>)
FWDGRAD_FILL(hyperbolic_scores, unit_score<Distribution::kHyperbolic>)
FWDGRAD_FILL(logistic_noise, unit_noise<Distribution::kLogistic>)
FWDGRAD_FILL(logistic_scores, unit_score<Distribution::kLogistic>)
FWDGRAD_FILL(uniform_noise, unit_noise<Distribution::kUniform>)
#undef FWDGRAD_FILL

// A set bit is +1: the sign of 1.0f where it is not set.
FWDGRAD_SIMD void signs(const uint32_t* __restrict words, int count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t b = 0; b < 32; ++b)
      out[32 * i + b] = bit_cast<float>((~words[i] << (31 - b) & 0x80000000u) | 0x3F800000u);
}

using Fill = void (*)(const WordBuffer&, int, float*);

Fill real_valued(Distribution distribution, bool score) {
  switch (distribution) {
    case Distribution::kCauchy:
      return score ? cauchy_scores : cauchy_noise;
    case Distribution::kHyperbolic:
      return score ? hyperbolic_scores : hyperbolic_noise;
    case Distribution::kLogistic:
      return score ? logistic_scores : logistic_noise;
    case Distribution::kUniform:
      return uniform_noise;
    default:
      return normal;  // its own score
  }
}

int chunks_of(int64_t groups) {
  return static_cast<int>((groups + kGroupsPerChunk - 1) / kGroupsPerChunk * kGroupsPerChunk);
}

}  // namespace

const float* fill(const Source& source, int64_t first, int count, float* buffer) {
  WordBuffer words;
  if (!is_sign(source.distribution)) {
    const int64_t group = first / 4;
    const int offset = static_cast<int>(first - group * 4);
    const int groups = chunks_of((offset + count + 3) / 4);
    fill_words(static_cast<uint32_t>(group), groups, source.stream, source.sample, source.key,
               &words);
    real_valued(source.distribution, source.score)(words, groups, buffer);
    return buffer + offset;
  }
  const bool hadamard = source.distribution == Distribution::kHadamard;
  const int64_t group = first / 128, index = first / 32;
  const int offset = static_cast<int>(first - index * 32);
  const int needed = (offset + count + 31) / 32;
  const int groups = chunks_of((first + count + 127) / 128 - group);
  fill_words(static_cast<uint32_t>(group), groups, hadamard ? kHadamardSigns : source.stream,
             hadamard ? source.hadamard.group : source.sample, source.key, &words);
  uint32_t run[kRunCapacity / 32];
  for (int i = 0; i < needed; ++i) {
    const int64_t at = index + i - group * 4;
    run[i] = (at & 1 ? words.odd : words.even)[at >> 1];
    if (hadamard) run[i] ^= hadamard_word(source.hadamard.row, static_cast<uint32_t>(index + i));
  }
  signs(run, needed, buffer);
  return buffer + offset;
}

void fill_all(const Source& source, int64_t count, float* out) {
  alignas(64) float run[kRunCapacity];
  for (int64_t k = 0; k < count; k += kRun) {
    const int some = static_cast<int>(std::min<int64_t>(kRun, count - k));
    const float* const from = fill(source, k, some, run);
    std::copy(from, from + some, out + k);
  }
}

}  // namespace fwdgrad::cpu
