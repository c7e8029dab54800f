"""The kernels that ONNX Runtime says it runs: its own optimized graph, read back.

The graph holds operators of the runtime's own domains (blocked convolutions and pools, reorders, fused products). In
blocked form channels are padded to the block; the logical count comes from the reorders that end a blocked stretch, or
from the network as it was before optimization where that is given. Source: the runtime's contrib operator reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from power_models.kernel_builders import ACTIVATIONS, BUILDERS, Kernel, activation_name, elementwise
from power_models.onnx_graph import Graph, InvalidModel, Node, Tensor, UnsupportedOperator, load_graph, read_graph
from power_models.onnx_shapes import output_shapes

NCHWC = "com.microsoft.nchwc"
CONTRIB = "com.microsoft"
REORDERS = {"ReorderInput": "reorder_in", "ReorderOutput": "reorder_out"}
RENAMED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "QuickGelu": "Swish", "Gelu": "Gelu", "FastGelu": "Gelu"}
# What leaves the channel count alone: the logical count on one side holds on the other.
SAME_CHANNELS = {
    *ACTIVATIONS,
    *REORDERS,
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Add",
    "Sum",
    "Mul",
}
SUFFIXES = ("_bn_nchwc", "_mul_nchwc", "_nchwc")


class OptimizedGraph:
    """The nodes of an optimized graph as kernels, with logical channel counts.

    ``original``: the graph before optimization, for logical channels and the names of the weights.
    """

    def __init__(self, proto: onnx.ModelProto, original: Graph | None, shape: Sequence[int] | None) -> None:
        self.original = original
        self.graph, raw = load_graph(proto, shape)
        self.domains = {id(node): raw_node.domain for node, raw_node in raw}
        self.nodes = [node for node, _ in raw]
        self.unnamed = {id(node) for node, raw_node in raw if not raw_node.name}
        self.channels: dict[str, int] = {}
        self._trace_channels()

    def kernels(self) -> list[Kernel]:
        """One kernel a node, in the order of the file."""
        kernels = []
        for node in self.nodes:
            lost = [name for name in node.inputs if name and name not in self.graph.tensors]
            if lost:
                raise InvalidModel(f"node {node.name!r} ({node.op}) reads {lost[0]!r}, which nothing before it writes")
            kernels.append(self._kernel(node))
        return kernels

    def _trace_channels(self) -> None:
        blocked = [n for n in self.nodes if self.domains[id(n)] == NCHWC or n.op in SAME_CHANNELS]
        for node in blocked:
            if node.op == "ReorderOutput":
                self.channels[node.inputs[0]] = int(node.attributes["channels"])
            elif node.op == "Conv" and self.original is not None:
                found = self.original.tensors.get(original_name(node.name))
                if found is not None:
                    self.channels[node.outputs[0]] = found.shape[1]
        # What a node reads is written before it, so one walk back and one forth reach everything in a stretch.
        for node in reversed(blocked):
            self._share_channels(node, node.outputs[:1], self._alike(node))
        for node in blocked:
            self._share_channels(node, self._alike(node), node.outputs[:1])

    def _share_channels(self, node: Node, known: list[str], wanted: list[str]) -> None:
        for name in known:
            if name in self.channels:
                for other in wanted:
                    self.channels.setdefault(other, self.channels[name])

    def _alike(self, node: Node) -> list[str]:
        """The inputs that have as many channels as the output."""
        if node.op != "Conv":
            return [name for name in node.inputs if name]
        depthwise = node.attributes.get("group", 1) > 1 and self.graph.tensors[node.inputs[1]].shape[1] == 1
        return [*(node.inputs[:1] if depthwise else []), *(name for name in node.inputs[3:4] if name)]

    def _kernel(self, node: Node) -> Kernel:
        domain = self.domains[id(node)]
        if node.op in REORDERS:
            return self._reorder(node)
        if domain not in ("", "ai.onnx", NCHWC) and node.op not in RENAMED:
            raise UnsupportedOperator(f"{domain}.{node.op}", node.name, "this operator of the runtime is not read yet")
        standard = Node(
            RENAMED.get(node.op, node.op), node.name, list(node.inputs), node.outputs, dict(node.attributes)
        )
        if standard.op == "Conv":
            return self._conv(standard, domain == NCHWC)
        if standard.op in ACTIVATIONS or standard.op == "BatchNormalization":
            return self._simple(standard, "activation" if standard.op in ACTIVATIONS else "batch_norm")
        for name, tensor in zip(standard.outputs, output_shapes(self.graph, standard), strict=False):
            self.graph.tensors[name] = tensor
        if standard.op in ("Add", "Sum", "Mul", "Sub", "Div") and len(self.graph.live_inputs(standard)) == 1:
            return self._simple(standard, "mul" if standard.op in ("Mul", "Div") else "add")
        builder = BUILDERS.get(standard.op)
        if builder is None:
            raise UnsupportedOperator(standard.op, node.name, "no kernel is known for it")
        kernel = builder(self.graph, standard)
        kernel.fused = [*kernel.fused, *_activation(node)]
        if kernel.kind == "fc":
            known = None if self.original is None else self.original.tensors.get(standard.inputs[1])
            kernel.weight = standard.inputs[1] if known is None else known.root
        return kernel

    def _simple(self, node: Node, kind: str) -> Kernel:
        self.graph.tensors[node.outputs[0]] = output_shapes(self.graph, node)[0]
        kernel = elementwise(kind, self.graph, node, self.graph.live_inputs(node)[:1])
        if kind == "activation":
            kernel.fused = [activation_name(self.graph, node)]
        return kernel

    def _reorder(self, node: Node) -> Kernel:
        tensor = self.graph.tensors[node.inputs[0]]
        shape = tensor.shape
        if node.op == "ReorderOutput":
            shape = (shape[0], int(node.attributes["channels"]), *shape[2:])
            if node.attributes.get("channels_last", 0):
                shape = (shape[0], shape[2], shape[3], shape[1])
        self.graph.tensors[node.outputs[0]] = Tensor(shape, tensor.dtype)
        return elementwise(REORDERS[node.op], self.graph, node, node.inputs[:1])

    def _conv(self, node: Node, blocked: bool) -> Kernel:
        """A convolution with its weight cut back to the logical channels."""
        tensors = self.graph.tensors
        channels = tensors[node.inputs[0]].shape[1]
        weight = tensors[node.inputs[1]]
        group = int(node.attributes.get("group", 1))
        out_channels = self.channels.get(node.outputs[0], weight.shape[0]) if blocked else weight.shape[0]
        if group > 1 and weight.shape[1] == 1 and blocked:
            group = channels
        node.attributes["group"] = group
        logical = (out_channels, channels // group, *weight.shape[2:])
        tensors[node.inputs[1]] = Tensor(logical, weight.dtype, True, self._weight_name(node))
        tensors[node.outputs[0]] = output_shapes(self.graph, node)[0]
        kernel = BUILDERS["Conv"](self.graph, node)
        tensors[node.inputs[1]] = weight
        if len(node.inputs) > 3 and node.inputs[3]:
            kernel.reads = [node.inputs[0], node.inputs[3]]
            kernel.fused.append("add")
        kernel.fused += _activation(node)
        return kernel

    def _weight_name(self, node: Node) -> str | None:
        """The initializer in the original file, found by walking up from the tensor that names the node.

        None of a convolution that the runtime made of a batch normalization or a scale.
        """
        if self.original is None:
            return node.inputs[1]
        if node.name.endswith(SUFFIXES[:2]):
            return None
        producers = {name: n for n in self.original.nodes for name in n.outputs}
        above = producers.get(original_name(node.name)) or producers.get(node.outputs[0])
        while above is not None and above.op != "Conv":
            live = [name for name in self.original.live_inputs(above) if name not in node.inputs[3:4]]
            above = producers.get(live[0]) if live else None
        return None if above is None else self.original.tensors[above.inputs[1]].root


def original_name(name: str) -> str:
    """The tensor of the original graph after which the runtime named a blocked node."""
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name


def _activation(node: Node) -> list[str]:
    raw = node.attributes.get("activation")
    if not raw:
        return []
    name = ACTIVATIONS.get(raw.decode(), raw.decode().lower())
    params = [float(p) for p in node.attributes.get("activation_params", [])]
    if name == "clip" and params[:1] == [0.0]:
        name = "relu6" if params[1:2] == [6.0] else name
    return [name]


def in_profile_order(
    kernels: Sequence[Kernel], unnamed: set[str], profile_nodes: Sequence[Mapping[str, Any]]
) -> list[Kernel]:
    """The kernels in the order of the profile, one an entry.

    ``unnamed``: names given here to nodes that the file leaves nameless. Those, and the reorders, which the runtime
    names anew in every session, are matched by operator and by position: behind what writes for them, before what
    reads them. Raises InvalidModel where graph and profile are not of the same network.
    """
    ops = [str(entry.get("op_name") or "") for entry in profile_nodes]
    floating_ops = {kernel.op for kernel in kernels if kernel.name in unnamed or kernel.op in REORDERS}
    by_name = {
        k.name: i for i, k in enumerate(kernels) if not (k.name in unnamed or (k.op in REORDERS and k.op in ops))
    }
    placed: dict[int, int] = {}  # kernel -> entry
    slots: dict[str, list[int]] = {}
    for position, (entry, op) in enumerate(zip(profile_nodes, ops, strict=True)):
        index = by_name.pop(str(entry["name"]), None)
        if index is not None:
            placed[index] = position
        elif op in floating_ops:
            slots.setdefault(op, []).append(position)
        else:
            raise InvalidModel(f"the profile names node {entry['name']!r}, which the optimized graph has not")
    if by_name:
        raise InvalidModel(_lacks(next(iter(by_name))))
    earliest, latest = _bounds(kernels, placed, len(profile_nodes))
    for op in sorted({kernels[i].op for i in range(len(kernels)) if i not in placed} | set(slots)):
        members = [i for i, kernel in enumerate(kernels) if i not in placed and kernel.op == op]
        found = _scheduled(members, slots.get(op, []), earliest, latest)
        if len(members) > len(slots.get(op, [])):
            raise InvalidModel(_lacks(kernels[members[-1]].name))
        if found is None:
            seen = f"the profile runs {len(slots[op])} {op}, the optimized graph {len(members)} or elsewhere"
            raise InvalidModel(f"{seen}: not of the same network?")
        placed |= found
        for index, position in found.items():
            kernels[index].name = str(profile_nodes[position]["name"])
    return [kernels[i] for i in sorted(placed, key=placed.__getitem__)]


def _lacks(name: str) -> str:
    return f"the profile lacks node {name!r} of the optimized graph: not of the same network?"


def _bounds(kernels: Sequence[Kernel], placed: Mapping[int, int], end: int) -> tuple[list[int], list[int]]:
    """The first and last entry of the profile that each kernel can be, by what it reads and by what reads it."""
    writer = {name: i for i, kernel in enumerate(kernels) for name in kernel.writes}
    sources = [[writer[name] for name in kernel.reads if name in writer] for kernel in kernels]
    earliest, latest = [0] * len(kernels), [end - 1] * len(kernels)
    for i in range(len(kernels)):
        earliest[i] = placed.get(i, max((earliest[j] + 1 for j in sources[i]), default=0))
    for i in reversed(range(len(kernels))):
        latest[i] = placed.get(i, latest[i])
        for j in sources[i]:
            latest[j] = min(latest[j], latest[i] - 1)
    return earliest, latest


def _scheduled(
    members: Sequence[int], slots: Sequence[int], earliest: Sequence[int], latest: Sequence[int]
) -> dict[int, int] | None:
    """A slot for each member between its bounds, the most urgent first (which finds one where there is one)."""
    if len(members) != len(slots):
        return None
    waiting, found = list(members), {}
    for slot in slots:
        ready = [i for i in waiting if earliest[i] <= slot <= latest[i]]
        if not ready:
            return None
        chosen = min(ready, key=lambda i: (latest[i], i))
        waiting.remove(chosen)
        found[chosen] = slot
    return found


def optimized_kernels(
    optimized: onnx.ModelProto | bytes | str | Path,
    profile_nodes: Sequence[Mapping[str, Any]] = (),
    original: onnx.ModelProto | str | Path | None = None,
    shape: Sequence[int] | None = None,
) -> tuple[list[Kernel], list[str]]:
    """(kernels, names of the network inputs) of an optimized graph; see ``from_optimized``."""
    try:
        proto = onnx.ModelProto.FromString(optimized) if isinstance(optimized, bytes) else optimized
    except DecodeError as error:
        raise InvalidModel(f"the optimized graph is cut short or no ONNX model: {error}") from error
    if not isinstance(proto, onnx.ModelProto):
        proto = onnx.load_model(str(proto), load_external_data=False)
    reader = OptimizedGraph(proto, None if original is None else read_graph(original, shape), shape)
    kernels = reader.kernels()
    unnamed = {node.name for node in reader.nodes if id(node) in reader.unnamed}
    if profile_nodes:
        kernels = in_profile_order(kernels, unnamed, profile_nodes)
    return kernels, reader.graph.inputs
