"""What launches need to know of a spec and of where its elements lie."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from fwdgrad_kernels.features import View, grid_of
from fwdgrad_kernels.spec import NoiseSpec


class Geometry(NamedTuple):
    """``NoiseSpec.encoded``, field for field."""

    leading: int
    depth: int
    height: int
    width: int
    distribution: int
    design: int
    block_height: int
    block_width: int
    cell_depth: int
    cell_height: int
    cell_width: int
    linear: int
    shared: int
    jitters: int
    labels: int
    inner: int
    period: int
    seed: int
    stream: int

    @property
    def planes(self) -> int:
        """How many pictures of (height, width) the input has."""
        return self.leading * self.depth

    @property
    def numel(self) -> int:
        """How many elements the input has."""
        return self.planes * self.height * self.width

    @property
    def key(self) -> tuple[int, int]:
        """The seed's low and high words."""
        return self.seed & 0xFFFFFFFF, self.seed >> 32 & 0xFFFFFFFF

    @property
    def blocked(self) -> bool:
        """Whether a sample's block can leave elements out."""
        return (self.block_height, self.block_width) != (self.height, self.width)

    @property
    def elementwise(self) -> bool:
        """Whether draw k belongs to element k."""
        cells = self.cell_depth, self.cell_height, self.cell_width
        return max(cells) == 1 and not self.labels and not (self.shared and self.leading > 1)

    @property
    def labelled(self) -> bool:
        """Whether elements have labels; else these are the order of a grid's draws."""
        return self.labels > 0 and self.period >= 0

    @property
    def _lines(self) -> tuple[int, int, int, int]:
        cells = self.cell_depth, self.cell_height, self.cell_width
        flags = bool(self.linear), bool(self.shared), bool(self.jitters)
        return grid_of(View(*self[:4], cells, *flags, self.labels, self.inner, self.period))

    @property
    def grid(self) -> tuple[int, int, int]:
        """Layers, rows and columns of the grid of cells."""
        return self._lines[1:]

    @property
    def draws(self) -> int:
        """K, how many independent draws a sample has."""
        return self.labels or self.lines

    @property
    def lines(self) -> int:
        """How many lines of a grid, labels or elements take them."""
        return math.prod(self._lines)

    @property
    def shift_ranges(self) -> tuple[int, int, int]:
        """How many places a sample's grid can have along depth, down and across."""
        cells = self.cell_depth, self.cell_height, self.cell_width
        return cells if self.jitters else (1, 1, 1)

    @property
    def mask(self) -> int:
        """Hadamard's M - 1."""
        return (1 << max(self.draws - 1, 0).bit_length()) - 1 if self.design else 0


def is_channels_last(x: Tensor) -> bool:
    """Whether the last three axes, (C, H, W), lie in memory as (H, W, C).

    Args:
        x: a tensor with any number of axes.

    Returns:
        False where the tensor is contiguous as it is, or has fewer than three axes.

    Example:
        >>> import torch
        >>> batch = torch.zeros(2, 3, 8, 8)
        >>> is_channels_last(batch), is_channels_last(batch.to(memory_format=torch.channels_last))
        (False, True)
    """
    if x.dim() < 3 or x.is_contiguous():
        return False
    return x.movedim(-3, -1).is_contiguous()


def empty_samples(x: Tensor, count: int, spec: NoiseSpec | None = None) -> Tensor:
    """Memory for samples of an input, without values.

    Args:
        x: the input.
        count: how many samples.
        spec: what noise they get; None for any that goes with each memory format.

    Returns:
        (count, *x.shape), of x's dtype and device; in x's memory format where samples of the spec
        can be made in it, else contiguous.

    Example:
        >>> import torch
        >>> empty_samples(torch.zeros(3, 8, 8), 4).shape
        torch.Size([4, 3, 8, 8])
    """
    if x.dim() == 3 and is_channels_last(x) and (spec is None or spec.interleaves):
        planes, height, width = x.shape
        return x.new_empty((count, height, width, planes)).permute(0, 3, 1, 2)
    return x.new_empty((count, *x.shape))


def interleaved(out: Tensor) -> int:
    """How many planes lie side by side in the samples ``out``: 1, or C where channels are last."""
    return out.shape[1] if out.dim() == 4 and is_channels_last(out) else 1


def to_channels_last(x: Tensor) -> Tensor:
    """(C, H, W), laid out as (H, W, C)."""
    return x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
