// NoiseSpec.encoded as it crosses from Python.
#pragma once

#include <array>

#include "include/fwdgrad/scale.h"
#include "include/fwdgrad/spec.h"

namespace fwdgrad {

// Field for field; the seed's 64 bits come as a signed number.
using Encoded = std::array<int64_t, 13>;

inline Spec decode(const Encoded& e) {
  const auto law = static_cast<Law>(e[3]);
  const auto seed = static_cast<uint64_t>(e[11]);
  const auto stream = static_cast<uint32_t>(e[12]);
  return {e[0], e[1],      e[2],      law,        e[4], e[5],  e[6],
          e[7], e[8] != 0, e[9] != 0, e[10] != 0, seed, stream};
}

// AdaptiveScale.rule, field for field.
using EncodedRule = std::array<double, 6>;

inline ScaleRule decode(const EncodedRule& e) {
  return {static_cast<int>(e[0]),   static_cast<float>(e[1]), static_cast<float>(e[2]),
          static_cast<float>(e[3]), static_cast<float>(e[4]), static_cast<float>(e[5])};
}

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace fwdgrad
