"""The Raspberry Pi 4 networks measured for MLPerf Inference v2.0, as the virtual board's kernels."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from device_agents.records import KernelSpec

# Quiet power after a run lies within 2.85 and 2.93 W on this board; a value beyond half a watt of the median is the
# meter's (or another process's), not the network's.
QUIET_TOLERANCE_W = 0.5


@dataclass(frozen=True)
class MeasuredNetwork:
    """One network on the real board: SI units, whole-board energy and active energy per inference."""

    name: str
    family: str
    dtype: str
    kernels: tuple[KernelSpec, ...]
    latency_s: float
    energy_j: float
    quiet_w: float
    quiet_replaced: bool

    @property
    def active_j(self) -> float:
        """Energy above quiet power."""
        return self.energy_j - self.quiet_w * self.latency_s


def read_networks() -> list[MeasuredNetwork]:
    """The shipped table; a quiet power off the median by more than 0.5 W is replaced by it and marked."""
    data = files("rig").joinpath("devices/data/rpi4_tflite.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(data).decode("utf-8").splitlines()]
    quiet_w = float(np.median([row["idle_power_w"] for row in rows]))
    return [_network(row, quiet_w) for row in rows]


def _network(row: dict, median_quiet_w: float) -> MeasuredNetwork:
    replaced = abs(row["idle_power_w"] - median_quiet_w) > QUIET_TOLERANCE_W
    return MeasuredNetwork(
        name=row["network"],
        family=_family(row["network"]),
        dtype=row["dtype"],
        kernels=tuple(_kernel(kernel, row["dtype"]) for kernel in row["kernels"]),
        latency_s=row["latency_s"],
        energy_j=row["energy_j"],
        quiet_w=median_quiet_w if replaced else row["idle_power_w"],
        quiet_replaced=replaced,
    )


def _family(name: str) -> str:
    return name.split("-")[0] if name.startswith("efficientnet") else "-".join(name.split("-")[:2])


def _kernel(row: dict, dtype: str) -> KernelSpec:
    same = "kind batch in_channels in_height in_width out_channels out_height out_width"
    same += " kernel_h kernel_w stride padding groups"
    activation = row["activation"].replace("_", "")
    return KernelSpec(
        **{name: row[name] for name in same.split()},
        dtype=dtype,
        fused="" if activation == "none" else activation,
        inputs=2 if row["kind"] in ("add", "mul") else 1,
    )
