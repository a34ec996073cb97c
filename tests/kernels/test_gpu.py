"""The CUDA and Triton kernels against the reference: on a GPU, or on what stands in for one.

What no machine without a GPU shows is how fast they are. That they compile for every target, and
without spills, test_triton.py and test_machine_code.py show.
"""

import itertools

import gpu
import pytest
import torch
from covering import covering
from torch._subclasses.fake_tensor import FakeTensorMode

from fwdgrad_kernels import (
    NoiseSpec,
    accumulate_,
    blocks,
    cuda,
    noise,
    perturb,
    triton,
)
from fwdgrad_kernels.testing import (
    EXACT,
    KINDS,
    SCORED,
    SHARED,
    assert_samples,
    assert_sums,
    case_id,
    cells,
    linear,
    make_spec,
)

DEVICE = gpu.DEVICE
SEED = 2**63 + 11


def some_id(value):
    return value if isinstance(value, str) else case_id(value)


def every_kind(kinds):
    values = [pytest.param(*row, marks=gpu.marks_of(row)) for row in gpu.cases_and_kinds(kinds)]
    return pytest.mark.parametrize(("name", "case", "kind"), values, ids=some_id)


def random(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)


def first_of(spec):
    """A sample beyond 2^32 from which three samples straddle two Hadamard groups."""
    return (2**32 // spec.group + 1) * spec.group - 1


@every_kind(KINDS)
def test_perturb(name, case, kind, request):
    gpu.use(name, request)
    shape, options = case
    spec = make_spec(shape, kind, 0.7, seed=SEED, **options)
    first, x = first_of(spec), random(*shape)
    out = torch.full((6, *shape), torch.nan, device=DEVICE)
    perturb(x, spec, first, 3, out=out, pairs=True, backend=name)
    assert_samples(out[:3], x, spec, first)
    assert_samples(out[3:], x, spec, first, sign=-1)
    if kind in EXACT and not spec.view.linear:
        unit = make_spec(shape, kind, 1.0, seed=SEED, **options)
        drawn, expected = (
            noise(unit, first, 3, device=DEVICE, backend=backend) for backend in (name, "reference")
        )
        assert torch.equal(drawn, expected)


@every_kind(SCORED)
def test_accumulate(name, case, kind, request):
    gpu.use(name, request)
    shape, options = case
    spec = make_spec(shape, kind, 0.7, seed=SEED, **options)
    first, weights = first_of(spec), random(3)
    sums = torch.zeros(2, *shape, device=DEVICE)
    accumulate_(sums[0], weights, spec, first, sums[1], backend=name)
    assert_sums(*sums, weights, spec, first)
    alone = accumulate_(torch.ones(shape, device=DEVICE), weights, spec, first, backend=name)
    assert_sums(alone, None, weights, spec, first, before=1.0)


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(n, c, marks=gpu.marks_of([n, c])) for n in gpu.BACKENDS for c in gpu.cases(n)],
    ids=some_id,
)
def test_blocks(name, case, request):
    gpu.use(name, request)
    shape, options = case
    spec = NoiseSpec(shape, seed=SEED, **options)
    for first in (0, 2**32 - 2, 2**62):
        placed = blocks(spec, first, 130, device=DEVICE, backend=name).cpu()
        assert torch.equal(placed, blocks(spec, first, 130, backend="reference"))


@covering(
    gpu_backend=gpu.BACKENDS,
    distribution=("normal", "rademacher"),
    dtype=(torch.float64, torch.float16, torch.bfloat16),
    clip=(None, (-0.5, 0.625)),
)
def test_dtypes_maps_and_clips(gpu_backend, distribution, dtype, clip):
    scale = random(3, 9, 11).abs().to(torch.float64 if dtype == torch.float64 else torch.float32)
    scale[0, 1] = 0.0
    spec = NoiseSpec((3, 9, 11), distribution, scale, block=5, seed=SEED)
    x = random(3, 9, 11, dtype=dtype)
    out = torch.full((8, 3, 9, 11), torch.nan, dtype=dtype, device=DEVICE)
    perturb(x, spec, 5, 4, clip=clip, out=out, pairs=True, backend=gpu_backend)
    assert_samples(out[:4], x, spec, 5, clip=clip or (-torch.inf, torch.inf))
    assert_samples(out[4:], x, spec, 5, sign=-1, clip=clip or (-torch.inf, torch.inf))
    if clip is None:
        assert torch.equal(out[:, 0, 1], x[0, 1].expand(8, -1))  # frozen


def test_nan_and_infinity_come_through(any_backend):
    x = random(4, 8)
    x[0, 0], x[1, 1], x[2, 2] = torch.nan, torch.inf, -torch.inf
    out = perturb(x, NoiseSpec((4, 8), seed=1), 0, 2, backend=any_backend)
    assert bool(out[:, 0, 0].isnan().all())
    assert bool((out[:, 1, 1] == torch.inf).all())
    assert bool((out[:, 2, 2] == -torch.inf).all())


# Widths that are and are not a multiple of four; the images' fast path and the others.
LAST = (
    ((3, 8, 12), {}),
    ((3, 10, 14), {"block": (4, 9)}),
    ((3, 9, 11), {"block": 5}),
    ((5, 8, 12), {"block": (8, 4)}),
    ((2, 9, 11), {}),
    ((3, 17, 19), {"block": 9, **linear(5, 5, share_channels=True)}),
    ((4, 33, 6), cells(3, 3)),
    ((3, 7, 9), SHARED),
)


def channels_last(x):
    return x.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0]


@covering(
    any_backend=gpu.EVERY,
    case=LAST,
    kind=("normal", "hadamard", "cauchy"),
    dtype=(torch.float32, torch.float64, torch.bfloat16),
)
def test_channels_last(any_backend, case, kind, dtype):
    """The same values, laid out as the input is."""
    shape, options = case
    scale = random(*shape).to(torch.float64 if dtype == torch.float64 else torch.float32)
    spec = make_spec(shape, kind, scale, seed=SEED, **options)
    x = random(*shape, dtype=dtype)
    settings = {"clip": (-1.0, 1.5), "pairs": True, "backend": any_backend}
    expected = perturb(x, spec, 7, 3, **settings)
    made = perturb(channels_last(x), spec, 7, 3, **settings)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made, expected)
    out = torch.full_like(made, torch.nan)
    perturb(x, spec, 7, 3, out=out, **settings)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, expected)


HELD = (
    ((3, 17, 19), {"block": 5}),
    ((2, 33, 36), {"block": (9, 11)}),
    ((2600,), {"block": 300}),
    ((3, 17, 19), {"block": 6, **linear(5, 5, share_channels=True)}),
    ((3, 17, 19), {}),
)


@covering(any_backend=gpu.EVERY, case=HELD, clip=(None, (-0.5, 0.625)), last=("contiguous", "last"))
def test_held(any_backend, case, clip, last):
    """Restores the last blocks and writes the new ones, and nothing else."""
    shape, options = case
    spec, x = NoiseSpec(shape, seed=SEED, scale=0.7, **options), random(*shape)
    if last == "last" and len(shape) == 3:
        x = channels_last(x)
    settings = {"clip": clip, "pairs": True, "backend": any_backend}
    out = perturb(x, spec, 40, 4, **settings)
    expected = perturb(x, spec, 44, 4, **settings)
    perturb(x, spec, 44, 4, out=out, held=40, **settings)
    assert torch.equal(out, expected)


def test_float64_sums(gpu_backend):
    spec = NoiseSpec((3, 9, 11), "logistic", 0.7, block=5, seed=SEED)
    sums = torch.zeros(2, 3, 9, 11, dtype=torch.float64, device=DEVICE)
    weights = random(5, dtype=torch.float64)
    accumulate_(sums[0], weights, spec, 3, sums[1], backend=gpu_backend)
    assert_sums(*sums, weights, spec, 3)


@covering(gpu_backend=gpu.BACKENDS, kind=("normal", "hadamard"), options=({}, linear(4, 4)))
def test_same_bits_for_calls_cut_at_chunks(gpu_backend, kind, options):
    spec = make_spec((2, 11, 13), kind, 0.7, block=(5, 9), seed=SEED, **options)
    weights, first = random(14), 2**32 - 6
    sums = []
    for cuts in ((), (6,)):
        total, square = torch.zeros(2, *spec.shape, device=DEVICE)
        for start, stop in itertools.pairwise((0, *cuts, len(weights))):
            accumulate_(
                total, weights[start:stop], spec, first + start, square, backend=gpu_backend
            )
        sums.append(torch.stack((total, square)))
    assert torch.equal(*sums)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_misaligned_memory(any_backend, offset):
    """Views that start in the middle of 16 bytes; what lies around them stays."""
    shape = (3, 8, 12)
    spec, count = NoiseSpec(shape, seed=SEED), 3
    size = spec.numel
    store = torch.full((count * size + 8,), torch.nan, device=DEVICE)
    out = store[offset : offset + count * size].view(count, *shape)
    x = torch.cat((torch.zeros(offset, device=DEVICE), random(size)))[offset:].view(shape)
    perturb(x, spec, 5, count, out=out, backend=any_backend)
    assert_samples(out, x, spec, 5)
    assert bool(store[:offset].isnan().all())
    assert bool(store[offset + count * size :].isnan().all())


def test_nothing_to_do(gpu_backend):
    spec = NoiseSpec((3, 9, 11), block=5)
    assert perturb(random(3, 9, 11), spec, 0, 0, backend=gpu_backend).shape == (0, 3, 9, 11)
    assert blocks(spec, 0, 0, device=DEVICE, backend=gpu_backend).shape == (0, 2, 2)
    total = torch.ones(3, 9, 11, device=DEVICE)
    assert torch.equal(accumulate_(total, total[:0, 0, 0], spec, 0, backend=gpu_backend), total)
    empty = NoiseSpec((0, 3), seed=1)
    zero = torch.zeros(0, 3, device=DEVICE)
    assert perturb(zero, empty, 0, 2, backend=gpu_backend).shape == (2, 0, 3)


def test_more_samples_than_a_table_holds(gpu_backend, monkeypatch):
    """Placements are held for so many samples at once."""
    if gpu_backend == "cuda":
        monkeypatch.setattr(cuda, "SAMPLES", 3)
    else:
        from fwdgrad_kernels.triton import launch

        monkeypatch.setattr(launch, "_SAMPLES", 3)
    spec, weights = NoiseSpec((6, 7), block=3, seed=SEED), random(8)
    total = accumulate_(torch.zeros(6, 7, device=DEVICE), weights, spec, 9, backend=gpu_backend)
    assert_sums(total, None, weights, spec, 9)


@pytest.mark.slow
@pytest.mark.parametrize("name", gpu.BACKENDS)
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels-last"])
def test_compiled_for_a_gpu_without_a_graph_break(name, last, monkeypatch):
    """On tensors of a GPU that have no memory; what is captured is one graph with the three ops."""
    monkeypatch.setattr({"cuda": cuda, "triton": triton}[name], "missing", lambda device=None: "")
    monkeypatch.setattr({"cuda": cuda, "triton": triton}[name], "serves", lambda device: True)
    spec, graphs = NoiseSpec((3, 8, 8), block=3), []

    def step(x, total, square, first, count):
        samples = perturb(x, spec, first, count, clip=(-1, 1), pairs=True, backend=name)
        weights = samples.narrow(0, 0, count).sum((1, 2, 3))
        accumulate_(total, weights, spec, first, square, backend=name)
        placed = blocks(spec, first, count, device=x.device, backend=name)
        return samples, spec.gradient(total, first + count), placed

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with FakeTensorMode(allow_non_fake_inputs=True):
        x, total, square = (torch.empty(3, 8, 8, device="cuda") for _ in range(3))
        if last:
            format = torch.channels_last
            x = torch.empty(1, 3, 8, 8, device="cuda", memory_format=format).squeeze(0)
        for first in (4, 8, 2**33):
            compiled = torch.compile(step, fullgraph=True, backend=keep)
            samples, gradient, placed = compiled(x, total, square, first, 4)
    assert (samples.shape, gradient.shape, placed.shape) == ((8, 3, 8, 8), (3, 8, 8), (4, 2, 2))
    assert samples.is_contiguous(memory_format=torch.channels_last) is last
    ops = [node for node in graphs[0].graph.nodes if "fwdgrad" in str(node.target)]
    assert len(ops) == 3
    assert all(node.args[0] == name for node in ops)
