"""EfficientNet-Lite as an ONNX model, written from its weights in a tenth of a second.

torch.onnx.export takes seconds and packages that need not be there. Batch norms are folded into the
convolutions before them, in float64.
"""

from __future__ import annotations

import math
from typing import Any

from fwdgrad.adapters.onnx_writer import onnx_model, onnx_node

_NORMALISED = {"times": 255 / 128, "plus": -127 / 128}  # pixels in [0, 1], as (255 p - 127) / 128
_RELU6 = {"zero": 0.0, "six": 6.0}


def efficientnet_onnx(network: Any, size: int) -> bytes:
    """The bytes of an ONNX model from pixels in [0, 1], (batch, 3, size, size), to class scores.

    Args:
        network: an ``EfficientNet`` of efficientnet_lite_pytorch, one of the Lite ones: ReLU6 and
            no squeezing.
        size: of the pictures it takes.
    """
    graph = _Graph(size)
    graph.add("Mul", ["pixels", "times"])
    graph.add("Add", [graph.last, "plus"])
    graph.convolve(network._conv_stem, network._bn0)
    for block in network._blocks:
        before = graph.last
        if hasattr(block, "_expand_conv"):
            graph.convolve(block._expand_conv, block._bn0)
        graph.convolve(block._depthwise_conv, block._bn1)
        graph.convolve(block._project_conv, block._bn2, clipped=False)
        kept = block._depthwise_conv.stride[0] == 1
        if kept and block._project_conv.out_channels == block._block_args.input_filters:
            graph.add("Add", [graph.last, before])
    graph.convolve(network._conv_head, network._bn1)
    graph.add("GlobalAveragePool", [graph.last])
    graph.add("Flatten", [graph.last])
    graph.weights |= {"W": _array(network._fc.weight), "b": _array(network._fc.bias)}
    graph.add("Gemm", [graph.last, "W", "b"], transB=1)
    return onnx_model(
        graph.nodes,
        graph.weights,
        ("pixels", ["batch", 3, size, size]),
        (graph.last, ["batch", network._fc.out_features]),
    )


class _Graph:
    """The nodes and weights so far; ``last`` names the newest output, ``side`` is its height."""

    def __init__(self, side: int) -> None:
        self.nodes: list[bytes] = []
        self.weights: dict[str, Any] = {**_NORMALISED, **_RELU6}
        self.last, self.side = "", side

    def add(self, operator: str, inputs: list[str], **attributes: Any) -> None:
        self.last = f"y{len(self.nodes)}"
        self.nodes.append(onnx_node(operator, inputs, self.last, **attributes))

    def convolve(self, convolution: Any, norm: Any, *, clipped: bool = True) -> None:
        """A convolution that keeps ceil(side / stride), its norm, and ReLU6."""
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        side = math.ceil(self.side / stride)
        padding = max((side - 1) * stride + kernel - self.side, 0)
        before, after = padding // 2, padding - padding // 2
        factor = _array(norm.weight) / (_array(norm.running_var) + norm.eps) ** 0.5
        weight, bias = f"W{len(self.nodes)}", f"b{len(self.nodes)}"
        self.weights[weight] = _array(convolution.weight) * factor[:, None, None, None]
        self.weights[bias] = _array(norm.bias) - _array(norm.running_mean) * factor
        self.add(
            "Conv",
            [self.last, weight, bias],
            group=convolution.groups,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[before, before, after, after],
        )
        if clipped:
            self.add("Clip", [self.last, *_RELU6])
        self.side = side


def _array(values: Any) -> Any:
    return values.detach().double().numpy()
