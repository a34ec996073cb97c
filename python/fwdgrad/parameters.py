"""Noise on a model's parameters, made again from the seed at each use and never stored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fwdgrad.errors import ModelError
from fwdgrad.sampling import Sampling
from fwdgrad_kernels import LAWS, NoiseSpec, relative_perturber
from fwdgrad_kernels.spec import DTYPES, PARAMETER_NOISE, check_integer

_SMALL = 2**13  # elements of a parameter that is made once a draw, and kept for it


@dataclasses.dataclass(frozen=True)
class ParameterNoise:
    """Noise on a model's parameters: each theta becomes theta (1 + scale xi).

    A layer's noisy parameters exist while the layer runs; with ``Autograd`` until its gradient is
    taken. The model's own are not written to: they have the same bits afterwards, whatever
    happens. Weights that layers share get the same noise; buffers, such as the statistics of
    batch normalisation, get none.

    Args:
        scale: the noise's, relative to each parameter; 0.2 where the papers do not say otherwise.
        law: of the noise: any but hadamard.
        draws: how many draws of the parameters a run takes, each for as many consecutive copies;
            it divides the copies. None: one for each copy.
        sampling: draw from another law, see ``Sampling``.
        module: whose parameters, where the model is not itself a ``torch.nn.Module``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> ParameterNoise(scale=0.1, draws=10)
        ParameterNoise(scale=0.1, law='normal', draws=10, sampling=None)

    Source: NoiseGrad and FusionGrad, *Axiomatization of gradient smoothing in neural networks*,
    equations 4 and 5.
    """

    scale: float = 0.2
    law: str = "normal"
    draws: int | None = None
    sampling: Sampling | None = None
    module: nn.Module | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks each argument."""
        if isinstance(self.scale, bool) or not isinstance(self.scale, (int, float)):
            raise TypeError(f"parameters' scale must be a number, got {self.scale!r}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"parameters' scale must be positive and finite, got {self.scale}")
        if self.law not in LAWS or self.law == "hadamard":
            laws = ", ".join(law for law in LAWS if law != "hadamard")
            raise ValueError(f"parameters' law must be one of {laws}, got {self.law!r}")
        if self.draws is not None:
            object.__setattr__(self, "draws", check_integer("parameters' draws", self.draws, 1))
        if self.sampling is not None:
            if not isinstance(self.sampling, Sampling):
                raise TypeError(f"parameters' sampling must be a Sampling, got {self.sampling!r}")
            self.sampling.check(self.law)
        if self.module is not None and not isinstance(self.module, nn.Module):
            raise TypeError(
                f"parameters' module must be a torch.nn.Module, got {type(self.module).__name__}"
            )

    def module_of(self, model: object) -> nn.Module:
        """The module whose parameters get the noise."""
        module = self.module if self.module is not None else model
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"parameters need a torch.nn.Module, and the model is of type "
                f"{type(module).__name__}; give ParameterNoise(module=...) the one inside it"
            )
        if isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod"):
            raise TypeError(
                "parameters need a plain torch.nn.Module, and this one is compiled: its layers "
                "cannot be reached; give the module that it was made from"
            )
        return module

    def copies_per_draw(self, copies: int) -> int:
        """How many consecutive copies share a draw of the parameters."""
        draws = copies if self.draws is None else self.draws
        if copies % draws:
            raise ValueError(
                f"parameters' draws must divide the copies, got {draws} for {copies} copies"
            )
        return copies // draws


@dataclasses.dataclass
class _Shared:
    """A parameter, everywhere a module has it, and the noise that it gets."""

    original: nn.Parameter
    slots: list[tuple[nn.Module, str]]
    spec: NoiseSpec
    fill: Callable[[Tensor, int], None]
    users: int = 0  # modules that run now and use it
    memory: Tensor | None = None  # what the noisy values are in: a vector, perhaps a longer one
    views: tuple[Tensor, Tensor, Tensor] | None = None  # a memory, (1, numel) of it, as theta is
    now: Tensor | None = None  # what is in theta's place

    def put(self, values: Tensor) -> None:
        for module, name in self.slots:
            if isinstance(module, nn.RNNBase):  # which keeps a list of its weights beside
                is_own = values is self.original
                own = self.original if is_own else nn.Parameter(values, requires_grad=False)
                setattr(module, name, own)
            else:  # without a Parameter's checks, which would cost as much as the noise
                module._parameters[name] = values  # type: ignore[assignment]

    def make(self, draw: int) -> None:
        """Puts theta (1 + scale xi), the values of a draw, in place of the original."""
        memory, views = self.memory, self.views
        assert memory is not None
        if views is None or views[0] is not memory:
            row = memory[: self.original.numel()][None]
            self.views = views = (memory, row, row.view(self.original.shape))
        _, row, values = views
        self.fill(row, draw)
        if not self.original.is_contiguous():
            values = torch.empty_like(self.original).copy_(values)
        if values is not self.now:
            self.put(values)
            self.now = values

    def restore(self) -> None:
        """Puts the original back."""
        self.put(self.original)
        self.now = None


class NoisyParameters:
    """A module whose layers run with noisy parameters, within ``installed``.

    Small parameters are made once a draw; a large one when a layer that uses it starts, and it
    goes when the layer ends.

    Args:
        module: whose parameters.
        noise: what noise.
        seed: of the run.
        backend: of the kernels.
        call: calls the model once, so that it is seen which layer uses which parameter.
    """

    def __init__(
        self,
        module: nn.Module,
        noise: ParameterNoise,
        seed: int,
        backend: str,
        call: Callable[[], object],
    ) -> None:
        """Finds the parameters, and where they are used."""
        self._noise, self._backend = noise, backend
        self._draw: int | None = None
        law, scale = noise.law, noise.scale
        if noise.sampling is not None:
            law, scale = noise.sampling.law, noise.sampling.factor * noise.scale
        shared: dict[int, _Shared] = {}
        for owner in module.modules():
            for name, parameter in owner._parameters.items():
                if parameter is None or parameter.dtype not in DTYPES or not parameter.numel():
                    continue
                if id(parameter) not in shared:
                    stream, size = PARAMETER_NOISE + len(shared), (parameter.numel(),)
                    spec = NoiseSpec(size, law, scale, seed=seed, stream=stream)
                    fill = relative_perturber(parameter.detach().reshape(-1), spec, backend)
                    shared[id(parameter)] = _Shared(parameter, [], spec, fill)
                shared[id(parameter)].slots.append((owner, name))
        if not shared:
            raise ValueError("parameters need a model that has some, and this one has none")
        self._all = list(shared.values())
        used = _find_uses(module, shared, call)
        self._small = [one for one in self._all if one.original.numel() <= _SMALL]
        self._large = {
            part: [one for one in some if one.original.numel() > _SMALL]
            for part, some in used.items()
        }
        self._spare: list[Tensor] = []  # memory of layers that have run

    def begin(self, draw: int) -> None:
        """Before each call: which draw the layers run with."""
        if draw == self._draw:
            return
        self._draw = draw
        for one in self._small:
            if one.memory is None:
                one.memory = one.original.detach().new_empty(one.original.numel())
            one.make(draw)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Layers run with noisy parameters while this lasts, once there is a draw."""
        hooks = []
        try:
            for module, used in self._large.items():
                if used:
                    hooks += [
                        module.register_forward_pre_hook(self._enter(used)),
                        module.register_forward_hook(self._leave(used), always_call=True),
                    ]
            yield
        finally:  # Ctrl-C too, which hooks do not see
            for hook in hooks:
                hook.remove()
            for one in self._all:
                one.restore()
                one.users, one.memory, one.views = 0, None, None
            self._draw = None
            self._spare.clear()

    def _enter(self, used: list[_Shared]) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if self._draw is None:
                return
            for one in used:
                one.users += 1
                if one.users == 1:
                    if one.memory is None:
                        one.memory = self._take(one.original)
                    one.make(self._draw)

        return hook

    def _leave(self, used: list[_Shared]) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if self._draw is None:
                return
            for one in used:
                one.users = max(0, one.users - 1)
                if one.users == 0 and one.memory is not None:
                    # A graph reads it until the gradient is taken: then it stays the parameter's.
                    if not torch.is_grad_enabled():
                        self._spare.append(one.memory)
                        one.memory = None
                    one.restore()

        return hook

    def _take(self, like: Tensor) -> Tensor:
        """Memory for a layer's parameters: of one that has run, or new."""
        size, best = like.numel(), -1
        for i, spare in enumerate(self._spare):
            if spare.dtype == like.dtype and spare.device == like.device and len(spare) >= size:
                best = i if best < 0 or len(spare) < len(self._spare[best]) else best
        if best >= 0:
            return self._spare.pop(best)
        self._spare.clear()  # too small, all of them
        for one in self._all:
            one.views = one.views if one.memory is not None else None
        return like.detach().new_empty(size)

    def log_weights(self, draws: int) -> Tensor:
        """The log of each draw's density ratio, where it is drawn from another law: float64."""
        total = torch.zeros(draws, dtype=torch.float64)
        if self._noise.sampling is not None:
            for one in self._all:
                total += self._noise.sampling.log_weights(
                    one.spec, self._noise.law, draws, one.original.device, self._backend
                )
        return total


def _find_uses(
    module: nn.Module, shared: dict[int, _Shared], call: Callable[[], object]
) -> dict[nn.Module, list[_Shared]]:
    """For each submodule the parameters that are used while it is the innermost one to run.

    That is not always the owner: attention hands its output layer's weight to one function.
    """
    used: dict[nn.Module, list[_Shared]] = {}
    running: list[nn.Module] = []

    def note(values: object) -> None:
        for value in pytree.tree_leaves(values):
            one = shared.get(id(value)) if isinstance(value, Tensor) else None
            where = used.setdefault(running[-1] if running else module, [])
            if one is not None and not any(one is other for other in where):
                where.append(one)

    def enter(part: nn.Module, arguments: object, keywords: object) -> None:
        note((arguments, keywords))  # read by the module that calls this one
        running.append(part)

    def leave(*_: object) -> None:
        running.pop()

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
        ) -> Any:
            if not _is_property(function):
                note((arguments, keywords))
            return function(*arguments, **(keywords or {}))

    hooks = []
    try:
        for part in module.modules():
            hooks.append(part.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(part.register_forward_hook(leave, always_call=True))
        with Watch(), torch.no_grad():
            call()
    finally:
        for hook in hooks:
            hook.remove()
    used = {part: some for part, some in used.items() if some}
    if not used:
        raise ModelError(
            "the model runs without using any of its module's parameters: nothing to put noise on"
        )
    return used


def _is_property(function: Any) -> bool:
    """Whether a call only asks after a tensor (its shape, device, ...)."""
    return getattr(function, "__name__", "") in ("__get__", "dim", "size", "numel")
