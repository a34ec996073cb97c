"""Parametrisations and tolerances, for our tests and other tools'.

An integer of the noise contract is the same everywhere, so it is compared with ``==``. A float of
it agrees with the reference to 2e-6 (1 + ``|xi|``) at unit scale; the two assertions here say what
follows from that for noisy samples and for sums.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fwdgrad_kernels import reference
from fwdgrad_kernels.features import Grid, Labels
from fwdgrad_kernels.scale import AdaptiveScale
from fwdgrad_kernels.spec import DISTRIBUTIONS, NoiseSpec
from fwdgrad_kernels.sums import accumulate_

TOLERANCE = 2e-6
ADAPTIVE_TOLERANCE = 2e-5
"""How far, relatively, an exact ``AdaptiveScale`` may be from its equation's solution."""

KINDS = (*DISTRIBUTIONS, "hadamard")
"""Every distribution, and Rademacher's signs in a Hadamard design."""

SCORED = tuple(kind for kind in KINDS if kind != "uniform")

EXACT = ("uniform", "rademacher", "hadamard")
"""Kinds whose draws are exact in float32, so that backends agree on every bit."""


def make_spec(
    shape: tuple[int, ...], kind: str = "normal", *args: Any, **options: Any
) -> NoiseSpec:
    """A ``NoiseSpec`` of a distribution, or of "hadamard": Rademacher's signs in a Hadamard design.

    Example:
        >>> make_spec((5,), "hadamard").group
        8
    """
    if kind == "hadamard":
        kind, options["design"] = "rademacher", "hadamard"
    return NoiseSpec(shape, kind, *args, **options)


def cells(*cell: int, **options: Any) -> dict[str, Any]:
    """The keyword arguments of a spec with cells that jitter, each channel with its own draws.

    Example:
        >>> NoiseSpec((2, 9), **cells(3)).draws
        8
    """
    given = {"jitter": True, "share_channels": False, **options}
    return {"features": Grid(cell, "nearest", **given)}


def linear(*cell: int, **options: Any) -> dict[str, Any]:
    """The same, interpolated.

    Example:
        >>> NoiseSpec((2, 9), **linear(3)).draws
        10
    """
    return {
        "features": dataclasses.replace(cells(*cell, **options)["features"], interpolation="linear")
    }


SHARED: dict[str, Any] = {"features": Grid((1, 1))}
"""Every pixel has a draw, and channels share it."""
_SHARED, _STILL = {"share_channels": True}, {"jitter": False}


def ordered(lines: int) -> dict[str, Any]:
    """Options of a grid of so many lines, which does not jitter: an order with gaps.

    Example:
        >>> NoiseSpec((8,), **cells(3, **ordered(3))).draws
        6
    """
    return {"jitter": False, "order": torch.arange(lines).flip(0) * 2 + 1}


CASES: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    # Vectors around the lengths at which the CPU kernels cut their work: 1024 and 2048.
    ((1,), {}),
    ((7,), {}),
    ((1023,), {}),
    ((1025,), {}),
    ((2047,), {}),
    ((2049,), {}),
    ((2600,), {"block": 2200}),
    ((2500,), cells(3)),
    ((2600,), {"block": 2200, **linear(7)}),
    # Images of odd sizes; blocks of whole rows or columns; channels that share their draws.
    ((3, 17, 19), {}),
    ((3, 17, 19), SHARED),
    ((3, 17, 19), {"block": 5}),
    ((3, 17, 19), {"block": (17, 4), **SHARED}),
    ((3, 17, 19), {"block": (5, 19)}),
    ((3, 17, 19), cells(4, 4)),
    ((3, 17, 19), linear(4, 4)),
    ((3, 17, 19), linear(5, 3, **_SHARED, **_STILL)),
    ((3, 17, 19), {"block": 6, **linear(5, 5, **_SHARED)}),
    ((2, 17, 19), {"block": (1, 19), **cells(17, 19, **_SHARED)}),
    ((3, 17, 19), cells(4, 4, **_STILL)),
    ((3, 17, 19), {"block": 6, **linear(5, 5, **_SHARED, **_STILL)}),
    # More than three axes, and two.
    ((2, 3, 5, 33), {"block": (2, 30), **cells(2, 2, **_SHARED)}),
    ((37, 60), {"block": 9, **linear(37, 60)}),
    # Series: one axis of the grid, whose channels share it or do not.
    ((3, 50), linear(7, **_SHARED)),
    ((3, 50), {"block": (3, 20), **cells(7, **_SHARED)}),
    ((3, 50), {"block": (2, 20), **cells(7)}),
    # Volumes: three axes of the grid.
    ((2, 5, 9, 11), cells(2, 3, 4, **_SHARED)),
    ((2, 5, 9, 11), linear(2, 3, 4)),
    ((2, 5, 9, 11), linear(3, 1, 4, **_SHARED, **_STILL)),
    ((5, 9, 11), {"block": (4, 5), **linear(2, 4, 3)}),
    # Grids with an order of draws: of one axis, two and three, shared or not, of single pixels.
    ((3, 50), linear(7, **_SHARED, **ordered(9))),
    ((3, 17, 19), linear(5, 3, **_SHARED, **ordered(40))),
    ((3, 17, 19), cells(4, 4, **ordered(75))),
    ((3, 17, 19), cells(1, 1, **_SHARED, **ordered(17 * 19))),
    ((2, 5, 9, 11), linear(3, 1, 4, **_SHARED, **ordered(135))),
    # Labels: of pixels, of channels, of the middle axis; one label for all.
    ((3, 17, 19), {"features": Labels(torch.arange(17 * 19).reshape(17, 19) % 23)}),
    ((5, 7, 9), {"features": Labels(torch.tensor([1, 0, 2, 2, 0]).reshape(5, 1, 1))}),
    ((2, 1030, 3), {"features": Labels(torch.arange(1030)[:, None] // 7)}),
    ((2, 5), {"features": Labels(torch.zeros(1, dtype=torch.int8))}),
    # More draws than pixels: a cell on every side of the only ones.
    ((2, 2, 2), linear(2, 2, **_SHARED, **_STILL)),
    # Rows longer than a run, planes longer than a tile.
    ((2, 3, 1100), linear(2, 2)),
    ((1, 3, 1400), {"block": (2, 1200)}),
    ((2, 40, 64), {"block": (7, 64)}),
    # An axis of length 1.
    ((2, 9, 1), linear(4, 1)),
    ((2, 1, 9), {"block": (1, 5), **linear(1, 4)}),
)
"""Input shapes, each with the keyword arguments of a ``NoiseSpec``."""


def case_id(value: object) -> str | None:
    """A short name of an entry of ``CASES``, for ``pytest.mark.parametrize(ids=case_id)``.

    Example:
        >>> case_id(((3, 17), {"block": 5, **linear(4)}))
        '3x17-block5-linear4-jitter'
    """
    if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], dict):
        return None
    shape, options = value
    names = ["x".join(map(str, shape))]
    for name, option in options.items():
        if isinstance(option, Grid):
            assert isinstance(option.cell, tuple)
            names.append(option.interpolation + "x".join(map(str, option.cell)))
            names += [name for name in ("jitter", "share_channels") if getattr(option, name)]
            names += [] if option.order is None else ["order"]
        elif isinstance(option, Labels):
            names.append(f"labels{option.count}")
        else:
            text = "x".join(map(str, option)) if isinstance(option, tuple) else str(option)
            names.append(name + text)
    return "-".join(names)


def unit_scores(spec: NoiseSpec, first: int, count: int, *, backend: str = "auto") -> Tensor:
    """J_i s1(xi_i) of each sample as ``accumulate_`` sums them: float32 (count, *shape).

    Example:
        >>> unit_scores(NoiseSpec((3,), "rademacher", seed=1), first=0, count=2).abs()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """
    scores = torch.zeros(count, *spec.shape)
    for i in range(count):
        accumulate_(scores[i], torch.ones(1), spec, first + i, backend=backend)
    return scores


def unit_error(
    spec: NoiseSpec,
    first: int,
    count: int,
    *,
    score: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """The error that the contract allows each unit draw or score: float64 (count, *shape).

    2e-6 (1 + ``|xi|``) where the block covers, else 0. A bilinear field rounds relative to the
    largest of the draws that it interpolates, which with heavy tails is far from its own value.
    """
    size = reference.draws(spec, first, count, score=score, device=device).abs()
    if spec.view.linear:  # the larger of each draw and its neighbours, before interpolation
        kernel = tuple(3 if cell > 1 else 1 for cell in spec.view.cells)
        padding = tuple(extent // 2 for extent in kernel)
        order = spec.order_on(size.device)
        lines = size if order is None else size[:, order]
        grid = lines.reshape(count, *spec.grid)
        lines = torch.nn.functional.max_pool3d(grid, kernel, 1, padding).flatten(1)
        size = lines if order is None else size.index_copy(1, order.long(), lines)
    error = TOLERANCE * (1.0 + reference.spread(spec, size, first))
    return error * reference.covered(spec, first, count, device)


def _assert_within(name: str, actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    error = (actual.double() - expected).abs()
    if bool((error <= bound).all()):  # not (error > bound).any(): NaN is an error
        return
    index = int((error / bound).nan_to_num(nan=torch.inf).argmax())
    at = tuple(int(i) for i in torch.unravel_index(torch.tensor(index), actual.shape))
    raise AssertionError(
        f"{name} differs from the reference at {at}: {actual[at]:.9g}, not {expected[at]:.9g}, "
        f"an error of {error[at]:.3g} where {bound[at]:.3g} is allowed"
    )


def assert_samples(
    actual: Tensor,
    x: Tensor,
    spec: NoiseSpec,
    first: int,
    sign: int = 1,
    clip: tuple[float, float] = (-torch.inf, torch.inf),
    baseline: Tensor | None = None,
    position: float = 1.0,
) -> None:
    """Asserts that noisy samples are the reference's, to ``TOLERANCE`` and one rounding to dtype.

    Args:
        actual: (count, *shape), what a backend made of x.
        x: the input.
        spec: what noise.
        first: the number of the first sample.
        sign: as for ``perturb``.
        clip: as for ``perturb``.
        baseline: as for ``perturb``; a tensor that broadcasts to x.
        position: as for ``perturb``.

    Raises:
        AssertionError: naming the worst element.

    Example:
        >>> from fwdgrad_kernels import perturb
        >>> x, spec = torch.zeros(5), NoiseSpec((5,), "cauchy", scale=0.1)
        >>> assert_samples(perturb(x, spec, 7, 20), x, spec, 7)
    """
    count, kind = len(actual), torch.finfo(actual.dtype)
    assert actual.dtype == x.dtype, f"samples are {actual.dtype}, x is {x.dtype}"
    expected = reference.perturb(
        x.double(), spec, first, count, sign, *clip, False, baseline, position
    )
    scale = spec.scale_at(x.double())
    scale = scale.double().abs() if isinstance(scale, Tensor) else scale
    rounding = kind.eps * expected.abs() + kind.smallest_normal * kind.eps
    bound = scale * unit_error(spec, first, count, device=x.device) + rounding
    if baseline is not None:  # rounded once more for each of x - b, its share, and their product
        b, way = baseline.double(), (x.double() - baseline.double()).abs()
        units = reference.unit(spec, first, count, device=x.device).abs()
        size = b.abs() + way * (position + scale * units)
        bound = way * scale * unit_error(spec, first, count, device=x.device) + rounding
        bound += 4 * max(torch.finfo(torch.float32).eps * (x.dtype != torch.float64), 1e-15) * size
    if isinstance(spec.scale, AdaptiveScale):  # the distances are those of x in its own dtype
        relative = ADAPTIVE_TOLERANCE if spec.scale.form == "exact" else TOLERANCE
        bound += relative * (expected - x.double()).abs()
    # What overflows the dtype is compared as its largest number.
    finite = (actual.double().clamp(kind.min, kind.max), expected.clamp(kind.min, kind.max))
    _assert_within("perturb", *finite, bound)


def assert_sums(
    total: Tensor,
    square: Tensor | None,
    weights: Tensor,
    spec: NoiseSpec,
    first: int,
    before: float = 0.0,
) -> None:
    """Asserts that ``accumulate_``'s sums are the reference's, to ``TOLERANCE`` a term.

    Args:
        total: what a backend summed.
        square: the sum of squares, or None.
        weights: (count,).
        spec: what noise.
        first: the number of the first sample.
        before: what both sums held before.

    Raises:
        AssertionError: naming the worst element.

    Example:
        >>> spec, weights = NoiseSpec((5,), "logistic"), torch.ones(20)
        >>> assert_sums(accumulate_(torch.zeros(5), weights, spec, 7), None, weights, spec, 7)
    """
    count = len(weights)
    w = weights.double().reshape(-1, *[1] * len(spec.shape))
    terms = w * reference.unit(spec, first, count, score=True, device=w.device)
    error = w.abs() * unit_error(spec, first, count, score=True, device=w.device)
    eps = torch.finfo(total.dtype).eps * (count + 1)

    def check(name: str, actual: Tensor, terms: Tensor, error: Tensor) -> None:
        rounding = eps * (abs(before) + terms.abs().sum(0))
        _assert_within(name, actual, before + terms.sum(0), error.sum(0) + rounding)

    check("total", total, terms, error)
    if square is not None:
        check("square", square, terms**2, (2 * terms.abs() + error) * error)
