"""The CUDA C++ backend: finds and calls the compiled module, or says plainly why not."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from fwdgrad_kernels.checks import DTYPES
from fwdgrad_kernels.layout import Geometry, interleaved
from fwdgrad_kernels.native import address
from fwdgrad_kernels.spec import CHUNK, DISTRIBUTIONS

SAMPLES = 16384  # whose placements are held at once: 1.1 MiB
WORDS = 2**23  # of draws that are held at once where elements share them, or one sample's: 32 MiB
SCRATCH = 2**24  # bytes of the sums of chunks, where there is more than one

module: ModuleType | None
_absent = ""

try:
    from fwdgrad_kernels import _cuda  # type: ignore[attr-defined]

    module = _cuda
except ImportError as error:
    module = None
    why = "" if "cannot import name" in str(error) else f" ({error})"
    _absent = (
        f"the CUDA kernels are not built{why}; with NVIDIA's toolkit (nvcc) on the PATH, install "
        "again with FWDGRAD_CUDA=1 and pip's --no-binary fwdgrad-kernels"
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
        f"TORCH_CUDA_ARCH_LIST={major}.{minor} and pip's --no-binary fwdgrad-kernels"
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


def _is_placed(geometry: Geometry) -> bool:
    """Whether the kernels need the table of placements."""
    rows = bool(geometry.design) and geometry.elementwise  # others' are in their table of draws
    return geometry.blocked or bool(geometry.jitters) or rows


def _are_signs(geometry: Geometry) -> bool:
    return DISTRIBUTIONS[geometry.distribution] == "rademacher"


def _stride(geometry: Geometry, ordered: bool = False) -> int:
    """Words of a sample in the table of draws; 0 where elements have a draw each.

    Args:
        geometry: of the spec.
        ordered: whether of the table of those that a grid's lines take.
    """
    if geometry.elementwise:
        return 0
    count = geometry.lines if ordered else geometry.draws
    return 4 * -(-count // (128 if _are_signs(geometry) else 4))


def _drawn(
    spec: list[int], first: int, count: int, stride: int, like: Tensor, score: bool = False
) -> Tensor | None:
    """The table of the draws of samples, or of their scores, for the kernels."""
    assert module is not None
    if not stride:
        return None
    # A kernel also reads the word after the one that it needs.
    table = torch.empty(count * stride + 1, dtype=torch.int32, device=like.device)
    module.draw(address(table), stride, spec, first, count, score, *_where(like))
    return table


def _reordered(
    drawn: Tensor, stride: int, geometry: Geometry, order: Tensor, count: int
) -> tuple[Tensor, int]:
    """The table of the draws that a grid's lines take, and its words of a sample."""
    assert module is not None
    words = _stride(geometry, ordered=True)
    table = torch.empty(count * words + 1, dtype=torch.int32, device=drawn.device)
    module.reorder(
        address(table), words, address(drawn), stride, address(order), geometry.lines, count,
        _are_signs(geometry), *_where(drawn),
    )  # fmt: skip
    return table, words


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
    count, planes = out.shape[0] // (2 if pairs else 1), interleaved(out)
    geometry, kind = Geometry(*spec), DTYPES.index(x.dtype)
    stride = _stride(geometry)
    order = None if geometry.labelled else labels
    if bounds is not None:
        scale_map = torch.empty_like(x, dtype=bounds.dtype)
        pixels = geometry.height * geometry.width
        module.scale(
            address(scale_map), address(x), address(bounds), rule, kind, geometry.distribution,
            geometry.planes, pixels, planes, *_where(x),
        )  # fmt: skip
    size = min(SAMPLES, max(WORDS // stride, 1)) if stride else SAMPLES
    for base in range(0, count, size):
        some = min(size, count - base)
        # The tables are kept until the launch.
        needed = held is not None or _is_placed(geometry)
        placed = _placed(spec, first + base if needed else None, some, out)
        before = _placed(spec, None if held is None else held + base, some, out)
        drawn, words = _drawn(spec, first + base, some, stride, out), stride
        if drawn is not None and order is not None:
            drawn, words = _reordered(drawn, stride, geometry, order, some)
        module.perturb(
            address(out[base:]),
            address(x),
            address(scale_map),
            address(drawn),
            words,
            address(placed),
            address(before),
            address(baseline),
            by_plane,
            position,
            scale,
            kind,
            spec,
            address(labels),
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
    geometry, kinds = Geometry(*spec), 1 if square is None else 2
    stride, end = _stride(geometry), first + len(weights)
    size = min(SAMPLES, max(WORDS // stride, 1)) if stride else SAMPLES
    # Chunks are shared out where the scratch memory has room for the sums of several; where the
    # draws of a chunk are too many for a table, it has the sums so far of one.
    own = kinds * geometry.numel // (geometry.leading if geometry.shared else 1)
    chunks, whole = SCRATCH // (own * total.element_size()), size >= CHUNK
    if whole:
        size = min(size // CHUNK, chunks if chunks > 1 else size) * CHUNK
    scratch = None
    while first < end:
        chunk = first // CHUNK
        stop = min(end, chunk * CHUNK + size if whole else min(first + size, (chunk + 1) * CHUNK))
        resumes = scratch is not None
        rows = (stop - 1) // CHUNK - chunk + 1
        if not whole or (rows > 1 and chunks > 1):
            scratch = scratch if resumes else total.new_empty(rows * own)
        adds = scratch is not None and (whole or stop == end or stop % CHUNK == 0)
        some = weights[first - end :][: stop - first]
        placed = _placed(spec, first if _is_placed(geometry) else None, len(some), total)
        drawn = _drawn(spec, first, len(some), stride, total, score=True)
        module.accumulate(
            address(total),
            address(square),
            address(some),
            address(drawn),
            stride,
            address(placed),
            address(scratch),
            resumes,
            adds,
            DTYPES.index(total.dtype),
            spec,
            first,
            len(some),
            *_where(total),
        )
        first, scratch = stop, None if adds else scratch


def expand_(out: Tensor, values: Tensor, spec: list[int], first: int, squared: bool) -> None:
    """The op of that name."""
    assert module is not None
    kind = DTYPES.index(out.dtype)
    module.expand(address(out), address(values), kind, spec, first, squared, *_where(out))


def blocks_(out: Tensor, spec: list[int], first: int) -> None:
    """The op of that name: int64 (count, 2, 2)."""
    assert module is not None
    module.blocks(address(out), spec, first, len(out), *_where(out))
