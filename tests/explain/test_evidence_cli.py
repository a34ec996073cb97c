"""fwdgrad explain ends with what is enough."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fwdgrad import Explanation, cli
from fwdgrad.adapters.lstm import LSTMClassifier

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OWN = '''
import numpy as np
import torch

calls = 0


def corner(batch):
    """Class 1 where the upper left quarter is light."""
    global calls
    calls += 1
    side = batch.shape[-1] // 2
    light = batch[:, :, :side, :side].double().mean((1, 2, 3))
    return torch.stack([0 * light, 8 * light - 3], 1)


def fails_then(batch):
    if len(batch) == 1 and calls > 1:
        raise OSError("the service is away")
    return corner(batch)


def positive(texts):
    return [[0.0, 4.0 * text.count("fine") - 2] for text in texts]


def risk(rows):
    z = 4.0 * rows["income"] + 2.0 * rows["age"] - 3
    return np.stack([0 * z, z], 1)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("own", None)
    Path("own.py").write_text(OWN)
    photo = np.full((32, 48, 3), 30, np.uint8)
    photo[4:16, 12:24] = 240
    Image.fromarray(photo).save("photo.png")
    Path("labels.txt").write_text("dark\nlamp\n")
    yield
    sys.modules.pop("own", None)


def run(capsys, *line):
    status = cli.main(["explain", *line, "--no-progress"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return [text for text in out.splitlines() if text.startswith("evidence ")], err


PHOTO = ("photo.png", "--model", "own:corner", "--size", "16", "--samples", "64", "--labels",
         "labels.txt", "--target", "1", "--baseline", "black")  # fmt: skip


def test_a_photo_that_its_baseline_hardly_changes(folder, capsys):
    """A blur leaves a photo of fine grain as light as it is."""
    grain = np.random.default_rng(0).integers(190, 210, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(grain).save("even.png")
    photo = ("even.png", *PHOTO[1:-1])
    for baseline, ends in (("blur", "try --baseline grey or another --objective"), ("black", None)):
        assert cli.main(["explain", *photo, baseline, "--output", baseline, "--no-progress"]) == 0
        lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("careful ")]
        if ends is None:
            assert lines == []
            continue
        (line,) = lines
        assert line.startswith(
            "careful      with half of the picture blurred the probability is 0.9"
        )
        assert line.endswith(f" as it is: the map shows little; {ends}")


def test_of_a_photo(folder, capsys):
    (line,), err = run(capsys, *PHOTO, "--output", "out")
    assert not err
    known = Explanation.load("out/explanation.safetensors").provenance["evidence"]
    assert line == f"evidence     {known['sentence']} ({known['calls']} forward calls)"
    assert "% of the picture is enough for lamp (class 1); without " in line
    assert " it is taken for dark (class 0)" in line
    assert known["enough_score"] > 0.9 * known["score"]
    assert known["calls"] < 25
    with Image.open("out/heatmap.png") as drawn:
        outlined = np.asarray(drawn)
    assert run(capsys, *PHOTO, "--output", "out", "--no-evidence") == ([], "")
    plain = Explanation.load("out/explanation.safetensors")
    assert "evidence" not in plain.provenance
    with Image.open("out/heatmap.png") as drawn:
        assert (np.asarray(drawn) != outlined).any()


def test_of_a_text(folder, capsys):
    line = ("--text", "A fine film", "--model", "own:positive", "--samples", "32")
    told, _ = run(capsys, *line, "--output", "out")
    assert told == [
        "evidence     1 of 3 words is enough for class 1: fine; without 1 (fine) it is taken for "
        "class 0 (4 forward calls)"
    ]
    known = Explanation.load("out/explanation.safetensors").provenance["evidence"]
    assert known["instead"] == 0
    assert run(capsys, *line, "--no-evidence")[0] == []


def test_of_a_text_s_embeddings(folder, capsys):
    torch.manual_seed(3)
    LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).save("model.safetensors")
    line = ("--text", "A fine film", "--model", "model.safetensors", "--samples", "64")
    (told,), _ = run(capsys, *line)
    assert told.endswith("below the 0.524 of its baseline (2 forward calls)")


def test_of_a_row(folder, capsys):
    pytest.importorskip("pandas")
    Path("rows.csv").write_text("income,age,floor\n0,0,0\n0,0,1\n")
    Path("row.csv").write_text("income,age,floor\n1,1,1\n")
    line = ("--table", "row.csv", "--background", "rows.csv", "--model", "own:risk")
    told, _ = run(capsys, *line, "--objective", "probability")
    assert told == [
        "evidence     income and age are enough for 1; without income it is taken for 0 "
        "(6 forward calls)"
    ]


def test_a_model_that_fails_then_does_not_cost_the_map(folder, capsys):
    line = [text.replace("own:corner", "own:fails_then") for text in PHOTO]
    told, err = run(capsys, *line, "--output", "out")
    assert told == []
    assert "what is enough cannot be told: the model failed on a batch of shape (1, 3, 16" in err
    assert Explanation.load("out/explanation.safetensors").n_samples == 64
    assert Path("out/heatmap.png").exists()
