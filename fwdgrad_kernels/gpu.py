"""Finds and loads the Triton kernels, or says plainly why not."""

from __future__ import annotations

import os
from types import ModuleType

import torch

_launch: ModuleType | None = None


def interpreted() -> bool:
    """Whether Triton is to run its kernels on the CPU, for tests: ``TRITON_INTERPRET=1``."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def missing() -> str:
    """Why Triton cannot be used; empty where it can."""
    if _launch is not None and torch.cuda.is_available():
        return ""
    try:
        import triton
    except ImportError as error:
        return f"Triton does not import ({error}); install it with: pip install triton"
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if version < (3, 6):
        return f"Triton {triton.__version__} is too old: 3.6 or newer is needed"
    if not torch.cuda.is_available() and not interpreted():
        return "no GPU is visible to torch (TRITON_INTERPRET=1 runs the kernels on the CPU, slowly)"
    return ""


def launch() -> ModuleType:
    """The launches of ``fwdgrad_kernels.triton``.

    Raises:
        RuntimeError: they cannot be used, saying why.
    """
    global _launch
    if _launch is None:
        reason = missing()
        if reason:
            raise RuntimeError(f"backend 'triton' is not available: {reason}")
        from fwdgrad_kernels.triton import launch as loaded

        _launch = loaded
    return _launch
