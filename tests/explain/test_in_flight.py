"""Models that take several micro-batches at once, and samples that never get a score."""

import threading
import time

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError, Regions

from .models import assert_same_bits

X = torch.linspace(-1, 1, 20)
W = torch.sin(torch.arange(20.0))


class Endpoint:
    """A linear model behind a network: late, in threads, and not always there."""

    def __init__(self, concurrency=4, fails=(), max_missing=0.5, late=0.0, batch_size=8):
        self.concurrency, self.max_missing, self.batch_size = concurrency, max_missing, batch_size
        self.fails, self.late = set(fails), late
        self.calls, self.at_once, self.most, self.announced = [], 0, 0, []
        self.lock = threading.Lock()

    def announce(self, n_samples, batch_size):
        self.announced.append((n_samples, batch_size))

    def score(self, batch):
        return batch @ W

    def __call__(self, batch):
        with self.lock:
            number = len(self.calls)
            self.calls.append(len(batch))
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        time.sleep(self.late * (1 + number % 3))  # they come back in another order
        scores = self.score(batch)
        with self.lock:
            self.at_once -= 1
        if number in self.fails:
            return torch.full_like(scores, torch.nan)
        return scores


class Curved(Endpoint):
    def score(self, batch):
        return torch.tanh(batch @ W / 4) + 0.1 * (batch @ W.flip(0)) ** 2


RUN = {"n_samples": 256, "objective": "output"}


@pytest.mark.parametrize(
    "method", [Regions(0.0), ForwardGradient(scale=0.5), ForwardGradient(0.5, antithetic=False)]
)
def test_the_same_bits_as_one_at_a_time(method):
    alone = fwdgrad.explain(Curved(1, max_missing=0), X, None, method=method, batch_size=8, **RUN)
    model = Curved(4, late=0.002)
    found = fwdgrad.explain(model, X, None, method=method, **RUN)
    assert_same_bits(found, alone)
    assert 1 < model.most <= 4
    assert model.announced == [(256, 8)]
    assert "missing_samples" not in found.provenance


@pytest.mark.parametrize("design", ["hadamard", "pairs", "independent"])
def test_a_linear_score_without_some_samples(design):
    """A whole group is fitted exactly; of independent samples the mean is over what is there."""
    methods = {
        "hadamard": Regions(0.0),
        "pairs": ForwardGradient(0.5, design="hadamard"),
        "independent": ForwardGradient(0.5),
    }
    run = {**RUN, "n_samples": 2048} if design == "independent" else RUN
    model = Endpoint(1, fails=[3, 12, 21])  # not two in a group of pairs
    with pytest.warns(UserWarning, match=r"of \d+ samples have no score"):
        e = fwdgrad.explain(model, X, None, method=methods[design], **run)
    want = W * X if design == "hadamard" else W
    assert e.provenance["missing_samples"] > 0
    if design == "independent":
        off = (e.attribution - want).abs() / e.standard_error
        assert off.max() < 4  # standard errors, of 20
    else:
        torch.testing.assert_close(e.attribution, want, rtol=1e-4, atol=1e-4)


def test_what_is_missing_biases_nothing():
    """Without a tenth of the samples the map is no smaller, and nearly the same."""
    whole = fwdgrad.explain(Curved(1, max_missing=0), X, None, method=Regions(0.0), **RUN)
    model = Curved(1, fails=[5, 9, 20])
    with pytest.warns(UserWarning, match="24 of 256 samples"):
        e = fwdgrad.explain(model, X, None, method=Regions(0.0), **RUN)
    apart = (e.attribution - whole.attribution).norm() / whole.attribution.norm()
    assert apart < 0.2
    filled_with_zeros = 24 / 256
    slope = float(e.attribution @ whole.attribution / whole.attribution.square().sum())
    assert abs(1 - slope) < filled_with_zeros / 2


def test_too_many_missing(tmp_path):
    path = tmp_path / "run.safetensors"
    model = Endpoint(1, fails=range(5, 100), max_missing=0.1)
    with pytest.raises(ModelError, match=r"samples have no score, more than max_missing=0\.1"):
        fwdgrad.explain(model, X, None, method=Regions(0.0), checkpoint=path, **RUN)
    again = Endpoint(1, max_missing=0.1)
    found = fwdgrad.explain(again, X, None, method=Regions(0.0), checkpoint=path, **RUN)
    # One at x, four to see that it is the same model; the 32 that were scored are not asked again.
    assert sum(again.calls) == 1 + 4 + 256 - 32
    alone = fwdgrad.explain(Endpoint(1), X, None, method=Regions(0.0), **RUN)
    assert_same_bits(found, alone)


@pytest.mark.parametrize("kind", [ModelError, KeyboardInterrupt])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, kind):
    path = tmp_path / "run.safetensors"

    class Broken(Curved):
        def score(self, batch):
            if len(self.calls) > 12 and kind is ModelError:
                raise RuntimeError("the service is away")
            return super().score(batch)

    def stop(done, total):
        if done >= 96:
            raise KeyboardInterrupt

    run = {**RUN, "method": Regions(0.0), "checkpoint": path}
    progress = stop if kind is KeyboardInterrupt else False
    with pytest.raises(kind):
        fwdgrad.explain(Broken(4, late=0.001), X, None, progress=progress, **run)
    model = Curved(4, late=0.001)
    found = fwdgrad.explain(model, X, None, **run)
    assert sum(model.calls) < 256 - 32
    alone = fwdgrad.explain(Curved(1, max_missing=0), X, None, method=Regions(0.0), **RUN)
    torch.testing.assert_close(found.attribution, alone.attribution, rtol=0, atol=0)


def test_gaps_of_a_checkpoint_are_filled_by_a_model_that_answers_one_at_a_time(tmp_path):
    path = tmp_path / "run.safetensors"
    run = {**RUN, "method": Regions(0.0)}
    with pytest.warns(UserWarning, match="have no score"):
        fwdgrad.explain(Endpoint(fails=[4]), X, None, checkpoint=path, **run)
    model = Endpoint(1, max_missing=0)
    found = fwdgrad.explain(model, X, None, checkpoint=path, **run)
    assert sum(model.calls) < 64  # at the input, the gap, and some that are asked for again
    assert "missing_samples" not in found.provenance
    alone = fwdgrad.explain(Endpoint(1, max_missing=0), X, None, **run)
    assert torch.equal(found.attribution, alone.attribution)


def test_without_max_missing_a_sample_without_a_score_is_an_error():
    with pytest.raises(ModelError, match="the score is nan"):
        fwdgrad.explain(Endpoint(fails=[3], max_missing=0), X, None, method=Regions(0.0), **RUN)


def test_progress_is_told_as_they_come():
    seen = []
    run = {"method": Regions(0.0), "progress": lambda done, total: seen.append((done, total))}
    fwdgrad.explain(Endpoint(late=0.001), X, None, **run, **RUN)
    assert seen[-1] == (256, 256)
    assert seen == sorted(seen)
