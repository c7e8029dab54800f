"""Tables of measurements: kernels (CSV), and whole networks with their kernel lists (JSON lines, gzipped or not).

=========  ==========================================================================================================
kernels    CSV: kind, batch, in_channels, in_height, in_width, out_channels, kernel_h, kernel_w, stride, padding,
           groups, dtype, latency_s, and where they are known power_w, energy_j (also out_height, out_width,
           activation, idle_power_w)
networks   one JSON object a line: network, device, dtype, latency_s, kernels [...], and where they are known
           power_w, idle_power_w, energy_j
=========  ==========================================================================================================

Energies in tables are those of the whole boundary, quiet power included; the models price *active* energy. Where a
table states its quiet power, active = energy − quiet·latency; where it does not, the two are the same and the quiet
power stays unknown (``idle_power_w`` None), so that power at a frame rate cannot be told, only power flat out.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from device_agents.records import DTYPE_BYTES, KernelSpec

# A quiet power further than this from the table's median is that of another process or of the meter, not the board's.
QUIET_TOLERANCE_W = 0.5
_SIZES = ("batch", "in_channels", "in_height", "in_width", "out_channels", "kernel_h", "kernel_w")
_WHOLE = (*_SIZES, "stride", "padding", "groups")
KERNEL_FIELDS = ("kind", *_WHOLE)


class TableError(ValueError):
    """A table that cannot be read; says which file, which line, what was seen."""


@dataclass(frozen=True)
class TableKernel:
    """One measured kernel: seconds, watts while running and joules of the whole boundary (None: not measured)."""

    kernel: KernelSpec
    latency_s: float
    power_w: float | None
    energy_j: float | None
    idle_power_w: float | None
    line: int

    @property
    def energy_active_j(self) -> float | None:
        """Energy above quiet power; the whole energy where the table states no quiet power."""
        return _active(self.energy_j, self.idle_power_w, self.latency_s)


@dataclass(frozen=True)
class TableNetwork:
    """One measured network: its kernels, seconds an inference, watts while running, joules of the whole boundary.

    ``family``: the architecture without its width, resolution and precision, for holding out whole families.
    ``quiet_replaced``: the row's own quiet power was off, and the table's median stands in.
    """

    name: str
    family: str
    device: str
    dtype: str
    kernels: tuple[KernelSpec, ...]
    latency_s: float
    power_w: float | None
    energy_j: float | None
    idle_power_w: float | None
    quiet_replaced: bool
    line: int

    @property
    def energy_active_j(self) -> float | None:
        """Energy above quiet power; the whole energy where the table states no quiet power."""
        return _active(self.energy_j, self.idle_power_w, self.latency_s)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(kernel.macs for kernel in self.kernels)


@dataclass(frozen=True)
class MeasuredTable:
    """What one file holds: kernels or networks, never both."""

    path: Path
    kernels: tuple[TableKernel, ...] = ()
    networks: tuple[TableNetwork, ...] = ()


def read_table(path: Path | str) -> MeasuredTable:
    """Read a table of either shape, told apart by its content; raises TableError, OSError."""
    path = Path(path)
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: neither text nor gzipped text ({error}); give a CSV or JSON lines table") from error
    if not text.strip():
        raise TableError(f"{path}: is empty; give a table with a row a kernel (CSV) or a network (JSON lines)")
    if text.lstrip().startswith("{"):
        return MeasuredTable(path, networks=tuple(_networks(path, text)))
    return MeasuredTable(path, kernels=tuple(_kernels(path, text)))


def network_family(name: str) -> str:
    """The architecture in a network's name: ``mobilenet-v1-0.25-128-quantized`` → ``mobilenet-v1``.

    The first part that is no version ends it, so that width, resolution and precision do not make families.
    """
    parts = name.replace("_", "-").split("-")
    kept = parts[:1]
    for part in parts[1:]:
        if not (part[:1] == "v" and part[1:].isdigit()):
            break
        kept.append(part)
    return "-".join(kept)


def _active(energy_j: float | None, idle_w: float | None, latency_s: float) -> float | None:
    if energy_j is None:
        return None
    return energy_j - (idle_w or 0.0) * latency_s


def _kernels(path: Path, text: str) -> Iterator[TableKernel]:
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in (*KERNEL_FIELDS, "latency_s") if name not in (reader.fieldnames or [])]
    if missing:
        raise TableError(f"{path}: line 1: no column {', '.join(missing)}; has {', '.join(reader.fieldnames or [])}")
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        if None in row or None in row.values():
            raise TableError(f"{where}: has {len([v for v in row.values() if v is not None])} fields, the header more")
        spec = _spec(row, row.get("dtype") or "float32", where)
        latency = _positive(row, "latency_s", where)
        if latency is None:
            raise TableError(f"{where}: latency_s is empty")
        power, energy = (_positive(row, name, where) for name in ("power_w", "energy_j"))
        if energy is None and power is not None:
            energy = power * latency
        yield TableKernel(spec, latency, power, energy, _positive(row, "idle_power_w", where), reader.line_num)


def _networks(path: Path, text: str) -> list[TableNetwork]:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TableError(f"{path}: line {number}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise TableError(f"{path}: line {number}: no JSON object but {type(row).__name__}")
        rows.append((number, row))
    quiet = [row["idle_power_w"] for _, row in rows if isinstance(row.get("idle_power_w"), (int, float))]
    median_w = float(np.median(quiet)) if quiet else None
    return [_network(row, f"{path}: line {number}", median_w, number) for number, row in rows]


def _network(row: Mapping[str, Any], where: str, median_w: float | None, line: int) -> TableNetwork:
    missing = [name for name in ("network", "latency_s", "kernels") if name not in row]
    if missing:
        raise TableError(f"{where}: no {', '.join(missing)}; has {', '.join(row)}")
    dtype, listed = str(row.get("dtype", "float32")), row["kernels"]
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise TableError(f"{where}: kernels of {row['network']} are no list of objects")
    kernels = tuple(_spec(one, dtype, f"{where}, kernel {i}") for i, one in enumerate(listed))
    latency = _positive(row, "latency_s", where)
    if latency is None:
        raise TableError(f"{where}: latency_s of {row['network']} is null")
    power, energy, idle = (_positive(row, name, where) for name in ("power_w", "energy_j", "idle_power_w"))
    if energy is None and power is not None:
        energy = power * latency
    replaced = idle is not None and median_w is not None and abs(idle - median_w) > QUIET_TOLERANCE_W
    name = str(row["network"])
    about = (name, str(row.get("family") or network_family(name)), str(row.get("device", "")), dtype)
    return TableNetwork(*about, kernels, latency, power, energy, median_w if replaced else idle, replaced, line)


def _spec(row: Mapping[str, Any], dtype: str, where: str) -> KernelSpec:
    missing = [name for name in KERNEL_FIELDS if row.get(name) in (None, "")]
    if missing:
        raise TableError(f"{where}: no {', '.join(missing)}")
    if dtype not in DTYPE_BYTES:
        raise TableError(f"{where}: dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}")
    whole = {name: _integer(row, name, where) for name in _WHOLE}
    for axis, size in (("height", "h"), ("width", "w")):
        given = row.get(f"out_{axis}")
        reach = whole[f"in_{axis}"] + 2 * whole["padding"] - whole[f"kernel_{size}"]
        out = _integer(row, f"out_{axis}", where) if given not in (None, "") else reach // max(whole["stride"], 1) + 1
        if out < 1:
            raise TableError(f"{where}: a kernel of {whole[f'kernel_{size}']} does not fit the input's {axis}")
        whole[f"out_{axis}"] = out
    kind, activation = str(row["kind"]), str(row.get("activation") or "none").replace("_", "")
    fused, inputs = ("" if activation == "none" else activation), 2 if kind in ("add", "mul") else 1
    return KernelSpec(kind=kind, dtype=dtype, fused=fused, inputs=inputs, **whole)


def _integer(row: Mapping[str, Any], name: str, where: str) -> int:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        raise TableError(f"{where}: {name} is {row[name]!r}, no number") from None
    least = 0 if name == "padding" else 1
    if not value.is_integer() or value < least:
        raise TableError(f"{where}: {name} is {row[name]!r}; a whole number from {least} on is needed")
    return int(value)


def _positive(row: Mapping[str, Any], name: str, where: str) -> float | None:
    """A positive finite number, or None where the table has none; zero and less are errors, not measurements."""
    given = row.get(name)
    if given in (None, ""):
        return None
    try:
        value = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TableError(f"{where}: {name} is {given!r}, no number") from None
    if not math.isfinite(value) or value <= 0:
        raise TableError(f"{where}: {name} is {given!r}; a positive number is needed")
    return value


def by_dtype(rows: Sequence[TableNetwork], dtype: str) -> list[TableNetwork]:
    """The networks of one data type, in the table's order."""
    return [row for row in rows if row.dtype == dtype]
