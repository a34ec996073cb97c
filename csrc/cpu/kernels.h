// The two ops on raw memory. Every pointer is to contiguous memory; nothing is checked here.
#pragma once

#include "../include/fwdgrad/spec.h"

namespace fwdgrad::cpu {

enum class Type : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

// out[i] = clamp(x + scale * J_i xi_i, low, high) for copies first .. first + count - 1 and, with
// pairs, out[count + i] = clamp(x - scale * J_i xi_i, low, high). scale_map is null or has x's
// elements, in float64 where type is, else in float32; it multiplies scale.
void perturb(void* out, const void* x, const void* scale_map, double scale, Type type,
             const Spec& spec, uint64_t first, int64_t count, bool pairs, double low, double high,
             int threads);

// total += sum_i weights[i] J_i s1(xi_i) and, unless null, square += the sum of the squares of
// the terms; each element adds its copies in ascending order. All are of one type, float32 or
// float64.
void accumulate(void* total, void* square, const void* weights, Type type, const Spec& spec,
                uint64_t first, int64_t count, int threads);

}  // namespace fwdgrad::cpu
