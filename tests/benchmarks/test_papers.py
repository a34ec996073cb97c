"""The papers' experiments: each runs through, quick, and keeps nothing; what they share."""

import importlib
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "papers"
EXPERIMENTS = sorted(
    path.stem for path in FOLDER.glob("*.py") if "parse_arguments(__doc__" in path.read_text()
)


@pytest.fixture
def papers(monkeypatch):
    """Imports from the experiments' folder, gone afterwards; as many threads as before."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which they set where it is not
    threads, modules = torch.get_num_threads(), set(sys.modules)
    yield
    torch.set_num_threads(threads)
    for name in {path.stem for path in FOLDER.glob("*.py")} - modules:
        sys.modules.pop(name, None)


@pytest.fixture
def common(papers, monkeypatch, tmp_path):
    """The shared module, on a cache and a place for results of its own."""
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path / "cache"))
    module = importlib.import_module("common")
    for name in ("RESULTS", "PICTURES"):
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def committed() -> dict[Path, int]:
    """What is in the places of the repository that experiments write to, and of when it is."""
    places = (FOLDER.parent / "results" / "papers", ROOT / "docs" / "papers")
    return {path: path.stat().st_mtime_ns for place in places for path in place.glob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_quick(name, papers, monkeypatch, tmp_path, capsys):
    pytest.importorskip("skimage", reason="the photos lie in scikit-image")
    pytest.importorskip("matplotlib", reason="figures are drawn with matplotlib").use("agg")
    # A cache of its own, but for the data, which are as they were fetched.
    data = importlib.import_module("common").data.cache_folder() / "data"
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "data").symlink_to(data)
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--quick"])
    before = committed()
    try:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    except (FileNotFoundError, ImportError) as missing:
        if "run python benchmarks/data.py" in str(missing) or "pip install" in str(missing):
            pytest.skip(str(missing))
        raise
    printed = capsys.readouterr().out
    assert "# --quick" in printed
    assert "|---|" in printed
    assert committed() == before
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["data"]


def test_there_are_experiments():
    assert {"ag_noise", "ag_tables", "ax_figures", "ax_table", "na_figure"} <= set(EXPERIMENTS)


def test_a_result_is_computed_once_for_each_key(common):
    calls = []

    def compute():
        calls.append(1)
        return {"scores": [0.5, None], "count": len(calls)}

    first = common.cached({"method": "a", "seed": 0}, compute)
    assert first == {"scores": [0.5, None], "count": 1}
    assert common.cached({"seed": 0, "method": "a"}, compute) == first
    assert common.cached({"method": "a", "seed": 1}, compute)["count"] == 2
    (kept,) = [
        found
        for path in (common.data.cache_folder() / "papers").glob("*.json")
        if (found := json.loads(path.read_text()))["value"]["count"] == 1
    ]
    assert kept["key"]["seed"] == 0


def test_a_run_that_stops_leaves_nothing_half(common):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        common.cached({"seed": 0}, stop)
    assert not list(common.data.cache_folder().rglob("*"))
    assert common.cached({"seed": 0}, lambda: 3) == 3
    assert len(list((common.data.cache_folder() / "papers").iterdir())) == 1


def test_a_tensor_comes_back_bit_for_bit(common):
    made = torch.randn(3, 4).T
    kept = [common.cached_tensor({"seed": 0}, lambda: made) for _ in range(2)]
    assert torch.equal(kept[0], made)
    assert torch.equal(kept[1], made)
    assert torch.equal(common.cached_tensor({"seed": 0}, lambda: made * 0), made)


def test_quick_keeps_nothing(common, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(common, "_keeps", False)
    assert [common.cached({"seed": 0}, lambda v=v: (v,)) for v in (1, 2)] == [[1], [2]]
    common.write_table("name", "Title", "command", ("a",), [(1,)], "Note.")
    common.save_picture("name", None)
    assert not list(tmp_path.iterdir())
    assert "| 1 |" in capsys.readouterr().out


def test_a_table(common):
    common.write_table(
        "name", "Title", "python x.py", ("method", "score"), [("a", 0.5), ("b", "–")],
        ["One\n            note.", "Another."],
    )  # fmt: skip
    lines = (common.RESULTS / "name.md").read_text().splitlines()
    assert lines[0] == "# Title"
    assert lines[2].startswith("Made by `python x.py`. ")
    assert lines[4:] == [
        "| method | score |", "|---|---|", "| a | 0.5 |", "| b | – |", "", "One note.", "",
        "Another.",
    ]  # fmt: skip


def test_mean_and_standard_error(common):
    # Deviation of 1, 2, 3, 4 is sqrt(5/3), divided by sqrt(4).
    mean, error = common.mean_and_error([1, 2, math.nan, None, 3, 4])
    assert (mean, error) == (2.5, pytest.approx(math.sqrt(5 / 12)))
    assert common.shown([1, 2, 3, 4], 2) == "2.50 ± 0.65"
    assert common.shown([0.25]) == "0.250"
    assert common.shown([math.nan]) == "–"


def test_a_picture_is_small_or_refused(common, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="figures are drawn with matplotlib")
    figure, ax = pyplot.subplots(figsize=(4, 4))
    common.draw_map(ax, torch.rand(64, 64))
    common.save_picture("name", figure)
    assert 0 < (common.PICTURES / "name.jpg").stat().st_size <= 60_000
    monkeypatch.setattr(common, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="too large"):
        common.save_picture("name", figure)
    pyplot.close(figure)
