"""The features of an explained input as its parts: cells, superpixels, words, columns, elements."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fwdgrad.methods.blur import smallest_cell
from fwdgrad.methods.noise import labels_of
from fwdgrad.plan import Plan
from fwdgrad_kernels import Elements, Features, Grid, Labels, NoiseSpec, expand

_NEAR, _STEPS = 1e-10, 100  # of a sum, what is left of it at last, and the steps to that at most


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Features that are the same in all samples, each of which is in or out.

    Args:
        shape: of the input.
        features: ``Elements()``, labels, or a grid that does not jitter.

    Example:
        >>> parts = Parts((2, 4), Grid((2,), "nearest"))
        >>> parts.mask(torch.tensor([True, False]))[0]
        tensor([1., 1., 0., 0.], dtype=torch.float64)
        >>> parts.means(torch.tensor([[1.0, 2.0, 3.0, 5.0], [1.0, 2.0, 3.0, 5.0]]))
        tensor([1.5000, 4.0000], dtype=torch.float64)
    """

    shape: tuple[int, ...]
    features: Features
    spec: NoiseSpec = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """How the features lie on the input; which draws they take is no matter."""
        if isinstance(self.features, Grid):
            object.__setattr__(self, "features", dataclasses.replace(self.features, order=None))
        spec = NoiseSpec(self.shape, "rademacher", features=self.features)
        object.__setattr__(self, "spec", spec)

    @property
    def count(self) -> int:
        """K, how many there are."""
        return self.spec.draws

    def mask(self, is_in: Tensor) -> Tensor:
        """How much of each element is in, 0 to 1, of the input's shape: between smooth cells both.

        Args:
            is_in: bool (K,).
        """
        return expand(is_in.double(), self.spec)

    def means(self, values: Tensor) -> Tensor:
        """The mean of a map's values over each part: float64 (K,), on their device."""
        values = values.double()
        if isinstance(self.features, Labels):
            labels = self._labels(values.device)
            sums = values.new_zeros(self.count).index_add_(0, labels, values.flatten())
            return sums / torch.bincount(labels, minlength=self.count)
        if isinstance(self.features, Elements):
            return values.flatten()
        found, view = values.reshape(self.spec.view[:4]), self.spec.view
        if view.shared:
            found = found.mean(0, keepdim=True)
        for axis, weights in enumerate(self._weights(), 1):
            weights = (weights / weights.sum(0)).to(values.device)
            found = (found.movedim(axis, -1) @ weights).movedim(-1, axis)
        return found.flatten()

    def places(self) -> Tensor:
        """Of each part the element that is its own most of all: int64 (K,), in the flat input."""
        if isinstance(self.features, Labels):
            labels = self._labels(self.features.mask.device)
            first = torch.full((self.count,), len(labels), device=labels.device)
            at = torch.arange(len(labels), device=labels.device)
            return first.scatter_reduce_(0, labels, at, "amin")
        if isinstance(self.features, Elements):
            return torch.arange(self.count)
        found = torch.arange(self.spec.grid[0])
        for length, weights in zip(self.spec.view.sides, self._weights(), strict=True):
            found = found[..., None] * length + weights.argmax(0)
        return found.flatten()

    def boxes(self) -> Tensor:
        """Where each part lies: int64 (K, axes, 2), on each axis of the input from and to.

        Cells tile the input: where their smooth borders overlap, an element is of the cell that
        weighs most in it, each by its own largest weight, so that those at an edge, most of which
        lies outside, have a few elements. Of labels it is the smallest box around them.

        Example:
            >>> Parts((3, 4, 4), Grid(2, "nearest")).boxes()[1].tolist()
            [[0, 3], [0, 2], [2, 4]]
            >>> Parts((1, 12), Grid(4)).boxes()[:, 1].tolist()
            [[0, 1], [1, 4], [4, 8], [8, 11], [11, 12]]
        """
        if isinstance(self.features, Grid):
            view = self.spec.view
            low = torch.arange(self.spec.grid[0])
            high = low + (view.leading - 1 if view.shared else 0)
            for length, weights in zip(view.sides, self._weights(), strict=True):
                is_in = _own(weights).int()
                low = low[..., None] * length + is_in.argmax(0)
                high = high[..., None] * length + length - 1 - is_in.flip(0).argmax(0)
            low, high = (self._coordinates(one.flatten()) for one in (low, high))
        else:
            low = high = self._coordinates(torch.arange(math.prod(self.shape)))
            if isinstance(self.features, Labels):
                labels = self._labels(torch.device("cpu"))[:, None].expand(low.shape)
                low = low.new_zeros(self.count, low.shape[1]).scatter_reduce_(
                    0, labels, low, "amin", include_self=False
                )
                high = torch.zeros_like(low).scatter_reduce_(0, labels, high, "amax")
        return torch.stack([low, high + 1], 2)

    def _coordinates(self, at: Tensor) -> Tensor:
        """Elements of the flat input on each of its axes: (K, axes)."""
        return torch.stack(torch.unravel_index(at, self.shape), 1)

    def own(self, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each part's own value, of a map that interpolates between them, and its standard error.

        Args:
            values, errors: of the input's shape.

        Returns:
            float64 (K,) on the CPU: values, errors, and how well the map tells each, 0 to 1: 0
            where none of it moves, and value and error are 0.
        """
        if not isinstance(self.features, Grid) or not self.spec.view.linear:
            at = self.places().to(values.device)
            found, error = (one.reshape(-1)[at].double().cpu() for one in (values, errors))
            return found, error, torch.ones_like(found)
        planes = (self.spec.grid[0], *self.spec.view.sides)
        found, error = (
            one.reshape(self.spec.view[:4])[: planes[0]].double().cpu() for one in (values, errors)
        )
        # Where x is on the baseline a map is 0 by definition, and tells nothing of its parts.
        is_known = ((found != 0) | (error != 0)).double()
        weights = self._weights()
        squares = [one.square() for one in weights]
        known = _along(is_known, squares)
        bases, mixed = zip(*map(torch.linalg.qr, weights), strict=True)
        part = _least_squares(found, is_known, bases)
        part = _along(part, [torch.linalg.pinv(one).T for one in mixed])
        of_all = _along(torch.ones_like(part), [one.T for one in squares])
        has_error = is_known * error.isfinite()
        error = _along(has_error * error.nan_to_num() / of_all.sqrt(), squares)
        error /= _along(has_error, squares)
        part, error = (one.masked_fill_(known == 0, 0).flatten() for one in (part, error))
        return part, error, known.sqrt().clamp_(max=1).flatten()

    def _labels(self, device: torch.device) -> Tensor:
        assert isinstance(self.features, Labels)
        return self.features.mask.long().to(device).expand(self.shape).flatten()

    def _weights(self) -> list[Tensor]:
        """Along depth, height and width, how much of each element is each line of cells."""
        view, found = self.spec.view, []
        for length, cell, lines in zip(view.sides, view.cells, self.spec.grid[1:], strict=True):
            at = torch.arange(length, dtype=torch.float64)[:, None]
            line = torch.arange(lines, dtype=torch.float64)
            if view.linear and cell > 1:
                apart = (at - (line * cell - (cell + 1) / 2)).abs()
                found.append((1 - apart / cell).clamp(min=0))
            else:
                found.append((at.div(cell, rounding_mode="floor") == line).double())
        return found


def _along(values: Tensor, matrices: Iterable[Tensor]) -> Tensor:
    """Values (planes, ...) times a matrix along each of the other axes."""
    for axis, matrix in enumerate(matrices, 1):
        values = (values.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return values


def _least_squares(values: Tensor, is_known: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """The coefficients whose expansion is nearest to values, by conjugate gradients.

    Args:
        values: float64 (planes, ...), of all elements.
        is_known: 1 where they count, else 0: where all do, a single step is enough.
        bases: orthonormal, along each axis but the first: (elements, coefficients).
    """
    back = [one.T for one in bases]
    rest = step = _along(is_known * values, bases)
    found, size = torch.zeros_like(rest), float(rest.square().sum())
    least = _NEAR**2 * size
    for _ in range(_STEPS):
        if not size > least:
            break
        along = is_known * _along(step, back)
        share = size / float(along.square().sum())
        found, rest = found + share * step, rest - share * _along(along, bases)
        before, size = size, float(rest.square().sum())
        step = rest + size / before * step
    return found


def _own(weights: Tensor) -> Tensor:
    """Which elements are which line's own: bool (elements, lines), one line of each element.

    Args:
        weights: float64, of that shape.
    """
    largest = weights.amax(0)
    # Of two lines that weigh as much the one at an edge has the element: it has no other.
    line = (weights / largest - 1e-9 * largest).argmax(1, keepdim=True)
    own = torch.zeros_like(weights, dtype=torch.bool).scatter_(1, line, True)
    none = ~own.any(0)  # of two elements and three lines
    own[weights.argmax(0)[none], none] = True
    return own


def parts_of(plan: Plan, *, joined: bool = False) -> Parts:
    """The features of a run as parts of its input.

    Args:
        plan: of the run.
        joined: whether pixels of a picture that are features by themselves are joined to cells, as
            ``Regions`` has them: so small that a blur hardly hides anything of a smaller one; and
            the channels of a picture, whatever shares draws.

    Example:
        >>> from fwdgrad.methods import Regions, plan_of
        >>> plan = plan_of(torch.rand(3, 64, 64), Regions(cell=16), n_samples=64)
        >>> parts_of(plan).features
        Grid(cell=(16, 16), interpolation='linear', jitter=False, share_channels=True)
    """
    shape = tuple(plan.x.shape)
    features: Features = Elements()
    if plan.labels is not None:
        features = Labels(plan.labels)
    elif plan.spec is not None:
        features = plan.spec.features
    if isinstance(features, Labels):
        features = features.own or features
    elif isinstance(features, Grid):
        shared = features.share_channels or (joined and len(shape) in (3, 4))
        features = dataclasses.replace(features, jitter=False, share_channels=shared, order=None)
        hard = labels_of(features, shape, plan.x.device)
        features = features if hard is None else hard
    axes = len(shape) - 1
    if joined and axes in (2, 3) and _are_single(features, shape):
        sides = shape[-axes:]
        cell = smallest_cell(sides)
        features = Grid(tuple(min(cell, length) for length in sides))
    return Parts(shape, features)


def _are_single(features: Features, shape: tuple[int, ...]) -> bool:
    """Whether each pixel is a feature by itself."""
    pixels = math.prod(shape[1:])
    return isinstance(features, Elements) or (
        isinstance(features, Labels) and features.count in (pixels, math.prod(shape))
    )
