"""Adapters for image-text models: a caption's score is its cosine with the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.images import ImageClassifier, efficientnet_lite0
from fwdgrad.adapters.minilm import minilm, sentence_vectors
from fwdgrad.names import split_names
from fwdgrad.torch_state import TorchState

# What OpenAI's CLIP models, and most after them, were trained on.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_CLASSES = 10  # the likeliest ones of a picture, whose names make its vector in ConSE


class ImageText(torch.nn.Module):
    """A model of pictures that scores how well each of some captions fits.

    It takes pictures (batch, 3, size, size) in [0, 1] and returns cosines (batch, captions): so
    ``fwdgrad.explain(model, photo, target=0)`` explains the cosine of the first caption.

    Args:
        encode_image: from pictures, as the model was trained on them, to vectors (batch, E).
        vectors: of the captions, (captions, E).
        captions: the texts.
        size: of the pictures.
        mean, std: of the pictures that the model was trained on, a number for each colour: pixels
            come to it as (pixel - mean) / std. None: as they are.
        name: of the model.

    Attributes:
        explained_as: what ``objective="auto"`` means for it: "output", the cosine itself.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        >>> def mean_colour(pictures):
        ...     return pictures.mean((2, 3))
        >>> model = ImageText(mean_colour, torch.eye(3), ["red", "green", "blue"], 8)
        >>> model(torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 8, 8))
        tensor([[1., 0., 0.]])

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 4.4.
    """

    explained_as = "output"

    def __init__(
        self,
        encode_image: Callable[[Tensor], Tensor],
        vectors: Tensor,
        captions: Sequence[str],
        size: int,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        name: str = "image-text model",
    ) -> None:
        """Checks each argument; the model is in evaluation mode."""
        super().__init__()
        if not callable(encode_image):
            raise TypeError(f"encode_image must be callable, got {type(encode_image).__name__}")
        self.labels = check_captions(captions)
        if vectors.dim() != 2 or len(vectors) != len(self.labels):
            raise ValueError(
                f"vectors must be (captions, E) with a row for each of {len(self.labels)} "
                f"captions, got shape {tuple(vectors.shape)}"
            )
        self.encode_image, self.size, self.name = encode_image, size, name
        self.vectors = torch.nn.functional.normalize(vectors.detach().float(), dim=1)
        self.scaling = None
        if mean is not None or std is not None:
            rows = [torch.tensor(mean or (0.0,) * 3), torch.tensor(std or (1.0,) * 3)]
            self.scaling = torch.stack(rows)[:, None, :, None, None]
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures (batch, 3, size, size) in [0, 1] to cosines (batch, captions)."""
        shape = (3, self.size, self.size)
        if pictures.dim() != 4 or tuple(pictures.shape[1:]) != shape:
            raise ValueError(
                f"pictures must be (batch, 3, {self.size}, {self.size}), got "
                f"{tuple(pictures.shape)}"
            )
        if not pictures.is_floating_point():
            raise TypeError(f"pictures must be floating, in [0, 1], got {pictures.dtype}")
        if self.scaling is not None:
            mean, std = self.scaling.to(pictures)
            pictures = (pictures - mean) / std
        found = self.encode_image(pictures)
        vectors = torch.nn.functional.normalize(found.float(), dim=1)
        cosines: Tensor = vectors @ self.vectors.to(vectors.device).T
        return cosines

    @classmethod
    def from_open_clip(cls, model: Any, tokenizer: Any, captions: Sequence[str]) -> ImageText:
        """From a model of open_clip, as ``open_clip.create_model_and_transforms`` returns it.

        Args:
            model: with ``encode_image`` and ``encode_text``.
            tokenizer: of the model, from ``open_clip.get_tokenizer``.
            captions: the texts.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        for method in ("encode_image", "encode_text", "visual"):
            if not hasattr(model, method):
                raise TypeError(
                    f"model must be one of open_clip, with {method}, got {type(model).__name__}"
                )
        texts = list(check_captions(captions))
        most: Any = getattr(tokenizer, "context_length", None)
        for text in texts if hasattr(tokenizer, "encode") and most else ():
            count = len(tokenizer.encode(text)) + 2  # with the tokens at both ends
            _check_length(text, count, most)
        about = getattr(model.visual, "preprocess_cfg", None) or {}
        size = about.get("size") or model.visual.image_size
        side = size if isinstance(size, int) else size[-1]
        device = next(model.parameters()).device
        model.eval()
        with TorchState(), torch.no_grad():
            vectors = model.encode_text(tokenizer(texts).to(device))
        mean = about.get("mean") or getattr(model.visual, "image_mean", None) or MEAN
        std = about.get("std") or getattr(model.visual, "image_std", None) or STD
        adapter = cls(
            model.encode_image, vectors, texts, side, mean=mean, std=std, name="open_clip"
        )
        adapter.model = model  # registered, so that its parameters are the adapter's
        return adapter

    @classmethod
    def from_transformers(cls, model: Any, processor: Any, captions: Sequence[str]) -> ImageText:
        """From a CLIP model of transformers.

        Args:
            model: with ``get_image_features`` and ``get_text_features``.
            processor: its processor, or its tokenizer alone: pictures are then scaled as for
                OpenAI's models.
            captions: the texts.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        for method in ("get_image_features", "get_text_features"):
            if not callable(getattr(model, method, None)):
                raise TypeError(
                    f"model must be a CLIP of transformers, with {method}, got "
                    f"{type(model).__name__}"
                )
        texts = list(check_captions(captions))
        tokenizer = getattr(processor, "tokenizer", processor)
        pictures = getattr(processor, "image_processor", None)
        read = tokenizer(texts, padding=True, return_tensors="pt", verbose=False)
        most = model.config.text_config.max_position_embeddings
        for text, mask in zip(texts, read["attention_mask"], strict=True):
            _check_length(text, int(mask.sum()), most)
        model.eval()
        with TorchState(), torch.no_grad():
            vectors = _features(
                model.get_text_features(
                    input_ids=read["input_ids"].to(model.device),
                    attention_mask=read["attention_mask"].to(model.device),
                )
            )
        adapter = cls(
            lambda batch: _features(model.get_image_features(pixel_values=batch)),
            vectors,
            texts,
            model.config.vision_config.image_size,
            mean=getattr(pictures, "image_mean", MEAN),
            std=getattr(pictures, "image_std", STD),
            name="CLIP of transformers",
        )
        adapter.model = model  # registered, so that its parameters are the adapter's
        return adapter

    @classmethod
    def conse(
        cls,
        captions: Sequence[str],
        *,
        classifier: ImageClassifier | None = None,
        encoder: Any = None,
        tokenizer: Any = None,
    ) -> ImageText:
        """ConSE: an image-text model from an image classifier and a sentence encoder.

        A picture's vector is the mean of the vectors of the names of its ten likeliest classes,
        weighted by their probabilities.

        Args:
            captions: the texts.
            classifier: with its classes' names; default: EfficientNet-Lite0.
            encoder: a transformer of sentences; default: MiniLM.
            tokenizer: of the encoder.

        Raises:
            ImportError: the default classifier or encoder is not installed.

        Source: Norouzi et al., *Zero-shot learning by convex combination of semantic embeddings*,
        ICLR 2014, equation 3.
        """
        texts = check_captions(captions)
        if encoder is None or tokenizer is None:
            encoder, tokenizer = minilm()
        classifier = efficientnet_lite0() if classifier is None else classifier
        if classifier.labels is None:
            raise ValueError(f"classifier must have labels, and {classifier.name} has none")
        names = [(split_names(label) or [label])[0] for label in classifier.labels]
        vectors = sentence_vectors(encoder, tokenizer, texts)
        encode = _ConSE(classifier.forward, sentence_vectors(encoder, tokenizer, names))
        return cls(encode, vectors, texts, classifier.size, name="ConSE")


class _ConSE(torch.nn.Module):
    """Pictures to the weighted means of the vectors of their likeliest classes."""

    def __init__(self, classifier: Callable[[Tensor], Any], names: Tensor) -> None:
        super().__init__()
        self.classifier, self.names = classifier, names
        self.eval()

    def forward(self, pictures: Tensor) -> Tensor:
        probabilities = self.classifier(pictures).float().softmax(1)
        top, which = probabilities.topk(min(_CLASSES, probabilities.shape[1]), dim=1)
        weights = top / top.sum(1, keepdim=True)
        vectors: Tensor = (weights[..., None] * self.names.to(top.device)[which]).sum(1)
        return vectors


def check_captions(captions: Any) -> tuple[str, ...]:
    """Captions as a tuple: one or more different strings.

    >>> check_captions(["a cat", "a cat"])
    Traceback (most recent call last):
    ValueError: captions must differ, got 'a cat' twice
    """
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        raise TypeError(f"captions must be a list of strings, got {captions!r}")
    if not captions:
        raise ValueError("captions must be one or more, got none")
    for i, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise TypeError(f"captions must be strings, got {caption!r}")
        if not caption.strip():
            raise ValueError(f"captions must not be empty, got {caption!r} at place {i}")
        if caption in captions[:i]:
            raise ValueError(f"captions must differ, got {caption!r} twice")
    return tuple(captions)


def _check_length(text: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"captions must have at most {most} tokens, got {count} in {text[:40]!r}")


def _features(output: Any) -> Tensor:
    """The vectors in an output: transformers 5 returns them as a field of it."""
    found: Tensor = getattr(output, "pooler_output", output)
    return found
