"""Few rows in place of a full product: any two values of two factors meet in one of them."""

import itertools

import gpu
import pytest

from fwdgrad_kernels.testing import case_id

FIXTURES = ("any_backend", "gpu_backend", "library")


def pairs(*factors):
    """Rows with a value of each factor, such that any two values of two factors meet in a row.

    Always the same rows. Each starts with two values that have not met and takes of every other
    factor the value that meets most new ones, of several the one that has been taken least.

    >>> list(pairs("ab", (1, 2), (True, False)))
    [('a', 1, True), ('a', 2, False), ('b', 1, False), ('b', 2, True)]
    """
    sizes = [range(len(factor)) for factor in factors]
    if len(factors) < 2:
        yield from itertools.product(*factors)
        return
    left = {
        ((f, a), (g, b)): None  # a dict keeps its order, a set does not
        for f, g in itertools.combinations(range(len(factors)), 2)
        for a, b in itertools.product(sizes[f], sizes[g])
    }
    taken = dict.fromkeys(((f, a) for f, size in enumerate(sizes) for a in size), 0)
    while left:
        row = dict(next(iter(left)))
        for f in range(len(factors)):
            if f not in row:
                new = {a: sum(_pair(f, a, *one) in left for one in row.items()) for a in sizes[f]}
                row[f] = min(sizes[f], key=lambda a: (-new[a], taken[f, a]))
        for one, other in itertools.combinations(sorted(row.items()), 2):
            left.pop((one, other), None)
        for one in row.items():
            taken[one] += 1
        yield tuple(factor[row[f]] for f, factor in enumerate(factors))


def _pair(f, a, g, b):
    return ((f, a), (g, b)) if f < g else ((g, b), (f, a))


def covering(**factors):
    """Parametrises a test by the rows of ``pairs``; of backends, by the fixtures that have them."""
    rows = [
        pytest.param(*row, id="-".join(map(_name, row)), marks=gpu.marks_of(row))
        for row in pairs(*factors.values())
    ]
    fixtures = [name for name in factors if name in FIXTURES]
    return pytest.mark.parametrize(tuple(factors), rows, indirect=fixtures)


def _name(value):
    if isinstance(value, dict):
        return case_id(((), value)).strip("-") or "plain"
    return (case_id(value) or str(value)).removeprefix("torch.").replace(" ", "")
