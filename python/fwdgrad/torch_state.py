"""State that torch keeps for each thread, put back also after Ctrl-C.

Torch has no public way to see or to cut the stack of modes, nor a single call into C that sets
whether gradients are recorded: its contexts are Python, and Ctrl-C may come inside them. Hence
the calls of ``torch._C`` here.
"""

from __future__ import annotations

import traceback
from types import TracebackType

import torch
from torch.overrides import TorchFunctionMode


class TorchState:
    """Puts back, when it ends, whether gradients are recorded and what watches torch's functions.

    Torch's own contexts put back what they change; but they are Python, and where Ctrl-C comes
    while one of them starts or ends, it may not. Around them this one does: it changes nothing
    when it starts, so that it has no such moment of its own.

    Example:
        >>> with TorchState():
        ...     _ = torch.set_grad_enabled(False)
        >>> torch.is_grad_enabled()
        True
    """

    def __enter__(self) -> None:
        """Remembers how things are."""
        self._is_recording = torch.is_grad_enabled()
        self._modes = torch._C._len_torch_function_stack()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts things back by single calls into C, between which alone Ctrl-C can come."""
        if trace is not None and not isinstance(error, Exception):
            # Ends contexts that Ctrl-C has left half entered: they would else put a mode back when
            # the traceback is freed.
            traceback.clear_frames(trace)
        torch._C._set_grad_enabled(self._is_recording)
        _pop_to(self._modes)


class Mode(TorchFunctionMode):
    """A mode that watches torch's functions; for use within a ``TorchState``.

    Torch takes a mode off for a while in functions that are written in Python, and does not put it
    back where Ctrl-C comes just then: this one does not take off another's in its stead.
    """

    def __enter__(self) -> None:
        """Watches from now on, in this thread."""
        self._modes = torch._C._len_torch_function_stack()
        torch._C._push_on_torch_function_stack(self)

    def __exit__(self, *_: object) -> None:
        """Watches no longer."""
        _pop_to(self._modes)


def _pop_to(depth: int) -> None:
    while torch._C._len_torch_function_stack() > depth:
        torch._C._pop_torch_function_stack()
