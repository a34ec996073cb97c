"""Which features of a map are no noise: rates on models whose truth is known."""

import dataclasses
import math
import warnings

import pytest
import torch

import fwdgrad
from fwdgrad import Coalitions, ForwardGradient, Grid, Labels, Regions, ReliabilityWarning
from fwdgrad.adapters.strings import TextModel
from fwdgrad.errors import Option
from fwdgrad.estimate.student import two_sided
from fwdgrad.methods import plan_again
from fwdgrad.parts import parts_of
from fwdgrad.significance import _prior, _rejected, degrees_of_freedom

FEW = 4  # features that a score depends on


def of_few(features, seed, kind):
    """A score of four features, and which these are."""
    g = torch.Generator().manual_seed(seed)
    own = torch.randperm(features, generator=g)[:FEW]
    weights = torch.where(torch.rand(FEW, generator=g) < 0.5, -1.0, 1.0).double()

    def noisy(batch):
        score = batch[:, own].double() @ weights
        return score + 0.5 * torch.randn(len(batch), generator=g).double()

    def acting_together(batch):
        return torch.sigmoid(2 * (batch[:, own].double() @ weights))

    return {"noisy": noisy, "together": acting_together}[kind], own


def rates(features, n_samples, kind, method, runs=25):
    """Of what is told the share that is false, and of what is true the share that is told."""
    false, told = [], []
    for seed in range(runs):
        model, own = of_few(features, seed, kind)
        x = torch.ones(features, dtype=torch.float64)
        e = fwdgrad.explain(
            model, x, method=method, objective="output", n_samples=n_samples, seed=seed
        )
        found = e.significant()
        right = int(found[own].sum())
        false.append((int(found.sum()) - right) / max(1, int(found.sum())))
        told.append(right / FEW)
    return sum(false) / runs, sum(told) / runs


INDEPENDENT = ForwardGradient(distribution="rademacher", scale=0.5, baseline=0.0)


@pytest.mark.parametrize(
    ("features", "n_samples", "kind", "method"),
    [
        (40, 128, "noisy", Regions(0.0)),  # two groups: one degree of freedom of their own
        (100, 128, "noisy", Regions(0.0)),  # one group
        (12, 512, "together", Regions(0.0)),
        (40, 512, "together", Regions(0.0)),  # eight groups
        (40, 1024, "noisy", INDEPENDENT),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::fwdgrad.errors.ReliabilityWarning")
def test_few_of_those_that_are_told_are_false(features, n_samples, kind, method):
    """At a level of .05: the mean of 25 runs has a standard error of about .02 itself."""
    false, told = rates(features, n_samples, kind, method)
    assert false < 0.1
    assert told > 0.8


def test_what_features_do_together_is_told_of():
    """What three features do together may fall on the direction of a fourth one."""
    model = lambda batch: batch[:, 2] * batch[:, 4] * batch[:, 5]  # noqa: E731
    x = torch.ones(7, dtype=torch.float64)
    options = {"method": Regions(0.0), "objective": "output"}
    e = fwdgrad.explain(model, x, n_samples=16, **options)
    with pytest.warns(ReliabilityWarning, match="1 groups .* n_samples=128 tells them apart"):
        e.significant()
    e = fwdgrad.explain(model, x, n_samples=1024, **options)
    assert e.significant().nonzero().flatten().tolist() == [2, 4, 5]


@pytest.mark.parametrize("words", [6, 7, 9, 12, 17, 40])
@pytest.mark.parametrize("n_samples", [24, 100, 200])
def test_as_many_samples_of_words_as_the_warning_advises_are_enough(words, n_samples):
    model = TextModel(lambda texts: [len(text) + float("b c" in text) for text in texts])
    text = " ".join("abcdefghijklmnopqrstuvwxyz"[i % 26] for i in range(words))
    first = fwdgrad.explain(model, text, n_samples=n_samples)
    if advised := advice_of(first):
        assert advice_of(fwdgrad.explain(model, text, **advised)) == {}
    else:
        assert n_samples >= min(1 << words, 64)


@pytest.mark.parametrize(
    ("method", "n_samples"),
    [
        (Regions(0.0, axes=1), 12),
        (Regions(0.0, axes=1, antithetic=True), 40),
        (ForwardGradient(scale=1.0, design="hadamard"), 130),
    ],
    ids=str,
)
def test_as_many_samples_of_a_series_as_the_warning_advises_are_enough(method, n_samples):
    x = torch.arange(32.0).reshape(2, 16)

    def run(n_samples, **options):
        how = dataclasses.replace(method, **options)
        model = lambda batch: batch.sum((1, 2)) + batch[:, 0, 3] * batch[:, 1, 9]  # noqa: E731
        return fwdgrad.explain(model, x, method=how, objective="output", n_samples=n_samples)

    advised = advice_of(run(n_samples))
    assert advised["n_samples"] > n_samples
    assert advice_of(run(**advised)) == {}


def advice_of(explanation):
    """What the warning of few groups says to ask for, by the options' names; else nothing."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explanation.significant()
    parts = [part for one in caught for part in one.message.args[0].parts]
    return {part.name: part.value[0] for part in parts if isinstance(part, Option)}


def test_features_lend_one_another_their_errors():
    """With one degree of freedom of its own a feature would need an error of a thousandth."""
    model, own = of_few(40, 3, "noisy")
    x = torch.ones(40, dtype=torch.float64)
    e = fwdgrad.explain(model, x, method=Regions(0.0), objective="output", n_samples=128)
    with pytest.warns(ReliabilityWarning):
        found = e.significant()
    alone = two_sided(e.attribution / e.standard_error, 1.0)
    assert int(found[own].sum()) > int((alone[own] < 0.05 / 40).sum())


def test_a_cell_is_one_feature_and_the_map_has_its_shape():
    corner = lambda batch: batch[:, :, :8, :8].mean((1, 2, 3))  # noqa: E731
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    e = fwdgrad.explain(corner, x, features=Grid((8, 8), "nearest"), method=Regions(0.0),
                        n_samples=128)  # fmt: skip
    parts = parts_of(plan_again(e))
    assert parts.count == 16
    found = e.significant()
    assert found.shape == x.shape
    assert found.all(0).nonzero().tolist() == [[i, j] for i in range(8) for j in range(8)]


def test_a_smooth_cell_is_not_told_for_what_its_neighbour_adds():
    """Its own element has a sixteenth of the neighbour's value."""
    corner = lambda batch: batch[:, :, :8, :8].mean((1, 2, 3))  # noqa: E731
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    e = fwdgrad.explain(corner, x, method=Regions("grey", cell=8), n_samples=64)
    at = parts_of(plan_again(e)).places()
    found = e.significant().flatten()[at].reshape(6, 6)  # whose first and last are half outside
    assert found[:3, :3].all()  # the third one's border is in the corner
    assert not found[3:].any()
    assert not found[:, 3:].any()
    assert e.attribution.flatten()[at].reshape(6, 6)[3, 1].abs() > 1e-4


def test_where_nothing_is_drawn_all_that_is_not_zero_is_told():
    model = lambda batch: batch[:, 0] + 0.25 * batch[:, 2]  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(3), method=Coalitions())
    assert e.significant().tolist() == [True, False, True]


def test_of_a_score_that_never_changes_nothing_is_told():
    with pytest.warns(UserWarning, match="0 for every sample"):
        e = fwdgrad.explain(lambda b: b[:, 0] * 0, torch.ones(5), method=Regions(0.0), n_samples=64)
    assert not e.significant().any()


def test_a_map_without_errors_is_refused():
    x = torch.arange(5.0)
    e = fwdgrad.explain(lambda b: b.square().sum(1), x, method="vargrad", n_samples=64)
    with pytest.raises(ValueError, match="no standard error, by which it is tested: vargrad of 64"):
        e.significant()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": 0}, "level must be between 0 and 1, got 0"),
        ({"level": "5%"}, "level must be a number, got str '5%'"),
        ({"correction": "bh"}, "correction must be one of benjamini-hochberg, holm, none, got"),
    ],
)
def test_arguments_are_checked(options, said):
    e = fwdgrad.explain(lambda b: b.sum(1), torch.ones(3), method="gradient")
    with pytest.raises((TypeError, ValueError), match=said):
        e.significant(**options)


def test_corrections():
    chances = torch.tensor([0.001, 0.013, 0.02, 0.04, 0.9]).double()
    told = {
        name: int(_rejected(chances, 0.05, name).sum())
        for name in ("none", "benjamini-hochberg", "holm")
    }
    assert told == {"none": 4, "benjamini-hochberg": 4, "holm": 1}


@pytest.mark.parametrize("degrees", [0.5, 1.0, 3.0, 7.5, 183.0, 5e4, math.inf])
def test_students_tails_are_scipys(degrees):
    stats = pytest.importorskip("scipy.stats")
    t = torch.tensor([0.0, 1e-6, 0.3, 1.0, 2.5, 8.0, 35.0, math.inf]).double()
    expected = torch.from_numpy(2 * stats.t.sf(t.numpy(), degrees))
    torch.testing.assert_close(two_sided(t, degrees), expected, rtol=1e-8, atol=0)


def test_degrees_of_freedom():
    def of(n_samples, features=12, **options):
        x = torch.arange(1.0, 1 + features)
        method = options.pop("method", Regions(0.0))
        e = fwdgrad.explain(lambda b: b.square().sum(1), x, method=method, n_samples=n_samples)
        return degrees_of_freedom(plan_again(e))

    assert of(16) == 2  # directions that err as a feature's
    assert of(8) == 1
    assert of(128) == 3 + 4  # four groups of 32, and what unused directions lend
    assert of(128, method=Regions(0.0, antithetic=True)) == 3
    assert of(128, method=ForwardGradient()) == 63
    assert of(128, method=ForwardGradient(block=6)) == pytest.approx(63 * 0.35, rel=0.1)
    assert of(None, method="gradient") == math.inf


def test_equal_variances_are_lent_whole_and_unlike_ones_are_not():
    g = torch.Generator().manual_seed(0)
    squares = torch.randn(500, 3, generator=g).double().square().mean(1)
    lent, common = _prior(squares, 3)
    assert lent > 30
    assert common == pytest.approx(1, rel=0.1)
    lent, _ = _prior(squares * torch.randn(500, generator=g).mul(3).exp(), 3)
    assert lent < 1


def test_labels_and_elements_are_parts():
    mask = torch.tensor([[0, 0, 2], [1, 2, 2]])
    e = fwdgrad.explain(
        lambda b: b.sum((1, 2)), torch.ones(2, 3), method=Regions(0.0), features=Labels(mask),
        n_samples=64,
    )  # fmt: skip
    parts = parts_of(plan_again(e))
    assert parts.places().tolist() == [0, 3, 2]
    assert parts.means(e.attribution).tolist() == pytest.approx([2, 1, 3], abs=1e-5)
    with torch.no_grad():
        kept = parts.mask(torch.tensor([True, False, False]))
    assert kept.tolist() == [[1, 1, 0], [0, 0, 0]]


def test_words_and_columns_have_it_too():
    import numpy as np

    from fwdgrad.adapters.tables import TableModel

    model = TextModel(lambda texts: [float("fine" in text) for text in texts])
    words = fwdgrad.explain(model, "A fine and rather long film", n_samples=128)
    assert words.significant().tolist() == [word == "fine" for word in words.words]

    rows = np.random.default_rng(0).normal(size=(20, 3))
    table = TableModel(lambda found: found[:, 1] * 2.0, rows)
    row = fwdgrad.explain(table, np.array([1.0, 3.0, 1.0]), None)
    assert row.significant().tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)])
def test_cells_on_the_baseline_are_zero_and_what_borders_on_it_is_told(shape):
    """A map is 0 where black pixels are replaced by black: that is no value of the cells there."""
    g = torch.Generator().manual_seed(0)
    x, weights = torch.zeros(shape), torch.rand(shape, generator=g)
    x[:, 6:20, 13:15] = 1  # thin: of most of its cells the middle is black
    e = fwdgrad.explain(
        lambda batch: (batch * weights).sum((1, 2, 3)), x, method=Regions("black"), n_samples=512
    )
    parts, table = parts_of(plan_again(e)), e._features()
    masks = [parts.mask(torch.arange(parts.count) == k) for k in range(parts.count)]
    added = torch.stack([(mask * x * weights).sum() for mask in masks])
    assert 0 < (added != 0).sum() < parts.count
    torch.testing.assert_close(table.scores, added, atol=1e-5, rtol=0)
    assert torch.equal(table.told(), added != 0)
    assert bool((table.errors[added == 0] == 0).all())
