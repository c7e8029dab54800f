"""Tables of measurements: kernels (CSV), and whole networks with their kernel lists (JSON lines, gzipped or not).

=========  ==========================================================================================================
kernels    CSV: kind, batch, in_channels, in_height, in_width, out_channels, kernel_h, kernel_w, stride, padding,
           groups, dtype, latency_s, and where they are known power_w, energy_j (also out_height, out_width,
           activation, idle_power_w, device, source)
networks   one JSON object a line: network, device, source, dtype, latency_s, kernels [...], and where they are known
           power_w, idle_power_w, energy_j (also family)
=========  ==========================================================================================================

Energies in tables are those of the whole boundary, quiet power included; the models price *active* energy. Where a
table states its quiet power, active = energy − quiet·latency; where it does not, the two are the same and the quiet
power stays unknown (``idle_power_w`` None), so that power at a frame rate cannot be told, only power flat out.

A row that cannot be used (a size that is no number, a latency of zero) is listed under ``unusable`` with its line; a
file that is no table, or has no usable row, is a ``TableError``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from device_agents.records import KernelSpec
from power_models.table_fields import KERNEL_FIELDS, RowError, costs, kernel_spec

# A quiet power further than this from the table's median is that of another process or of the meter, not the board's:
# a part of the median, and more where quiet powers scatter by themselves.
QUIET_TOLERANCE = 0.15
QUIET_TOLERANCE_SDS = 6.0
ROBUST_SD = 1.4826  # of a normal distribution, over the median absolute deviation


class TableError(ValueError):
    """A table that cannot be read; says which file, which line, what was seen."""


class UnusableRow(NamedTuple):
    """A row that is left out: its line in the file, and why."""

    line: int
    reason: str


@dataclass(frozen=True)
class TableKernel:
    """One measured kernel: seconds, watts while running and joules of the whole boundary (None: not measured).

    ``columns``: every column of the row as text, for grouping by any of them. ``table``: the SHA-256 of its table.
    """

    kernel: KernelSpec
    latency_s: float
    power_w: float | None
    energy_j: float | None
    idle_power_w: float | None
    line: int
    device: str = ""
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    table: str = field(default="", compare=False)

    @property
    def energy_active_j(self) -> float | None:
        """Energy above quiet power; the whole energy where the table states no quiet power."""
        return _active(self.energy_j, self.idle_power_w, self.latency_s)

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        """The kernel alone, so that kernels and networks can be treated alike."""
        return (self.kernel,)

    @property
    def name(self) -> str:
        """The kernel in a few words."""
        return self.kernel.label

    @property
    def dtype(self) -> str:
        """The kernel's data type."""
        return self.kernel.dtype

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one execution."""
        return self.kernel.macs


@dataclass(frozen=True)
class TableNetwork:
    """One measured network: its kernels, seconds an inference, watts while running, joules of the whole boundary.

    ``family``: the architecture without its width, resolution and precision, for holding out whole families.
    ``quiet_replaced``: the row's own quiet power was off, and the table's median stands in. ``columns``: every field
    of the row that is one value, as text.
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
    source: str = ""
    columns: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

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
    """What one file holds: kernels or networks, never both; rows that cannot be used; the SHA-256 of its bytes."""

    path: Path
    kernels: tuple[TableKernel, ...] = ()
    networks: tuple[TableNetwork, ...] = ()
    unusable: tuple[UnusableRow, ...] = ()
    sha256: str = ""


def read_table(path: Path | str) -> MeasuredTable:
    """Read a table of either shape, told apart by its content; raises TableError, OSError."""
    path = Path(path)
    data = path.read_bytes()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise TableError(f"{path}: neither text nor gzipped text ({error}); give a CSV or JSON lines table") from error
    if not text.strip():
        raise TableError(f"{path}: is empty; give a table with a row a kernel (CSV) or a network (JSON lines)")
    if text.lstrip().startswith("["):
        raise TableError(f"{path}: is a JSON array; write one object a line")
    unusable: list[UnusableRow] = []
    is_networks = text.lstrip().startswith("{")
    networks = tuple(_networks(text, unusable)) if is_networks else ()
    digest = hashlib.sha256(data).hexdigest()
    kernels = () if is_networks else tuple(_kernels(path, text, digest, unusable))
    if not kernels and not networks:
        seen = f"; line {unusable[0].line}: {unusable[0].reason}" if unusable else ""
        raise TableError(f"{path}: has no usable row{seen}")
    return MeasuredTable(path, kernels, networks, tuple(unusable), digest)


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


def _kernels(path: Path, text: str, digest: str, unusable: list[UnusableRow]) -> Iterator[TableKernel]:
    reader = csv.DictReader(io.StringIO(text))
    names = list(reader.fieldnames or [])
    missing = [name for name in (*KERNEL_FIELDS, "latency_s") if name not in names]
    if missing:
        raise TableError(f"{path}: line 1: no column {', '.join(missing)}; has {', '.join(names)[:200]}")
    if len(set(names)) < len(names):
        raise TableError(f"{path}: line 1: a column is there twice: {', '.join(sorted(names))}")
    try:
        for row in reader:
            try:
                yield _kernel(row, reader.line_num, digest)
            except RowError as error:
                unusable.append(UnusableRow(reader.line_num, str(error)))
    except csv.Error as error:
        raise TableError(f"{path}: line {reader.line_num}: no CSV ({error})") from error


def _kernel(row: Mapping[str, Any], line: int, digest: str) -> TableKernel:
    if None in row or None in row.values():
        raise RowError("does not have as many fields as the header")
    spec = kernel_spec(row, row.get("dtype") or "float32")
    return TableKernel(spec, *costs(row), line, row.get("device") or "", row.get("source") or "", dict(row), digest)


def _networks(text: str, unusable: list[UnusableRow]) -> list[TableNetwork]:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            unusable.append(UnusableRow(number, f"no JSON ({error})"))
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            unusable.append(UnusableRow(number, f"no JSON object but {type(row).__name__}"))
    quiet = _quiet([row.get("idle_power_w") for _, row in rows])
    found = []
    for number, row in rows:
        try:
            found.append(_network(row, quiet, number))
        except RowError as error:
            unusable.append(UnusableRow(number, str(error)))
    return found


class _Quiet(NamedTuple):
    """Quiet power of the table, and how far a row's own may be from it."""

    median_w: float
    tolerance_w: float


def _quiet(stated: Sequence[Any]) -> _Quiet | None:
    """From what the rows state, whatever that is; None where none states a power."""
    known = [w for w in stated if isinstance(w, (int, float)) and not isinstance(w, bool) and 0 < w < 1e300]
    if not known:
        return None
    median_w = float(np.median(known))
    deviation_w = ROBUST_SD * float(np.median(np.abs(np.array(known, dtype=np.float64) - median_w)))
    return _Quiet(median_w, max(QUIET_TOLERANCE * median_w, QUIET_TOLERANCE_SDS * deviation_w))


def _network(row: Mapping[str, Any], quiet: _Quiet | None, line: int) -> TableNetwork:
    missing = [name for name in ("network", "latency_s", "kernels") if row.get(name) in (None, "", [])]
    if missing:
        raise RowError(f"no {', '.join(missing)}; has {', '.join(row)}")
    name, dtype, listed = str(row["network"]), str(row.get("dtype") or "float32"), row["kernels"]
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise RowError(f"kernels of {name} are no list of objects")
    kernels = []
    for i, one in enumerate(listed):
        try:
            kernels.append(kernel_spec(one, dtype))
        except RowError as error:
            raise RowError(f"kernel {i} of {name}: {error}") from error
    idle = row.get("idle_power_w")
    replaced = isinstance(idle, (int, float)) and quiet is not None and abs(idle - quiet.median_w) > quiet.tolerance_w
    stated = {**row, "idle_power_w": quiet.median_w} if replaced and quiet is not None else row
    latency, power, energy, idle_w = costs(stated)
    return TableNetwork(
        name=name,
        family=str(row.get("family") or network_family(name)),
        device=str(row.get("device") or ""),
        dtype=dtype,
        kernels=tuple(kernels),
        latency_s=latency,
        power_w=power,
        energy_j=energy,
        idle_power_w=idle_w,
        quiet_replaced=replaced,
        line=line,
        source=str(row.get("source") or ""),
        columns={key: str(value) for key, value in row.items() if not isinstance(value, (list, dict))},
    )


def by_dtype(rows: Sequence[TableNetwork], dtype: str) -> list[TableNetwork]:
    """The networks of one data type, in the table's order."""
    return [row for row in rows if row.dtype == dtype]
