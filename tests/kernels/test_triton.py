"""What Triton's compiler makes of the kernels, for GPUs that need not be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fwdgrad_kernels import backend_for, triton

pytest.importorskip("triton")

COMPILE = Path(__file__).with_name("compile_triton.py")
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")


@pytest.fixture(scope="session")
def compiled():
    """What a process for each target printed, two at a time; Triton is a compiler there."""
    done = {}
    for pair in (TARGETS[:2], TARGETS[2:]):
        running = {
            target: subprocess.Popen(
                [sys.executable, str(COMPILE), target],
                env={**os.environ, "TRITON_INTERPRET": "0"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for target in pair
        }
        for target, process in running.items():
            done[target] = (*process.communicate(), process.returncode)
    return done


@pytest.mark.parametrize("target", TARGETS)
def test_compiles_without_spills(target, compiled):
    output, errors, code = compiled[target]
    assert code == 0, errors[-2000:]
    kernels = [json.loads(line) for line in output.splitlines()]
    assert len(kernels) == 292 + 12 * 3 + 58 + 8 + 6  # the last with baselines, and of expand
    if target.startswith("cuda"):
        for kernel in kernels:
            assert kernel["spills"] == 0, kernel  # stack and local memory: where spills go
            assert kernel["registers"] <= 255, kernel
            if kernel["even"] and not kernel.get("INTERLEAVED"):
                assert kernel["wide"] >= 1, kernel  # four elements at once, or 16 bytes


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: no GPU"):
        backend_for(torch.device("cuda"), "triton")
    with pytest.raises(RuntimeError, match="backend 'triton' is not available: no GPU"):
        backend_for(torch.device("cpu"), "triton")
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "pip install triton" in triton.missing()
