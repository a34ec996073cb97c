"""The documentation's code runs and prints what it shows, and its links lead somewhere.

The ``python`` and ``sh`` blocks of a page run in order, in one namespace and an empty folder. A
``text`` block right after one shows what it prints, its warnings and the last line of its
traceback; "..." stands for anything, and lines may be broken anywhere. Of ``sh`` only commands of
``fwdgrad`` are run, in this process; what needs another is marked, and still looked at: whether
options, targets of make and files are there. What a page's comments say:

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
import shlex
import subprocess
import sys
import traceback
import warnings
from pathlib import Path
from unittest import mock

import pytest
import torch

import fwdgrad
import fwdgrad_kernels
from fwdgrad import cli, metrics

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HOW_TO = DOCS / "how-to"
README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
ALL = [*sorted(DOCS.rglob("*.md")), README, CONTRIBUTING, ROOT / "CHANGELOG.md"]

BLOCK = re.compile(
    r"^```(?P<kind>python|sh)\n(?P<code>.*?)^```\n(\s*^```text\n(?P<shown>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->\n$")
NEEDS = re.compile(r"<!-- needs: (.*) -->")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclasses.dataclass
class Block:
    kind: str  # python or sh
    code: str
    line: int  # of the page, before its first one
    shown: str | None  # what it prints
    is_run: bool


def blocks_of(path):
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            found["kind"],
            found["code"],
            text[: found.start("code")].count("\n"),
            found["shown"],
            not NOT_RUN.search(text[: found.start()]),
        )
        for found in BLOCK.finditer(text)
    ]


def name_of(path):
    return path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


PAGES = [path for path in ALL if any(block.is_run for block in blocks_of(path))]
COMMANDS = [path for path in ALL if any(block.kind == "sh" for block in blocks_of(path))]
SLOW = {"how-to/ray", "tutorial/photo"}


def commands_of(block):
    """The commands of a ``sh`` block, each as its words."""
    return [words for line in block.code.splitlines() if (words := shlex.split(line, True))]


def run_commands(block):
    """What commands print, and what they say is wrong."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        for program, *arguments in commands_of(block):
            assert program == "fwdgrad", f"{program} must be marked as not run"
            cli.main(arguments)
    told = [line for line in err.getvalue().splitlines() if line.startswith("fwdgrad: ")]
    return out.getvalue() + "".join(f"{line}\n" for line in told)


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
    [
        pytest.param(p, marks=[pytest.mark.slow] * (name_of(p) in SLOW), id=name_of(p))
        for p in PAGES
        if p != README
    ],
)
def test_a_page_prints_what_it_shows(path):
    needs = NEEDS.search(path.read_text(encoding="utf-8"))
    skip_without(needs[1].split() if needs else ())
    names, checker = {"__name__": "page"}, doctest.OutputChecker()
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for block in blocks_of(path):
        if not block.is_run:
            continue
        printed = run(path, block, names) if block.kind == "python" else run_commands(block)
        where = f"{path.name}, line {block.line + 1}:"
        told = f"{where} printed\n{printed}\nand the page shows\n{block.shown}"
        if block.kind == "sh" and block.shown is None:
            assert "fwdgrad: error" not in printed, told
        else:
            assert checker.check_output(block.shown or "", printed, flags), told


def test_the_readme_runs():
    skip_without(["matplotlib"])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4)).eval()
    names = {"__name__": "readme", "model": model, "x": torch.rand(3, 32, 32)}
    python = [block for block in blocks_of(README) if block.kind == "python"]
    assert python
    for block in python:
        run(README, block, names)


def faults_of(words):
    """What a command names that is not there."""
    program, *arguments = words
    if "fwdgrad" in words:  # after torchrun, too
        arguments = words[words.index("fwdgrad") + 1 :]
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
            cli.make_parser().parse_args(arguments)
        return [err.getvalue()] if err.getvalue() else []
    if program == "make":
        targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text())
        return [one for one in arguments if one not in targets]
    if program == "python":
        return [one for one in arguments[:1] if not (ROOT / one).exists()]
    if program == "pip":
        found = re.search(r"\[project.optional-dependencies\]\n(.*?)\n\n", PROJECT, re.DOTALL)
        extras = set(re.findall(r"(?m)^([\w-]+) =", found[1]))
        named = [e for one in arguments for e in re.findall(r"^\.\[(.*)\]$", one)]
        return [e for group in named for e in group.split(",") if e not in extras]
    return [f"{program} is none of fwdgrad, torchrun, make, python, pip"]


PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", COMMANDS, ids=name_of)
def test_commands_name_what_there_is(path):
    found = [
        words for block in blocks_of(path) if block.kind == "sh" for words in commands_of(block)
    ]
    assert [(shlex.join(words), faults) for words in found if (faults := faults_of(words))] == []


def leads_somewhere(path, link):
    """Whether there is such a file, and such a heading in it."""
    name, _, heading = link.partition("#")
    file = path.parent / name if name else path
    if not (heading and file.exists()):
        return file.exists()
    titles = re.findall(r"(?m)^#+ (.*)$", file.read_text(encoding="utf-8"))
    return heading in {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_links_lead_somewhere(path):
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    links = [link for link in LINK.findall(text) if not re.match("https?://", link)]
    assert [one for one in links if not leads_somewhere(path, one)] == []


def test_the_index_links_every_page():
    links = LINK.findall((HOW_TO / "index.md").read_text(encoding="utf-8"))
    assert {path.name for path in HOW_TO.glob("*.md")} - {"index.md"} <= set(links)


def test_the_site_has_every_page():
    named = set(re.findall(r"(?m)^ +- .*?([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text()))
    pages = [*DOCS.rglob("*.md"), *(p.with_suffix(".md") for p in DOCS.rglob("*.ipynb"))]
    assert named == {p.relative_to(DOCS).as_posix() for p in pages} | {"CHANGELOG.md"}


def test_the_reference_has_every_public_name():
    text = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"(?m)^::: (\S+)$", text))
    assert {f"fwdgrad.{name}" for name in fwdgrad.__all__} <= shown
    assert {metrics.__name__, fwdgrad_kernels.__name__} <= shown  # with all in their __all__


@pytest.mark.parametrize("path", [README, DOCS / "benchmarks.md"], ids=name_of)
def test_figures_stand_in_a_committed_table(path):
    """Every decimal number is one of a table in benchmarks/results."""
    committed = "\n".join(p.read_text() for p in (ROOT / "benchmarks/results").glob("*.md"))
    text = re.sub(
        r"(?ms)^```.*?^```$|\[.*?\]\(.*?\)|Python 3\.\d+|Apache-2\.0", "", path.read_text()
    )
    said = set(re.findall(r"(?<![\d.])\d+\.\d+(?![\d.])", text))
    assert {one for one in said if not re.search(rf"(?<![\d.]){one}(?!\d)", committed)} == set()


def test_what_people_read_first_is_short():
    lengths = {path: len(path.read_text().splitlines()) for path in (README, CONTRIBUTING)}
    assert lengths[README] <= 120
    assert lengths[CONTRIBUTING] <= 60


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    skip_without(["mkdocs", "mkdocstrings", "material"])
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "methods.html").stat().st_size > 100_000
