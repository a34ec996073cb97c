"""The loop of a model that takes several micro-batches at once: an endpoint, say.

Scores are kept by their samples' numbers, whenever they come, so the map has the same bits as with
one micro-batch at a time. What is not there is NaN, in memory and in a checkpoint, and a run that
goes on asks for that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from torch import Tensor

from fwdgrad.estimate.missing import is_missing
from fwdgrad.interrupts import Interrupts
from fwdgrad.runner.checkpoint import Checkpoint
from fwdgrad.runner.loop import Progress, Results, progress_bar


def loop_in_flight(
    step: Callable[[int, int, int], Results],
    record: Callable[[Results, int, int], None],
    look: Callable[[int, int, int], None],
    scores: Tensor,
    *,
    signs: int,
    batch: int,
    workers: int,
    checkpoint: Checkpoint | None,
    again: Callable[[int, int], None],
    progress: Progress,
) -> None:
    """Calls the model for every sample, in several threads.

    Args:
        step, record, look, again: see ``fwdgrad.runner.loop.loop``; ``step`` is called in threads.
        scores: (samples, signs, targets), NaN where there is none yet.
        signs: forward calls per sample: 2 for antithetic pairs.
        batch: how many samples a forward call takes.
        workers: how many micro-batches are in flight.
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
        pool = ThreadPoolExecutor(workers, "fwdgrad")
        pending: dict[Future[Results], tuple[int, int]] = {}

        def take(future: Future[Results]) -> int:
            """Keeps what a finished micro-batch gave; how many samples it had."""
            nonlocal reach
            first, size = pending.pop(future)
            record(future.result(), first, size)
            reach = max(reach, first + size)
            look(first, first + size, 0)
            return size

        try:
            todo = _ranges(scores, count)
            while True:
                for first, size in todo:
                    pending[pool.submit(step, first, size, batch)] = first, size
                    if len(pending) == workers:
                        break
                if not pending:
                    break
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
        except BaseException:  # nothing that was asked for is lost
            _keep_others(pending, take, interrupts)
            if checkpoint and reach:
                checkpoint.save(state, reach, batch)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            if bar is not None:
                bar.close()
        if checkpoint:
            checkpoint.save(state, samples, batch)


def _keep_others(
    pending: dict[Future[Results], tuple[int, int]],
    take: Callable[[Future[Results]], int],
    interrupts: Interrupts,
) -> None:
    """Waits for what is in flight and keeps it; Ctrl-C ends the waiting."""
    for future in [future for future in pending if future.cancel()]:
        del pending[future]
    try:
        interrupts.let_through()
        wait(pending)
    except KeyboardInterrupt:
        pass
    finally:
        interrupts.open = False
    for future in [future for future in pending if future.done()]:
        try:
            take(future)
        except Exception:
            continue


def _ranges(scores: Tensor, count: int) -> Iterator[tuple[int, int]]:
    """Consecutive samples without a score, at most so many at once: first and how many."""
    first = -1
    for sample, missing in enumerate(is_missing(scores).tolist()):
        if first >= 0 and (not missing or sample - first == count):
            yield first, sample - first
            first = -1
        if missing and first < 0:
            first = sample
    if first >= 0:
        yield first, len(scores) - first
