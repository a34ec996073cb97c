"""The forward-gradient paper's experiments compute what they say; test_papers.py runs them."""

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad_kernels import NoiseSpec

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports from the experiments' folders, gone afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER / "papers"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which they set where it is not
    modules = set(sys.modules)
    yield importlib.import_module
    for path in FOLDER.rglob("*.py"):
        if path.stem not in modules:
            sys.modules.pop(path.stem, None)


@pytest.fixture
def fast(load, monkeypatch, tmp_path):
    """benchmarks/fast.py, on a cache of its own."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path))
    return load("fast").fast


class Small(torch.nn.Module):
    """Three classes of the mean colour."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, pixels):
        return self.layer(pixels.mean((2, 3)))


def small(seed):
    torch.manual_seed(seed)
    return ImageClassifier("small", Small().eval(), 8)


def test_fast_agrees_and_keeps_its_export(fast, tmp_path):
    classifier, x = small(0), torch.rand(7, 3, 8, 8)
    torch.testing.assert_close(fast(classifier)(x), classifier.forward(x))
    (export,) = (tmp_path / "onnx").iterdir()
    written = export.stat().st_mtime_ns
    torch.testing.assert_close(fast(classifier)(x[:1]), classifier.forward(x[:1]))
    assert export.stat().st_mtime_ns == written


def test_fast_refuses_the_export_of_other_weights(fast):
    fast(small(0))
    with pytest.raises(ValueError, match=r"small-torch.*is not small: scores differ by .*; delete"):
        fast(small(1))


def test_gradients_are_those_of_plain_runs(load, monkeypatch):
    blockwise = load("blockwise")
    torch.manual_seed(0)
    weight, x = torch.randn(4, 3, 224, 224) / 100, torch.rand(3, 224, 224)

    def model(batch):
        return torch.einsum("nchw,kchw->nk", batch, weight)

    target = int(model(x[None]).argmax())
    classifier = ImageClassifier("linear", model, 224)
    network = blockwise.Network(classifier, model)
    monkeypatch.setattr(blockwise, "network_of", lambda name: network)
    monkeypatch.setattr(blockwise, "picture", lambda name: x)
    monkeypatch.setattr(blockwise, "predicted", lambda *case: target)
    monkeypatch.setattr(blockwise, "cached", lambda key, compute: compute())
    found = blockwise.losses("linear", "noise", 3, 12)
    method = fwdgrad.ForwardGradient(scale=128 / 255, block=71, antithetic=False)
    for count, gradient in zip((5, 12), blockwise.gradients(found, (5, 12), 3), strict=True):
        expected = fwdgrad.explain(
            model, x, target, method=method, objective="cross-entropy", n_samples=count, seed=3
        ).attribution
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_other_noise_is_in_the_same_blocks(load):
    blockwise = load("blockwise")
    (normal,) = blockwise.gradients(torch.ones(1), (1,), 0)
    (other,) = blockwise.gradients(torch.ones(1), (1,), 0, "rademacher")
    assert torch.equal(normal != 0, other != 0)
    assert 0 < int((normal != 0).sum()) <= 3 * 71 * 71
    assert other.abs().unique().numel() == 2  # 0 and one size


@pytest.mark.parametrize(
    ("kind", "calls", "unknowns", "constant", "square"),
    [
        ("single", 10, 90, 7.0, 0.1),
        ("pairs", 20, 90, 7.0, 0.1),
        ("plain", 10, 90, 0.0, 0.1),
        ("plain", 10, 30, 2.0, 0.1),
        ("orthogonal", 32, 9, 0.0, 1.0),  # a whole group of 16
        ("orthogonal", 16, 16, 0.0, 0.5),  # 8 of 16
    ],
)
def test_theory(load, kind, calls, unknowns, constant, square):
    theory = load("fg_table1").theory
    assert theory(kind, calls, unknowns, constant) == pytest.approx(math.sqrt(square))


def test_the_papers_row_is_that_of_some_600_unknowns(load):
    assert load("fg_table1").fitted() == 583


def test_variance_of_constant_scores(load):
    variance = load("fg_equation9").variance
    # A sample's term is 3 z / sigma^2, of variance 9 / sigma^2 = 36; over blocks 1 / q times that.
    # 40 samples of 49,152 numbers: 0.1 % but for where the blocks happen to lie.
    plain = NoiseSpec((3, 128, 128), scale=0.5, seed=1)
    assert variance(torch.full((40,), 3.0), plain) == pytest.approx(36, rel=0.01)
    blocks = NoiseSpec((3, 128, 128), scale=0.5, block=64, seed=1)
    many = variance(torch.full((4000,), 3.0), blocks)
    assert many == pytest.approx(36 / blocks.coverage, rel=0.03)
