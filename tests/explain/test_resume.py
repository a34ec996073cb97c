"""An interrupted run goes on from its own checkpoint alone, and to the same bits."""

import errno
import math
import os
import re
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import save_file

from fwdgrad import CheckpointError
from fwdgrad.files import read_tensors, write_tensors
from fwdgrad.runner import checkpoint as checkpoints
from fwdgrad_kernels import Grid

from . import worker
from .models import SHAPE, Recorder, X, assert_same_bits, bits, exact, forward_gradient, raise_at

AGAIN = 4  # samples that a resumed run evaluates once more, to see that the model is the same


def explain(model=exact, x=X, **options):
    run = {"target": 1, "n_samples": 60, "scale": 0.3, "seed": 5}
    return forward_gradient(model, x, **{**run, **options})


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


def test_a_complete_checkpoint_evaluates_a_few_samples_alone(checkpoint):
    whole = explain(checkpoint=checkpoint)
    again = Recorder()
    assert_same_bits(explain(again, checkpoint=checkpoint), whole)
    assert again.asked == [1, AGAIN]


def test_the_control_variate_is_chosen_anew_on_the_same_scores(checkpoint):
    # The scores do not depend on the control variate, so a finished run serves them all.
    plain = explain(checkpoint=checkpoint, antithetic=False)
    for control in ("clean", "leave-one-out"):
        again = Recorder()
        result = explain(again, checkpoint=checkpoint, antithetic=False, control_variate=control)
        assert again.calls == AGAIN
        assert_same_bits(result, explain(antithetic=False, control_variate=control))
        assert not torch.equal(result.attribution, plain.attribution)


@pytest.mark.parametrize("smaller", [{"batch_size": 9}, {"memory": 11 * X.nbytes}])
def test_resume_keeps_to_the_batch_that_is_given(checkpoint, smaller):
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
    result = forward_gradient(rest, X, target=1, checkpoint=checkpoint, **worker.RUN)
    assert_same_bits(result, forward_gradient(exact, X, target=1, **worker.RUN))
    # What the killed process evaluated and had no time to save is at most its last two batches.
    assert 400 - asked + AGAIN <= rest.calls <= 400 - asked + AGAIN + 8


# ---- a checkpoint that is not this run's ---------------------------------------------------


def shifted(batch):
    return exact(batch) + 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 6}),
        ("scale", {"scale": 0.31}),
        ("scale", {"scale": 0.30001}),  # close is not equal
        ("scale", {"scale": torch.full(SHAPE, 0.3)}),
        ("n_samples", {"n_samples": 58}),
        ("input", {"x": X + 1e-6}),
        ("shape", {"x": X.reshape(4, 2, 6)}),
        ("dtype", {"x": X.double()}),
        ("target", {"target": 0}),
        ("objective", {"objective": "probability"}),
        ("output at the input", {"model": shifted}),
        ("distribution", {"distribution": "logistic"}),
        ("block", {"block": (3, 2)}),
        ("block", {"block": None}),
        ("features", {"features": Grid((2, 2), "nearest")}),
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
    differing = re.findall(r"(?:run: |; )([\w .]+) was .*?, is ", str(caught.value))
    assert name in differing
    assert set(differing) <= {name, "input"}
    assert str(checkpoint) in str(caught.value)
    assert checkpoint.read_bytes() == before
    assert model.calls == 0


def test_a_tiny_scale_is_told_from_another(checkpoint):
    explain(checkpoint=checkpoint, scale=1e-7, x=X.double())
    with pytest.raises(CheckpointError, match="scale was 1e-07, is 5e-07"):
        explain(checkpoint=checkpoint, scale=5e-7, x=X.double())


def test_rounding_of_the_score_at_the_input_is_no_difference(checkpoint):
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
        ("scores", torch.full((30, 2, 1), math.inf, dtype=torch.float64)),  # which no run writes
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
