"""Explanations as SHAP's: what its plots draw."""

import sys
import types

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Labels, Regions
from fwdgrad.adapters.pictures import ImageModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.word_explanation import TextExplanation

WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0])
X = torch.tensor([2.0, 1.0, -4.0, 0.0])
NAMES = ["height", "weight", "age", "income"]


def linear(batch):
    return batch @ WEIGHTS + 7


def of_vector(**options):
    method = Regions(0.0)
    return fwdgrad.explain(linear, X, method=method, objective="output", n_samples=64, **options)


def of_picture(**options):
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = lambda batch: batch[:, :, :8].sum((1, 2, 3))  # noqa: E731
    return fwdgrad.explain(model, x, **{"method": Regions("grey", cell=4), **options})


def of_text():
    e = fwdgrad.explain(linear, X, method=Regions(0.0), objective="output", n_samples=64)
    spans = ((0, 1), (2, 6), (7, 11), (12, 16))
    return TextExplanation(
        "a very fine film", spans, e.attribution.double(), e.standard_error.double(), "input",
        "good", e,
    )  # fmt: skip


@pytest.fixture
def stand_in(monkeypatch):
    """A module in SHAP's place that keeps what it is given."""
    module = types.ModuleType("shap")
    module.Explanation = lambda **given: types.SimpleNamespace(**given)
    monkeypatch.setitem(sys.modules, "shap", module)


@pytest.mark.usefixtures("stand_in")
class TestFields:
    def test_of_a_vector(self):
        e = of_vector()
        found = e.to_shap(NAMES)
        assert found.values == pytest.approx((X * WEIGHTS).numpy(), abs=1e-4)
        assert found.base_values == pytest.approx(7, abs=1e-4)  # the score adds up
        assert found.base_values + found.values.sum() == pytest.approx(e.score)
        assert np.array_equal(found.data, X.numpy())
        assert np.array_equal(found.error_std, e.standard_error.double().numpy())
        assert found.feature_names == NAMES
        assert found.compute_time == e.seconds
        assert e.to_shap().feature_names is None

    def test_of_features_of_several_elements(self):
        found = of_vector(features=Labels(torch.tensor([1, 0, 1, 2]))).to_shap(["a", "b", "c"])
        assert found.values == pytest.approx([-2.0, 0.0, 0.0], abs=1e-4)
        assert found.data.tolist() == [1.0, -1.0, 0.0]  # means
        assert found.base_values == pytest.approx(7, abs=1e-4)

    def test_of_a_picture_channels_come_last_and_share_what_they_add(self):
        e = of_picture()
        found = e.to_shap()
        assert found.values.shape == found.data.shape == found.error_std.shape == (16, 16, 3)
        assert np.array_equal(found.data, e.input.double().movedim(0, 2).numpy())
        assert found.values.sum(2) == pytest.approx(e.heatmap().numpy(), abs=1e-5)
        e = of_picture(method="gradient")
        assert e.to_shap().values == pytest.approx(e.attribution.movedim(0, 2).numpy())

    def test_of_words(self):
        found = of_text().to_shap()
        assert found.feature_names == ["a", "very", "fine", "film"]
        assert found.data.tolist() == found.feature_names
        assert found.values == pytest.approx((X * WEIGHTS).numpy(), abs=1e-4)

    def test_of_a_row_and_of_a_photo(self):
        rows = np.array([[3.0, 20.0], [2.0, 10.0]])
        model = TableModel(lambda batch: 50 * batch[:, 0], rows, feature_names=["rooms", "age"])
        found = fwdgrad.explain(model, [4.0, 5.0]).to_shap()
        assert found.feature_names == ["rooms", "age"]
        assert list(found.data) == [4.0, 5.0]
        assert found.values.tolist() == [75.0, 0.0]
        photo = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
        model = ImageModel(lambda batch: batch.mean((1, 2, 3)))
        e = fwdgrad.explain(model, photo, method=Regions("black", cell=4), n_samples=64)
        assert np.array_equal(e.to_shap().values, e.explanation.to_shap().values)

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"feature_names must name each .* \(4,\), got 2"):
            of_vector().to_shap(["a", "b"])
        with pytest.raises(TypeError, match="explanation must be an explanation, got Tensor"):
            fwdgrad.integrations.shap.to_shap(X)


def test_without_shap(monkeypatch):
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ImportError, match=r"pip install 'fwdgrad-kernels\[shap\]'"):
        of_vector().to_shap()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shaps_plots_draw_it():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    shap = pytest.importorskip("shap", reason="the optional library SHAP")
    import matplotlib.pyplot as plt

    found = of_vector().to_shap(NAMES)
    assert isinstance(found, shap.Explanation)
    assert found.error_std.shape == (4,)
    for plot in (shap.plots.bar, shap.plots.waterfall):
        ax = plot(found, show=False)
        said = " ".join(label.get_text() for label in ax.get_yticklabels())
        assert all(name in said for name in NAMES)
        assert "2" in said  # the data stands beside a name
        plt.close("all")
    shap.plots.image(of_picture().to_shap(), show=False)
    assert len(plt.gcf().axes) >= 2
    plt.close("all")
    text = of_text().to_shap()
    assert "very" in shap.plots.text(text, display=False)
    assert "very" in " ".join(
        label.get_text() for label in shap.plots.bar(text, show=False).get_yticklabels()
    )
    plt.close("all")
