"""The ops as torch sees them: registration, compilation, empty inputs, choice of backend."""

import importlib.util
import sys

import pytest
import torch
import torch.fx.experimental.proxy_tensor

import fwdgrad_kernels
from fwdgrad_kernels import (
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    accumulate_features_,
    backend_for,
    backends,
    blocks,
    expand,
    native,
    noise,
    perturb,
)
from fwdgrad_kernels.testing import assert_samples, assert_sums, cells

SHAPE = (3, 5, 7)
CPU = torch.device("cpu")
BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spec_of(mapped=False, **options):
    return NoiseSpec(SHAPE, scale=random(*SHAPE, seed=1) if mapped else 0.5, seed=1, **options)


# ---- torch.library -----------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True], ids=["number", "map"])
def test_opcheck_perturb(mapped):
    spec = spec_of(mapped, block=3)
    scale_map, scale = (spec.scale, 1.0) if mapped else (None, spec.scale)
    baseline = (None, False, 1.0) if mapped else (random(SHAPE[0], 1, 1), True, 0.5)
    arguments = ("cpu", torch.empty(4, *SHAPE), random(*SHAPE), scale_map, None, [0.0] * 6)
    more = (*baseline, scale, list(spec.encoded), None, 3, None, mapped, -1.0, 1.0)
    torch.library.opcheck(torch.ops.fwdgrad_kernels.perturb_.default, (*arguments, *more))


@pytest.mark.parametrize("squared", [False, True], ids=["total", "square"])
def test_opcheck_accumulate(squared):
    square = torch.zeros(SHAPE) if squared else None
    arguments = ("cpu", torch.zeros(SHAPE), square, random(4), list(spec_of(block=3).encoded), 3)
    torch.library.opcheck(torch.ops.fwdgrad_kernels.accumulate_.default, arguments)


def test_opcheck_expand():
    spec = spec_of(features=Grid(2))
    out, values = torch.empty(1, *spec.shape[1:]), random(spec.draws)
    arguments = ("cpu", out, values, list(spec.encoded), 3, True)
    torch.library.opcheck(torch.ops.fwdgrad_kernels.expand_.default, arguments)


def test_opcheck_blocks():
    arguments = ("cpu", torch.empty(4, 2, 2, dtype=torch.int64), list(spec_of(block=3).encoded), 3)
    torch.library.opcheck(torch.ops.fwdgrad_kernels.blocks_.default, arguments)


@pytest.mark.parametrize(
    "mapped",
    [pytest.param(False, id="number"), pytest.param(True, id="map", marks=pytest.mark.slow)],
)
def test_compiled_without_a_graph_break(mapped):
    def step(x, total, square, spec, first, count):
        samples = perturb(x, spec, first, count, clip=(-1, 1))
        accumulate_(total, samples.sum((1, 2, 3)), spec, first, square)
        return samples, spec.gradient(total, first + count), blocks(spec, first, count)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x, spec = random(*SHAPE), spec_of(mapped, block=3, **cells(2, 2))
    sums, eager_sums = torch.zeros(2, 2, *SHAPE)
    for first in (0, 4, 8, 2**33):  # the loop of a stream: numbers that change from call to call
        got = compiled(x, *sums, spec, first, 4)
        expected = step(x, *eager_sums, spec, first, 4)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert torch.equal(sums, eager_sums)
    assert bool((sums != 0).any())


@pytest.mark.slow
def test_features_are_compiled_without_a_graph_break():
    groups = {"distribution": "rademacher", "design": "hadamard"}
    grid, labels = spec_of(features=Grid(3), **groups), spec_of(features=Labels(torch.arange(7)))
    order = torch.arange(grid.draws).flip(0) + 1
    ordered = spec_of(features=Grid(3, order=order), **groups)

    def step(x, weights, first):
        results = []
        for spec in (grid, ordered, labels):
            samples = perturb(x, spec, first, 4, baseline=0.25, position=0.5)
            total = accumulate_(torch.zeros(SHAPE), weights, spec, first)
            sums = accumulate_features_(torch.zeros(spec.draws), weights, spec, first)
            results += [samples, total, sums, expand(sums, spec)]
        return results

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    arguments = random(*SHAPE), random(4), 8
    got, expected = compiled(*arguments), step(*arguments)
    assert len(got) == 12
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("compiled", [True, False], ids=["module", "no module"])
def test_meta_tensors_have_shapes_and_no_values(compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native, "module", None)
    x, total, square = torch.zeros(3, *SHAPE, device="meta")
    spec = spec_of(block=3)
    samples = perturb(x, spec, 0, 4)
    assert (samples.shape, samples.device.type) == ((4, *SHAPE), "meta")
    assert accumulate_(total, samples.sum((1, 2, 3)), spec, 0, square) is total
    for inspected, shape in ((noise, SHAPE), (blocks, (2, 2))):
        result = inspected(spec, 0, 4, device="meta")
        assert (result.shape, result.device.type) == ((4, *shape), "meta")


def test_traced_with_fake_tensors():
    # make_fx and other tracers run the function on tensors that have no memory to compare.
    spec = spec_of(block=3)

    def step(x, total, square):
        return accumulate_(total, perturb(x, spec, 0, 4).sum((1, 2, 3)), spec, 0, square)

    def arguments():
        return random(*SHAPE), torch.zeros(SHAPE), torch.zeros(SHAPE)

    traced = torch.fx.experimental.proxy_tensor.make_fx(step, tracing_mode="fake")(*arguments())
    assert torch.equal(traced(*arguments()), step(*arguments()))


# ---- tensors as they come ----------------------------------------------------------------


@BACKEND
def test_non_contiguous_inputs(backend):
    spec, weights = spec_of(mapped=True), random(8)[::2]
    spec = NoiseSpec(SHAPE, "normal", spec.scale.permute(2, 1, 0).contiguous().permute(2, 1, 0))
    x = random(7, 5, 3).permute(2, 1, 0)
    assert not x.is_contiguous()
    assert not spec.scale.is_contiguous()
    assert not weights.is_contiguous()
    samples = perturb(x, spec, 2, 4, backend=backend)
    assert samples.is_contiguous()
    assert_samples(samples, x, spec, 2)
    total = accumulate_(torch.zeros(SHAPE), weights, spec, 2, backend=backend)
    assert_sums(total, None, weights, spec, 2)


@BACKEND
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0), (0, 3, 4), (2, 3, 0)], ids=str)
def test_empty_inputs(shape, backend):
    spec = NoiseSpec(shape, seed=1)
    assert perturb(torch.zeros(shape), spec, 0, 3, backend=backend).shape == (3, *shape)
    assert accumulate_(torch.zeros(shape), torch.ones(3), spec, 0, backend=backend).shape == shape
    assert blocks(spec, 0, 3, backend=backend).shape == (3, min(2, len(shape)), 2)
    assert spec.coverage == 1
    assert spec.gradient(torch.zeros(shape), 3).shape == shape


@BACKEND
def test_no_samples(backend):
    spec, total = spec_of(block=2), torch.ones(SHAPE)
    assert perturb(torch.zeros(SHAPE), spec, 5, 0, backend=backend).shape == (0, *SHAPE)
    assert accumulate_(total, torch.ones(0), spec, 5, total.clone(), backend=backend) is total
    assert bool((total == 1).all())
    assert noise(spec, 5, 0, backend=backend).shape == (0, *SHAPE)
    assert blocks(spec, 5, 0, backend=backend).shape == (0, 2, 2)


@BACKEND
def test_nothing_is_differentiated(backend):
    spec = spec_of()
    x, weights = random(*SHAPE).requires_grad_(), random(4).requires_grad_()
    assert not perturb(x, spec, 0, 4, backend=backend).requires_grad
    assert not accumulate_(torch.zeros(SHAPE), weights, spec, 0, backend=backend).requires_grad


@BACKEND
def test_numbers_that_are_not_finite_stay_where_they_are(backend):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1.0])
    spec = NoiseSpec((4,), "rademacher", 0.5, seed=1)
    samples = perturb(x, spec, 0, 9, clip=(-3.0, 3.0), backend=backend)
    assert bool(samples[:, 0].isnan().all())
    assert samples[:, 1:3].unique().tolist() == [-3.0, 3.0]
    assert samples[:, 3].unique().tolist() == [0.5, 1.5]
    total = accumulate_(torch.zeros(4), torch.tensor([1.0, torch.nan]), spec, 0, backend=backend)
    assert bool(total.isnan().all())


@pytest.mark.parametrize(
    "options",
    [
        {"distribution": "cauchy"},
        {"block": 2},
        {"distribution": "rademacher", "design": "hadamard"},
    ],
    ids=str,
)
def test_noise_is_what_perturb_adds(options):
    spec, x = spec_of(mapped=True, **options), random(*SHAPE).double()
    added = noise(spec, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(perturb(x, spec, 3, 6) - x, added, rtol=1e-12, atol=1e-12)
    # The antithetic samples mirror it.
    torch.testing.assert_close(perturb(x, spec, 3, 6, sign=-1) - x, -added, rtol=1e-12, atol=1e-12)


def test_sums_add_to_what_is_there():
    spec, weights = spec_of(), random(4)
    total = accumulate_(torch.full(SHAPE, 2.0, dtype=torch.float64), weights, spec, 0)
    assert_sums(total, None, weights, spec, 0, before=2.0)


# ---- backends ----------------------------------------------------------------------------


@pytest.fixture
def used(monkeypatch):
    """The names of the backends that ran, in order."""
    names = []
    module, reference = native.module, importlib.import_module("fwdgrad_kernels.reference")
    real_perturb, real_reference = module.perturb, reference.perturb

    class Spy:
        is_writable = staticmethod(module.is_writable)

        def perturb(self, *arguments):
            names.append("cpu")
            return real_perturb(*arguments)

    def spy(*arguments):
        names.append("reference")
        return real_reference(*arguments)

    monkeypatch.setattr(native, "module", Spy())
    monkeypatch.setattr(reference, "perturb", spy)
    return names


def test_choice_of_backend(used, monkeypatch):
    def call(**options):
        perturb(torch.zeros(SHAPE), spec_of(), 0, 1, **options)
        return used.pop()

    monkeypatch.delenv("FWDGRAD_BACKEND", raising=False)
    assert call() == "cpu"
    assert call(backend="reference") == "reference"
    monkeypatch.setenv("FWDGRAD_BACKEND", "reference")
    assert call() == "reference"
    assert call(backend="cpu") == "cpu"  # an argument is stronger than the environment
    monkeypatch.setenv("FWDGRAD_BACKEND", "auto")
    assert call() == "cpu"


def test_without_the_compiled_module(monkeypatch):
    monkeypatch.delenv("FWDGRAD_BACKEND", raising=False)
    spec, x, weights = spec_of(block=3), random(*SHAPE), random(4)

    def results():
        return (
            perturb(x, spec, 0, 4),
            accumulate_(torch.zeros(SHAPE), weights, spec, 0),
            noise(spec, 0, 4),
            blocks(spec, 0, 4).float(),
        )

    expected = results()
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "_absent", "no compiler was found")
    assert backend_for(CPU) == "reference"
    for got, wanted in zip(results(), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(RuntimeError, match="'cpu' is not available: no compiler was found"):
        perturb(x, spec, 0, 4, backend="cpu")
    monkeypatch.setenv("FWDGRAD_BACKEND", "cpu")
    with pytest.raises(RuntimeError, match="no compiler was found"):
        blocks(spec, 0, 4)


def test_a_broken_module_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "fwdgrad_kernels._C", None)
    monkeypatch.delattr(fwdgrad_kernels, "_C")
    spec = importlib.util.spec_from_file_location("native_again", native.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert again.module is None
    assert again.missing().startswith("the compiled module does not load (")
    assert "pip install -e ." in again.missing()
    monkeypatch.delenv("FWDGRAD_BACKEND", raising=False)
    monkeypatch.setattr(backends, "native", again)
    assert noise(NoiseSpec((2,)), 0, 3).shape == (3, 2)
