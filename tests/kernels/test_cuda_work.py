"""How work is cut for the CUDA kernels: the same bits however it is, and the kernel of regions."""

import pytest
import torch
from covering import covering

from fwdgrad_kernels import Grid, accumulate_, cuda, perturb, reference
from fwdgrad_kernels.testing import assert_samples, assert_sums, case_id, cells, linear, make_spec

pytestmark = pytest.mark.slow

SEED = 2**63 + 11

CUT = [{}, {"block": 4}, linear(3, 3), cells(2, 3, share_channels=True)]


@pytest.mark.parametrize("kind", ["normal", "rademacher", "hadamard"])
@pytest.mark.parametrize("options", CUT, ids=lambda options: case_id(((2, 5, 7), options)))
def test_chunks_may_be_shared_out_or_cut(on_cpu, kind, options, monkeypatch):
    """The same bits where chunks are shared out, where not, and where draws are a few at a time."""
    spec = make_spec((2, 5, 7), kind, seed=SEED, **options)
    first, weights = 2**32 - 300, torch.randn(700, generator=torch.Generator().manual_seed(0))
    launched = []
    launch = on_cpu.accumulate

    def accumulate(*arguments):
        launched.append((bool(arguments[6]), arguments[-3]))  # scratch memory, samples
        launch(*arguments)

    monkeypatch.setattr(cuda, "module", Sees(on_cpu, accumulate=accumulate))
    sums = []
    for setting in ({}, {"SCRATCH": 0}, {"SAMPLES": 100}, {"SAMPLES": 512}):
        with monkeypatch.context() as patch:
            for name, value in setting.items():
                patch.setattr(cuda, name, value)
            total, square = torch.ones(2, *spec.shape)
            accumulate_(total, weights, spec, first, square, backend="cuda")
            sums.append(torch.stack((total, square)))
    assert launched == [
        (True, 700),
        (False, 700),
        *[(True, count) for count in (44, 100, 100, 56, 100, 100, 56, 100, 44)],
        (True, 300),
        (True, 400),
    ]
    assert all(torch.equal(sums[0], other) for other in sums[1:])
    assert_sums(*sums[0], weights, spec, first, before=1.0)


class Sees:
    """A module, some of whose functions are others."""

    def __init__(self, module, **others):
        self.__dict__.update(others)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.mark.parametrize("kind", ["normal", "hadamard"])
@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [((3, 9, 11), linear(2, 2), 20), ((2, 5, 6, 7), linear(2, 3, 3), 1), ((4, 5), {}, 1)],
)
def test_draws_are_held_a_few_samples_at_a_time(on_cpu, kind, shape, options, words, monkeypatch):
    spec, drawn = make_spec(shape, kind, seed=SEED, **options), []
    draw, x = on_cpu.draw, torch.randn(shape)
    expected = perturb(x, spec, 5, 9, backend="cuda")

    def record(*arguments):
        drawn.append(arguments[4] * arguments[1])  # samples and words for each
        draw(*arguments)

    monkeypatch.setattr(cuda, "module", Sees(on_cpu, draw=record))
    monkeypatch.setattr(cuda, "WORDS", words)
    assert torch.equal(perturb(x, spec, 5, 9, backend="cuda"), expected)
    one = 4 * -(-spec.draws // (4 if kind == "normal" else 128))
    assert sum(drawn) == (9 * one if options else 0)  # elements have no table
    assert max(drawn, default=0) <= max(words, one)


# Linear grids of signs without blocks or jitter have a kernel of their own: for three planes at a
# time or one, side by side or not, and rows that do and do not hold whole fours.
@covering(
    shape=((3, 8, 12), (3, 7, 9), (1, 5, 6), (2, 9, 8), (6, 3, 4), (13, 5)),
    cell=((4, 4), (1, 2), (3, 1), (2, 5)),
    dtype=(torch.float32, torch.float16, torch.float64),
)
def test_signs_on_a_linear_grid(on_cpu, shape, cell, dtype):
    if len(shape) < 3 or shape[1] < cell[0] or shape[2] < cell[1]:
        cell = (2, 3)
    random = torch.Generator().manual_seed(0)
    x, baseline = torch.randn(2, *shape, generator=random).to(dtype)
    spec = make_spec(shape, "hadamard", 0.5, features=Grid(cell), seed=SEED)
    first, blend = 2**32 // spec.group * spec.group - 2, {"baseline": baseline, "position": 0.5}
    made = perturb(x, spec, first, 5, pairs=True, backend="cuda", **blend)
    assert_samples(made[:5], x, spec, first, **blend)
    assert_samples(made[5:], x, spec, first, sign=-1, **blend)
    assert_samples(perturb(x, spec, first, 5, backend="cuda"), x, spec, first)
    if len(shape) == 3:
        last = x[None].contiguous(memory_format=torch.channels_last)[0]
        assert torch.equal(perturb(last, spec, first, 5, backend="cuda", pairs=True, **blend), made)
    # Where all four signs around are one, the sample is x or the baseline to the bit; cells are
    # that large that some are.
    drawn = reference.unit(spec, first, 5)
    whole = made[:5].double()
    assert torch.equal(whole[drawn == -1], baseline.double().expand(5, *shape)[drawn == -1])
