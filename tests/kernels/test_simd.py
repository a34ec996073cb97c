"""Every SIMD level computes the same noise: the CPU sources built for one level at a time.

The module itself runs the best level of this processor; the others would go untested here.
"""

import concurrent.futures
import ctypes
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from covering import covering

from fwdgrad_kernels import Labels, NoiseSpec, accumulate_, native, perturb
from fwdgrad_kernels.spec import DTYPES
from fwdgrad_kernels.testing import EXACT, KINDS, assert_samples, linear, make_spec

CSRC = Path(__file__).parents[2] / "csrc"
LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
WRAPPER = """
#include <algorithm>
#include "cpu/kernels.h"
#include "encoded.h"
using namespace fwdgrad;
static Spec decoded(const int64_t* e) {
  Encoded encoded;
  std::copy_n(e, encoded.size(), encoded.begin());
  return decode(encoded, e[encoded.size()]);
}
extern "C" void perturb(void* out, const void* x, double scale, int type, const int64_t* spec,
                        int64_t count) {
  cpu::perturb({out, x, nullptr, nullptr, {}, {nullptr, false, 1.0}, scale, -1e30, 1e30,
                decoded(spec), 3, -1, count, false, 1, 1},
               Type(type));
}
extern "C" void blend(void* out, const void* x, const void* baseline, int type,
                      const int64_t* spec, int64_t count) {
  cpu::perturb({out, x, nullptr, nullptr, {}, {baseline, false, 0.5}, 0.5, -1e30, 1e30,
                decoded(spec), 3, -1, count, false, 1, 1},
               Type(type));
}
extern "C" void accumulate(void* total, void* square, const void* weights, const int64_t* spec,
                           int64_t count) {
  cpu::accumulate(total, square, weights, Type::kFloat32, decoded(spec), 3, count, 1);
}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        platform.machine() != "x86_64" or shutil.which("g++") is None or native.module is None,
        reason="needs g++ for x86-64 and the built module",
    ),
]


def build(level, folder):
    (folder / "wrapper.cpp").write_text(WRAPPER)
    sources = [
        folder / "wrapper.cpp",
        *(CSRC / f"cpu/{n}.cpp" for n in ("fill", "grid", "hadamard", "kernels")),
    ]
    flags = [
        "-std=c++17",
        "-O3",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fwrapv",
        "-fPIC",
        "-shared",
    ]
    flags += ["-DFWDGRAD_NO_SIMD_CLONES", f"-march={level}", f"-I{CSRC}"]
    built = folder / "library.so"
    subprocess.run([os.environ.get("CXX", "g++"), *flags, *sources, "-o", built], check=True)
    return ctypes.CDLL(str(built))


@pytest.fixture(scope="module")
def building(tmp_path_factory):
    """The levels' libraries, of which as many are built at once as there are processors."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            level: pool.submit(build, level, tmp_path_factory.mktemp(level))
            for level in LEVELS
            if level <= native.module.simd_level()
        }


@pytest.fixture(scope="module", params=LEVELS)
def library(request, building):
    if request.param not in building:
        pytest.skip(f"this processor has {native.module.simd_level()}")
    return building[request.param].result()


def address(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


def encode(spec):
    """The spec's integers, and the address of its labels."""
    labels = spec.labels_on(torch.device("cpu"))
    numbers = *spec.encoded, 0 if labels is None else labels.data_ptr()
    encoded = (ctypes.c_int64 * len(numbers))(*numbers)
    encoded.labels = labels  # kept as long as their address is
    return encoded


@covering(
    library=LEVELS,
    kind=KINDS,
    options=(
        {},
        {"block": (5, 30)},
        linear(6, 6),
        {"features": Labels(torch.arange(67) // 5)},
    ),
)
def test_levels_agree(library, kind, options):
    spec = make_spec((2, 11, 67), kind, scale=1.0, seed=2**63 + 5, **options)
    encoded = encode(spec)
    x, weights = torch.zeros(spec.shape), torch.linspace(-1, 1, 9)
    out = torch.full((9, *spec.shape), torch.nan)
    library.perturb(address(out), address(x), ctypes.c_double(1.0), 0, encoded, ctypes.c_int64(9))
    expected = perturb(x, spec, 3, 9)
    if kind in EXACT and not spec.view.linear:
        assert torch.equal(out, expected)
    largest = expected.abs().max() if spec.view.linear else expected.abs()
    assert ((out - expected).abs() <= 2e-6 * (1 + largest)).all()
    if not spec.has_score or spec.view.labels:  # of labels the features are summed
        return
    sums = [torch.zeros(2, *spec.shape) for _ in range(2)]
    library.accumulate(
        address(sums[0][0]), address(sums[0][1]), address(weights), encoded, ctypes.c_int64(9)
    )
    accumulate_(sums[1][0], weights, spec, 3, square=sums[1][1])
    torch.testing.assert_close(*sums, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("distribution", ["normal", "cauchy", "rademacher"])
def test_squares_leave_the_total_alone_on_every_level(library, distribution):
    """With the instructions that round a product and a sum once, and with those that do not."""
    spec = NoiseSpec((1100,), distribution, seed=1)
    encoded = encode(spec)
    weights = torch.randn(9, generator=torch.Generator().manual_seed(0))
    totals, square = torch.zeros(2, 1100), torch.zeros(1100)
    for total, squared in ((totals[0], None), (totals[1], address(square))):
        library.accumulate(address(total), squared, address(weights), encoded, ctypes.c_int64(9))
    assert torch.equal(totals[0], totals[1])
    assert bool((9 * square >= totals[0] ** 2 * (1 - 1e-5)).all())  # Cauchy and Schwarz


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_rounds_the_same_on_every_level(library, dtype):
    spec = NoiseSpec((5000,), "rademacher", scale=0.0, seed=1)
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)).mul(100).to(dtype)
    out = torch.empty((1, 5000), dtype=dtype)
    kind = 2 if dtype == torch.float16 else 3
    encoded = encode(spec)
    library.perturb(
        address(out), address(x), ctypes.c_double(0.0), kind, encoded, ctypes.c_int64(1)
    )
    assert torch.equal(out[0], x)


@covering(library=LEVELS, dtype=DTYPES, grid=(((2, 41, 67), (6, 6)), ((2, 5, 9, 67), (2, 4, 6))))
def test_every_level_blends_alike(library, dtype, grid):
    """Grids that the planes share, by their own loops, against the reference."""
    shape, cell = grid
    options = linear(*cell, share_channels=True)
    spec = make_spec(shape, "hadamard", scale=0.5, seed=4, **options)
    encoded = encode(spec)
    x, baseline = torch.randn(2, *spec.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x, baseline = x.contiguous(), baseline.contiguous()
    out = torch.empty(5, *spec.shape, dtype=dtype)
    kind = DTYPES.index(dtype)
    library.blend(
        address(out), address(x), address(baseline), kind, encoded, ctypes.c_int64(len(out))
    )
    assert_samples(out, x, spec, 3, 1, (-torch.inf, torch.inf), baseline, 0.5)


PORTABLE = """
#include "cpu/fill.cpp"
static_assert(!FWDGRAD_HAS_LANES, "the loop for other processors and compilers");
extern "C" void draws(int distribution, int64_t first, int count, float* out) {
  using namespace fwdgrad;
  Spec spec{};
  spec.distribution = Distribution(distribution);
  spec.seed = 9;
  float run[cpu::kRunCapacity];
  const float* from = cpu::fill(cpu::Source(spec, 2047, 3, false), first, count, run);
  for (int k = 0; k < count; ++k) out[k] = from[k];
}
"""


def test_what_other_processors_compile_draws_the_same(tmp_path):
    (tmp_path / "portable.cpp").write_text(PORTABLE)
    flags = ["-std=c++17", "-fPIC", "-shared", "-DFWDGRAD_NO_SIMD_CLONES", "-U__SSE2__"]
    command = [os.environ.get("CXX", "g++"), *flags, f"-I{CSRC}", "portable.cpp", "-o", "draws.so"]
    subprocess.run(command, check=True, cwd=tmp_path)
    portable = ctypes.CDLL(str(tmp_path / "draws.so"))
    for distribution, name in enumerate(("normal", "cauchy", "hyperbolic", "logistic", "uniform")):
        expected = perturb(torch.zeros(2048), NoiseSpec((2048,), name, 1.0, seed=9), 3, 1)[0]
        out = torch.full((1000,), torch.nan)
        portable.draws(distribution, ctypes.c_int64(517), 1000, address(out))
        expected = expected[517:1517]
        assert ((out - expected).abs() <= 2e-6 * (1 + expected.abs())).all(), name
    expected = perturb(torch.zeros(2048), NoiseSpec((2048,), "rademacher", 1.0, seed=9), 3, 1)[0]
    portable.draws(5, ctypes.c_int64(517), 1000, address(out))
    assert torch.equal(out, expected[517:1517])
