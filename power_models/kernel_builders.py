"""One ONNX node as one kernel: which kind it is and what its record says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from device_agents.records import DTYPE_BYTES, KernelSpec
from power_models.onnx_graph import Graph, Node, UnsupportedOperator
from power_models.onnx_shapes import Shape, window

ACTIVATIONS = {
    "Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "Sigmoid": "sigmoid", "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish", "Tanh": "tanh", "Elu": "elu", "Selu": "selu", "Softplus": "softplus", "Gelu": "gelu",
    "Swish": "silu", "Mish": "mish", "Clip": "clip", "Erf": "erf",
}  # fmt: skip


@dataclass
class Kernel:
    """One kernel while the graph is being lowered; ``reads`` and ``writes`` are tensor names."""

    kind: str
    name: str
    op: str
    reads: list[str]
    writes: list[str]
    in_shape: Shape
    out_shape: Shape
    dtype: str = "float32"
    weight: str | None = None
    fused: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    inputs: int = 1
    blockable: bool = False  # of a resize or a scale: whether ONNX Runtime has it for blocked channels

    def spec(self) -> KernelSpec:
        """The record that is measured and priced."""
        batch, channels, height, width = _nchw(self.in_shape)
        _, out_channels, out_height, out_width = _nchw(self.out_shape)
        return KernelSpec(
            self.kind, batch, channels, height, width, out_channels, out_height, out_width,
            dtype=self.dtype, fused="+".join(self.fused), inputs=self.inputs, **self.details,
        )  # fmt: skip


def _nchw(shape: Shape) -> tuple[int, int, int, int]:
    """Any shape as (batch, channels, height, width) with the same number of elements."""
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    if len(shape) < 2:
        return 1, prod(shape), 1, 1
    if len(shape) == 2:
        return shape[0], shape[1], 1, 1
    if len(shape) == 3:
        return shape[0], shape[1], 1, shape[2]
    return shape[0], prod(shape[1:-2]), shape[-2], shape[-1]


def activation_name(graph: Graph, node: Node) -> str:
    """The short name of an activation; a Clip from 0 to 6 is ``relu6``, from 0 up ``relu``."""
    if node.op != "Clip":
        return ACTIVATIONS[node.op]
    low = node.attributes.get("min", graph.constant(node, 1))
    high = node.attributes.get("max", graph.constant(node, 2))
    if low is not None and float(low) == 0.0:
        if high is None:
            return "relu"
        if float(high) == 6.0:
            return "relu6"
    return "clip"


def require_channelwise(graph: Graph, node: Node, name: str) -> None:
    """A constant operand must be a scalar or one value a channel; a whole map of constants is refused by name."""
    shape = graph.tensors[name].shape
    for other in node.inputs:
        if node.op == "BatchNormalization" or other == name:
            continue
        constant = graph.tensors[other].shape
        if prod(constant) != 1 and prod(constant) not in (shape[1] if len(shape) > 1 else 1, shape[-1]):
            raise UnsupportedOperator(
                node.op, node.name, f"its constant operand has shape {constant}, not one per channel"
            )


def elementwise(kind: str, graph: Graph, node: Node, reads: list[str]) -> Kernel:
    tensor = graph.tensors[reads[0]]
    out_shape = graph.tensors[node.outputs[0]].shape
    return Kernel(kind, node.name, node.op, reads, node.outputs[:1], tensor.shape, out_shape, _dtype(tensor.dtype))


def _dtype(dtype: str) -> str:
    return dtype if dtype in DTYPE_BYTES else "float32"


def _conv(graph: Graph, node: Node) -> Kernel:
    kernel = elementwise("conv", graph, node, node.inputs[:1])
    weight = graph.tensors[node.inputs[1]]
    if not weight.constant:
        raise UnsupportedOperator("Conv", node.name, "its weight is computed by the network")
    group = node.attributes.get("group", 1)
    if group > 1 and group == kernel.in_shape[1]:
        kernel.kind = "depthwise"
    kernel.weight = weight.root
    kernel.details = {**_window_details(graph, node, kernel.in_shape), "groups": group}
    return kernel


def _window_details(graph: Graph, node: Node, shape: Shape) -> dict[str, int]:
    size, pads, strides, dilations = window(graph, node, shape)
    return {
        "kernel_h": size[0], "kernel_w": size[1], "stride": strides[0], "padding": pads[0], "dilation": dilations[0]
    }  # fmt: skip


def _pool(graph: Graph, node: Node) -> Kernel:
    kernel = elementwise("max_pool" if node.op == "MaxPool" else "avg_pool", graph, node, node.inputs[:1])
    kernel.details = {**_window_details(graph, node, kernel.in_shape), "groups": kernel.in_shape[1]}
    return kernel


def _global_pool(graph: Graph, node: Node) -> Kernel:
    kind = "global_max_pool" if node.op == "GlobalMaxPool" else "global_avg_pool"
    kernel = elementwise(kind, graph, node, node.inputs[:1])
    shape = kernel.in_shape
    if len(shape) != 4:
        raise UnsupportedOperator(node.op, node.name, f"its input has shape {shape}; only images are known")
    kernel.out_shape = (shape[0], shape[1], 1, 1)
    kernel.details = {"kernel_h": shape[2], "kernel_w": shape[3], "groups": shape[1]}
    return kernel


def _reduce(graph: Graph, node: Node) -> Kernel:
    """The mean over height and width of an image is a global pool; any other reduction a kernel of its own kind."""
    shape = graph.tensors[node.inputs[0]].shape
    axes = node.attributes.get("axes")
    axes = graph.constant(node, 1) if axes is None else axes
    image = len(shape) == 4 and axes is not None and sorted(int(a) % 4 for a in axes) == [2, 3]
    if image and node.op == "ReduceMean":
        return _global_pool(graph, node)
    return elementwise("reduce", graph, node, node.inputs[:1])


# How many neighbours a side an output of a Resize is made of.
TAPS = {b"nearest": 1, b"linear": 2, b"cubic": 4}


def _resize(graph: Graph, node: Node) -> Kernel:
    """An image at another size; the window is that of the interpolation (1, 2 or 4 a side)."""
    kernel = elementwise("resize", graph, node, node.inputs[:1])
    mode = node.attributes.get("mode", b"nearest")
    if len(kernel.in_shape) != 4 or mode not in TAPS:
        raise UnsupportedOperator(node.op, node.name, f"mode {mode.decode()!r} of a {len(kernel.in_shape)}-d tensor")
    kernel.details = {"kernel_h": TAPS[mode], "kernel_w": TAPS[mode]}
    kernel.blockable = _blockable(node, mode, kernel)
    return kernel


def _blockable(node: Node, mode: bytes, kernel: Kernel) -> bool:
    """Whole factors, and the coordinates that ONNX Runtime's blocked upsampling knows."""
    whole = all(out % size == 0 for size, out in zip(kernel.in_shape[2:], kernel.out_shape[2:], strict=True))
    coordinates = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
    if mode == b"nearest":
        floors = node.attributes.get("nearest_mode", b"round_prefer_floor") == b"floor"
        return whole and node.op == "Resize" and floors and coordinates == b"asymmetric"
    return whole and mode == b"linear" and coordinates in (b"half_pixel", b"asymmetric", b"align_corners")


def _gather(graph: Graph, node: Node) -> Kernel:
    """Chosen channels or positions, copied; the indices must stand in the file."""
    if not graph.tensors[node.inputs[1]].constant:
        raise UnsupportedOperator(node.op, node.name, "its indices are computed by the network")
    return elementwise("gather", graph, node, node.inputs[:1])


def _gemm(graph: Graph, node: Node) -> Kernel:
    weight = graph.tensors[node.inputs[1]]
    if not weight.constant or len(weight.shape) != 2:
        raise UnsupportedOperator(node.op, node.name, "only a product with a constant matrix of weights is known")
    kernel = elementwise("fc", graph, node, node.inputs[:1])
    rows = prod(kernel.out_shape[:-1])
    kernel.in_shape = (rows, prod(kernel.in_shape) // rows)
    kernel.out_shape = (rows, kernel.out_shape[-1])
    kernel.weight = weight.root
    return kernel


def _binary(kind: str) -> Callable[[Graph, Node], Kernel]:
    def build(graph: Graph, node: Node) -> Kernel:
        reads = graph.live_inputs(node)
        if len(reads) != len(node.inputs):
            raise UnsupportedOperator(node.op, node.name, "it mixes several activations with constants")
        shape = graph.tensors[node.outputs[0]].shape
        full = [name for name in reads if graph.tensors[name].shape == shape]
        if not full:
            raise UnsupportedOperator(node.op, node.name, "none of its operands has the shape of its result")
        kernel = elementwise(kind, graph, node, full[:1])
        # An operand that is one value a channel (a squeeze-and-excite gate) costs next to no traffic: not counted.
        kernel.reads, kernel.inputs = reads, len(full)
        return kernel

    return build


def _concat(graph: Graph, node: Node) -> Kernel:
    kernel = elementwise("concat", graph, node, graph.live_inputs(node))
    kernel.in_shape, kernel.inputs = kernel.out_shape, len(node.inputs)
    return kernel


def _one_input(kind: str) -> Callable[[Graph, Node], Kernel]:
    return lambda graph, node: elementwise(kind, graph, node, node.inputs[:1])


def _lrn(graph: Graph, node: Node) -> Kernel:
    kernel = elementwise("lrn", graph, node, node.inputs[:1])
    kernel.details = {"kernel_h": node.attributes["size"]}
    return kernel


def _split(graph: Graph, node: Node) -> Kernel:
    kernel = elementwise("slice", graph, node, node.inputs[:1])
    kernel.out_shape, kernel.writes = kernel.in_shape, list(node.outputs)
    return kernel


def image_pads(graph: Graph, node: Node) -> list[int] | None:
    """(top, left, bottom, right) of a Pad of zeros around an image whose sizes stand in the file; else None."""
    value = graph.constant(node, 2) if len(node.inputs) > 2 else node.attributes.get("value", 0.0)
    if node.attributes.get("mode", b"constant") != b"constant" or (value is not None and np.any(value)):
        return None
    pads = node.attributes.get("pads")
    if pads is None:
        if len(node.inputs) > 3 or graph.tensors[node.inputs[1]].root != node.inputs[1]:
            return None
        pads = graph.constant(node, 1)
    pads = [int(p) for p in pads]
    if len(pads) != 8 or min(pads) < 0 or any(pads[i] for i in (0, 1, 4, 5)):
        return None
    return [pads[2], pads[3], pads[6], pads[7]]


BUILDERS: dict[str, Callable[[Graph, Node], Kernel]] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "ReduceMax": _reduce,
    "Resize": _resize,
    "Upsample": _resize,
    "Gather": _gather,
    "DepthToSpace": _one_input("transpose"),
    "SpaceToDepth": _one_input("transpose"),
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Add": _binary("add"),
    "Sum": _binary("add"),
    "Sub": _binary("add"),
    "Mul": _binary("mul"),
    "Div": _binary("mul"),
    "Concat": _concat,
    "Softmax": _one_input("softmax"),
    "LogSoftmax": _one_input("softmax"),
    "LRN": _lrn,
    "Transpose": _one_input("transpose"),
    "Slice": _one_input("slice"),
    "Split": _split,
    "Pad": _one_input("pad"),
    "Reshape": _one_input("view"),
    "Flatten": _one_input("view"),
    "Squeeze": _one_input("view"),
    "Unsqueeze": _one_input("view"),
}
