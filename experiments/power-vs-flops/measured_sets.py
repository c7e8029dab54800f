"""Measured tables as the study sees them: one set a board and precision, arrays over networks (or kernels).

    table ──► rows ──► CostSet: MACs, seconds, watts, joules, joules above quiet power; keys that say which networks
                       are the same architecture, the same shapes at another width, the very same network

The keys come from the kernel lists, not from names, so that any table works.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from device_agents.records import KernelSpec
from power_models.measured_tables import TableNetwork, read_table

Array = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

# What a table calls its board, and what the study calls it; others keep their own name.
BOARDS = {"rpi4": "Raspberry Pi 4", "odroid": "Odroid N2+", "jetson-nano": "Jetson Nano"}
LEAST = 10  # networks that a set must have to be studied
KERNEL_BOARDS = {"tx2_gpu_conv": "TX2 GPU", "tx2_cpu_conv": "TX2 CPU"}


@dataclass(frozen=True)
class CostSet:
    """Networks (or kernels) of one board and one precision; all arrays are over them.

    ``active_j``: joules above quiet power, None where the table states no quiet power (or for kernels).
    ``architecture``: equal codes for networks that differ in input resolution only; ``family``: the wider family.
    """

    label: str
    board: str
    dtype: str
    names: list[str]
    kernels: list[tuple[KernelSpec, ...]]
    macs: Array
    latency_s: Array
    power_w: Array
    energy_j: Array
    active_j: Array | None
    idle_power_w: float | None
    architecture: Codes
    family: Codes
    family_names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def steered_j(self) -> Array:
        """What compression can change: active energy, or all of it where quiet power is unknown."""
        return self.energy_j if self.active_j is None else self.active_j


def read_sets(paths: Sequence[Path]) -> tuple[list[CostSet], list[CostSet], list[str]]:
    """(sets of networks, sets of kernels, what was left out and why) of the tables, in their order.

    Networks of one board and precision are one set, whatever tables they come from.
    """
    rows: dict[tuple[str, str], list[TableNetwork]] = {}
    kernels: list[CostSet] = []
    left_out: list[str] = []
    for path in paths:
        table = read_table(path)
        powered = [row for row in table.networks if row.energy_j is not None and row.power_w is not None]
        if len(powered) < len(table.networks):
            left_out.append(f"{path.name}: {len(table.networks) - len(powered)} networks without power")
        for row in sorted(powered, key=lambda row: (row.device, row.dtype)):
            rows.setdefault((row.device, row.dtype), []).append(row)
        measured = [row for row in table.kernels if row.energy_j is not None and row.power_w is not None]
        if len(measured) < len(table.kernels):
            left_out.append(f"{path.name}: {len(table.kernels) - len(measured)} kernels without power")
        if measured:
            kernels.append(kernel_set(KERNEL_BOARDS.get(path.stem, path.stem), measured))
    networks = [network_set(several) for several in rows.values() if len(several) >= LEAST]
    left_out += [
        f"{device}, {dtype}: {len(several)} networks only"
        for (device, dtype), several in rows.items()
        if len(several) < LEAST
    ]
    return networks, kernels, left_out


def network_set(rows: Sequence[TableNetwork]) -> CostSet:
    """The networks of one board and precision."""
    (dtype,), (device,) = {row.dtype for row in rows}, {row.device for row in rows}
    board = next((name for start, name in BOARDS.items() if device.startswith(start)), device)
    idle = [row.idle_power_w for row in rows if row.idle_power_w is not None]
    active = [row.energy_active_j for row in rows] if len(idle) == len(rows) else None
    families = [row.family if row.family != "convnet" else plain_family(row.kernels) for row in rows]
    return CostSet(
        label=f"{board}, {dtype}",
        board=board,
        dtype=dtype,
        names=[row.name for row in rows],
        kernels=[row.kernels for row in rows],
        macs=_array([row.macs for row in rows]),
        latency_s=_array([row.latency_s for row in rows]),
        power_w=_array([row.power_w for row in rows]),
        energy_j=_array([row.energy_j for row in rows]),
        active_j=None if active is None else _array(active),
        idle_power_w=float(np.median(idle)) if active is not None else None,
        architecture=codes([same_but_for_resolution(row.kernels) for row in rows]),
        family=codes(families),
        family_names=list(dict.fromkeys(families)),
    )


def kernel_set(board: str, rows: Sequence[Any]) -> CostSet:
    """Single kernels as a set; each is an architecture of its own, its family its kernel size."""
    sizes = [row.kernel.kernel_h for row in rows]
    return CostSet(
        label=board,
        board=board,
        dtype=rows[0].kernel.dtype,
        names=[row.kernel.label for row in rows],
        kernels=[(row.kernel,) for row in rows],
        macs=_array([row.kernel.macs for row in rows]),
        latency_s=_array([row.latency_s for row in rows]),
        power_w=_array([row.power_w for row in rows]),
        energy_j=_array([row.energy_j for row in rows]),
        active_j=None,
        idle_power_w=None,
        architecture=np.arange(len(rows)),
        family=codes(sizes),
        family_names=[f"{size}×{size}" for size in dict.fromkeys(sizes)],
    )


def subset(found: CostSet, kept: npt.NDArray[np.bool_]) -> CostSet:
    """The set's rows where ``kept``."""
    places = np.flatnonzero(kept)
    return CostSet(
        found.label,
        found.board,
        found.dtype,
        [found.names[i] for i in places],
        [found.kernels[i] for i in places],
        found.macs[kept],
        found.latency_s[kept],
        found.power_w[kept],
        found.energy_j[kept],
        None if found.active_j is None else found.active_j[kept],
        found.idle_power_w,
        found.architecture[kept],
        found.family[kept],
        found.family_names,
    )


# --- which networks belong together -------------------------------------------------------------------------------


def _key(kernels: Sequence[KernelSpec], facts: Callable[[KernelSpec], Hashable]) -> Hashable:
    """Of the convolutions alone: what pooling and classifiers look like follows from them and the image size."""
    return tuple(facts(kernel) for kernel in kernels if kernel.kind in ("conv", "depthwise"))


def same_but_for_resolution(kernels: Sequence[KernelSpec]) -> Hashable:
    """Equal for networks whose convolutions have the same channels and sizes, whatever the image size."""
    return _key(kernels, lambda k: (k.kind, k.in_channels, k.out_channels, k.kernel_h, k.stride))


def same_but_for_width(kernels: Sequence[KernelSpec]) -> Hashable:
    """Equal for networks whose convolutions have the same image sizes and kernels, whatever the channels."""
    return _key(kernels, lambda k: (k.kind, k.in_height, k.in_width, k.kernel_h, k.stride))


def same_network(kernels: Sequence[KernelSpec]) -> Hashable:
    """Equal for the same network at another precision or on another board."""
    return _key(kernels, lambda k: (k.kind, k.in_channels, k.out_channels, k.in_height, k.kernel_h, k.stride))


def plain_family(kernels: Sequence[KernelSpec]) -> str:
    """Family of a network whose name tells none: separable, one kernel size throughout, or mixed sizes."""
    if any(kernel.kind == "depthwise" for kernel in kernels):
        return "separable"
    sizes = {kernel.kernel_h for kernel in kernels if kernel.kind == "conv"}
    return "one kernel size" if len(sizes) == 1 else "mixed kernel sizes"


def codes(keys: Sequence[Hashable]) -> Codes:
    """Integers that are equal where the keys are, numbered in order of appearance."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def _array(values: Sequence[Any]) -> Array:
    return np.array(values, dtype=np.float64)
