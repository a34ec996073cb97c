"""The rows that stand for a full product."""

import itertools

import pytest
from covering import pairs


@pytest.mark.parametrize("sizes", [(2, 3), (3, 2, 4), (2, 2, 2, 2, 2), (4, 8, 3), (5, 1, 4, 4)])
def test_any_two_values_of_two_factors_meet(sizes):
    factors = [[(factor, value) for value in range(size)] for factor, size in enumerate(sizes)]
    rows = list(pairs(*factors))
    assert len(set(rows)) == len(rows)
    met = {two for row in rows for two in itertools.combinations(row, 2)}
    wanted = {
        two
        for one, other in itertools.combinations(factors, 2)
        for two in itertools.product(one, other)
    }
    assert met == wanted
    largest = sorted(sizes)[-2:]
    assert largest[0] * largest[1] <= len(rows) <= 1.5 * largest[0] * largest[1] + 2


def test_two_factors_have_their_product_and_one_its_values():
    assert sorted(pairs("ab", "xyz")) == list(itertools.product("ab", "xyz"))
    assert list(pairs("abc")) == [("a",), ("b",), ("c",)]


def test_values_may_be_of_any_kind():
    assert list(pairs([{}, [1]], [None])) == [({}, None), ([1], None)]
