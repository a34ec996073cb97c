// What lets one header serve the host and the device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__) || defined(__HIPCC__)
#define FWDGRAD_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
// Always inlined, so that each SIMD clone of a loop compiles the body for its own level.
#define FWDGRAD_HD inline __attribute__((always_inline))
#else
#define FWDGRAD_HD inline
#endif

namespace fwdgrad {

// The bits of one type read as another. memcpy is the form that compilers vectorise; a union
// is not.
template <typename To, typename From>
FWDGRAD_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

}  // namespace fwdgrad
