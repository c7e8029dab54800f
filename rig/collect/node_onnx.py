"""Kernels in their places, written back as an ONNX network with random weights, so that it can be measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rig.errors import BadInputError
from rig.workloads.onnx_builder import NetworkBuilder

if TYPE_CHECKING:
    import onnx

    from device_agents.records import KernelSpec
    from power_models.kernels import KernelNode

GAIN = 1.41  # keeps the variance through a ReLU


def network_model(nodes: Sequence[KernelNode], seed: int = 0) -> onnx.ModelProto:
    """The network; BadInputError for a kernel that has no counterpart here. Additions are kernels of their own."""
    network = NetworkBuilder(seed)
    shapes: dict[int, tuple[str, int]] = {}  # position → (tensor, rank)
    for i, node in enumerate(nodes):
        sources = [_source(network, shapes, j, node.spec) for j in node.inputs]
        shapes[i] = _written(network, node.spec, sources)
    read = {j for node in nodes for j in node.inputs}
    return network.model(*(shapes[i][0] for i in range(len(nodes)) if i not in read))


def _source(
    network: NetworkBuilder, shapes: dict[int, tuple[str, int]], position: int, spec: KernelSpec
) -> tuple[str, int]:
    if position < 0 and position not in shapes:
        rank = 2 if spec.kind == "fc" else 4
        sides = (spec.in_height, spec.in_width) if rank == 4 else ()
        shapes[position] = (network.input(spec.batch, spec.in_channels, *sides), rank)
    return shapes[position]


def _written(network: NetworkBuilder, spec: KernelSpec, sources: Sequence[tuple[str, int]]) -> tuple[str, int]:
    x, rank = sources[0]
    fused = [name for name in spec.fused.split("+") if name]
    if spec.kind in ("conv", "depthwise") and "add" not in fused:
        channels, window = (spec.in_channels, spec.out_channels), (spec.kernel_h, spec.kernel_w)
        gain = GAIN if fused else 1.0
        x = network.conv(x, channels, window, spec.stride, _pads(spec), spec.groups, gain, spec.dilation)
    elif spec.kind == "fc":
        flat = x if rank == 2 else network.node("Flatten", x, axis=1)
        x, rank = network.fc(flat, spec.in_channels, spec.out_channels, GAIN if fused else 1.0), 2
    elif spec.kind in ("add", "mul"):
        other = sources[1][0] if len(sources) == 2 else _constant(network, spec, rank)
        x = network.node("Add" if spec.kind == "add" else "Mul", x, other)
    elif spec.kind == "activation":
        x = network.activation(spec.fused, x)
        return x, rank
    else:
        x = _weightless(network, spec, [name for name, _ in sources])
    for name in fused:
        x = network.activation(name, x)
    return x, rank


def _weightless(network: NetworkBuilder, spec: KernelSpec, sources: Sequence[str]) -> str:
    x = sources[0]
    if spec.kind in ("max_pool", "avg_pool"):
        window = {"kernel_shape": [spec.kernel_h, spec.kernel_w], "strides": [spec.stride] * 2}
        operator = "MaxPool" if spec.kind == "max_pool" else "AveragePool"
        return network.node(operator, x, pads=list(_pads(spec)), **window)
    if spec.kind == "global_avg_pool":
        return network.node("GlobalAveragePool", x)
    if spec.kind == "concat" and len(sources) == spec.inputs:
        return network.node("Concat", *sources, axis=1)
    if spec.kind == "batch_norm":
        return network.batch_norm(x, spec.in_channels)
    if spec.kind == "softmax":
        return network.node("Softmax", x, axis=1)
    if spec.kind == "lrn":
        return network.node("LRN", x, size=spec.kernel_h, alpha=1e-4, beta=0.75)
    raise BadInputError(
        f"writing a network at other widths: {spec.label} has no counterpart",
        "calibrate --around the networks themselves, without --error",
    )


def _constant(network: NetworkBuilder, spec: KernelSpec, rank: int) -> str:
    shape = (spec.in_channels, 1, 1) if rank == 4 else (spec.in_channels,)
    return network.constant(np.full(shape, 1.01, np.float32))


def _pads(spec: KernelSpec) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) that give the kernel's output size: what is missing below and right is added there."""
    sides = []
    for size, out, window in (
        (spec.in_height, spec.out_height, spec.kernel_h),
        (spec.in_width, spec.out_width, spec.kernel_w),
    ):
        total = max((out - 1) * spec.stride + (window - 1) * spec.dilation + 1 - size, 0)
        begin = min(spec.padding, total)
        sides.append((begin, total - begin))
    return sides[0][0], sides[1][0], sides[0][1], sides[1][1]
