// How a thread's elements move between registers and memory.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "../include/fwdgrad/elements.h"

namespace fwdgrad::cuda {

// Where element k lies in memory.
FWDGRAD_HD int64_t offset_of(int64_t k, int64_t pixels, int64_t interleaved) {
  return interleaved == 1 ? k : k % pixels * interleaved + k / pixels;
}

FWDGRAD_HD bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Writes 16 or 8 bytes at once. By hand, because the compiler writes a vector in pieces where a
// branch beside it does.
FWDGRAD_HD void write_whole(uint4* to, uint4 v) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
#else
  *to = v;
#endif
}

FWDGRAD_HD void write_whole(uint2* to, uint2 v) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(v.x),
               "r"(v.y)
               : "memory");
#else
  *to = v;
#endif
}

// n values between registers and consecutive memory, in accesses of 16 bytes where n is a
// multiple of them, else of 8.
template <typename T, int n>
struct Pack {
  static constexpr int kBytes = n * sizeof(T) % 16 == 0 ? 16 : 8;
  static constexpr int kEach = kBytes / sizeof(T);
  using Access = std::conditional_t<kBytes == 16, uint4, uint2>;
  using C = typename Compute<T>::type;

  FWDGRAD_HD static void load(const T* from, C* values) {
    for (int a = 0; a < n / kEach; ++a) {
      const Access access = reinterpret_cast<const Access*>(from)[a];
      T some[kEach];
      std::memcpy(some, &access, kBytes);
      for (int i = 0; i < kEach; ++i) values[a * kEach + i] = fwdgrad::load(some[i]);
    }
  }
  FWDGRAD_HD static void store(const C* values, T* to) {
    for (int a = 0; a < n / kEach; ++a) {
      T some[kEach];
      for (int i = 0; i < kEach; ++i) fwdgrad::store(values[a * kEach + i], &some[i]);
      Access access;
      std::memcpy(&access, some, kBytes);
      write_whole(reinterpret_cast<Access*>(to) + a, access);
    }
  }
};

}  // namespace fwdgrad::cuda
