"""The Triton backend: a file per op, and the twins of csrc/include/fwdgrad (philox and others).

Importing this package needs no Triton; ``launch`` does.
"""

from __future__ import annotations

import os
from types import ModuleType

import torch
from torch import Tensor

_launch: ModuleType | None = None


def interpreted() -> bool:
    """Whether Triton is to run its kernels on the CPU, for tests: ``TRITON_INTERPRET=1``."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def missing(device: torch.device | None = None) -> str:
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


def serves(device: torch.device) -> bool:
    """Whether tensors there are the backend's."""
    return device.type == "cuda" or (device.type == "cpu" and interpreted())


def _call(name: str, out: Tensor, *arguments: object) -> None:
    global _launch
    if _launch is None:
        from fwdgrad_kernels.triton import launch

        _launch = launch
    if out.device.type == "cuda":
        with torch.cuda.device(out.device):  # Triton launches on the current device
            getattr(_launch, name)(out, *arguments)
    else:
        getattr(_launch, name)(out, *arguments)


def perturb_(out: Tensor, *arguments: object) -> None:
    """The op of that name."""
    _call("perturb_", out, *arguments)


def accumulate_(total: Tensor, *arguments: object) -> None:
    """The op of that name."""
    _call("accumulate_", total, *arguments)


def expand_(out: Tensor, *arguments: object) -> None:
    """The op of that name."""
    _call("expand_", out, *arguments)


def blocks_(out: Tensor, *arguments: object) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    _call("blocks_", out, *arguments)
