"""The loop: micro-batches, memory budget, progress, when to save.

What a run keeps is its state: a few tensors, whatever the number of copies. From forward calls
it is the scores, one number per call: the kernels make any copy's noise again from its number, so
the map is summed from the scores at the end, and a checkpoint is small. From gradients it is
their running moments. Copies enter the state in ascending order, so a resumed run has the same
bits.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fwdgrad.checkpoint import Checkpoint, State
from fwdgrad.errors import ModelError
from fwdgrad.interrupts import Interrupts
from fwdgrad.outputs import told

Progress = bool | Callable[[int, int], None]
Results = list[list[Tensor]]  # of each sign of the noise, for each target: a row for each copy

DEFAULT_BATCH = {"cpu": 256, "cuda": 64}  # copies at most, where nothing is asked for ...
DEFAULT_BYTES = {"cpu": 2**22, "cuda": 2**30}  # ... and bytes of copies; see CONTRIBUTING
LARGEST_BATCH = 1024  # what a memory budget may grow a micro-batch to
LOOK_EVERY_SECONDS = 1.0  # at results on a device that a look waits for

_NO_ROOM = object()

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)}
_UNITS |= {f"{p}iB": 1024**i for i, p in enumerate("KMGT", 1)}


def parse_memory(memory: int | str) -> int:
    """Bytes from a number or a text with a unit.

    Example:
        >>> parse_memory("1.5GiB")
        1610612736
        >>> parse_memory("lots")
        Traceback (most recent call last):
        ValueError: memory must be bytes or a text such as '1GiB' or '500MB', got 'lots'
    """
    value: float
    if isinstance(memory, str):
        text = memory.strip().replace(" ", "")
        number = text.rstrip("BKMGTi")
        try:
            value = float(number) * _UNITS[text[len(number) :]]
        except (ValueError, KeyError):
            raise ValueError(
                f"memory must be bytes or a text such as '1GiB' or '500MB', got {memory!r}"
            ) from None
    elif isinstance(memory, int) and not isinstance(memory, bool):
        value = memory
    else:
        raise TypeError(f"memory must be bytes or a text such as '1GiB', got {memory!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"memory must be positive, got {memory!r}")
    return int(value)


# ---- memory --------------------------------------------------------------------------------


class _Meter:
    """The most memory in use since it was made, above what was in use then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.base = torch.cuda.memory_allocated(device)
            return
        # Sets the kernel's high-water mark of this process to what it uses now.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self.base = process_memory("VmRSS")

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.base
        return process_memory("VmHWM") - self.base


def process_memory(field: str) -> int:
    """A size of this process in bytes; 0 where the system does not tell.

    >>> process_memory("none")
    0
    """
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = told(error, most=10_000).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


class BatchSize:
    """How many copies a forward call takes.

    A given size is kept. A memory budget starts with one copy and doubles while the peak that
    was measured, the model's own use included, says that twice as many would fit. Running out of
    memory halves either. The result does not depend on any of it.
    """

    def __init__(
        self,
        batch_size: int | None,
        memory: int | None,
        copy_bytes: int,
        fixed_bytes: int,
        sums_bytes: int,
        device: torch.device,
    ) -> None:
        """Beside ``fixed_bytes`` there are first copies, then the sums that follow them."""
        self.is_given = batch_size is not None
        self.growing = batch_size is None and memory is not None
        self.budget = 0
        if batch_size is not None:
            self.size = batch_size
        elif memory is not None:
            self.budget = memory - fixed_bytes
            least = fixed_bytes + max(copy_bytes, sums_bytes)
            if memory < least:
                raise ValueError(
                    f"memory must hold the input and its sums: at least {least} bytes, got {memory}"
                )
            self.size = 1
            self._copy_bytes = copy_bytes
            self._meter = _Meter(device)
        else:
            kind = "cpu" if device.type == "cpu" else "cuda"
            self.size = max(2, min(DEFAULT_BATCH[kind], DEFAULT_BYTES[kind] // copy_bytes))

    def after(self, taken: int) -> None:
        """Grows after a micro-batch that took ``taken`` copies at once."""
        if not self.growing or taken < self.size:
            return
        # What nobody can measure counts as nothing; the copies themselves always count.
        each = max(self._meter.peak() / taken, self._copy_bytes)
        fits = int(0.9 * self.budget / each)
        self.size = min(max(min(2 * self.size, fits), self.size), LARGEST_BATCH)
        self.growing = fits > self.size and self.size < LARGEST_BATCH

    def resume(self, size: int) -> None:
        """Takes over the size of the run that goes on, where nothing else is asked for."""
        if not (self.is_given or self.budget):
            self.size = size

    def halve(self, error: BaseException) -> None:
        """After the model ran out of memory."""
        if self.size == 1:
            raise ModelError(
                "the model runs out of memory on a single copy; use a smaller input or model"
            ) from error
        self.size //= 2
        self.growing = False


# ---- the loop ------------------------------------------------------------------------------


def _free_cached(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_waited_for(device: torch.device) -> bool:
    """Whether reading a number there waits until all that was asked of the device is done.

    >>> is_waited_for(torch.device("cpu")), is_waited_for(torch.device("cuda"))
    (False, True)
    """
    return device.type != "cpu"


def run(
    step: Callable[[int, int, int], Results],
    record: Callable[[Results, int, int], None],
    enter: Callable[[Results, int, int], None] | None,
    look: Callable[[int, int, int], None],
    release: Callable[[], None],
    state: State,
    *,
    copies: int,
    signs: int,
    together: int,
    batch: BatchSize,
    checkpoint: Checkpoint | None,
    again: Callable[[int, int], None],
    progress: Progress,
    device: torch.device,
    waits: bool,
) -> None:
    """Calls the model for every copy, micro-batch after micro-batch.

    Args:
        step: ``step(first, count, batch)`` calls the model for copies first onwards, at most
            ``batch`` at once, and returns their results.
        record: ``record(results, first, count)`` keeps the numbers by which they are judged.
        enter: enters results into the state; None where the recorded numbers are the state.
        look: ``look(first, stop, kept)`` raises where numbers of these copies are not finite; the
            results of the first ``kept`` copies outlive that. On a device that has to be waited
            for, not every micro-batch is looked at, but all of them before they are saved, and
            what was recorded every second.
        release: frees the buffer of copies.
        state: what is kept of the copies, by name; filled in place.
        copies: how many copies there are.
        signs: forward calls per copy: 2 for antithetic pairs.
        together: copies whose number has the same quotient by this may share a call.
        batch: how many copies a forward call takes.
        checkpoint: where to go on from and to write to.
        again: ``again(done, batch)`` asks for some of the ``done`` copies of a checkpoint once
            more, at most ``batch`` at once, and raises where the scores are others.
        progress: True for a bar on standard error, or a callable of (calls done, all).
        device: where the model's input is.
        waits: whether ``look`` waits for a device.

    Raises:
        ModelError: a result is not finite; what came before is in the checkpoint.
    """
    done, resumed = checkpoint.load(state, copies) if checkpoint else (0, None)
    if resumed is not None:
        batch.resume(resumed)
    looked, next_look = done, 0.0  # at copies 0 .. looked - 1; when to look again

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
                _free_cached(device)
            return result

        while done and attempt(lambda: again(done, batch.size)) is _NO_ROOM:
            pass
        bar = None
        if progress is True:  # else none at all: it has a lock for all threads
            bar = tqdm(
                total=copies * signs,
                initial=done * signs,
                unit="call",
                mininterval=0.1 if sys.stderr.isatty() else 5.0,
            )
        entering = False
        try:
            while done < copies:
                first = done
                count = min(max(1, batch.size // signs), copies - done, together - done % together)
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
                    progress(done * signs, copies * signs)
                    interrupts.open = False
            look_until(done)
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


def check_finite(
    rows: Tensor, first: int, what: str, kept: str, hint: Callable[[], str] = str
) -> None:
    """Raises where results of copies first onwards, each with a row per copy, are not finite.

    Args:
        rows: (copies, ...); one number is read of them: their sum tells, where they are.
        first: the number of the first copy.
        what: a word for what they are.
        kept: what is left of the copies before.
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
        f"the {what} is {value} for {len(bad)} of {len(rows)} copies (copies {numbers})"
        f"{hint()}{kept}. Copies are reproducible: fwdgrad_kernels.perturb makes them again"
    )


def kept(first: int, checkpoint: Checkpoint | None) -> str:
    """The end of a message: what is left of the copies before the one that failed.

    >>> kept(3, None)
    '; the results of copies 0 .. 2 are lost: give checkpoint= to keep them'
    >>> kept(0, None)
    '; there are no earlier results to keep'
    """
    if not first:
        return "; there are no earlier results to keep"
    if checkpoint is None:
        return f"; the results of copies 0 .. {first - 1} are lost: give checkpoint= to keep them"
    return (
        f"; the results of copies 0 .. {first - 1} are kept in {checkpoint.path}, and the same "
        "call goes on from there"
    )
