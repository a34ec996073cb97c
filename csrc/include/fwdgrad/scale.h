// AdaptGrad's scale (Rethinking the principle of gradient smooth methods in model explanation):
// every element its own, from its value x and the bounds [low, high] that values can take, so that
// noise keeps to them with a stated probability.
#pragma once

#include "distributions.h"

namespace fwdgrad {

// low and high of every leading axis's plane, one after the other, stand beside this in memory.
struct ScaleRule {
  enum Kind : int { kNone = 0, kNearest = 1, kExact = 2 };
  int kind;
  float floor;       // no scale is below it
  float factor;      // kNearest, equation 13: the scale is factor x the nearer bound's distance
  float confidence;  // kExact, equation 14: the probability that x + scale xi is within
  float start_far, start_near;  // where Newton's steps start, see exact_scale
};

// e^-x for x >= 0, relative error 2e-7; 0 from x = 87 on.
FWDGRAD_HD float exp_negative(float x) {
  const float y = (x < 87.0f ? x : 87.0f) * -1.44269504f;
  const int32_t whole = static_cast<int32_t>(y - 0.5f);
  const float r = (y - static_cast<float>(whole)) * 0.69314718056f;
  float p = 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t power = (whole + 127) << 23;
  return p * bit_cast<float>(x < 87.0f ? power : 0);
}

// atan of t >= 0, absolute error 2e-7: reduced by tan(pi / 8) and its complement.
FWDGRAD_HD float atan_positive(float t) {
  const bool large = t > 2.41421356f, middle = t > 0.41421356f;
  const float a = large ? -1.0f : middle ? t - 1.0f : t;
  const float b = large ? t : middle ? t + 1.0f : 1.0f;
  const float x = a / b, s = x * x;
  const float base = large ? 1.57079633f : middle ? 0.78539816f : 0.0f;
  return base + (x + x * s *
                         (-0.333329491539f +
                          s * (0.199777106478f + s * (-0.138776856032f + s * 0.0805374449538f))));
}

struct Within {
  float probability, density;
};

// The probability of |xi| <= t, t >= 0, and its derivative.
template <Distribution distribution>
FWDGRAD_HD Within within(float t) {
  if constexpr (distribution == Distribution::kNormal) {
    // erf(t / sqrt 2) by Abramowitz and Stegun 7.1.26
    const float tail = exp_negative(0.5f * t * t);
    const float k = 1.0f / (1.0f + 0.3275911f * 0.70710678f * t);
    float p = 1.061405429f;
    p = p * k - 1.453152027f;
    p = p * k + 1.421413741f;
    p = p * k - 0.284496736f;
    p = p * k + 0.254829592f;
    return {1.0f - p * k * tail, 0.79788456f * tail};
  } else if constexpr (distribution == Distribution::kCauchy) {
    return {0.63661977f * atan_positive(t), 0.63661977f / (1.0f + t * t)};
  } else if constexpr (distribution == Distribution::kHyperbolic ||
                       distribution == Distribution::kLogistic) {  // tanh t, tanh(t / 2)
    constexpr float rate = distribution == Distribution::kHyperbolic ? 1.0f : 0.5f;
    const float e = exp_negative(2.0f * rate * t), d = 1.0f / (1.0f + e);
    return {(1.0f - e) * d, 4.0f * rate * e * d * d};
  } else {
    return {t < 1.0f ? t : 1.0f, t < 1.0f ? 1.0f : 0.0f};
  }
}

// The scale 1 / v with (P(|xi| <= near v) + P(|xi| <= far v)) / 2 = confidence, where near and far
// are the distances to the bounds. The left side is concave and grows with v, and the larger of
// start_far / far and start_near / near lies at or below the solution (with G(t) = P(|xi| <= t),
// start_far is where G = confidence and start_near where G = 2 confidence - 1), so that Newton's
// steps rise to the solution and never pass it.
constexpr int kNewtonSteps = 6;  // one more than float32 needs for any distribution and confidence

FWDGRAD_HD float exact_start(float near, float far, const ScaleRule& rule) {
  const float a = rule.start_far / far, b = rule.start_near / (near > 1e-30f ? near : 1e-30f);
  return a > b ? a : b;
}

template <Distribution distribution>
FWDGRAD_HD float exact_step(float v, float near, float far, const ScaleRule& rule) {
  const Within n = within<distribution>(near * v), f = within<distribution>(far * v);
  const float slope = near * n.density + far * f.density;
  const float missing = 2.0f * rule.confidence - n.probability - f.probability;
  // Where the slope is 0 both probabilities are 1, and nothing is missing.
  return v + (missing > 0.0f ? missing : 0.0f) / (slope > 1e-30f ? slope : 1e-30f);
}

FWDGRAD_HD float exact_end(float v, float near) { return near > 0.0f ? 1.0f / v : 0.0f; }

template <Distribution distribution>
FWDGRAD_HD float exact_scale(float near, float far, const ScaleRule& rule) {
  float v = exact_start(near, far, rule);
#ifdef __CUDACC__
#pragma unroll 1
#endif
  for (int step = 0; step < kNewtonSteps; ++step) v = exact_step<distribution>(v, near, far, rule);
  return exact_end(v, near);
}

// From x to its nearer and its farther bound.
template <typename C>
struct Distances {
  C near, far;

  FWDGRAD_HD Distances(C x, C low, C high) {
    const C below = x < low ? low - x : x - low, above = x > high ? x - high : high - x;
    near = below < above ? below : above;
    far = below < above ? above : below;
  }
};

template <Distribution distribution, typename C>
FWDGRAD_HD C adaptive_scale(C x, C low, C high, const ScaleRule& rule) {
  const Distances<C> d(x, low, high);
  const C scale = rule.kind == ScaleRule::kExact
                      ? static_cast<C>(exact_scale<distribution>(static_cast<float>(d.near),
                                                                 static_cast<float>(d.far), rule))
                      : static_cast<C>(rule.factor) * d.near;
  return scale < static_cast<C>(rule.floor) ? static_cast<C>(rule.floor) : scale;
}

}  // namespace fwdgrad
