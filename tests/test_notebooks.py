"""The notebooks of docs/ run and print what they show, and their links lead somewhere.

What a notebook claims is asserted in its cells. Its metadata has the modules that it needs.
"""

import base64
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.ipynb"))]
NUMBER = re.compile(r"[-+]?\d[\d.,]*")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def script():
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(outputs):
    """What outputs say, but for numbers, which are of a machine."""
    text = "".join("".join(one["text"]) for one in outputs if one["output_type"] == "stream")
    return NUMBER.sub("#", " ".join(text.split()))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_prints_what_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    notebook = read(path)
    for module in notebook["metadata"]["fwdgrad"]["needs"]:
        pytest.importorskip(module)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            found = list(script().outputs_of(notebook, path.name))
    finally:
        torch.set_num_threads(threads)
    assert found
    for cell, outputs in found:
        assert printed(outputs) == printed(cell["outputs"])
        assert [one["output_type"] for one in outputs] == [
            one["output_type"] for one in cell["outputs"]
        ]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_is_small_and_whole(path):
    notebook = read(path)
    assert len(notebook["cells"]) <= 14
    figures = 0
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or cell["execution_count"] is None
        for output in cell.get("outputs", []):
            assert output["output_type"] in ("stream", "display_data")
            if output["output_type"] == "display_data":
                figures += 1
                assert len(base64.b64decode(output["data"]["image/png"])) < 150_000
    assert figures
    assert any("assert " in "".join(cell["source"]) for cell in notebook["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_notebook_links_what_there_is(path):
    text = "\n".join(
        "".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"
    )
    links = LINK.findall(text)
    assert links
    assert [one for one in links if not (FOLDER / one).exists()] == []


def test_the_script_writes_what_was_printed_and_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    module = script()
    cells = [
        {"cell_type": "markdown", "source": ["a text"]},
        {"cell_type": "code", "outputs": ["old"], "source": ["a = 2\n", "print(a)"]},
        {
            "cell_type": "code",
            "outputs": [],
            "source": ["import matplotlib.pyplot as plt\n", "plt.plot([a])"],
        },
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "other.ipynb").write_text("not read")
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    module.main(["one"])
    _, first, second = read(tmp_path / "one.ipynb")["cells"]
    assert first["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["2\n"]}]
    (figure,) = second["outputs"]
    assert base64.b64decode(figure["data"]["image/png"]).startswith(b"\x89PNG")


def test_a_cell_that_fails_leaves_the_notebook_as_it_was(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    module = script()
    cells = [{"cell_type": "code", "outputs": ["old"], "source": ["assert 1 > 2"]}]
    path = tmp_path / "one.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr(module, "HERE", tmp_path)
    with pytest.raises(AssertionError):
        module.main(["one"])
    assert read(path)["cells"] == cells
