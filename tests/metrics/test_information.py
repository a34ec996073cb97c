"""The information curve: literal steps, and the authors' own code where it is installed."""

import warnings

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad.metrics.information import (
    InformationCurve,
    information_curve,
    interpolated,
    median_curve,
    webp_length,
)

pytest.importorskip("scipy", reason="the curve interpolates with SciPy")
pytest.importorskip("PIL", reason="the curve needs Pillow's WebP")


def photo(channels: int = 3, size: int = 48) -> torch.Tensor:
    """Grain everywhere, in steps of 1/255: each pixel that is revealed adds about as much."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((channels, size, size), generator=generator) * 255).round() / 255


def grain(batch: torch.Tensor) -> torch.Tensor:
    """Two classes: the middle's roughness, and half of what it can be."""
    rough = batch[:, :, 12:36, 12:36].diff(dim=3).abs().mean((1, 2, 3))
    return torch.stack((rough, torch.full_like(rough, 0.15)), 1) * 20


def heatmap(size: int = 48) -> torch.Tensor:
    """Highest in the middle of the object; no two pixels alike."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = size / 2 - 0.4
    return -((row - middle).square() + 1.001 * (column - middle - 0.03).square()).double()


def test_interpolation_on_a_line():
    picture = np.array([[[0, 9], [77, 77], [20, 19]]] * 2, np.uint8)
    middle = interpolated(picture, np.zeros((2, 3), bool))[:, 1]
    assert middle.tolist() == [[10, 14], [10, 14]]
    known = np.array([[False, True, False]] * 2)
    assert interpolated(picture, known) is picture


def test_a_plane_is_its_own_interpolation():
    row, column = np.mgrid[:20, :30]
    plane = (3 * row + 4 * column + 10).astype(np.uint8)[:, :, None]
    known = np.random.default_rng(0).random((20, 30)) < 0.1
    assert np.array_equal(interpolated(plane, known), plane)


def test_information_is_a_length():
    flat = np.zeros((48, 48, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    assert webp_length(flat) < 60
    # Noise does not compress: 6,912 bytes and some more, and less than two in a hundred.
    assert 6912 <= webp_length(noise) < 1.02 * 6912 + 100
    assert webp_length(noise[:, :, :1]) < webp_length(noise)


def test_the_curve_step_by_step():
    # Recomputed from the pieces, at two shares, with the pixels that the seed keeps.
    x, values = photo(1), heatmap()
    kept = np.zeros(48 * 48, bool)
    kept[np.random.default_rng(3).choice(48 * 48, 23, replace=False)] = True
    kept = kept.reshape(48, 48)
    picture = (x * 255).round().byte().permute(1, 2, 0).numpy()
    shares = (0.05, 0.15)
    masks = [kept | (values.numpy() >= np.quantile(values.numpy(), 1 - share)) for share in shares]
    steps = [interpolated(picture, mask) for mask in (kept, *masks)] + [picture]
    lengths = [webp_length(step) for step in steps]
    scores = [
        float(grain(torch.from_numpy(s).permute(2, 0, 1)[None] / 255.0).softmax(1)[0, 0])
        for s in steps
    ]
    at = [0, *((n - lengths[0]) / (lengths[3] - lengths[0]) for n in lengths[1:3]), 1]
    level = [0, *((s - scores[0]) / (scores[3] - scores[0]) for s in scores[1:3]), 1]
    assert 0 < at[1] < at[2] < 1
    assert 0 < level[1] <= level[2] <= 1
    curve = information_curve(grain, x, values, 0, thresholds=shares, seed=3, bins=50)
    expected = np.interp(np.linspace(0, 1, 51), at, level)
    assert np.allclose(curve.scores.numpy(), expected, atol=1e-6)
    assert np.allclose(curve.information.numpy(), np.linspace(0, 1, 51))
    assert curve.auc == pytest.approx(np.trapezoid(expected, dx=1 / 50), abs=1e-6)


def test_a_map_of_the_object_beats_its_opposite():
    x, values = photo(), heatmap()
    good = information_curve(grain, x, values, 0, bins=100)
    bad = information_curve(grain, x, -values, 0, bins=100)
    assert good.auc > bad.auc + 0.1
    assert float(bad.scores.min()) == 0
    assert float(good.scores.max()) == 1


def test_the_batch_size_changes_nothing():
    x, values = photo(), heatmap()
    curves = [information_curve(grain, x, values, 0, bins=20, batch_size=b) for b in (1, 4, 99)]
    assert torch.equal(curves[0].scores, curves[1].scores)
    assert torch.equal(curves[0].scores, curves[2].scores)


def test_accuracy_is_a_step():
    # By its number, the predicted class appears when the middle is rough enough.
    x, values = photo(), heatmap()
    seen = []

    def watched(batch):
        outputs = grain(batch)
        seen.extend(outputs.argmax(1).tolist())
        return outputs

    curve = information_curve(watched, x, values, objective="accuracy", bins=1000)
    assert set(seen) == {0, 1}
    levels = curve.scores.unique()
    assert levels[0] == 0
    assert levels[-1] == 1
    # A single ramp between two pictures' lengths: 0 before it, 1 after it.
    inside = (curve.scores > 0) & (curve.scores < 1)
    assert float(inside.double().mean()) < 0.5
    assert bool((curve.scores.diff() >= 0).all())


def test_a_score_that_falls_again_is_held():
    # Scores of the blurred picture, three steps, the picture: the second step is the best.
    def model(batch):
        return torch.tensor([0.0, 0.2, 0.9, 0.5, 1.0])[-len(batch) :]

    curve = information_curve(
        model, photo(1), heatmap(), None, objective="logit", thresholds=(0.05, 0.1, 0.2), bins=400
    )
    assert bool((curve.scores.diff() >= 0).all())
    assert float(((curve.scores - 0.9).abs() < 1e-6).double().mean()) > 0.1


def test_an_explanation_brings_its_target_and_objective():
    # Probabilities, of which class 0 is less likely: the curve is that of class 0 as it is.
    model = lambda batch: (grain(batch) - torch.tensor([9.0, 0.0])).softmax(1)  # noqa: E731
    x = photo()
    e = fwdgrad.explain(model, x, target=0, n_samples=64)
    assert e.objective == "output"
    options = {"bins": 50, "thresholds": (0.1, 0.3)}
    found = information_curve(model, x, e, **options)
    right = information_curve(
        lambda batch: model(batch)[:, 0], x, e.attribution.double().sum(0), **options
    )
    assert torch.equal(found.scores, right.scores)
    with pytest.raises(ValueError, match="not be 'accuracy' where the model returns one number"):
        information_curve(lambda b: b.mean((1, 2, 3)), x, heatmap(), objective="accuracy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": photo() * 2}, r"x must lie in \[0, 1\]"),
        ({"x": photo()[None]}, "x must be a floating picture"),
        ({"x": torch.zeros(2, 48, 48)}, "x must be a floating picture"),
        ({"heatmap": heatmap()[:40]}, "heatmap must have the trailing axes"),
        ({"thresholds": (0.5, 0.1)}, "thresholds must ascend"),
        ({"thresholds": (0.0, 0.1)}, "thresholds must ascend"),
        ({"known": 1.0}, "known must be a share"),
        ({"bins": 0}, "bins"),
        ({"x": torch.full((3, 48, 48), 0.5)}, "must hold less than the picture"),
        ({"target": 1}, "must have a score below the picture's"),
        ({"objective": "precision"}, "objective must be one of"),
    ],
)
def test_bad_input(change, message):
    arguments = {"model": grain, "x": photo(), "heatmap": heatmap(), "target": 0, **change}
    with pytest.raises(ValueError, match=message):
        information_curve(**arguments)


def test_the_median_is_taken_at_each_information():
    at = torch.linspace(0, 1, 3, dtype=torch.float64)
    rows = torch.tensor([[0.0, 0.9, 1.0], [0.0, 0.1, 1.0], [0.0, 0.4, 1.0]], dtype=torch.float64)
    median = median_curve([InformationCurve(at, row) for row in rows])
    assert median.scores.tolist() == [0, 0.4, 1]
    assert median.auc == pytest.approx(0.45)
    with pytest.raises(ValueError, match="at least one"):
        median_curve([])
    with pytest.raises(ValueError, match="same bins"):
        median_curve([InformationCurve(at, at), InformationCurve(at[:2], at[:2])])


@pytest.mark.parametrize("objective", ["probability", "accuracy"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_authors_own_code(objective, sign):
    pic = pytest.importorskip("saliency.metrics.pic", reason="the authors' package, saliency")
    x, values = photo(), sign * heatmap()
    known = np.zeros(48 * 48, bool)
    known[np.random.default_rng(0).choice(48 * 48, 23, replace=False)] = True
    picture = (x * 255).round().byte().permute(1, 2, 0).numpy()

    def predict(images):
        scores = grain(torch.from_numpy(images).permute(0, 3, 1, 2) / 255.0)
        if objective == "accuracy":
            return (scores.argmax(1) == 0).double().numpy()
        return scores.softmax(1)[:, 0].double().numpy()

    shares = [0.01, 0.05, 0.1, 0.3, 0.5, 0.75]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # np.trapz
        theirs = pic.compute_pic_metric(
            picture, values.double().numpy(), known.reshape(48, 48), predict, shares, 0.0
        )
    ours = information_curve(grain, x, values, 0, objective=objective, thresholds=shares)
    assert np.allclose(ours.scores.numpy(), theirs.curve_y, atol=1e-5)
    assert ours.auc == pytest.approx(theirs.auc, abs=1e-5)
