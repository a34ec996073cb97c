"""An explanation that is loaded is of the kind that was saved, and shows the same."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import fwdgrad
from fwdgrad import cli
from fwdgrad.adapters.detection import Detections
from fwdgrad.adapters.lstm import LSTMClassifier
from fwdgrad.adapters.picture_explanation import PictureExplanation
from fwdgrad.adapters.pictures import ImageModel
from fwdgrad.adapters.strings import TextModel
from fwdgrad.adapters.table_explanation import TableExplanation
from fwdgrad.adapters.tables import TableModel
from fwdgrad.adapters.text import explain_text
from fwdgrad.adapters.word_explanation import TextExplanation
from fwdgrad.files import read_tensors, write_tensors

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

TEXT = "A <b>fine</b> film, no fine énd"


def of_words(**options):
    model = TextModel(lambda texts: [2.0 * t.count("fine") - t.count("no") for t in texts])
    return fwdgrad.explain(model, TEXT, n_samples=128, **options)


def of_sentences():
    model = TextModel(lambda texts: [float(len(t)) for t in texts], split="sentences", mask="...")
    return fwdgrad.explain(model, "One. Another one. A third.")


def of_embeddings():
    torch.manual_seed(0)
    model = LSTMClassifier(["a", "fine", "dull", "film"], ["bad", "good"], width=8, hidden=8).eval()
    return explain_text(model, "A fine film, not dull", "good", n_samples=64, reduce="norm")


def of_row():
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame({"age": [30, 50], "town": ["Ulm", "Bonn"], "nan": [1.5, np.nan]})
    model = TableModel(
        lambda frame: np.stack([frame["age"] / 99, 1 - frame["age"] / 99], 1),
        rows,
        labels=["buys", "leaves"],
    )
    return fwdgrad.explain(model, {"age": 44, "town": "Ulm", "nan": np.nan}, "leaves")


def photo_of(height, width):
    levels = np.arange(height * width * 3) % 251
    return levels.reshape(height, width, 3).astype(np.uint8)


def of_photo(height=40, width=60, **options):
    def model(batch):
        return torch.stack([batch[..., :16, :16].mean((1, 2, 3)), batch.mean((1, 2, 3))], 1)

    wrapped = ImageModel(model, size=32, fit="pad", labels=["left", "all"])
    options = {"method": fwdgrad.Regions("black", cell=8), "n_samples": 64, **options}
    return fwdgrad.explain(wrapped, photo_of(height, width), "left", **options)


def of_detection():
    def finds(batch):
        return [[((0, 0, 16, 16), "lamp", float(one[:, :16, :16].mean()))] for one in batch]

    method = fwdgrad.Regions("black", cell=8)
    lamp = Detections([((0, 0, 16, 16), "lamp")])
    model = ImageModel(finds, size=32)
    photo = photo_of(48, 48)
    return fwdgrad.explain(model, photo, 0, objective=lamp, method=method, n_samples=64)


KINDS = {
    "words": (of_words, TextExplanation),
    "sentences": (of_sentences, TextExplanation),
    "embeddings": (of_embeddings, TextExplanation),
    "row": (of_row, TableExplanation),
    "photo": (of_photo, PictureExplanation),
    "detection": (of_detection, PictureExplanation),
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "e.safetensors"


def drawn(explanation):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    explanation.plot(figure.subplots())
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def assert_shown_alike(loaded, saved):
    assert type(loaded) is type(saved)
    assert repr(loaded) == repr(saved)
    assert loaded.to_json() == saved.to_json()
    assert repr(loaded.top(99)) == repr(saved.top(99))
    assert loaded.heatmap().equal(saved.heatmap())
    assert np.array_equal(drawn(loaded), drawn(saved))
    assert loaded._repr_html_() == saved._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_saved(kind, file):
    make, of = KINDS[kind]
    saved = make()
    saved.save(file)
    loaded = fwdgrad.Explanation.load(file)
    assert isinstance(saved, of)
    assert_shown_alike(loaded, saved)
    if of is not PictureExplanation:
        assert loaded.to_html() == saved.to_html()
        assert str(loaded) == str(saved)
    for field in dataclasses.fields(saved):
        one, other = getattr(loaded, field.name), getattr(saved, field.name)
        if isinstance(other, torch.Tensor):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        elif isinstance(other, np.ndarray):
            assert np.array_equal(one, other)
        elif field.name not in ("explanation", "row", "values"):  # with a NaN, which differs
            assert one == other
    loaded.save(file)  # again
    assert_shown_alike(fwdgrad.Explanation.load(file), saved)


@pytest.mark.parametrize("kind", ["words", "row", "photo"])
def test_a_frame_of_what_is_loaded(kind, file):
    pandas = pytest.importorskip("pandas")
    saved = KINDS[kind][0]()
    saved.save(file)
    pandas.testing.assert_frame_equal(fwdgrad.Explanation.load(file).to_frame(), saved.to_frame())


def test_a_large_photo_is_kept_as_it_is_drawn(file):
    saved = of_photo(900, 2000)
    saved.save(file)
    assert file.stat().st_size < 1024 * 461 * 3 + 2**16  # its longer side at 1,024 pixels
    loaded = fwdgrad.Explanation.load(file)
    assert loaded.photo.shape == saved.photo.shape
    assert repr(loaded.top(9)) == repr(saved.top(9))
    assert loaded.on_photo(loaded.significant()).equal(saved.on_photo(saved.significant()))
    assert np.abs(drawn(loaded).astype(int) - drawn(saved)).mean() < 1
    own = PictureExplanation.load(file, saved.photo)
    assert np.array_equal(own.photo, saved.photo)
    assert_shown_alike(own, saved)
    assert_shown_alike(PictureExplanation.load(file), loaded)


@pytest.mark.parametrize("kind", ["words", "row", "photo"])
def test_a_file_of_a_map_alone_is_a_map(kind, file):
    """As all files of 0.1 are."""
    saved = KINDS[kind][0]()
    saved.explanation.save(file)
    assert "shown" not in read_tensors(file, "explanation")[0]
    loaded = fwdgrad.Explanation.load(file)
    assert type(loaded) is fwdgrad.Explanation
    assert loaded.attribution.equal(saved.attribution)


def test_a_kind_that_is_not_known_is_no_explanation(file):
    of_words().save(file)
    header, tensors = read_tensors(file, "explanation")
    header["shown"] = {"sound": header["shown"]["text"]}
    write_tensors(file, "explanation", header, tensors)
    with pytest.raises(ValueError, match="is shown as 'sound', which this version does not know"):
        fwdgrad.Explanation.load(file)


def test_metrics_take_a_photo_that_was_loaded(file):
    saved = of_photo()
    saved.save(file)
    loaded = fwdgrad.Explanation.load(file)
    assert fwdgrad.metrics.spearman(loaded, saved.explanation) == pytest.approx(1)
    x, model = loaded.input, lambda batch: batch[..., :16, :16].mean((1, 2, 3))
    found = [fwdgrad.metrics.deletion(model, x, e, None) for e in (loaded, saved.explanation)]
    assert found[0].scores.equal(found[1].scores)


def test_evidence_of_what_was_loaded(file):
    model = TextModel(lambda texts: [2.0 * t.count("fine") - t.count("no") for t in texts])
    of_words().save(file)
    found = fwdgrad.evidence(model, fwdgrad.Explanation.load(file))
    assert repr(found) == repr(fwdgrad.evidence(model, of_words()))


def test_the_command_line_saves_words_and_columns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_kinds.py").write_text(
        "def fine(texts): return [2.0 * text.count('fine') for text in texts]\n"
        "def older(frame): return frame['age'] / 2\n"
    )
    (tmp_path / "rows.csv").write_text("age,town\n30,Ulm\n50,Bonn\n")
    (tmp_path / "row.csv").write_text("age,town\n40,Ulm\n")
    line = ["explain", "--no-progress", "--output"]
    assert cli.main([*line, "words", "--text", TEXT, "--model", "own_kinds:fine"]) == 0
    table = ["--table", "row.csv", "--background", "rows.csv", "--model", "own_kinds:older"]
    assert cli.main([*line, "row", *table]) == 0
    said = capsys.readouterr().out
    words, row = (
        fwdgrad.Explanation.load(f"{folder}/explanation.safetensors") for folder in ("words", "row")
    )
    assert words.words == of_words().words
    assert [one.name for one in words.top(2)] == ["fine", "fine"]
    assert words.provenance["request"]["text"] == TEXT
    assert words.to_html() == (tmp_path / "words" / "words.html").read_text(encoding="utf-8")
    assert row.names == ("age", "town")
    assert row.values == (40, "Ulm")
    assert str(row) in said
    assert json.loads(row.to_json())["kind"] == "table"
