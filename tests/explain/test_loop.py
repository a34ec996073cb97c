"""A run gives the same bits in whatever pieces it is done, and loses nothing on the way."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ModelError
from fwdgrad.runner import memory
from fwdgrad_kernels import Grid

from . import worker
from .models import SHAPE, Recorder, X, assert_same_bits, exact, forward_gradient, raise_at
from .test_resume import AGAIN, explain, stopped_after


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "run.safetensors"


# ---- the same bits -------------------------------------------------------------------------


def view_of_input(batch):
    """A model may answer with a piece of the very memory that the samples are in."""
    return batch.flatten(1)


_answer = torch.empty(4096, 3, dtype=torch.float64)


def reused_output(batch):
    """As a runtime does that writes every answer into one buffer."""
    return _answer[: len(batch)].copy_(exact(batch))


def overwrites_input(batch):
    result = exact(batch)
    batch.fill_(torch.nan)
    return result


CELLS = Grid((3, 3), "nearest", jitter=True, share_channels=False)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (exact, {"block": (2, 3)}),
        (exact, {"x": X.bfloat16()}),
        (exact, {"design": "hadamard", "features": Grid((2, 2), jitter=True)}),
        (exact, {"baseline": 0.25, "features": CELLS, "clip": (-1.0, 0.5)}),
        (view_of_input, {"x": X.double()}),
        (reused_output, {}),
        (overwrites_input, {}),
    ],
    ids=["blocks", "bfloat16", "hadamard", "baseline", "view", "reused output", "overwrites"],
)
def test_same_bits_for_every_batch_size(model, options, antithetic):
    options = {"n_samples": 134, "antithetic": antithetic, **options}
    whole = explain(model, batch_size=134, **options)
    assert whole.attribution.abs().max() > 0
    for batch_size in (1, 7, 64, None):
        asked = Recorder(model)
        assert_same_bits(explain(asked, batch_size=batch_size, **options), whole)
        assert asked.calls == 134
        assert max(asked.asked) <= (batch_size or memory.DEFAULT_BATCH["cpu"])


def test_same_bits_on_one_thread_and_on_two():
    x = torch.linspace(0, 1, 3 * 96 * 96).view(3, 96, 96)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(explain(worker.points, x, block=40, n_samples=200))
            assert results[-1].provenance["threads"] == count
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(*results)


# ---- a model that runs out of memory -------------------------------------------------------


def no_room(kind):
    if kind == "torch":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    if kind == "allocator":
        torch.empty(2**50)  # more than any address space: the CPU allocator's own words
    raise MemoryError


def larger_than(limit, kind="python"):
    def before(_, batch):
        if len(batch) > limit:
            no_room(kind)

    return before


@pytest.mark.parametrize(
    ("kind", "antithetic"),
    [
        ("torch", True),
        *(
            pytest.param(kind, pairs, marks=pytest.mark.slow)
            for kind, pairs in [("python", False), ("allocator", True), ("allocator", False)]
        ),
    ],
)
def test_out_of_memory_halves_the_batch(kind, antithetic):
    model = Recorder(before=larger_than(5, kind))
    result = explain(model, batch_size=16, antithetic=antithetic)
    assert_same_bits(result, explain(antithetic=antithetic))
    assert model.asked[:4] == [1, 16, 8, 4]
    assert model.calls == 60  # no sample twice, none left out


def test_out_of_memory_later_goes_on_from_the_same_sample():
    model = Recorder(before=raise_at(3, MemoryError()))
    assert_same_bits(explain(model, batch_size=16), explain())
    assert model.asked == [1, 16, 16, 16, 8, 8, 8, 4]
    assert model.calls == 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "torch", "allocator"])
def test_out_of_memory_on_one_sample_is_an_error(checkpoint, kind):
    def before(recorder, _):
        if len(recorder.asked) > 3:
            no_room(kind)

    with pytest.raises(ModelError, match="out of memory on a single sample"):
        explain(Recorder(before=before), batch_size=8, checkpoint=checkpoint)
    rest = Recorder()
    assert_same_bits(explain(rest, batch_size=8, checkpoint=checkpoint), explain())
    assert rest.calls == 60 - 16 + AGAIN


def test_another_error_is_not_taken_for_want_of_memory(checkpoint):
    model = Recorder(before=raise_at(2, RuntimeError("shapes do not fit")))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        explain(model, batch_size=8, checkpoint=checkpoint)
    assert model.asked == [1, 8, 8]
    rest = Recorder()
    assert_same_bits(explain(rest, checkpoint=checkpoint), explain())
    assert rest.calls == 52 + AGAIN


# ---- the memory budget ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (10**9, 10**9),
        ("7", 7),
        ("7B", 7),
        ("500MB", 500_000_000),
        (" 1.5 GiB ", 3 * 2**29),
        ("2KiB", 2048),
        ("1TB", 10**12),
    ],
)
def test_parse_memory(text, size):
    assert memory.parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "1G", "1 gib", "1GiBB", "-1GiB", "0", "nan", "1e999", 0, -5]
)
def test_parse_memory_refuses(text):
    with pytest.raises(ValueError, match=r"memory must be .*" + re.escape(f"got {text!r}")):
        memory.parse_memory(text)


@pytest.mark.parametrize("value", [1.5, None, True, b"1GiB"])
def test_parse_memory_refuses_types(value):
    with pytest.raises(TypeError, match=r"memory must be .*" + re.escape(f"got {value!r}")):
        memory.parse_memory(value)


def test_budget_that_cannot_hold_the_input():
    with pytest.raises(ValueError, match=r"memory must hold .* at least \d+ bytes, got 400"):
        explain(memory=400)


@pytest.mark.slow
@pytest.mark.parametrize("own_samples", [1, 6])
def test_a_budget_is_used_and_kept(tmp_path, own_samples):
    budget = 160 * 2**20
    sizes, peak = worker.result_of("budget", budget, own_samples, tmp_path / "map.safetensors")
    each = 3 * 2**20 * (1 + own_samples)  # the sample, and what the model makes of it
    assert sum(sizes) == 192
    assert sizes[0] == 1
    assert sizes == sorted(sizes[:-1]) + sizes[-1:]  # grows; the last is what is left
    assert max(sizes) * each > 0.4 * budget  # what fits is made use of
    assert peak <= budget
    loaded = fwdgrad.Explanation.load(tmp_path / "map.safetensors")
    again = fwdgrad.explain(worker.points, loaded.input, batch_size=5, **loaded.settings)
    assert_same_bits(again, loaded)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples():
    few, many = (worker.result_of("peak_of_samples", count) for count in (256, 4096))
    assert many <= 1.05 * few


# ---- progress ------------------------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [True, False])
def test_progress_counts_to_the_end(checkpoint, antithetic):
    steps = []
    options = {"batch_size": 16, "antithetic": antithetic}
    explain(progress=lambda *step: steps.append(step), **options)
    assert steps == [(16, 60), (32, 60), (48, 60), (60, 60)]
    stopped_after(2, checkpoint, **options)
    steps.clear()
    explain(progress=lambda *step: steps.append(step), checkpoint=checkpoint, **options)
    assert steps == [(48, 60), (60, 60)]


def test_an_error_in_progress_keeps_the_scores(checkpoint):
    def progress(done, _):
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(progress=progress, checkpoint=checkpoint, batch_size=16)
    rest = Recorder()
    explain(rest, checkpoint=checkpoint)
    assert rest.calls == 28 + AGAIN


def test_bar_on_standard_error_where_asked_for(capsys):
    explain(progress=True)
    out, err = capsys.readouterr()
    last = err.strip().split("\r")[-1]
    assert "100%" in last
    assert re.search(r"60/60 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+k?call/s\]", last)
    explain()
    explain(progress=lambda *_: None)
    assert out == ""
    assert capsys.readouterr() == ("", "")


# ---- scores that are not finite ------------------------------------------------------------


def bad_from(call, rows, value):
    """In that call, these rows of the output are not finite."""
    seen = []

    def model(batch):
        result = exact(batch)
        seen.append(len(batch))
        if len(seen) - 1 == call:
            result[rows] = value
        return result

    return model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("antithetic", "rows", "samples"),
    [
        (False, [1, 3], [17, 19]),
        (True, [2, 7], [10, 11]),  # of 4 pairs the third's first sign and the last's second
        (False, list(range(8)), [16, 17, 18, 19, 20]),
    ],
)
def test_a_score_that_is_not_finite_stops_the_run(checkpoint, value, antithetic, rows, samples):
    options = {"batch_size": 8, "antithetic": antithetic}
    kept = samples[0] // (4 if antithetic else 8) * (4 if antithetic else 8)
    with pytest.raises(ModelError) as caught:
        explain(bad_from(3, rows, value), checkpoint=checkpoint, **options)
    message = str(caught.value)
    assert f"the score is {value} for" in message
    numbers = ", ".join(map(str, samples)) + (", ..." if len(rows) > 5 else "")
    assert f"(samples {numbers})" in message
    assert f"samples 0 .. {kept - 1} are kept in {checkpoint}" in message
    mended = Recorder()
    assert_same_bits(explain(mended, checkpoint=checkpoint, **options), explain(**options))
    assert mended.calls == 60 - 16 + AGAIN


def test_without_a_checkpoint_the_message_says_so():
    with pytest.raises(ModelError, match="give checkpoint="):
        explain(bad_from(2, [0], math.nan), batch_size=8)
    with pytest.raises(ModelError, match="there are no earlier results to keep"):
        explain(bad_from(1, [0], math.nan), batch_size=8)


def test_the_named_sample_is_the_one_that_perturb_makes():
    from fwdgrad_kernels import NoiseSpec, perturb

    seen = []

    def model(batch):
        seen.append(batch.clone())
        result = exact(batch)
        if len(seen) == 4:
            result[5] = torch.nan
        return result

    with pytest.raises(ModelError, match=r"\(samples 21\)"):
        explain(model, batch_size=8, antithetic=False, block=(2, 3))
    spec = NoiseSpec(SHAPE, scale=0.3, block=(2, 3), seed=5)
    assert torch.equal(perturb(X, spec, 21, 1)[0], seen[-1][5])


def test_progress_is_a_switch_or_a_callable():
    with pytest.raises(TypeError, match=r"progress must be .*got 3"):
        explain(progress=3)


def test_numpy_out_of_memory_is_one_too():
    def before(_, batch):
        if len(batch) > 4:
            np.empty(2**50)

    assert_same_bits(explain(Recorder(before=before), batch_size=8), explain())


def test_the_checkpoint_holds_scores_alone(checkpoint):
    # A run's file stays small whatever the input's size.
    x = torch.zeros(3, 256, 256)
    forward_gradient(worker.points, x, target=0, n_samples=64, scale=0.1, checkpoint=checkpoint)
    assert Path(checkpoint).stat().st_size < 4096
