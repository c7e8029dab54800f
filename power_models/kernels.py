"""An ONNX graph as the list of kernels that a runtime executes: by rules, or read from the runtime's own graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from device_agents.records import KernelSpec
from power_models.graph_fusion import ONNXRUNTIME, TENSORRT, TFLITE, VIRTUAL, FusionRules, Lowering
from power_models.kernel_builders import Kernel
from power_models.nchwc_layout import AVX512_BLOCK, onnxruntime_layout
from power_models.onnx_graph import DynamicShape, InvalidModel, UnsupportedOperator, read_graph
from power_models.optimized_graph import optimized_kernels

__all__ = [
    "RULES",
    "DynamicShape",
    "FusionRules",
    "InvalidModel",
    "KernelNode",
    "UnsupportedOperator",
    "from_optimized",
    "kernel_graph",
]

RULES: Mapping[str, FusionRules] = {rules.name: rules for rules in (VIRTUAL, ONNXRUNTIME, TFLITE, TENSORRT)}


class KernelNode(NamedTuple):
    """A kernel in its place: its spec, which kernels it reads (−1: a network input), and the weight that it holds.

    ``weight``: name of the initializer of a conv, depthwise or fc (that of the file, however it was folded).
    ``op``: the ONNX operator it stems from. ``name``: that node's name.
    """

    spec: KernelSpec
    name: str
    inputs: tuple[int, ...]
    weight: str | None
    op: str


def kernel_graph(
    model: onnx.ModelProto | str | Path,
    rules: str | FusionRules = "virtual",
    shape: Sequence[int] | None = None,
    block: int = AVX512_BLOCK,
) -> list[KernelNode]:
    """The kernels of ``model`` in execution order, fused as ``rules`` say: the name of a runtime in RULES, or its own.

    ``shape``: of the first network input, where the file leaves dimensions open. ``block``: channels in a block of
    ONNX Runtime's NCHWc layout (16 with AVX-512, 8 with AVX2 and on Arm, 0: the layout is not used); other rules have
    no layout. Raises InvalidModel (no ONNX file), DynamicShape (open dimensions), UnsupportedOperator (an operator
    without a rule: nothing is skipped), all of them ValueErrors.
    """
    if isinstance(rules, str):
        if rules not in RULES:
            raise ValueError(f"unknown kernel rules {rules!r}; known: {', '.join(RULES)}")
        rules = RULES[rules]
    graph = read_graph(model, shape)
    kernels = Lowering(graph, rules).run()
    if rules.name == ONNXRUNTIME.name:
        kernels = onnxruntime_layout(kernels, graph.outputs, block)
    return kernel_nodes(kernels, graph.inputs)


def from_optimized(
    optimized: onnx.ModelProto | bytes | str | Path,
    profile_nodes: Sequence[Mapping[str, Any]] = (),
    original: onnx.ModelProto | str | Path | None = None,
    shape: Sequence[int] | None = None,
) -> list[KernelNode]:
    """The kernels of ONNX Runtime's own optimized graph, one an entry of ``profile_nodes`` and in that order.

    ``profile_nodes``: the nodes of the agent's ``inspect`` (``name``, ``op_name``); without them the file's order is
    kept. ``original``: the network before optimization, which brings the logical channel counts of every kernel and
    the names of the weights; without it a blocked tensor that no reorder ends keeps its padded count. Raises
    InvalidModel (graph and profile do not fit), UnsupportedOperator.
    """
    kernels, inputs = optimized_kernels(optimized, profile_nodes, original, shape)
    return kernel_nodes(kernels, inputs)


def kernel_nodes(kernels: Sequence[Kernel], network_inputs: Sequence[str]) -> list[KernelNode]:
    """The kernels with tensor names replaced by indices of the kernels that write them."""
    producer = dict.fromkeys(network_inputs, -1)
    nodes = []
    for index, kernel in enumerate(kernels):
        inputs = tuple(producer[name] for name in kernel.reads)
        nodes.append(KernelNode(kernel.spec(), kernel.name, inputs, kernel.weight, kernel.op))
        for name in kernel.writes:
            producer[name] = index
    return nodes
