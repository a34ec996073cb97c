// float16 and bfloat16 in integer arithmetic: rounds to nearest even, vectorises, and needs no
// hardware type. A GPU has instructions that round in the same way.
#pragma once

#include "macros.h"

namespace fwdgrad {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

FWDGRAD_HD float to_float(BFloat16 x) {
  return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

FWDGRAD_HD float to_float(Half x) {
  const uint32_t magnitude = (x.bits & 0x7fffu) << 13;
  const uint32_t sign = (x.bits & 0x8000u) << 16;
  // Multiplying by 2^112 moves the exponent's bias and makes subnormal numbers normal.
  const float finite = bit_cast<float>(magnitude) * bit_cast<float>(239u << 23);
  const uint32_t bits =
      magnitude >= (31u << 23) ? magnitude | 0x7f800000u : bit_cast<uint32_t>(finite);
  return bit_cast<float>(bits | sign);
}

FWDGRAD_HD BFloat16 to_bfloat16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t y;  // two at once is a fast instruction on every GPU, one alone is not
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(0.0f), "f"(x));
  return {static_cast<uint16_t>(y)};
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>((nan ? bits | 0x400000u : rounded) >> 16)};
#endif
}

FWDGRAD_HD Half to_half(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(0.0f), "f"(x));
  return {static_cast<uint16_t>(y)};
#elif defined(__CUDA_ARCH__)
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = bits & 0x80000000u;
  const uint32_t magnitude = bits ^ sign;
  // Subnormal results: adding 1/2 leaves the rounded value in the low bits of the sum.
  const uint32_t small = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  uint32_t half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds past 65504
  half = magnitude > 0x7f800000u ? 0x7e00u : half;
  return {static_cast<uint16_t>(half | sign >> 16)};
#endif
}

}  // namespace fwdgrad
