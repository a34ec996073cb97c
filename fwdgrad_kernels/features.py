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
    period: int = 1  # -1 where a grid has an order: then labels is how many draws there are

    @property
    def sides(self) -> tuple[int, int, int]:
        """Depth, height and width."""
        return self.depth, self.height, self.width


def grid_lines(length: int, cell: int, linear: bool, jitters: bool) -> int:
    """How many lines of draws an axis has: the twin of grid_length in draws.h."""
    if cell == 1 or length == 0:
        return length
    last = length - 1 + (cell - 1 if jitters else 0)
    return ((2 * last + 3 * cell) // (2 * cell) if linear else last // cell) + 1


def grid_of(view: View) -> tuple[int, int, int, int]:
    """What takes a sample's draws: planes, layers, rows and columns of the grid of cells."""
    if view.labels and view.period >= 0:
        return 1, 1, 1, view.labels
    layers, rows, columns = (
        grid_lines(length, cell, view.linear, view.jitters)
        for length, cell in zip(view.sides, view.cells, strict=True)
    )
    return (min(view.leading, 1) if view.shared else view.leading), layers, rows, columns


def _integers(name: str, given: object) -> Tensor:
    """Integers that were given as a tensor or an array."""
    if isinstance(given, np.ndarray):
        given = torch.from_numpy(given)
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a tensor of integers, got {type(given).__name__}")
    check_memory(name, given)
    if given.is_meta or isinstance(given, FakeTensor):
        raise ValueError(f"{name} must have values, got a meta or fake tensor")
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"{name} must hold integers, got {given.dtype}; {name}.long() makes them")
    return given


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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
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
        order: which draw each line of the grid takes, (K,) distinct integers from 0 on, on the
            input's device: that of line k in raster order is ``order[k]``. There are as many draws
            as the highest says; those of no line move nothing. It is kept as a copy. None is
            0 .. K - 1.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> from fwdgrad_kernels import NoiseSpec
        >>> NoiseSpec((3, 8, 8), features=Grid(4, "nearest")).draws
        4
        >>> NoiseSpec((3, 8, 8), features=Grid(4, "nearest", share_channels=False)).draws
        12
        >>> order = torch.tensor([3, 5, 6, 0])  # of a Hadamard design's 8 directions
        >>> ordered = NoiseSpec((3, 8, 8), features=Grid(4, "nearest", order=order))
        >>> ordered.grid, ordered.draws
        ((1, 1, 2, 2), 7)
    """

    cell: int | tuple[int, ...]
    interpolation: str = "linear"
    jitter: bool = False
    share_channels: bool = True
    order: Tensor | None = None

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
        if self.order is not None:
            self._keep_order(_integers("order", self.order))

    def _keep_order(self, order: Tensor) -> None:
        if self.jitter:
            raise ValueError("order must be None with jitter=True, got a tensor")
        if order.dim() != 1 or not len(order):
            raise ValueError(
                f"order must have one axis, a draw for each line, got {tuple(order.shape)}"
            )
        drawn = order.long().sort().values
        if int(drawn[0]) < 0 or int(drawn[-1]) >= 2**31 - 1:
            bad = int(drawn[0] if int(drawn[0]) < 0 else drawn[-1])
            raise ValueError(f"order must have draws from 0 to {2**31 - 2}, got {bad}")
        twice = drawn[1:][drawn[1:] == drawn[:-1]]
        if len(twice):
            raise ValueError(f"order must have distinct draws, got {int(twice[0])} twice")
        object.__setattr__(self, "order", order.detach().to(torch.int32, copy=True).contiguous())

    def __repr__(self) -> str:
        """In one line, whatever the length of the order."""
        names = ("cell", "interpolation", "jitter", "share_channels")
        shown = [f"{name}={getattr(self, name)!r}" for name in names]
        if self.order is not None:
            shown.append(f"order=<{len(self.order)} draws>")
        return f"Grid({', '.join(shown)})"

    def _plain(self) -> tuple[object, ...]:
        count = None if self.order is None else len(self.order)
        return self.cell, self.interpolation, self.jitter, self.share_channels, count

    def __eq__(self, other: object) -> bool:
        """Equal where all options are."""
        if not isinstance(other, Grid):
            return NotImplemented
        if self._plain() != other._plain():
            return False
        if self.order is None or other.order is None:
            return True
        return torch.equal(self.order, other.order.to(self.order.device))

    def __hash__(self) -> int:
        """Of all but the order, of which there is the length."""
        return hash((Grid, self._plain()))

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
        view = View(leading, depth, height, width, cells, linear, shared, jitters)
        if self.order is None:
            return view
        lines = math.prod(grid_of(view))
        if len(self.order) != lines:
            raise ValueError(
                f"order must have a draw for each of the grid's {lines} lines, got "
                f"{len(self.order)}"
            )
        return view._replace(labels=int(self.order.max()) + 1, period=-1)


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
    order: Tensor | None = dataclasses.field(init=False, default=None)
    """Which draw each label takes; None: the one of its number."""
    own: Labels | None = dataclasses.field(init=False, default=None)
    """The labels as they were, where they take other draws."""

    def __post_init__(self) -> None:
        """Checks the labels."""
        mask = _integers("mask", self.mask)
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

    def taking(self, order: Tensor) -> Labels:
        """The same labels, of which label k takes draw ``order[k]``, as the lines of a grid may.

        In a Hadamard design draw 0 has one sign in all samples of a group, so without antithetic
        pairs what it adds to a score is not told from the score's mean.

        Args:
            order: (K,) distinct integers from 0 on.

        Example:
            >>> from fwdgrad_kernels import NoiseSpec
            >>> labels = Labels(torch.tensor([0, 1, 1])).taking(torch.tensor([2, 1]))
            >>> NoiseSpec((3,), "rademacher", features=labels, design="hadamard").draws
            3
            >>> labels.mask.tolist(), labels.own.mask.tolist()
            ([2, 1, 1], [0, 1, 1])
        """
        other, order = copy.copy(self), order.to(self.mask.device, torch.int32)
        object.__setattr__(other, "mask", order[self.mask.long()])
        object.__setattr__(other, "count", int(order.max()) + 1)
        object.__setattr__(other, "order", order)
        object.__setattr__(other, "own", self)
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
