"""Language models behind OpenAI-compatible completions: which words of a prompt raise an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fwdgrad.adapters.http import RequestModel, in_json
from fwdgrad.adapters.http_client import Client, Useless
from fwdgrad.adapters.prepared import Prepared
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.adapters.words import Spans, split_words
from fwdgrad.checks import check_integer
from fwdgrad.errors import ArgumentError, ArgumentTypeError
from fwdgrad.methods.in_or_out import InOrOut

if TYPE_CHECKING:
    import httpx2

_LEAST = -1e4  # what a logarithm of zero counts as


class Completions:
    """A language model behind ``/v1/completions``, for ``fwdgrad.explain``: vLLM, llama.cpp, ...

    ``explain(model, prompt)`` gives each word's part in the log-probability of an answer: how much
    it rises with the word, averaged over which others are there (the Banzhaf value; exact where
    2^words is at most n_samples). Servers
    differ in how they tell it: most echo the prompt with log-probabilities, and llama.cpp's own,
    which does not, is made to write the answer's tokens by a grammar.

    Args:
        url: of the interface, such as ``"http://localhost:8000/v1"``.
        model: its name there.
        answer: whose log-probability is explained, as it follows the prompt: mostly with a space
            before it. None: what the model itself answers.
        api_key_env: the variable of the environment with the server's key; None: it needs none.
        mask: what stands in place of a word that is out; None: the word is removed.
        template: what goes around the prompt, ``{prompt}``, as a chat model has it; not explained.
        length: tokens of the model's own answer at most.
        max_missing, **options: see ``HttpModel``; of a server of one request at a time give
            ``concurrency=1``.

    Raises:
        ImportError: httpx2 is not installed.
        TypeError, ValueError: naming the argument, what was given and what would do.

    Example:
        A model that likes " yes" after "sunny", made here of a function:

        >>> import fwdgrad, httpx2, json
        >>> def answer(request):
        ...     prompt = json.loads(request.content)["prompt"]
        ...     logs = [None, -0.5 if "sunny" in prompt else -2.5, -1.0]
        ...     found = {"tokens": [prompt[:-4], " yes", "."], "token_logprobs": logs}
        ...     return httpx2.Response(200, json={"choices": [{"text": "", "logprobs": found}]})
        >>> server = httpx2.MockTransport(answer)
        >>> model = Completions("http://model.test/v1", "m", answer=" yes", transport=server)
        >>> e = fwdgrad.explain(model, "Is it sunny today?", n_samples=32)
        >>> e.words, (e.scores.round() + 0.0).tolist()
        (('Is', 'it', 'sunny', 'today', '?'), [0.0, 0.0, 2.0, 0.0, 0.0])
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        answer: str | None = None,
        api_key_env: str | None = None,
        mask: str | None = None,
        template: str = "{prompt}",
        length: int = 16,
        max_missing: float = 0.1,
        **options: Any,
    ) -> None:
        """Checks the arguments; nothing is sent."""
        for name, text in (("answer", answer), ("mask", mask)):
            if not (text is None or isinstance(text, str)):
                raise ArgumentTypeError(name, f"must be a text or None, got {text!r}")
        if answer == "":
            raise ArgumentError("answer", "must not be empty; None is the model's own")
        if not isinstance(template, str) or template.count("{prompt}") != 1:
            raise ArgumentError("template", f"must have {{prompt}} in it once, got {template!r}")
        if api_key_env is not None:
            key = {"Authorization": f"Bearer ${{{api_key_env}}}"}
            options["headers_from"] = {**key, **(options.get("headers_from") or {})}
        # What llama.cpp has beside OpenAI's interface is not below /v1.
        root = url.rstrip("/").removesuffix("/v1") if isinstance(url, str) else url
        self.client = Client(root, **options)
        self.path = "/completions" if root == url.rstrip("/") else "/v1/completions"
        self.model, self.answer, self.mask, self.template = model, answer, mask, template
        self.length = check_integer("length", length, 1)
        self.max_missing = max_missing

    def __repr__(self) -> str:
        """Without query and key."""
        return f"Completions({self.client.shown!r}, {self.model!r})"

    def prepare(self, prompt: str) -> Prepared:
        """What is run for a prompt: its words are in or out.

        Raises:
            TypeError, ValueError: the prompt is no text, or has no words.
            ModelError: the server does not answer, or tells no log-probabilities.
        """
        spans = split_words(prompt)
        before, after = self.template.split("{prompt}")
        body = {
            "model": self.model,
            "prompt": before + prompt + after,
            "max_tokens": self.length if self.answer is None else 1,
            "temperature": 0,
            "logprobs": 1,
        }
        content, headers = in_json(body)
        own, echoes = self.client.send(_first, path=self.path, content=content, headers=headers)
        answer = own if self.answer is None else self.answer
        if not answer.strip():
            raise ArgumentError("answer", f"must be given: the model's own is {answer!r}")
        tokens = None if echoes else self._tokens(answer)
        texts = _Texts(prompt, spans, self.mask, before, after)
        forward = _Answer(self, texts, answer, tokens)

        def show(explanation: Any) -> TextExplanation:
            label = f"log-probability of {answer!r}"
            return TextExplanation.of_presence(explanation, prompt, spans, label, mask=self.mask)

        about = {
            "text": prompt,
            "words": [list(span) for span in spans],
            "answer": answer,
            "mask": self.mask,
            "template": self.template,
            "served_model": self.model,
        }
        x = torch.ones(len(spans))
        why = "the words of a prompt are in or out"
        return Prepared(x, forward, show, InOrOut(), why, about=about)

    def _tokens(self, answer: str) -> list[int]:
        """The numbers of an answer's tokens, of llama.cpp's server."""
        content, headers = in_json({"content": answer, "add_special": False})
        return self.client.send(
            lambda response: [int(token) for token in Client.json(response)["tokens"]],
            path="/tokenize",
            content=content,
            headers=headers,
        )


class _Texts:
    """The prompts with some words out."""

    def __init__(
        self, prompt: str, spans: Spans, mask: str | None, before: str, after: str
    ) -> None:
        self.prompt, self.spans, self.mask = prompt, spans, mask
        self.before, self.after = before, after

    def of(self, inside: Sequence[bool]) -> str:
        """The prompt with these words; one that is out takes the space before it along."""
        parts, last = [self.before, self.prompt[: self.spans[0][0]]], self.spans[0][0]
        started = False
        for (start, stop), is_in in zip(self.spans, inside, strict=True):
            word = self.prompt[start:stop] if is_in else self.mask
            if word is not None:
                parts += [self.prompt[last:start] if started else "", word]
                started = True
            last = stop
        # Servers refuse an empty prompt.
        return "".join([*parts, self.prompt[last:], self.after]) or " "


class _Answer(RequestModel):
    """The log-probability of an answer after a prompt whose words are in or out."""

    explained_as = "output"

    def __init__(
        self, model: Completions, texts: _Texts, answer: str, tokens: list[int] | None
    ) -> None:
        """Without ``tokens``, the answer's, the server is asked to echo."""
        super().__init__(model.client, batch_size=1, max_missing=model.max_missing)
        self.path, self.model, self.texts = model.path, model.model, texts
        self.answer, self.tokens = answer, tokens

    def encoded(self, samples: Tensor) -> tuple[bytes, dict[str, str]]:
        prompt = self.texts.of((samples[0] > 0.5).tolist())
        body = {"model": self.model, "temperature": 0, "logprobs": 1}
        if self.tokens is None:
            body |= {"prompt": prompt + self.answer, "echo": True, "max_tokens": 1}
        else:
            grammar = "root ::= " + " ".join(f"<[{token}]>" for token in self.tokens)
            body |= {"prompt": prompt, "grammar": grammar, "max_tokens": len(self.tokens)}
        return in_json(body)

    def decoded(self, response: httpx2.Response, samples: int) -> Any:
        found = Client.json(response)
        logs = found["choices"][0]["logprobs"]
        if self.tokens is None:
            values = self._echoed(found, logs)
        else:
            written = logs["content"][: len(self.tokens)]
            if [one["id"] for one in written] != self.tokens:
                raise Useless("wrote other tokens than the answer's; its llama.cpp may be too old")
            values = [one["logprob"] for one in written]
        return [sum(max(value, _LEAST) for value in values)]

    def _echoed(self, found: Any, logs: Any) -> list[float]:
        """Of the tokens that end a prompt and are its answer; the first may be of both."""
        written = (found.get("usage") or {}).get("completion_tokens", 1)
        values: list[float] = []
        covered, pairs = 0, list(zip(logs["tokens"], logs["token_logprobs"], strict=True))
        # From the end: a token that starts a text may have signs of its own.
        for token, value in reversed(pairs[: len(pairs) - written]):
            if covered >= len(self.answer):
                break
            if value is None:
                raise Useless("gave no log-probability for a token of the answer")
            covered += len(token)
            values.append(value)
        if covered < len(self.answer):
            raise Useless("gave no log-probabilities of the prompt, though it was asked to echo it")
        return values


def _first(response: httpx2.Response) -> tuple[str, bool]:
    """The model's own answer, and whether the server may echo prompts."""
    found = Client.json(response)
    try:
        choice = found["choices"][0]
        text, logs = choice["text"], choice["logprobs"]
        return str(text), "content" not in logs
    except (KeyError, IndexError, TypeError):
        raise Useless(
            "answered no completion with log-probabilities; give the url of a server of "
            "/v1/completions that tells them, such as vLLM's or llama.cpp's"
        ) from None
