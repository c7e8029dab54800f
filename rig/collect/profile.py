"""What a runtime's profiler says about the kernels of a network, set right by what the network takes unprofiled.

The profiler adds some time of its own to each node, long or short alike (2 to 4 µs with ONNX Runtime, more than many a
small kernel takes). It is estimated over all networks of a campaign from the difference between the sum of the nodes
and the unprofiled total, and taken off; what is left is scaled to the total measured without the profiler.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from power_models.kernel_cost import KernelRow
from rig.collect.subjects import ExecutedGraph
from rig.measurement import Measurement
from rig.quality.stats import NORMAL_975, quadrature

LEAST_SHARE = 0.2  # of a node's profiled time is its own at least
FEWEST_GRAPHS = 4
LONG_NODE_S = 2e-4  # of networks with longer nodes on average the difference is noise
# Standard errors of one kernel's share: relative, and of the profiler's own cost, which varies a little.
PROFILE_SE = 0.03
NODE_SE_S = 3e-7


def profiler_cost_s(graphs: Iterable[ExecutedGraph], overhead_s: float) -> float:
    """Seconds that the profiler adds to a node: the median over the networks, never below zero.

    ``overhead_s``: what a call costs beside its kernels. 0 where there are too few networks to tell.
    """
    found = []
    for graph in graphs:
        nodes = len(graph.kernels)
        if graph.total_latency_s is None or not nodes or graph.total_latency_s > LONG_NODE_S * nodes:
            continue
        profiled_s = sum(kernel.profiled_s or 0.0 for kernel in graph.kernels)
        found.append((profiled_s - (graph.total_latency_s - overhead_s)) / nodes)
    return max(float(np.median(found)), 0.0) if len(found) >= FEWEST_GRAPHS else 0.0


def own_shares(graph: ExecutedGraph, node_cost_s: float) -> list[float]:
    """Each kernel's share of the time, without the profiler's own cost (with it, where no times are known)."""
    profiled = [kernel.profiled_s for kernel in graph.kernels]
    times = [max(s - node_cost_s, LEAST_SHARE * s) for s in profiled if s is not None]
    if len(times) < len(profiled) or sum(times) <= 0.0:
        times = [kernel.share for kernel in graph.kernels]
    whole = sum(times)
    return [time / whole for time in times]


def context_rows(
    graph: ExecutedGraph, measurement: Measurement, overhead_s: float, node_cost_s: float, group: str
) -> tuple[list[KernelRow], list[str]]:
    """A row a kernel of a network, and the names of the kernels of which the profiler saw nothing.

    The rows add up to the measured latency without a call's overhead. Energy is not known from a profile.
    """
    total_s = float(measurement.latency_s.value or 0.0)
    relative_se = measurement.half_width("latency_s") / NORMAL_975 / (total_s or 1.0)
    kernels_s = max(total_s - overhead_s, 0.5 * total_s)
    rows, unseen = [], []
    for executed, share in zip(graph.kernels, own_shares(graph, node_cost_s), strict=True):
        latency_s = share * kernels_s
        if latency_s <= 0.0:
            unseen.append(executed.name)
            continue
        se = quadrature(quadrature(relative_se, PROFILE_SE) * latency_s, NODE_SE_S)
        rows.append(KernelRow(executed.kernel, latency_s, se, None, None, "profile", group))
    return rows, unseen
