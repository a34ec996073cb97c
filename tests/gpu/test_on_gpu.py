"""What only a GPU can show; on a machine without one, all of it is skipped."""

import pytest
import torch

import fwdgrad
from fwdgrad_kernels import accumulate_, backend_for, cuda, perturb, triton
from fwdgrad_kernels.testing import SCORED, make_spec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

SHAPE = (3, 64, 48)
BACKENDS = pytest.mark.parametrize("backend", ["cuda", "triton"])


def spec_of(kind="normal", **options):
    return make_spec(SHAPE, kind, 0.3, seed=2**63 + 5, **options)


@BACKENDS
@pytest.mark.parametrize("kind", SCORED)
def test_the_cpu_backend_draws_the_same(backend, kind):
    spec, x, weights = spec_of(kind, block=20), torch.rand(SHAPE), torch.randn(9)
    there = perturb(x.cuda(), spec, 2**32 - 4, 9, backend=backend).cpu()
    here = perturb(x, spec, 2**32 - 4, 9)
    size = 1 + ((here - x) / 0.3).abs()
    assert bool(((there - here).abs() <= 4e-6 * size).all())
    there = accumulate_(torch.zeros(SHAPE).cuda(), weights.cuda(), spec, 5, backend=backend).cpu()
    torch.testing.assert_close(
        there, accumulate_(torch.zeros(SHAPE), weights, spec, 5), rtol=1e-5, atol=1e-4
    )


@BACKENDS
def test_captured_in_a_graph(backend):
    spec, x = spec_of("hadamard", block=20), torch.rand(SHAPE, device="cuda")
    out, total = torch.empty(4, *SHAPE, device="cuda"), torch.zeros(SHAPE, device="cuda")
    weights = torch.ones(4, device="cuda")

    def step():
        perturb(x, spec, 4, 4, out=out, backend=backend)
        accumulate_(total, weights, spec, 4, backend=backend)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()  # compiles
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    x.copy_(torch.rand(SHAPE))
    out.fill_(torch.nan)
    total.zero_()
    graph.replay()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, perturb(x, spec, 4, 4, backend=backend))
    once = accumulate_(torch.zeros_like(total), weights, spec, 4, backend=backend)
    assert torch.equal(total, accumulate_(once, weights, spec, 4, backend=backend))


@BACKENDS
def test_runs_on_the_current_stream(backend):
    """Behind work that keeps a second stream busy, and not beside it."""
    spec, new = spec_of(block=20), torch.rand(SHAPE, device="cuda")
    expected = perturb(new, spec, 0, 4, backend=backend)
    x, out = torch.zeros(SHAPE, device="cuda"), torch.zeros(4, *SHAPE, device="cuda")
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # cycles
        x.copy_(new)
        perturb(x, spec, 0, 4, out=out, backend=backend)
    assert not side.query()  # the launch has not waited for it
    side.synchronize()
    assert torch.equal(out, expected)


@BACKENDS
def test_out_of_memory_halves_the_batch(backend):
    """A real allocator with a limit: the run ends with the map of small batches."""
    x = torch.rand(3, 256, 256, device="cuda")
    weights = torch.randn(3, 256, 256, device="cuda", generator=torch.Generator("cuda"))

    def model(batch):  # each sample by itself, so that its score does not depend on the batch
        return torch.stack([(sample * weights).sum() for sample in batch])

    method = fwdgrad.ForwardGradient(scale=0.1)
    settings = {"method": method, "n_samples": 512, "backend": backend}
    expected = fwdgrad.explain(model, x, batch_size=16, **settings).attribution
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    limit = torch.cuda.memory_reserved() + 200 * x.nbytes
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        got = fwdgrad.explain(model, x, batch_size=512, **settings).attribution
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(got, expected)


def test_auto_takes_the_cuda_kernels():
    assert not cuda.missing(torch.device("cuda"))
    assert not triton.missing()
    assert backend_for(torch.device("cuda")) == "cuda"


@BACKENDS
def test_devices_that_differ_are_refused(backend):
    spec, x = spec_of(), torch.rand(SHAPE, device="cuda")
    with pytest.raises(ValueError, match="out must be on cuda:0, got cpu"):
        perturb(x, spec, 0, 2, out=torch.empty(2, *SHAPE), backend=backend)
    with pytest.raises(ValueError, match="weights must be on cuda:0, got cpu"):
        accumulate_(x, torch.ones(2), spec, 0, backend=backend)
    with pytest.raises(ValueError, match="backend 'cpu' needs tensors on the CPU"):
        perturb(x, spec, 0, 2, backend="cpu")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@BACKENDS
def test_the_tensors_device_counts_and_not_the_current_one(backend):
    spec, x = spec_of(block=20), torch.rand(SHAPE)
    with torch.cuda.device(0):
        there = perturb(x.to("cuda:1"), spec, 0, 3, backend=backend)
        assert torch.cuda.current_device() == 0
    torch.cuda.synchronize(1)
    assert torch.equal(there.cpu(), perturb(x.to("cuda:0"), spec, 0, 3, backend=backend).cpu())
