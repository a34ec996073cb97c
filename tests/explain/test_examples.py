"""Examples run as they are, those that need nothing beyond what the tests have."""

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples"


def run(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / name), run_name="__main__")


@pytest.mark.slow
def test_a_volume(monkeypatch, capsys, tmp_path):
    run("explain_volume.py", monkeypatch, "--samples", "256", "--plot", str(tmp_path / "a.png"))
    peak = capsys.readouterr().out.split("peak at (")[1].split(")")[0]
    away = [abs(int(one) - other) for one, other in zip(peak.split(","), (14, 30, 33), strict=True)]
    assert max(away) <= 6  # in a ball of that radius
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.slow
def test_speech(monkeypatch, capsys):
    pytest.importorskip("silero_vad")
    run("explain_speech.py", monkeypatch, "--samples", "128")
    lines = capsys.readouterr().out.splitlines()[1:]
    adds = {float(line.split()[0]): float(line.split()[2]) for line in lines}
    assert 0.5 <= max(adds, key=adds.get) < 1.0  # where the voice is


@pytest.mark.slow
def test_speech_without_its_network(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(SystemExit, match="pip install --no-deps silero-vad"):
        run("explain_speech.py", monkeypatch)
