"""Fingerprints of a model: its parameters, its output at the input, a few samples' scores.

A model is a function, and two functions cannot be compared. What can be: the parameters that are
found in it, its whole output at the input, and the scores of a few samples. The parameters must be
the same to the bit. Numbers need only be as near as another machine rounds them: outputs and scores
to a thousandth of the largest; where all lie in [0, 1], as probabilities do, to a hundredth of p or
1 - p, whichever is less, so that .99999 is told from .99993. What is less precise than float32 may
be off by a few of its roundings.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree  # torch has no public one, and its users' types are there

from fwdgrad.files import digest_of
from fwdgrad.runner.sklearn_digest import estimator_digest, is_estimator

_MOST_NUMBERS = 4096  # of an output that are kept; of a larger one a regular sample
_MOST_BYTES = 2**26  # of parameters that are read whole; of more, a regular sample of each
_SAMPLE = 2**13  # elements of each
_DEPTH, _MOST_PARTS = 3, 64  # how far a callable is looked into for modules
_FEW, _MANY = 4, 32  # samples that are evaluated again


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's output at the input.

    Attributes:
        numbers: what may be off by a rounding: float64 (n,), at most 4,096 of its numbers.
        rest: what must be the same: types, shapes, integers and texts, as JSON has them.
        precision: the coarsest relative rounding of its types.
    """

    numbers: Tensor
    rest: list[Any]
    precision: float

    @classmethod
    def of(cls, outputs: Any) -> Answer:
        """The answer in what a model returned: tensors, arrays, lists, dicts, labels, texts.

        >>> Answer.of(torch.tensor([[0.5, 2.0]])).numbers
        tensor([0.5000, 2.0000], dtype=torch.float64)
        >>> Answer.of(torch.tensor([[0.5, 2.0]])).rest, Answer.of(["cat"]).rest
        (['torch.float32 (1, 2)'], ['cat'])
        """
        numbers, precision = [torch.empty(0, dtype=torch.float64)], 0.0
        rest: list[Any] = []
        for leaf in pytree.tree_leaves(outputs)[:_MOST_NUMBERS]:
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "OSU":
                rest.append([str(one) for one in leaf.flat[:_MOST_NUMBERS]])
            elif isinstance(leaf, str):
                rest.append(leaf)
            else:
                try:
                    tensor = torch.as_tensor(leaf).detach()
                    flat = tensor.reshape(-1)
                    some = flat[:: max(1, -(-len(flat) // _MOST_NUMBERS))].cpu()
                except (TypeError, ValueError, RuntimeError, NotImplementedError):
                    rest.append(type(leaf).__name__)
                    continue
                rest.append(f"{tensor.dtype} {tuple(tensor.shape)}")
                if some.is_floating_point():
                    numbers.append(some.double())
                    precision = max(precision, torch.finfo(some.dtype).eps)
                elif not some.is_complex():
                    rest.append(some.tolist())
        return cls(torch.cat(numbers)[:_MOST_NUMBERS].clone(), rest, precision)


def differ(one: Tensor, other: Tensor, precision: float = 0.0) -> Tensor:
    """Which numbers differ by more than a rounding; see the module's text.

    Args:
        one: float64 (n,).
        other: float64 (n,).
        precision: the relative rounding of what they were computed in, where it is coarse.

    Returns:
        bool (n,).

    Example:
        >>> differ(torch.tensor([0.5, 0.99999]).double(), torch.tensor([0.501, 0.99993]).double())
        tensor([False,  True])
    """
    same = (one == other) | (one.isnan() & other.isnan())
    a, b = (torch.where(same, 0.0, value) for value in (one, other))
    if bool(((one >= 0) & (one <= 1) & (other >= 0) & (other <= 1)).all()):
        least = torch.maximum(torch.minimum(one, 1 - one), torch.minimum(other, 1 - other))
        allowed = max(1e-2, 4 * precision) * least
        allowed += 4 * max(precision, 2**-24) * torch.maximum(one, other)  # of p near 1
    else:
        finite = [value[value.isfinite()].abs() for value in (one, other)]
        top = torch.cat([*finite, torch.zeros(1, dtype=torch.float64)]).max()
        allowed = max(1e-3, 4 * precision) * top
    return ~same & ~((a - b).abs() <= allowed)


def telling_samples(scores: Tensor) -> list[int]:
    """The samples to evaluate again: those of the lowest scores and those of the highest.

    Args:
        scores: (samples,).

    Returns:
        The numbers of 4 samples; of 32 where a few scores come again and again, as they do of a
        model that only tells a class: right is right, of whichever model.

    Example:
        >>> telling_samples(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]))
        [1, 2, 3, 5]
    """
    count = _MANY if 2 * len(scores.unique()) <= len(scores) else _FEW
    order = scores.argsort(stable=True).tolist()
    return sorted({*order[: count // 2], *order[-(count // 2) :]})


def parameters_digest(model: Callable[..., Any]) -> str | None:
    """SHA-256 of the parameters that a model has; None where none are found.

    These are a module's parameters and floating buffers, what an estimator of scikit-learn's has
    learnt, and a wrapper's own ``model_digest``, as ``OnnxModel`` has. They are looked for in the
    model itself, in what a method is of, and in what a function names, as
    ``lambda batch: model(batch)[0]`` does; three steps deep. Of more than 64 MiB a regular sample
    of each is taken, 8,192 elements.

    Example:
        >>> parameters_digest(torch.sin) is None
        True
        >>> one = torch.nn.Linear(2, 2)
        >>> parameters_digest(lambda batch: one(batch)) == parameters_digest(one)
        True
    """
    models = models_of(model)
    tensors = [
        value
        for module in models
        if isinstance(module, torch.nn.Module)
        for value in (*module.parameters(), *module.buffers())
        # What a lazy layer will have is not there yet; an integer may count calls.
        if not torch.nn.parameter.is_lazy(value) and value.is_floating_point()
    ]
    others = [
        estimator_digest(one) if is_estimator(one) else str(one.model_digest)
        for one in models
        if not isinstance(one, torch.nn.Module)
    ]
    if not (tensors or others):
        return None
    whole = sum(value.nbytes for value in tensors) <= _MOST_BYTES
    digest = hashlib.sha256()
    for value in tensors:  # without names: a wrapper may change them
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        if value.is_meta or value.layout != torch.strided:
            continue
        step = 1 if whole else -(-value.numel() // _SAMPLE)
        digest.update(digest_of(value.detach().reshape(-1)[::step] if step > 1 else value).encode())
    for other in others:
        digest.update(other.encode())
    return digest.hexdigest()


def models_of(model: Any) -> list[Any]:
    """The modules, and what else has a digest, that can be found in a callable."""
    found: list[Any] = []
    parts, seen = [(model, 0)], {id(model)}
    for part, depth in parts:  # which grows meanwhile
        own = isinstance(getattr(part, "__dict__", {}).get("model_digest"), str)
        if isinstance(part, torch.nn.Module) or is_estimator(part) or own:
            found.append(part)
        elif depth < _DEPTH:
            new = [one for one in _parts_of(part) if id(one) not in seen][:_MOST_PARTS]
            seen.update(map(id, new))
            parts += [(one, depth + 1) for one in new]
    return found


def _parts_of(part: Any) -> list[Any]:
    if isinstance(part, functools.partial):
        return [part.func, *part.args, *part.keywords.values()]
    if isinstance(part, types.MethodType):
        return [part.__self__]
    if isinstance(part, (list, tuple)):
        return list(part)
    if isinstance(part, dict):
        return list(part.values())
    if isinstance(part, types.FunctionType):
        names = _names_in(part.__code__)
        named = [part.__globals__[name] for name in names if name in part.__globals__]
        named += [*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
        for cell in part.__closure__ or ():
            with contextlib.suppress(ValueError):  # one that is still empty
                named.append(cell.cell_contents)
        return named
    if isinstance(part, (type, types.ModuleType)):
        return []
    return list(getattr(part, "__dict__", {}).values())


def _names_in(code: types.CodeType) -> list[str]:
    """The names in a function's code, with those of functions and loops inside it."""
    inner = [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return [*code.co_names, *(name for part in inner for name in _names_in(part))]
