"""What is printed: text is shown and never obeyed; the help is there without torch."""

import dataclasses
import functools
import io
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fwdgrad
import fwdgrad_kernels
from fwdgrad import cli
from fwdgrad.adapters.images import MODELS, load_classifier
from fwdgrad.adapters.photos import FITS
from fwdgrad.adapters.splits import SPLITS
from fwdgrad.adapters.text_models import TEXT_MODELS
from fwdgrad.cli import choices
from fwdgrad.cli.parser import make_parser
from fwdgrad.errors import ArgumentError, Message, Option, warn
from fwdgrad.methods import METHODS
from fwdgrad.objectives import OBJECTIVES
from fwdgrad.terminal import plain, say, styled

ATTACK = "cat\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp.\u2066\n100 %\r"
SHOWN = r"cat\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp.\u2066\n100 %\r"


def test_what_a_terminal_would_obey_is_written_out():
    assert plain(ATTACK) == SHOWN
    assert plain("नमस्ते 👩\u200d🚀 שָׁלוֹם\u200f naïve") == "नमस्ते 👩\u200d🚀 שָׁלוֹם\u200f naïve"
    assert plain("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert styled(f"\x1b[48;5;16m{ATTACK}\x1b[0m").count("\x1b") == 2


@pytest.mark.parametrize("coding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_that_cannot_write_a_character_gets_its_escape(coding):
    stream = io.TextIOWrapper(io.BytesIO(), coding)
    say("é \u0938 \ud800", stream)
    stream.flush()
    written = stream.buffer.getvalue().decode(coding)
    assert (
        written
        == ("é" if coding != "ascii" else r"\xe9")
        + (" \u0938" if coding == "utf-8" else r" \u0938")
        + " \\ud800\n"
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A photo, a model, and class names that would drive a terminal."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save("photo.png")
    Path("mymodels.py").write_text(
        "import torch\n"
        "def f(batch):\n    return batch.double().mean((2, 3))\n"
        f"def fails(batch):\n    raise ValueError({ATTACK!r})\n"
    )
    # A line is a name: no line break can be in one. "$" would be a formula in a picture.
    name = ATTACK.replace("\n", "").replace("\r", "") + r"$\frac{$ <blink>"
    Path("names.txt").write_text(f"{name}\nb\nc\n", encoding="utf-8")
    yield
    sys.modules.pop("mymodels", None)


LINE = ["explain", "photo.png", "--size", "16", "--samples", "16", "--output", "out", "--overwrite"]
LINE += ["--no-progress", "--model"]


def test_names_and_messages_are_text_everywhere(folder, capsys):
    assert cli.main([*LINE, "mymodels:f", "--labels", "names.txt", "--target", "0"]) == 0
    shown = capsys.readouterr()
    assert r"cat\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp.\u2066" in shown.out
    map = "out/explanation.safetensors"
    line = [
        "evaluate",
        map,
        "--model",
        "mymodels:f",
        "--labels",
        "names.txt",
        "--report",
        "out.html",
    ]
    assert cli.main(line) == 0
    shown = shown.out + shown.err + "".join(capsys.readouterr())
    assert not set(shown) & set("\x1b\x07\x9b\u202e\u2066\r")
    page = Path("out.html").read_text(encoding="utf-8")
    assert not set(page) & set("\x1b\x07\x9b\u202e\u2066\r")
    assert "<blink>" not in page

    assert cli.main([*LINE, "mymodels:fails"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert r"\x1b]0;owned\x07\x1b[2J\x9b1m\u202egnp.\u2066" in error
    assert cli.main([*LINE, "mymodels:fails", "--debug"]) == 1
    assert not set(capsys.readouterr().err) & set("\x1b\x07\x9b\u202e\u2066\r")
    with pytest.raises(SystemExit):
        cli.main(["explain", "photo.png", f"--{ATTACK}".replace(" ", "")])
    assert "\x1b" not in capsys.readouterr().err


def test_no_module_prints_past_the_one_function():
    package = Path(fwdgrad.__file__).parent
    printing = [path.name for path in package.rglob("*.py") if "print(" in _code(path)]
    assert printing == ["terminal.py"]


def _code(path):
    """A file's lines without its docstrings' examples."""
    return "\n".join(
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith((">>>", "..."))
    )


# ---- the current folder ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [["-m", "fwdgrad"], ["-c", "from fwdgrad.cli import main; main()"]]
)
def test_a_folder_s_own_modules_do_not_stand_in_for_installed_ones(folder, start):
    for name in ("PIL", "matplotlib", "tqdm", "numpy", "torch", "safetensors", "fwdgrad_kernels"):
        Path(f"{name}.py").write_text("open('ran', 'a').write(__name__)")
    if start[0] == "-c":  # where the path starts with the current folder for all that comes
        start = [start[0], f"import sys; sys.path.pop(0); {start[1]}"]
    path = os.pathsep.join(p for p in sys.path if p)
    run = subprocess.run(
        [sys.executable, *start, *LINE, "mymodels:f"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert not Path("ran").exists()


def test_the_current_folder_comes_last(folder):
    load_classifier("mymodels:f", 16, None)
    assert sys.path[-1] == os.getcwd()
    assert os.getcwd() not in sys.path[:-1]
    with pytest.raises(ValueError, match=r"mymodels of .*mymodels.py has no 'g'"):
        load_classifier("mymodels:g", 16, None)


# ---- the start ------------------------------------------------------------------------------


def test_the_choices_are_those_that_there_are():
    assert tuple(METHODS) == choices.METHODS
    assert OBJECTIVES == choices.OBJECTIVES
    assert fwdgrad_kernels.DISTRIBUTIONS == choices.DISTRIBUTIONS
    assert fwdgrad_kernels.DESIGNS == choices.DESIGNS
    assert tuple(MODELS) == choices.MODELS
    assert FITS == choices.FITS
    assert SPLITS == choices.SPLITS
    assert TEXT_MODELS == choices.TEXT_MODELS


@pytest.mark.parametrize(
    ("names", "method"),
    [
        (choices.BASELINES, lambda name: fwdgrad.Regions(baseline=name)),
        (choices.BASELINES, lambda name: fwdgrad.IntegratedGradients(baseline=name)),
        (choices.BASELINES, lambda name: fwdgrad.Coalitions(baseline=name)),
        (choices.VALUES, lambda name: fwdgrad.Coalitions(name)),
        (
            choices.CONTROL_VARIATES,
            lambda name: fwdgrad.ForwardGradient(antithetic=False, control_variate=name),
        ),
    ],
)
def test_the_choices_of_an_option_are_those_that_its_method_takes(names, method):
    assert all(method(name) for name in names)
    with pytest.raises(ValueError, match="other") as caught:
        method("other")
    assert all(name in str(caught.value) for name in names)


def test_the_options_of_methods_are_fields_of_theirs_under_the_same_name():
    there = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
    parser = make_parser()
    for name in choices.METHOD_OPTIONS:
        assert name in there
        assert parser.written("explain", Option(name)) == "--" + name.replace("_", "-")
    # Those that take values of Python alone.
    assert there - {*choices.METHOD_OPTIONS} == {
        *("axes", "directions", "gradient", "parameters", "sampling")
    }


def test_a_message_names_options_as_the_command_has_them():
    more = Message("ask for more ", Option("n_samples"), " or ", Option("antithetic", False))
    error = ValueError(Message(ArgumentError("batch_size", "must be 1"), "; ", more))
    assert str(error) == "batch_size must be 1; ask for more n_samples or antithetic=False"
    written = functools.partial(make_parser().written, "explain")
    assert Message(error, "!").spoken(written) == (
        "--batch-size must be 1; ask for more --samples or --no-antithetic!"
    )


@pytest.mark.parametrize(
    ("option", "written"),
    [
        (Option("batch_size", 1), "--batch-size 1"),
        (Option("antithetic", True), "--antithetic"),
        (Option("clip", (0, 1)), "--clip 0 1"),
        (Option("method", "regions"), "--method regions"),
        (Option("features"), "--cell"),
        (Option("overwrite"), "--overwrite"),
        (Option("map"), "map"),  # no option, but an argument by its place
        (Option("sampling", None), "sampling=None"),
    ],
)
def test_an_option_on_the_command_line(option, written):
    for command in ("explain", "evaluate"):  # whose advice is of explain
        assert make_parser().written(command, option) == written


def test_a_warning_and_a_copy_of_an_error_keep_their_options():
    with pytest.warns(UserWarning, match="more n_samples") as caught:
        warn(Message("more ", Option("n_samples")))
    assert Message(caught[0].message).parts == ("more ", "n_samples")
    kept = pickle.loads(pickle.dumps(ArgumentError("seed", "must be ", Option("seed", 0))))
    assert str(kept) == "seed must be seed=0"
    assert kept.argument == "seed"


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize(
    "line", ["--version", "--help", *(f"{command} --help" for command in make_parser().commands)]
)
def test_help_does_not_load_torch(line):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fwdgrad", *line.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith(("usage: fwdgrad", f"fwdgrad {fwdgrad.__version__}"))
    loaded = {name.strip() for name in re.findall(r"\|([^|]+)$", run.stderr, re.MULTILINE)}
    assert "fwdgrad.cli.parser" in loaded
    heavy = {"torch", "numpy", "matplotlib", "pandas", "transformers", "onnxruntime"}
    assert not heavy & loaded


def test_public_names_are_imported_when_they_are_asked_for():
    assert all(getattr(fwdgrad, name) is not None for name in fwdgrad.__all__)
    assert set(fwdgrad.__all__) <= set(dir(fwdgrad))
    with pytest.raises(AttributeError, match="no attribute 'explains'"):
        fwdgrad.explains  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "policy"), [("import fwdgrad", "passive"), ("import torch", None)]
)
def test_threads_wait_without_spinning_where_torch_is_not_loaded_yet(first, policy):
    child = f"{first}\nimport fwdgrad, os, torch\nprint(os.environ.get('OMP_WAIT_POLICY'))"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    run = subprocess.run(
        [sys.executable, "-c", child], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == f"{policy}\n"
