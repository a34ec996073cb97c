"""The CUDA C++ backend: finds and calls the compiled module, or says plainly why not."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from fwdgrad_kernels.checks import DTYPES
from fwdgrad_kernels.layout import Geometry, interleaved
from fwdgrad_kernels.native import address

COPIES = 16384  # whose placements are held at once: 1 MiB

module: ModuleType | None
_absent = ""

try:
    from fwdgrad_kernels import _cuda  # type: ignore[attr-defined]

    module = _cuda
except ImportError as error:
    module = None
    why = "" if "cannot import name" in str(error) else f" ({error})"
    _absent = (
        f"the CUDA kernels are not built{why}; with NVIDIA's toolkit (nvcc) on the PATH, "
        "install again with FWDGRAD_CUDA=1"
    )


def missing(device: torch.device | None = None) -> str:
    """Why the backend cannot be used, on a device or at all; empty where it can."""
    if module is None:
        return _absent
    if module.on_cpu:  # a build for tests
        return ""
    if not torch.cuda.is_available() or torch.version.hip:
        return "torch sees no NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    built: str = module.architectures
    if runs(built, major, minor):
        return ""
    return (
        f"{torch.cuda.get_device_name(device)} has architecture {major}.{minor}, and the CUDA "
        f"kernels were built for {built}; install again with "
        f"TORCH_CUDA_ARCH_LIST={major}.{minor}"
    )


def runs(built: str, major: int, minor: int) -> bool:
    """Whether code for architectures such as "80 90a, PTX 80" runs on a GPU of major.minor."""
    for name in built.split(", "):
        ptx, number = name.startswith("PTX "), name.removeprefix("PTX ")
        specific = number[-1] in "af"
        code = divmod(int(number.rstrip("af")), 10)
        if specific and number[-1] == "a":
            fits = not ptx and code == (major, minor)
        elif ptx and not specific:
            fits = code <= (major, minor)
        else:
            fits = code[0] == major and code[1] <= minor
        if fits:
            return True
    return False


def serves(device: torch.device) -> bool:
    """Whether tensors there are the backend's."""
    on_cpu = module is not None and module.on_cpu
    return device.type == ("cpu" if on_cpu else "cuda")


def _where(tensor: Tensor) -> tuple[int, int]:
    """The device and its current stream."""
    if tensor.device.type == "cpu":
        return 0, 0
    stream = torch.cuda.current_stream(tensor.device)
    return tensor.device.index, stream.cuda_stream


def _placed(spec: list[int], first: int | None, count: int, like: Tensor) -> Tensor | None:
    """The table of placements, for the kernels."""
    assert module is not None
    if first is None:
        return None
    table = torch.empty((count, module.placed_bytes), dtype=torch.uint8, device=like.device)
    module.place(address(table), spec, first, count, *_where(like))
    return table


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
    first: int,
    held: int | None,
    pairs: bool,
    low: float,
    high: float,
) -> None:
    """The op of that name."""
    assert module is not None
    count, planes = out.shape[0] // (2 if pairs else 1), interleaved(out)
    needed = Geometry(*spec).placed or planes > 1 or held is not None or baseline is not None
    for base in range(0, count, COPIES):
        some = min(COPIES, count - base)
        # Both tables are kept until the launch.
        placed = _placed(spec, first + base if needed else None, some, out)
        before = _placed(spec, None if held is None else held + base, some, out)
        module.perturb(
            address(out[base:]),
            address(x),
            address(scale_map),
            address(bounds),
            rule,
            address(placed),
            address(before),
            address(baseline),
            by_plane,
            position,
            scale,
            DTYPES.index(x.dtype),
            spec,
            first + base,
            some,
            count if pairs else 0,
            low,
            high,
            planes,
            *_where(out),
        )


def accumulate_(
    total: Tensor, square: Tensor | None, weights: Tensor, spec: list[int], first: int
) -> None:
    """The op of that name."""
    assert module is not None
    needed = Geometry(*spec).placed
    for base in range(0, len(weights), COPIES):
        some = weights[base : base + COPIES]
        placed = _placed(spec, first + base if needed else None, len(some), total)
        module.accumulate(
            address(total),
            address(square),
            address(some),
            address(placed),
            DTYPES.index(total.dtype),
            spec,
            first + base,
            len(some),
            *_where(total),
        )


def expand_(out: Tensor, values: Tensor, spec: list[int], squared: bool) -> None:
    """The op of that name."""
    assert module is not None
    kind = DTYPES.index(out.dtype)
    module.expand(address(out), address(values), kind, spec, squared, *_where(out))


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    assert module is not None
    module.blocks(address(out), spec, first, len(out), *_where(out))
