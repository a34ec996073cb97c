"""Every wrong argument is refused by name, with what was given, before anything is written."""

import math

import numpy as np
import pytest
import torch

from fwdgrad_kernels import (
    Grid,
    Labels,
    NoiseSpec,
    accumulate_,
    backend_for,
    blocks,
    expand,
    noise,
    perturb,
)

SHAPE = (2, 6)
META = torch.device("meta")


def check(cases):
    """Parametrises over (exception, fragments of its message, keyword arguments)."""
    ids = [" ".join(map(str, case[1]))[:50] for case in cases]
    return pytest.mark.parametrize(("error", "fragments", "change"), cases, ids=ids)


def refused(error, fragments, call, *arguments, **keywords):
    with pytest.raises(error) as caught:
        call(*arguments, **keywords)
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def scale_with(value, at=7):
    scale = torch.ones(SHAPE)
    scale.view(-1)[at:] = value  # from this element on, to see that the first is named
    return scale


@check(
    [
        (ValueError, ["shape", "()"], {"shape": ()}),
        (ValueError, ["shape", "-1"], {"shape": (3, -1)}),
        (TypeError, ["shape", "2.5"], {"shape": (3, 2.5)}),
        (TypeError, ["shape", "True"], {"shape": (True, 3)}),
        (TypeError, ["shape", "2.5"], {"shape": 2.5}),
        (TypeError, ["shape", "None"], {"shape": None}),
        (ValueError, ["distribution", "gauss", "normal", "rademacher"], {"distribution": "gauss"}),
        (ValueError, ["distribution", "'hadamard'"], {"distribution": "hadamard"}),  # a design
        (ValueError, ["design", "independent, hadamard", "'hadamar'"], {"design": "hadamar"}),
        (ValueError, ["design", "None"], {"design": None}),
        (ValueError, ["distribution must be 'rademacher'", "design='hadamard'", "'normal'"],
         {"design": "hadamard"}),
        (TypeError, ["features", "Elements(), Grid(cell) and Labels(mask)", "'grid'"],
         {"features": "grid"}),
        (TypeError, ["features", "got <class"], {"features": Grid}),
        (ValueError, ["scale", ">= 0", "-0.1"], {"scale": -0.1}),
        (ValueError, ["scale", "finite", "nan"], {"scale": math.nan}),
        (ValueError, ["scale", "finite", "inf"], {"scale": math.inf}),
        (TypeError, ["scale", "True"], {"scale": True}),
        (TypeError, ["scale", "'1'"], {"scale": "1"}),
        (TypeError, ["scale", "torch.int64"], {"scale": torch.ones(SHAPE).long()}),
        (ValueError, ["scale", "(2, 6)", "(6, 2)"], {"scale": torch.ones(6, 2)}),
        (ValueError, ["scale", "(2, 6)", "()"], {"scale": torch.tensor(1.0)}),
        (ValueError, ["scale", "finite", "inf", "element 7"], {"scale": scale_with(math.inf)}),
        (ValueError, ["scale", "finite", "nan", "element 9"], {"scale": scale_with(math.nan, 9)}),
        (ValueError, ["block", "(2, 6)", "7"], {"block": 7}),
        (ValueError, ["block", "(2, 6)", "(3, 6)"], {"block": (3, 6)}),
        (ValueError, ["block", "1 to 2", "(1, 1, 1)"], {"block": (1, 1, 1)}),
        (ValueError, ["block", "1 to 2", "()"], {"block": ()}),
        (ValueError, ["block", "1 .. ", "0"], {"block": (1, 0)}),
        (TypeError, ["block", "True"], {"block": True}),
        (TypeError, ["block", "1.5"], {"block": (1, 1.5)}),
        (TypeError, ["block", "1.5"], {"block": 1.5}),
        # Starts must fit into the 32 bits that place them.
        (ValueError, ["block"], {"shape": (2**33,), "block": 2**32}),
        # A cell must fit into its own axis, not into the longest.
        (ValueError, ["cell", "(6,)", "got 7"], {"features": Grid(7)}),
        (ValueError, ["cell", "(2, 6)", "got (3, 3)"], {"features": Grid((3, 3))}),
        (ValueError, ["cell", "(6, 3)", "got (1, 4)"],
         {"shape": (2, 6, 3), "features": Grid((1, 4))}),
        (ValueError, ["cell", "(2, 6)", "axes", "got (1, 2, 2)"], {"features": Grid((1, 2, 2))}),
        (ValueError, ["cell", "tuple", "(2, 2, 2, 2, 2)", "got 2"],
         {"shape": (2,) * 5, "features": Grid(2)}),
        (ValueError, ["mask", "broadcast", "(2, 6)", "(3,)"],
         {"features": Labels(torch.arange(3))}),
        (ValueError, ["mask", "broadcast", "(2, 6)", "(6, 1)"],
         {"features": Labels(torch.arange(6)[:, None])}),
        (ValueError, ["mask", "broadcast", "(2, 6)", "(1, 2, 6)"],
         {"features": Labels(torch.arange(12).reshape(1, 2, 6))}),
        (ValueError, ["block must be None with Labels", "got 2"],
         {"features": Labels(torch.arange(6)), "block": 2}),
        (ValueError, ["order", "each of the grid's 3 lines", "got 2"],
         {"features": Grid((2,), "nearest", order=torch.tensor([1, 2]))}),
        (ValueError, ["block must be None with a Grid's order", "got 2"],
         {"features": Grid((2,), "nearest", order=torch.arange(3)), "block": 2}),
        (ValueError, ["block must cover axis -2", "4 channels share", "got (2, 3)"],
         {"shape": (4, 6), "features": Grid((2,)), "block": (2, 3)}),
        (ValueError, ["block must cover axis -2", "got 3"],
         {"shape": (2, 4, 6), "features": Grid((1,)), "block": 3}),
        (ValueError, ["seed", "-1"], {"seed": -1}),
        (ValueError, ["seed", str(2**64)], {"seed": 2**64}),
        (TypeError, ["seed", "None"], {"seed": None}),
        (TypeError, ["seed", "False"], {"seed": False}),
        (ValueError, ["shape", "draws", str(2**34)], {"shape": (2**17, 2**18)}),
        (ValueError, ["shape", "draws", str(2**32)],
         {"shape": (2**17, 2**16), "distribution": "rademacher", "design": "hadamard"}),
    ]
)  # fmt: skip
def test_spec(error, fragments, change):
    refused(error, fragments, NoiseSpec, **{"shape": SHAPE, **change})


@check(
    [
        (ValueError, ["cell", "at least 1", "got 0"], {"cell": 0}),
        (ValueError, ["cell", "at least 1", "got -2"], {"cell": (4, -2)}),
        (TypeError, ["cell", "integer", "True"], {"cell": True}),
        (TypeError, ["cell", "integer", "True"], {"cell": (4, True)}),
        (TypeError, ["cell", "one to three", "2.0"], {"cell": 2.0}),
        (TypeError, ["cell", "one to three", "(2, 2, 2, 2)"], {"cell": (2, 2, 2, 2)}),
        (TypeError, ["cell", "one to three", "()"], {"cell": ()}),
        (TypeError, ["cell", "one to three", "'4'"], {"cell": "4"}),
        (ValueError, ["interpolation", "linear, nearest", "'bilinear'"],
         {"interpolation": "bilinear"}),
        (TypeError, ["jitter", "True or False", "1"], {"jitter": 1}),
        (TypeError, ["share_channels", "True or False", "None"], {"share_channels": None}),
        (TypeError, ["order", "tensor of integers", "list"], {"order": [0, 1]}),
        (TypeError, ["order", "integers", "torch.float32"], {"order": torch.ones(2)}),
        (ValueError, ["order", "values", "meta"],
         {"order": torch.zeros(3, dtype=torch.int64, device=META)}),
        (ValueError, ["order", "one axis", "(1, 2)"], {"order": torch.tensor([[0, 1]])}),
        (ValueError, ["order", "one axis", "(0,)"], {"order": torch.arange(0)}),
        (ValueError, ["order", "from 0", "got -1"], {"order": torch.tensor([2, -1])}),
        (ValueError, ["order", "from 0", f"got {2**40}"], {"order": torch.tensor([2**40, 0])}),
        (ValueError, ["order", "distinct", "got 3 twice"], {"order": torch.tensor([3, 1, 3])}),
        (ValueError, ["order must be None with jitter=True"],
         {"order": torch.arange(3), "jitter": True}),
    ]
)  # fmt: skip
def test_grid(error, fragments, change):
    refused(error, fragments, Grid, **{"cell": 4, **change})


@check(
    [
        (TypeError, ["mask", "tensor of integers", "list"], {"mask": [0, 1]}),
        (TypeError, ["mask", "integers", "torch.float32", "long()"],
         {"mask": torch.tensor([0.0, 1.0])}),
        (TypeError, ["mask", "integers", "torch.bool"], {"mask": torch.tensor([True, False])}),
        (TypeError, ["mask", "integers", "torch.complex64"],
         {"mask": torch.tensor([0, 1], dtype=torch.complex64)}),
        (TypeError, ["mask", "dense"], {"mask": torch.tensor([0, 1]).to_sparse()}),
        (ValueError, ["mask", "from 0", "-3"], {"mask": torch.tensor([0, -3, 1, -1])}),
        (ValueError, ["mask", "0 to 5", "none that is 1"], {"mask": torch.tensor([0, 2, 5, 2])}),
        (ValueError, ["mask", "0 to 2", "none that is 0"], {"mask": torch.tensor([1, 2])}),
        (ValueError, ["mask", f"0 to {2**40}", "none that is 1"],
         {"mask": torch.tensor([2**40, 0])}),
        (ValueError, ["mask", "every element", "(0, 3)"],
         {"mask": torch.zeros(0, 3, dtype=torch.int64)}),
        (ValueError, ["mask", "values", "meta"],
         {"mask": torch.zeros(3, dtype=torch.int64, device=META)}),
    ]
)  # fmt: skip
def test_labels(error, fragments, change):
    refused(error, fragments, Labels, **change)


def test_labels_on_another_device():
    spec = NoiseSpec((3,), features=Labels(torch.tensor([0, 1, 1])))
    message = ["features", "mask on x's device meta", "got cpu", "mask.to(x.device)"]
    refused(ValueError, message, perturb, torch.zeros(3, device=META), spec, 0, 1)
    refused(ValueError, message, noise, spec, 0, 1, device=META)
    total, weights = torch.zeros(3, device=META), torch.ones(1, device=META)
    refused(ValueError, message, accumulate_, total, weights, spec, 0)
    refused(ValueError, message, expand, torch.zeros(2, device=META), spec)


def test_what_a_counter_just_holds_is_accepted():
    assert NoiseSpec((2**17, 2**17)).draws == 2**34
    assert NoiseSpec((2**16, 2**16), "rademacher", design="hadamard").group == 2**32
    assert NoiseSpec((2**17, 2**18), features=Grid((2, 2))).draws < 2**34
    assert NoiseSpec((2**19, 2**20), "rademacher").draws == 2**39


def test_numpy_integers_are_integers():
    # What np.random's generators and array shapes give.
    spec = NoiseSpec((np.int64(2), np.int64(6)), block=np.int64(2), seed=np.int64(3))
    assert spec == NoiseSpec((2, 6), block=2, seed=3)


def touching(*names):
    """Arguments that are views of one piece of memory and share at least an element."""
    memory = torch.zeros(60)
    views = {
        "x": memory[:12].view(SHAPE),
        "out": memory[11:47].view(3, *SHAPE),
        "total": memory[:12].view(SHAPE),
        "square": memory[8:20].view(SHAPE),
        "weights": memory[9:12],
    }
    return {name: views[name] for name in names}


@check(
    [
        (TypeError, ["x", "tensor", "list"], {"x": [0.0] * 12}),
        (TypeError, ["x", "float32", "torch.int64"], {"x": torch.zeros(SHAPE).long()}),
        (TypeError, ["x", "torch.complex64"], {"x": torch.zeros(SHAPE, dtype=torch.complex64)}),
        (ValueError, ["x", "(2, 6)", "(6, 2)"], {"x": torch.zeros(6, 2)}),
        (ValueError, ["x", "(2, 6)", "(12,)"], {"x": torch.zeros(12)}),
        (ValueError, ["first", "-1"], {"first": -1}),
        (ValueError, ["first", str(2**63)], {"first": 2**63}),
        (TypeError, ["first", "True"], {"first": True}),
        (TypeError, ["first", "1.0"], {"first": 1.0}),
        (ValueError, ["count", "-3"], {"count": -3}),
        (TypeError, ["count", "False"], {"count": False}),
        (ValueError, ["count", "0 .. 1", "2"], {"first": 2**63 - 2, "count": 2}),
        (ValueError, ["sign", "1 or -1", "2"], {"sign": 2}),
        (ValueError, ["sign", "1 or -1", "0"], {"sign": 0}),
        (ValueError, ["sign", "1 or -1", "True"], {"sign": True}),
        (ValueError, ["clip", "low <= high", "(1, 0)"], {"clip": (1, 0)}),
        (ValueError, ["clip", "nan"], {"clip": (0.0, math.nan)}),
        ((TypeError, ValueError), ["clip", "(low, high)", "(1,)"], {"clip": (1,)}),
        ((TypeError, ValueError), ["clip", "(low, high)", "1"], {"clip": 1}),
        (ValueError, ["out", "(3, 2, 6)", "(4, 2, 6)"], {"out": torch.zeros(4, 2, 6)}),
        (ValueError, ["out", "(3, 2, 6)", "(36,)"], {"out": torch.zeros(36)}),
        (TypeError, ["out", "torch.float32", "torch.float64"],
         {"out": torch.zeros(3, 2, 6).double()}),
        (ValueError, ["out", "cpu", "meta"], {"out": torch.zeros(3, 2, 6, device=META)}),
        (ValueError, ["out", "contiguous", "(6, 18, 1)"],
         {"out": torch.zeros(2, 3, 6).transpose(0, 1)}),
        (ValueError, ["out", "contiguous"], {"out": torch.zeros(1, 2, 6).expand(3, 2, 6)}),
        (ValueError, ["out", "share memory", "x"], touching("x", "out")),
        (ValueError, ["scale", "cpu", "meta"], {"scale_on": META}),
        (ValueError, ["backend", "auto, cpu, cuda", "'gpu'"], {"backend": "gpu"}),
    ]
)  # fmt: skip
def test_perturb(error, fragments, change):
    keywords = {"x": torch.zeros(SHAPE), "spec": NoiseSpec(SHAPE), "first": 0, "count": 3, **change}
    if where := keywords.pop("scale_on", None):
        # Checking that a scale is finite needs its values, so it moves after the check.
        spec = NoiseSpec(SHAPE, scale=torch.ones(SHAPE))
        object.__setattr__(spec, "scale", spec.scale.to(where))
        keywords["spec"] = spec
    out = keywords.get("out")
    before = None if out is None or out.device == META else out.clone()
    refused(error, fragments, perturb, **keywords)
    assert before is None or torch.equal(out, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_out_must_not_be_the_scale(dtype):
    # In float16 too, although the kernel reads a wider copy of the scale: the spec would change.
    scale = torch.arange(12.0).view(SHAPE).to(dtype)
    spec, out = NoiseSpec(SHAPE, scale=scale), scale.view(1, *SHAPE)
    message = ["out", "share memory", "scale"]
    refused(ValueError, message, perturb, torch.zeros(SHAPE, dtype=dtype), spec, 0, 1, out=out)
    assert scale.flatten().tolist() == list(range(12))


def test_overlap_of_arrays_that_torch_did_not_allocate():
    # Each view of a NumPy array is a storage of its own.
    memory = np.zeros(13 + 36, dtype=np.float32)
    x = torch.from_numpy(memory[:12]).view(SHAPE)
    out = torch.from_numpy(memory[11:47]).view(3, *SHAPE)
    refused(ValueError, ["out", "share memory", "x"], perturb, x, NoiseSpec(SHAPE), 0, 3, out=out)


@check(
    [
        (ValueError, ["'uniform'", "no score", "normal", "rademacher"],
         {"spec": NoiseSpec(SHAPE, "uniform")}),
        (TypeError, ["total", "tensor", "NoneType"], {"total": None}),
        (TypeError, ["total", "float32 or float64", "torch.float16"],
         {"total": torch.zeros(SHAPE).half()}),
        (TypeError, ["total", "torch.int64"], {"total": torch.zeros(SHAPE).long()}),
        (ValueError, ["total", "(2, 6)", "(12,)"], {"total": torch.zeros(12)}),
        (ValueError, ["total", "contiguous", "(1, 2)"], {"total": torch.zeros(6, 2).T}),
        (TypeError, ["weights", "tensor", "list"], {"weights": [1.0, 2.0, 3.0]}),
        (TypeError, ["weights", "torch.int64"], {"weights": torch.ones(3).long()}),
        (ValueError, ["weights", "one axis", "(3, 1)"], {"weights": torch.ones(3, 1)}),
        (ValueError, ["weights", "one axis", "()"], {"weights": torch.tensor(1.0)}),
        (ValueError, ["weights", "cpu", "meta"], {"weights": torch.ones(3, device=META)}),
        (ValueError, ["first", "-1"], {"first": -1}),
        (TypeError, ["first", "None"], {"first": None}),
        (ValueError, ["count", "0 .. 2", "3"], {"first": 2**63 - 3}),
        (TypeError, ["square", "tensor", "float"], {"square": 1.0}),
        (TypeError, ["square", "torch.float32", "torch.float64"],
         {"square": torch.zeros(SHAPE).double()}),
        (ValueError, ["square", "(2, 6)", "(6, 2)"], {"square": torch.zeros(6, 2)}),
        (ValueError, ["square", "cpu", "meta"], {"square": torch.zeros(SHAPE, device=META)}),
        (ValueError, ["square", "contiguous"], {"square": torch.zeros(6, 2).T}),
        (ValueError, ["square", "share memory", "total"], touching("total", "square")),
        (ValueError, ["total", "share memory", "weights"], touching("total", "weights")),
        (ValueError, ["square", "share memory", "weights"], touching("square", "weights")),
        (ValueError, ["backend", "'gpu'"], {"backend": "gpu"}),
    ]
)  # fmt: skip
def test_accumulate(error, fragments, change):
    keywords = {
        "total": torch.zeros(SHAPE), "weights": torch.ones(3), "spec": NoiseSpec(SHAPE), "first": 0,
        **change,
    }  # fmt: skip
    refused(error, fragments, accumulate_, **keywords)
    for name in ("total", "square"):
        tensor = keywords.get(name)
        if isinstance(tensor, torch.Tensor) and tensor.device != META:
            assert not tensor.any()


def test_neighbours_in_one_memory_are_no_overlap():
    # Rows of one buffer are how a stream keeps its sums.
    total, square = torch.zeros(2, *SHAPE)
    accumulate_(total, torch.ones(3), NoiseSpec(SHAPE, "rademacher"), 0, square)
    assert torch.equal(square, torch.full(SHAPE, 3.0))


@check(
    [
        (ValueError, ["total", "(2, 6)", "(6, 2)"], {"total": torch.zeros(6, 2)}),
        (ValueError, ["count", "1 .. ", "0"], {"count": 0}),
        (TypeError, ["count", "True"], {"count": True}),
        (TypeError, ["count", "2.0"], {"count": 2.0}),
        (ValueError, ["out", "(2, 6)", "(7,)"], {"out": torch.zeros(7)}),
    ]
)
@pytest.mark.parametrize("scale", [0.5, 0.0, torch.ones(SHAPE)], ids=["number", "zero", "map"])
def test_gradient(error, fragments, change, scale):
    keywords = {"total": torch.zeros(SHAPE), "count": 3, **change}
    refused(error, fragments, NoiseSpec(SHAPE, scale=scale).gradient, **keywords)


@check(
    [
        (ValueError, ["first", "-1"], {"first": -1}),
        (TypeError, ["count", "2.0"], {"count": 2.0}),
        (ValueError, ["backend", "'gpu'"], {"backend": "gpu"}),
    ]
)
@pytest.mark.parametrize("call", [noise, blocks])
def test_inspection(call, error, fragments, change):
    refused(error, fragments, call, **{"spec": NoiseSpec(SHAPE), "first": 0, "count": 3, **change})


def test_noise_of_whole_numbers():
    refused(TypeError, ["dtype", "torch.int32"], noise, NoiseSpec(SHAPE), 0, 3, dtype=torch.int32)


def test_backend(monkeypatch):
    cpu = torch.device("cpu")
    refused(ValueError, ["backend", "'gpu'"], backend_for, cpu, "gpu")
    refused(ValueError, ["'cpu'", "device meta"], backend_for, META, "cpu")
    monkeypatch.setenv("FWDGRAD_BACKEND", "fast")
    refused(
        ValueError,
        ["FWDGRAD_BACKEND", "'fast'", "auto, cpu, cuda, triton, reference"],
        backend_for,
        cpu,
    )
    refused(ValueError, ["FWDGRAD_BACKEND", "'fast'"], noise, NoiseSpec(SHAPE), 0, 3)
    assert backend_for(cpu, "reference") == "reference"


def test_a_backend_is_checked_though_nothing_is_done():
    refused(ValueError, ["backend", "'gpu'"], noise, NoiseSpec((0, 3)), 0, 3, backend="gpu")
