"""What is enough: the smallest part of an input that keeps its score, and that the class needs."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fwdgrad.adapters.picture_explanation import cut_of
from fwdgrad.adapters.prepared import Adapter, Prepared
from fwdgrad.checks import check_number
from fwdgrad.errors import ArgumentError, ArgumentTypeError, ModelError
from fwdgrad.explanation import Explanation
from fwdgrad.found import Evidence, lowering
from fwdgrad.inputs import is_of_pixels
from fwdgrad.meaning import is_change
from fwdgrad.methods import plan_again
from fwdgrad.methods.baseline import baseline_on, checked_baseline
from fwdgrad.methods.blur import light_blur
from fwdgrad.objectives import Objective, kind_of, objective_again, scores_of
from fwdgrad.outputs import floating, tensor_of
from fwdgrad.parts import Parts
from fwdgrad.plan import Plan
from fwdgrad.ranked import ranked
from fwdgrad.scorer import Scorer, check_mode
from fwdgrad.torch_state import TorchState
from fwdgrad_kernels import Labels

_FURTHER = 3  # sizes below the one that bisection finds that are tried, too


def evidence(
    model: Any,
    explanation: Any,
    keep: float = 0.9,
    *,
    x: Any = None,
    objective: Objective = "auto",
    baseline: Any = None,
) -> Evidence:
    """The smallest part of an input that keeps its score, and the one whose loss takes it away.

    Parts are taken in the map's order, the feature first that adds most: cells of a picture, words,
    columns. Two sizes are found by bisection, with about ten forward calls each:

    - enough: the part alone, all else replaced, keeps nine tenths of what the input raises the
      score by over the baseline; where the explained class is the predicted one it stays so, too.
    - missing: the input without the part is of another class. Where the score has no classes, or
      another class is predicted from the start, the score has lost nine tenths of that rise.

    Both are checked by calls, as is the next smaller size, which does not do. Where the score is
    not monotone, some sizes below are tried, but a smaller part may be left unseen; nor is any part
    out of the map's order. Where none does, it is None, and ``str`` says so.

    What is out is replaced as the explanation's method does: by its baseline, an absent or masked
    word, the background of a table. Methods without a baseline get a blur of pictures and 0 of all
    else; words of embeddings (``explain_text``) become zeros. Pixels of a picture that are features
    by themselves are joined to cells as ``Regions`` has them. A gradient orders a picture's cells
    by its size, and else by its product with what the input and its replacement differ by.

    Args:
        model: that was explained: what ``explain`` or ``explain_text`` was given.
        explanation: what that returned.
        keep: the share of the score's rise, above 0 and at most 1.
        x: what was explained, where the explanation does not have it: of a model adapter of
            several inputs the dict or the tuple of them; of one that was loaded from a file, a
            table's row.
        objective: what was explained, where it is a callable.
        baseline: what is out is replaced by, in place of the method's: a number, a tensor, "grey",
            "black", "white", or "blur".

    Returns:
        The two parts, their scores, and a sentence: ``str(found)``. Of words or columns whose score
        is below the baseline's, where no part can be enough, it names what lowers it most.

    Raises:
        TypeError, ValueError: naming the argument, what was given and what would do.
        ModelError: the model failed or returned something of no use.

    Example:
        >>> import torch, fwdgrad
        >>> from fwdgrad.adapters.strings import TextModel
        >>> def positive(texts):
        ...     return [2.0 * text.count("fine") - 3.0 * text.count("dull") for text in texts]
        >>> scores = lambda texts: torch.tensor([[0.0, value] for value in positive(texts)])
        >>> model = TextModel(scores, labels=["negative", "positive"])
        >>> words = fwdgrad.explain(model, "A fine film as fine as any", n_samples=64)
        >>> found = evidence(model, words)
        >>> print(found)
        2 of 7 words are enough for positive: fine, fine; without 2 (fine, fine) it is taken for \
negative
        >>> found.enough.tolist()
        [False, True, False, False, True, False, False]
    """
    keep = check_number("keep", keep)
    if not 0 < keep <= 1:
        raise ArgumentError("keep", f"must be above 0 and at most 1, got {keep:g}")
    asked = asked_of(model, explanation, x, baseline)
    e = asked.explanation
    if objective == "auto":
        objective = objective_again(e.objective, "the explanation is of")
    with TorchState(), torch.no_grad():
        return _Search(asked, objective, keep).found()


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is searched: the model, the input, its parts and what each adds by the map."""

    explanation: Explanation
    forward: Callable[[Tensor], Any]
    x: Tensor
    outside: float | Tensor  # what is where a part is out
    parts: Parts
    adds: Tensor  # float64 (K,); of parts from K on there is always all
    label: Callable[[int | None], str | None]
    shown: dict[str, Any]  # of ``Evidence``: how it is told
    photo: tuple[slice, slice] | None = None  # the rows and columns that a picture's shares are of

    def sample(self, is_in: Tensor) -> Tensor:
        """The input where parts are in, and what stands for it elsewhere."""
        rest = torch.ones(self.parts.count - len(is_in), dtype=torch.bool)
        mask = self.parts.mask(torch.cat([is_in, rest]).to(self.x.device))
        outside = torch.as_tensor(self.outside, dtype=self.x.dtype, device=self.x.device)
        return torch.lerp(outside.expand(self.x.shape), self.x, mask.to(self.x.dtype))


def asked_of(model: Any, explanation: Any, x: Any, baseline: Any) -> Asked:
    """What is to be searched, of whatever was explained."""
    e = explanation if isinstance(explanation, Explanation) else None
    e = getattr(explanation, "explanation", None) if e is None else e
    if not isinstance(e, Explanation):
        raise ArgumentTypeError(
            "explanation", f"must be what explain returned, got {type(explanation).__name__}"
        )
    if callable(getattr(model, "encode", None)):
        return _of_embeddings(model, explanation, e)
    prepared = _prepared(model, explanation, e, x)
    if prepared is not None and explanation is e:  # as it is where it was loaded from a file
        explanation = prepared.show(e)
    shown: dict[str, Any] = {"label": getattr(explanation, "label", e.provenance.get("label"))}
    if hasattr(explanation, "words"):
        shown |= {"names": explanation.words, "unit": explanation.unit}
    elif hasattr(explanation, "names"):
        shown |= {"names": explanation.names, "unit": "column"}
    forward = model if prepared is None else prepared.forward
    if not callable(forward):
        raise ArgumentTypeError("model", f"must be what was explained, got {type(model).__name__}")
    plan = plan_again(e)
    outside = _outside(plan, baseline)
    parts, adds = ranked(e, plan, outside)
    own = getattr(explanation, "cut", None)
    if own is not None:
        left, top, right, bottom = own.extent
        shown["extent"] = left, right, bottom, top
    if "names" not in shown:
        shown["unit"] = {3: "picture", 4: "volume"}.get(plan.x.dim(), "feature")
    return Asked(
        e, forward, plan.x, outside, parts, adds,
        _labeller(model, prepared, e), shown, _photo_in(e),
    )  # fmt: skip


def _photo_in(e: Explanation) -> tuple[slice, slice] | None:
    """Rows and columns of the input that are of a photo, and not beside a padded one."""
    if not e.provenance.get("picture"):
        return None
    cut = cut_of(e)
    (left, top), (wide, high) = cut.margins, cut.scaled
    return slice(top, top + high), slice(left, left + wide)


def _prepared(model: Any, explanation: Any, e: Explanation, x: Any) -> Prepared | None:
    """What an adapter makes of the input again; None where the model takes it as it is."""
    if not isinstance(model, Adapter):
        return None
    known = e.provenance.get("text")
    for name in ("text", "row"):
        known = getattr(explanation, name, known)
    if x is None and known is None:
        if callable(model):
            return None
        raise ArgumentError(
            "x", f"must be given: the explanation does not have what {type(model).__name__} takes"
        )
    return model.prepare(known if x is None else x)


def _of_embeddings(model: Any, explanation: Any, e: Explanation) -> Asked:
    """Of a text whose words are embeddings: one that is out is zeros."""
    if not hasattr(explanation, "words"):
        raise ArgumentTypeError(
            "explanation", f"must be what explain_text returned, got {type(explanation).__name__}"
        )
    encoded = model.encode(explanation.text)
    x, words = encoded.embeddings.detach(), len(explanation.words)
    of = torch.tensor(encoded.word_of, device=x.device)[:, None]
    parts = Parts(tuple(x.shape), Labels(torch.where(of < 0, words, of)))
    names = getattr(model, "labels", None)

    def label(target: int | None) -> str | None:
        return names[target] if names and target is not None else None

    shown = {"label": explanation.label, "names": explanation.words, "unit": explanation.unit}
    return Asked(e, encoded.forward, x, 0.0, parts, explanation.scores.double(), label, shown)


def _outside(plan: Plan, given: Any) -> float | Tensor:
    """What is where a part is out: the method's own, or what is given."""
    x = plan.x
    is_picture = x.dim() in (3, 4) and is_of_pixels(x)
    if given is not None:
        found = baseline_on(x, checked_baseline(given), light_blur)
    elif plan.baseline is not None:
        found = plan.baseline
    elif plan.path is not None:
        found = plan.path.start
    else:
        found = light_blur(x) if is_picture else 0.0
    if bool((x == found).all()):
        raise ArgumentError(
            "baseline", "must differ from x somewhere: nothing would be taken out; give 0.5, say"
        )
    return found


def _labeller(
    model: Any, prepared: Prepared | None, e: Explanation
) -> Callable[[int | None], str | None]:
    """A class's name, as the model or its adapter has it."""

    def label(target: int | None) -> str | None:
        if callable(getattr(model, "label", None)):
            found: str | None = model.label(target)
            return found
        if prepared is None or target is None:
            return None
        other = dataclasses.replace(e, target=target, provenance=dict(e.provenance))
        return getattr(prepared.show(other), "label", None)

    return label


class _Search:
    """Samples with the first parts of the map's order, alone or left out; each called once."""

    def __init__(self, asked: Asked, objective: Objective, keep: float) -> None:
        """Calls the model on the input and on what stands for all of it."""
        self.asked, self.keep, self.calls = asked, keep, 0
        self.count = len(asked.adds)
        self.order = asked.adds.argsort(descending=True, stable=True)
        self.outputs: Any = None
        e = asked.explanation
        with warnings.catch_warnings():  # of which the explanation's run has told
            warnings.simplefilter("ignore")
            check_mode(asked.forward)
            self.scorer = Scorer(self._called, asked.x, [e.target], objective)
        self.scorer.looks = False
        self.clean = self.scorer.clean[0]
        if abs(self.clean - e.score) > 0.05 * max(abs(self.clean), abs(e.score)) + 1e-6:
            raise ArgumentError(
                "model",
                f"must be the one that was explained: it scores the input {self.clean:.4g}, and "
                f"the explanation has {e.score:.4g}",
            )
        self.of_class = self._competes(objective)
        whole = (self.clean, self.outputs)
        # Of each set of parts that was called, its score and the model's output.
        self.seen: dict[tuple[bool, int], tuple[float, Any]] = {(True, self.count): whole}
        self.start = self._at(True, 0)[0]
        self.rise = self.clean - self.start

    def _called(self, batch: Tensor) -> Any:
        self.calls += 1
        self.outputs = self.asked.forward(batch)
        return self.outputs

    def _competes(self, objective: Objective) -> bool:
        """Whether the explained class is the predicted one, which another may replace."""
        if self.asked.explanation.target is None or callable(objective) or objective == "sigmoid":
            return False
        kinds = ("scores", "probabilities")
        predicted = self._predicted(self.outputs)
        return kind_of(self.outputs) in kinds and predicted == self.scorer.targets[0]

    @staticmethod
    def _predicted(outputs: Any) -> int:
        return int(floating(tensor_of(outputs, 1))[0].argmax())

    def _in(self, alone: bool, size: int) -> Tensor:
        """Which parts are in: the first so many of the order, or all but these."""
        is_in = torch.zeros(self.count, dtype=torch.bool)
        is_in[self.order[:size]] = True
        return is_in if alone else ~is_in

    def _at(self, alone: bool, size: int) -> tuple[float, Any]:
        """The score and the output of a sample."""
        if not alone and size in (0, self.count):  # nothing is out, or all is
            alone, size = True, self.count - size
        if (alone, size) not in self.seen:
            score = self.scorer(self.asked.sample(self._in(alone, size))[None])[0]
            value = float(score[0])
            if value != value:
                raise ModelError("the score of a part of the input is nan")
            self.seen[alone, size] = value, self.outputs
        return self.seen[alone, size]

    def _is_enough(self, size: int) -> bool:
        score, outputs = self._at(True, size)
        stays = not self.of_class or self._predicted(outputs) == self.scorer.targets[0]
        return stays and self.rise > 0 and score >= self.start + self.keep * self.rise

    def _is_missing(self, size: int) -> bool:
        score, outputs = self._at(False, size)
        if self.of_class:
            return self._predicted(outputs) != self.scorer.targets[0]
        return self.rise > 0 and score <= self.start + (1 - self.keep) * self.rise

    def _smallest(self, does: Callable[[int], bool]) -> int | None:
        """The smallest size that does, as far as bisection and a few more calls can tell."""
        most = int((self.asked.adds > 0).sum()) or self.count  # what increases it, by the map
        tops = dict.fromkeys((most, self.count, *(most * part // 8 for part in range(7, 0, -1))))
        high = next((size for size in tops if size and does(size)), None)
        if high is None:
            return None
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if does(middle) else (middle, high)
        step = 2
        while step <= min(_FURTHER, high - 1):
            step, high = (1, high - step) if does(high - step) else (step + 1, high)
        return high

    def _part(self, alone: bool, size: int | None) -> dict[str, Any]:
        """A part as ``Evidence`` has it: its mask, its share, and the score there."""
        if size is None:
            return {"mask": None, "count": None, "share": None, "score": None}
        mask, share = self._in(True, size), size / self.count
        if "names" not in self.asked.shown:
            mask = self.asked.parts.mask(mask.to(self.asked.x.device)) > 0.5
        if self.asked.shown["unit"] in ("picture", "volume"):
            photo = self.asked.photo
            share = float((mask if photo is None else mask[(..., *photo)]).double().mean())
        return {"mask": mask, "count": size, "share": share, "score": self._at(alone, size)[0]}

    def _lowers(self) -> tuple[tuple[int, float], ...]:
        asked = self.asked
        is_told = self.rise < 0 and "names" in asked.shown and is_change(asked.explanation)
        return lowering(asked.adds) if is_told else ()

    def found(self) -> Evidence:
        """Searches both parts."""
        enough = self._smallest(self._is_enough) if self.rise > 0 else None
        missing = self._smallest(self._is_missing) if self.of_class or self.rise > 0 else None
        instead, score = None, None
        if missing is not None and self.of_class:
            outputs = self._at(False, missing)[1]
            instead = self._predicted(outputs)
            score = float(scores_of(outputs, self.scorer.objective, instead, 1)[0])
        label, target = self.asked.label, self.asked.explanation.target
        shown = self.asked.shown
        if target is not None:
            shown = {**shown, "label": shown["label"] or label(target) or f"class {target}"}
        return Evidence(
            **{f"enough{_end(name)}": part for name, part in self._part(True, enough).items()},
            **{f"missing{_end(name)}": part for name, part in self._part(False, missing).items()},
            instead=instead,
            instead_label=None if instead is None else label(instead) or f"class {instead}",
            instead_score=score,
            target=target,
            score=self.clean,
            baseline_score=self.start,
            keep=self.keep,
            of_class=self.of_class,
            calls=self.calls,
            count=self.count,
            lowers=self._lowers(),
            **shown,
        )


def _end(name: str) -> str:
    return "" if name == "mask" else f"_{name}"
