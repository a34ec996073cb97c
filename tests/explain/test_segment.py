"""Segmentations, embeddings and next tokens as scores: by hand, and maps that are known."""

import math

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError, Regions
from fwdgrad.objectives import objective_name
from fwdgrad.tasks import NextToken, Segment, Similarity

from .models import Recorder

LEFT = torch.tensor([[True, False], [True, False]])
# Of three classes, softmax 1/8, 3/8, 4/8 on the left, and 1/3 each on the right.
ROW = torch.tensor([0.0, math.log(3), math.log(4)], dtype=torch.float64)
LOGITS = torch.stack([ROW.view(3, 1).expand(3, 2), torch.full((3, 2), 5.0).double()], 2)[None]


class Output:
    def __init__(self, **parts):
        self.__dict__.update(parts)


# ---- segments ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: logits.numpy(),
        lambda logits: logits.softmax(1),
        lambda logits: {"out": logits, "aux": None},
        lambda logits: Output(logits=logits),
    ],
)
def test_the_mean_over_the_pixels(wrap):
    outputs = wrap(LOGITS)
    assert Segment(1, LEFT)(outputs).tolist() == pytest.approx([3 / 8])
    assert Segment(1, ~LEFT)(outputs).tolist() == pytest.approx([1 / 3])
    assert Segment(1, torch.ones(2, 2))(outputs).tolist() == pytest.approx([(3 / 8 + 1 / 3) / 2])
    assert Segment(2, LEFT, "log-odds")(outputs).tolist() == pytest.approx([0], abs=1e-12)
    assert Segment(0, LEFT.numpy(), "log-odds")(outputs).tolist() == pytest.approx([-math.log(7)])


def test_pixels_with_the_label_where_no_mask_is_given():
    # Label 2 has the left pixels; on the right all are alike, and the first counts.
    assert Segment(2)(LOGITS).tolist() == pytest.approx([1 / 2])
    assert Segment(0)(LOGITS).tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize("shape", [(2, 1, 2, 2), (2, 2, 2)])
def test_one_map_is_of_label_one(shape):
    one = torch.tensor([[[3.0, -9.0], [1.0, 9.0]], [[0.0, 0.0], [0.0, 0.0]]]).reshape(shape)
    expected = [(one[0].flatten()[[0, 2]]).sigmoid().mean().item(), 0.5]
    assert Segment(1, LEFT)(one).tolist() == pytest.approx(expected)
    assert Segment(0, LEFT)(one).tolist() == pytest.approx([1 - expected[0], 0.5])
    assert Segment(1, LEFT, "log-odds")(one).tolist() == pytest.approx([2, 0])
    assert Segment(1, LEFT)(one.sigmoid()).tolist() == pytest.approx(expected)
    assert Segment(0, LEFT, "log-odds")(one.sigmoid()).tolist() == pytest.approx([-2, 0])


@pytest.mark.parametrize("kind", [torch.Tensor.int, torch.Tensor.byte, lambda one: one.numpy()])
def test_maps_of_labels(kind):
    labels = kind(torch.tensor([[[4, 0], [0, 4]], [[4, 4], [4, 0]]]).float().int())
    assert Segment(4, LEFT)(labels).tolist() == [0.5, 1]
    assert Segment(4, LEFT)(labels[:, None]).tolist() == [0.5, 1]
    assert Segment(1, LEFT)(np.asarray(labels) == 4).tolist() == [0.5, 1]  # yes and no


def test_certain_pixels_have_finite_log_odds():
    certain = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert Segment(1, LEFT, "log-odds")(certain).tolist() == pytest.approx([13.8], abs=0.1)


X = torch.full((1, 32, 32), 0.1)
X[:, 8:16, 4:12] = 1.0


def halves(batch):
    """Logits of a bright thing (1) and the rest (0), of half the size."""
    small = torch.nn.functional.avg_pool2d(batch, 2)
    return torch.cat([torch.full_like(small, 3.0), 6 * small], 1)


def test_the_peak_is_in_the_segment_and_the_kind_is_that_at_the_input():
    model = Recorder(halves)
    e = fwdgrad.explain(model, X, objective=Segment(1), method=Regions("black"), n_samples=128)
    row, column = divmod(int(e.heatmap().argmax()), 32)
    assert 8 <= row < 16
    assert 4 <= column < 12
    assert e.score == pytest.approx(torch.tensor(3.0).sigmoid().item())
    assert e.objective.startswith("Segment(1, 16 of 16 x 16 pixels ")
    assert e.objective.endswith(", probability, logits)")
    # A sample whose logits happen to lie in [0, 1] is read as the input was.
    dark = Segment(1).settled(halves(X[None]), X)(torch.zeros(1, 2, 16, 16))
    assert dark.tolist() == [0.5]


@pytest.mark.parametrize(
    ("label", "mask", "options", "error", "message"),
    [
        (-1, None, {}, ValueError, "label must be at least 0, got -1"),
        ("cat", None, {}, TypeError, "label must be a class number, got 'cat'"),
        (1, None, {"score": "logit"}, ValueError, "score must be one of probability, log-odds"),
        (1, None, {"values": "scores"}, ValueError, "values must be one of auto, logits, prob"),
        (1, torch.ones(2, 2, 2), {}, ValueError, r"mask must be bool \(H, W\), got shape \(2, 2"),
        (1, torch.zeros(2, 2), {}, ValueError, "mask must have a pixel that counts, got none"),
        (1, torch.tensor([[0, 7]]), {}, ValueError, "from 0 to 7; give mask == label, say"),
        (1, "left", {}, TypeError, r"mask must be bool \(H, W\): "),
    ],
)
def test_options_that_will_not_do(label, mask, options, error, message):
    with pytest.raises(error, match=message):
        Segment(label, mask, **options)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            Segment(1, torch.ones(32, 32)),
            r"mask must have the size of the model's output, 16 x 16 pixels, got 32 x 32; resize",
        ),
        (Segment(2), r"label must lie in 0 .. 1: the model returns \(1, 2, 16, 16\), got 2"),
    ],
)
def test_a_mask_or_label_that_does_not_fit(objective, message):
    model = Recorder(halves)
    with pytest.raises(ValueError, match=message):
        fwdgrad.explain(model, X, objective=objective, n_samples=16)
    assert model.asked == [1]


def test_a_label_that_no_pixel_has():
    with pytest.raises(ValueError, match="label 5 is that of no pixel at x; the model finds 0, 4:"):
        Segment(5)(torch.tensor([[[4, 0], [0, 4]]]))
    with pytest.raises(ValueError, match="score must be 'probability' where the model returns lab"):
        Segment(4, LEFT, "log-odds")(torch.tensor([[[4, 0], [0, 4]]]))


def test_what_is_no_segmentation():
    with pytest.raises(ModelError, match=r"for Segment, got torch.float32 \(1, 3\)"):
        fwdgrad.explain(torch.nn.Linear(4, 3).eval(), torch.rand(4), objective=Segment(1))


# ---- embeddings --------------------------------------------------------------------------------


def test_cosines():
    rows = torch.tensor([[3.0, 4.0], [-6.0, -8.0], [0.0, 2.0], [0.0, 0.0]])
    assert Similarity([6.0, 8.0])(rows)[:, 0].tolist() == pytest.approx([1, -1, 0.8, 0])
    both = Similarity(torch.tensor([[6, 8], [1, 0]]))(rows.numpy())
    assert both[:, 1].tolist() == pytest.approx([0.6, -0.6, 0, 0])
    assert Similarity([6.0, 8.0])(Output(pooler_output=rows)).shape == (4, 1)


def test_the_gradient_of_a_cosine_and_a_map_for_each_reference():
    x = torch.tensor([1.0, 0.0, 0.0])
    references = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0]])
    one, two = fwdgrad.explain(
        torch.nn.Identity().eval(), x, [0, 1], method="gradient", objective=Similarity(references)
    )
    # d cos(x, r) / dx at |x| = 1, x at right angles to r, is r's direction.
    assert one.attribution.tolist() == pytest.approx([0, 1, 0])
    assert two.attribution.tolist() == pytest.approx([0, 0, -1])
    e = fwdgrad.explain(
        torch.nn.Identity().eval(), x, objective=Similarity(references[0]),
        method=ForwardGradient(0.01), n_samples=4096,
    )  # fmt: skip
    assert e.target is None
    assert e.attribution[1] == pytest.approx(1, abs=0.1)
    names = {objective_name(Similarity(one)) for one in (*references, references)}
    assert len(names) == 3  # which tell checkpoints apart


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("face", r"reference must be numbers \(D,\): "),
        (torch.ones(1, 2, 3), r"reference must have shape \(D,\) or \(K, D\), got \(1, 2, 3\)"),
        (torch.ones(0), r"reference must have shape \(D,\) or \(K, D\), got \(0,\)"),
        ([0.0, 0.0], "reference must be finite and not all zeros"),
        ([[1.0, 1.0], [math.nan, 1.0]], "reference must be finite and not all zeros"),
    ],
)
def test_what_is_no_reference(reference, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Similarity(reference)


def test_a_reference_of_another_length():
    with pytest.raises(ValueError, match="as long as the model's embeddings, 3, got 2; give one"):
        fwdgrad.explain(torch.nn.Identity().eval(), torch.rand(3), objective=Similarity([1.0, 0.0]))
    with pytest.raises(ModelError, match=r"must return embeddings \(batch, D\) for Similarity"):
        Similarity([1.0])(torch.ones(2))


# ---- next tokens -------------------------------------------------------------------------------

TOKENS = torch.tensor([[[0.0, 9.0], [0.0, math.log(3)]], [[0.0, 9.0], [0.0, 0.0]]]).double()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: logits[:, -1],
        lambda logits: logits.log_softmax(-1),
        lambda logits: logits.softmax(-1),
        lambda logits: {"logits": logits},
        lambda logits: Output(logits=logits.numpy()),
    ],
)
def test_the_log_probability_of_a_token(wrap):
    expected = [math.log(3 / 4), math.log(1 / 2)]
    assert NextToken(1)(wrap(TOKENS)).tolist() == pytest.approx(expected)


def test_a_position():
    expected = -math.log1p(math.exp(9))
    for position in (0, -2):
        assert NextToken(0, position)(TOKENS).tolist() == pytest.approx([expected] * 2)


def test_which_part_of_a_sequence_a_token_depends_on():
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0]])  # two places; the logits are the first
    e = fwdgrad.explain(lambda batch: batch[:, :1], x, objective=NextToken(1), method="gradient")
    torch.testing.assert_close(e.attribution, torch.tensor([[-0.5, 0.5], [0, 0]]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ((2,), ValueError, r"token must lie in 0 .. 1: the model returns \(2, 2, 2\), got 2"),
        ((1, 2), ValueError, r"position must lie in -2 .. 1: the model returns \(2, 2, 2\), got 2"),
        ((-1,), ValueError, "token must be at least 0, got -1"),
        (("cat",), TypeError, "token must be a token's number, got 'cat'"),
        ((1, "last"), TypeError, "position must be an integer, got 'last'"),
        ((1, -1, "scores"), ValueError, "values must be one of auto, logits, probabilities"),
    ],
)
def test_a_token_that_is_not_there(options, error, message):
    with pytest.raises(error, match=message):
        NextToken(*options)(TOKENS)


@pytest.mark.parametrize("outputs", [torch.ones(2), torch.ones(2, 2, 2, 2)])
def test_what_is_no_sequence(outputs):
    with pytest.raises(ModelError, match=r"for NextToken|must return .* got shape \(2, 2, 2, 2\)"):
        NextToken(1)(outputs)


# ---- without an objective ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (torch.ones(1, 3, 2, 2), r"of \(batch, classes, height, width\) fwdgrad.tasks.Segment\(l"),
        (torch.ones(1, 2, 2).long(), r"of labels \(batch, height, width\) fwdgrad.tasks.Segment"),
        (torch.ones(1, 5, 9), r"of \(batch, tokens, vocabulary\) fwdgrad.tasks.NextToken\(token\)"),
    ],
)
def test_an_error_names_the_objective_that_would_do(outputs, message):
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(lambda batch: outputs, torch.rand(4), 0, n_samples=16)
    assert "\n" not in str(caught.value)
