"""Models of several inputs: one is explained, and the others go along for every sample."""

import re

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, Regions
from fwdgrad.adapters.inputs_along import WithInputs
from fwdgrad.adapters.pictures import ImageModel

X = torch.linspace(-1, 1, 6)
IDS = torch.tensor([[3, 1, 2]])
WEIGHTS = torch.tensor([[0.0, 1.0, -1.0, 2.0, 0.0, 0.5]])
HADAMARD = {"method": ForwardGradient(design="hadamard"), "n_samples": 64, "objective": "output"}


def product(x, weights):
    assert x.shape == weights.shape
    return (x * weights).sum(1)


def near(found):
    torch.testing.assert_close(found.attribution, WEIGHTS[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "x"),
    {
        "a tuple": (WithInputs(product), (X, WEIGHTS)),
        "a list": (WithInputs(product), [X, WEIGHTS]),
        "the second of a tuple": (WithInputs(lambda w, x: product(x, w), 1), (WEIGHTS, X)),
        "a dict": (WithInputs(product, "x"), {"weights": WEIGHTS, "x": X}),
        "as in Captum": (WithInputs(product, others=(WEIGHTS,)), X),
        "others by name": (WithInputs(product, others={"weights": WEIGHTS}), X),
        "the second, others before": (
            WithInputs(lambda w, x: product(x, w), 1, others=[WEIGHTS]), X
        ),
        "said in part": (
            WithInputs(lambda x, weights, factor: factor * product(x, weights), "x",
                       others={"factor": 1.0}),
            {"x": X, "weights": WEIGHTS},
        ),
        "a batch of one": (WithInputs(product, "x"), {"x": X[None], "weights": WEIGHTS}),
        "arrays": (
            WithInputs(lambda x, weights: product(x, torch.tensor(weights))),
            (X, WEIGHTS.numpy()),
        ),
        "a model of a dict": (
            WithInputs(lambda **inputs: product(inputs["x"], inputs["weights"]), "x"),
            {"x": X, "weights": WEIGHTS},
        ),
    }.values(),
)  # fmt: skip
def test_what_is_explained_is_said_and_the_rest_goes_along(adapter, x):
    near(fwdgrad.explain(adapter, x, **HADAMARD))


def test_others_are_repeated_without_a_copy_and_the_rest_is_as_it_is():
    seen = {}

    def model(x, **others):
        seen.update(others)
        return x.sum(1)

    others = {"ids": IDS, "mask": None, "name": "cat", "factor": torch.tensor(2.0), "rows": [1, 2]}
    model_of = WithInputs(model, others={**others, "array": np.ones((1, 4))})
    model_of(torch.ones(5, 6))
    assert seen["ids"].shape == (5, 3)
    assert seen["ids"].data_ptr() == IDS.data_ptr()
    assert seen["array"].shape == (5, 4)
    assert all(seen[name] is others[name] for name in ("mask", "name", "rows"))
    assert seen["factor"] == 2


class Words(torch.nn.Module):
    """A picture and token numbers, as CLIP has them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(5, 3)
        self.labels = ("a cat", "a dog")

    def find(self, name):
        return self.labels.index(name)

    def forward(self, pixel_values, input_ids):
        colours = pixel_values.mean((2, 3)) - 0.5
        return torch.stack([(colours * self.table(input_ids[:, i])).sum(1) for i in (0, 1)], 1)


def test_a_module_by_names_of_its_inputs_and_classes():
    model = Words().eval()
    x = torch.rand(3, 16, 16)
    inputs = {"pixel_values": x, "input_ids": IDS}
    adapter = WithInputs(model, "pixel_values")
    e = fwdgrad.explain(adapter, inputs, "a dog", method="gradient", objective="output")
    want = model.table(IDS[0, 1])[:, None, None].expand(3, 16, 16) / 256
    torch.testing.assert_close(e.attribution, want.detach())
    assert e.target == 1
    assert isinstance(fwdgrad.explain(adapter, inputs, n_samples=64).method, Regions)
    with pytest.warns(UserWarning, match="training mode"):
        fwdgrad.explain(WithInputs(Words(), "pixel_values"), inputs, n_samples=64)


def test_a_photo_goes_with_other_inputs():
    model = ImageModel(WithInputs(Words().eval(), "pixel_values", {"input_ids": IDS}), size=16)
    e = fwdgrad.explain(model, np.full((20, 30, 3), 200, np.uint8), 0, method=Regions("black"),
                        n_samples=64)  # fmt: skip
    assert e.heatmap().shape == (20, 30)


def test_a_checkpoint_is_of_all_inputs(tmp_path):
    options = {**HADAMARD, "checkpoint": tmp_path / "c.safetensors"}
    e = fwdgrad.explain(WithInputs(product), (X, WEIGHTS), **options)
    again = fwdgrad.explain(WithInputs(product), (X, WEIGHTS), **options)
    assert torch.equal(e.attribution, again.attribution)
    with pytest.raises(fwdgrad.CheckpointError, match="others"):
        fwdgrad.explain(WithInputs(product), (X, WEIGHTS + 1), **options)
    e.save(tmp_path / "e.safetensors")
    assert fwdgrad.Explanation.load(tmp_path / "e.safetensors").provenance["others"]["1"]


BAD = [
    (lambda: WithInputs(product).prepare((X, WEIGHTS[0])),
     "others must be of a batch of one, with a first axis of 1, got shape (6,) for the one at "
     "place 1: give it as value[None]"),
    (lambda: WithInputs(product, others={"ids": IDS.expand(4, 3)}), "got shape (4, 3) for the one "
     "'ids'"),
    (lambda: WithInputs(product, "image").prepare({"x": X}),
     "explained must be one of 'x', got 'image'"),
    (lambda: WithInputs(product, 2).prepare((X, WEIGHTS)), "explained must be one of 0, 1, got 2"),
    (lambda: WithInputs(product, 2, others=(WEIGHTS,)).prepare(X), "0 .. 1, got 2"),
    (lambda: WithInputs(product, -1, others=(WEIGHTS,)).prepare(X), "0 .. 1, got -1"),
    (lambda: WithInputs(product, "x", others={"x": X}), "others must not have 'x', which is expl"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "said"), BAD)
def test_what_will_not_do(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()


def test_types_that_will_not_do():
    with pytest.raises(TypeError, match=r"explained must be a name or a place, got 1\.5"):
        WithInputs(product, 1.5)
    with pytest.raises(TypeError, match="others must be a tuple or a dict of inputs, got Tensor"):
        WithInputs(product, others=WEIGHTS)
    with pytest.raises(TypeError, match="x must be float32"):
        fwdgrad.explain(WithInputs(product), (IDS, WEIGHTS))
