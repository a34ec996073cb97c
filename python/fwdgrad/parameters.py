"""Noise on a model's parameters, made from the seed at each use and never stored."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from fwdgrad.checks import check_integer
from fwdgrad.errors import ModelError
from fwdgrad.importance import Sampling
from fwdgrad.torch_state import Mode
from fwdgrad_kernels import DISTRIBUTIONS, DTYPES, PARAMETER_STREAM, NoiseSpec, Perturber

# Methods and properties of a tensor that do not read its values.
_ABOUT = {
    *("shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_leaf", "is_cuda"),
    *("dim", "size", "numel", "stride", "is_contiguous", "is_floating_point"),
}


@dataclasses.dataclass(frozen=True)
class ParameterNoise:
    """Noise on a model's parameters: each theta becomes theta (1 + scale xi).

    A noisy parameter exists while torch's functions use it, or until the model's own gradient is
    taken. The module is never touched: its parameters keep their bits, and other threads may use it
    meanwhile. Weights that layers share get the same noise; buffers, such as the statistics of
    batch normalisation, get none. Nor does what a model computes in threads of its own, or by a
    function in TorchScript, which is not seen.

    Args:
        scale: the noise's, relative to each parameter; 0.2 where the papers do not say otherwise.
        distribution: of the noise.
        draws: how many draws of the parameters a run takes, each for as many consecutive
            samples; it divides the samples. None: one for each sample.
        sampling: draw from another distribution, see ``Sampling``.
        module: whose parameters, where the model is not itself a ``torch.nn.Module``.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> ParameterNoise(scale=0.1, draws=10)
        ParameterNoise(scale=0.1, distribution='normal', draws=10, sampling=None)

    Source: NoiseGrad and FusionGrad, *Axiomatization of gradient smoothing in neural networks*,
    equations 4 and 5.
    """

    scale: float = 0.2
    distribution: str = "normal"
    draws: int | None = None
    sampling: Sampling | None = None
    module: nn.Module | None = dataclasses.field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks each argument."""
        if isinstance(self.scale, bool) or not isinstance(self.scale, (int, float)):
            raise TypeError(f"parameters' scale must be a number, got {self.scale!r}")
        if not 0 < self.scale < float("inf"):
            raise ValueError(f"parameters' scale must be positive and finite, got {self.scale}")
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"parameters' distribution must be one of {', '.join(DISTRIBUTIONS)}, got "
                f"{self.distribution!r}"
            )
        if self.draws is not None:
            object.__setattr__(self, "draws", check_integer("parameters' draws", self.draws, 1))
        if self.sampling is not None:
            if not isinstance(self.sampling, Sampling):
                raise TypeError(f"parameters' sampling must be a Sampling, got {self.sampling!r}")
            self.sampling.check(self.distribution)
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
        for part in module.modules():
            if _is_compiled(part):
                what = "this one is" if part is module else f"its {type(part).__name__} is"
                raise TypeError(
                    f"parameters need a plain torch.nn.Module, and {what} compiled: what it does "
                    "with them cannot be reached; give the module that it was made from"
                )
        return module

    def samples_per_draw(self, samples: int) -> int:
        """How many consecutive samples share a draw of the parameters."""
        draws = samples if self.draws is None else self.draws
        if samples % draws:
            raise ValueError(
                f"parameters' draws must divide the samples, got {draws} for {samples} samples"
            )
        return samples // draws


def _is_compiled(part: nn.Module) -> bool:
    """Whether TorchScript or ``torch.compile`` made a module, or a function that it holds.

    Torch has no public sign of the latter, but the code's place tells: ``torch.compile(module)`` is
    of a class of its compiler's, and ``module.compile()`` leaves a function of that in the module.
    """
    homes = [type(part).__module__]
    for value in vars(part).values():
        if isinstance(value, types.FunctionType):
            homes.append(value.__globals__.get("__name__", ""))
    return isinstance(part, torch.jit.ScriptModule) or any(
        home.startswith("torch._dynamo") for home in homes
    )


class Swapped(Mode):
    """Within it, torch's functions take other tensors for some parameters: their detached selves.

    No module is written to: other threads, and whatever runs outside of it, see the parameters as
    they are.

    Args:
        parameters: those that are not to be seen.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        """Nothing happens before it is entered."""
        super().__init__()
        self._originals = {id(p): p for p in parameters}  # kept, so that ids stay theirs
        self._detached = {key: p.detach() for key, p in self._originals.items()}

    def __contains__(self, parameter: nn.Parameter) -> bool:
        """Whether it is one of those."""
        return id(parameter) in self._detached

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Calls the function with what stands for the parameters among its arguments."""
        arguments = self._swap(arguments, function)
        if keywords:
            values = self._swap(keywords.values(), function)
            return function(*arguments, **dict(zip(keywords, values, strict=True)))
        return function(*arguments)

    def _swap(self, values: Iterable[Any], function: Any) -> list[Any]:
        new = list(values)
        for i, value in enumerate(new):  # a plain loop: it runs for every function of torch
            if id(value) in self._detached:
                new[i] = self._instead(id(value), function)
            elif type(value) in (list, tuple):  # the weights of an LSTM, say
                new[i] = type(value)(self._swap(value, function))
        return new

    def _instead(self, key: int, function: Any) -> Tensor:
        """What a function gets for a parameter."""
        return self._detached[key]


@dataclasses.dataclass
class _Noisy:
    """A parameter's noise, and its values for a while."""

    spec: NoiseSpec
    fill: Perturber
    uses: int = 0  # how often a call of the model reads it
    left: int = 0  # how often this one still will
    values: Tensor | None = None


class NoisyParameters(Swapped):
    """Within it, torch's functions take a draw's noisy parameters for those of a module.

    Each is made when a function first reads it and dropped after the last that does, in a call of
    the model; a call that reads it more often than the first one did makes the same values again.

    Args:
        module: whose parameters.
        noise: what noise.
        seed: of the run.
        backend: of the kernels.
        call: calls the model once, so that it is seen how often it reads which parameter.
    """

    def __init__(
        self,
        module: nn.Module,
        noise: ParameterNoise,
        seed: int,
        backend: str,
        call: Callable[[], object],
    ) -> None:
        """Finds the parameters, and how often they are used."""
        super().__init__(p for p in module.parameters() if p.dtype in DTYPES and p.numel())
        self._noise, self._backend = noise, backend
        distribution, scale = noise.distribution, noise.scale
        if noise.sampling is not None:
            distribution = noise.sampling.distribution
            scale = noise.sampling.factor * noise.scale
        self._noisy: dict[int, _Noisy] = {}
        for t, (key, values) in enumerate(self._detached.items()):
            spec = NoiseSpec(
                (values.numel(),), distribution, scale, seed=seed, stream=PARAMETER_STREAM + t
            )
            self._noisy[key] = _Noisy(
                spec, Perturber(values.reshape(-1), spec, relative=True, backend=backend)
            )
        if not self._noisy:
            raise ValueError("parameters need a model that has some, and this one has none")
        self._draw: int | None = None  # while uses are counted
        with self, torch.no_grad():
            call()
        if not any(one.uses for one in self._noisy.values()):
            raise ModelError(
                "the model runs without using any of its module's parameters: nothing to put "
                "noise on"
            )

    def begin(self, draw: int) -> None:
        """Before each call of the model: which draw it sees."""
        self._draw = draw
        for one in self._noisy.values():
            one.left, one.values = one.uses, None

    def _instead(self, key: int, function: Any) -> Tensor:
        one, like = self._noisy[key], self._detached[key]
        name = getattr(function, "__name__", "")
        if name == "__get__":  # of a property
            name = getattr(function.__self__, "__name__", "")
        if name in _ABOUT:
            return like
        if self._draw is None:
            one.uses += 1
            return like
        values = one.values
        if values is None:
            row = like.new_empty((1, like.numel()))
            one.fill(row, self._draw)
            values = row.view(like.shape)
            if not like.is_contiguous():
                values = torch.empty_like(like).copy_(values)
        one.left -= 1
        one.values = values if one.left > 0 else None
        return values

    def log_weights(self, draws: int) -> Tensor:
        """The log of each draw's density ratio, float64; 0 where ``sampling`` is None."""
        total = torch.zeros(draws, dtype=torch.float64)
        if self._noise.sampling is not None:
            for key, one in self._noisy.items():
                total += self._noise.sampling.log_weights(
                    one.spec,
                    self._noise.distribution,
                    draws,
                    self._detached[key].device,
                    self._backend,
                )
        return total
