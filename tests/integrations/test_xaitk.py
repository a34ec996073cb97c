"""Saliency generators of XAITK-Saliency: of classifiers and of detectors.

Where it is not installed, a module with its two interfaces takes its place.
"""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
import torch

import fwdgrad
import fwdgrad.integrations.xaitk as installed
from fwdgrad import ModelError, Regions
from fwdgrad.adapters.detection import Detections
from fwdgrad.errors import ReliabilityWarning

HAS_XAITK = importlib.util.find_spec("xaitk_saliency") is not None
needs_xaitk = pytest.mark.skipif(not HAS_XAITK, reason="the optional library XAITK-Saliency")


class StandIn:
    def generate(self, *given):
        return self._generate(*given)


def loaded(monkeypatch, module):
    """Our module as it is where that module is XAITK-Saliency; None: there is none."""
    monkeypatch.setitem(sys.modules, "xaitk_saliency", module)
    spec = importlib.util.spec_from_file_location("loaded_again", installed.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


@pytest.fixture
def xaitk(monkeypatch):
    if HAS_XAITK:
        return installed
    module = types.ModuleType("xaitk_saliency")
    module.GenerateImageClassifierBlackboxSaliency = StandIn
    module.GenerateObjectDetectorBlackboxSaliency = StandIn
    return loaded(monkeypatch, module)


class Sides:
    """A classifier: how bright the left and the right quarter are; keeps the images."""

    def __init__(self, top=255, labels=("left", "right"), changed=lambda scores: scores):
        self.top, self.labels, self.changed = top, labels, changed
        self.images, self.batches = [], []

    def get_labels(self):
        return list(self.labels)

    def classify_images(self, images):
        self.batches.append(len(images))
        for image in images:
            self.images.append(image)
            wide = image.shape[1] // 4
            left, right = (float(part.mean()) / self.top for part in halves(image, wide))
            yield self.changed({"left": left, "right": right})


def halves(image, wide):
    return image[:, :wide], image[:, -wide:]


class Lamps:
    """A detector of bright squares of 16 pixels; counts the images."""

    def __init__(self):
        self.count = 0

    def detect_objects(self, images):
        for image in images:
            self.count += 1
            yield [
                (box_of(16 * x, 16 * y, 16 * x + 16, 16 * y + 16), {"lamp": bright, "sun": 0.0})
                for (y, x), bright in bright_cells(image)
            ]


def bright_cells(image):
    height, width = image.shape[0] // 16, image.shape[1] // 16
    cells = image.reshape(height, 16, width, 16, -1).mean((1, 3, 4)) / 255
    return [((y, x), float(cells[y, x])) for y, x in np.argwhere(cells > 0.25)]


def box_of(left, top, right, bottom):
    vertices = np.array([left, top]), np.array([right, bottom])
    return types.SimpleNamespace(min_vertex=vertices[0], max_vertex=vertices[1])


def photo(*shape, dtype=np.uint8):
    values = np.random.default_rng(0).random(shape)
    return (values * 255).astype(dtype) if dtype == np.uint8 else values.astype(dtype)


def street():
    image = photo(64, 96, 3) // 10
    image[16:32, 32:48] = 230
    image[48:64, 64:80] = 180
    return image


BOXES = np.array([[32, 16, 48, 32], [64, 48, 80, 64]])
SCORES = np.array([[0.9, 0.0], [0.7, 0.0]])


# ---- classifiers -------------------------------------------------------------------------------


def test_the_maps_are_those_of_regions(xaitk):
    image, box = photo(24, 40, 3), Sides()
    maps = xaitk.ClassifierRegions(n_samples=64, cell=8, baseline="black", seed=3)
    found = maps.generate(image, box)
    assert found.shape == (2, 24, 40)
    assert found.dtype == np.float32
    assert len(box.images) == 65  # for both classes

    def model(batch):
        rounded = batch.mul(255).round().div(255)
        return torch.stack(
            [part.mean((1, 2, 3)) for part in (rounded[..., :10], rounded[..., -10:])], 1
        )

    x = torch.from_numpy(image).permute(2, 0, 1) / 255
    method = Regions("black", cell=8)
    explained = fwdgrad.explain(
        model, x, [0, 1], method=method, objective="output", n_samples=64, seed=3
    )
    for own, e in zip(found, explained, strict=True):
        assert own == pytest.approx((e.heatmap() / e.heatmap().abs().max()).numpy(), abs=1e-5)
    assert found[0, :, :10].mean() > 10 * abs(found[0, :, 20:].mean())


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((24, 40, 3), np.uint8), ((40, 24), np.uint8), ((17, 30, 1), np.uint16),
        ((24, 40, 4), np.float32), ((24, 40), np.float64), ((24, 40, 3), np.int64),
        ((24, 40), np.bool_),
    ],
)  # fmt: skip
def test_images_come_as_they_are_given(xaitk, shape, dtype):
    scale = {np.int64: 200, np.uint16: 40_000, np.bool_: 2}.get(dtype, 1)
    image = photo(*shape, dtype=np.uint8 if dtype == np.uint8 else np.float64)
    image = image if dtype == np.uint8 else (image * scale).astype(dtype)
    box = Sides()
    found = xaitk.ClassifierRegions(n_samples=32, baseline="black").generate(image, box)
    assert found.shape == (2, *shape[:2])
    assert np.abs(found).max((1, 2)) == pytest.approx([1, 1])
    assert {(one.shape, one.dtype) for one in box.images} == {(shape, np.dtype(dtype))}
    assert box.images[0] == pytest.approx(image, abs=1e-7)
    others = np.stack(box.images[1:])
    assert others.min() == 0  # black
    assert (others <= image + 1e-6).all()


def test_values_of_any_range(xaitk):
    image = 3 * photo(24, 40, 3, dtype=np.float64) - 1.5  # normalised
    box = Sides()
    found = xaitk.ClassifierRegions(n_samples=32).generate(image, box)
    assert box.images[0] == pytest.approx(image, abs=1e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("baseline", [200, [200, 100, 0], np.full((24, 40, 3), 200)])
def test_a_baseline_is_in_the_units_of_the_image(xaitk, baseline):
    image, box = photo(24, 40, 3) // 50, Sides()
    maps = xaitk.ClassifierRegions(n_samples=32)
    maps.fill = baseline
    assert json.loads(json.dumps(maps.get_config()))["baseline"] == np.asarray(baseline).tolist()
    maps.generate(image, box)
    brightest = np.stack(box.images).max((0, 1, 2))
    assert brightest.tolist() == np.maximum(image, baseline).max((0, 1)).tolist()
    maps.fill = None
    assert maps.baseline == "black"


def test_the_micro_batch_changes_nothing(xaitk):
    image, few, many = photo(24, 40), Sides(), Sides()
    one = xaitk.ClassifierRegions(n_samples=48, batch_size=7).generate(image, few)
    two = xaitk.ClassifierRegions(n_samples=48, batch_size=48).generate(image, many)
    assert np.array_equal(one, two)
    assert max(few.batches) == 7
    assert many.batches == [1, 48]


def test_what_never_changes_is_zero(xaitk):
    with pytest.warns(UserWarning, match="the maps are all zero: .* the input is uniform"):
        found = xaitk.ClassifierRegions().generate(np.full((20, 20, 3), 255, np.uint8), Sides())
    assert not found.any()
    constant = Sides(changed=lambda scores: {**scores, "right": 0.1})
    found = xaitk.ClassifierRegions(n_samples=32).generate(photo(24, 40), constant)
    assert found[0].any()
    assert not found[1].any()


def test_noise_is_warned_of(xaitk):
    draws = np.random.default_rng(0)
    box = Sides(changed=lambda scores: {"left": draws.random(), "right": 0.0})
    with pytest.warns(ReliabilityWarning, match="1 of 2 maps are mostly noise: that of 'left'"):
        xaitk.ClassifierRegions(n_samples=256).generate(photo(24, 40), box)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Sides(changed=lambda scores: {"left": 0.1}), "gave no confidence in 'right'"),
        (Sides(changed=lambda scores: {**scores, "right": np.nan}), "of 'right' is not finite"),
        (Sides(labels=()), "no labels"),
        (types.SimpleNamespace(get_labels=lambda: [0], classify_images=lambda images: []),
         "0 results for 1 images"),
    ],
)  # fmt: skip
def test_a_black_box_of_no_use(xaitk, box, message):
    with pytest.raises(ModelError, match=message):
        xaitk.ClassifierRegions(n_samples=32).generate(photo(24, 40), box)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"cell": "big"}, "cell must be a number of pixels or 'auto'"),
        ({"baseline": "gray"}, "did you mean 'grey'"),
        ({"baseline": [1.0, "red"]}, "baseline must be a name, a number"),
        ({"seed": -1}, "seed must lie in 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_options_of_no_use(xaitk, options, message):
    with pytest.raises(ValueError, match=message):
        xaitk.DetectorRegions(**options)


def test_images_of_no_use(xaitk):
    maps = xaitk.ClassifierRegions(n_samples=32, baseline=[1, 2])
    with pytest.raises(ValueError, match=r"baseline must be .* of the shape \(24, 40, 3\)"):
        maps.generate(photo(24, 40, 3), Sides())
    with pytest.raises(ValueError, match="ref_image must be finite"):
        maps.generate(np.full((24, 40), np.nan), Sides())


# ---- detectors ---------------------------------------------------------------------------------


def test_the_maps_are_those_of_detections(xaitk):
    image, box = street(), Lamps()
    found = xaitk.DetectorRegions(n_samples=256).generate(image, BOXES, SCORES, box)
    assert found.shape == (2, 64, 96)
    assert box.count == 257  # for both
    x = torch.from_numpy(image).permute(2, 0, 1) / 255

    def model(batch):
        images = batch.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [
            [((16 * x, 16 * y, 16 * x + 16, 16 * y + 16), 0, s) for (y, x), s in bright_cells(one)]
            for one in images
        ]

    lamps = Detections([(tuple(row), 0) for row in BOXES.tolist()], form="lists")
    explained = fwdgrad.explain(model, x, [0, 1], objective=lamps, method=Regions(), n_samples=256)
    for own, e, (left, top, right, bottom) in zip(found, explained, BOXES, strict=True):
        assert own == pytest.approx((e.heatmap() / e.heatmap().abs().max()).numpy(), abs=1e-4)
        y, x = np.unravel_index(own.argmax(), own.shape)
        assert left <= x < right
        assert top <= y < bottom


def test_detections_that_are_not_found(xaitk):
    boxes = np.vstack([BOXES[:1], [[4, 4, 4, 9]], [[0, 0, 9, 9]], BOXES[1:]])
    scores = np.vstack([SCORES[:1], [[0.5, 0]], [[0, 0]], [[0, 0.8]]])  # the last is no sun
    with pytest.warns(UserWarning, match="the map of detection [12] is all zero"):
        found = xaitk.DetectorRegions(n_samples=64).generate(
            street(), boxes, scores, Lamps(), np.ones(4)
        )
    assert [bool(one.any()) for one in found] == [True, False, False, False]
    assert xaitk.DetectorRegions().generate(
        street(), BOXES[:0], SCORES[:0], Lamps()
    ).shape == (0, 64, 96)  # fmt: skip


def test_objectness_is_the_score_in_a_class_alone(xaitk):
    boxes = installed._Boxes(
        types.SimpleNamespace(
            detect_objects=lambda images: [
                [(box_of(0, 0, 4, 2), {"a": 0.0, "b": 0.25})],
                [(box_of(2, 0, 6, 4), {"b": 0.75, "a": 0.5}), (box_of(0, 0, 2, 2), {"b": 0.5})],
            ]
        ),
        2,
    )
    rows = boxes(np.zeros((2, 8, 8))).tolist()
    assert rows[0] == [[2, 1, 4, 2, 0.25, 0, 0.25], [0] * 7]
    assert rows[1] == [[4, 2, 4, 4, 1, 0.5, 0.75], [1, 1, 2, 2, 0.5, 0, 0.5]]


def test_columns_of_other_classes(xaitk):
    with pytest.raises(ModelError, match=r"each of 3 classes, and the black box told 2"):
        xaitk.DetectorRegions(n_samples=32).generate(street(), BOXES, np.ones((2, 3)), Lamps())


# ---- as a plugin -------------------------------------------------------------------------------


def test_without_xaitk(monkeypatch):
    again = loaded(monkeypatch, None)  # plugins are looked for all the same
    with pytest.raises(ImportError, match=r"pip install 'fwdgrad-kernels\[xaitk\]'"):
        again.ClassifierRegions()


@needs_xaitk
@pytest.mark.parametrize("name", ["ClassifierRegions", "DetectorRegions"])
def test_options_as_json(name):
    from smqtk_core.configuration import configuration_test_helper

    options = {"n_samples": 33, "cell": 8, "baseline": [1.0, 2.0], "seed": 4, "batch_size": 5}
    for one in configuration_test_helper(getattr(installed, name)(**options)):
        assert one.get_config() == options
    defaults = getattr(installed, name).get_default_config()
    assert getattr(installed, name)().get_config() == defaults


@needs_xaitk
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_is_found_as_a_plugin(tmp_path, monkeypatch):
    import importlib.metadata

    from xaitk_saliency import (
        GenerateImageClassifierBlackboxSaliency,
        GenerateObjectDetectorBlackboxSaliency,
    )

    plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = {point.value for point in importlib.metadata.entry_points(group="smqtk_plugins")}
    assert "fwdgrad.integrations.xaitk" in names
    assert installed.ClassifierRegions in GenerateImageClassifierBlackboxSaliency.get_impls()
    assert installed.DetectorRegions in GenerateObjectDetectorBlackboxSaliency.get_impls()


def plugin(folder):
    """What an installed package says of its plugins."""
    info = folder / "fwdgrad_plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fwdgrad-plugin\nVersion: 1\n")
    line = "fwdgrad_xaitk = fwdgrad.integrations.xaitk\n"
    (info / "entry_points.txt").write_text("[smqtk_plugins]\n" + line)


@needs_xaitk
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_its_command_line_runs_with_it(tmp_path, monkeypatch):
    pytest.importorskip("kwcoco", reason="the extra 'tools' of XAITK-Saliency")
    from click.testing import CliRunner
    from PIL import Image
    from xaitk_saliency.utils.bin.sal_on_coco_dets import sal_on_coco_dets

    plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    Image.fromarray(street()).save(tmp_path / "street.png")
    annotations = [
        {"id": 7 + i, "image_id": 1, "category_id": i, "bbox": [8, 8, 20, 20], "score": 0.5}
        for i in range(3)
    ]
    names = [{"id": i, "name": str(i)} for i in range(3)]
    dataset = {"images": [{"id": 1, "file_name": "street.png"}], "categories": names}
    (tmp_path / "found.json").write_text(json.dumps({**dataset, "annotations": annotations}))
    detector = "smqtk_detection.impls.detect_image_objects.random_detector.RandomDetector"
    maps = "fwdgrad.integrations.xaitk.DetectorRegions"
    config = {
        "DetectImageObjects": {"type": detector, detector: {}},
        "GenerateObjectDetectorBlackboxSaliency": {"type": maps, maps: {"n_samples": 32}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    paths = [str(tmp_path / name) for name in ("found.json", "maps", "config.json")]
    result = CliRunner().invoke(sal_on_coco_dets, paths, catch_exceptions=False)
    assert result.exit_code == 0
    drawn = sorted(path.name for path in (tmp_path / "maps" / "street").iterdir())
    assert drawn == ["det_7.jpeg", "det_8.jpeg", "det_9.jpeg"]
