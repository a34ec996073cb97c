"""The demo photo's map as it was, from the network's kept scores: the kernels alone are tried.

``golden/demo.safetensors`` has the 1,025 probabilities of "tiger cat" that EfficientNet-Lite0 gave,
the photo's own first, and of the map and its standard error every eighth pixel.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import fwdgrad


@pytest.fixture
def photo(tmp_path):
    """The cat that ``make demo`` explains."""
    data = pytest.importorskip("skimage.data")
    image = pytest.importorskip("PIL.Image")
    from fwdgrad.adapters.photos import load_photo

    image.fromarray(data.chelsea()).save(tmp_path / "chelsea.png")
    return load_photo(tmp_path / "chelsea.png", 224)


def test_the_demo_s_map_is_as_it_was(photo):
    kept = load_file(Path(__file__).parent / "golden" / "demo.safetensors")
    scores = iter(kept["scores"].split(1))
    result = fwdgrad.explain(
        lambda batch: torch.cat([next(scores) for _ in batch]),
        photo,
        method="regions",
        batch_size=64,
    )
    assert next(scores, None) is None  # every one was used
    for name in ("attribution", "standard_error"):
        found = getattr(result, name)
        assert torch.equal(found[0], found[2])  # a region moves all colours
        error = (found[0, 4::8, 4::8] - kept[name]).abs().max() / kept[name].abs().max()
        assert error < 2e-6, name
    assert result.reliability == pytest.approx(float(kept["reliability"]), abs=1e-6)
