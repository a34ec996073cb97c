"""A run does not wait for the model's device at every micro-batch, and loses nothing by that."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import fwdgrad
from fwdgrad import ModelError, source, stream
from fwdgrad import checkpoint as checkpoints

from .far import DEVICE, FarDevice, FarTensor
from .models import Recorder, X, assert_same_bits, exact

OPTIONS = {"target": 1, "queries": 64, "sigma": 0.3}


@pytest.fixture
def far(monkeypatch):
    """The device that is not there, and no look at it because of the time alone."""
    monkeypatch.setattr(stream, "LOOK_EVERY_SECONDS", math.inf)
    with FarDevice() as device:
        yield device


def on(answer=exact):
    """A model whose output is on that device."""

    def model(batch):
        with _disable_current_modes():  # which would see each of its operations
            found = answer(batch)
        return FarTensor(found)

    return model


def labels(batch):
    return exact(batch).sigmoid()


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (exact, {}),
        (exact, {"antithetic": False, "objective": "probability"}),
        (labels, {"objective": "auto"}),  # are looked at: do they stay in [0, 1]?
        (exact, {"target": "auto", "objective": fwdgrad.Difference(0, 1, "log-probability")}),
        (exact, {"target": [0, 2, 1], "law": "hadamard", "cell": 2}),
    ],
    ids=["pairs", "probability", "labels", "difference", "targets"],
)
def test_no_read_for_a_micro_batch(far, answer, options):
    options = {**OPTIONS, **options}
    reads, maps = [], []
    for batch_size in (32, 4, 2):
        far.reads.clear()
        found = fwdgrad.explain(on(answer), X, batch_size=batch_size, **options)
        maps.append(found if isinstance(found, list) else [found])
        reads.append(len(far.reads))
    assert reads[0] == reads[1] == reads[2] > 0
    here = fwdgrad.explain(answer, X, **options)
    for found in maps:
        for one, other in zip(found, here if isinstance(here, list) else [here], strict=True):
            assert_same_bits(one, other)


def test_the_device_is_looked_at_every_second(far, monkeypatch):
    counts = []
    for seconds in (math.inf, 0.0):
        monkeypatch.setattr(stream, "LOOK_EVERY_SECONDS", seconds)
        far.reads.clear()
        fwdgrad.explain(on(), X, batch_size=2, **OPTIONS)
        counts.append(len(far.reads))
    assert counts[1] - counts[0] == 30  # of 32 micro-batches the first and the last are anyway


def test_a_buffer_of_the_models_own_on_its_device(far):
    buffer = FarTensor(torch.empty(64, 3, dtype=torch.float64))

    def model(batch):
        return buffer[: len(batch)].copy_(FarTensor(exact(batch)))

    here = fwdgrad.explain(exact, X, **OPTIONS)
    for batch_size in (1, 6, 64):  # 1: the signs of a pair are asked for one after the other
        assert_same_bits(fwdgrad.explain(model, X, batch_size=batch_size, **OPTIONS), here)


def test_labels_that_are_none_are_told_of_there_too(far):
    def model(batch):  # in [0, 1] at x by accident
        return FarTensor(0.5 + exact(batch) - exact(X[None]))

    with pytest.warns(UserWarning, match=r"lies in \[0, 1\] at x and leaves it elsewhere") as found:
        fwdgrad.explain(model, X, objective="auto", batch_size=4, **OPTIONS)
    assert len(found) == 1


def broken_at(call, row, value, answer=exact):
    """At a call, which is counted without that at x, a row of the answer is not finite."""

    def change(batch):
        found = answer(batch)
        if len(recorder.asked) - 1 == call:
            found[row] = value
        return found

    recorder = Recorder(change)
    return recorder


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_score_that_is_not_finite_is_found_later(far, tmp_path, value):
    path = tmp_path / "run.safetensors"
    options = {**OPTIONS, "antithetic": False, "batch_size": 8}
    recorder = broken_at(3, 5, value)
    with pytest.raises(ModelError) as caught:
        fwdgrad.explain(on(recorder), X, checkpoint=path, **options)
    assert recorder.calls == 64  # at the end
    message = str(caught.value)
    assert f"the score is {value} for 1 of 56 copies (copies 21)" in message
    assert f"copies 0 .. 7 are kept in {path}" in message
    rest = Recorder()
    whole = fwdgrad.explain(exact, X, **options)
    assert_same_bits(fwdgrad.explain(on(rest), X, checkpoint=path, **options), whole)
    assert rest.calls == 64 - 8 + 4


def test_a_run_that_is_broken_from_the_start_ends_there(far):
    recorder = broken_at(1, 0, math.nan)
    with pytest.raises(ModelError, match=r"for 1 of 2 copies \(copies 0\).*; there are no earlier"):
        fwdgrad.explain(on(recorder), X, batch_size=4, **OPTIONS)
    assert recorder.calls == 4


def test_nothing_that_is_not_finite_is_saved(far, tmp_path, monkeypatch):
    """Saves look first: after Ctrl-C, too, what is saved is what was finite."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SAVE_SHARE", math.inf)
    path = tmp_path / "run.safetensors"
    options = {**OPTIONS, "batch_size": 8}
    recorder = broken_at(3, 1, math.inf)
    with pytest.raises(ModelError, match=r"for 1 of 4 copies \(copies 9\).*copies 0 \.\. 7 are"):
        fwdgrad.explain(on(recorder), X, checkpoint=path, **options)
    path.unlink()
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", math.inf)
    recorder = broken_at(3, 1, math.inf)

    def interrupted(batch):
        if len(recorder.asked) == 5:
            raise KeyboardInterrupt
        return FarTensor(recorder(batch))

    with pytest.raises(KeyboardInterrupt):
        fwdgrad.explain(interrupted, X, checkpoint=path, **options)
    rest = Recorder()
    fwdgrad.explain(on(rest), X, checkpoint=path, **options)
    assert rest.calls == 64 - 8 + 4  # of the first micro-batch alone it was known


# ---- gradients -----------------------------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts the reads of single numbers of any tensor, those on the CPU included."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        self.count += "_local_scalar_dense" in str(function)
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def waited_for(monkeypatch):
    """The CPU counts as a device that is to be waited for."""
    monkeypatch.setattr(stream, "LOOK_EVERY_SECONDS", math.inf)
    monkeypatch.setattr(source, "is_waited_for", lambda device: True)


NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.Tanh()).eval()


@pytest.mark.parametrize("method", ["smoothgrad", "vargrad", "integrated-gradients"])
def test_no_read_for_a_micro_batch_of_gradients(waited_for, method):
    options = {"method": method, "target": [1, 2]}
    if method != "integrated-gradients":
        options |= {"queries": 32, "sigma": 0.3}
    counts, x = [], X.abs().clamp(0, 1)
    for batch_size in (25, 5, 1):
        with Reads() as reads:
            fwdgrad.explain(NETWORK, x, batch_size=batch_size, **options)
        counts.append(reads.count)
    assert counts[1] == counts[2]
    assert counts[0] <= counts[1] <= counts[0] + 1


def test_a_gradient_that_is_not_finite_is_found_later(waited_for, tmp_path):
    """What has entered the moments cannot be taken out: the file has what was saved before."""
    path = tmp_path / "run.safetensors"
    calls = []

    def model(batch):
        calls.append(len(batch))
        found = NETWORK(batch)
        return found * math.inf if len(calls) == 4 else found

    options = {"method": "smoothgrad", "target": 1, "queries": 32, "sigma": 0.3, "batch_size": 4}
    with pytest.raises(ModelError, match=r"nan.* for 4 of 28 copies \(copies 8, 9, 10, 11\)"):
        fwdgrad.explain(model, X, checkpoint=path, **options)
    assert len(calls) == 9
    assert not path.exists()
    assert_same_bits(
        fwdgrad.explain(NETWORK, X, checkpoint=path, **options),
        fwdgrad.explain(NETWORK, X, **options),
    )


def test_the_device_is_the_one_of_the_output(far):
    scorer = fwdgrad.scorer.Scorer(on(), X, [1], "logit")
    assert scorer.device == DEVICE
    assert stream.is_waited_for(scorer.device)
