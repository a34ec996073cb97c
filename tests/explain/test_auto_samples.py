"""n_samples="auto": as many samples as make the map sure."""

import contextlib
import dataclasses
import io
import math

import pytest
import torch

import fwdgrad
from fwdgrad import (
    CheckpointError,
    Coalitions,
    Explanation,
    ForwardGradient,
    Grid,
    IntegratedGradients,
    NoiseGrad,
    Regions,
    SmoothGrad,
    cli,
    explain_many,
)
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.directions import directions
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.methods import plan_again, plan_of
from fwdgrad.runner.looks import AutoSamples, Looks
from fwdgrad.runner.workers import Threads
from fwdgrad_kernels import NoiseSpec

from .models import Recorder, assert_same_bits, folder_of, raise_at

X = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64) + 0.5
SLOPE = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
SURE = {"n_samples": "auto", "reliability": 0.97, "objective": "output"}


def linear(batch):
    return (batch * SLOPE).sum((1, 2, 3))


def curved(batch):
    """What three cells do together adds as much as what each does."""
    cells = (batch * SLOPE).unflatten(2, (4, 8)).unflatten(4, (4, 8)).sum((1, 3, 5)).flatten(1)
    return cells.sum(1) + (cells * cells.roll(5, 1) * cells.roll(9, 1)).sum(1) / 25


def erratic(batch):
    return (linear(batch) * 1e6).sin()


def explain(model=curved, x=X, **options):
    given = {"method": Regions(0.0), **SURE, **options}
    return fwdgrad.explain(model, x, **given)


@pytest.fixture(scope="module")
def found():
    """A run of several looks, and how many samples it asked for."""
    recorder = Recorder(curved)
    return explain(recorder), recorder.calls


# ---- when it stops ---------------------------------------------------------------------------


def test_it_stops_when_it_is_sure_and_asks_for_nothing_twice(found):
    e, calls = found
    assert 128 < e.n_samples < 4096
    assert e.n_samples % 128 == 0
    assert e.reliability >= 0.97
    assert calls == e.n_samples
    n = e.n_samples
    told = f"auto: reliability {e.reliability:.3g} >= 0.97 after {n} of at most 4096"
    assert e.provenance["n_samples"] == told


def test_a_linear_score_is_sure_at_once():
    e = explain(linear, reliability=0.999)
    assert (e.n_samples, e.method) == (128, Regions(0.0, cell=5, directions=128))


def test_noise_never_is():
    with pytest.warns(fwdgrad.ReliabilityWarning, match="would leave less|more max_samples"):
        e = explain(erratic, max_samples=700)
    assert e.n_samples == 640
    assert e.provenance["n_samples"].endswith("< 0.97 after 640 of at most 700")


@pytest.mark.filterwarnings("ignore:the score is:UserWarning")
@pytest.mark.filterwarnings("ignore::fwdgrad.ReliabilityWarning")
def test_what_cannot_be_told_goes_on():
    e = explain(lambda batch: torch.ones(len(batch)), max_samples=256)
    assert math.isnan(e.reliability)
    assert e.provenance["n_samples"] == "auto: reliability not known after 256 of at most 256"


def test_looks_are_half_as_many_again_in_whole_units():
    plan = plan_of(X, Regions(0.0), n_samples=128)
    results = [(X, X, 0.5), (X, X, math.nan)]
    shown = []
    looks = Looks(
        AutoSamples(max_samples=1500), plan, lambda _: results, lambda n, _: shown.append(n)
    )
    seen = [0]
    while len(seen) < 2 or seen[-1] != seen[-2]:
        seen.append(looks.after(seen[-1]))
    assert seen == [0, 128, 256, 384, 512, 768, 1152, 1408, 1408]
    assert shown == seen[1:-2]


def test_every_target_is_to_be_sure():
    def both(batch):
        return torch.stack([linear(batch), curved(batch)], 1)

    easy, hard = explain(both, target=[0, 1])
    assert easy.n_samples == hard.n_samples == explain(curved).n_samples
    assert hard.reliability >= 0.97


# ---- the same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [{"batch_size": size} for size in (1, 7, 64)] + [{"workers": Threads(2)}], ids=str
)
def test_how_a_run_is_made_changes_no_bit(how, found):
    recorder = Recorder(curved)
    assert_same_bits(explain(recorder, **how), found[0])
    assert recorder.calls == found[1]


def test_settings_repeat_it(found, tmp_path):
    e = found[0]
    assert type(e.n_samples) is int
    assert_same_bits(fwdgrad.explain(curved, e.input, **e.settings), e)
    e.save(tmp_path / "e.safetensors")
    again = Explanation.load(tmp_path / "e.safetensors")
    assert_same_bits(fwdgrad.explain(curved, again.input, **again.settings), e)
    assert plan_again(e).spec.group == 128


CELLS = Grid((5, 5), "linear", False, True)  # 64 lines
BLOCKS = torch.arange(64).reshape(8, 8).repeat_interleave(4, 0).repeat_interleave(4, 1)


MANY = torch.arange(3072).reshape(3, 32, 32) // 6  # 512, in pairs


@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({"features": CELLS}, 128),
        ({"method": Regions(0.0, cell=3)}, 256),  # 144 lines
        ({"method": Regions(0.0, cell=2)}, 512),  # 289 lines
        ({"features": BLOCKS.expand(3, 32, 32)}, 128),
        ({"method": Regions(0.0, antithetic=True)}, 128),  # a group of 64 pairs
        ({"method": ForwardGradient(0.1)}, 128),
        ({"method": ForwardGradient(0.1), "features": Grid((8, 8), "nearest", True, False)}, 128),
        ({"method": ForwardGradient(0.1, design="hadamard"), "features": MANY}, 1024),
    ],
    ids=[
        "grid",
        "144 lines",
        "289 lines",
        "labels",
        "pairs",
        "independent",
        "shifting grid",
        "many",
    ],
)
@pytest.mark.filterwarnings("ignore::fwdgrad.ReliabilityWarning")
def test_whole_units_of_any_plan(options, first):
    e = explain(**options, max_samples=first)
    assert e.n_samples == first
    assert_same_bits(fwdgrad.explain(curved, e.input, **e.settings), e)


def test_features_have_a_group_of_twice_their_size_where_there_may_be_so_many():
    """As a number of samples that it may come to has it, whatever it stops at."""
    e = explain(linear, features=BLOCKS.expand(3, 32, 32))
    assert (e.n_samples, plan_again(e).spec.group) == (256, 256)  # 64 features
    assert_same_bits(fwdgrad.explain(linear, e.input, **e.settings), e)


@pytest.mark.parametrize("call", [3, 9, 20])
@pytest.mark.parametrize("how", [{}, {"workers": Threads(2)}], ids=["here", "threads"])
def test_an_interrupted_run_goes_on(call, how, found, tmp_path):
    run = {"batch_size": 16, "checkpoint": tmp_path / "run.safetensors", **how}
    with pytest.raises(KeyboardInterrupt):
        explain(Recorder(curved, raise_at(call, KeyboardInterrupt())), **run)
    recorder = Recorder(curved)
    assert_same_bits(explain(recorder, **run), found[0])
    assert recorder.calls <= found[1] - 16 * (call - 2) + 4


def test_a_surer_run_goes_on_and_a_less_sure_one_takes_less_of_it(found, tmp_path):
    run = {"checkpoint": tmp_path / "run.safetensors"}
    first = explain(reliability=0.9, **run)
    assert first.n_samples < found[1]
    recorder = Recorder(curved)
    assert_same_bits(explain(recorder, **run), found[0])
    assert recorder.calls == found[1] - first.n_samples + 4  # some are asked again, to compare
    for how in ({}, {"workers": Threads(2)}, {"max_samples": first.n_samples}):
        recorder = Recorder(curved)
        assert_same_bits(explain(recorder, **{**run, "reliability": 0.9, **how}), first)
        assert recorder.calls == 4
    recorder = Recorder(curved)
    assert_same_bits(explain(recorder, **run), found[0])  # nothing of it is lost
    assert recorder.calls == 4


def test_a_checkpoint_of_a_number_is_of_another_run(tmp_path):
    run = {"checkpoint": tmp_path / "run.safetensors"}
    e = explain(**run)
    with pytest.raises(CheckpointError, match=f"n_samples was 'auto', is {e.n_samples}"):
        fwdgrad.explain(curved, X, **e.settings, **run)


def test_samples_without_a_score_are_not_asked_again(found):
    class Lossy(Recorder):
        max_missing = 0.1

        def __call__(self, batch):
            scores = super().__call__(batch)
            lost = (batch[:, 0, 0, 0] * 1e6).floor() % 32 == 0
            return scores.masked_fill(lost & (len(self.asked) > 1), torch.nan)

    model = Lossy(curved)
    with pytest.warns(UserWarning, match="samples have no score"):
        e = explain(model)
    assert model.calls == e.n_samples


def test_progress_is_of_the_most(capsys):
    seen = []
    e = explain(progress=lambda *calls: seen.append(calls), batch_size=64)
    assert seen[-1] == (e.n_samples, 4096)
    assert [done for done, _ in seen] == list(range(64, e.n_samples + 1, 64))
    explain(progress=True)
    assert f"reliability={e.reliability:.2f}" in capsys.readouterr().err


# ---- models of texts and tables ----------------------------------------------------------------


def likes(texts):
    return [[float(len(text)), 9.0 * text.count("good") + len(text) % 3] for text in texts]


def test_few_words_are_all_coalitions_and_many_begin_with_128():
    few = fwdgrad.explain(TextModel(likes), "a good film of seven words", n_samples="auto")
    assert few.explanation.method == Coalitions()
    assert few.explanation.n_samples == 64
    text = " ".join(f"word{i}" for i in range(20)) + " good"
    many = fwdgrad.explain(TextModel(likes), text, 1, n_samples="auto", objective="output")
    assert isinstance(many.explanation.method, Regions)
    assert many.explanation.n_samples >= 128
    again = fwdgrad.explain(TextModel(likes), text, **many.explanation.settings)
    assert_same_bits(again.explanation, many.explanation)


def test_coalitions_of_a_table_are_no_more_than_may_be():
    columns = {f"c{i}": [float(i), i + 1.0] for i in range(9)}
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(columns)
    model = TableModel(lambda table: table.to_numpy().sum(1), rows)
    exact, less = (
        fwdgrad.explain(model, rows.iloc[[1]], n_samples="auto", max_samples=most)
        for most in (4096, 256)
    )
    assert (exact.explanation.n_samples, exact.explanation.method) == (512, Coalitions())
    assert less.explanation.n_samples <= 256
    assert isinstance(less.explanation.method, Regions)


def test_of_many_inputs_each_has_as_many_as_it_needs(found):
    one, other = explain_many(
        lambda batch: curved(batch), [X, torch.zeros_like(X) + 0.01], method=Regions(0.0), **SURE
    )
    assert_same_bits(one, found[0])
    assert other.n_samples == 128  # where cells hardly act together


# ---- what will not do --------------------------------------------------------------------------


BAD = [
    ({"reliability": 0.0}, "reliability must be between 0 and 1, got 0"),
    ({"reliability": 1.0}, "reliability must be between 0 and 1, got 1"),
    ({"reliability": math.nan}, "reliability must be between 0 and 1, got nan"),
    ({"max_samples": 0}, "max_samples must be at least 1, got 0"),
    ({"max_samples": 100}, "max_samples must be at least 128, the fewest that regions takes"),
    ({"method": Regions(0.0, cell=2), "max_samples": 500}, "max_samples must be at least 512"),
    ({"n_samples": 256}, "reliability needs n_samples='auto', got n_samples=256"),
    (
        {"n_samples": None, "reliability": None, "max_samples": 9},
        "max_samples needs n_samples='auto', got n_samples=None",
    ),
    ({"method": "gradient"}, "n_samples must be a number or left out with method='gradient'"),
    ({"method": SmoothGrad(0.1)}, "n_samples must be a number or left out with method='smooth"),
    ({"method": IntegratedGradients()}, "n_samples must be a number or left out with method='int"),
    ({"method": NoiseGrad()}, "n_samples must be a number or left out with method='noisegrad'"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_values(options, message):
    with pytest.raises(ArgumentError) as caught:
        explain(Recorder(curved, raise_at(0, AssertionError)), **options)
    assert str(caught.value).startswith(message)


def test_bad_types():
    with pytest.raises(ArgumentTypeError, match="reliability must be a number, got str 'high'"):
        explain(reliability="high")
    with pytest.raises(ArgumentTypeError, match="n_samples must be an integer or"):
        explain(n_samples="all", reliability=None)
    with pytest.raises(ArgumentTypeError, match="max_samples must be an integer"):
        explain(max_samples=5.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": 100}, "directions must be a power of two, got 100"),
        ({"directions": 1}, "directions must be at least 2, got 1"),
        ({"cell": 4, "directions": 64}, "directions must be more than the 100 lines of the grid"),
    ],
)
def test_bad_directions(options, message):
    with pytest.raises(ArgumentError, match=message):
        explain(method=Regions(0.0, **options), n_samples=128, reliability=None)


def test_directions_are_of_cells_with_smooth_borders():
    method = Regions(0.0, directions=128)
    with pytest.raises(ArgumentError, match="directions must be None but for cells with smooth"):
        explain(method=method, n_samples=128, reliability=None, features=BLOCKS.expand(3, 32, 32))


# ---- the error that it looks at ----------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, pytest.param(3, marks=pytest.mark.slow), 4, 4.5])
def test_the_error_of_any_number_of_groups_is_that_over_seeds(groups):
    """What left-over directions tell, against the spread of 20 runs with other seeds."""
    lines = NoiseSpec(X.shape, "rademacher", features=CELLS, design="hadamard").grid
    grids = [dataclasses.replace(CELLS, order=directions(lines, 128, s)) for s in range(20)]
    run = {"n_samples": int(groups * 128), "reliability": None}
    runs = [explain(features=grid, seed=s, **run) for s, grid in enumerate(grids)]
    maps = torch.stack([run.attribution[0] for run in runs])
    said = torch.stack([run.standard_error[0] for run in runs]).square().mean().sqrt()
    assert float(said / maps.std(0).square().mean().sqrt()) == pytest.approx(1, abs=0.15)
    repeats = (torch.corrcoef(maps.flatten(1)).sum() - 20) / 380
    assert sum(run.reliability for run in runs) / 20 == pytest.approx(float(repeats), abs=0.03)


# ---- the command line --------------------------------------------------------------------------

OWN = """
import torch


def corner(batch):
    light = batch[:, :, :8, :8].double().mean((1, 2, 3))
    return torch.stack([0 * light, 4 * light], 1)


def scores(texts):
    return [[float(len(text)), 9.0 * text.count("good")] for text in texts]


def price(rows):
    return rows["age"] + 5.0 * (rows["town"] == "Ulm")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    with folder_of(tmp_path, monkeypatch, OWN, "age,town\n30,Ulm\n50,Bonn\n"):
        yield


def said(*line):
    """The exit status of fwdgrad explain, and what it said of the samples."""
    given = ["explain", *line, "--samples", "auto", "--no-progress", "--no-evidence"]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main(given)
    lines = [one for one in out.getvalue().splitlines() if "samples" in one]
    return status, lines


PHOTO = ["--model", "own.py:corner", "--size", "16", "--baseline", "grey"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_line_says_after_how_many_it_stopped(folder, capsys):
    status, (line,) = said("one.png", *PHOTO, "--reliability", "0.8", "--max-samples", "999")
    e = Explanation.load("one-explanation/explanation.safetensors")
    assert status == 0
    told = f"samples      128, reliability {e.reliability:.3g} reached 0.8, and 1 forward call on"
    assert line.startswith(told)
    assert e.provenance["request"]["n_samples"] == "auto"
    assert e.provenance["n_samples"].endswith("after 128 of at most 999")
    status, lines = said("one.png", "two.png", *PHOTO, "--output", "both")
    assert status == 0
    assert [line.rpartition("reliability ")[2][4:] for line in lines] == [
        f" after 128 samples, both/{name}" for name in ("one", "two")
    ]
    words = ["--text", "a good film of seven words", "--model", "own.py:scores"]
    assert "64, reliability 1 reached 0.9, and" in said(*words)[1][0]
    row = ["--table", "ages.csv", "--background", "ages.csv", "--model", "own.py:price"]
    status, lines = said(*row, "--output", "rows")
    assert (status, ["after 4 samples" in line for line in lines]) == (0, [True, True])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-samples", "9"], "--max-samples must be at least 128, the fewest that regions"),
        (["--reliability", "2"], "--reliability must be between 0 and 1, got 2"),
        (["--samples", "64", "--max-samples", "99"], "--max-samples needs --samples auto, got n_"),
    ],
)
def test_bad_values_on_the_command_line(options, message, folder, capsys):
    assert cli.main(["explain", "one.png", *PHOTO, "--samples", "auto", *options]) == 1
    assert capsys.readouterr().err.startswith(f"fwdgrad: error: {message}")


def test_samples_are_a_number_or_auto(capsys):
    with pytest.raises(SystemExit):
        cli.main(["explain", "one.png", "--samples", "some"])
    assert "argument --samples: must be a number or auto, got 'some'" in capsys.readouterr().err
