"""Deletion and insertion: hand-made literal curves, RISE's own definitions, and bad input."""

import math

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, metrics

# Three pixels of two channels; the score is a weighted sum, so that each pixel's share is known.
X = torch.tensor([[[3.0, 2.0, 1.0]], [[30.0, 20.0, 10.0]]])
MAP = torch.tensor([[0.5, 0.9, 0.1]])  # pixel 1 goes first, then 0, then 2


def total(batch):
    return batch.sum((1, 2, 3))


def test_deletion_by_hand():
    curve = metrics.deletion(total, X, MAP, None, steps=3, objective="logit")
    assert curve.scores.tolist() == [66.0, 44.0, 11.0, 0.0]
    assert curve.auc == pytest.approx((66 / 2 + 44 + 11) / 3)
    assert curve.fractions.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_insertion_by_hand():
    empty = torch.zeros_like(X)
    curve = metrics.insertion(total, X, MAP, None, steps=3, start=empty, objective="logit")
    assert curve.scores.tolist() == [0.0, 22.0, 55.0, 66.0]


def test_channels_have_their_own_fill():
    fill = torch.tensor([1.0, 2.0])
    curve = metrics.deletion(total, X, MAP, None, steps=3, fill=fill, objective="logit")
    assert curve.scores.tolist() == [66.0, 47.0, 17.0, 9.0]


def test_the_last_step_may_have_fewer_pixels():
    # Two pixels a step: 1 and 0, then 2.
    curve = metrics.deletion(total, X, MAP, None, steps=2, objective="logit")
    assert curve.scores.tolist() == [66.0, 11.0, 0.0]


def test_equal_pixels_keep_the_pictures_order():
    curve = metrics.deletion(total, X, torch.ones(1, 3), None, steps=3, objective="logit")
    assert curve.scores.tolist() == [66.0, 33.0, 11.0, 0.0]


def test_the_class_is_that_of_the_whole_picture():
    """Insertion follows the class of the picture, though its start is of another."""
    model = lambda batch: torch.stack([batch.sum((1, 2, 3)), 5 - batch.sum((1, 2, 3))], 1)  # noqa: E731
    curve = metrics.insertion(model, X, MAP, steps=3, start=torch.zeros_like(X), objective="logit")
    assert curve.scores.tolist() == [0.0, 22.0, 55.0, 66.0]


def test_curves_do_not_depend_on_the_batch():
    g = torch.Generator().manual_seed(0)
    x, heatmap = torch.rand(3, 16, 16, generator=g), torch.rand(16, 16, generator=g)
    weights = torch.rand(3, 16, 16, generator=g)
    asked = []

    def model(batch):
        asked.append(len(batch))
        return torch.stack([(one * weights).sum() for one in batch])

    curves = [
        metrics.deletion(model, x, heatmap, None, objective="logit", batch_size=size).scores
        for size in (1, 7, 500)
    ]
    assert len(curves[0]) == 225  # 256 pixels are more than 224 steps
    for other in curves[1:]:
        assert torch.equal(curves[0], other)
    assert max(asked) == 225  # never more than the batch, nor than there are


def rise_deletion(model, x, heatmap, target, pixels, finish):
    """RISE's evaluation, as its paper has it: one picture after the other, by NumPy."""
    order = np.flip(np.argsort(heatmap.reshape(-1)))
    height_width = heatmap.size
    picture = x.numpy().copy().reshape(len(x), -1)
    n = (height_width + pixels - 1) // pixels
    scores = []
    for i in range(n + 1):
        batch = torch.from_numpy(picture.reshape(x.shape))[None]
        scores.append(float(model(batch).softmax(1)[0, target]))
        if i < n:
            at = order[pixels * i : pixels * (i + 1)]
            picture[:, at] = finish.numpy().reshape(len(x), -1)[:, at]
    scores = np.array(scores)
    return scores, (scores.sum() - scores[0] / 2 - scores[-1] / 2) / n


@pytest.mark.parametrize(("side", "steps"), [(16, 224), (28, 224), (32, 1000), (7, 5)])
def test_steps_that_do_not_divide_the_pixels(side, steps):
    """Of a model that tells how many are left, the curve is the straight line."""
    g = torch.Generator().manual_seed(2)
    left = lambda batch: batch.mean((1, 2, 3))  # noqa: E731
    options = {"target": None, "steps": steps, "objective": "logit"}
    ones, heatmap = torch.ones(1, side, side), torch.rand(side, side, generator=g)
    curve = metrics.deletion(left, ones, heatmap, **options)
    np.testing.assert_allclose(curve.scores, 1 - curve.fractions, rtol=0, atol=1 / side**2)
    assert curve.auc == pytest.approx(0.5, abs=1 / side**2)
    shares = -np.diff(curve.scores.numpy()) * side**2
    assert set(np.round(shares)) <= {side**2 // steps, side**2 // steps + 1}


def test_as_rise_evaluates():
    g = torch.Generator().manual_seed(1)
    x, heatmap = torch.rand(3, 28, 28, generator=g), torch.rand(28, 28, generator=g)
    matrix = torch.randn(3 * 28 * 28, 5, generator=g) / 20
    model = lambda batch: batch.flatten(1) @ matrix  # noqa: E731
    target = int(model(x[None]).argmax())
    fill = torch.tensor([0.1, 0.5, 0.9])
    finish = fill[:, None, None].expand(3, 28, 28)
    expected, auc = rise_deletion(model, x, heatmap.numpy(), target, 28, finish)
    curve = metrics.deletion(model, x, heatmap, steps=28, fill=fill)
    np.testing.assert_allclose(curve.scores.numpy(), expected, atol=1e-6)
    assert curve.auc == pytest.approx(auc, abs=1e-6)
    blur = metrics.rise_blur(x, fill)
    expected, auc = rise_deletion(lambda batch: model(batch), blur, heatmap.numpy(), target, 28, x)
    curve = metrics.insertion(model, x, heatmap, steps=28, fill=fill)
    np.testing.assert_allclose(curve.scores.numpy(), expected, atol=1e-6)
    assert curve.auc == pytest.approx(auc, abs=1e-6)


def test_blur_is_that_of_rise():
    """Its kernel: SciPy's Gaussian of a single point on 11 x 11, padded with the fill."""
    ndimage = pytest.importorskip("scipy.ndimage")
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 5)
    x = torch.rand(2, 30, 23, generator=torch.Generator().manual_seed(2))
    expected = [
        ndimage.convolve(one.double().numpy() - 0.4, kernel, mode="constant") + 0.4 for one in x
    ]
    np.testing.assert_allclose(metrics.rise_blur(x, 0.4).numpy(), expected, atol=1e-6)


def test_an_explanation_is_a_map():
    weights = torch.tensor([[[1.0, -2.0, 3.0]], [[0.0, 5.0, 0.0]]])
    model = lambda batch: (batch * weights).sum((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(model, X, method="gradient")
    found = metrics.deletion(model, X, e, None, steps=3, objective="logit").scores
    given = metrics.deletion(model, X, weights.sum(0), None, steps=3, objective="logit").scores
    assert found.tolist() == given.tolist()


def spots(batch):
    """(batch, 3), probabilities: of the mean of three pixels, the third the likeliest at ONES."""
    return (batch.flatten(1)[:, :3] * torch.tensor([1.0, 2.0, 3.0])).softmax(1)


ONES = torch.ones(1, 1, 3)


def explanation_of(model, **options):
    method = ForwardGradient(0.2, design="hadamard")
    return fwdgrad.explain(model, ONES, method=method, n_samples=64, **options)


def test_an_explanation_of_another_input_is_refused():
    e = explanation_of(spots, target=0)
    with pytest.raises(ValueError, match="x must be the input that heatmap explains"):
        metrics.deletion(spots, ONES * 2, e)
    with pytest.raises(ValueError, match="x must be the input that heatmap explains"):
        metrics.insertion(spots, ONES * 2, e, start=ONES * 0)


def test_an_explanation_brings_its_target_and_objective():
    e = explanation_of(spots, target=0)
    assert (e.objective, e.target) == ("output", 0)
    p = math.exp(1) / sum(math.exp(k) for k in (1, 2, 3))
    for metric, place in ((metrics.deletion, 0), (metrics.insertion, -1)):
        start = {"start": ONES * 0} if metric is metrics.insertion else {}
        scores = metric(spots, ONES, e, **start).scores
        assert float(scores[place]) == pytest.approx(p, abs=1e-6)  # neither class 2 nor a softmax
        # What is named counts.
        other = metric(spots, ONES, e, 2, **start).scores
        assert float(other[place]) == pytest.approx(p * math.exp(2), abs=1e-6)
        plain = metric(spots, ONES, e.heatmap(), **start).scores
        assert float(plain[place]) == pytest.approx(p * math.exp(2), abs=1e-6)
    logits = explanation_of(lambda b: spots(b).log(), target=0, objective="log-probability")
    scores = metrics.deletion(lambda b: spots(b).log(), ONES, logits).scores
    assert float(scores[0]) == pytest.approx(math.log(p), abs=1e-6)


def test_a_callable_must_be_given_again():
    objective = fwdgrad.Difference(2, 0, "output")
    e = explanation_of(spots, objective=objective)
    with pytest.raises(
        ValueError, match=r"objective must be given: .* Difference\(2, 0, 'output'\)"
    ):
        metrics.deletion(spots, ONES, e)
    scores = metrics.deletion(spots, ONES, e, objective=objective).scores
    expected = spots(ONES[None])[0]
    assert float(scores[0]) == pytest.approx(float(expected[2] - expected[0]), abs=1e-6)


def test_probabilities_are_followed_as_they_are():
    scores = metrics.deletion(spots, ONES, ONES[0]).scores
    assert float(scores[0]) == pytest.approx(float(spots(ONES[None])[0, 2]), abs=1e-6)
    assert float(scores[-1]) == pytest.approx(1 / 3, abs=1e-6)
    with pytest.raises(ValueError, match="probabilities already"):
        metrics.deletion(spots, ONES, ONES[0], objective="probability")


def test_a_model_that_returns_one_buffer():
    buffer = torch.zeros(32, 3, dtype=torch.float64)

    def model(batch):
        buffer[: len(batch)] = spots(batch)
        return buffer[: len(batch)]

    found = metrics.deletion(model, ONES, ONES[0], batch_size=1).scores
    right = metrics.deletion(lambda b: spots(b).double(), ONES, ONES[0], batch_size=1).scores
    assert torch.equal(found, right)


def test_a_score_that_is_not_finite():
    with pytest.raises(fwdgrad.ModelError, match="the score is -inf at step 3 of 3"):
        metrics.deletion(lambda b: b.sum((1, 2, 3)).log(), ONES, ONES[0])


def test_bad_input():
    cases = [
        ({"heatmap": torch.ones(2, 3)}, "heatmap must have the trailing axes"),
        ({"heatmap": torch.tensor([[1.0, math.nan, 0.0]])}, "heatmap must be finite, got nan at"),
        ({"heatmap": [[1, 2, 3]]}, "heatmap must be a tensor or an Explanation, got list"),
        ({"steps": 4}, "steps must be at most 3, the map's pixels, got 4"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"heatmap": MAP.to_sparse()}, "heatmap must be a dense tensor with values"),
        ({"heatmap": MAP.to("meta")}, "heatmap must be a dense tensor with values"),
        ({"fill": "grey"}, "fill must be a number or a tensor, got 'grey'"),
        ({"fill": math.nan}, "fill must be finite, got nan"),
        ({"steps": torch.zeros(2, 9)}, r"steps must be an integer, got tensor\(\[\[0"),
        ({"fill": torch.ones(3)}, r"fill must be a number or one for each of x's channels"),
        ({"objective": "accuracy"}, "objective must be one of"),
        ({"target": 9}, "target must be 0"),
    ]
    for change, message in cases:
        given = {"heatmap": MAP, "target": None, "objective": "logit", **change}
        heatmap, target = given.pop("heatmap"), given.pop("target")
        with pytest.raises((ValueError, TypeError), match=message) as caught:
            metrics.deletion(total, X, heatmap, target, **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="model must be callable on a batch, got NoneType"):
        metrics.deletion(None, X, MAP, None)
    with pytest.raises(fwdgrad.ModelError, match=r"a batch of shape \(1, 1, .*batch axis"):
        metrics.deletion(torch.nn.Conv2d(1, 2, 1).eval(), X[None], MAP, None)
    with pytest.raises(ValueError, match="start must have x's shape"):
        metrics.insertion(total, X, MAP, None, objective="logit", start=torch.zeros(3))
    with pytest.raises(TypeError, match="start must be a dense tensor with values, got 'blur'"):
        metrics.insertion(total, X, MAP, start="blur")
    with pytest.raises(ValueError, match="x must be a picture"):
        metrics.insertion(lambda b: b.sum(1), torch.ones(3), torch.ones(3), None, objective="logit")
