"""What is public: few names, each documented, in files that one can read."""

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fwdgrad
from fwdgrad import metrics
from fwdgrad.methods import METHODS

ROOT = Path(fwdgrad.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FORMER = {
    *("sigma", "law", "queries", "copies", "control", "field", "shift", "shared", "position"),
    *("saliency", "box", "delta"),
}


def signature_of(public):
    """The parameters of a function or a class, its own or its fields; none of an exception."""
    if isinstance(public, type) and issubclass(public, BaseException):
        return []
    return [name for name in inspect.signature(public).parameters if name != "self"]


def members_of(public):
    """The public methods and properties that a class has of its own."""
    if not isinstance(public, type):
        return {}
    fields = (
        {f.name for f in dataclasses.fields(public)} if dataclasses.is_dataclass(public) else ()
    )
    return {
        name: member
        for name, member in vars(public).items()
        if not name.startswith("_")
        and name not in fields
        and (callable(member) or isinstance(member, (property, classmethod, staticmethod)))
    }


# ---- names ---------------------------------------------------------------------------------


def test_there_are_at_most_thirty():
    assert len(fwdgrad.__all__) == len(set(fwdgrad.__all__)) <= 30
    assert list(fwdgrad.__all__) == sorted(fwdgrad.__all__)


@pytest.mark.parametrize("name", fwdgrad.__all__)
def test_each_is_there_and_documented(name):
    public = getattr(fwdgrad, name)
    assert name in dir(fwdgrad)
    assert public.__name__ == name
    text = inspect.getdoc(public)
    assert text
    assert public.__doc__ is not None  # not a base class's
    first = text.splitlines()[0]
    assert re.fullmatch(r"[A-Z0-9].*[.:]", first)
    for member, value in members_of(public).items():
        assert inspect.getdoc(value), f"{name}.{member}"


@pytest.mark.parametrize("name", sorted({*fwdgrad.__all__} - {"Taxonomy"}))  # made by others
def test_each_parameter_is_documented(name):
    text = inspect.getdoc(getattr(fwdgrad, name))
    for parameter in signature_of(getattr(fwdgrad, name)):
        if parameter != "unknown":
            assert re.search(rf"\b{parameter}\b", text), parameter


@pytest.mark.parametrize("name", fwdgrad.__all__)
def test_none_speaks_the_first_edition_s_words(name):
    public = getattr(fwdgrad, name)
    assert not FORMER & set(signature_of(public))
    for member, value in members_of(public).items():
        assert member not in FORMER
        function = getattr(value, "__func__", value)
        if inspect.isfunction(function):
            assert not FORMER & set(signature_of(function)), member


def test_names_that_are_gone_are_no_attributes():
    for name in ("LikelihoodRatio", "Autograd", "SquaredGrad", "METHODS", "CONTROLS", "nothing"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(fwdgrad, name)


def test_every_method_is_public_by_the_name_of_its_class():
    assert len(METHODS) == 12
    for name, kind in METHODS.items():
        assert getattr(fwdgrad, kind.__name__) is kind
        assert name == kind.name
        assert kind().line
        assert kind().source


@pytest.mark.parametrize("name", metrics.__all__)
def test_metrics_are_documented(name):
    assert inspect.getdoc(getattr(metrics, name))


@pytest.mark.slow  # a process of its own
def test_the_names_are_known_without_torch():
    """The command line's help need not wait for it."""
    code = "import sys, fwdgrad; assert 'explain' in dir(fwdgrad); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_packages_need_no_import_of_their_own():
    code = "import fwdgrad; fwdgrad.tasks; print(fwdgrad.metrics.insertion.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "insertion", done.stderr


# ---- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_has_at_most_four_hundred_lines_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_file_of_its_own(name):
    module = importlib.import_module(f"fwdgrad.methods.{name.replace('-', '_')}")
    assert METHODS[name].__module__ == module.__name__
