"""``device=``: what is moved there, what is not, and the error where there is no such device."""

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.text import explain_text
from fwdgrad.devices import device_of, move_model

from .far import DEVICE, FarDevice, FarTensor
from .models import X, assert_same_bits, exact

OPTIONS = {"target": 1, "method": ForwardGradient(0.3), "objective": "output", "n_samples": 8}
CPU = torch.device("cpu")


class Weighted(torch.nn.Module):
    """``exact`` by a module with a parameter somewhere."""

    def __init__(self, one):
        super().__init__()
        self.register_buffer("one", one)

    def forward(self, batch):
        assert self.one.device == batch.device
        return exact(batch) * self.one


@pytest.fixture
def far_module():
    with FarDevice():
        yield Weighted(FarTensor(torch.ones(1))).eval()


def test_a_module_is_moved_and_stays_there(far_module):
    found = fwdgrad.explain(far_module, X, device="cpu", **OPTIONS)
    assert far_module.one.device == CPU
    assert not isinstance(far_module.one, FarTensor)
    assert found.attribution.device == found.input.device == CPU
    assert_same_bits(found, fwdgrad.explain(exact, X, device="cpu", **OPTIONS))


def test_without_a_device_nothing_is_moved(far_module):
    with pytest.raises(fwdgrad.ModelError, match="AssertionError"):
        fwdgrad.explain(far_module, X, **OPTIONS)
    assert far_module.one.device == DEVICE


@pytest.mark.parametrize(
    "wrap", [lambda m: m.forward, lambda m: ImageClassifier("own", m, 8)], ids=["method", "adapter"]
)
def test_a_module_is_found_in_what_it_is_given_as(far_module, wrap):
    move_model(wrap(far_module), CPU)
    assert far_module.one.device == CPU


def test_a_function_s_modules_are_its_own_matter(far_module):
    model = lambda batch: exact(batch) * far_module.one.cpu()  # noqa: E731
    fwdgrad.explain(model, X, device=CPU, **OPTIONS)
    assert far_module.one.device == DEVICE


def test_a_model_on_several_devices_is_left_alone(far_module):
    far_module.register_buffer("other", torch.ones(2))
    with pytest.raises(ValueError, match=r"on several, got 'cpu' for one on cpu, xla:0.*model.to"):
        fwdgrad.explain(far_module, X, device="cpu", **OPTIONS)
    assert far_module.one.device == DEVICE


def test_a_model_without_values_is_not_moved():
    with pytest.raises(
        ValueError, match=r"'cpu' is not where the model can be moved: .*meta tensor"
    ):
        fwdgrad.explain(torch.nn.Linear(2, 2, device="meta").eval(), X, device="cpu", **OPTIONS)


@pytest.mark.parametrize(
    ("device", "gpus", "error", "message"),
    [
        ("gpu", 0, ValueError, r"device must be 'cpu', 'cuda'.* got 'gpu'"),
        (0, 0, TypeError, "device must be a name such as 'cuda' or a torch.device, got 0"),
        ("meta", 0, ValueError, "device must have values, got 'meta'"),
        ("cuda", 0, ValueError, r"'cuda' is not available: this torch .*; give device='cpu'"),
        ("cuda:3", 2, ValueError, r"device must be cuda:0 \.\. cuda:1, got 'cuda:3'"),
        ("xla:0", 0, ValueError, r"'xla:0' is not available: .*; give device='cpu'"),
    ],
)
def test_devices_that_are_refused(monkeypatch, device, gpus, error, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(error, match=message) as caught:
        fwdgrad.explain(exact, X, device=device, **OPTIONS)
    assert "\n" not in str(caught.value)
    assert caught.value.argument == "device"


def test_a_device_has_its_number():
    assert device_of("cpu") == CPU
    with FarDevice():
        assert device_of("xla:0") == DEVICE


def test_texts():
    torch.manual_seed(0)
    model = LSTMClassifier(["a", "fine", "film"], ["bad", "good"]).eval()
    there, here = (
        explain_text(model, "A fine film!", "good", n_samples=16, **more)
        for more in ({"device": "cpu"}, {})
    )
    assert torch.equal(there.scores, here.scores)
    with pytest.raises(ValueError, match="got 'gpu'"):
        explain_text(model, "A fine film!", "good", n_samples=16, device="gpu")
