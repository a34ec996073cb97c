"""What every method is: a small frozen value that plans a run."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from typing import Any, ClassVar, TypeVar

from torch import Tensor
from typing_extensions import dataclass_transform

from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ArgumentTypeError, Option
from fwdgrad.parameters import ParameterNoise
from fwdgrad.plan import Plan
from fwdgrad_kernels import Features

FIRST = 128  # samples of the first look of a run that goes on until its map is sure
_MOST = 2**40  # samples; their scores alone would take terabytes

_Class = TypeVar("_Class", bound=type)


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a method beside its own options.

    Args:
        n_samples: perturbed inputs; None: as many as the method takes by default.
        features: what moves together; None: what the method takes by default.
        seed: of all that is drawn, 0 .. 2^64 - 1.
        multiple: the number of samples (pairs count once) must be a multiple of this.
        is_random: whether samples differ by more than a method's own noise.
        most: of a run that goes on with more samples of the same plan until its map is sure:
            perturbed inputs at most. The plan is of those of its first look, 128 or one unit of
            samples that depend on one another, of a group as for so many.
    """

    n_samples: int | None = None
    features: Features | None = None
    seed: int = 0
    multiple: int = 1
    is_random: bool = False
    most: int | None = None

    def count(self, default: int, antithetic: bool = False) -> int:
        """How many samples there are; one with both signs of its noise counts once."""
        signs = 2 if antithetic else 1
        if self.n_samples is None:
            default = default if self.most is None else FIRST
            return -(-default // (signs * self.multiple)) * self.multiple
        n = check_integer("n_samples", self.n_samples, 1)
        if n > _MOST:
            raise ArgumentError("n_samples", f"must be at most 2^40, got {n}")
        if n % signs:
            raise ArgumentError(
                "n_samples",
                f"must be even with antithetic pairs, got {n}; give {n + 1}, or ",
                Option("antithetic", False),
            )
        return n // signs

    def whole(self, plan: Plan) -> Plan:
        """The plan as it is; of a run that goes on, with its first units whole."""
        if self.most is None or plan.labels is not None:
            return plan
        samples = -(-plan.samples // plan.unit) * plan.unit
        return dataclasses.replace(plan, samples=samples)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Method:
    """How a decision is explained: its options, and the run that they make of an input."""

    name: ClassVar[str]
    line: ClassVar[str]  # what it is, in a line
    source: ClassVar[str]  # the paper and its equation
    grows: ClassVar[bool] = False  # whether its map can be of more and more samples of one plan

    def plan(self, x: Tensor, request: Request) -> Plan:
        """The run that explains an input.

        Raises:
            TypeError, ValueError: naming the option that does not fit the input.
        """
        raise NotImplementedError

    @property
    def noise_scale(self) -> Any:
        """The scale of the noise on the input, where it or the gradient in it has one."""
        gradient = getattr(self, "gradient", None)
        return getattr(self, "scale", None) if gradient is None else gradient.noise_scale

    def __repr__(self) -> str:
        """What makes it again; of a tensor the shape alone."""
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(shown)})"

    def copied(self) -> Method:
        """The same, with tensors of its own and without a module."""
        return dataclasses.replace(
            self, **{f.name: _copied(getattr(self, f.name)) for f in dataclasses.fields(self)}
        )

    def __eq__(self, other: object) -> bool:
        """Whether it is the same method with the same options."""
        if type(other) is not type(self):
            return NotImplemented
        return all(_same(one, two) for one, two in zip(_values(self), _values(other), strict=True))

    def __hash__(self) -> int:
        """Of its kind and its options."""
        values = (tuple(v.shape) if isinstance(v, Tensor) else v for v in _values(self))
        return hash((type(self), *values))


def _values(method: Any) -> list[Any]:
    return [getattr(method, field.name) for field in dataclasses.fields(method)]


def _shown(value: Any) -> str:
    if isinstance(value, Tensor) and value.dim():
        return f"<{' x '.join(map(str, value.shape))} numbers>"
    return repr(value)


def _copied(value: Any) -> Any:
    if isinstance(value, Method):
        return value.copied()
    if isinstance(value, ParameterNoise):
        return dataclasses.replace(value, module=None)
    return value.clone() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        both = isinstance(one, Tensor) and isinstance(other, Tensor)
        return both and one.shape == other.shape and bool((one == other).all())
    return bool(one == other)


@dataclass_transform(frozen_default=True)
def method(cls: _Class) -> _Class:
    """A frozen dataclass whose TypeError for a wrong option says which ones there are."""
    made: Any = dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
    start = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    @functools.wraps(start)
    def init(self: Any, *arguments: Any, **options: Any) -> None:
        for name in options:
            if name not in names:
                raise TypeError(
                    f"{made.__name__}() got an unexpected keyword argument {name!r}; "
                    f"{hint_of(name, names)}"
                )
        start(self, *arguments, **options)

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def check_gradient(gradient: Any, *kinds: type[Method]) -> None:
    """Raises TypeError where a method that wraps another one has none of the kinds in it."""
    if not isinstance(gradient, kinds):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ArgumentTypeError("gradient", f"must be one of {names}, got {gradient!r}")


RENAMED = {  # what other tools call our options
    "sigma": "scale", "std": "scale", "stdevs": "scale", "noise_level": "scale",
    "law": "distribution", "nt_samples": "n_samples", "queries": "n_samples",
    "n_steps": "steps", "baselines": "baseline", "feature_mask": "features",
    "callback": "on_look", "callbacks": "on_look",
}  # fmt: skip


def hint_of(name: str, names: list[str]) -> str:
    """What may have been meant by an option that there is not.

    >>> hint_of("sigma", ["scale", "clip"]), hint_of("x", [])
    ('did you mean scale?', 'it has no options')
    """
    if RENAMED.get(name) in names:
        return f"did you mean {RENAMED[name]}?"
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"it has {', '.join(names)}" if names else "it has no options"
