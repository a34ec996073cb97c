"""explain_many: many inputs in order, in flat memory, with an error that says which one failed."""

import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError, ReliabilityWarning, explain, explain_many
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.errors import ArgumentError, Message, Option, kept_warnings, said_first, warn
from fwdgrad.runner.workers import Threads
from fwdgrad.telling import InputsBar

from .models import X, assert_same_bits, exact

HOW = {"method": ForwardGradient(scale=0.1), "objective": "output", "n_samples": 64}
INPUTS = [X, 0.5 * X, X.flip(0), -X]


@pytest.fixture(autouse=True)
def _noise_is_no_error():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReliabilityWarning)
        yield


# ---- what comes ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, Threads(2)])
def test_each_is_what_explain_returns(workers):
    targets = [0, 2, [1, 0], "auto"]
    found = list(explain_many(exact, iter(INPUTS), targets=targets, workers=workers, **HOW))
    assert len(found) == 4
    for one, x, target in zip(found, INPUTS, targets, strict=True):
        alone = explain(exact, x, target, **HOW)
        if isinstance(target, list):
            assert [e.target for e in one] == [1, 0]
            one, alone = one[0], alone[0]
        assert_same_bits(one, alone)
        assert torch.equal(one.input, x)


def test_inputs_are_asked_for_when_their_turn_has_come():
    asked = []

    def inputs():
        for i, x in enumerate(INPUTS):
            asked.append(i)
            yield x

    found = explain_many(exact, inputs(), 0, **HOW)
    assert asked == []
    next(found)
    assert asked == [0]
    next(found)
    assert asked == [0, 1]


def test_tensors_arrays_and_frames_are_taken_along_their_first_axis():
    batch = torch.stack(INPUTS)
    whole = list(explain_many(exact, batch, 0, **HOW))
    assert len(whole) == 4
    for one, other in zip(whole, explain_many(exact, batch.numpy(), 0, **HOW), strict=True):
        assert_same_bits(one, other)
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"age": [40, 30], "town": ["Ulm", "Bonn"]})
    model = TableModel(lambda rows: rows["age"] + 5.0 * (rows["town"] == "Ulm"), frame)
    found = list(explain_many(model, frame))
    assert [one.explanation.score for one in found] == [45, 30]
    assert found[0].values == (40, "Ulm")


def test_texts():
    model = TextModel(lambda texts: np.array([float(text.count("good")) for text in texts]))
    found = list(explain_many(model, ["a good film", "so good"], n_samples=16))
    assert [one.words for one in found] == [("a", "good", "film"), ("so", "good")]
    assert [int(one.scores.argmax()) for one in found] == [1, 1]


# ---- what fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, Threads(2)])
def test_an_input_that_fails_is_named(workers):
    inputs = [X, "photos/none.png", X[None].expand(2, *X.shape) * torch.nan, -X]
    found = explain_many(exact, inputs, 0, workers=workers, **HOW)
    assert next(found).score == explain(exact, X, 0, **HOW).score
    with pytest.raises(FileNotFoundError, match=r"^input 1 \(photos/none.png\): photo photos/none"):
        next(found)
    with pytest.raises(StopIteration):
        next(found)
    found = list(explain_many(exact, inputs, 0, return_exceptions=True, workers=workers, **HOW))
    assert [type(one).__name__ for one in found[:2]] == ["Explanation", "FileNotFoundError"]
    assert isinstance(found[2], ValueError)
    assert str(found[2]).startswith("input 2: x must be finite")
    assert_same_bits(found[3], explain(exact, -X, 0, **HOW))


def test_the_models_error_keeps_its_cause():
    def fails(batch):
        if float(batch.sum()) < 0 or len(batch) > 1:
            raise OSError("away")
        return exact(batch)

    with pytest.raises(ModelError, match=r"^input 0: the model failed on a batch") as caught:
        next(explain_many(fails, INPUTS, 0, **HOW))
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_that_is_kept_holds_no_input():
    held = []

    def inputs():
        x = torch.full((2, 4, 6), torch.nan)
        held.append(weakref.ref(x))
        yield x

    (error,) = explain_many(exact, inputs(), 0, return_exceptions=True, **HOW)
    gc.collect()
    assert isinstance(error, ValueError)
    assert error.__traceback__ is not None
    assert held[0]() is None


@pytest.mark.parametrize("workers", [None, Threads(2)])
def test_an_error_of_the_inputs_own_comes_after_what_was_before_it(workers):
    def inputs():
        yield from INPUTS[:2]
        raise OSError("the disk is away")

    found = explain_many(exact, inputs(), 0, return_exceptions=True, workers=workers, **HOW)
    assert [next(found).target, next(found).target] == [0, 0]
    with pytest.raises(OSError, match=r"^the disk is away$"):
        next(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": [0]}, "targets must be one for each input, got 1 only"),
        ({"targets": [0] * 5}, "targets must be one for each input, got more than 4"),
        ({"targets": "0000"}, "targets must be an iterable of one for each input, got '0000'"),
        ({"targets": [0] * 4, "target": 1}, "targets and target both name classes"),
        ({"checkpoint": "run"}, "explain_many.. has no checkpoint: save each explanation"),
        ({"scale": 0.1}, r"explain_many.. got an unexpected.*scale is an option of methods"),
        ({"method": "none"}, "^method must be one of"),
        ({"seed": -1}, "^seed must lie in"),
        ({"batch_size": 0}, "^batch_size must be at least 1"),
        ({"objective": "none"}, "^objective must be"),
        ({"workers": 0}, "^workers must be at least 1, got 0"),
        ({"workers": "two"}, "^workers must be a number of processes"),
        ({"progress": 3}, "^progress must be True, False or a callable, got 3"),
        ({"return_exceptions": 1}, "^return_exceptions must be True or False, got 1"),
        ({"inputs": "photo.png"}, r"^inputs must be several inputs, got 'photo.png'; give \['pho"),
        ({"inputs": os.curdir}, r"got the folder '.'; give its files, sorted\(pathlib.Path\('.'\)"),
        ({"inputs": "photos/*.jpg"}, r"give sorted\(glob.glob\('photos/\*.jpg'\)\)$"),
        ({"inputs": {"age": 3}}, r"^inputs must be an iterable of inputs, got dict; give \[it\]"),
        ({"inputs": 3}, "^inputs must be an iterable of inputs, got int"),
        ({"inputs": torch.tensor(3.0)}, "^inputs must be several inputs, got a single number"),
        ({"model": 3}, "^model must be callable"),
    ],
    ids=str,
)
def test_what_cannot_do_is_told_at_once(given, message):
    arguments = {"model": exact, "inputs": INPUTS, **{**HOW, **given}}
    late = isinstance(given.get("targets"), list) and "target" not in given  # seen on the way
    run = (lambda **given: list(explain_many(**given))) if late else explain_many
    with pytest.raises((TypeError, ValueError), match=message):
        run(**arguments)


def test_errors_say_which_input_and_keep_their_options():
    error = ArgumentError("n_samples", "must be even; or give ", Option("seed", 1))
    error = pickle.loads(pickle.dumps(said_first("input 3", error)))
    assert error.argument == "n_samples"
    assert str(error) == "input 3: n_samples must be even; or give seed=1"
    spoken = Message(error).spoken(lambda option: f"<{option.name}>")
    assert spoken == "input 3: <n_samples> must be even; or give <seed>"
    undecoded = UnicodeDecodeError("a", b"b", 0, 1, "c")
    for one in (KeyError("age"), PermissionError(13, "denied", "x"), undecoded):
        text = str(one)
        assert str(said_first("input 3", one)) == f"input 3: {type(one).__name__}: {text}"


# ---- what is told --------------------------------------------------------------------------


def test_warnings_name_the_input_and_do_not_come_again_and_again():
    def warns(batch):
        if len(batch) == 1:
            warn("the same")
        return exact(batch)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(explain_many(warns, INPUTS, 1, **{**HOW, "n_samples": 4}))
    texts = [str(one.message) for one in caught]
    assert texts[0] == "input 0: the same"
    assert sum("the same" in text for text in texts) == 1
    noisy = [str(one.message) for one in caught if one.category is ReliabilityWarning]
    assert noisy[0].startswith("input 0: the map of class 1 has a reliability of")
    assert noisy[1].startswith("4 explanations of 4 are mostly noise")
    assert len(noisy) == 2
    assert all(one.filename == __file__ for one in caught)


def test_warnings_are_kept_in_their_thread_alone():
    with kept_warnings() as kept, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        other = threading.Thread(target=warn, args=("there",))
        other.start()
        other.join()
        warn("here")
    assert kept == [("here", UserWarning)]
    assert [str(one.message) for one in caught] == ["there"]


def test_progress(capsys):
    seen = []
    list(explain_many(exact, INPUTS, 0, progress=lambda *got: seen.append(got), **HOW))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    list(explain_many(exact, iter(INPUTS), 0, progress=lambda *got: seen.append(got), **HOW))
    assert seen[-1] == (4, None)
    assert capsys.readouterr().err == ""
    list(explain_many(exact, INPUTS, 0, progress=True, **HOW))
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("4/4 inputs 100%|")
    assert "calls/s" in last
    list(explain_many(exact, iter(INPUTS), 0, progress=True, workers=Threads(2), **HOW))
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("4 inputs ")
    assert "calls/s" in last


def test_the_bar_counts_calls_of_inputs_elsewhere_and_here_once():
    bar = InputsBar(False, 2)
    for done in (32, 64):
        bar.within(done, 64)
    bar.step(64)
    bar.step(10)
    assert bar._calls == 74


# ---- several at once -----------------------------------------------------------------------


def test_results_of_workers_come_in_order_and_few_inputs_are_taken_ahead():
    go, order, ahead = threading.Event(), [], []

    def model(batch):
        number = int(batch[0, 0])
        order.append(number)
        if number == 0:
            assert go.wait(30)  # the first is done last
        elif number == 1:
            go.set()
        return batch.sum(1)

    def inputs():
        for i in range(12):
            ahead.append(i)
            yield torch.full((2,), i + 0.5)

    method = ForwardGradient(scale=0.001, antithetic=False)
    options = {"method": method, "n_samples": 1, "workers": Threads(2), "objective": "output"}
    found = explain_many(model, inputs(), **options)
    assert next(found).input[0] == 0.5
    assert len(ahead) == 4
    assert [int(one.input[0]) for one in found] == list(range(1, 12))
    assert set(order) == set(range(12))


@pytest.mark.slow  # processes
def test_processes():
    pytest.importorskip("loky")
    inputs = [X, torch.full_like(X, torch.nan), -X]
    found = list(explain_many(exact, inputs, 0, workers=2, return_exceptions=True, **HOW))
    assert_same_bits(found[0], explain(exact, X, 0, **HOW))
    assert str(found[1]).startswith("input 1: x must be finite")
    assert_same_bits(found[2], explain(exact, -X, 0, **HOW))


MANY = """
import sys, torch, warnings
import fwdgrad
warnings.simplefilter("ignore")
torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(49152, 3)).eval()
inputs = (torch.rand(3, 128, 128) for _ in range(int(sys.argv[1])))
for _ in fwdgrad.explain_many(model, inputs, n_samples=4):
    pass
from fwdgrad.runner.memory import process_memory
print(process_memory("VmHWM"))
"""


@pytest.mark.slow  # processes
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_inputs():
    path = os.pathsep.join(sys.path)
    few, many = (
        int(subprocess.run([sys.executable, "-c", MANY, count], check=True, text=True,
                           capture_output=True, env={**os.environ, "PYTHONPATH": path}).stdout)
        for count in ("10", "200")
    )  # fmt: skip
    assert many <= 1.05 * few


def test_it_is_public():
    assert fwdgrad.explain_many is explain_many
