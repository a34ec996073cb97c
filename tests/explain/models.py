"""Models whose answer for a copy cannot depend on the batch that it is in, and what compares runs.

A matrix product or a sum may be ordered differently for another number of rows. Here every
operation is one product or sum of two numbers, rounded on its own.
"""

import contextlib
import math
import signal

import torch

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


class Recorder:
    """A model that counts the rows it is asked for, and can fail before it answers.

    Args:
        model: what answers.
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
        """Forward calls on noisy copies: the first row is the clean input."""
        return sum(self.answered) - 1


def raise_at(call, error):
    """For ``Recorder``: raises in the given call of the model; call 0 is the clean input's."""

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
