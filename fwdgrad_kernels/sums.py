"""Sums over samples, by elements and by features, and Phi, which carries one to the other."""

from __future__ import annotations

import torch
from torch import Tensor

from fwdgrad_kernels import native, reference
from fwdgrad_kernels.arguments import check_destination, check_samples, check_spec
from fwdgrad_kernels.backends import OPS, backend_for, op_of
from fwdgrad_kernels.checks import (
    DTYPES,
    check_alike,
    check_floating,
    check_memory,
    is_plain,
    overlap,
)
from fwdgrad_kernels.features import Grid
from fwdgrad_kernels.hadamard import sums_along_all
from fwdgrad_kernels.samples import perturb
from fwdgrad_kernels.spec import CHUNK, NoiseSpec


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

    Samples are added in ascending order within chunks of 256, cut where their numbers are multiples
    of that, and the chunks' sums in ascending order: the sum has the same bits however the samples
    are split over calls there, and with ``square`` or without. A sample whose block does not cover
    an element adds nothing there, even where its weight is infinite or NaN.
    ``spec.gradient(total, count)`` makes the gradient of it.

    Args:
        total: the sum so far, of the spec's shape, float32 or float64, contiguous.
        weights: (count,), the score of each sample; floating, on total's device. Like total they
            are taken as constants: no gradient flows through the sum.
        spec: what noise the samples had.
        first: the number of the first sample.
        square: like total; takes the squares of the terms, for standard errors.
        backend: see ``backend_for``.

    Returns:
        total.

    Raises:
        TypeError, ValueError: naming the argument; a distribution without a score. Nothing was
            written then.
        NotImplementedError: torch.func or forward-mode differentiation follows a tensor.

    Example:
        >>> import torch
        >>> spec = NoiseSpec((4,), "rademacher", design="hadamard", seed=1)  # 4 directions
        >>> g = torch.tensor([1.0, -2.0, 3.0, 0.5])
        >>> scores = perturb(torch.zeros(4), spec, 0, 4) @ g
        >>> spec.gradient(accumulate_(torch.zeros(4), scores, spec, 0), 4)
        tensor([ 1.0000, -2.0000,  3.0000,  0.5000])

    Source: *Is forward gradient an effective tool for explaining black-box models?*,
    algorithm 1, lines 5 and 6, and equation 6.
    """
    check_spec(spec)
    if not spec.has_score:
        raise ValueError(
            f"distribution {spec.distribution!r} has no score: its density has no slope inside its "
            "support, so there is no likelihood-ratio gradient; use normal, cauchy, hyperbolic, "
            "logistic or rademacher"
        )
    if isinstance(total, Tensor) and total.dtype not in DTYPES[:2]:
        raise TypeError(f"total must be float32 or float64, got {total.dtype}")
    check_destination("total", total, spec.shape, total)
    check_floating("weights", weights)
    if weights.dim() != 1:
        raise ValueError(
            f"weights must have one axis, one weight per sample, got {tuple(weights.shape)}"
        )
    if weights.device != total.device:
        raise ValueError(f"weights must be on {total.device}, got {weights.device}")
    first, _ = check_samples(first, weights.shape[0])
    backend = backend_for(total.device, backend)
    if square is not None:
        check_destination("square", square, spec.shape, total)
        if overlap(square, total):
            raise ValueError("square must not share memory with total")
    for name, other in (("total", total), ("square", square)):
        if other is not None and overlap(other, weights):
            raise ValueError(f"{name} must not share memory with weights")
    plain = all(is_plain(one) for one in (total, square, weights) if one is not None)
    if not plain:
        check_alike(total=total, weights=weights, square=square)
    if weights.dtype != total.dtype or weights.requires_grad or not weights.is_contiguous():
        weights = weights.detach().to(total.dtype).contiguous()
        plain = plain and is_plain(weights)
    if not total.numel() or not weights.numel():
        return total
    if backend == "reference":
        reference.accumulate_(total, weights, spec, first, square)
    elif spec.view.labels:
        _accumulate_shared_(total, weights, spec, first, square, backend)
    else:
        run = op_of("accumulate_", backend, plain)
        run(total, square, weights, list(spec.encoded), first)
    return total


def _accumulate_shared_(
    total: Tensor, weights: Tensor, spec: NoiseSpec, first: int, square: Tensor | None, backend: str
) -> None:
    """By features, chunk by chunk: with labels, or the order of a grid's draws."""
    labels = spec.labels_on(total.device)
    encoded, start = list(spec.of_features.encoded), 0
    while start < len(weights):
        stop = min(len(weights), start + CHUNK - (first + start) % CHUNK)
        sums = total.new_zeros(2 if square is not None else 1, spec.draws)
        some = weights[start:stop], encoded, first + start
        OPS.accumulate_(backend, sums[0], sums[1] if len(sums) > 1 else None, *some)
        for to, found in zip((total, square), sums, strict=False):
            assert to is not None
            if labels is None:
                if to is square and spec.view.linear:  # no sum of features' squares tells these
                    found = _squares(some[0], spec, some[2], backend)
                else:
                    found = expand(found, spec, backend=backend)
                to.add_(found)
                continue
            of_labels = found.index_select(0, labels)[:, None]  # (period, inner)
            to.view(-1, spec.view.period, spec.view.inner).add_(of_labels)
        start = stop


def _squares(weights: Tensor, spec: NoiseSpec, first: int, backend: str) -> Tensor:
    """The sum of the squares of the samples' terms at each element."""
    encoded = list(spec.of_features.encoded)
    squares = weights.new_zeros(spec.shape)
    for i in range(len(weights)):
        term = weights.new_zeros(spec.draws)
        OPS.accumulate_(backend, term, None, weights[i : i + 1], encoded, first + i)
        term = expand(term, spec, backend=backend)
        squares.addcmul_(term, term)
    return squares


def accumulate_features_(
    total: Tensor, weights: Tensor, spec: NoiseSpec, first: int, *, backend: str = "auto"
) -> Tensor:
    """Adds sum_i weights[i] * s1(xi_i) to total, feature by feature: ``accumulate_`` before Phi.

    Where all samples spread their draws alike, ``expand`` of this sum is what ``accumulate_`` sums,
    for as many operations a sample as it has draws, not elements; of a Hadamard design by a fast
    transform of each group, with the same bits for calls split at multiples of it.

    Args:
        total: the sum so far, (K,) for the spec's ``draws``, float32 or float64, contiguous.
        weights: (count,), the score of each sample; floating, on total's device.
        spec: what noise the samples had: without blocks or jitter.
        first: the number of the first sample.
        backend: see ``backend_for``.

    Returns:
        total.

    Raises:
        TypeError, ValueError: naming the argument; samples that spread their draws differently.

    Example:
        >>> import torch
        >>> spec = NoiseSpec((3, 8, 8), "rademacher", features=Grid(5), design="hadamard")
        >>> total = accumulate_features_(torch.zeros(9), torch.ones(16), spec, 0)
        >>> total.count_nonzero()  # a whole group of 16 orthogonal directions: one is in its sum
        tensor(1)
    """
    features = spec.of_features
    if spec.design == "independent" or not isinstance(weights, Tensor) or not weights.numel():
        return accumulate_(total, weights, features, first, backend=backend)
    accumulate_(total, weights[:0], features, first, backend=backend)  # checks
    start = 0
    while start < len(weights):
        some = weights[start : start + spec.group - (first + start) % spec.group]
        found = hadamard_sums(some, spec, first + start, backend=backend)
        total.add_(found[: spec.draws].to(total.dtype))
        start += len(some)
    return total


def hadamard_sums(weights: Tensor, spec: NoiseSpec, first: int, *, backend: str = "auto") -> Tensor:
    """sum_i weights[i] xi_i along all M directions of a Hadamard group, by a fast transform.

    The first K are those of the draws, which ``accumulate_features_`` adds. Along the M - K that no
    draw uses, a score that is linear in the draws has nothing: what is there tells the error.

    Args:
        weights: (count,), of samples of one group, the whole of it or a part; floating.
        spec: of a Hadamard design, whose grid may jitter: all samples of a group lie alike.
        first: the number of the first sample.
        backend: see ``backend_for``.

    Returns:
        float64 (M,), on the weights' device.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> import torch
        >>> from fwdgrad_kernels import noise
        >>> spec = NoiseSpec((3,), "rademacher", design="hadamard")
        >>> xi = noise(spec, 0, 4)
        >>> hadamard_sums(xi @ torch.tensor([1.0, 2.0, 3.0]), spec, 0) / 4
        tensor([1., 2., 3., 0.], dtype=torch.float64)
    """
    check_spec(spec)
    if spec.design != "hadamard" or spec.block is not None:
        raise ValueError(f"spec must be of a Hadamard design without blocks, got {spec!r:.200}")
    check_floating("weights", weights)
    if weights.dim() != 1:
        raise ValueError(f"weights must have one axis, got {tuple(weights.shape)}")
    first, _ = check_samples(first, len(weights))
    if first % spec.group + len(weights) > spec.group:
        raise ValueError(
            f"weights must be of samples of one group of {spec.group}, got {len(weights)} from "
            f"{first} on"
        )
    if is_plain(weights) and backend_for(weights.device, backend) == "cpu":
        return native.hadamard_sums(weights, list(spec.encoded), first, spec.group)
    zero = torch.zeros(spec.vector.shape, device=weights.device)
    unit = perturb(zero, spec.vector, first, 1, backend=backend)[0]
    return sums_along_all(weights.detach(), spec, first, unit)


def expand(
    values: Tensor,
    spec: NoiseSpec,
    first: int = 0,
    *,
    squared: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Phi: values of features at the elements of the input.

    Args:
        values: (K,) for the spec's ``draws``, float32 or float64.
        spec: whose features; without blocks.
        first: the number of a sample, where a grid jitters: as that sample's lies.
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
        >>> spec = NoiseSpec((2, 4), features=Grid(2, "nearest"))
        >>> expand(torch.tensor([1.0, 5.0]), spec)
        tensor([[1., 1., 5., 5.],
                [1., 1., 5., 5.]])
    """
    if spec.block is not None:
        raise ValueError("block must be None: each sample's block leaves other elements out")
    first, _ = check_samples(first, 1)
    if not isinstance(values, Tensor) or values.dtype not in DTYPES[:2]:
        kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise TypeError(f"values must be a float32 or float64 tensor, got {kind}")
    if tuple(values.shape) != (spec.draws,):
        raise ValueError(
            f"values must have one for each of {spec.draws} draws, got {tuple(values.shape)}"
        )
    check_memory("values", values)
    backend = backend_for(values.device, backend)
    values = values.detach().contiguous()
    labels, view = spec.labels_on(values.device), spec.view
    order = spec.order_on(values.device)
    values = values if order is None else values.index_select(0, order)
    if labels is not None:
        of_labels = values.index_select(0, labels).reshape(-1, view.period, 1)
        times = spec.numel // max(view.period * view.inner, 1)
        return of_labels.expand(times, view.period, view.inner).reshape(spec.shape)
    shape = (spec.grid[0], *view.sides)
    if max(view.cells) == 1 or not values.numel():
        out = values.reshape(shape)
    elif backend == "reference":
        out = reference.expand(spec, values, first, squared)
    else:
        out = torch.empty(shape, dtype=values.dtype, device=values.device)
        run = op_of("expand_", backend, is_plain(out) and is_plain(values))
        run(out, values, list(spec.encoded), first, squared)
    if not view.shared:
        return out.reshape(spec.shape)
    assert isinstance(spec.features, Grid)
    return out.reshape(spec.shape[-len(spec.features.sizes(spec.shape)) :]).expand(spec.shape)
