"""A device that is not there: its tensors lie on the CPU, and every read of them is counted.

On a GPU such a read waits until all that was asked of it is done.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("xla:0")  # one that torch can name, and has not here
_READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.nonzero.default,
}


class FarTensor(torch.Tensor):
    """A tensor of that device."""

    device = property(lambda self: DEVICE)

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
        )

    def __init__(self, held):
        self.held = held

    def cpu(self):  # torch itself takes it for one of the CPU
        FarDevice.now.reads.append("cpu")
        return self.held.clone()

    def to(self, *arguments, **keywords):
        place = next((one for one in arguments if isinstance(one, (str, torch.device))), DEVICE)
        if torch.device(place) != DEVICE:
            return self.cpu().to(*arguments, **keywords)
        return super().to(*(one for one in arguments if one is not place), **keywords)

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), keywords=None):
        return FarDevice.now.call(function, arguments, keywords or {})


class FarDevice(TorchDispatchMode):
    """Within it the device is there; ``reads`` has what was read of it, by the operation's name."""

    now = None

    def __enter__(self):
        FarDevice.now, self.reads = self, []
        return super().__enter__()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        return self.call(function, arguments, keywords or {})

    def call(self, function, arguments, keywords):
        device = keywords.get("device")
        goes_far = device is not None and torch.device(device) == DEVICE
        comes_near = device is not None and not goes_far
        is_far = any(isinstance(one, FarTensor) for one in tree_leaves((arguments, keywords)))
        if device is not None:
            keywords = {**keywords, "device": torch.device("cpu")}
        held = tree_map(
            lambda one: one.held if isinstance(one, FarTensor) else one, (arguments, keywords)
        )
        result = function(*held[0], **held[1])
        in_place = function._schema.is_mutable and result is not None
        if in_place and not isinstance(arguments[0], FarTensor):
            comes_near = True
        if is_far and (function in _READS or comes_near):
            self.reads.append(str(function))
        if in_place:
            return arguments[0]
        if comes_near or not (is_far or goes_far):
            return result
        return tree_map(
            lambda one: FarTensor(one) if isinstance(one, torch.Tensor) else one, result
        )
