"""The fused kernels against naive PyTorch on x86-64-v3 (AVX2), which most people's machines have.

Both sides are held to it: the CPU module is built for that level alone, and torch is told.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOALS = {"normal, no blocks": 7, "normal, blocks, q = 0.100": 25}
LEVEL = "x86-64-v3"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the package and the module of that level."""
    folder = tmp_path_factory.mktemp("level")
    compiler = f"g++ -march={LEVEL} -DFWDGRAD_NO_SIMD_CLONES"
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    subprocess.run(
        [*command, "--build-lib", str(folder), "--build-temp", str(folder / "objects")],
        cwd=ROOT, check=True, capture_output=True,
        env={**os.environ, "CXX": compiler, "CC": compiler, "FWDGRAD_CUDA": "0"},
    )  # fmt: skip
    shutil.copytree(
        ROOT / "fwdgrad_kernels", folder / "fwdgrad_kernels", dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )  # fmt: skip
    return folder


@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("g++") is None, reason="needs g++ for x86-64"
)
def test_most_peoples_machines(package, benchmark, table):
    (module,) = (package / "fwdgrad_kernels").glob("_C*.so")
    code = subprocess.run(["objdump", "-d", module], capture_output=True, text=True, check=True)
    assert "zmm" not in code.stdout
    assert "ymm" in code.stdout
    limits = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    limits |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(package)}
    done = benchmark.pedantic(
        lambda: subprocess.run(
            [sys.executable, Path(__file__).with_name("level.py")],
            env={**os.environ, **limits}, capture_output=True, text=True, check=True,
        ),
        rounds=1,
        iterations=1,
    )  # fmt: skip
    for name, (naive, fused) in json.loads(done.stdout).items():
        table.add(
            f"The same on {LEVEL} (AVX2)",
            "noise|naive PyTorch, ms|fused, ms|ratio|goal",
            name,
            f"{naive:.1f}",
            f"{fused:.2f}",
            f"{naive / fused:.1f}x",
            f"{GOALS[name]}x",
        )
