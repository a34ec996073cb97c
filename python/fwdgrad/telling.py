"""What is told while several inputs are explained: one bar, and each warning once."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from fwdgrad.errors import Kept, Message, ReliabilityWarning, warn


class Warnings:
    """What is warned of while inputs are explained: with the input, and not again and again."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self.told: set[int] = set()
        self.noisy = 0

    def tell(self, which: str, kept: Kept) -> None:
        """Warns of what an input's run warned of."""
        for message, category in kept:
            if issubclass(category, ReliabilityWarning):
                self.noisy += 1
                if self.noisy > 1:
                    continue
            elif hash(message) in self.told:
                continue
            self.told.add(hash(message))
            warn(Message(f"{which}: ", message), category)

    def end(self, count: int) -> None:
        """Warns of how many explanations are noise."""
        if self.noisy > 1:
            warn(
                f"{self.noisy} explanations of {count} are mostly noise, or nobody knows how much; "
                "their reliability tells which",
                ReliabilityWarning,
            )


class InputsBar:
    """One bar for several inputs: how many are done, the time that is left, calls a second.

    Args:
        shown: whether there is a bar.
        total: how many inputs there are; None where nobody knows.
        unit: what they are called.
    """

    def __init__(self, shown: bool, total: int | None, unit: str = "inputs") -> None:
        """Draws it."""
        self._of = "" if total is None else f"/{total}"
        self._unit, self._inputs, self._calls = unit, 0, 0
        self._share, self._seen, self._began = 0.0, 0, time.monotonic()
        self._bar: Any = None
        if shown:
            known = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(
                total=total, smoothing=0, miniters=0, desc=f"0{self._of} {unit}",
                mininterval=0.1 if sys.stderr.isatty() else 5.0,
                bar_format="{desc} {elapsed}{postfix}" if total is None else known,
            )  # fmt: skip

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    @contextlib.contextmanager
    def written_over(self) -> Iterator[None]:
        """Lines are written where the bar is, which comes again below them."""
        if self._bar is None:
            yield
            return
        with tqdm.external_write_mode():
            yield

    def within(self, done: int, of: int) -> None:
        """Takes the progress of the input that is explained: calls done, and all."""
        self._calls, self._seen = self._calls + done - self._seen, done
        self._move(done / of)

    def step(self, calls: int) -> None:
        """An input is done, of so many calls; where it was explained elsewhere, they count now."""
        self._inputs += 1
        self._calls += max(0, calls - self._seen)
        self._move(1.0)
        self._share, self._seen = 0.0, 0

    def _move(self, share: float) -> None:
        if self._bar is None:
            return
        bar, seconds = self._bar, time.monotonic() - self._began
        bar.set_description_str(f"{self._inputs}{self._of} {self._unit}", refresh=False)
        if self._calls and seconds > 0:
            bar.set_postfix_str(f"{self._calls / seconds:.3g} calls/s", refresh=False)
        bar.update(share - self._share)
        self._share = share
