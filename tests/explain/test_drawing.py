"""What a drawn map shows: two hues, whose opacity is the value, and the numbers beside them."""

import base64
import io
import math
import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Coalitions, Explanation, ForwardGradient, Grid, IntegratedGradients, Regions
from fwdgrad.colours import BLUE, RED
from fwdgrad.meaning import meaning
from fwdgrad.overlay import certainty, full_strength, laid_on, paled
from fwdgrad.report import report

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

# Drawing tensors where arrays are meant works until numpy 3.
pytestmark = pytest.mark.filterwarnings("error::DeprecationWarning")

X = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
BYTES = (X * 255).round().byte().permute(1, 2, 0).numpy()
PALE = (paled(BYTES) + 0.5).astype(np.uint8)


@pytest.fixture(autouse=True)
def closed():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def of_map(values, errors=None, x=X, method=None, **options):
    """An explanation with that map, which all channels see."""
    values = torch.as_tensor(values)
    if errors is None:
        errors = torch.full_like(values, math.nan)
    options = {"target": 1, "objective": "probability", "features": None} | options
    return Explanation(
        attribution=values.expand(x.shape), standard_error=errors.expand(x.shape),
        reliability=0.9, n_samples=1024, score=0.25,
        method=method or Regions("grey", 8), seed=0, input=x, seconds=0.0, **options,
    )  # fmt: skip


def pixels(ax):
    return np.asarray(ax.images[-1].get_array())


def bar(ax):
    return ax.figure.axes[-1]


def spots(**values):
    """A map of zeros with values at places, as a1_2=0.5 says."""
    found = torch.zeros(32, 32, dtype=torch.float64)
    for place, value in values.items():
        row, column = map(int, place[1:].split("_"))
        found[row, column] = value
    return found


# ---- colours -------------------------------------------------------------------------------


def test_what_its_error_does_not_tell_from_zero_is_not_drawn():
    values = spots(a3_4=0.2, a5_6=-0.2, a20_20=0.2)
    errors = torch.full((32, 32), 0.25)
    errors[20, 20] = 0.01
    drawn = pixels(of_map(values, errors).plot(top=0))
    is_other = (drawn != PALE).any(2)
    assert is_other.nonzero()[0].tolist() == is_other.nonzero()[1].tolist() == [20]
    without = pixels(of_map(values).plot(top=0))  # no error is known, so all is drawn
    assert (without != PALE).any(2).sum() == 3


def test_certainty_is_smooth_between_one_and_three_errors():
    ratios = torch.linspace(0, 4, 401).double()
    found = certainty(ratios, torch.ones(401))
    assert found[[0, 100, 200, 300, 400]].tolist() == [0, 0, 0.5, 1, 1]
    assert (found.diff() >= 0).all()
    assert found.diff().max() < 0.0076  # of a cubic: 1.5 / 2 a step
    assert certainty(torch.tensor([1.0]), torch.tensor([0.0])) == 1


@pytest.mark.parametrize(("sign", "hue"), [(1, RED), (-1, BLUE)])
def test_opacity_alone_is_the_strength(sign, hue):
    """Over any pixel, the colour lies on the straight line from the pixel to one hue."""
    strength = sign * torch.linspace(0, 1, 32).expand(32, 32)
    drawn, under = laid_on(BYTES, strength).astype(float), paled(BYTES)
    opacity = 0.85 * np.linspace(0, 1, 32)[None, :, None]
    assert np.abs(drawn - (under * (1 - opacity) + opacity * np.array(hue))).max() <= 0.51


def test_a_picture_is_paled_and_keeps_its_colours():
    assert (paled(np.full((1, 1, 3), 255, np.uint8)) == 255).all()
    red = paled(np.array([[[200, 0, 0]]], np.uint8))[0, 0]
    assert red[0] - red[1] > 40
    assert red.min() > 140


def test_the_colour_blind_can_tell_the_hues_apart():
    """To those without green cones, after Machado et al. 2009, and to those without red ones."""
    deutan = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protan = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    red, blue = (np.array(hue) / 255 for hue in (RED, BLUE))
    for matrix in (deutan, protan):
        one, other = (matrix @ np.where(c > 0.04, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)
                      for c in (red, blue))  # fmt: skip
        assert one[0] > 1.5 * one[2] + 0.05  # yellow
        assert other[2] > 1.5 * other[0] + 0.05  # blue


# ---- the scale -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1.0, 1e-3, 1e-60])
def test_few_pixels_have_the_full_strength(size):
    """A hundredth of 1024 pixels is not zero, and below it nothing but zeros."""
    values = spots(a3_4=size, a5_6=-size, a7_8=size / 2)
    assert full_strength(values) == pytest.approx(size)
    drawn = pixels(of_map(values).plot(picture=False, top=0))
    want = laid_on(None, torch.tensor([[1.0, -1.0, 0.5, 0.0]]))[0]
    assert (drawn[[3, 5, 7, 0], [4, 6, 8, 0]] == want).all()


def test_one_outlier_does_not_fade_the_rest():
    values = torch.full((32, 32), 0.01, dtype=torch.float64)
    values[3, 4], values[5, 6] = 100.0, -0.01
    drawn = pixels(of_map(values).plot(picture=False, top=0))
    assert (drawn[3, 4] == drawn[0, 0]).all()
    assert drawn[5, 6, 2] > drawn[5, 6, 0]


def test_what_is_not_finite():
    values = spots(a0_0=math.inf, a0_1=-math.inf, a0_2=2.0, a0_3=1.0, a0_4=math.nan)
    drawn = pixels(of_map(values).plot(picture=False, top=0))
    want = laid_on(None, torch.tensor([[1.0, -1.0, 1.0, 0.5, 0.0, 0.0]]))[0]
    assert (drawn[0, :6] == want).all()


def test_a_map_of_nothing():
    ax = of_map(torch.zeros(32, 32)).plot()
    assert (pixels(ax) == PALE).all()
    assert not ax.texts


def test_maps_share_a_scale():
    values = spots(a3_4=0.2, a5_6=-0.1)
    axes = [of_map(part).plot(picture=False, scale=0.4) for part in (values, 2 * values)]
    assert [bar(ax).get_xlim() for ax in axes] == 2 * [(-0.4, 0.4)]
    one, other = map(pixels, axes)
    assert (one[3, 4] == laid_on(None, torch.tensor([[0.5]]))[0, 0]).all()
    assert (other[3, 4] == laid_on(None, torch.tensor([[1.0]]))[0, 0]).all()
    assert (other[5, 6] == laid_on(None, torch.tensor([[-0.5]]))[0, 0]).all()


def test_sign_and_threshold():
    values = spots(a3_4=0.2, a5_6=-0.2, a7_8=0.1, a9_9=0.04)
    e = of_map(values)
    for options, places in (
        ({"sign": "increases"}, {3, 7, 9}),
        ({"sign": "decreases"}, {5}),
        ({"threshold": 0.3}, {3, 5, 7}),
        ({"threshold": 0.6, "sign": "increases"}, {3}),
    ):
        drawn = pixels(e.plot(top=0, **options))
        assert set((drawn != PALE).any(2).nonzero()[0].tolist()) == places


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": 0}, "scale must be above 0 and finite, got 0"),
        ({"scale": math.inf}, "scale must be above 0 and finite, got inf"),
        ({"scale": "large"}, "scale must be a number, got str 'large'"),
        ({"sign": "increase"}, "sign must be one of both, increases, decreases, got 'increase'"),
        ({"threshold": 1}, "threshold must be at least 0 and below 1, got 1"),
        ({"threshold": math.nan}, "threshold must be at least 0 and below 1, got nan"),
        ({"top": -1}, "top must be at least 0, got -1"),
        ({"top": 1.5}, "top must be an integer, got 1.5"),
    ],
)
def test_options_are_refused_by_name(options, said):
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(said)}"):
        of_map(torch.zeros(32, 32)).plot(**options)


# ---- the bar, the title and the numbers ----------------------------------------------------


def test_the_bar_has_numbers_and_says_what_they_are():
    values = spots(a3_4=0.2, a5_6=-0.2)
    ax = of_map(values, provenance={"label": "lamp (class 1)"}).plot()
    assert bar(ax).get_xlim() == (-0.2, 0.2)
    names = [text.get_text() for text in bar(ax).get_xticklabels()]
    assert names == ["−20", "−10", "0", "+10", "+20"]
    assert bar(ax).get_xlabel().replace("\n", " ") == (
        "change of the probability of lamp when a cell is the picture's, not grey, "
        "in percentage points"
    )
    assert ax.get_title() == "lamp (class 1): probability 0.25\n1,024 samples, reliability 0.90"
    errors = torch.full((32, 32), 0.01)
    ax = of_map(values, errors).plot(scale=0.1, sign="increases")
    assert bar(ax).get_xlim() == (0, 0.1)
    assert [text.get_text() for text in bar(ax).get_xticklabels()] == ["0", "+5", "≥ +10"]
    words = bar(ax).get_xlabel().replace("\n", " ")
    assert words.endswith("drawn from 1 standard error on; significant() is stricter")


def test_the_bar_has_the_colours_of_the_map():
    ax = of_map(spots(a3_4=0.2, a5_6=-0.1)).plot(picture=False, threshold=0.2)
    colours = bar(ax).collections[-1].cmap
    ends = [[round(255 * part) for part in colours(at)[:3]] for at in (0.0, 0.45, 1.0)]
    assert ends == [[38, 122, 190], [255, 255, 255], [219, 91, 38]]
    assert (pixels(ax)[3, 4] == ends[2]).all()


def test_regions_that_stand_out_are_numbered():
    def model(batch):
        return 0.5 * batch[:, 0, :8, :8].mean((1, 2)) - batch[:, 1, 16:24, 24:].mean((1, 2))

    method = Regions("black", 8)
    cells = Grid((8, 8), "nearest")
    e = fwdgrad.explain(
        model, torch.ones(3, 32, 32), None, method=Regions("black"), features=cells, n_samples=64
    )
    ax = e.plot()
    assert [text.get_text() for text in ax.texts] == ["1: −1.0", "2: +0.50"]
    assert [text.xy for text in ax.texts] == [(27, 19), (3, 3)]  # the middles of cells
    assert [text.get_text() for text in e.plot(top=1).texts] == ["1: −1.0"]
    assert [text.get_text() for text in e.plot(sign="increases").texts] == ["1: +0.50"]
    assert not e.plot(top=0).texts
    smooth = fwdgrad.explain(model, torch.ones(3, 32, 32), None, method=method, n_samples=64)
    (first, *_) = smooth.plot().texts
    assert first.xy[0] >= 24
    assert 16 <= first.xy[1] < 24


def test_labels_are_numbered_in_their_middle():
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[:, 10:20, 5:15] = 1
    model = lambda batch: batch[:, 0, 12, 8]  # noqa: E731
    e = fwdgrad.explain(
        model, torch.ones(3, 32, 32), None, method=Coalitions(), features=fwdgrad.Labels(labels)
    )
    (text,) = e.plot().texts
    assert (text.get_text(), text.xy) == ("1: +1.0", (9, 14))
    assert meaning(e) == "change of the model's output when a region is the picture's, not 0"


@pytest.mark.parametrize(
    ("x", "shows"),
    [
        (X[:1], True),
        (X, True),
        (3 * X - 1, True),  # stretched to the screen's
        (X[:2], False),  # two channels are no picture
        (X[0], False),  # embeddings
        (X[0, 0], False),
    ],
    ids=["grey", "rgb", "standardised", "two channels", "text", "vector"],
)
def test_the_input_is_drawn_where_it_is_a_picture(x, shows):
    ax = of_map(torch.zeros(x.shape), x=x, method=ForwardGradient(0.1)).plot()
    assert (pixels(ax) == 255).all() != shows
    assert (pixels(of_map(torch.zeros(x.shape), x=x).plot(picture=False)) == 255).all()
    if len(x) == 3 and x.dim() == 3:
        assert np.abs(pixels(ax).astype(int) - PALE).max() <= 2
    own = ax.figure.add_subplot()
    assert of_map(torch.zeros(x.shape), x=x).plot(own) is own


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Regions(cell=4), "change of the probability of class 1 when a cell is sharp, not blurred"),
        (
            Regions(0.5, 8),
            "change of the probability of class 1 when a cell is the picture's, not 0.5",
        ),
        ("gradient", "change of the probability of class 1 per unit of a pixel's value"),
        (
            fwdgrad.VarGrad(0.1),
            "variance of the change of the probability of class 1 per unit of a pixel's value, "
            "under noise",
        ),
        (
            fwdgrad.SmoothGradSquared(0.1),
            "mean square of the change of the probability of class 1 per unit of a pixel's value, "
            "under noise",
        ),
        (
            IntegratedGradients("black"),
            "what a pixel adds to the change of the probability of class 1 from black to the "
            "picture",
        ),
        (
            ForwardGradient(baseline="blur"),
            "slope of the probability of class 1 as a pixel goes from blurred to the picture",
        ),
        (
            fwdgrad.GradientXInput(),
            "change of the probability of class 1 per unit of a pixel's value, times this value",
        ),
    ],
)
def test_what_values_are_in_words(method, says):
    e = of_map(torch.zeros(32, 32), method=fwdgrad.methods.method_of(method))
    assert meaning(e) == says


def test_a_callables_score_has_a_short_name():
    e = of_map(torch.zeros(32, 32), objective="Detections(lamp at 8 40 24 56)")
    assert meaning(e) == "change of the score of class 1 when a cell is the picture's, not grey"
    assert e.plot().get_title().startswith("class 1: score 0.25\n")


def test_sizes_have_no_sign():
    ax = of_map(spots(a3_4=0.2), method=fwdgrad.VarGrad(0.1)).plot()
    assert bar(ax).get_xlim() == pytest.approx((0, 0.6))  # of three channels


def test_the_report_s_map_is_the_same():
    from PIL import Image

    light = lambda batch: batch.mean((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(light, X, None, method=Regions("black", 8), n_samples=64)
    curves = [
        follow(light, X, e, steps=4)
        for follow in (fwdgrad.metrics.deletion, fwdgrad.metrics.insertion)
    ]
    sources = re.findall(r'src="data:image/png;base64,(.*?)"', report(e, "light", [], *curves))
    with Image.open(io.BytesIO(base64.b64decode(sources[1]))) as read:
        found = np.asarray(read).astype(int)[10::20, 10::20]  # a pixel's middle
    assert found.shape == (32, 32, 3)
    # But for between pixels, and beneath the numbers.
    assert (abs(found - pixels(e.plot(top=0))) < 10).all(-1).mean() > 0.95


def test_numbers_do_not_cover_one_another():
    figure = pytest.importorskip("matplotlib.figure").Figure(figsize=(4, 4), dpi=100)
    weight = torch.zeros(64, 64)
    weight[28:36, 20:28], weight[28:36, 36:44], weight[28:36, 52:60] = 3.0, 2.0, -1.0

    def model(batch):
        return (batch.mean(1) * weight).sum((1, 2))

    e = fwdgrad.explain(
        model, torch.full((3, 64, 64), 0.9), None, method=fwdgrad.Regions(0.0, cell=8),
        n_samples=256,
    )  # fmt: skip
    ax = e.plot(figure.add_axes((0, 0, 1, 1)))
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts if ": " in text.get_text()]
    assert len(boxes) == 3
    apart = [not one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i]]
    assert all(apart)
