"""A checkpoint goes on with the run that it is of, with no other, and with no second one."""

import errno
import functools
import os
import re
import signal
import stat
import threading

import pytest
import torch

import fwdgrad
from fwdgrad import CheckpointError, KeptLabel
from fwdgrad.runner import checkpoint as checkpoints
from fwdgrad.runner import fingerprint, identity
from fwdgrad.runner.fingerprint import Answer, differ, parameters_digest, telling_samples

from .models import Recorder, X, assert_same_bits, exact, handled, raise_at

OPTIONS = {
    "method": fwdgrad.ForwardGradient(scale=0.3),
    "objective": "output",
    "n_samples": 64,
    "seed": 5,
    "batch_size": 8,
}
WEIGHTS = torch.linspace(-1, 1, 48).double()


@pytest.fixture
def ctrl_c():
    with handled(signal.SIGINT, signal.default_int_handler):
        yield


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "run.safetensors"


def explain(model, path, **options):
    return fwdgrad.explain(model, X, checkpoint=path, **{**OPTIONS, **options})


def of_margin(margin, sign=1):
    """Two logits that are ``margin`` apart at X, and at no sample as another's of this kind."""
    at_x = float((X.flatten().double() * WEIGHTS).sum())

    def model(batch):
        slope = batch.flatten(1).double() @ WEIGHTS - at_x
        return torch.stack([margin + sign * slope, torch.zeros(len(batch)).double()], 1)

    return model


def test_a_checkpoint_of_another_version_of_the_contract(checkpoint, monkeypatch):
    """Its scores are of the same samples, but its map would be summed in another order."""
    monkeypatch.setattr(identity, "CONTRACT", 1)
    explain(of_margin(1.0), checkpoint, target=0)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"of another run.*contract"):
        explain(of_margin(1.0), checkpoint, target=0)


# ---- another model -------------------------------------------------------------------------


def refused(path, model, *mentions, asked=0, **options):
    before = path.read_bytes()
    recorder = Recorder(model)
    with pytest.raises(CheckpointError, match="of another run") as caught:
        explain(recorder, path, **options)
    assert path.read_bytes() == before
    assert recorder.calls == asked
    assert all(text in str(caught.value) for text in mentions), str(caught.value)
    assert os.listdir(path.parent) == [path.name]


SURE, NEARLY_AS_SURE = 11.512915, 9.566945  # log-odds of .99999 and .99993


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (lambda logits: logits, {"objective": "probability"}),
        (lambda logits: logits.softmax(1), {"objective": "logit"}),
        (lambda logits: logits.softmax(1).float(), {"objective": "logit"}),
        (lambda logits: logits.softmax(1)[:, 0], {"target": None}),
        (lambda logits: logits.softmax(1)[:, :1].float(), {"target": None}),
        (lambda logits: {"p": logits.softmax(1)}, {"objective": lambda out: out["p"][:, 0]}),
        (lambda logits: logits.softmax(1).numpy(), {"target": 0}),
    ],
    ids=["logits", "probabilities", "float32", "one number", "a column", "a dict", "NumPy"],
)
def test_a_model_that_is_as_sure_is_told(checkpoint, form, options):
    one, other = of_margin(SURE), of_margin(NEARLY_AS_SURE)
    first = explain(lambda batch: form(one(batch)), checkpoint, **options)
    refused(checkpoint, lambda batch: form(other(batch)), "output at the input was ", **options)
    again = explain(lambda batch: form(one(batch)), checkpoint, **options)
    assert_same_bits(first, again)


def test_a_model_of_the_same_output_at_the_input_is_told_by_samples(checkpoint):
    explain(of_margin(2.0), checkpoint, target=0)
    other = of_margin(2.0, sign=-1)
    refused(checkpoint, other, "score of some samples was", asked=4, target=0)


def test_models_that_tell_labels_are_told_apart(checkpoint):
    """Both are right at the input, and give another label for other samples."""

    def labels(sign):
        return lambda batch: of_margin(0.3, sign)(batch).argmax(1)

    first = explain(labels(1), checkpoint, objective=KeptLabel(0))
    assert first.score == 1
    assert first.attribution.abs().max() > 0
    refused(checkpoint, labels(-1), "score of some samples was", asked=32, objective=KeptLabel(0))
    assert_same_bits(explain(labels(1), checkpoint, objective=KeptLabel(0)), first)


def test_outputs_in_words_are_compared(checkpoint):
    explain(lambda batch: ["cat"] * len(batch), checkpoint, objective=KeptLabel("cat"))
    first = lambda batch: ["cat"] + ["dog"] * (len(batch) - 1)  # noqa: E731
    refused(checkpoint, first, "score of some samples", asked=32, objective=KeptLabel("cat"))


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (lambda out: out[:, 0], lambda out: out[:, 1], "score at the input was"),
        (lambda out: out[:, 0], lambda out: out[:, 0].abs(), "score of some samples was"),
    ],
    ids=["at the input", "at samples"],
)
def test_two_lambdas_are_two_objectives(checkpoint, one, other, said):
    assert one.__qualname__ == other.__qualname__
    model = of_margin(0.3)
    explain(model, checkpoint, objective=one)
    asked = 4 if "samples" in said else 0
    refused(checkpoint, model, said, asked=asked, objective=other)


@pytest.mark.parametrize("method", [fwdgrad.SmoothGrad(scale=0.3), fwdgrad.VarGrad(scale=0.3)])
def test_a_gradients_checkpoint_knows_the_scores_of_its_first_samples(checkpoint, method):
    options = {"method": method, "target": 0}
    one, other = (of_margin(2.0, sign) for sign in (1, -1))
    first = explain(one, checkpoint, **options)
    refused(checkpoint, other, "score of some samples was", asked=4, **options)
    assert_same_bits(explain(one, checkpoint, **options), first)


def linear(change=0.0):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).eval()
    with torch.no_grad():
        model[1].weight[0, 7] += change
    return model


def test_parameters_are_compared_to_the_bit(checkpoint):
    one, other = linear(), linear(1e-6)
    explain(one, checkpoint, target=1)  # which is another class
    refused(checkpoint, other, "model was one of digest", target=1)
    refused(checkpoint, lambda batch: other(batch), "model was one of digest", target=1)
    assert explain(lambda batch: one(batch), checkpoint, target=1).score


def test_another_number_of_classes(checkpoint):
    explain(exact, checkpoint, target=1)
    refused(checkpoint, lambda b: exact(b)[:, :2], "(1, 3)", "(1, 2)", "output was", target=1)


def test_a_name(checkpoint):
    result = explain(exact, checkpoint, target=1, name="v3")
    assert result.provenance["model"] == "v3"
    refused(checkpoint, exact, "name was 'v3', is 'v4'", target=1, name="v4")
    refused(checkpoint, exact, "name was 'v3', is None", target=1)
    with pytest.raises(TypeError, match="name must be a text or None, got 3"):
        explain(exact, checkpoint, target=1, name=3)


# ---- what is told from what ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([10.0, 0.0], [10.009, 0.009], [False, False]),  # a thousandth of the largest
        ([10.0, 0.0], [10.011, 0.011], [True, True]),
        ([1e-60, 2e-60], [1e-60, 2.1e-60], [False, True]),
        ([0.99999, 0.00001], [0.99993, 0.00007], [True, True]),
        ([0.99999, 0.00001], [0.9999900001, 0.0000099999], [False, False]),
        ([0.5, 0.5], [0.504, 0.496], [False, False]),  # a hundredth
        ([0.5, 0.5], [0.506, 0.494], [True, True]),
        ([0.0, 1.0], [1.0, 1.0], [True, False]),
        ([float("-inf"), 3.0], [float("-inf"), 3.0], [False, False]),
        ([float("-inf"), 3.0], [3.0, 3.0], [True, False]),
        ([float("nan"), 3.0], [float("nan"), 3.0], [False, False]),
        ([float("nan"), 3.0], [0.0, 3.0], [True, False]),
    ],
)
def test_how_near_numbers_must_be(one, other, expected):
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    assert differ(one, other).tolist() == expected
    assert differ(other, one).tolist() == expected


def test_coarse_types_may_be_off_by_their_rounding():
    answer = Answer.of(torch.tensor([3.0, -7.0], dtype=torch.bfloat16))
    assert answer.precision == 2**-7
    near = torch.tensor([3.03125, -7.0]).double()
    assert differ(answer.numbers, near).tolist() == [True, False]
    assert differ(answer.numbers, near, answer.precision).tolist() == [False, False]


def test_an_answer_of_anything():
    out = {"a": torch.tensor([[1.5]]), "b": ["x", 2], "c": (torch.tensor([3]), None)}
    answer = Answer.of(out)
    assert answer.numbers.tolist() == [1.5]
    assert answer.rest[0] == "torch.float32 (1, 1)"
    assert "x" in answer.rest
    assert [3] in answer.rest
    large = Answer.of(torch.arange(10.0**5))
    assert 2000 < len(large.numbers) <= 4096
    assert Answer.of(torch.zeros(0)).numbers.tolist() == []


def test_samples_of_extreme_scores_are_evaluated_again():
    scores = torch.tensor([0.5, 0.1, 0.9, 0.4, 0.3, 0.8]).double()
    assert telling_samples(scores) == [1, 2, 4, 5]
    kept = torch.ones(1000)
    kept[[3, 500, 998]] = 0
    assert {3, 500, 998} <= set(telling_samples(kept))
    assert len(telling_samples(kept)) == 32
    assert telling_samples(torch.tensor([2.0])) == [0]


def test_where_parameters_are_found():
    class Adapter:
        def __init__(self, model):
            self.model, self.calls = model, 0

        def forward(self, batch):
            self.calls += 1
            return self.model(batch)

    net = linear()
    digest = parameters_digest(net)
    assert parameters_digest(linear()) == digest
    adapter = Adapter(net)
    part = functools.partial(lambda adapter, batch: adapter.forward(batch), adapter)
    for model in (net.forward, adapter.forward, part, lambda batch: adapter.forward(batch)):
        assert parameters_digest(model) is not None
        model(X[None])
        before = parameters_digest(model)
        with torch.no_grad():
            net[1].bias[0] += 1
        assert parameters_digest(model) != before
        assert parameters_digest(model) != digest
    assert parameters_digest(exact) is None
    norm = torch.nn.BatchNorm1d(3)
    digest = parameters_digest(norm)
    norm.num_batches_tracked += 1  # a count of calls
    assert parameters_digest(norm) == digest
    norm.running_mean += 1
    assert parameters_digest(norm) != digest


def test_a_sample_of_large_parameters(monkeypatch):
    monkeypatch.setattr(fingerprint, "_MOST_BYTES", 10)
    monkeypatch.setattr(fingerprint, "_SAMPLE", 16)
    digest = parameters_digest(linear())
    assert digest == parameters_digest(linear())
    tuned = linear()
    with torch.no_grad():
        tuned[1].weight *= 1.001
    assert parameters_digest(tuned) != digest


# ---- one run at a time ---------------------------------------------------------------------


def test_two_runs_on_one_checkpoint_are_refused(checkpoint):
    link = checkpoint.with_name("link")
    link.symlink_to(checkpoint.name)
    inside, caught = [], []

    def model(batch):
        if len(batch) > 1 and not inside:
            inside.append(True)
            for path in (checkpoint, link):
                with pytest.raises(CheckpointError) as error:
                    explain(exact, path, target=1, seed=6)
                caught.append(str(error.value))
        return exact(batch)

    explain(model, checkpoint, target=1)
    assert len(caught) == 2
    for message in caught:
        assert re.search(rf"cannot be used: it is in use by process {os.getpid()}\. Wait", message)
    assert sorted(os.listdir(checkpoint.parent)) == ["link", checkpoint.name]
    assert link.is_symlink()


def test_a_failing_run_gives_its_checkpoint_free(checkpoint):
    with pytest.raises(RuntimeError, match="fails"):
        explain(Recorder(before=raise_at(2, RuntimeError("fails"))), checkpoint, target=1)
    assert os.listdir(checkpoint.parent) == [checkpoint.name]


def test_a_pipe_as_checkpoint_is_refused_at_once(checkpoint):
    os.mkfifo(checkpoint)
    with pytest.raises(CheckpointError, match="cannot be used: it is a named pipe, not a file"):
        explain(exact, checkpoint, target=1)
    assert stat.S_ISFIFO(checkpoint.stat().st_mode)


def test_no_permission_to_read_is_said(checkpoint, monkeypatch):
    explain(exact, checkpoint, target=1)
    opened = os.open

    def denied(name, flags, *rest, **more):
        if os.fspath(name) == str(checkpoint):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return opened(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(CheckpointError, match=r"run\.safetensors cannot be read: Permission den"):
        explain(exact, checkpoint, target=1)


def test_a_private_checkpoint_stays_private(checkpoint):
    checkpoint.touch()
    checkpoint.unlink()
    explain(exact, checkpoint, target=1)
    checkpoint.chmod(0o600)
    explain(exact, checkpoint, target=1)
    assert stat.S_IMODE(checkpoint.stat().st_mode) == 0o600


# ---- when it is saved ----------------------------------------------------------------------


def test_it_is_saved_every_second(checkpoint, monkeypatch):
    """And less often only where saving takes more than a tenth of the time."""
    now, saves, cost = [0.0], [], [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    write = checkpoints.write_tensors

    def slow(*arguments):
        saves.append(now[0])
        now[0] += cost[0]
        write(*arguments)

    monkeypatch.setattr(checkpoints, "write_tensors", slow)

    def model(batch):
        now[0] += 0.25 if len(batch) > 1 else 0.0
        return exact(batch)

    explain(model, checkpoint, target=1, n_samples=128)
    assert saves == [0.75, 1.5, 2.25, 3.0, 3.75, 4.0]  # one call more would be a second
    checkpoint.unlink()
    now[0], cost[0] = 0.0, 0.2
    saves.clear()
    explain(model, checkpoint, target=1, n_samples=128)
    assert saves == [0.75, pytest.approx(2.7), pytest.approx(4.4)]


def test_no_signal_breaks_a_save_off(checkpoint, monkeypatch, ctrl_c):
    """Ctrl-C pressed again and again: in the model, while its scores enter, while it is saved."""
    fsync = os.fsync

    def impatient(descriptor):
        signal.raise_signal(signal.SIGINT)
        fsync(descriptor)

    def before(recorder, _):
        if len(recorder.asked) == 4:
            monkeypatch.setattr(os, "fsync", impatient)
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        explain(Recorder(before=before), checkpoint, target=1)
    monkeypatch.setattr(os, "fsync", fsync)
    assert signal.getsignal(signal.SIGINT) is handler
    assert os.listdir(checkpoint.parent) == [checkpoint.name]
    rest = Recorder()
    result = explain(rest, checkpoint, target=1)
    assert rest.calls == 64 - 2 * 8 + 4
    assert_same_bits(result, explain(exact, None, target=1))


def test_an_interrupt_while_scores_enter_waits(checkpoint, ctrl_c):
    """It is handed on before the next call of the model."""

    class Scores(torch.Tensor):
        """Interrupts when it is put into the state."""

        @classmethod
        def __torch_function__(cls, function, types, arguments=(), more=None):
            if function is torch.stack:
                signal.raise_signal(signal.SIGINT)
            return super().__torch_function__(function, types, arguments, more or {})

    calls = []

    def model(batch):
        calls.append(len(batch))
        return exact(batch).as_subclass(Scores) if len(calls) == 3 else exact(batch)

    with pytest.raises(KeyboardInterrupt):
        explain(model, checkpoint, target=1)
    assert calls == [1, 8, 8]
    rest = Recorder()
    assert_same_bits(explain(rest, checkpoint, target=1), explain(exact, None, target=1))
    assert rest.calls == 64 - 2 * 8 + 4  # what was entering is kept


def test_a_run_in_another_thread(checkpoint):
    found = []
    thread = threading.Thread(target=lambda: found.append(explain(exact, checkpoint, target=1)))
    thread.start()
    thread.join()
    assert_same_bits(found[0], explain(exact, None, target=1))
