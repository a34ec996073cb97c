"""Which parts of a photo make an image pipeline of transformers answer as it does?

    python examples/explain_pipeline.py                      # a portrait that is drawn here
    python examples/explain_pipeline.py photo.jpg --pipeline microsoft/resnet-50
    python examples/explain_pipeline.py photo.jpg --parts    # faster: its model on tensors

Without --pipeline the network is made from its configuration, with random weights, so that all runs
offline; with it, a folder or a name on the Hugging Face hub. The pipeline is called as it is: on
lists of Pillow's pictures, for dicts of labels and scores. The map is drawn in the pixels of the
photo as it was given, whatever its shape.

    pip install 'fwdgrad-kernels[image,text]'
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, pipeline

import fwdgrad
from fwdgrad.adapters.pictures import ImageModel


def main() -> None:
    """Explains the pipeline's first answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", nargs="?", help="default: one that is drawn here")
    parser.add_argument("--pipeline", help="a folder or a name; default: random weights")
    parser.add_argument("--parts", action="store_true", help="call the pipeline's own model")
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--output", default="pipeline.png")
    arguments = parser.parse_args()
    classify: Any = made_here() if arguments.pipeline is None else pipeline(
        "image-classification", arguments.pipeline, top_k=10**6
    )  # fmt: skip
    photo = arguments.photo or portrait()
    if arguments.parts:
        model = ImageModel.from_transformers(classify)
    else:  # which scales pictures itself: no larger than they need be
        model = ImageModel(classify, input="pil", size=224, name="the pipeline")
    try:
        found: Any = fwdgrad.explain(model, photo, n_samples=arguments.samples)
    except (ValueError, OSError) as error:  # too few samples, no such photo
        parser.error(str(error))
    height, width = found.photo.shape[:2]
    row, column = divmod(int(found.heatmap().argmax()), width)
    print(f"{found.label}: {found.objective} {found.score:.3f}; {found.n_samples} samples, "
          f"{found.seconds:.0f} s, reliability {found.reliability:.2f}")  # fmt: skip
    print(f"raised most by what is at ({column}, {row}) of {width} x {height} pixels")
    found.plot().figure.savefig(arguments.output)
    print(f"drawn in {arguments.output}")


def made_here() -> Any:
    """A pipeline of a small vision transformer with random weights."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        image_size=224, patch_size=32, id2label={0: "cat", 1: "dog", 2: "owl"},
        initializer_range=0.3,
    )  # fmt: skip
    network = ViTForImageClassification(config).eval()
    processor = ViTImageProcessor(size={"height": 224, "width": 224})
    return pipeline("image-classification", model=network, image_processor=processor, top_k=3)


def portrait() -> Image.Image:
    """A picture that is higher than wide, with something in its lower part."""
    picture = Image.linear_gradient("L").resize((300, 450)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((90, 260, 210, 380), fill=(230, 120, 40))
    return picture


if __name__ == "__main__":
    main()
