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
