"""Sums along all directions of a Hadamard design's group, by the fast Walsh-Hadamard transform."""

from __future__ import annotations

import torch
from torch import Tensor

from fwdgrad_kernels.reference import HADAMARD_ORDER, philox
from fwdgrad_kernels.spec import NoiseSpec

_LOW32 = 0xFFFFFFFF


def walsh_hadamard(values: Tensor) -> Tensor:
    """The Walsh-Hadamard transform H v of a vector, where H[r, k] = (-1)^popcount(r & k).

    Args:
        values: (M,), where M is a power of two.

    Returns:
        (M,), in the natural order of rows; it takes M log2 M additions.

    Example:
        >>> walsh_hadamard(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        tensor([10., -2., -4.,  0.])
    """
    # A step takes the lowest bit of the index and puts its transform's at the top: after all of
    # them each is in its place again.
    for _ in range(values.numel().bit_length() - 1):
        one, other = values.view(-1, 2).unbind(1)
        values = torch.cat((one + other, one - other))
    return values


def sums_along_all(weights: Tensor, spec: NoiseSpec, first: int, unit: Tensor) -> Tensor:
    """sum_i weights[i] xi_i along all M directions of a group, also those without a draw.

    Args:
        weights: of samples of one group.
        spec: a Hadamard design.
        first: the number of the first of them.
        unit: (K,), the draws of that sample.

    Returns:
        float64 (M,), on the weights' device: the draws' sums; then those along the unused
        directions, whose signs are of no matter.
    """
    group, mask = spec.group, spec.group - 1
    counter = (0, HADAMARD_ORDER, first // group & _LOW32, first // group >> 32)
    # The reference's formula, in Python's integers.
    words = philox(counter, (spec.seed & _LOW32, spec.seed >> 32))  # type: ignore[arg-type]
    a, b = (int(word) for word in words[:2])
    # Row r' = (a i + b) mod M. The draws of the first sample are H[r'_0] times the random signs,
    # so what is missing is H[r' xor r'_0].
    i = torch.arange(len(weights), device=weights.device) + (first & mask)
    row = (i * (a | 1) + b) & mask
    start = ((a | 1) * (first & mask) + b) & mask
    by_row = torch.zeros(group, dtype=torch.float64, device=weights.device)
    by_row[row ^ start] = weights.double()
    found = walsh_hadamard(by_row)
    found[: len(unit)] *= unit
    return found
