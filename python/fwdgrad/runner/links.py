"""Messages between two ranks of torch.distributed, over gloo.

Every message is a head of integers, and a body of bytes where the head says so. Gloo hands a
message over when its receiver asks for it, and fails at both ends when a process has ended.
"""

from __future__ import annotations

import pickle
import threading
from collections import deque
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.outputs import told

# Of rank 0: a range of samples to score, all scores; of the others: scores, nothing more follows;
# of each: an object, and that it has failed.
WORK, OVER, SCORES, BYE, OBJECT, FAILED = range(6)

_HEAD, _BODY = 1971, 1972  # tags, beside those of whoever else sends in the group
_NUMBERS = 3  # of a message, beside its kind and the length of its body
_UNREAD = 16  # messages that wait for their receiver, before the next one waits, too


def group_of(given: Any) -> dist.ProcessGroup | None:
    """What the argument ``group`` names; None where this process is alone.

    Raises:
        TypeError, ValueError: it is no group that this process is in.

    Example:
        >>> group_of(None) is group_of(dist.group.WORLD) is None
        True
    """
    if given is None:
        return None
    if given is dist.GroupMember.NON_GROUP_MEMBER:
        raise ArgumentError("group", "must be one that this process is in")
    if not isinstance(given, dist.ProcessGroup):
        raise ArgumentTypeError(
            "group",
            "must be a group of torch.distributed, group.WORLD say, got " + told(repr(given), 80),
        )
    return given if given.size() > 1 else None


def over_gloo(group: dist.ProcessGroup) -> tuple[dist.ProcessGroup, bool]:
    """The group, or one of the same ranks whose tensors on the CPU go over gloo; whether it is new.

    All ranks call this at once.
    """
    if "cpu:gloo" in dist.get_backend_config(group):
        return group, False
    ranks = dist.get_process_group_ranks(group)
    return dist.new_group(ranks, backend="gloo", use_local_synchronization=True), True


class Link:
    """One end of what two ranks tell each other.

    Args:
        group: over gloo.
        rank: the other's, in the group.

    Raises:
        RuntimeError: in each method: the other's process has ended, or is silent for longer than
            the group's timeout.
    """

    def __init__(self, group: dist.ProcessGroup, rank: int) -> None:
        """Nothing is sent."""
        self.rank = rank
        self._group = group
        self._sent: deque[tuple[Any, Tensor]] = deque()  # which gloo reads until they are received
        self._lock = threading.Lock()

    def send(self, kind: int, *numbers: int, body: Tensor | None = None) -> None:
        """Sends a message, without waiting for its receiver."""
        size = 0 if body is None else body.nbytes
        head = torch.tensor([kind, size, *numbers, *[0] * (_NUMBERS - len(numbers))])
        parts = [(head, _HEAD)]
        if body is not None and size:
            parts.append((body.detach().contiguous().reshape(-1).view(torch.uint8), _BODY))
        with self._lock:
            for tensor, tag in parts:
                self._sent.append((self._group.send([tensor], self.rank, tag), tensor))
            self._wait(_UNREAD)

    def wait(self) -> None:
        """Waits until all that was sent has been received."""
        with self._lock:
            self._wait(0)

    def _wait(self, left: int) -> None:
        while len(self._sent) > left:
            work, _ = self._sent.popleft()
            work.wait()

    def receive(self) -> tuple[int, list[int], Tensor]:
        """Waits for a message: its kind, its numbers and the bytes of its body."""
        head = torch.empty(2 + _NUMBERS, dtype=torch.int64)
        self._group.recv([head], self.rank, _HEAD).wait()
        kind, size, *numbers = head.tolist()
        body = torch.empty(size, dtype=torch.uint8)
        if size:
            self._group.recv([body], self.rank, _BODY).wait()
        return kind, numbers, body


def bytes_of(value: Any) -> Tensor:
    """What pickle can, as the body of a message."""
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def object_of(body: Tensor) -> Any:
    """What ``bytes_of`` was given; the ranks of a job trust each other.

    >>> object_of(bytes_of({"seed": 3}))
    {'seed': 3}
    """
    return pickle.loads(body.numpy().tobytes())
