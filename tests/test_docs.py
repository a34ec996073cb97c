"""The documentation's code runs and prints what it shows, and its links lead somewhere.

The ``python`` blocks of a page run in order, in one namespace and an empty folder. A ``text`` block
right after one shows what it prints, its warnings and the last line of its traceback; "..." stands
for anything, and lines may be broken anywhere. What a page's comments say:

    <!-- needs: pandas sklearn -->    the page is skipped where one of these modules is missing
    <!-- not run: why -->             the block below is not run
"""

import contextlib
import dataclasses
import doctest
import importlib.util
import io
import os
import re
import traceback
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[1]
HOW_TO = ROOT / "docs" / "how-to"
PAGES = sorted(HOW_TO.glob("*.md"))
README = ROOT / "README.md"
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
OF_README = ("PIL", "matplotlib", "pandas", "sklearn", "transformers")

BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(\s*^```text\n(?P<shown>.*?)^```$)?", re.MULTILINE | re.DOTALL
)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\n$")
NEEDS = re.compile(r"<!-- needs: (.*) -->")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclasses.dataclass
class Block:
    code: str
    line: int  # of the page, before its first one
    shown: str | None  # what it prints


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    return [
        Block(found["code"], text[: found.start("code")].count("\n"), found["shown"])
        for found in BLOCK.finditer(text)
        if not NOT_RUN.search(text[: found.start()])
    ]


def run(path, block, names):
    """What a block prints, and what it warns of; an error is told as Python would."""
    code = compile("\n" * block.line + block.code, str(path), "exec")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            exec(code, names)
        except Exception as error:
            if block.shown is None:
                raise
            out.write(traceback.format_exception_only(error)[-1])
    own = [one for one in caught if one.filename == str(path)]
    return out.getvalue() + "".join(f"{w.category.__name__}: {w.message}\n" for w in own)


def skip_without(modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"it needs {', '.join(missing)}")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """An empty folder, no window, and torch's generator at a known state."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    with torch.random.fork_rng(), mock.patch.dict(os.environ):
        torch.manual_seed(0)
        yield
    if importlib.util.find_spec("matplotlib"):
        import matplotlib.pyplot as plt

        plt.close("all")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem == "ray"), id=p.stem) for p in PAGES],
)
def test_a_page_prints_what_it_shows(path):
    needs = NEEDS.search(path.read_text(encoding="utf-8"))
    skip_without(needs[1].split() if needs else ())
    names, checker = {"__name__": "page"}, doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    blocks = blocks_of(path)
    assert blocks
    for block in blocks:
        printed = run(path, block, names)
        where = f"{path.name}, line {block.line + 1}:"
        told = f"{where} printed\n{printed}\nand the page shows\n{block.shown}"
        assert checker.check_output(block.shown or "", printed, flags), told


def of_reader():
    """What the README's reader has: models, a table, a photo."""
    import pandas as pd
    from PIL import Image
    from sklearn.linear_model import LogisticRegression
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

    rows = np.random.default_rng(0).normal(size=(40, 3))
    train = pd.DataFrame(rows, columns=["lat", "lon", "age"])
    fitted = LogisticRegression().fit(train, np.where(rows[:, 2] > 0, "good", "bad"))
    Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)).save("portrait.jpg")
    net = mock.Mock(predict=lambda batch: batch.mean((1, 2)) / 255)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    vit = ViTForImageClassification(ViTConfig(**size, intermediate_size=8)).eval()
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    classifier = pipeline("image-classification", model=vit, image_processor=processor)
    return {"train": train, "pipeline": fitted, "net": net, "classifier": classifier}


def test_the_readme_runs():
    skip_without(OF_README)
    names = {"__name__": "readme", **of_reader()}
    for block in blocks_of(README):
        run(README, block, names)


def leads_somewhere(path, link):
    """Whether there is such a file, and such a heading in it."""
    name, _, heading = link.partition("#")
    file = path.parent / name if name else path
    if not (heading and file.exists()):
        return file.exists()
    titles = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
    return heading in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", LINKED, ids=[str(path.relative_to(ROOT)) for path in LINKED])
def test_links_lead_somewhere(path):
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    links = [link for link in LINK.findall(text) if not re.match("https?://", link)]
    assert [one for one in links if not leads_somewhere(path, one)] == []


def test_the_index_links_every_page():
    links = LINK.findall((HOW_TO / "index.md").read_text(encoding="utf-8"))
    assert {path.name for path in PAGES} - {"index.md"} <= set(links)
