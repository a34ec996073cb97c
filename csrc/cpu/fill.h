// Runs of unit draws into a small buffer that stays in the first-level cache.
#pragma once

#include <algorithm>

#include "../include/fwdgrad/draws.h"

namespace fwdgrad::cpu {

// Waking a thread costs about as much as it draws in this many elements.
constexpr int64_t kElementsPerThread = 16384;

inline int useful_threads(int threads, int64_t count, int64_t numel) {
  const double elements = static_cast<double>(count) * static_cast<double>(numel);
  return static_cast<int>(std::min<double>(threads, 1 + elements / kElementsPerThread));
}

constexpr int kRun = 1024;          // draws asked for at once, at most
constexpr int kRunCapacity = 1088;  // what a run may write: whole chunks of groups
constexpr int kGroupsPerChunk = 8;  // groups made together

// Which draws: those of one sample, as noise or as the score of the noise.
struct Source {
  Distribution distribution;
  bool score;
  Key key;
  uint32_t stream;
  uint64_t sample;
  HadamardRow hadamard;  // for Distribution::kHadamard

  Source(const Spec& spec, uint64_t hadamard_mask, uint64_t sample, bool score)
      : distribution(spec.distribution),
        score(score),
        key(Key::of(spec.seed)),
        stream(spec.stream),
        sample(sample),
        hadamard{0, 0} {
    if (distribution == Distribution::kHadamard)
      hadamard = hadamard_row(sample, hadamard_mask, key);
  }
};

// Writes draws first .. first + count - 1 (count <= kRun) somewhere into buffer, which has
// room for kRunCapacity, and returns where the first one is.
const float* fill(const Source& source, int64_t first, int count, float* buffer);

// Writes draws 0 .. count - 1 to where out is.
void fill_all(const Source& source, int64_t count, float* out);

}  // namespace fwdgrad::cpu
