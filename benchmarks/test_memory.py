"""Does memory grow with the number of samples, and how large an input fits into a gigabyte?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("memory.py")


def run(**arguments: object) -> dict[str, float]:
    words = []
    for name, value in arguments.items():
        words += [f"--{name.replace('_', '-')}"] + [str(value)] * (value is not True)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], capture_output=True, text=True, check=True
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def test_memory_does_not_grow_with_samples(benchmark, table):
    few = run(shape="3x224x224", n_samples=256, batch_size=64)
    many = benchmark.pedantic(
        lambda: run(shape="3x224x224", n_samples=8192, batch_size=64), rounds=1, iterations=1
    )
    ratio = many["peak"] / few["peak"]
    # Both found the same gradient, so both did the work.
    assert abs(few["gradient"] - 1) < 0.5
    assert abs(many["gradient"] - 1) < 0.1
    heading = "Peak memory above the imported packages, 3x224x224, micro-batch 64"
    columns = "samples, each run in a process of its own|peak, MiB|over 256 samples|goal"
    table.add(heading, columns, "256", f"{few['peak'] / 2**20:.1f}", "1", "")
    table.add(
        heading, columns, "8,192", f"{many['peak'] / 2**20:.1f}", f"{ratio:.3f}", "at most 1.02"
    )


def test_large_input_in_a_gigabyte(benchmark, table):
    result = benchmark.pedantic(
        lambda: run(shape="3x4096x4096", n_samples=1024, memory="1GiB"), rounds=1, iterations=1
    )
    assert abs(result["gradient"] - 1) < 0.5
    naive = 2 * 1024 * result["input"]
    table.add(
        'Input 3x4096x4096, 1,024 samples, `memory="1GiB"`, a linear model without weights',
        "input, MiB|peak, MiB, the input included|goal|naive: samples and noise, GiB|seconds",
        f"{result['input'] / 2**20:.0f}",
        f"{result['peak'] / 2**20:.0f}",
        "at most 1024",
        f"{naive / 2**30:.0f}",
        f"{result['seconds']:.0f}",
    )


@pytest.mark.parametrize(
    ("shape", "memory"),
    [("3x4096x4096", "1GiB"), ("3x8192x8192", "4GiB"), ("1x256x256x256", "1GiB")],
)
def test_regions_of_a_large_input(benchmark, table, shape, memory):
    alone = run(shape=shape, n_samples=16, batch_size=1, regions=True)
    kept = benchmark.pedantic(
        lambda: run(shape=shape, n_samples=64, memory=memory, regions=True), rounds=1, iterations=1
    )
    # The input, its blur and a sample; both are there in all.
    bound = 3 * kept["input"] + 64 * 2**20
    assert alone["sampling"] <= bound
    assert kept["peak"] <= int(memory[0]) * 2**30
    table.add(
        "Default path: `regions` of large inputs, a linear model without weights",
        "input|MiB|while sampling one by one, MiB|input + blur + a sample + 64, MiB|"
        "peak at `memory=`, the input included, MiB|goal, MiB|seconds, 64 samples",
        shape,
        f"{kept['input'] / 2**20:.0f}",
        f"{alone['sampling'] / 2**20:.0f}",
        f"{bound / 2**20:.0f}",
        f"{kept['peak'] / 2**20:.0f}",
        f"{int(memory[0]) * 1024}",
        f"{kept['seconds']:.0f}",
    )
