"""Memory that is not there, may not be written, or is not a tensor's own: an error, and no crash.

Cases that once ended the process, wrote where they must not, or lost a derivative without a word.
"""

import warnings

import gpu
import numpy as np
import pytest
import torch
import torch.utils._python_dispatch
from torch._subclasses.fake_tensor import FakeTensorMode

from fwdgrad_kernels import (
    AdaptiveScale,
    Grid,
    Labels,
    NoiseSpec,
    Perturber,
    accumulate_,
    blocks,
    cuda,
    native,
    noise,
    path_positions,
    perturb,
)
from fwdgrad_kernels import triton as triton_backend
from fwdgrad_kernels.testing import cells, linear, make_spec, ordered

SHAPE = (2, 6)
BACKEND = pytest.mark.parametrize("backend", ["cpu", "reference"])


def freed(*shape):
    """A tensor whose memory was given back."""
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(0)
    return tensor


def fake(*shape):
    """A tensor without values, outside of its mode."""
    with FakeTensorMode():
        return torch.zeros(shape)


def read_only(tmp_path, *shape):
    """A tensor over a file that is mapped for reading."""
    np.ones(shape, np.float32).tofile(tmp_path / "values")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says so once a process
        return torch.from_numpy(np.memmap(tmp_path / "values", np.float32, "r", shape=shape))


def call(op, backend, **change):
    """One call of an op, with what is changed."""
    given = {"x": torch.zeros(SHAPE), "scale": 0.5, "out": None, "total": torch.zeros(SHAPE)}
    given |= {"weights": torch.ones(3), "square": None, **change}
    spec = NoiseSpec(SHAPE, scale=given["scale"], block=2, seed=1)
    if op == "perturb":
        return perturb(given["x"], spec, 0, 3, out=given["out"], backend=backend)
    total, weights, square = given["total"], given["weights"], given["square"]
    return accumulate_(total, weights, spec, 0, square, backend=backend)


NAMES = [("perturb", "x", SHAPE), ("perturb", "out", (3, *SHAPE)), ("perturb", "scale", SHAPE)]
NAMES += [("accumulate", "total", SHAPE), ("accumulate", "square", SHAPE)]
NAMES += [("accumulate", "weights", (3,))]
EVERY = pytest.mark.parametrize(("op", "name", "shape"), NAMES, ids=[n for _, n, _ in NAMES])
WRITTEN = pytest.mark.parametrize(
    ("op", "name", "shape"), [c for c in NAMES if c[1] in ("out", "total", "square")]
)


@BACKEND
@EVERY
def test_freed(op, name, shape, backend):
    with pytest.raises(ValueError, match=f"^{name} must have its memory, got a storage of 0 bytes"):
        call(op, backend, **{name: freed(*shape)})


@BACKEND
@EVERY
def test_partly_freed(op, name, shape, backend):
    tensor = torch.ones(shape)
    tensor.untyped_storage().resize_(tensor.nbytes - 4)
    with pytest.raises(ValueError, match=f"^{name} .* {tensor.nbytes - 4} .*needs {tensor.nbytes}"):
        call(op, backend, **{name: tensor})


@BACKEND
def test_freed_after_the_spec_was_made(backend):
    scale = torch.ones(SHAPE)
    spec = NoiseSpec(SHAPE, scale=scale)
    scale.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^scale must have its memory"):
        perturb(torch.zeros(SHAPE), spec, 0, 3, backend=backend)
    with pytest.raises(ValueError, match=r"^scale must have its memory"):
        spec.gradient(torch.zeros(SHAPE), 3)


def test_freed_for_a_gradient():
    spec, adaptive = NoiseSpec(SHAPE), NoiseSpec(SHAPE, scale=AdaptiveScale(0.0, 1.0))
    for keywords in ({"total": freed(*SHAPE)}, {"out": freed(*SHAPE)}):
        with pytest.raises(ValueError, match="must have its memory"):
            spec.gradient(**{"total": torch.zeros(SHAPE), "count": 3, **keywords})
    with pytest.raises(ValueError, match=r"^x must have its memory"):
        adaptive.gradient(torch.zeros(SHAPE), 3, x=freed(*SHAPE))
    with pytest.raises(ValueError, match=r"^x must have the spec's shape \(2, 6\), got \(6, 2\)"):
        adaptive.gradient(torch.zeros(SHAPE), 3, x=torch.zeros(6, 2))
    with pytest.raises(ValueError, match=r"^x must have its memory"):
        AdaptiveScale(0.0, 1.0).of(freed(*SHAPE), "normal")


def test_views_that_end_within_their_storage_are_served():
    memory = torch.arange(40.0)
    x = memory[2:].as_strided(SHAPE, (18, 3), 4)  # its last element is the storage's 38th
    memory.untyped_storage().resize_(4 * 38)
    spec = NoiseSpec(SHAPE, "rademacher", 0.0)
    assert torch.equal(perturb(x, spec, 0, 1)[0], x.contiguous())
    memory.untyped_storage().resize_(4 * 37)
    with pytest.raises(ValueError, match=r"^x must have its memory, got a storage of 148 bytes"):
        perturb(x, spec, 0, 1)


@BACKEND
@WRITTEN
def test_read_only(op, name, shape, backend, tmp_path):
    tensor = read_only(tmp_path, *shape)
    others = {n: torch.zeros(s) for o, n, s in NAMES if o == op and n in ("total", "square")}
    with pytest.raises(ValueError, match=f"^{name} must be writable, got read-only memory"):
        call(op, backend, **{**others, name: tensor})
    others.pop(name, None)
    assert not any(other.any() for other in others.values())  # nothing was written beside it


def test_a_gradient_is_written_where_its_sum_is():
    with pytest.raises(ValueError, match=r"^out must be on cpu, got meta"):
        NoiseSpec(SHAPE, scale=0.0).gradient(torch.ones(SHAPE), 3, torch.ones(SHAPE, device="meta"))


def test_read_only_gradient(tmp_path):
    with pytest.raises(ValueError, match=r"^out must be writable"):
        NoiseSpec(SHAPE).gradient(torch.ones(SHAPE), 3, out=read_only(tmp_path, *SHAPE))


def test_read_only_memory_is_read(tmp_path):
    x = read_only(tmp_path, *SHAPE)
    spec = NoiseSpec(SHAPE, "rademacher", 0.0)
    assert torch.equal(perturb(x, spec, 0, 1)[0], torch.ones(SHAPE))


def test_asking_whether_memory_is_writable_leaves_it_alone(tmp_path):
    values = torch.arange(256, dtype=torch.uint8)
    for start in range(8):
        for length in (1, 2, 3, 4, 5, 100):
            assert native.module.is_writable(values.data_ptr() + start, length)
    assert torch.equal(values, torch.arange(256, dtype=torch.uint8))
    copied = np.memmap(tmp_path / "new", np.uint8, "w+", shape=(9000,))
    assert native.module.is_writable(copied.ctypes.data, 9000)
    assert not copied.any()


HUGE = 2**62


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("shape", [(1,), (2, 6), (0, 3)], ids=str)
@pytest.mark.parametrize("pairs", [False, True])
def test_counts_beyond_memory(shape, pairs, device):
    spec, x = NoiseSpec(shape), torch.zeros(shape, device=device)
    each = max(spec.numel, 1) * 4 * (2 if pairs else 1)
    most = (2**63 - 1) // each
    for count in (HUGE, most + 1):
        match = f"^count must be at most {most} for samples of {each}"
        with pytest.raises(ValueError, match=match):
            perturb(x, spec, 0, count, pairs=pairs)
    for call_, what in (
        (lambda: noise(spec, 0, HUGE), "samples"),
        (lambda: blocks(spec, 0, HUGE), "blocks of 32 bytes"),
        (lambda: path_positions(0, 0, HUGE), "positions of 8 bytes"),
    ):
        with pytest.raises(ValueError, match=f"^count must be at most [0-9]+ for {what}"):
            call_()


@pytest.mark.parametrize("shape", [(2**31, 2**31), (0, 2**62, 2**62), (2**40, 1, 2**40)], ids=str)
def test_shapes_beyond_memory(shape):
    with pytest.raises(ValueError, match=r"^shape must have at most 2\^60 elements"):
        NoiseSpec(shape, features=Grid((2**30, 2**30)))


# ---- tensors that are more than memory ---------------------------------------------------


def follows(transform):
    return {
        "grad": lambda f, t: torch.func.grad(lambda v: f(v).sum())(t),
        "vjp": lambda f, t: torch.func.vjp(f, t)[1](f(t)),
        "jvp": lambda f, t: torch.func.jvp(f, (t,), (torch.ones_like(t),)),
        "vmap": lambda f, t: torch.func.vmap(f)(t[None]),
        "dual": lambda f, t: dual(f, t),
    }[transform]


def dual(function, tensor):
    with torch.autograd.forward_ad.dual_level():
        return function(torch.autograd.forward_ad.make_dual(tensor, torch.ones_like(tensor)))


@pytest.mark.parametrize("transform", ["grad", "vjp", "jvp", "vmap", "dual"])
def test_derivatives_are_not_lost_without_a_word(transform):
    apply = follows(transform)
    spec = NoiseSpec(SHAPE)
    match = "must not be followed by torch.func"
    with pytest.raises(NotImplementedError, match=r"^x " + match):
        apply(lambda x: perturb(x, spec, 0, 3), torch.zeros(SHAPE))
    with pytest.raises(NotImplementedError, match=match):
        apply(lambda w: accumulate_(torch.zeros(SHAPE), w, spec, 0), torch.ones(3))
    with pytest.raises(NotImplementedError, match=r"^scale " + match):
        apply(
            lambda s: perturb(torch.zeros(SHAPE), NoiseSpec(SHAPE, scale=s), 0, 3),
            torch.ones(SHAPE),
        )


BESIDE = {
    "plain": (lambda: torch.zeros(SHAPE), {}),
    "a parameter": (lambda: torch.nn.Parameter(torch.ones(SHAPE)), {}),
    "transposed": (lambda: torch.ones(6, 2).T, {}),
    "a number": (lambda: torch.ones(SHAPE), {"baseline": 0.125}),
    "channels": (lambda: torch.ones(1, *SHAPE), {"baseline": torch.zeros(1, 1, 1)}),
    "a baseline": (lambda: torch.ones(SHAPE), {"baseline": torch.zeros(6, 2).T}),
}


@pytest.mark.parametrize(("make", "options"), BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("scale", [0.5, AdaptiveScale(-1.0, 2.0)], ids=["number", "adaptive"])
def test_a_model_may_be_differentiated_beside_the_ops(make, options, scale):
    # The ops in a transform of something else work as ever, and after it: what is kept of a
    # call is not the transform's.
    if options and not isinstance(scale, float):
        pytest.skip("a baseline wants a number")
    x, scale = make(), scale if isinstance(scale, float) else AdaptiveScale(-1.0, 2.0, 0.25)
    spec, out = NoiseSpec(x.shape, scale=scale), torch.zeros(3, *x.shape)

    def score(w, **given):
        return (w * perturb(x, spec, 0, 3, **options, **given)).sum()

    ones = torch.ones(3, *x.shape)
    slopes = [torch.func.grad(score)(ones), torch.func.grad(lambda w: score(w, out=out))(ones)]
    samples = perturb(x, spec, 0, 3, **options)
    assert type(samples) is torch.Tensor
    for slope in slopes:
        assert torch.equal(slope, samples)


def test_noise_may_be_drawn_inside_of_a_transform():
    spec = NoiseSpec(SHAPE)
    slope = torch.func.grad(lambda w: (w * noise(spec, 0, 3)).sum())(torch.ones(3, *SHAPE))
    assert torch.equal(slope, noise(spec, 0, 3))


def test_what_fake_tensors_are_given_is_not_kept():
    spec, x = NoiseSpec(SHAPE), torch.zeros(SHAPE)
    with FakeTensorMode():
        assert perturb(torch.zeros(SHAPE), spec, 0, 3, baseline=0.375).shape == (3, *SHAPE)
    assert perturb(fake(*SHAPE), spec, 0, 3, baseline=0.375).shape == (3, *SHAPE)  # outside of it
    samples = perturb(x, spec, 0, 3, baseline=0.375)
    torch.testing.assert_close(samples, -0.375 * noise(spec, 0, 3))


def test_tracing_sees_every_call():
    # Torch's modes, of a tracer for one, see the op though all memory is plain.
    seen = []

    class Listen(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    run, out = Perturber(torch.zeros(SHAPE), NoiseSpec(SHAPE)), torch.zeros(3, *SHAPE)
    run(out, 0)
    with Listen():
        run(out, 0)
    assert "fwdgrad_kernels.perturb_.default" in seen


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.to_sparse(),
        lambda t: t.to_sparse_csr() if t.dim() > 1 else t.to_sparse(),
        lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    ],
    ids=["sparse", "csr", "nested"],
)
@pytest.mark.filterwarnings("ignore:Sparse")
@EVERY
def test_tensors_that_are_not_dense(op, name, shape, make):
    if name == "weights" and shape == (3,):
        tensor = torch.ones(shape).to_sparse()
    else:
        tensor = make(torch.ones(shape[-2:]))
    with pytest.raises(TypeError, match=f"^{name} must be a dense tensor, got .*to_dense"):
        call(op, "auto", **{name: tensor})


@BACKEND
def test_negative_views(backend):
    minus = torch._neg_view
    spec = NoiseSpec(SHAPE, "rademacher", 0.0)
    samples = perturb(minus(torch.ones(SHAPE)), spec, 0, 1, backend=backend)
    assert torch.equal(samples, -torch.ones(1, *SHAPE))
    unit = NoiseSpec(SHAPE, "rademacher")
    total = accumulate_(torch.zeros(SHAPE), minus(torch.ones(1)), unit, 0, backend=backend)
    assert torch.equal(total, -noise(unit, 0, 1)[0])
    for op, name, shape in (c for c in NAMES if c[1] in ("out", "total", "square")):
        with pytest.raises(ValueError, match=f"^{name} must not be a negative view"):
            call(op, backend, **{name: minus(torch.ones(shape))})


def test_fake_tensors():
    x, out = fake(*SHAPE), fake(3, *SHAPE)
    spec, adaptive = NoiseSpec(SHAPE), NoiseSpec(SHAPE, scale=AdaptiveScale(0.0, 1.0))
    samples = perturb(x, spec, 0, 3)  # also outside of the mode
    assert type(samples) is type(x)
    assert samples.shape == (3, *SHAPE)
    assert perturb(x, adaptive, 0, 3).shape == (3, *SHAPE)
    assert type(perturb(torch.zeros(SHAPE), adaptive, 0, 3)) is torch.Tensor
    with pytest.raises(TypeError, match="must be a fake tensor where"):
        spec.gradient(x, 3, out=torch.zeros(SHAPE))
    for change in ({"x": x}, {"out": out}):
        both = {"x": torch.zeros(SHAPE), "out": torch.zeros(3, *SHAPE), **change}
        with pytest.raises(TypeError, match="must be a fake tensor where"):
            perturb(spec=spec, first=0, count=3, **both)
    with pytest.raises(TypeError, match=r"^weights must be a fake tensor where total is one"):
        accumulate_(x, torch.ones(3), spec, 0)


def test_the_perturber_reads_negative_views():
    minus, out = torch._neg_view(torch.ones(6)), torch.zeros(1, 6)
    Perturber(minus, NoiseSpec((6,), "rademacher", 0.0, stream=16), relative=True)(out, 0)
    assert torch.equal(out, -torch.ones(1, 6))
    unit = noise(NoiseSpec((6,)), 0, 1)
    Perturber(torch.zeros(6), NoiseSpec((6,), scale=minus))(out, 0)
    assert torch.equal(out, -unit)
    Perturber(torch.zeros(6), NoiseSpec((6,), scale=0.0), baseline=minus, position=0.5)(out, 0)
    assert torch.equal(out, torch.full((1, 6), -0.5))


@BACKEND
@pytest.mark.parametrize(
    ("shape", "options", "settings"),
    [
        ((3, 8, 12), {}, {}),
        ((3, 8, 12), {"block": 3, "distribution": "cauchy"}, {"pairs": True, "clip": (-1.0, 1.0)}),
        ((3, 8, 12), linear(3, 5, share_channels=True), {"baseline": 0.5, "position": 0.25}),
        ((3, 8, 12), {"scale": AdaptiveScale(-4.0, 4.0)}, {"pairs": True}),
        ((3, 8, 12), {"scale": torch.linspace(-1, 1, 288).reshape(3, 8, 12)}, {}),
        ((2, 5, 6), {"features": Labels(torch.arange(6) // 2)}, {}),
        ((2, 9), cells(4, **ordered(6)), {"pairs": True}),
        ((7,), {}, {"relative": True}),
    ],
    ids=["elements", "blocks", "baseline", "adaptive", "map", "labels", "order", "relative"],
)
def test_the_perturber_has_the_bits_of_perturb(shape, options, settings, backend):
    x = torch.linspace(-2, 3, torch.Size(shape).numel()).reshape(shape)
    spec, both = NoiseSpec(shape, seed=3, **options), 2 if settings.get("pairs") else 1
    run, out = Perturber(x, spec, backend=backend, **settings), torch.zeros(3 * both, *shape)
    for first, sign in ((0, 1), (5, -1), (2**40, 1)):
        expected = perturb(x, spec, first, 3, sign, backend=backend, **settings)
        assert run(out, first, sign=sign) is out
        assert torch.equal(out, expected)
    for other in (torch.zeros(5 * both, *shape), torch.zeros(0, *shape)):  # another memory
        count = len(other) // both
        expected = perturb(x, spec, 9, count, backend=backend, **settings)
        assert torch.equal(run(other, 9), expected)
    if len(shape) == 3 and "features" not in options:  # another layout, of the same memory
        last = out.view(-1, *shape[1:], shape[0]).permute(0, 3, 1, 2)
        assert torch.equal(run(last, 9), perturb(x, spec, 9, 3, backend=backend, **settings))
        assert torch.equal(run(out, 9), perturb(x, spec, 9, 3, backend=backend, **settings))


@BACKEND
def test_the_perturber_looks_at_another_out(backend, tmp_path):
    x = torch.ones(2, 6)
    run, out = Perturber(x, NoiseSpec((2, 6)), backend=backend), torch.full((3, 2, 6), 7.0)
    run(out.clone(), 0)
    memory = torch.full((36,), 7.0)
    for other, error, match in (
        (out[:, :, :5], ValueError, "^out must have shape"),
        (out.view(torch.int32), TypeError, "^out must have dtype"),
        (memory.view(2, 6, 3).permute(2, 0, 1), ValueError, "^out must be contiguous"),
        (memory.view(3, 6, 2).transpose(1, 2), ValueError, "^out must be contiguous"),
        (x[None], ValueError, "^out must not share memory with x"),
        (torch.zeros(3, 2, 6, requires_grad=True), ValueError, "^out must not require"),
        (torch._neg_view(out), ValueError, "^out must not be a negative view"),
        (read_only(tmp_path, 3, 2, 6), ValueError, "^out must be writable"),
        (torch.zeros(3, 2, 6, device="meta"), ValueError, "^out must be on cpu"),
        ([7.0], TypeError, "^out must be a tensor, got list"),
    ):
        with pytest.raises(error, match=match):
            run(other, 0)
    assert bool((out == 7).all())
    assert bool((memory == 7).all())
    with pytest.raises(ValueError, match=r"^out must have both samples of each pair, got 3"):
        Perturber(x, NoiseSpec((2, 6)), pairs=True, backend=backend)(out, 0)


@BACKEND
@pytest.mark.parametrize("name", ["x", "out", "scale", "baseline"])
def test_the_perturber_finds_memory_that_went_between_calls(backend, name):
    given = {"x": torch.ones(6), "out": torch.zeros(2, 6), "scale": torch.ones(6)}
    given["baseline"] = torch.zeros(6)
    scale = given["scale"] if name == "scale" else 1.0
    more = {"baseline": given["baseline"]} if name == "baseline" else {}
    run = Perturber(given["x"], NoiseSpec((6,), scale=scale, seed=1), backend=backend, **more)
    run(given["out"], 0)
    before = given["out"].clone()
    given[name].untyped_storage().resize_(4)
    with pytest.raises(ValueError, match=f"^{name} must have its memory, got a storage of 4 bytes"):
        run(given["out"], 5)
    if name != "out":
        assert torch.equal(given["out"], before)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"spec": None}, TypeError, "^spec must be a NoiseSpec, got NoneType"),
        ({"out": [1.0]}, TypeError, "^out must be a tensor, got list"),
        ({"sign": torch.ones(2)}, ValueError, "^sign must be 1 or -1, got tensor"),
        ({"sign": np.ones(2)}, ValueError, "^sign must be 1 or -1, got array"),
        ({"relative": "no"}, TypeError, "^relative must be True or False, got 'no'"),
        ({"clip": (0, 10**400)}, TypeError, r"^clip must be \(low, high\)"),
    ],
)
def test_arguments_of_other_kinds(change, error, match):
    with pytest.raises(error, match=match):
        perturb(
            **{"x": torch.zeros(SHAPE), "spec": NoiseSpec(SHAPE), "first": 0, "count": 3, **change}
        )


def test_other_ops_name_what_they_are_given():
    for call_ in (noise, blocks):
        with pytest.raises(TypeError, match=r"^spec must be a NoiseSpec"):
            call_(None, 0, 3)
        with pytest.raises(TypeError, match=r"^device must be a torch.device .* got 1.5"):
            call_(NoiseSpec(SHAPE), 0, 3, device=1.5)
    with pytest.raises(TypeError, match=r"^spec must be a NoiseSpec"):
        accumulate_(torch.zeros(SHAPE), torch.ones(3), None, 0)
    with pytest.raises(ValueError, match=r"^scale must be a finite number"):
        NoiseSpec(SHAPE, scale=10**400)
    with pytest.raises(TypeError, match=r"^total must be a tensor, got list"):
        NoiseSpec(SHAPE).gradient([0.0], 3)


# ---- what is held beside the output ------------------------------------------------------


def peak(run):
    """How much the process's memory grew at most, in bytes."""

    def status(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pytest.skip("the peak of memory cannot be reset here")
    before = status("VmRSS")
    result = run()
    return status("VmHWM") - before - result.nbytes


def test_placements_take_no_memory_by_the_sample():
    """1,000,000 samples of one element: their placements were 48 MB, and 48 with what is held."""
    spec, count = NoiseSpec((2,), block=1, seed=1), 1_000_000
    out = perturb(torch.zeros(2), spec, 0, 5000)  # loads all there is to load
    assert peak(lambda: perturb(torch.zeros(2), spec, 0, count)) < 8e6
    out = torch.zeros(count, 2)
    assert peak(lambda: perturb(torch.zeros(2), spec, 0, count, out=out, held=7)[:0]) < 8e6


@pytest.fixture
def tables_of_three(any_backend, monkeypatch):
    """A backend that holds the placements of three samples at once, where that can be set."""
    if any_backend == "triton":
        from fwdgrad_kernels.triton import launch

        monkeypatch.setattr(launch, "_SAMPLES", 3)
        assert triton_backend.missing() == ""
    monkeypatch.setattr(cuda, "SAMPLES", 3)
    return any_backend


@pytest.mark.parametrize(
    "options", [{"block": 3}, {"kind": "hadamard", **cells(2, 2)}], ids=["block", "cells"]
)
def test_tables_follow_one_another(tables_of_three, options):
    count = 10 if tables_of_three != "cpu" else 4096 + 10
    spec = make_spec((4, 5), scale=0.5, seed=1, **options)
    x = torch.linspace(-1, 1, 20, device=gpu.DEVICE).view(4, 5)
    one = torch.cat(
        [perturb(x, spec, 7 + i, 1, backend=tables_of_three) for i in range(count - 10, count)]
    )
    samples = perturb(x, spec, 7, count, pairs=True, backend=tables_of_three)
    assert torch.equal(samples[count - 10 : count], one)
    torch.testing.assert_close(samples[:count] + samples[count:], (2 * x).expand(count, 4, 5))
    out = perturb(x, spec, 7, count, backend=tables_of_three)
    later = perturb(x, spec, 7 + count, count, out=out, held=7, backend=tables_of_three)
    assert torch.equal(later, perturb(x, spec, 7 + count, count, backend=tables_of_three))
