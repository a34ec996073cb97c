"""The result: kept on disk whole, repeated from its own settings."""

import errno
import hashlib
import math
import os
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fwdgrad
from fwdgrad import Explanation, Grid, Regions, metrics

from .models import SHAPE, X, assert_same_bits, bits, exact, forward_gradient


def explain(x=X, model=exact, **options):
    return forward_gradient(model, x, **{"target": 1, "n_samples": 64, "seed": 5, **options})


def spread(outputs):
    return outputs.max(1).values - outputs.min(1).values


SCALES = torch.linspace(0.1, 0.5, 48).reshape(SHAPE)
SCALES[0, 0, :2] = 0  # frozen

RUNS = {
    "defaults": {},
    "bfloat16": {"x": X.bfloat16(), "scale": 0.3},
    "float16": {"x": X.half()},
    "float64": {"x": X.double(), "block": 3, "distribution": "cauchy", "scale": 0.01},
    "scale map": {"scale": SCALES, "control_variate": "leave-one-out", "antithetic": False},
    "float16 map": {"scale": SCALES.half(), "objective": "probability"},
    "baseline map": {"baseline": X.flip(0), "features": Grid((2, 2), jitter=True)},
    "baseline": {"baseline": -2, "scale": 0.25, "clip": [-1.5, math.inf]},
    "one group": {"design": "hadamard", "scale": 0.3, "seed": 2**64 - 1},
    "labels": {"features": fwdgrad.Labels(torch.arange(24).reshape(4, 6) // 5)},
    "callable": {"objective": spread, "target": None},
    "vector": {"x": X.flatten(), "block": 5},
    "text": {"x": X[0], "block": (1, 6), "distribution": "rademacher"},
}


@pytest.mark.parametrize("run", RUNS)
def test_saved_loaded_and_run_again(tmp_path, run):
    before = explain(**RUNS[run])
    path = tmp_path / "map.safetensors"
    before.save(path)
    loaded = Explanation.load(path)
    assert_same_bits(loaded, before)
    assert torch.equal(bits(loaded.input), bits(before.input))
    assert loaded.input.dtype == before.input.dtype
    for name in (
        *("n_samples", "target", "score", "objective", "method", "features", "seed"),
        *("seconds", "convergence_delta", "provenance"),
    ):
        assert getattr(loaded, name) == getattr(before, name)
    assert loaded.settings == before.settings
    # A callable has a name alone, so it is to be given again.
    own = {"objective": spread} if run == "callable" else {}
    for kept in (before, loaded):
        assert_same_bits(fwdgrad.explain(exact, kept.input, **{**kept.settings, **own}), before)


def test_standard_error_of_a_group_without_spare_directions_is_unknown():
    x = torch.cat([X.flatten(), X.flatten()[:16]])  # 64 directions for 64 elements
    result = explain(x=x, n_samples=64, design="hadamard", scale=0.3)
    assert result.standard_error.isnan().all()
    assert math.isnan(result.reliability)
    assert result.attribution.isfinite().all()


def test_frozen_elements_have_no_attribution_and_no_error():
    result = explain(**RUNS["scale map"])
    frozen = SCALES == 0
    assert torch.equal(result.attribution == 0, frozen)
    assert torch.equal(result.standard_error == 0, frozen)


def test_the_result_says_what_was_done():
    result = explain(block=3, scale=0.3)
    assert result.n_samples == 64
    assert result.target == 1
    assert result.score == exact(X[None])[0, 1].item()
    assert result.method.scale == 0.3
    assert result.seed == 5
    assert result.features is None
    assert result.settings == {
        "target": 1, "method": result.method, "objective": "output", "n_samples": 64,
        "features": None, "seed": 5,
    }  # fmt: skip
    assert 0 < result.seconds < 60
    assert result.provenance["torch"] == torch.__version__
    assert result.provenance["fwdgrad"] == fwdgrad.__version__
    assert result.provenance["device"] == "cpu"
    assert result.provenance["contract"] == 2  # the order of sums has changed once
    assert result.standard_error.shape == result.attribution.shape == SHAPE
    assert (result.standard_error > 0).all()


def test_the_default_scale_is_written_down_as_a_number():
    assert explain().method.scale == pytest.approx(0.4)


def test_the_result_does_not_change_with_the_callers_tensors():
    # A caller who fills one buffer with input after input keeps the right input in each result.
    x, scale = X.clone(), torch.full(SHAPE, 0.3)
    result = explain(x, scale=scale)
    x.zero_()
    scale.zero_()
    assert torch.equal(result.input, X)
    assert torch.equal(result.method.scale, torch.full(SHAPE, 0.3))


def test_reliability_rises_with_the_samples():
    def linear(batch):
        return (batch * X).flatten(1).sum(1)

    noisy, sure = (
        explain(model=linear, target=None, scale=0.3, n_samples=count, batch_size=1024)
        for count in (64, 65_536)
    )
    assert noisy.reliability < 0.95 < 0.99 < sure.reliability <= 1


def test_a_constant_model_has_no_reliability():
    result = explain(model=lambda batch: torch.ones(len(batch)), target=None)
    assert math.isnan(result.reliability)
    assert (result.attribution == 0).all()
    assert result.standard_error.isnan().all()


def test_repr_names_what_was_explained():
    text = repr(explain(objective="probability"))
    assert text.startswith("Explanation(probability of class 1 = ")
    assert "shape (2, 4, 6), 64 samples, reliability " in text
    assert "\n" not in text


# ---- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 5, 8, 200, 0.5, -1])
def test_a_file_cut_short_is_refused(tmp_path, length):
    path = tmp_path / "map.safetensors"
    explain().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if length == 0.5 else length])
    with pytest.raises(ValueError, match=re.escape(f"{path} is no explanation, or damaged")):
        Explanation.load(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"attribution": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="no explanation"):
        Explanation.load(path)
    explain(checkpoint=tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match=r"no explanation.*it is of the kind 'checkpoint'"):
        Explanation.load(tmp_path / "run.safetensors")
    with pytest.raises(ValueError, match="no explanation"):
        Explanation.load(tmp_path)


def test_a_single_element_may_have_any_stride(tmp_path):
    x = torch.arange(128.0).reshape(2, 64)[1:, 5]
    assert x.stride() == (64,)
    result = explain(x, lambda batch: 3 * batch, target=0, scale=0.5, distribution="rademacher")
    assert result.attribution.tolist() == [3.0]
    digest = hashlib.sha256(np.float32(69).tobytes()).hexdigest()
    assert result.provenance["input_sha256"] == digest
    result.save(tmp_path / "one.safetensors")
    assert torch.equal(Explanation.load(tmp_path / "one.safetensors").input, x)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file .*nothing\.safetensors does not exist"):
        Explanation.load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        explain().save(tmp_path / "nowhere" / "map.safetensors")


def test_full_disk_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "map.safetensors"
    explain().save(path)
    before = path.read_bytes()

    def fsync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        explain(seed=6).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- pictures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6,), (1, 6)), ((4, 6), (4, 6)), ((2, 4, 6), (4, 6)), ((2, 3, 4, 6), (4, 6))],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_heatmap_sums_the_leading_axes(shape, expected, dtype):
    x = torch.linspace(0, 1, math.prod(shape), dtype=dtype).reshape(shape)
    result = explain(x)
    heat = result.heatmap()
    assert heat.shape == expected
    assert heat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    summed = result.attribution.reshape(-1, *expected).sum(0)
    torch.testing.assert_close(heat, summed.to(heat.dtype))


def region(batch):
    """(batch,): the mean of a quarter of a picture, in all of its channels."""
    return batch[:, :, :16, :16].mean((1, 2, 3))


def test_the_heatmap_of_regions_is_what_a_region_adds():
    """Before zero, a linear score rises from 0 to 1 with the quarter: each place of it adds 1."""
    result = fwdgrad.explain(
        region, torch.ones(3, 32, 32), method=Regions(baseline=0.0),
        features=Grid((16, 16), "nearest"), n_samples=64,
    )  # fmt: skip
    added = torch.zeros(32, 32)
    added[:16, :16] = 1
    torch.testing.assert_close(result.heatmap(), added, rtol=0, atol=1e-5)
    kept = metrics.maps.heatmap_of(result)
    torch.testing.assert_close(kept.float(), added, rtol=0, atol=1e-5)


def test_of_shared_planes_those_that_are_frozen_have_no_share():
    scale = torch.full((3, 4, 4), 0.5)
    scale[0] = 0
    scale[:, 0] = 0
    result = forward_gradient(
        lambda batch: 2 * batch.sum((1, 2, 3)), torch.ones(3, 4, 4), scale=scale,
        features=Grid((1, 1), "nearest"), design="hadamard", n_samples=64,
    )  # fmt: skip
    want = torch.full((4, 4), 4.0)  # two planes that move, 2 for each
    want[0] = 0
    torch.testing.assert_close(result.heatmap(), want, rtol=0, atol=1e-5)


def test_a_gradient_is_each_channels_own():
    result = fwdgrad.explain(
        lambda batch: batch.sum((1, 2, 3)), torch.rand(3, 4, 4), method="smoothgrad", n_samples=4
    )
    assert torch.equal(result.heatmap(), torch.full((4, 4), 3.0))
