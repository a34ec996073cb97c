"""Models that misbehave: each ends in the right map, or in an error of one line that is documented.

A kind is a change of a well-behaved model. Where it leaves the scores alone, the map must have the
same bits; where it does not, the run must be refused.
"""

from __future__ import annotations

import collections
import functools
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fwdgrad
from fwdgrad import ForwardGradient

Model = Callable[[Tensor], Any]

SHAPE = (2, 4, 6)
_WEIGHTS = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(*SHAPE) ** 3
_ERRORS = (fwdgrad.ModelError, TypeError, ValueError)

HADAMARD = ForwardGradient(0.3, design="hadamard", antithetic=False, control_variate="mean")
BETWEEN = ForwardGradient(distribution="rademacher", baseline=0.0)


def plain(batch: Tensor) -> Tensor:
    """(batch, 3) of float64, each row by itself whatever the batch."""
    total = (batch.double() * _WEIGHTS).flatten(1)
    first = torch.stack([row.sum() for row in total])
    return torch.stack([first, (first * total[:, 1]).tanh(), -first], 1)


class Unprintable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        """Fails."""
        raise RuntimeError("no text")


class Output(collections.OrderedDict[str, Any]):
    """What transformers returns: a mapping that has its keys as attributes."""

    def __getattr__(self, name: str) -> Any:
        """The value of a key."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Stubborn:
    """Knows no attribute, and says so in its own way."""

    def __getattr__(self, name: str) -> Any:
        """Fails as a dictionary does."""
        raise KeyError(name)


Pair = collections.namedtuple("Pair", ["logits", "aux"])


class Norm(torch.nn.Module):
    """Batch normalisation, in training mode as a new module is."""

    def __init__(self) -> None:
        """Of two channels."""
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(2)

    def forward(self, batch: Tensor) -> Tensor:
        """Scores of what was normalised."""
        return plain(self.norm(batch))


class Own:
    """Answers from one buffer of its own, again and again."""

    def __init__(self) -> None:
        """A large one."""
        self.buffer = torch.zeros(256, 3, dtype=torch.float64)

    def __call__(self, batch: Tensor) -> Tensor:
        """A view of it."""
        self.buffer[: len(batch)] = plain(batch)
        return self.buffer[: len(batch)]

    def method(self, batch: Tensor) -> Tensor:
        """The same."""
        return self(batch)


class Keeps:
    """Keeps copies of all batches, and returns scores of them."""

    def __init__(self) -> None:
        """None yet."""
        self.kept: list[Tensor] = []

    def __call__(self, batch: Tensor) -> Tensor:
        """From the last one."""
        self.kept.append(batch.clone())
        batch.fill_(torch.nan)
        return plain(self.kept[-1])


def after(change: Callable[[Tensor], Any]) -> Model:
    """Answers, and then does something to its batch."""

    def model(batch: Tensor) -> Tensor:
        found = plain(batch)
        change(batch)
        return found

    return model


def of(form: Callable[[Tensor], Any]) -> Model:
    """Answers in another form."""
    return lambda batch: form(plain(batch))


def small(error: BaseException, most: int = 4) -> Model:
    """Fails on batches of more samples."""

    def model(batch: Tensor) -> Tensor:
        if len(batch) > most:
            raise error
        return plain(batch)

    return model


def sparse_csr(found: Tensor) -> Tensor:
    """Without torch's warning that it is new."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return found.to_sparse_csr()


def object_array(found: Tensor) -> Any:
    """As a column of pandas may be."""
    return np.array(found.tolist(), dtype=object)


def frame(found: Tensor) -> Any:
    """Of pandas, where that is installed."""
    try:
        import pandas
    except ImportError:
        return found
    return pandas.DataFrame(found.numpy(), index=[f"row {i}" for i in range(len(found))])


def fake(found: Tensor) -> Tensor:
    """As torch's compiler has them: a shape and no values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.empty(found.shape, dtype=found.dtype)


def nested(found: Tensor) -> Any:
    """Of rows that could differ in length."""
    return torch.nested.nested_tensor(list(found), layout=torch.jagged)


def recursive(batch: Tensor) -> Tensor:
    """Explains another model while it is explained."""
    fwdgrad.explain(plain, batch[0].double(), 0, method=ForwardGradient(scale=0.1), n_samples=2)
    return plain(batch)


def enable_grad(batch: Tensor) -> Tensor:
    """Leaves a graph."""
    with torch.enable_grad():
        return plain(batch) * torch.ones((), dtype=torch.float64, requires_grad=True)


def numpy_of(change: Callable[[Any], Any]) -> Model:
    """Answers with an array of an odd layout."""
    return of(lambda found: change(found.numpy()))


def read_only(values: Any) -> Any:
    """One that may not be written to."""
    values.setflags(write=False)
    return values


def fewer(batch: Tensor) -> Any:
    """A row less than it was asked for."""
    return plain(batch)[1:]


async def coroutine(batch: Tensor) -> Tensor:
    """What nobody waits for."""
    return plain(batch)


async_closed: Model = lambda batch: _close(coroutine(batch))  # noqa: E731


def _close(waiting: Any) -> Any:
    waiting.close()  # or Python warns of it
    return waiting


# The map must come out, bit for bit.
RIGHT: dict[str, Callable[[], Model]] = {
    "plain": lambda: plain,
    "list": lambda: of(Tensor.tolist),
    "tuple of lists": lambda: of(lambda found: tuple(map(tuple, found.tolist()))),
    "numpy": lambda: numpy_of(lambda values: values),
    "numpy, read-only": lambda: numpy_of(read_only),
    "numpy, big-endian": lambda: numpy_of(lambda values: values.astype(">f8")),
    "numpy, negative strides": lambda: numpy_of(lambda v: v[::-1, ::-1].copy()[::-1, ::-1]),
    "numpy, Fortran order": lambda: numpy_of(np.asfortranarray),
    "numpy, long double": lambda: numpy_of(lambda values: values.astype(np.longdouble)),
    "numpy, masked without a mask": lambda: numpy_of(np.ma.masked_array),
    "numpy, objects": lambda: of(object_array),
    "list of arrays": lambda: numpy_of(list),
    "pandas": lambda: of(frame),
    "sparse": lambda: of(Tensor.to_sparse),
    "sparse rows": lambda: of(sparse_csr),
    "a parameter": lambda: of(lambda found: torch.nn.Parameter(found, requires_grad=False)),
    "not contiguous": lambda: of(lambda found: found.T.contiguous().T),
    "lazily negated": lambda: of(lambda found: torch._neg_view(-found)),
    "its own buffer": Own,
    "a bound method": lambda: Own().method,
    "functools.partial": lambda: functools.partial(plain),
    "keeps batches, as copies": Keeps,
    "writes zeros into the batch": lambda: after(Tensor.zero_),
    "writes NaN into the batch": lambda: after(lambda batch: batch.fill_(torch.nan)),
    "asks the batch for a gradient": lambda: after(Tensor.requires_grad_),
    "transposes the batch in place": lambda: after(lambda batch: batch.transpose_(1, 2)),
    "changes the batch's data": lambda: after(lambda b: setattr(b, "data", b.data * 2)),
    "seeds torch": lambda: after(lambda batch: torch.manual_seed(len(batch))),
    "explains another model": lambda: recursive,
    "in inference mode": lambda: torch.inference_mode()(plain),
    "out of memory above 4 samples": lambda: small(MemoryError()),
    "out of CUDA memory above 4": lambda: small(torch.OutOfMemoryError("CUDA out of memory.")),
    "in float32 and float64 in turn": lambda: in_turn(lambda f: f.float().double(), lambda f: f),
    "in evaluation mode": lambda: Norm().eval(),
}


def in_turn(*forms: Callable[[Tensor], Any]) -> Model:
    """Answers in another form at each call; of the same values to seven digits."""
    calls = 0

    def model(batch: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return forms[calls % len(forms)](plain(batch))

    return model


# From a call on, which must be refused. At the input itself, or in the middle of a run.
ANSWERS: dict[str, Model] = {
    "a row less": fewer,
    "a row more": lambda batch: plain(torch.cat([batch, batch[:1]])),
    "transposed": of(lambda found: torch.cat([found, found, found, found])[:, None].mT),
    "flat": of(lambda found: found.flatten()),
    "with an axis more": of(lambda found: found[:, None]),
    "no classes": of(lambda found: found[:, :0]),
    "nothing": of(lambda found: found[:0]),
    "NaN": of(lambda found: found * torch.nan),
    "infinity": of(lambda found: found.abs() / 0),
    "a gradient graph": enable_grad,
    "booleans": of(lambda found: found > 0),
    "complex numbers": of(lambda found: found + 1j),
    "labels": of(lambda found: found.argmax(1)),
    "a dict": of(lambda found: {"scores": found}),
    "a dict with logits": of(lambda found: {"loss": 0.0, "logits": found}),
    "transformers' output": of(lambda found: Output(logits=found)),
    "a named tuple": of(lambda found: Pair(found, None)),
    "a tuple": of(lambda found: (found, found)),
    "a list of rows": of(lambda found: list(found.unbind())),
    "a list of outputs": of(lambda found: [found]),
    "a ragged list": of(lambda found: [[0.5] * (i + 1) for i in range(len(found))] + [[]]),
    "an object without attributes": of(lambda found: Stubborn()),
    "a fake tensor": of(fake),
    "a generator": of(lambda found: (row for row in found)),
    "a set": of(lambda found: set(found.flatten().tolist())),
    "a coroutine": async_closed,
    "None": of(lambda found: None),
    "a string": of(lambda found: "0.5"),
    "bytes": of(lambda found: found.numpy().tobytes()),
    "names": of(lambda found: ["cat"] * len(found)),
    "names in an array": of(lambda found: np.array(["cat"] * len(found))),
    "Nones": of(lambda found: [None] * len(found)),
    "dates": of(lambda found: np.zeros(len(found), "datetime64[s]")),
    "masked values": numpy_of(lambda values: np.ma.masked_greater(values, -9)),
    "a nested tensor": of(nested),
    "a tensor on meta": of(lambda found: found.to("meta")),
    "sparse rows, one less": lambda batch: plain(batch)[1:].to_sparse(),
    "the class of tensors": of(lambda found: Tensor),
}
OF_FORM: dict[str, Model] = {  # right by itself, but not after another form
    "3 of 6 classes": of(lambda found: found[:, :2]),
    "6 for 3 classes": of(lambda found: torch.cat([found, found], 1)),
    "one number": of(lambda found: found[:, 0]),
    "one number for all": of(Tensor.sum),
    "a column": of(lambda found: found[:, :1]),
    "integers": of(lambda found: (found * 100).int()),
}
RAISES: dict[str, Callable[[], BaseException]] = {
    "RuntimeError": lambda: RuntimeError("shapes\n  do not\n\tfit"),
    "ValueError": lambda: ValueError("no\r\nsuch value"),
    "KeyError": lambda: KeyError("layer"),
    "IndexError": lambda: IndexError(),
    "StopIteration": lambda: StopIteration(3),
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "AssertionError": lambda: AssertionError(),
    "TimeoutError": lambda: TimeoutError("the server does not answer"),
    "OSError": lambda: OSError(28, "No space left on device"),
    "a long text": lambda: RuntimeError("x" * 100_000),
    "no text": Unprintable,
    "one that was raised": lambda: fwdgrad.ModelError("the server is busy"),
}
PASSES: dict[str, Callable[[], BaseException]] = {  # a person's or the interpreter's wish
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
}
ALWAYS: dict[str, Callable[[], Any]] = {  # refused for what it is
    "takes no argument": lambda: lambda: plain,
    "takes one sample alone": lambda: small(ValueError("one at a time"), most=1),
    "batch normalisation in training": Norm,
    "a class": lambda: Norm,
    "None for a model": lambda: None,
    "a tensor for a model": lambda: torch.zeros(3),
    "memory for none": lambda: small(MemoryError(), most=0),
    "takes 48 numbers": lambda: torch.nn.Linear(47, 3).eval(),
    "takes float16": lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(48, 3, dtype=torch.float16)
    ).eval(),
}


def at(call: int, model: Model, otherwise: Model = plain) -> Model:
    """One model at a call, another at all others; call 0 is the one at the input itself."""
    calls = -1

    def both(batch: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return (model if calls == call else otherwise)(batch)

    return both


def raising(error: BaseException) -> Model:
    """Fails."""

    def model(batch: Tensor) -> Any:
        raise error

    return model


def run(count: int, seed: int) -> dict[str, object]:
    """Explains models of all kinds in turn.

    Args:
        count: of the runs.
        seed: of the inputs, the calls that go wrong, and the options.

    Returns:
        How many kinds there are; how many runs were tried, gave the right map, or were refused in
        one line; how many went wrong, and which; seconds.
    """
    draw = random.Random(seed)
    kinds = [
        *(("right", name) for name in RIGHT),
        *(("answer", name) for name in (*ANSWERS, *OF_FORM)),
        *(("raise", name) for name in (*RAISES, *PASSES)),
        *(("always", name) for name in ALWAYS),
    ]
    figures = {"kinds": len(kinds), "tried": 0, "right map": 0, "refused": 0, "wrong": 0}
    wrong: list[str] = []
    started = time.perf_counter()
    for number in range(count):
        group, name = kinds[number % len(kinds)]
        generator = torch.Generator().manual_seed(draw.randrange(2**31))
        x = torch.rand(SHAPE, generator=generator, dtype=torch.float64)
        options: dict[str, Any] = draw.choice(
            [
                {"method": ForwardGradient(scale=0.3), "objective": "output"},
                {"method": HADAMARD, "objective": "output"},
                {"method": BETWEEN, "objective": "probability"},
            ]
        )
        options = {**options, "n_samples": 48, "target": 0, "batch_size": draw.choice([6, 16, 48])}
        calls = -(-48 // options["batch_size"])
        outcome, said = _one(group, name, x, options, draw.randint(0, calls))
        figures["tried"] += 1
        figures[outcome] += 1
        if outcome == "wrong":
            wrong.append(f"{group} {name}: {said}"[:200])
    seconds = round(time.perf_counter() - started, 1)
    return {
        **figures,
        **({"which": "; ".join(sorted(set(wrong)))} if wrong else {}),
        "seconds": seconds,
    }


def _one(group: str, name: str, x: Tensor, options: dict[str, Any], call: int) -> tuple[str, str]:
    """What became of one run, and what was said."""
    expected: tuple[type[BaseException], ...] = _ERRORS
    if group == "right":
        model = RIGHT[name]()
    elif group == "answer" and name in ANSWERS:
        model, expected = at(call, ANSWERS[name]), (fwdgrad.ModelError,)
    elif group == "answer":
        model, expected = at(max(1, call), OF_FORM[name]), (fwdgrad.ModelError,)
    elif group == "raise":
        model = at(call, raising((RAISES | PASSES)[name]()))
        expected = (type(PASSES[name]()),) if name in PASSES else (fwdgrad.ModelError,)
    else:
        model = ALWAYS[name]()
    state = torch.get_default_dtype(), torch.is_grad_enabled()
    reference = plain
    if name == "in evaluation mode":
        x, reference = x.float(), Norm().eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fwdgrad.explain(model, x, **options)
            right = fwdgrad.explain(reference, x, **options)
    except BaseException as error:
        if group == "right" or not isinstance(error, expected):
            return "wrong", f"{type(error).__name__}: {error!r}"
        if name in PASSES:
            return "refused", ""
        text = str(error)
        if "\n" in text or not 10 < len(text) < 1200:
            return "wrong", f"{len(text)} characters: {text!r}"
        return "refused", text
    if group != "right":
        return "wrong", "a map"
    if state != (torch.get_default_dtype(), torch.is_grad_enabled()):
        return "wrong", "torch's state was changed"
    close = torch.equal(found.attribution, right.attribution)
    if name.startswith("in float32"):
        close = torch.allclose(found.attribution, right.attribution, atol=1e-5)
    return ("right map", "") if close else ("wrong", "another map")
