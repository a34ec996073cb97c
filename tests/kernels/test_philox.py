"""The generator and its draws against answers that were computed elsewhere."""

from pathlib import Path

import contract
import pytest
import torch

from fwdgrad_kernels import native, noise, reference
from fwdgrad_kernels.testing import EXACT, KINDS, TOLERANCE, make_spec, unit_scores

KAT = Path(__file__).parents[1] / "kat"


def read(name):
    lines = (KAT / name).read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def philox_reference(counter, key):
    out = reference.philox(tuple(torch.tensor([word]) for word in counter), key)
    return tuple(int(word) for word in out)


def philox_native(counter, key):
    return tuple(native.module.philox(counter, key))


RUNNERS = pytest.mark.parametrize(
    "philox", [philox_reference, philox_native, contract.philox], ids=["reference", "cpu", "tests"]
)


@RUNNERS
@pytest.mark.parametrize("line", read("philox.txt"), ids=lambda line: line[2])
def test_random123_known_answers(philox, line):
    assert line[:2] == ["philox4x32", "10"]
    numbers = [int(word, 16) for word in line[2:]]
    assert philox(tuple(numbers[:4]), tuple(numbers[4:6])) == tuple(numbers[6:])


def test_three_implementations_agree():
    # Words of all zeros and of all ones reach every carry of the 16-bit products.
    edges = (0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    for i in range(300):
        *counter, k0, k1 = (edges[i * p % 7] ^ (i * i * p if i > 49 else 0) for p in range(1, 7))
        counter, key = tuple(counter), (k0, k1)
        expected = contract.philox(counter, key)
        assert philox_reference(counter, key) == expected
        assert philox_native(counter, key) == expected


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_known_answers(kind, backend):
    lines = [line[1:] for line in read("draws.txt") if line[0] == kind]
    assert len(lines) > 5
    for seed, sample, draws, draw, *answers in lines:
        spec = make_spec((int(draws),), kind, seed=int(seed))
        got = [noise(spec, int(sample), 1, dtype=torch.float64, backend=backend)]
        if kind != "uniform":
            got.append(unit_scores(spec, int(sample), 1, backend=backend))
        for values, answer in zip(got, answers, strict=False):
            exact = kind in EXACT
            bound = 0 if exact else TOLERANCE * (1 + abs(float(answer)))
            assert abs(values[0, int(draw)].item() - float(answer)) <= bound, (seed, sample, draw)
