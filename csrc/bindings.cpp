// fwdgrad_kernels._C: pointers and sizes in, nothing else. The callers check every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#endif

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "encoded.h"
#include "include/fwdgrad/draws.h"

namespace py = pybind11;
using fwdgrad::decode;
using fwdgrad::Encoded;
using fwdgrad::pointer;
using fwdgrad::Type;

namespace {

void perturb(uintptr_t out, uintptr_t x, uintptr_t scale_map, uintptr_t bounds,
             const fwdgrad::EncodedRule& rule, uintptr_t baseline, bool by_plane, double position,
             double scale, int type, const Encoded& spec, uintptr_t labels, int64_t first,
             int64_t held, int64_t count, bool pairs, double low, double high, int64_t interleaved,
             int threads) {
  py::gil_scoped_release release;
  fwdgrad::cpu::perturb({pointer(out),
                         pointer(x),
                         pointer(scale_map),
                         pointer(bounds),
                         decode(rule),
                         {pointer(baseline), by_plane, position},
                         scale,
                         low,
                         high,
                         decode(spec, labels),
                         static_cast<uint64_t>(first),
                         held,
                         count,
                         pairs,
                         interleaved,
                         threads},
                        static_cast<Type>(type));
}

void accumulate(uintptr_t total, uintptr_t square, uintptr_t weights, int type, const Encoded& spec,
                int64_t first, int64_t count, int threads) {
  py::gil_scoped_release release;
  fwdgrad::cpu::accumulate(pointer(total), pointer(square), pointer(weights),
                           static_cast<Type>(type), decode(spec, 0), static_cast<uint64_t>(first),
                           count, threads);
}

void expand(uintptr_t out, uintptr_t values, int type, const Encoded& spec, int64_t first,
            bool squared, int threads) {
  py::gil_scoped_release release;
  fwdgrad::cpu::expand(pointer(out), pointer(values), static_cast<Type>(type), decode(spec, 0),
                       static_cast<uint64_t>(first), squared, threads);
}

void hadamard_sums(uintptr_t out, uintptr_t weights, const Encoded& spec, int64_t first,
                   int64_t count) {
  py::gil_scoped_release release;
  fwdgrad::cpu::hadamard_sums(static_cast<double*>(pointer(out)),
                              static_cast<const double*>(pointer(weights)), decode(spec, 0),
                              static_cast<uint64_t>(first), count);
}

// out: int64 (count, 2, 2), start and stop of the trailing two axes.
void blocks(uintptr_t out, const Encoded& spec, int64_t first, int64_t count) {
  auto* to = static_cast<int64_t*>(pointer(out));
  const fwdgrad::Spec decoded = decode(spec, 0);
  for (int64_t i = 0; i < count; ++i, to += 4) {
    const auto p = fwdgrad::placement_of(decoded, static_cast<uint64_t>(first + i));
    to[0] = p.y0;
    to[1] = p.y1;
    to[2] = p.x0;
    to[3] = p.x1;
  }
}

// Whether the first and the last byte of memory can be written to; true where that cannot be told.
// Linux: the kernel is asked to or 0 into the words that hold them, which is atomic, changes
// nothing even where another thread writes there, and is an error, not a signal, where it may not
// be done.
bool is_writable(uintptr_t address, int64_t bytes) {
#if defined(__linux__) && defined(SYS_futex)
  const auto writes = [](uintptr_t at) {
    uint32_t unused = 0;
    return syscall(SYS_futex, &unused, FUTEX_WAKE_OP_PRIVATE, 0, nullptr, at & ~uintptr_t{3},
                   FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_LT, 0)) >= 0 ||
           errno != EFAULT;
  };
  return bytes <= 0 || (writes(address) && writes(address + static_cast<uintptr_t>(bytes) - 1));
#else
  static_cast<void>(address);
  static_cast<void>(bytes);
  return true;
#endif
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  const auto w =
      fwdgrad::philox4x32_10({counter[0], counter[1], counter[2], counter[3]}, {key[0], key[1]});
  return {w.w0, w.w1, w.w2, w.w3};
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.def("perturb", &perturb);
  m.def("accumulate", &accumulate);
  m.def("expand", &expand);
  m.def("hadamard_sums", &hadamard_sums);
  m.def("blocks", &blocks);
  m.def("philox", &philox);
  m.def("is_writable", &is_writable);
  m.def("simd_level", &fwdgrad::cpu::simd_level);
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
}
