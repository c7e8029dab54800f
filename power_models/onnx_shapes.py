"""Output shapes of the ONNX operators that image networks use, and the folding of constants.

Written here rather than left to onnx.shape_inference: no copy of the weights, no dependence on what an exporter wrote
into ``value_info``, and an operator that is not listed is an error that names it. Source: the ONNX operator reference.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, floor, prod
from typing import Any

import numpy as np

from power_models.onnx_graph import SMALL, Graph, InvalidModel, Node, Tensor, UnsupportedOperator, constant_tensor

Shape = tuple[int, ...]

ELEMENTWISE = {
    "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Selu", "Softplus",
    "Gelu", "Swish", "Mish", "Softmax", "LogSoftmax", "Dropout", "Identity", "BatchNormalization", "LRN", "Cast",
    "QuantizeLinear", "DequantizeLinear", "Erf",
}  # fmt: skip
BROADCAST = {"Add", "Sum", "Mul", "Sub", "Div"}
# Nodes of constants whose result still is the weight they were given, seen from another side.
KEEPS_ROOT = {"Identity", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "DequantizeLinear", "QuantizeLinear"}


def output_shapes(graph: Graph, node: Node) -> list[Tensor]:
    """The tensors that ``node`` writes. Raises UnsupportedOperator for an operator not listed here."""
    first = graph.tensors[node.inputs[0]] if node.inputs and node.inputs[0] else Tensor(())
    if node.op in ELEMENTWISE:
        shapes = [first.shape] * len(node.outputs)
    elif node.op in BROADCAST:
        shapes = [_broadcast(node, [graph.tensors[name].shape for name in node.inputs])]
    elif node.op in _RULES:
        shapes = _RULES[node.op](graph, node, first.shape)
    else:
        raise UnsupportedOperator(node.op, node.name, "no kernel is known for it")
    dtype = first.dtype
    if node.op == "QuantizeLinear":
        dtype = graph.tensors[node.inputs[2]].dtype if len(node.inputs) > 2 else "uint8"
    elif node.op == "DequantizeLinear":
        dtype = "float32"
    return [Tensor(shape, dtype) for shape in shapes]


def fold_constant(graph: Graph, node: Node) -> bool:
    """Whether ``node`` depends on constants alone; then its outputs are entered as constants."""
    tensors = graph.tensors
    if node.op == "Constant":
        tensors[node.outputs[0]] = _constant_node(node)
        return True
    if node.op == "Shape":
        dims = tensors[node.inputs[0]].shape[node.attributes.get("start", 0) : node.attributes.get("end")]
        tensors[node.outputs[0]] = Tensor((len(dims),), "int64", True, node.outputs[0], np.array(dims, np.int64))
        return True
    if not node.inputs or not all(tensors[name].constant for name in node.inputs if name):
        return False
    first = tensors[node.inputs[0]]
    if node.op == "ConstantOfShape":
        tensors[node.outputs[0]] = _filled(node, graph.constant(node, 0))
        return True
    value = _evaluate(graph, node)
    shape = output_shapes(graph, node)[0].shape if value is None else tuple(value.shape)
    keeps = node.op in KEEPS_ROOT
    root = first.root if keeps else node.outputs[0]
    tensors[node.outputs[0]] = Tensor(shape, first.dtype, True, root, value, first.fill if keeps else None)
    return True


def _constant_node(node: Node) -> Tensor:
    name = node.outputs[0]
    if "value" in node.attributes:
        return constant_tensor(node.attributes["value"], name)
    for key, dtype in (("value_int", "int64"), ("value_ints", "int64"), ("value_float", "float32"),
                       ("value_floats", "float32")):  # fmt: skip
        if key in node.attributes:
            value = np.array(node.attributes[key], dtype)
            return Tensor(tuple(value.shape), dtype, True, name, value)
    raise UnsupportedOperator("Constant", node.name, "it holds neither a tensor nor numbers")


def _filled(node: Node, dims: Any) -> Tensor:
    shape = tuple(int(d) for d in dims)
    proto = node.attributes.get("value")
    fill = constant_tensor(proto, node.outputs[0]) if proto is not None else Tensor((1,), value=np.zeros(1, np.float32))
    number = fill.value.reshape(-1)[0]
    value = np.full(shape, number) if prod(shape) <= SMALL else None
    return Tensor(shape, fill.dtype, True, node.outputs[0], value, float(number))


def _evaluate(graph: Graph, node: Node) -> Any:
    """The value of a node of small constants, None where it is large or not of the few that shape arithmetic needs."""
    values = [graph.tensors[name].value if name else None for name in node.inputs]
    if any(value is None for name, value in zip(node.inputs, values, strict=True) if name):
        return None
    rule = _ARITHMETIC.get(node.op)
    return None if rule is None else np.asarray(rule(node, values))


def _slice_value(node: Node, values: list[Any]) -> Any:
    starts, ends = values[1], values[2]
    axes = values[3] if len(values) > 3 and values[3] is not None else range(len(starts))
    steps = values[4] if len(values) > 4 and values[4] is not None else [1] * len(starts)
    index = [slice(None)] * values[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(step))
    return values[0][tuple(index)]


def _axes_of(node: Node, values: list[Any]) -> tuple[int, ...]:
    given = values[1] if len(values) > 1 and values[1] is not None else node.attributes.get("axes", ())
    return tuple(int(a) for a in np.asarray(given).reshape(-1))


_CASTS: dict[int, Any] = {1: np.float32, 6: np.int32, 7: np.int64}

_ARITHMETIC: dict[str, Callable[[Node, list[Any]], Any]] = {
    "Identity": lambda node, v: v[0],
    "Cast": lambda node, v: v[0].astype(_CASTS.get(node.attributes["to"], v[0].dtype)),
    "Gather": lambda node, v: np.take(v[0], v[1], axis=node.attributes.get("axis", 0)),
    "Concat": lambda node, v: np.concatenate(v, axis=node.attributes["axis"]),
    "Unsqueeze": lambda node, v: np.expand_dims(v[0], _axes_of(node, v)),
    "Squeeze": lambda node, v: np.squeeze(v[0], _axes_of(node, v) or None),
    "Slice": _slice_value,
    "Reshape": lambda node, v: v[0].reshape([v[0].shape[i] if d == 0 else d for i, d in enumerate(v[1])]),
    "Transpose": lambda node, v: v[0].transpose(node.attributes.get("perm")),
    "Add": lambda node, v: v[0] + v[1],
    "Sub": lambda node, v: v[0] - v[1],
    "Mul": lambda node, v: v[0] * v[1],
    "Div": lambda node, v: v[0] // v[1] if v[0].dtype.kind == "i" else v[0] / v[1],
}  # fmt: skip


def _broadcast(node: Node, shapes: list[Shape]) -> Shape:
    try:
        return tuple(int(d) for d in np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise InvalidModel(f"node {node.name!r} ({node.op}): shapes {shapes} do not go together") from error


def window(graph: Graph, node: Node, shape: Shape) -> tuple[tuple[int, int], tuple[int, ...], Shape, Shape]:
    """((kernel height, width), pads (top, left, bottom, right), strides, dilations) of a convolution or pool."""
    if len(shape) != 4:
        raise UnsupportedOperator(
            node.op, node.name, f"its input has shape {shape}; only two-dimensional ones are known"
        )
    kernel = tuple(node.attributes.get("kernel_shape") or graph.tensors[node.inputs[1]].shape[2:])
    strides = tuple(node.attributes.get("strides") or (1, 1))
    dilations = tuple(node.attributes.get("dilations") or (1, 1))
    auto = node.attributes.get("auto_pad", b"NOTSET").decode()
    pads = tuple(node.attributes.get("pads") or (0, 0, 0, 0))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = _same_pads(auto, shape, kernel, strides, dilations)
    return (kernel[0], kernel[1]), pads, strides, dilations


def _same_pads(auto: str, shape: Shape, kernel: Shape, strides: Shape, dilations: Shape) -> Shape:
    begin, end = [], []
    for size, k, s, d in zip(shape[2:], kernel, strides, dilations, strict=True):
        total = max((ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return (*begin, *end)


def _window_size(graph: Graph, node: Node, shape: Shape) -> tuple[int, int]:
    kernel, pads, strides, dilations = window(graph, node, shape)
    sizes = []
    for axis in (0, 1):
        room = shape[2 + axis] + pads[axis] + pads[axis + 2] - ((kernel[axis] - 1) * dilations[axis] + 1)
        steps = room / strides[axis]
        size = (ceil(steps) if node.attributes.get("ceil_mode", 0) else floor(steps)) + 1
        # A ceil-mode window that would start in the padding after the image is dropped (as the reference does).
        if node.attributes.get("ceil_mode", 0) and (size - 1) * strides[axis] >= shape[2 + axis] + pads[axis]:
            size -= 1
        sizes.append(size)
    if min(sizes) < 1:
        raise InvalidModel(f"node {node.name!r} ({node.op}): the {kernel} window does not fit an input of {shape}")
    return sizes[0], sizes[1]


def _conv(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    weight = graph.tensors[node.inputs[1]].shape
    height, width = _window_size(graph, node, shape)
    group = node.attributes.get("group", 1)
    if weight[1] * group != shape[1]:
        raise InvalidModel(
            f"node {node.name!r} (Conv): the weight takes {weight[1] * group} channels, the input has {shape[1]}"
        )
    return [(shape[0], weight[0], height, width)]


def _pool(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    return [(*shape[:2], *_window_size(graph, node, shape))] * len(node.outputs)


def _reduced(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axes = node.attributes.get("axes")
    if axes is None:
        axes = graph.constant(node, 1)
    axes = range(len(shape)) if axes is None else [int(a) % len(shape) for a in axes]
    keep = node.attributes.get("keepdims", 1)
    return [tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)]


def _concat(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axis = node.attributes["axis"] % len(shape)
    total = sum(graph.tensors[name].shape[axis] for name in node.inputs)
    return [(*shape[:axis], total, *shape[axis + 1 :])]


def _reshape(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    wanted = [int(d) for d in (node.attributes.get("shape") or graph.constant(node, 1))]
    if not node.attributes.get("allowzero", 0):
        wanted = [shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    known = prod(d for d in wanted if d != -1)
    result = tuple(prod(shape) // max(known, 1) if d == -1 else d for d in wanted)
    if prod(result) != prod(shape):
        raise InvalidModel(
            f"node {node.name!r} (Reshape): {shape} has not as many elements as {tuple(wanted)}; "
            "a network exported for one input size or batch cannot be given another"
        )
    return [result]


def _flatten(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axis = node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(prod(shape[:axis]), prod(shape[axis:]))]


def _transpose(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    return [tuple(shape[i] for i in node.attributes.get("perm", range(len(shape))[::-1]))]


def _gemm(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    other = graph.tensors[node.inputs[1]].shape
    rows, inner = shape[::-1] if node.attributes.get("transA", 0) else shape
    columns, depth = other if node.attributes.get("transB", 0) else other[::-1]
    if inner != depth:
        raise InvalidModel(f"node {node.name!r} (Gemm): the weight takes {depth} features, the input has {inner}")
    return [(rows, columns)]


def _matmul(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    other = graph.tensors[node.inputs[1]].shape
    if len(shape) < 2 or len(other) < 2 or shape[-1] != other[-2]:
        raise InvalidModel(f"node {node.name!r} (MatMul): {shape} and {other} do not multiply")
    return [(*_broadcast(node, [shape[:-2], other[:-2]]), shape[-2], other[-1])]


def _axes(graph: Graph, node: Node) -> list[int] | None:
    axes = node.attributes.get("axes")
    if axes is None:
        axes = graph.constant(node, 1)
    return None if axes is None else [int(a) for a in np.asarray(axes).reshape(-1)]


def _squeeze(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axes = _axes(graph, node)
    gone = [i for i, d in enumerate(shape) if d == 1] if axes is None else [a % len(shape) for a in axes]
    return [tuple(d for i, d in enumerate(shape) if i not in gone)]


def _unsqueeze(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axes = _axes(graph, node) or []
    rank = len(shape) + len(axes)
    new = {a % rank for a in axes}
    rest = iter(shape)
    return [tuple(1 if i in new else next(rest) for i in range(rank))]


def _slice(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    if "starts" in node.attributes:
        starts, ends = node.attributes["starts"], node.attributes["ends"]
        axes, steps = node.attributes.get("axes"), None
    else:
        starts, ends, axes, steps = (graph.constant(node, i) for i in (1, 2, 3, 4))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    result = list(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[int(axis)]
        result[int(axis)] = len(range(*slice(int(start), int(end), int(step)).indices(size)))
    return [tuple(result)]


def _split(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axis = node.attributes.get("axis", 0) % len(shape)
    sizes = node.attributes.get("split")
    if sizes is None:
        sizes = graph.constant(node, 1)
    if sizes is None:
        part = ceil(shape[axis] / len(node.outputs))
        sizes = [min(part, shape[axis] - i * part) for i in range(len(node.outputs))]
    return [(*shape[:axis], int(size), *shape[axis + 1 :]) for size in sizes]


def _pad(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    pads = node.attributes.get("pads")
    pads = list(graph.constant(node, 1) if pads is None else pads)
    axes = graph.constant(node, 3) if len(node.inputs) > 3 else None
    axes = range(len(shape)) if axes is None else [int(a) % len(shape) for a in axes]
    result = list(shape)
    for i, axis in enumerate(axes):
        result[axis] += int(pads[i]) + int(pads[i + len(pads) // 2])
    return [tuple(result)]


def _resize(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    """By sizes or by scales, of all axes or (opset 18) of those in ``axes``; Upsample has its scales second."""
    scales = graph.constant(node, 1 if node.op == "Upsample" or len(node.inputs) == 2 else 2)
    sizes = graph.constant(node, 3)
    given = node.attributes.get("scales") if scales is None or not np.size(scales) else scales
    axes = [int(a) % len(shape) for a in node.attributes.get("axes") or range(len(shape))]
    result = list(shape)
    for i, axis in enumerate(axes):
        if sizes is not None and np.size(sizes):
            result[axis] = int(sizes[i])
        elif given is not None:
            result[axis] = floor(shape[axis] * float(given[i]))
        else:
            raise InvalidModel(f"node {node.name!r} ({node.op}): neither sizes nor scales are known from the file")
    return [tuple(result)]


def _gather(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    axis = node.attributes.get("axis", 0) % len(shape)
    return [(*shape[:axis], *graph.tensors[node.inputs[1]].shape, *shape[axis + 1 :])]


def _depth_to_space(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    block = node.attributes["blocksize"]
    return [(shape[0], shape[1] // block**2, shape[2] * block, shape[3] * block)]


def _space_to_depth(graph: Graph, node: Node, shape: Shape) -> list[Shape]:
    block = node.attributes["blocksize"]
    return [(shape[0], shape[1] * block**2, shape[2] // block, shape[3] // block)]


_RULES: dict[str, Callable[[Graph, Node, Shape], list[Shape]]] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": lambda graph, node, shape: [(*shape[:2], *(1 for _ in shape[2:]))],
    "GlobalMaxPool": lambda graph, node, shape: [(*shape[:2], *(1 for _ in shape[2:]))],
    "ReduceMean": _reduced,
    "ReduceSum": _reduced,
    "ReduceMax": _reduced,
    "Resize": _resize,
    "Upsample": _resize,
    "Gather": _gather,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Concat": _concat,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
}
