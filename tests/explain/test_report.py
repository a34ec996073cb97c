"""The page of a report: what it says of the method, and the line that repeats the run."""

import contextlib
import html
import io
import itertools
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import (
    Explanation,
    ForwardGradient,
    IntegratedGradients,
    Regions,
    SmoothGrad,
    VarGrad,
    cli,
)
from fwdgrad.adapters.cropping import Cut
from fwdgrad.metrics import Curve, deletion, insertion, random_order
from fwdgrad.panels import Panels
from fwdgrad.ranked import found_again
from fwdgrad.report import report
from fwdgrad.report.checked import at, checked
from fwdgrad.report.words import Scale, percent

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

X = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))


def corner(batch):
    """(batch, 2): logits, of which the first is brightness in the upper left corner."""
    light = 9 * batch[:, :, :4, :4].mean((1, 2, 3))
    return torch.stack([light, 2 - light], 1)


def page_of(method, objective="probability"):
    e = fwdgrad.explain(corner, X, 0, method=method, objective=objective, n_samples=64)
    curves = [
        follow(corner, X, e, objective=objective, steps=4) for follow in (deletion, insertion)
    ]
    return e, report(e, "corner", [], *curves)


def rows_of(page):
    """The names and values of the page's tables."""
    cells = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', page)
    return {html.unescape(name): html.unescape(value) for name, value in cells}


def test_the_method_has_a_row_for_each_option():
    e, page = page_of(Regions("grey"))
    rows = rows_of(page)
    assert (rows["method"], rows["baseline"], rows["antithetic"]) == ("Regions", "grey", "no")
    assert rows["cell"] == str(e.method.cell)
    assert (rows["target"], rows["n_samples"], rows["features"]) == ("0", "64", "none")
    assert "<p>Regions · probability 0." in page
    assert "convergence delta" not in page


def test_a_method_within_a_method():
    smooth = SmoothGrad(0.25, antithetic=True)
    method = IntegratedGradients(torch.zeros(3, 8, 8), 4, gradient=smooth)
    e, page = page_of(method)
    rows = rows_of(page)
    assert rows["method"] == "IntegratedGradients"
    assert rows["baseline"] == "a tensor (3, 8, 8)"
    assert rows["gradient"].startswith("SmoothGrad(scale=0.25, distribution=normal, antithetic=yes")
    assert f" · convergence delta {e.convergence_delta:.2g}" in page


def run(page, saved, **names):
    """Runs the lines that the page gives, and returns what their last one makes."""
    (code,) = re.findall('<pre tabindex="0"><code>(.*?)</code>', page, re.S)
    code = html.unescape(code).replace("'explanation.safetensors'", repr(str(saved)))
    for name, value in names.items():
        code = re.sub(rf"^{name} = \.\.\..*$", f"{name} = {value}", code, flags=re.M)
    lines = code.split("\n")
    found = {"corner": corner, "fwdgrad": fwdgrad}
    exec("\n".join([*lines[:-1], f"again = {lines[-1]}"]), found)
    return found["again"]


def test_the_line_repeats_the_run(tmp_path):
    e, page = page_of(ForwardGradient(0.3))
    e.save(tmp_path / "map.safetensors")
    again = run(page, tmp_path / "map.safetensors", model="corner")
    assert torch.equal(again.attribution, e.attribution)


def test_another_engine_is_told():
    e, _ = page_of(Regions("grey"))
    said = "the command line called it by ONNX Runtime: values differ by 1e-6 or less"
    for engine, is_told in (
        ("ONNX Runtime 1.23 (as torch)", True),
        ("torch (as asked for)", False),
    ):
        e.provenance["engine"] = engine
        assert (said in report(e, "corner", [])) == is_told


def test_a_callable_objective_is_to_be_given(tmp_path):
    """An explanation has its name alone."""
    e = fwdgrad.explain(corner, X, method="gradient", objective=fwdgrad.Difference(0, 1))
    curves = [
        follow(corner, X, e.heatmap(), 0, objective="logit", steps=4)
        for follow in (deletion, insertion)
    ]
    page = report(e, "corner", [], *curves)
    assert "objective = ...  # Difference(0, 1, &#x27;logit&#x27;)" in page
    e.save(tmp_path / "map.safetensors")
    again = run(
        page, tmp_path / "map.safetensors", model="corner", objective="fwdgrad.Difference(0, 1)"
    )
    assert torch.equal(again.attribution, e.attribution)


# ---- fwdgrad explain --report --------------------------------------------------------------

OWN = '''
import torch

calls = samples = 0


def lamp(batch):
    """Class 1 where the upper left quarter is light."""
    global calls, samples
    calls, samples = calls + 1, samples + len(batch)
    side = batch.shape[-1] // 2
    light = batch[:, :, :side, :side].double().mean((1, 2, 3))
    return torch.stack([0 * light, 8 * light - 3], 1)


def fails_then(batch):
    if samples > 300:
        raise OSError("the service is away")
    return lamp(batch)
'''


def set_up(path, monkeypatch):
    """A working directory with a model, a photo twice and the classes' names."""
    monkeypatch.chdir(path)
    monkeypatch.syspath_prepend(path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    Path("own.py").write_text(OWN)
    photo = np.full((32, 48, 3), 30, np.uint8)
    photo[4:16, 12:24] = 240
    for name in ("photo.png", "other.png"):
        Image.fromarray(photo).save(name)
    Path("labels.txt").write_text("dark\nlamp\n")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    set_up(tmp_path, monkeypatch)
    yield
    sys.modules.pop("own", None)


OPTIONS = ("--model", "own:lamp", "--size", "16", "--samples", "256", "--labels", "labels.txt",
           "--target", "1", "--baseline", "black", "--no-progress")  # fmt: skip


def told(capsys, *line, photos=("photo.png",), status=0):
    found = cli.main(["explain", *photos, *OPTIONS, *line])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def words_of(page):
    """The page's text, outside of what is folded."""
    text = re.sub("<style>.*?</style>|<details>.*?</details>|<svg.*?</svg>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())


class Made(NamedTuple):
    out: str
    page: str
    e: Explanation
    samples: int  # that the model was called on


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        set_up(tmp_path_factory.mktemp("made"), patch)
        assert cli.main(["explain", "photo.png", *OPTIONS, "--report", "--output", "out"]) == 0
        page = Path("out/report.html").read_text(encoding="utf-8")
        e, own = Explanation.load("out/explanation.safetensors"), sys.modules.pop("own")
    return Made(out.getvalue(), page, e, own.samples)


def test_the_answer_is_what_was_found(made):
    known, text = made.e.provenance["evidence"], words_of(made.page)
    assert "Why “lamp”?" in text
    assert f"The model calls this “lamp” ({known['score']:.0%}".replace("%", " %") in text
    enough, alone = known["enough_share"], known["enough_score"]
    assert (
        f"The part within the solid line decides it: {percent(enough)} of the picture is enough, "
        f"and gives {100 * alone:.0f} % with the rest black." in text
    )
    assert (
        f"With {percent(known['missing_share'])} of the picture black (within the dashed line), "
        f"it would be “dark” ({100 * known['instead_score']:.0f} %)." in text
    )


def test_what_is_outlined_is_what_was_found(folder, capsys):
    """The parts are drawn again from their counts, of any method's map."""
    x = torch.full((3, 16, 16), 0.1)
    x[:, 2:7, 2:7] = 0.95
    namespace = {}
    exec(OWN, namespace)
    for method in (Regions("black", 2), SmoothGrad(0.2), IntegratedGradients("black")):
        e = fwdgrad.explain(namespace["lamp"], x, 1, method=method)
        found = fwdgrad.evidence(namespace["lamp"], e)
        assert found_again(e) == {}
        e.provenance["evidence"] = found.to_dict()
        again = found_again(e)
        assert set(again) == {"enough", "missing"}
        assert torch.equal(again["enough"], found.enough)
        assert torch.equal(again["missing"], found.missing)


def test_the_check_is_counted_and_a_fifth_at_most(made):
    out, page, e, samples = made
    (calls,) = map(int, re.findall(r"report       out/report.html \((\d+) forward calls", out))
    assert samples == 1 + e.n_samples + e.provenance["evidence"]["calls"] + calls
    assert calls <= e.n_samples / 5
    assert f"The map took 256 calls of the model, and this check {calls} more." in words_of(page)


def test_the_check_says_what_an_order_drawn_by_chance_gives(made):
    e, page = made.e, made.page
    namespace = {}
    exec(OWN, namespace)
    options = {"steps": 10, "fill": 0.5, "objective": "probability"}
    lamp, x = namespace["lamp"], e.input
    curves = [deletion(lamp, x, ranking, 1, **options) for ranking in (e, random_order(e))]
    start, map_, chance = (
        f"{100 * float(v):.0f} %" for v in (curves[0].scores[0], *(at(c) for c in curves))
    )
    assert (
        f"Deleting the 10 % that the map ranks highest takes the probability from {start} to "
        f"{map_}, 10 % in an order drawn by chance to {chance}." in words_of(page)
    )
    assert page.count('<path class="chance"') == 2
    assert len(re.findall('<path class="line" [^>]*>\n<path class="chance"', page)) == 2  # on top
    assert curves[0].auc < curves[1].auc
    assert "Over the whole of both tests, the map finds what counts sooner" in words_of(page)
    assert torch.equal(random_order(e), random_order(e))
    assert random_order(e).shape == (16, 16)


def test_a_map_no_better_than_chance_is_told():
    falls = Curve(torch.tensor([1.0, 0.2, 0.0]))
    rises = Curve(torch.tensor([0.0, 0.8, 1.0]))
    scale = Scale("probability", True)
    for chance, said in (
        ((rises, falls), "the map finds what counts sooner"),
        ((falls, falls), "In one of the two tests"),
        ((falls, rises), "do not rely on it"),
    ):
        assert said in checked(falls, rises, chance, scale)[-1]
    assert len(checked(falls, rises, None, scale)) == 2


def test_a_reader_is_warned_first(folder):
    falls, rises = Curve(torch.tensor([1.0, 0.2, 0.0])), Curve(torch.tensor([0.0, 0.8, 1.0]))
    e = fwdgrad.explain(corner, X, 0, method=Regions("grey"), n_samples=64)
    low, high = (f"{end:.3g}" for end in e.provenance["hardly_changed"])
    still = words_of(report(e, "corner", [], falls, rises, chance=(rises, falls)))
    told = f"Careful: with half of the picture grey the probability is {low}"
    assert low == high
    assert told in still.partition("The picture")[0]
    del e.provenance["hardly_changed"]
    good, bad = (
        words_of(report(e, "corner", [], falls, rises, chance=chance)).partition("The picture")[0]
        for chance in ((rises, falls), (falls, rises))
    )
    assert "Careful" not in good
    assert "Careful: when it was checked, this map was no better than chance." in bad
    e.reliability, e.standard_error = 0.1, e.attribution.abs()
    noise = words_of(report(e, "corner", [], falls, rises, chance=(rises, falls)))
    assert "Careful: most of this map is chance" in noise.partition("The picture")[0]


def test_a_map_that_is_hardly_better_than_chance():
    falls, rises = Curve(torch.tensor([1.0, 0.5, 0.0])), Curve(torch.tensor([0.0, 0.5, 1.0]))
    for by, said in ((0.02, "by next to nothing: take it with care"), (0.2, "finds what counts")):
        later = Curve(torch.tensor([1.0, 0.5 + by, 0.0])), Curve(torch.tensor([0.0, 0.5 - by, 1.0]))
        assert said in checked(falls, rises, later, Scale("probability", True))[-1]
    e = fwdgrad.explain(corner, X, 0, method=Regions("grey"), n_samples=64)
    later = Curve(torch.tensor([1.0, 0.52, 0.0])), Curve(torch.tensor([0.0, 0.48, 1.0]))
    text = words_of(report(e, "corner", [], falls, rises, chance=later))
    assert "Careful: when it was checked, this map was no clearer than chance." in text


def of_enough(score=0.9, **known):
    """A picture's page, with what was found to be enough."""
    e = fwdgrad.explain(corner, X, 0, method=Regions("blur"), n_samples=64)
    e.score = score
    known = {
        "enough_count": 2, "enough_share": 0.2, "enough_score": 0.85, "missing_count": None,
        "missing_share": None, "missing_score": None, "instead_label": None, "of_class": True,
        "baseline_score": 0.01,
    } | known  # fmt: skip
    e.provenance.pop("hardly_changed", None)
    e.provenance |= {"evidence": known}
    return e


def test_what_is_left_is_blurred_and_does_not_decide():
    """What decides a class is a part without which it is another one."""
    text = words_of(report(of_enough(), "corner", []))
    assert (
        "The model calls this “corner” (90 %). 20 % of the picture (within the solid line) is "
        "enough, and gives 85 % with the rest blurred. No part was found whose loss would change "
        "the class." in text
    )
    assert "decides" not in text
    found = {"missing_count": 1, "missing_share": 0.1, "instead_label": "y", "instead_score": 0.6}
    text = words_of(report(of_enough(**found), "corner", []))
    assert "decides it: 20 % of the picture is enough, and gives 85 % with the rest blurr" in text
    assert "With 10 % of the picture blurred (within the dashed line), it would be “y” (60" in text


def test_a_blurred_picture_that_scores_more():
    known = {"enough_count": None, "enough_share": None, "baseline_score": 0.95, "of_class": False}
    text = words_of(report(of_enough(**known), "corner", []))
    assert "With all of the picture blurred it would be 95 %, which is more." in text
    assert "No part" not in text


def test_the_regions_of_a_list_have_numbers_sizes_and_errors_alike():
    """A cell of 2 pixels is one of 4 of a photo that was reduced to half its side."""
    e = fwdgrad.explain(corner, X, 0, method=Regions("black", 2), n_samples=64)
    photo = np.zeros((16, 16, 3), np.uint8)
    panels = Panels(photo, 16, 16, Cut.of(16, 16, 8, "stretch"))
    page = report(e, "corner", [], panels=panels)
    (found,) = re.findall('<ol class="regions">(.*?)</ol>', page, re.S)
    lines = re.findall("<li>(.*?)</li>", found)
    for number, line in enumerate(lines, 1):
        assert re.match(rf"Region {number}, [a-z ]+, 4 x 4 pixels: (rais|lower)", line)
    assert len({", give or take " in line for line in lines}) == 1
    assert "Red parts raise the probability of “corner”" in words_of(page)
    assert ": raises the probability by " in lines[0]
    assert "in percentage points" in page.partition("Details")[2]


def test_an_unsure_model_and_a_small_picture_are_told_first():
    def lead(e):
        return words_of(report(e, "corner", [])).partition("The picture The")[0]

    assert "Careful" not in lead(of_enough(0.11))
    said = lead(of_enough(0.03))
    first = "Why “corner”? Careful: the model is unsure: it gives its first choice only 3 %."
    assert first in said
    assert "Careful: the model gives “corner” only 3 %." in lead(of_enough(0.03, of_class=False))
    small = of_enough(0.03)
    for side, is_told in ((3.0, True), (4.0, False)):
        small.provenance["picture"] = {
            "width": 4, "height": 4, "box": [0.0, 0.0, side, side], "scaled": [8, 8],
        }  # fmt: skip
        told = "first choice only 3 %. The picture is small: its 3 x 3 pixels were enlarged 3 times"
        assert (told in lead(small)) == is_told


def test_a_slope_is_told_as_no_change(folder):
    """Points of percentage are of what a part adds."""
    text = words_of(page_of(ForwardGradient(0.3))[1])
    assert ": raises it." in text
    assert "percentage points" not in text
    assert "noise added to the picture by chance" in text
    text = words_of(page_of(VarGrad(0.3))[1])
    assert ": matters." in text
    assert "raises it" not in text.partition("How sure")[0]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.953, "95 %"), (0.9999, "more than 99 %"), (1.0, "100 %"), (0.0151, "1.5 %"),
     (1.5e-4, "0.015 %"), (1e-7, "less than 0.001 %"), (0.0, "0 %")],
)  # fmt: skip
def test_probabilities_in_words(value, said):
    assert Scale("probability", True).of(value) == said


def test_what_is_not_a_probability_is_no_share(folder):
    light = lambda batch: batch.mean((1, 2, 3))  # noqa: E731
    e = fwdgrad.explain(light, X, method=Regions("black", 2), n_samples=64)
    text = words_of(report(e, "", []))
    assert f"What does the model’s answer depend on? The model’s answer is {e.score:.3g}." in text
    assert "raises the score by 0.0" in text
    assert "How was it checked? It was not." in text


def test_numbered_regions_have_the_map_s_values(made):
    heat, regions = made.e.heatmap(), re.findall("<li>(.*?)</li>", made.page)
    assert regions[0].startswith("Region 1, top middle, ")
    assert " pixels: raises the probability by " in regions[0]
    value = float(re.search(r"by ([\d.]+) percentage", regions[0])[1])
    assert value == pytest.approx(100 * float(heat.max()), rel=0.05)
    assert "lowers" not in regions[0]


def test_no_jargon_is_seen(made):
    text = words_of(made.page).lower()
    for word in ("logit", "softmax", "baseline", "attribution", "saliency", "auc", "n_samples",
                 "correlation", "spearman", "forward-gradient", "fdr", "objective"):  # fmt: skip
        assert word not in text


def test_headings_are_in_order(made):
    levels = [int(level) for level in re.findall("<h([1-6])", made.page)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_the_same_page_is_made_of_the_file(made, folder, capsys):
    """But for its steps: the sentences, and the lines around what was found."""
    Path("out").mkdir()
    made.e.save("out/explanation.safetensors")
    line = ["evaluate", "out/explanation.safetensors", "--model", "own:lamp", "--labels"]
    assert cli.main([*line, "labels.txt", "--steps", "10", "--report", "again.html"]) == 0
    again = Path("again.html").read_text(encoding="utf-8")
    first, other = (
        words_of(page).partition("How was it checked?")[2].partition("The map took")[0]
        for page in (made.page, again)
    )
    assert first == other
    assert "Solid line: the part that is enough" in again


def test_without_evidence_nothing_is_said_of_it(folder, capsys):
    told(capsys, "--report", "--output", "out", "--no-evidence")
    text = words_of(Path("out/report.html").read_text(encoding="utf-8"))
    assert "What raises the score of “lamp”? The probability of “lamp” is " in text
    assert "line" not in text.partition("The map")[0].replace("“", "")


def test_a_model_that_fails_then_does_not_cost_the_map(folder, capsys):
    _, err = told(capsys, "--report", "--output", "out", "--model", "own:fails_then")
    assert "there is no report, for what was found cannot be checked: the model failed" in err
    assert Explanation.load("out/explanation.safetensors").n_samples == 256
    assert not Path("out/report.html").exists()


def test_a_report_of_another_map_does_not_stay(folder, capsys):
    told(capsys, "--output", "out", "--report")
    told(capsys, "--output", "out")  # the same again: it is of this map
    assert Path("out/report.html").exists()
    told(capsys, "--output", "out", "--seed", "1", "--overwrite")
    assert not Path("out/report.html").exists()


def test_a_page_of_another_s_is_not_replaced(folder, capsys):
    Path("out").mkdir()
    Path("out/report.html").write_text("mine")
    _, err = told(capsys, "--report", "--output", "out", status=1)
    assert "--report: out/report.html exists and is no report" in err
    assert Path("out/report.html").read_text() == "mine"
    told(capsys, "--output", "out")
    told(capsys, "--output", "out", "--seed", "1", "--overwrite")
    assert Path("out/report.html").read_text() == "mine"


def test_the_index_links_each_report(folder, capsys):
    photos = ("photo.png", "other.png")
    told(capsys, "--output", "maps", photos=photos)
    assert "report.html" not in Path("maps/index.html").read_text(encoding="utf-8")
    out, _ = told(capsys, "--report", "--output", "maps", photos=photos)
    assert "2 explained" in out  # anew, for no report was there
    index = Path("maps/index.html").read_text(encoding="utf-8")
    for name in ("photo", "other"):
        assert f'<a href="{name}/report.html">' in index
        assert Path(f"maps/{name}/report.html").exists()
    assert "2 there already" in told(capsys, "--report", "--output", "maps", photos=photos)[0]
