// From random words to noise of unit scale, and to its score -d/dxi ln mu(xi), by distribution.
//
// Everything is float32 and free of branches, so that a loop over it vectorises. The error
// stays below 2e-6 (1 + |xi|), tails included: each function works from the end of (0, 1)
// that is nearer, where the uniform number is exact.
#pragma once

#include <cmath>

#include "philox.h"

namespace fwdgrad {

enum class Distribution : int {
  kNormal = 0,
  kCauchy = 1,
  kHyperbolic = 2,
  kLogistic = 3,
  kUniform = 4,
  kRademacher = 5,
  kHadamard = 6,
};

FWDGRAD_HD constexpr bool is_sign(Distribution distribution) {
  return distribution == Distribution::kRademacher || distribution == Distribution::kHadamard;
}

// A draw's number counts words of 32 bits: real-valued distributions take a word each, signs a bit.
FWDGRAD_HD constexpr int draws_per_group(Distribution distribution) {
  return is_sign(distribution) ? 128 : 4;
}

// 2^24 times the uniform number: an odd integer below 2^24, so exact in float32.
FWDGRAD_HD int32_t uniform24(uint32_t word) { return static_cast<int32_t>(word >> 8 | 1u); }

constexpr float kUnit24 = 5.9604644775390625e-8f;  // 2^-24
constexpr float kTurn24 = 3.7450702e-7f;           // 2 pi 2^-24

// 2u - 1 in (-1, 1), exact.
FWDGRAD_HD float uniform11(uint32_t word) {
  return static_cast<float>(uniform24(word) - (1 << 23)) * (2 * kUnit24);
}

// On a GPU the hardware's square root and quotient: 2e-7 and 3e-7 relative error (CUDA C++
// Programming Guide, mathematical functions) at a fraction of the exact ones' instructions. Both
// arguments are far from the ends of float32's range.
FWDGRAD_HD float square_root(float x) {
#ifdef __CUDA_ARCH__
  return x * rsqrtf(x);
#else
  return std::sqrt(x);
#endif
}

FWDGRAD_HD float quotient(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// multiple ln(x 2^-shift) for normal x > 0; relative error 2e-7, also where it is next to 0. The
// multiple is a power of two with a sign: in the coefficients it costs nothing and rounds nothing.
template <int shift, int multiple>
FWDGRAD_HD float log_positive(float x) {
  const int32_t bits = bit_cast<int32_t>(x);
  // The exponent, in its place, that leaves a mantissa m in [sqrt 1/2, sqrt 2).
  const int32_t exponent = (bits - (0x3f3504f3 + (shift << 23))) & ~0x7fffff;
  constexpr float scale = static_cast<float>(multiple) / (int64_t{1} << shift);
  const float t = bit_cast<float>(bits - exponent) * scale - multiple;  // multiple (m - 1)
  constexpr float r = 1.0f / multiple, r2 = r * r, r3 = r2 * r, r4 = r2 * r2;
  float p = 0.08994725962f * r4 * r4;
  p = p * t - 0.1441778403f * r4 * r3;
  p = p * t + 0.1487463788f * r4 * r2;
  p = p * t - 0.1655304576f * r4 * r;
  p = p * t + 0.199645123f * r4;
  p = p * t - 0.2500252186f * r3;
  p = p * t + 0.3333390204f * r2;
  p = p * t - 0.4999998432f * r;
  constexpr float ln2 = 0.69314718056f * multiple * 2 * kUnit24;  // of the exponent in its place
  return static_cast<float>(exponent) * ln2 + (t + t * t * p);
}

// sin and cos of |x| <= pi / 4; absolute error 4e-8.
FWDGRAD_HD float sin_octant(float x) {
  const float s = x * x;
  return x + x * s * (-0.166666508f + s * (0.008331984473f + s * -0.0001949623381f));
}

FWDGRAD_HD float cos_octant(float x) {
  const float s = x * x;
  return 1.0f + s * (-0.499998953f + s * (0.04165631892f + s * -0.00135980869f));
}

struct Pair {
  float a, b;
};

// Cosine and sine of 2 pi u, u = 2^-24 uniform24(word): reduced to an octant in integers, so
// exactly. The sign that half a turn gives to both is left apart, in the highest bit of `half`.
struct Turn {
  float cos, sin;
  uint32_t half;

  FWDGRAD_HD static Turn of(uint32_t word) {
    const uint32_t rest = (word << 2 & ~0x3FFu) | 0x400u;  // of a quarter of a turn, in 2^-34 turns
    const float x = static_cast<float>(static_cast<int32_t>(rest)) * (kTurn24 * 0x1p-10f);
    const float s = sin_octant(x), c = cos_octant(x);
    // One more than the nearest quarter, in the two highest bits: vectors choose by a sign.
    const uint32_t quarter = word + (3u << 29);
    const bool even = static_cast<int32_t>(quarter << 1) < 0;
    return {even ? c : s, even ? s : -c, quarter & 1u << 31};
  }
};

FWDGRAD_HD float flip_sign(float x, uint32_t sign) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ sign);
}

// Box-Muller: two words to two independent standard normal numbers.
FWDGRAD_HD Pair normal_pair(uint32_t word_a, uint32_t word_b) {
  const float r = square_root(log_positive<24, -2>(static_cast<float>(uniform24(word_a))));
  const Turn turn = Turn::of(word_b);
  const float signed_r = flip_sign(r, turn.half);
  return {signed_r * turn.cos, signed_r * turn.sin};
}

// tan(pi (u - 1/2)). Past pi / 4 it is the reciprocal of the tangent of the exact distance to
// the pole.
FWDGRAD_HD float cauchy(uint32_t word) {
  const int32_t d = uniform24(word) - (1 << 23);
  const int32_t size = d < 0 ? -d : d;
  const bool steep = size > (1 << 22);
  const float x = static_cast<float>(steep ? (1 << 23) - size : size) * (0.5f * kTurn24);
  const float s = sin_octant(x), c = cos_octant(x);
  const float t = quotient(steep ? c : s, steep ? s : c);
  return d < 0 ? -t : t;
}

// 2 xi / (1 + xi^2) at xi = tan a is sin 2a, here sin(2 pi (u - 1/2)).
FWDGRAD_HD float cauchy_score(uint32_t word) {
  const Turn turn = Turn::of(word);
  return -flip_sign(turn.sin, turn.half);
}

// ln(u / (1 - u)): both ends are exact.
FWDGRAD_HD float logistic(uint32_t word) {
  const int32_t u = uniform24(word);
  return log_positive<0, 1>(quotient(static_cast<float>(u), static_cast<float>((1 << 24) - u)));
}

// One draw of a distribution that takes one word: not of the normal one, nor a sign.
template <Distribution distribution>
FWDGRAD_HD float unit_noise(uint32_t word) {
  if constexpr (distribution == Distribution::kCauchy) return cauchy(word);
  if constexpr (distribution == Distribution::kHyperbolic)
    return 0.5f * logistic(word);  // artanh(2u - 1)
  if constexpr (distribution == Distribution::kLogistic) return logistic(word);
  return uniform11(word);
}

// Its score. tanh(artanh(2u - 1)) = 2u - 1: neither distribution needs its noise for its score.
template <Distribution distribution>
FWDGRAD_HD float unit_score(uint32_t word) {
  if constexpr (distribution == Distribution::kCauchy) return cauchy_score(word);
  if constexpr (distribution == Distribution::kHyperbolic) return 2.0f * uniform11(word);
  return uniform11(word);  // logistic: tanh(xi / 2)
}

}  // namespace fwdgrad
