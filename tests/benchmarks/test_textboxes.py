"""Boxes of text from the detector's map, what it finds, and where a map's peak counts as found."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad.adapters.detection import Detection, Detections

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("PIL")
import data
import detections
import textboxes


def test_boxes_of_parts_grow_and_have_their_means():
    pytest.importorskip("scipy")
    probabilities = np.full((64, 96), 0.2)
    probabilities[10:20, 20:60] = 0.8
    probabilities[19, 20:60] = 0.4
    probabilities[40:50, 5:15] = 0.6
    probabilities[60:62, 80:90] = 0.9  # too low to be text
    (line, _, score), (other, label, _) = textboxes.boxes_of(probabilities)
    # As the package's own, one pixel more to the right and below, so 40 x 10 between the corners.
    by = 1.6 * 40 * 10 / (2 * (40 + 10))
    assert line == pytest.approx((20 - by, 10 - by, 60 + by, 20 + by))
    inside = 9 * 40 * 0.8 + 40 * 0.4 + 0.2 * (11 + 40)  # in 11 rows of 41 pixels
    assert score == pytest.approx(inside / (11 * 41))
    assert other == pytest.approx((5 - 4, 40 - 4, 15 + 4, 50 + 4))
    assert label == "text"
    assert textboxes.boxes_of(np.zeros((32, 32))) == []


def test_a_peak_is_inside_near_or_outside():
    class Map:
        reliability = 0.5

    def found(row, column):
        heatmap = torch.zeros(100, 200)
        heatmap[row, column] = 1
        one = Detection((20, 30, 60, 40), "text", 0.9)
        return detections.placed("page", "text", one, heatmap, 8, Map())

    assert found(35, 20).inside
    assert not found(35, 64).inside
    assert found(35, 64).near  # half a cell away
    assert not found(35, 65).near
    assert found(0, 0).share == 40 * 10 / 20000
    assert found(0, 0).near_share == 48 * 18 / 20000
    rows = detections.summary([found(35, 30), found(35, 64), found(0, 0)], 0.95)
    assert rows[0] == "| a cell or more | 3 | 1 | 0.1 | 2 | 0.1 |"
    assert rows[-1] == "| score 0.95 or more | 0 | 0 | 0.0 | 0 | 0.0 |"


@pytest.mark.slow
@pytest.mark.skipif(
    data.fault_of("textboxes") is not None, reason="needs python benchmarks/data.py textboxes"
)
def test_what_it_finds_and_that_the_map_lies_there():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skimage")
    model = textboxes.TextBoxes(data.ready("textboxes"), threads=1)
    x = textboxes.pictures()["coffee"]
    outputs = model(x[None])
    name, sentence = Detections.of(outputs, textboxes.MIN_SCORE)
    # What the package's own program finds: 38 129 247 201 and 198 334 422 369.
    assert name.box == pytest.approx((39, 131, 247, 201), abs=2)
    assert sentence.box == pytest.approx((199, 335, 422, 368), abs=2)
    assert name.label == "text"
    cells = fwdgrad.Regions(cell=96)
    (found, _) = detections.explained(
        model, [("coffee", x)], textboxes.MIN_SCORE, str, cells, samples=64
    )
    assert found.near
