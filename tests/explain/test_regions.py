"""Regions: what a cell adds, where the samples lie, and how large cells are."""

import itertools
import warnings

import pytest
import torch

import fwdgrad
from fwdgrad import Elements, Grid, Labels, Regions, metrics
from fwdgrad.advice import still, try_another
from fwdgrad.directions import directions
from fwdgrad.methods import plan_of
from fwdgrad.methods.blur import blurred, light_blur, smallest_cell
from fwdgrad_kernels import NoiseSpec, noise

from .models import Recorder, forward_gradient

PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5))
BLACK = Regions(baseline=0.0)


def hadamard(shape, cell, jitter=False, **options):
    """The draws of regions of so large cells."""
    features = Grid((cell, cell), jitter=jitter)
    return NoiseSpec(shape, "rademacher", features=features, design="hadamard", **options)


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


def test_regions_of_a_vector_are_banzhaf_values():
    x = torch.tensor([1.0, -0.5, 2.0, 1.5], dtype=torch.float64)
    baseline = torch.tensor([0.2, 0.3, -1.0, 0.1], dtype=torch.float64)
    method = Regions(baseline=baseline)
    result = fwdgrad.explain(interacting, x, method=method, n_samples=40_000)
    # The direction's derivative is for the whole way from the baseline, as Banzhaf's value is.
    away = (result.attribution - banzhaf(interacting, x, baseline)).abs()
    assert (away < 4 * result.standard_error + 1e-9).all()
    assert (result.standard_error < 0.1).all()


def test_each_element_of_a_sample_is_the_inputs_or_the_baselines():
    seen = []
    x, baseline = torch.rand(2, 3), torch.rand(2, 3)

    def model(batch):
        seen.append(batch.clone())
        return batch.sum((1, 2))

    fwdgrad.explain(model, x, method=Regions(baseline=baseline), features=Elements(), n_samples=64)
    samples = torch.cat(seen[1:])
    far = torch.minimum((samples - x).abs(), (samples - baseline).abs())
    assert len(samples) == 64
    assert far.max() < 1e-6
    assert ((samples - x).abs() < 1e-6).double().mean().item() == pytest.approx(0.5, abs=0.15)


def test_a_sample_is_between_the_picture_and_its_blur():
    recorder = Recorder(lambda batch: batch.flatten(1)[:, :3].double())
    seen = []
    recorder.model = lambda batch: seen.append(batch.clone()) or batch.flatten(1)[:, :3].double()
    fwdgrad.explain(recorder, PICTURE, n_samples=64)
    blur = light_blur(PICTURE)
    low, high = torch.minimum(PICTURE, blur), torch.maximum(PICTURE, blur)
    samples = torch.cat(seen[1:])
    assert len(samples) == 64
    assert (samples >= low - 1e-6).all()
    assert (samples <= high + 1e-6).all()
    assert (samples - PICTURE).abs().amax((1, 2, 3)).min() > 0.1  # each is blurred somewhere


def test_what_the_blur_leaves_alone_has_no_attribution():
    picture = torch.ones(3, 64, 64)
    picture[:, 40:60, 40:60] = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(1))
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return batch.square().mean((1, 2, 3))

    result = fwdgrad.explain(model, picture, method="regions", n_samples=64)
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
    shared, own = (
        forward_gradient(
            lambda batch: batch.sum((1, 2, 3)), x, baseline=baseline, features=features,
            n_samples=16,
        )
        for features in (Grid((1, 1), "nearest"), None)
    )  # fmt: skip
    assert torch.equal(shared.attribution[:, 1] == 0, torch.ones(3, 4, dtype=torch.bool))
    assert (shared.attribution[:, [0, 2, 3]] != 0).all()
    assert torch.equal(own.attribution == 0, baseline == x)


def test_the_grid_lies_still():
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return batch.sum((1, 2, 3))

    ones = torch.ones(3, 32, 40)
    cell = fwdgrad.explain(model, ones, method=BLACK, n_samples=100, seed=3).method.cell
    grid = Grid(cell, order=directions(hadamard((3, 32, 40), cell).grid, 64, seed=3))
    fixed = NoiseSpec((3, 32, 40), "rademacher", 1.0, None, grid, "hadamard", 3)
    wanted = noise(fixed, 0, 100)
    torch.testing.assert_close(2 * torch.cat(seen[1:]) - 1, wanted, rtol=0, atol=1e-6)


def cell_of(shape, n_samples, method=BLACK):
    model = lambda batch: batch[:, 0, 0, 0] + 1  # noqa: E731
    return fwdgrad.explain(model, torch.ones(shape), method=method, n_samples=n_samples).method.cell


@pytest.mark.parametrize(
    ("n_samples", "group"), [(64, 64), (100, 64), (112, 128), (500, 512), (1024, 1024)]
)
def test_cells_leave_a_quarter_of_their_group_and_some_more(n_samples, group):
    """As many as may be: a group is begun for which there are seven eighths of its samples."""
    shape = (1, 224, 224)
    cell = cell_of(shape, n_samples)
    most = group - group // 4 - group // 32
    assert 0.6 * most < hadamard(shape, cell).draws <= most < hadamard(shape, cell - 1).draws


def test_cells_are_larger_than_what_the_blur_mixes():
    for side, cell in ((224, 8), (384, 13), (32, 3)):
        assert smallest_cell((side, side + 9)) == cell
    assert cell_of((1, 32, 41), 4096) == 3


def test_few_samples_have_cells_too():
    """Of 16 draws none can be left; below, the picture is one cell."""
    assert cell_of((1, 224, 224), 16) < 150
    assert cell_of((1, 224, 224), 5) == 224


def test_a_cell_that_is_given_is_taken():
    assert cell_of((1, 32, 32), 256, Regions(0.0, cell=8)) == 8


def test_pairs_have_cells_for_half_as_many_directions():
    """A pair is one: otherwise there would be more unknowns than directions."""
    pairs = Regions(0.0, antithetic=True)
    assert cell_of((1, 224, 224), 256, pairs) == cell_of((1, 224, 224), 128)


def test_saved_and_run_again(tmp_path):
    weights = torch.randn(3 * 32 * 32, 4, generator=torch.Generator().manual_seed(1))
    model = lambda batch: torch.stack([one.flatten() @ weights for one in batch])  # noqa: E731
    first = fwdgrad.explain(model, PICTURE, n_samples=64)
    first.save(tmp_path / "e.safetensors")
    e = fwdgrad.Explanation.load(tmp_path / "e.safetensors")
    again = fwdgrad.explain(model, e.input, **e.settings)
    assert torch.equal(again.attribution, first.attribution)
    assert torch.equal(again.standard_error, first.standard_error)


def test_regions_find_what_a_network_looks_at():
    """A small network that sees edges in one corner: it is found from 64 samples."""
    kernel = torch.tensor([[1.0, -1.0]]).expand(1, 3, 1, 2)

    def model(batch):
        edges = torch.nn.functional.conv2d(batch, kernel).abs()[:, 0, :12, :12].mean((1, 2))
        return torch.stack([4 * edges, 0 * edges], 1)

    e = fwdgrad.explain(model, PICTURE, target=0, n_samples=64)
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:14, :14] = True
    assert metrics.pointing_game(e, mask, tolerance=0)
    assert metrics.share_inside(e, mask) > 0.5  # the corner is 0.19 of the picture
    assert e.reliability > 0.8


def test_bad_input():
    for x, message in [
        (torch.rand(32, 32), r"\(32, 32\)"),
        (torch.full((3, 32, 32), 0.5), "baseline must be given: the input is"),
    ]:
        with pytest.raises(ValueError, match=message):
            fwdgrad.explain(lambda b: b.flatten(1), x, method="regions")


def test_superpixels_in_place_of_cells():
    """What each label adds to a linear score, whatever its shape."""
    mask = (torch.arange(32)[:, None] // 8 * 4 + torch.arange(32) // 8).flip(0)
    x = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    model = lambda batch: batch[:, :, :8, :8].sum((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(model, x, method=BLACK, features=mask, n_samples=32)
    assert e.method == BLACK
    assert e.features == Labels(mask)
    for label in range(16):
        there = e.attribution[0][mask == label]
        want = x[:, :8, :8].sum() if label == 12 else torch.tensor(0.0)
        torch.testing.assert_close(there, want.expand_as(there), rtol=1e-4, atol=1e-3)
    again = fwdgrad.explain(model, e.input, **e.settings)
    assert torch.equal(again.attribution, e.attribution)


@pytest.mark.parametrize("cell", [(4,), (4, 4), (2, 3, 4)], ids=str)
def test_the_memory_format_changes_nothing(cell):
    x = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def explained(x):
        options = {"features": Grid(cell), "n_samples": 32, "baseline": 0.0}
        return forward_gradient(lambda b: (b * weights).flatten(1).sum(1, True), x, **options)

    found = explained(last).attribution
    torch.testing.assert_close(found, explained(x).attribution, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_samples", [8, 16, 32, 64])
@pytest.mark.parametrize("kind", ["labels", "mask", "grid"])
def test_the_first_feature_is_told_like_the_others(kind, n_samples):
    """Without pairs a group's first direction has one sign, as the score's mean has."""
    cells = (torch.arange(32)[:, None] // 16 * 2 + torch.arange(32) // 16).long()
    worth = torch.tensor([1.0, 2.0, 3.0, 4.0])
    model = lambda b: 7 + (b[:, 0] * worth[cells] / 256).sum((1, 2))  # noqa: E731
    features = {"labels": Labels(cells), "mask": cells.numpy(), "grid": Grid((16, 16), "nearest")}
    e = fwdgrad.explain(
        model, torch.ones(3, 32, 32), method=BLACK, features=features[kind], n_samples=n_samples
    )
    torch.testing.assert_close(e.attribution, worth[cells].expand(3, -1, -1), rtol=1e-4, atol=1e-4)


def test_too_few_samples_for_the_features_are_told():
    mask = torch.arange(64).reshape(8, 8)
    with pytest.warns(UserWarning, match="n_samples must be at least 65 to tell 64 features apart"):
        fwdgrad.explain(
            lambda b: b.sum((1, 2, 3)), torch.rand(3, 8, 8), method=BLACK, n_samples=40,
            features=mask,
        )  # fmt: skip


# ---- a picture whose baseline scores as it does ----------------------------------------------


def sees_light(batch):
    """Logits of how light a picture is, which a blur leaves nearly as it is."""
    light = 4 * batch.mean((1, 2, 3)) + 0.02 * batch[:, 0, 8, 8]
    return torch.stack([light, 0 * light], 1)


def told(model, baseline, **options):
    """What is warned of beside noise."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        e = fwdgrad.explain(model, PICTURE, 0, method=Regions(baseline), n_samples=64, **options)
    return e, [str(one.message) for one in caught if "the map shows little" in str(one.message)]


def test_a_picture_that_a_blur_hardly_changes_is_warned_of():
    e, (said,) = told(sees_light, "blur")
    low, high = e.provenance["hardly_changed"]
    assert 0.975 * e.score < low <= high < 1.025 * e.score
    scores = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
    assert said == (
        f"with half of the picture blurred the probability is {scores}, and {e.score:.3g} as it "
        "is: the map shows little; try baseline='grey' or another objective"
    )


def test_one_whose_halves_change_it_is_not_though_all_of_it_does_not():
    """Of a model that sees whether two halves are alike, say: its map shows what it sees."""
    halves = lambda batch: (batch[..., :8].mean((1, 2, 3)), batch[..., 8:].mean((1, 2, 3)))  # noqa: E731
    alike = lambda batch: 1 - 2 * (halves(batch)[0] - halves(batch)[1]).abs()  # noqa: E731
    x = torch.full((3, 16, 16), 0.5)
    e = fwdgrad.explain(alike, x, method=Regions("black"), n_samples=64)
    e.provenance["evidence"] = fwdgrad.evidence(alike, e).to_dict()
    assert e.provenance["evidence"]["baseline_score"] == e.score
    assert not try_another(e)


def test_one_that_its_baseline_changes_is_not():
    e, said = told(sees_light, "black")
    assert not said
    assert "hardly_changed" not in e.provenance
    assert not try_another(e)
    # Each sample hides half: at 5 % for all of it none may be 2.5 % away.
    weak = lambda batch: 1 + 0.11 * batch[:, :, ::2].mean((1, 2, 3)) / PICTURE[:, ::2].mean()  # noqa: E731
    faint = lambda batch: 1 + 0.03 * batch[:, :, ::2].mean((1, 2, 3)) / PICTURE[:, ::2].mean()  # noqa: E731
    for model, count in ((weak, 0), (faint, 1)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fwdgrad.explain(model, PICTURE, None, method=Regions("black"), n_samples=64)
        assert sum("the map shows little" in str(one.message) for one in caught) == count


def test_what_samples_say_takes_no_call_and_needs_scores():
    calls = Recorder(sees_light)
    fwdgrad.explain(calls, PICTURE, 0, method=Regions(), n_samples=64)
    assert calls.calls == 64
    plan = plan_of(PICTURE, Regions(), n_samples=64)
    nothing = torch.full((64, 1), torch.nan)
    assert still(plan, nothing, 0.5) == {}
    assert still(plan, None, 0.5) == {}
    half = nothing.clone()
    half[:32] = 0.501
    assert still(plan, half, 0.5) == {}  # of which a warning of its own tells
    half[0] = 0.49
    assert still(plan, half, 0.5) == {"hardly_changed": [0.49, 0.501]}
    assert still(plan, half, 0.0) == {}  # of nothing everything is a change
