"""What may be given as x, and as target."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient
from fwdgrad.inputs import input_of
from fwdgrad.integrations.captum import Attribution

from .models import X, assert_same_bits, exact

RUN = {"method": ForwardGradient(0.3), "objective": "output", "n_samples": 64}
OPTIONS = {"target": 1, **RUN}


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        np.asfortranarray,
        lambda v: v[::-1].copy()[::-1],
        lambda v: v[:, :, ::-1].copy()[:, :, ::-1],
        lambda v: v.astype(">f4"),
        lambda v: np.ma.masked_array(v),
        lambda v: np.lib.stride_tricks.as_strided(v, v.shape, v.strides, writeable=False),
    ],
    ids=["plain", "Fortran", "negative", "inner negative", "big-endian", "masked", "read-only"],
)
def test_arrays_of_any_layout(form):
    e = fwdgrad.explain(exact, form(X.numpy()), **OPTIONS)
    assert_same_bits(e, fwdgrad.explain(exact, X, **OPTIONS))
    assert e.input.dtype == torch.float32


def test_arrays_of_other_precision():
    for dtype, expected in ((np.float64, torch.float64), (np.longdouble, torch.float64)):
        e = fwdgrad.explain(exact, X.numpy().astype(dtype), **OPTIONS)
        assert e.input.dtype == expected
        assert_same_bits(e, fwdgrad.explain(exact, X.double(), **OPTIONS))


def test_an_array_may_change_afterwards():
    values = X.numpy().copy()
    e = fwdgrad.explain(exact, values, **OPTIONS)
    values[:] = 0
    assert torch.equal(e.input, X)


def test_a_picture_is_taken_whole(tmp_path):
    image = pytest.importorskip("PIL.Image")
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = image.fromarray(levels)
    path = tmp_path / "photo.png"
    picture.save(path)
    expected = torch.from_numpy(levels).permute(2, 0, 1).contiguous().float() / 255
    model = lambda batch: 9 * batch.mean((2, 3))  # noqa: E731
    right = fwdgrad.explain(model, expected, n_samples=64)
    for x in (picture, path, str(path)):
        assert torch.equal(input_of(x), expected)
        assert_same_bits(fwdgrad.explain(model, x, n_samples=64), right)
    grey = picture.convert("L")
    assert torch.equal(input_of(grey)[0], input_of(grey)[2])
    with pytest.raises(FileNotFoundError, match=r"none\.jpg does not exist"):
        fwdgrad.explain(model, tmp_path / "none.jpg")
    with pytest.raises(FileNotFoundError, match=r"none\.jpg does not exist"):
        fwdgrad.explain(model, "none.jpg")
    with pytest.raises(FileNotFoundError, match=r"https://a\.org/cat\.jpg does not .*download it"):
        fwdgrad.explain(model, "https://a.org/cat.jpg")


def frame():
    return pytest.importorskip("pandas").DataFrame({"age": [40.0], "income": [50_000.0]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (X, X), r"got tuple; explain one of them.*expand\(len\(batch\)"),
        (lambda: {"input_ids": X, "mask": X}, "keys 'input_ids', 'mask'; explain one"),
        (lambda: "a fine film", "got str 'a fine film', which is no file; .*explain_text"),
        (lambda: ["a", "b"], r"got list; .*embeddings"),
        (lambda: [1.0], r"got list; give torch\.tensor\(x\)"),
        (frame, r"got DataFrame; give one row's numbers, e\.g\. x\.iloc\[0\]\.to_numpy"),
        (lambda: frame().iloc[0], r"got Series; give x\.to_numpy\(float\)"),
        (lambda: X.to_sparse(), r"dense tensor, got torch\.sparse_coo; give x\.to_dense\(\)"),
        (lambda: X.to("meta"), "meta device"),
        (lambda: torch.nested.nested_tensor([X], layout=torch.jagged), "got a nested one"),
        (lambda: np.zeros((8, 8, 3), np.uint8), r"from_numpy\(x\)\[\.\.\., :3\]\.permute"),
        (lambda: torch.zeros(8, 8, 3).byte(), r"x\[\.\.\., :3\]\.permute\(2, 0, 1\) / 255"),
        (lambda: np.zeros((8, 8), np.uint8), r"from_numpy\(x\)\[None\] / 255"),
        (lambda: np.arange(5), r"got int64; convert it, e\.g\. x\.astype\(float\), .*embeddings"),
        (lambda: np.array(["a"]), "floating numbers, got an array of <U1"),
        (lambda: np.ones(3) * 1j, r"complex128; give x\.real"),
        (lambda: np.ma.masked_greater(np.ones(3), 0), r"masked array; give x\.filled"),
        (lambda: None, "got NoneType"),
        (lambda: 3.0, "got float"),
    ],
)  # fmt: skip
def test_the_hint_fits_the_input(make, message):
    with pytest.raises(TypeError, match=message) as caught:
        fwdgrad.explain(exact, make(), **OPTIONS)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x must")


def test_what_has_no_elements_or_no_finite_ones():
    for x in (np.array(1.0), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="x must have elements"):
            fwdgrad.explain(exact, x, **OPTIONS)
    with pytest.raises(ValueError, match="x must be finite, got nan at element 1"):
        fwdgrad.explain(exact, np.array([0.0, np.nan]), **OPTIONS)


def test_what_the_hint_says_does():
    levels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    x = torch.from_numpy(levels)[..., :3].permute(2, 0, 1) / 255
    assert input_of(x).shape == (3, 20, 30)
    assert torch.equal(input_of((torch.from_numpy(levels)[..., 0])[None] / 255)[0], x[0])


# ---- targets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        torch.tensor,
        lambda t: torch.tensor(t)[:, None],
        lambda t: torch.tensor(t, dtype=torch.int8),
        np.array,
        lambda t: np.array(t, dtype=np.uint8)[:, None],
        lambda t: [np.int64(value) for value in t],
        lambda t: [torch.tensor(value) for value in t],
    ],
    ids=["tensor", "column", "int8", "array", "array column", "list of int64", "list of tensors"],
)
def test_targets_of_any_kind(form):
    inputs = torch.stack([X, X / 2, X * 0.3])
    bound = Attribution(exact, **RUN)
    right = bound.attribute(inputs, target=[2, 0, 1])
    assert torch.equal(bound.attribute(inputs, target=form([2, 0, 1])), right)


@pytest.mark.parametrize("target", [np.int64(1), torch.tensor([[1]]), np.array([1], np.uint16)])
def test_one_target_of_any_kind(target, tmp_path):
    right = fwdgrad.explain(exact, X, **OPTIONS)
    e = fwdgrad.explain(exact, X, **{**OPTIONS, "target": target})
    assert_same_bits(e, right)
    assert type(e.target) is int
    e.save(tmp_path / "map.safetensors")
    inputs = torch.stack([X, X])
    found = Attribution(exact, **RUN).attribute(inputs, target=target)
    assert torch.equal(found[1], right.attribution)
    assert fwdgrad.Difference(target, 0).target == fwdgrad.KeptLabel(target).target == 1


def test_targets_of_another_shape():
    inputs = torch.stack([X, X])
    bound = Attribution(exact, **RUN)
    for target in (torch.zeros(2, 2).int(), np.zeros((1, 2), int), torch.zeros(3, 1).int()):
        with pytest.raises(ValueError, match="target must be one class or 2, one for each input"):
            bound.attribute(inputs, target=target)


@pytest.mark.parametrize("name", ["map.png", "map.PDF", "map.html", "map.npy"])
def test_a_map_is_not_saved_as_a_picture(name, tmp_path):
    e = fwdgrad.explain(exact, X, **OPTIONS)
    with pytest.raises(ValueError, match=r"path must end in \.safetensors.*e\.plot\(\)\.figure"):
        e.save(tmp_path / name)
    assert not any(tmp_path.iterdir())
    e.save(tmp_path / "run.2")
    assert torch.equal(fwdgrad.Explanation.load(tmp_path / "run.2").attribution, e.attribution)
