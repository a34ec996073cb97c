// Loops marked FWDGRAD_SIMD are compiled once per level of x86-64 and the best that the
// processor has is chosen when the module loads. Elsewhere they are plain loops, which the
// compiler vectorises for the one level it was asked for.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 12 && !defined(FWDGRAD_NO_SIMD_CLONES)
#define FWDGRAD_HAS_SIMD_CLONES 1
#define FWDGRAD_SIMD       \
  __attribute__((noinline, \
                 target_clones("arch=x86-64-v4", "arch=x86-64-v3", "arch=x86-64-v2", "default")))
#else
#define FWDGRAD_HAS_SIMD_CLONES 0
#define FWDGRAD_SIMD
#endif

// FWDGRAD_LANES(define) is define(attributes, bytes, multiply) for each width of vectors that there
// is. multiply(a, b) has the products of the low halves of lanes of 64 bits: the one instruction
// that GCC 12 has no portable form of.
#if FWDGRAD_HAS_SIMD_CLONES || \
    (defined(__SSE2__) && defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__))
#include <immintrin.h>
#define FWDGRAD_HAS_LANES 1
#define FWDGRAD_MULTIPLY_16(a, b) _mm_mul_epu32((__m128i)(a), (__m128i)(b))
#define FWDGRAD_MULTIPLY_32(a, b) _mm256_mul_epu32((__m256i)(a), (__m256i)(b))
// Without a mask GCC 12's header warns of itself.
#define FWDGRAD_MULTIPLY_64(a, b) _mm512_maskz_mul_epu32(0xFF, (__m512i)(a), (__m512i)(b))
#if FWDGRAD_HAS_SIMD_CLONES
#define FWDGRAD_LANES(define)                                                    \
  define(__attribute__((target("arch=x86-64-v4"))), 64, FWDGRAD_MULTIPLY_64)     \
      define(__attribute__((target("arch=x86-64-v3"))), 32, FWDGRAD_MULTIPLY_32) \
          define(__attribute__((target("default"))), 16, FWDGRAD_MULTIPLY_16)
#elif defined(__AVX512F__)
#define FWDGRAD_LANES(define) define(, 64, FWDGRAD_MULTIPLY_64)
#elif defined(__AVX2__)
#define FWDGRAD_LANES(define) define(, 32, FWDGRAD_MULTIPLY_32)
#else
#define FWDGRAD_LANES(define) define(, 16, FWDGRAD_MULTIPLY_16)
#endif
#else
#define FWDGRAD_HAS_LANES 0
#endif

namespace fwdgrad::cpu {

// The level in use: "x86-64-v4" (AVX-512), "x86-64-v3" (AVX2), "x86-64-v2" (SSE4.2),
// "x86-64", or "compiler default" where there are no clones.
inline const char* simd_level() {
#if FWDGRAD_HAS_SIMD_CLONES
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
  if (__builtin_cpu_supports("x86-64-v2")) return "x86-64-v2";
  return "x86-64";
#else
  return "compiler default";
#endif
}

}  // namespace fwdgrad::cpu
