"""on_look: the explanation of the samples so far, while a run goes on."""

import contextlib
import io
import os
import time
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad import (
    Coalitions,
    Explanation,
    ForwardGradient,
    IntegratedGradients,
    Regions,
    SmoothGrad,
    cli,
    explain_many,
)
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.text import explain_text
from fwdgrad.errors import ArgumentTypeError
from fwdgrad.runner.workers import Threads

from .models import Recorder, X, assert_same_bits, exact, folder_of, raise_at

PHOTO = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.5
CELLS = torch.arange(48).reshape(X.shape) // 4  # 12 features, in groups of 32 samples
AUTO = {"n_samples": "auto", "reliability": 0.99, "max_samples": 512}

pytestmark = pytest.mark.filterwarnings("ignore::fwdgrad.ReliabilityWarning")


def explain(model=exact, x=X, target="auto", **options):
    given = {"method": Regions(0.5), "features": CELLS, "objective": "output", **options}
    return fwdgrad.explain(model, x, target, **given)


def of_photo(batch):
    """Cells of a picture that act together."""
    cells = batch.unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((1, 3, 5)).flatten(1)
    total = torch.zeros(len(batch), dtype=torch.float64)
    for i in range(16):
        total = total + cells[:, i] * cells[:, (5 * i + 3) % 16] * cells[:, (9 * i + 1) % 16]
    return total


RUNS = {
    "auto": (exact, X, {"target": 1, **AUTO}, [128, 192, 288, 416]),
    "auto, a photo": (
        of_photo,
        PHOTO,
        {"features": None, "method": Regions(0.0), **AUTO},
        [128, 256, 384, 512],
    ),
    "groups": (exact, X, {"n_samples": 300}, [32, 64, 128, 256, 300]),
    "pairs": (
        exact,
        X,
        {"n_samples": 100, "method": Regions(0.5, antithetic=True)},
        [32, 64, 100],
    ),
    "fewer than a group": (exact, X, {"n_samples": 16}, [16]),
    "independent": (
        exact,
        X,
        {"n_samples": 50, "features": None, "method": ForwardGradient(0.5)},
        [16, 32, 50],
    ),
    "leave-one-out": (
        exact,
        X,
        {
            "n_samples": 200,
            "method": ForwardGradient(
                0.5, design="hadamard", antithetic=False, control_variate="leave-one-out"
            ),
        },
        [64, 128, 200],
    ),
    "a photo": (
        of_photo,
        PHOTO,
        {"n_samples": 256, "features": None, "method": Regions(0.0)},
        [256],
    ),
    "a photo in groups": (
        of_photo,
        PHOTO,
        {"n_samples": 256, "features": None, "method": Regions(0.0, cell=8, directions=64)},
        [64, 128, 256],
    ),
    "coalitions": (
        exact,
        X,
        {"method": Coalitions(), "features": CELLS // 2, "n_samples": None},
        [64],
    ),
    "gradient": (
        lambda batch: batch.flatten(1).sum(1),
        X,
        {"method": SmoothGrad(0.1), "features": None, "n_samples": 40},
        [40],
    ),
    "path": (
        exact,
        X,
        {
            "method": IntegratedGradients(0.0, steps=None, gradient=ForwardGradient()),
            "features": None,
            "n_samples": 64,
        },
        [64],
    ),
}


# ---- what is shown, and when -----------------------------------------------------------------


def uneven(recorder, _):
    """Some calls take longer than others, so that scores come in another order."""
    time.sleep(0.002 * (len(recorder.asked) % 3))


HOWS = {"here": {}, "small": {"batch_size": 7}, "threads": {"batch_size": 7, "workers": Threads(3)}}


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, how) for name in RUNS for how in HOWS if (name, how) != ("gradient", "threads")],
)
def test_a_look_shows_the_map_of_so_many_samples(name, how):
    model, x, run, looks = RUNS[name]
    before = uneven if how == "threads" else None
    how = HOWS[how]
    alone, watched, seen = Recorder(model), Recorder(model, before), []
    plain = explain(alone, x, **run, **how)
    e = explain(watched, x, on_look=seen.append, **run, **how)
    assert [one.n_samples for one in seen] == looks
    assert seen[-1] is e
    assert_same_bits(e, plain)
    assert sorted(watched.asked) == sorted(alone.asked)  # the same micro-batches
    for one in seen[:-1]:
        assert_same_bits(fwdgrad.explain(model, one.input, **one.settings), one)


def test_looks_tell_how_the_reliability_grows():
    seen = []
    e = explain(target=1, on_look=seen.append, **AUTO)
    told = [one.provenance["n_samples"] for one in seen]
    for one, text in zip(seen[:-1], told[:-1], strict=True):
        n = one.n_samples
        assert text == f"auto: reliability {one.reliability:.3g} < 0.99 after {n} of at most 512"
    assert told[-1] == e.provenance["n_samples"]
    assert seen[0].seconds <= seen[-1].seconds


def test_what_is_done_to_a_look_changes_nothing():
    def scribble(e):
        if e.n_samples < 300:
            e.attribution.fill_(7)
            e.input.fill_(7)
            e.provenance.clear()

    e = explain(n_samples=300, on_look=scribble)
    assert_same_bits(e, explain(n_samples=300))
    assert torch.equal(e.input, X)


def test_of_several_targets_it_is_given_a_list():
    seen = []
    found = explain(target=[0, 1], n_samples=64, on_look=seen.append)
    assert [[one.target for one in look] for look in seen] == [[0, 1], [0, 1]]
    assert all(one is other for one, other in zip(seen[-1], found, strict=True))


def test_a_look_with_samples_that_have_no_score():
    class Lossy(Recorder):
        max_missing = 0.2

        def __call__(self, batch):
            scores = super().__call__(batch)
            lost = (batch[:, 0, 0, 0] * 1e6).floor() % 16 == 0
            return scores.masked_fill((lost & (len(self.asked) > 1))[:, None], torch.nan)

    run = {"method": ForwardGradient(0.5), "features": None, "batch_size": 8}
    seen = []
    with pytest.warns(UserWarning, match="samples have no score"):
        e = explain(Lossy(), n_samples=256, on_look=seen.append, **run)
    assert [one.n_samples for one in seen] == [16, 32, 64, 128, 256]
    lost = [one.provenance.get("missing_samples", 0) for one in seen]
    assert lost == sorted(lost)
    assert lost[0] < lost[-1] == e.provenance["missing_samples"]


# ---- texts and tables ------------------------------------------------------------------------


def test_a_text_and_a_row_are_shown_as_they_are_returned():
    pandas = pytest.importorskip("pandas")
    seen = []
    text = " ".join(f"word{i}" for i in range(18)) + " good"
    likes = TextModel(lambda texts: [[float(len(t)), 9.0 * t.count("good")] for t in texts])
    found = fwdgrad.explain(likes, text, 1, n_samples=200, on_look=seen.append)
    assert [one.explanation.n_samples for one in seen] == [64, 128, 200]
    assert seen[-1] is found
    assert {type(one) for one in seen} == {type(found)}
    assert all(one.words == found.words for one in seen)

    seen = []
    rows = pandas.DataFrame({f"c{i}": [float(i), i + 1.0] for i in range(20)})
    model = TableModel(lambda table: table.to_numpy().sum(1), rows)
    found = fwdgrad.explain(model, rows.iloc[[1]], n_samples=128, on_look=seen.append)
    assert [one.explanation.n_samples for one in seen] == [64, 128]
    assert seen[-1] is found
    assert {type(one) for one in seen} == {type(found)}


def test_a_text_by_its_embeddings():
    model = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
    seen = []
    found = explain_text(model, "A fine film!", "good", n_samples=64, on_look=seen.append)
    assert [one.explanation.n_samples for one in seen] == [16, 32, 64]
    assert seen[-1] is found


# ---- errors, Ctrl-C and checkpoints ------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no window"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("how", [{}, {"workers": Threads(2)}], ids=["here", "threads"])
@pytest.mark.parametrize("run", [{"n_samples": 256}, {"target": 1, **AUTO}], ids=["number", "auto"])
def test_an_error_in_it_loses_nothing(error, how, run, tmp_path):
    def fails(e):
        if e.n_samples >= 128:
            raise error

    run = {**run, **how, "batch_size": 8, "checkpoint": tmp_path / "run.safetensors"}
    with pytest.raises(type(error)):
        explain(on_look=fails, **run)
    recorder, seen = Recorder(), []
    e = explain(recorder, on_look=seen.append, **run)
    del run["checkpoint"]
    assert_same_bits(e, explain(**run))
    assert recorder.calls <= e.n_samples - 128 + 4  # some are asked again, to compare
    first = 32 if run["n_samples"] == 256 else 128
    assert [seen[0].n_samples, seen[-1].n_samples] == [first, e.n_samples]


def test_what_is_not_finite_is_not_shown():
    model = Recorder()
    model.model = lambda batch: exact(batch) * (torch.nan if len(model.asked) == 6 else 1)
    seen = []
    with pytest.raises(fwdgrad.ModelError, match="score is nan for 8 of 8 samples"):
        explain(model, n_samples=256, batch_size=8, on_look=seen.append)
    assert [one.n_samples for one in seen] == [32]  # samples 32 .. 39 are in no look


@pytest.mark.parametrize("how", [{}, {"workers": Threads(2)}], ids=["here", "threads"])
def test_a_run_that_failed_half_way_looks_anew(how, tmp_path):
    run = {"n_samples": 256, "batch_size": 8, "checkpoint": tmp_path / "run.safetensors", **how}
    with pytest.raises(KeyboardInterrupt):
        explain(Recorder(exact, raise_at(20, KeyboardInterrupt())), **run)
    seen = []
    e = explain(on_look=seen.append, **run)
    assert [one.n_samples for one in seen] == [32, 64, 128, 256]
    assert_same_bits(e, explain(n_samples=256))


def test_it_is_none_of_what_makes_two_runs_the_same(tmp_path):
    run = {"n_samples": 64, "checkpoint": tmp_path / "run.safetensors"}
    explain(on_look=lambda e: None, **run)
    recorder = Recorder()
    explain(recorder, on_look=print, **run)
    assert recorder.calls == 4


def test_what_cannot_be_called():
    with pytest.raises(ArgumentTypeError, match="on_look must be a function or None, got 'plot'"):
        explain(Recorder(exact, raise_at(0, AssertionError)), on_look="plot")
    with pytest.raises(TypeError, match="unexpected keyword argument 'callback'; did you mean on_"):
        explain(callback=print)
    with pytest.raises(TypeError, match=r"explain_many\(\) got an unexpected .* 'on_look'"):
        explain_many(exact, [X], on_look=print)


# ---- the command line --------------------------------------------------------------------------

OWN = """
import torch


def corner(batch):
    light = batch[:, :, :8, :8].double().mean((1, 2, 3))
    return torch.stack([0 * light, light + (light * 1e6).sin()], 1)


def scores(texts):
    return [[float(len(text)), 9.0 * text.count("good")] for text in texts]


def price(rows):
    return rows["age"] * 1.0
"""
PHOTOS = ["--model", "own.py:corner", "--size", "16", "--baseline", "grey", "--no-evidence"]
UNSURE = ["--samples", "auto", "--reliability", "0.9999999", "--max-samples", "512"]


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """What was in heatmap.png before each was drawn; what is drawn is its number of samples."""
    found = []

    def draw(result, *_):
        path = Path("one-explanation/heatmap.png")
        found.append(path.read_text() if path.exists() else None)
        if os.environ.get("STOPPED_AT") == str(result.n_samples):
            raise KeyboardInterrupt
        return str(result.n_samples).encode()

    with folder_of(tmp_path, monkeypatch, OWN, "age\n30\n50\n"):
        monkeypatch.setattr("fwdgrad.cli.explain.heatmap", draw)
        yield found


def command(*line):
    """The exit status of fwdgrad explain, and what it says is wrong."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["explain", *line, "--no-progress"])
    return status, err.getvalue()


def test_the_picture_is_drawn_at_each_look(drawn, monkeypatch):
    line = ["one.png", *PHOTOS, *UNSURE]
    monkeypatch.setenv("STOPPED_AT", "384")
    assert command(*line, "--watch")[0] == 130
    assert drawn == [None, "128", "256"]
    assert not Path("one-explanation/explanation.safetensors").exists()
    monkeypatch.delenv("STOPPED_AT")
    drawn.clear()
    assert command(*line, "--watch") == (0, "")  # goes on, and what it has drawn is its own
    assert drawn == ["256", "128", "256", "384"]
    watched = Explanation.load("one-explanation/explanation.safetensors")
    assert "watch" not in watched.provenance["request"]
    drawn.clear()
    assert command(*line, "--watch") == (0, "")  # the map is there, and its picture stays
    assert drawn == ["512"]
    assert command(*line, "--output", "unwatched")[0] == 0
    alone = Explanation.load("unwatched/explanation.safetensors")
    assert alone.n_samples == watched.n_samples == 512
    assert_same_bits(alone, watched)


def test_several_photos_and_targets_are_drawn(drawn):
    names = ["one.png", "two.png"]
    line = [*PHOTOS, *UNSURE[:-1], "256", "--target", "0", "--target", "1", "--watch"]
    assert command(*names, *line)[0] == 0
    assert len(drawn) == 8
    assert len({*Path("explanations").glob("*/heatmap-*.png")}) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["one.png", *PHOTOS], "--watch needs --samples auto"),
        (["one.png", *PHOTOS, "--samples", "256"], "--watch needs --samples auto"),
        (["--text", "a good film", "--model", "own.py:scores"], "--watch is of photos, and --text"),
        (
            ["--table", "ages.csv", "--background", "ages.csv", "--model", "own.py:price"],
            "--watch does not go with --table",
        ),
    ],
)
def test_what_cannot_be_watched(line, message, drawn):
    status, err = command(*line, "--watch")
    assert (status, drawn) == (1, [])
    assert err.startswith(f"fwdgrad: error: {message}")


def test_a_picture_of_somebody_else_is_not_drawn_over(drawn):
    Path("one-explanation").mkdir()
    Path("one-explanation/heatmap.png").write_text("mine")
    status, err = command("one.png", *PHOTOS, *UNSURE, "--watch")
    assert status == 1
    assert "has heatmap.png of another run, which would be lost" in err
    assert Path("one-explanation/heatmap.png").read_text() == "mine"
