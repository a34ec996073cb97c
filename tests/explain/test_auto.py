"""What is taken where nothing is named: nothing but the input decides, and it is told."""

import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Elements, ForwardGradient, Grid, Labels, Regions, metrics
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.text import explain_text
from fwdgrad.integrations.captum import Attribution

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

GIVEN = {
    "nothing": {},
    "a few samples": {"n_samples": 8},
    "an odd number": {"n_samples": 77},
    "a grid": {"features": Grid((8, 8), "nearest")},
    "elements": {"features": Elements()},
    "labels": {"features": Labels(torch.arange(32 * 32).reshape(32, 32) // 100)},
    "a mask": {"features": np.arange(32 * 32).reshape(32, 32) // 100},
    "seed": {"seed": 2**63},
    "memory": {"memory": "1GiB"},
    "batch_size": {"batch_size": 3},
    "backend": {"backend": "reference"},
    "objective": {"objective": "logit"},
    "name": {"name": "v3"},
    "target": {"target": 0},
    "targets": {"target": [1, 0]},
    "all": {"n_samples": 64, "features": Grid((8, 8)), "seed": 1, "memory": "1GiB", "name": "a"},
}


@pytest.mark.filterwarnings("ignore:n_samples must be at least:UserWarning")
@pytest.mark.parametrize("given", GIVEN)
def test_a_picture_gets_regions_whatever_is_given(given):
    """Nothing but ``method=`` chooses what is estimated."""
    options = {"n_samples": 64, **GIVEN[given]}
    found = fwdgrad.explain(edges, PICTURE, **options)
    named = fwdgrad.explain(edges, PICTURE, method="regions", **options)
    for e, one in zip(*(e if isinstance(e, list) else [e] for e in (found, named)), strict=True):
        assert isinstance(e.method, Regions)
        assert e.method.baseline == "blur"
        assert e.method == one.method
        assert torch.equal(e.attribution, one.attribution)
        assert "picture" in e.provenance["method"]
        assert "method" not in one.provenance


@pytest.mark.parametrize("kind", ["picture", "normalised"])
def test_what_was_chosen_is_repeated_by_the_settings(tmp_path, kind):
    x, model = (PICTURE, edges) if kind == "picture" else MOVED[kind][:2]
    e, _ = told(model, x, n_samples=64, seed=3)
    assert e.settings["method"] == e.method
    assert e.method != type(e.method)()  # with its cell or its scale
    e.save(tmp_path / "e.safetensors")
    kept = fwdgrad.Explanation.load(tmp_path / "e.safetensors")
    assert kept.provenance["method"] == e.provenance["method"]
    again, said = told(model, kept.input, **kept.settings)
    assert not any("picture" in one for one in said)
    assert torch.equal(again.attribution, e.attribution)
    assert "method" not in again.provenance


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 16, 40), (1, 200, 16)], ids=str)
@pytest.mark.parametrize("kind", ["tensor", "array", "half"])
def test_pictures_are_taken_as_such_without_a_word(shape, kind):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    x = {"tensor": x, "array": x.numpy(), "half": x.bfloat16()}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", fwdgrad.ReliabilityWarning)
        e = fwdgrad.explain(lambda batch: batch.flatten(1).float().sum(1), x, n_samples=64)
    assert isinstance(e.method, Regions)


def test_regions_by_default_find_what_a_network_looks_at():
    e, said = told(edges, PICTURE, target=0, n_samples=128)
    assert said == []
    assert e.objective == "probability"
    assert metrics.pointing_game(e, CORNER, tolerance=0)


MOVED = {  # an input, its model, and why it is no picture
    "normalised": (
        (PICTURE - 0.5) / 0.25, lambda batch: edges(batch * 0.25 + 0.5),
        "has values outside [0, 1], -2 to 2,",
    ),
    "bytes": (255 * PICTURE, lambda batch: edges(batch / 255), " to 255,"),
    "four bands": (
        torch.cat([PICTURE, PICTURE[:1]]), lambda batch: edges(batch[:, :3]), "has 4 channels",
    ),
    "two bands": (PICTURE[:2], lambda batch: edges(batch[:, [0, 0, 1]]), "has 2 channels"),
    "ten bands": (
        PICTURE.repeat(4, 1, 1)[:10], lambda batch: edges(batch[:, :3]), "has 10 channels",
    ),
    "channels last": (
        PICTURE.permute(1, 2, 0), lambda batch: edges(batch.permute(0, 3, 1, 2)),
        "has its channels last",
    ),
    "no channels": (
        PICTURE[0], lambda batch: edges(batch[:, None].expand(-1, 3, -1, -1)), "has no channels",
    ),
}  # fmt: skip


def line_in(message):
    """The first call of explain in a message, by its brackets."""
    start, depth = message.index("explain("), 0
    for stop in range(start, len(message)):
        depth += {"(": 1, ")": -1}.get(message[stop], 0)
        if message[stop] == ")" and not depth:
            return message[start : stop + 1]
    raise AssertionError(message)


@pytest.mark.parametrize("kind", MOVED)
def test_what_may_be_a_picture_is_told_with_the_line_that_takes_it_as_one(kind):
    x, model, why = MOVED[kind]
    e, said = told(model, x, n_samples=64, target=0)
    assert isinstance(e.method, ForwardGradient)
    assert why in said[0]
    assert f"x of shape {tuple(x.shape)}" in said[0]
    assert "picture" in e.provenance["method"]
    _, said_by_name = told(model, x, n_samples=64, target=0, method="forward-gradient")
    assert not any("picture" in one for one in said_by_name)

    def explain(model, x, **options):
        return told(model, x, target=0, n_samples=64, **options)

    known = {"explain": explain, "model": model, "x": x, "torch": torch}
    found, said = eval(line_in(said[0]), known)
    assert said == []
    assert isinstance(found.method, Regions)
    assert metrics.pointing_game(found, CORNER, tolerance=0)
    assert metrics.share_inside(found, CORNER) > 0.5


def test_bytes_are_told_of_the_division_too():
    x, model, _ = MOVED["bytes"]
    _, said = told(model, x, n_samples=64, target=0)
    assert "explain(model, x / 255" in said[0]


@pytest.mark.parametrize("features", [Grid((8, 8)), torch.arange(1024).reshape(32, 32) // 64])
def test_features_do_not_make_a_picture_of_another_input(features):
    """Nor a forward gradient of a picture: they say what moves together, not what is estimated."""
    x, model, why = MOVED["normalised"]
    e, said = told(model, x, n_samples=64, target=0, features=features)
    assert isinstance(e.method, ForwardGradient)
    assert why in said[0]


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
    e, said = told(lambda batch: (batch * weights).flatten(1).sum(1), x, n_samples=4096)
    assert isinstance(e.method, ForwardGradient)
    assert e.provenance["method"] == f"auto: x of shape {tuple(x.shape)} is no picture"
    assert not any("picture" in one for one in said)


@pytest.mark.slow  # a process of its own; the tests above see the same warning
def test_the_warning_is_on_standard_error(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(
        "import fwdgrad, torch\n"
        "x = torch.linspace(-1, 1, 768).reshape(3, 16, 16)\n"
        "fwdgrad.explain(lambda batch: batch.flatten(1).sum(1), x, n_samples=8)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    start = re.escape(f"{script}:3: UserWarning: x of shape (3, 16, 16) has values outside [0, 1]")
    assert re.search(rf"^{start}.*explain\(model, x, method='regions'\)", done.stderr, re.M)


# ---- objectives ----------------------------------------------------------------------------


def logits(batch):
    """(batch, 3)"""
    return batch.flatten(1)[:, :3] * torch.tensor([4.0, -2.0, 8.0])


OUTPUTS = {  # a model, what "auto" is, and what its reason mentions
    "one number": (lambda batch: logits(batch)[:, 0], "output", "one number"),
    "a column": (lambda batch: logits(batch)[:, :1], "output", "one number"),
    "probabilities": (lambda batch: logits(batch).softmax(1), "output", "sum to 1"),
    "several labels": (lambda batch: logits(batch).sigmoid(), "output", "do not sum to 1"),
    "logits": (logits, "probability", "logits"),
}


@pytest.mark.parametrize("method", ["forward-gradient", "gradient", "smoothgrad", "auto"])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_the_objective_follows_from_the_output_for_every_method(kind, method):
    model, objective, why = OUTPUTS[kind]
    x = torch.tensor([0.3, 0.2, 0.4, 0.7])
    options = {"method": method, "n_samples": 1 if method == "gradient" else 64}
    e = fwdgrad.explain(model, x, 0, **options)
    assert e.objective == objective
    assert e.provenance["objective"].startswith("auto: ")
    assert why in e.provenance["objective"]
    named = fwdgrad.explain(model, x, 0, objective=objective, **options)
    assert "objective" not in named.provenance
    assert torch.equal(named.attribution, e.attribution)
    assert e.score == named.score


def test_sigmoid_is_each_labels_own():
    x = torch.tensor([0.3, 0.2, 0.4, 0.7])
    e = fwdgrad.explain(logits, x, 2, method="gradient", objective="sigmoid")
    p = torch.tensor(8 * 0.4).sigmoid()
    assert e.score == pytest.approx(p.item())
    want = torch.tensor([0.0, 0.0, 8 * p * (1 - p), 0.0])
    torch.testing.assert_close(e.attribution, want)
    of_one = fwdgrad.explain(lambda b: logits(b)[:, 2], x, method="gradient", objective="sigmoid")
    torch.testing.assert_close(of_one.attribution, want)


# ---- low reliability -----------------------------------------------------------------------

NOISY = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))
WEIGHTS = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(3))


def linear(batch):
    """(batch, 2): 768 unknowns."""
    score = (batch * WEIGHTS).flatten(1).sum(1)
    return torch.stack([score, -score], 1)


OF_NOISE = {"method": "forward-gradient", "objective": "output", "n_samples": 64}


def test_a_map_of_noise_is_warned_of_once():
    with pytest.warns(fwdgrad.ReliabilityWarning) as caught:
        e = fwdgrad.explain(linear, NOISY, target=1, **OF_NOISE)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    said = str(caught[0].message)
    start = f"the map of class 1 has a reliability of {e.reliability:.2f}: much of the map is noise"
    assert said.startswith(start)
    for option in ("n_samples", "features", "block"):
        assert option in said
    with pytest.warns(
        fwdgrad.ReliabilityWarning, match="the worst of 2 such among 2, has"
    ) as caught:
        fwdgrad.explain(linear, NOISY, target=[0, 1], **OF_NOISE)
    assert len(caught) == 1


def test_so_are_attributions_in_captums_manner():
    options = {**OF_NOISE, "method": ForwardGradient(scale=0.2)}
    with pytest.warns(
        fwdgrad.ReliabilityWarning, match="the worst of 3 such among 3, has"
    ) as caught:
        Attribution(linear, **options).attribute(NOISY.expand(3, -1, -1, -1), target=1)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_good_map_is_not_warned_of():
    for method, options in (
        (ForwardGradient(), {"n_samples": 16_384, "batch_size": 1024}),
        (ForwardGradient(design="hadamard"), {"n_samples": 4096}),
    ):
        e, said = told(linear, NOISY, target=1, method=method, objective="output", **options)
        assert e.reliability > 0.5
        assert said == []


def test_values_all_alike_are_no_noise():
    """No correlation is to be had of them, and their errors are small."""
    for seed in range(10):
        e, said = told(
            lambda batch: batch.sum(1), torch.rand(8), method=ForwardGradient(scale=0.1),
            n_samples=4096, seed=seed,
        )  # fmt: skip
        assert (e.attribution - 1).abs().max() < 0.5
        assert said == []


def test_words_are_warned_of_by_their_own_reliability():
    torch.manual_seed(0)
    words = [f"w{i}" for i in range(30)]
    model = LSTMClassifier(words, labels=("bad", "good")).eval()
    text = " ".join(words)
    signs = ForwardGradient(design="hadamard")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        good = explain_text(model, text, "good", method=signs, share_channels=True, n_samples=256)
        assert not caught
        bad = explain_text(model, text, "good", n_samples=8)
    assert good.reliability > 0.5
    assert bad.reliability < 0.3
    (one,) = caught
    assert one.category is fwdgrad.ReliabilityWarning
    assert one.filename == __file__
    assert "ask for more n_samples" in str(one.message)
    assert "let a word's numbers share their draws" in str(one.message)
