"""Memory that is not there, may not be written, or is not a tensor's own: an error, and no crash.

Cases that once ended the process, wrote where they must not, or lost a derivative without a word.
"""

import warnings

import gpu
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fwdgrad_kernels import (
    AdaptiveScale,
    Grid,
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
from fwdgrad_kernels.testing import cells, make_spec

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
        with pytest.raises(ValueError, match=f"^count must be at most {most} for copies of {each}"):
            perturb(x, spec, 0, count, pairs=pairs)
    for call_, what in (
        (lambda: noise(spec, 0, HUGE), "copies"),
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


def test_a_model_may_be_differentiated_beside_the_ops():
    # The ops in a transform of something else work as ever.
    spec, x = NoiseSpec(SHAPE), torch.zeros(SHAPE)
    copies = perturb(x, spec, 0, 3)
    slope = torch.func.grad(lambda w: (w * perturb(x, spec, 0, 3)).sum())(torch.ones(3, *SHAPE))
    assert torch.equal(slope, copies)


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
    copies = perturb(minus(torch.ones(SHAPE)), spec, 0, 1, backend=backend)
    assert torch.equal(copies, -torch.ones(1, *SHAPE))
    unit = NoiseSpec(SHAPE, "rademacher")
    total = accumulate_(torch.zeros(SHAPE), minus(torch.ones(1)), unit, 0, backend=backend)
    assert torch.equal(total, -noise(unit, 0, 1)[0])
    for op, name, shape in (c for c in NAMES if c[1] in ("out", "total", "square")):
        with pytest.raises(ValueError, match=f"^{name} must not be a negative view"):
            call(op, backend, **{name: minus(torch.ones(shape))})


def test_fake_tensors():
    x, out = fake(*SHAPE), fake(3, *SHAPE)
    spec, adaptive = NoiseSpec(SHAPE), NoiseSpec(SHAPE, scale=AdaptiveScale(0.0, 1.0))
    copies = perturb(x, spec, 0, 3)  # also outside of the mode
    assert type(copies) is type(x)
    assert copies.shape == (3, *SHAPE)
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


@BACKEND
def test_the_perturber_of_many_small_calls_checks_what_it_is_given(backend, tmp_path):
    x = torch.ones(6)
    spec = NoiseSpec((6,), "rademacher", 0.5, stream=16)
    fill = Perturber(x, spec, relative=True, backend=backend)
    for out, error, match in (
        (torch.zeros(1, 5), ValueError, "^out must have shape"),
        (torch.zeros(1, 6).double(), TypeError, "^out must have dtype"),
        (torch.zeros(6, 2).T[:1], ValueError, "^out must be contiguous"),
        (x.view(1, 6), ValueError, "^out must not share memory with x"),
        (freed(1, 6), ValueError, "^out must have its memory"),
        (fake(1, 6), TypeError, "must be a fake tensor where"),
        (read_only(tmp_path, 1, 6), ValueError, "^out must be writable"),
    ):
        with pytest.raises(error, match=match):
            fill(out, 0)
    with pytest.raises(ValueError, match=r"^first must lie in"):
        fill(torch.zeros(1, 6), -1)
    assert torch.equal(x, torch.ones(6))
    out = torch.zeros(1, 6)
    fill(out, 0)
    assert torch.equal((out - 1).abs(), torch.full((1, 6), 0.5))
    x.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"^x must have its memory"):
        fill(out, 0)


def test_the_perturber_reads_a_negative_view():
    x = torch._neg_view(torch.ones(6))
    out = torch.zeros(1, 6)
    Perturber(x, NoiseSpec((6,), "rademacher", 0.0, stream=16), relative=True)(out, 0)
    assert torch.equal(out, -torch.ones(1, 6))


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


def test_placements_take_no_memory_by_the_copy():
    """1,000,000 copies of one element: their placements were 48 MB, and 48 with what is held."""
    spec, count = NoiseSpec((2,), block=1, seed=1), 1_000_000
    out = perturb(torch.zeros(2), spec, 0, 5000)  # loads all there is to load
    assert peak(lambda: perturb(torch.zeros(2), spec, 0, count)) < 8e6
    out = torch.zeros(count, 2)
    assert peak(lambda: perturb(torch.zeros(2), spec, 0, count, out=out, held=7)[:0]) < 8e6


@pytest.fixture
def tables_of_three(any_backend, monkeypatch):
    """A backend that holds the placements of three copies at once, where that can be set."""
    if any_backend == "triton":
        from fwdgrad_kernels.triton import launch

        monkeypatch.setattr(launch, "_COPIES", 3)
        assert triton_backend.missing() == ""
    monkeypatch.setattr(cuda, "COPIES", 3)
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
    copies = perturb(x, spec, 7, count, pairs=True, backend=tables_of_three)
    assert torch.equal(copies[count - 10 : count], one)
    torch.testing.assert_close(copies[:count] + copies[count:], (2 * x).expand(count, 4, 5))
    out = perturb(x, spec, 7, count, backend=tables_of_three)
    later = perturb(x, spec, 7 + count, count, out=out, held=7, backend=tables_of_three)
    assert torch.equal(later, perturb(x, spec, 7 + count, count, backend=tables_of_three))
