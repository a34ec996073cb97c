"""Streams of draws beside the input's: parameter noise and positions on a path."""

import contract
import gpu
import pytest
import torch
from covering import covering

from fwdgrad_kernels import (
    DISTRIBUTIONS,
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    noise,
    path_positions,
    perturb,
)
from fwdgrad_kernels.testing import TOLERANCE

SEED = 2**63 + 11
FIRST = 2**32 + 3
PLAIN = r"^stream must be 0 but for independent draws of Elements\(\) without blocks, .* got stream"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def uniform(word):
    return ((word >> 9) + 0.5) * 2.0**-23


@covering(
    any_backend=gpu.EVERY,
    distribution=("uniform", "rademacher"),
    stream=(0, 16, 17, 2**31 - 1),
)
def test_draws_come_from_their_stream(any_backend, distribution, stream):
    spec = NoiseSpec((2, 3), distribution, seed=SEED, stream=stream)
    got = noise(spec, FIRST, 2, device=gpu.DEVICE, backend=any_backend).flatten(1).tolist()
    for row, sample in zip(got, (FIRST, FIRST + 1), strict=True):
        words = [contract.words(k // 4, stream, sample, SEED)[k % 4] for k in range(6)]
        if distribution == "rademacher":
            words = [contract.words(0, stream, sample, SEED)[0] >> k & 1 for k in range(6)]
            assert row == [2 * bit - 1 for bit in words]
        else:
            assert row == [2 * uniform(word) - 1 for word in words]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_parameter_stream_agrees_with_the_reference(any_backend, distribution):
    spec = NoiseSpec((37,), distribution, 0.5, seed=SEED, stream=19)
    got, want = (
        noise(spec, FIRST, 3, dtype=torch.float64, device=gpu.DEVICE, backend=b)
        for b in (any_backend, "reference")
    )
    assert bool(((got - want).abs() <= TOLERANCE * (0.5 + want.abs())).all())
    if spec.has_score:
        weights = torch.tensor([1.0, -2.0, 0.5], device=gpu.DEVICE)
        sums = [
            accumulate_(torch.zeros(37, device=gpu.DEVICE), weights, spec, FIRST, backend=b)
            for b in (any_backend, "reference")
        ]
        assert torch.allclose(*sums, rtol=0, atol=4 * TOLERANCE * 3.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_noise(any_backend, dtype):
    x = torch.linspace(-3, 4, 45, dtype=dtype, device=gpu.DEVICE)
    spec = NoiseSpec((45,), scale=0.25, seed=SEED, stream=16)
    got = perturb(x, spec, FIRST, 2, relative=True, pairs=True, backend=any_backend).double()
    drawn = noise(spec, FIRST, 2, dtype=torch.float64, device=gpu.DEVICE, backend="reference")
    wide = x.double()
    want = torch.cat([wide * (1 + drawn), wide * (1 - drawn)])
    error = torch.finfo(dtype).eps + TOLERANCE
    assert bool(((got - want).abs() <= error * (wide.abs() + want.abs()) + 1e-12).all())
    assert bool((got[:, x == 0] == 0).all())


def test_positions_are_of_the_contract():
    want = [uniform(contract.words(0, 2, FIRST + i, SEED)[0]) for i in range(5)]
    assert path_positions(SEED, FIRST, 5).tolist() == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": 3}, "stream must be 0 .inputs. or 16 and above"),
        ({"stream": -1}, "stream must lie in 0"),
        ({"stream": 16, "distribution": "rademacher", "design": "hadamard"}, PLAIN),
        ({"stream": 16, "block": 2}, PLAIN),
        ({"stream": 16, "features": Grid(2)}, PLAIN),
        ({"stream": 16, "features": Labels(torch.tensor([0, 0, 1, 1]))}, PLAIN),
    ],
)
def test_streams_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NoiseSpec((4,), **options)


def test_a_relative_scale_is_a_number():
    spec = NoiseSpec((3,), scale=torch.ones(3))
    with pytest.raises(ValueError, match="scale must be a number where relative=True"):
        perturb(torch.ones(3), spec, 0, 1, relative=True)
