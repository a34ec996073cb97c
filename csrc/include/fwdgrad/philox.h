// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
#pragma once

#include "macros.h"

namespace fwdgrad {

struct Words {
  uint32_t w0, w1, w2, w3;

  FWDGRAD_HD uint32_t operator[](uint32_t i) const {
    return i == 0 ? w0 : i == 1 ? w1 : i == 2 ? w2 : w3;
  }
};

struct Key {
  uint32_t low, high;

  FWDGRAD_HD static Key of(uint64_t seed) {
    return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  }
};

struct PhiloxRound {
  static constexpr uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u;
  uint32_t k0, k1;

  FWDGRAD_HD void operator()(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3) const {
    const uint64_t p0 = static_cast<uint64_t>(kFactor0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(kFactor1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
  }

  FWDGRAD_HD void next_key() {
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
};

FWDGRAD_HD Words philox4x32_10(Words counter, Key key) {
  PhiloxRound round{key.low, key.high};
  for (int i = 0; i < 10; ++i) {
    round(counter.w0, counter.w1, counter.w2, counter.w3);
    round.next_key();
  }
  return counter;
}

// What each stream of the noise contract is for.
enum Stream : uint32_t {
  kInputNoise = 0,
  kPlacement = 1,
  kPathPosition = 2,
  kHadamardOrder = 3,
  kHadamardSigns = 4,
  kParameterNoise = 16,  // plus the number of the parameter tensor; Spec::stream names it
};

// The four words of a group of draws: counter = (group, stream, sample low, sample high).
FWDGRAD_HD Words words_of(uint32_t group, uint32_t stream, uint64_t sample, Key key) {
  return philox4x32_10(
      {group, stream, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)}, key);
}

}  // namespace fwdgrad
