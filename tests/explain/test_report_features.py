"""The report of a text and of a row: what its page says, against the explanation itself."""

import html
import itertools
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Explanation, cli
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.text import explain_text
from fwdgrad.cli.feature_report import check_of_features
from fwdgrad.report import report

pandas = pytest.importorskip("pandas")

OWN = '''
import numpy as np
import torch

calls = 0
WEIGHTS = {"brilliant": 2.4, "warm": 1.2, "fine": 0.8, "slow": -0.9, "silly": -1.4}


def feels(texts):
    """The probabilities of two classes, of which the second one is praise."""
    global calls
    calls += len(texts)
    sums = [sum(WEIGHTS.get(word.strip(",."), 0) for word in text.split()) for text in texts]
    one = torch.tensor(sums, dtype=torch.float64).sigmoid()
    return torch.stack([1 - one, one], 1)


def fails_then(texts):
    if calls > 520:
        raise OSError("the service is away")
    return feels(texts)


def pays(rows):
    z = 0.5 * (rows.income - 5) - 0.05 * (rows.age - 50) + (rows.town == "Ulm") - 0.3 * rows.loans
    one = 1 / (1 + np.exp(-z))
    return np.stack([1 - one, one], 1)


def three(rows):
    return pays(rows.assign(loans=0))
'''
TEXT = "A warm and brilliant film, slow and silly at times, with a fine ending and <b>no</b> end."


class Made(NamedTuple):
    out: str
    page: str
    e: Explanation
    calls: int  # that the model was asked


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    Path("own_features.py").write_text(OWN)
    Path("feelings.txt").write_text("blame\npraise\n")
    Path("answers.txt").write_text("no\nyes\n")
    rng = np.random.default_rng(0)
    data = pandas.DataFrame(
        {
            "age": rng.integers(20, 80, 30),
            "income": rng.uniform(1, 9, 30).round(2),
            "town": rng.choice(["Ulm", "Bonn"], 30),
            "loans": rng.integers(0, 5, 30),
        }
    )
    data.to_csv("data.csv", index=False)
    data.iloc[[3]].to_csv("row.csv", index=False)
    yield tmp_path
    sys.modules.pop("own_features", None)


OF_TEXT = ("--text", TEXT, "--model", "own_features:feels", "--labels", "feelings.txt",
           "--samples", "512")  # fmt: skip
OF_ROW = ("--table", "row.csv", "--background", "data.csv", "--model", "own_features:pays",
          "--labels", "answers.txt")  # fmt: skip


def told(capsys, *line, status=0):
    found = cli.main(["explain", *line, "--no-progress"])
    out, err = capsys.readouterr()
    assert found == status, err
    return out, err


def made(capsys, *line):
    out, _ = told(capsys, *line, "--output", "out", "--report")
    page = Path("out/report.html").read_text(encoding="utf-8")
    e = Explanation.load("out/explanation.safetensors")
    return Made(out, page, e, sys.modules["own_features"].calls)


def words_of(page):
    """The page's text, outside of what is folded."""
    text = re.sub("<style>.*?</style>|<details>.*?</details>|<svg.*?</svg>", "", page, flags=re.S)
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).replace("\xa0", " ").split())


def listed(page):
    (found,) = re.findall('<ul class="features">(.*?)</ul>', page, re.S)
    return [html.unescape(one) for one in re.findall("<li>(.*?)</li>", found)]


def test_a_text(folder, capsys):
    out, page, e, calls = made(capsys, *OF_TEXT)
    known, text = e.provenance["evidence"], words_of(page)
    assert "Why “praise”?" in text
    assert f"The model gives this text {100 * e.score:.0f} % for “praise”." in text
    assert "The underlined word decides it: 1 of 27 words is enough, and gives 92 % by " in text
    assert known["enough_count"] == 1
    marked = re.findall(r'<span( class="enough")? title="[^"]*" style="[^"]*">(.*?)</span>', page)
    assert [word for line, word in marked if line] == ["brilliant"]
    without = known["missing_count"]
    order = e.attribution.argsort(descending=True)[:without].sort().values
    words = [TEXT[slice(*e.provenance["spans"][i])] for i in order.tolist()]
    named = " and ".join(f"“{word}”" for word in words)
    assert f"Without {named}, it would be “blame” (" in text
    # What it raises and lowers, by the explanation's own values.
    first, *_ = lines = listed(page)
    assert first.startswith("“brilliant”: raises the probability by ")
    by = float(re.search(r"by ([\d.]+) percentage", first)[1])
    assert by == pytest.approx(100 * float(e.attribution.max()), rel=0.03)
    assert [line.split("”")[0][1:] for line in lines if "lowers" in line] == ["silly", "slow"]
    (count,) = re.findall(r"(\d+) of 27 words counts? for more than chance would give\.", text)
    assert int(count) > 1
    assert "Expect about one in twenty of these to be there by chance" in text
    # A marked word is as strong as its value; markup in the text is text.
    colours = dict(re.findall(r'rgba\((219,91,38|[\d,]+),[\d.]+\)">(\w+)<', page))
    assert colours
    assert "&lt;b" not in page.replace("&lt;", "<")
    assert "<b>no" not in page
    assert page.count("<svg") == 2
    (checked,) = re.findall(r"report       out/report.html \((\d+) forward calls", out)
    assert int(checked) <= e.n_samples / 5
    assert f"The explanation took 512 calls of the model, and this check {checked} more." in text
    # Equal texts are asked once, and the text itself is known.
    assert 0 < calls <= 2 + e.n_samples + known["calls"] + int(checked)
    assert "the explanation finds what counts sooner than chance does" in text


def test_the_check_is_of_the_model(folder, capsys):
    _, page, e, _ = made(capsys, *OF_TEXT)
    own = sys.modules["own_features"]
    spans = e.provenance["spans"]
    order = e.attribution.argsort(descending=True, stable=True)[:7].sort().values.tolist()
    best = " ".join(TEXT[slice(*spans[i])] for i in order)
    put = float(own.feels([best])[0, 1])
    assert len(spans) == 27  # of which a quarter is told
    text = words_of(page)
    (said,) = re.findall("Putting the 7 words that rank highest.*?from 50 % to (.*?) %", text)
    assert float(said.split()[-1]) == pytest.approx(100 * put, abs=6)  # between two steps


def test_a_row(folder, capsys):
    out, page, e, _ = made(capsys, *OF_ROW)
    known, text = e.provenance["evidence"], words_of(page)
    label = e.provenance["label"]
    assert f"The model gives this row {100 * e.score:.0f} % for “{label}”." in text
    assert f"{known['enough_count']} of 4 columns " in text
    (bars,) = re.findall('<ul class="bars">(.*?)</ul>', page, re.S)
    names = re.findall('class="name">(.*?) <small>', bars)
    values = [float(v.replace("−", "-")) for v in re.findall(r'class="value">([^<]*)', bars)]
    order = e.attribution.abs().argsort(descending=True)
    columns = ["age", "income", "town", "loans"]
    assert names == [columns[i] for i in order.tolist()]
    assert values == pytest.approx((100 * e.attribution[order]).tolist(), abs=0.06)
    assert "Nothing here was left to chance" in text
    assert "Values compare this row with 30 other rows" in text
    assert "± 0" not in bars
    assert page.count("<svg") == 2
    assert "forward calls checked it" in out


def test_a_column_s_bar_is_as_long_as_its_value(folder, capsys):
    page, e = made(capsys, *OF_ROW)[1:3]
    found = re.findall(r'<i style="left:([\d.]+)%;width:([\d.]+)%', page)
    wide = torch.tensor([float(width) for _, width in found])
    sizes = e.attribution.abs().sort(descending=True).values.float()
    assert torch.allclose(wide / wide[0], sizes / sizes[0], atol=2e-3)
    for left, width in found:
        assert 0 <= float(left) <= float(left) + float(width) <= 100.02


def test_the_plot_has_the_unit_of_the_page(folder, capsys):
    """Percentage points, of a row and of a text; a score has none."""
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    own = TextModel(lambda texts: [[t.count("fine") / 4, 1 - t.count("fine") / 4] for t in texts])
    text = fwdgrad.explain(own, "a fine end", 0, n_samples=64)
    row = fwdgrad.explain(TableModel(lambda rows: rows.sum(1), LINES), LINES[0])
    for result, unit, largest in ((text, ", in percentage points", 25), (row, "", 10)):
        ax = result.plot()
        assert ax.get_xlabel().endswith("points") == bool(unit)
        assert max(abs(bar.get_width()) for bar in ax.patches) == pytest.approx(largest)
        plt.close(ax.figure)


def test_the_same_sections_in_the_same_order(folder, capsys):
    pages = [made(capsys, *line, "--overwrite").page for line in (OF_TEXT, OF_ROW)]
    for page, own in zip(pages, ("The text", "The row"), strict=True):
        assert re.findall("<h2>(.*?)</h2>", page) == [
            own, "What raises the answer, and what lowers it", "How sure is that?",
            "How was it checked?", "Details",
        ]  # fmt: skip
        levels = [int(level) for level in re.findall("<h([1-6])", page)]
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        for word in ("logit", "softmax", "baseline", "attribution", "auc", "n_samples",
                     "correlation", "coalition", "banzhaf", "objective"):  # fmt: skip
            assert word not in words_of(page).lower()


def test_several_classes_share_the_calls_of_the_check(folder, capsys):
    both = ("--target", "yes", "--target", "no")
    out, _ = told(capsys, *OF_ROW, *both, "--output", "out", "--report")
    assert Path("out/report-yes.html").exists()
    assert Path("out/report-no.html").exists()
    assert out.count("forward calls checked it") == 2


def test_three_columns_have_no_order_to_check(folder, capsys):
    for name in ("data.csv", "row.csv"):
        pandas.read_csv(name).drop(columns="loans").to_csv(name, index=False)
    line = [*OF_ROW]
    line[line.index("own_features:pays")] = "own_features:three"
    out, page, _, _ = made(capsys, *line)
    assert "report       out/report.html (not checked: so few features" in out
    assert "<svg" not in page
    assert "What is enough and what is needed was tried on the model itself (" in words_of(page)


@pytest.mark.parametrize("line", [OF_TEXT, OF_ROW])
def test_a_page_needs_a_folder(folder, capsys, line):
    _, err = told(capsys, *line, "--report", status=1)
    assert err == "fwdgrad: error: --report needs --output, the folder of its page\n"


def test_a_model_that_fails_then_does_not_cost_the_explanation(folder, capsys):
    line = [*OF_TEXT, "--model", "own_features:fails_then", "--output", "out", "--report"]
    _, err = told(capsys, *line)
    assert "there is no report, for what was found cannot be checked: the model failed" in err
    assert Explanation.load("out/explanation.safetensors").n_samples == 512
    assert not Path("out/report.html").exists()


def test_a_report_of_another_explanation_does_not_stay(folder, capsys):
    told(capsys, *OF_TEXT, "--output", "out", "--report")
    told(capsys, *OF_TEXT, "--output", "out")  # the same again
    assert Path("out/report.html").exists()
    told(capsys, *OF_TEXT, "--output", "out", "--seed", "1", "--overwrite")
    assert not Path("out/report.html").exists()
    Path("out/report.html").write_text("mine")
    _, err = told(capsys, *OF_TEXT, "--output", "out", "--report", "--overwrite", status=1)
    assert "--report: out/report.html exists and is no report" in err


def test_the_index_links_each_report(folder, capsys):
    Path("lines.txt").write_text("A warm and fine film\nA slow and silly one\n")
    line = ("--texts", "lines.txt", *OF_TEXT[2:], "--output", "maps")
    told(capsys, *line)
    out, _ = told(capsys, *line, "--report")
    assert "2 explained" in out  # anew, for no report was there
    reports = sorted(Path("maps").glob("*/report.html"))
    assert len(reports) == 2
    index = Path("maps/index.html").read_text(encoding="utf-8")
    for path in reports:
        assert f'<a href="{path.parent.name}/report.html">' in index


def test_the_lines_on_the_page_repeat_the_run(folder, capsys):
    page, e = made(capsys, *OF_TEXT)[1:3]
    code = html.unescape(re.findall('<pre tabindex="0"><code>(.*?)</code>', page, re.S)[0])
    assert "scores = ...  # from a list of texts to scores: own_features:feels" in code
    assert torch.equal(run(code, scores=sys.modules["own_features"].feels), e.attribution)


def run(code, **given):
    """What the lines of a page explain, once their dots are filled in."""
    names: dict[str, Any] = {f"{name}_given": value for name, value in given.items()}
    for name in given:
        code, count = re.subn(rf"^{name} = \.\.\..*$", f"{name} = {name}_given", code, flags=re.M)
        assert count == 1
    assert "..." not in code
    *lines, last = code.replace("'explanation.saf", "'out/explanation.saf").split("\n")
    exec("\n".join([*lines, f"again = {last}"]), names)
    return names["again"].explanation.attribution


@pytest.mark.parametrize(
    "options", [(), ("--group", "money=income,loans", "--max-background", "20")]
)
def test_the_lines_on_the_page_of_a_row_repeat_the_run(folder, capsys, options):
    """The row stands in them; the model and its data are to be filled in."""
    page, e = made(capsys, *OF_ROW, *options)[1:3]
    code = html.unescape(re.findall('<pre tabindex="0"><code>(.*?)</code>', page, re.S)[0])
    assert "predict = ...  # from rows to scores: own_features:pays" in code
    assert "background = ...  # the other rows: pandas.read_csv('data.csv')" in code
    given = {"predict": sys.modules["own_features"].pays, "background": pandas.read_csv("data.csv")}
    assert torch.equal(run(code, **given), e.attribution)


def test_the_lines_on_a_page_with_a_mask(folder, capsys):
    page, e = made(capsys, *OF_TEXT, "--mask", "so", "--split", "words")[1:3]
    code = html.unescape(re.findall('<pre tabindex="0"><code>(.*?)</code>', page, re.S)[0])
    assert "model = TextModel(scores, mask='so', split='words')" in code
    assert torch.equal(run(code, scores=sys.modules["own_features"].feels), e.attribution)


def test_words_by_their_embeddings():
    torch.manual_seed(0)
    model = LSTMClassifier(["a", "fine", "film", "dull"], ["bad", "good"]).eval()
    for options, said in (
        ({"share_channels": True}, ": raises the probability (+"),
        ({"reduce": "norm"}, ": matters ("),
    ):
        words = explain_text(model, "A fine film, a dull film", "bad", n_samples=512, **options)
        check, orders = check_of_features(model, words)
        assert check.calls <= 512 / 5
        assert orders >= 1
        zeros = model(torch.zeros_like(model.encode(words.text).embeddings)[None]).softmax(1)
        target = words.explanation.target
        assert check.deleted.scores[0] == pytest.approx(words.explanation.score, abs=1e-5)
        assert check.inserted.scores[0] == pytest.approx(zeros[0, target].item(), abs=0.05)
        text = words_of(report(words, words.label, [], check.deleted, check.inserted))
        assert said in text
        assert "percentage points" not in text
        assert "with noise added to the words by chance" in text


def test_a_score_that_is_no_probability():
    count = TextModel(lambda texts: torch.tensor([2.0 * text.count("fine") for text in texts]))
    words = fwdgrad.explain(count, "A fine film as fine as any", n_samples=128)
    text = words_of(report(words, words.label, []))
    assert "The model gives this text a score of 4." in text
    assert "“fine” (word 2): raises the score by 2." in text
    assert "“fine” (word 5): raises the score by 2." in text
    assert "No word lowers it." in text
    assert "How was it checked? It was not." in text


def test_a_mask_with_braces_and_no_evidence():
    model = TextModel(
        lambda texts: torch.tensor([2.0 * text.count("fine") for text in texts]), mask="{x}"
    )
    words = fwdgrad.explain(model, "A fine film as fine as any", n_samples=128)
    check, _ = check_of_features(model, words)
    curves = {"chance": check.chance, "calls": check.calls}
    text = words_of(report(words, words.label, [], check.deleted, check.inserted, **curves))
    assert "Replacing the 2 words that rank highest by {x} takes the score from 4 to 0" in text
    assert "Putting the 2 words that rank highest into a blank text takes it from 0 to 4" in text
    assert "enough" not in text


LINES = np.array([[10.0, 20.0, 3.0, 0.0], [30.0, 40.0, 5.0, 0.0]])


def page_of_row(row, predict=lambda rows: rows.sum(1), known=True):
    model = TableModel(predict, LINES, feature_names=["age", "rooms", "noise", "c"])
    result = fwdgrad.explain(model, row)
    if known:
        result.explanation.provenance["evidence"] = fwdgrad.evidence(model, result).to_dict()
    check, _ = check_of_features(model, result)
    more = {"chance": check.chance, "calls": check.calls}
    return check, report(result, "price", [], check.deleted, check.inserted, **more)


@pytest.mark.parametrize("known", [True, False])
def test_a_row_below_the_other_rows(known):
    """What lowers its score comes first: in the lead, the list, and the order of the check."""
    check, page = page_of_row([10.0, 5.0, 5.0, 0.0], known=known)
    text = words_of(page)
    assert ("The model gives this row 20, 34 below the 54 of the other rows (their mean score). "
            "“rooms” (−25) and “age” (−10) lower it most." in text) == known  # fmt: skip
    assert re.fullmatch(r"rooms = 5(.0)?: lowers the score by 25\.", listed(page)[0])
    assert check.below
    assert check.deleted.scores.tolist() == [20, 45, 55, 55, 54]  # rooms, age, c, noise
    assert check.inserted.scores.tolist() == [54, 29, 19, 19, 20]
    assert "those first that lower the answer most" in text
    assert "the answer rises early as columns are replaced, and falls early" in text
    assert "Filling the 1 column that lowers the score most from other rows takes" in text
    assert "the explanation finds what counts sooner than chance does" in text
    assert "no better than chance" not in text
    assert "enough" not in text


def test_a_row_above_the_other_rows():
    check, page = page_of_row([30.0, 35.0, 5.0, 0.0])
    assert not check.below
    assert check.deleted.scores.tolist() == [70, 60, 55, 54, 54]
    assert "below the" not in words_of(page)


def test_a_probability_below_that_of_the_other_rows():
    """The class is told, and the change in percentage points, once."""
    predict = lambda rows: np.stack([rows.sum(1) / 100, 1 - rows.sum(1) / 100], 1)  # noqa: E731
    model = TableModel(predict, LINES, labels=["yes", "no"])
    row = fwdgrad.explain(model, [10.0, 5.0, 5.0, 0.0], "yes")
    row.explanation.provenance["evidence"] = fwdgrad.evidence(model, row).to_dict()
    assert (
        "The model gives this row 20 % for “yes”, 34 percentage points below the 54 % of the other "
        "rows (their mean). “x1” (−25 percentage points) and “x0” (−10 percentage points) lower it "
        "most." in words_of(report(row, "yes", []))
    )


def test_what_is_too_small_to_be_listed_is_not_denied():
    model = TableModel(lambda rows: rows @ [2000.0, -1.0, 0.0, 0.0], np.zeros((1, 4)))
    page = report(fwdgrad.explain(model, np.ones(4)), "price", [])
    assert listed(page) == ["x0 = 1: raises the score by 2,000."]
    assert "No column lowers it" not in page
    assert "The model gives this row a score of 1,999." in words_of(page)


def test_names_and_values_are_text():
    model = TableModel(
        lambda rows: rows.sum(1), np.zeros((1, 4)), feature_names=["<i>", "b", "c", "d"]
    )
    row = fwdgrad.explain(model, np.array([1.0, 2.0, 3.0, 4.0]))
    page = report(row, "a<b>", [])
    assert "<i>" not in re.sub("<i style", "", page)
    assert "&lt;i&gt;" in page


def test_numbers_are_told_to_five_digits():
    model = TableModel(lambda rows: rows @ [8.0, 4.0, 2.0, 1.0], np.zeros((1, 4)))
    page = report(fwdgrad.explain(model, np.array([0.1 + 0.2, 1 / 3, 12345.678, 1.0])), "price", [])
    assert "0.30000" not in page.partition("How to repeat it")[0]
    assert page.count("<small>0.3</small>") == 2  # beside the bars, and under Details
    assert page.count("<small>0.33333</small>") == 2
    assert listed(page)[0] == "x2 = 12346: raises the score by 24,691."
    assert "1 other row," in words_of(page)


def test_what_is_neither_picture_nor_words():
    e = fwdgrad.explain(lambda batch: batch.sum(1), torch.ones(3), method="gradient")
    with pytest.raises(ValueError, match=r"must be of a picture .*, a text or a row of a table"):
        report(e, "sum", [])


def test_several_rows_need_no_folder_named(folder, capsys):
    rows = pandas.read_csv("data.csv").iloc[:2]
    rows.to_csv("rows.csv", index=False)
    told(capsys, *OF_ROW, "--table", "rows.csv", "--report", "--samples", "8")
    assert len(list(Path().glob("*/row-000?/report.html"))) == 2
