"""Models whose output for a sample cannot depend on its batch, and what compares runs.

A matrix product or a sum may be ordered differently for another number of rows. Here every
operation is one product or sum of two numbers, rounded on its own.
"""

import contextlib
import dataclasses
import math
import signal
import sys
from pathlib import Path

import pytest
import torch

import fwdgrad

SHAPE = (2, 4, 6)
X = torch.linspace(-1, 1, 48).reshape(SHAPE) ** 3

_WEIGHTS = [(-1) ** k * (k % 7 + 1) / 4 for k in range(48)]


def exact(batch):
    """(batch, 3): a linear, a cubic and a sign-changed class."""
    columns = batch.flatten(1).double()
    total = torch.zeros(len(batch), dtype=torch.float64)
    for k in range(min(48, columns.shape[1])):
        total = total + columns[:, k] * _WEIGHTS[k]
    return torch.stack([total, total * total * columns[:, 1], -total], 1)


_NOISE = {field.name for field in dataclasses.fields(fwdgrad.ForwardGradient)}


def forward_gradient(model, x, target="auto", *, objective="output", **options):
    """``fwdgrad.explain`` by a ``ForwardGradient`` of those options that are its fields."""
    method = fwdgrad.ForwardGradient(
        **{name: options.pop(name) for name in _NOISE & options.keys()}
    )
    return fwdgrad.explain(model, x, target, method=method, objective=objective, **options)


class Recorder:
    """A model that counts the samples it is called on, and can fail before it returns.

    Args:
        model: what is called.
        before: called with the recorder and the batch; may raise.
    """

    def __init__(self, model=exact, before=None):
        self.model, self.before = model, before
        self.asked, self.answered = [], []

    def __call__(self, batch):
        self.asked.append(len(batch))
        if self.before is not None:
            self.before(self, batch)
        self.answered.append(len(batch))
        return self.model(batch)

    @property
    def calls(self):
        """Forward calls on samples: the first row is the input itself."""
        return sum(self.answered) - 1


def raise_at(call, error):
    """For ``Recorder``: raises in the given call of the model; call 0 is on the input."""

    def before(recorder, _):
        if len(recorder.asked) - 1 == call:
            raise error

    return before


@contextlib.contextmanager
def handled(number, handler):
    """A signal is handled so in the block, whatever whoever started the tests had set for it.

    A shell starts background jobs with SIGINT ignored, nohup with SIGHUP, and Python leaves it so.
    """
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


def assert_same_bits(one, other):
    assert one.attribution.dtype == other.attribution.dtype
    assert torch.equal(bits(one.attribution), bits(other.attribution))
    assert torch.equal(bits(one.standard_error), bits(other.standard_error))
    assert one.reliability == other.reliability or (
        math.isnan(one.reliability) and math.isnan(other.reliability)
    )


@contextlib.contextmanager
def folder_of(path, monkeypatch, own, rows):
    """A current folder with own.py, rows in ages.csv, and two photos."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.py").write_text(own)
    Path("ages.csv").write_text(rows)
    for name in ("one", "two"):
        image.effect_noise((20, 20), 60).convert("RGB").save(f"{name}.png")
    yield
    sys.modules.pop("own", None)


def mostly_slow(cases, keep):
    """Cases of which the first so many stand for all where slow tests are left out."""
    return [
        pytest.param(*case, marks=[pytest.mark.slow] * (i >= keep))
        if isinstance(case, tuple)
        else pytest.param(case, marks=[pytest.mark.slow] * (i >= keep))
        for i, case in enumerate(cases)
    ]
