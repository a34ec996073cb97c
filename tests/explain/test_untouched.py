"""A user's module is never touched by a run: not by noise, nor threads, nor Ctrl-C."""

import copy
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fwdgrad
from fwdgrad import ForwardGradient, FusionGrad, NoiseGrad, ParameterNoise, SmoothGrad
from fwdgrad.estimate.moments import enter_unit_
from fwdgrad.metrics import invariance, randomised
from fwdgrad.metrics.sanity import shifted
from fwdgrad.parameters import Swapped
from fwdgrad.torch_state import TorchState
from fwdgrad_kernels import NoiseSpec, perturb

SEQUENCE = torch.rand(7, 6, generator=torch.Generator().manual_seed(4))
PICTURE = torch.rand(3, 9, 9, generator=torch.Generator().manual_seed(3))


def convolutions():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 64, 3, stride=2),
        torch.nn.Flatten(),
        torch.nn.Linear(576, 3),
    )


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True)
        self.head = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(16, 3))

    def forward(self, batch):
        return self.head(self.lstm(batch)[0].mean(1))


class Scaled(torch.autograd.Function):
    """A backward of its own, that reads a parameter."""

    @staticmethod
    def forward(ctx, batch, weight):
        ctx.save_for_backward(weight)
        return batch * weight

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


class Attention(torch.nn.Module):
    """Parameters that are used without a layer, by transposes, slices, lists and functions."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Linear(6, 8)
        self.places = torch.nn.Parameter(torch.randn(9, 8))
        self.scale = torch.nn.Parameter(torch.rand(8) + 0.5)
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, batch):
        start = torch.cat([self.places[:1], self.places.data[1:2]])[None].expand(len(batch), 2, 8)
        hidden = torch.cat([start, self.embed(batch)], 1) + self.places
        hidden = self.layer(Scaled.apply(hidden, self.scale))
        hidden = torch.utils.checkpoint.checkpoint(torch.tanh, hidden, use_reentrant=False)
        return torch.einsum("bte,ec->bc", hidden, self.embed.weight.t()[:3].T[:, :3].new_ones(8, 3))


MODELS = {
    "convolutions": (convolutions, PICTURE),
    "recurrent": (Recurrent, SEQUENCE),
    "attention": (Attention, SEQUENCE),
}


def model_of(name):
    make, x = MODELS[name]
    torch.manual_seed(1)
    return make().eval(), x


def state_of(module):
    """What a module is: what a run must not change."""
    return {
        "values": {name: value.clone() for name, value in module.state_dict().items()},
        "parameters": [(id(p), p.requires_grad, p.grad) for p in module.parameters()],
        "hooks": [
            len(part.__dict__[name])
            for part in module.modules()
            for name in part.__dict__
            if name.endswith("_hooks")
        ],
        "training": [part.training for part in module.modules()],
        "attributes": [sorted(part.__dict__) for part in module.modules()],
    }


def assert_same_state(module, before):
    after = state_of(module)
    values, was = after.pop("values"), before["values"]
    assert after == {name: value for name, value in before.items() if name != "values"}
    assert values.keys() == was.keys()
    assert all(torch.equal(values[name], was[name]) for name in was)


@pytest.mark.parametrize("scale", [0.0, 0.1], ids=["noisegrad", "fusiongrad"])
@pytest.mark.parametrize("name", MODELS)
def test_maps_have_the_bits_of_models_whose_parameters_are_replaced(name, scale):
    model, x = model_of(name)
    before = state_of(model)
    noise = ParameterNoise(0.2)
    method = FusionGrad(scale, parameters=noise) if scale else NoiseGrad(noise)
    found = fwdgrad.explain(
        model, x, target=1, method=method, objective="output", seed=5, n_samples=4, batch_size=1
    )
    assert_same_state(model, before)
    mean, spread = torch.zeros_like(x), torch.zeros_like(x)
    for draw in range(4):
        noisy = copy.deepcopy(model).requires_grad_(False)
        for t, p in enumerate(noisy.parameters()):
            spec = NoiseSpec((p.numel(),), scale=0.2, seed=5, stream=16 + t)
            p.copy_(perturb(p.reshape(-1), spec, draw, 1, relative=True)[0].view_as(p))
        point = perturb(x, NoiseSpec(x.shape, scale=scale, seed=5), draw, 1) if scale else x[None]
        leaf = point.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(noisy(leaf)[0, 1], leaf)
        enter_unit_(mean, spread, gradient[0], draw, 1, 1)
    assert torch.equal(found.attribution, mean)


RUNS = {
    "gradient": {"method": "gradient"},
    "smoothgrad": {"method": "smoothgrad", "n_samples": 8},
    "noisegrad": {"method": "noisegrad", "n_samples": 8},
    "fusiongrad": {"method": "fusiongrad", "n_samples": 8},
    "noise on both": {
        "method": NoiseGrad(ParameterNoise(0.1), gradient=ForwardGradient(0.1)),
        "n_samples": 16,
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_eight_threads_with_the_same_module(name):
    model, x = model_of(name)
    before = state_of(model)
    jobs = [(run, seed) for seed in range(2) for run in RUNS]

    def explain(job):
        run, seed = job
        options = {"objective": "output", "batch_size": 4, **RUNS[run]}
        return fwdgrad.explain(model, x, target=1, seed=seed, **options).attribution

    alone = [explain(job) for job in jobs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(explain, jobs))
    assert all(map(torch.equal, alone, together))
    assert_same_state(model, before)


@pytest.mark.parametrize(
    "method",
    [
        NoiseGrad(ParameterNoise(0.2)),
        FusionGrad(parameters=ParameterNoise(0.2)),
        SmoothGrad(),
        NoiseGrad(ParameterNoise(0.2), gradient=ForwardGradient()),
    ],
    ids=["noisegrad", "fusiongrad", "smoothgrad", "forward-gradient"],
)
def test_progress_sees_the_model_as_it_is(method):
    model, x = model_of("recurrent")
    clean = model(x[None])
    wanted = [p.requires_grad for p in model.parameters()]
    seen = []

    def progress(done, total):
        seen.append(
            torch.equal(model(x[None]), clean)
            and [p.requires_grad for p in model.parameters()] == wanted
        )

    fwdgrad.explain(model, x, method=method, target=1, n_samples=6, batch_size=2, progress=progress)
    assert seen
    assert all(seen)


def test_a_thread_sees_the_model_as_it_is_while_another_puts_noise_on_it():
    model, x = model_of("convolutions")
    clean, found = model(x[None]), []

    class Looking(torch.nn.Module):
        def forward(self, batch):
            look = threading.Thread(target=lambda: found.append(model(x[None]).detach()))
            look.start()
            look.join()
            return batch

    whole = torch.nn.Sequential(*model[:4], Looking(), *model[4:]).eval()
    fwdgrad.explain(whole, x, method="noisegrad", target=1, n_samples=3)
    assert len(found) > 3
    assert all(torch.equal(one, clean) for one in found)


def test_a_function_around_a_module():
    """Its noise is put on where a module's is; it may sit inside a larger model, too."""
    model, x = model_of("attention")
    options = {"target": 1, "objective": "output", "n_samples": 5}
    want = fwdgrad.explain(model, x, method="noisegrad", **options)
    wrapped = lambda batch: model(batch)  # noqa: E731
    outer = torch.nn.Sequential(torch.nn.Identity(), model).eval()
    for forward in (wrapped, outer):
        method = NoiseGrad(ParameterNoise(0.2, module=model))
        got = fwdgrad.explain(forward, x, method=method, **options)
        assert torch.equal(got.attribution, want.attribution)


def compiled(model):
    return torch.compile(model)


def compiled_in_place(model):
    model.compile()
    return model


def compiled_within(model):
    model[3].compile()
    return model


def compiled_forward(model):
    model.forward = torch.compile(model.forward)
    return model


@pytest.mark.slow  # torch's compiler takes seconds to import
@pytest.mark.parametrize(
    ("compile", "message"),
    [
        (compiled, "this one is compiled"),
        (compiled_in_place, "this one is compiled"),
        (compiled_within, "its Conv2d is compiled"),
        (compiled_forward, "this one is compiled"),
        (
            lambda model: torch.nn.Sequential(torch.compile(model)),
            "its OptimizedModule is compiled",
        ),
    ],
)
def test_a_compiled_module_is_refused(compile, message):
    """What it does with its parameters cannot be reached: the noise would be on a part of them."""
    noise = ParameterNoise()
    assert noise.module_of(convolutions()) is not None
    with pytest.raises(TypeError, match=message):
        noise.module_of(compile(convolutions()))


def test_a_call_that_reads_a_parameter_more_often_than_the_first():
    class Growing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls, self.weight = 0, torch.nn.Parameter(torch.ones(3))

        def forward(self, batch):
            self.calls += 1
            for _ in range(self.calls):
                values = batch * self.weight
            return values

    seen = []
    method = NoiseGrad(ParameterNoise(0.2), gradient=ForwardGradient(1e-6, antithetic=False))
    fwdgrad.explain(
        Growing().eval(), torch.ones(3), target=None, method=method, n_samples=4, seed=3,
        objective=lambda outputs: seen.append(outputs) or outputs.sum(1), batch_size=1,
    )  # fmt: skip
    spec = NoiseSpec((3,), scale=0.2, seed=3, stream=16)
    want = perturb(torch.ones(3), spec, 0, 4, relative=True)
    assert torch.allclose(torch.cat(seen[-4:]), want, atol=1e-4)


def test_a_gradient_keeps_no_more_than_of_frozen_parameters():
    """The parameters ask for a gradient all the while; the graph sees none of them."""
    model, x = model_of("attention")
    saved = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, batch):
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t: saved.append(t.data_ptr()) or t, lambda t: t
            ):
                return self.inner(batch)

    whole = Watching().eval()
    fwdgrad.explain(whole, x, method="gradient", target=1)
    ours, saved[:] = len(saved), []
    leaf = x[None].clone().requires_grad_()
    whole(leaf)
    asking, saved[:] = len(saved), []
    whole.requires_grad_(False)(leaf)
    assert len(saved) == ours < asking


def test_random_numbers_go_on_for_others_while_a_model_is_drawn_anew():
    model, _ = model_of("recurrent")
    want = {name: value.clone() for name, value in randomised(model, 3).state_dict().items()}
    before = torch.get_rng_state()

    class Drawing(torch.nn.Linear):
        def reset_parameters(self):
            super().reset_parameters()
            other = threading.Thread(target=lambda: numbers.append(torch.rand(2)))
            other.start()
            other.join()

    numbers = []
    disturbed = torch.nn.Sequential(Drawing(2, 2), Drawing(2, 2))
    torch.set_rng_state(before)
    numbers.clear()
    randomised(disturbed, 3)
    torch.set_rng_state(before)
    assert torch.equal(torch.cat(numbers), torch.cat([torch.rand(2), torch.rand(2)]))
    again = randomised(model, 3).state_dict()
    assert all(torch.equal(again[name], value) for name, value in want.items())


def test_a_shifted_model_leaves_the_modes_of_its_parts():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout())
    model.eval()
    model[1].train()
    assert not shifted(model, 1.0).training
    invariance(lambda m, x: m(x[None])[0].detach(), model, torch.ones(3))
    assert [part.training for part in model.modules()] == [False, False, True]


def interrupted(function, event):
    """Runs it with Ctrl-C at that of the moments at which Python lets one in; how many there are.

    They are where a function starts, and where a call into C has ended.
    """
    count = 0

    def watch(frame, kind, argument):
        nonlocal count
        if kind in ("call", "c_return"):
            count += 1
            if count == event:
                raise KeyboardInterrupt

    sys.setprofile(watch)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
def test_torch_s_state_is_put_back_whenever_ctrl_c_comes():
    """Also where torch itself has taken the mode off, in a function that is written in Python."""
    layer, batch = torch.nn.BatchNorm1d(2).eval(), torch.ones(1, 2)

    def enter():
        with TorchState(), torch.no_grad(), Swapped(layer.parameters()):
            layer(batch)

    most = interrupted(enter, 0)
    assert most > 50
    for event in range(1, most + 1):
        interrupted(enter, event)
        gc.collect()
        assert torch.is_grad_enabled(), event
        assert torch._C._len_torch_function_stack() == 0, event
