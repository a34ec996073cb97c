"""A run does not wait for the model's device at every micro-batch, and loses nothing by that."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import fwdgrad
from fwdgrad import IntegratedGradients, ModelError, SmoothGrad, VarGrad
from fwdgrad.runner import checkpoint as checkpoints
from fwdgrad.runner import loop, run
from fwdgrad.scorer import Scorer

from .far import DEVICE, FarDevice, FarTensor
from .models import Recorder, X, assert_same_bits, exact, forward_gradient

OPTIONS = {"target": 1, "n_samples": 64, "scale": 0.3}


@pytest.fixture
def far(monkeypatch):
    """The device that is not there, and no look at it because of the time alone."""
    monkeypatch.setattr(loop, "LOOK_EVERY_SECONDS", math.inf)
    with FarDevice() as device:
        yield device


def on(answer=exact):
    """A model whose output is on that device."""

    def model(batch):
        with _disable_current_modes():  # which would see each of its operations
            found = answer(batch)
        return FarTensor(found)

    return model


CELLS = fwdgrad.Grid((2, 2), "nearest", jitter=True, share_channels=False)


def labels(batch):
    return exact(batch).sigmoid()


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (exact, {}),
        (exact, {"antithetic": False, "objective": "probability"}),
        (labels, {"objective": "auto"}),  # are looked at: do they stay in [0, 1]?
        (exact, {"target": "auto", "objective": fwdgrad.Difference(0, 1, "log-probability")}),
        (exact, {"target": [0, 2, 1], "design": "hadamard", "features": CELLS}),
    ],
    ids=["pairs", "probability", "labels", "difference", "targets"],
)
def test_no_read_for_a_micro_batch(far, answer, options):
    options = {**OPTIONS, **options}
    reads, maps = [], []
    for batch_size in (32, 4, 2):
        far.reads.clear()
        found = forward_gradient(on(answer), X, batch_size=batch_size, **options)
        maps.append(found if isinstance(found, list) else [found])
        reads.append(len(far.reads))
    assert reads[0] == reads[1] == reads[2] > 0
    here = forward_gradient(answer, X, **options)
    for found in maps:
        for one, other in zip(found, here if isinstance(here, list) else [here], strict=True):
            assert_same_bits(one, other)


def test_the_device_is_looked_at_every_second(far, monkeypatch):
    counts = []
    for seconds in (math.inf, 0.0):
        monkeypatch.setattr(loop, "LOOK_EVERY_SECONDS", seconds)
        far.reads.clear()
        forward_gradient(on(), X, batch_size=2, **OPTIONS)
        counts.append(len(far.reads))
    assert counts[1] - counts[0] == 30  # of 32 micro-batches the first and the last are anyway


def test_a_buffer_of_the_models_own_on_its_device(far):
    buffer = FarTensor(torch.empty(64, 3, dtype=torch.float64))

    def model(batch):
        return buffer[: len(batch)].copy_(FarTensor(exact(batch)))

    here = forward_gradient(exact, X, **OPTIONS)
    for batch_size in (1, 6, 64):  # 1: the signs of a pair are asked for one after the other
        assert_same_bits(forward_gradient(model, X, batch_size=batch_size, **OPTIONS), here)


def test_labels_that_are_none_are_told_of_there_too(far):
    def model(batch):  # in [0, 1] at x by accident
        return FarTensor(0.5 + exact(batch) - exact(X[None]))

    with pytest.warns(UserWarning, match=r"lies in \[0, 1\] at x and leaves it elsewhere") as found:
        forward_gradient(model, X, objective="auto", batch_size=4, **OPTIONS)
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
        forward_gradient(on(recorder), X, checkpoint=path, **options)
    assert recorder.calls == 64  # at the end
    message = str(caught.value)
    assert f"the score is {value} for 1 of 56 samples (samples 21)" in message
    assert f"samples 0 .. 7 are kept in {path}" in message
    rest = Recorder()
    whole = forward_gradient(exact, X, **options)
    assert_same_bits(forward_gradient(on(rest), X, checkpoint=path, **options), whole)
    assert rest.calls == 64 - 8 + 4


def test_a_run_that_is_broken_from_the_start_ends_there(far):
    recorder = broken_at(1, 0, math.nan)
    with pytest.raises(
        ModelError, match=r"for 1 of 2 samples \(samples 0\).*; there are no earlier"
    ):
        forward_gradient(on(recorder), X, batch_size=4, **OPTIONS)
    assert recorder.calls == 4


def test_nothing_that_is_not_finite_is_saved(far, tmp_path, monkeypatch):
    """Saves look first: after Ctrl-C, too, what is saved is what was finite."""
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SAVE_SHARE", math.inf)
    path = tmp_path / "run.safetensors"
    options = {**OPTIONS, "batch_size": 8}
    recorder = broken_at(3, 1, math.inf)
    with pytest.raises(ModelError, match=r"for 1 of 4 samples \(samples 9\).*samples 0 \.\. 7 are"):
        forward_gradient(on(recorder), X, checkpoint=path, **options)
    path.unlink()
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", math.inf)
    recorder = broken_at(3, 1, math.inf)

    def interrupted(batch):
        if len(recorder.asked) == 5:
            raise KeyboardInterrupt
        return FarTensor(recorder(batch))

    with pytest.raises(KeyboardInterrupt):
        forward_gradient(interrupted, X, checkpoint=path, **options)
    rest = Recorder()
    forward_gradient(on(rest), X, checkpoint=path, **options)
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
    monkeypatch.setattr(loop, "LOOK_EVERY_SECONDS", math.inf)
    monkeypatch.setattr(run, "is_waited_for", lambda device: True)


NETWORK = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3), torch.nn.Tanh()).eval()


@pytest.mark.parametrize(
    ("method", "n_samples"),
    [(SmoothGrad(0.3), 32), (VarGrad(0.3), 32), (IntegratedGradients(), None)],
    ids=["smoothgrad", "vargrad", "integrated-gradients"],
)
def test_no_read_for_a_micro_batch_of_gradients(waited_for, method, n_samples):
    options = {"method": method, "n_samples": n_samples, "target": [1, 2], "objective": "output"}
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

    options = {
        "method": SmoothGrad(0.3), "objective": "output", "target": 1, "n_samples": 32,
        "batch_size": 4,
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"nan.* for 4 of 28 samples \(samples 8, 9, 10, 11\)"):
        fwdgrad.explain(model, X, checkpoint=path, **options)
    assert len(calls) == 9
    assert not path.exists()
    assert_same_bits(
        fwdgrad.explain(NETWORK, X, checkpoint=path, **options),
        fwdgrad.explain(NETWORK, X, **options),
    )


def test_the_device_is_the_one_of_the_output(far):
    scorer = Scorer(on(), X, [1], "logit")
    assert scorer.device == DEVICE
    assert loop.is_waited_for(scorer.device)


def test_a_map_on_the_way_has_been_looked_at(far):
    seen, near = [], []
    found = forward_gradient(on(), X, batch_size=6, on_look=seen.append, **OPTIONS)
    forward_gradient(exact, X, batch_size=6, on_look=near.append, **OPTIONS)
    assert [one.n_samples for one in seen] == [16, 32, 64]
    assert seen[-1] is found
    for one, other in zip(seen, near, strict=True):
        assert_same_bits(one, other)
