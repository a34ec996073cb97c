"""The CPU backend: finds and calls the compiled module, or says plainly why it is not there."""

from __future__ import annotations

from types import ModuleType

# torch comes first: both use OpenMP, and torch's copy of its runtime must be the one loaded, or
# two pools of threads would compete for the cores.
import torch
from torch import Tensor

from fwdgrad_kernels.checks import DTYPES
from fwdgrad_kernels.layout import interleaved

module: ModuleType | None
_absent = ""

try:
    from fwdgrad_kernels import _C  # type: ignore[attr-defined]

    module = _C
except ImportError as error:
    module = None
    _absent = f"the compiled module does not load ({error}); build it with: pip install -e ."


def missing(device: torch.device | None = None) -> str:
    """Why the backend cannot be used; empty where it can."""
    return "" if module is not None else _absent


def serves(device: torch.device) -> bool:
    """Whether tensors there are the backend's."""
    return device.type == "cpu"


def address(tensor: Tensor | None) -> int:
    """Of the first element, for the compiled modules."""
    if tensor is None:
        return 0
    pointer = tensor.data_ptr()
    if not pointer and tensor.numel():
        raise RuntimeError(f"a {type(tensor).__name__} has no memory of its own to work on")
    return pointer


def is_writable(tensor: Tensor) -> bool:
    """Whether a contiguous tensor's memory can be written to; true where that cannot be told."""
    return module is None or bool(module.is_writable(tensor.data_ptr(), tensor.nbytes))


def perturb_(
    out: Tensor,
    x: Tensor,
    scale_map: Tensor | None,
    bounds: Tensor | None,
    rule: list[float],
    baseline: Tensor | None,
    by_plane: bool,
    position: float,
    scale: float,
    spec: list[int],
    labels: Tensor | None,
    first: int,
    held: int | None,
    pairs: bool,
    low: float,
    high: float,
) -> None:
    """The op of that name."""
    assert module is not None
    module.perturb(
        address(out),
        address(x),
        address(scale_map),
        address(bounds),
        rule,
        address(baseline),
        by_plane,
        position,
        scale,
        DTYPES.index(x.dtype),
        spec,
        address(labels),
        first,
        -1 if held is None else held,
        out.shape[0] // (2 if pairs else 1),
        pairs,
        low,
        high,
        interleaved(out),
        torch.get_num_threads(),
    )


def accumulate_(
    total: Tensor, square: Tensor | None, weights: Tensor, spec: list[int], first: int
) -> None:
    """The op of that name."""
    assert module is not None
    module.accumulate(
        address(total),
        address(square),
        address(weights),
        DTYPES.index(total.dtype),
        spec,
        first,
        len(weights),
        torch.get_num_threads(),
    )


def expand_(out: Tensor, values: Tensor, spec: list[int], first: int, squared: bool) -> None:
    """The op of that name."""
    assert module is not None
    kind = DTYPES.index(out.dtype)
    threads = torch.get_num_threads()
    module.expand(address(out), address(values), kind, spec, first, squared, threads)


def hadamard_sums(weights: Tensor, spec: list[int], first: int, group: int) -> Tensor:
    """The op of that name: float64 (group,)."""
    assert module is not None
    out, weights = torch.empty(group, dtype=torch.float64), weights.double().contiguous()
    module.hadamard_sums(address(out), address(weights), spec, first, len(weights))
    return out


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    assert module is not None
    module.blocks(address(out), spec, first, len(out))
