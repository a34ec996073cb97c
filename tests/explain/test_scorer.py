"""What is explained by default, and that the output of every call has the form of the first."""

import functools
import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, ModelError, SmoothGrad, metrics
from fwdgrad.errors import Message
from fwdgrad.objectives import decide
from fwdgrad.scorer import Scorer

from .models import Recorder, X, assert_same_bits, exact, forward_gradient

PICTURE = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3))
OPTIONS = {"target": 1, "n_samples": 64, "scale": 0.3}
METHODS = {"forward-gradient": ForwardGradient(0.3), "smoothgrad": SmoothGrad(0.3)}


def corners(batch):
    """(batch, 2): the edges in the upper left and in the lower right corner."""
    edges = batch.mean(1).diff(dim=2).abs()
    return torch.stack([edges[:, :14, :14].mean((1, 2)), edges[:, 18:, 17:].mean((1, 2))], 1)


def labels(batch):
    """Of a label for each corner, which has nothing to do with the other."""
    return (20 * corners(batch) - torch.tensor([1.06, 3.0])).sigmoid()


def within(attribution, part):
    return float(attribution[:, :14, :14].sum() if part == 0 else attribution[:, 18:, 18:].sum())


def test_labels_are_explained_one_by_one():
    e = fwdgrad.explain(labels, PICTURE, target=0, n_samples=256)
    assert e.objective == "output"
    assert e.score == float(labels(PICTURE[None])[0, 0])
    assert e.score == pytest.approx(0.948, abs=0.02)  # whose share of a softmax is half
    assert within(e.attribution, 0) > 0.1
    # Where the label never looks; a softmax would find the other label there.
    assert abs(within(e.attribution, 1)) < 0.02 * within(e.attribution, 0)
    softmax = fwdgrad.explain(
        lambda batch: labels(batch).softmax(1), PICTURE, target=0, n_samples=256
    )
    assert abs(within(softmax.attribution, 1)) > 0.5 * within(softmax.attribution, 0)
    again = fwdgrad.explain(labels, e.input, **e.settings)
    assert_same_bits(e, again)


@pytest.mark.parametrize(
    ("row", "objective", "reason"),
    [
        ([0.2, 0.7, 0.1], "output", "sum to 1: they are probabilities, explained as they are"),
        ([0.9998, 0.0, 0.0], "output", "sum to 1: they are probabilities, explained as they are"),
        (
            [0.9, 0.8, 0.1],
            "output",
            "do not sum to 1: each is a label of its own, explained as it is",
        ),
        (
            [0.0, 0.0, 0.0],
            "output",
            "do not sum to 1: each is a label of its own, explained as it is",
        ),
        ([2.0, -1.0, 0.0], "probability", "they are logits, whose softmax is explained"),
        ([0.5, 0.5001, -0.0001], "probability", "they are logits, whose softmax is explained"),
        ([7.0], "output", "the model returns one number a sample, explained as it is"),
        ([0.5], "output", "the model returns one number a sample, explained as it is"),
    ],
)
@pytest.mark.parametrize("form", [torch.tensor, np.array, list], ids=["tensor", "array", "list"])
def test_auto(row, objective, reason, form):
    found, why = decide("auto", form([row]))
    assert found == objective
    assert reason in why
    scorer = Scorer(lambda batch: form([row] * len(batch)), X, ["auto"], "auto")
    expected = torch.tensor(row, dtype=torch.float64)
    if objective == "probability":
        expected = expected.softmax(0)
    assert scorer.clean == pytest.approx([float(expected.max())], abs=1e-6)


def test_what_was_decided_is_stored(tmp_path):
    e = fwdgrad.explain(labels, PICTURE, n_samples=16)
    assert e.provenance["objective"].startswith(
        "auto: the model's outputs at x lie in [0, 1] and do not"
    )
    e.save(tmp_path / "map.safetensors")
    assert fwdgrad.Explanation.load(tmp_path / "map.safetensors").provenance == e.provenance
    named = fwdgrad.explain(labels, PICTURE, n_samples=16, objective="output")
    assert "objective" not in named.provenance
    assert_same_bits(e, named)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_in_half_precision(dtype):
    rows = torch.randn(50, 100, generator=torch.Generator().manual_seed(0)).mul(3)
    for row in rows.softmax(1).to(dtype):
        assert decide("auto", row[None])[0] == "output"
    assert decide("auto", rows[:1].to(dtype))[0] == "probability"


def test_a_model_may_say_what_it_returns():
    def cosines(batch):
        return corners(batch) / 2 - 0.1

    assert fwdgrad.explain(cosines, PICTURE, n_samples=64).objective == "probability"
    cosines.explained_as = "output"
    e = fwdgrad.explain(cosines, PICTURE, n_samples=64)
    assert e.objective == "output"
    assert e.score == float(cosines(PICTURE[None]).max())


def test_the_default_of_one_number_is_that_number():
    e = fwdgrad.explain(lambda batch: 50 * corners(batch)[:, 0], PICTURE, n_samples=64)
    assert (e.objective, e.target) == ("output", None)
    assert e.score == float(50 * corners(PICTURE[None])[0, 0])


def test_sigmoid():
    e = forward_gradient(exact, X, objective="sigmoid", **OPTIONS)
    plain = forward_gradient(lambda batch: exact(batch).sigmoid(), X, **OPTIONS)
    assert_same_bits(e, plain)
    assert (e.objective, plain.objective) == ("sigmoid", "output")
    one = forward_gradient(
        lambda b: exact(b)[:, 1], X, target=None, objective="sigmoid", n_samples=64, scale=0.3
    )
    assert_same_bits(e, one)


def test_labels_that_are_none_are_told_of():
    # In [0, 1] at x by accident.
    def model(batch):
        return 0.5 + exact(batch) - exact(X[None])

    with pytest.warns(UserWarning, match=r"lies in \[0, 1\] at x and leaves it elsewhere") as found:
        e = forward_gradient(model, X, objective="auto", **OPTIONS)
    assert len(found) == 1
    assert e.objective == "output"
    forward_gradient(model, X, objective="output", **OPTIONS)  # is meant so


def test_a_softmax_of_labels_is_told_of():
    with pytest.warns(UserWarning, match=r"lies in \[0, 1\] at every input.*'output'") as found:
        forward_gradient(lambda b: exact(b).sigmoid(), X, objective="probability", **OPTIONS)
    assert len(found) == 1

    def accident(batch):  # in [0, 1] at x alone
        return 0.4 + exact(batch) - exact(X[None])

    forward_gradient(accident, X, objective="probability", **OPTIONS)


# ---- every call ----------------------------------------------------------------------------


def at_call(number, change):
    """A recorder whose model answers in another way at one call."""
    recorder = Recorder(
        lambda batch: change(exact(batch)) if len(recorder.asked) - 1 == number else exact(batch)
    )
    return recorder


CHANGES = {
    "fewer classes": (lambda found: found[:, :2], "returned 2 classes, and at .* 3 classes"),
    "more classes": (lambda found: found.repeat(1, 2), "returned 6 classes, and at .* 3 classes"),
    "one number": (lambda found: found[:, 0], "returned one number a sample, and at .* 3 classes"),
    "integers": (lambda found: found.int(), "returned integers, and at .* floating numbers"),
}


def run_of(method):
    """The same run by another method."""
    return {"target": 1, "n_samples": 64, "method": METHODS[method], "objective": "output"}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_changes_its_output(kind, method):
    change, message = CHANGES[kind]
    each = 8 if method == "forward-gradient" else 16
    numbers = f"samples {2 * each} .. {3 * each - 1}"
    with pytest.raises(ModelError, match=message) as caught:
        fwdgrad.explain(at_call(3, change), X, batch_size=16, **run_of(method))
    assert numbers in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metric", [metrics.deletion, metrics.insertion])
def test_metrics_hold_every_call_to_the_first(metric):
    options = {"start": X * 0} if metric is metrics.insertion else {}
    with pytest.raises(ModelError, match="returned 2 classes, and at the input itself 3 classes"):
        metric(at_call(2, CHANGES["fewer classes"][0]), X, X[0], 1, batch_size=8, **options)


def test_a_callable_objective_is_held_to_the_classes_too():
    margin = fwdgrad.Difference(0, 1)
    with pytest.raises(ModelError, match="returned 2 classes, and at the input itself 3 classes"):
        forward_gradient(
            at_call(2, CHANGES["fewer classes"][0]), X, objective=margin, n_samples=64, scale=0.3,
            batch_size=16,
        )  # fmt: skip

    def detections(batch):  # as many as it finds
        return torch.ones(len(batch), 1 + len(batch), 4) * exact(batch)[:, :1, None]

    e = forward_gradient(
        detections, X, objective=lambda found: found.mean((1, 2)), n_samples=64, scale=0.3,
        batch_size=16,
    )  # fmt: skip
    assert float(e.attribution.abs().max()) > 0


def test_an_objective_that_fails_in_the_middle():
    calls = []

    def objective(outputs):
        calls.append(1)
        if len(calls) == 3:
            raise LookupError("two\nlines")
        return outputs[:, 1]

    message = r"by the objective: LookupError: two lines .samples 8 \.\. 15."
    with pytest.raises(ModelError, match=message) as caught:
        forward_gradient(exact, X, objective=objective, n_samples=64, scale=0.3, batch_size=16)
    assert isinstance(caught.value.__cause__, LookupError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2)], ids=["Ctrl-C", "exit"])
def test_what_is_no_error_of_the_model_passes(error):
    recorder = Recorder(
        before=lambda r, _: (_ for _ in ()).throw(error) if len(r.asked) == 3 else 0
    )
    with pytest.raises(type(error)):
        forward_gradient(recorder, X, batch_size=16, **OPTIONS)


def test_memory_that_runs_out_in_the_middle_halves_the_batch():
    def small(recorder, batch):
        if len(batch) > 4:
            raise MemoryError

    e = forward_gradient(Recorder(before=small), X, batch_size=16, **OPTIONS)
    assert_same_bits(e, forward_gradient(exact, X, **OPTIONS))


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_one_input_at_a_time_is_told_how(method):
    run = run_of(method)

    def alone(batch):
        if len(batch) > 1:
            raise ValueError("expected one")
        return exact(batch)

    first = lambda batch: exact(batch[:1])  # noqa: E731
    for model in (alone, first):
        with pytest.raises(ModelError, match="one input at a time needs batch_size=1"):
            fwdgrad.explain(model, X, **run)
        e = fwdgrad.explain(model, X, batch_size=1, **run)
        assert_same_bits(e, fwdgrad.explain(exact, X, **run))

    def later(batch):  # it has taken as many before
        later.calls += 1
        if later.calls == 3:
            raise ValueError("the server is busy")
        return exact(batch)

    later.calls = -1
    with pytest.raises(ModelError, match="busy") as caught:
        fwdgrad.explain(later, X, batch_size=16, **run)
    assert "batch_size=1" not in str(caught.value)


@pytest.mark.parametrize("returned", ["nothing", "one row"])
def test_the_message_of_that_knows_the_option(returned):
    def model(batch):
        if len(batch) > 1 and returned == "nothing":
            raise ValueError("expected one")
        return exact(batch[:1])

    scorer = Scorer(model, X, [1], "output")
    with pytest.raises(ModelError) as caught:
        scorer(torch.stack([X, X]))
    spoken = Message(caught.value).spoken(lambda option: f"--{option.name} {option.value[0]}")
    assert spoken.endswith("needs --batch_size 1")


@pytest.mark.parametrize("form", [float, np.float32, torch.tensor, lambda one: [one], np.array])
def test_a_model_may_give_a_number_for_a_batch_of_one(form):
    model = lambda batch: form(float(exact(batch[:1])[0, 1]))  # noqa: E731
    options = {"n_samples": 64, "scale": 0.3}
    with pytest.raises(ModelError, match="one input at a time needs batch_size=1"):
        forward_gradient(model, X, target=None, **options)
    e = forward_gradient(model, X, target=None, batch_size=1, **options)
    whole = forward_gradient(exact, X, target=1, **options)
    torch.testing.assert_close(e.attribution, whole.attribution, rtol=1e-4, atol=1e-4)


def test_a_model_of_a_range_is_told_how_to_keep_in_it():
    model = lambda batch: exact(batch.log())  # noqa: E731
    x = X.abs() + 0.1
    with pytest.raises(ModelError, match=r"nan .*clip=\(0\.1\S*, 1\.1\)"):
        forward_gradient(model, x, **OPTIONS)
    low, high = float(x.min()), float(x.max())
    assert forward_gradient(model, x, clip=(low, high), **OPTIONS).attribution.isfinite().all()


# ---- outputs of all kinds ------------------------------------------------------------------


class Output(dict):
    """As of transformers: its keys are attributes."""

    __getattr__ = dict.__getitem__


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda f: {"loss": 1.0, "logits": f}, r"model\(batch\)\['logits'\]"),
        (lambda f: {0: f}, r"model\(batch\)\[0\]"),
        (lambda f: Output(logits=f), r"lambda batch: model\(batch\)\.logits"),
        (lambda f: (f, f), r"lambda batch: model\(batch\)\[0\]"),
        (lambda f: list(f), r"lambda batch: torch\.stack\(model\(batch\)\)"),
        (lambda f: (row for row in f), "got generator; return a list"),
        (lambda f: f.to("meta"), "without values, as on the meta device"),
        (lambda f: torch.nested.nested_tensor([f[0]], layout=torch.jagged), "nested tensor"),
        (lambda f: [None], "got list"),
        (lambda f: np.zeros(1, "datetime64[s]"), "datetime64"),
        (lambda f: torch.distributions.Categorical(logits=f), r"model\(batch\)\.logits"),
    ],
)
def test_the_hint_fits_the_output(answer, message):
    with pytest.raises(ModelError, match=message) as caught:
        forward_gradient(lambda batch: answer(exact(batch)), X, **OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.to_sparse,
        torch.Tensor.tolist,
        lambda f: tuple(map(tuple, f.tolist())),
        lambda f: list(f.numpy()),
        lambda f: f.numpy().astype(">f8"),
        lambda f: np.asfortranarray(f.numpy()),
        lambda f: f.numpy()[::-1].copy()[::-1],
        lambda f: f.numpy().astype(np.longdouble),
        lambda f: np.array(f.tolist(), dtype=object),
        lambda f: np.ma.masked_array(f.numpy()),
        lambda f: torch._neg_view(-f),
    ],
)
def test_outputs_of_any_layout(form):
    e = forward_gradient(lambda batch: form(exact(batch)), X, **OPTIONS)
    assert_same_bits(e, forward_gradient(exact, X, **OPTIONS))


@pytest.mark.filterwarnings("ignore")  # torch is to give them up
def test_quantized_outputs():
    def quantized(batch):
        return torch.quantize_per_tensor(exact(batch).float(), 0.25, 0, torch.qint8)

    e = forward_gradient(quantized, X, **OPTIONS)
    assert_same_bits(e, forward_gradient(lambda b: quantized(b).dequantize(), X, **OPTIONS))


def test_pandas():
    pandas = pytest.importorskip("pandas")
    right = forward_gradient(exact, X, **OPTIONS)
    index = [f"row {i}" for i in range(256)]

    def frame(batch):
        return pandas.DataFrame(exact(batch).numpy(), index=index[: len(batch)])

    assert_same_bits(forward_gradient(frame, X, **OPTIONS), right)
    series = lambda batch: frame(batch)[1]  # noqa: E731
    assert_same_bits(forward_gradient(series, X, **{**OPTIONS, "target": None}), right)
    names = lambda batch: pandas.Series(["cat"] * len(batch), index=index[: len(batch)])  # noqa: E731
    with pytest.raises(ModelError, match="names such as 'cat': labels"):
        forward_gradient(names, X, **OPTIONS)


def test_sparse_matrices_of_scipy():
    sparse = pytest.importorskip("scipy.sparse")
    e = forward_gradient(lambda batch: sparse.csr_matrix(exact(batch).numpy()), X, **OPTIONS)
    assert_same_bits(e, forward_gradient(exact, X, **OPTIONS))


def test_lists_keep_their_digits():
    tiny = lambda batch: (exact(batch) * 1e-60).tolist()  # noqa: E731
    e = forward_gradient(tiny, X.double(), **OPTIONS)
    right = forward_gradient(exact, X.double(), **OPTIONS)
    torch.testing.assert_close(e.attribution * 1e60, right.attribution, rtol=1e-12, atol=0)


# ---- models in training mode ---------------------------------------------------------------


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(2)

    def forward(self, batch):
        return self.norm(batch.float()).mean((2, 3))

    predict = forward


@pytest.mark.parametrize("form", ["module", "method", "partial", "scripted"])
def test_batch_normalisation_is_found_through(form):
    module = Classifier()
    model = {
        "module": module,
        "method": module.predict,
        "partial": functools.partial(module.predict),
        "scripted": None,
    }[form]
    if model is None:
        layers = [torch.nn.BatchNorm2d(2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        module = torch.nn.Sequential(*layers)
        model = torch.jit.trace(module, X[None])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    heatmap = X[0]
    for call in (
        lambda: forward_gradient(model, X, **{**OPTIONS, "target": 0}),
        lambda: metrics.deletion(model, X, heatmap),
        lambda: metrics.insertion(model, X, heatmap, start=X * 0),
        lambda: metrics.information_curve(model, PICTURE[:1], PICTURE[0]),
    ):
        with pytest.raises(ValueError, match=re.escape("call model.eval() first")):
            call()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    if form == "module":
        for metric in (metrics.consistency, metrics.invariance):
            with pytest.raises(ValueError, match=re.escape("call model.eval() first")):
                metric(lambda model, x: model(x[None])[0], model, X)
        assert torch.equal(module.norm.running_mean, before["norm.running_mean"])


def test_a_frozen_normalisation_is_none_in_training():
    class Frozen(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))

        def forward(self, batch):
            return exact(batch)

    with pytest.warns(UserWarning, match="training mode"):
        e = forward_gradient(Frozen(), X, **OPTIONS)
    assert_same_bits(e, forward_gradient(exact, X, **OPTIONS))


def test_scores_at_the_input():
    scorer = Scorer(exact, X, [0, 2], "logit")
    assert scorer.clean == [float(exact(X[None])[0, t]) for t in (0, 2)]
    assert [s.tolist() for s in scorer(torch.stack([X, X * 0]))] == [
        exact(torch.stack([X, X * 0]))[:, t].tolist() for t in (0, 2)
    ]
