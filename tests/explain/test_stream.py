"""A run gives the same bits in whatever pieces it is done, and loses nothing on the way."""

import errno
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fwdgrad
from fwdgrad import CheckpointError, ModelError, stream
from fwdgrad import checkpoint as checkpoints
from fwdgrad.files import read_tensors, write_tensors
from fwdgrad.stream import parse_memory

from . import worker
from .models import SHAPE, Recorder, X, assert_same_bits, bits, exact, raise_at

AGAIN = 4  # copies that a resumed run asks for once more, to see that the model is the same

OPTIONS = {"target": 1, "queries": 60, "sigma": 0.3, "seed": 5}


def explain(model=exact, x=X, **options):
    return fwdgrad.explain(model, x, **{**OPTIONS, **options})


@pytest.fixture
def checkpoint(tmp_path):
    return tmp_path / "run.safetensors"


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SAVE_SHARE", math.inf)


def stopped_after(calls, path, model=exact, **options):
    """A checkpoint of a run that Ctrl-C ended after so many forward calls; the finished run."""
    with pytest.raises(KeyboardInterrupt):
        explain(
            Recorder(model, raise_at(calls + 1, KeyboardInterrupt())), checkpoint=path, **options
        )
    return explain(model, **options)


# ---- the same bits -------------------------------------------------------------------------


def view_of_input(batch):
    """A model may answer with a piece of the very memory that the copies are in."""
    return batch.flatten(1)


_answer = torch.empty(4096, 3, dtype=torch.float64)


def reused_output(batch):
    """As a runtime does that writes every answer into one buffer."""
    return _answer[: len(batch)].copy_(exact(batch))


def overwrites_input(batch):
    result = exact(batch)
    batch.fill_(torch.nan)
    return result


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(
    ("model", "options"),
    [
        (exact, {"block": (2, 3)}),
        (exact, {"x": X.bfloat16()}),
        (exact, {"law": "hadamard", "cell": 2, "field": "bilinear", "shared": True}),
        (exact, {"baseline": 0.25, "cell": 3, "clip": (-1.0, 0.5)}),
        (view_of_input, {"x": X.double()}),
        (reused_output, {}),
        (overwrites_input, {}),
    ],
    ids=["blocks", "bfloat16", "hadamard", "baseline", "view", "reused output", "overwrites"],
)
def test_same_bits_for_every_batch_size(model, options, antithetic):
    options = {"queries": 134, "antithetic": antithetic, **options}
    whole = explain(model, batch_size=134, **options)
    assert whole.attribution.abs().max() > 0
    for batch_size in (1, 7, 64, None):
        asked = Recorder(model)
        assert_same_bits(explain(asked, batch_size=batch_size, **options), whole)
        assert asked.calls == 134
        assert max(asked.asked) <= (batch_size or stream.DEFAULT_BATCH["cpu"])


def test_same_bits_on_one_thread_and_on_two():
    x = torch.linspace(0, 1, 3 * 96 * 96).view(3, 96, 96)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(
                explain(worker.points, x, method="likelihood-ratio", block=40, queries=200)
            )
            assert results[-1].provenance["threads"] == count
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(*results)


# ---- interrupted and resumed ---------------------------------------------------------------


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("calls", [1, 3, 7])
def test_resume_after_ctrl_c(checkpoint, calls, antithetic):
    options = {"batch_size": 8, "antithetic": antithetic}
    whole = stopped_after(calls, checkpoint, **options)
    rest = Recorder()
    assert_same_bits(explain(rest, checkpoint=checkpoint, **options), whole)
    assert rest.calls == 60 - 8 * calls + AGAIN


def test_ctrl_c_before_the_first_score_leaves_no_file(checkpoint):
    stopped_after(0, checkpoint)
    assert list(checkpoint.parent.iterdir()) == []


def test_interrupted_again_and_again(checkpoint):
    calls = 0
    for _ in range(20):
        model = Recorder(before=raise_at(3, KeyboardInterrupt()))
        try:
            result = explain(model, checkpoint=checkpoint, batch_size=10)
        except KeyboardInterrupt:
            calls += model.calls - AGAIN * (calls > 0)
            continue
        assert_same_bits(result, explain())
        assert calls + model.calls - AGAIN == 60
        return
    pytest.fail("the run does not come forward")


def test_complete_checkpoint_asks_for_a_few_copies_alone(checkpoint):
    whole = explain(checkpoint=checkpoint)
    again = Recorder()
    assert_same_bits(explain(again, checkpoint=checkpoint), whole)
    assert again.asked == [1, AGAIN]


def test_control_is_chosen_anew_on_the_same_scores(checkpoint):
    # The scores do not depend on the control variate, so a finished run serves them all.
    plain = explain(checkpoint=checkpoint, antithetic=False)
    for control in ("clean", "leave-one-out"):
        again = Recorder()
        result = explain(again, checkpoint=checkpoint, antithetic=False, control=control)
        assert again.calls == AGAIN
        assert_same_bits(result, explain(antithetic=False, control=control))
        assert not torch.equal(result.attribution, plain.attribution)


@pytest.mark.parametrize("smaller", [{"batch_size": 9}, {"memory": 11 * X.nbytes}])
def test_resume_keeps_to_the_batch_that_is_asked_for(checkpoint, smaller):
    # The reason for starting again may be that the old one was too large.
    whole = stopped_after(1, checkpoint, batch_size=16)
    rest = Recorder()
    assert_same_bits(explain(rest, checkpoint=checkpoint, **smaller), whole)
    assert rest.calls == 44 + AGAIN
    assert max(rest.asked) <= 9


def test_resume_with_a_budget_grows_again(checkpoint):
    # A run that was killed in its first seconds, or by a want of memory that is over.
    whole = stopped_after(1, checkpoint, batch_size=2)
    rest = Recorder()
    assert_same_bits(explain(rest, checkpoint=checkpoint, memory="1GiB"), whole)
    assert rest.calls == 58 + 1  # of a pair the first
    assert max(rest.asked) > 2


def test_checkpoint_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explain(checkpoint="run.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "run.safetensors").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "save_every"),
    [(signal.SIGKILL, 0), (signal.SIGINT, 1e9)],  # Ctrl-C saves however long it is to the next
    ids=["SIGKILL", "SIGINT"],
)
def test_resume_after_a_signal(tmp_path, checkpoint, kill, save_every):
    log = tmp_path / "log"
    line, environment = worker.command("slow", log, checkpoint, save_every)
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until = time.monotonic() + 60
            while not log.exists() or log.stat().st_size < 40:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(kill)
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == -kill or "KeyboardInterrupt" in errors
    asked = log.stat().st_size
    assert 40 <= asked < 400
    rest = Recorder()
    result = fwdgrad.explain(rest, X, target=1, checkpoint=checkpoint, **worker.RUN)
    assert_same_bits(result, fwdgrad.explain(exact, X, target=1, **worker.RUN))
    # What the killed process asked for and had no time to save is at most its last two batches.
    assert 400 - asked + AGAIN <= rest.calls <= 400 - asked + AGAIN + 8


# ---- a checkpoint that is not this run's ---------------------------------------------------


def shifted(batch):
    return exact(batch) + 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 6}),
        ("sigma", {"sigma": 0.31}),
        ("sigma", {"sigma": 0.30001}),  # close is not equal
        ("sigma", {"sigma": torch.full(SHAPE, 0.3)}),
        ("queries", {"queries": 58}),
        ("input", {"x": X + 1e-6}),
        ("shape", {"x": X.reshape(4, 2, 6)}),
        ("dtype", {"x": X.double()}),
        ("target", {"target": 0}),
        ("objective", {"objective": "probability"}),
        ("output at the input", {"model": shifted}),
        ("law", {"law": "logistic"}),
        ("block", {"block": (3, 2)}),
        ("block", {"block": None}),
        ("cell", {"cell": 2}),
        ("shared", {"shared": True}),
        ("antithetic", {"antithetic": False}),
        ("clip", {"clip": (-1, 1)}),
        ("baseline", {"baseline": 0.5}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_checkpoint_of_another_run_is_refused(checkpoint, name, change):
    stopped_after(2, checkpoint, block=(2, 3), batch_size=16)
    before = checkpoint.read_bytes()
    model = Recorder(change.get("model", exact))
    with pytest.raises(CheckpointError) as caught:
        explain(checkpoint=checkpoint, **{"block": (2, 3), **change, "model": model})
    differing = re.findall(r"(?:run: |; )([\w ]+) was .*?, is ", str(caught.value))
    assert name in differing
    assert set(differing) <= {name, "input"}
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == before
    assert model.calls == 0


def test_a_tiny_sigma_is_told_from_another(checkpoint):
    explain(checkpoint=checkpoint, sigma=1e-7, x=X.double())
    with pytest.raises(CheckpointError, match="sigma was 1e-07, is 5e-07"):
        explain(checkpoint=checkpoint, sigma=5e-7, x=X.double())


def test_rounding_of_the_clean_score_is_no_difference(checkpoint):
    # Another machine or another thread count moves a network's score by that much.
    whole = stopped_after(2, checkpoint, target=0, batch_size=16)
    nearly = Recorder(lambda batch: exact(batch) * (1 + 1e-6))
    resumed = explain(nearly, checkpoint=checkpoint, target=0)
    assert torch.allclose(resumed.attribution, whole.attribution, rtol=1e-4, atol=1e-4)


def refuse_file(path, *mentions):
    before = path.read_bytes()
    model = Recorder()
    with pytest.raises(CheckpointError, match="damaged or no checkpoint") as caught:
        explain(model, checkpoint=path)
    assert all(text in str(caught.value) for text in (str(path), *mentions))
    assert path.read_bytes() == before
    assert model.calls == 0


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, 0.5, 0.9, -8, -1])
def test_checkpoint_cut_short_is_refused(checkpoint, length):
    explain(checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(length * len(content)) if 0 < abs(length) < 1 else length])
    refuse_file(checkpoint)


@pytest.mark.parametrize(
    "content",
    [b"\x00" * 64, b"\xff" * 64, b"not a checkpoint\n" * 99, b"\x02\0\0\0\0\0\0\0{}"],
    ids=["zeros", "ones", "text", "empty safetensors"],
)
def test_garbage_is_refused(checkpoint, content):
    checkpoint.write_bytes(content)
    refuse_file(checkpoint)


def test_other_safetensors_are_refused(checkpoint):
    explain().save(checkpoint)
    refuse_file(checkpoint)
    save_file({"scores": torch.zeros(60, 1, dtype=torch.float64)}, checkpoint)
    refuse_file(checkpoint)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be used: it is a folder, not a file; give"):
        explain(checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("done", 31),
        ("done", 99),
        ("done", -1),
        ("done", True),
        ("done", "x"),
        ("identity", []),
        ("batch", "x"),
        ("batch", 0),
        ("batch", None),
        ("scores", torch.full((30, 2, 1), math.nan, dtype=torch.float64)),  # which no run writes
        ("scores", torch.zeros(30, 2, 1)),
        ("scores", torch.zeros(30, 2, dtype=torch.float64)),
        ("nothing", torch.zeros(1)),
        ("output at the input", torch.zeros(7, dtype=torch.float64)),
        ("score at the input", torch.zeros(1)),
    ],
)
def test_a_content_that_does_not_fit_is_refused(checkpoint, field, value):
    """Even where the digest is right."""
    explain(checkpoint=checkpoint)
    header, tensors = read_tensors(checkpoint, "checkpoint")
    (tensors if isinstance(value, torch.Tensor) else header)[field] = value
    write_tensors(checkpoint, "checkpoint", header, tensors)
    refuse_file(checkpoint)


def test_changed_bytes_are_seen(checkpoint):
    """A bit of every eleventh byte: refused, or without a trace."""
    whole = stopped_after(2, checkpoint, batch_size=16)
    right, silent = checkpoint.read_bytes(), []
    for at in range(0, len(right), 11):
        changed = bytearray(right)
        changed[at] ^= 1 << at % 8
        checkpoint.write_bytes(changed)
        try:
            result = explain(checkpoint=checkpoint)
        except CheckpointError:
            continue
        if not torch.equal(bits(result.attribution), bits(whole.attribution)):
            silent.append(at)
    assert silent == []


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint.*nowhere.*does not exist"):
        explain(checkpoint=tmp_path / "nowhere" / "run.safetensors")


# ---- a checkpoint that cannot be written ---------------------------------------------------


@pytest.fixture(params=["fsync", "tmpfs"])
def full_disk(request, tmp_path, monkeypatch):
    """A folder, and what fills the disk it is on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "fsync":

        def fill():
            def fsync(_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fsync", fsync)

        yield folder, fill
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    try:
        mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs the right to mount a file system")
    try:

        def fill():
            with pytest.raises(OSError, match="No space left"):
                (folder / "rest").write_bytes(b"x" * 2**16)

        yield folder, fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_warns_once_and_keeps_the_last_checkpoint(full_disk, save_always):
    folder, fill = full_disk
    path = folder / "run.safetensors"
    saved = b""

    def before(recorder, _):
        nonlocal saved
        if len(recorder.asked) == 4:
            saved = path.read_bytes()
            fill()

    with pytest.warns(UserWarning, match=r"cannot be written.*No space left") as caught:
        result = explain(Recorder(before=before), checkpoint=path, batch_size=8)
    assert sum("cannot be written" in str(one.message) for one in caught) == 1
    assert_same_bits(result, explain())
    assert path.read_bytes() == saved
    assert {file.name for file in folder.iterdir()} <= {"run.safetensors", "rest"}
    rest = Recorder()
    with pytest.warns(UserWarning, match="cannot be written"):
        assert_same_bits(explain(rest, checkpoint=path, batch_size=8), result)
    assert rest.calls == 60 - 2 * 8 + AGAIN


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


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("kind", ["python", "torch", "allocator"])
def test_out_of_memory_halves_the_batch(kind, antithetic):
    model = Recorder(before=larger_than(5, kind))
    result = explain(model, batch_size=16, antithetic=antithetic)
    assert_same_bits(result, explain(antithetic=antithetic))
    assert model.asked[:4] == [1, 16, 8, 4]
    assert model.calls == 60  # no copy twice, none left out


def test_out_of_memory_later_goes_on_from_the_same_copy():
    model = Recorder(before=raise_at(3, MemoryError()))
    assert_same_bits(explain(model, batch_size=16), explain())
    assert model.asked == [1, 16, 16, 16, 8, 8, 8, 4]
    assert model.calls == 60


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "torch", "allocator"])
def test_out_of_memory_on_one_copy_is_an_error(checkpoint, kind):
    def before(recorder, _):
        if len(recorder.asked) > 3:
            no_room(kind)

    with pytest.raises(ModelError, match="out of memory on a single copy"):
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
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "1G", "1 gib", "1GiBB", "-1GiB", "0", "nan", "1e999", 0, -5]
)
def test_parse_memory_refuses(text):
    with pytest.raises(ValueError, match=r"memory must be .*" + re.escape(f"got {text!r}")):
        parse_memory(text)


@pytest.mark.parametrize("value", [1.5, None, True, b"1GiB"])
def test_parse_memory_refuses_types(value):
    with pytest.raises(TypeError, match=r"memory must be .*" + re.escape(f"got {value!r}")):
        parse_memory(value)


def test_budget_that_cannot_hold_the_input():
    with pytest.raises(ValueError, match=r"memory must hold .* at least \d+ bytes, got 400"):
        explain(memory=400)


@pytest.mark.slow
@pytest.mark.parametrize("own_copies", [1, 6])
def test_a_budget_is_used_and_kept(tmp_path, own_copies):
    memory = 160 * 2**20
    sizes, peak = worker.result_of("budget", memory, own_copies, tmp_path / "map.safetensors")
    each = 3 * 2**20 * (1 + own_copies)  # the copy, and what the model makes of it
    assert sum(sizes) == 192
    assert sizes[0] == 1
    assert sizes == sorted(sizes[:-1]) + sizes[-1:]  # grows; the last is what is left
    assert max(sizes) * each > 0.4 * memory  # what fits is made use of
    assert peak <= memory
    loaded = fwdgrad.Explanation.load(tmp_path / "map.safetensors")
    again = fwdgrad.explain(worker.points, loaded.input, target=1, batch_size=5, **loaded.settings)
    assert_same_bits(again, loaded)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_queries():
    few, many = (worker.result_of("peak_of_copies", queries) for queries in (256, 4096))
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
    """In that call, these rows of the answer are not finite."""
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
    ("antithetic", "rows", "copies"),
    [
        (False, [1, 3], [17, 19]),
        (True, [2, 7], [10, 11]),  # of 4 pairs the third's first sign and the last's second
        (False, list(range(8)), [16, 17, 18, 19, 20]),
    ],
)
def test_a_score_that_is_not_finite_stops_the_run(checkpoint, value, antithetic, rows, copies):
    options = {"batch_size": 8, "antithetic": antithetic}
    kept = copies[0] // (4 if antithetic else 8) * (4 if antithetic else 8)
    with pytest.raises(ModelError) as caught:
        explain(bad_from(3, rows, value), checkpoint=checkpoint, **options)
    message = str(caught.value)
    assert f"the score is {value} for" in message
    numbers = ", ".join(map(str, copies)) + (", ..." if len(rows) > 5 else "")
    assert f"(copies {numbers})" in message
    assert f"copies 0 .. {kept - 1} are kept in {checkpoint}" in message
    mended = Recorder()
    assert_same_bits(explain(mended, checkpoint=checkpoint, **options), explain(**options))
    assert mended.calls == 60 - 16 + AGAIN


def test_without_a_checkpoint_the_message_says_so():
    with pytest.raises(ModelError, match="give checkpoint="):
        explain(bad_from(2, [0], math.nan), batch_size=8)
    with pytest.raises(ModelError, match="there are no earlier results to keep"):
        explain(bad_from(1, [0], math.nan), batch_size=8)


def test_the_named_copy_is_the_one_that_perturb_makes():
    from fwdgrad_kernels import NoiseSpec, perturb

    seen = []

    def model(batch):
        seen.append(batch.clone())
        result = exact(batch)
        if len(seen) == 4:
            result[5] = torch.nan
        return result

    with pytest.raises(ModelError, match=r"\(copies 21\)"):
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
    fwdgrad.explain(
        worker.points, x, method="likelihood-ratio", target=0, queries=64, sigma=0.1,
        checkpoint=checkpoint,
    )  # fmt: skip
    assert Path(checkpoint).stat().st_size < 4096
