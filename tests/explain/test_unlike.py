"""Inputs of other kinds: tables of unlike columns, series, volumes; what is refused, what does."""

import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, Regions, metrics
from fwdgrad.adapters.arrays import NumpyModel
from fwdgrad.overlay import full_strength
from fwdgrad.smoothing import check_alike
from fwdgrad_kernels import Grid, Labels

from .models import forward_gradient

_generator = torch.Generator().manual_seed(7)
SCALES = torch.tensor([1.0, 20.0, 1e3, 3e4, 0.05, 4e5], dtype=torch.float64)
TABLE = (torch.randn(400, 6, generator=_generator, dtype=torch.float64) + 3) * SCALES
DEVIATIONS = TABLE.std(0)
EFFECTS = torch.tensor([1.0, -2.0, 0.0, 1.5, 3.0, -0.5], dtype=torch.float64)
ROW = TABLE[0]


def quadratic(rows):
    """(batch,): of the standardised columns, each with an effect of its own."""
    z = (rows.double() - TABLE.mean(0)) / DEVIATIONS
    return z @ EFFECTS + 0.1 * (z**2).sum(1)


def truth(row):
    """How the score changes by a deviation of each column."""
    z = (row - TABLE.mean(0)) / DEVIATIONS
    return EFFECTS + 0.2 * z


# ---- tables --------------------------------------------------------------------------------


def test_the_deviations_of_columns_give_the_truth():
    e = forward_gradient(quadratic, ROW, scale=0.2 * DEVIATIONS, n_samples=4096)
    away = (e.attribution * DEVIATIONS - truth(ROW)).abs()
    assert (away < 4 * e.standard_error * DEVIATIONS).all()
    assert metrics.pearson(e.attribution * DEVIATIONS, truth(ROW)) > 0.99


def test_a_baseline_of_means_gives_the_truth():
    """Along x - mean: what the way from the mean adds, at the row."""
    e = forward_gradient(quadratic, ROW, baseline=TABLE.mean(0), n_samples=4096)
    along = truth(ROW) * (ROW - TABLE.mean(0)) / DEVIATIONS
    assert metrics.pearson(e.attribution, along) > 0.99


def test_a_forest_of_unlike_columns():
    ensemble = pytest.importorskip("sklearn.ensemble")
    chosen = (quadratic(TABLE) > quadratic(TABLE).median()).numpy()
    forest = ensemble.RandomForestClassifier(30, random_state=0).fit(TABLE.numpy(), chosen)
    model = NumpyModel(forest.predict_proba)
    with pytest.raises(ValueError, match="for each element where they are as unlike"):
        fwdgrad.explain(model, ROW, target=1)
    near = TABLE[(quadratic(TABLE) - quadratic(TABLE).median()).abs().argmin()]
    e = forward_gradient(model, near, 1, scale=DEVIATIONS, n_samples=4096, batch_size=1024)
    assert metrics.pearson(e.attribution * DEVIATIONS, EFFECTS) > 0.9


@pytest.mark.parametrize(
    "x",
    [
        [40.0, 50_000.0],
        [40.0, 0.0, 1.0, 0.0, 50_000.0],  # one-hot columns
        [-40.0, 50_000.0],
        [0.5, 1200.0, 30.0, 2.0, 1.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("method", [ForwardGradient, fwdgrad.SmoothGrad])
def test_one_scale_for_unlike_columns_is_refused(x, method):
    x = torch.tensor(x)
    model = lambda rows: rows.sum(1)  # noqa: E731
    given = 0.2 * float(x.max() - x.min())
    for scale in (None, given):
        with pytest.raises(ValueError, match=re.escape("such as 0.2 * X.std(0) of a table X")):
            fwdgrad.explain(model, x, method=method(scale=scale))
    fwdgrad.explain(model, x, method=method(scale=torch.full_like(x, given)))
    # No element leaves what it is: the gradient itself is meant.
    fwdgrad.explain(model, x, method=method(scale=0.01))


def test_the_channels_of_a_series_are_compared():
    series = torch.stack([torch.randn(64), 1e4 * torch.randn(64)], 1)
    for x in (series, series.T.contiguous()):
        with pytest.raises(ValueError, match="for each element where they are as unlike"):
            fwdgrad.explain(lambda rows: rows.sum((1, 2)), x)
    check_alike(torch.randn(64, 2), 0.8)


@pytest.mark.parametrize("seed", range(20))
def test_elements_of_one_kind_are_alike(seed):
    """Standard-normal vectors, fractions, waves, a picture's bytes, a row of zeros and ones."""
    g = torch.Generator().manual_seed(seed)
    for x in [
        torch.randn(2, generator=g),
        torch.randn(20, generator=g),
        torch.rand(300, generator=g),
        1e-4 * torch.randn(50, generator=g),
        1e6 * (1 + torch.rand(50, generator=g)),
        3e4 * torch.randn(4000, generator=g).clamp(-1, 1),
        torch.randint(0, 256, (784,), generator=g).float(),
        torch.randint(0, 2, (30,), generator=g).float(),
        torch.zeros(4),
    ]:
        check_alike(x, 0.2 * float(x.max() - x.min()))


# ---- series and volumes --------------------------------------------------------------------


def of_one_channel(batch):
    """(batch,): of series (T, C), channel 2 in its second quarter."""
    return batch[:, 16:32, 2].mean(1)


SERIES = torch.ones(64, 5)
BLACK = Regions(baseline=0.0)


def test_regions_of_a_series_are_refused_and_the_advice_finds_the_channel():
    with pytest.raises(ValueError, match=r"\(64, 5\)") as error:
        fwdgrad.explain(of_one_channel, SERIES, method=BLACK, n_samples=256)
    assert "features=Grid(" in str(error.value)
    want = torch.zeros(64, 5)
    want[16:32, 2] = 0.5  # two cells of 8 make the mean
    along = {"method": BLACK, "features": Grid((8, 1), "nearest"), "n_samples": 256}
    e = fwdgrad.explain(of_one_channel, SERIES, **along)
    torch.testing.assert_close(e.attribution, want, rtol=0, atol=1e-4)
    turned = lambda batch: of_one_channel(batch.mT)  # noqa: E731
    along["features"] = Grid((8,), "nearest", share_channels=False)
    e = fwdgrad.explain(turned, SERIES.T.contiguous(), **along)
    torch.testing.assert_close(e.attribution, want.T, rtol=0, atol=1e-4)


def test_regions_of_a_picture_without_channels():
    model = lambda batch: batch[:, :8, :8].mean((1, 2))  # noqa: E731
    x = torch.ones(32, 32)
    with pytest.raises(ValueError, match=r"x\[None\]"):
        fwdgrad.explain(model, x, method=BLACK, n_samples=256)
    e = fwdgrad.explain(
        lambda batch: model(batch[:, 0]), x[None], method=BLACK, features=Grid((8, 8), "nearest"),
        n_samples=256,
    )  # fmt: skip
    want = torch.zeros(1, 32, 32)
    want[:, :8, :8] = 1
    torch.testing.assert_close(e.attribution, want, rtol=0, atol=1e-4)


def test_a_block_joins_nothing():
    """Its elements have a draw each: of a series the one channel is found."""
    e = forward_gradient(
        of_one_channel, SERIES, block=(8, 5), scale=0.5, n_samples=8192, batch_size=1024
    )
    want = torch.zeros(64, 5)
    want[16:32, 2] = 1 / 16
    assert ((e.attribution - want).abs() <= 4.5 * e.standard_error).all()
    assert metrics.pearson(e.attribution, want) > 0.9
    # A block away from where the model looks changes nothing: that is known.
    assert torch.equal(e.standard_error[45:], torch.zeros(19, 5))


def of_a_corner(batch):
    """(batch,): of volumes, a cube of 4 in a corner."""
    return batch[:, 0, :4, :4, :4].mean((1, 2, 3))


@pytest.mark.parametrize("interpolation", ["nearest", "linear"])
def test_cells_of_a_volume_are_cubes(interpolation):
    cells = Grid((4, 4, 4), interpolation, share_channels=False)
    e = fwdgrad.explain(
        of_a_corner, torch.ones(2, 8, 8, 8), method=BLACK, features=cells, n_samples=256
    )
    assert not e.attribution[1].any()  # channels have cells of their own
    if interpolation == "nearest":
        want = torch.zeros(8, 8, 8)
        want[:4, :4, :4] = 1
        torch.testing.assert_close(e.attribution[0], want, rtol=0, atol=1e-4)
    else:
        assert e.attribution[0, :4, :4, :4].mean() > 5 * e.attribution[0, 4:, 4:, 4:].abs().mean()
    frames = torch.ones(3, 1, 8, 8)  # no depth
    forward_gradient(lambda b: b.sum((1, 2, 3, 4)), frames, scale=0.5, features=Grid((1, 4, 4)))


def test_regions_of_a_volume():
    volume = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    e = fwdgrad.explain(of_a_corner, volume, method=BLACK, n_samples=128)
    assert e.attribution.shape == volume.shape
    inside = e.attribution[0, :4, :4, :4].mean()
    assert inside > 20 * e.attribution[0, 8:, 8:, 8:].abs().mean()
    blurred = fwdgrad.explain(of_a_corner, volume, method="regions", n_samples=128)
    assert blurred.method.baseline == "blur"
    assert blurred.attribution.shape == volume.shape


def test_labels_of_elements():
    """Superpixels, say: a feature has one value, its own of a linear score."""
    mask = torch.tensor([[0, 0, 1, 1], [2, 2, 1, 3]])
    weights = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 3.0, 1.0, -2.0]])
    model = lambda batch: (batch * weights).sum((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(
        model, torch.ones(2, 2, 4), method=BLACK, features=Labels(mask), n_samples=8
    )
    sums = torch.zeros(4).index_add(0, mask.flatten(), 2 * weights.flatten())
    assert e.features == e.settings["features"] == Labels(mask)
    found = e.attribution
    torch.testing.assert_close(found[0], found[1])
    for label in range(4):
        torch.testing.assert_close(found[0][mask == label].unique(), sums[label : label + 1])


def test_a_volume_as_a_picture_of_many_channels_is_told():
    """Its planes share their draws: nothing says which of them matters."""
    volume = torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(1))
    model = lambda batch: batch[:, :4, :4, :4].mean((1, 2, 3))  # noqa: E731
    advice = r"its 16 channels share their draws.*give x\[None\] with"
    with pytest.warns(UserWarning, match=advice):
        e = fwdgrad.explain(model, volume, method="regions", n_samples=64)
    assert torch.equal(e.attribution, e.attribution[:1].expand(16, -1, -1))
    e = fwdgrad.explain(lambda batch: model(batch[:, 0]), volume[None], method=BLACK, n_samples=64)
    far = e.attribution[0, 12:, 12:, 12:].abs().mean()
    assert e.attribution[0, :4, :4, :4].mean() > 20 * far


def test_flags_beside_large_numbers_are_unlike():
    """A row of a table whose flags are all 0: noise of 49 would be put on them, too."""
    row = torch.tensor([55.0, 0, 130, 246, 0, 150, 0, 0])
    for x in (row, torch.tensor([0.0, 0, 0, 246, 0])):
        with pytest.raises(ValueError, match="for each element where they are as unlike"):
            fwdgrad.explain(lambda rows: rows.sum(1), x)
    forward_gradient(lambda rows: rows @ row, row, scale=1.0, n_samples=64)
    check_alike(torch.randint(0, 256, (784,)).float(), 51.0)  # a picture's bytes


# ---- units ---------------------------------------------------------------------------------


def of_unlike_units(count, method=ForwardGradient):
    """Nine columns that matter, and one that does not in units a million times as large."""
    g = torch.Generator().manual_seed(0)
    table = torch.randn(500, 10, generator=g)
    table[:, 0] *= 1e-6
    weights = torch.cat([torch.zeros(1), torch.linspace(-1, 1, 9)])
    method = method(scale=0.2 * table.std(0))
    model = lambda rows: rows @ weights  # noqa: E731
    return fwdgrad.explain(model, table[0], method=method, n_samples=count), weights


@pytest.mark.parametrize("count", [1024, 4096])
def test_the_smallest_unit_does_not_decide_reliability(count):
    e, weights = of_unlike_units(count)
    scale = e.method.scale
    assert metrics.pearson(e.attribution * scale, weights * scale) > 0.98
    assert e.reliability > 0.9
    assert torch.equal(e.per_deviation(e.attribution), e.attribution * scale)


def test_a_gradient_s_reliability_is_per_deviation_too():
    e, _ = of_unlike_units(50, fwdgrad.SmoothGrad)
    assert e.reliability > 0.99


def test_plot_draws_what_a_deviation_does():
    pytest.importorskip("matplotlib").use("Agg")
    e, _ = of_unlike_units(4096)
    ax = e.plot(threshold=0.9)  # what is larger than that alone
    scale = e.method.scale
    shares = (e.attribution * scale).abs().double()
    shown = (shares >= 0.9 * full_strength(shares)).nonzero().flatten().tolist()
    assert int(e.attribution.abs().argmax()) == 0 not in shown
    assert (ax.images[-1].get_array()[0] != 255).any(1).nonzero()[0].tolist() == shown != []
    words = ax.figure.axes[-1].get_xlabel().replace("\n", " ")
    assert "per deviation of the noise on a number" in words


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        (torch.linspace(1, 1.9, 16).bfloat16(), 0.002),
        (torch.tensor([1.7e9, 1.0]), torch.tensor([0.6, 0.2])),
    ],
)
def test_noise_that_a_type_rounds_away_is_told(x, scale):
    model = lambda rows: rows.double().sum(1)  # noqa: E731
    with pytest.warns(UserWarning, match=r"scale is finer than torch\.b?float\d\d is at \d+ of"):
        forward_gradient(model, x, scale=scale, n_samples=64)
    forward_gradient(model, x.double(), scale=scale, n_samples=64)


# ---- arrays --------------------------------------------------------------------------------


def test_deviations_and_baselines_may_be_arrays():
    table = np.random.default_rng(0).normal(size=(50, 4)) * [1, 10, 100, 1000]
    model = lambda rows: rows.double() @ torch.tensor([1.0, 0.1, 0.0, -0.001]).double()  # noqa: E731
    pandas = pytest.importorskip("pandas")
    scale = torch.from_numpy(0.2 * table.std(0))
    right = forward_gradient(model, table[0], scale=scale, n_samples=256)
    for scale in (0.2 * table.std(0), pandas.DataFrame(0.2 * table).std(ddof=0)):
        e = forward_gradient(model, table[0], scale=scale, n_samples=256)
        assert torch.allclose(e.attribution, right.attribution)
    e = forward_gradient(model, table[0], baseline=table.mean(0), design="hadamard", n_samples=256)
    assert torch.equal(e.method.baseline, torch.from_numpy(table.mean(0)))
    path = fwdgrad.IntegratedGradients(table.mean(0), steps=4)
    e = fwdgrad.explain(model, table[0], method=path)
    assert abs(e.convergence_delta) < 1e-9
