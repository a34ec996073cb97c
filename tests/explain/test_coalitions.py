"""Coalitions: exact values against their definitions, the samples, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Coalitions, Elements, Explanation, Grid, Labels, Regions, cli
from fwdgrad.estimate.coalitions import values_of

from .models import Recorder, assert_same_bits
from .test_regions import banzhaf, interacting

X4 = torch.tensor([1.0, -0.5, 2.0, 1.5], dtype=torch.float64)
BASE4 = torch.tensor([0.2, 0.3, -1.0, 0.1], dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(2)
PICTURE = torch.rand(3, 16, 16, generator=GENERATOR)
HALF = Coalitions(baseline=0.5)


def shapley(scores):
    """By its definition: the mean over all orders of what a feature adds as it joins."""
    features = len(scores).bit_length() - 1
    total = np.zeros(features)
    for order in itertools.permutations(range(features)):
        coalition = 0
        for j in order:
            total[j] += scores[coalition | 1 << j] - scores[coalition]
            coalition |= 1 << j
    return total / math.factorial(features)


def all_scores(function, x, baseline):
    """Of the coalition of the features whose bits its number has."""
    return np.array(
        [
            float(function(torch.where(torch.tensor(bits[::-1]), x, baseline)[None]))
            for bits in itertools.product((False, True), repeat=len(x))
        ]
    )


# ---- values ----------------------------------------------------------------------------------


def test_banzhaf_values_are_those_of_the_definition():
    e = fwdgrad.explain(interacting, X4, method=Coalitions(baseline=BASE4))
    assert torch.allclose(e.attribution, banzhaf(interacting, X4, BASE4), rtol=0, atol=1e-12)
    assert not e.standard_error.any()
    assert e.reliability == 1.0
    assert e.n_samples == 16


def test_shapley_values_are_those_of_the_definition_and_add_up():
    e = fwdgrad.explain(interacting, X4, method=Coalitions("shapley", BASE4))
    expected = shapley(all_scores(interacting, X4, BASE4))
    assert np.allclose(e.attribution.numpy(), expected, rtol=0, atol=1e-12)
    change = float(interacting(X4[None]) - interacting(BASE4[None]))
    assert float(e.attribution.sum()) == pytest.approx(change, abs=1e-12)
    other = fwdgrad.explain(interacting, X4, method=Coalitions(baseline=BASE4)).attribution
    assert (e.attribution - other).abs().max() > 0.1  # the two are not the same


@pytest.mark.parametrize("features", [1, 2, 5, 7])
def test_values_of_any_game(features):
    scores = np.random.default_rng(features).normal(size=2**features)
    assert np.allclose(values_of(scores, "shapley")[0], shapley(scores), rtol=0, atol=1e-12)
    numbers = np.arange(len(scores))
    for j, value in enumerate(values_of(scores, "banzhaf")[0]):
        has = numbers >> j & 1 == 1
        assert value == pytest.approx(scores[has].mean() - scores[~has].mean(), abs=1e-12)


@pytest.mark.slow  # its import takes seconds
@pytest.mark.parametrize("value", ["banzhaf", "shapley"])
def test_values_are_those_of_shapiq(value):
    shapiq = pytest.importorskip("shapiq")
    scores = np.random.default_rng(7).normal(size=2**9)

    def game(coalitions):
        return scores[np.asarray(coalitions) @ (1 << np.arange(9))]

    computer = shapiq.ExactComputer(game, n_players=9)
    found = computer("BV" if value == "banzhaf" else "SV", order=1)
    expected = [found[(j,)] for j in range(9)]
    assert np.allclose(values_of(scores, value)[0], expected, rtol=0, atol=1e-9)


def test_a_feature_that_does_nothing_gets_exactly_nothing():
    e = fwdgrad.explain(lambda batch: batch[:, 0] / 3 * batch[:, 2], X4, method=Coalitions())
    assert not e.attribution[[1, 3]].any()
    assert e.attribution[0] != 0


@pytest.mark.parametrize("power", [-1000, 1000])
def test_scores_of_any_unit_lose_no_digits(power):
    one = fwdgrad.explain(interacting, X4, method=Coalitions(baseline=BASE4))
    other = fwdgrad.explain(
        lambda batch: interacting(batch) * 2.0**power, X4, method=Coalitions(baseline=BASE4)
    )
    assert torch.equal(other.attribution, torch.ldexp(one.attribution, torch.tensor(power)))


def test_several_targets_come_from_the_same_calls():
    def both(batch):
        one = interacting(batch)
        return torch.stack([one, 3 - 2 * one], 1)

    recorder = Recorder(both)
    found = fwdgrad.explain(recorder, X4, [0, 1], method=Coalitions(), objective="output")
    assert sum(recorder.answered) == 16 + 1
    assert torch.allclose(found[1].attribution, -2 * found[0].attribution, rtol=0, atol=1e-12)


def test_regions_estimate_the_same_values():
    exact = fwdgrad.explain(interacting, X4, method=Coalitions(baseline=BASE4))
    drawn = fwdgrad.explain(interacting, X4, method=Regions(BASE4), n_samples=4096)
    away = (exact.attribution - drawn.attribution).abs()
    assert (away < 4 * drawn.standard_error + 1e-9).all()


@pytest.mark.parametrize("value", ["banzhaf", "shapley"])
def test_without_some_scores_a_value_is_off_by_its_error(value):
    rng = np.random.default_rng(5)
    scores = rng.normal(size=2**8).cumsum() / 9
    exact, none = values_of(scores, value)
    assert not none.any()
    away = []
    for _ in range(200):
        some = scores.copy()
        some[rng.choice(2**8, 25, replace=False)] = np.nan
        found, errors = values_of(some, value)
        assert np.isfinite(found).all()
        away.append((found - exact) / errors)  # NaN: of some size there was one alone, or none
    away = np.concatenate(away)
    away = away[~np.isnan(away)]
    assert len(away) > 400
    assert 0.7 < np.sqrt(np.mean(np.minimum(np.abs(away), 6) ** 2)) < 1.5


def test_a_model_that_leaves_samples_out():
    class Failing:
        max_missing = 0.2

        def __call__(self, batch):
            found = interacting(batch)
            return torch.where((batch == BASE4).sum(1) == 3, torch.nan, found)  # 4 of 16

    with pytest.raises(fwdgrad.ModelError, match="4 of 16 samples have no score"):
        fwdgrad.explain(Failing(), X4, method=Coalitions(baseline=BASE4))
    Failing.max_missing = 0.5
    with pytest.warns(UserWarning, match="4 of 16 samples have no score"):
        e = fwdgrad.explain(Failing(), X4, method=Coalitions(baseline=BASE4))
    away = (e.attribution - banzhaf(interacting, X4, BASE4)).abs()
    assert (away < 4 * e.standard_error).all()
    assert 0 <= e.reliability < 1


# ---- samples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sample_i_has_the_features_of_the_bits_of_i(dtype):
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return batch.double().sum(1)

    x = X4.to(dtype)
    fwdgrad.explain(model, x, method=Coalitions(baseline=BASE4), batch_size=5)
    samples = torch.cat(seen[1:])
    assert samples.dtype == dtype
    for i, sample in enumerate(samples):
        has = torch.tensor([i >> j & 1 == 1 for j in range(4)])
        assert torch.equal(sample, torch.where(has, x, BASE4.to(dtype)))


@pytest.mark.parametrize(
    "features",
    [
        Labels((torch.arange(256).reshape(16, 16) * 7 // 256) % 8),
        Labels(torch.arange(3)[:, None, None]),
        Grid((8, 6), "nearest"),
        Grid((16, 8), "nearest", share_channels=False),
    ],
    ids=["superpixels", "channels", "cells", "cells of a channel"],
)
@pytest.mark.parametrize("last", [False, True], ids=["", "channels last"])
def test_parts_of_a_picture(features, last):
    weights = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))
    x = PICTURE[None].to(memory_format=torch.channels_last)[0] if last else PICTURE
    seen = []

    def model(batch):
        seen.append(batch.stride(1) == 1)
        return (batch * weights).double().sum((1, 2, 3)).square()

    e = fwdgrad.explain(model, x, method=HALF, features=features)
    assert all(seen) == last
    assert e.features == features
    parts = e.attribution.unique()  # one value for each part
    assert e.n_samples == 2 ** len(parts)
    for value in parts[:3]:
        part = e.attribution == value
        total, others = 0.0, [other for other in parts if other != value]
        for chosen in itertools.product((False, True), repeat=len(others)):
            sample = torch.full_like(x, 0.5)
            for other, on in zip(others, chosen, strict=True):
                sample = torch.where((e.attribution == other) & on, x, sample)
            total += float(model(torch.where(part, x, sample)[None]) - model(sample[None]))
        assert float(value) == pytest.approx(total / 2 ** len(others), rel=1e-4, abs=1e-4)


def test_the_batch_changes_no_bit_and_a_file_keeps_it_all(tmp_path):
    one = fwdgrad.explain(interacting, X4, method=Coalitions("shapley", BASE4), batch_size=1)
    other = fwdgrad.explain(interacting, X4, method=Coalitions("shapley", BASE4), batch_size=16)
    assert_same_bits(one, other)
    other.save(tmp_path / "e.safetensors")
    kept = Explanation.load(tmp_path / "e.safetensors")
    assert kept.method == Coalitions("shapley", BASE4)
    assert_same_bits(fwdgrad.explain(interacting, kept.input, **kept.settings), one)


def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"

    def before(recorder, batch):
        if sum(recorder.answered) > 8:
            raise KeyboardInterrupt

    run = {"method": Coalitions(baseline=BASE4), "checkpoint": path, "batch_size": 2}
    with pytest.raises(KeyboardInterrupt):
        fwdgrad.explain(Recorder(interacting, before), X4, **run)
    recorder = Recorder(interacting)
    e = fwdgrad.explain(recorder, X4, **run)
    assert sum(recorder.answered) < 17
    assert_same_bits(e, fwdgrad.explain(interacting, X4, method=Coalitions(baseline=BASE4)))
    with pytest.raises(fwdgrad.CheckpointError, match="value"):
        fwdgrad.explain(interacting, X4, method=Coalitions("shapley", BASE4), checkpoint=path)


def test_nothing_was_drawn_by_chance():
    from fwdgrad.advice import advice, is_drawn

    e = fwdgrad.explain(interacting, X4, method="coalitions")
    assert not is_drawn(e)
    assert advice(e) == "nothing was drawn by chance"
    with pytest.warns(UserWarning, match="the map is zero"):
        e = fwdgrad.explain(lambda batch: 0 * batch[:, 0] + 2, X4, method="coalitions")
    assert not e.attribution.any()
    assert e.reliability == 1.0


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "x", "options", "message"),
    [
        (Coalitions(), X4, {"n_samples": 15}, r"n_samples must be None or 16,.* got 15"),
        (Coalitions(), X4, {"n_samples": 1024}, r"n_samples must be None or 16,.* got 1024"),
        (Coalitions(), torch.ones(17), {}, "features must be at most 16 .*got 17"),
        (HALF, PICTURE, {}, "features must be at most 16 .*got 768"),
        (HALF, PICTURE, {"features": Grid((8, 8))}, "features .*smooth.*'nearest'"),
        (HALF, PICTURE, {"features": Grid((8, 8), "nearest", jitter=True)}, "features .*moving"),
        (HALF, PICTURE, {"features": torch.zeros(7, dtype=torch.int64)}, "mask must broadcast"),
        (Coalitions(baseline=1.0), torch.ones(3), {}, "baseline must differ from x"),
        (Coalitions(baseline="blur"), X4, {}, "baseline must be a number or a tensor.*'blur'"),
        (Coalitions(baseline=torch.zeros(3)), X4, {}, r"baseline must have x's shape \(4,\)"),
        (Coalitions(baseline="grey"), X4, {}, "baseline 'grey' is for values in"),
    ],
)
def test_what_does_not_fit_the_input(method, x, options, message):
    with pytest.raises(ValueError, match=message):
        fwdgrad.explain(lambda batch: batch.flatten(1).sum(1), x, method=method, **options)


@pytest.mark.parametrize("value", ["Shapley", "owen", None, 2])
def test_values_that_there_are_not(value):
    with pytest.raises(ValueError, match="value must be one of banzhaf, shapley, got"):
        Coalitions(value)


def test_sixteen_features_are_taken_and_elements_by_name():
    x = torch.ones(16)
    e = fwdgrad.explain(
        lambda batch: batch.sum(1), x, method="coalitions", features=Elements(), n_samples=2**16
    )
    assert torch.equal(e.attribution, x)


def test_the_command_line_has_cells_of_a_photo(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    image.fromarray((PICTURE.permute(1, 2, 0) * 255).byte().numpy()).save("photo.png")
    (tmp_path / "of_coalitions.py").write_text(
        "def f(batch): return batch[:, :, :8].sum((1, 2, 3))\n"
    )
    line = "explain photo.png --model of_coalitions:f --size 16 --output out --no-progress"
    method = "--method coalitions --cell 8 --value shapley --baseline grey"
    assert cli.main([*line.split(), *method.split()]) == 0
    e = Explanation.load(tmp_path / "out" / "explanation.safetensors")
    assert e.method == Coalitions("shapley", "grey")
    assert e.n_samples == 16
    assert len(e.attribution.unique()) == 3  # the two upper cells, and the lower ones


# ---- errors of few groups ---------------------------------------------------------------------


def of_three(seed, columns=12):
    """A score of what any three columns do together, and the Banzhaf values of the columns."""
    g = torch.Generator().manual_seed(seed)
    own = torch.randn(columns, generator=g, dtype=torch.float64)
    i = torch.arange(columns)
    rising = (i[:, None, None] < i[None, :, None]) & (i[None, :, None] < i)
    all_three = torch.randn(3 * [columns], generator=g, dtype=torch.float64) * rising

    def score(batch):
        return batch @ own + torch.einsum("ni,nj,nk,ijk->n", batch, batch, batch, all_three)

    parts = sum(all_three.sum(axes) for axes in ((1, 2), (0, 2), (0, 1)))
    return score, own + parts / 4


@pytest.mark.parametrize("groups", [2, 3, 4, 5, 8])
def test_errors_of_few_groups_are_what_is_seen(groups):
    errors, told = [], []
    for seed in range(40, 80):
        score, values = of_three(seed)
        x = torch.ones(len(values), dtype=torch.float64)
        options = {"method": Regions(0.0), "objective": "output", "seed": seed}
        e = fwdgrad.explain(score, x, n_samples=32 * groups, **options)
        errors.append((e.attribution - values).abs())
        told.append(e.standard_error)
    errors, told = torch.cat(errors), torch.cat(told)
    # Of how four groups differ alone it was 1.6, and .85 lay within. By chance .02 more or less.
    assert (errors / told).square().mean().sqrt() < 1.15
    assert (errors < 1.96 * told).double().mean() > 0.9
    assert 0.75 < (errors.square().mean() / told.square().mean()).sqrt() < 1.1
