"""Word pieces of a tiny transformer of random weights: merged to words, their ends frozen."""

import math

import pytest
import torch

from fwdgrad.adapters.minilm import MiniLMClassifier
from fwdgrad.adapters.text import explain_text

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("a", "film", "fine", "##ly", "un", "##for", "##get", "##table", "isn", "'", "t", "!")
VOCABULARY = (*SPECIAL, *PIECES, "cafe", "sep", "[", "]")
TEXT = "A unforgettable film isn't finely!"


@pytest.fixture(scope="module")
def parts():
    torch.manual_seed(0)
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    backend.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    return {"encoder": transformers.BertModel(config).eval(), "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def model(parts):
    torch.manual_seed(1)
    return MiniLMClassifier(["bad", "good"], **parts, longest=20)


def test_pieces_belong_to_words_and_the_ends_to_none(model):
    encoded = model.encode(TEXT)
    assert encoded.words == ("A", "unforgettable", "film", "isn't", "finely", "!")
    assert encoded.word_of == (-1, 0, 1, 1, 1, 1, 2, 3, 3, 3, 4, 4, 5, -1)
    assert encoded.embeddings.shape == (14, 8)
    assert not encoded.embeddings.requires_grad


def test_unknown_words_are_words_and_signs_that_are_not_read_are_none(model):
    encoded = model.encode("zebra \ufffdfilm cafe\u0301 [SEP]")
    assert encoded.words == ("zebra", "film", "cafe\u0301", "[", "SEP", "]")
    assert encoded.word_of == (-1, 0, 1, 2, 3, 4, 5, -1)
    separator = model.encode("film").embeddings[-1]  # may not come in by the text's own words
    assert (encoded.embeddings == separator).all(1).tolist() == [False] * 7 + [True]
    with pytest.raises(ValueError, match="text must have at least one word that minilm reads"):
        model.encode("\ufffd")


def test_what_the_adapter_computes_is_what_the_encoder_does(model):
    encoded = model.encode(TEXT)
    read = model.tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        states = model.encoder(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"]
        ).last_hidden_state
        wanted = model.head(torch.nn.functional.normalize(states.mean(1), dim=1))
        got = encoded.forward(encoded.embeddings.expand(3, -1, -1))
    torch.testing.assert_close(got, wanted.expand(3, -1))


@pytest.mark.parametrize("shared", [False, True])
def test_scores_are_gradient_times_embedding(model, shared):
    encoded = model.encode(TEXT)
    x = encoded.embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x[None])[0, 1], x)
    tokens = (gradient * x.detach()).sum(1)
    wanted = torch.zeros(6).index_add_(0, torch.tensor(encoded.word_of[1:-1]), tokens[1:-1])
    options = {"share_channels": shared, "scale": 0.05 if shared else 0.001}  # of about 0.02
    result = explain_text(model, TEXT, "good", objective="output", n_samples=8192, **options)
    assert ((result.scores - wanted) / result.standard_errors).abs().max() < 3.5
    assert result.reliability > 0.5
    assert (result.explanation.attribution[[0, -1]] == 0).all()


def test_saved_and_loaded(model, parts, tmp_path):
    path = tmp_path / "head.safetensors"
    model.save(path)
    loaded = MiniLMClassifier.load(path, **parts)
    assert (loaded.labels, loaded.longest, loaded.training) == (model.labels, model.longest, False)
    x = model.encode(TEXT).embeddings[None]
    assert torch.equal(loaded(x), model(x))
    path.write_bytes(b"no head")
    with pytest.raises(ValueError, match=r"head\.safetensors is no MiniLMClassifier, or damaged"):
        MiniLMClassifier.load(path, **parts)


@pytest.mark.parametrize(
    ("error", "text", "message"),
    [
        (TypeError, torch.tensor([2, 3]), r"text must be a string, got a tensor of torch\.int64"),
        (ValueError, " ", "text must have at least one word, got ' '"),
        (ValueError, "film " * 19, "text must have at most 20 word pieces, got 21"),
        (ValueError, "film " * 999, "text must have at most 20 word pieces, got 1001"),
    ],
)
def test_bad_input(model, error, text, message):
    with pytest.raises(error, match=message) as caught:
        explain_text(model, text, n_samples=math.inf)
    assert "\n" not in str(caught.value)
