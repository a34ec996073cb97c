"""What torch keeps for each thread, and how it survives Ctrl-C."""

from __future__ import annotations

import torch


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

    def __exit__(self, *_: object) -> None:
        """Puts things back by single calls into C, between which alone Ctrl-C can come."""
        torch._C._set_grad_enabled(self._is_recording)
        while torch._C._len_torch_function_stack() > self._modes:
            torch._C._pop_torch_function_stack()
