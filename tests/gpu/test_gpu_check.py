"""`make gpu-check` itself, as far as it goes without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the real one runs here")
def test_rehearsal(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "benchmarks/gpu_check.py"]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "needs a GPU that torch sees" in refused.stdout
    command += ["--rehearse", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (results,) = tmp_path.glob("rehearsal-*.md")
    text = results.read_text()
    assert "no figure below means anything" in text
    assert " failed" not in text
    for part in (
        *("passed", "Floors", "One micro-batch", "channels last", "ResNet-50"),
        *("regions: waits for the device", "explain(device='cpu')", "explain --device cpu"),
    ):
        assert part in text
