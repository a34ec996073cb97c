"""Slips of a user's, and what came of them: a wrong map without a word, or advice that fails."""

import warnings

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import (
    ForwardGradient,
    GradientXInput,
    Grid,
    IntegratedGradients,
    Labels,
    Regions,
    ReliabilityWarning,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)

WINDOW = torch.zeros(3, 64, 64)
WINDOW[:, 16:32, 16:32] = 1
torch.manual_seed(0)
PICTURE = torch.rand(3, 64, 64)


def forgiving(batch):
    """(batch,): takes a batch of batches, too."""
    return (batch.reshape(len(batch), 3, 64, 64) * WINDOW).sum((1, 2, 3))


def test_a_batch_axis_is_no_axis_of_a_volume():
    with pytest.raises(
        ValueError, match=r"without a batch axis, got \(1, 3, 64, 64\): give x\[0\]"
    ):
        fwdgrad.explain(forgiving, PICTURE[None], method="regions", n_samples=64)
    with pytest.warns(UserWarning, match=r"seems to have a batch axis.*explain\(model, x\[0\]"):
        fwdgrad.explain(forgiving, PICTURE[None], n_samples=64)
    volume = fwdgrad.explain(forgiving, PICTURE[None], method=Regions(axes=3), n_samples=64)
    assert volume.method.axes == 3


# ---- gradients of unlike size ----------------------------------------------------------------


def steep(batch):
    """(batch,): saturated but for a narrow step, whose slope is 1e40 times that beside it."""
    return torch.sigmoid(100 * (batch.sum(1) - 1.0))


def test_a_path_from_where_the_score_is_saturated():
    x = torch.ones(2)
    e = fwdgrad.explain(steep, x, method=IntegratedGradients(0.0, 200))
    assert bool(e.attribution.isfinite().all())
    assert float(e.attribution.sum()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("kind", [SmoothGrad, SmoothGradSquared, VarGrad])
def test_moments_of_gradients_of_unlike_size(kind):
    """The same as in float64, whose range is enough."""
    x, run = torch.ones(2), {"method": kind(0.5), "n_samples": 256}
    e = fwdgrad.explain(steep, x, **run)
    assert bool(e.attribution.isfinite().all())
    if kind is not VarGrad:
        assert bool(e.standard_error.isfinite().all())
    want = fwdgrad.explain(lambda batch: steep(batch.double()), x, **run)
    torch.testing.assert_close(e.attribution, want.attribution, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_gradient_that_torch_expands(size):
    e = fwdgrad.explain(lambda batch: batch.sum(1) * size, torch.ones(2), method="gradient")
    torch.testing.assert_close(e.attribution, torch.full((2,), size))


@pytest.mark.parametrize("method", ["gradient", "gradient-x-input", "smoothgrad"])
def test_a_gradient_that_is_zero_everywhere_is_said(method):
    with pytest.warns(UserWarning, match="zero everywhere, and so is the map: .*saturated"):
        fwdgrad.explain(
            lambda batch: torch.sigmoid(5000 * (batch.sum(1) - 1)), torch.ones(2) + torch.arange(2),
            method=method,
        )  # fmt: skip


# ---- features --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [
        GradientXInput(ForwardGradient(design="hadamard")),
        IntegratedGradients(0.0, None, ForwardGradient(design="hadamard")),
    ],
)
def test_a_sum_of_gradients_is_not_each_elements(method):
    with pytest.raises(ValueError, match=r"features must be None.*ForwardGradient\(baseline=0.0\)"):
        fwdgrad.explain(
            forgiving, PICTURE, method=method, features=Grid((8, 8), "nearest"), n_samples=256
        )
    along = ForwardGradient(design="hadamard", baseline=0.0)
    e = fwdgrad.explain(
        forgiving, PICTURE, method=along, features=Grid((8, 8), "nearest"), n_samples=512
    )
    cells = e.attribution[0, ::8, ::8]
    assert float(cells.sum()) == pytest.approx(float((PICTURE * WINDOW).sum()), rel=1e-3)


@pytest.mark.parametrize("kind", ["tensor", "labels", "numpy"])
def test_a_mask_that_is_expanded_over_channels(kind):
    mask = (torch.arange(64) // 16 + 4 * (torch.arange(64)[:, None] // 16)).expand(3, -1, -1)
    given = {"tensor": mask, "labels": Labels(mask), "numpy": mask.numpy()}[kind]
    e = fwdgrad.explain(forgiving, PICTURE, features=given, n_samples=64)
    want = fwdgrad.explain(forgiving, PICTURE, features=mask[0], n_samples=64)
    assert torch.equal(e.attribution, want.attribution)


def test_the_labels_of_slic_begin_at_1():
    mask = np.arange(1, 5).repeat(16)[None].repeat(64, 0)
    with pytest.raises(ValueError, match="numbers them anew") as error:
        fwdgrad.explain(forgiving, PICTURE, features=mask, n_samples=64)
    line = str(error.value).split("; ")[-1].removesuffix(" numbers them anew")
    anew = eval(line, {"torch": torch, "mask": mask})
    fwdgrad.explain(forgiving, PICTURE, features=anew, n_samples=64)


# ---- advice that can be followed ---------------------------------------------------------------


def test_pairs_on_the_points_of_a_path():
    method = IntegratedGradients(gradient=ForwardGradient())
    with pytest.raises(ValueError, match=r"got 150; ask for a multiple of 100, or steps=None"):
        fwdgrad.explain(forgiving, PICTURE, method=method, n_samples=150)
    with pytest.warns(ReliabilityWarning, match="no reliability: no two halves of the run"):
        fwdgrad.explain(forgiving, PICTURE, method=method, n_samples=100)


@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor])
def test_the_line_for_channels_last_runs_as_it_is(as_array):
    x = as_array(PICTURE.permute(1, 2, 0).contiguous().numpy())
    model = lambda batch: forgiving(batch.permute(0, 3, 1, 2))  # noqa: E731
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fwdgrad.explain(model, x, n_samples=64)
    (said,) = [str(w.message) for w in caught if "channels last" in str(w.message)]
    line = said[said.index("explain(") :]
    e = eval(line, {"explain": fwdgrad.explain, "torch": torch, "model": model, "x": x})
    assert isinstance(e.method, Regions)


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("baseline", "gray", "grey"),
        ("distribution", "gaussian", "normal"),
        ("design", "hadamar", "hadamard"),
    ],
)
def test_what_may_have_been_meant(name, value, near):
    with pytest.raises(ValueError, match=f"{name} must be one of .*; did you mean '{near}'"):
        ForwardGradient(**{name: value})


def test_options_of_other_tools():
    with pytest.raises(TypeError, match=r"give method=IntegratedGradients\(steps=\.\.\.\)"):
        fwdgrad.explain(forgiving, PICTURE, n_steps=16)
    with pytest.raises(ValueError, match="did you mean 'integrated-gradients'"):
        fwdgrad.explain(forgiving, PICTURE, method="ig")


def test_a_picture_of_another_type_than_the_models():
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten()).eval()
    with pytest.raises(fwdgrad.ModelError, match=r"convert x, e.g. x.float\(\)"):
        fwdgrad.explain(net, PICTURE.double())


def test_a_repr_has_no_numbers_of_tensors():
    assert repr(SmoothGrad(torch.rand(3, 4))).startswith("SmoothGrad(scale=<3 x 4 numbers>, ")
