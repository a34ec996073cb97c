"""How csrc/cuda is built, what its kernels do at the ends of memory, and what can go wrong."""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch

from fwdgrad_kernels import NoiseSpec, accumulate_, backend_for, cuda, native, perturb, triton
from fwdgrad_kernels.backends import COMPILED
from fwdgrad_kernels.testing import make_spec

SEED = 2**63 + 11
NVCC = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
built = pytest.mark.skipif(NVCC is None, reason="no nvcc: the CUDA kernels are not built")


# ---- the build ---------------------------------------------------------------------------


@built
def test_the_built_module_needs_no_cuda_to_load():
    assert cuda.module is not None
    assert cuda.module.architectures == "80, PTX 80, 86, 89, 90, 100, 120"
    needs = subprocess.run(["ldd", cuda.module.__file__], capture_output=True, text=True).stdout
    assert "libcuda" not in needs


def build(folder, **environment):
    """Runs setup.py's build on a copy of the sources."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "csrc", "fwdgrad_kernels"):
        source = gpu.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__py*"))
        else:
            shutil.copy(source, folder)
    (folder / "python").symlink_to(gpu.ROOT / "python")
    (folder / "build").mkdir()
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@built
def test_builds_with_torch_and_a_compiler_alone(tmp_path):
    """No pybind11, no ninja: torch's headers and one command after another."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("c++", "g++", "gcc", "cc", "sh", "as", "ld", "cat", "rm", "dirname", "nvcc"):
        if path := shutil.which(name):
            (tools / name).symlink_to(path)
    (tmp_path / "tree").mkdir()
    hides = tmp_path / "tree/sitecustomize.py"
    hides.write_text("import sys; sys.modules['pybind11'] = None\n")
    done = build(
        tmp_path / "tree",
        PATH=str(tools),
        PYTHONPATH=str(tmp_path / "tree"),
        FWDGRAD_CUDA="1",
        TORCH_CUDA_ARCH_LIST="9.0+PTX",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    code = (
        "import torch; from fwdgrad_kernels import _C, _cuda; "
        "print(_C.simd_level(), '|', _cuda.architectures)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "tree",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "tree")},
        capture_output=True,
        text=True,
    )
    assert said.stdout.strip().endswith("| 90, PTX 90"), said.stderr


@pytest.mark.slow
def test_without_nvcc_the_package_builds_for_the_cpu(tmp_path):
    setup = (gpu.ROOT / "setup.py").read_text()
    script = setup[: setup.index("HEADERS = ")] + (
        "from setuptools.dist import Distribution\n"
        "command = BuildExt(Distribution())\n"
        "extension = Extension('fwdgrad_kernels._cuda', CUDA_SOURCES)\n"
        "find_nvcc = lambda: None\n"
        "command.build_cuda(extension)\n"
        "assert extension.optional\n"
    )
    (tmp_path / "setup_part.py").write_text(script)

    def run(**environment):
        command = [sys.executable, str(tmp_path / "setup_part.py")]
        surroundings = {**os.environ, **environment}
        return subprocess.run(command, env=surroundings, capture_output=True, text=True)

    plain = run()
    assert plain.returncode == 0, plain.stderr
    expected = (
        "fwdgrad_kernels: built for the CPU, without CUDA kernels (no nvcc in CUDA_HOME or on"
    )
    assert plain.stdout.startswith(expected)
    assert "(FWDGRAD_CUDA=0)" in run(FWDGRAD_CUDA="0").stdout
    insists = run(FWDGRAD_CUDA="1")
    assert insists.returncode != 0
    assert "FWDGRAD_CUDA=1 asks for the CUDA kernels, but there is no nvcc" in insists.stderr
    assert "FWDGRAD_CUDA must be 0 or 1, got 'yes'" in run(FWDGRAD_CUDA="yes").stderr


# ---- at the ends of memory ---------------------------------------------------------------


def reserve(size):
    """Memory of any size; only the pages that are touched exist."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    memory = mmap.mmap(-1, size, flags=flags)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def view(address, count):
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "rademacher", "hadamard"])
@pytest.mark.parametrize("block", [None, (2**16, 2**15 - 8)], ids=["plain", "blocks"])
def test_more_than_2_to_31_elements(on_cpu, kind, block):
    """The last elements of two samples of 2^31 + 2^17 elements each, and of their sums."""
    shape, tail, first = (2**16 + 4, 2**15), 4096, 2**32 - 1
    spec = make_spec(shape, kind, 1.0, seed=SEED, block=block)
    at = spec.numel - tail
    memory = [reserve(4 * spec.numel * samples) for samples in (1, 2, 1)]
    x, out, total = (address for _, address in memory)
    values, weights = torch.arange(tail) / tail, torch.tensor([0.5, -2.0])
    view(x + 4 * at, tail)[:] = values
    table = torch.zeros(2, on_cpu.placed_bytes, dtype=torch.uint8)
    on_cpu.place(table.data_ptr(), spec.encoded, first, 2, 0, 0)
    tables = table.data_ptr() if block or kind == "hadamard" else 0
    # Elements of a thread of accumulate: of its dense kernel for signs, or of any other.
    each = 16 if kind == "rademacher" and not block else 4
    ends = -float("inf"), float("inf")
    on_cpu.run_blocks(at // 1024, 2**62)
    on_cpu.perturb(
        out, x, 0, 0, 0, tables, 0, 0, False, 1, 1, 0, spec.encoded, 0, first, 2, 0, *ends, 1, 0, 0
    )
    on_cpu.run_blocks(at // (256 * each), 2**62)
    sums = total, 0, weights.data_ptr(), 0, 0, tables, 0, False, False
    on_cpu.accumulate(*sums, 0, spec.encoded, first, 2, 0, 0)
    rows, columns = (
        torch.arange(at, spec.numel) // shape[1],
        torch.arange(at, spec.numel) % shape[1],
    )
    summed = torch.zeros(tail)
    for i in range(2):
        y0, y1, x0, x1 = table.view(torch.int64)[i, :4]
        covered = (rows >= y0) & (rows < y1) & (columns >= x0) & (columns < x1)
        drawn = covered * tail_draws(spec, first + i, at, tail)
        made = view(out + 4 * (i * spec.numel + at), tail)
        torch.testing.assert_close(made, (values + drawn).float(), rtol=0, atol=2e-5)
        summed += weights[i] * drawn
    torch.testing.assert_close(view(total + 4 * at, tail), summed, rtol=0, atol=4e-5)


def tail_draws(spec, sample, first, count):
    """Draws first .. first + count - 1 of a sample, from the noise contract's integers."""
    from contract import MASK, words

    values = []
    if spec.distribution == "normal":
        for group in range(first // 4, (first + count) // 4):
            w = torch.tensor(words(group, 0, sample, spec.seed), dtype=torch.float64)
            u = (torch.floor(w / 512) + 0.5) / 2**23
            r = (-2 * u[[0, 2]].log()).sqrt()
            turn = 2 * torch.pi * u[[1, 3]]
            values += [r[0] * turn[0].cos(), r[0] * turn[0].sin()]
            values += [r[1] * turn[1].cos(), r[1] * turn[1].sin()]
        return torch.tensor(values)
    stream, number, row = 0, sample, 0
    if spec.design == "hadamard":
        number = sample // spec.group
        a, b, *_ = words(0, 3, number, spec.seed)
        row = ((a | 1) * (sample % spec.group) + b) % spec.group
        stream = 4
    for group in range(first // 128, (first + count) // 128):
        for place, word in enumerate(words(group, stream, number, spec.seed)):
            for bit in range(32):
                k = 128 * group + 32 * place + bit
                negative = bin(row & k & MASK).count("1") % 2
                values.append((1.0 if word >> bit & 1 else -1.0) * (-1) ** negative)
    return torch.tensor(values)


def at_the_end_of_a_page(values):
    """A copy of a tensor whose end is the end of what may be read: more is a fault."""
    page = mmap.PAGESIZE
    size = -(-values.nbytes // page) * page
    memory, address = reserve(size + page)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(address + size), page, 0) == 0
    start = size - values.nbytes
    tensor = torch.frombuffer(memory, dtype=values.dtype, count=values.numel(), offset=start)
    return tensor.view(values.shape).copy_(values)


GUARDED = """
import sys
sys.path.insert(0, {folder!r})
import torch, gpu, pathlib, test_cuda
from fwdgrad_kernels import Grid, Labels, NoiseSpec, accumulate_, cuda, perturb
from fwdgrad_kernels.testing import cells, linear, ordered
cuda.module = gpu.importlib.util.module_from_spec(
    spec := gpu.importlib.util.spec_from_file_location("cuda_on_cpu._cuda", {module!r}))
spec.loader.exec_module(cuda.module)
last, empty, new_empty = test_cuda.at_the_end_of_a_page, torch.empty, torch.Tensor.new_empty
def aligned(made):  # to 16 bytes, as all memory of GPUs is
    size = -(-made.nbytes // 16) * 16
    flat = last(torch.zeros(size, dtype=torch.uint8))[: made.nbytes]
    return flat.view(made.dtype).view(made.shape)
torch.empty = lambda *shape, **options: aligned(empty(*shape, **options))  # tables of draws
torch.Tensor.new_empty = lambda *shape, **options: aligned(new_empty(*shape, **options))  # sums
for kind, shape, options in (
    ("normal", (1,), {{}}), ("normal", (1027,), {{}}), ("normal", (3, 7, 9), {{"block": 4}}),
    ("rademacher", (3, 8, 12), {{}}), ("normal", (3, 7, 9), linear(3, 3)),
    ("cauchy", (5, 1), cells(2, 1)), ("rademacher", (2, 5, 6, 7), linear(2, 3, 3)),
    ("normal", (3, 5, 7), {{"features": Labels(torch.arange(7))}}),
    ("rademacher", (3, 12, 28), {{"features": Grid(2)}}),  # 128 draws: a whole group of signs
    ("rademacher", (3, 7, 9), {{"features": Grid(3)}}),
    ("rademacher", (2, 7), {{"features": Grid(2)}}),
    ("rademacher", (3, 7, 9), linear(3, 3, **ordered(60))),
    ("normal", (3, 7, 9), cells(3, 3, **ordered(27))),
):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        spec = NoiseSpec(shape, kind, scale=last(torch.ones(shape, dtype=wide)), seed=1, **options)
        x, out = last(torch.ones(shape, dtype=dtype)), last(torch.ones(4, *shape, dtype=dtype))
        perturb(x, spec, 3, 2, out=out, pairs=True, backend="cuda")
        if dtype != torch.bfloat16:
            total, square = (last(torch.zeros(shape, dtype=dtype)) for _ in range(2))
            weights = last(torch.ones(3, dtype=dtype))  # of two chunks
            accumulate_(total, weights, spec, 255, square, backend="cuda")
assert spec.draws and cuda._stride(cuda.Geometry(*spec.encoded))
print("nothing was read or written past its end")
"""


@pytest.mark.slow
def test_nothing_is_touched_past_the_end_of_memory(on_cpu):
    """In a process of its own, which a fault would end."""
    code = GUARDED.format(folder=str(Path(__file__).parent), module=on_cpu.__spec__.origin)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "nothing was read or written" in done.stdout


# ---- what can go wrong -------------------------------------------------------------------


@pytest.mark.slow
def test_a_failed_launch_is_an_error(on_cpu):
    spec, x = NoiseSpec((4, 4), seed=1), torch.zeros(4, 4)
    on_cpu.fail_next_launch()
    with pytest.raises(RuntimeError, match="launching a kernel failed: unspecified launch failure"):
        perturb(x, spec, 0, 2, backend="cuda")
    perturb(x, spec, 0, 2, backend="cuda")
    on_cpu.fail_next_launch()
    with pytest.raises(RuntimeError, match="launching a kernel failed"):
        accumulate_(x, torch.ones(2), spec, 0, backend="cuda")


@pytest.mark.parametrize(
    ("listed", "capability", "fits"),
    [
        ("80, 90", (8, 0), True),
        ("80, 90", (8, 9), True),  # code for 8.0 runs on 8.9
        ("86, 90", (8, 0), False),
        ("80, 90", (10, 0), False),
        ("80, PTX 80", (12, 0), True),  # from PTX, the driver makes code
        ("PTX 90", (8, 9), False),
        ("90a", (9, 0), True),
        ("90a", (9, 1), False),
        ("100f", (10, 3), True),
    ],
)
def test_which_gpus_the_code_runs_on(listed, capability, fits):
    assert cuda.runs(listed, *capability) is fits


class Module:
    """What a build for other GPUs says of itself."""

    on_cpu = False
    architectures = "80, 90"


@pytest.fixture
def new_gpu(monkeypatch):
    """torch sees a GPU that the build has no code for."""
    monkeypatch.delenv("FWDGRAD_BACKEND", raising=False)
    monkeypatch.setattr(cuda, "module", Module())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (12, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "A new GPU")


def test_a_gpu_without_code_is_named(new_gpu, monkeypatch):
    device = torch.device("cuda", 0)
    with pytest.raises(RuntimeError) as caught:
        backend_for(device, "cuda")
    for part in ("A new GPU", "12.0", "built for 80, 90", "TORCH_CUDA_ARCH_LIST=12.0"):
        assert part in str(caught.value)
    monkeypatch.setattr(triton, "missing", lambda device=None: "")
    assert backend_for(device) == "triton"  # auto takes what runs
    monkeypatch.setattr(triton, "missing", lambda device=None: "no Triton")
    with pytest.raises(RuntimeError) as caught:  # and never goes to the host in silence
        backend_for(device)
    for part in ("cuda:0", "12.0", "no Triton", "backend='reference'"):
        assert part in str(caught.value)


def test_a_tensor_on_a_gpu_with_the_cpu_module_alone(monkeypatch):
    monkeypatch.setattr(cuda, "module", None)
    monkeypatch.setattr(cuda, "_absent", "the CUDA kernels are not built (none)")
    device = torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="'cuda' is not available: the CUDA kernels are not"):
        backend_for(device, "cuda")
    with pytest.raises(ValueError, match="backend 'cpu' needs tensors on the CPU, got device cuda"):
        backend_for(device, "cpu")


@pytest.mark.skipif(gpu.REAL, reason="about a machine without a GPU")
def test_without_a_gpu_the_backend_says_so():
    if cuda.module is not None:
        with pytest.raises(RuntimeError, match="'cuda' is not available: torch sees no NVIDIA GPU"):
            backend_for(torch.device("cpu"), "cuda")
    assert set(COMPILED) == {"cpu", "cuda", "triton"}
    assert native.serves(torch.device("cpu"))
