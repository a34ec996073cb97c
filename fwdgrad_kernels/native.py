"""Finds and loads the compiled module, or says plainly why it is not there."""

from __future__ import annotations

from types import ModuleType

# torch comes first: both use OpenMP, and torch's copy of its runtime must be the one loaded, or
# two pools of threads would compete for the cores.
import torch  # noqa: F401

module: ModuleType | None
missing: str

try:
    from fwdgrad_kernels import _C  # type: ignore[attr-defined]

    module, missing = _C, ""
except ImportError as error:
    module = None
    missing = f"the compiled module does not load ({error}); build it with: pip install -e ."
