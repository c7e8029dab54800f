"""``rig measure --explain``: where each interval comes from, what limits it, and what is known of the power source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig.errors import DeviceSetupError
from rig.measurement import PARTS
from rig.output import warning
from rig.quality.stats import quadrature
from rig.sensors import limits as sensor_limits
from rig.sensors import store as sensor_store
from rig.sensors.calibration import SensorCalibration
from rig.units import Quantity

if TYPE_CHECKING:
    from rig.connection.session import Session
    from rig.console import Console
    from rig.measurement import Measurement
    from rig.profiles import DeviceProfile

COLUMNS = {
    "power_w": "POWER",
    "idle_power_w": "QUIET",
    "energy_active_j": "ENERGY ABOVE QUIET",
    "energy_j": "ENERGY IN ALL",
    "latency_s": "LATENCY",
}
NEGLIGIBLE = 1e-4  # of the total
UNITS = {"s": "s", "w": "W", "j": "J"}


def at_once(profile: DeviceProfile, session: Session, fps: float | None) -> list[dict[str, Any]]:
    """What the power source in use cannot do, as warnings, before anything is measured.

    Raises DeviceSetupError where no windows of its length fit into the plan.
    """
    source = session.power_source
    if source is None:
        return []
    found = sensor_store.load("characterization", profile.name, sensor_store.serial_of(profile, session.hello), source)
    if found is None:
        return []
    sensor = {**found["declared"], "name": source, "characterization": found}
    limits = sensor_limits.before(sensor, profile.plan.to_plan(fps))
    for limit in limits:
        if limit.code == "source-too-slow":
            raise DeviceSetupError(f"{profile.name}: {limit.message}", f"{limit.fix} (in {profile.own_file})")
    return [warning(limit.code, limit.message, limit.fix) for limit in limits]


def limits(found: Measurement, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures whose asked interval was not reached: which part limits each, and what would help."""
    from rig.quality.limits import shortfalls
    from rig.quality.verdict import plan_of

    return [row.to_json() for row in shortfalls(found, plan_of(record), record)]


def known_source(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the figures rest on beside the data sheet: when the source was characterized, by what it was calibrated."""
    sensor = record.get("sensor")
    if not sensor:
        return None
    characterized, calibrated = sensor.get("characterization") or {}, sensor.get("calibration")
    row: dict[str, Any] = {"name": sensor.get("name"), "characterized_utc": characterized.get("made_utc")}
    if not calibrated:
        return {
            **row,
            "calibrated_utc": None,
            "against": None,
            "gain": None,
            "gain_uncertainty": None,
            "offset_w": None,
        }
    fit = SensorCalibration.from_json(calibrated["fit"])
    row |= {"calibrated_utc": calibrated["made_utc"], "against": calibrated["against"]}
    return row | {"gain": fit.gain, "gain_uncertainty": fit.gain_uncertainty, "offset_w": fit.offset_w}


def source_words(known: Mapping[str, Any]) -> str:
    """The same in one line."""
    words = [str(known["name"])]
    seen = known["characterized_utc"]
    words.append(f"characterized {seen[:10]}" if seen else "as its data sheet says (rig doctor measures it)")
    if known["calibrated_utc"]:
        words.append(
            f"calibrated {known['calibrated_utc'][:10]} against {known['against']}: gain {known['gain']:.4f} "
            f"± {200 * known['gain_uncertainty']:.2g} %, offset {Quantity(known['offset_w']).format('W')}"
        )
    return ", ".join(words)


def show(
    budgets: Mapping[str, Mapping[str, float | None]],
    rows: Sequence[Mapping[str, Any]],
    network: Mapping[str, Any],
    console: Console,
) -> None:
    """The budget of every figure as a table, then what keeps an asked interval out of reach."""
    names = [name for name in COLUMNS if name in budgets]
    console.line("Uncertainty, half-widths of 95 %, added in quadrature:")
    totals = {name: _total(budgets[name]) for name in names}
    table = [[part, *(_cell(budgets[name].get(part), totals[name], name) for name in names)] for part in PARTS]
    table.append(["total", *(_cell(totals[name], totals[name], name) for name in names)])
    table.append(["share", *(_share(totals[name], network.get(name)) for name in names)])
    console.table(["PART", *(COLUMNS[name] for name in names)], table, right=[COLUMNS[name] for name in names])
    for row in rows:
        console.line(
            f"{row['quantity']}: ±{100 * row['wanted_rel']:.2g} % wanted, ±{100 * row['reached_rel']:.2g} % reached; "
            f"{row['limited_by']} is {100 * row['share']:.0f} % of the square. What helps: {row['fix']}"
        )
    if not rows:
        console.line("The asked interval was reached")


def _total(parts: Mapping[str, float | None]) -> float | None:
    if any(value is None for value in parts.values()):
        return None
    return quadrature(*(value for value in parts.values() if value is not None))


def _cell(value: float | None, total: float | None, name: str) -> str:
    """A part with its unit; one that adds nothing in quadrature is 0."""
    if value is None:
        return "-"
    shown = 0.0 if total and value < NEGLIGIBLE * total else value
    return "0" if shown == 0.0 else Quantity(shown).format(UNITS[name.rsplit("_", 1)[1]])


def _share(total: float | None, quantity: Mapping[str, Any] | None) -> str:
    value = (quantity or {}).get("value")
    return "-" if total is None or not value else f"{100 * total / abs(value):.2g} %"
