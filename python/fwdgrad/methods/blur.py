"""Blurs of series, pictures and volumes, as baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_LINES = 64  # of a picture that are blurred at once


def blur_deviation(sides: Sequence[int]) -> float:
    """The deviation in elements of a light blur: a 32nd of the shortest side, 2 at least."""
    return max(2.0, min(sides) / 32)


def smallest_cell(sides: Sequence[int]) -> int:
    """Larger than that deviation: what the blur mixes are the neighbours of a smaller one.

    >>> smallest_cell((224, 224))
    8
    """
    return int(blur_deviation(sides)) + 1


def blurred(x: Tensor, deviation: float, axes: int = 2) -> Tensor:
    """An input under a Gaussian of that standard deviation, in elements.

    Args:
        x: a series (..., T), an image (..., H, W), or a volume (..., D, H, W).
        deviation: along each axis.
        axes: which of these it is: 1, 2 or 3.

    Raises:
        ValueError: it is no image.
    """
    if x.dim() < 3 and axes > 1:
        raise ValueError(
            f"baseline 'blur' is for images (..., H, W), got shape {tuple(x.shape)}; give a "
            "number or a tensor"
        )
    reach = min(math.ceil(3 * deviation), min(x.shape[-axes:]) - 1)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x.device)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel /= kernel.sum()

    def along_rows(lines: Tensor) -> Tensor:
        padded = functional.pad(lines.to(torch.float64), (reach, reach), mode="reflect")
        # By Fourier: torch's convolution takes a minute for a picture of 2,048 x 2,048.
        size = padded.shape[-1]
        product = torch.fft.rfft(padded) * torch.fft.rfft(kernel, size)
        blurred_lines: Tensor = torch.fft.irfft(product, size)
        return blurred_lines[..., 2 * reach :]

    # A few lines at a time: in memory there are beside the result one plane, and little more.
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    if axes == 1:
        for line, out in zip(x.reshape(-1, x.shape[-1]), result.view(-1, x.shape[-1]), strict=True):
            out.copy_(along_rows(line[None])[0])
        return result
    height, width = x.shape[-2:]
    rows = torch.empty((height, width), dtype=torch.float64, device=x.device)
    for plane, out in zip(
        x.reshape(-1, height, width), result.view(-1, height, width), strict=True
    ):
        for top in range(0, height, _LINES):
            rows[top : top + _LINES] = along_rows(plane[top : top + _LINES])
        for left in range(0, width, _LINES):
            out[:, left : left + _LINES] = along_rows(rows[:, left : left + _LINES].mT).mT
    if axes == 3:
        for volume in result.view(-1, x.shape[-3], height * width):
            for left in range(0, height * width, _LINES):
                some = volume[:, left : left + _LINES]
                some.copy_(along_rows(some.mT).mT)
    return result


def light_blur(x: Tensor, axes: int | None = None) -> Tensor:
    """An input under a Gaussian of a 32nd of its shortest side, 2 elements at least.

    What it changes by less than half a step of eight bits, as far around as the deviation, stays
    as it is: a uniform background, and no single pixels that a slope happens to leave alone.

    Args:
        x: a series (C, T) or (T,), a picture (C, H, W) or a volume (C, D, H, W).
        axes: which of these it is: 1, 2 or 3; None: all its axes but the first.

    Example:
        >>> import torch
        >>> light_blur(torch.ones(3, 32, 32)).unique()
        tensor([1.])
    """
    axes = x.dim() - 1 if axes is None else axes
    sides = x.shape[-axes:]
    deviation = blur_deviation(sides)
    blur = blurred(x, deviation, axes)
    planes, others = (one.reshape(-1, *sides) for one in (x, blur))
    change = torch.zeros(sides, dtype=torch.float32, device=x.device)
    for plane, other in zip(planes, others, strict=True):  # one at a time: they may be large
        torch.maximum(change, (plane - other).abs_().float(), out=change)
    for axis in range(axes):
        change = _most_around(change, int(deviation), axis)
    still = change < 1 / 510
    for plane, other in zip(planes, others, strict=True):
        torch.where(still, plane, other, out=other)
    return blur


def _most_around(values: Tensor, reach: int, axis: int) -> Tensor:
    """The largest value within so many places, by windows that double.

    >>> _most_around(torch.tensor([3, 0, 0, 5, 0, 0]), 2, 0)
    tensor([3, 5, 5, 5, 5, 5])
    """
    length, window, size = values.shape[axis], 2 * reach + 1, 1
    edge = [values.narrow(axis, place, 1) for place in (0, length - 1)]
    sides = [e.repeat_interleave(reach, axis) for e in edge]
    most = torch.cat([sides[0], values, sides[1]], axis)
    while 2 * size <= window:
        count = most.shape[axis] - size
        most = torch.maximum(most.narrow(axis, 0, count), most.narrow(axis, size, count))
        size *= 2
    return torch.maximum(most.narrow(axis, 0, length), most.narrow(axis, window - size, length))
