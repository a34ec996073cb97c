"""The peers' table: our versions of others' methods find what a score depends on; means by hand."""

import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets where it is not
    import peers as module

    yield module
    for name in ("peers", "fast", "data"):
        sys.modules.pop(name, None)


def corner(batch):
    """Class 1 where the upper left eighth of the picture is not grey; a little where it is part."""
    seen = (batch[:, :, :28, :28] - 127 / 255).abs().mean((1, 2, 3)) * 8
    return torch.stack([torch.zeros(len(batch)), seen], 1)


@pytest.mark.parametrize("name", ["sobol", "hsic", "regions_on_grey"])
def test_they_find_the_corner(peers, name):
    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    score = peers.Counted(corner, 1, 200)
    heat = getattr(peers, name)(score, x, 200, 0)
    assert heat.shape == (224, 224)
    row, column = divmod(int(heat.argmax()), 224)
    assert row < 48
    assert column < 48
    assert score.calls <= 201
    again = getattr(peers, name)(peers.Counted(corner, 1, 200), x, 200, 0)
    assert torch.equal(heat, again)


def test_arrays_are_asked_as_tensors_are(peers):
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    score = peers.Counted(corner, 1, 10)
    found = score.of_arrays(x.permute(0, 2, 3, 1).numpy())
    assert found.shape == (2, 1)
    torch.testing.assert_close(torch.from_numpy(found[:, 0]).float(), score(x))
    assert score.calls == 4


def test_means_and_errors_by_hand(peers):
    """Two pictures, two seeds: each picture's seeds are averaged first."""
    flat, tilted = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])
    runs = {
        ("RISE (xaitk-saliency)", "a", 500, 0): (0.4, 0.2, flat),
        ("RISE (xaitk-saliency)", "a", 500, 1): (0.6, 0.2, flat),
        ("RISE (xaitk-saliency)", "b", 500, 0): (0.1, 0.1, flat),
        ("RISE (xaitk-saliency)", "b", 500, 1): (0.1, 0.3, tilted),
        ("fwdgrad regions", "a", 500, 0): (0.9, 0.1, flat),
        ("fwdgrad regions", "b", 500, 0): (0.3, 0.1, flat),
    }
    records = {
        key: {"insertion": i, "deletion": d, "seconds": 1.0, "map": m}
        for key, (i, d, m) in runs.items()
    }
    one = peers.summary(records, "RISE (xaitk-saliency)", 500)
    assert one["insertion"][:2] == (pytest.approx(0.3), pytest.approx(0.2))
    assert one["deletion"][:2] == (pytest.approx(0.2), pytest.approx(0.0))
    assert one["difference"][0] == pytest.approx(0.1)
    assert one["repeat"][0] == pytest.approx(0.0)  # 1 on a, -1 on b
    means = {500: {name: peers.summary(records, name, 500) for name, *_ in records}}
    (line,) = [row for row in peers._paired(means) if "RISE" in row]
    # Insertion +0.4 and +0.2, deletion -0.1 both times.
    assert line == "| 500 | RISE (xaitk-saliency), 500 | +0.300 ± 0.100 | -0.100 ± 0.000 |"
