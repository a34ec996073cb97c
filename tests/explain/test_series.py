"""Regions along time: of a series (C, T) or (T,)."""

import pytest
import torch

import fwdgrad
from fwdgrad import Grid, Regions
from fwdgrad.methods import plan_of
from fwdgrad.methods.blur import light_blur

torch.manual_seed(0)
SERIES = torch.randn(3, 400).cumsum(1)


def of_a_window(batch):
    """(batch,): the mean of channel 1 in 100 .. 119."""
    return batch[:, 1, 100:120].mean(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_window_that_a_model_looks_at(dtype):
    """A linear score's whole groups are exact: what each window adds, for all channels."""
    x = SERIES.to(dtype)
    method = Regions(0.0, cell=20, axes=1)
    e = fwdgrad.explain(of_a_window, x, None, method=method, n_samples=256)
    want = torch.zeros(3, 400, dtype=dtype)
    want[:, 100:120] = of_a_window(x[None])
    torch.testing.assert_close(e.attribution, want, rtol=1e-4, atol=1e-4)


def test_the_blur_goes_along_time_alone():
    one, other = light_blur(SERIES, 1), light_blur(SERIES[1], 1)
    torch.testing.assert_close(one[1], other)
    jump = torch.zeros(2, 400)
    jump[0] = 1.0  # constant along time: nothing to blur
    assert torch.equal(light_blur(jump, 1), jump)
    step = torch.zeros(400)
    step[200:] = 1.0
    soft = light_blur(step, 1)
    assert torch.all(soft[1:] >= soft[:-1] - 1e-6)
    assert 0.4 < soft[199] < 0.5 < soft[200] < 0.6


def test_with_its_blur_and_cells_of_its_own():
    run = {"n_samples": 256}
    e = fwdgrad.explain(of_a_window, SERIES, None, method=Regions(axes=1), **run)
    assert e.method == Regions(cell=14, axes=1)  # larger than the blur's 12.5 steps
    assert e.reliability > 0.95
    window = e.attribution[0].abs().argmax()
    assert 86 < window < 134
    alone = fwdgrad.explain(
        lambda batch: of_a_window(batch[:, None].expand(-1, 2, -1)), SERIES[1], None,
        method=Regions(axes=1), **run,
    )  # fmt: skip
    torch.testing.assert_close(alone.attribution, e.attribution[1], rtol=1e-4, atol=1e-4)


def test_windows_leave_a_direction_to_tell_the_error_by():
    """Three of 3 steps and the one without a feature would fill a group of 4."""
    plan = plan_of(torch.randn(2, 8), Regions(0.0, axes=1), n_samples=64)
    assert plan.method.cell == 4


def test_channels_of_their_own():
    cells = Grid((20,), "nearest", share_channels=False)
    e = fwdgrad.explain(
        of_a_window, SERIES, None, method=Regions(0.0, axes=1), features=cells, n_samples=256
    )
    want = torch.zeros(3, 400)
    want[1, 100:120] = of_a_window(SERIES[None])
    torch.testing.assert_close(e.attribution, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "axes", "text"),
    [
        ((3, 32, 32), 1, r"axes is 1, so x must be a series \(C, T\) or \(T,\), got \(3, 32, 32\)"),
        ((400,), 2, r"axes is 2, so x must be a picture \(C, H, W\)"),
        ((3, 400), None, r"features must be given .*Regions\(axes=1\)"),
    ],
)
def test_another_shape(shape, axes, text):
    with pytest.raises(ValueError, match=text):
        fwdgrad.explain(lambda b: b.flatten(1).sum(1), torch.rand(shape), method=Regions(axes=axes))


@pytest.mark.parametrize("axes", [0, 4, "time"])
def test_no_such_axes(axes):
    with pytest.raises((TypeError, ValueError), match="axes must"):
        Regions(axes=axes)


def test_a_series_and_a_volume_are_drawn(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    e = fwdgrad.explain(of_a_window, SERIES, None, method=Regions(axes=1), n_samples=64)
    ax = e.plot()
    assert len(ax.lines) == 3
    assert ax.get_xlim() == (-0.5, 399.5)
    strip = ax.images[0].get_array()[0]
    assert (strip != 255).any(1).nonzero()[0].min() >= 90  # the model looks at 100 .. 119
    volume = torch.rand(1, 8, 12, 16)
    model = lambda batch: batch[:, 0, :4, :4, :4].sum((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(model, volume, None, method=Regions(0.0, 4), n_samples=128)
    ax = e.plot()
    assert ax.images[-1].get_array().shape == (12, 16 + 16 + 12 + 6, 3)
    assert "\nslices at depth" in ax.get_title()
    plt.close("all")
