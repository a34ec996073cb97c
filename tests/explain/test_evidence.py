"""What is enough, and what is missed: parts of inputs, checked by calls of one's own."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Coalitions, Grid, Regions, evidence
from fwdgrad.adapters.inputs_along import WithInputs
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.pictures import ImageModel
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.text import explain_text

# ---- pictures ------------------------------------------------------------------------------


def corner(batch):
    """Class 1 where the upper left quarter of 32 x 32 is light, else class 0 or 2."""
    light = batch[:, :, :16, :16].mean((1, 2, 3)).double()
    other = batch[:, :, 16:, 16:].mean((1, 2, 3)).double()
    return torch.stack([0 * light + 0.5, 6 * light - 1, other], 1)


PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) / 4 + 0.7


def of_picture(**options):
    options = {"method": Regions("black", cell=4), "n_samples": 128, **options}
    return fwdgrad.explain(corner, PICTURE, **options)


def test_the_part_that_is_enough_keeps_the_score_and_one_cell_less_does_not():
    e = of_picture(features=Grid((4, 4), "nearest"), method=Regions("black"))
    found = evidence(corner, e)
    least = found.baseline_score + 0.9 * (found.score - found.baseline_score)

    def score(mask):
        return float(corner((PICTURE * mask)[None]).softmax(1)[0, 1])

    assert found.enough.shape == PICTURE.shape
    assert score(found.enough) == pytest.approx(found.enough_score, rel=1e-6)
    assert found.enough_score >= least
    inside = e.attribution.masked_fill(~found.enough, torch.inf)
    assert score(found.enough & (inside > inside.min())) < least
    assert not found.enough[:, 16:].any()
    assert not found.enough[:, :, 16:].any()
    assert found.enough_share == pytest.approx(found.enough_count / 64)
    assert found.score == pytest.approx(e.score)


def test_without_the_part_another_class_is_predicted_and_with_one_cell_of_it_not():
    e = of_picture(features=Grid((4, 4), "nearest"), method=Regions("black"))
    found = evidence(corner, e)

    def predicted(out):
        return int(corner((PICTURE * ~out)[None]).argmax())

    assert found.of_class
    assert predicted(found.missing) == found.instead == 2
    inside = e.attribution.masked_fill(~found.missing, torch.inf)
    assert predicted(found.missing & (inside > inside.min())) == 1
    outputs = corner((PICTURE * ~found.missing)[None]).softmax(1)[0]
    assert found.instead_score == pytest.approx(float(outputs[2]), rel=1e-6)
    assert found.missing_score == pytest.approx(float(outputs[1]), rel=1e-6)
    assert found.missing_share < found.enough_share


def test_smooth_cells_are_mixed_as_the_method_mixes_them():
    seen = []

    def model(batch):
        seen.append(batch.clone())
        return corner(batch)

    found = evidence(model, of_picture())
    assert found.calls == len(seen) <= 24
    assert all(len(batch) == 1 for batch in seen)
    shares = torch.cat([(batch / PICTURE)[0, 0] for batch in seen])
    assert ((shares > 0.1) & (shares < 0.9)).any()
    assert torch.equal(found.enough[0], found.enough[2])
    assert str(found).startswith("2")
    assert str(found).endswith("it is taken for class 2")
    assert " % of the picture is enough for class 1; without " in str(found)


@pytest.mark.parametrize("method", ["gradient", "smoothgrad"])
def test_pixels_are_joined_to_cells(method):
    e = of_picture(method=method, n_samples=None if method == "gradient" else 256)
    found = evidence(corner, e, baseline=0.0)
    assert found.count == 144  # cells of 3 pixels, and what is half outside
    assert found.enough_share < 0.7
    assert found.enough[0, :16, :16].double().mean() > 2 * found.enough[0].double().mean() - 0.4


def test_what_jitters_and_tells_channels_apart_is_laid_on_a_grid():
    cells = Grid((4, 4), "nearest", jitter=True, share_channels=False)
    method = fwdgrad.ForwardGradient(scale=0.3)
    found = evidence(corner, of_picture(method=method, features=cells), baseline=0.0)
    assert found.count == 64
    assert found.enough is not None


def test_in_the_photo_s_own_pixels():
    photo = np.full((40, 60, 3), 20, np.uint8)
    photo[:20, :30] = 250
    model = ImageModel(corner, size=32, fit="pad", labels=["dark", "corner", "other"])
    shown = fwdgrad.explain(model, photo, method=Regions("black", cell=4), n_samples=128)
    found = evidence(model, shown)
    assert found.label == "corner (class 1)"
    assert found.instead_label in ("dark (class 0)", "other (class 2)")
    plt = pytest.importorskip("matplotlib.pyplot")
    ax = found.outline(shown.plot())
    lines = [line for one in ax.collections for path in one.get_paths() for line in path.vertices]
    left, right, bottom, top = found.extent
    across, down = np.array(lines).T
    assert left - 1e-6 <= across.min() < across.max() <= right + 1e-6
    assert top - 1e-6 <= down.min() < down.max() <= bottom + 1e-6
    assert across.max() < 40  # what is enough, in a photo of 60 pixels
    plt.close("all")


@pytest.mark.parametrize("size", [(4, 6), (8, 12), (80, 120)])
def test_a_mask_is_laid_on_the_photo(size):
    """Of a padded photo, smaller or larger than what the model sees: its left upper quarter."""
    height, width = size
    model = ImageModel(corner, size=24, fit="pad", labels=["dark", "corner", "other"])
    photo = np.full((height, width, 3), 200, np.uint8)
    shown = fwdgrad.explain(model, photo, 1, method=Regions("black", cell=4), n_samples=64)
    mask = torch.zeros(3, 24, 24, dtype=torch.bool)
    mask[1, :12, :12] = True  # the photo is in rows 4 to 20
    want = np.zeros((height, width), bool)
    want[: height // 2, : width // 2] = True
    assert shown.on_photo(mask).tolist() == want.tolist()
    assert shown.on_photo(mask[1]).tolist() == want.tolist()
    assert bool(shown.on_photo(torch.ones(24, 24, dtype=torch.bool)).all())
    found = evidence(model, shown)
    assert shown.on_photo(found.enough).shape == (height, width)


def test_what_is_no_mask_is_told():
    photo = np.full((8, 8, 3), 200, np.uint8)
    model = ImageModel(lambda batch: batch.mean((1, 2, 3)))
    shown = fwdgrad.explain(model, photo, method=Regions("black", cell=4), n_samples=64)
    with pytest.raises(TypeError, match=r"^mask must be a tensor of bool, got torch.float32$"):
        shown.on_photo(shown.attribution)
    with pytest.raises(ValueError, match=r"^mask must have shape \(3, 8, 8\) or \(8, 8\), got"):
        shown.on_photo(torch.ones(4, 8, dtype=torch.bool))


def test_the_outline_is_closed_at_the_picture_s_edge():
    plt = pytest.importorskip("matplotlib.pyplot")
    found = evidence(corner, of_picture())
    ax = found.outline(plt.figure().subplots())
    enough, missing = (one.get_paths()[0].vertices for one in ax.collections[1::2])
    for points in (enough, missing):
        assert (points[0] == points[-1]).all()
    assert enough.min() == pytest.approx(-0.5, abs=1e-9)
    assert -0.5 < missing.min() < -0.2  # a little inside
    plt.close("all")


# ---- the search ----------------------------------------------------------------------------


def test_both_outlines_are_seen_where_they_are_the_same():
    """On grey: across the border two black lines, of which the solid one alone has no gap."""
    plt = pytest.importorskip("matplotlib.pyplot")
    found = evidence(corner, of_picture())

    def black_across_the_border(**parts):
        figure = plt.figure(figsize=(3, 3), dpi=200)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.imshow(np.full((128, 128, 3), 128, np.uint8))
        ax.set_axis_off()
        dataclasses.replace(found, **parts).outline(ax)
        figure.canvas.draw()
        rows = np.asarray(figure.canvas.buffer_rgba())[200:400, :300, 0] < 40  # its left side
        plt.close(figure)
        return rows

    square = torch.zeros(128, 128, dtype=torch.bool)
    square[16:112, 32:96] = True
    lines = [
        black_across_the_border(enough=enough, missing=missing)
        for enough, missing in ((square, None), (None, square), (square, square))
    ]
    solid, dashed, both = lines
    assert solid.any(1).all()
    assert 0.4 < dashed.any(1).mean() < 0.9
    assert not (solid & dashed).any()
    assert (both == (solid | dashed)).mean() > 0.99


def brute(model, x, order, does):
    """The smallest prefix of an order that does."""
    for size in range(len(x) + 1):
        is_in = torch.zeros(len(x), dtype=torch.bool)
        is_in[order[:size]] = True
        if does(is_in):
            return is_in
    return None


@pytest.mark.parametrize("seed", range(3))
def test_bisection_finds_what_all_calls_find(seed):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(60, 2, generator=g).double() * torch.tensor([1.0, 0.5]).double()
    model = lambda batch: batch.double() @ weights  # noqa: E731
    x = torch.ones(60)
    e = fwdgrad.explain(model, x, 0, method=Regions(0.0), objective="output", n_samples=64)
    found = evidence(model, e, 0.8)
    order = e.attribution.argsort(descending=True, stable=True)
    score = lambda is_in: float(model(is_in[None].double())[0, 0])  # noqa: E731
    enough = brute(model, x, order, lambda is_in: score(is_in) >= 0.8 * score(is_in | True))
    assert found.enough.tolist() == enough.tolist()

    def is_other(out):
        outputs = model((~out)[None].double())[0]
        return outputs[1] > outputs[0]

    missing = brute(model, x, order, is_other)
    assert found.missing.tolist() == missing.tolist()
    assert found.calls < 22


def test_where_the_score_is_not_monotone_smaller_ones_are_tried():
    """Three features are enough, four and five are not, six are."""
    sizes = torch.tensor([0.0, 0.3, 0.4, 1.0, 0.5, 0.5, 0.95, 0.95, 1.0])

    def model(batch):
        return sizes[batch.sum(1).long()]

    weights = torch.arange(8.0, 0, -1)
    e = fwdgrad.explain(lambda b: b @ weights / 36, torch.ones(8), method=Coalitions())
    found = evidence(model, e)
    assert found.enough.tolist() == [True] * 3 + [False] * 5
    assert found.enough_score == 1.0


def test_what_speaks_against_is_left_out_first():
    """All of the input scores less than its best part, and its loss leaves the class as it is."""
    weights = torch.tensor([3.0, -2.0, 1.0, -1.0])
    model = lambda batch: torch.stack([batch @ weights, 0 * batch[:, 0] - 0.5], 1)  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(4), objective="output", method=Coalitions())
    found = evidence(model, e)
    assert found.enough.tolist() == [True, False, False, False]
    assert found.missing.tolist() == [True, False, False, False]


# ---- what is told --------------------------------------------------------------------------


def test_where_no_part_takes_the_class_away():
    model = lambda batch: torch.stack([batch.sum(1) + 5, 0 * batch[:, 0]], 1)  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(4), objective="output", method=Coalitions())
    found = evidence(model, e)
    assert found.missing is found.instead is found.missing_score is None
    assert str(found) == (
        "4 of 4 features are enough for class 0; the class stays without any part that was tried"
    )


def test_where_what_is_out_scores_no_less():
    model = lambda batch: -batch.sum(1)  # noqa: E731
    found = evidence(model, fwdgrad.explain(model, torch.ones(4), method=Coalitions()))
    assert found.enough is found.missing is None
    assert found.calls == 2
    assert str(found) == (
        "no part is told to be enough: the input scores -4, and its baseline 0; "
        "so none takes it away"
    )


def test_columns_of_a_score_below_that_of_the_other_rows():
    """No part can be enough: what lowers it most is named, with what it adds."""
    other = np.array([[10.0, 20.0, 3.0, 0.0], [30.0, 40.0, 5.0, 0.0]])
    names = ["age", "rooms", "noise", "c"]
    model = TableModel(lambda rows: rows.sum(1), other, feature_names=names)
    for row, said in (
        ([10.0, 5.0, 4.0, 0.0], "rooms (-25) and age (-10) lower it most"),
        ([20.0, 5.0, 4.5, 0.0], "rooms (-25) lowers it most"),
        ([20.0, 30.0, 4.0, -7.0], "c (-7) lowers it most"),
    ):
        found = evidence(model, fwdgrad.explain(model, row))
        by = 54 - sum(row)
        assert str(found) == (
            f"the row scores {sum(row):.3g}, {by:.2g} below the 54 of the other rows (their mean "
            f"score); {said}"
        )
        assert found.calls == 2
    above = evidence(model, fwdgrad.explain(model, [20.0, 30.0, 4.0, 9.0]))
    assert above.lowers == ()
    assert "enough" in str(above)


def test_words_of_a_score_below_that_of_an_empty_text():
    dull = TextModel(lambda texts: [1 - 3.0 * text.count("dull") for text in texts])
    words = fwdgrad.explain(dull, "a dull film", n_samples=64)
    assert str(evidence(dull, words)) == (
        "the input scores -2, 3 below the 1 of its baseline; dull (-3) lowers it most"
    )


def test_of_another_class_than_the_predicted_one_it_is_the_score():
    weights = torch.tensor([[1.0, 3.0], [2.0, 3.0], [0.0, 3.0]])
    model = lambda batch: batch @ weights  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(3), 0, objective="output", method=Coalitions())
    found = evidence(model, e)
    assert not found.of_class
    assert found.instead is None
    assert found.missing.tolist() == [True, True, False]
    assert str(found).endswith("without 2 it falls from 3 to 0")


def test_labels_of_their_own_do_not_compete():
    model = lambda batch: torch.stack([batch.mean(1), batch.mean(1) * 0 + 0.9], 1)  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(3), objective="output", method=Coalitions())
    assert not evidence(model, e).of_class


def test_words():
    def model(texts):
        odds = [2 * t.count("fine") + t.count("film") - 3 * t.count("dull") for t in texts]
        return torch.tensor([[0.0, o - 1.0] for o in odds])

    adapter = TextModel(model, labels=["negative", "positive"])
    words = fwdgrad.explain(adapter, "A fine film about fine food", n_samples=64)
    found = evidence(adapter, words)
    assert found.enough.tolist() == [False, True, False, False, True, False]
    assert str(found) == (
        "2 of 6 words are enough for positive: fine, fine; without 2 (fine, fine) it is taken for "
        "negative"
    )
    assert found.unit == "word"
    assert json.loads(json.dumps(found.to_dict()))["instead_label"] == "negative"


def test_words_that_are_masked_and_read_from_a_file(tmp_path):
    seen = []

    def model(texts):
        seen.extend(texts)
        return [t.count("fine") + 0.1 * len(t.split()) for t in texts]

    adapter = TextModel(model, mask="[MASK]")
    words = fwdgrad.explain(adapter, "A fine film", n_samples=32)
    words.explanation.save(tmp_path / "e.safetensors")
    seen.clear()
    found = evidence(adapter, fwdgrad.Explanation.load(tmp_path / "e.safetensors"))
    assert found.names == ("A", "fine", "film")
    assert "[MASK] [MASK] [MASK]" in seen
    assert str(found) == (
        "1 of 3 words is enough for 90 % of the score: fine; without 1 (fine) it falls from 1.3 "
        "to 0.3"
    )


def test_words_of_embeddings():
    torch.manual_seed(3)
    model = LSTMClassifier(["a", "fine", "dull", "film"], ["bad", "good"]).eval()
    for share_channels in (False, True):
        words = explain_text(
            model, "A fine dull film", n_samples=512, share_channels=share_channels
        )
        found = evidence(model, words)
        assert found.count == 4
        assert found.score == pytest.approx(words.explanation.score)
        encoded = model.encode(words.text)
        none = encoded.forward(torch.zeros_like(encoded.embeddings)[None]).softmax(1)
        assert found.baseline_score == pytest.approx(float(none[0, found.target].detach()))


def test_rows():
    def risk(rows):
        z = 4.0 * rows[:, 0] + 2.0 * rows[:, 1] + 0.1 * rows[:, 2] - 3
        p = 1 / (1 + np.exp(-z))
        return np.stack([1 - p, p], 1)

    names, labels = ["income", "age", "floor"], ["refused", "approved"]
    model = TableModel(risk, np.zeros((3, 3)), feature_names=names, labels=labels)
    shown = fwdgrad.explain(model, [1.0, 1.0, 1.0])
    found = evidence(model, shown)
    assert str(found) == (
        "income and age are enough for approved; without income it is taken for refused"
    )
    with pytest.raises(ValueError, match="x must be given: the explanation does not have what Tab"):
        evidence(model, shown.explanation)
    again = evidence(model, shown.explanation, x=[1.0, 1.0, 1.0])
    assert again.enough.tolist() == found.enough.tolist()
    assert again.names == tuple(names)


def test_inputs_along():
    model = WithInputs(lambda x, w: (x * w).sum(1))
    x = (torch.ones(4), torch.tensor([[1.0, 0.0, 5.0, 0.0]]))
    e = fwdgrad.explain(model, x, method=Coalitions())
    assert evidence(model, e, x=x).enough.tolist() == [True, False, True, False]


def test_what_was_explained_by_a_callable():
    model = lambda batch: torch.stack([batch[:, 0], batch[:, 1] * 0.5], 1)  # noqa: E731
    apart = fwdgrad.Difference(0, 1)
    e = fwdgrad.explain(model, torch.ones(2), objective=apart, method=Coalitions())
    with pytest.raises(ValueError, match="objective must be given: the explanation is of Diff"):
        evidence(model, e)
    assert evidence(model, e, objective=apart).enough.tolist() == [True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0.0,), "keep must be above 0 and at most 1, got 0"),
        (("most",), "keep must be a number, got str 'most'"),
    ],
)
def test_arguments_are_checked(arguments, said):
    model = lambda batch: batch.sum(1)  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(3), method=Coalitions())
    with pytest.raises((TypeError, ValueError), match=said):
        evidence(model, e, *arguments)


def test_another_model_or_something_else_is_refused():
    model = lambda batch: batch.sum(1)  # noqa: E731
    e = fwdgrad.explain(model, torch.ones(3), method=Coalitions())
    with pytest.raises(
        ValueError, match=r"model must be the one that was explained: it scores .* 6"
    ):
        evidence(lambda batch: 2 * batch.sum(1), e)
    with pytest.raises(TypeError, match="explanation must be what explain returned, got Tensor"):
        evidence(model, e.attribution)
    with pytest.raises(ValueError, match="baseline must differ from x somewhere"):
        evidence(model, e, baseline=1.0)
    with pytest.raises(ValueError, match="an outline is of a picture"):
        evidence(model, e).outline(None)


def test_nothing_is_left_behind():
    """The input is as it was, and torch's state; the warnings of the run are not told again."""
    e = of_picture()
    before = e.input.clone(), torch.is_grad_enabled()
    evidence(corner, e)
    assert torch.equal(before[0], e.input)
    assert torch.is_grad_enabled() == before[1]


def test_shares_of_a_padded_photo_are_of_the_photo():
    """What is beside it is no part of the picture, whatever the map says of the cells there."""
    photo = np.zeros((20, 80, 3), np.uint8)
    photo[:, 40:] = np.random.default_rng(0).integers(0, 256, (20, 40, 3))
    model = ImageModel(lambda batch: batch.std((1, 2, 3)), size=64, fit="pad")
    e = fwdgrad.explain(model, photo, None, method=Regions("grey"), n_samples=128)
    found = fwdgrad.evidence(model, e)
    rows = slice(24, 40)  # 16 of 64, where the photo is
    assert found.enough_share == pytest.approx(found.enough[:, rows].double().mean().item())
    assert found.enough_share > 2 * found.enough.double().mean()
