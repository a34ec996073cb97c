"""Texts for models that take strings: what the model sees, and what a word's score is."""

import importlib.util
import itertools
import math
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

import fwdgrad
from fwdgrad import (
    CheckpointError,
    Coalitions,
    Explanation,
    ForwardGradient,
    KeptLabel,
    ModelError,
    Regions,
    ReliabilityWarning,
    cli,
)
from fwdgrad.adapters.splits import MANY_WORDS, split_sentences
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.advice import advice_for_words

EXAMPLE = Path(__file__).parents[2] / "examples" / "explain_sentence.py"
TEXT = "A fine film, not dull"


def count(texts):
    """One number for each text, a sum over its words and one pair of them."""
    return [
        0.5 * ("fine" in t) - 0.25 * ("dull" in t) + ("not" in t and "dull" in t) for t in texts
    ]


def length(texts):
    return [float(len(text)) for text in texts]


class Recorder:
    """A model that keeps what it was called on."""

    def __init__(self, model=count):
        self.model, self.calls = model, []

    def __call__(self, texts):
        assert type(texts) is list
        self.calls.append(list(texts))
        return self.model(texts)

    @property
    def seen(self):
        return {text for call in self.calls for text in call}


def explained(model, text=TEXT, target="auto", *, n_samples=64, options=None, **run):
    return fwdgrad.explain(
        TextModel(model, **(options or {})), text, target, n_samples=n_samples, **run
    )


def banzhaf(value, words):
    """Each word's value, by all texts."""
    found = []
    for i in range(words):
        rest = itertools.product([False, True], repeat=words - 1)
        gains = [value([*r[:i], True, *r[i:]]) - value([*r[:i], False, *r[i:]]) for r in rest]
        found.append(sum(gains) / len(gains))
    return torch.tensor(found, dtype=torch.float64)


# ---- what the model sees ---------------------------------------------------------------------

LANGUAGES = {
    "English": ("A film of 3.5 stars", ["A", "film", "of", "3.5", "stars"], " "),
    "Hindi": ("यह फ़िल्म बहुत अच्छी", ["यह", "फ़िल्म", "बहुत", "अच्छी"], " "),
    "Thai": ("น้ำดีกว่า", ["น้ำ", "ดี", "ก", "ว่", "า"], ""),
    "vowelled Arabic": ("هَذَا الفِيلْمُ رَائِعٌ", ["هَذَا", "الفِيلْمُ", "رَائِعٌ"], " "),
    "pointed Hebrew": ("הַסֶּרֶט טוֹב מְאֹד", ["הַסֶּרֶט", "טוֹב", "מְאֹד"], " "),
    "skin tones": ("👍🏽👍 👩🏿‍🚀", ["👍🏽", "👍", "👩🏿‍🚀"], None),
    "Chinese": ("这部电影很好", ["这", "部", "电", "影", "很", "好"], ""),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_are_in_or_out_whole(language):
    text, words, joint = LANGUAGES[language]
    model = Recorder(length)
    assert explained(model, text, n_samples=256).words == tuple(words)
    parts = [list(itertools.compress(words, there))
             for there in itertools.product([False, True], repeat=len(words))]  # fmt: skip
    if joint is None:
        assert {seen.replace(" ", "") for seen in model.seen} <= {"".join(some) for some in parts}
    else:
        assert model.seen <= {joint.join(some) for some in parts}
    assert len(model.seen) > 0.75 * 2 ** len(words)


@pytest.mark.parametrize(
    ("text", "split", "mask", "seen"),
    [
        ("A fine film", [(2, 6)], None, "A film"),
        ("A fine film", [(0, 1)], None, "fine film"),
        ("A fine film", [(7, 11)], None, "A fine"),
        (" A fine film\n", [(7, 13)], None, " A fine"),
        (" A fine film\n", [(8, 12)], None, " A fine\n"),
        ("A fine, old film", [(2, 6)], None, "A , old film"),
        ("A (fine) film", [(3, 7)], None, "A () film"),
        ("One.\n\nTwo. Three.", [(6, 10)], None, "One.\n\nThree."),
        ("\ufeffA fine film", [(1, 2)], None, "\ufefffine film"),
        ("A fine film", [(2, 6)], "[MASK]", "A [MASK] film"),
        ("这部电影", [(1, 2)], "▁▁", "这▁▁电影"),
        ("fine", "words", None, ""),
        (" fine ", "words", None, ""),
        (" fine ", "words", "_", " _ "),
    ],
)
def test_what_is_left_of_a_text(text, split, mask, seen):
    model = Recorder(length)
    explained(model, text, options={"split": split, "mask": mask})
    assert model.seen == {text, seen}


def test_each_text_is_asked_for_once_in_a_call():
    model = Recorder()
    options = {"text": "fine dull film", "method": Regions(0.0), "n_samples": 256}
    few = explained(model, batch_size=64, **options)
    assert all(len(set(call)) == len(call) for call in model.calls)
    assert sum(map(len, model.calls)) <= 1 + 4 * 8
    assert few.explanation.n_samples == 256
    alone = explained(count, batch_size=1, **options)
    assert torch.equal(alone.scores, few.scores)


# ---- what a score is -------------------------------------------------------------------------


def test_a_score_is_what_a_word_adds_averaged_over_the_others():
    words = ["A", "fine", "film", ",", "not", "dull"]

    def model(texts):
        triple = [all(word in text for word in ("fine", "not", "dull")) for text in texts]
        return [one + 2.0 * three for one, three in zip(count(texts), triple, strict=True)]

    exact = banzhaf(lambda there: model([" ".join(itertools.compress(words, there))])[0], 6)
    found = explained(model, n_samples=4096, method=Regions(0.0, antithetic=True))
    error = (found.scores - exact).abs()
    assert bool((error <= 4 * found.standard_errors + 1e-6).all())
    assert error.max() < 0.02
    assert found.reliability > 0.99
    assert found.explanation.method.baseline == 0.0
    assert found.explanation.provenance["text"] == TEXT
    by_all = explained(model)
    assert (by_all.scores - exact).abs().max() < 1e-6


def both_or_majority(texts):
    words = "abcde"
    return [
        [float("b" in text and "c" in text), float(sum(word in text for word in words) > 2)]
        for text in texts
    ]


@pytest.mark.parametrize("n_samples", [32, 33, 1000, None])
def test_all_texts_of_few_words_are_called_once_and_the_scores_are_exact(n_samples):
    model = Recorder(both_or_majority)
    both, majority = explained(model, "a b c d e", [0, 1], n_samples=n_samples, batch_size=8)
    assert both.scores.tolist() == [0.0, 0.5, 0.5, 0.0, 0.0]
    assert majority.scores.tolist() == [0.375] * 5  # 6 of 16 texts of the others have two words
    assert sorted(map(len, model.calls)) == [1, 8, 8, 8, 8]
    assert len(model.seen) == 32
    for one in (both, majority):
        assert not one.standard_errors.any()
        assert one.reliability == one.explanation.reliability == 1.0
        assert one.significant().tolist() == (one.scores != 0).tolist()
        e = one.explanation
        assert (e.n_samples, e.method) == (32, Coalitions())
        assert e.provenance["method"] == "auto: the words of a text are in or out"
        text = TextModel(both_or_majority)
        again = fwdgrad.explain(text, "a b c d e", **e.settings)
        assert torch.equal(again.scores, one.scores)
        again = fwdgrad.explain(text.prepare("a b c d e").forward, e.input, **e.settings)
        assert torch.equal(again.attribution, e.attribution)


def test_too_few_samples_for_all_texts_are_told_of():
    with pytest.warns(ReliabilityWarning, match="n_samples=32 calls all coalitions of 5 features"):
        few = explained(both_or_majority, "a b c d e", 0, n_samples=16)
    assert few.explanation.n_samples == 16
    assert isinstance(few.explanation.method, Regions)
    assert "n_samples=32 calls all coalitions" in advice_for_words(few)
    explicit = explained(both_or_majority, "a b c d e", 0, n_samples=16, method=Regions(0.0))
    assert not advice_for_words(explicit)


def test_a_model_that_answers_differently_is_told_of():
    numbers = iter(range(100))
    with pytest.warns(ReliabilityWarning, match="scores the same input 0 and then 8: that noise"):
        explained(lambda texts: [float(next(numbers)) for _ in texts], "a b c")


def test_a_mask_of_features_of_few_groups_is_exact_too():
    groups = torch.tensor([0] * 6 + [1] * 6)
    words = " ".join("abcdefghijkl")
    found = explained(length, words, n_samples=4, features=groups)
    assert found.explanation.n_samples == 4
    assert not found.standard_errors.any()
    assert found.scores.tolist() == [(23 - 11 + 11) / 2] * 12  # with the space between them


def test_a_single_word():
    found = explained(lambda texts: [2.5 if text else 1.0 for text in texts], "fine")
    assert found.scores.tolist() == [1.5]
    assert found.reliability == 1.0
    assert "fine(+++)" in str(found)
    assert math.isnan(explained(count, "fine", method=Regions(0.0)).reliability)


def test_the_masked_text_is_another_question():
    left_out, masked = (
        explained(length, "of it", options={"mask": mask}) for mask in (None, "____")
    )
    assert left_out.scores.tolist() == pytest.approx([2.5, 2.5])  # with half a space each
    assert masked.scores.tolist() == pytest.approx([-2, -2])
    assert "not left out" in left_out.meaning
    assert "not replaced by ____" in masked.meaning


def test_how_it_is_shown():
    found = explained(count, options={"mask": "<x>"})
    assert isinstance(found, TextExplanation)
    assert found.reduce == "presence"
    first, text, meaning = str(found).splitlines()
    assert first.startswith("the model's output: output 1.25; reliability")
    assert text == found.to_terminal()
    assert "(+++)" in text
    assert meaning == (
        "How much the score rises where a word is there and not replaced by <x>, averaged over "
        "what the others are: red words increase it, blue ones decrease it."
    )
    page = found.to_html()
    assert "not replaced by &lt;x&gt;, averaged" in page
    assert "6 words" in repr(found)


def test_several_targets_come_from_the_same_calls():
    model = Recorder(lambda texts: torch.tensor(count(texts))[:, None] * torch.tensor([1.0, -1.0]))
    one, other = explained(model, target=["no", 0], options={"labels": ["yes", "no"]})
    assert torch.allclose(one.scores, -other.scores)
    assert (one.label, other.label) == ("no", "yes")


def test_words_joined_by_a_mask_of_features():
    mask = torch.tensor([0, 1, 1, 1, 2, 2])
    found = explained(count, features=mask)
    assert found.scores[1] == found.scores[2] == found.scores[3]
    assert found.scores[4] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (10, 2),
        pytest.param(20, 3, marks=pytest.mark.slow),
        pytest.param(40, 4, marks=pytest.mark.slow),
    ],
)
def test_few_calls_are_enough(words, texts):
    example = of_example()
    lines = [*itertools.chain(*zip(example.GOOD, example.BAD, strict=True))]
    model = example.trained()
    for i in range(texts):
        parts = " ".join(lines[5 * i :]).split()
        text = " ".join(parts[:words])
        few, many = (explained(model, text, "good", n_samples=n, seed=n) for n in (128, 4096))
        assert np.corrcoef(few.scores, many.scores)[0, 1] > 0.95


@pytest.mark.parametrize("words", [60, 300])
def test_what_it_costs(words):
    text = " ".join(f"word{i}" for i in range(words))
    model = TextModel(length, split="words")
    fwdgrad.explain(model, text, n_samples=1024)
    started = time.process_time()
    fwdgrad.explain(model, text, n_samples=1024)
    assert (time.process_time() - started) / 1024 < 1e-3


@pytest.mark.parametrize(
    ("words", "samples", "pairs"),
    [(28, 64, True), (30, 64, False), (30, 65, False), (30, 128, True),
     (60, 128, True), (100, 128, False), (100, 256, True), (508, None, True), (509, None, False)],
)  # fmt: skip
def test_samples_come_in_pairs_where_there_are_enough(words, samples, pairs):
    text = " ".join(f"w{i}" for i in range(words))
    found = explained(length, text, n_samples=samples, options={"split": "words"})
    assert found.explanation.method.antithetic is pairs
    assert found.explanation.n_samples == (samples or 1024)


# ---- how a text is split ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It was. It is!", ["It was.", "It is!"]),
        ("It costs 3.5 or .5 here. Yes", ["It costs 3.5 or .5 here.", "Yes"]),
        ("The U.S. film. The U.S.A. Film", ["The U.S. film.", "The U.S.A.", "Film"]),
        ("e.g. this... and that", ["e.g. this... and that"]),
        ("“No.” He said (so). It", ["“No.”", "He said (so).", "It"]),
        ("What?! No, no", ["What?!", "No, no"]),
        ("One\ntwo\r\n\r\nthree\u2029four", ["One", "two", "three", "four"]),
        ("这很好。是吗？是", ["这很好。", "是吗？", "是"]),
        ("यह अच्छी है। यह नहीं", ["यह अच्छी है।", "यह नहीं"]),
        ("هل هذا جيد؟ نعم", ["هل هذا جيد؟", "نعم"]),
        ("Done.\u0308 It", ["Done.\u0308", "It"]),
        ("  a. , b  ", ["a. , b"]),
    ],
)
def test_sentences(text, sentences):
    assert [text[start:stop] for start, stop in split_sentences(text)] == sentences


def test_a_long_text_is_split_into_sentences():
    sentence = "A fine film that is not dull at all. "
    few = explained(length, sentence * 20, n_samples=512)
    assert len(few.words) == MANY_WORDS
    many = explained(length, sentence * 21)
    assert many.words == (sentence.strip(),) * 21
    assert many.unit == "sentence"
    why = many.explanation.provenance["method"]
    assert why == "auto: the sentences of a text of 21 sentences are in or out"
    assert "a sentence is there" in many.meaning
    assert "21 sentences" in repr(many)
    model = Recorder(length)
    one = explained(model, "fine " * 201 + ". Dull.", n_samples=512)
    assert one.unit == "word"  # two sentences would say too little


def test_own_splits():
    def first_half(text):
        yield 0, len(text) // 2

    half = explained(length, options={"split": first_half})
    assert half.words == (TEXT[:10],)
    spans = explained(count, options={"split": np.array([[2, 6], [17, 21]])})
    assert spans.words == ("fine", "dull")
    assert spans.unit == "span"
    assert spans.scores.tolist() == pytest.approx([0.5, 0.75], abs=1e-6)
    letters = explained(length, "né 👍🏽", options={"split": "characters"})
    assert letters.words == ("n", "é", "👍🏽")


@pytest.mark.parametrize(
    ("options", "error", "fragment"),
    [
        ({"split": "word"}, ValueError, "split must be one of auto, words, sentences, characters"),
        ({"split": 3}, ValueError, "split must be one of"),
        ({"split": []}, ValueError, "split must give at least one span of 'A fine film, not"),
        ({"split": [(0, 3), (2, 6)]}, ValueError, "got (2, 6) after 3"),
        ({"split": [(4, 4)]}, ValueError, "not empty, within 0 .. 21, got (4, 4)"),
        ({"split": [(0, 99)]}, ValueError, "within 0 .. 21, got (0, 99)"),
        ({"split": [3]}, TypeError, "split must give spans (start, stop)"),
        ({"split": [(0.5, 1)]}, TypeError, "split must give spans (start, stop), whole"),
        ({"split": lambda text: text.x}, ValueError, "split failed on the text: AttributeError"),
        ({"mask": 3}, TypeError, "mask must be a string or None, got 3"),
        ({"mask": ""}, ValueError, "mask must not be empty; give None"),
        ({"name": 3}, TypeError, "name must be a string or None, got 3"),
        ({"labels": "ab"}, TypeError, "labels must be a list of strings"),
        ({"labels": ["a", "a"]}, ValueError, "labels must differ"),
        ({"labels": ["a", "b", "c"]}, ValueError, "labels must be 1, one for each class, got 3"),
    ],
)
def test_options_that_are_refused(options, error, fragment):
    with pytest.raises(error) as raised:
        explained(count, options=options)
    assert fragment in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "error", "fragment"),
    [
        ("", ValueError, "text must have at least one word, got ''"),
        (" \n\u200b", ValueError, "text must have at least one word"),
        (None, TypeError, "x must be one text, a string, where the model is a TextModel, got None"),
        ([TEXT], TypeError, "x must be one text, a string, where the model is a TextModel, got li"),
    ],
)
@pytest.mark.parametrize("split", ["auto", "sentences", "characters"])
def test_texts_that_are_refused(text, error, fragment, split):
    with pytest.raises(error) as raised:
        explained(count, text, options={"split": split})
    unit = {"auto": "word"}.get(split, split.removesuffix("s"))
    assert fragment.replace("one word", f"one {unit}") in str(raised.value)


# ---- what models return ----------------------------------------------------------------------


def as_dicts(labels=("bad", "good")):
    """As a pipeline of Hugging Face with top_k=None: the best label first."""

    def model(texts):
        rows = []
        for value in torch.tensor(count(texts)).sigmoid().tolist():
            rest = [(1 - value) / (len(labels) - 1)] * (len(labels) - 1)
            row = zip(labels, [*rest, value], strict=True)
            row = [{"label": label, "score": score} for label, score in row]
            rows.append(sorted(row, key=lambda one: -one["score"]))
        return rows

    return model


FORMS = {
    "a list": lambda p: p,
    "an array": np.array,
    "a tensor": torch.tensor,
    "columns": lambda p: [[1 - one, one] for one in p],
    "an array of columns": lambda p: np.stack([1 - np.array(p), p], 1).astype(np.float32),
    "dicts": lambda p: [
        [{"label": "good", "score": one}, {"label": "bad", "score": 1 - one}] for one in p
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_scores(form):
    def model(texts):
        return FORMS[form](torch.tensor(count(texts)).sigmoid().tolist())

    labels = None if form == "dicts" else ["bad", "good"]
    found = explained(model, target="good", options={"labels": labels}, n_samples=256)
    same = explained(lambda t: torch.tensor(count(t), dtype=torch.float64).sigmoid(), n_samples=256)
    assert found.label == "good"
    assert found.explanation.objective == "output"
    assert torch.allclose(found.scores, same.scores, atol=1e-6)


def test_labels_come_with_the_scores():
    found = explained(as_dicts(["LABEL_10", "LABEL_2", "LABEL_1"]), target="LABEL_1")
    assert found.explanation.target == 0  # in the order of their numbers, whatever the scores
    assert found.label == "LABEL_1"
    by_number = explained(as_dicts(["LABEL_10", "LABEL_2", "LABEL_1"]), target="2")
    assert by_number.label == "LABEL_10"
    best = explained(as_dicts())
    assert best.label == "good"


class Pipeline:
    """As a pipeline of Hugging Face knows its labels."""

    def __init__(self, names, model):
        self.model = type("Model", (), {"config": type("Config", (), {"id2label": names})})
        self.forward_all = model

    def __call__(self, texts):
        return self.forward_all(texts)


def test_labels_of_a_pipeline_keep_their_numbers():
    pipeline = Pipeline({1: "bad", 0: "good"}, as_dicts())
    assert explained(pipeline, target="good").explanation.target == 0
    single = Pipeline({0: "toxic"}, lambda texts: [{"label": "toxic", "score": 0.5 + 0.1 * len(t)}
                                                   for t in texts])  # fmt: skip
    found = explained(single, "of it")
    assert found.label == "toxic"
    assert found.scores.tolist() == pytest.approx([0.25, 0.25])


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one]])
def test_a_pipeline_of_the_best_label_alone(wrap):
    def model(texts):
        return [wrap(max(row, key=lambda one: one["score"])) for row in as_dicts()(texts)]

    for pipeline in (model, Pipeline({0: "bad", 1: "good"}, model)):
        with pytest.raises(ModelError, match="scores of all labels, got one alone, 'good': give a "
                                             "Hugging Face pipeline top_k=None"):  # fmt: skip
            explained(pipeline)


def of_rows(rows):
    return lambda texts: [rows] * len(texts)


@pytest.mark.parametrize(
    ("model", "fragment"),
    [
        (lambda texts: texts[0].nothing, "the model failed on the text: AttributeError: 'str' "),
        (lambda text: text.lower(), "AttributeError: 'list' object has no attribute 'lower'; it "
         "is called on a list of strings"),
        (lambda texts: None, "must return a tensor or an array, got NoneType"),
        (lambda texts: [1.0, 2.0], "the model returned shape (2,) for a batch of 1"),
        (lambda texts: torch.ones(1, 2, 3), "must return (batch, classes) or (batch,), got shape"),
        (lambda texts: [math.nan], "itself is nan: the model returned nan for the text; call it"),
        (lambda texts: ["good"], "names such as 'good': labels, which are no scores. Give its pre"),
        (lambda texts: ["a", "b"], "the model returned 2 strings for 1 texts"),
        (lambda texts: [3 for _ in texts], "integers of shape (1,): labels, which are no scores"),
        (lambda texts: {"label": "good", "score": 1.0}, "dict with the keys 'label', 'score'"),
        (of_rows([{"label": "good", "probability": 1.0}]), "must return dicts such as {'label': "),
        (of_rows([{"label": "good", "score": None}]), "must return dicts such as {'label': "),
        (lambda texts: [*of_rows([{"label": "good", "score": 1.0}])(texts)] * 2,
         "the model returned 2 lists of dicts for 1 texts"),
    ],
)  # fmt: skip
def test_output_of_no_use(model, fragment):
    with pytest.raises(ModelError) as raised:
        explained(model)
    assert fragment in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_labels_for_another_text():
    def at_times(texts):  # the best two of three
        best = as_dicts(["a", "b", "c"])(texts)
        return [row if text == TEXT else row[:2] for text, row in zip(texts, best, strict=True)]

    with pytest.raises(ModelError, match=r"of the same labels for each text, .*top_k=None"):
        explained(at_times)


def test_fewer_scores_than_texts():
    with pytest.raises(ModelError, match=r"returned shape \(1,\) for a batch of \d+") as raised:
        explained(lambda texts: count(texts[:1]), "fine film")
    assert "empty" not in str(raised.value)


def test_a_text_that_is_too_long_for_the_model():
    def model(texts):
        if any(len(text) > 20 for text in texts):
            raise IndexError("index out of range in self")
        return count(texts)

    with pytest.raises(ModelError) as raised:
        explained(model)
    assert str(raised.value) == (
        "the model failed on the text: IndexError: index out of range in self, and not on 'A'; if "
        "the text, of 21 characters, is too long for it, give a part of it, or let the model cut "
        "it (truncation=True of a Hugging Face pipeline)"
    )


def test_a_model_that_fails_on_an_empty_text():
    def model(texts):
        return [len(text) / len(text.split()) for text in texts]

    with pytest.raises(ModelError, match=r"it fails on an empty text.*ZeroDivisionError.*mask="):
        explained(model, "fine film")
    assert explained(model, "fine film", options={"mask": "_"}).scores.min() > 0


@pytest.mark.parametrize(
    ("model", "fragment"),
    [
        (3, "model must be callable on a list of strings, got int"),
        (Recorder, "model must be callable on a list of strings, got the class"),
        (make_pipeline(TfidfVectorizer(), LogisticRegression()), "must be fitted and have"),
        (make_pipeline(TfidfVectorizer(), Ridge()), "of a regressor give its predict"),
    ],
)
def test_models_that_are_refused(model, fragment):
    with pytest.raises(TypeError) as raised:
        TextModel(model)
    assert fragment in str(raised.value)


@pytest.mark.parametrize("value", [0.5, torch.tensor([0.5] * 6)])
def test_other_methods_are_refused(value):
    with pytest.raises(ModelError, match=r"must be 'auto', Regions\(0.0\) or Coalitions\(\)"):
        explained(count, method=ForwardGradient(scale=value))


# ---- targets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "target", "fragment"),
    [
        ({"labels": ["bad", "good"]}, "great", "'great' is no class of the model"),
        ({"labels": ["bad", "good"]}, "bad", "target must be 'good', got 'bad': the model returns"),
        ({}, "good", "target must be left out: the model returns one number for each text, got "
         "'good'; or name it: labels"),
    ],
)  # fmt: skip
def test_targets_that_are_refused(options, target, fragment):
    with pytest.raises(ValueError, match="target") as raised:
        explained(count, target=target, options=options)
    assert fragment in str(raised.value)


def test_the_model_may_answer_in_words():
    def model(texts):
        return ["good" if "fine" in text else "bad" for text in texts]

    found = explained(model, objective=KeptLabel("good"), n_samples=256)
    assert found.words[found.scores.argmax()] == "fine"
    assert found.scores.max() == pytest.approx(1)


# ---- pipelines -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentences():
    example = of_example()
    return [*example.GOOD, *example.BAD], ["good"] * 12 + ["bad"] * 12


def of_example():
    spec = importlib.util.spec_from_file_location("explain_sentence", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pipeline_of_scikit_learn(sentences, tmp_path):
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=10)).fit(*sentences)
    text = "A dull plot, but the cast is brilliant"
    file = tmp_path / "run.safetensors"
    found = explained(pipeline, text, "good", checkpoint=file)
    proba = pipeline.predict_proba([text])[0]
    assert found.explanation.score == pytest.approx(proba[list(pipeline.classes_).index("good")])
    assert found.words[found.scores.argmax()] == "brilliant"
    assert found.words[found.scores.argmin()] == "dull"
    other = make_pipeline(TfidfVectorizer(), LogisticRegression(C=9)).fit(*sentences)
    with pytest.raises(CheckpointError, match="model was one of digest"):
        explained(other, text, "good", checkpoint=file)


def test_a_pipeline_that_has_no_probabilities(sentences):
    pipeline = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(*sentences)
    found = explained(pipeline, "A dull film", "good")
    assert found.label == "good"
    assert found.explanation.score == pytest.approx(pipeline.decision_function(["A dull film"])[0])
    with pytest.raises(ValueError, match="target must be 'good', got 'bad'"):
        explained(pipeline, "A dull film", "bad")
    three = make_pipeline(TfidfVectorizer(), LinearSVC()).fit(["odd", "dull", "film"], [1, 2, 3])
    assert explained(three, "dull film", "2").explanation.target == 1  # a name before a number


def test_a_regressor_of_scikit_learn(sentences):
    texts, labels = sentences
    pipeline = make_pipeline(TfidfVectorizer(), Ridge()).fit(
        texts, [one == "good" for one in labels]
    )
    assert explained(pipeline.predict, "A dull film").scores.argmin() == 1


@pytest.mark.slow
def test_a_pipeline_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "film", "not", "dull", ","]
    own = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]", mask_token="[MASK]"
    )
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, pad_token_id=1,
        id2label={0: "negative", 1: "neutral", 2: "positive"},
        label2id={"negative": 0, "neutral": 1, "positive": 2}, initializer_range=1.0,
    )  # fmt: skip
    torch.manual_seed(0)
    module = transformers.BertForSequenceClassification(config).eval()

    def pipeline(**options):
        return transformers.pipeline(
            "text-classification", model=module, tokenizer=tokenizer, device="cpu", **options
        )

    text, file = "a fine film, not dull", tmp_path / "run.safetensors"
    found = explained(
        pipeline(top_k=None), text, "positive", options={"mask": "[MASK]"}, checkpoint=file
    )
    assert found.explanation.target == 2

    def direct(texts):
        tokens = tokenizer(texts, return_tensors="pt", padding=True)
        inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
        return module(**inputs).logits.softmax(1)

    own = explained(direct, text, 2, options={"mask": "[MASK]"})
    assert torch.allclose(found.scores, own.scores, atol=1e-5)
    for options in ({}, {"top_k": 1}):
        with pytest.raises(ModelError, match="top_k=None"):
            explained(pipeline(**options), text)
    with pytest.raises(ModelError, match=r"truncation=True") as raised:
        explained(pipeline(top_k=None), "fine " * 30)
    assert "\n" not in str(raised.value)
    with torch.no_grad():
        module.classifier.bias += 1e-6  # the same scores, but for a rounding
    with pytest.raises(CheckpointError, match="model was one of digest"):
        explained(
            pipeline(top_k=None), text, "positive", options={"mask": "[MASK]"}, checkpoint=file
        )


# ---- checkpoints -----------------------------------------------------------------------------


def test_a_checkpoint_of_another_text_is_refused(tmp_path):
    file = tmp_path / "run.safetensors"
    options = {"name": "one"}
    first = explained(count, checkpoint=file, options=options)
    model = Recorder()
    again = explained(model, checkpoint=file, options=options)
    assert torch.equal(first.scores, again.scores)
    assert sum(map(len, model.calls)) <= 33  # the text itself, and samples that tell the model
    for text, other, fragment in [
        ("A fine tale, not dull", {}, "text was 'A fine film, not dull', is 'A fine tale, not"),
        (TEXT, {"mask": "[MASK]"}, "mask was None, is '[MASK]'"),
        (TEXT, {"split": "characters"}, "spans was"),
        (TEXT, {"name": "two"}, "text_model was 'one', is 'two'"),
    ]:
        with pytest.raises(CheckpointError) as raised:
            explained(count, text, checkpoint=file, options={**options, **other})
        assert fragment in str(raised.value)


@pytest.mark.parametrize("text", [TEXT, TEXT + " nor long in any of its parts"])
def test_an_interrupted_run_goes_on(tmp_path, text):
    file = tmp_path / "run.safetensors"
    whole = explained(count, text, n_samples=256, batch_size=16)

    def stop(done, total):
        if done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explained(count, text, n_samples=256, batch_size=16, checkpoint=file, progress=stop)
    again = explained(count, text, n_samples=256, batch_size=32, checkpoint=file)
    assert torch.equal(again.scores, whole.scores)
    assert torch.equal(again.standard_errors, whole.standard_errors)


# ---- the command line and the example --------------------------------------------------------

OWN = """
import torch
from fwdgrad.adapters.strings import TextModel


def scores(texts):
    found = torch.tensor([[float("dull" in text), float("fine" in text)] for text in texts])
    return (3 * found).softmax(1)


model = TextModel(scores, labels=["bad", "good"], mask="[MASK]")
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("own_texts.py").write_text(OWN)
    Path("labels.txt").write_text("bad\ngood\n")
    yield tmp_path
    sys.modules.pop("own_texts", None)


def run(*options, text=TEXT, model="own_texts:scores"):
    line = ["explain", "--text", text, "--model", model, "--samples", "64", "--no-progress"]
    return cli.main([*line, *options])


def test_a_text_on_the_command_line(own, capsys):
    assert run("--labels", "labels.txt", "--target", "good", "--output", "out") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].startswith("A fine(+++) film")
    assert "class        good, probability 0.5" in out
    assert "meaning      How much the probability of good rises where a word is there" in out
    assert "method       coalitions (value banzhaf, baseline 0; auto: " in out
    assert "the words of a text are in or out)" in out
    assert {path.name for path in Path("out").iterdir()} == {
        "words.html",
        "explanation.safetensors",
    }
    saved = Explanation.load("out/explanation.safetensors")
    sys.modules.pop("own_texts")
    import own_texts

    again = explained(own_texts.scores, target=1)
    assert torch.equal(saved.attribution, again.explanation.attribution)
    assert saved.provenance["text"] == TEXT
    assert saved.provenance["model"] == "own_texts:scores"
    assert run("--labels", "labels.txt", "--target", "good", "--output", "out") == 0
    assert run("--target", "1", "--output", "out", text="A dull film") == 1
    assert "--output out has explanation.safetensors of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        (["--mask", "[MASK]"], "not replaced by [MASK]"),
        (["--split", "characters"], "a character is there"),
        (["--split", "sentences"], "of the sentences' scores"),
        (["--method", "regions"], "method       regions (baseline 0, "),
        (["--antithetic"], "antithetic yes"),
        (["--value", "shapley"], "method       coalitions (value shapley, "),
        (["--labels", "bad, good", "--target", "good"], "class        good, "),
        (["--model", "own_texts.py:scores"], "class        class 0, "),
    ],
)
def test_options_of_a_text(own, capsys, options, shown):
    assert run(*options) == 0
    assert shown in capsys.readouterr().out


def test_a_text_model_on_the_command_line(own, capsys):
    assert run("--target", "good", model="own_texts:model") == 0
    assert "not replaced by [MASK]" in capsys.readouterr().out
    assert run("--mask", "_", model="own_texts:model") == 1
    assert "--mask must be left out: own_texts:model is a TextModel" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--method", "gradient"], "--method must be auto, coalitions or regions for a model of s"),
        (["--scale", "1"], "--scale is no option of --method regions"),
        (["--cell", "8"], "--cell is of photos, and --text is given"),
        (["--answers", "a,b"], "--answers are for a language model"),
        (["--target", "good"], "--target must be a number where the classes have no names, got "
         "'good'; or name them: --labels"),
        (["--model", "own_texts:nothing"], "has no 'nothing'"),
        (["--model", "own_texts:number"], "model must be callable on a list of strings, got int"),
        (["--model", "nowhere:scores"], "--model 'nowhere:scores': No module named 'nowhere'; modu"
         "les are looked for in the current folder, too"),
        (["--model", "nowhere"], "nor is it package.module:callable"),
        (["--model", "own_texts.pkl:scores"], "No module named 'own_texts.pkl'"),
        (["--model", "smollm2", "--mask", "_"], "--mask is of a model of strings"),
        (["--text", ""], "text must have at least one word"),
        (["--labels", "nowhere.txt"], "--labels nowhere.txt cannot be read: No such file or "
         "directory; "
         "names have commas between them: bad,good"),
        (["--labels", "bad,,good"], "--labels bad,,good cannot be read"),
        (["--labels", "bad,good,best"], "labels must be 2, one for each class, got 3"),
        (["--model", "own_texts.py:nothing"], "has no 'nothing'"),
    ],
)  # fmt: skip
def test_what_is_refused_on_the_command_line(own, capsys, options, fragment):
    assert run(*options) == 1
    err = capsys.readouterr().err
    assert err.startswith("fwdgrad: error: ")
    assert fragment in err
    assert err.count("\n") == 1


def test_a_photo_has_no_words(own, capsys):
    assert cli.main(["explain", "photo.png", "--mask", "_"]) == 1
    assert "--mask is of --text" in capsys.readouterr().err


def test_the_example(monkeypatch, capsys, tmp_path):
    page = tmp_path / "words.html"
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--samples", "256", "--page", str(page)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of_example().main()
    out = capsys.readouterr().out
    assert "brilliant(" in out
    assert "silly(---)" in out
    meaning = "How much the probability of good rises where a word is there"
    assert meaning in page.read_text(encoding="utf-8")
