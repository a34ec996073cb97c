// Stands in for CUDA's header of that name, so that a C++ compiler turns the kernels of csrc/cuda
// into functions that run on the CPU, thread after thread. It has what those sources use; they
// have no barriers and share no memory, so that is all that a test of their arithmetic needs.
#pragma once

#include <cstdint>
#include <limits>

#define CUDA_ON_CPU 1
#define __global__
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorLaunchFailure = 719 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

namespace cuda_on_cpu {

inline thread_local dim3 block_index, thread_index, grid_size;
inline int64_t first_block = 0, last_block = std::numeric_limits<int64_t>::max();
inline bool fails = false;

// Only blocks first .. last of later launches run, counted along x: what is left out is not
// written, so memory of any size need not be there.
inline void run_blocks(int64_t first, int64_t last) {
  first_block = first;
  last_block = last;
}

inline void fail_next_launch() { fails = true; }

template <typename Kernel>
void launch(dim3 grid, unsigned threads, Kernel kernel) {
  grid_size = grid;
  for (unsigned y = 0; y < grid.y; ++y)
    for (int64_t x = first_block; x < static_cast<int64_t>(grid.x) && x <= last_block; ++x)
      for (unsigned t = 0; t < threads; ++t) {
        block_index = dim3(static_cast<unsigned>(x), y);
        thread_index = dim3(t);
        kernel();
      }
}

}  // namespace cuda_on_cpu

#define blockIdx ::cuda_on_cpu::block_index
#define threadIdx ::cuda_on_cpu::thread_index
#define gridDim ::cuda_on_cpu::grid_size

inline cudaError_t cudaGetLastError() {
  const bool failed = cuda_on_cpu::fails;
  cuda_on_cpu::fails = false;
  return failed ? cudaErrorLaunchFailure : cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return "unspecified launch failure"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 2;
  return cudaSuccess;
}
