"""The loop: micro-batch after micro-batch, progress, and when to look and to save.

What a run keeps is its state: a few tensors, whatever the number of samples. From forward calls
it is the scores, one number a call: the kernels make any sample's noise again from its number, so
the map is summed from the scores at the end, and a checkpoint is small. From gradients it is
their running moments. Samples enter the state in ascending order, so a resumed run has the same
bits.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fwdgrad.errors import Message, ModelError
from fwdgrad.interrupts import Interrupts
from fwdgrad.outputs import is_out_of_memory
from fwdgrad.runner.checkpoint import Checkpoint, State
from fwdgrad.runner.looks import Goal
from fwdgrad.runner.memory import BatchSize, free_cached
from fwdgrad.runner.samples import Results

Progress = bool | Callable[[int, int], None]

LOOK_EVERY_SECONDS = 1.0  # at results on a device that a look waits for

_NO_ROOM = object()


def is_waited_for(device: torch.device) -> bool:
    """Whether reading a number there waits until all that was asked of the device is done.

    >>> is_waited_for(torch.device("cpu")), is_waited_for(torch.device("cuda"))
    (False, True)
    """
    return device.type != "cpu"


def loop(
    step: Callable[[int, int, int], Results],
    record: Callable[[Results, int, int], None],
    enter: Callable[[Results, int, int], None] | None,
    look: Callable[[int, int, int], None],
    release: Callable[[], None],
    state: State,
    *,
    samples: int,
    goal: Goal,
    signs: int,
    together: int,
    batch: BatchSize,
    checkpoint: Checkpoint | None,
    again: Callable[[int, int], None],
    progress: Progress,
    device: torch.device,
    waits: bool,
) -> None:
    """Calls the model for every sample, micro-batch after micro-batch.

    Args:
        step: ``step(first, count, batch)`` calls the model for samples first onwards, at most
            ``batch`` at once, and returns their results.
        record: ``record(results, first, count)`` keeps the numbers by which they are judged.
        enter: enters results into the state; None where the recorded numbers are the state.
        look: ``look(first, stop, kept)`` raises where numbers of these samples are not finite; the
            results of the first ``kept`` samples outlive that. On a device that has to be waited
            for, not every micro-batch is looked at, but all of them before they are saved, and
            what was recorded every second.
        release: frees the buffer of samples.
        state: what is kept of the samples, by name; filled in place.
        samples: how many samples there are at most.
        goal: how many are called for.
        signs: forward calls per sample: 2 for antithetic pairs.
        together: samples whose number has the same quotient by this may share a call.
        batch: how many samples a forward call takes.
        checkpoint: where to go on from and to write to.
        again: ``again(done, batch)`` asks for some of the ``done`` samples of a checkpoint once
            more, at most ``batch`` at once, and raises where the scores are others.
        progress: True for a bar on standard error, or a callable of (calls done, all).
        device: where the model's input is.
        waits: whether ``look`` waits for a device.

    Raises:
        ModelError: a result is not finite; what came before is in the checkpoint.
    """
    done, resumed = checkpoint.load(state, samples) if checkpoint else (0, None)
    if resumed is not None:
        batch.resume(resumed)
    looked, next_look = done, 0.0  # at samples 0 .. looked - 1; when to look again

    def look_until(stop: int) -> None:
        nonlocal looked, next_look
        if stop <= looked:
            return
        kept = looked
        if checkpoint and enter is not None and looked < done:  # what entered stays in the state
            kept = checkpoint.saved
        look(looked, stop, kept)
        looked, next_look = stop, time.monotonic() + LOOK_EVERY_SECONDS

    # Ctrl-C comes through in the model's calls and in `progress`: never between a result and its
    # place in the state, nor in a save, however often it is pressed.
    with Interrupts() as interrupts:

        def attempt(call: Callable[[], Any]) -> Any:
            """What it gives; ``_NO_ROOM`` where memory ran out, and less is to be asked for."""
            result = _NO_ROOM
            try:
                interrupts.let_through()
                result = call()
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                batch.halve(error)
            finally:
                interrupts.open = False
            if result is _NO_ROOM:  # out of the except block: its traceback holds tensors
                release()
                free_cached(device)
            return result

        while done and attempt(lambda: again(done, batch.size)) is _NO_ROOM:
            pass
        # Else none at all: it has a lock for all threads.
        bar = progress_bar(samples * signs, done * signs) if progress is True else None
        entering, wanted = False, 0
        try:
            while True:
                if done >= wanted:
                    look_until(done)
                    release()
                    known, wanted = wanted, wanted_next(goal, wanted, interrupts, bar)
                    if wanted == known:
                        break
                    continue
                first = done
                left = (wanted if goal.may_end else samples) - done
                count = min(max(1, batch.size // signs), left, together - done % together)
                results = attempt(lambda: step(first, count, batch.size))  # noqa: B023
                if results is _NO_ROOM:
                    continue
                record(results, first, count)
                if not waits:
                    look_until(first + count)
                if enter is not None:
                    entering = True
                    enter(results, first, count)
                    entering = False
                done += count
                del results
                before = batch.size
                batch.after(min(count * signs, batch.size))
                if batch.size != before:
                    release()
                if bar is not None:
                    bar.update(count * signs)
                if checkpoint and checkpoint.is_due():
                    look_until(done)
                    checkpoint.save(state, done, batch.size)
                elif waits and time.monotonic() >= next_look:
                    look_until(done)
                if callable(progress):
                    interrupts.let_through()
                    progress(done * signs, samples * signs)
                    interrupts.open = False
        except BaseException:  # nothing that was computed is lost, nor entered by halves
            interrupts.open = False
            if checkpoint and not entering:
                good = done
                try:
                    look_until(done)
                except Exception:
                    good = looked if enter is None else 0
                if good:
                    checkpoint.save(state, good, batch.size)
            raise
        finally:
            if bar is not None:
                bar.close()
            release()
        if checkpoint:
            checkpoint.save(state, done, batch.size)


def wanted_next(goal: Goal, done: int, interrupts: Interrupts, bar: Any) -> int:
    """``Goal.after``, through which Ctrl-C comes; what it says is shown beside a bar."""
    interrupts.let_through()
    wanted = goal.after(done)
    interrupts.open = False
    if bar is not None and goal.said:
        bar.set_postfix_str(goal.said)
    return wanted


def progress_bar(total: int, done: int) -> Any:
    """A bar on standard error of so many calls."""
    interval = 0.1 if sys.stderr.isatty() else 5.0
    return tqdm(total=total, initial=done, unit="call", mininterval=interval)


def check_finite(
    rows: Tensor, first: int, what: str, kept: str, hint: Callable[[], str] = str
) -> None:
    """Raises where results of samples first onwards, each with a row per sample, are not finite.

    Args:
        rows: (samples, ...); one number is read of them: their sum tells, where they are.
        first: the number of the first sample.
        what: a word for what they are.
        kept: what is left of the samples before.
        hint: what may help.
    """
    if math.isfinite(float(rows.sum())):
        return
    rows = rows.reshape(len(rows), -1).cpu()
    bad = (~torch.isfinite(rows)).any(1).nonzero()[:, 0].tolist()
    if not bad:  # only their sum is too large
        return
    numbers = ", ".join(str(first + i) for i in bad[:5]) + (", ..." if len(bad) > 5 else "")
    value = rows[bad[0]][~torch.isfinite(rows[bad[0]])][0].item()
    raise ModelError(
        Message(
            f"the {what} is {value} for {len(bad)} of {len(rows)} samples (samples {numbers})",
            hint(),
            kept,
            ". Samples are reproducible: fwdgrad_kernels.perturb makes them again",
        )
    )


def kept(first: int, checkpoint: Checkpoint | None) -> str:
    """The end of a message: what is left of the samples before the one that failed.

    >>> kept(3, None)
    '; the results of samples 0 .. 2 are lost: give checkpoint= to keep them'
    >>> kept(0, None)
    '; there are no earlier results to keep'
    """
    if not first:
        return "; there are no earlier results to keep"
    if checkpoint is None:
        return f"; the results of samples 0 .. {first - 1} are lost: give checkpoint= to keep them"
    return (
        f"; the results of samples 0 .. {first - 1} are kept in {checkpoint.path}, and the same "
        "run goes on from there"
    )


def others_kept(checkpoint: Checkpoint | None) -> str:
    """The end of a message: what is left of the others, where samples come in any order.

    >>> others_kept(None)
    '; what the other samples gave is lost: give checkpoint= to keep it'
    """
    if checkpoint is None:
        return "; what the other samples gave is lost: give checkpoint= to keep it"
    return (
        f"; what the other samples gave is kept in {checkpoint.path}, and the same run goes on "
        "from there"
    )
