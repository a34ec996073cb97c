"""Samples: an input with its noise, and what is drawn for them."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fwdgrad_kernels import reference
from fwdgrad_kernels.arguments import (
    check_clip,
    check_destination,
    check_device,
    check_samples,
    check_spec,
    wide_of,
)
from fwdgrad_kernels.backends import OPS, backend_for, op_of
from fwdgrad_kernels.checks import (
    DTYPES,
    check_alike,
    check_bytes,
    check_floating,
    check_integer,
    check_memory,
    constant,
    is_plain,
    overlap,
    unwrapped,
)
from fwdgrad_kernels.layout import empty_samples, interleaved, to_channels_last
from fwdgrad_kernels.scale import AdaptiveScale
from fwdgrad_kernels.spec import NoiseSpec, first_outside


def _of_planes(scale: AdaptiveScale, planes: int, channels: int) -> list[list[float]]:
    """The bounds of every plane; a channel may have several."""
    rows = scale.bounds(channels)
    return [[value for value in row for _ in range(planes // max(channels, 1))] for row in rows]


@functools.lru_cache(maxsize=64)  # a copy to a GPU would wait for it, and could not be captured
def _kept_bounds(
    scale: AdaptiveScale, planes: int, channels: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    bounds = torch.tensor(_of_planes(scale, planes, channels), dtype=dtype, device=device)
    return unwrapped(bounds)  # kept for calls outside of torch.func, too


def _bounds(scale: AdaptiveScale, spec: NoiseSpec, x: Tensor) -> Tensor:
    planes, channels = spec.planes[0], math.prod(spec.shape[:-2])
    if torch.compiler.is_compiling() or is_plain(x):
        return _kept_bounds(scale, planes, channels, wide_of(x), x.device)
    bounds = x.new_empty((2, planes), dtype=wide_of(x))  # of x's type, and not kept: fake, say
    for row, values in zip(bounds, _of_planes(scale, planes, channels), strict=True):
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
    """Noisy samples first .. first + count - 1 of an input: x + sign * scale * J_i * xi_i.

    Where a sample's block does not cover an element, it is x there, whatever the scale. With a
    baseline b samples lie between b and x: b + (x - b) (position + sign * scale * J_i * xi_i).
    Neither the way x - b nor a point on it is ever stored.

    Args:
        x: the input, of the spec's shape; float32, float64, float16 or bfloat16. It is taken as a
            constant: no gradient flows through the result.
        spec: what noise the samples get.
        first: the number of the first sample, counted over the whole run.
        count: how many samples.
        sign: 1, or -1 for the antithetic samples.
        clip: clamp the samples' values to (low, high).
        out: where to write, of the result's shape and x's dtype and device; contiguous, or in
            channels_last format. Draws follow the logical index in either.
        pairs: each sample with both signs of its noise, which is drawn once.
        held: the number of the first sample that ``out`` still holds from such a call, with all
            other arguments the same. Then only their blocks are restored and the new ones
            written: with blocks that cover little, most of the memory is left alone.
        relative: the scale is in units of each element: x (1 + scale * J_i * xi_i), as NoiseGrad
            has it for parameters. The scale must then be a number.
        baseline: a number, a tensor of one value for each channel (C, 1, 1), or one of x's shape,
            dtype and device; finite. The scale must then be a number, without a unit.
        position: where samples are centred on the way from the baseline, 0, to x, 1.
        backend: see ``backend_for``.

    Returns:
        The samples, (count, *shape); with pairs (2 count, *shape), first all with ``sign``, then
        all with the other. ``out`` where it was given; else in x's memory format. Besides it at
        most 2.3 MiB of placements are held, with cells 8 bytes for each row or column (by the CUDA
        kernels 32 MiB of draws, or one sample's), and a copy of x or of the spec's scale where that
        is of another layout, not of the type that samples are computed in, or follows from x.

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
    run = Perturber(
        x,
        spec,
        clip=clip,
        pairs=pairs,
        relative=relative,
        baseline=baseline,
        position=position,
        backend=backend,
    )
    first, count = check_samples(first, count)
    each = max(x.numel(), 1) * x.element_size() * (2 if pairs else 1)
    check_bytes(count, each, f"samples of {each} bytes")
    _check_sign(sign)
    if out is None:
        if held is not None:
            raise ValueError("held says what out holds, so it needs out")
        check_alike(x=x, scale=run.scale_map, baseline=run.baseline)
        out = unwrapped(empty_samples(run.x, 2 * count if pairs else count, spec))
    elif not isinstance(out, Tensor) or out.dim() == 0 or len(out) != (2 if pairs else 1) * count:
        check_destination("out", out, ((2 if pairs else 1) * count, *spec.shape), x)
    return run(out, first, sign=sign, held=held)


class Perturber:
    """``perturb`` of one input with one spec, checked once: for many calls.

    Args:
        x: the input. It is kept, not copied: leave it be.
        spec, clip, pairs, relative, baseline, position, backend: see ``perturb``.

    Raises:
        TypeError, ValueError, NotImplementedError: as ``perturb``.

    Example:
        >>> import torch
        >>> run = Perturber(torch.ones(3), NoiseSpec((3,), "rademacher", 0.5, seed=1))
        >>> out = torch.empty(2, 3)
        >>> (run(out, first=4) - 1).abs().unique()
        tensor([0.5000])
    """

    def __init__(
        self,
        x: Tensor,
        spec: NoiseSpec,
        *,
        clip: tuple[float, float] | None = None,
        pairs: bool = False,
        relative: bool = False,
        baseline: float | Tensor | None = None,
        position: float = 1.0,
        backend: str = "auto",
    ) -> None:
        """Checks all that does not turn on a call."""
        check_floating("x", x)
        check_spec(spec)
        if tuple(x.shape) != spec.shape:
            raise ValueError(f"x must have the spec's shape {spec.shape}, got {tuple(x.shape)}")
        for name, value in (("pairs", pairs), ("relative", relative)):
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")
        if relative and not isinstance(spec.scale, float):
            raise ValueError("scale must be a number where relative=True")
        self.low, self.high = check_clip(clip)
        self.backend = backend_for(x.device, backend)
        self.baseline, self.by_plane = _check_baseline(baseline, position, x, spec, relative)
        self.scale_map = spec.scale if isinstance(spec.scale, Tensor) else None
        if self.scale_map is not None:
            check_memory("scale", self.scale_map)
            if self.scale_map.device != x.device:
                raise ValueError(
                    f"scale must be on x's device {x.device}, got {self.scale_map.device}; "
                    "make the spec with scale.to(x.device)"
                )
        labels = spec.labels_on(x.device)
        self.labels = spec.order_on(x.device) if labels is None else labels
        self.bounds, self.rule = None, [0.0] * 6
        if isinstance(spec.scale, AdaptiveScale):
            self.bounds = _bounds(spec.scale, spec, x)
            self.rule = spec.scale.rule(spec.distribution)
        self.x, self.spec, self.encoded = constant(x), spec, list(spec.encoded)
        self.pairs, self.relative, self.position = pairs, relative, float(position)
        self.scale = spec.scale if isinstance(spec.scale, float) else 1.0
        self._read = [t for t in (self.x, self.baseline, self.scale_map) if t is not None]
        self._plain, self._direct = all(map(is_plain, self._read)), False
        self._blocked = spec.extents != spec.planes[1:]
        self._checked: object = None
        self._laid: tuple[Tensor, Tensor | None, Tensor | None] | None = None

    def __call__(
        self, out: Tensor, first: int, *, sign: int = 1, held: int | None = None
    ) -> Tensor:
        """Fills out with samples first onwards; with pairs, those with the other sign after them.

        Args:
            out: (count, *shape), with pairs (2 count, *shape), of x's dtype and device; contiguous,
                or in channels_last format.
            first, sign, held: see ``perturb``.

        Returns:
            out.

        Raises:
            TypeError, ValueError: naming the argument; nothing was written then.
        """
        # The checks take longer than a small fill: once for the same memory.
        memory: object = None
        if self._plain and is_plain(out):
            sizes = [tensor.untyped_storage().nbytes() for tensor in (out, *self._read)]
            kind = out.dtype, out.requires_grad, out.is_neg()
            memory = out.data_ptr(), out.shape, out.stride(), sizes, kind
        if memory is None or memory != self._checked:
            self._check(out)
            self._checked = memory
        count = out.shape[0] // (2 if self.pairs else 1)
        first, _ = check_samples(first, count)
        _check_sign(sign)
        if held is not None:
            held = check_integer("held", held, 0, 2**63 - 1 - count)
            held = held if self._blocked else None  # without blocks nothing stays
        if not out.numel():
            return out
        if self.backend == "reference":
            base = self.baseline
            if base is not None and self.by_plane:
                base = base.expand(self.spec.planes).reshape(self.spec.shape)
            for i in range(2 if self.pairs else 1):
                out[i * count : (i + 1) * count] = reference.perturb(
                    self.x, self.spec, first, count, sign * (-1) ** i, self.low, self.high,
                    self.relative, base, self.position,
                )  # fmt: skip
            return out
        assert self._laid is not None
        x, base, scale_map = self._laid
        op_of("perturb_", self.backend, self._direct and memory is not None)(
            out, x, scale_map, self.bounds, self.rule, base, self.by_plane, self.position,
            sign * self.scale, self.encoded, self.labels, first, held, self.pairs, self.low,
            self.high,
        )  # fmt: skip
        return out

    def _check(self, out: Tensor) -> None:
        x, spec, base = self.x, self.spec, self.baseline
        for name, tensor in (("x", x), ("scale", self.scale_map), ("baseline", base)):
            if tensor is not None:
                check_memory(name, tensor)
        check_alike(x=x, out=out, scale=self.scale_map, baseline=base)
        shape = (len(out) if isinstance(out, Tensor) and out.dim() else 0, *spec.shape)
        check_destination("out", out, shape, x, channels_last=spec.interleaves)
        if self.pairs and len(out) % 2:
            raise ValueError(f"out must have both samples of each pair, got {len(out)} samples")
        if overlap(out, x):
            raise ValueError("out must not share memory with x")
        if base is not None and overlap(out, base):
            raise ValueError("out must not share memory with the baseline")
        if self.scale_map is not None and overlap(out, self.scale_map):
            raise ValueError("out must not share memory with the spec's scale")
        by_pixels = spec.interleaves and interleaved(out) > 1
        lay: Callable[[Tensor], Tensor] = to_channels_last if by_pixels else Tensor.contiguous
        # The kernels read what is in memory.
        x = lay(x.resolve_neg())
        scale_map = self.scale_map
        scale_map = None if scale_map is None else lay(scale_map.to(wide_of(x)).resolve_neg())
        if self.relative:
            scale_map = x.to(wide_of(x))
        base = None if base is None else base.resolve_neg()
        base = base if base is None or self.by_plane else lay(base)
        self._laid = x, base, scale_map
        self._direct = all(is_plain(tensor) for tensor in self._laid if tensor is not None)


def _check_sign(sign: object) -> None:
    whole = isinstance(sign, (int, float, np.number)) and not isinstance(sign, bool)
    if not whole or sign not in (1, -1):
        raise ValueError(f"sign must be 1 or -1, got {sign!r}")


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
        if not abs(baseline) <= sys.float_info.max:
            raise ValueError(f"baseline must be finite, got {baseline!s:.80}")
        planes = spec.planes[0]
        if is_plain(x):
            return _levels(float(baseline), planes, wide_of(x), x.device), True
        # Of x's type, fake for one, and not kept.
        return x.new_full((planes, 1, 1), float(baseline), dtype=wide_of(x)), True
    if not baseline.is_floating_point():
        raise TypeError(f"baseline must be a floating tensor, got {baseline.dtype}")
    check_memory("baseline", baseline)
    if baseline.device != x.device:
        raise ValueError(f"baseline must be on x's device {x.device}, got {baseline.device}")
    if baseline.shape == x.shape:
        if baseline.dtype != x.dtype:
            raise TypeError(f"baseline must have x's dtype {x.dtype}, got {baseline.dtype}")
        _check_finite(baseline)
        return constant(baseline), False
    channels = (*x.shape[:-2], 1, 1)
    planes, height, _ = spec.planes
    line = height == 1 and planes * x.shape[-1] == x.numel()  # a plane is one row
    one = baseline.shape[-1:] == (1,) and (line or baseline.shape[-2:] == (1, 1))
    fits = all(b in (1, n) for b, n in zip(baseline.shape, x.shape, strict=False))
    if x.dim() > 1 and baseline.dim() == x.dim() and one and fits:
        _check_finite(baseline)
        along = (1,) if line else (1, 1)
        levels = constant(baseline).to(wide_of(x)).expand(*x.shape[: -len(along)], *along)
        return unwrapped(levels.reshape(-1, 1, 1).contiguous()), True
    also = f", a value for each channel {channels}" if x.dim() > 2 else ""
    raise ValueError(
        f"baseline must be a number{also} or have x's shape {tuple(x.shape)}, got "
        f"{tuple(baseline.shape)}"
    )


def _check_finite(baseline: Tensor) -> None:
    """By its ends, for which nothing of its size is made."""
    if not is_plain(baseline) or not baseline.numel():
        return
    low, high = baseline.detach().aminmax()  # NaN where one is
    if not math.isfinite(low) or not math.isfinite(high):
        at, value = first_outside(baseline, baseline.isfinite()) or (0, math.nan)
        raise ValueError(f"baseline must be finite, got {value} at element {at}")


@functools.lru_cache(maxsize=64)
def _levels(value: float, planes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return unwrapped(torch.full((planes, 1, 1), value, dtype=dtype, device=device))


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
        first: the number of the first sample.
        count: how many samples.
        dtype: of the result.
        device: of the result; that of the spec's scale map where None, else the CPU.
        backend: see ``backend_for``.

    Returns:
        (count, *shape).

    Example:
        >>> noise(NoiseSpec((2, 3), "rademacher", design="hadamard"), first=0, count=8).shape
        torch.Size([8, 2, 3])
    """
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be float32, float64, float16 or bfloat16, got {dtype}")
    check_spec(spec)
    if isinstance(spec.scale, AdaptiveScale):
        raise ValueError("scale must not depend on an input here: use perturb(x, spec, ...) - x")
    if device is None and isinstance(spec.scale, Tensor):
        device = spec.scale.device
    where = check_device(device)
    backend_for(where, backend)  # says what is missing before there is memory
    first, count = check_samples(first, count)
    each = max(spec.numel, 1) * dtype.itemsize
    check_bytes(count, each, f"samples of {each} bytes")
    zero = unwrapped(torch.zeros(spec.shape, dtype=dtype, device=where))
    return perturb(zero, spec, first, count, backend=backend)


def path_positions(seed: int, first: int, count: int) -> Tensor:
    """Where samples lie on a path from 0 to 1: uniform, from a stream of their own.

    Args:
        seed: 0 .. 2^64 - 1.
        first: the number of the first sample.
        count: how many samples.

    Returns:
        float64 (count,) on the CPU, in (0, 1).

    Example:
        >>> path_positions(7, 0, 1000).mean().round(decimals=1)
        tensor(0.5000, dtype=torch.float64)
    """
    first, count = check_samples(first, count)
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
    """Where each sample's block starts and stops over the trailing axes, for inspection.

    Args:
        spec: what noise.
        first: the number of the first sample.
        count: how many samples.
        device: of the result.
        backend: see ``backend_for``.

    Returns:
        int64 (count, axes, 2) for the trailing ``axes`` = min(2, len(shape)) axes: [start, stop),
        cut at the border.

    Example:
        >>> blocks(NoiseSpec((3, 8, 8), block=(8, 2), seed=1), first=0, count=1).tolist()
        [[[0, 8], [0, 2]]]
    """
    check_spec(spec)
    first, count = check_samples(first, count)
    check_bytes(count, 32, "blocks of 32 bytes")
    where = check_device(device)
    backend = backend_for(where, backend)
    if backend == "reference":
        bounds = reference.blocks(spec, first, count, where)
    else:
        bounds = torch.empty((count, 2, 2), dtype=torch.int64, device=where)
        OPS.blocks_(backend, bounds, list(spec.encoded), first)
    axes = min(2, len(spec.shape))
    return bounds.narrow(1, 2 - axes, axes)
