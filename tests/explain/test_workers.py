"""Runs whose model is called in other processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError, Regions
from fwdgrad.runner.workers import Processes, Threads, workers_of

from .models import assert_same_bits

pytest.importorskip("loky")

X = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
W = torch.sin(torch.arange(2 * 3 * 32 * 32.0)).reshape(2, -1)
RUN = {"n_samples": 64, "batch_size": 4, "objective": "output"}


class Curved:
    """A model that may fail, or end its process, at samples of a high score."""

    def __init__(self, ends=None):
        self.ends = ends

    def __call__(self, batch):
        scores = torch.tanh(batch.flatten(1) @ W.T / 4)
        if self.ends is not None and bool((scores[:, 0] > self.ends[0]).any()):
            if self.ends[1] == "dies":
                os._exit(3)
            raise ValueError("too high")
        return scores


class Kept:
    """Processes that several runs share: starting them takes seconds."""

    def __init__(self, pool):
        self.pool = pool

    def open(self, model):
        return contextlib.nullcontext(self.pool)


@pytest.fixture(scope="module")
def two():
    with Processes(2).open(Curved()) as pool:
        yield Kept(pool)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [Regions(), Regions("grey", cell=8), ForwardGradient(0.5), ForwardGradient(0.5, clip=(0, 1))],
)
def test_the_same_bits_as_in_this_process(method, two):
    alone = fwdgrad.explain(Curved(), X, [0, 1], method=method, **RUN)
    found = fwdgrad.explain(Curved(), X, [0, 1], method=method, workers=two, **RUN)
    for one, other in zip(found, alone, strict=True):
        assert_same_bits(one, other)


@pytest.mark.slow
def test_a_model_of_a_text_in_processes(two):
    from fwdgrad.adapters.strings import TextModel

    model = TextModel(lambda texts: [float("fine" in text) for text in texts])
    with Processes(1).open(model.prepare("A fine film, if long").forward) as pool:
        found = fwdgrad.explain(model, "A fine film, if long", n_samples=32, workers=Kept(pool))
    alone = fwdgrad.explain(model, "A fine film, if long", n_samples=32)
    assert_same_bits(found.explanation, alone.explanation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raises", r"ValueError: too high \(samples \d+ \.\. \d+\); .* kept in"),
        ("dies", r"a worker has ended in the middle of a call, .*\(samples \d+ .* kept in"),
    ],
)
def test_what_was_found_is_kept_where_a_worker_fails(how, message, tmp_path):
    scores = []

    def heard(batch):
        scores.append(Curved()(batch))
        return scores[-1]

    seed = {"seed": 1}  # whose highest score does not come first
    alone = fwdgrad.explain(heard, X, 0, method=Regions(), **{**RUN, **seed})
    scores = torch.cat(scores)[:, 0]
    high = scores[:20].max().item()  # of the input, and of some first samples
    assert scores[20:].max() > high
    file = tmp_path / "run.safetensors"
    run = {**RUN, **seed, "method": Regions(), "checkpoint": file}
    asked = []
    with pytest.raises(ModelError, match=message):
        fwdgrad.explain(Curved((high, how)), X, 0, workers=1, **run)

    def counted(batch):
        asked.append(len(batch))
        return Curved()(batch)

    # Of the same name for the checkpoint is whatever gives the same scores.
    found = fwdgrad.explain(counted, X, 0, **run)
    assert_same_bits(found, alone)
    assert sum(asked) < 64 + 1 + 4  # at the input, and four scores asked for again


@pytest.mark.slow
def test_a_model_that_cannot_be_sent():
    import threading

    lock = threading.Lock()

    def model(batch):
        with lock:
            return Curved()(batch)

    with pytest.raises(ModelError, match="cannot be sent to another process: TypeError: cannot pi"):
        fwdgrad.explain(model, X, 0, workers=1, **RUN)
    found = fwdgrad.explain(model, X, 0, workers=Threads(2), **RUN)
    assert_same_bits(found, fwdgrad.explain(Curved(), X, 0, **RUN))


@pytest.mark.slow
def test_a_model_that_a_worker_cannot_import(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "def score(batch):\n    return batch.flatten(1).sum(1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_models

    (tmp_path / "own_models.py").write_text("raise ImportError('no such driver')\n")
    with pytest.raises(ModelError, match="a worker cannot load the model: ImportError: no such dr"):
        fwdgrad.explain(own_models.score, X, None, workers=1, **RUN)


SCRIPT = """
import sys, time, torch, fwdgrad
def slow(batch):
    time.sleep(0.05 * len(batch))
    return batch.flatten(1).sum(1)
if __name__ == "__main__":
    done = lambda n, of: print(n, flush=True)
    fwdgrad.explain(slow, torch.rand(3, 32, 32), None, n_samples=400, batch_size=2, workers=2,
                    objective="output", checkpoint=sys.argv[1], progress=done)
"""


def children_of(process):
    """The processes that it started, and theirs."""
    found = []
    for task in (f"/proc/{process}/task/{process}/children",):
        with contextlib.suppress(OSError), open(task) as file:
            for child in file.read().split():
                found += [int(child), *children_of(int(child))]
    return found


def runs(process):
    """Whether it still runs: one that has ended is listed until the first process collects it."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="reads Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left(number, tmp_path):
    file = tmp_path / "run.safetensors"
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    run = subprocess.Popen(
        [sys.executable, script, file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        for line in run.stdout:
            if int(line) >= 20:
                break
        children = children_of(run.pid)
        assert len(children) >= 2
        if number == signal.SIGINT:  # as Ctrl-C does: to all of them
            os.killpg(run.pid, number)
        else:
            run.kill()
        run.wait(30)  # on a busy machine workers take a while to end
        until = time.monotonic() + 10
        while any(map(runs, children)):
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    if number == signal.SIGINT:
        assert file.exists()
        assert "KeyboardInterrupt" in run.stderr.read()


@pytest.mark.parametrize("given", [0, -1, True, 2.0, "2", Threads])
def test_workers_that_are_none(given):
    with pytest.raises((TypeError, ValueError), match=r"^workers must be .*, got "):
        fwdgrad.explain(Curved(), X, 0, workers=given, **RUN)


def test_what_workers_are():
    assert workers_of(3) == Processes(3)
    assert workers_of(Threads(2)) == Threads(2)
    assert workers_of(None) is None


@pytest.mark.parametrize("method", ["smoothgrad", "noisegrad", "gradient"])
def test_gradients_have_no_workers(method):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2)).eval()
    with pytest.raises(ValueError, match="workers are for methods from forward calls"):
        fwdgrad.explain(model, X, 0, method=method, workers=Threads(2))


def test_memory_is_not_of_workers():
    with pytest.raises(ValueError, match="memory cannot be kept to by several workers; give batch"):
        fwdgrad.explain(Curved(), X, 0, memory="1GiB", workers=Threads(2))


def test_what_other_threads_see_is_warned_of():
    """Outputs that leave [0, 1] elsewhere than at x: they are no probabilities of labels."""

    def model(batch):
        return 0.4 + (batch.flatten(1) - X.flatten()) @ W.T / 4

    with pytest.warns(UserWarning, match="wrongly taken for probabilities of labels"):
        fwdgrad.explain(model, X, 0, workers=Threads(2), n_samples=64)
