"""Labels and sentences as scores, and what a map of them is: known in closed form."""

import math
import warnings

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, KeptLabel, LabelDistance, ModelError, Taxonomy, TextAnswer

from .models import assert_same_bits

PETS = Taxonomy.from_distances(
    [[0, 1, 5, 7], [1, 0, 4, 7], [5, 4, 0, 7], [7, 7, 7, 0]],
    ["tabby", "tiger cat, tiger-striped cat", "golden retriever, retriever", "crane, tiger"],
)
DIMENSIONS, SCALE = 16, 0.5
WEIGHTS = torch.linspace(-1, 2, DIMENSIONS)
X = torch.linspace(0.5, -0.2, DIMENSIONS)


def above_zero(batch):
    """The hard label of a linear classifier of two classes."""
    return (batch @ WEIGHTS > 0).long()


def explain(model, objective, n_samples=8192, **options):
    method = ForwardGradient(scale=SCALE)
    options |= {"objective": objective, "n_samples": n_samples}
    return fwdgrad.explain(model, X, method=method, **options)


# ---- scores of labels ------------------------------------------------------------------------

LABELS = [2, 0, 1, 3]
LOGITS = torch.tensor([[0.0, 1, 2, 1], [3, 1, 2, -1], [0, 1, 0, 0], [-4, -3, -2, -1]])


@pytest.mark.parametrize(
    "outputs",
    [
        LABELS,
        tuple(LABELS),
        torch.tensor(LABELS),
        torch.tensor(LABELS, dtype=torch.uint8),
        np.array(LABELS, dtype=np.int32),
        [np.int64(label) for label in LABELS],
        [torch.tensor(label) for label in LABELS],
        LOGITS,
        LOGITS.bfloat16(),
        LOGITS.clone().requires_grad_(),
        LOGITS.numpy(),
        LOGITS.tolist(),
        LOGITS.char(),  # quantised
    ],
)
def test_labels_and_logits_of_every_kind(outputs):
    assert KeptLabel(1)(outputs).tolist() == [0, 0, 1, 0]
    assert LabelDistance(1, PETS)(outputs).tolist() == [-4, -1, 0, -7]


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda names: np.array(names, object)])
def test_labels_by_name(kind):
    outputs = kind(["tabby", "retriever", "tiger cat"])
    assert KeptLabel("retriever")(outputs).tolist() == [0, 1, 0]
    assert LabelDistance("tabby", PETS)(outputs).tolist() == [0, -5, -1]


def test_two_classes_as_booleans_and_as_signs():
    assert KeptLabel(1)(torch.tensor([True, False])).tolist() == [1, 0]
    assert KeptLabel(-1)(np.array([-1, 1])).tolist() == [1, 0]


def test_an_ambiguous_label_is_the_nearest():
    imagenet = Taxonomy.imagenet()
    assert LabelDistance(134, imagenet)(["crane"]).tolist() == [0]
    assert LabelDistance(517, imagenet)(["crane"]).tolist() == [0]


@pytest.mark.parametrize(
    ("objective", "outputs", "message"),
    [
        (KeptLabel(1), [0.5, 1.5], r"must return a label for each sample, .*got float64 \(2,\)"),
        (KeptLabel(1), torch.zeros(2, 1), r"a label for each sample, .*got float64 \(2, 1\)"),
        (KeptLabel(1), torch.zeros(2, 3, 4), r"a label for each sample, .*got float64 \(2, 3, 4\)"),
        (KeptLabel(1), [[0.1, 0.9], [0.2]], r"a label for each sample, .*got \[\[0.1, 0.9\]"),
        (KeptLabel(1), "tabby", "a label for each sample, .*got 'tabby'"),
        (KeptLabel(1), ["tabby", 1], r"a label for each sample, .*got \['tabby', 1\]"),
        (KeptLabel(1), {"labels": [1]}, r"a label for each sample, .*got \{'labels'"),
        (KeptLabel(1), 1, "a label for each sample, .*got int64 ()"),
        (KeptLabel(1), ["tabby"], "labels such as 'tabby', and target is 1; give it as the model"),
        (KeptLabel("1"), [1], "labels such as 1, and target is '1'"),
        (KeptLabel(4), LOGITS, "returned 4 classes, and target is 4"),
        (KeptLabel(1), LOGITS / 0, "returned NaN, so no class"),
        (LabelDistance(1, PETS), [4], r"label of no class: label must lie in 0 \.\. 3, got 4"),
        (LabelDistance(1, PETS), [-1], r"label of no class: label must lie in 0 \.\. 3, got -1"),
        (LabelDistance(1, PETS), ["tabbi"], "'tabbi' is no class of the taxonomy; perhaps tabby"),
        (LabelDistance(1, PETS), LOGITS[:, :3], "returned 3 classes, and the taxonomy has 4"),
        (
            TextAnswer(1, PETS),
            "a tabby",
            "a list of strings, an answer for each sample, got 'a tab",
        ),
        (TextAnswer(1, PETS), ["a tabby", None], r"list of strings, .*got \['a tabby', None\]"),
        (TextAnswer(1, PETS), torch.tensor([1]), r"list of strings, .*got tensor\(\[1\]\)"),
    ],
)
def test_outputs_that_are_no_answers(objective, outputs, message):
    with pytest.raises(ModelError, match=message):
        objective(outputs)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: KeptLabel(None), TypeError, "target must be a class's number or name, got None"),
        (lambda: KeptLabel(True), TypeError, "target must be a class's number or name, got True"),
        (lambda: LabelDistance(4, PETS), ValueError, r"target must lie in 0 \.\. 3, got 4"),
        (lambda: LabelDistance("auto", PETS), ValueError, "target 'auto' is no class"),
        (lambda: TextAnswer("tabbi", PETS), ValueError, r"target 'tabbi' .*perhaps tabby \(0\)"),
        (lambda: LabelDistance(0, [[0]]), TypeError, "must be a Taxonomy, .*, got list"),
        (lambda: TextAnswer(0, PETS, names=["tabby"]), ValueError, "names must be 4, .*, got 1"),
        (lambda: TextAnswer(0, PETS, names="abcd"), TypeError, "list of strings, got 'abcd'"),
        (
            lambda: TextAnswer(0, PETS, names=["a", "b", "c, ++", "d"]),
            ValueError,
            r"names must have letters or digits, got '\+\+' at class 2",
        ),
    ],
)
def test_bad_arguments(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


# ---- classes in sentences --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "classes"),
    [
        ("tabby", (0,)),
        ("The input image belongs to TABBY.", (0,)),
        ("A tiger cat", (1,)),  # not crane's other name, which stands in it
        ("a tiger", (3,)),
        ("tiger, cat", (1,)),
        ("a tiger striped\ncat", (1,)),
        ("tiger_cat", (1,)),
        ("a crane above a golden retriever", (2,)),  # the longer name
        ("a crane above a tabby", (3,)),  # the first of equals
        ("tabbycat, tabbies", ()),
        ("", ()),
        ("?!", ()),
    ],
)
def test_the_class_in_an_answer(answer, classes):
    assert TextAnswer(0, PETS).classes(answer) == classes


def test_a_name_of_several_classes_is_the_nearest():
    names = ["cat", "cat", "dog", "bird"]
    assert TextAnswer(2, PETS, names).classes("a cat") == (0, 1)
    assert TextAnswer(2, PETS, names)(["a cat"]).tolist() == [-4]
    assert TextAnswer(0, PETS, names)(["a cat"]).tolist() == [0]


def test_every_class_of_imagenet_is_found_in_a_sentence():
    imagenet = Taxonomy.imagenet()
    score = TextAnswer(0, imagenet)
    for i, label in enumerate(imagenet.labels):
        for name in label.split(", "):
            assert i in score.classes(f"The input image belongs to {name}.")


def test_what_names_no_class_is_counted_and_as_far_as_any():
    score = TextAnswer("golden retriever", PETS)
    assert score.prompt == "The input image belongs to [MASK]"
    assert score(["retriever", "I cannot say", "tabby", ""]).tolist() == [0, -7, -5, -7]
    assert (score.unparsed, score.answers) == (2, 4)
    assert score(np.array(["none of them"])).tolist() == [-7]
    assert (score.unparsed, score.answers) == (3, 5)
    score.reset()
    assert (score.unparsed, score.answers) == (0, 0)


# ---- maps ------------------------------------------------------------------------------------


def test_the_map_of_a_hard_label_is_that_of_its_probability():
    # Under the noise the label is kept with probability Phi(w.x / (scale |w|)), whose gradient is
    # phi(w.x / (scale |w|)) w / (scale |w|).
    result = explain(above_zero, KeptLabel(1))
    norm = float(WEIGHTS.norm())
    margin = float(X @ WEIGHTS) / (SCALE * norm)
    density = math.exp(-(margin**2) / 2) / math.sqrt(2 * math.pi)
    expected = density * WEIGHTS / (SCALE * norm)
    assert ((result.attribution - expected).abs() < 5 * result.standard_error).all()
    # The weights of the n pairs are 0 or +-1/2, so that the error of an element is at most
    # 1 / (2 scale sqrt(n)), and the gradient is density / scale long.
    noise = math.sqrt(DIMENSIONS) / (2 * math.sqrt(result.n_samples / 2))
    bound = density / math.hypot(density, noise)
    cosine = torch.cosine_similarity(result.attribution, WEIGHTS, dim=0)
    assert cosine > bound - 0.01 > 0.95
    assert result.target is None
    assert result.objective == "KeptLabel(1)"


def test_of_two_classes_the_distance_is_a_unit():
    # Scores 0 and -3 in place of 1 and 0: the same differences, three times over.
    kept = explain(above_zero, KeptLabel(1))
    apart = explain(above_zero, LabelDistance(1, Taxonomy.from_distances([[0, 3], [3, 0]])))
    torch.testing.assert_close(apart.attribution, 3 * kept.attribution)
    assert apart.score == 3 * kept.score - 3


STEPS = Taxonomy.from_distances(np.abs(np.subtract.outer(np.arange(201), np.arange(201))))


def steps(batch):
    """One of 201 classes in a row: how far along w the input is, in steps of an eighth."""
    return (100 + batch @ WEIGHTS * 8).floor().clamp(0, 200).long()


def test_distances_restore_a_linear_score():
    # The label is a staircase over w.x with eight steps a unit, and the distance to the last
    # class, less what is cut off 4 deviations away, is linear in it: the gradient is 8 w.
    result = explain(steps, LabelDistance(200, STEPS))
    assert ((result.attribution - 8 * WEIGHTS).abs() < 5 * result.standard_error).all()
    assert torch.cosine_similarity(result.attribution, WEIGHTS, dim=0) > 0.99
    # Which of the classes it is says more than whether it is the same one.
    start = int(steps(X[None]))
    kept = explain(steps, KeptLabel(start))
    assert torch.cosine_similarity(kept.attribution, WEIGHTS, dim=0) < 0.9


NAMES = [f"step {i}, number {i}" for i in range(201)]


def test_a_text_answer_gives_the_same_map_as_its_label():
    def answer(batch):
        return [f"The input image belongs to Number {i}!" for i in steps(batch).tolist()]

    score = TextAnswer(200, STEPS, NAMES)
    labels = explain(steps, LabelDistance(200, STEPS), n_samples=512)
    texts = explain(answer, score, n_samples=512)
    assert_same_bits(texts, labels)
    assert (score.answers, score.unparsed) == (513, 0)
    assert torch.cosine_similarity(texts.attribution, WEIGHTS, dim=0) > 0.9
    assert texts.objective == "TextAnswer(200)"


def test_a_model_that_often_declines_to_answer():
    # It says nothing below the threshold: those count as the farthest class, so that the map
    # still has the direction in which it speaks.
    def answer(batch):
        return ["a golden retriever" if label else "I am not sure." for label in above_zero(batch)]

    score = TextAnswer("golden retriever", PETS)
    result = explain(answer, score)
    assert score.answers == 8193
    silent = (1 + math.erf(-X @ WEIGHTS / (SCALE * WEIGHTS.norm() * math.sqrt(2)))) / 2
    assert abs(score.unparsed / score.answers - silent) < 5 * math.sqrt(
        silent * (1 - silent) / 8193
    )
    assert result.score == (0 if above_zero(X) else -7)
    torch.testing.assert_close(
        result.attribution, 7 * explain(above_zero, KeptLabel(1)).attribution
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (KeptLabel(0), KeptLabel(1)),
        (LabelDistance(0, PETS), LabelDistance(1, PETS)),
        (TextAnswer(0, PETS), TextAnswer(1, PETS)),
    ],
)
def test_a_checkpoint_of_another_target_is_refused(tmp_path, one, other):
    def model(batch):
        return ["crane"] * len(batch) if isinstance(one, TextAnswer) else [3] * len(batch)

    path = tmp_path / "run.safetensors"
    for objective in (one, other):
        # The same answer for any input: only the objective's name can tell the runs apart.
        assert objective(model(X[None])).tolist() in ([0], [-7])
    explain(model, one, n_samples=64, checkpoint=path)
    with pytest.raises(fwdgrad.CheckpointError, match="objective"):
        explain(model, other, n_samples=64, checkpoint=path)


def test_a_wrong_answer_is_an_error_before_any_sample():
    sizes = []

    def model(batch):
        sizes.append(len(batch))
        return ["tabbi"] * len(batch)

    with pytest.raises(ModelError, match="'tabbi' is no class of the taxonomy; perhaps tabby"):
        explain(model, LabelDistance(0, PETS))
    assert sizes == [1]
    with pytest.raises(ModelError, match=r"shape \(1,\) for a batch of \d+"):
        explain(lambda batch: ["tabby"], LabelDistance(0, PETS))


# ---- where no sample has another score -------------------------------------------------------

STILL = {"method": ForwardGradient(scale=0.01), "n_samples": 8}


def warnings_of(model, objective, x=X, **options):
    """A run's warnings, in order."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fwdgrad.explain(model, x, objective=objective, **{**STILL, **options})
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(("answer", "target"), [("benign", "Benign"), (3, 9), (3, 281)])
def test_a_label_that_the_model_does_not_answer_at_x(answer, target):
    sizes = []

    def model(batch):
        if len(batch) > 1:
            sizes.append(len(batch))
            raise KeyboardInterrupt
        return [answer]

    with (
        pytest.warns(
            UserWarning, match=f"the model predicts {answer!r} at x, so KeptLabel.{target!r}"
        ),
        pytest.raises(KeyboardInterrupt),
    ):
        fwdgrad.explain(model, X, objective=KeptLabel(target), **STILL)
    assert sizes == [8]  # it was said before
    *_, last = warnings_of(lambda batch: [answer] * len(batch), KeptLabel(target))
    assert f"the model predicts {answer!r} at x, and {target!r} neither there" in last
    assert f"KeptLabel({answer!r}), more noise (scale)" in last


def test_a_label_that_every_sample_has_or_loses():
    (kept,) = warnings_of(lambda batch: [3] * len(batch), KeptLabel(3))
    assert "is 1 for every sample, so the map is zero: more noise (scale)" in kept
    lost = lambda batch: [3 if torch.equal(row, X) else 4 for row in batch]  # noqa: E731
    (said,) = warnings_of(lost, KeptLabel(3))
    assert "is 0 for every sample, so the map is zero: at x it is 1: less noise (scale)" in said


@pytest.mark.parametrize("target", [3, 9])
def test_regions_that_change_no_label_are_not_told_to_have_a_scale(target):
    model = lambda batch: [3] * len(batch)  # noqa: E731
    x = torch.linspace(0, 1, 48).reshape(3, 4, 4)
    *_, said = warnings_of(model, KeptLabel(target), x, method="regions", n_samples=16)
    assert "a larger cell, another baseline or another objective may change it" in said
    assert "scale" not in said
    assert ("KeptLabel(3)" in said) == (target == 9)


def test_answers_that_never_change_are_shown():
    (said,) = warnings_of(lambda batch: ["I cannot say."] * len(batch), TextAnswer(0, PETS))
    assert "the model answers 'I cannot say.' at x, which names no class; a prompt" in said
    (said,) = warnings_of(lambda batch: ["A retriever!"] * len(batch), TextAnswer(0, PETS))
    assert "answers 'A retriever!' at x, which names 'golden retriever, retriever'; more" in said
    (said,) = warnings_of(lambda batch: [2] * len(batch), LabelDistance(0, PETS))
    assert (
        "is -5 for every sample, so the map is zero: the model predicts 2 at x; more noise" in said
    )
