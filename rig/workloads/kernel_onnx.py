"""One kernel many times over, as an ONNX model that ONNX Runtime runs as just that many kernels.

The cost of a kernel is the difference between models of k₁ and k₂ copies: what surrounds the copies cancels. How
the copies stand (``arrangement``) depends on what fits behind what:

* ``chain``    input and output have one shape: each copy reads the one before it.
* ``pair``     a convolution a→b at stride 1: copies a→b and b→a take turns; a pair is the unit, and its two kernels are
               told apart by the fit or by the profiler.
* ``parallel`` a strided or a first-layer convolution, an fc of a≠b: all copies read one input, with different
               weights. In blocked layout each brings a reorder of its output, which differencing keeps.
* ``separate`` a kernel without weights that changes the shape: each copy has an input of its own (on one input the
               runtime would run equal kernels once). Blocked pools bring two reorders a copy.

``unit_kernels`` says what a further copy adds; the fit prices the companions from rows of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx

from device_agents.records import WEIGHTED_KINDS, KernelSpec
from power_models.graph_fusion import ONNXRUNTIME
from power_models.kernels import KernelNode, kernel_graph
from power_models.nchwc_layout import AVX512_BLOCK
from rig.errors import BadInputError
from rig.workloads.onnx_builder import NetworkBuilder

CHAINED = ("activation", "add", "batch_norm", "lrn", "mul", "softmax")
SEPARATE = (
    "avg_pool", "concat", "gather", "global_avg_pool", "max_pool", "pad", "reduce", "resize", "slice", "transpose",
    "view",
)  # fmt: skip
KINDS = tuple(sorted((*WEIGHTED_KINDS, *CHAINED, *SEPARATE)))
# Kinds that the runtime fuses an activation into; elsewhere it is a kernel of its own.
FUSED_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "conv": (*sorted(ONNXRUNTIME.activations["conv"]), "hardswish"),
    "depthwise": (*sorted(ONNXRUNTIME.activations["depthwise"]), "hardswish"),
    "fc": tuple(sorted(ONNXRUNTIME.activations["fc"])),
}


def as_executed(spec: KernelSpec) -> KernelSpec:
    """``spec`` without what the runtime does not fuse into that kind (a ReLU behind an addition runs by itself).

    An activation hardswish, which it runs as a hard sigmoid and a product, becomes the hard sigmoid.
    """
    if spec.kind == "activation":
        return spec._replace(fused="hardsigmoid") if spec.fused == "hardswish" else spec
    allowed = {"add", *FUSED_ACTIVATIONS.get(spec.kind, ())} if spec.kind in WEIGHTED_KINDS else set()
    return spec._replace(fused="+".join(name for name in spec.fused.split("+") if name in allowed))


def arrangement(spec: KernelSpec, block: int = AVX512_BLOCK) -> str:
    """How copies of ``spec`` stand: chain, pair, parallel or separate. BadInputError for a kind without a model."""
    if spec.kind not in KINDS:
        raise BadInputError(
            f"writing an ONNX model of {spec.label}: a {spec.kind} kernel cannot be made alone",
            "take its cost from networks in which it occurs (rig profiles them)",
        )
    same = (spec.in_channels, spec.in_height, spec.in_width) == (spec.out_channels, spec.out_height, spec.out_width)
    if spec.kind in CHAINED or (same and spec.kind in (*WEIGHTED_KINDS, "max_pool", "avg_pool")):
        return "chain"
    if (
        spec.kind == "conv"
        and spec.groups == 1
        and spec.in_height == spec.out_height
        and spec.in_width == spec.out_width
    ):
        return "pair" if min(spec.in_channels, spec.out_channels) >= block else "parallel"
    return "parallel" if spec.kind in WEIGHTED_KINDS else "separate"


def chain_model(spec: KernelSpec, copies: int, seed: int) -> onnx.ModelProto:
    """An ONNX model with ``copies`` units of ``spec`` (see the module), weights drawn from ``seed``.

    Raises BadInputError for a kernel that cannot be made alone: a kind without a model, an activation that the
    runtime does not fuse, a data type other than float32, or fewer than one copy.
    """
    how = arrangement(spec)
    _require_buildable(spec, copies)
    network = NetworkBuilder(seed)
    if how == "separate":
        return network.model(*(_weightless(network, spec, i) for i in range(copies)))
    shape = (spec.batch, spec.in_channels, spec.in_height, spec.in_width)
    first = network.input(*(shape[:2] if spec.kind in ("fc", "softmax") else shape))
    if spec.kind not in WEIGHTED_KINDS:
        return network.model(_elementwise_chain(network, spec, first, copies))
    other = _second_operand(network, spec, first)
    if how == "parallel":
        return network.model(*(_weighted(network, spec, first, other) for _ in range(copies)))
    x = first
    for _ in range(copies):
        x = _weighted(network, spec, x, other)
        if how == "pair":
            x = _weighted(network, _reversed(spec), x, first if other else None)
    return network.model(x)


def expected_kernels(spec: KernelSpec, copies: int, block: int = AVX512_BLOCK) -> list[KernelSpec]:
    """All kernels of ``chain_model(spec, copies, …)`` as the runtime's rules have it, reorders included."""
    return [node.spec for node in kernel_graph(chain_model(spec, copies, 0), "onnxruntime", block=block)]


def unit_kernels(spec: KernelSpec, block: int = AVX512_BLOCK) -> list[KernelSpec]:
    """The kernels that a further copy adds: ``spec`` first, then its companions (its reverse, reorders)."""
    more = Counter(expected_kernels(spec, 3, block)) - Counter(expected_kernels(spec, 2, block))
    return sorted(more.elements(), key=lambda kernel: kernel != spec)


def require_copies(spec: KernelSpec, copies: int, kernels: Sequence[KernelNode]) -> None:
    """Check that the runtime's own graph holds ``copies`` kernels ``spec``: nothing folded, merged or split.

    ``kernels``: of ``from_optimized``. Raises BadInputError that says what it holds instead.
    """
    count = sum(_alike(node.spec, spec) for node in kernels)
    if count != copies:
        held = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(node.spec.kind for node in kernels).items()))
        raise BadInputError(
            f"measuring {spec.label} by {copies} copies: the runtime's optimized graph has {count} of them ({held})",
            "take this kernel's cost from networks in which it occurs",
        )


def _alike(a: KernelSpec, b: KernelSpec) -> bool:
    return a._replace(fused=_spelled(a.fused)) == b._replace(fused=_spelled(b.fused))


def _spelled(fused: str) -> str:
    return fused.replace("relu6", "clip")


def _require_buildable(spec: KernelSpec, copies: int) -> None:
    names = [name for name in spec.fused.split("+") if name]
    wrong = None
    if copies < 1:
        wrong = f"{copies} copies"
    elif spec.dtype != "float32":
        wrong = f"data type {spec.dtype}"
    elif as_executed(spec) != spec or (spec.kind == "activation" and len(names) != 1):
        wrong = f"{spec.fused!r} with {spec.kind}, which the runtime does not run as one kernel"
    if wrong:
        raise BadInputError(
            f"writing an ONNX model of {spec.label}: {wrong}", "measure what the runtime executes (as_executed)"
        )


def _reversed(spec: KernelSpec) -> KernelSpec:
    return spec._replace(in_channels=spec.out_channels, out_channels=spec.in_channels)


def _second_operand(network: NetworkBuilder, spec: KernelSpec, first: str) -> str | None:
    """What a fused addition adds: written by a 1×1 convolution, so that it has the layout of a network's."""
    if "add" not in spec.fused.split("+"):
        return None
    side = (spec.batch, spec.in_channels, spec.out_height, spec.out_width)
    source = first if (spec.out_height, spec.out_width) == (spec.in_height, spec.in_width) else network.input(*side)
    return network.conv(source, (spec.in_channels, spec.out_channels))


def _weighted(network: NetworkBuilder, spec: KernelSpec, x: str, other: str | None) -> str:
    fused = [name for name in spec.fused.split("+") if name]
    activations = [name for name in fused if name != "add"]
    # A fused addition adds variance at each copy: a smaller gain keeps the sum where it is.
    gain = 0.5 if "add" in fused else 1.41 if activations else 1.0
    if spec.kind == "fc":
        y = network.fc(x, spec.in_channels, spec.out_channels, gain)
    else:
        y = network.conv(
            x, (spec.in_channels, spec.out_channels), (spec.kernel_h, spec.kernel_w), spec.stride, _pads(spec),
            spec.groups, gain, spec.dilation,
        )  # fmt: skip
    if other is not None:
        y = network.node("Add", y, other)
    for name in activations:
        y = network.activation(name, y)
    return y


def _pads(spec: KernelSpec) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) that give the kernel's output size: what is missing below and right is added there."""
    sides = []
    for size, out, kernel in (
        (spec.in_height, spec.out_height, spec.kernel_h),
        (spec.in_width, spec.out_width, spec.kernel_w),
    ):
        total = max((out - 1) * spec.stride + (kernel - 1) * spec.dilation + 1 - size, 0)
        begin = min(spec.padding, total) if kernel > 1 else 0
        sides.append((begin, total - begin))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def _elementwise_chain(network: NetworkBuilder, spec: KernelSpec, x: str, copies: int) -> str:
    """Kernels that keep the shape, one behind another, with values that stay of order one."""
    operands = _operands(network, spec)
    for i in range(copies):
        if spec.kind == "activation":
            x = network.activation(spec.fused, x)
        elif spec.kind == "batch_norm":
            x = network.batch_norm(x, spec.in_channels)
        elif spec.kind == "lrn":
            x = network.node("LRN", x, size=spec.kernel_h, alpha=1e-4, beta=0.75)
        elif spec.kind == "softmax":
            x = network.node("Softmax", x, axis=1)
        elif spec.kind in ("max_pool", "avg_pool"):
            x = _pool(network, spec, x)
        elif spec.inputs == 1:
            constant = network.constant(np.full((spec.in_channels, 1, 1), 1.0 + 1e-3 * (i % 7), np.float32))
            x = network.node("Add" if spec.kind == "add" else "Mul", x, constant)
        else:
            x = network.node("Add" if spec.kind == "add" else "Mul", x, operands[i % len(operands)])
    return x


def _operands(network: NetworkBuilder, spec: KernelSpec) -> list[str]:
    """Two second operands, taken in turn: network inputs for additions, gates between 0.5 and 1.5 for products.

    (A gate and its inverse would keep values better, but the runtime divides instead of multiplying by an inverse.)
    """
    if spec.kind not in ("add", "mul") or spec.inputs < 2:
        return []
    inputs = [network.input(spec.batch, spec.in_channels, spec.in_height, spec.in_width) for _ in range(2)]
    if spec.kind == "add":
        return inputs
    half = network.constant(np.float32(0.5))
    return [network.node("Add", network.node("Sigmoid", name), half) for name in inputs]


def _pool(network: NetworkBuilder, spec: KernelSpec, x: str) -> str:
    operator = "MaxPool" if spec.kind == "max_pool" else "AveragePool"
    window = {"kernel_shape": [spec.kernel_h, spec.kernel_w], "strides": [spec.stride] * 2, "pads": list(_pads(spec))}
    return network.node(operator, x, **window)


def _weightless(network: NetworkBuilder, spec: KernelSpec, index: int) -> str:
    """One copy on an input of its own."""
    shape = (spec.batch, spec.in_channels, spec.in_height, spec.in_width)
    if spec.kind == "concat":
        return network.node("Concat", *_concat_inputs(network, spec), axis=1)
    if spec.kind == "transpose":
        return _shuffle(network, spec)
    x = network.input(*shape)
    if spec.kind in ("max_pool", "avg_pool"):
        return _pool(network, spec, x)
    if spec.kind == "global_avg_pool":
        return network.node("GlobalAveragePool", x)
    if spec.kind == "view":
        return network.node("Flatten", x, axis=1)
    if spec.kind == "reduce":
        return network.node("ReduceMean", x, axes=[1], keepdims=1)
    if spec.kind == "resize":
        return _resized_image(network, spec, x)
    if spec.kind == "gather":
        chosen = np.arange(spec.in_channels, dtype=np.int64)[:: spec.in_channels // spec.out_channels]
        return network.node("Gather", x, network.constant(chosen[: spec.out_channels]), axis=1)
    if spec.kind == "pad":
        below, right = spec.out_height - spec.in_height, spec.out_width - spec.in_width
        pads = np.array([0, 0, below // 2, right // 2, 0, 0, below - below // 2, right - right // 2], np.int64)
        return network.node("Pad", x, network.constant(pads))
    starts, ends = np.zeros(3, np.int64), np.array([spec.out_channels, spec.out_height, spec.out_width], np.int64)
    axes = np.array([1, 2, 3], np.int64)
    return network.node("Slice", x, *(network.constant(values) for values in (starts, ends, axes)))


def _resized_image(network: NetworkBuilder, spec: KernelSpec, x: str) -> str:
    """Upsampling as torch exports it: nearest from the corner, linear about half pixels."""
    scales = np.array([1, 1, spec.out_height / spec.in_height, spec.out_width / spec.in_width], np.float32)
    mode = {1: "nearest", 2: "linear", 4: "cubic"}[spec.kernel_h]
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    return network.node("Resize", x, "", network.constant(scales), mode=mode, **how)


def _shuffle(network: NetworkBuilder, spec: KernelSpec) -> str:
    """A channel shuffle; of a channel count that no small number divides, height and width change places."""
    for groups in (4, 3, 2):
        if spec.in_channels % groups == 0 and spec.in_channels > groups:
            parts = (groups, spec.in_channels // groups)
            x = network.input(spec.batch, *parts, spec.in_height, spec.in_width)
            return network.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = network.input(spec.batch, spec.in_channels, spec.in_height, spec.in_width)
    return network.node("Transpose", x, perm=[0, 1, 3, 2])


def _concat_inputs(network: NetworkBuilder, spec: KernelSpec) -> list[str]:
    part = spec.in_channels // spec.inputs
    sizes = [part] * (spec.inputs - 1) + [spec.in_channels - part * (spec.inputs - 1)]
    return [network.input(spec.batch, size, spec.in_height, spec.in_width) for size in sizes]
