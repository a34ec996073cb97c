"""Captum's NoiseTunnel on our noise: the same arguments, and memory that is flat in ``nt_samples``.

Noise is made by the kernels into one micro-batch that is used again and again; of the attributions
only running sums are kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checks import check_integer, check_number
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.estimate.moments import enter_unit_
from fwdgrad.outputs import told
from fwdgrad.parameters import Swapped
from fwdgrad.plan import sum_dtype
from fwdgrad.runner.memory import BatchSize
from fwdgrad_kernels import PARAMETER_STREAM, NoiseSpec, Perturber

try:
    import captum.attr  # type: ignore[import-untyped]
    from captum.attr import Attribution, GradientAttribution  # type: ignore[import-untyped]
    from captum.log import log_usage  # type: ignore[import-untyped]
except ImportError as error:
    raise ImportError(
        f"NoiseTunnel wraps methods of Captum: pip install 'fwdgrad-kernels[captum]' ({error})"
    ) from None

TYPES = ("smoothgrad", "smoothgrad_sq", "vargrad")

# They take the gradient by the inputs alone, with no hook on the model.
_PLAIN = tuple(
    getattr(captum.attr, name)
    for name in (
        "Saliency", "InputXGradient", "IntegratedGradients", "GradientShap",
        "InputBaselineXGradient",
    )
    if hasattr(captum.attr, name)
)  # fmt: skip


class NoiseTunnel(Attribution):  # type: ignore[misc]
    """The mean, the mean square or the variance of a method's attributions of noisy inputs.

    It takes the place of ``captum.attr.NoiseTunnel``. What is not the same:

    - ``nt_samples`` inputs with noise are never held at once, but a micro-batch of as many as go
      into 4 MiB (on a GPU 1 GiB). The noise of a sample depends on the seed and the sample's
      number, not on the micro-batch.
    - ``seed`` repeats a run. None draws one by ``torch.manual_seed``'s generator.
    - Of a plain gradient method no graph is kept for the model's parameters.
    - A micro-batch goes through all inputs sample by sample, where Captum's has all samples of an
      input side by side; what the model gets along with the inputs is repeated in that order.
    - Deltas come back input by input, whatever the micro-batch.
    - ``draw_baseline_from_distrib`` draws baselines anew for every sample.
    - A baseline that is a function, and arguments of another length than the batch, are handed on.

    Args:
        attribution_method: a method of Captum, such as ``captum.attr.Saliency(model)``, or an
            ``Attribution`` of ``fwdgrad.integrations.captum``.

    Raises:
        ImportError: Captum is not installed (when this module is imported).

    Example:
        >>> from captum.attr import InputXGradient
        >>> model = lambda batch: (batch * torch.tensor([1.0, -2.0])).sum(1)
        >>> tunnel = NoiseTunnel(InputXGradient(model))
        >>> x = torch.ones(1, 2).requires_grad_()
        >>> found = tunnel.attribute(x, nt_samples=4096, stdevs=0.5, seed=3)
        >>> bool((found - torch.tensor([[1.0, -2.0]])).abs().max() < 0.05)
        True

    Source: the interface is that of Captum, https://captum.ai; Smilkov et al., *SmoothGrad:
    removing noise by adding noise*, 2017; Adebayo et al., *Local explanation methods for deep
    neural networks lack sensitivity to parameter values*, 2018.
    """

    def __init__(self, attribution_method: Any) -> None:
        """Calls nothing yet."""
        self.attribution_method = attribution_method
        self.is_delta_supported = attribution_method.has_convergence_delta()
        self._multiply_by_inputs = attribution_method.multiplies_by_inputs
        self.is_gradient_method = isinstance(attribution_method, GradientAttribution)
        Attribution.__init__(self, attribution_method.forward_func)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether the method within does."""
        return bool(self._multiply_by_inputs)

    def has_convergence_delta(self) -> bool:
        """Whether the method within has one."""
        return bool(self.is_delta_supported)

    def attribute_future(self) -> None:
        """There is none, as in Captum's.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("attribute_future is not implemented for NoiseTunnel")

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Attributions of inputs with normal noise, of all samples together.

        Args:
            inputs: (batch, ...), or a tuple of such. What has integers becomes float.
            nt_type: "smoothgrad" (the mean), "smoothgrad_sq" (of squares) or "vargrad" (the
                variance, over n).
            nt_samples: noisy samples of each input.
            nt_samples_batch_size: samples of each input in one call of the method; of a gradient
                method, which holds the model's graph of all of them, at most.
            stdevs: the noise's standard deviation; of a tuple of inputs one for each, or one.
            draw_baseline_from_distrib: the ``baselines`` are samples (any number, ...) of which
                each noisy input gets one.
            seed: of all that is drawn, 0 .. 2^64 - 1.
            **kwargs: for the method. Of ``target``, ``baselines``, ``feature_mask`` and
                ``additional_forward_args`` what is there for each input is repeated for its
                samples.

        Returns:
            Attributions as the method's own: of each tensor in ``inputs`` one of its shape. With
            ``return_convergence_delta=True`` also the deltas (batch * nt_samples,).

        Raises:
            TypeError, ValueError: naming the argument.
        """
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        if nt_type not in TYPES:
            raise ArgumentError(
                "nt_type", f"must be one of {', '.join(TYPES)}, got {told(repr(nt_type), 80)}"
            )
        count = check_integer("nt_samples", nt_samples, 1)
        if nt_samples_batch_size is not None:
            check_integer("nt_samples_batch_size", nt_samples_batch_size, 1)
        if seed is None:
            seed = int(torch.randint(2**63 - 1, ()))
        seed = check_integer("seed", seed, 0, 2**64 - 1)
        noise = _Noise(parts, _deviations(stdevs, len(parts)), seed)
        size = min(nt_samples_batch_size or count, count)
        if nt_samples_batch_size is None or self.is_gradient_method:
            size = min(size, BatchSize(None, None, max(noise.bytes, 1), 0, 0, noise.device).size)
        baselines = None
        if draw_baseline_from_distrib and kwargs.get("baselines") is not None:
            baselines = _Drawn(kwargs["baselines"], parts, seed)
        wants_delta = self.is_delta_supported and bool(kwargs.get("return_convergence_delta"))
        sums: list[_Sum] = []
        deltas: list[Tensor] = []
        is_tuple = isinstance(inputs, tuple)
        with torch.no_grad(), self._detached():
            given: dict[str, Any] = {}
            for first in range(0, count, size):
                many = min(size, count - first)
                if not given or many < size:
                    given = _repeated(kwargs, many, noise.rows)
                if baselines is not None:
                    given["baselines"] = baselines.next(many)
                samples = noise.samples(first, many, self.is_gradient_method)
                found = self.attribution_method.attribute(
                    samples if isinstance(inputs, tuple) else samples[0], **given
                )
                del samples
                if wants_delta:
                    found, delta = found
                    deltas.append(delta.detach().reshape(many, noise.rows, -1))
                is_tuple = isinstance(found, tuple)
                maps = found if isinstance(found, tuple) else (found,)
                sums = sums or [_Sum(one, many, nt_type) for one in maps]
                for i, total in enumerate(sums):
                    total.enter(maps[i], first, many)
                del found, maps  # before the next samples are made
            results = tuple(total.result(count) for total in sums)
        result: Any = results if is_tuple else results[0]
        if wants_delta:
            return result, torch.cat(deltas).transpose(0, 1).flatten()
        return result

    def _detached(self) -> contextlib.AbstractContextManager[object]:
        """Within it a plain gradient keeps no graph for the model's parameters."""
        model = self.forward_func
        if type(self.attribution_method) in _PLAIN and type(model) is not torch.nn.DataParallel:
            asking = [
                p
                for p in (model.parameters() if isinstance(model, torch.nn.Module) else ())
                if p.requires_grad
            ]
            if asking:
                return Swapped(asking)
        return contextlib.nullcontext()


class _Noise:
    """The inputs, and a micro-batch of samples of them that is filled again and again."""

    def __init__(self, inputs: tuple[Any, ...], deviations: list[float], seed: int) -> None:
        for x in inputs:
            if not isinstance(x, Tensor):
                raise ArgumentTypeError(
                    "inputs",
                    f"must be a tensor or a tuple of them, got {told(repr(type(x).__name__), 80)}",
                )
            if not x.dim() or len(x) != len(inputs[0]):
                raise ArgumentError(
                    "inputs",
                    "must have a batch axis of the same length, got shapes "
                    f"{', '.join(str(tuple(one.shape)) for one in inputs)}",
                )
        if not inputs:
            raise ArgumentError("inputs", "must be a tensor or a tuple of them, got ()")
        self._inputs = [
            x.detach().contiguous() if x.is_floating_point() else x.to(torch.get_default_dtype())
            for x in inputs
        ]
        self.rows, self.device = len(inputs[0]), inputs[0].device
        self.bytes = sum(x.nbytes for x in self._inputs)
        # A row is a part of one input here, so that all rows have draws of their own; further
        # tensors take them from other streams.
        self._runs = [
            Perturber(
                x,
                NoiseSpec(
                    x.shape, "normal", scale, seed=seed, stream=PARAMETER_STREAM + t if t else 0
                ),
            )
            for t, (x, scale) in enumerate(zip(self._inputs, deviations, strict=True))
        ]
        self._buffers: list[Tensor] = []

    def samples(self, first: int, many: int, is_leaf: bool) -> tuple[Tensor, ...]:
        """Samples first onwards of every input: (many * batch, ...), sample by sample."""
        if not self._buffers:
            self._buffers = [x.new_empty((many, *x.shape)) for x in self._inputs]
        found = []
        for run, buffer in zip(self._runs, self._buffers, strict=True):
            run(buffer[:many], first)
            rows = buffer[:many].flatten(0, 1)
            found.append(rows.detach().requires_grad_() if is_leaf else rows)
        return tuple(found)


class _Sum:
    """What is kept of the attributions of all samples: one or two tensors of a sample's size."""

    def __init__(self, attribution: Tensor, many: int, kind: str) -> None:
        rows, rest = divmod(len(attribution), many)
        if rest or not rows:
            raise ArgumentError(
                "attribution_method",
                "must return attributions of each input, got "
                f"{len(attribution)} of {many} samples of each",
            )
        self._kind, self._dtype = kind, attribution.dtype
        shape, dtype = (rows, *attribution.shape[1:]), sum_dtype(attribution)
        self._mean = attribution.new_zeros(shape, dtype=dtype)
        self._spread = torch.zeros_like(self._mean) if kind == "vargrad" else None

    def enter(self, attribution: Tensor, first: int, many: int) -> None:
        """Enters samples first onwards, one after another: a micro-batch of any size adds up."""
        rows = attribution.detach().to(self._mean.dtype).view(many, *self._mean.shape)
        for i, one in enumerate(rows.unbind()):
            if self._spread is not None:
                enter_unit_(self._mean, self._spread, one, first + i, 1, 1)
            elif self._kind == "smoothgrad_sq":
                self._mean.addcmul_(one, one)
            else:
                self._mean.add_(one)

    def result(self, count: int) -> Tensor:
        """Of so many samples."""
        total = self._mean if self._spread is None else self._spread
        return total.div_(count).to(self._dtype)


class _Drawn:
    """Baselines that are drawn from those given, anew for each sample of each input."""

    def __init__(self, baselines: Any, inputs: tuple[Tensor, ...], seed: int) -> None:
        self._is_tuple = isinstance(baselines, tuple)
        self._given = baselines if isinstance(baselines, tuple) else (baselines,)
        self._rows = len(inputs[0])
        self._generator = torch.Generator().manual_seed(seed)
        if len(self._given) != len(inputs):
            raise ArgumentError(
                "baselines", f"must be {len(inputs)}, one for each input, got {len(self._given)}"
            )
        for x, one in zip(inputs, self._given, strict=True):
            if isinstance(one, Tensor) and (one.shape[1:] != x.shape[1:] or not len(one)):
                raise ArgumentError(
                    "baselines",
                    f"must be numbers or of shape (any number, {str(tuple(x.shape[1:]))[1:]}, got "
                    f"{tuple(one.shape)}",
                )

    def next(self, many: int) -> Any:
        found = []
        for one in self._given:
            if isinstance(one, Tensor):
                at = torch.randint(len(one), (many * self._rows,), generator=self._generator)
                one = one[at.to(one.device)]
            found.append(one)
        return tuple(found) if self._is_tuple else found[0]


def _deviations(stdevs: Any, inputs: int) -> list[float]:
    """The standard deviation of each input's noise."""
    several = list(stdevs) if isinstance(stdevs, (tuple, list)) else [stdevs] * inputs
    if len(several) != inputs:
        raise ArgumentError(
            "stdevs", f"must be one number or {inputs}, one for each input, got {len(several)}"
        )
    numbers = [check_number("stdevs", one) for one in several]
    for one in numbers:
        if not 0 <= one < math.inf:
            raise ArgumentError("stdevs", f"must be finite and not negative, got {one}")
    return numbers


def _repeated(kwargs: dict[str, Any], many: int, rows: int) -> dict[str, Any]:
    """What goes to the method, for so many samples of each input."""
    given = dict(kwargs)

    def each(name: str, repeat: Callable[[Any], Any]) -> None:
        value = given.get(name)
        if value is not None:
            found = tuple(map(repeat, value)) if isinstance(value, tuple) else repeat(value)
            given[name] = found

    def of_batch(value: Any) -> Any:
        return _times(value, many) if _has_rows(value, rows) else value

    def of_several(value: Any) -> Any:
        return _times(value, many) if rows > 1 and _has_rows(value, rows) else value

    each("additional_forward_args", of_batch)
    each("baselines", of_several)
    each("feature_mask", of_several)
    target = given.get("target")
    if isinstance(target, list):
        given["target"] = target * many
    elif isinstance(target, Tensor) and target.numel() > 1:
        given["target"] = _times(target, many)
    return given


def _has_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows


def _times(value: Tensor, many: int) -> Tensor:
    return value.repeat(many, *(1,) * (value.dim() - 1))
