"""CenterNet as TensorFlow.js would run it, and a map of what it finds."""

import sys
from pathlib import Path

import pytest
import torch

import fwdgrad
from fwdgrad.adapters.detection import Detections

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import centernet
import data

needs_model = pytest.mark.skipif(
    data.fault_of("centernet") is not None, reason="needs python benchmarks/data.py centernet"
)


def test_padding_and_resizing_are_tensorflows():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    ones = torch.ones(1, 1, 3, 3)
    # Of a stride of 2 the one row and column of padding come last.
    assert centernet._convolve(x, ones, None, 2, False).flatten().tolist() == [45, 39, 66, 50]
    # Of a stride of 1, on both sides.
    assert centernet._convolve(x, ones, None, 1, False)[0, 0, 0].tolist() == [10, 18, 24, 18]
    row = torch.tensor([0.0, 4.0, 6.0]).reshape(1, 1, 1, 3)
    assert centernet._doubled(row).tolist() == [[[[0, 2, 4, 5, 6, 6]] * 2]]


@needs_model
@pytest.mark.slow
def test_what_it_finds_and_that_the_map_lies_there():
    pytest.importorskip("skimage")
    model = centernet.CenterNet(data.ready("centernet"))
    x = centernet.photos()["stereo_motorcycle"]
    with torch.no_grad():
        outputs = model(x[None])
    (found,) = Detections.of(outputs, 0.5)
    assert centernet.COCO[found.label] == "motorcycle"
    assert found.score == pytest.approx(0.71, abs=0.02)
    assert found.box == pytest.approx((80, 119, 470, 389), abs=4)
    e = fwdgrad.explain(
        model, x, objective=Detections([found]), method=fwdgrad.Regions(cell=64), n_samples=64,
        batch_size=4,
    )  # fmt: skip
    row, column = divmod(int(e.heatmap().argmax()), centernet.SIZE)
    left, top, right, bottom = found.box
    assert left <= column <= right
    assert top <= row <= bottom
