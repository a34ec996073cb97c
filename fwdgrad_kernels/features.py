"""What moves together under one draw: each element by itself, the cells of a grid, or labels.

Draws live in feature space, K numbers a sample; a map Phi carries them to the input's elements.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fwdgrad_kernels.checks import check_integer, check_memory

INTERPOLATIONS = ("linear", "nearest")


class View(NamedTuple):
    """An input as the kernels see it: (leading, depth, height, width), and what moves together."""

    leading: int
    depth: int
    height: int
    width: int
    cells: tuple[int, ...] = (1, 1, 1)  # along depth, height, width
    linear: bool = False
    shared: bool = False  # one draw for all leading axes
    jitters: bool = False
    labels: int = 0  # how many; element e has the label mask[e // inner % period]
    inner: int = 1
    period: int = 1

    @property
    def sides(self) -> tuple[int, int, int]:
        """Depth, height and width."""
        return self.depth, self.height, self.width


@dataclasses.dataclass(frozen=True)
class Elements:
    """Every element has a draw of its own: Phi is the identity.

    Example:
        >>> from fwdgrad_kernels import NoiseSpec
        >>> NoiseSpec((3, 8, 8), features=Elements()).draws
        192
    """

    def view(self, shape: tuple[int, ...]) -> View:
        """The input as the kernels see it."""
        return View(math.prod(shape[:-2]), 1, shape[-2] if len(shape) > 1 else 1, shape[-1])


@dataclasses.dataclass(frozen=True)
class Grid:
    """Draws live on a grid of cells over the trailing one, two or three axes.

    Args:
        cell: the size of a cell on each of these axes, in elements: (16, 16) for pictures
            (C, H, W) or (H, W), (50,) for series (C, T), (8, 8, 8) for volumes (C, D, H, W). One
            integer is the size on every axis but the first, of the channels; a vector's only one.
        interpolation: "linear" between the centres of cells, or "nearest": a cell has one value.
        jitter: every sample (with a Hadamard design every group) shifts its grid at random, so that
            no border of cells shows in a sum over many. Else the grid starts with the input, needs
            fewer draws, and a feature is the same place in all samples.
        share_channels: all axes before those of the grid take the same draws.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from fwdgrad_kernels import NoiseSpec
        >>> NoiseSpec((3, 8, 8), features=Grid(4, "nearest")).draws
        4
        >>> NoiseSpec((3, 8, 8), features=Grid(4, "nearest", share_channels=False)).draws
        12
    """

    cell: int | tuple[int, ...]
    interpolation: str = "linear"
    jitter: bool = False
    share_channels: bool = True

    def __post_init__(self) -> None:
        """Checks what can be checked without an input."""
        cell = self.cell
        if isinstance(cell, (int, np.integer)):
            object.__setattr__(self, "cell", check_integer("cell", cell, 1))
        elif not isinstance(cell, (tuple, list)) or not 1 <= len(cell) <= 3:
            raise TypeError(f"cell must be an integer or a tuple of one to three, got {cell!r}")
        else:
            object.__setattr__(self, "cell", tuple(check_integer("cell", c, 1) for c in cell))
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got "
                f"{self.interpolation!r}"
            )
        for name in ("jitter", "share_channels"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A cell's size on each of the grid's axes, which are the input's last."""
        sizes = self.cell
        if isinstance(sizes, int):
            axes = max(len(shape) - 1, 1)
            if axes > 3:
                raise ValueError(
                    f"cell must be a tuple for the trailing one to three axes of an input of shape "
                    f"{shape}, got {sizes}"
                )
            sizes = (sizes,) * axes
        if len(sizes) > len(shape):
            raise ValueError(
                f"cell must have at most as many sizes as the input's shape {shape} has axes, got "
                f"{sizes}"
            )
        for size, length in zip(sizes, shape[-len(sizes) :], strict=True):
            if size > min(max(length, 1), 2**31):
                raise ValueError(
                    f"cell must fit into the trailing axes {shape[-len(sizes) :]} of the input, "
                    f"got {self.cell}"
                )
        return sizes

    def view(self, shape: tuple[int, ...]) -> View:
        """The input as the kernels see it."""
        sizes = self.sizes(shape)
        leading = math.prod(shape[: -len(sizes)])
        ones = (1, 1, 1)[len(sizes) :]
        depth, height, width = ones + shape[-len(sizes) :]
        cells = ones + sizes
        shared = self.share_channels and leading > 1
        if cells[0] == 1 and not shared:  # as many planes, each by itself
            leading, depth = leading * depth, 1
        if len(sizes) == 1 and not shared and len(shape) > 1:
            leading, height = math.prod(shape[:-2]), shape[-2]
        divides = max(cells) > 1
        linear = divides and self.interpolation == "linear"
        jitters = divides and self.jitter
        return View(leading, depth, height, width, cells, linear, shared, jitters)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Labels:
    """Elements of one label move together: superpixels, words, groups of columns, supervoxels.

    Args:
        mask: the label of each element, integers from 0 with none left out; of a shape that
            broadcasts to the input's, and on its device. It is kept as a copy.

    Raises:
        TypeError, ValueError: no integers, a negative one, or one that is missing.

    Example:
        >>> import torch
        >>> from fwdgrad_kernels import NoiseSpec, noise
        >>> halves = Labels(torch.tensor([0, 0, 1, 1]))
        >>> spec = NoiseSpec((3, 4), "rademacher", features=halves, seed=2)
        >>> spec.draws, noise(spec, first=0, count=1)[0, 0].unique_consecutive().numel()
        (2, 2)

    Source: the convention of Captum's ``feature_mask``.
    """

    mask: Tensor
    count: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Checks the labels."""
        mask: object = self.mask
        if isinstance(mask, np.ndarray):
            mask = torch.from_numpy(mask)
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a tensor of integers, got {type(mask).__name__}")
        check_memory("mask", mask)
        if mask.is_meta or isinstance(mask, FakeTensor):
            raise ValueError("mask must have values, got a meta or fake tensor")
        if mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool:
            raise TypeError(f"mask must hold integers, got {mask.dtype}; mask.long() makes them")
        if not mask.numel():
            raise ValueError(f"mask must have a label for every element, got {tuple(mask.shape)}")
        found = mask.long().unique()
        if int(found[0]) < 0:
            raise ValueError(f"mask must have labels from 0 on, got {int(found[0])}")
        if int(found[-1]) >= len(found):
            missing = int((found != torch.arange(len(found), device=found.device)).nonzero()[0])
            raise ValueError(
                f"mask must have every label from 0 to {int(found[-1])}, got none that is "
                f"{missing}; torch.unique(torch.as_tensor(mask), return_inverse=True)[1] numbers "
                "them anew"
            )
        object.__setattr__(self, "mask", mask.detach().to(torch.int32, copy=True).contiguous())
        object.__setattr__(self, "count", len(found))

    def without_draw_0(self) -> Labels:
        """The same labels with the draws 1 .. K: draw 0 is no element's.

        In a Hadamard design draw 0 has one sign in all samples of a group, so without antithetic
        pairs what it adds to a score is not told from the score's mean.

        Example:
            >>> from fwdgrad_kernels import NoiseSpec
            >>> labels = Labels(torch.tensor([0, 1, 1])).without_draw_0()
            >>> NoiseSpec((3,), "rademacher", features=labels, design="hadamard").draws
            3
        """
        other = copy.copy(self)
        object.__setattr__(other, "mask", self.mask + 1)
        object.__setattr__(other, "count", self.count + 1)
        return other

    def __repr__(self) -> str:
        """In one line, whatever the size of the mask."""
        return f"Labels(<{self.count} in a mask of shape {tuple(self.mask.shape)}>)"

    def __eq__(self, other: object) -> bool:
        """Equal where the labels are."""
        if not isinstance(other, Labels):
            return NotImplemented
        return torch.equal(self.mask, other.mask.to(self.mask.device))

    def __hash__(self) -> int:
        """Of how many there are."""
        return hash((Labels, self.count, self.mask.shape))

    def _parts(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Of the input's axes, those from .. to are the mask's; it is alike along all others."""
        mask = (1,) * (len(shape) - self.mask.dim()) + tuple(self.mask.shape)
        fits = len(mask) == len(shape) and all(
            m in (1, n) for m, n in zip(mask, shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"mask must broadcast to the input's shape {shape}, got {tuple(self.mask.shape)}"
            )
        own = [axis for axis, length in enumerate(mask) if length > 1]
        return (own[0], own[-1] + 1) if own else (len(shape), len(shape))

    def view(self, shape: tuple[int, ...]) -> View:
        """The input as the kernels see it."""
        start, stop = self._parts(shape)
        inner, period = math.prod(shape[stop:]), math.prod(shape[start:stop])
        return Elements().view(shape)._replace(labels=self.count, inner=inner, period=period)

    def table(self, shape: tuple[int, ...]) -> Tensor:
        """The labels of one period, (period,): those along the axes that the mask has."""
        start, stop = self._parts(shape)
        mask = self.mask.reshape((1,) * (len(shape) - self.mask.dim()) + self.mask.shape)
        wanted = (1,) * start + shape[start:stop] + (1,) * (len(shape) - stop)
        return mask.expand(wanted).reshape(-1)


Features = Elements | Grid | Labels
"""What moves together under one draw."""
