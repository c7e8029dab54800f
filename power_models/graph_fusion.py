"""From ONNX nodes to kernels: what is folded, fused, dropped, and what runs as a kernel of its own.

Folded by both rule sets: batch normalization and constant per-channel scale and shift (Mul, Add, Sub, Div by a
constant) into the convolution or fc before them; where none is before them, as in DenseNet, the whole run of them is
one ``batch_norm`` kernel. ``x * sigmoid(x)`` and ``x * hard_sigmoid(x)`` are one activation (silu, hardswish).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import WEIGHTED_KINDS, KernelSpec
from power_models.onnx_graph import Graph, Node, UnsupportedOperator, reader_counts
from power_models.onnx_shapes import Shape, window

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
GONE = {"Identity", "Dropout"}  # of no effect in inference: every engine removes them
ACTIVATIONS = {
    "Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "Sigmoid": "sigmoid", "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish", "Tanh": "tanh", "Elu": "elu", "Selu": "selu", "Softplus": "softplus", "Gelu": "gelu",
    "Swish": "silu", "Mish": "mish", "Clip": "clip",
}  # fmt: skip
AFFINE = {"Mul", "Add", "Sub", "Div", "Sum"}


class FusionRules(NamedTuple):
    """What an engine does with a graph. ``fuses_activation``: kernel kinds that take an activation with them."""

    name: str
    keeps_views: bool
    fuses_activation: frozenset[str]
    activations: frozenset[str]


VIRTUAL = FusionRules(
    "virtual", False, frozenset({"conv", "depthwise", "fc", "add", "batch_norm"}), frozenset(ACTIVATIONS.values()) | {"relu6"}
)  # fmt: skip


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


class Lowering:
    """One pass over a graph's nodes that grows the list of kernels."""

    def __init__(self, graph: Graph, rules: FusionRules) -> None:
        self.graph = graph
        self.rules = rules
        self.kernels: list[Kernel] = []
        self.source: dict[str, str] = {}  # tensor name → the tensor it is a view of
        self.producer: dict[str, int] = {}
        self.uses = reader_counts(graph)

    def run(self) -> list[Kernel]:
        """The kernels in execution order."""
        swallowed = self._merge_gated_activations()
        for node in self.graph.nodes:
            if id(node) not in swallowed:
                self._lower(node)
        return self.kernels

    def _lower(self, node: Node) -> None:
        live = self.graph.live_inputs(node)
        if node.op in GONE or (node.op in VIEWS and not self.rules.keeps_views) or self._does_nothing(node):
            self._alias(node, live[0])
        elif node.op in ("BatchNormalization", *AFFINE) and len(live) == 1:
            self._affine(node, live[0])
        elif node.op in ACTIVATIONS:
            self._activation(node, live[0])
        elif node.op in _BUILDERS:
            self._emit(_BUILDERS[node.op](self.graph, node), node)
        else:
            raise UnsupportedOperator(node.op, node.name, "no fusion rule is known for it")

    def _does_nothing(self, node: Node) -> bool:
        if node.op == "Cast":
            return self.graph.tensors[node.inputs[0]].dtype == self.graph.tensors[node.outputs[0]].dtype
        if node.op in ("Slice", "Pad", "Concat", "Sum"):
            live = self.graph.live_inputs(node)
            same = self.graph.tensors[node.inputs[0]].shape == self.graph.tensors[node.outputs[0]].shape
            return same and len(live) == 1 and (node.op not in ("Concat", "Sum") or len(node.inputs) == 1)
        return False

    def _alias(self, node: Node, name: str) -> None:
        """Make the node's output another name of ``name``: whoever reads either reads the same tensor."""
        base, view = self.resolve(name), node.outputs[0]
        self.source[view] = base
        self.uses[base] += self.uses.get(view, 0) - 1

    def resolve(self, name: str) -> str:
        """The tensor that ``name`` is a view of, or ``name`` itself."""
        return self.source.get(name, name)

    def _emit(self, kernel: Kernel, node: Node) -> None:
        kernel.reads = [self.resolve(name) for name in kernel.reads]
        self.kernels.append(kernel)
        for name in node.outputs:
            self.producer[name] = len(self.kernels) - 1

    def _absorber(self, name: str) -> Kernel | None:
        """The kernel that writes ``name`` if nothing else reads what it wrote."""
        base = self.resolve(name)
        index = self.producer.get(base)
        return None if index is None or self.uses[base] != 1 else self.kernels[index]

    def _absorb(self, kernel: Kernel, node: Node) -> None:
        """Let ``kernel`` write what ``node`` wrote."""
        kernel.writes = [node.outputs[0]]
        self.producer[node.outputs[0]] = self.kernels.index(kernel)

    def _affine(self, node: Node, name: str) -> None:
        _require_channelwise(self.graph, node, name)
        kernel = self._absorber(name)
        if kernel is not None and not kernel.fused and kernel.kind in (*WEIGHTED_KINDS, "batch_norm"):
            self._absorb(kernel, node)
        else:
            self._emit(_elementwise("batch_norm", self.graph, node, [name]), node)

    def _activation(self, node: Node, name: str) -> None:
        function = activation_name(self.graph, node)
        kernel = self._absorber(name)
        wanted = kernel is not None and kernel.kind in self.rules.fuses_activation
        if kernel is not None and wanted and not kernel.fused and function in self.rules.activations:
            kernel.fused.append(function)
            self._absorb(kernel, node)
            return
        kernel = _elementwise("activation", self.graph, node, [name])
        kernel.fused.append(function)
        self._emit(kernel, node)

    def _merge_gated_activations(self) -> set[int]:
        """Rewrite x * sigmoid(x) and x * hard_sigmoid(x) into one node; returns the ids of the nodes swallowed."""
        gates = {n.outputs[0]: n for n in self.graph.nodes if n.op in ("Sigmoid", "HardSigmoid")}
        swallowed: set[int] = set()
        for node in self.graph.nodes:
            if node.op != "Mul" or len(self.graph.live_inputs(node)) != 2:
                continue
            for gate_name, other in (node.inputs, node.inputs[::-1]):
                gate = gates.get(gate_name)
                if gate is None or gate.inputs[0] != other or self.uses[gate_name] != 1:
                    continue
                swallowed.add(id(gate))
                node.op = "Swish" if gate.op == "Sigmoid" else "HardSwish"
                node.inputs = [other]
                self.uses[other] -= 1
                break
        return swallowed


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


def _require_channelwise(graph: Graph, node: Node, name: str) -> None:
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


def _elementwise(kind: str, graph: Graph, node: Node, reads: list[str]) -> Kernel:
    tensor = graph.tensors[reads[0]]
    out_shape = graph.tensors[node.outputs[0]].shape
    return Kernel(kind, node.name, node.op, reads, node.outputs[:1], tensor.shape, out_shape, _dtype(tensor.dtype))


def _dtype(dtype: str) -> str:
    return dtype if dtype in ("float32", "float16", "int8", "uint8", "int32", "int64", "bool") else "float32"


def _conv(graph: Graph, node: Node) -> Kernel:
    kernel = _elementwise("conv", graph, node, node.inputs[:1])
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
    kernel = _elementwise("max_pool" if node.op == "MaxPool" else "avg_pool", graph, node, node.inputs[:1])
    kernel.details = {**_window_details(graph, node, kernel.in_shape), "groups": kernel.in_shape[1]}
    return kernel


def _global_pool(graph: Graph, node: Node) -> Kernel:
    kind = "global_max_pool" if node.op == "GlobalMaxPool" else "global_avg_pool"
    kernel = _elementwise(kind, graph, node, node.inputs[:1])
    shape = kernel.in_shape
    if len(shape) != 4:
        raise UnsupportedOperator(node.op, node.name, f"its input has shape {shape}; only images are known")
    kernel.out_shape = (shape[0], shape[1], 1, 1)
    kernel.details = {"kernel_h": shape[2], "kernel_w": shape[3], "groups": shape[1]}
    return kernel


def _reduce_mean(graph: Graph, node: Node) -> Kernel:
    shape = graph.tensors[node.inputs[0]].shape
    axes = node.attributes.get("axes")
    axes = graph.constant(node, 1) if axes is None else axes
    if axes is None or len(shape) != 4 or sorted(int(a) % 4 for a in axes) != [2, 3]:
        raise UnsupportedOperator("ReduceMean", node.name, "only the mean over height and width of an image is known")
    return _global_pool(graph, node)


def _gemm(graph: Graph, node: Node) -> Kernel:
    weight = graph.tensors[node.inputs[1]]
    if not weight.constant or len(weight.shape) != 2:
        raise UnsupportedOperator(node.op, node.name, "only a product with a constant matrix of weights is known")
    kernel = _elementwise("fc", graph, node, node.inputs[:1])
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
        kernel = _elementwise(kind, graph, node, full[:1])
        # An operand that is one value a channel (a squeeze-and-excite gate) costs next to no traffic: not counted.
        kernel.reads, kernel.inputs = reads, len(full)
        return kernel

    return build


def _concat(graph: Graph, node: Node) -> Kernel:
    kernel = _elementwise("concat", graph, node, graph.live_inputs(node))
    kernel.in_shape, kernel.inputs = kernel.out_shape, len(node.inputs)
    return kernel


def _one_input(kind: str) -> Callable[[Graph, Node], Kernel]:
    return lambda graph, node: _elementwise(kind, graph, node, node.inputs[:1])


def _lrn(graph: Graph, node: Node) -> Kernel:
    kernel = _elementwise("lrn", graph, node, node.inputs[:1])
    kernel.details = {"kernel_h": node.attributes["size"]}
    return kernel


def _split(graph: Graph, node: Node) -> Kernel:
    kernel = _elementwise("slice", graph, node, node.inputs[:1])
    kernel.out_shape, kernel.writes = kernel.in_shape, list(node.outputs)
    return kernel


def is_constant_pad(graph: Graph, node: Node) -> bool:
    """Whether a Pad writes zeros around an image (the only one that a convolution could take over)."""
    mode = node.attributes.get("mode", b"constant")
    value = graph.constant(node, 2) if len(node.inputs) > 2 else node.attributes.get("value", 0.0)
    return mode == b"constant" and (value is None or not np.any(value))


_BUILDERS: dict[str, Callable[[Graph, Node], Kernel]] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _reduce_mean,
    "Gemm": _gemm,
    "MatMul": _gemm,
    "Add": _binary("add"),
    "Sum": _binary("add"),
    "Mul": _binary("mul"),
    "Concat": _concat,
    "Softmax": _one_input("softmax"),
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
