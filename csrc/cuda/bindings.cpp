// fwdgrad_kernels._cuda: pointers, sizes, a device and a stream in, nothing else. The callers check
// every argument and hold every piece of memory.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../encoded.h"
#include "kernels.h"
#ifdef CUDA_ON_CPU
#include <cuda_runtime.h>
#endif

namespace py = pybind11;
namespace cuda = fwdgrad::cuda;
using fwdgrad::decode;
using fwdgrad::Encoded;
using fwdgrad::Placed;
using fwdgrad::pointer;
using fwdgrad::Type;

namespace {

const Placed* table(uintptr_t address) { return reinterpret_cast<const Placed*>(address); }

uint32_t* words(uintptr_t address) { return reinterpret_cast<uint32_t*>(address); }

cuda::Where where(int device, uintptr_t stream) { return {device, pointer(stream)}; }

void place(uintptr_t out, const Encoded& spec, int64_t first, int64_t count, int device,
           uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::place(reinterpret_cast<Placed*>(out), decode(spec, 0), static_cast<uint64_t>(first), count,
              where(device, stream));
}

void blocks(uintptr_t out, const Encoded& spec, int64_t first, int64_t count, int device,
            uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::blocks(reinterpret_cast<int64_t*>(out), decode(spec, 0), static_cast<uint64_t>(first),
               count, where(device, stream));
}

void draw(uintptr_t out, int64_t stride, const Encoded& spec, int64_t first, int64_t count,
          bool score, int device, uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::draw({words(out), stride, decode(spec, 0), static_cast<uint64_t>(first), count, score},
             where(device, stream));
}

void reorder(uintptr_t out, int64_t stride, uintptr_t drawn, int64_t drawn_stride, uintptr_t order,
             int64_t lines, int64_t count, bool signs, int device, uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::reorder({words(out), stride, words(drawn), drawn_stride,
                 reinterpret_cast<const int32_t*>(order), lines, count, signs},
                where(device, stream));
}

void scale(uintptr_t out, uintptr_t x, uintptr_t bounds, const fwdgrad::EncodedRule& rule, int type,
           int distribution, int64_t planes, int64_t pixels, int64_t interleaved, int device,
           uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::scale({pointer(out), pointer(x), pointer(bounds), decode(rule),
               static_cast<fwdgrad::Distribution>(distribution), planes, pixels, interleaved},
              static_cast<Type>(type), where(device, stream));
}

void perturb(uintptr_t out, uintptr_t x, uintptr_t scale_map, uintptr_t draws, int64_t stride,
             uintptr_t placed, uintptr_t held, uintptr_t baseline, bool by_plane, double position,
             double scale, int type, const Encoded& spec, uintptr_t labels, int64_t first,
             int64_t count, int64_t opposite, double low, double high, int64_t interleaved,
             int device, uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::perturb({pointer(out),
                 pointer(x),
                 pointer(scale_map),
                 words(draws),
                 stride,
                 table(placed),
                 table(held),
                 {pointer(baseline), by_plane, position},
                 scale,
                 low,
                 high,
                 decode(spec, labels),
                 static_cast<uint64_t>(first),
                 count,
                 opposite,
                 interleaved},
                static_cast<Type>(type), where(device, stream));
}

void expand(uintptr_t out, uintptr_t values, int type, const Encoded& spec, int64_t first,
            bool squared, int device, uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::expand(pointer(out), pointer(values), static_cast<Type>(type), decode(spec, 0),
               static_cast<uint64_t>(first), squared, where(device, stream));
}

void accumulate(uintptr_t total, uintptr_t square, uintptr_t weights, uintptr_t draws,
                int64_t stride, uintptr_t placed, uintptr_t scratch, bool resumes, bool adds,
                int type, const Encoded& spec, int64_t first, int64_t count, int device,
                uintptr_t stream) {
  py::gil_scoped_release release;
  cuda::accumulate(
      {pointer(total), pointer(square), pointer(weights), words(draws), stride, table(placed),
       pointer(scratch), resumes, adds, decode(spec, 0), static_cast<uint64_t>(first), count},
      static_cast<Type>(type), where(device, stream));
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.def("place", &place);
  m.def("blocks", &blocks);
  m.def("draw", &draw);
  m.def("reorder", &reorder);
  m.def("scale", &scale);
  m.def("perturb", &perturb);
  m.def("expand", &expand);
  m.def("accumulate", &accumulate);
  m.attr("placed_bytes") = sizeof(Placed);
  m.attr("architectures") = FWDGRAD_CUDA_ARCHITECTURES;
#ifdef CUDA_ON_CPU
  m.attr("on_cpu") = true;
  m.def("run_blocks", &cuda_on_cpu::run_blocks);
  m.def("fail_next_launch", &cuda_on_cpu::fail_next_launch);
#else
  m.attr("on_cpu") = false;
#endif
}
