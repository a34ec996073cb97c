#include "fill.h"

#include <algorithm>

#include "simd.h"

namespace fwdgrad::cpu {
namespace {

constexpr int kMaxGroups = kRunCapacity / 4;
static_assert(kMaxGroups % kGroupsPerChunk == 0, "a run is a whole number of chunks");

// Words of consecutive groups, apart by their place in the group: w[4][kMaxGroups].
struct WordBuffer {
  alignas(64) uint32_t w[4][kMaxGroups];
};

// groups is a multiple of kGroupsPerChunk. The state of a chunk is four short arrays and each
// round a loop over them: the form that GCC turns into the fewest shuffles.
FWDGRAD_SIMD void fill_words(uint32_t first, int groups, uint32_t stream, uint64_t copy, Key key,
                             WordBuffer* __restrict out) {
  constexpr int n = kGroupsPerChunk;
  for (int64_t base = 0; base < groups; base += n) {
    uint32_t c0[n], c1[n], c2[n], c3[n];
    for (int64_t i = 0; i < n; ++i) {
      c0[i] = first + static_cast<uint32_t>(base + i);
      c1[i] = stream;
      c2[i] = static_cast<uint32_t>(copy);
      c3[i] = static_cast<uint32_t>(copy >> 32);
    }
    PhiloxRound round{key.low, key.high};
    for (int r = 0; r < 10; ++r) {
      for (int64_t i = 0; i < n; ++i) round(c0[i], c1[i], c2[i], c3[i]);
      round.next_key();
    }
    for (int64_t i = 0; i < n; ++i) {
      out->w[0][base + i] = c0[i];
      out->w[1][base + i] = c1[i];
      out->w[2][base + i] = c2[i];
      out->w[3][base + i] = c3[i];
    }
  }
}

FWDGRAD_SIMD void normal(const WordBuffer& words, int groups, float* __restrict out) {
  for (int64_t i = 0; i < groups; ++i) {
    const Pair p = normal_pair(words.w[0][i], words.w[1][i]);
    const Pair q = normal_pair(words.w[2][i], words.w[3][i]);
    out[4 * i] = p.a;
    out[4 * i + 1] = p.b;
    out[4 * i + 2] = q.a;
    out[4 * i + 3] = q.b;
  }
}

// A macro because GCC makes no clones of a template's instances.
#define FWDGRAD_FILL(name, function)                                                   \
  FWDGRAD_SIMD void name(const WordBuffer& words, int groups, float* __restrict out) { \
    for (int64_t i = 0; i < groups; ++i) {                                             \
      out[4 * i] = function(words.w[0][i]);                                            \
      out[4 * i + 1] = function(words.w[1][i]);                                        \
      out[4 * i + 2] = function(words.w[2][i]);                                        \
      out[4 * i + 3] = function(words.w[3][i]);                                        \
    }                                                                                  \
  }
FWDGRAD_FILL(cauchy_noise, unit_noise<Law::kCauchy>)
FWDGRAD_FILL(cauchy_scores, unit_score<Law::kCauchy>)
FWDGRAD_FILL(hyperbolic_noise, unit_noise<Law::kHyperbolic>)
FWDGRAD_FILL(hyperbolic_scores, unit_score<Law::kHyperbolic>)
FWDGRAD_FILL(logistic_noise, unit_noise<Law::kLogistic>)
FWDGRAD_FILL(logistic_scores, unit_score<Law::kLogistic>)
FWDGRAD_FILL(uniform_noise, unit_noise<Law::kUniform>)
#undef FWDGRAD_FILL

// A set bit is +1.
FWDGRAD_SIMD void signs(const uint32_t* __restrict words, int count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t b = 0; b < 32; ++b) out[32 * i + b] = (words[i] & (1u << b)) ? 1.0f : -1.0f;
}

using Fill = void (*)(const WordBuffer&, int, float*);

Fill real_valued(Law law, bool score) {
  switch (law) {
    case Law::kCauchy:
      return score ? cauchy_scores : cauchy_noise;
    case Law::kHyperbolic:
      return score ? hyperbolic_scores : hyperbolic_noise;
    case Law::kLogistic:
      return score ? logistic_scores : logistic_noise;
    case Law::kUniform:
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
  if (!is_sign(source.law)) {
    const int64_t group = first / 4;
    const int offset = static_cast<int>(first - group * 4);
    const int groups = chunks_of((offset + count + 3) / 4);
    fill_words(static_cast<uint32_t>(group), groups, source.stream, source.copy, source.key,
               &words);
    real_valued(source.law, source.score)(words, groups, buffer);
    return buffer + offset;
  }
  const bool hadamard = source.law == Law::kHadamard;
  const int64_t group = first / 128, index = first / 32;
  const int offset = static_cast<int>(first - index * 32);
  const int needed = (offset + count + 31) / 32;
  const int groups = chunks_of((first + count + 127) / 128 - group);
  fill_words(static_cast<uint32_t>(group), groups, hadamard ? kHadamardSigns : source.stream,
             hadamard ? source.hadamard.group : source.copy, source.key, &words);
  uint32_t run[kRunCapacity / 32];
  for (int i = 0; i < needed; ++i) {
    const int64_t at = index + i - group * 4;
    run[i] = words.w[at & 3][at >> 2];
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
