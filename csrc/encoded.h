// NoiseSpec.encoded as it crosses from Python.
#pragma once

#include <array>

#include "include/fwdgrad/scale.h"
#include "include/fwdgrad/spec.h"

namespace fwdgrad {

// Field for field; the seed's 64 bits come as a signed number.
using Encoded = std::array<int64_t, 19>;

inline Spec decode(const Encoded& e, uintptr_t mask) {
  Spec spec{};
  spec.leading = e[0], spec.depth = e[1], spec.height = e[2], spec.width = e[3];
  // The design of orthogonal signs counts as a distribution here.
  spec.distribution = e[5] ? Distribution::kHadamard : static_cast<Distribution>(e[4]);
  spec.block_height = e[6], spec.block_width = e[7];
  spec.cell_depth = e[8], spec.cell_height = e[9], spec.cell_width = e[10];
  spec.linear = e[11] != 0, spec.shared = e[12] != 0, spec.jitters = e[13] != 0;
  spec.labels = e[14], spec.label_inner = e[15], spec.label_period = e[16];
  spec.mask = reinterpret_cast<const int32_t*>(mask);
  spec.seed = static_cast<uint64_t>(e[17]);
  spec.stream = static_cast<uint32_t>(e[18]);
  return spec;
}

// AdaptiveScale.rule, field for field.
using EncodedRule = std::array<double, 6>;

inline ScaleRule decode(const EncodedRule& e) {
  return {static_cast<int>(e[0]),   static_cast<float>(e[1]), static_cast<float>(e[2]),
          static_cast<float>(e[3]), static_cast<float>(e[4]), static_cast<float>(e[5])};
}

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace fwdgrad
