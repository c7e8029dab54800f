"""An ONNX file as plain nodes with known shapes: the first half of ``kernels.py``.

Weights are never materialised: of an initializer only name, dims and type are kept, and the value of the small ones
(axes, pads, clip bounds). Nodes that depend on constants alone are constants; what is left is what a runtime executes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

SMALL = 256  # elements: larger constants are weights, of which only the shape matters

ELEMENT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}


class InvalidModel(ValueError):
    """The file is not a usable ONNX model; the message says what was found and what to do."""


class DynamicShape(InvalidModel):
    """A dimension of a network input has no value and no ``shape`` was given."""


class UnsupportedOperator(ValueError):
    """An operator that the kernel rules do not know; ``operator`` and ``node`` name it."""

    def __init__(self, operator: str, node: str, why: str) -> None:
        super().__init__(
            f"operator {operator} (node {node!r}): {why}. Rewrite the network without it, simplify the ONNX file so "
            "that it is folded away, or teach power_models/graph_fusion.py what the runtime executes for it"
        )
        self.operator = operator
        self.node = node
        self.why = why


@dataclass(slots=True)
class Tensor:
    """A named value: its shape, element type, whether it is constant, and the initializer it stems from.

    ``fill``: of a constant that a node makes of one number, that number.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: bool = False
    root: str | None = None
    value: Any = None
    fill: float | None = None


@dataclass(slots=True)
class Node:
    """One operator with the tensors it reads (constant ones included) and writes."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """The nodes that run, in execution order, with every tensor's shape."""

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: list[str]
    outputs: list[str]
    opset: int

    def live_inputs(self, node: Node) -> list[str]:
        """The names of the activation tensors that ``node`` reads."""
        return [name for name in node.inputs if name and not self.tensors[name].constant]

    def constant(self, node: Node, index: int) -> Any:
        """The value of input ``index`` (a small constant), None where it is absent; InvalidModel where unknown."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return None
        tensor = self.tensors[node.inputs[index]]
        if tensor.value is None:
            raise InvalidModel(
                f"node {node.name!r} ({node.op}): input {index} ({node.inputs[index]!r}) must be a constant known from "
                "the file; export the network with fixed shapes"
            )
        return tensor.value


def load_model(model: onnx.ModelProto | str | Path) -> tuple[onnx.ModelProto, Path | None]:
    """Read an ONNX file without its external weights; InvalidModel where it is missing, empty or corrupt."""
    if isinstance(model, onnx.ModelProto):
        return model, None
    path = Path(model)
    if not path.is_file():
        raise InvalidModel(f"reading the ONNX model {path}: no such file")
    if path.stat().st_size == 0:
        raise InvalidModel(f"reading the ONNX model {path}: the file is empty; export it again")
    try:
        proto = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise InvalidModel(
            f"reading the ONNX model {path}: not an ONNX file, or cut short ({error}); export it again"
        ) from error
    return proto, path.parent


def read_graph(model: onnx.ModelProto | str | Path, shape: Sequence[int] | None = None) -> Graph:
    """The running nodes of ``model`` with all shapes known.

    ``shape``: of the first network input, where the file leaves it open. Raises InvalidModel, DynamicShape,
    UnsupportedOperator.
    """
    from power_models.onnx_shapes import fold_constant, output_shapes

    proto, folder = load_model(model)
    graph, nodes = load_graph(proto, shape, folder)
    for node, raw in nodes:
        if raw.domain not in ("", "ai.onnx"):
            raise UnsupportedOperator(
                f"{raw.domain}.{node.op}", node.name, "not a standard ONNX operator (an already optimized file?)"
            )
        _require_inputs(graph, node)
        if fold_constant(graph, node):
            continue
        for name, tensor in zip(node.outputs, output_shapes(graph, node), strict=False):
            graph.tensors[name] = tensor
        graph.nodes.append(node)
    lost = [name for name in graph.outputs if name not in graph.tensors]
    if lost:
        raise InvalidModel(f"the network output {lost[0]!r} is produced by no node; the file is damaged")
    return graph


def load_graph(
    proto: onnx.ModelProto, shape: Sequence[int] | None = None, folder: Path | None = None
) -> tuple[Graph, list[tuple[Node, onnx.NodeProto]]]:
    """A graph with inputs and constants but no nodes yet, and the file's nodes (local functions inlined)."""
    if not proto.graph.node:
        raise InvalidModel("the ONNX model has no nodes: nothing to run; export it again")
    if proto.functions:
        import onnx.inliner

        proto = onnx.inliner.inline_local_functions(proto)
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
    graph = Graph([], _constants(proto, folder), [], [v.name for v in proto.graph.output], opset)
    _bind_inputs(proto, graph, shape)
    return graph, [(_node(raw, index), raw) for index, raw in enumerate(proto.graph.node)]


def _require_inputs(graph: Graph, node: Node) -> None:
    missing = [name for name in node.inputs if name and name not in graph.tensors]
    if missing:
        raise InvalidModel(
            f"node {node.name!r} ({node.op}) reads {missing[0]!r}, which nothing before it produces; "
            "the file is damaged or not sorted: check it with onnx.checker"
        )


def _node(raw: onnx.NodeProto, index: int) -> Node:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in raw.attribute}
    outputs = list(raw.output)
    return Node(raw.op_type, raw.name or f"{raw.op_type}_{index}", list(raw.input), outputs, attributes)


def _constants(proto: onnx.ModelProto, folder: Path | None) -> dict[str, Tensor]:
    tensors = {}
    for initializer in proto.graph.initializer:
        tensors[initializer.name] = constant_tensor(initializer, initializer.name, folder)
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise InvalidModel(f"the weight {name!r} is stored sparse; export the network with dense weights")
    return tensors


def constant_tensor(proto: onnx.TensorProto, root: str, folder: Path | None = None) -> Tensor:
    """A constant's shape, and its value where it is small and at hand."""
    shape = tuple(proto.dims)
    value = None
    if prod(shape) <= SMALL:
        external = proto.data_location == onnx.TensorProto.EXTERNAL
        if not external:
            value = numpy_helper.to_array(proto)
        elif folder is not None:
            value = numpy_helper.to_array(proto, base_dir=str(folder))
    return Tensor(shape, ELEMENT_TYPES.get(proto.data_type, "other"), True, root, value)


def _bind_inputs(proto: onnx.ModelProto, graph: Graph, shape: Sequence[int] | None) -> None:
    wanted = None if shape is None else tuple(int(d) for d in shape)
    for value in proto.graph.input:
        if value.name in graph.tensors:
            continue
        tensor_type = value.type.tensor_type
        dims: list[Any] = [d.dim_value if d.dim_value > 0 else (d.dim_param or "?") for d in tensor_type.shape.dim]
        if wanted is not None and not graph.inputs:
            dims = _with_shape(value.name, dims, wanted)
        if any(isinstance(d, str) for d in dims):
            shown = ", ".join(str(d) for d in dims)
            raise DynamicShape(
                f"network input {value.name!r} has shape ({shown}): give the sizes of its open dimensions "
                "with --shape, such as --shape 1,3,224,224"
            )
        graph.tensors[value.name] = Tensor(tuple(dims), ELEMENT_TYPES.get(tensor_type.elem_type, "other"))
        graph.inputs.append(value.name)
    if not graph.inputs:
        raise InvalidModel("the ONNX model has no network input: everything in it is constant")


def _with_shape(name: str, dims: list[Any], wanted: tuple[int, ...]) -> list[int]:
    fits = len(dims) in (0, len(wanted)) and all(d > 0 for d in wanted)
    if not fits or any(isinstance(d, int) and d != w for d, w in zip(dims, wanted, strict=False)):
        have = ", ".join(str(d) for d in dims)
        raise InvalidModel(f"shape {wanted} does not fit the network input {name!r}, which is ({have})")
    return list(wanted)


def reader_counts(graph: Graph) -> dict[str, int]:
    """How often each tensor is read; a network output counts as one more reader."""
    uses: dict[str, int] = dict.fromkeys(graph.outputs, 1)
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    return uses
