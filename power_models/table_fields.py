"""The fields of one row of a measured table: checked one by one; what is wrong with a row is said in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from device_agents.records import DTYPE_BYTES, WEIGHTED_KINDS, KernelSpec

_SIZES = ("batch", "in_channels", "in_height", "in_width", "out_channels", "kernel_h", "kernel_w")
_WHOLE = (*_SIZES, "stride", "padding", "groups")
_KIND = re.compile(r"[a-z][a-z0-9_]*")
LARGEST = 2**31  # no size of a kernel is larger
KERNEL_FIELDS = ("kind", *_WHOLE)
TWO_INPUTS = ("add", "mul")


class RowError(ValueError):
    """A row that cannot be used; says why, in words that follow a line number."""


def kernel_spec(row: Mapping[str, Any], dtype: str) -> KernelSpec:
    """The kernel that a row describes; output sizes are worked out where the row has none. Raises RowError."""
    missing = [name for name in KERNEL_FIELDS if row.get(name) in (None, "")]
    if missing:
        raise RowError(f"no {', '.join(missing)}")
    if dtype not in DTYPE_BYTES:
        raise RowError(f"dtype {dtype!r}; known: {', '.join(DTYPE_BYTES)}")
    kind = str(row["kind"])
    if not _KIND.fullmatch(kind):
        raise RowError(f"kind {kind!r} is no name of small letters, digits and _")
    whole = {name: _integer(row, name) for name in _WHOLE}
    if kind in WEIGHTED_KINDS and (whole["in_channels"] % whole["groups"] or whole["out_channels"] % whole["groups"]):
        raise RowError(
            f"{whole['groups']} groups do not divide its {whole['in_channels']} in_channels and out_channels"
        )
    for axis, size in (("height", "h"), ("width", "w")):
        given = row.get(f"out_{axis}")
        reach = whole[f"in_{axis}"] + 2 * whole["padding"] - whole[f"kernel_{size}"]
        out = _integer(row, f"out_{axis}") if given not in (None, "") else reach // max(whole["stride"], 1) + 1
        if out < 1:
            raise RowError(f"a kernel of {whole[f'kernel_{size}']} does not fit the input's {axis}")
        whole[f"out_{axis}"] = out
    activation = str(row.get("activation") or "none").replace("_", "")
    fused, inputs = ("" if activation == "none" else activation), 2 if kind in TWO_INPUTS else 1
    return KernelSpec(kind=kind, dtype=dtype, fused=fused, inputs=inputs, **whole)


def _integer(row: Mapping[str, Any], name: str) -> int:
    value = number(row, name)
    least = 0 if name == "padding" else 1
    if not value.is_integer() or not least <= value <= LARGEST:
        raise RowError(f"{name} is {row[name]!r}; a whole number from {least} on is needed")
    return int(value)


def number(row: Mapping[str, Any], name: str) -> float:
    """A finite number; RowError for anything else."""
    given = row[name]
    try:
        value = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise RowError(f"{name} is {given!r}, no finite number")
    return value


def positive(row: Mapping[str, Any], name: str) -> float | None:
    """A positive number, or None where the row has none; zero and less are errors, not measurements (RowError)."""
    if row.get(name) in (None, ""):
        return None
    value = number(row, name)
    if value <= 0:
        raise RowError(f"{name} is {row[name]!r}; a positive number is needed")
    return value


def costs(row: Mapping[str, Any]) -> tuple[float, float | None, float | None, float | None]:
    """(seconds, watts, joules, quiet watts) of a row; joules are watts times seconds where only watts are given."""
    latency = positive(row, "latency_s")
    if latency is None:
        raise RowError("no latency_s")
    power, energy, idle = (positive(row, name) for name in ("power_w", "energy_j", "idle_power_w"))
    if energy is None and power is not None:
        energy = power * latency
    if power is None and energy is not None:
        power = energy / latency
    if energy is not None and idle is not None and energy <= idle * latency:
        raise RowError(f"energy_j {energy:.4g} is not above quiet power for that time ({idle * latency:.4g})")
    return latency, power, energy, idle
