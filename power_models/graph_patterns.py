"""Several ONNX nodes that an engine runs as one, rewritten before lowering.

    x · sigmoid(x)                        →  Swish (silu)          x · hard_sigmoid(x)  →  HardSwish
    x · (1 + erf(x / √2)) · 0.5           →  Gelu                  (in other orders too, where the engine sees it)
    a Pad of zeros before a convolution   →  the convolution's own padding
    Slices that share an axis out         →  Split
    equal nodes of equal inputs           →  the first of them

Each function returns the ids of the nodes that are swallowed, and keeps the reader counts ``uses`` true.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from power_models.kernel_builders import image_pads
from power_models.onnx_graph import Graph, Node

GELU_TOLERANCE = 1e-3  # relative, of the constants in an exported gelu (some exporters write 1.4142)


def merge_gates(graph: Graph, uses: dict[str, int]) -> set[int]:
    """Rewrite x * sigmoid(x) and x * hard_sigmoid(x) into one node."""
    gates = {n.outputs[0]: n for n in graph.nodes if n.op in ("Sigmoid", "HardSigmoid")}
    swallowed: set[int] = set()
    for node in graph.nodes:
        if node.op != "Mul" or len(graph.live_inputs(node)) != 2:
            continue
        for gate_name, other in (node.inputs, node.inputs[::-1]):
            gate = gates.get(gate_name)
            if gate is None or gate.inputs[0] != other or uses[gate_name] != 1:
                continue
            swallowed.add(id(gate))
            node.op = "Swish" if gate.op == "Sigmoid" else "HardSwish"
            node.inputs = [other]
            uses[other] -= 1
            break
    return swallowed


def merge_gelu(graph: Graph, uses: dict[str, int], any_order: bool) -> set[int]:
    """Rewrite the five nodes that exporters write for a gelu into one; an Erf of any other use stays.

    ``any_order`` False: only x / √2, and (1 + erf) · x · 0.5 or (0.5 · x) · (1 + erf), as ONNX Runtime's GeluFusion.
    """
    readers: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    writers = {name: node for node in graph.nodes for name in node.outputs}
    swallowed: set[int] = set()
    for erf in graph.nodes:
        scaled = writers.get(erf.inputs[0]) if erf.op == "Erf" else None
        if scaled is None or not (any_order or scaled.op == "Div") or not _scales(graph, scaled, 1 / sqrt(2)):
            continue
        source = graph.live_inputs(scaled)[0]
        parts = _gelu_tail(graph, erf, source, readers, writers, any_order)
        if parts is None or any(uses[part.outputs[0]] != 1 for part in (scaled, erf, *parts[:-1])):
            continue
        last = parts[-1]
        swallowed |= {id(part) for part in (scaled, erf, *parts[:-1])}
        last.op, last.inputs, last.attributes = "Gelu", [source], {}
        uses[source] -= 1
    return swallowed


def _gelu_tail(
    graph: Graph,
    erf: Node,
    source: str,
    readers: dict[str, list[Node]],
    writers: dict[str, Node],
    any_order: bool,
) -> list[Node] | None:
    """What follows the Erf: + 1, times x and times 0.5; the node that ends it last. None where it is not that."""
    shifted = _only(readers, erf)
    if shifted is None or shifted.op != "Add" or not _is(_constant(graph, shifted), 1.0):
        return None
    product = _only(readers, shifted)
    if product is None or product.op != "Mul":
        return None
    live = graph.live_inputs(product)
    if any_order and len(live) == 1 and _scales(graph, product, 0.5):  # 0.5 · (1 + erf), then · x
        last = _only(readers, product)
        other = None if last is None else [name for name in last.inputs if name != product.outputs[0]]
        return [shifted, product, last] if last is not None and last.op == "Mul" and other == [source] else None
    others = [name for name in live if name != shifted.outputs[0]]
    if others == [source]:  # x · (1 + erf), then · 0.5
        last = _only(readers, product)
        return [shifted, product, last] if last is not None and _scales(graph, last, 0.5) else None
    half = writers.get(others[0]) if len(others) == 1 else None  # (0.5 · x) · (1 + erf)
    if half is not None and _scales(graph, half, 0.5) and graph.live_inputs(half) == [source]:
        return [shifted, half, product]
    return None


def _only(readers: dict[str, list[Node]], node: Node) -> Node | None:
    found = readers.get(node.outputs[0], [])
    return found[0] if len(found) == 1 else None


def _constant(graph: Graph, node: Node) -> Any:
    """The value of a node's one small constant operand, None without one."""
    constants = [graph.tensors[name].value for name in node.inputs if name and graph.tensors[name].constant]
    return constants[0] if len(constants) == 1 else None


def _is(value: Any, wanted: float) -> bool:
    return value is not None and np.size(value) == 1 and abs(float(np.ravel(value)[0]) - wanted) < GELU_TOLERANCE


def _scales(graph: Graph, node: Node, factor: float) -> bool:
    """Whether the node multiplies its one live input by ``factor`` (or divides it by the inverse)."""
    if len(graph.live_inputs(node)) != 1:
        return False
    value = _constant(graph, node)
    if node.op == "Div":
        return node.inputs[0] == graph.live_inputs(node)[0] and _is(value, 1 / factor)
    return node.op == "Mul" and _is(value, factor)


def merge_pads(graph: Graph, uses: dict[str, int]) -> set[int]:
    """Let convolutions and average pools do the zero padding before them."""
    readers = {name: node for node in graph.nodes for name in node.inputs[:1]}
    swallowed: set[int] = set()
    for node in graph.nodes:
        reader = readers.get(node.outputs[0])
        if node.op != "Pad" or reader is None or uses[node.outputs[0]] != 1:
            continue
        pads = image_pads(graph, node)
        counts = reader.op == "Conv" or (reader.op == "AveragePool" and reader.attributes.get("count_include_pad"))
        if pads is None or not counts or reader.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            continue
        own = reader.attributes.get("pads") or [0, 0, 0, 0]
        reader.attributes["pads"] = [a + b for a, b in zip(own, pads, strict=True)]
        reader.inputs = [node.inputs[0], *reader.inputs[1:]]
        swallowed.add(id(node))
    return swallowed


def merge_slices(graph: Graph, uses: dict[str, int]) -> set[int]:
    """Let one Split do the Slices that share an axis of a tensor out among them, nothing left and nothing twice."""
    sliced: dict[str, list[tuple[int, int, int, Node]]] = {}
    for node in graph.nodes:
        part = _part(graph, node) if node.op == "Slice" else None
        if part is not None:
            sliced.setdefault(node.inputs[0], []).append((*part, node))
    swallowed: set[int] = set()
    for name, parts in sliced.items():
        axes, starts, ends, nodes = zip(*sorted(parts, key=lambda part: part[:3]), strict=True)
        size = graph.tensors[name].shape[axes[0]]
        whole = len(set(axes)) == 1 and (0, *ends) == (*starts, size)
        if len(parts) < 2 or not whole:
            continue
        first = min(nodes, key=lambda node: next(i for i, other in enumerate(graph.nodes) if other is node))
        first.op, first.inputs, first.attributes = "Split", [name], {"axis": axes[0]}
        first.outputs = [node.outputs[0] for node in nodes]
        swallowed |= {id(node) for node in nodes if node is not first}
        uses[name] -= len(parts) - 1
    return swallowed


def _part(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """(axis, start, end) of a Slice along one axis in steps of one; None for any other."""
    shape = graph.tensors[node.inputs[0]].shape
    if "starts" in node.attributes:
        starts, ends, axes, steps = (
            node.attributes["starts"],
            node.attributes["ends"],
            node.attributes.get("axes"),
            None,
        )
    else:
        starts, ends, axes, steps = (graph.constant(node, i) for i in (1, 2, 3, 4))
    if len(starts) != 1 or (steps is not None and int(steps[0]) != 1):
        return None
    axis = (0 if axes is None else int(axes[0])) % len(shape)
    start, end, _ = slice(int(starts[0]), int(ends[0])).indices(shape[axis])
    return axis, start, end


def merge_equal(graph: Graph) -> None:
    """Drop a node that does what one before it does: same operator, attributes and inputs.

    Weights are told apart by name, but for those that a node fills with one number (as the files of networks without
    their weights have them): equal ones are one. A network output stays.
    """
    stands_for: dict[str, str] = {}
    seen: dict[tuple[Any, ...], Node] = {}
    kept = []
    for node in graph.nodes:
        node.inputs = [stands_for.get(name, name) for name in node.inputs]
        key = (node.op, tuple(_identity(graph, name) for name in node.inputs), repr(sorted(node.attributes.items())))
        first = seen.setdefault(key, node)
        if first is node or set(node.outputs) & set(graph.outputs):
            kept.append(node)
        else:
            stands_for.update(zip(node.outputs, first.outputs, strict=False))
    graph.nodes = kept


def _identity(graph: Graph, name: str) -> Any:
    tensor = graph.tensors.get(name)
    return name if tensor is None or tensor.fill is None else (tensor.shape, tensor.dtype, tensor.fill)
