"""Regions: what each part of an input adds to the score, from few forward calls."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from fwdgrad.checks import check_integer, check_no_array
from fwdgrad.directions import Directions, directions, group_of, most_features
from fwdgrad.errors import ArgumentError, Message, Option, warn
from fwdgrad.methods.base import Method, Request, method
from fwdgrad.methods.baseline import baseline_on, checked_baseline
from fwdgrad.methods.blur import light_blur, smallest_cell
from fwdgrad.methods.forward_gradient import check_moves, warn_of_design
from fwdgrad.methods.noise import check_noise, hadamard_spec, on_device
from fwdgrad.plan import Plan
from fwdgrad_kernels import Elements, Features, Grid, NoiseSpec

SIDE = 16  # pixels of a picture at least
_SAMPLES = 1024  # where nothing is asked for


@method
class Regions(Method):
    """What each region adds to the score: the Banzhaf value of each cell, from few forward calls.

    Each sample is the input in some regions and its baseline in the others, with smooth borders
    between cells; which, is drawn by orthogonal directions: one group of them, and three cells to
    four samples. What is attributed to a cell is how much the score rises as the cell becomes
    the input's, averaged over what the others may be.

    Args:
        baseline: what is where the input is not: "blur" (of pictures and volumes: a Gaussian of a
            32nd of the shortest side), "grey", "black", "white", a number, or a tensor. What the
            baseline leaves as it is adds nothing.
        cell: the side of a cell in pixels; "auto" is the smallest with about three cells to
            four samples, and no smaller than the blur mixes. ``features`` of ``explain`` replace
            the cells: superpixels, groups of columns.
        antithetic: each draw is taken with both signs, a pair of samples.
        axes: along how many trailing axes cells lie and the blur goes: 1 of a series (C, T) or
            (T,), whose cells are windows of time for all channels; 2 of a picture, 3 of a volume.
            None: all but the first of a picture (C, H, W) and a volume (C, D, H, W).
        directions: the orthogonal directions in a group of samples, of which each cell of a picture
            or a volume takes one: a power of two above their number. None: about as many as there
            are samples. A run of ``n_samples="auto"`` has whole groups of those of its first look,
            128 or more, and its explanation's method names them: the same cells would take other
            directions for another number of samples.

    Raises:
        TypeError, ValueError: naming the option, what was given and what would do.

    Example:
        What each cube of 4 x 4 x 4 of a volume adds, to a model that looks at the first one:

        >>> import torch, fwdgrad
        >>> model = lambda batch: batch[:, 0, :4, :4, :4].sum((1, 2, 3))
        >>> cubes = fwdgrad.Grid((4, 4, 4), "nearest")
        >>> x = torch.ones(1, 8, 8, 8)
        >>> e = fwdgrad.explain(model, x, method=Regions(0.0), features=cubes, n_samples=16)
        >>> e.attribution[0, ::4, 0, ::4].round() + 0.0
        tensor([[64.,  0.],
                [ 0.,  0.]])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, equation 2, in
    the space of a mask; the table of other tools' maps in ``benchmarks/results`` is why.
    """

    name = "regions"
    line = "what each region adds to the score, from few forward calls"
    source = "FG equation 2 on a mask"
    grows = True

    baseline: str | float | Tensor = "blur"
    cell: int | str = "auto"
    antithetic: bool = False
    axes: int | None = None
    directions: int | None = None

    def __post_init__(self) -> None:
        """Checks each option."""
        check_noise(self)
        check_no_array("cell", self.cell)
        object.__setattr__(self, "baseline", checked_baseline(self.baseline))
        if isinstance(self.cell, str) and self.cell != "auto":
            raise ArgumentError("cell", f"must be a number of pixels or 'auto', got {self.cell!r}")
        if not isinstance(self.cell, str):
            object.__setattr__(self, "cell", check_integer("cell", self.cell, 1))
        check_no_array("axes", self.axes)
        if self.axes is not None:
            object.__setattr__(self, "axes", check_integer("axes", self.axes, 1, 3))
        check_no_array("directions", self.directions)
        if self.directions is not None:
            count = check_integer("directions", self.directions, 2)
            if count & (count - 1):
                raise ArgumentError("directions", f"must be a power of two, got {count}")
            object.__setattr__(self, "directions", count)

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The samples, of whose scores the map is summed."""
        samples = request.count(_SAMPLES, self.antithetic)
        cell = self.cell
        if request.features is not None and cell != "auto":
            raise ArgumentError(
                "cell", f"must be 'auto' where features are given in place of cells, got {cell}"
            )
        axes = self._axes_of(x)
        features: Features
        if request.features is not None:
            features = on_device(request.features, x.device)
        elif not axes and x.dim() == 1:
            features = Elements()
        elif axes:
            _warn_of_axes(x, axes)
            sides = tuple(x.shape[-axes:])
            if isinstance(cell, str):
                cell = _smallest(tuple(x.shape), axes, samples)
            check_integer("cell", cell, 1, max(sides))
            features = _cells(sides, cell)
        else:
            raise ArgumentError(
                "features",
                f"must be given for x of shape {tuple(x.shape)}: cells are of pictures (C, H, W) "
                "and volumes (C, D, H, W). Of a series (C, T) give Regions(axes=1), or "
                "features=Grid((50,), 'nearest', share_channels=False), say; a picture (H, W) is "
                "given as x[None], with lambda batch: model(batch[:, 0])",
            )
        of_blur = isinstance(self.baseline, str) and self.baseline == "blur"
        if of_blur and not axes:
            raise ArgumentError(
                "baseline",
                "must be a number or a tensor for x of shape "
                f"{tuple(x.shape)}, got 'blur', which is of pictures (C, H, W), volumes "
                "(C, D, H, W) and, with axes=1, series (C, T); give 0.0, say",
            )
        baseline = baseline_on(x, self.baseline, lambda x: light_blur(x, axes))
        if of_blur and isinstance(baseline, Tensor) and torch.equal(baseline, x):
            raise ArgumentError(
                "baseline",
                "must be given: the input is uniform, so it is its own blur; give ",
                Option("baseline", 0.0 if axes == 1 else "grey"),
                ", say",
            )
        group = self.directions
        if isinstance(features, Grid) and _is_drawn(features, tuple(x.shape)):
            features, group = self._drawn(features, x, samples, request)
        elif group is not None:
            raise ArgumentError(
                "directions",
                f"must be None but for cells with smooth borders, of a picture or a volume, got "
                f"{group}",
            )
        most = request.most or samples  # of one group, however many are taken
        plan = Plan(
            method=dataclasses.replace(self, cell=cell, directions=group),
            x=x,
            gradient="forward",
            samples=samples,
            seed=request.seed,
            spec=hadamard_spec(x, features, 0.5, request.seed, most, self.antithetic),
            features=request.features,
            antithetic=self.antithetic,
            baseline=baseline,
            position=0.5,
            control_variate=None if self.antithetic else "mean",
        )
        plan = request.whole(plan)
        check_moves(plan)
        warn_of_design(plan)
        if request.most is None:
            _warn_of_error(plan)
        return plan

    def _drawn(
        self, grid: Grid, x: Tensor, samples: int, request: Request
    ) -> tuple[Grid, int | None]:
        """The same cells with directions of one group, and how many it has where that is fixed."""
        lines = NoiseSpec(tuple(x.shape), "rademacher", features=grid, design="hadamard").grid
        count, fixed = math.prod(lines), self.directions
        if fixed is not None and fixed <= count:
            raise ArgumentError(
                "directions",
                f"must be more than the {count} lines of the grid's cells, got {fixed}",
            )
        group = fixed or max(group_of(samples), 1 << count.bit_length())
        if fixed is None and request.most is not None:
            while most_features(group) < count:
                group *= 2
            fixed = group
        order = directions(lines, group, request.seed).to(x.device)
        return dataclasses.replace(grid, order=order), fixed

    def _axes_of(self, x: Tensor) -> int | None:
        """Along how many trailing axes cells lie; None where they cannot."""
        if self.axes is None and is_batch_of_one(x):
            raise ArgumentError(
                "x",
                f"must be one picture, without a batch axis, got {tuple(x.shape)}: give x[0]; or, "
                "of a volume of so few layers, Regions(axes=3)",
            )
        if self.axes is None:
            return x.dim() - 1 if x.dim() in (3, 4) else None
        if x.dim() not in (self.axes, self.axes + 1):
            kinds = {1: "a series (C, T) or (T,)", 2: "a picture (C, H, W)", 3: "(C, D, H, W)"}
            raise ArgumentError(
                "axes", f"is {self.axes}, so x must be {kinds[self.axes]}, got {tuple(x.shape)}"
            )
        return self.axes


def is_batch_of_one(x: Tensor) -> bool:
    """Whether an input looks like a batch with a single picture in it: (1, 1 or 3, H, W)."""
    shape = tuple(x.shape)
    return len(shape) == 4 and shape[0] == 1 and shape[1] in (1, 3) and min(shape[2:]) >= SIDE


def _warn_of_error(plan: Plan) -> None:
    """Warns where no direction is left to tell the map's error by."""
    spec = plan.spec
    assert spec is not None
    if Directions.of(spec).tellings or plan.samples >= 2 * spec.group:
        return
    warn(
        Message(
            f"{math.prod(spec.grid)} features take every direction of their group of "
            f"{spec.group} samples, so that the map's error and reliability cannot be told; give ",
            Option("n_samples", 2 * spec.group * plan.signs),
            ", or one feature less" if plan.features is not None else ", or a larger cell",
        )
    )


def _cells(sides: tuple[int, ...], cell: int) -> Grid:
    """Cells of so many elements along each axis, which channels share.

    Their borders are smooth, but for windows of a series: the first line of a linear grid over one
    axis would have one sign in all samples.
    """
    sizes = tuple(min(cell, max(length, 1)) for length in sides)
    return Grid(sizes, "nearest" if len(sides) == 1 else "linear", False, True)


def _is_drawn(grid: Grid, shape: tuple[int, ...]) -> bool:
    """Whether a grid's cells take chosen directions: those with smooth borders that stay."""
    return grid.view(shape).linear and not grid.jitter and grid.order is None


def _smallest(shape: tuple[int, ...], axes: int, samples: int) -> int:
    """The smallest cells that leave directions in their group free, and some to tell the error.

    Of a series: with fewer draws than samples, and than directions in their group. For 16 samples
    nothing can be left.
    """
    sides = shape[-axes:]
    best = max(sides)
    for cell in range(smallest_cell(sides), best):
        grid = _cells(sides, cell)
        draws = NoiseSpec(shape, "rademacher", features=grid, design="hadamard").draws
        if axes > 1:
            if draws <= most_features(group_of(samples)):
                return cell
            continue
        draws += 1  # see hadamard_spec
        if draws > samples:
            continue
        if draws < min(1 << (draws - 1).bit_length(), samples):
            return cell
        best = min(best, cell)
    return best


def _warn_of_axes(x: Tensor, axes: int) -> None:
    """Warns where a picture's axes seem to be in another order; refuses a batch of one."""
    if axes != 2 or x.dim() != 3 or len(x) < SIDE:
        return
    if x.shape[2] <= 4:
        warn(
            f"a picture of shape {tuple(x.shape)} seems to have its channels last: give "
            "x.permute(2, 0, 1) with lambda batch: model(batch.permute(0, 2, 3, 1))"
        )
    else:
        warn(
            f"a picture of shape {tuple(x.shape)}: its {len(x)} channels share their draws, so "
            "the map does not tell them apart; if it is a volume, give x[None] with "
            "lambda batch: model(batch[:, 0])"
        )
