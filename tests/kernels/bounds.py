"""Statistical bounds, in standard errors.

Seeds are fixed, so a test's answer never changes. A sound generator exceeds 5 standard errors
once in two million checks.
"""

import math

import torch

ERRORS = 5.0


def assert_mean(values, expected):
    """The sample mean lies within ``ERRORS`` standard errors."""
    error = values.std() / math.sqrt(values.numel())
    assert abs(values.mean() - expected) <= ERRORS * error


def assert_uniform(counts):
    """Pearson's chi-square of equally likely bins lies within ``ERRORS`` standard deviations."""
    freedom, expected = counts.numel() - 1, counts.sum() / counts.numel()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) <= ERRORS * math.sqrt(2 * freedom)


def assert_uncorrelated(a, b):
    """Correlation within ``ERRORS`` / sqrt n, of the values and of their distances from 0."""
    for f in (lambda v: v, torch.abs):
        x, y = f(a).flatten(), f(b).flatten()
        if x.std() > 0 and y.std() > 0:  # the absolute values of signs do not vary
            correlation = torch.corrcoef(torch.stack((x, y)))[0, 1]
            assert abs(correlation) <= ERRORS / math.sqrt(x.numel())
