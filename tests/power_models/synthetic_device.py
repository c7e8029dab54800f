"""A made-up device with known costs: a roofline with channel blocks of 8, a cache and a launch cost."""

from __future__ import annotations

import random

import numpy as np

from device_agents.records import Configuration, KernelSpec
from power_models.kernel_cost import KernelRow

CONFIGURATION = Configuration("made-up", "1", "virtual", "1", 4, False, "", "board_input")
BLOCK = 8


def up(value: int) -> int:
    return -(-value // BLOCK) * BLOCK


def cost(spec: KernelSpec) -> tuple[float, float]:
    """(seconds, active joules) of a kernel on the made-up device."""
    work = spec.macs * up(spec.out_channels) / spec.out_channels
    moved = spec.input_bytes + spec.output_bytes + spec.weight_bytes
    far = moved / (1 + (3e5 / moved) ** 2)
    seconds = 2e-5 + ((work * 1e-10) ** 2 + (moved * 5e-11 + far * 2e-10) ** 2) ** 0.5
    return seconds, 1.5 * seconds + 1e-10 * work + 2e-10 * far


def conv(c_in: int, c_out: int, size: int, kernel: int = 3, groups: int = 1, kind: str = "conv") -> KernelSpec:
    return KernelSpec(
        kind, 1, c_in, size, size, c_out, size, size, kernel, kernel, 1, kernel // 2, 1, groups, fused="relu"
    )


def kernels(count: int, seed: int) -> list[KernelSpec]:
    rng = random.Random(seed)
    found = []
    for i in range(count):
        c_in, c_out = (round(8 * 64 ** rng.random()) for _ in range(2))
        size = rng.choice([7, 8, 14, 16, 28, 32])
        if i % 5 in (0, 1, 2):
            found.append(conv(c_in, c_out, size))
        elif i % 5 == 3:
            found.append(conv(c_in, c_in, size, groups=c_in, kind="depthwise"))
        else:
            found.append(KernelSpec("add", 1, c_in, size, size, c_in, size, size, inputs=2))
    return found


def rows(count: int, seed: int, noise: float = 0.01) -> list[KernelRow]:
    rng = np.random.default_rng(seed)
    found = []
    for i, spec in enumerate(kernels(count, seed)):
        seconds, joules = (value * float(np.exp(rng.normal(0, noise))) for value in cost(spec))
        found.append(KernelRow(spec, seconds, noise * seconds, joules, noise * joules, "chain", str(i)))
    return found
