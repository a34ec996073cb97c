// How kernels are launched: one macro, so that a test can run the same sources on the CPU.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace fwdgrad::cuda {

constexpr int kThreads = 256;

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(what) + " failed: " + cudaGetErrorString(status));
}

// Makes a device current, and the one before it again.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = before_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Threads for `work` pieces, one each, in blocks along x. Where these do not fill the device a few
// times over, the samples are shared out among up to `slices` rows of blocks along y.
inline dim3 grid_for(int64_t work, int64_t slices, int device) {
  constexpr int64_t kResident = 2048 / kThreads;  // blocks that a multiprocessor can hold
  constexpr int64_t kWaves = 8;                   // leaves at most an eighth of the last one idle
  int processors = 1;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  const int64_t blocks = std::min<int64_t>((work + kThreads - 1) / kThreads, INT32_MAX);
  const int64_t rows = (processors * kResident * kWaves + blocks - 1) / blocks;
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(std::max<int64_t>(
                                                 1, std::min({rows, slices, int64_t{65535}}))));
}

}  // namespace fwdgrad::cuda

#ifdef __CUDACC__
#define FWDGRAD_LAUNCH(kernel, grid, where, ...)                                               \
  do {                                                                                         \
    kernel<<<grid, ::fwdgrad::cuda::kThreads, 0, static_cast<cudaStream_t>((where).stream)>>>( \
        __VA_ARGS__);                                                                          \
    ::fwdgrad::cuda::check(cudaGetLastError(), "launching a kernel");                          \
  } while (false)
#else  // tests/kernels/cuda_on_cpu
#define FWDGRAD_LAUNCH(kernel, grid, where, ...)                                        \
  do {                                                                                  \
    cuda_on_cpu::launch(grid, ::fwdgrad::cuda::kThreads, [&] { kernel(__VA_ARGS__); }); \
    ::fwdgrad::cuda::check(cudaGetLastError(), "launching a kernel");                   \
  } while (false)
#endif
