"""Detectors: D-RISE's score in every form of output, known by hand; maps whose peaks are known."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import CheckpointError, ForwardGradient, ModelError, Regions
from fwdgrad.adapters.detection import Detection, Detections
from fwdgrad.adapters.detector_outputs import iou
from fwdgrad.meaning import headline

from .models import Recorder, assert_same_bits

BOX = (2.0, 2.0, 10.0, 10.0)
NEXT = (6.0, 2.0, 14.0, 10.0)  # overlaps it by half: 32 of 96 pixels


def test_intersection_over_union():
    boxes = torch.tensor([BOX, NEXT, (10, 10, 20, 20), (4, 4, 8, 8), (5, 5, 5, 5)])
    found = iou(boxes, torch.tensor([BOX]))
    assert found[:, 0].tolist() == pytest.approx([1, 32 / 96, 0, 16 / 64, 0])


def grid(rows, form, kind=torch.tensor):
    """Rows of YOLO's as a batch of one."""
    values = kind(rows)[None]
    return values.swapaxes(1, 2) if form == "yolov8" else values


# In each: at BOX what is surest of label 1, beside it something of label 0 that is surer.
LISTS = [(BOX, 1, 0.6), (NEXT, 0, 0.9)]
FORMS = {
    "(box, label, score)": ([LISTS], 0.6),
    "names": ([[(BOX, "cat", 0.6), (NEXT, "dog", 0.9)]], 0.6),
    "torchvision": (
        [
            {
                "boxes": torch.tensor([BOX, NEXT]),
                "labels": torch.tensor([1, 0]),
                "scores": torch.tensor([0.6, 0.9]),
            }
        ],
        0.6,
    ),
    "dicts of NumPy": (
        [{"boxes": np.array([BOX, NEXT]), "labels": np.array([1, 0]), "scores": [0.6, 0.9]}],
        0.6,
    ),
    # Class scores (.6, .8): cosine .8 with label 1; times objectness.
    "yolov5": (grid([[6, 6, 8, 8, 0.5, 0.6, 0.8], *[[60, 6, 8, 8, 1, 0, 1]] * 7], "yolov5"), 0.4),
    "yolov5 in a tuple": (
        (grid([[6, 6, 8, 8, 0.5, 0.6, 0.8], *[[60, 6, 8, 8, 1, 0, 1]] * 7], "yolov5"), None),
        0.4,
    ),
    "yolov8": (grid([[6, 6, 8, 8, 0.6, 0.8], *[[60, 6, 8, 8, 0, 1]] * 7], "yolov8"), 0.64),
    "yolov8 of NumPy": (
        grid([[6, 6, 8, 8, 0.6, 0.8], *[[60, 6, 8, 8, 0, 1]] * 7], "yolov8", np.array),
        0.64,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_score_in_every_form(form):
    outputs, expected = FORMS[form]
    label = "cat" if form == "names" else 1
    assert Detection(BOX, label)(outputs).tolist() == pytest.approx([expected])
    # And where nothing of the label is: IoU 1 / 3 at most, and less elsewhere.
    other = Detections([(BOX, label), ((0, 0, 1, 1), label)])(outputs)
    assert other.shape == (1, 2)
    assert other[0].tolist() == pytest.approx([expected, 0])


def queries(logits, kind=dict):
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1]]])
    return kind(logits=torch.tensor([logits]), pred_boxes=boxes)


def test_queries_with_a_class_for_nothing():
    probabilities = torch.tensor([[0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    outputs = queries(probabilities.log().tolist())
    box = (0.25, 0.25, 0.75, 0.75)
    # Objectness .7; cosine of (.3, .4) with the label .8.
    assert Detection(box, 1)(outputs).tolist() == pytest.approx([0.56])
    (found,) = Detections.of(outputs)
    assert found.box == pytest.approx(box)
    assert (found.label, found.score) == (1, pytest.approx(0.4))
    # Its own class scores are those: only the objectness is left.
    assert Detections([found])(outputs)[0].tolist() == pytest.approx([0.7])


class Output:
    def __init__(self, **parts):
        self.__dict__.update(parts)


def test_queries_without_one():
    outputs = queries([[0.0, 0.0], [-50.0, -50.0]], Output)
    wanted = Detections([((0.25, 0.25, 0.75, 0.75), 0)], form="detr-sigmoid")
    assert wanted(outputs)[0].tolist() == pytest.approx([0.5 * 0.5**0.5])


def test_each_sample_has_its_own_score():
    outputs = [LISTS, [], [(NEXT, 1, 0.9)], [(BOX, 0, 1.0)]]
    wanted = Detections([(BOX, 1), (NEXT, 1)])
    expected = torch.tensor([[0.6, 0.2], [0, 0], [0.3, 0.9], [0, 0]]).double()
    torch.testing.assert_close(wanted(outputs), expected)
    rows = [[6, 6, 8, 8, 1, 0, one] for one in (0.5, 0.9)]
    array = torch.tensor([[row, *[[60, 6, 8, 8, 0, 1, 0]] * 8] for row in rows])
    assert Detection(BOX, 1)(array).tolist() == pytest.approx([1, 1])  # objectness 1, cosine 1
    array[:, :, 4] = torch.tensor([0.5, 0.25])[:, None]
    assert Detection(BOX, 1)(array).tolist() == pytest.approx([0.5, 0.25])


# ---- what is found at the input ----------------------------------------------------------------


def test_what_is_found_comes_in_falling_order_and_once():
    beside = (3.0, 2.0, 11.0, 10.0)  # overlaps BOX by 7 of 9
    rows = [(BOX, 1, 0.4), (beside, 1, 0.8), (beside, 0, 0.5), (NEXT, 1, 0.31), (NEXT, 0, 0.1)]
    found = Detections.of([rows])
    assert [(one.label, one.score) for one in found] == [(1, 0.8), (0, 0.5), (1, 0.31)]
    assert found[0].box == beside
    assert len(found) == found.n_targets == 3
    assert len(Detections.of([rows], 0.6)) == 1
    assert Detections.of([[((5, 5, 5, 9), 1, 0.9), *rows]])[0].score == 0.8  # an empty box is none


def test_candidates_of_a_grid_come_once_and_keep_their_class_scores():
    rows = [[6, 6, 8, 8, 0.6, 0.8], [6.5, 6, 8, 8, 0.1, 0.7], *[[60, 6, 8, 8, 0.1, 0.2]] * 6]
    (found,) = Detections.of(grid(rows, "yolov8"))
    assert (found.box, found.label) == (BOX, 1)
    assert found.class_scores == pytest.approx((0.6, 0.8))
    # Which are of the objective's name, and so tell checkpoints apart.
    names = {str(found), str(Detection(BOX, 1)), str(Detection(BOX, 1, None, (0.6, 0.9)))}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ([LISTS, LISTS], {}, r"outputs must be of one picture: give model\(x\[None\]\)"),
        (torch.zeros(2, 6, 20), {}, r"outputs must be of one picture"),
        ([LISTS], {"min_score": 0.95}, r"min_score must be lower: .* 0.95, the surest has 0.9"),
        ([[]], {}, r"min_score must be lower: .*, none is there"),
        ([LISTS], {"form": "yolo"}, r"form must be one of auto, lists, detr, .*, got 'yolo'"),
    ],
)
def test_nothing_to_explain(outputs, options, message):
    with pytest.raises(ValueError, match=message):
        Detections.of(outputs, **options)


# ---- maps --------------------------------------------------------------------------------------

PLACES = {"lamp": (4, 8, 12, 16), "moon": (20, 16, 28, 24)}
X = torch.zeros(1, 32, 32)
for left, top, right, bottom in PLACES.values():
    X[:, top:bottom, left:right] = 1


def finder(batch):
    """Finds each bright square at its place, the surer the brighter it is."""
    return [
        [
            (box, name, float(one[0, box[1] : box[3], box[0] : box[2]].mean()))
            for name, box in PLACES.items()
        ]
        for one in batch
    ]


def candidates(batch):
    """The same by (batch, 4 + 2, N), with a gradient."""
    boxes = torch.tensor([[8, 12, 8, 8], [24, 20, 8, 8], *[[2, 2, 2, 2]] * 8]).to(batch)
    sure = batch.new_zeros(len(batch), 10, 2)
    for i, (left, top, right, bottom) in enumerate(PLACES.values()):
        sure[:, i, i] = batch[:, 0, top:bottom, left:right].mean((1, 2))
    return torch.cat([boxes.expand(len(batch), -1, -1), sure], 2).transpose(1, 2)


def explain(model=finder, target="auto", **options):
    given = {
        "method": Regions("black"),
        "n_samples": 128,
        "objective": Detections.of(finder(X[None])),
    }
    return fwdgrad.explain(model, X, target, **{**given, **options})


def peak(e):
    row, column = divmod(int(e.heatmap().argmax()), 32)
    return column, row


def inside(place, box):
    return box[0] <= place[0] < box[2] and box[1] <= place[1] < box[3]


def test_the_peak_of_each_map_lies_in_its_box():
    lamp, moon = explain(target=[0, 1])
    assert inside(peak(lamp), PLACES["lamp"])
    assert inside(peak(moon), PLACES["moon"])
    assert (lamp.target, moon.target) == (0, 1)
    assert lamp.objective == "Detections(lamp at 4 8 12 16, moon at 20 16 28 24; lists)"


def test_all_boxes_take_the_calls_of_one():
    several, alone = Recorder(finder), Recorder(finder)
    both = explain(several, [0, 1], batch_size=32)
    box = PLACES["moon"]
    one = explain(alone, objective=Detection(box, "moon"), batch_size=32)
    assert several.asked == alone.asked
    assert torch.equal(both[1].attribution, one.attribution)
    assert both[1].score == one.score == 1


def test_a_grid_of_candidates_and_its_gradient():
    found = Detections.of(candidates(X[None]))
    assert [one.box for one in found] == list(PLACES.values())
    assert inside(peak(explain(candidates, 1, objective=found)), PLACES["moon"])
    # d/dx of objectness (the mean over 64 pixels), where IoU and cosine are 1 and stay so.
    gradient = explain(candidates, 0, objective=found, method="gradient", n_samples=None)
    left, top, right, bottom = PLACES["lamp"]
    expected = torch.zeros_like(X)
    expected[:, top:bottom, left:right] = 1 / 64
    torch.testing.assert_close(gradient.attribution, expected)


def test_auto_is_the_surest():
    dim = X.clone()
    dim[:, 8:16, 4:12] = 0.5
    found = Detections([(box, name) for name, box in PLACES.items()])
    e = fwdgrad.explain(finder, dim, objective=found, method=Regions("black"), n_samples=64)
    assert (e.target, e.score) == (1, 1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"target must be given: the objective scores 2, 0 .. 1; a list gives a map"),
        (2, r"target must lie in 0 .. 1, got 2"),
        ("lamp", r"target must be a class number, 'auto' or None, got 'lamp'"),
    ],
)
def test_a_target_that_is_no_box(target, message):
    with pytest.raises(ValueError, match=message):
        explain(target=target)


def test_a_checkpoint_is_of_its_boxes(tmp_path):
    file = tmp_path / "run.safetensors"
    first = explain(target=1, checkpoint=file)
    assert_same_bits(first, explain(target=1, checkpoint=file))
    moved = Detections([(PLACES["lamp"], "lamp"), ((20, 16, 28, 23), "moon")])
    with pytest.raises(CheckpointError, match="objective"):
        explain(target=1, objective=moved, checkpoint=file)


# ---- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "label", "error", "message"),
    [
        ((0, 0, 8), 0, ValueError, r"box must be left, top, right, bottom, got \(0, 0, 8\)"),
        ("none", 0, ValueError, "box must be left, top, right, bottom"),
        ((0, 0, float("nan"), 8), 0, ValueError, "box must be left, top, right, bottom, got"),
        ((20, 20, 8, 8), 0, ValueError, r"of left, top, width, height give \(left, top, left \+"),
        (BOX, 0.5, TypeError, "label must be a class's number or name, got 0.5"),
        (BOX, None, TypeError, "label must be a class's number or name, got None"),
    ],
)
def test_what_is_no_detection(box, label, error, message):
    with pytest.raises(error, match=message):
        Detection(box, label)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "found must have at least one Detection"),
        (Detection(BOX, 1), "found must be a list of Detection, got Detection"),
        ([BOX], r"found must be a list of Detection or of \(box, label\), got"),
    ],
)
def test_what_are_no_detections(found, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Detections(found)


@pytest.mark.parametrize(
    ("model", "box", "label", "message"),
    [
        (
            finder,
            (40, 40, 60, 60),
            "lamp",
            r"box must lie in the picture, 0 0 32 32 in the model's units, got that of lamp at 40",
        ),
        (
            finder,
            PLACES["lamp"],
            "cat",
            r"is of cat at 4 8 12 16, and the model finds no such label at x: it finds lamp at 4 "
            r"8 12 16; moon at 20 16 28 24; give one of these, or Detections.of\(model\(x\[None\]",
        ),
        (finder, PLACES["lamp"], "moon", "the model finds none of that label there at x: it finds"),
        (finder, PLACES["lamp"], 3, "the model finds no such label at x: it finds lamp"),
        (lambda batch: [[] for _ in batch], BOX, 1, "at x: it finds nothing; give Detections.of"),
        (candidates, PLACES["lamp"], 2, r"label must lie in 0 .. 1, the model's classes, got 2"),
        (
            candidates,
            PLACES["lamp"],
            "lamp",
            "label must lie in 0 .. 1, the model's classes, got 'l",
        ),
    ],
)
def test_a_box_that_is_not_there(model, box, label, message):
    recorder = Recorder(model)
    with pytest.raises(ValueError, match=message) as caught:
        explain(recorder, objective=Detection(box, label))
    assert recorder.asked == [1]  # before any sample is spent
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.zeros(1, 5), r"no boxes are known in what the model returned, Tensor \(1, 5\)"),
        ({"boxes": torch.zeros(0, 4)}, "returned, dict with the keys 'boxes': Detections reads"),
        ([{"boxes": torch.zeros(0, 4), "labels": []}], "returned, list of dict: Detections reads"),
        ([torch.zeros(3, 6)], "returned, list of Tensor: Detections reads dicts of boxes, labels"),
        (None, "returned, NoneType: "),
        (torch.full((1, 20, 6), 7.0), "class scores from 7 to 7 are no probabilities; give lists"),
        ([[(BOX, 1, 0.5)], [(BOX[:3], 1, 0.5)]][1:], "output is not of the form 'lists'"),
        ({"logits": torch.zeros(1, 5, 3), "pred_boxes": torch.zeros(1, 4, 4)}, "the form 'detr'"),
    ],
)
def test_outputs_of_no_known_form(outputs, message):
    with pytest.raises(ModelError, match=message) as caught:
        explain(lambda batch: outputs, objective=Detection(BOX, 1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [finder, candidates])
def test_without_an_objective_the_error_names_it(model):
    with pytest.raises(ModelError, match=r"give .*adapters\.detection\.Detections\.of\(model"):
        fwdgrad.explain(model, X, 0, n_samples=16, method=ForwardGradient(0.1))
    dicts = lambda batch: [{"boxes": torch.zeros(1, 4)} for _ in batch]  # noqa: E731
    with pytest.raises(ModelError, match=r"of what a detector returns give objective=fwdgrad\.ad"):
        fwdgrad.explain(dicts, X, 0, n_samples=16, method=ForwardGradient(0.1))


def test_the_box_that_is_explained_is_kept_and_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for e, one in zip(explain(target=[0, 1]), Detections.of(finder(X[None])), strict=True):
        assert e.provenance["box"] == list(one.box)
        assert e.provenance["label"] == str(one)
        e.save(tmp_path / "map.safetensors")
        again = fwdgrad.Explanation.load(tmp_path / "map.safetensors")
        ax = again.plot()
        (under, over) = ax.patches
        left, top, right, bottom = one.box
        for drawn in (under, over):  # pixels of a picture start half a unit before their middle
            assert drawn.get_xy() == (left - 0.5, top - 0.5)
            assert (drawn.get_width(), drawn.get_height()) == (right - left, bottom - top)
        assert ax.get_title().startswith(f"{one}: score {e.score:.3g}\n")
        assert not explain_light().plot().patches


def explain_light():
    return fwdgrad.explain(lambda batch: batch.mean((1, 2, 3)), X, n_samples=64)


@pytest.mark.parametrize(
    ("box", "known"),
    [
        ((0.0, 0.0, 0.5, 1.0), [0.0, 0.0, 8.0, 8.0]),  # shares of the sides
        ((-2.0, 1.0, 10.0, 8.2), [0.0, 1.0, 10.0, 8.0]),  # what lies outside is cut off
        ((2.0, 1.0, 100.0, 80.0), None),  # of another size of the picture
    ],
)
def test_the_units_of_a_box(box, known):
    assert Detections([(box, 3)]).about(None, torch.zeros(3, 8, 16)).get("box") == known


def test_a_score_of_a_detector_whose_units_are_not_known_has_a_short_name():
    def model(batch):
        return [[((0, 0, 900, 400), "lamp", float(one.mean()))] for one in batch]

    objective = Detections.of(model(X[None]), min_score=0)
    e = fwdgrad.explain(model, X, 0, objective=objective, method=ForwardGradient(0.1))
    assert "box" not in e.provenance
    assert headline(e).startswith("lamp at 0 0 900 400: score ")


def test_a_box_on_a_photo_lies_where_the_model_saw_it():
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    from fwdgrad.drawing import draw_box

    e = explain(target=0)
    _, ax = plt.subplots()
    side = X.shape[-1]
    draw_box(ax, e, (100.0, 100.0 + 2 * side, 50.0 + 2 * side, 50.0))  # twice as large
    left, top, right, bottom = e.provenance["box"]
    assert ax.patches[0].get_xy() == (100 + 2 * left, 50 + 2 * top)
    assert ax.patches[0].get_width() == 2 * (right - left)
    assert ax.patches[0].get_height() == 2 * (bottom - top)
