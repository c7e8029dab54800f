"""From ONNX nodes to kernels: what is folded, fused, dropped, and what runs as a kernel of its own.

Folded by both rule sets: batch normalization and constant per-channel scale and shift (Mul, Add, Sub, Div by a
constant) into the convolution or fc before them; where none is before them, as in DenseNet, the whole run of them is
one ``batch_norm`` kernel. ``x * sigmoid(x)`` and ``x * hard_sigmoid(x)`` are one activation (silu, hardswish).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from device_agents.records import WEIGHTED_KINDS
from power_models.kernel_builders import (
    ACTIVATIONS,
    BUILDERS,
    Kernel,
    activation_name,
    elementwise,
    image_pads,
    require_channelwise,
)
from power_models.onnx_graph import Graph, Node, UnsupportedOperator, reader_counts

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
GONE = {"Identity", "Dropout"}  # of no effect in inference: every engine removes them
AFFINE = {"Mul", "Add", "Sub", "Div", "Sum"}


class FusionRules(NamedTuple):
    """What an engine does with a graph before any layout is chosen.

    ``keeps_views``: reshapes are executed. ``folds_affine``: kernel kinds into which batch normalization, scale and
    shift are folded. ``activations``: of each kernel kind, the activations of which it takes one along.
    ``fuses_pad``: convolutions and average pools do the zero padding before them.
    """

    name: str
    keeps_views: bool
    folds_affine: frozenset[str]
    activations: Mapping[str, frozenset[str]]
    fuses_pad: bool


_ANY_ACTIVATION = frozenset({*ACTIVATIONS.values(), "relu6"})
_CONV_ACTIVATIONS = frozenset({"relu", "relu6", "clip", "leaky_relu", "sigmoid", "hardsigmoid", "tanh"})

VIRTUAL = FusionRules(
    "virtual",
    keeps_views=False,
    folds_affine=frozenset({*WEIGHTED_KINDS, "batch_norm"}),
    activations=dict.fromkeys((*WEIGHTED_KINDS, "add", "batch_norm"), _ANY_ACTIVATION),
    fuses_pad=False,
)
ONNXRUNTIME = FusionRules(
    "onnxruntime",
    keeps_views=True,
    folds_affine=frozenset({"conv", "depthwise"}),
    activations={
        "conv": _CONV_ACTIVATIONS,
        "depthwise": _CONV_ACTIVATIONS,
        "fc": frozenset({"relu", "leaky_relu", "sigmoid", "tanh", "hardsigmoid", "elu", "selu", "softplus"}),
    },
    fuses_pad=True,
)


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
        if self.rules.fuses_pad:
            swallowed |= self._merge_pads()
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
        elif node.op in BUILDERS:
            self._emit(BUILDERS[node.op](self.graph, node), node)
        else:
            quantized = node.op in ("QuantizeLinear", "DequantizeLinear")
            why = "quantized (QDQ) graphs are not read yet" if quantized else "no fusion rule is known for it"
            raise UnsupportedOperator(node.op, node.name, why)

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

    def _absorber(self, name: str) -> int | None:
        """Index of the kernel that writes ``name`` if nothing else reads what it wrote."""
        base = self.resolve(name)
        return self.producer.get(base) if self.uses[base] == 1 else None

    def _absorb(self, index: int, node: Node) -> None:
        """Let kernel ``index`` write what ``node`` wrote."""
        self.kernels[index].writes = [node.outputs[0]]
        self.producer[node.outputs[0]] = index

    def _affine(self, node: Node, name: str) -> None:
        require_channelwise(self.graph, node, name)
        index = self._absorber(name)
        if index is not None and self._folds(self.kernels[index], node):
            self._absorb(index, node)
            return
        kind = "batch_norm"
        if node.op != "BatchNormalization" and "batch_norm" not in self.rules.folds_affine:
            kind = "mul" if node.op in ("Mul", "Div") else "add"
        self._emit(elementwise(kind, self.graph, node, [name]), node)

    def _folds(self, kernel: Kernel, node: Node) -> bool:
        if kernel.fused:
            return False
        bias_of_product = kernel.op == "MatMul" and node.op == "Add"
        return kernel.kind in self.rules.folds_affine or bias_of_product

    def _activation(self, node: Node, name: str) -> None:
        function = activation_name(self.graph, node)
        index = self._absorber(name)
        if index is not None:
            kernel = self.kernels[index]
            if function in self.rules.activations.get(kernel.kind, ()) and not kernel.fused:
                kernel.fused.append(function)
                self._absorb(index, node)
                return
        kernel = elementwise("activation", self.graph, node, [name])
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

    def _merge_pads(self) -> set[int]:
        """Let convolutions and average pools do the zero padding before them; returns the ids of the pads swallowed."""
        readers = {name: node for node in self.graph.nodes for name in node.inputs[:1]}
        swallowed: set[int] = set()
        for node in self.graph.nodes:
            reader = readers.get(node.outputs[0])
            if node.op != "Pad" or reader is None or self.uses[node.outputs[0]] != 1:
                continue
            pads = image_pads(self.graph, node)
            counts = reader.op == "Conv" or (reader.op == "AveragePool" and reader.attributes.get("count_include_pad"))
            if pads is None or not counts or reader.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
                continue
            own = reader.attributes.get("pads") or [0, 0, 0, 0]
            reader.attributes["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
            reader.inputs = [node.inputs[0], *reader.inputs[1:]]
            swallowed.add(id(node))
        return swallowed
