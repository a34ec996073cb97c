"""Adapters can be imported one by one: none needs another that needs it."""

import subprocess
import sys
from pathlib import Path

import pytest

import fwdgrad.adapters

MODULES = sorted(
    f"fwdgrad.adapters.{path.stem}"
    for path in Path(fwdgrad.adapters.__file__).parent.glob("[!_]*.py")
)
# Every import starts without any module of fwdgrad; torch is loaded once.
CHILD = """
import importlib, sys, traceback
import torch
failed = False
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.split(".")[0] == "fwdgrad"]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except ImportError:
        failed = True
        traceback.print_exc()
sys.exit(failed)
"""


@pytest.mark.slow
def test_each_adapter_can_be_imported_first():
    assert "fwdgrad.adapters.text" in MODULES
    line = [sys.executable, "-c", CHILD, *MODULES]
    run = subprocess.run(line, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
