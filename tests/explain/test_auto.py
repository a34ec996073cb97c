"""What is taken where no method is named, and what is told: once, at the caller's own line."""

import warnings

import pytest
import torch

import fwdgrad
from fwdgrad import LikelihoodRatio, metrics
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.text import explain_text

PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(5))
CORNER = torch.zeros(32, 32, dtype=torch.bool)
CORNER[:14, :14] = True


def edges(batch):
    """(batch, 2): the edges in one corner of pictures (batch, 3, 32, 32), and nothing."""
    kernel = torch.tensor([[1.0, -1.0]]).expand(1, 3, 1, 2)
    found = torch.nn.functional.conv2d(batch, kernel).abs()[:, 0, :12, :12].mean((1, 2))
    return torch.stack([4 * found, 0 * found], 1)


def told(model, x, **options):
    """The explanation, and what was warned of, which must be at this line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fwdgrad.explain(model, x, **options)
    assert all(one.filename == __file__ for one in caught)
    return found, [str(one.message) for one in caught]


# ---- pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": 0.5},
        {"cell": 8},
        {"clip": (0.0, 1.0)},
        {"antithetic": False},
        {"antithetic": True},
        {"field": "nearest"},
        {"shared": False},
        {"objective": "logit"},
    ],
    ids=str,
)
def test_options_that_regions_have_leave_what_is_estimated(options):
    e, said = told(edges, PICTURE, queries=128, target=0, **options)
    named, _ = told(edges, PICTURE, queries=128, target=0, method="regions", **options)
    assert said == []
    assert torch.equal(e.attribution, named.attribution)
    assert e.objective == options.get("objective", "probability")
    assert (e.settings["law"], e.settings["position"]) == ("hadamard", 0.5)
    assert metrics.pointing_game(e, CORNER, tolerance=0)
    for name, value in options.items():
        assert e.settings.get(name, value) == value


def test_pairs_have_cells_for_half_as_many_directions():
    """A pair is one: otherwise there would be more unknowns than directions."""
    e, _ = told(edges, PICTURE, queries=256, target=0, antithetic=True)
    single, _ = told(edges, PICTURE, queries=128, target=0)
    assert e.settings["cell"] == single.settings["cell"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"sigma": 0.1}, "sigma"),
        ({"law": "rademacher"}, "law"),
        ({"block": 5, "antithetic": False, "control": "clean", "cell": 2}, "block, control"),
        ({"saliency": fwdgrad.GradientXInput()}, "saliency"),
    ],
    ids=str,
)
def test_another_estimate_is_told(options, names):
    e, said = told(edges, PICTURE, queries=64, target=0, **options)
    assert e.settings["law"] == options.get("law", "normal")
    assert e.objective == "output"
    assert f"a picture with options of noise on single pixels ({names})" in said[0]
    assert "method='likelihood-ratio', the gradient of its output" in said[0]
    assert "method='regions', what each region adds to its probability" in said[0]
    _, said = told(edges, PICTURE, queries=64, target=0, method="likelihood-ratio", **options)
    assert not any("single pixels" in one for one in said)


MOVED = {  # an input, its model, why it is no picture, and the advised call's model and input
    "normalised": (
        (PICTURE - 0.5) / 0.25, lambda batch: edges(batch * 0.25 + 0.5),
        "has values outside [0, 1], -2 to 2,", None,
    ),
    "bytes": (255 * PICTURE, lambda batch: edges(batch / 255), " to 255,", None),
    "four bands": (
        torch.cat([PICTURE, PICTURE[:1]]), lambda batch: edges(batch[:, :3]), "has 4 channels",
        None,
    ),
    "two bands": (
        PICTURE[:2], lambda batch: edges(batch[:, [0, 0, 1]]), "has 2 channels", None,
    ),
    "channels last": (
        PICTURE.permute(1, 2, 0), lambda batch: edges(batch.permute(0, 3, 1, 2)),
        "has its channels last",
        lambda model, x: (lambda batch: model(batch.permute(0, 2, 3, 1)), x.permute(2, 0, 1)),
    ),
    "no channels": (
        PICTURE[0], lambda batch: edges(batch[:, None].expand(-1, 3, -1, -1)), "has no channels",
        lambda model, x: (lambda batch: model(batch[:, 0]), x[None]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVED)
def test_what_may_be_a_picture_is_told_and_the_advice_does(kind):
    x, model, why, advised = MOVED[kind]
    e, said = told(model, x, queries=64, target=0)
    assert e.settings["law"] == "normal"
    assert why in said[0]
    assert "method='regions' tells" in said[0]
    _, said_by_name = told(model, x, queries=64, target=0, method="likelihood-ratio")
    assert not any("picture" in one for one in said_by_name)
    if advised is not None:
        parts = {"channels last": "x.permute(2, 0, 1) with lambda batch: model(batch.permute(",
                 "no channels": "x[None] with lambda batch: model(batch[:, 0])"}  # fmt: skip
        assert parts[kind] in said[0]
        model, x = advised(model, x)
    found, said = told(model, x, queries=64, target=0, method="regions")
    assert said == []
    assert metrics.pointing_game(found, CORNER, tolerance=0)
    assert metrics.share_inside(found, CORNER) > 0.5


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(20),
        torch.randn(24, 32),  # embeddings
        torch.rand(8, 32),
        torch.rand(3, 8, 8),  # a few numbers
        torch.rand(2, 3, 32, 32),
    ],
    ids=lambda x: str(tuple(x.shape)),
)
def test_other_inputs_are_no_pictures_and_nothing_is_told(x):
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    e, said = told(lambda batch: (batch * weights).flatten(1).sum(1), x, target=None, queries=4096)
    assert e.settings["law"] == "normal"
    assert not any("picture" in one for one in said)


# ---- low reliability -----------------------------------------------------------------------

NOISY = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))
WEIGHTS = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))


def linear(batch):
    """(batch, 2): 768 unknowns."""
    score = (batch * WEIGHTS).flatten(1).sum(1)
    return torch.stack([score, -score], 1)


OF_NOISE = {"method": "likelihood-ratio", "queries": 64}


def test_a_map_of_noise_is_warned_of_once():
    with pytest.warns(fwdgrad.ReliabilityWarning) as caught:
        e = fwdgrad.explain(linear, NOISY, target=1, **OF_NOISE)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert str(caught[0].message) == (
        f"the map of class 1 has a reliability of {e.reliability:.2f}: much of the map is noise: "
        "ask for more queries=, a larger cell= or a block="
    )
    with pytest.warns(
        fwdgrad.ReliabilityWarning, match="the worst of 2 such among 2, has"
    ) as caught:
        fwdgrad.explain(linear, NOISY, target=[0, 1], **OF_NOISE)
    assert len(caught) == 1


def test_so_are_attributions_in_captums_manner():
    options = {"queries": 64, "sigma": 0.2}
    with pytest.warns(
        fwdgrad.ReliabilityWarning, match="the worst of 3 such among 3, has"
    ) as caught:
        LikelihoodRatio(linear, **options).attribute(NOISY.expand(3, -1, -1, -1), 1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(fwdgrad.ReliabilityWarning):
        LikelihoodRatio(linear, **options).explain(NOISY, 1)


def test_a_good_map_is_not_warned_of():
    for options in ({"queries": 16_384, "batch_size": 1024}, {"law": "hadamard", "queries": 4096}):
        e, said = told(linear, NOISY, target=1, method="likelihood-ratio", **options)
        assert e.reliability > 0.5
        assert said == []


def test_values_all_alike_are_no_noise():
    """No correlation is to be had of them, and their errors are small."""
    for seed in range(10):
        e, said = told(
            lambda batch: batch.sum(1), torch.rand(8), target=None, queries=4096, sigma=0.1,
            seed=seed,
        )  # fmt: skip
        assert (e.attribution - 1).abs().max() < 0.5
        assert said == []


def test_words_are_warned_of_by_their_own_reliability():
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(30)]
    box = LSTMClassifier(words, labels=("bad", "good")).eval()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        good = explain_text(box, " ".join(words), "good", shared=True, law="hadamard", queries=256)
        assert not caught
        bad = explain_text(box, " ".join(words), "good", queries=8)
    assert good.reliability > 0.5
    assert bad.reliability < 0.3
    (one,) = caught
    assert one.category is fwdgrad.ReliabilityWarning
    assert one.filename == __file__
    assert str(one.message).endswith(
        "ask for more queries=, or let a word's numbers share their draws (shared=)"
    )
