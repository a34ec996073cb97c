"""Checkpoints: the state of a run in a file that knows which run it is of."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.errors import CheckpointError, Message, Option, warn
from fwdgrad.estimate.missing import is_missing
from fwdgrad.files import found_at, locked, read_tensors, write_tensors
from fwdgrad.runner.fingerprint import Answer, differ

State = dict[str, Tensor]

FORMAT = 3
SAVE_EVERY_SECONDS = 1.0  # of calls that a killed run has to repeat, at most ...
SAVE_SHARE = 0.1  # ... but saving takes no more of the time than this

_KIND = "checkpoint"
_OUTPUT = "output at the input"  # as a tensor of the file
_SCORE = "score at the input"
_FOLLOWS = ("output", "order")  # of an identity: others where the input, samples or ... are others


class Checkpoint:
    """The state of a run so far, in a file that knows which run it is of.

    Args:
        path: the file.
        identity: what defines the run, as JSON; a file with another identity is refused.
        answer: the model's output at the input, and its scores there for each target; these may
            be off by a rounding.
        scores: see ``answer``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        identity: dict[str, Any],
        answer: Answer,
        scores: list[float],
    ) -> None:
        """Raises where there can be no such file; nothing is read or written yet."""
        self.path = Path(path)
        own = {"format": FORMAT, **identity, "output": answer.rest}
        self.identity: dict[str, Any] = json.loads(json.dumps(own))
        self._answer = answer
        self._fixed = {_OUTPUT: answer.numbers, _SCORE: torch.tensor(scores, dtype=torch.float64)}
        self._looked_at = time.monotonic()
        self._due = self._looked_at + SAVE_EVERY_SECONDS
        self._warned = False
        self.saved = 0  # samples whose results are in the file
        try:
            os.stat(self.path.parent)
            found_at(self.path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"checkpoint: the folder {self.path.parent} does not exist; make it first"
            ) from None
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {self.path} cannot be used: {error.strerror}; give another path"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the file, for one run at a time.

        Raises:
            CheckpointError: another run has it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path))
            except BlockingIOError as error:
                raise CheckpointError(
                    f"checkpoint {self.path} cannot be used: {error.strerror}. Wait for its end, "
                    "or give another path"
                ) from None
            yield

    def has_gaps(self) -> bool:
        """Whether some scores in the file are missing, as several workers leave them."""
        try:
            return bool(is_missing(read_tensors(self.path, _KIND)[1]["scores"]).any())
        except (OSError, KeyError, ValueError, TypeError):
            return False  # or ``load`` says why

    def held(self) -> int:
        """Of how many samples the file has the scores, as far as can be told."""
        try:
            return len(read_tensors(self.path, _KIND)[1]["scores"])
        except (OSError, KeyError, ValueError, TypeError):
            return 0  # or ``load`` says why

    def load(self, state: State, samples: int, *, gaps: bool = False) -> tuple[int, int | None]:
        """Fills in the state that is in the file: of how many samples, and the micro-batch's size.

        Args:
            state: what a run keeps, by name.
            samples: how many a run has.
            gaps: whether some scores may be missing, which are NaN.

        Raises:
            CheckpointError: it is damaged, of another run, or no checkpoint.
        """
        try:
            header, stored = read_tensors(self.path, _KIND)
            identity, done, batch = header["identity"], header["done"], header["batch"]
            if not isinstance(identity, dict):
                raise ValueError("its identity is no object")
            for name, value, least in (("done", done, 0), ("batch", batch, 1)):
                if type(value) is not int or not least <= value < 2**63:
                    raise ValueError(f"{name} must be a number from {least}, got {value!r}")
            # What a run is, before how much there is of it: another run has other tensors.
            self._check_identity(identity)
            fixed = {name: stored.pop(name) for name in self._fixed}
            own = {name: _part(name, tensor, done) for name, tensor in state.items()}
            kinds = [{k: (t.shape, t.dtype) for k, t in some.items()} for some in (stored, own)]
            if kinds[0] != kinds[1] or done > samples:
                raise ValueError("its tensors have the wrong shape or type")
            scores = stored.get("scores", torch.empty(0))
            if not bool((torch.isfinite(scores) | (scores.isnan() & gaps)).all()):
                raise ValueError("its scores are not finite")
            self._check_fixed(fixed)
        except CheckpointError:
            raise
        except FileNotFoundError:
            return 0, None
        except PermissionError as error:
            raise CheckpointError(
                f"checkpoint {self.path} cannot be read: {error.strerror}"
            ) from None
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {self.path} is damaged or no checkpoint ({error}); nothing was read "
                "from it. Give another path, or delete it if it is an old checkpoint"
            ) from None
        for name, tensor in own.items():
            tensor.copy_(stored[name])
        self.saved = done
        return done, batch

    def _check_identity(self, identity: dict[str, Any]) -> None:
        names = sorted(
            name
            for name in identity.keys() | self.identity.keys()
            if identity.get(name) != self.identity.get(name)
        )
        for name in _FOLLOWS:
            if len(names) > 1 and name in names:
                names.remove(name)
        self._refuse(
            [
                Message(
                    name if name == "features" else Option(name),  # of --cell it may be, or not
                    f" was {shown(identity.get(name))}, is {shown(self.identity.get(name))}",
                )
                for name in names
            ]
        )

    def _check_fixed(self, stored: State) -> None:
        """Compares the output and the scores at the input."""
        for name, own in self._fixed.items():
            one = stored[name]
            if one.shape != own.shape or one.dtype != own.dtype:
                raise ValueError(f"its {name} has the wrong shape or type")
            self.compare(name, one, own)

    def compare(self, name: str, stored: Tensor, own: Tensor, hint: str = "") -> None:
        """Raises where numbers of the file and of this run are not the same but for a rounding.

        Args:
            name: what they are of.
            stored: float64 (n,).
            own: float64 (n,).
            hint: what else there is to say.
        """
        bad = differ(stored, own, self._answer.precision).nonzero()[:3, 0].tolist()
        if bad:
            was, now = (", ".join(f"{float(one[i]):.6g}" for i in bad) for one in (stored, own))
            self._refuse([f"{name} was {was}, is {now}{hint}"])

    def _refuse(self, differing: Sequence[str]) -> None:
        if differing:
            told = [part for one in differing for part in ("; ", one)][1:]
            end = ". Delete it to start afresh, or give another path"
            raise CheckpointError(
                Message(f"checkpoint {self.path} is of another run: ", *told, end)
            )

    def save(self, state: State, done: int, batch: int) -> None:
        """Writes the state after the first ``done`` samples; warns where that fails."""
        started = time.monotonic()
        header = {"identity": self.identity, "done": done, "batch": batch}
        parts = {name: _part(name, tensor, done) for name, tensor in state.items()}
        try:
            write_tensors(self.path, _KIND, header, {**parts, **self._fixed})
            self.saved = done
        except OSError as error:
            if not self._warned:
                self._warned = True
                kept = "; the last one that was written is still there" if self.saved else ""
                warn(
                    f"checkpoint {self.path} cannot be written ({error.strerror}); the run goes "
                    f"on{kept}"
                )
        took = time.monotonic() - started
        self._due = started + max(SAVE_EVERY_SECONDS, took / SAVE_SHARE)
        self._looked_at = started + took

    def is_due(self) -> bool:
        """Whether to save now: a killed run has no more than a second of calls to repeat."""
        now = time.monotonic()
        step, self._looked_at = now - self._looked_at, now  # what one more micro-batch would take
        return now + step >= self._due


def _part(name: str, tensor: Tensor, done: int) -> Tensor:
    """The part of a tensor of the state that the first ``done`` samples have filled."""
    return tensor[:done] if name == "scores" else tensor


def shown(value: object) -> str:
    """A value of an identity; of a digest only the start.

    >>> shown("0f" * 32), shown(3)
    ('one of digest 0f0f0f0f', '3')
    """
    is_digest = isinstance(value, str) and len(value) == 64
    text = f"one of digest {value[:8]}" if is_digest else repr(value)  # type: ignore[index]
    return text if len(text) <= 200 else f"{text[:200]}..."
