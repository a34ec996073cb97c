"""Regions of pictures: what a cell adds, where the copies lie, and how sure a single group is."""

import itertools

import pytest
import torch

import fwdgrad
from fwdgrad import metrics
from fwdgrad.methods import light_blur, regions
from fwdgrad.noise import noise_spec
from fwdgrad.saliency import blurred
from fwdgrad_kernels import Grid, Labels, noise

from .models import Recorder

PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5))
HALFWAY = {"position": 0.5, "sigma": 0.5}


def interacting(batch):
    """Of four numbers: single ones, pairs and a triple."""
    a, b, c, d = batch.unbind(1)
    return 2 * a - b + 3 * a * b - 2 * c * d + 4 * a * c * d


def banzhaf(function, x, baseline):
    """By its definition: the mean over all others of what an element adds."""
    values = []
    for k in range(len(x)):
        total = 0.0
        others = [i for i in range(len(x)) if i != k]
        for chosen in itertools.product((0, 1), repeat=len(others)):
            with_it, without = baseline.clone(), baseline.clone()
            for i, on in zip(others, chosen, strict=True):
                if on:
                    with_it[i] = without[i] = x[i]
            with_it[k] = x[k]
            total += float(function(with_it[None]) - function(without[None]))
        values.append(total / 2 ** len(others))
    return torch.tensor(values, dtype=torch.float64)


def test_halfway_signs_give_banzhaf_values():
    x = torch.tensor([1.0, -0.5, 2.0, 1.5], dtype=torch.float64)
    baseline = torch.tensor([0.2, 0.3, -1.0, 0.1], dtype=torch.float64)
    result = fwdgrad.explain(
        interacting, x, target=None, baseline=baseline, law="rademacher", queries=40_000,
        antithetic=False, control="leave-one-out", **HALFWAY,
    )  # fmt: skip
    # The direction's derivative is for the whole way from the baseline, as Banzhaf's value is.
    away = (result.attribution - banzhaf(interacting, x, baseline)).abs()
    assert (away < 4 * result.standard_error).all()
    assert (result.standard_error < 0.1).all()


@pytest.mark.parametrize("position", [0.0, 0.25, 0.5, 1.0])
def test_copies_lie_around_the_position(position):
    asked = []
    x, baseline = torch.rand(2, 3), torch.rand(2, 3)

    def model(batch):
        asked.append(batch.clone())
        return batch.sum((1, 2))

    fwdgrad.explain(
        model, x, target=None, baseline=baseline, position=position, sigma=0.25, queries=64,
        law="rademacher", antithetic=False,
    )  # fmt: skip
    copies = torch.cat(asked[1:])
    centre = baseline + position * (x - baseline)
    torch.testing.assert_close(
        (copies - centre).abs(), (0.25 * (x - baseline)).abs().expand(64, 2, 3), rtol=0, atol=1e-6
    )


def test_a_copy_is_between_the_picture_and_its_blur():
    recorder = Recorder(lambda batch: batch.flatten(1)[:, :3].double())
    seen = []
    recorder.model = lambda batch: seen.append(batch.clone()) or batch.flatten(1)[:, :3].double()
    fwdgrad.explain(recorder, PICTURE, queries=64)
    blur = regions(PICTURE, {})["baseline"]
    low, high = torch.minimum(PICTURE, blur), torch.maximum(PICTURE, blur)
    copies = torch.cat(seen[1:])
    assert len(copies) == 64
    assert (copies >= low - 1e-6).all()
    assert (copies <= high + 1e-6).all()
    assert (copies - PICTURE).abs().amax((1, 2, 3)).min() > 0.1  # each is blurred somewhere


def test_what_the_blur_leaves_alone_has_no_attribution():
    picture = torch.ones(3, 64, 64)
    picture[:, 40:60, 40:60] = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return batch.square().mean((1, 2, 3))

    result = fwdgrad.explain(
        model, picture, method="regions", target=None, objective="logit", queries=64
    )
    moved = (torch.cat(seen[1:]) != picture).any(0).any(0)
    assert 0.1 < moved.double().mean() < 0.4
    assert torch.equal((result.attribution != 0).all(0), moved)
    assert torch.equal((result.attribution != 0).any(0), moved)
    assert torch.equal((result.standard_error != 0).any(0), moved)


def test_single_pixels_that_a_blur_happens_to_meet_move_as_all_others_do():
    picture = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1))
    blur = blurred(picture, 2.0)
    assert ((picture - blur).abs() < 1 / 510).any()
    assert torch.equal(light_blur(picture), blur)


def test_of_planes_that_share_a_draw_one_that_moves_is_enough():
    x = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2))
    baseline = x + 1
    baseline[:2, 0] = x[:2, 0]
    baseline[:, 1] = x[:, 1]
    options = {"target": None, "baseline": baseline, "queries": 16}
    shared, own = (
        fwdgrad.explain(lambda batch: batch.sum((1, 2, 3)), x, shared=shared, **options)
        for shared in (True, False)
    )
    assert torch.equal(shared.attribution[:, 1] == 0, torch.ones(3, 4, dtype=torch.bool))
    assert (shared.attribution[:, [0, 2, 3]] != 0).all()
    assert torch.equal(own.attribution == 0, baseline == x)


def test_the_grid_lies_still():
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return batch.sum((1, 2, 3))

    ones = torch.ones(3, 32, 40)
    result = fwdgrad.explain(
        model, ones, method="regions", baseline=0.0, target=None, objective="logit", queries=100,
        seed=3,
    )  # fmt: skip
    kept = {name: result.settings[name] for name in ("law", "cell", "field", "shared", "seed")}
    fixed = noise_spec((3, 32, 40), shift=False, **kept)
    wanted = noise(fixed, 0, 100)
    torch.testing.assert_close(2 * torch.cat(seen[1:]) - 1, wanted, rtol=0, atol=1e-6)
    assert fixed.draws < noise_spec((3, 32, 40), **kept).draws < 100


@pytest.mark.parametrize("queries", [64, 65, 128, 256, 500, 1024])
def test_nearly_a_cell_for_each_query(queries):
    """As many as may be, but for a direction that none has."""
    options = regions(torch.rand(3, 224, 224), {"queries": queries})

    def spec_of(cell):
        kept = {name: options[name] for name in ("law", "field", "shared", "shift")}
        return noise_spec((3, 224, 224), cell=cell, **kept)

    spec, smaller = spec_of(options["cell"]), spec_of(options["cell"] - 1)
    assert 0.6 * queries < spec.draws < min(spec.group, queries)
    assert smaller.draws >= min(smaller.group, queries)


def test_cells_are_larger_than_what_the_blur_mixes():
    for side, cell in ((224, 8), (384, 13), (32, 3)):
        assert regions(torch.rand(3, side, side + 9), {"queries": 10**5})["cell"] == cell


def test_few_queries_have_cells_too():
    """Of 16 draws none can be left; below, the picture is one cell."""
    picture = torch.rand(3, 224, 224)
    assert regions(picture, {"queries": 16})["cell"] < 150
    assert regions(picture, {"queries": 5})["cell"] == 224


def test_auto_is_regions_of_pictures():
    model = lambda batch: 9 * batch.flatten(1)[:, :40]  # noqa: E731
    named = fwdgrad.explain(model, PICTURE, method="regions", queries=64, target=0)
    auto = fwdgrad.explain(model, PICTURE, queries=64, target=0)
    assert torch.equal(named.attribution, auto.attribution)
    assert auto.objective == "probability"
    grey = fwdgrad.explain(model, PICTURE, queries=64, target=0, baseline=0.5)
    assert grey.settings["law"] == "hadamard"
    assert grey.settings["baseline"] == 0.5


def test_a_slip_is_told_of_the_method_that_was_meant():
    with pytest.raises(TypeError, match="'regions' has no option 'querys'; did you mean queries"):
        fwdgrad.explain(lambda batch: batch, PICTURE, querys=64)


def test_own_options_take_the_place_of_the_methods():
    model = lambda batch: batch.flatten(1)[:, :40].clone()  # noqa: E731
    result = fwdgrad.explain(
        model, PICTURE, method="regions", queries=64, baseline=0.5, antithetic=True, cell=8
    )
    assert result.settings["baseline"] == 0.5
    assert result.settings["cell"] == 8
    assert result.settings["control"] is None
    assert result.settings["position"] == 0.5


def test_saved_and_run_again(tmp_path):
    weights = torch.randn(3 * 32 * 32, 4, generator=torch.Generator().manual_seed(1))
    model = lambda batch: torch.stack([one.flatten() @ weights for one in batch])  # noqa: E731
    first = fwdgrad.explain(model, PICTURE, queries=64)
    first.save(tmp_path / "e.safetensors")
    e = fwdgrad.Explanation.load(tmp_path / "e.safetensors")
    again = fwdgrad.explain(model, e.input, target=e.target, objective=e.objective, **e.settings)
    assert torch.equal(again.attribution, first.attribution)
    assert torch.equal(again.standard_error, first.standard_error)


def test_regions_find_what_a_network_looks_at():
    """A small network that sees edges in one corner: it is found from 64 calls."""
    kernel = torch.tensor([[1.0, -1.0]]).expand(1, 3, 1, 2)

    def model(batch):
        edges = torch.nn.functional.conv2d(batch, kernel).abs()[:, 0, :12, :12].mean((1, 2))
        return torch.stack([4 * edges, 0 * edges], 1)

    e = fwdgrad.explain(model, PICTURE, target=0, queries=64)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:14, :14] = True
    assert metrics.pointing_game(e, mask, tolerance=0)
    assert metrics.share_inside(e, mask) > 0.5  # the corner is 0.19 of the picture
    assert e.reliability > 0.8


def test_mean_takes_off_what_all_copies_have():
    """In whole Hadamard groups a constant, however large, changes no draw but the first."""
    x = torch.linspace(0.1, 1, 12, dtype=torch.float64)
    options = {"law": "hadamard", "queries": 32, "antithetic": False, "sigma": 1.0, "target": None}
    model = lambda batch: (batch**2).sum(1)  # noqa: E731
    plain = fwdgrad.explain(model, x, control="mean", **options).attribution
    large = fwdgrad.explain(lambda b: model(b) + 1e6, x, control="mean", **options).attribution
    torch.testing.assert_close(plain, large, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        plain[1:], 2 * x[1:], rtol=0, atol=1e-9
    )  # pairs fall on no draw here


def runs_of_a_quadratic(count, queries=64):
    """As many seeds' runs of one group each: 64 directions for 40 elements."""
    g = torch.Generator().manual_seed(9)
    b = torch.randn(40, 40, generator=g, dtype=torch.float64)
    x = torch.randn(40, generator=g, dtype=torch.float64)
    model = lambda batch: ((batch @ b) * batch).sum(1)  # noqa: E731
    return [
        fwdgrad.explain(
            model, x, target=None, law="hadamard", queries=queries, antithetic=False,
            control="mean", sigma=1.0, seed=seed,
        )
        for seed in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("queries", "off"),
    [(64, 0.1), (56, 0.25), (48, 0.25), (66, 0.1), (80, 0.1), (96, 0.1), (120, 0.1)],
)
def test_the_error_of_one_group_is_that_over_seeds(queries, off):
    """What the unused directions tell, against the spread of 300 runs with other seeds.

    So do a whole group's of one with a second that was begun.
    """
    runs = runs_of_a_quadratic(300, queries)
    found = torch.stack([run.attribution for run in runs])[:, 1:]  # draw 0 is lost to the mean
    said = torch.stack([run.standard_error for run in runs])[:, 1:]
    said, found = said.square().mean().sqrt(), found.std(0).square().mean().sqrt()
    assert float(said / found) == pytest.approx(1, abs=off)  # 0.7, were all directions alike


def test_the_reliability_of_one_group_is_the_correlation_of_two():
    runs = runs_of_a_quadratic(100)
    pairs = zip(runs[::2], runs[1::2], strict=True)
    correlation = sum(metrics.pearson(a, c) for a, c in pairs) / 50
    assert sum(run.reliability for run in runs) / 100 == pytest.approx(correlation, abs=0.05)


def test_a_linear_score_has_no_error():
    weights = torch.arange(1.0, 41, dtype=torch.float64)
    e = fwdgrad.explain(
        lambda b: b @ weights, torch.ones(40, dtype=torch.float64), target=None, law="hadamard",
        queries=128, sigma=1.0,
    )  # fmt: skip
    torch.testing.assert_close(e.attribution, weights, rtol=1e-12, atol=0)
    assert (e.standard_error < 1e-10).all()
    assert e.reliability == pytest.approx(1)


def test_bad_input():
    for x, message in [
        (torch.rand(32, 32), r"or a volume \(C, D, H, W\), got \(32, 32\)"),
        (torch.full((3, 32, 32), 0.5), "baseline must be given: the picture is plain"),
    ]:
        with pytest.raises(ValueError, match=message):
            fwdgrad.explain(lambda b: b.flatten(1), x, method="regions")


def test_superpixels_in_place_of_cells():
    """What each label adds to a linear score, whatever its shape."""
    mask = (torch.arange(32)[:, None] // 8 * 4 + torch.arange(32) // 8).flip(0)
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = lambda batch: batch[:, :, :8, :8].sum((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(
        model, x, target=None, features=Labels(mask), baseline=0.0, queries=32, objective="output"
    )
    assert e.settings["method"] == "likelihood-ratio"
    assert e.settings["position"] == 0.5  # regions
    for label in range(16):
        there = e.attribution[0][mask == label]
        want = x[:, :8, :8].sum() if label == 12 else torch.tensor(0.0)
        torch.testing.assert_close(there, want.expand_as(there), rtol=1e-4, atol=1e-3)
    again = fwdgrad.explain(model, e.input, target=None, objective=e.objective, **e.settings)
    assert torch.equal(again.attribution, e.attribution)


@pytest.mark.parametrize("cell", [(4,), (4, 4), (2, 3, 4)], ids=str)
def test_the_memory_format_changes_nothing(cell):
    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def explained(x):
        options = {"features": Grid(cell), "queries": 32, "baseline": 0.0}
        return fwdgrad.explain(lambda b: (b * weights).flatten(1).sum(1, True), x, **options)

    found = explained(last).attribution
    torch.testing.assert_close(found, explained(x).attribution, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [8, 16, 32, 64])
@pytest.mark.parametrize("kind", ["labels", "cells", "grid"])
def test_the_first_feature_is_told_like_the_others(kind, queries):
    """Without pairs a group's first direction has one sign, as the score's mean has."""
    cells = (torch.arange(32)[:, None] // 16 * 2 + torch.arange(32) // 16).long()
    worth = torch.tensor([1.0, 2.0, 3.0, 4.0])
    model = lambda b: 7 + (b[:, 0] * worth[cells] / 256).sum((1, 2))  # noqa: E731
    given = {
        "labels": {"features": Labels(cells)},
        "grid": {"features": Grid((16, 16), "nearest")},
        "cells": {"cell": 16, "field": "nearest"},
    }[kind]
    e = fwdgrad.explain(
        model, torch.ones(3, 32, 32), method="regions", target=None, queries=queries,
        baseline=0.0, objective="output", **given,
    )  # fmt: skip
    torch.testing.assert_close(e.attribution, worth[cells].expand(3, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"control": "mean"}, {"control": "clean"}])
def test_a_constant_of_the_score_falls_on_no_element(options):
    worth = torch.tensor([1.0, 2.0, 3.0, 4.0])
    e = fwdgrad.explain(
        lambda b: b @ worth + 100, torch.ones(4), target=None, law="hadamard", sigma=0.1,
        antithetic=False, queries=8, **options,
    )  # fmt: skip
    torch.testing.assert_close(e.attribution, worth, rtol=1e-3, atol=1e-3)


def test_too_few_samples_for_the_features_are_told():
    mask = torch.arange(64).reshape(8, 8)
    options = {"target": None, "objective": "output", "baseline": 0.0, "method": "regions"}
    with pytest.warns(UserWarning, match="queries must be at least 65 to tell 64 features apart"):
        fwdgrad.explain(
            lambda b: b.sum((1, 2, 3)), torch.rand(3, 8, 8), queries=40, features=Labels(mask),
            **options,
        )  # fmt: skip


def test_a_first_cell_that_is_not_told_from_the_mean_is_told_of():
    series, options = torch.ones(2, 64), {"law": "hadamard", "antithetic": False, "sigma": 0.5}
    with pytest.warns(UserWarning, match="first cell of the grid has one sign in all samples"):
        fwdgrad.explain(
            lambda b: b.sum((1, 2)), series, target=None, queries=8, features=Grid((16,)),
            **options,
        )  # fmt: skip
