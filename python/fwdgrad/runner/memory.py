"""How much memory a run may take: budgets, what is measured, and the micro-batch."""

from __future__ import annotations

import contextlib
import gc

import torch

from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError

DEFAULT_BATCH = {"cpu": 256, "cuda": 64}  # samples at most, where nothing is asked for ...
DEFAULT_BYTES = {"cpu": 2**22, "cuda": 2**30}  # ... and bytes of samples: see docs/decisions
LARGEST_BATCH = 1024  # what a memory budget may grow a micro-batch to

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
        fwdgrad.errors.ArgumentError: memory must be bytes or a text such as ... got 'lots'
    """
    value: float
    if isinstance(memory, str):
        text = memory.strip().replace(" ", "")
        number = text.rstrip("BKMGTi")
        try:
            value = float(number) * _UNITS[text[len(number) :]]
        except (ValueError, KeyError):
            raise ArgumentError(
                "memory", f"must be bytes or a text such as '1GiB' or '500MB', got {memory!r}"
            ) from None
    elif isinstance(memory, int) and not isinstance(memory, bool):
        value = memory
    else:
        raise ArgumentTypeError("memory", f"must be bytes or a text such as '1GiB', got {memory!r}")
    if not 0 < value < float("inf"):
        raise ArgumentError("memory", f"must be positive, got {memory!r}")
    return int(value)


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


class BatchSize:
    """How many samples a forward call takes.

    A given size is kept. A memory budget starts with one sample and doubles while the peak that
    was measured, the model's own use included, says that twice as many would fit. Running out of
    memory halves either. The result does not depend on any of it.
    """

    def __init__(
        self,
        batch_size: int | None,
        memory: int | None,
        sample_bytes: int,
        fixed_bytes: int,
        sums_bytes: int,
        device: torch.device,
    ) -> None:
        """Beside ``fixed_bytes`` there are first samples, then the sums that follow them."""
        self.is_given = batch_size is not None
        self.growing = batch_size is None and memory is not None
        self.budget = 0
        if batch_size is not None:
            self.size = batch_size
        elif memory is not None:
            self.budget = memory - fixed_bytes
            least = fixed_bytes + max(sample_bytes, sums_bytes)
            if memory < least:
                raise ArgumentError(
                    "memory",
                    f"must hold the input and its sums: at least {least} bytes, got {memory}",
                )
            self.size = 1
            self._sample_bytes = sample_bytes
            self._meter = _Meter(device)
        else:
            kind = "cpu" if device.type == "cpu" else "cuda"
            self.size = max(2, min(DEFAULT_BATCH[kind], DEFAULT_BYTES[kind] // sample_bytes))

    def after(self, taken: int) -> None:
        """Grows after a micro-batch that took ``taken`` samples at once."""
        if not self.growing or taken < self.size:
            return
        # What nobody can measure counts as nothing; the samples themselves always count.
        each = max(self._meter.peak() / taken, self._sample_bytes)
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
                "the model runs out of memory on a single sample; use a smaller input or model"
            ) from error
        self.size //= 2
        self.growing = False


def free_cached(device: torch.device) -> None:
    """Gives back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
