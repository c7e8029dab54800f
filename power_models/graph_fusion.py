"""From ONNX nodes to kernels: what is folded, fused, dropped, and what runs as a kernel of its own.

Folded by the rule sets here: batch normalization and constant per-channel scale and shift (Mul, Add, Sub, Div by a
constant) into the convolution or fc before them; where none is before them, as in DenseNet, the whole run of them is
one ``batch_norm`` kernel. ``x * sigmoid(x)`` and ``x * hard_sigmoid(x)`` are one activation (silu, hardswish), and so
is an exported gelu (``graph_patterns``). What another runtime does can be found by measurement (``fusion_rules``).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from device_agents.records import WEIGHTED_KINDS
from power_models.graph_patterns import merge_equal, merge_gates, merge_gelu, merge_pads, merge_slices
from power_models.kernel_builders import (
    ACTIVATIONS,
    BUILDERS,
    Kernel,
    activation_name,
    elementwise,
    require_channelwise,
)
from power_models.onnx_graph import Graph, Node, UnsupportedOperator, reader_counts

VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
GONE = {"Identity", "Dropout"}  # of no effect in inference: every engine removes them
AFFINE = {"Mul", "Add", "Sub", "Div", "Sum"}


class FusionRules(NamedTuple):
    """What an engine does with a graph before any layout is chosen.

    ``keeps_views``: reshapes are executed. ``folds_affine``: kernel kinds into which batch normalization, scale and
    shift are folded. ``activations``: of each kernel kind, the activations of which it takes one along; ``conv+add``
    stands for a convolution that has taken an addition. ``fuses_pad``: convolutions and average pools do the zero
    padding before them. ``adds``: kinds that take a following addition of two tensors along. ``merges_gates``: a
    tensor times its own sigmoid is one kernel. ``merges_slices``: slices that share a tensor out are one split.
    ``gelu_of_any_order``: an exported gelu is seen however its products are ordered. ``merges_equal``: of equal nodes
    with equal inputs one runs.
    """

    name: str
    keeps_views: bool
    folds_affine: frozenset[str]
    activations: Mapping[str, frozenset[str]]
    fuses_pad: bool
    adds: frozenset[str] = frozenset()
    merges_gates: bool = True
    merges_slices: bool = False
    gelu_of_any_order: bool = True
    merges_equal: bool = False


_ANY_ACTIVATION = frozenset({*ACTIVATIONS.values(), "relu6"})
_CONV_ACTIVATIONS = frozenset({"relu", "relu6", "clip", "leaky_relu", "sigmoid", "hardsigmoid", "tanh"})

VIRTUAL = FusionRules(
    "virtual",
    keeps_views=False,
    folds_affine=frozenset({*WEIGHTED_KINDS, "batch_norm"}),
    activations=dict.fromkeys((*WEIGHTED_KINDS, "add", "batch_norm"), _ANY_ACTIVATION),
    fuses_pad=False,
)
# Nothing at all is fused: what measured rules start from where a runtime is unknown.
BARE = FusionRules("bare", False, frozenset(), {}, fuses_pad=False, merges_gates=False)
# As the published kernel lists of the boards' public measurements have it: the activation in the kernel before it.
TFLITE = VIRTUAL._replace(name="tflite")
# Convolution, scale, addition and activation are one kernel. Source: TensorRT's developer guide, "Layer fusion".
TENSORRT = FusionRules(
    "tensorrt",
    keeps_views=False,
    folds_affine=frozenset({*WEIGHTED_KINDS, "batch_norm"}),
    activations=dict.fromkeys((*WEIGHTED_KINDS, "conv+add", "depthwise+add", "add", "batch_norm"), _ANY_ACTIVATION),
    fuses_pad=True,
    adds=frozenset({"conv", "depthwise"}),
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
    merges_slices=True,
    gelu_of_any_order=False,
    merges_equal=True,
)


class Lowering:
    """One pass over a graph's nodes that grows the list of kernels."""

    def __init__(self, graph: Graph, rules: FusionRules) -> None:
        self.graph = graph
        self.rules = rules
        self._kernels: list[Kernel | None] = []  # None: gone to where its addition was
        self.source: dict[str, str] = {}  # tensor name → the tensor it is a view of
        self.producer: dict[str, int] = {}
        self.uses = reader_counts(graph)

    def run(self) -> list[Kernel]:
        """The kernels in execution order."""
        if self.rules.merges_equal:
            merge_equal(self.graph)
            self.uses = reader_counts(self.graph)
        swallowed = merge_gelu(self.graph, self.uses, self.rules.gelu_of_any_order)
        if self.rules.merges_gates:
            swallowed |= merge_gates(self.graph, self.uses)
        if self.rules.fuses_pad:
            swallowed |= merge_pads(self.graph, self.uses)
        if self.rules.merges_slices:
            swallowed |= merge_slices(self.graph, self.uses)
        for node in self.graph.nodes:
            if id(node) not in swallowed:
                self._lower(node)
        return [kernel for kernel in self._kernels if kernel is not None]

    def _lower(self, node: Node) -> None:
        live = self.graph.live_inputs(node)
        if node.op in GONE or (node.op in VIEWS and not self.rules.keeps_views) or self._does_nothing(node):
            self._alias(node, live[0])
        elif node.op in ("BatchNormalization", *AFFINE) and len(live) == 1:
            self._affine(node, live[0])
        elif node.op in ACTIVATIONS:
            self._activation(node, live[0])
        elif node.op in BUILDERS:
            kernel = BUILDERS[node.op](self.graph, node)
            if not self._taken_along(kernel, node):
                self._emit(kernel, node)
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
        self._kernels.append(kernel)
        for name in node.outputs:
            self.producer[name] = len(self._kernels) - 1

    def _absorber(self, name: str) -> tuple[int, Kernel] | None:
        """The kernel that writes ``name``, with its index, if nothing else reads what it wrote."""
        base = self.resolve(name)
        index = self.producer.get(base) if self.uses[base] == 1 else None
        kernel = None if index is None else self._kernels[index]
        return None if index is None or kernel is None else (index, kernel)

    def _absorb(self, index: int, kernel: Kernel, node: Node) -> None:
        """Let kernel ``index`` write what ``node`` wrote."""
        kernel.writes = [node.outputs[0]]
        self.producer[node.outputs[0]] = index

    def _affine(self, node: Node, name: str) -> None:
        require_channelwise(self.graph, node, name)
        found = self._absorber(name)
        if found is not None and self._folds(found[1], node):
            self._absorb(*found, node)
            return
        kind = "batch_norm"
        if node.op != "BatchNormalization" and "batch_norm" not in self.rules.folds_affine:
            kind = "mul" if node.op in ("Mul", "Div") else "add"
        kernel = elementwise(kind, self.graph, node, [name])
        constants = [prod(self.graph.tensors[other].shape) for other in node.inputs if other != name]
        kernel.blockable = node.op == "Mul" and len(kernel.in_shape) == 4 and constants == [kernel.in_shape[1]]
        self._emit(kernel, node)

    def _folds(self, kernel: Kernel, node: Node) -> bool:
        if kernel.fused:
            return False
        bias_of_product = kernel.op == "MatMul" and node.op == "Add"
        return kernel.kind in self.rules.folds_affine or bias_of_product

    def _activation(self, node: Node, name: str) -> None:
        function = activation_name(self.graph, node)
        found = self._absorber(name)
        if found is not None:
            kernel = found[1]
            state = "+".join([kernel.kind, *kernel.fused])  # conv, conv+add; conv+relu takes nothing more
            if function in self.rules.activations.get(state, ()):
                kernel.fused.append(function)
                self._absorb(*found, node)
                return
        kernel = elementwise("activation", self.graph, node, [name])
        kernel.fused.append(function)
        self._emit(kernel, node)

    def _taken_along(self, kernel: Kernel, node: Node) -> bool:
        """Let a kernel do the addition behind it, where the rules allow it and in its place (its operand is there)."""
        if kernel.kind != "add" or len(kernel.reads) != 2 or kernel.inputs != 2:
            return False
        for name, other in (kernel.reads, kernel.reads[::-1]):
            found = self._absorber(name)
            if found is None or found[1].fused or found[1].kind not in self.rules.adds:
                continue
            index, source = found
            self._kernels[index] = None
            source.reads.append(self.resolve(other))
            source.fused.append("add")
            source.writes = [node.outputs[0]]
            self._kernels.append(source)
            self.producer[node.outputs[0]] = len(self._kernels) - 1
            return True
        return False
