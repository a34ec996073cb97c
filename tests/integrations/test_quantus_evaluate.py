"""explain_func in a whole evaluation by Quantus."""

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Regions
from fwdgrad.integrations.quantus import explain_func


def model():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(4 * 14 * 14, 3)).eval()


INPUTS = np.random.default_rng(0).random((3, 1, 16, 16))  # float64, as Quantus may have them
TARGETS = np.array([0, 2, 1])


def test_maps_are_those_of_explain():
    options = {"n_samples": 64, "seed": 3}
    maps = explain_func(model(), INPUTS, TARGETS, method="regions", **options)
    assert isinstance(maps, np.ndarray)
    assert maps.shape == INPUTS.shape
    x = torch.from_numpy(INPUTS[1]).float()
    e = fwdgrad.explain(model(), x, 2, method="regions", **options)
    assert np.array_equal(maps[1], e.attribution.numpy())


def test_a_key_that_is_no_methods_name():
    with pytest.raises(ValueError, match="method must be one of auto, regions"):
        explain_func(model(), INPUTS, TARGETS, method="coarse", n_samples=64)
    maps = explain_func(
        model(), INPUTS, TARGETS, method="coarse", explained_by=Regions(cell=8), n_samples=64
    )
    fine = explain_func(model(), INPUTS, TARGETS, method="regions", n_samples=64)
    assert not np.array_equal(maps, fine)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_whole_evaluation_runs(capsys):
    quantus = pytest.importorskip("quantus", reason="the optional library Quantus")
    metrics = {
        "sparseness": quantus.Sparseness(disable_warnings=True),
        "flipping": quantus.PixelFlipping(
            features_in_step=64, disable_warnings=True, return_auc_per_sample=True
        ),
        "sensitivity": quantus.AvgSensitivity(nr_samples=2, disable_warnings=True),
        "randomisation": quantus.MPRT(disable_warnings=True, return_average_correlation=True),
    }
    found = quantus.evaluate(
        metrics, {"regions": explain_func, "gradient": explain_func}, model(), INPUTS, TARGETS,
        explain_func_kwargs={"seed": 1}, agg_func=np.mean,
    )  # fmt: skip
    assert "Failed" not in capsys.readouterr().out
    assert set(found) == {"regions", "gradient"}
    for scores in found.values():
        assert set(scores) == set(metrics)
        assert all(np.isfinite(score) for score in scores.values())
    assert found["regions"]["sparseness"] != found["gradient"]["sparseness"]
