"""Every op in plain PyTorch: the definition that the other backends are held to.

Written to be read. It stores what the kernels never store, and works in float64, so it is slow
and large; it runs on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fwdgrad_kernels.spec import CHUNK, NoiseSpec

PLACEMENT, PATH_POSITION, HADAMARD_ORDER, HADAMARD_SIGNS = 1, 2, 3, 4  # inputs' noise has 0

_LOW32 = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four counter words to four random words, as int64 in 0 .. 2^32 - 1.

    Source: Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(0xD2511F53, c0)
        high1, low1 = _multiply(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW32, (k1 + 0xBB67AE85) & _LOW32
    return c0, c1, c2, c3


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, by 16-bit halves that int64 can hold."""
    low = a * (b & 0xFFFF)
    high = a * (b >> 16) + (low >> 16)
    return high >> 16, (high & 0xFFFF) << 16 | low & 0xFFFF


def words(group: Tensor, stream: int, samples: Tensor, seed: int) -> Tensor:
    """The four words of each group of draws of each sample: (samples, groups, 4)."""
    group, samples = torch.broadcast_tensors(group[None, :], samples[:, None])
    counter = (group, torch.full_like(group, stream), samples & _LOW32, samples >> 32 & _LOW32)
    return torch.stack(philox(counter, (seed & _LOW32, seed >> 32)), dim=-1)


def _samples(first: int, count: int, device: torch.device | str | None) -> Tensor:
    return torch.arange(count, dtype=torch.int64, device=device) + first


def _sign_draws(spec: NoiseSpec, stream: int, samples: Tensor) -> Tensor:
    """Draw k is bit k % 32 of word k // 32 % 4 of group k // 128, set for +1."""
    groups = torch.arange(-(-spec.draws // 128), device=samples.device)
    w = words(groups, stream, samples, spec.seed).flatten(1)
    bits = w[:, :, None] >> torch.arange(32, device=samples.device) & 1
    return (2.0 * bits.double() - 1.0).flatten(1)[:, : spec.draws]


def _hadamard_draws(spec: NoiseSpec, samples: Tensor) -> Tensor:
    """Rows of a Hadamard matrix in random order, each column with a random sign."""
    order = samples // spec.group
    w = words(
        torch.zeros(1, dtype=torch.int64, device=samples.device), HADAMARD_ORDER, order, spec.seed
    )[:, 0]
    row = ((w[:, 0] | 1) * (samples % spec.group) + w[:, 1]) % spec.group
    parity = row[:, None] & torch.arange(spec.draws, device=samples.device)
    for shift in (32, 16, 8, 4, 2, 1):
        parity = parity ^ parity >> shift
    return (1.0 - 2.0 * (parity & 1).double()) * _sign_draws(spec, HADAMARD_SIGNS, order)


def draws(
    spec: NoiseSpec,
    first: int,
    count: int,
    *,
    score: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """The unit draws xi of each sample, or their scores s1(xi) = -d/dxi ln mu(xi): (count, K).

    Scores come from xi as the table of distributions states them, in float64.
    """
    samples = _samples(first, count, device)
    if spec.design == "hadamard":
        return _hadamard_draws(spec, samples)
    if spec.distribution == "rademacher":
        return _sign_draws(spec, spec.stream, samples)
    groups = torch.arange(-(-spec.draws // 4), device=device)
    w = words(groups, spec.stream, samples, spec.seed)
    u = ((w >> 9).double() + 0.5) * 2.0**-23
    if spec.distribution == "normal":
        r = (-2.0 * u[..., 0::2].log()).sqrt()
        turn = 2.0 * math.pi * u[..., 1::2]
        xi = torch.stack((r * turn.cos(), r * turn.sin()), dim=-1)
    elif spec.distribution == "cauchy":
        xi = (math.pi * (u - 0.5)).tan()
        xi = 2.0 * xi / (1.0 + xi * xi) if score else xi
    elif spec.distribution == "hyperbolic":
        xi = (2.0 * u - 1.0).atanh()
        xi = 2.0 * xi.tanh() if score else xi
    elif spec.distribution == "logistic":
        xi = -(1.0 / u - 1.0).log()
        xi = (xi / 2.0).tanh() if score else xi
    else:
        xi = 2.0 * u - 1.0
    return xi.flatten(1)[:, : spec.draws]


def _place(word: Tensor, range_: int) -> Tensor:
    """Uniform over 0 .. range - 1: the high half of word x range."""
    return _multiply(range_, word)[0]


def _placement_words(spec: NoiseSpec, samples: Tensor) -> Tensor:
    groups = torch.arange(2, dtype=torch.int64, device=samples.device)
    return words(groups, PLACEMENT, samples, spec.seed).flatten(1)


def blocks(
    spec: NoiseSpec, first: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """Start and stop of each sample's block over the trailing two axes: int64 (count, 2, 2)."""
    w = _placement_words(spec, _samples(first, count, device))
    axes = []
    for axis, (extent, length) in enumerate(zip(spec.extents, spec.planes[1:], strict=True)):
        start = torch.zeros_like(w[:, axis])
        if extent < length:
            start = _place(w[:, axis], length + extent - 1) - (extent - 1)
        axes.append(torch.stack((start.clamp(min=0), (start + extent).clamp(max=length)), dim=-1))
    return torch.stack(axes, dim=1)


def masks(
    spec: NoiseSpec, first: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """J_i, true where a sample's block covers: bool (count, height, width)."""
    bounds = blocks(spec, first, count, device)
    covered = []
    for axis, length in enumerate(spec.planes[1:]):
        index = torch.arange(length, device=device)
        start, stop = bounds[:, axis, :1], bounds[:, axis, 1:]
        covered.append((index >= start) & (index < stop))
    return covered[0][:, :, None] & covered[1][:, None, :]


def covered(
    spec: NoiseSpec, first: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """``masks`` at every element: bool (count, *shape)."""
    mask = masks(spec, first, count, device)[:, None]
    return mask.expand(count, *spec.planes).reshape(count, *spec.shape)


def _grid_positions(spec: NoiseSpec, axis: int, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Of each element of an axis, the grid line below it and the fraction of the way to the next.

    Nearest: line = the cell, fraction 0. Linear: lines are centres of cells, and line 0 is that of
    the cell before the first.
    """
    cell, length = spec.view.cells[axis], spec.view.sides[axis]
    index = torch.arange(length, device=shift.device).expand(len(shift), -1)
    if cell == 1:
        return index, torch.zeros_like(index, dtype=torch.float64)
    if not spec.view.linear:
        return (index + shift[:, None]) // cell, torch.zeros_like(index, dtype=torch.float64)
    twice = 2 * (index + shift[:, None]) + 1 + cell
    return twice // (2 * cell), (twice % (2 * cell)).double() / (2 * cell)


def _shifts(spec: NoiseSpec, samples: Tensor) -> list[Tensor]:
    """Of each sample's grid along depth, height and width."""
    # A group of a Hadamard design shares its grid, or its directions would not be orthogonal.
    w = _placement_words(spec, samples // spec.group)
    cells = spec.view.cells if spec.jitters else (1, 1, 1)
    return [_place(w[:, word], cell) for word, cell in zip((4, 2, 3), cells, strict=True)]


def spread(spec: NoiseSpec, values: Tensor, first: int) -> Tensor:
    """Values of the features of samples first onwards, (count, K), to elements: (count, *shape).

    Linear in values. This is Phi in the text on features: each element takes its label's or its
    cell's value, or interpolates between the centres of cells around it.
    """
    count = len(values)
    labels = spec.labels_on(values.device)
    if labels is not None:
        index = torch.arange(spec.numel, device=values.device)
        labels = labels[index // spec.view.inner % spec.view.period]
        return values[:, labels].reshape(count, *spec.shape)
    order = spec.order_on(values.device)
    values = values if order is None else values[:, order]
    samples = _samples(first, count, values.device)
    grid = values.reshape(count, *spec.grid)
    for axis, shift in enumerate(_shifts(spec, samples)):
        line, fraction = _grid_positions(spec, axis, shift)
        shape = [count, 1, 1, 1, 1]
        shape[2 + axis] = -1
        index = line.reshape(shape).expand(
            *(-1 if a == 2 + axis else n for a, n in enumerate(grid.shape))
        )
        low = grid.gather(2 + axis, index)
        if fraction.any():
            high = grid.gather(2 + axis, (index + 1).clamp(max=grid.shape[2 + axis] - 1))
            low = low + fraction.reshape(shape).to(values) * (high - low)
        grid = low
    return grid.expand(count, *spec.view[:4]).reshape(count, *spec.shape)


def unit(
    spec: NoiseSpec,
    first: int,
    count: int,
    *,
    score: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """J_i xi_i, or J_i s1(xi_i), in float64: (count, *shape)."""
    field = spread(spec, draws(spec, first, count, score=score, device=device), first)
    return field * covered(spec, first, count, device)


def positions(
    seed: int, first: int, count: int, device: torch.device | str | None = None
) -> Tensor:
    """Where samples lie on a path, uniform on (0, 1): float64 (count,)."""
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    w = words(zero, PATH_POSITION, _samples(first, count, device), seed)[:, 0, 0]
    return ((w >> 9).double() + 0.5) * 2.0**-23


def perturb(
    x: Tensor,
    spec: NoiseSpec,
    first: int,
    count: int,
    sign: int,
    low: float,
    high: float,
    relative: bool = False,
    baseline: Tensor | None = None,
    position: float = 1.0,
) -> Tensor:
    """clamp(x + sign scale J_i xi_i, low, high) in x's dtype, rounded once: (count, *shape).

    Where a block does not cover, x is left as it is, whatever the scale there. With a baseline b,
    which broadcasts to x, clamp(b + (x - b) (position + sign scale J_i xi_i)).
    """
    if baseline is not None:
        share = position + sign * spec.scale_at(x) * unit(spec, first, count, device=x.device)
        b = baseline.double()
        return (b + (x.double() - b) * share).clamp(low, high).to(x.dtype)
    scale = spec.scale_at(x.double())
    scale = scale.double() if isinstance(scale, Tensor) else scale
    scale = scale * x.double() if relative else scale
    noisy = x.double() + sign * scale * unit(spec, first, count, device=x.device)
    noisy = torch.where(covered(spec, first, count, x.device), noisy, x.double())
    return noisy.clamp(low, high).to(x.dtype)


def expand(spec: NoiseSpec, values: Tensor, first: int, squared: bool) -> Tensor:
    """Phi values, as the grid of a sample lies: of its lines to (planes, depth, height, width).

    Or by the squares of its weights. One axis after the other: the weights are products of theirs.
    """
    grid = values.double().reshape(spec.grid)
    shifts = _shifts(spec, _samples(first, 1, values.device))
    for axis in (1, 2, 3):
        line, t = _grid_positions(spec, axis - 1, shifts[axis - 1])
        line, t = line[0], t[0]
        a, b = ((1 - t) ** 2, t**2) if squared else (1 - t, t)
        last = grid.shape[axis] - 1
        low, high = (grid.index_select(axis, (line + i).clamp(max=last)) for i in (0, 1))
        a, b = (weight.reshape(-1, *[1] * (3 - axis)) for weight in (a, b))
        grid = torch.where(b == 0, low, a * low + b * high)
    return grid.to(values.dtype)


def accumulate_(
    total: Tensor, weights: Tensor, spec: NoiseSpec, first: int, square: Tensor | None
) -> None:
    """Adds sum_i weights[i] J_i s1(xi_i) to total, and the sum of the terms' squares to square.

    Samples are added in ascending order within chunks, cut where their numbers are multiples of
    ``CHUNK``, and chunks in ascending order. A sample whose block does not cover an element adds
    nothing there, whatever its weight.
    """
    scores = unit(spec, first, len(weights), score=True, device=total.device).to(total.dtype)
    where = covered(spec, first, len(weights), total.device)
    start = 0
    while start < len(weights):
        stop = min(len(weights), start + CHUNK - (first + start) % CHUNK)
        sums, squares = torch.zeros_like(total), torch.zeros_like(total)
        for i in range(start, stop):
            term = weights[i] * scores[i]
            sums = torch.where(where[i], sums + term, sums)
            squares = torch.where(where[i], squares + term**2, squares)
        total.add_(sums)
        if square is not None:
            square.add_(squares)
        start = stop
