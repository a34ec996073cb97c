"""The loop of a run whose micro-batches several workers take at once: an endpoint's threads, say.

Scores are kept by their samples' numbers, whenever they come, so the map has the same bits as with
one micro-batch at a time. What is not there is NaN, in memory and in a checkpoint, and a run that
goes on asks for that alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait

from torch import Tensor

from fwdgrad.estimate.missing import is_missing
from fwdgrad.interrupts import Interrupts
from fwdgrad.runner.checkpoint import Checkpoint
from fwdgrad.runner.looks import Goal
from fwdgrad.runner.loop import Progress, progress_bar, wanted_next
from fwdgrad.runner.work import Found

GRACE_SECONDS = 1.0  # that Ctrl-C leaves to what is in flight


def loop_in_flight(
    submit: Callable[[int, int], Future[Found]],
    record: Callable[[Future[Found], int, int], None],
    look: Callable[[int, int, int], None],
    scores: Tensor,
    *,
    goal: Goal,
    signs: int,
    batch: int,
    in_flight: int,
    checkpoint: Checkpoint | None,
    again: Callable[[int, int], None],
    progress: Progress,
) -> None:
    """Has the model called for every sample, several micro-batches at once.

    Args:
        submit: ``submit(first, count)`` has a worker find the scores of samples first onwards.
        record: ``record(future, first, count)`` keeps them.
        look, again: see ``fwdgrad.runner.loop.loop``.
        scores: (samples, signs, targets), NaN where there is none yet.
        goal: how many of them are called for: no more is handed out before, where it may end.
        signs: forward calls per sample: 2 for antithetic pairs.
        batch: how many samples a forward call takes.
        in_flight: how many micro-batches are.
        checkpoint: where to go on from and to write to.
        progress: True for a bar on standard error, or a callable of (calls done, all).

    Raises:
        ModelError: a micro-batch failed for good; what the others gave is in the checkpoint.
    """
    state, samples = {"scores": scores}, len(scores)
    reach = checkpoint.load(state, samples, gaps=True)[0] if checkpoint else 0
    done = samples - int(is_missing(scores).sum())
    count = max(1, batch // signs)
    with Interrupts() as interrupts:
        if done:
            interrupts.let_through()
            again(reach, batch)
            interrupts.open = False
        bar = progress_bar(samples * signs, done * signs) if progress is True else None
        pending: dict[Future[Found], tuple[int, int]] = {}

        def take(future: Future[Found]) -> int:
            """Keeps what a finished micro-batch gave; how many samples it had."""
            nonlocal reach
            first, size = pending.pop(future)
            record(future, first, size)
            reach = max(reach, first + size)
            look(first, first + size, 0)
            return size

        try:
            wanted = asked = 0
            todo: Iterator[tuple[int, int]] = iter(())
            while True:
                for first, size in itertools.islice(todo, in_flight - len(pending)):
                    pending[submit(first, size)] = first, size
                if min((first for first, _ in pending.values()), default=asked) >= wanted:
                    known, wanted = wanted, wanted_next(goal, wanted, interrupts, bar)
                    if wanted == known:
                        break
                    if wanted > asked:
                        before, asked = asked, wanted if goal.may_end else samples
                        todo = _ranges(scores[:asked], before, count)
                    continue
                interrupts.let_through()
                finished = wait(pending, return_when=FIRST_COMPLETED).done
                interrupts.open = False
                for future in sorted(finished, key=pending.__getitem__):
                    size = take(future)
                    done += size
                    if bar is not None:
                        bar.update(size * signs)
                if checkpoint and checkpoint.is_due():
                    checkpoint.save(state, reach, batch)
                if callable(progress):
                    interrupts.let_through()
                    progress(done * signs, samples * signs)
                    interrupts.open = False
        except BaseException as error:  # nothing that was asked for is lost
            ended = isinstance(error, KeyboardInterrupt)
            _keep_others(pending, take, interrupts, GRACE_SECONDS if ended else None)
            if checkpoint and reach:
                checkpoint.save(state, reach, batch)
            raise
        finally:
            if bar is not None:
                bar.close()
        if checkpoint:
            checkpoint.save(state, max(reach, wanted), batch)


def _keep_others(
    pending: dict[Future[Found], tuple[int, int]],
    take: Callable[[Future[Found]], int],
    interrupts: Interrupts,
    seconds: float | None,
) -> None:
    """Waits so long for what is in flight, and keeps it; Ctrl-C ends the waiting."""
    for future in [future for future in pending if future.cancel()]:
        del pending[future]
    try:
        interrupts.let_through()
        wait(pending, seconds)
    except KeyboardInterrupt:
        pass
    finally:
        interrupts.open = False
    for future in [future for future in pending if future.done()]:
        try:
            take(future)
        except Exception:
            continue


def _ranges(scores: Tensor, start: int, count: int) -> Iterator[tuple[int, int]]:
    """Consecutive samples without a score, at most so many at once: first and how many.

    Those before ``start`` have been asked for.
    """
    first = -1
    for sample, missing in enumerate(is_missing(scores[start:]).tolist(), start):
        if first >= 0 and (not missing or sample - first == count):
            yield first, sample - first
            first = -1
        if missing and first < 0:
            first = sample
    if first >= 0:
        yield first, len(scores) - first
