// fwdgrad_kernels._C: pointers and sizes in, nothing else. The callers check every argument.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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
             const fwdgrad::EncodedRule& rule, double scale, int type, const Encoded& spec,
             int64_t first, int64_t held, int64_t count, bool pairs, double low, double high,
             int64_t interleaved, int threads) {
  py::gil_scoped_release release;
  fwdgrad::cpu::perturb(
      {pointer(out), pointer(x), pointer(scale_map), pointer(bounds), decode(rule), scale, low,
       high, decode(spec), static_cast<uint64_t>(first), held, count, pairs, interleaved, threads},
      static_cast<Type>(type));
}

void accumulate(uintptr_t total, uintptr_t square, uintptr_t weights, int type, const Encoded& spec,
                int64_t first, int64_t count, int threads) {
  py::gil_scoped_release release;
  fwdgrad::cpu::accumulate(pointer(total), pointer(square), pointer(weights),
                           static_cast<Type>(type), decode(spec), static_cast<uint64_t>(first),
                           count, threads);
}

// out: int64 (count, 2, 2), start and stop of the trailing two axes.
void blocks(uintptr_t out, const Encoded& spec, int64_t first, int64_t count) {
  auto* to = static_cast<int64_t*>(pointer(out));
  const fwdgrad::Spec decoded = decode(spec);
  for (int64_t i = 0; i < count; ++i, to += 4) {
    const auto p = fwdgrad::placement_of(decoded, static_cast<uint64_t>(first + i));
    to[0] = p.y0;
    to[1] = p.y1;
    to[2] = p.x0;
    to[3] = p.x1;
  }
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
  m.def("blocks", &blocks);
  m.def("philox", &philox);
  m.def("simd_level", &fwdgrad::cpu::simd_level);
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
}
