"""Rows of tables: values by their definition, what predict is given, what is shown and refused."""

import contextlib
import html.parser
import itertools
import json
import re
import time

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Coalitions, Explanation, ForwardGradient, ModelError, Regions, cli
from fwdgrad.adapters.tables import TableModel

from .test_coalitions import shapley

pd = pytest.importorskip("pandas")

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(7, 4))
ROW = np.array([1.0, -2.0, 0.5, 3.0])


def score(rows):
    """Of four columns: single ones, pairs and something that is not linear."""
    a, b, c, d = (rows[:, i] for i in range(4))
    return 2 * a - b * c + np.tanh(d * a) + np.maximum(c, 0) * d


def mixed(rows=30):
    """A frame of every kind of column."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 90, rows),
            "income": rng.normal(30.0, 9.0, rows).astype(np.float32),
            "owner": rng.random(rows) < 0.5,
            "town": rng.choice(["Ulm", "Bonn", "Köln"], rows),
            "kind": pd.Categorical(rng.choice(["a", "b"], rows), categories=["b", "a", "z"]),
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
            "children": pd.array(rng.integers(0, 4, rows), dtype="Int64"),
        }
    )


def coalition_scores(predict, row, background, groups):
    """The mean over the background of each coalition, by its definition: a row after the other."""
    found = []
    for bits in itertools.product((False, True), repeat=len(groups)):
        rows = background.copy()
        for has, group in zip(bits[::-1], groups, strict=True):
            if has:
                rows[:, group] = row[group]
        found.append(np.mean([float(predict(rows[i : i + 1])[0]) for i in range(len(rows))]))
    return np.array(found)


def banzhaf(scores):
    numbers = np.arange(len(scores))
    has = [numbers >> j & 1 == 1 for j in range(len(scores).bit_length() - 1)]
    return np.array([scores[one].mean() - scores[~one].mean() for one in has])


# ---- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [None, {"ac": [0, 2]}], ids=["columns", "groups"])
def test_values_are_those_of_the_definition(groups):
    e = fwdgrad.explain(TableModel(score, ROWS, groups=groups), ROW)
    parts = [[0], [1], [2], [3]] if groups is None else [[0, 2], [1], [3]]
    scores = coalition_scores(score, ROW, ROWS, parts)
    assert np.allclose(e.scores.numpy(), banzhaf(scores), rtol=0, atol=1e-12)
    assert not e.standard_errors.any()
    assert e.reliability == 1.0
    assert e.explanation.score == score(ROW[None])[0]
    assert e.names == (("x0", "x1", "x2", "x3") if groups is None else ("ac", "x1", "x3"))
    e = fwdgrad.explain(TableModel(score, ROWS, groups=groups), ROW, method=Coalitions("shapley"))
    assert np.allclose(e.scores.numpy(), shapley(scores), rtol=0, atol=1e-12)
    assert float(e.scores.sum()) == pytest.approx(scores[-1] - scores[0], abs=1e-12)


@pytest.mark.slow  # its import takes seconds
@pytest.mark.parametrize(("value", "index"), [("banzhaf", "BV"), ("shapley", "SV")])
def test_values_are_those_of_shapiq(value, index):
    shapiq = pytest.importorskip("shapiq")
    data = pytest.importorskip("sklearn.datasets").load_wine()
    ensemble = pytest.importorskip("sklearn.ensemble")
    columns = data.data[:, :10]
    forest = ensemble.RandomForestClassifier(10, random_state=0).fit(columns, data.target)
    background, row = columns[::8], columns[100]

    def game(coalitions):
        rows = [np.where(one, row, background) for one in np.asarray(coalitions, dtype=bool)]
        found = forest.predict_proba(np.concatenate(rows))[:, 1]
        return found.reshape(len(rows), -1).mean(1)

    computer = shapiq.ExactComputer(game, n_players=10)
    found = computer(index, order=1)
    e = fwdgrad.explain(TableModel(forest, background), row, 1, method=Coalitions(value))
    away = e.scores.numpy() - [found[(j,)] for j in range(10)]
    assert np.abs(away).max() < 1e-9
    assert e.scores.abs().max() > 0.05


def test_what_any_two_of_many_columns_do_together_disturbs_no_third_one():
    """Of a polynomial the value is the derivative half-way."""
    rng = np.random.default_rng(3)
    linear, pairs = rng.normal(size=20), np.triu(rng.normal(size=(20, 20)), 1) / 3
    background, row = rng.normal(size=(1, 20)), rng.normal(size=20)

    def predict(rows):
        return rows @ linear + np.einsum("ni,ij,nj->n", rows, pairs, rows)

    step, middle = row - background[0], (row + background[0]) / 2
    expected = step * (linear + (pairs + pairs.T) @ middle)
    for seed in range(5):
        e = fwdgrad.explain(TableModel(predict, background), row, seed=seed)
        assert e.explanation.n_samples == 1024
        assert isinstance(e.explanation.method, Regions)
        assert e.reliability > 0.99
        np.testing.assert_allclose(e.scores, expected, atol=1e-4)


def test_as_many_samples_as_coalitions_are_exact_and_fewer_are_an_estimate():
    model = TableModel(lambda rows: rows[:, 0] * rows[:, 1] + rows[:, 3], ROWS)
    exact = fwdgrad.explain(model, ROW)
    more, fewer = (fwdgrad.explain(model, ROW, n_samples=n) for n in (500, 12))
    assert torch.equal(more.scores, exact.scores)
    assert exact.explanation.n_samples == more.explanation.n_samples == 16
    assert isinstance(fewer.explanation.method, Regions)
    assert fewer.explanation.n_samples == 12


def test_a_column_that_is_not_used_gets_exactly_nothing():
    e = fwdgrad.explain(TableModel(lambda rows: rows[:, 0] / 3 * rows[:, 3], ROWS), ROW)
    assert not e.scores[[1, 2]].any()


def test_micro_batches_and_parts_of_a_table_change_no_bit(monkeypatch):
    one = fwdgrad.explain(TableModel(score, ROWS), ROW, batch_size=1)
    other = fwdgrad.explain(TableModel(score, ROWS), ROW, batch_size=16)
    monkeypatch.setattr("fwdgrad.adapters.tables._CELLS", 20)  # five rows
    largest = []

    def watched(rows):
        largest.append(len(rows))
        return score(rows)

    parts = fwdgrad.explain(TableModel(watched, ROWS), ROW)
    assert max(largest) == 5
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.scores, parts.scores)


def test_equal_coalitions_are_asked_once_and_the_whole_row_is():
    asked = []

    def predict(rows):
        asked.append(len(rows))
        return rows[:, 0] + rows[:, 1]

    model = TableModel(predict, ROWS[:, :2])
    fwdgrad.explain(model, ROW[:2], method=Regions(0.0), n_samples=64, batch_size=64)
    assert asked == [1, 3 * 7]  # of four coalitions one is the row


# ---- what predict is given -------------------------------------------------------------------


def test_a_frame_keeps_its_columns_and_types():
    background, seen = mixed(), []

    def predict(frame):
        seen.append(frame)
        return frame["age"].to_numpy() + 5.0 * (frame["town"] == "Ulm").to_numpy()

    e = fwdgrad.explain(TableModel(predict, background), background.iloc[3])
    for frame in seen:
        pd.testing.assert_index_equal(frame.columns, background.columns)
        assert (frame.dtypes == background.dtypes).all()
        for name in background.columns:
            assert set(frame[name].tolist()) <= set(background[name].tolist())
    assert len(seen[0]) == 1
    pd.testing.assert_frame_equal(seen[0], background.iloc[[3]].reset_index(drop=True))
    assert e.values[:2] == (background["age"][3], background["income"][3])
    assert [type(value) for value in e.values[:2]] == [int, float]
    assert set(np.flatnonzero(e.scores.numpy())) <= {0, 3}
    expected = background["age"][3] - background["age"].mean()
    assert float(e.scores[0]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "form",
    [
        lambda row: row,
        lambda row: row[::-1],
        lambda row: row.to_frame().T,
        lambda row: row.to_dict(),
        lambda row: dict(reversed(row.to_dict().items())),
        lambda row: row.to_numpy(),
        lambda row: list(row),
    ],
    ids=["Series", "its order", "frame", "dict", "dict's order", "array", "list"],
)
def test_a_row_in_any_form_is_the_same_row(form):
    background = mixed()
    background = background.drop(columns=["since"])

    def predict(frame):
        return frame["age"].to_numpy() * np.where(frame["owner"], 1.0, 2.0) + frame["income"]

    model = TableModel(predict, background)
    expected = fwdgrad.explain(model, background.iloc[[4]])
    e = fwdgrad.explain(model, form(background.iloc[4]))
    assert torch.equal(e.scores, expected.scores)
    assert e.explanation.provenance["table"] == expected.explanation.provenance["table"]


def test_a_type_that_cannot_hold_the_row_s_value_gives_way():
    background, types = pd.DataFrame({"a": [1, 2, 3], "b": [1.0, 2.0, 3.0]}), []

    def predict(frame):
        types.append(frame.dtypes["a"])
        return frame["a"].fillna(10).to_numpy() * 1.0

    e = fwdgrad.explain(TableModel(predict, background), {"a": np.nan, "b": np.nan})
    assert set(types) == {np.dtype("float64")}
    assert e.scores.tolist() == [8.0, 0.0]
    assert np.isnan(e.values).all()
    e = fwdgrad.explain(TableModel(predict, background), {"a": 2.5, "b": None})
    assert e.scores.tolist() == [0.5, 0.0]
    types.clear()
    fwdgrad.explain(TableModel(predict, background), {"a": 4.0, "b": 1})
    assert set(types) == {np.dtype("int64")}


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_an_array_keeps_its_type(dtype):
    background, seen = (ROWS > 0).astype(dtype), []

    def predict(rows):
        seen.append(rows.dtype)
        return np.nansum(rows, axis=1) * 1.0

    fwdgrad.explain(TableModel(predict, background), background[0])
    assert set(seen) == {np.dtype(dtype)}
    fwdgrad.explain(TableModel(predict, background), np.array([np.nan, 0.5, 1.0, 2.0]))
    assert seen[-1] == np.dtype("float32" if dtype == "float32" else "float64")


def test_nan_in_a_row_is_a_value_like_another():
    def predict(rows):
        return np.where(np.isnan(rows[:, 0]), 5.0, rows[:, 0])

    background = np.array([[1.0, 0.0], [3.0, np.nan]])
    e = fwdgrad.explain(TableModel(predict, background), [np.nan, 1.0])
    assert e.scores.tolist() == [3.0, 0.0]
    frame = pd.DataFrame(background, columns=["a", "b"])
    again = fwdgrad.explain(TableModel(lambda f: predict(f.to_numpy()), frame), [None, 1.0])
    assert again.scores.tolist() == [3.0, 0.0]


def test_one_hot_columns_move_together():
    background, seen = pd.get_dummies(mixed()[["town", "age"]]), []

    def predict(frame):
        seen.append(frame)
        return 2.0 * frame["town_Ulm"].to_numpy() - frame["town_Bonn"].to_numpy()

    row = background[background["town_Ulm"]].iloc[0]
    towns = ["town_Bonn", "town_Köln", "town_Ulm"]
    e = fwdgrad.explain(TableModel(predict, background, categories={"town": towns}), row)
    assert e.names == ("age", "town")
    assert e.values[1] == "Ulm"
    for frame in seen:
        assert (frame[towns].sum(axis=1) == 1).all()
    expected = 2 - predict(background).mean()
    assert float(e.scores[1]) == pytest.approx(expected, abs=1e-12)


def test_of_a_large_background_rows_are_drawn_once():
    background = np.arange(1000.0)[:, None] * np.ones(3)
    seen = []

    def predict(rows):
        seen.append(set(rows[:, 0].tolist()) - {-1.0})
        return rows.sum(1)

    model = TableModel(predict, background, max_background=50)
    e = fwdgrad.explain(model, -np.ones(3))
    drawn = set.union(*seen)
    assert len(drawn) == 50
    assert all(one in (set(), drawn) for one in seen)
    assert 300 < np.mean(list(drawn)) < 700
    assert "50 of 1,000 background rows" in str(e)
    assert e.explanation.provenance["table"]["background_of"] == 1000
    again = fwdgrad.explain(TableModel(predict, background, max_background=50), -np.ones(3))
    assert torch.equal(again.scores, e.scores)
    other = TableModel(predict, background, max_background=50, seed=1)
    assert not torch.equal(fwdgrad.explain(other, -np.ones(3)).scores, e.scores)


# ---- models ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipelines():
    compose = pytest.importorskip("sklearn.compose")
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sklearn.svm import LinearSVC

    data = mixed(80)[["age", "income", "town", "kind"]]
    target = np.where(data["age"] + 20 * (data["town"] == "Ulm") > 60, "good", "bad")
    found = {}
    for last in (LogisticRegression(), LinearSVC(), LinearRegression()):
        columns = compose.make_column_transformer(
            (make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            (OneHotEncoder(handle_unknown="ignore"), ["town", "kind"]),
        )
        y = target == "good" if isinstance(last, LinearRegression) else target
        found[type(last).__name__] = make_pipeline(columns, last).fit(data, y)
    return data, found


def test_a_pipeline_of_a_frame_by_the_names_of_its_classes(pipelines):
    data, found = pipelines
    pipeline = found["LogisticRegression"]
    for predict in (pipeline, pipeline.predict_proba):
        e = fwdgrad.explain(TableModel(predict, data), data.iloc[0], "good")
        assert (e.label, e.explanation.target) == ("good", 1)
        assert e.explanation.score == pipeline.predict_proba(data.iloc[[0]])[0, 1]
        assert str(e).startswith("good: probability ")
    other = fwdgrad.explain(TableModel(pipeline, data), data.iloc[0], ["good", "bad"])
    assert torch.allclose(other[1].scores, -other[0].scores, rtol=0, atol=1e-12)
    again = fwdgrad.explain(TableModel(pipeline, data, labels=["no", "yes"]), data.iloc[0], "yes")
    assert torch.equal(again.scores, e.scores)
    row = data.iloc[0].copy()
    row["income"] = np.nan
    assert np.isnan(fwdgrad.explain(TableModel(pipeline, data), row).values[1])


@pytest.mark.parametrize("name", ["LinearSVC", "LinearRegression"])
def test_margins_and_regressions_are_explained_as_they_are(pipelines, name):
    data, found = pipelines
    pipeline = found[name]
    function = pipeline.decision_function if name == "LinearSVC" else pipeline.predict
    e = fwdgrad.explain(TableModel(pipeline, data), data.iloc[0])
    assert e.label is None
    assert e.explanation.objective == "output"
    assert e.explanation.score == pytest.approx(float(function(data.iloc[[0]])[0]), abs=1e-12)
    change = e.explanation.score - function(data).mean()
    assert float(e.scores.sum()) == pytest.approx(change, abs=1e-9)  # it is linear


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lightgbm", "xgboost"])
def test_boosted_trees_and_their_boosters(kind):
    module = pytest.importorskip(kind)
    data = pytest.importorskip("sklearn.datasets").load_breast_cancer(as_frame=True)
    name, options = ("LGBMClassifier", {"verbose": -1}) if kind == "lightgbm" else (
        "XGBClassifier", {},
    )  # fmt: skip
    model = getattr(module, name)(n_estimators=5, n_jobs=1, **options)
    columns = data.data.iloc[:, :8]
    model.fit(columns, data.target)
    booster = model.booster_ if kind == "lightgbm" else model.get_booster()
    one = fwdgrad.explain(TableModel(model, columns), columns.iloc[0], 1)
    other = fwdgrad.explain(TableModel(booster, columns), columns.iloc[0])
    assert torch.allclose(one.scores, other.scores, rtol=0, atol=1e-6)
    assert one.scores.abs().max() > 0.01


def test_a_checkpoint_knows_the_row_and_the_background(tmp_path):
    path = tmp_path / "run.safetensors"
    e = fwdgrad.explain(TableModel(score, ROWS), ROW, checkpoint=path)
    again = fwdgrad.explain(TableModel(score, ROWS), ROW, checkpoint=path)
    assert torch.equal(e.scores, again.scores)
    for model, row in ((TableModel(score, ROWS), ROW + 1), (TableModel(score, ROWS[:5]), ROW)):
        with pytest.raises(fwdgrad.CheckpointError, match="another run"):
            fwdgrad.explain(model, row, checkpoint=path)
    e.explanation.save(tmp_path / "e.safetensors")
    kept = Explanation.load(tmp_path / "e.safetensors")
    assert kept.provenance["table"]["features"] == ["x0", "x1", "x2", "x3"]


def test_a_sample_takes_less_than_a_millisecond_beside_the_model():
    background, spent = RNG.normal(size=(100, 20)), [0.0]

    def predict(frame):
        start = time.perf_counter()
        found = frame.to_numpy().sum(1)
        spent[0] += time.perf_counter() - start
        return found

    model = TableModel(predict, pd.DataFrame(background).rename(columns=str))
    best = np.inf
    for _ in range(3):
        spent[0], start = 0.0, time.perf_counter()
        e = fwdgrad.explain(model, background[0])
        best = min(best, time.perf_counter() - start - spent[0])
    assert best / e.explanation.n_samples < 1e-3


# ---- what is shown ---------------------------------------------------------------------------


def shown(**options):
    """Of two columns and names that would drive a terminal or a page."""
    names = ["<b>a\x1b[2J", "plain", "third"]
    model = TableModel(
        lambda rows: rows[:, 0] - 4 * rows[:, 1], np.zeros((1, 3)), feature_names=names
    )
    return fwdgrad.explain(model, [2.0, 1.0, 7.0], **options)


def test_the_text_is_sorted_and_obeys_nothing():
    lines = str(shown()).split("\n")
    assert lines[0] == "output -2; exact, from 8 coalitions, 1 background rows"
    assert lines[1].split() == ["plain", "1", "-4.000", "█" * 15 + "│"]
    assert lines[2].split() == [r"<b>a\x1b[2J", "2", "+2.000", "│" + "█" * 8]
    assert lines[3].split() == ["third", "7", "+0.000", "│"]
    assert "\x1b" not in str(shown()) + repr(shown())


def test_errors_are_at_the_ends_of_bars():
    e = shown(method=Regions(0.0), n_samples=64)
    e.standard_errors[:] = torch.tensor([1.0, 0.0, 0.0])
    lines = str(e).split("\n")
    assert lines[2].endswith("+2.000 ± 1.000" + " " * 17 + "│████▒▒▒▒───")
    e.scores.zero_(), e.standard_errors.zero_()
    assert "█" not in str(e)


def test_of_many_columns_the_largest_are_shown():
    model = TableModel(lambda rows: rows @ np.arange(30.0), np.zeros((1, 30)))
    e = fwdgrad.explain(model, np.ones(30))
    lines = str(e).split("\n")
    assert [line.split()[0] for line in lines[1:21]] == [f"x{i}" for i in range(29, 9, -1)]
    assert lines[21] == "... and 10 smaller"
    assert len(e.to_frame()) == 30


def test_the_frame_has_all_sorted():
    frame = shown().to_frame()
    assert list(frame.columns) == ["feature", "value", "score", "standard_error", "significant"]
    assert frame["feature"].tolist()[1:] == ["<b>a\x1b[2J", "third"]
    assert frame["score"].tolist() == [-4.0, 2.0, 0.0]


def test_numbers_stay_numbers_in_the_frame_and_in_json():
    model = TableModel(lambda rows: rows[:, 0] + np.nan_to_num(rows[:, 1]), np.zeros((2, 2)))
    e = fwdgrad.explain(model, [1234567.875, np.nan])
    frame = e.to_frame().set_index("feature")["value"]
    assert frame.dtype == np.float64
    assert frame["x0"] == 1234567.875  # all of its digits
    found = {one["feature"]: one["value"] for one in json.loads(e.to_json())["features"]}
    assert found == {"x0": 1234567.875, "x1": None}
    background = mixed()
    model = TableModel(
        lambda frame: frame["age"].to_numpy() * 1.0,
        background,
        groups={"money": ["income", "owner"]},
    )
    e = fwdgrad.explain(model, background.iloc[3].to_dict())
    found = {one["feature"]: one["value"] for one in json.loads(e.to_json())["features"]}
    age = background["age"][3].item()
    assert (found["age"], type(found["age"]), found["town"]) == (age, int, background["town"][3])
    assert found["money"].startswith("income=")
    assert {one.name: one.value for one in e.top(9)} == found
    assert ["age", str(age)] in [line.split()[:2] for line in str(e).split("\n")]


def test_the_page_is_whole_and_escapes_everything():
    page, tags = shown().to_html(), []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(page)
    assert "b" not in tags
    assert tags.count("tr") == 3
    assert "&lt;b&gt;" in page
    assert "\x1b" not in page


def test_the_chart_has_a_bar_and_an_error_for_each():
    pytest.importorskip("matplotlib").use("agg")
    ax = shown().plot()
    assert [bar.get_width() for bar in ax.patches] == [-4.0, 2.0, 0.0]
    assert ax.get_yticklabels()[0].get_text() == "plain = 1"
    assert not ax.collections
    e = shown(method=Regions(0.0), n_samples=64)
    e.standard_errors[:] = 0.5
    assert e.plot(most=2).collections


@pytest.mark.parametrize("columns", [0, 1, 2])
@pytest.mark.parametrize("name", ["age", "the distance to the next station"])
def test_all_of_the_title_can_be_read(name, columns):
    """In a figure of its own, in given axes, and beside another one."""
    plt = pytest.importorskip("matplotlib.pyplot")
    data = np.random.default_rng(0).normal(size=(300, 2))
    scores = lambda rows: np.stack([rows.sum(1), rows[:, 0]], 1)  # noqa: E731
    labels = ["the loan is granted at once", "refused"]
    model = TableModel(scores, data, feature_names=[name, "rooms"], labels=labels)
    row = fwdgrad.explain(model, [1.0, 2.0], 0)
    given = [None]
    if columns:
        figure = plt.figure(figsize=(10, 3), layout="constrained")
        given = figure.subplots(1, columns, squeeze=False)[0]
    axes = [row.plot(ax) for ax in given]
    figure = axes[0].figure
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in axes]
    for box, ax in zip(boxes, axes, strict=True):
        assert ax.get_title().replace("\n", " ") == str(row).split("\n")[0]
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    plt.close(figure)


# ---- what is refused -------------------------------------------------------------------------

FRAME = pd.DataFrame({"age": [1, 2], "town": ["Ulm", "Bonn"], "kind": pd.Categorical(["a", "b"])})
GOOD = {"age": 1, "town": "Ulm", "kind": "a"}


def of_frame(frame):
    return frame["age"].to_numpy() * 1.0


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"age": 1, "town": "Ulm"}, "x must have the background's columns.* it lacks 'kind'"),
        (dict.fromkeys("abcdefgh", 1), "lacks 'age', 'town', .*has 'a', 'b', .*'e' and 3 more$"),
        ({**GOOD, "size": 1}, "x must have .* it has 'size'"),
        ({"ages": 1, "town": "Ulm", "kind": "a"}, "it lacks 'age' and has 'ages'"),
        (pd.Series({"age": 1, "city": "Ulm", "kind": "a"}), "it lacks 'town' and has 'city'"),
        (FRAME, "x must be one row, got a DataFrame of 2"),
        (FRAME[["age", "town"]].iloc[[0]], "it lacks 'kind'"),
        ([1, "Ulm"], "x must have a value for each of the background's 3 columns, got 2"),
        (np.ones((1, 3)), r"x must be one row, got an array of shape \(1, 3\); give x\[0\]"),
        ("Ulm", "x must be a row: .*got str"),
        (3.0, "x must be a row: .*got float"),
        ({**GOOD, "age": "old"}, "x must have a number in column 'age'.*'old'"),
        ({**GOOD, "kind": "c"}, "x must have a category .*'kind', got 'c'; they are 'a', 'b'"),
    ],
)
def test_rows_that_are_none_of_the_background(x, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        fwdgrad.explain(TableModel(of_frame, FRAME), x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("background", "options", "message"),
    [
        (FRAME.iloc[:0], {}, r"background must have a row at least, got shape \(0, 3\)"),
        (np.zeros((3, 0)), {}, "background must have a row"),
        (np.zeros(3), {}, r"background must be a table \(rows, columns\)"),
        ([[1.0]], {}, "background must be a pandas DataFrame or a NumPy array.*list"),
        (FRAME[["age", "age"]], {}, "background must have columns that differ, got 'age' twice"),
        (FRAME, {"groups": {"g": ["agee"]}}, "groups must have columns .*'agee'.*mean 'age'"),
        (FRAME, {"categories": {"g": ["x"]}}, "categories must have .*'x'; they are 'age'"),
        (FRAME, {"groups": {"g": []}}, "groups must have a column in each, got none in 'g'"),
        (FRAME, {"groups": {"g": ["age"], "h": ["age"]}}, "must not share columns: 'age' is in"),
        (FRAME, {"groups": {"town": ["age", "kind"]}}, "groups must have names .*'town' twice"),
        (FRAME, {"categories": {"age": ["kind"]}}, "categories must have names .*'age' twice"),
        (FRAME, {"groups": ["age"]}, "groups must be a dict"),
        (FRAME, {"feature_names": ["a"]}, "feature_names must be 3, one for each column, got 1"),
        (FRAME, {"feature_names": ["a", "a", "b"]}, "feature_names must differ, got 'a' twice"),
        (FRAME, {"feature_names": "age"}, "feature_names must be a list"),
        (FRAME, {"max_background": 0}, "max_background must be at least 1"),
        (FRAME, {"seed": -1}, "seed must lie in 0"),
    ],
)
def test_tables_and_groups_that_will_not_do(background, options, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        TableModel(of_frame, background, **options)
    assert "\n" not in str(caught.value)


class Classifier:
    """An estimator as scikit-learn has them."""

    classes_ = np.array(["no", "yes"])

    def predict(self, rows):
        return np.array(["no"] * len(rows))


class Proba(Classifier):
    def predict_proba(self, rows):
        return np.full((len(rows), 2), 0.5)


def test_what_predict_must_be():
    for predict, message in (
        (Classifier(), "Classifier.predict returns labels; give a function that returns scores"),
        (Classifier().predict, "Classifier.predict returns labels"),
        (Proba().predict, "Proba.predict returns labels; give its predict_proba"),
        (Proba, "predict must be a model, got the class Proba"),
        (3, "predict must be a function from a table to scores, or an estimator.*int"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            TableModel(predict, ROWS)


class Fitted:
    """An estimator of columns a and b, as scikit-learn has them."""

    feature_names_in_, n_features_in_ = np.array(["a", "b"], dtype=object), 2

    def predict(self, rows):
        if rows.shape[1] != 2 or list(getattr(rows, "columns", "ab")) != ["a", "b"]:
            raise ValueError("other columns")
        return np.asarray(rows, dtype=float).sum(1)


class ByName(Fitted):
    def predict(self, rows):
        return super().predict(rows[["a", "b"]])


def test_a_background_of_other_columns_is_refused_at_once():
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0], "target": [0, 1]})
    fitted = Fitted()
    for background, message in (
        (None, "background must be given: rows of the data"),
        (frame, "no others: it has 'target'; leave that out of background and of the table"),
        (frame[["a"]], "background must have the columns .* fitted on.*: it lacks 'b'$"),
        (frame[["b", "a"]], r"order .* fitted on them: give background\[model.feature_names_in_\]"),
        (frame.to_numpy(), "the 2 columns that the model was fitted on, got 3: ValueError: other"),
    ):
        for predict in (fitted, fitted.predict):
            with pytest.raises((TypeError, ValueError), match=message):
                TableModel(predict, background)
    # Where it takes them, they are no mistake.
    assert fwdgrad.explain(TableModel(fitted, frame[["a", "b"]]), [1.0, 2.0]).scores is not None
    assert fwdgrad.explain(TableModel(ByName(), frame), [1.0, 2.0, 0]).scores[2] == 0
    assert TableModel(fitted, ROWS[:, :2]).features


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (lambda rows: ["no"] * len(rows), "names such as 'no': labels, which are no scores; give"),
        (lambda rows: np.ones(len(rows), dtype=int), "integers .*labels, which are no scores"),
        (lambda rows: np.ones(len(rows) + 1), r"the model returned shape \(2,\) for a batch of 1"),
        (lambda rows: None, "the model must return a tensor or an array, got NoneType"),
        (lambda rows: rows["age"], "predict failed on the row x: IndexError"),
        (lambda rows: {}["s6"], "x: KeyError: 's6'; it has the background's columns, 'x0', 'x1', "),
        (lambda rows: rows[:, 0] * np.nan, "is nan: the model returned nan for the row; call it"),
    ],
)
def test_a_predict_that_gives_no_scores(predict, message):
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(TableModel(predict, ROWS), ROW)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_the_model():
    proba = TableModel(Proba(), ROWS, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="labels must be 2, one for each class of the model, got"):
        fwdgrad.explain(proba, ROW)
    with pytest.raises(ValueError, match="'maybe' is no class of the model"):
        fwdgrad.explain(TableModel(Proba(), ROWS), ROW, "maybe")
    with pytest.raises(ValueError, match="target must be left out: the model returns one number p"):
        fwdgrad.explain(TableModel(score, ROWS), ROW, "yes")
    two = TableModel(lambda rows: np.full((len(rows), 2), 0.5), ROWS)
    with pytest.raises(ValueError, match=r"target must be a number, got 'yes'; TableModel\(labels"):
        fwdgrad.explain(two, ROW, "yes")
    with pytest.raises(ModelError, match=r"in or out.*Regions"):
        fwdgrad.explain(TableModel(score, ROWS), ROW, method=ForwardGradient(0.1), n_samples=4)


# ---- the command line ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed()[["age", "town", "owner"]].to_csv("rows.csv", index=False)
    (tmp_path / "row.csv").write_text("town,owner,age\nUlm,True,40\n")
    (tmp_path / "of_tables.py").write_text(
        "import numpy as np\n"
        "def f(frame): return frame['age'] + 5.0 * (frame['town'] == 'Ulm')\n"
        "def p(frame): return np.stack([f(frame) / 200, 1 - f(frame) / 200], 1)\n"
        "def labels(frame): return ['a'] * len(frame)\n"
        "class Fitted:\n"
        "    feature_names_in_ = ['age', 'town']\n"
        "    def predict(self, frame): return frame[self.feature_names_in_, 'age']\n"
        "fitted = Fitted()\n"
    )
    return tmp_path


LINE = "explain --background rows.csv --no-progress --model of_tables:"


def test_a_row_on_the_command_line(folder, capsys):
    assert cli.main([*(LINE + "f --table row.csv --output out").split()]) == 0
    out = capsys.readouterr().out
    rows = pd.read_csv("rows.csv")
    age, town = 40 - rows["age"].mean(), 5 - 5 * (rows["town"] == "Ulm").mean()
    assert out.startswith("output 45; exact, from 8 coalitions, 30 background rows\n")
    for name, value, expected in (("age", "40", age), ("town", "Ulm", town)):
        (line,) = [line.split() for line in out.split("\n") if line.startswith(name + " ")]
        assert line[1] == value
        assert float(line[2]) == pytest.approx(expected, abs=0.01)
    kept = Explanation.load(folder / "out" / "explanation.safetensors")
    assert kept.provenance["table"]["features"] == ["age", "town", "owner"]
    assert "<table>" in (folder / "out" / "row.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "explanation.safetensors", "row.html",
    ]  # fmt: skip
    assert cli.main([*(LINE + "f --table row.csv --output out --value shapley").split()]) == 1
    assert "of another run" in capsys.readouterr().err


def test_options_of_rows_and_several_targets(folder, capsys):
    (folder / "names.txt").write_text("low\nhigh\n")
    line = LINE + "p --table row.csv --labels names.txt --target high --target 0 --value shapley"
    assert cli.main([*line.split(), "--max-background", "9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "high: probability 0.775; Shapley values, exact, from 8 coalitions, 9 of 30 "
    )
    assert "\nlow: probability 0.225; " in out
    assert cli.main((LINE + "f --table row.csv --method regions --samples 64").split()) == 0
    assert "64 samples, reliability" in capsys.readouterr().out


def test_groups_and_categories_on_the_command_line(folder, capsys):
    rows = pd.read_csv("rows.csv")
    towns = pd.get_dummies(rows["town"], prefix="town").astype(int)
    rows = rows[["age", "owner"]].assign(**towns, **{"net, EUR": range(len(rows))})
    rows.to_csv("rows.csv", index=False)
    header = 'owner,age,"net, EUR",town_Ulm,town_Köln,town_Bonn'
    (folder / "row.csv").write_text(f"{header}\nTrue,40,9,1,0,0\n", encoding="utf-8")
    (folder / "of_groups.py").write_text(
        "def f(frame): return frame['age'] * frame['net, EUR'] + 5.0 * frame['town_Ulm']\n"
    )
    line = LINE.replace("of_tables", "of_groups") + "f --table row.csv --output out --category"
    line = [*line.split(), f"town={','.join(towns)}"]
    assert cli.main([*line, "--group", 'wealth=age, "net, EUR"']) == 0
    assert capsys.readouterr().out.startswith("output 365; exact, from 8 coalitions")
    kept = Explanation.load(folder / "out" / "explanation.safetensors")
    table = kept.provenance["table"]
    assert table["features"] == ["wealth", "owner", "town"]
    assert table["values"] == ["age=40, net, EUR=9", "True", "Ulm"]
    product, in_ulm = (rows["age"] * rows["net, EUR"]).mean(), rows["town_Ulm"].mean()
    expected = [360 - product, 0.0, 5 - 5 * in_ulm]
    assert kept.attribution.tolist() == pytest.approx(expected, abs=1e-6)
    # Other groups are another run.
    assert cli.main([*line, "--group", "wealth=age,owner"]) == 1
    assert "of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("f --table no.csv", "--table no.csv cannot be read: No such file"),
        ("f --table other.csv", "--table must have .*lacks 'town'; if .* leave it out of --backgr"),
        ("f --table row.csv --cell 3", "--cell does not go with --table"),
        ("f --table row.csv --samples 9 --method coalitions", "--samples must be None or 8"),
        ("f --table row.csv --method gradient", "--method must be auto, coalitions or regions"),
        ("labels --table row.csv", "the model returned names such as 'a': labels"),
        ("g --table row.csv", "--model 'of_tables:g': of_tables of .* has no 'g'"),
        ("f --table row.csv --max-background 0", "--max-background must be at least 1, got 0"),
        ("f --table row.csv --target yes", "--target must be left out: the model returns one numb"),
        (
            "fitted --table row.csv",
            "--background must .* no others: it has 'owner'; leave that out "
            "of --background and of the --table",
        ),
        ("f --table https://a.org/b.csv", "--table: https://a.org/b.csv is an address.*download"),
        ("f --table row.csv --group age", "--group must be a name and its columns, .* got 'age'"),
        ("f --table row.csv --group g=", "--group must be a name and its columns, .* got 'g='"),
        ("f --table row.csv --category =age", "--category must be a name and its columns"),
        ("f --table row.csv --group a=agee", "--group must have columns.*'agee'; did you mean 'ag"),
        ("f --table row.csv --group a=zz,age,yy,xx", "'a' has 'zz', 'yy', 'xx'; they are 'age', "),
        ("f --table row.csv --group a=age --category b=age", "--category must not share columns"),
        ("f --table row.csv --group a=age --group a=town", "--group must have names .*'a' twice"),
        ("f --table row.csv --category town=age", "--category must have names .*'town' twice"),
        ("f --table row.csv --url http://localhost", "--url does not go with --table"),
        ("f photo.png --group a=age", "--background is of rows of tables: give --table"),
        ("f", "give a photo or --text"),
    ],
)
def test_what_the_command_line_refuses(folder, capsys, rest, message):
    (folder / "other.csv").write_text("age,owner\n40,True\n")
    with contextlib.suppress(SystemExit):  # of the parser
        assert cli.main([*(LINE + rest).split()]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err


def test_it_needs_a_background_and_never_reads_a_pickle(folder, capsys):
    assert cli.main(["explain", "--table", "row.csv", "--model", "of_tables:f"]) == 1
    assert "--table needs --background" in capsys.readouterr().err
    pd.to_pickle([1], folder / "model.pkl")
    line = "explain --table row.csv --background rows.csv --model model.pkl"
    assert cli.main(line.split()) == 1
    err = capsys.readouterr().err
    assert "--model must be package.module:callable or file.py:callable, got 'model.pkl'" in err
