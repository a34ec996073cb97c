"""The public ops: schema, argument checks, choice of backend.

They are registered with torch as ``fwdgrad_kernels::perturb_``, ``accumulate_``, ``expand_`` and
``blocks_``, with fakes, so ``torch.compile`` sees them (``noise`` perturbs a zero). They check
nothing: the functions here do, before anything is written. They are defined through
``torch.library.Library``: ``torch.library.custom_op`` costs over 10 us a call.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fwdgrad_kernels import cuda, native, reference, triton
from fwdgrad_kernels.checks import (
    DTYPES,
    check_alike,
    check_bytes,
    check_floating,
    check_memory,
    check_writable,
    overlap,
)
from fwdgrad_kernels.layout import empty_copies, interleaved, is_channels_last, to_channels_last
from fwdgrad_kernels.scale import AdaptiveScale
from fwdgrad_kernels.spec import NoiseSpec, check_integer

_COMPILED = {"cpu": native, "cuda": cuda, "triton": triton}
BACKENDS = ("auto", *_COMPILED, "reference")

_library = torch.library.Library("fwdgrad_kernels", "DEF")
_library.define(
    "perturb_(str backend, Tensor(a!) out, Tensor x, Tensor? scale_map, Tensor? bounds, "
    "float[] rule, Tensor? baseline, bool by_plane, float position, float scale, int[] spec, "
    "int first, int? held, bool pairs, float low, float high) -> ()"
)
_library.define(
    "expand_(str backend, Tensor(a!) out, Tensor values, int[] spec, bool squared) -> ()"
)
_library.define(
    "accumulate_(str backend, Tensor(a!) total, Tensor(b!)? square, Tensor weights, int[] spec, "
    "int first) -> ()"
)
_library.define("blocks_(str backend, Tensor(a!) out, int[] spec, int first) -> ()")


def _implementation(name: str) -> Callable[..., None]:
    def run(backend: str, *arguments: Any) -> None:
        getattr(_COMPILED[backend], name)(*arguments)

    return run


def _fake(*_: object) -> None:
    """What an op does to tensors without values: nothing, for it only writes into its arguments."""


for _name in ("perturb_", "accumulate_", "expand_", "blocks_"):
    _library.impl(_name, _implementation(_name), "CPU")
    _library.impl(_name, _implementation(_name), "CUDA")  # HIP devices, too, have this key
    torch.library.register_fake(f"fwdgrad_kernels::{_name}", _fake)
_ops: Any = torch.ops.fwdgrad_kernels


@torch.compiler.assume_constant_result
def backend_for(device: torch.device, backend: str = "auto") -> str:
    """The backend that an op on ``device`` uses.

    Args:
        device: where the tensors are.
        backend: ``"cpu"``, ``"cuda"`` (CUDA C++), ``"triton"``, ``"reference"`` (plain PyTorch), or
            ``"auto"``: what the environment's ``FWDGRAD_BACKEND`` names, else the first of these
            that the device has.

    Raises:
        ValueError: no such backend, or not for this device.
        RuntimeError: the backend is not built or cannot be used, saying why.

    Example:
        >>> import torch
        >>> backend_for(torch.device("cpu"), "reference")
        'reference'
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto" and device.type == "meta":  # shapes alone: the op's fake serves
        return "cpu"
    if backend == "auto":
        backend = os.environ.get("FWDGRAD_BACKEND", "auto")
        if backend not in BACKENDS:
            raise ValueError(
                f"FWDGRAD_BACKEND must be one of {', '.join(BACKENDS)}, got {backend!r}"
            )
    if backend == "auto":
        if device.type == "cpu":
            return "reference" if native.missing() else "cpu"
        if device.type != "cuda":
            return "reference"
        for name in ("cuda", "triton"):
            if not _COMPILED[name].missing(device):
                return name
        raise RuntimeError(
            f"no backend is available for {device}: cuda: {cuda.missing(device)}; triton: "
            f"{triton.missing()}. backend='reference' works anywhere, slowly and with the noise in "
            "memory"
        )
    if backend != "reference":
        module = _COMPILED[backend]
        why = module.missing(device if device.type == "cuda" else None)
        if why and not (device.type == "cuda" and backend == "cpu"):
            raise RuntimeError(f"backend {backend!r} is not available: {why}")
        if not module.serves(device):
            wanted = "on the CPU" if backend == "cpu" else "on a GPU"
            raise ValueError(f"backend {backend!r} needs tensors {wanted}, got device {device}")
    return backend


def _check_copies(first: int, count: int) -> tuple[int, int]:
    first = check_integer("first", first, 0, 2**63 - 1)
    return first, check_integer("count", count, 0, 2**63 - 1 - first)


def _device(device: object) -> torch.device:
    if device is not None and not isinstance(device, (str, torch.device)):
        raise TypeError(f"device must be a torch.device or a name such as 'cpu', got {device!r}")
    return torch.device("cpu" if device is None else device)


def check_clip(clip: object) -> tuple[float, float]:
    """The bounds of a clip, infinite where it is None."""
    if clip is None:
        return -math.inf, math.inf
    try:
        low, high = (float(bound) for bound in clip)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"clip must be (low, high), got {clip!r}") from None
    if not low <= high:
        raise ValueError(f"clip must be (low, high) with low <= high, got {clip}")
    return low, high


def _check_spec(spec: object) -> None:
    if not isinstance(spec, NoiseSpec):
        raise TypeError(f"spec must be a NoiseSpec, got {type(spec).__name__}")


def _check_destination(
    name: str, tensor: Any, shape: tuple[int, ...], like: Tensor, channels_last: bool = False
) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    check_memory(name, tensor)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if tensor.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype}, got {tensor.dtype}")
    if tensor.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, got {tensor.device}")
    if tensor.requires_grad:
        raise ValueError(f"{name} must not require a gradient: it is written in place")
    if not (tensor.is_contiguous() or (channels_last and is_channels_last(tensor))):
        also = " or in channels_last format" if channels_last else ""
        raise ValueError(f"{name} must be contiguous{also}, got strides {tensor.stride()}")
    check_writable(name, tensor)


def _wide(x: Tensor) -> torch.dtype:
    """What copies of a type are computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@functools.lru_cache(maxsize=64)  # a copy to a GPU would wait for it, and could not be captured
def _kept_bounds(
    scale: AdaptiveScale, planes: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    return torch.tensor(scale.bounds(planes), dtype=dtype, device=device)


def _bounds(scale: AdaptiveScale, planes: int, x: Tensor) -> Tensor:
    if type(x) is Tensor:
        return _kept_bounds(scale, planes, _wide(x), x.device)
    bounds = x.new_empty((2, planes), dtype=_wide(x))  # of x's type, and not kept: fake, say
    for row, values in zip(bounds, scale.bounds(planes), strict=True):
        for at, value in enumerate(values):
            row[at].fill_(value)
    return bounds


def perturb(
    x: Tensor,
    spec: NoiseSpec,
    first: int,
    count: int,
    sign: int = 1,
    clip: tuple[float, float] | None = None,
    out: Tensor | None = None,
    *,
    pairs: bool = False,
    held: int | None = None,
    relative: bool = False,
    baseline: float | Tensor | None = None,
    position: float = 1.0,
    backend: str = "auto",
) -> Tensor:
    """Noisy copies first .. first + count - 1 of an input: x + sign * scale * J_i * xi_i.

    Where a copy's block does not cover an element, it is x there, whatever the scale. With a
    baseline b copies lie between b and x: b + (x - b) (position + sign * scale * J_i * xi_i).
    Neither the way x - b nor a point on it is ever stored.

    Args:
        x: the input, of the spec's shape; float32, float64, float16 or bfloat16. It is taken as a
            constant: no gradient flows through the result.
        spec: what noise the copies get.
        first: the number of the first copy, counted over the whole run.
        count: how many copies.
        sign: 1, or -1 for the antithetic copies.
        clip: clamp the copies' values to (low, high).
        out: where to write, of the result's shape and x's dtype and device; contiguous, or in
            channels_last format. Draws follow the logical index in either.
        pairs: each copy with both signs of its noise, which is drawn once.
        held: the number of the first copy that ``out`` still holds from such a call, with all
            other arguments the same. Then only their blocks are restored and the new ones
            written: with blocks that cover little, most of the memory is left alone.
        relative: the scale is in units of each element: x (1 + scale * J_i * xi_i), as NoiseGrad
            has it for parameters. The scale must then be a number.
        baseline: a number, a tensor of one value for each channel (C, 1, 1), or one of x's shape,
            dtype and device. The scale must then be a number, without a unit.
        position: where copies are centred on the way from the baseline, 0, to x, 1.
        backend: see ``backend_for``.

    Returns:
        The copies, (count, *shape); with pairs (2 count, *shape), first all with ``sign``, then
        all with the other. ``out`` where it was given; else in x's memory format. Besides it at
        most 2 MiB of placements are held, with cells 8 bytes for each row or column, and a copy of
        x or of the spec's scale where that is of another layout, or not of the type that copies are
        computed in.

    Raises:
        TypeError, ValueError: naming the argument; nothing was written then.
        NotImplementedError: torch.func or forward-mode differentiation follows a tensor.

    Example:
        >>> import torch
        >>> x = torch.zeros(4)
        >>> perturb(x, NoiseSpec((4,), "rademacher", scale=0.5, seed=1), first=0, count=2).abs()
        tensor([[0.5000, 0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000, 0.5000]])

    Source: *Is forward gradient an effective tool for explaining black-box models?*,
    algorithm 1, lines 1 to 3, and equation 6.
    """
    check_floating("x", x)
    _check_spec(spec)
    if tuple(x.shape) != spec.shape:
        raise ValueError(f"x must have the spec's shape {spec.shape}, got {tuple(x.shape)}")
    first, count = _check_copies(first, count)
    whole = isinstance(sign, (int, float, np.number)) and not isinstance(sign, bool)
    if not whole or sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign!r}")
    for name, value in (("pairs", pairs), ("relative", relative)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    if relative and not isinstance(spec.scale, float):
        raise ValueError("scale must be a number where relative=True")
    low, high = check_clip(clip)
    backend = backend_for(x.device, backend)
    base, by_plane = _check_baseline(baseline, position, x, spec, relative)
    rows = 2 * count if pairs else count
    each = max(x.numel(), 1) * x.element_size() * (2 if pairs else 1)
    check_bytes(count, each, f"copies of {each} bytes")
    given = spec.scale if isinstance(spec.scale, Tensor) else None
    check_alike(x=x, out=out, scale=given, baseline=base)
    if given is not None:
        check_memory("scale", given)
    x = x.detach()
    if out is None:
        if held is not None:
            raise ValueError("held says what out holds, so it needs out")
        out = empty_copies(x, rows)
    else:
        _check_destination("out", out, (rows, *spec.shape), x, channels_last=x.dim() == 3)
        if overlap(out, x):
            raise ValueError("out must not share memory with x")
        if base is not None and overlap(out, base):
            raise ValueError("out must not share memory with the baseline")
    if held is not None:
        held = check_integer("held", held, 0, 2**63 - 1 - count)
    lay = to_channels_last if interleaved(out) > 1 else torch.Tensor.contiguous
    x = lay(x)
    if base is not None and not by_plane:
        base = lay(base)
    scale_map = None
    if given is not None:
        if given.device != x.device:
            raise ValueError(
                f"scale must be on x's device {x.device}, got {given.device}; "
                "make the spec with scale.to(x.device)"
            )
        scale_map = lay(given.to(_wide(x)))
        if overlap(out, given):
            raise ValueError("out must not share memory with the spec's scale")
    if relative:
        scale_map = x.to(_wide(x))
    bounds, rule = None, [0.0] * 6
    if isinstance(spec.scale, AdaptiveScale):
        bounds = _bounds(spec.scale, spec.planes[0], x)
        rule = spec.scale.rule(spec.law)
    scale = sign * spec.scale if isinstance(spec.scale, float) else float(sign)
    if not out.numel():
        return out
    if backend == "reference":
        for i in range(2 if pairs else 1):
            copies = reference.perturb(
                x, spec, first, count, sign * (-1) ** i, low, high, relative, base, position
            )
            out[i * count : (i + 1) * count] = copies
        return out
    _ops.perturb_(
        backend,
        out,
        x,
        scale_map,
        bounds,
        rule,
        base,
        by_plane,
        float(position),
        scale,
        list(spec.encoded),
        first,
        held,
        pairs,
        low,
        high,
    )
    return out


def _check_baseline(
    baseline: float | Tensor | None, position: float, x: Tensor, spec: NoiseSpec, relative: bool
) -> tuple[Tensor | None, bool]:
    """A baseline as a tensor, and whether it has a value for each plane, (planes, 1, 1)."""
    if isinstance(position, bool) or not isinstance(position, (int, float)):
        raise TypeError(f"position must be a number, got {position!r}")
    if not 0 <= position <= 1:
        raise ValueError(f"position must be from 0 (the baseline) to 1 (x), got {position}")
    if baseline is None:
        if position != 1:
            raise ValueError(f"position must be 1 without a baseline to start from, got {position}")
        return None, False
    if relative or not isinstance(spec.scale, float):
        what = "relative=True" if relative else f"a scale of type {type(spec.scale).__name__}"
        raise ValueError(f"baseline needs a scale that is a number, got {what}")
    if isinstance(baseline, bool) or not isinstance(baseline, (int, float, Tensor)):
        raise TypeError(f"baseline must be a number or a tensor, got {type(baseline).__name__}")
    if isinstance(baseline, (int, float)):
        if not math.isfinite(baseline):
            raise ValueError(f"baseline must be finite, got {baseline}")
        return _levels(float(baseline), spec.planes[0], _wide(x), x.device), True
    if not baseline.is_floating_point():
        raise TypeError(f"baseline must be a floating tensor, got {baseline.dtype}")
    check_memory("baseline", baseline)
    if baseline.device != x.device:
        raise ValueError(f"baseline must be on x's device {x.device}, got {baseline.device}")
    if baseline.shape == x.shape:
        if baseline.dtype != x.dtype:
            raise TypeError(f"baseline must have x's dtype {x.dtype}, got {baseline.dtype}")
        return baseline.detach(), False
    channels = (*x.shape[:-2], 1, 1)
    if x.dim() > 2 and tuple(baseline.shape) == channels:
        return baseline.detach().to(_wide(x)).reshape(-1, 1, 1).contiguous(), True
    also = f", a value for each channel {channels}" if x.dim() > 2 else ""
    raise ValueError(
        f"baseline must be a number{also} or have x's shape {tuple(x.shape)}, got "
        f"{tuple(baseline.shape)}"
    )


@functools.lru_cache(maxsize=64)
def _levels(value: float, planes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((planes, 1, 1), value, dtype=dtype, device=device)


def relative_perturber(
    x: Tensor, spec: NoiseSpec, backend: str = "auto"
) -> Callable[[Tensor, int], None]:
    """``perturb`` with ``relative=True``, a copy at a time and checked once: for many small calls.

    Args:
        x: a vector; contiguous. It is kept, not copied.
        spec: what noise.
        backend: see ``backend_for``.

    Returns:
        A function of (out, copy) that writes x (1 + scale xi) of that copy into out, (1, *shape),
        contiguous and of x's dtype and device.

    Example:
        >>> import torch
        >>> fill = relative_perturber(torch.ones(3), NoiseSpec((3,), "rademacher", 0.5, stream=16))
        >>> out = torch.empty(1, 3)
        >>> fill(out, 4)
        >>> torch.equal((out - 1).abs(), torch.full((1, 3), 0.5))
        True
    """
    perturb(x, spec, 0, 0, relative=True, backend=backend)  # checks
    if x.dim() != 1 or not x.is_contiguous():
        raise ValueError(f"x must be a contiguous vector, got shape {tuple(x.shape)}")
    backend, x, low, high = backend_for(x.device, backend), x.detach(), -math.inf, math.inf
    x = x.resolve_neg()  # the kernels read what is in memory
    wide, rule, encoded = x.to(_wide(x)), [0.0] * 6, list(spec.encoded)
    shape, scale = (1, *spec.shape), spec.scale

    def check(out: Tensor) -> None:
        check_memory("x", x)
        _check_destination("out", out, shape, x)
        check_alike(x=x, out=out)
        if overlap(out, x):
            raise ValueError("out must not share memory with x")

    checked: object = None

    def fill(out: Tensor, copy: int) -> None:
        nonlocal checked
        _check_copies(copy, 1)
        if type(out) is not Tensor:
            check(out)
        else:  # the checks take ten times as long as a small fill: once for the same memory
            sizes = out.untyped_storage().nbytes(), x.untyped_storage().nbytes(), out.is_neg()
            memory = out.data_ptr(), out.shape, out.stride(), out.dtype, out.requires_grad, sizes
            if memory != checked:
                check(out)
                checked = memory
        if backend == "reference":
            out.copy_(reference.perturb(x, spec, copy, 1, 1, low, high, True))
        elif x.numel():
            run = _COMPILED[backend].perturb_
            plain = None, rule, None, False, 1.0, scale, encoded  # no bounds, no baseline
            run(out, x, wide, *plain, copy, None, False, low, high)

    return fill


def accumulate_(
    total: Tensor,
    weights: Tensor,
    spec: NoiseSpec,
    first: int,
    square: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Tensor:
    """Adds sum_i weights[i] * J_i * s1(xi_i) to total: the likelihood-ratio sum, in unit scores.

    Each element adds its copies in ascending order, so the sum has the same bits however the
    copies are split over calls, and with ``square`` or without. A copy whose block does not cover
    an element adds nothing there, even where its weight is infinite or NaN.
    ``spec.gradient(total, count)`` makes the gradient of it.

    Args:
        total: the sum so far, of the spec's shape, float32 or float64, contiguous.
        weights: (count,), the score of each copy; floating, on total's device. Like total they are
            taken as constants: no gradient flows through the sum.
        spec: what noise the copies had.
        first: the number of the first copy.
        square: like total; takes the squares of the terms, for standard errors.
        backend: see ``backend_for``.

    Returns:
        total.

    Raises:
        TypeError, ValueError: naming the argument; a law without a score. Nothing was written then.
        NotImplementedError: torch.func or forward-mode differentiation follows a tensor.

    Example:
        >>> import torch
        >>> spec = NoiseSpec((4,), "hadamard", scale=1.0, seed=1)  # 4 orthogonal directions
        >>> g = torch.tensor([1.0, -2.0, 3.0, 0.5])
        >>> scores = perturb(torch.zeros(4), spec, 0, 4) @ g
        >>> spec.gradient(accumulate_(torch.zeros(4), scores, spec, 0), 4)
        tensor([ 1.0000, -2.0000,  3.0000,  0.5000])

    Source: *Is forward gradient an effective tool for explaining black-box models?*,
    algorithm 1, lines 5 and 6, and equation 6.
    """
    _check_spec(spec)
    if not spec.has_score:
        raise ValueError(
            f"law {spec.law!r} has no score: its density has no slope inside its support, so "
            "there is no likelihood-ratio gradient; use normal, cauchy, hyperbolic, logistic, "
            "rademacher or hadamard"
        )
    check_floating("total", total)
    if total.dtype not in DTYPES[:2]:
        raise TypeError(f"total must be float32 or float64, got {total.dtype}")
    _check_destination("total", total, spec.shape, total)
    check_floating("weights", weights)
    if weights.dim() != 1:
        raise ValueError(
            f"weights must have one axis, one weight per copy, got {tuple(weights.shape)}"
        )
    if weights.device != total.device:
        raise ValueError(f"weights must be on {total.device}, got {weights.device}")
    first, _ = _check_copies(first, weights.shape[0])
    backend = backend_for(total.device, backend)
    if square is not None:
        check_floating("square", square)
        _check_destination("square", square, spec.shape, total)
        if overlap(square, total):
            raise ValueError("square must not share memory with total")
    for name, other in (("total", total), ("square", square)):
        if other is not None and overlap(other, weights):
            raise ValueError(f"{name} must not share memory with weights")
    check_alike(total=total, weights=weights, square=square)
    weights = weights.detach().to(total.dtype).contiguous()
    if not total.numel() or not weights.numel():
        return total
    if backend == "reference":
        reference.accumulate_(total, weights, spec, first, square)
    else:
        _ops.accumulate_(backend, total, square, weights, list(spec.encoded), first)
    return total


def accumulate_features_(
    total: Tensor, weights: Tensor, spec: NoiseSpec, first: int, *, backend: str = "auto"
) -> Tensor:
    """Adds sum_i weights[i] * s1(xi_i) to total, feature by feature: ``accumulate_`` before Phi.

    Where all copies spread their draws alike, ``expand`` of this sum is what ``accumulate_`` sums,
    for as many operations a copy as it has draws, not elements.

    Args:
        total: the sum so far, (K,) for the spec's ``draws``, float32 or float64, contiguous.
        weights: (count,), the score of each copy; floating, on total's device.
        spec: what noise the copies had: without blocks, and with grids that do not shift.
        first: the number of the first copy.
        backend: see ``backend_for``.

    Returns:
        total.

    Raises:
        TypeError, ValueError: naming the argument; copies that spread their draws differently.

    Example:
        >>> import torch
        >>> spec = NoiseSpec((3, 8, 8), "hadamard", cell=4, shared=True, shift=False)
        >>> total = accumulate_features_(torch.zeros(4), torch.ones(4), spec, 0)
        >>> total.count_nonzero()  # a whole group of 4 orthogonal directions: one is in its sum
        tensor(1)
    """
    return accumulate_(total, weights, spec.of_features, first, backend=backend)


def expand(
    values: Tensor, spec: NoiseSpec, *, squared: bool = False, backend: str = "auto"
) -> Tensor:
    """Phi: values of a grid's features at the elements of the input.

    Args:
        values: (K,) for the spec's ``draws``, float32 or float64.
        spec: whose grid; without blocks, and one that does not shift.
        squared: by the squares of Phi's weights, which is how variances of independent features
            add up.
        backend: see ``backend_for``.

    Returns:
        Of the spec's shape and the values' dtype. Where channels share their draws it is one map,
        seen from each of them: not to be written to.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> import torch
        >>> spec = NoiseSpec((2, 4), cell=2, shared=True, shift=False)
        >>> expand(torch.tensor([1.0, 5.0]), spec)
        tensor([[1., 1., 5., 5.],
                [1., 1., 5., 5.]])
    """
    features = spec.of_features  # checks
    if not isinstance(values, Tensor) or values.dtype not in DTYPES[:2]:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a float32 or float64 tensor, got {kind}")
    if tuple(values.shape) != features.shape:
        raise ValueError(
            f"values must have one for each of {spec.draws} draws, got {tuple(values.shape)}"
        )
    check_memory("values", values)
    backend = backend_for(values.device, backend)
    values = values.detach().contiguous()
    planes, (_, height, width) = spec.grid[0], spec.planes
    if not spec.cells_divide or not values.numel():
        out = values.reshape(planes, height, width)
    elif backend == "reference":
        out = reference.expand(spec, values, squared)
    else:
        out = torch.empty((planes, height, width), dtype=values.dtype, device=values.device)
        _ops.expand_(backend, out, values, list(spec.encoded), squared)
    return out[0].expand(spec.shape) if spec.shared else out.reshape(spec.shape)


def noise(
    spec: NoiseSpec,
    first: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    backend: str = "auto",
) -> Tensor:
    """What ``perturb`` adds to an input: scale * J_i * xi_i, for inspection.

    Args:
        spec: what noise.
        first: the number of the first copy.
        count: how many copies.
        dtype: of the result.
        device: of the result; that of the spec's scale map where None, else the CPU.
        backend: see ``backend_for``.

    Returns:
        (count, *shape).

    Example:
        >>> noise(NoiseSpec((2, 3), "hadamard", seed=1), first=0, count=8).shape
        torch.Size([8, 2, 3])
    """
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype}")
    _check_spec(spec)
    if isinstance(spec.scale, AdaptiveScale):
        raise ValueError("scale must not depend on an input here: use perturb(x, spec, ...) - x")
    if device is None and isinstance(spec.scale, Tensor):
        device = spec.scale.device
    where = _device(device)
    backend_for(where, backend)  # says what is missing before there is memory
    first, count = _check_copies(first, count)
    each = max(spec.numel, 1) * dtype.itemsize
    check_bytes(count, each, f"copies of {each} bytes")
    zero = torch.zeros(spec.shape, dtype=dtype, device=where)
    return perturb(zero, spec, first, count, backend=backend)


def path_positions(seed: int, first: int, count: int) -> Tensor:
    """Where copies lie on a path from 0 to 1: uniform, from a stream of their own.

    Args:
        seed: 0 .. 2^64 - 1.
        first: the number of the first copy.
        count: how many copies.

    Returns:
        float64 (count,) on the CPU, in (0, 1).

    Example:
        >>> path_positions(7, 0, 1000).mean().round(decimals=1)
        tensor(0.5000, dtype=torch.float64)
    """
    first, count = _check_copies(first, count)
    check_bytes(count, 8, "positions of 8 bytes")
    return reference.positions(check_integer("seed", seed, 0, 2**64 - 1), first, count)


def blocks(
    spec: NoiseSpec,
    first: int,
    count: int,
    *,
    device: torch.device | str | None = None,
    backend: str = "auto",
) -> Tensor:
    """Where each copy's block starts and stops over the trailing axes, for inspection.

    Args:
        spec: what noise.
        first: the number of the first copy.
        count: how many copies.
        device: of the result.
        backend: see ``backend_for``.

    Returns:
        int64 (count, axes, 2) for the trailing ``axes`` = min(2, len(shape)) axes: [start, stop),
        cut at the border.

    Example:
        >>> blocks(NoiseSpec((3, 8, 8), block=(8, 2), seed=1), first=0, count=1).tolist()
        [[[0, 8], [0, 2]]]
    """
    _check_spec(spec)
    first, count = _check_copies(first, count)
    check_bytes(count, 32, "blocks of 32 bytes")
    where = _device(device)
    backend = backend_for(where, backend)
    if backend == "reference":
        bounds = reference.blocks(spec, first, count, where)
    else:
        bounds = torch.empty((count, 2, 2), dtype=torch.int64, device=where)
        _ops.blocks_(backend, bounds, list(spec.encoded), first)
    axes = min(2, len(spec.shape))
    return bounds.narrow(1, 2 - axes, axes)
