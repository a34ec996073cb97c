"""fwdgrad explain of several inputs: what is made, what is not made again, and what fails."""

import contextlib
import html.parser
import io
import re
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import torch

from fwdgrad import Explanation, cli

from .models import assert_same_bits

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OWN = '''
from pathlib import Path

import torch

log, stop, away = Path("log"), Path("stop"), Path("away")


def corner(batch):
    """Class 1 looks at the upper left quarter; while stop is there, so many samples are let by."""
    if away.exists():
        raise ValueError("not to be reached")
    if len(batch) > 1:
        if stop.exists() and log.exists() and log.stat().st_size >= int(stop.read_text()):
            raise KeyboardInterrupt
        with log.open("a") as file:
            file.write("." * len(batch))
    light = batch[:, :, :8, :8].double().mean((1, 2, 3))
    return torch.stack([0 * light, 4 * light], 1)


module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))
torch.nn.init.constant_(module[1].weight, 0.01)


def scores(texts):
    return [[float(len(text)), 9.0 * text.count("good")] for text in texts]


def price(rows):
    return rows["age"] + 5.0 * (rows["town"] == "Ulm")
'''
LINE = ["explain", "--no-progress"]
PHOTOS = [*LINE, "--model", "own:corner", "--size", "16", "--samples", "32", "--batch-size", "8"]


def draw(path, seed):
    path.parent.mkdir(exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with three photos in a folder, and models in own.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    Path("own.py").write_text(OWN)
    for seed, name in enumerate(("a.png", "b c.JPG", "d.png")):
        draw(Path("photos", name), seed)
    Path("photos/notes.txt").write_text("no picture")
    Path("photos/.hidden.png").write_text("no picture")
    yield tmp_path
    sys.modules.pop("own", None)


def samples_seen():
    size = Path("log").stat().st_size if Path("log").exists() else 0
    Path("log").unlink(missing_ok=True)
    return size


def maps(output="maps"):
    return {path.parent.name: Explanation.load(path) for path in Path(output).rglob("explanation*")}


def said(capsys, status, expected=0):
    out, err = capsys.readouterr()
    assert status == expected, err
    return out.splitlines(), err.splitlines()


class Page(html.parser.HTMLParser):
    """What a page refers to, its headings and its text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.tags, self.alternatives, self.text = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            self.links += [value] * (name in ("src", "href"))
            self.alternatives += [value] * (name == "alt")

    def handle_data(self, data):
        self.text += data


# ---- photos --------------------------------------------------------------------------------


def test_a_folder_of_photos(folder, capsys):
    out, err = said(capsys, cli.main([*PHOTOS, "photos", "--output", "maps"]))
    assert err == []
    names = ("a.png", "b c.JPG", "d.png")
    assert [line.split(": ")[0] for line in out[:3]] == [f"photos/{name}" for name in names]
    assert re.fullmatch(
        r"photos/a.png: class 1, probability 0\.\d+, reliability .*, maps/a", out[0]
    )
    assert out[3:5] == ["photos       3 explained", "index        maps/index.html"]
    assert re.fullmatch(r"seconds      \d+\.\d in all", out[5])
    assert len(out) == 6
    assert samples_seen() == 96
    found = maps()
    assert sorted(found) == ["a", "b c", "d"]
    for stem, name in (("a", "a.png"), ("b c", "b c.JPG")):
        assert {path.name for path in Path("maps", stem).iterdir()} == {
            "explanation.safetensors", "heatmap.png",
        }  # fmt: skip
        alone = cli.main([*PHOTOS, f"photos/{name}", "--output", "alone", "--overwrite"])
        assert said(capsys, alone)[0][0].startswith("photo  ")
        assert_same_bits(found[stem], Explanation.load("alone/explanation.safetensors"))
        assert found[stem].provenance["request"]["photo"] == f"photos/{name}"
    samples_seen()

    page = Page(Path("maps/index.html"))
    assert page.links == [
        link for stem in ("a", "b%20c", "d") for link in [f"{stem}/heatmap.png"] * 2
    ]
    assert page.alternatives == [f"{name}, and its map for class 1" for name in names]
    assert page.tags.count("h1") == 1
    assert page.tags.count("h2") == 3
    assert "script" not in page.tags
    assert "3 explained" in page.text
    assert f"reliability {found['a'].reliability:.2f}" in page.text
    assert "prefers-color-scheme: dark" in page.text


def test_what_is_there_is_not_made_again(folder, capsys):
    line = [*PHOTOS, "photos", "--output", "maps"]
    assert cli.main([*line, "--seed", "1"]) == 0
    before = {path: path.read_bytes() for path in Path("maps").rglob("*") if path.is_file()}
    samples_seen()
    said(capsys, 0)
    out, _ = said(capsys, cli.main([*line, "--seed", "1"]))
    assert out[0] == "photos       0 explained, 3 there already"
    assert samples_seen() == 0
    assert before == {path: path.read_bytes() for path in before}
    # Another request would replace them.
    _, err = said(capsys, cli.main(line), 1)
    assert err[0].startswith(
        "fwdgrad: error: --output maps/a has explanation.safetensors of another"
    )
    assert samples_seen() == 0
    # Another picture of the name, a map that is lost, one more input.
    draw(Path("photos/a.png"), 7)
    Path("maps/b c/heatmap.png").unlink()
    draw(Path("photos/e.png"), 8)
    out, _ = said(capsys, cli.main([*line, "--seed", "1"]))
    assert [line.split(":")[0] for line in out[:3]] == [
        "photos/a.png",
        "photos/b c.JPG",
        "photos/e.png",
    ]
    assert out[3] == "photos       3 explained, 1 there already"
    assert samples_seen() == 96
    assert before[Path("maps/d/heatmap.png")] == Path("maps/d/heatmap.png").read_bytes()
    said(capsys, cli.main([*line, "--overwrite"]))
    assert samples_seen() == 128


def test_another_models_maps_are_made_again(folder, capsys):
    line = ["own:module" if part == "own:corner" else part for part in PHOTOS]
    line += ["photos", "--output", "maps"]
    assert said(capsys, cli.main(line))[0][3] == "photos       3 explained"
    assert said(capsys, cli.main(line))[0][0] == "photos       0 explained, 3 there already"
    Path("own.py").write_text(OWN.replace("0.01", "0.02"))  # trained further, under the same name
    sys.modules.pop("own")
    assert said(capsys, cli.main(line))[0][3] == "photos       3 explained"


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(folder, capsys):
    Path("photos/b c.JPG").write_bytes(b"\x89PNG\r\n\x1a\nno")
    out, err = said(capsys, cli.main([*PHOTOS, "photos", "--output", "maps"]), 1)
    assert out[2] == "photos       2 explained, 1 failed"
    assert len(err) == 1
    assert err[0].startswith("fwdgrad: error: photo photos/b c.JPG cannot be read: ")
    assert sorted(maps()) == ["a", "d"]
    assert not Path("maps/b c").exists()
    page = Page(Path("maps/index.html"))
    assert "2 explained, 1 failed" in page.text
    assert "photos/b c.JPG" in page.text
    samples_seen()
    draw(Path("photos/b c.JPG"), 3)  # mended
    out, _ = said(capsys, cli.main([*PHOTOS, "photos", "--output", "maps"]))
    assert out[1] == "photos       1 explained, 2 there already"
    assert samples_seen() == 32


def test_inputs_that_fail_alike_are_told_on_one_line(folder, capsys):
    for number in range(6):
        draw(Path(f"photos/more {number}.png"), number)
    away = Path("away")
    away.touch()
    out, err = said(capsys, cli.main([*PHOTOS, "photos"]), 1)
    assert out[0] == "photos       0 explained, 9 failed"
    assert len(err) == 1
    assert err[0].startswith("fwdgrad: error: photos/a.png, photos/b c.JPG, ")
    assert err[0].endswith(": ValueError: not to be reached")
    assert " and 4 more: the model failed" in err[0]
    assert Path("explanations/index.html").exists()


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(folder, capsys):
    line = [*PHOTOS, "photos", "--output", "maps"]
    Path("stop").write_text("48")  # the first photo's 32 and half of the second's
    out, err = said(capsys, cli.main(line), 130)
    assert [one.split(":")[0] for one in out] == ["photos/a.png"]
    assert err == ["fwdgrad: interrupted; the same command goes on from here"]
    assert samples_seen() == 48
    assert [path.name for path in Path("maps/b c").iterdir()] == ["checkpoint.safetensors"]
    assert Page(Path("maps/index.html")).text.count("1 explained") == 2  # its title and heading
    Path("stop").unlink()
    out, _ = said(capsys, cli.main(line))
    assert out[2] == "photos       2 explained, 1 there already"
    assert (
        samples_seen() == 16 + 4 + 32
    )  # four for a second time, to see that the model is the same
    found = maps()
    assert not list(Path("maps").rglob("checkpoint*"))
    assert cli.main([*PHOTOS, "photos", "--output", "whole"]) == 0
    for stem, one in maps("whole").items():
        assert_same_bits(one, found[stem])


def test_a_file_of_names_and_several_targets(folder, capsys):
    Path("names.txt").write_text("photos/d.png\r\n\nphotos/a.png\nphotos/d.png\n")
    line = [*PHOTOS, "--inputs", "names.txt", "--target", "0", "--target", "1"]
    out, _ = said(capsys, cli.main(line))
    assert [one.split(", ")[0] for one in out[:4]] == [
        f"photos/{name}: class {target}" for name in ("d.png", "a.png") for target in (0, 1)
    ]
    assert {path.name for path in Path("explanations/a").iterdir()} == {
        *(f"explanation-{target}.safetensors" for target in (0, 1)),
        *(f"heatmap-{target}.png" for target in (0, 1)),
    }
    assert Page(Path("explanations/index.html")).tags.count("img") == 4
    # A list of one has a folder in --output, too.
    Path("one.txt").write_text("photos/b c.JPG\n")
    assert cli.main([*PHOTOS, "--inputs", "one.txt"]) == 0
    assert Page(Path("explanations/index.html")).links == ["b%20c/heatmap.png"] * 2


def test_the_page_lists_what_was_asked_for(folder, capsys):
    line = [*PHOTOS, "photos", "--output", "maps"]
    assert cli.main(line) == 0
    Path("photos/b c.JPG").unlink()
    out, _ = said(capsys, cli.main(line))
    assert out[-3] == "photos       0 explained, 2 there already"
    assert Page(Path("maps/index.html")).links == [f"{x}/heatmap.png" for x in "aadd"]
    assert Path("maps/b c/heatmap.png").exists()  # kept, and not on the page
    # A map of a former picture is not shown for the one that cannot be read.
    Path("photos/d.png").write_text("no picture")
    assert cli.main(line) == 1
    assert Page(Path("maps/index.html")).links == ["a/heatmap.png"] * 2
    assert Path("maps/d/heatmap.png").exists()


class Early:
    """Workers that have done all that they were given, but for the first, when Ctrl-C comes."""

    count = 2

    @contextlib.contextmanager
    def open(self, kind):
        self.kind, self.given = kind, 0
        yield self

    def submit(self, call, *arguments):
        future, self.given = Future(), self.given + 1
        if self.given == 1:
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_result(call(self.kind, *arguments))
        return future


def test_ctrl_c_tells_what_workers_have_done_out_of_turn(folder, capsys, monkeypatch):
    monkeypatch.setattr("fwdgrad.cli.many.workers_of", lambda _: Early())
    out, err = said(capsys, cli.main([*PHOTOS, "photos", "--output", "maps"]), 130)
    assert [one.split(": ")[0] for one in out] == ["photos/b c.JPG", "photos/d.png"]
    assert err == ["fwdgrad: interrupted; the same command goes on from here"]
    assert Page(Path("maps/index.html")).links[::2] == ["b%20c/heatmap.png", "d/heatmap.png"]


def test_names_and_texts_on_standard_input(folder, capsys, monkeypatch):
    given(monkeypatch, "photos/d.png\r\n\nphotos/a.png\n")
    out, _ = said(capsys, cli.main([*PHOTOS, "--inputs", "-"]))
    assert [one.split(":")[0] for one in out[:2]] == ["photos/d.png", "photos/a.png"]
    line = [*LINE, "--model", "own.py:scores", "--target", "1"]
    given(monkeypatch, "\ufeffa good film\n\nno\n")
    out, _ = said(capsys, cli.main([*line, "--texts", "-", "--output", "two"]))
    assert {path.name for path in Path("two").iterdir()} == {"index.html", "text-0001", "text-0003"}
    given(monkeypatch, "a good film\n")
    alone = [*line, "--text", "-", "--output", "one"]
    assert cli.main(alone) == 0
    one, two = Explanation.load("one/explanation.safetensors"), maps("two")["text-0001"]
    assert one.provenance["text"] == one.provenance["request"]["text"] == "a good film"
    assert torch.equal(one.attribution, two.attribution)
    given(monkeypatch, "another film")
    assert cli.main(alone) == 1
    assert "of another run" in capsys.readouterr().err
    given(monkeypatch, b"\xff\xfe")
    assert cli.main(alone) == 1
    assert "--text - cannot be read: it is no text in UTF-8" in capsys.readouterr().err


def given(monkeypatch, content):
    """Puts something on standard input."""
    content = content if isinstance(content, bytes) else content.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_the_bar(folder, capsys):
    line = [part for part in PHOTOS if part != "--no-progress"]
    assert cli.main([*line, "photos"]) == 0
    assert capsys.readouterr().err.split("\r")[-1].startswith("3/3 photos 100%|")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("none", "photo none does not exist; for a sentence give --text"),
        ("Your phone is late", "4 photos do not exist: 'Your', .*; for a sentence give --text"),
        ("photos rows.csv", "photo rows.csv is a table: for its rows give --table"),
        ("--inputs addresses.txt", "--inputs addresses.txt: https://a.org/b.png is an address"),
        ("photos none", "photo none does not exist; nothing was explained"),
        ("photos no1.png no2.png", "2 photos do not exist: 'no1.png', 'no2.png'; nothing was"),
        (
            " ".join(f"no{i}.png" for i in range(9)),
            "9 photos .*, 'no4.png' and 4 more; nothing was",
        ),
        ("empty", "photo empty is a folder without pictures .*; name the files"),
        (
            "photos other",
            "photos/a.png and other/A.png would both write to the folder A: rename one",
        ),
        ("photos beside", "photos/a.png and beside/a.gif would both write to the folder a: rename"),
        ("photos --output own.py", "--output own.py cannot be written to: it must be a folder"),
        ("photos --output taken", "--output taken has an index.html that is no list of maps"),
        ("photos --checkpoint run", "--checkpoint is of one input; of several each has its own"),
        ("photos --model own:none", "--model 'own:none': .* has no 'none'"),
        ("photos --target lamp", "target must be a number"),
        ("--inputs none.txt", "--inputs none.txt cannot be read: No such file"),
        ("--inputs photos/a.png", "--inputs photos/a.png cannot be read: it is no text in UTF-8"),
        ("--inputs empty.txt", "--inputs empty.txt has no line with anything in it"),
        ("--texts none.txt", "--size is of photos, and --texts is given"),
        ("photos --texts names.txt", "give a photo or --text, .* and one of them"),
        ("--text fine --texts names.txt", "give a photo or --text, .* and one of them"),
        ("photos/a.png --workers 0", "--workers must be at least 1, got 0"),
        ("photos --workers 0", "--workers must be at least 1, got 0"),
        ("photos --samples 0", "--samples must be at least 1, got 0"),
        ("photos --method regions --cell 0", "--cell must be .*, got 0"),
        ("photos --device none", "--device must be 'cpu', 'cuda', .*, got 'none'"),
    ],
)
def test_bad_input_is_told_in_one_line_before_anything_is_run(folder, capsys, line, message):
    for name in ("empty", "taken"):
        Path(name).mkdir()
    Path("taken/index.html").write_text("my own")
    Path("empty.txt").write_text("\n \n")
    Path("addresses.txt").write_text("https://a.org/b.png\n")
    Path("rows.csv").write_text("a\n1\n")
    draw(Path("other/A.png"), 5)
    draw(Path("beside/a.gif"), 6)
    before = set(folder.rglob("*"))
    _, err = said(capsys, cli.main([*PHOTOS, *line.split()]), 1)
    assert len(err) == 1
    assert re.search(message, err[0]), err[0]
    assert samples_seen() == 0
    new = {path.name for path in set(folder.rglob("*")) - before if path.suffix != ".pyc"}
    assert new <= {"__pycache__"}


# ---- texts and rows ------------------------------------------------------------------------


def test_texts(folder, capsys):
    Path("lines.txt").write_text("a good film\n\nnot <b>good</b> & long\n", encoding="utf-8")
    line = [*LINE, "--texts", "lines.txt", "--model", "own:scores", "--objective", "output"]
    line += ["--target", "1", "--output", "maps"]
    out, _ = said(capsys, cli.main(line))
    assert [one.split(", ")[0] for one in out[:2]] == [
        "lines.txt:1: class 1",
        "lines.txt:3: class 1",
    ]
    assert out[2] == "texts        2 explained"
    assert {path.name for path in Path("maps/text-0003").iterdir()} == {
        "explanation.safetensors", "words.html",
    }  # fmt: skip
    page = Page(Path("maps/index.html"))
    assert "a good film" in page.text
    assert "not <b>good</b> & long" in page.text
    assert "b" not in page.tags[page.tags.index("main") : page.tags.index("figcaption")]
    assert page.links == ["text-0001/words.html", "text-0003/words.html"]
    assert said(capsys, cli.main(line))[0][0] == "texts        0 explained, 2 there already"


def test_a_text_that_has_changed_is_explained_again(folder, capsys):
    Path("lines.txt").write_text("a good film\nso good\nnot long\n")
    line = [*LINE, "--texts", "lines.txt", "--model", "own:scores", "--objective", "output"]
    line += ["--target", "1", "--output", "maps"]
    assert cli.main(line) == 0
    said(capsys, 0)
    Path("lines.txt").write_text("a good film\ngood, good\n")
    out, _ = said(capsys, cli.main(line))
    assert out[0].startswith("lines.txt:2: class 1, output 18, ")
    assert out[1] == "texts        1 explained, 1 there already"
    page = Page(Path("maps/index.html"))
    assert "good, good" in page.text
    assert "not long" not in page.text
    assert Path("maps/text-0003/words.html").exists()
    # Another file's texts would take the place of these.
    Path("lines.txt").rename("others.txt")
    line = ["others.txt" if part == "lines.txt" else part for part in line]
    _, err = said(capsys, cli.main(line), 1)
    assert "--output maps/text-0001 has explanation.safetensors of another run" in err[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model own:nothing", "--model 'own:nothing': .* has no 'nothing'"),
        ("--samples 0", "--samples must be at least 1, got 0"),
        ("--method regions --value shapley", "--value is no option of --method regions"),
        ("--objective probability --target 7", "--target must .*, got 7"),
        ("--labels names.txt", "--labels must be 2, .*, got 1"),
    ],
)
def test_a_mistake_of_all_texts_is_told_once(folder, capsys, words, message):
    Path("lines.txt").write_text("a good film\nso good\nlong\n")
    Path("names.txt").write_text("cat\n")
    line = [*LINE, "--texts", "lines.txt", "--model", "own:scores", "--output", "maps"]
    out, err = said(capsys, cli.main([*line, *words.split()]), 1)
    assert out == []
    assert len(err) == 1
    assert re.fullmatch(f"fwdgrad: error: {message}.*", err[0]), err[0]
    assert not Path("maps").exists()


def test_rows(folder, capsys):
    pytest.importorskip("pandas")
    Path("rows.csv").write_text("age,town\n40,Ulm\n30,Bonn\n22,Ulm\n")
    line = [*LINE, "--table", "rows.csv", "--background", "rows.csv", "--model", "own:price"]
    line += ["--output", "maps"]
    out, _ = said(capsys, cli.main(line))
    assert out[0] == "row 1: the model's output, output 45, reliability 1.00, maps/row-0001"
    assert out[3] == "rows         3 explained"
    assert maps()["row-0002"].score == 30
    page = Page(Path("maps/index.html"))
    assert page.tags.count("table") == 3
    assert "Bonn" in page.text
    assert said(capsys, cli.main(line))[0][0] == "rows         0 explained, 3 there already"
    Path("rows.csv").rename("train.csv")
    line[line.index("--background") + 1] = "train.csv"
    # A row that has changed is explained again, one that cannot be is named, the others are there.
    Path("rows.csv").write_text("age,town\n40,Ulm\n30,Ulm\nold,Ulm\n")
    line += ["--output", "others"]
    out, err = said(capsys, cli.main(line), 1)
    assert out[2] == "rows         2 explained, 1 failed"
    assert err[0].endswith("--table must have a number in column 'age', as the background has, "
                           "got 'old'")  # fmt: skip
    Path("rows.csv").write_text("age,town\n40,Ulm\n31,Ulm\n22,Ulm\n")
    out, _ = said(capsys, cli.main(line))
    assert [one.split(", ")[1] for one in out[:2]] == ["output 36", "output 27"]
    assert out[2] == "rows         2 explained, 1 there already"
    Path("rows.csv").write_text("aeg,town\n40,Ulm\n30,Bonn\n22,Ulm\n")
    out, err = said(capsys, cli.main([*line, "--overwrite"]), 1)
    assert (out, len(err)) == ([], 1)
    assert "--table must have the background's columns, and no others: it lacks 'age'" in err[0]


# ---- workers -------------------------------------------------------------------------------


@pytest.mark.slow  # processes
def test_workers(folder, capsys):
    pytest.importorskip("loky")
    Path("photos/b c.JPG").write_bytes(b"no picture")
    line = [*PHOTOS, "photos", "--target", "1", "--output"]
    out, err = said(capsys, cli.main([*line, "maps", "--workers", "2"]), 1)
    assert [one.split(": ")[0] for one in out[:2]] == ["photos/a.png", "photos/d.png"]
    assert err[0].startswith("fwdgrad: error: photo photos/b c.JPG cannot be read: ")
    assert cli.main([*line, "here"]) == 1
    found, here = maps(), maps("here")
    assert sorted(found) == ["a", "d"]
    for stem, one in found.items():
        assert_same_bits(one, here[stem])
    out, _ = said(capsys, cli.main([*line, "maps"]), 1)  # one process knows what others have made
    assert "photos       0 explained, 2 there already, 1 failed" in out
