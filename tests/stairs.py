"""A device whose cost is a staircase over channels, and a small residual network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from device_agents.records import KernelSpec
from rig.compression.networks import ResNet

BLOCK = 8
INPUT = (1, 16, 16)


def stairs(specs: Sequence[KernelSpec]) -> tuple[np.ndarray, np.ndarray]:
    """A device that runs channels in blocks of eight: seconds, and joules at three watts."""
    latency = []
    for spec in specs:
        rows, columns = (BLOCK * -(-count // BLOCK) for count in (spec.in_channels // spec.groups, spec.out_channels))
        work = spec.kernel_h * spec.kernel_w * rows * columns * spec.out_height * spec.out_width
        latency.append(1e-6 + 1e-9 * work)
    seconds = np.array(latency)
    return seconds, 3.0 * seconds


def build(widths: dict[str, int] | None = None) -> ResNet:
    return ResNet((2, 2), (16, 32), widths=widths)
