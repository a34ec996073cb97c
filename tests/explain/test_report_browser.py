"""The report of a map and the page of several, as a browser shows them."""

import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import Explanation, ForwardGradient
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.tables import TableModel
from fwdgrad.metrics import Curve, deletion, insertion
from fwdgrad.report import Number, report
from fwdgrad.report.index import index_page

from .models import mostly_slow

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DARK = "--blink-settings=preferredColorScheme=0"

# Added to a copy of the page: where everything lies, for a test to read.
PROBE = """<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] };
parent.document.body.dataset.layout = JSON.stringify({
  width: innerWidth,
  widest: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  pictures: [...document.images].map(box),
  loaded: [...document.images].map(e => e.naturalWidth),
  curves: [...document.querySelectorAll("svg")].map(box),
  lines: [...document.querySelectorAll(".line")].map(box),
  ticks: [...document.querySelectorAll(".tick")].map(box),
  font: [...document.querySelectorAll(".tick")].map(e => e.getBoundingClientRect().height),
});
</script>"""

EVIDENCE = {
    "enough_count": 40, "enough_share": 0.22, "enough_score": 0.93, "missing_count": 20,
    "missing_share": 0.11, "missing_score": 0.3, "instead_label": "plain (class 1)",
    "instead_score": 0.7, "of_class": True,
}  # fmt: skip


def axe_core():
    """Deque's axe-core: what a page's reader by keyboard or by ear would stumble over.

    AXE_CORE names the file; else it is that of axe-playwright-python, without Playwright.
    """
    if given := os.environ.get("AXE_CORE"):
        return Path(given)
    found = importlib.util.find_spec("axe_playwright_python")
    return found and Path(found.origin).with_name("axe.min.js")


AXE = axe_core()
needs_axe = pytest.mark.skipif(AXE is None, reason="needs axe-core: of axe-playwright-python")


def stripes(batch):
    """Class 0 has stripes in the upper left quarter: a blur has none."""
    quarter = batch[:, :, : batch.shape[-2] // 2, : batch.shape[-1] // 2]
    contrast = quarter.diff(dim=3).abs().mean((1, 2, 3))
    return torch.stack([4 * contrast, 0 * contrast], 1)


@pytest.fixture(scope="module")
def page():
    x = torch.full((3, 128, 128), 0.5)
    x[:, :64, 0:64:2], x[:, :64, 1:64:2], x[:, 64:, 64:] = 0.9, 0.1, 0.1
    attribution = torch.zeros(3, 128, 128)
    attribution[:, :64, :64], attribution[:, 64:, 64:] = 1.0, -1.0
    attribution[:, 32:96, 32:96] /= 2
    explanation = Explanation(
        attribution, torch.rand(3, 128, 128) / 9, 0.9, 640, 0, 0.96, "probability",
        ForwardGradient(scale=0.1, design="hadamard"), None, 0, x, 1.5,
        provenance={"input_sha256": "78df4db7d7dfdc268c2c6012addccb5bee15b64a83cdef677eb547b32ab1"},
    )  # fmt: skip
    curves = [
        follow(stripes, x, explanation, 0, steps=32, fill=0.5) for follow in (deletion, insertion)
    ]
    chance = [
        follow(stripes, x, torch.rand(128, 128), 0, steps=32, fill=0.5, objective="probability")
        for follow in (deletion, insertion)
    ]
    explanation.provenance["evidence"] = EVIDENCE
    numbers = [Number("a long name", "12345.678", "and a note that takes more than a line " * 2)]
    label = "Nebuchadnezzar’sverylongbreedofdogs with a name that no line of a phone can hold"
    command = "fwdgrad evaluate " + "a-long-folder/" * 12 + "map.safetensors --report out.html"
    return report(
        explanation, label, numbers, *curves, chance=chance, calls=136, command=command
    ).replace("<details>", "<details open>")


def browse(tmp_path, text, width, height, *flags):
    """What Chromium prints, asked by flags about the page in a window of a size."""
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    line = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags]
    line += [f"--window-size={width},{height}", path.as_uri()]
    return subprocess.run(
        line, capture_output=True, timeout=120, check=True, text=True, encoding="utf-8"
    ).stdout


def layout(tmp_path, page, width):
    """Where everything lies; in a frame, since a window is not narrower than 500 pixels."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert text != page  # it would not let the probe run
    text = html.escape(text.replace("</body>", PROBE + "</body>"))
    size = f'width="{width}" height="1000" style="border:0"'
    dom = browse(
        tmp_path, f'<body><iframe {size} srcdoc="{text}"></iframe>', 1300, 1100, "--dump-dom"
    )
    found = re.search(r'data-layout="([^"]*)"', dom)
    return json.loads(html.unescape(found[1]))


def screenshot(tmp_path, page, width, height, *flags):
    path = tmp_path / "shot.png"
    browse(tmp_path, page, width, height, f"--screenshot={path}", *flags)
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (height, width, 3)
    return pixels


def cut(pixels, box):
    left, top, width, height = (round(value) for value in box)
    return pixels[top : top + height, left : left + width]


def near(pixels, colour, by):
    """Where a colour is: (height, width), true or false."""
    return (abs(pixels - np.array(colour)) <= by).all(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "flags", "paper", "deleted", "inserted"),
    [
        (1200, [], (255, 255, 255), (154, 91, 0), (11, 122, 111)),
        (1200, [DARK], (23, 23, 26), (229, 165, 61), (79, 195, 180)),
        (390, [], (255, 255, 255), (154, 91, 0), (11, 122, 111)),
        (390, [DARK], (23, 23, 26), (229, 165, 61), (79, 195, 180)),
    ],
    ids=["wide-light", "wide-dark", "phone-light", "phone-dark"],
)
def test_what_is_seen(tmp_path, page, width, flags, paper, deleted, inserted):
    places = layout(tmp_path, page, width)
    pixels = screenshot(tmp_path, page, width, places["height"], *flags)
    assert (pixels[:, :12] == paper).all()  # nothing reaches the window's sides
    assert (pixels[:, -12:] == paper).all()
    assert len(places["pictures"]) == 3
    photo, heat, error = (cut(pixels, box)[4:-4, 4:-4] for box in places["pictures"])
    half = len(photo) // 2
    assert photo[: half - 8, : half - 8].std() > 20
    assert photo[: half - 8, half + 8 :].std() < 1
    assert near(photo[half + 8 :, half + 8 :], 26, 4).all()
    red, blue = heat[..., 0] - heat[..., 2] > 40, heat[..., 2] - heat[..., 0] > 40
    assert red[: half - 8, : half - 8].mean() > 0.95
    assert blue[half + 8 :, half + 8 :].mean() > 0.95
    assert red.sum() == red[: half + 8, : half + 8].sum()
    assert blue.sum() == blue[half - 8 :, half - 8 :].sum()
    assert error.std() > 10  # it is drawn
    colours = (deleted, inserted)
    for box, colour, falls in zip(places["lines"], colours, (True, False), strict=True):
        left, top, across, down = box
        line = near(cut(pixels, (left, top - 2, across, down + 4)), colour, 100)
        assert line.any(0).mean() > 0.97  # from side to side of the axes
        ends = [np.flatnonzero(line[:, at]).mean() for at in (2, -3)]
        change = (ends[1] - ends[0]) / down
        assert (change if falls else -change) > 0.8


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_the_page_fits_the_window(tmp_path, page, width):
    places = layout(tmp_path, page, width)
    assert places["width"] == width
    assert places["widest"] == width
    assert places["loaded"] == [640, 640, 128]
    for left, _, wide, tall in places["pictures"]:
        assert left >= 16
        assert left + wide <= width - 16
        assert wide == pytest.approx(tall, abs=1)
        assert wide > 200
    columns = {round(left) for left, *_ in places["pictures"]}
    assert len(columns) == {390: 1, 768: 2, 1200: 2}[width]
    for svg, line in zip(places["curves"], places["lines"], strict=True):
        assert svg[0] < line[0]
        assert line[0] + line[2] < svg[0] + svg[2]
        assert svg[1] < line[1]
        assert line[1] + line[3] < svg[1] + svg[3]


def of_words():
    """The page of a text of which a word is longer than a phone is wide."""

    def count(texts):
        return torch.tensor([2.0 * text.count("fine") - text.count("dull") for text in texts])

    text = f"A fine film, {'very' * 30} fine, if dull. " + "And more of it. " * 4
    return fwdgrad.explain(TextModel(count), text, n_samples=128)


def of_columns():
    """The page of a row whose names and values are long."""
    names = [f"{'a long name ' * n}{'x' * 60}" for n in range(5)]
    weights = np.array([3.0, -2.0, 1.0, 0.5, -0.1])
    model = TableModel(lambda rows: rows @ weights, np.zeros((2, 5)), feature_names=names)
    return fwdgrad.explain(model, np.array([1.0, 1e-9, 123456.789, 1.0, 2.0]))


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("result", [of_words, of_columns])
def test_texts_and_rows_fit_the_window(tmp_path, width, result):
    found = result()
    curve = Curve(torch.tensor([1.0, 0.4, 0.2]))
    numbers = [Number("a long name", "12345.678", "and a note that takes more than a line " * 2)]
    page = report(
        found, found.label or "it", numbers, curve, curve, chance=(curve, curve), calls=40
    ).replace("<details>", "<details open>")
    places = layout(tmp_path, page, width)
    assert places["width"] == places["widest"] == width
    assert len(places["curves"]) == 2


@pytest.mark.parametrize("width", mostly_slow([390, 1200, 360, 500, 768, 850], keep=2))
def test_the_axes_can_be_read(tmp_path, page, width):
    places = layout(tmp_path, page, width)
    assert 12 <= min(places["font"]) <= max(places["font"]) <= 21  # pixels, of a line
    for tick in places["ticks"]:  # none is cut off
        assert any(
            svg[0] - 1 <= tick[0] and tick[0] + tick[2] <= svg[0] + svg[2] + 1
            and svg[1] - 1 <= tick[1] and tick[1] + tick[3] <= svg[1] + svg[3] + 1
            for svg in places["curves"]
        )  # fmt: skip
    for svg in places["curves"]:  # none lies on another
        inside = [t for t in places["ticks"] if svg[0] <= t[0] + t[2] / 2 <= svg[0] + svg[2]]
        inside = [t for t in inside if svg[1] <= t[1] + t[3] / 2 <= svg[1] + svg[3]]
        assert len(inside) >= 9
        for i, a in enumerate(inside):
            for b in inside[:i]:
                apart = a[0] > b[0] + b[2] or b[0] > a[0] + a[2]
                assert apart or a[1] + 2 > b[1] + b[3] or b[1] + 2 > a[1] + a[3]


def stumbles(tmp_path, text, width, *flags):
    """What axe-core finds wrong with a page in a window of a width; the page may be in a frame."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    script = AXE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    run = (
        "axe.run().then(found => { parent.document.body.dataset.axe = JSON.stringify({width: "
        "innerWidth, passes: found.passes.length, violations: found.violations.map(one => "
        "[one.id, one.nodes.map(node => node.html)])}) })"
    )
    text = text.replace("</body>", f"<script>{script}</script><script>{run}</script></body>")
    if width < 500:  # see layout
        size = f'width="{width}" height="1000" style="border:0"'
        text = f'<body><iframe title="page" {size} srcdoc="{html.escape(text)}"></iframe>'
    wide = max(width, 600)
    dom = browse(tmp_path, text, wide, 1000, "--virtual-time-budget=20000", "--dump-dom", *flags)
    found = json.loads(html.unescape(re.search(r'data-axe="([^"]*)"', dom)[1]))
    assert found["width"] == (width if width < 500 else wide)
    assert found["passes"] > 15
    return found["violations"]


@pytest.mark.slow
@needs_axe
@pytest.mark.parametrize("flags", [[], [DARK]], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_stands_in_a_reader_s_way(tmp_path, page, width, flags):
    assert stumbles(tmp_path, page, width, *flags) == []


@pytest.mark.slow
@needs_axe
def test_what_stands_in_a_reader_s_way_is_found(tmp_path, page):
    """In a frame, too: a picture without words, and words too pale to read."""
    bad = page.replace("</main>", '<img src=""><p style="color:#bbb;background:#fff">pale</main>')
    assert bad != page
    found = {name for name, _ in stumbles(tmp_path, bad, 390)}
    assert found == {"image-alt", "color-contrast"}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """The page of two photos' maps, of a text's, and of a photo that failed."""
    folder = tmp_path_factory.mktemp("maps")
    maps = []
    for name in ("cat.png", "a-long-name-of-a-photo-that-no-line-of-a-phone-can-hold.png"):
        own = folder / name
        own.mkdir()
        explanation = fwdgrad.explain(lambda b: b.mean((1, 2, 3)), torch.rand(3, 16, 16))
        explanation.provenance |= {"photo": {"name": name}, "label": "tabby, tabby cat"}
        explanation.save(own / "explanation.safetensors")
        Image.new("RGB", (64, 48), "grey").save(own / "heatmap.png")
        (own / "report.html").write_text("report", encoding="utf-8")
        maps.append({own / "explanation.safetensors": own / "heatmap.png"})
    own = folder / "line 1"
    own.mkdir()
    model = TextModel(lambda texts: [2.0 * text.count("fine") - 1 for text in texts])
    words = fwdgrad.explain(model, "A fine film " * 40, n_samples=128)
    words.save(own / "explanation.safetensors")
    (own / "words.html").write_text(words.to_html(), encoding="utf-8")
    maps.append({own / "explanation.safetensors": own / "words.html"})
    return index_page(maps, {"dog.png": "photo dog.png cannot be read: it is " + "damaged" * 9})


@pytest.mark.slow
@needs_axe
@pytest.mark.parametrize(
    ("width", "flags"), [(390, [DARK]), (390, []), (1200, [])], ids=["phone-dark", "phone", "wide"]
)
def test_nothing_in_the_index_stands_in_a_reader_s_way(tmp_path, index, width, flags):
    assert stumbles(tmp_path, index, width, *flags) == []


def test_the_index_fits_a_phone(tmp_path, index):
    places = layout(tmp_path, index, 390)
    assert places["width"] == places["widest"] == 390
    assert len(places["pictures"]) == 2
