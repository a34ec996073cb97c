"""Quantus through one function, and our metrics against its results."""

import functools
import subprocess
import sys

import pytest
import torch

import fwdgrad
from fwdgrad.integrations.quantus import quantus_metric
from fwdgrad.metrics.agreement import spearman
from fwdgrad.metrics.curves import deletion
from fwdgrad.metrics.localization import pointing_game, share_inside
from fwdgrad.metrics.sanity import invariance, randomised
from fwdgrad.metrics.sparseness import gini

quantus = pytest.importorskip("quantus", reason="the optional library Quantus")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

GRADIENT = functools.partial(fwdgrad.explain, method="gradient", objective="output")
PRODUCT = functools.partial(fwdgrad.explain, method="gradient-x-input", objective="output")


def model(channels: int = 1, padding: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(0)
    side = 8 + 2 * padding - 2
    layers = [torch.nn.Conv2d(channels, 4, 3, padding=padding), torch.nn.Tanh(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * side * side, 3)).eval()


def inputs(channels: int = 1, count: int = 3) -> torch.Tensor:
    return torch.rand((count, channels, 8, 8), generator=torch.Generator().manual_seed(1))


TARGETS = [0, 2, 1]


def maps_of(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    found = [
        GRADIENT(network, row, target=t).attribution for row, t in zip(x, TARGETS, strict=True)
    ]
    return torch.stack(found)


@pytest.mark.slow
def test_it_imports_where_torchvision_does_not():
    program = "import sys; sys.modules['torchvision'] = None; import quantus"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_sparseness_is_the_gini_index():
    maps = maps_of(model(), inputs())
    scores = quantus_metric("Sparseness", model(), inputs(), TARGETS, GRADIENT)
    # It adds 1e-7 to a map whose largest element is 1.
    assert scores == pytest.approx([gini(m) for m in maps], abs=1e-6)
    ready = quantus_metric("Sparseness", None, inputs(), TARGETS, heatmaps=maps)
    assert ready == pytest.approx(scores, abs=1e-7)


def test_the_maps_that_are_given_are_not_written_to():
    maps = maps_of(model(), inputs())
    before = maps.clone()
    quantus_metric("Sparseness", None, inputs(), TARGETS, heatmaps=maps, normalise=False)
    assert torch.equal(maps, before)


def test_pointing_game():
    maps = torch.rand((6, 8, 8), generator=torch.Generator().manual_seed(2))
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[:, :, 4:] = True
    hits = quantus_metric("PointingGame", None, inputs(3, 6), [0] * 6, heatmaps=maps, masks=masks)
    ours = [pointing_game(m, mask, tolerance=0) for m, mask in zip(maps, masks, strict=True)]
    assert [bool(hit) for hit in hits] == ours
    assert set(ours) == {True, False}


def test_share_inside():
    maps = torch.rand((6, 8, 8), generator=torch.Generator().manual_seed(2)) - 0.5
    masks = torch.zeros(6, 8, 8, dtype=torch.bool)
    masks[:, 2:, 4:] = True
    # With its normalisation and signs it divides by what is negative, too.
    shares = quantus_metric(
        "AttributionLocalisation", None, inputs(3, 6), [0] * 6, heatmaps=maps.clamp(min=0),
        masks=masks, abs=False, positive_attributions=True, max_size=1.0,
    )  # fmt: skip
    ours = [share_inside(m, mask) for m, mask in zip(maps, masks, strict=True)]
    assert shares == pytest.approx(ours, abs=1e-6)


def test_several_highest_pixels():
    # Where the first is outside and the second inside, Quantus says hit and we miss.
    flat = torch.ones(1, 8, 8)
    flat[:, 0, 1] = 0
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 4:] = True
    (hit,) = quantus_metric("PointingGame", None, inputs(1, 1), [0], heatmaps=flat, masks=mask)
    assert bool(hit)
    assert not pointing_game(flat[0], mask[0], tolerance=0)


@pytest.mark.parametrize("absolute", [True, False])
def test_randomised_parameters(absolute):
    # Its first step draws the last layer, from one above its seed.
    network, x = model(), inputs()
    scores = quantus_metric(
        "MPRT", network, x, TARGETS, GRADIENT, seed=6, abs=absolute, normalise=False
    )
    other = randomised(network, 7, layers=["3"])
    form = torch.abs if absolute else torch.clone
    expected = [
        spearman(form(one), form(two))
        for one, two in zip(maps_of(network, x), maps_of(other, x), strict=True)
    ]
    assert list(scores) == ["original", "3", "0"]
    assert scores["original"] == pytest.approx([1, 1, 1])
    assert scores["3"] == pytest.approx(expected, abs=1e-6)


def test_its_seeds_stay_its_own():
    state = torch.get_rng_state()
    quantus_metric("MPRT", model(), inputs(), TARGETS, GRADIENT)
    assert torch.equal(torch.get_rng_state(), state)


def all_shifted(arr, input_shift, **_):
    # Its own leaves the first element where it is: it drops the first index.
    return arr + input_shift


def test_invariance():
    # A gradient stays and a product does not; both say so, of a first layer without a border.
    network, x = model(), inputs()
    for explain, stays in ((GRADIENT, True), (PRODUCT, False)):
        answers = quantus_metric(
            "InputInvariance",
            network,
            x,
            TARGETS,
            explain,
            input_shift=-1,
            perturb_func=all_shifted,
        )
        assert [bool(a) for a in answers] == [stays] * 3
        for row, target in zip(x, TARGETS, strict=True):
            found = invariance(functools.partial(explain, target=target), network, row, -1.0)
            assert (found > 0.999) == stays


def test_a_bias_is_another_function_at_the_border():
    # Padded with zeros, the gradient itself fails its test. Ours shifts the picture, not the bias.
    network, x = model(padding=1), inputs()
    answers = quantus_metric(
        "InputInvariance", network, x, TARGETS, GRADIENT, input_shift=-1, perturb_func=all_shifted
    )
    assert not any(answers)
    assert invariance(functools.partial(GRADIENT, target=0), network, x[0], -1.0) > 0.999


@pytest.mark.parametrize("softmax", [True, False])
def test_pixel_flipping_is_deletion(softmax):
    network, x = model(), inputs()
    curves = quantus_metric(
        "PixelFlipping", network, x, TARGETS, GRADIENT, softmax=softmax, features_in_step=4
    )
    for curve, row, target, heatmap in zip(curves, x, TARGETS, maps_of(network, x), strict=True):
        ours = deletion(
            network,
            row,
            heatmap[0],
            target,
            steps=16,
            fill=float(row.min()),
            objective="probability" if softmax else "logit",
        )
        assert curve == pytest.approx(ours.scores[1:].tolist(), abs=1e-5)


class Labels(torch.nn.Module):
    """Probabilities of its own, by no module that Quantus finds."""

    def __init__(self, form):
        super().__init__()
        self.network, self.form = model(), form

    def forward(self, batch):
        return self.form(self.network(batch))


@pytest.mark.parametrize("form", [torch.sigmoid, lambda scores: scores.softmax(1)])
def test_probabilities_are_followed_as_they_are(form):
    network, x = Labels(form).eval(), inputs()
    curves = quantus_metric("PixelFlipping", network, x, TARGETS, GRADIENT, features_in_step=4)
    for curve, row, target, heatmap in zip(curves, x, TARGETS, maps_of(network, x), strict=True):
        ours = deletion(network, row, heatmap[0], target, steps=16, fill=float(row.min()))
        assert curve == pytest.approx(ours.scores[1:].tolist(), abs=1e-5)


def test_a_softmax_of_probabilities_is_refused():
    network = Labels(lambda scores: scores.softmax(1)).eval()
    with pytest.raises(ValueError, match="softmax must be False: the model returns probabilities"):
        quantus_metric("PixelFlipping", network, inputs(), TARGETS, GRADIENT, softmax=True)
    # Quantus knows this module: it adds no second one, and takes it off where none is wanted.
    known = torch.nn.Sequential(*model(), torch.nn.Softmax(1)).eval()
    found = quantus_metric("PixelFlipping", known, inputs(), TARGETS, GRADIENT, features_in_step=4)
    again = quantus_metric(
        "PixelFlipping", network, inputs(), TARGETS, GRADIENT, features_in_step=4
    )
    for one, other in zip(found, again, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("form", [torch.tensor, lambda t: torch.tensor(t)[:, None], tuple])
def test_targets_of_any_kind(form):
    scores = quantus_metric("Sparseness", model(), inputs(), form(TARGETS), GRADIENT)
    expected = [gini(m) for m in maps_of(model(), inputs())]
    assert scores == pytest.approx(expected, abs=1e-6)
    for target, error in (([0.5, 1, 2], TypeError), ([0, 1], ValueError)):
        with pytest.raises(error, match="target must"):
            quantus_metric("Sparseness", model(), inputs(), target, GRADIENT)


def test_a_metric_that_was_made_already():
    made = quantus.Sparseness(disable_warnings=True, return_aggregate=True)
    (mean,) = quantus_metric(made, None, inputs(), TARGETS, heatmaps=maps_of(model(), inputs()))
    each = [gini(m) for m in maps_of(model(), inputs())]
    assert mean == pytest.approx(sum(each) / 3, abs=1e-6)
    with pytest.raises(TypeError, match="options are for a metric by its name"):
        quantus_metric(made, None, inputs(), TARGETS, GRADIENT, abs=True)


def test_vectors():
    network = torch.nn.Sequential(torch.nn.Linear(6, 3)).eval()
    x = torch.rand((3, 6), generator=torch.Generator().manual_seed(1))
    scores = quantus_metric("Sparseness", network, x, TARGETS, GRADIENT)
    weights = network[0].weight.detach()
    assert scores == pytest.approx([gini(weights[t]) for t in TARGETS], abs=1e-6)


def test_bad_input():
    with pytest.raises(ValueError, match="name of a metric of Quantus, got 'Sparsity'"):
        quantus_metric("Sparsity", None, inputs(), TARGETS, GRADIENT)
    with pytest.raises(ValueError, match="heatmaps or explain"):
        quantus_metric("Sparseness", None, inputs(), TARGETS)
