"""What can be done with any explanation: its features, a frame, JSON, a notebook's view."""

import base64
import copy
import dataclasses
import io
import itertools
import json
import pickle
import re
import sys
import time

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, Grid, Regions
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.pictures import ImageModel
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.text import explain_text
from fwdgrad.methods import plan_again
from fwdgrad.parts import Parts, parts_of

TEXT = "A <b>fine</b> film, no fine end"


def of_text(**options):
    model = TextModel(
        lambda texts: [3.0 + 2 * text.count("fine") - text.count("no") for text in texts]
    )
    return fwdgrad.explain(model, TEXT, **{"n_samples": 128, **options})


def of_row():
    rows = np.array([[3.0, 20.0, 1.0], [2.0, 10.0, 1.0]])
    names = ["rooms", "<b>age", "noise"]
    model = TableModel(lambda batch: 50 * batch[:, 0] - batch[:, 1], rows, feature_names=names)
    return fwdgrad.explain(model, [4.0, 5.0, 1.0])


def bright(rows, columns, shape=(32, 32)):
    """A photo that is white in one place."""
    photo = np.zeros((*shape, 3), np.uint8)
    photo[rows, columns] = 255
    return photo


def of_photo(photo, size=None, fit="whole", **options):
    model = ImageModel(lambda batch: batch.mean((1, 2, 3)), size=size, fit=fit)
    options = {"method": Regions("black", cell=4), "n_samples": 256, **options}
    return fwdgrad.explain(model, photo, **options)


def of_vector(**options):
    model = lambda batch: 3 * batch[:, 1] - batch[:, 0]  # noqa: E731
    options = {"method": fwdgrad.Coalitions(), **options}
    return fwdgrad.explain(model, torch.tensor([1.0, 2.0, 5.0]), objective="output", **options)


KINDS = {
    "text": of_text,
    "row": of_row,
    "photo": lambda: of_photo(bright(slice(8, 16), slice(4, 8))),
    "vector": of_vector,
}


@pytest.fixture(params=KINDS)
def each(request):
    return KINDS[request.param]()


# ---- the same attributes ---------------------------------------------------------------------


def test_all_have_what_an_explanation_has(each, tmp_path):
    whole = getattr(each, "explanation", each)
    for field in dataclasses.fields(whole):
        assert field.name in dir(each)
        if field.name != "reliability":  # of words it is the words' own
            assert getattr(each, field.name) is getattr(whole, field.name)
    assert {"settings", "significant", "heatmap", "save", "plot", "top", "to_shap"} <= {*dir(each)}
    assert each.settings["n_samples"] == each.n_samples
    assert each.significant().dtype == torch.bool
    each.save(tmp_path / "a.safetensors")
    assert fwdgrad.Explanation.load(tmp_path / "a.safetensors").score == each.score


@pytest.mark.parametrize("name", ["text", "row", "photo"])
def test_a_wrong_attribute_is_told_with_both(name):
    found = KINDS[name]()
    kind = type(found).__name__
    with pytest.raises(AttributeError, match=f"^neither {kind} nor its Explanation has .* 'scor'$"):
        found.scor  # noqa: B018
    assert not hasattr(found, "_pack")  # what is private stays so
    assert not hasattr(found, "_repr_png_")
    assert not any(one.startswith("_whole_") for one in dir(found))
    for again in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again.score == found.score
    with pytest.raises(AttributeError):
        type(found).__new__(type(found)).score  # noqa: B018  # as while it is loaded


# ---- features --------------------------------------------------------------------------------


def test_words_are_where_they_say():
    found = of_text().top(3)
    assert [(one.name, round(one.score, 9)) for one in found] == [
        ("fine", 2.0), ("fine", 2.0), ("no", -1.0),
    ]  # fmt: skip
    assert [TEXT[one.place] for one in found] == ["fine", "fine", "no"]
    assert len(of_text().top(100)) == len(of_text().words)


def test_columns_have_the_row_s_values():
    first, second, third = of_row().top()
    assert (first.name, first.value, first.score, first.place) == ("rooms", 4.0, 75.0, None)
    assert (second.name, second.value, second.score) == ("<b>age", 5.0, 10.0)
    assert (third.name, third.score, third.standard_error) == ("noise", 0.0, 0.0)


def test_elements_index_the_input():
    e = of_vector()
    first, second, _ = e.top()
    assert (first.name, first.score, first.value) == ("element 1", 6.0, 2.0)
    assert e.input[first.place].tolist() == [2.0]
    assert (second.name, second.score) == ("element 0", -1.0)


@pytest.mark.parametrize("n", [0, -1, 2.5, "two", True])
def test_how_many_is_a_number(n):
    with pytest.raises((TypeError, ValueError), match=r"^n must be "):
        of_vector().top(n)


def test_elements_are_compared_as_they_are_drawn():
    """Per deviation: a column in small units is no more for that."""
    scale = torch.tensor([10.0, 1.0, 0.1])
    model = lambda batch: batch[:, 0] + batch[:, 1] + 5 * batch[:, 2]  # noqa: E731
    method = ForwardGradient(scale=scale, design="hadamard", distribution="rademacher")
    e = fwdgrad.explain(model, torch.zeros(3), method=method, objective="output", n_samples=64)
    assert [one.name for one in e.top()] == ["element 0", "element 1", "element 2"]
    assert e.top()[2].score == pytest.approx(5, abs=1e-4)


def test_labels_are_called_by_their_numbers():
    mask = torch.tensor([[0, 0, 1], [2, 2, 1]])
    x = torch.ones(1, 2, 3)
    model = lambda batch: batch[:, 0, 1, :2].sum(1)  # noqa: E731
    e = fwdgrad.explain(
        model, x, method=Regions(0.0), features=mask, objective="output", n_samples=64
    )
    first = e.top(1)[0]
    assert first.name == "label 2"
    assert first.score == pytest.approx(2)
    assert first.place == (slice(0, 1), slice(1, 2), slice(0, 2))
    frame = pytest.importorskip("pandas") and e.to_frame()
    assert frame["significant"].tolist() == [True, False, False]
    assert frame["row_stop"].tolist()[0] == 2


@pytest.mark.parametrize(
    ("shape", "features"),
    [
        ((3, 12, 16), Grid(4)),
        ((3, 12, 16), Grid(5, "nearest")),
        ((2, 3, 12, 16), Grid((4, 4), share_channels=False)),
        ((1, 6, 8, 8), Grid(3)),
        ((2, 20), Grid((5,), "nearest", share_channels=False)),
        ((9,), Grid((3,))),
    ],
    ids=str,
)
def test_boxes_are_where_each_cell_weighs_most(shape, features):
    parts = Parts(shape, features)
    boxes = parts.boxes()
    for number, box in enumerate(boxes):
        weight = parts.mask(torch.arange(parts.count) == number)
        middle = weight[tuple(slice(*side) for side in box.tolist())]
        assert float(middle.max()) == float(weight.max())
        assert float(middle.min()) > 0
    # They tile the input: no element is in two.
    counts = torch.zeros(shape)
    for box in boxes.tolist():
        counts[tuple(slice(*side) for side in box)] += 1
    assert bool((counts == 1).all())


@pytest.mark.parametrize("cell", [2, 3, 4, 16])
def test_cells_at_an_edge_have_what_they_weigh_most_in(cell):
    """By the weights' own formula, tents about (line - 1/2) cells; whatever the length."""
    for length in {cell + 1, 2 * cell, 2 * cell + 1, 5 * cell - 1}:
        found = Parts((1, length), Grid((cell,))).boxes()[:, 1].tolist()
        assert found[0][0] == 0
        assert found[-1][1] == length
        assert all(one[1] == other[0] for one, other in itertools.pairwise(found))
        for line, (start, stop) in enumerate(found):
            assert 1 <= stop - start <= cell
            apart = [abs(at - line * cell + (cell + 1) / 2) for at in range(length)]
            assert min(apart[start:stop]) == min(apart)


def test_two_elements_have_three_lines_of_cells():
    assert Parts((1, 2), Grid((2,))).boxes()[:, 1].tolist() == [[0, 1], [0, 1], [1, 2]]


def test_a_cell_has_what_it_adds():
    """Of a linear score: what is in the cell, by the weights of its smooth borders."""
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    e = fwdgrad.explain(
        lambda batch: batch.mean((1, 2, 3)), x, method=Regions("black", cell=4), n_samples=128
    )
    parts = parts_of(plan_again(e))
    adds = [float((parts.mask(one) * x).mean()) for one in torch.eye(parts.count).bool()]
    found = {str(one.place): one.score for one in e.top(parts.count)}
    # The first draw is of a corner, and not told from the score's mean: see hadamard_spec.
    for box, own in list(zip(parts.boxes().tolist(), adds, strict=True))[1:]:
        assert found[str(tuple(slice(*side) for side in box))] == pytest.approx(own, abs=1e-6)


def test_of_a_grid_that_moves_it_is_the_map_in_the_middle():
    x = torch.ones(1, 16, 16)
    method = ForwardGradient(baseline=0.0, scale=0.5, distribution="rademacher")
    e = fwdgrad.explain(
        lambda batch: batch[:, 0, 8:12, 4:8].mean((1, 2)), x, method=method,
        features=Grid(4, jitter=True), n_samples=512,
    )  # fmt: skip
    first = e.top(1)[0]
    assert first.name == "rows 8:12, columns 4:8"
    assert first.score in e.attribution[first.place].double()


# ---- photos ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("photo", "options"),
    [
        (bright(slice(8, 12), slice(20, 24)), {}),
        (bright(slice(32, 48), slice(80, 96), (128, 128)), {"size": 32}),  # four times larger
        (bright(slice(12, 16), slice(4, 8), (20, 24)), {"size": (40, 48)}),  # half as large
        (bright(slice(40, 48), slice(8, 16), (64, 32)), {"size": 32, "fit": "pad"}),
        (bright(slice(28, 36), slice(44, 52), (64, 96)), {"size": 28, "fit": "centre"}),
    ],
)
def test_cells_are_in_the_photo_s_pixels(photo, options):
    found = of_photo(photo, **options)
    first = found.top(1)[0]
    rows, columns = first.place
    assert photo[rows, columns].mean() > 120  # the rest of the photo is black
    assert first.name == f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}"
    height, width = photo.shape[:2]
    for one in found.top(10_000):
        rows, columns = one.place
        assert 0 <= rows.start <= rows.stop <= height
        assert 0 <= columns.start <= columns.stop <= width
        assert photo[one.place].size


def test_grey_beside_a_photo_is_no_feature_of_it():
    """A model of the grey alone: the border's cells are told from chance, and are not the photo."""
    photo = np.full((64, 32, 3), 90, np.uint8)
    model = ImageModel(
        lambda batch: batch[..., :8].mean((1, 2, 3)) + batch[..., 12, 12].mean(1),
        size=32,
        fit="pad",
    )
    found = fwdgrad.explain(model, photo, method=Regions("black", cell=4), n_samples=256)
    assert found.attribution[..., :4].abs().mean() > 10 * found.attribution[..., 24:].abs().mean()
    frame = pytest.importorskip("pandas") and found.to_frame()
    assert len(frame) == len(found.top(10_000)) == len(json.loads(found.to_json())["features"])
    area = (frame["row_stop"] - frame["row_start"]) * (frame["column_stop"] - frame["column_start"])
    assert bool((area > 0).all())
    assert int(area.sum()) == 64 * 32  # they tile the photo
    assert len(frame) < len(found.explanation.top(10_000))
    # Those that are left keep their own scores and tests.
    whole = found.explanation.to_frame()
    own = {*frame["score"]}
    assert frame["score"].tolist() == [score for score in whole["score"] if score in own]
    told = {*whole.loc[whole["significant"], "score"]}
    assert frame["significant"].tolist() == [score in told for score in frame["score"]]
    assert told - own  # of the grey alone, which were rows once
    assert not frame["significant"].all()


def test_single_pixels_of_a_photo_have_a_channel():
    photo = np.full((4, 6, 3), 128, np.uint8)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(72, 1)).eval()
    torch.nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0, 1 * 24 + 2 * 6 + 5] = 1.0  # green, row 2, column 5
    found = fwdgrad.explain(ImageModel(model), photo, method="gradient")
    first = found.top(1)[0]
    assert first.name == "row 2, column 5, channel 1"
    assert photo[first.place].shape == (1, 1, 1)


# ---- frames and JSON -------------------------------------------------------------------------


def test_a_frame_has_all_features_sorted(each):
    pytest.importorskip("pandas")
    frame, top = each.to_frame(), each.top(10_000)
    assert frame["feature"].tolist() == [one.name for one in top]
    assert frame["score"].tolist() == [one.score for one in top]
    assert frame["score"].abs().is_monotonic_decreasing
    assert list(frame.columns)[-3:] == ["score", "standard_error", "significant"]
    assert frame["significant"].dtype == bool
    assert frame["significant"][0]


def test_columns_of_a_frame_say_where():
    pytest.importorskip("pandas")
    assert list(of_text().to_frame().columns[:3]) == ["feature", "start", "stop"]
    assert list(of_vector().to_frame().columns[:3]) == ["feature", "value", "element"]
    columns = of_photo(bright(slice(8, 16), slice(4, 8))).to_frame().columns
    assert list(columns[:5]) == ["feature", "row_start", "row_stop", "column_start", "column_stop"]


def test_what_is_not_known_is_missing():
    """Of all directions of a group of samples no error is told; of embeddings no test."""
    pytest.importorskip("pandas")
    model = lambda batch: batch.sum(1)  # noqa: E731
    method = Regions(0.0, antithetic=True)
    with pytest.warns(UserWarning, match="take every direction"):
        e = fwdgrad.explain(model, torch.ones(16), method=method, n_samples=32)
    assert e.to_frame()["significant"].isna().all()
    found = json.loads(e.to_json())
    assert found["features"][0]["standard_error"] is None
    assert found["reliability"] is None
    lstm = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
    words = explain_text(lstm, "a fine film", "good", n_samples=64)
    assert words.to_frame()["significant"].isna().all()
    assert json.loads(words.to_json())["reduce"] == "input"


def test_without_pandas_the_extra_is_named(each, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"fwdgrad-kernels\[tables\]"):
        each.to_frame()


def test_json_says_all_of_it(each):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads(each.to_json(), parse_constant=refuse)
    assert found["score"] == each.score
    assert found["objective"] == each.objective == "output"
    assert found["n_samples"] == each.n_samples
    assert found["reliability"] == pytest.approx(each.reliability)
    assert found["method"]["name"] == each.method.name
    assert found["label"] == getattr(each, "label", None)
    top = each.top(10_000)
    assert [one["score"] for one in found["features"]] == [one.score for one in top]
    assert [one["feature"] for one in found["features"]] == [one.name for one in top]


def test_seconds_are_those_of_the_call_and_say_so():
    def prepare(x):
        time.sleep(0.1)
        return TableModel.prepare(model, x)

    model = TableModel(lambda batch: batch[:, 0], np.zeros((2, 3)))
    model.prepare = prepare
    started = time.perf_counter()
    e = fwdgrad.explain(model, [1.0, 2.0, 3.0])
    assert 0.1 < e.seconds < time.perf_counter() - started
    found = json.loads(e.to_json())
    assert found["seconds"] == e.seconds
    assert found["seconds_of"].startswith("the call of explain, without imports")


def test_json_of_each_kind():
    word = json.loads(of_text().to_json())["features"][0]
    assert word["place"] == {"character": [5, 9]}
    found = json.loads(of_row().to_json())
    assert (found["kind"], found["background_of"], found["features"][0]["value"]) == (
        "table", 2, 4.0,
    )  # fmt: skip
    found = json.loads(of_photo(bright(slice(8, 16), slice(4, 8))).to_json())
    assert found["features"][0]["place"].keys() == {"row", "column"}
    assert found["photo"]["width"] == 32
    method = ForwardGradient(baseline=torch.zeros(3), scale=0.5)
    options = json.loads(of_vector(method=method, n_samples=64).to_json())["method"]
    assert options["baseline"] == "a tensor (3,)"
    assert options["scale"] == 0.5


# ---- notebooks -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photo", "vector"])
def test_a_notebook_shows_what_plot_draws(name):
    plt = pytest.importorskip("matplotlib.pyplot")
    image = pytest.importorskip("PIL.Image")
    found, open_before = KINDS[name](), plt.get_fignums()
    text = found._repr_html_()
    assert "samples, reliability" in text
    content = re.search('src="data:image/png;base64,([^"]*)"', text)[1]
    assert min(image.open(io.BytesIO(base64.b64decode(content))).size) > 50
    assert plt.get_fignums() == open_before


@pytest.mark.parametrize("name", ["text", "row"])
def test_a_notebook_shows_words_and_bars_without_matplotlib(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = KINDS[name]()._repr_html_()
    assert text.startswith("<div")
    assert "<b>" not in text
    assert "&lt;" in text
    assert not re.search(r"(^|[},>])\s*(body|th|span)\{", text)  # the notebook's own stay


@pytest.mark.parametrize("name", ["photo", "vector"])
@pytest.mark.parametrize("missing", ["matplotlib", "matplotlib.figure"])
def test_without_matplotlib_a_notebook_shows_the_repr(name, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    found = KINDS[name]()
    assert found._repr_html_() == f"<pre>{repr(found).replace(chr(39), '&#x27;')}</pre>"


def test_words_are_drawn_as_bars():
    pytest.importorskip("matplotlib").use("agg")
    ax = of_text().plot(most=3)
    assert [round(bar.get_width(), 6) for bar in ax.patches] == [2.0, 2.0, -1.0]
    assert [one.get_text() for one in ax.get_yticklabels()] == ["fine", "fine", "no"]
