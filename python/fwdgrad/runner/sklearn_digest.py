"""Digests of fitted estimators of scikit-learn's kind: of what they have learnt.

A digest of its pickle would not do: nearest neighbours count their calls, a model that was
loaded is pickled in another way than the one that was saved, and a search for parameters writes
down how long it took. So what an estimator is made of is read part by part.
"""

from __future__ import annotations

import hashlib
import types
from typing import Any

import numpy as np
import torch

from fwdgrad.files import digest_of

_MOST_BYTES = 2**26  # of an array that are read whole; of a larger one a regular sample
_SAMPLE = 2**13  # elements of it
_NO_MATTER = {"n_jobs", "verbose", "memory", "cv_results_", "refit_time_"}  # to its answers
_BY_NAME = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_DRAWS = (np.random.RandomState, np.random.Generator, np.random.BitGenerator)


def is_estimator(part: object) -> bool:
    """Whether something has scikit-learn's ``fit`` and ``get_params``.

    >>> is_estimator(torch.nn.Linear(2, 2))
    False
    """
    return all(callable(getattr(type(part), name, None)) for name in ("fit", "get_params"))


def estimator_digest(estimator: Any) -> str:
    """SHA-256 of an estimator's parameters and of what it learnt.

    It is the same after a pickle's round trip, in another process, and after the same fit. Of what
    was learnt integers are left out, for they may count calls; integer arrays are not. Of an array
    of more than 64 MiB 8,192 elements are read.

    Example:
        >>> class Model:
        ...     def __init__(self, power): self.power = power
        ...     def fit(self, x): self.mean_, self.calls = x.mean(), 0
        ...     def get_params(self, deep=True): return {"power": self.power}
        >>> one, other = Model(2), Model(3)
        >>> estimator_digest(one) == estimator_digest(other)
        False
    """
    digest = hashlib.sha256()
    _enter(digest, estimator, set(), False)
    return digest.hexdigest()


def _enter(digest: Any, value: Any, above: set[int], is_parameter: bool) -> None:
    """Enters a part.

    Args:
        digest: of hashlib.
        value: what a fit or a caller left in an estimator: anything.
        above: the ids of the parts that this one is in.
        is_parameter: whether it is a parameter, whose integers count.
    """
    if isinstance(value, (int, *_DRAWS)):
        if is_parameter and isinstance(value, int):
            digest.update(repr(value).encode())
        return
    digest.update(f"{type(value).__qualname__} ".encode())
    plain = value is None or isinstance(value, (str, bytes, float, complex))
    if plain and not isinstance(value, np.generic):
        digest.update(repr(value).encode())
    elif isinstance(value, _BY_NAME):
        digest.update(str(getattr(value, "__qualname__", value.__name__)).encode())
    elif id(value) not in above:
        above.add(id(value))
        try:
            _enter_parts(digest, value, above, is_parameter)
        except Exception:  # what cannot be read, such as a lock or an open file, is only named
            digest.update(b"?")
        above.discard(id(value))


def _enter_parts(digest: Any, value: Any, above: set[int], is_parameter: bool) -> None:
    parts: Any = ()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        digest.update(f"{array.dtype} {array.shape}".encode())
        if array.dtype.names:  # between fields there may be bytes that nobody has set
            parts = [array[name] for name in array.dtype.names]
        elif array.dtype.hasobject:
            parts = array.ravel().tolist()
        else:
            step = -(-array.size // _SAMPLE) if array.nbytes > _MOST_BYTES else 1
            digest.update((array.reshape(-1)[::step] if step > 1 else array).tobytes())
    elif isinstance(value, torch.Tensor):
        if value.dim() or value.is_floating_point():
            digest.update(f"{value.dtype} {tuple(value.shape)} {digest_of(value)}".encode())
    elif isinstance(value, dict):
        digest.update(" ".join(repr(key) for key in value if isinstance(key, (str, int))).encode())
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, (set, frozenset)):
        parts = sorted(map(repr, value))
    elif is_estimator(value):
        names = value.get_params(deep=False)
        for name, part in sorted(vars(value).items()):
            if name not in _NO_MATTER:
                digest.update(name.encode())
                _enter(digest, part, above, name in names)
        return
    else:  # as a pickle would take it apart
        found = value.__reduce_ex__(4)
        parts = found[1:3] if isinstance(found, tuple) else (found,)
        parts = [*parts, *(list(more or ()) for more in found[3:5] if isinstance(found, tuple))]
    digest.update(b"(")
    for part in parts:
        _enter(digest, part, above, is_parameter)
    digest.update(b")")
