// The types of tensors' elements: what they are computed in, and how they are read and written.
#pragma once

#include "half.h"

namespace fwdgrad {

enum class Type : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

FWDGRAD_HD float load(float x) { return x; }
FWDGRAD_HD double load(double x) { return x; }
FWDGRAD_HD float load(Half x) { return to_float(x); }
FWDGRAD_HD float load(BFloat16 x) { return to_float(x); }

FWDGRAD_HD void store(float x, float* to) { *to = x; }
FWDGRAD_HD void store(double x, double* to) { *to = x; }
FWDGRAD_HD void store(float x, Half* to) { *to = to_half(x); }
FWDGRAD_HD void store(float x, BFloat16* to) { *to = to_bfloat16(x); }

// Keeps NaN.
template <typename C>
FWDGRAD_HD C clamp(C x, C low, C high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// What a sample is blended with, where it is. at: null; a value for each plane, of the type that x
// is computed in; or whole, of x's type and layout.
struct Baseline {
  const void* at;
  bool by_plane;
  double position;
};

}  // namespace fwdgrad
