"""`make gpu-check`: builds, tests and measures on a machine with a GPU, in one command.

Needs Python, torch, Triton, nvcc, a compiler, pytest and nothing from a network. Every figure of
benchmarks/results/gpu-<name>.md comes from one run of this file. With --rehearse it goes through
the same steps on the CPU, with tiny inputs, Triton's interpreter and the CUDA kernels built as C++:
that tests this file, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = [
    str(ROOT / part) for part in (".", "python", "benchmarks", "tests/kernels", "tests/explain")
]

SANITIZED = """
import torch
from fwdgrad_kernels import Grid, Labels, NoiseSpec, accumulate_, blocks, perturb
for shape, options in (
    ((1027,), {}), ((3, 37, 41), {"block": 9}),
    ((3, 32, 32), {"distribution": "rademacher", "design": "hadamard"}),
    ((3, 37, 41), {"features": Grid(5, jitter=True)}), ((2, 9, 37, 41), {"features": Grid(5)}),
    ((3, 37, 41), {"features": Labels(torch.arange(37 * 41, device="cuda").view(37, 41) // 9)}),
    ((3, 37, 41), {"features": Grid(5, order=torch.arange(90, device="cuda").flip(0) + 7)}),
):
    spec = NoiseSpec(shape, scale=0.5, seed=1, **options)
    x = torch.rand(shape, device="cuda")
    perturb(x, spec, 3, 5, pairs=True, backend="cuda")
    sums = torch.zeros(2, *shape, device="cuda")
    accumulate_(sums[0], torch.ones(5, device="cuda"), spec, 3, sums[1], backend="cuda")
    blocks(spec, 0, 9, device="cuda", backend="cuda")
torch.cuda.synchronize()
print("sanitized")
"""


@dataclass
class Report:
    """The file of results, section by section."""

    sections: list[str] = field(default_factory=list)

    def text(self, *lines: str) -> None:
        self.sections.append("\n".join(lines))

    def table(self, heading: str, columns: list[str], rows: list[list[str]]) -> None:
        lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
        lines.insert(1, "|" + "---|" * len(columns))
        self.text(f"## {heading}", "", *lines)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n\n".join(self.sections) + "\n")


def environment() -> dict[str, str]:
    paths = [*PATHS, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def run(*command: str, timeout: float = 400) -> tuple[int, str]:
    """Exit status and output; 124 where it ran too long."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        return 124, str(error.stdout or "")
    return done.returncode, done.stdout


# ---- build and tests -----------------------------------------------------------------------


def build() -> None:
    """The modules, in place, for this GPU alone."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    os.environ |= {"FWDGRAD_CUDA": "1", "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}"}
    code, output = run(sys.executable, "setup.py", "build_ext", "--inplace")
    if code:
        raise SystemExit(f"the build failed:\n{output[-4000:]}")


def test(report: Report, rehearse: bool) -> bool:
    """The tests of both GPU backends; True where all passed."""
    files = ["tests/kernels/test_gpu.py", "tests/gpu"]
    spread = ["-n", "8"] if _has("xdist") and not rehearse else []
    chosen = ["-k", "float64_sums or nothing_to_do"] if rehearse else []
    code, output = run(sys.executable, "-m", "pytest", "-q", *spread, *chosen, *files)
    last = next((line for line in reversed(output.splitlines()) if "passed" in line), "no result")
    failed = re.findall(r"^FAILED (.*)$", output, re.MULTILINE)
    lines = [
        f"`pytest {' '.join(files)}`: {last.strip('= ')}.",
        *(f"- failed: {f}" for f in failed),
    ]
    report.text("## Tests on this device", "", *lines, "", _sanitize(rehearse))
    print(output[-3000:] if code else last, flush=True)
    return code == 0


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _sanitize(rehearse: bool) -> str:
    tool = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if rehearse or tool is None:
        return "`compute-sanitizer`: not run here."
    command = [tool, "--error-exitcode", "9", sys.executable, "-c", SANITIZED]
    code, output = run(*command, timeout=90)
    if "sanitized" not in output:
        return f"`compute-sanitizer` does not work here (exit {code})."
    summary = re.findall(r"ERROR SUMMARY: .*", output)
    return f"`compute-sanitizer` on the CUDA kernels: {summary[-1] if summary else f'exit {code}'}."


# ---- measuring -----------------------------------------------------------------------------


class Bench:
    """Times several sides in turn, round after round."""

    def __init__(self, device: str, rounds: int) -> None:
        import torch

        self.torch, self.device, self.rounds = torch, device, rounds
        self.flush = torch.empty(1 if device == "cpu" else 2**28, dtype=torch.uint8, device=device)

    def _seconds(self, call: Callable[[], object]) -> float:
        if self.device == "cpu":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        cuda = self.torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        self.flush.zero_()  # what the last side left in the cache is of no use to this one
        begin.record()
        call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def medians(self, **sides: Callable[[], object]) -> dict[str, float]:
        """Median seconds of each side."""
        for call in sides.values():
            for _ in range(3 if self.rounds > 1 else 0):
                call()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, call in sides.items():
                seconds[name].append(self._seconds(call))
        return {name: statistics.median(values) for name, values in seconds.items()}


def floors(bench: Bench, report: Report, rehearse: bool) -> None:
    """Copying, and Philox blocks that nothing is done with."""
    import torch
    from philox_floor import philox_floor

    size, programs, calls = (2**10, 2, 2) if rehearse else (2**10, 2**12, 64)
    out = torch.empty(size * programs, dtype=torch.int32, device=bench.device)
    source = torch.empty(2**10 if rehearse else 2**30, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.medians(
        copy=lambda: target.copy_(source),
        philox=lambda: philox_floor[(programs,)](out, calls, 5, SIZE=size),
    )
    rate = size * programs * calls / seconds["philox"]
    report.table(
        "Floors, measured",
        ["what", "rate"],
        [
            [
                "copy, bytes read and written",
                f"{2 * source.nbytes / seconds['copy'] / 1e12:.2f} TB/s",
            ],
            [
                "Philox4x32-10 blocks alone (20 wide multiplications and 20 three-way xors, four "
                "normal draws each)",
                f"{rate / 1e9:.1f} G/s: {4 * rate / 1e9:.0f} G draws/s at most",
            ],
        ],
    )


def naive(
    kind: str, batch: int, sigma: float
) -> tuple[Callable[..., object], Callable[..., object]]:
    """Plain PyTorch, as one would write it: samples and stored noise, and its weighted sum."""
    import torch

    def noise_like(x: torch.Tensor) -> torch.Tensor:
        size = (batch, *x.shape)
        if kind == "rademacher":
            return torch.randint(0, 2, size, device=x.device).to(x.dtype).mul_(2).sub_(1)
        noise = torch.randn(size, dtype=x.dtype, device=x.device)
        if kind != "blocks":
            return noise
        height, width = x.shape[-2:]
        b = block_of(height)
        y = torch.randint(1 - b, height, (batch, 1, 1, 1), device=x.device)
        z = torch.randint(1 - b, width, (batch, 1, 1, 1), device=x.device)
        rows = torch.arange(height, device=x.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=x.device).view(1, 1, 1, -1)
        return noise * ((rows >= y) & (rows < y + b) & (columns >= z) & (columns < z + b))

    def perturb(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        noise = noise_like(x)
        return x + sigma * noise, noise

    def accumulate(total: torch.Tensor, weights: torch.Tensor, noise: torch.Tensor) -> object:
        return total.add_((weights.view(-1, 1, 1, 1) * noise).sum(0))

    return perturb, accumulate


def block_of(length: int) -> int:
    """An extent whose blocks cover a tenth of a square."""
    q = 0.1**0.5
    return max(1, round(q * (length - 1) / (1 - q)))


def kernels(bench: Bench, report: Report, rehearse: bool) -> None:
    """perturb and accumulate_ beside a clone of the batch and plain PyTorch, eager and compiled."""
    import torch

    from fwdgrad_kernels import NoiseSpec, accumulate_, perturb

    side, batch = (16, 4) if rehearse else (1024, 64)
    shape, sigma, device = (3, side, side), 0.1, bench.device
    compiled = torch.compile(backend="eager" if rehearse else "inductor", dynamic=False)
    goals = {
        ("normal", "perturb", torch.float32): "1.0; 6x, 2x",
        ("normal", "perturb", torch.bfloat16): "1.6; 6x, 2x",
        ("normal", "accumulate", torch.float32): "0.75; 6x, 2x",
        ("blocks", "both", torch.float32): "0.8; 15x",
        ("rademacher", "perturb", torch.float32): "0.7",
        ("rademacher", "accumulate", torch.float32): "0.7",
    }
    rows = []
    for kind in ("normal", "blocks", "rademacher"):
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.rand(shape, device=device).to(dtype)
            distribution = "normal" if kind == "blocks" else kind
            spec = NoiseSpec(
                shape, distribution, sigma, block_of(side) if kind == "blocks" else None, seed=1
            )
            out, weights = torch.empty(batch, *shape, dtype=dtype, device=device), torch.rand(batch)
            weights, total = weights.to(device), torch.zeros(shape, device=device)
            make, add = naive(kind, batch, sigma)
            fast_make, fast_add = compiled(make), compiled(add)
            stored = make(x)[1].float()  # type: ignore[index]
            wide = torch.zeros(shape, device=device)

            def ours(what: str, backend: str, x=x, spec=spec, out=out, w=weights, total=total):
                def call() -> None:
                    if what in ("perturb", "both"):
                        perturb(x, spec, 0, batch, out=out, backend=backend)
                    if what in ("accumulate", "both"):
                        accumulate_(total, w, spec, 0, backend=backend)

                return call

            def plain(what: str, make, add, x=x, stored=stored, w=weights, wide=wide):
                def call() -> None:
                    noise = make(x)[1] if what in ("perturb", "both") else stored
                    if what in ("accumulate", "both"):
                        add(wide, w, noise)

                return call

            agree(spec, x, batch, device)
            for what in ("perturb", "accumulate", "both"):
                if what == "accumulate" and dtype != torch.float32:
                    continue  # sums are float32 whatever the samples are
                sides = {
                    "clone": out.clone,
                    "cuda": ours(what, "cuda"),
                    "triton": ours(what, "triton"),
                    "eager": plain(what, make, add),
                    "compiled": plain(what, fast_make, fast_add),
                }
                if what == "accumulate":  # the fewest bytes where the noise is stored: one read
                    flat = stored.view(batch, -1)
                    sides["product"] = lambda flat=flat, w=weights: w @ flat
                seconds = bench.medians(**sides)
                ms = {name: f"{1e3 * value:.3f}" for name, value in seconds.items()}
                row = [kind, what, str(dtype).removeprefix("torch."), ms["clone"]]
                for backend in ("cuda", "triton"):
                    own = seconds[backend]
                    row += [ms[backend], f"{own / seconds['clone']:.2f}"]
                    row.append(f"{seconds['eager'] / own:.1f}x, {seconds['compiled'] / own:.1f}x")
                rows.append([*row, ms.get("product", ""), goals.get((kind, what, dtype), "")])
    own = ["/ clone", "faster"]
    report.table(
        f"One micro-batch of {batch} samples of {'x'.join(map(str, shape))}, float32 sums: ms, in "
        "times of `torch.clone` of the batch, and how many times faster than naive PyTorch (eager, "
        "compiled)",
        [
            *("noise", "op", "samples", "clone", "cuda"),
            *own,
            "triton",
            *own,
            "stored noise",
            "goal",
        ],
        rows,
    )
    report.text(
        "`stored noise` is `weights @ noise` with all noise in memory: one read of it, the fewest "
        "bytes that a sum can take which does not make the noise again. A goal is the most clone "
        "times, and the least gains."
    )


def agree(spec: object, x: object, batch: int, device: str) -> None:
    """Both backends against the reference before anything is timed."""
    import torch

    from fwdgrad_kernels import NoiseSpec, accumulate_, perturb
    from fwdgrad_kernels.testing import assert_samples, assert_sums

    assert isinstance(spec, NoiseSpec)
    assert isinstance(x, torch.Tensor)
    for backend in ("cuda", "triton"):
        assert_samples(perturb(x, spec, batch - 2, 2, backend=backend), x, spec, batch - 2)
        sums = torch.zeros(2, *spec.shape, device=device)
        weights = torch.tensor([0.5, -1.5], device=device)
        accumulate_(sums[0], weights, spec, batch - 2, sums[1], backend=backend)
        assert_sums(*sums, weights, spec, batch - 2)


def options(bench: Bench, report: Report, rehearse: bool) -> None:
    """Memory formats, a held buffer, linear grids."""
    import torch

    from fwdgrad_kernels import Grid, NoiseSpec, accumulate_, perturb

    side, batch = (16, 4) if rehearse else (1024, 64)
    shape, device = (3, side, side), bench.device
    x = torch.rand(shape, device=device)
    last = x.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]
    total, weights = torch.zeros(shape, device=device), torch.rand(batch, device=device)
    plain = NoiseSpec(shape, "normal", 0.1, seed=1)
    blocks = NoiseSpec(shape, "normal", 0.1, block_of(side), seed=1)
    grid = Grid(max(2, side // 7))
    smooth = NoiseSpec(shape, "rademacher", 0.1, features=grid, design="hadamard", seed=1)
    rows = []
    for backend in ("cuda", "triton"):
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            out = torch.empty(batch, *shape, dtype=dtype, device=device)
            other = out.to(memory_format=torch.channels_last)
            a, b = x.to(dtype), last.to(dtype)

            def call(x, spec, out, held=None, backend=backend):
                return lambda: perturb(x, spec, 0, batch, out=out, held=held, backend=backend)

            seconds = bench.medians(
                clone=out.clone,
                contiguous=call(a, plain, out),
                channels_last=call(b, plain, other),
                blocks=call(a, blocks, out),
                blocks_held=call(a, blocks, out, 0),
                smooth=call(a, smooth, out),
                smooth_sum=lambda: accumulate_(total, weights, smooth, 0, backend=backend),  # noqa: B023
            )
            clone = seconds.pop("clone")
            rows.append([backend, name, *(f"{s / clone:.2f}" for s in seconds.values())])
    report.table(
        "perturb in times of `torch.clone` of the batch",
        ["backend", "samples", "normal", "normal, channels last", "blocks", "blocks, `held`",
         "linear grid, shared Hadamard signs", "accumulate of that grid"],
        rows,
    )  # fmt: skip


@contextlib.contextmanager
def peak_memory(device: str) -> Iterator[list[int]]:
    """Fills in the bytes allocated at most, above what was allocated before."""
    import torch

    peak = [1]
    if device == "cpu":
        yield peak
        return
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    torch.cuda.synchronize()
    peak[0] = torch.cuda.max_memory_allocated() - before


def runs(bench: Bench, report: Report, rehearse: bool) -> None:
    """Whole explanations: memory, large images, a ResNet-50."""
    import torch

    import fwdgrad

    device = bench.device

    def linear(batch: torch.Tensor) -> torch.Tensor:
        half = batch.shape[-1] // 2
        return batch[..., :half].mean((1, 2, 3)) - batch[..., half:].mean((1, 2, 3))

    rows, peaks = [], []
    method = fwdgrad.ForwardGradient(scale=0.1)
    x = torch.rand(3, *(2 * (16 if rehearse else 224,)), device=device)
    for n_samples in (16, 32) if rehearse else (256, 8192):
        with peak_memory(device) as peak:
            fwdgrad.explain(linear, x, None, method=method, n_samples=n_samples, batch_size=64)
        peaks.append(peak[0])
    rows.append(
        ["peak memory at 8,192 samples over that at 256", f"{peaks[1] / peaks[0]:.4f}", "1.01"]
    )

    side, n_samples, batch = (32, 16, 2) if rehearse else (8192, 4096, 8)
    large = torch.rand(3, side, side, device=device)
    start = time.perf_counter()
    with peak_memory(device) as peak:
        fwdgrad.explain(linear, large, None, method=method, n_samples=n_samples, batch_size=batch)
    inputs = peak[0] / large.nbytes
    what = f"{'x'.join(map(str, large.shape))}, {n_samples} samples in micro-batches of {batch}"
    taken = f"{time.perf_counter() - start:.1f} s"
    what = f"{what} ({taken}): peak above the input, in inputs"
    rows.append([what, f"{inputs:.2f}", f"{batch + 3}"])
    del large

    rows.append(share_of_time(bench, rehearse))
    report.table("Whole runs", ["what", "measured", "goal, at most"], rows)


def share_of_time(bench: Bench, rehearse: bool) -> list[str]:
    """How much of an explanation of a ResNet-50 the kernels take."""
    import torch

    import fwdgrad
    from fwdgrad_kernels import NoiseSpec, accumulate_, backend_for, perturb

    device = bench.device
    if rehearse:
        model: torch.nn.Module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 9), torch.nn.Flatten())
    elif _has("torchvision"):
        import torchvision

        model = torchvision.models.resnet50(weights=None)
    else:
        return ["ResNet-50: torchvision is not installed", "not measured", "2 %"]
    model = model.eval().to(device, torch.bfloat16, memory_format=torch.channels_last)
    size, n_samples, batch = (16, 8, 4) if rehearse else (224, 4096, 64)
    image = torch.rand(1, 3, size, size, device=device, dtype=torch.bfloat16)
    image = image.contiguous(memory_format=torch.channels_last)[0]
    options = {"method": fwdgrad.ForwardGradient(scale=0.1), "objective": "output"}
    explain = functools.partial(fwdgrad.explain, model, image, 0, batch_size=batch, **options)
    explain(n_samples=2 * batch)  # warm
    start = time.perf_counter()
    explain(n_samples=n_samples)
    whole = time.perf_counter() - start
    spec = NoiseSpec(tuple(image.shape), "normal", 0.1)
    out = perturb(image, spec, 0, batch // 2, pairs=True)
    sums = torch.zeros(2, *image.shape, device=device)
    weights = torch.rand(n_samples // 2, device=device)
    seconds = bench.medians(
        perturb=lambda: perturb(image, spec, 0, batch // 2, out=out, pairs=True),
        accumulate=lambda: accumulate_(sums[0], weights, spec, 0, sums[1]),
    )
    share = (seconds["perturb"] * n_samples / batch + seconds["accumulate"]) / whole
    used = backend_for(torch.device(device))
    what = (
        f"`explain` on a ResNet-50, bfloat16, channels last, {n_samples} samples in {whole:.2f} s"
    )
    return [f"{what}: share of the kernels ({used})", f"{share:.2%}", "2 %"]


# ---- the command ---------------------------------------------------------------------------


def header(rehearse: bool) -> tuple[str, str]:
    """The heading of the results, and a name for their file."""
    import torch
    import triton

    name, driver = platform.processor() or platform.machine(), "none"
    if not rehearse:
        name = torch.cuda.get_device_name()
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        if shutil.which(query[0]):
            driver = run(*query)[1].strip().splitlines()[0]
    nvcc = run(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", "--version")[1]
    release = (re.findall(r"release ([\d.]+)", nvcc) or ["?"])[0]
    what = "A rehearsal on a CPU: no figure below means anything" if rehearse else "GPU benchmarks"
    text = (
        f"# {what}: {name}\n\nMade by `make gpu-check`. Times are medians of rounds in which all "
        "sides of a row run in turn, the cache flushed before each.\n\n"
        f"{name}, driver {driver}; torch {torch.__version__}, Triton {triton.__version__}, nvcc "
        f"{release}, Python {platform.python_version()}."
    )
    return text, re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> int:
    """Runs everything; the exit status is that of the tests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU; figures mean nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    arguments = parser.parse_args()
    rehearse, started = arguments.rehearse, time.perf_counter()
    sys.path[:0] = PATHS
    if rehearse:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not rehearse and not torch.cuda.is_available():
        print("gpu-check needs a GPU that torch sees; --rehearse goes through it on the CPU")
        return 2
    if not rehearse:
        build()
    from gpu_calls import calls

    from fwdgrad_kernels import cuda

    with tempfile.TemporaryDirectory() as folder:
        if rehearse:
            import gpu

            cuda.module = gpu.build_on_cpu(Path(folder))
        text, slug = header(rehearse)
        report = Report([text])
        passed = test(report, rehearse)
        bench = Bench("cpu" if rehearse else "cuda", 1 if rehearse else 20)
        for measure in (floors, kernels, options, runs, calls):
            try:
                measure(bench, report, rehearse)
            except Exception as error:  # what else was measured is kept
                report.text(f"## {measure.__name__} failed", "", f"{type(error).__name__}: {error}")
                print(f"{measure.__name__} failed: {type(error).__name__}: {error}")
                passed = False
    report.text(f"The whole took {time.perf_counter() - started:.0f} s.")
    path = arguments.results / f"{'rehearsal' if rehearse else 'gpu'}-{slug}.md"
    report.write(path)
    print(path.read_text())
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
