"""Pictures as people have them: any layout, range and size; the map is in the photo's pixels."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, Regions
from fwdgrad.adapters.cropping import Cut
from fwdgrad.adapters.image_text import ImageText
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.adapters.picture_explanation import PictureExplanation, on_photo
from fwdgrad.adapters.pictures import ImageModel
from fwdgrad.adapters.pixels import read_any, to_bytes
from fwdgrad.errors import ModelError
from fwdgrad.overlay import paled

from .models import assert_same_bits

Image = pytest.importorskip("PIL.Image")

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
BLACK = Regions("black", cell=8)


def light(batch):
    """Class 1 is brightness, class 0 nothing."""
    bright = batch.mean((1, 2, 3))
    return torch.stack([0 * bright, bright], 1)


def red_less_green(batch):
    return (batch[:, 0] - batch[:, 1]).mean((1, 2))


def seen_by(model, x, **options):
    """The batch of one picture that the callable gets."""
    seen = []

    def keep(batch):
        seen.append(batch)
        return np.zeros((len(batch), 2))

    adapter = ImageModel(keep, **options) if model is None else model(keep, **options)
    prepared = adapter.prepare(x)
    prepared.forward(prepared.x[None])
    return seen[-1]


# ---- what is given -------------------------------------------------------------------------


def as_floats(values):
    return torch.from_numpy(values.copy()).permute(2, 0, 1).float() / 255


GIVEN = {
    "uint8 (H, W, C)": NOISE,
    "uint8 (C, H, W)": NOISE.transpose(2, 0, 1),
    "float in 0..255": NOISE.astype(np.float64),
    "float in 0..1": NOISE / 255,
    "int64": NOISE.astype(np.int64),
    "uint16": NOISE.astype(np.uint16) * 257,
    "tensor (C, H, W)": as_floats(NOISE),
    "tensor (H, W, C) in 0..255": torch.from_numpy(NOISE),
    "tensor with a graph": as_floats(NOISE).requires_grad_(),
    "Pillow": Image.fromarray(NOISE),
    "reversed": NOISE[::-1][::-1],
}


@pytest.mark.parametrize("kind", GIVEN)
def test_the_same_picture_in_every_form(kind):
    prepared = ImageModel(light).prepare(GIVEN[kind])
    assert prepared.x.dtype == torch.float32
    torch.testing.assert_close(prepared.x, as_floats(NOISE), atol=1e-6, rtol=0)
    assert (to_bytes(read_any(GIVEN[kind])) == NOISE).all()
    assert prepared.method == Regions()


def test_half_precision_is_taken():
    given = as_floats(NOISE).bfloat16()
    torch.testing.assert_close(ImageModel(light).prepare(given).x, given.float())


@pytest.mark.parametrize("grey", [NOISE[..., 0], NOISE[..., :1], NOISE[..., 0][None]])
def test_grey_pictures(grey):
    want = as_floats(NOISE[..., :1])
    assert torch.equal(ImageModel(light).prepare(grey).x, want.expand(3, -1, -1))
    assert torch.equal(ImageModel(light, channels=1).prepare(grey).x, want)


def test_a_grey_picture_of_few_columns_keeps_its_axes():
    assert ImageModel(light, channels=1).prepare(NOISE[:, :3, 0]).x.shape == (1, 20, 3)


def test_a_model_of_grey_pictures_sees_colours_as_pillow_greys_them():
    found = ImageModel(light, channels=1).prepare(NOISE).x
    want = np.asarray(Image.fromarray(NOISE).convert("L")) / 255
    assert np.abs(found[0].numpy() - want).max() <= 0.51 / 255


def test_what_is_transparent_becomes_white():
    alpha = RNG.integers(0, 256, (20, 30, 1), dtype=np.uint8)
    share = as_floats(alpha)
    want = as_floats(NOISE) * share + 1 - share
    rgba = np.dstack([NOISE, alpha])
    found = [ImageModel(light).prepare(given).x for given in (rgba, Image.fromarray(rgba))]
    for one in found:
        assert (one - want).abs().max() <= 1.01 / 255
    grey = ImageModel(light, channels=1).prepare(np.dstack([NOISE[..., :1], alpha])).x
    assert (grey[0] - want[0]).abs().max() <= 1e-5


def test_yes_and_no_are_white_and_black():
    assert ImageModel(light).prepare(NOISE[..., 0] > 99).x.unique().tolist() == [0, 1]


@pytest.mark.parametrize("form", ["path", "string", "Pillow"])
def test_a_cameras_turn_is_obeyed(tmp_path, form):
    exif = Image.Exif()
    exif[274] = 6
    path = tmp_path / "a.png"
    Image.fromarray(np.rot90(NOISE, 1).copy()).save(path, exif=exif)
    given = {"path": path, "string": str(path), "Pillow": Image.open(path)}[form]
    e = fwdgrad.explain(ImageModel(light), given, method=BLACK, n_samples=16)
    assert torch.equal(e.input, as_floats(NOISE))
    assert (e.photo == NOISE).all()


BAD = [
    (np.zeros((1, 3, 20, 30)), ValueError, "got shape (1, 3, 20, 30); give x[0]"),
    (np.zeros((20, 30, 7)), ValueError, "got shape (20, 30, 7)"),
    (np.zeros((0, 30, 3)), ValueError, "got shape (0, 30, 3)"),
    (np.full((20, 30), -2.0), ValueError, "got -2 to -2; give the picture before it is normalised"),
    (np.full((20, 30), 300.0), ValueError, "in 0..1 or 0..255, got 300 to 300"),
    (np.full((20, 30), np.nan), ValueError, "must be finite pixels"),
    (np.full((20, 30), 1j), TypeError, "must have numbers, got an array of complex128"),
    (np.full((20, 30), "a"), TypeError, "must have numbers"),
    ([[0.0]], TypeError, "got list"),
    (None, TypeError, "must be a path, a picture of Pillow, or an array or tensor"),
]


@pytest.mark.parametrize(("x", "error", "said"), BAD)
def test_what_is_no_picture(x, error, said):
    with pytest.raises(error, match=re.escape(said)) as caught:
        fwdgrad.explain(ImageModel(light), x)
    assert str(caught.value).startswith("x must ")
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"photo .*none.png does not exist"):
        fwdgrad.explain(ImageModel(light), tmp_path / "none.png")


# ---- what the model gets -------------------------------------------------------------------


def test_a_tensor_with_mean_and_std():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    found = seen_by(None, NOISE, mean=mean, std=std)
    rows = torch.tensor([mean, std])[:, None, :, None, None]
    torch.testing.assert_close(found, (as_floats(NOISE)[None] - rows[0]) / rows[1])


def test_keras_style():
    found = seen_by(None, NOISE, input="numpy", layout="HWC", range=(0, 255), mean=100.0)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, NOISE[None].astype(np.float32) - 100, atol=1e-4)
    found = seen_by(None, NOISE, input="tensor", layout="HWC", range=(-1, 1))
    np.testing.assert_allclose(found, NOISE[None] / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", np.uint8, torch.uint8, np.dtype("u1")])
def test_bytes(dtype):
    for kind in ("numpy", "tensor"):
        found = seen_by(None, NOISE, input=kind, layout="HWC", range=(0, 255), dtype=dtype)
        assert (np.asarray(found) == NOISE[None]).all()
        assert str(found.dtype).endswith("uint8")


def test_half_precision_is_given():
    assert seen_by(None, NOISE, dtype="float16").dtype == torch.float16
    assert seen_by(None, NOISE, input="numpy", dtype=np.float64).dtype == np.float64


@pytest.mark.parametrize("channels", [3, 1])
def test_pillow_pictures(channels):
    (found,) = seen_by(None, NOISE, input="pil", channels=channels)
    assert found.mode == {3: "RGB", 1: "L"}[channels]
    want = Image.fromarray(NOISE).convert(found.mode)
    assert np.abs(np.asarray(found, int) - np.asarray(want, int)).max() <= channels % 3


def test_a_model_that_writes_to_its_argument():
    def writes(batch):
        return batch.mul_(2).mean((1, 2, 3))

    photo = as_floats(NOISE)
    before = photo.clone()
    method = Regions("black", cell=8)
    e = fwdgrad.explain(ImageModel(writes), photo, method=method, n_samples=32)
    other = fwdgrad.explain(
        ImageModel(lambda b: 2 * b.mean((1, 2, 3))), photo, method=method, n_samples=32
    )
    assert torch.equal(photo, before)
    assert torch.equal(e.attribution, other.attribution)


def test_a_map_does_not_depend_on_the_form():
    """The same brightness from tensors and from arrays (H, W, C) in 0..255."""
    options = {"method": BLACK, "n_samples": 64, "target": 1, "objective": "output"}

    def of_bytes(batch):
        assert batch.shape[1:] == (20, 30, 3)
        bright = batch.mean((1, 2, 3), dtype=np.float64) / 255
        return np.stack([0 * bright, bright], 1)

    one = fwdgrad.explain(ImageModel(light), NOISE, **options)
    keras = ImageModel(of_bytes, input="numpy", layout="HWC", range=(0, 255))
    other = fwdgrad.explain(keras, NOISE, **options)
    torch.testing.assert_close(one.attribution, other.attribution, atol=1e-5, rtol=1e-4)


def test_a_gradient_goes_through():
    model = ImageModel(red_less_green, std=0.5, layout="CHW")
    e = fwdgrad.explain(model, NOISE, method="gradient")
    slope = torch.tensor([2.0, -2.0, 0.0])[:, None, None] / 600
    torch.testing.assert_close(e.attribution, slope.expand(3, 20, 30))


def test_an_onnx_model(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from fwdgrad.adapters.arrays import OnnxModel

    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", floats, ["n", 20, 30, 3])],
        [helper.make_tensor_value_info("y", floats, ["n", 3])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = ImageModel(OnnxModel(made.SerializeToString()), layout="HWC", range=(0, 255))
    e = fwdgrad.explain(model, NOISE, 2, method=BLACK, objective="output", n_samples=64)
    assert e.score == pytest.approx(NOISE[..., 2].mean(), rel=1e-4)


# ---- the size, and where the map lies ------------------------------------------------------


def object_at(height, width, row, column, side=16):
    """A dark photo with a bright square."""
    photo = np.full((height, width, 3), 30, np.uint8)
    photo[row : row + side, column : column + side] = 220
    return photo


SIZES = {  # of the model, and how the photo of 120 x 60 is fitted
    "whole": ({"size": (32, 48)}, (20, 10)),
    "whole, wide": ({"size": (24, 64), "fit": "whole"}, (80, 40)),
    "own size": ({}, (90, 5)),
    "centre": ({"size": 32, "fit": "centre"}, (60, 30)),
    "centre of a non-square": ({"size": (48, 32), "fit": "centre", "share": 1}, (30, 20)),
    "pad": ({"size": 64, "fit": "pad"}, (70, 35)),
}


@pytest.mark.parametrize("kind", SIZES)
def test_the_peak_of_a_portraits_map_is_where_the_object_is(kind):
    options, (row, column) = SIZES[kind]
    photo = object_at(120, 60, row, column)

    def brightest(batch):
        if "size" in options:
            size = options["size"]
            assert tuple(batch.shape[2:]) == (size if isinstance(size, tuple) else (size, size))
        return (batch > 0.6).double().mean((1, 2, 3))

    model = ImageModel(brightest, **options)
    e = fwdgrad.explain(model, photo, method="regions", n_samples=512)
    assert isinstance(e, PictureExplanation)
    heat = e.heatmap()
    assert heat.shape == (120, 60)
    at = np.unravel_index(int(heat.argmax()), heat.shape)
    assert row - 1 <= at[0] < row + 17  # as exact as a smooth cell's border
    assert column - 1 <= at[1] < column + 17
    inside = heat[row - 4 : row + 20, max(0, column - 4) : column + 20].clamp(min=0).sum()
    assert inside > 0.5 * heat.clamp(min=0).sum()


def test_what_the_model_did_not_see_is_zero():
    photo = RNG.integers(0, 256, (120, 60, 3), dtype=np.uint8)
    e = fwdgrad.explain(ImageModel(light, size=32, fit="centre"), photo, 1, method=BLACK)
    assert e.cut.box == (3.75, 33.75, 56.25, 86.25)
    heat = e.heatmap()
    seen = torch.zeros(120, 60, dtype=torch.bool)
    seen[34:86, 4:56] = True
    assert (heat[~seen] == 0).all()
    assert (heat[seen] != 0).all()


def test_a_photo_of_the_models_size_is_taken_as_it_is():
    given = torch.rand(3, 24, 32)
    for fit in ("whole", "centre", "pad"):
        assert torch.equal(ImageModel(light, size=(24, 32), fit=fit).prepare(given).x, given)


def test_the_run_can_be_repeated():
    model = ImageModel(light, size=(24, 32), labels=["dark", "bright"])
    e = fwdgrad.explain(model, NOISE, "bright", method=BLACK, n_samples=64)
    again = fwdgrad.explain(model, e.input, **e.settings)
    assert torch.equal(again.attribution, e.attribution)
    assert torch.equal(again.heatmap(), e.explanation.heatmap())


def test_padding_is_grey_and_beside_the_photo():
    x = ImageModel(light, size=40, fit="pad").prepare(np.zeros((20, 40, 3), np.uint8)).x
    assert (x[:, 10:30] == 0).all()
    torch.testing.assert_close(x[:, :10], torch.full((3, 10, 40), 127 / 255))
    torch.testing.assert_close(x[:, 30:], torch.full((3, 10, 40), 127 / 255))


def test_on_photo_keeps_places():
    # A cut of every second pixel of columns 2 .. 8: the middle of each lies between two.
    cut = Cut((2.0, 0.0, 8.0, 2.0), (3, 1), (5, 3))  # a pixel of padding all around
    values = torch.zeros(3, 5)
    values[1, 1:4] = torch.tensor([1.0, 2.0, 3.0])
    found = on_photo(values, cut, 10, 2)
    want = torch.tensor([0, 0, 1, 1.25, 1.75, 2.25, 2.75, 3, 0, 0])
    torch.testing.assert_close(found, want.expand(2, -1))
    assert cut.extent == (0.0, -2.0, 10.0, 4.0)


def test_the_drawing_shows_all_of_the_photo(tmp_path):
    plt = pytest.importorskip("matplotlib.pyplot")
    photo = object_at(120, 60, 52, 22)
    model = ImageModel(lambda b: (b > 0.6).double().mean((1, 2, 3)), size=32, fit="centre")
    e = fwdgrad.explain(model, photo, method="regions", n_samples=256)
    ax = plt.figure().subplots()
    assert e.plot(ax, top=0) is ax
    pixels = np.asarray(ax.images[-1].get_array())
    assert pixels.shape == photo.shape
    assert ax.images[-1].get_extent() == [0, 60, 120, 0]
    red = pixels[..., 0].astype(int) - pixels[..., 2]
    assert (red[54:66, 24:36] > 60).mean() > 0.5  # the object, where it is in the photo
    pale = (paled(photo) + 0.5).astype(np.uint8)
    assert (pixels[:30] == pale[:30]).all()  # what was not seen is unmarked
    assert (pixels != pale).any()
    large = np.zeros((3000, 1500, 3), np.uint8)  # is made smaller to be drawn
    shown = replace(e, photo=large, cut=replace(e.cut, box=tuple(25 * at for at in e.cut.box)))
    ax = shown.plot(picture=False)
    assert ax.images[-1].get_array().shape == (1024, 512, 3)
    assert ax.images[-1].get_extent() == [0, 1500, 3000, 0]
    (first, *_) = ax.texts
    assert 20 * 25 < first.xy[0] < 40 * 25
    assert 50 * 25 < first.xy[1] < 70 * 25
    plt.close("all")


def test_save_and_load(tmp_path):
    photo = object_at(50, 60, 10, 20)
    model = ImageModel(light, size=32, fit="centre", labels=["dark", "bright"])
    e = fwdgrad.explain(model, photo, "bright", method=BLACK, n_samples=64)
    e.save(tmp_path / "a.safetensors")
    for given in (photo, Image.fromarray(photo)):
        again = PictureExplanation.load(tmp_path / "a.safetensors", given)
        assert_same_bits(again.explanation, e.explanation)
        assert torch.equal(again.heatmap(), e.heatmap())
        assert again.label == "bright (class 1)"
        assert (again.photo == photo).all()
    assert (PictureExplanation.load(tmp_path / "a.safetensors").photo == photo).all()
    e.explanation.save(tmp_path / "map.safetensors")
    alone = PictureExplanation.load(tmp_path / "map.safetensors")
    assert torch.equal(alone.heatmap(), e.heatmap())
    assert (alone.photo[:2] == 128).all()
    assert np.abs(alone.photo[14:20, 24:30].astype(int) - 220).max() <= 12
    with pytest.raises(ValueError, match=r"photo must be the one .* 60 x 50 pixels, got 50 x 60"):
        PictureExplanation.load(tmp_path / "a.safetensors", photo.swapaxes(0, 1))
    fwdgrad.explain(lambda b: b.sum(1), torch.arange(3.0)).save(tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match="does not say where it lies on a photo"):
        PictureExplanation.load(tmp_path / "b.safetensors")


def test_it_has_what_an_explanation_has():
    e = fwdgrad.explain(ImageModel(light), NOISE, 1, method=BLACK, n_samples=64)
    assert e.reliability == e.explanation.reliability
    assert e.settings["n_samples"] == 64
    assert e.target == 1
    assert "photo 30 x 20, 64 samples" in repr(e)
    with pytest.raises(AttributeError, match="nothing_of_it"):
        _ = e.nothing_of_it


def test_what_a_model_says_of_itself():
    inner = ImageClassifier("pets", lambda b: b.mean((2, 3)), 16, ("cat", "dog", "owl"))
    e = fwdgrad.explain(ImageModel(inner, size=16), NOISE, "owl", method=BLACK, n_samples=64)
    assert e.label == "owl (class 2)"
    captions = ["red", "green", "blue"]
    inner = ImageText(lambda b: b.mean((2, 3)), torch.eye(3), captions, 16)
    e = fwdgrad.explain(ImageModel(inner, size=16), NOISE, "green", method=BLACK, n_samples=64)
    assert (e.label, e.objective) == ("green (class 1)", "output")


def test_several_targets():
    model = ImageModel(lambda b: b.mean((2, 3)))
    found = fwdgrad.explain(model, NOISE, [0, 1], method=BLACK, n_samples=64)
    assert [one.label for one in found] == ["class 0", "class 1"]


def test_noise_is_warned_of():
    with pytest.warns(
        fwdgrad.ReliabilityWarning, match=r"the map has a reliability of .* a grid of larger"
    ):
        fwdgrad.explain(
            ImageModel(lambda b: (1e5 * b.double().sum((1, 2, 3))).sin()),
            NOISE, method=ForwardGradient(scale=0.1), n_samples=64,
        )  # fmt: skip


def test_a_checkpoint_knows_the_photo(tmp_path):
    calls = []

    def counts(batch):
        calls.append(len(batch))
        return light(batch)

    options = {"method": BLACK, "n_samples": 64, "checkpoint": tmp_path / "c.safetensors"}
    model = ImageModel(counts, size=16)
    one = fwdgrad.explain(model, NOISE, 1, **options)
    calls.clear()
    again = fwdgrad.explain(ImageModel(counts, size=16), NOISE, 1, **options)
    assert_same_bits(one.explanation, again.explanation)
    assert sum(calls) < 16
    with pytest.raises(fwdgrad.CheckpointError, match="picture"):
        fwdgrad.explain(ImageModel(counts, size=16), one.input, 1, **options)


# ---- pipelines, processors, timm -----------------------------------------------------------


class Pipeline:
    """As one of transformers for images: a list of pictures in, label and score dicts out."""

    def __init__(self, top_k=5):
        self.top_k = top_k

    def __call__(self, pictures):
        assert all(isinstance(one, Image.Image) for one in pictures)
        return [self.answer(np.asarray(one) / 255) for one in pictures]

    def answer(self, values):
        left, right = values[:, :15].mean(), values[:, 15:].mean()
        numbers = np.exp(4 * np.array([left, right, 0.0]))
        found = dict(
            zip(["zebra, plains zebra", "ant", "moth"], numbers / numbers.sum(), strict=True)
        )
        ranked = sorted(found.items(), key=lambda pair: -pair[1])[: self.top_k]
        return [{"label": label, "score": float(score)} for label, score in ranked]


def test_a_pipeline_of_pillow_pictures():
    model = ImageModel(Pipeline(), input="pil")
    photo = object_at(20, 30, 2, 0, 12)
    e = fwdgrad.explain(model, photo, "plains zebra", method=Regions("black", cell=6))
    assert model.labels == ("ant", "moth", "zebra, plains zebra")
    assert e.label == "zebra (class 2)"
    answer = {one["label"]: one["score"] for one in Pipeline().answer(photo / 255)}
    assert e.score == pytest.approx(answer["zebra, plains zebra"])
    assert e.objective == "output"
    heat = e.heatmap()
    assert heat[4:12, 2:10].mean() > 5 * heat[4:12, 18:28].mean().abs()
    ordered = ImageModel(Pipeline(), input="pil", labels=["moth", "ant", "zebra, plains zebra"])
    assert fwdgrad.explain(ordered, photo, method=BLACK, n_samples=16).target == 2


def test_a_pipeline_that_leaves_labels_out():
    model = ImageModel(
        Pipeline(top_k=2), input="pil", labels=["ant", "moth", "zebra, plains zebra"]
    )
    with pytest.raises(ModelError, match=r"no score of .*, and 2 labels of 3; .* top_k=10"):
        fwdgrad.explain(model, NOISE, method=BLACK, n_samples=16)
    # The labels at the photo are not those of its samples.
    photo = np.full((20, 30, 3), 200, np.uint8)
    photo[:, :15] = 220
    with pytest.raises(ModelError, match="top_k=10"):
        fwdgrad.explain(ImageModel(Pipeline(top_k=1), input="pil"), photo, 0, method=BLACK)


def test_detections_are_left_to_their_objective():
    boxes = [{"label": "cat", "score": 0.5, "box": [0, 0, 1, 1]}]

    def first(outputs):
        return torch.tensor([row[0]["score"] for row in outputs]).double()

    model = ImageModel(lambda pictures: [boxes for _ in pictures], input="pil")
    with pytest.warns(UserWarning, match=r"the score is 0\.5 for every sample"):
        fwdgrad.explain(model, NOISE, None, objective=first, method=BLACK, n_samples=16)


def test_timms_data_config():
    config = {
        "input_size": (3, 32, 48), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.4), "crop_pct": 0.8, "crop_mode": "center",
    }  # fmt: skip
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return light(batch)

    adapter = ImageModel.from_timm(config, model, labels=["dark", "bright"])
    photo = RNG.integers(0, 256, (120, 60, 3), dtype=np.uint8)
    prepared = adapter.prepare(photo)
    prepared.forward(prepared.x[None])
    # As timm: the shorter side is scaled to 60, of which the model's 48 x 32 are cut out.
    middle = Image.fromarray(photo).crop((6, 44, 54, 76))
    want = (as_floats(np.asarray(middle)) - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / (
        torch.tensor([0.2, 0.2, 0.4])[:, None, None]
    )
    torch.testing.assert_close(seen[0][0], want)
    assert ImageModel.from_timm({**config, "crop_mode": "squash"}, light).fit == "whole"
    assert ImageModel.from_timm({**config, "crop_mode": "border"}, light).fit == "pad"
    assert ImageModel.from_timm({"input_size": (1, 28, 28)}, light).channels == 1
    with pytest.raises(ValueError, match=r"config must be what timm.* with input_size, got mean"):
        ImageModel.from_timm({"mean": 0.5}, light)
    with pytest.raises(ValueError, match="config must have a crop_mode of center, squash, border"):
        ImageModel.from_timm({**config, "crop_mode": "left"}, light)


class Processor:
    """As an image processor of transformers."""

    do_resize = do_rescale = do_normalize = True
    rescale_factor = 1 / 255
    image_mean, image_std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.4]

    def __init__(self, **own):
        self.__dict__.update(own)


PROCESSORS = [
    ({"size": {"height": 24, "width": 32}}, ((24, 32), "whole", 1.0, (0, 1))),
    (
        {"size": {"shortest_edge": 40}, "do_center_crop": True,
         "crop_size": {"height": 32, "width": 32}},
        ((32, 32), "centre", 0.8, (0, 1)),
    ),
    (
        {"size": {"height": 40, "width": 40}, "do_center_crop": True,
         "crop_size": {"height": 32, "width": 32}},
        ((32, 32), "whole", 0.8, (0, 1)),
    ),
    ({"size": {"shortest_edge": 224}, "crop_pct": 0.9}, ((224, 224), "centre", 0.9, (0, 1))),
    ({"size": {"shortest_edge": 384}, "crop_pct": 0.9}, ((384, 384), "whole", 1.0, (0, 1))),
    (
        {"size": {"height": 24, "width": 32}, "rescale_factor": 1 / 127.5, "rescale_offset": True},
        ((24, 32), "whole", 1.0, (-1, 1)),
    ),
    (
        {"size": {"height": 24, "width": 32}, "do_rescale": False},
        ((24, 32), "whole", 1.0, (0, 255)),
    ),
    ({"do_resize": False, "size": {"height": 24, "width": 32}}, (None, "whole", 1.0, (0, 1))),
]  # fmt: skip


@pytest.mark.parametrize(("own", "want"), PROCESSORS)
def test_processors_of_transformers(own, want):
    found = ImageModel.from_transformers(light, Processor(**own))
    assert (found.size, found.fit, found.share, found.limits) == want


def test_a_processor_that_leaves_the_shape_open():
    processor = Processor(size={"shortest_edge": 224})
    with pytest.raises(
        ValueError, match=r"size must be given: the processor's .* leaves the shape"
    ):
        ImageModel.from_transformers(light, processor)
    assert ImageModel.from_transformers(light, processor, size=32).size == (32, 32)
    with pytest.raises(TypeError, match="processor must be the model's image processor, got None"):
        ImageModel.from_transformers(light)


@pytest.mark.slow
def test_a_pipeline_of_transformers_and_its_parts_agree():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, num_labels=6, id2label={i: f"kind {i}" for i in range(6)},
        initializer_range=0.5,
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    pipeline = transformers.pipeline(
        "image-classification", model=network, image_processor=processor, top_k=6
    )
    photo = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    answer = pipeline(Image.fromarray(photo))
    best = answer[0]
    options = {"method": BLACK, "n_samples": 32}
    fast = fwdgrad.explain(ImageModel.from_transformers(pipeline), photo, **options)
    slow = fwdgrad.explain(ImageModel(pipeline, input="pil"), photo, **options)
    for one in (fast, slow):
        assert one.label.startswith(best["label"])
        assert one.score == pytest.approx(best["score"], rel=1e-4)
    # Pillow's pictures have 8 bits, so that samples differ by a rounding.
    torch.testing.assert_close(
        fast.attribution, slow.attribution, rtol=0.05, atol=0.05 * float(fast.attribution.max())
    )


@pytest.mark.slow
def test_the_example(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    path = Path(__file__).parents[2] / "examples" / "explain_pipeline.py"
    spec = importlib.util.spec_from_file_location("explain_pipeline", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--parts", "--samples", "64"])
    example.main()
    assert "of 300 x 450 pixels\ndrawn in pipeline.png" in capsys.readouterr().out
    assert Image.open("pipeline.png").size[0] > 100
    monkeypatch.setattr(sys, "argv", [path.name, "none.jpg"])
    with pytest.raises(SystemExit):
        example.main()
    assert "photo none.jpg does not exist" in capsys.readouterr().err


# ---- options that will not do --------------------------------------------------------------

OPTIONS = [
    ({"input": "jpeg"}, "input must be 'tensor' or 'numpy' or 'pil', got 'jpeg'"),
    ({"layout": "NHWC"}, "layout must be 'CHW' or 'HWC', got 'NHWC'"),
    ({"fit": "crop"}, "fit must be 'whole' or 'centre' or 'pad', got 'crop'"),
    ({"channels": 4}, "channels must be 3 or 1, got 4"),
    ({"size": 0}, "size must be at least 1 pixel, got 0"),
    ({"size": "large"}, "size must be (height, width) or a number, got 'large'"),
    ({"size": (3, 224, 224)}, "size must be (height, width) or a number, got (3, 224, 224)"),
    ({"range": (1, 0)}, "range must be black and white, such as (0, 255), got (1, 0)"),
    ({"range": 255}, "range must be black and white, such as (0, 255), got 255"),
    ({"mean": (0.5, 0.5)}, "mean must be a number, or 3, one for each channel, got (0.5, 0.5)"),
    ({"std": 0}, "std must be above 0, got 0"),
    ({"std": "imagenet"}, "std must be a number, or 3, one for each channel, got 'imagenet'"),
    ({"share": 1.5}, "share must be above 0 and at most 1, got 1.5"),
    ({"share": 0.5, "fit": "pad"}, "share is of fit='whole' or 'centre', got 'pad'"),
    ({"dtype": "text"}, "dtype must be a type of numbers such as 'uint8', got 'text'"),
    ({"dtype": bool}, "dtype must be a type of numbers such as 'uint8', got <class 'bool'>"),
    ({"input": "pil", "mean": 0.5}, "mean is of tensors and arrays, and input='pil' gives"),
    ({"input": "pil", "range": (0, 255)}, "range is of tensors and arrays"),
    ({"labels": []}, "labels must have at least one entry"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "said"), OPTIONS)
def test_options_that_will_not_do(options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        ImageModel(light, **options)


def test_a_name_without_names():
    with pytest.raises(ValueError, match="target must be a number: the model's classes have no na"):
        fwdgrad.explain(ImageModel(light), NOISE, "cat")
    with pytest.raises(TypeError, match="model must be callable on a batch, got str"):
        ImageModel("resnet")


def test_a_module_in_training_mode_is_seen():
    module = torch.nn.Sequential(
        torch.nn.Dropout(0.5), torch.nn.Flatten(), torch.nn.Linear(1800, 2)
    )
    with pytest.warns(UserWarning, match="training mode"):
        fwdgrad.explain(ImageModel(module), NOISE, method=BLACK, n_samples=16)


def test_to_fit_a_photo_needs_a_size():
    with pytest.raises(ValueError, match="size must be given with fit='pad'"):
        ImageModel(lambda batch: batch.mean((1, 2, 3)), fit="pad")
