"""Sanity checks: a map depends on what the model has learnt, and on nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, did_you_mean
from fwdgrad.explanation import Explanation
from fwdgrad.metrics.agreement import spearman
from fwdgrad.metrics.maps import elements_of
from fwdgrad.scorer import check_statistics
from fwdgrad.torch_state import Mode, TorchState

Model = Callable[[Tensor], Any]
Explainer = Callable[[Any, Tensor], Any]
_MAP = "the map of explain"
_SEED = 3_141_592_653  # none that a person makes a model with, by torch.manual_seed(0), say


def layers_of(model: torch.nn.Module) -> list[str]:
    """The modules that hold parameters of their own, from the output's side to the input's.

    Args:
        model: whose modules are made in the order in which they are used.

    Returns:
        Their names, as ``named_modules`` has them.

    Example:
        >>> layers_of(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)))
        ['1', '0']
    """
    modules = dict(model.named_modules())
    names = [name for name, module in modules.items() if list(module.parameters(recurse=False))]
    return names[::-1]


def randomised(
    model: torch.nn.Module, seed: int, layers: Sequence[str] | None = None
) -> torch.nn.Module:
    """A copy of a model that has learnt nothing: its parameters are drawn anew.

    Args:
        model: is left as it is. Each module draws by its own ``reset_parameters``; parameters of
            one that has none come from a normal distribution of their own mean and deviation. What
            batch normalisation has counted is forgotten too, as its ``reset_parameters`` does it.
        seed: of the draws, which are made on the CPU by a generator of their own; torch's go on as
            if nothing had been drawn. Not the one that the model was made with by
            ``torch.manual_seed``, or the same numbers may be drawn again.
        layers: names of those that are drawn, see ``layers_of``; all by default. A layer draws the
            same numbers whichever others do, so that ``layers_of(model)[:k]`` for k = 1, 2, ... is
            the cascade from the output down.

    Returns:
        A deep copy, in the same mode and on the same devices.

    Raises:
        TypeError, ValueError: the model has no parameters, or no layer of a name, or all that was
            drawn is what the model has already.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> one, again, other = randomised(model, 0), randomised(model, 0), randomised(model, 1)
        >>> torch.equal(one.weight, again.weight), torch.equal(one.weight, other.weight)
        (True, False)

    Source: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018, section 3.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module to be drawn anew, got {type(model).__name__}"
        )
    seed = check_integer("seed", seed, 0)
    names = layers_of(model)
    if not names:
        raise ValueError(f"model must have parameters to draw, {type(model).__name__} has none")
    unknown = sorted(set(names if layers is None else layers) - set(names))
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise ValueError(f"layers must be names in {names}, got {unknown[0]!r}{hint}")
    drawn = copy.deepcopy(model).cpu()
    with TorchState(), torch.no_grad(), _Drawn(torch.Generator().manual_seed(seed)):
        for name in names:  # all of them: then those of one layer do not depend on the choice
            _draw(drawn.get_submodule(name))
    result, is_same = copy.deepcopy(model), []
    with TorchState(), torch.no_grad():
        for name in names if layers is None else layers:
            fresh, layer = drawn.get_submodule(name), result.get_submodule(name)
            for own, new in zip(_tensors_of(layer), _tensors_of(fresh), strict=True):
                if len(new.unique()) > 1:  # not the zeros and ones that any seed gives
                    is_same.append(torch.equal(own.cpu(), new.to(own.dtype)))
                own.copy_(new)
    if is_same and all(is_same):
        raise ArgumentError(
            "seed",
            f"must be another one than the model was made with: {seed} draws what it has already",
        )
    return result


def consistency(
    explain: Explainer,
    model: torch.nn.Module,
    x: Tensor,
    *,
    seed: int = _SEED,
    layers: Sequence[str] | None = None,
) -> float:
    """How much of a map stays when the model forgets what it has learnt; low is good.

    The size of Spearman's correlation between the maps of the model and of the randomised one, the
    mean of two: of the maps with their signs, and of their absolute values. It is not signed,
    because the papers' numbers are not: maps of n elements that have nothing to do with one another
    give sqrt(2 / (pi (n - 1))) on average, which is 0.0285 for MNIST's 784 pixels, where AX has
    0.0281 for the gradient and AG 0.0209. Signed correlations would have a mean of 0 there.

    Args:
        explain: takes a model and x and returns a map, or an ``Explanation``. It must name the
            class and the objective: by default they follow from the output, and the randomised
            model has another.
        model: whose parameters are drawn anew, see ``randomised``. One with batch normalisation in
            training mode is refused.
        x: one input, without a batch axis.
        seed, layers: see ``randomised``.

    Returns:
        In [0, 1]; NaN where a map is constant.

    Raises:
        TypeError, ValueError: naming the argument; also where the two explanations are of different
            classes or objectives.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> consistency(lambda model, x: x, model, torch.tensor([1.0, 4.0, 2.0, 3.0]))
        1.0

    Source: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018, section 3; AX appendix
    F.1; AG table 1.
    """
    check_statistics(model)
    one, other = _alike(explain(model, x), explain(randomised(model, seed, layers), x))
    return (abs(spearman(one, other)) + abs(spearman(one.abs(), other.abs()))) / 2


def shifted(model: Model, shift: float | Tensor) -> Model:
    """The model on inputs that were shifted by a constant: f2(x + shift) is f(x), but for rounding.

    The shift is taken off before the first layer. Of a linear first layer that is the same as a
    bias that undoes it; of a convolution whose border is padded with zeros it is not, since no bias
    can be right in the middle and at the border both, and then only this is the same function.

    Args:
        model: any callable; a module gives a module, whose parameters are the model's.
        shift: a number, or a tensor that x can take off, such as (C, 1, 1).

    Example:
        >>> shifted(lambda batch: 2 * batch, 3.0)(torch.tensor([4.0]))
        tensor([2.])

    Source: Kindermans et al., *The (un)reliability of saliency methods*, 2019, section 2.
    """
    if isinstance(model, torch.nn.Module):
        return _Shifted(model, shift)
    return lambda batch: model(batch - shift)


def invariance(explain: Explainer, model: Model, x: Tensor, shift: float | Tensor = -1.0) -> float:
    """Whether a map stays when a constant is added to input and model, and so nothing has changed.

    Spearman's correlation of the map of f at x and that of f2 at x + shift; 1 is good. A method
    that knows the values' bounds must be told the shifted ones, or it is given another problem.

    This is one function in two guises. The papers' numbers, 0.3483 (AG) and 0.5016 (AX) for the
    gradient itself, which stays the same by the chain rule, must be of another network, trained
    anew on shifted pictures.

    Args:
        explain: takes a model and x and returns a map, or an ``Explanation``.
        model: any callable that ``explain`` takes.
        x: one input, without a batch axis.
        shift: see ``shifted``; Kindermans et al. take -1 for pixels in [0, 1].

    Returns:
        In [-1, 1]; NaN where a map is constant.

    Example:
        >>> x = torch.tensor([1.0, -2.0, 3.0])
        >>> invariance(lambda model, x: x.abs(), lambda batch: batch.sum(1), x, 10.0)
        0.5

    Source: Kindermans et al., *The (un)reliability of saliency methods*, 2019, section 2.
    """
    check_statistics(model)
    return spearman(*_alike(explain(model, x), explain(shifted(model, shift), x + shift)))


def _alike(one: Any, other: Any) -> tuple[Tensor, Tensor]:
    """The elements of two maps, seen to be of the same class and objective where they tell."""
    if isinstance(one, Explanation) and isinstance(other, Explanation):
        for name in ("target", "objective"):
            first, second = getattr(one, name), getattr(other, name)
            if first != second:
                raise ValueError(
                    f"explain must name the {name}: it explained {first!r} of the model and "
                    f"{second!r} of the changed one"
                )
    return elements_of(one, _MAP), elements_of(other, _MAP)


class _Shifted(torch.nn.Module):
    """A module of shifted inputs."""

    def __init__(self, model: torch.nn.Module, shift: float | Tensor) -> None:
        super().__init__()
        self.model = model
        self.shift = shift
        self.training = model.training  # of this one alone: the model's parts may differ

    def forward(self, batch: Tensor) -> Any:
        return self.model(batch - self.shift)


# What draws numbers and takes a generator, by name: of torch, of its tensors, and of nn.init where
# a function is one of torch's to whoever watches them.
_RANDOM = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"),
    *("random_", "uniform_", "normal_", "bernoulli_", "cauchy_", "exponential_", "geometric_"),
    *("log_normal_", "kaiming_uniform_"),
}


class _Drawn(Mode):
    """Within it, torch draws in this thread from a generator of ours where none is given."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        keywords, name = dict(keywords or {}), getattr(function, "__name__", "")
        if name in ("rand_like", "randn_like"):  # which take none in older versions
            like = arguments[0]
            keywords = {"dtype": like.dtype, "device": like.device, **keywords}
            function, arguments = getattr(torch, name.removesuffix("_like")), [like.shape]
            name = function.__name__
        if name in _RANDOM and keywords.get("generator") is None:
            keywords["generator"] = self.generator
        return function(*arguments, **keywords)


def _tensors_of(layer: torch.nn.Module) -> list[Tensor]:
    """A layer's own parameters and buffers."""
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]


def _draw(module: torch.nn.Module) -> None:
    """Draws a module's own parameters."""
    reset = getattr(module, "reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        mean, deviation = parameter.mean(), parameter.std(correction=0)
        parameter.copy_(mean + deviation * torch.randn_like(parameter))
