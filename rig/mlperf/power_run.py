"""One MLPerf power run as numbers: the meter's readings on loadgen's time line, counts, latencies, quiet power.

loading │ power_begin ── inferences back to back ── power_end │ settling │ quiet ──► end of the meter's log
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rig.errors import BadInputError
from rig.mlperf import clocks, logs

SETTLING_S = 3.0  # after the last inference: the meter's last averages and the end of the process
FEWEST_READINGS = 20
FEWEST_QUIET = 3
SCENARIO = "SingleStream"


class PowerRun(NamedTuple):
    """Times in seconds from ``power_begin``; ``readings``: (time on the meter's clock, watts)."""

    name: str
    sut: str
    loadgen_version: str
    started_utc_s: float
    duration_s: float
    count: int
    latency_mean_s: float
    latency_quantiles_s: dict[float, float]
    valid: bool
    readings: list[tuple[float, float]]
    clocks: clocks.Clocks
    meter: str | None

    @property
    def period_s(self) -> float:
        """From one inference to the next, loadgen's own work between them included."""
        return self.duration_s / self.count

    def between(self, t0_s: float, t1_s: float) -> list[float]:
        """Watts of the readings between two times of the device's clock."""
        shift_s = self.clocks.offset_s
        return [w for t, w in self.readings if t0_s < t - shift_s < t1_s]

    @property
    def running_w(self) -> list[float]:
        """The readings while it ran."""
        return self.between(0.0, self.duration_s)

    @property
    def quiet_w(self) -> list[float]:
        """The readings after it ran and settled."""
        return self.between(self.duration_s + SETTLING_S, float("inf"))


def read(folder: Path) -> PowerRun:
    """Read a folder. Raises BadInputError naming file and line."""
    files = logs.find(folder)
    detail = files["mlperf_log_detail.txt"]
    facts = logs.loadgen_facts(detail)

    def fact(key: str, meaning: str) -> Any:
        return logs.needed(facts, key, detail, meaning)

    scenario = fact("effective_scenario", "which scenario was run is unknown")
    if scenario != SCENARIO:
        raise BadInputError(
            f"{detail}: scenario {scenario}: its latency is not that of one inference", fix=f"only {SCENARIO} is read"
        )
    begin_local_s, end_local_s = (
        logs.local_s(fact(key, "not a power run"), detail, key) for key in ("power_begin", "power_end")
    )
    known = clocks.read(files)
    begin_s, duration_s = known.client_s(begin_local_s), end_local_s - begin_local_s
    if duration_s <= 0.0:
        raise BadInputError(f"{detail}: power_end is not after power_begin", fix="its clock was set during the run")
    made = PowerRun(
        name=folder.resolve().name,
        sut=str(facts.get("sut_name", "unknown")),
        loadgen_version=str(facts.get("loadgen_version", "")),
        started_utc_s=begin_s,
        duration_s=duration_s,
        count=int(fact("result_query_count", "how many inferences were run is unknown")),
        latency_mean_s=1e-9 * float(fact("result_mean_latency_ns", "the mean latency is unknown")),
        latency_quantiles_s=_quantiles(facts),
        valid=facts.get("result_validity") == "VALID",
        readings=_readings(files["spl.txt"], known, begin_s),
        clocks=known,
        meter=logs.meter_identity(files["server.json"]) if "server.json" in files else None,
    )
    _check(made, files["spl.txt"])
    return made


def _readings(path: Path, known: clocks.Clocks, begin_s: float) -> list[tuple[float, float]]:
    """Of the run itself: what the ranging run before it left in the same file has another mark."""
    lines = logs.meter_lines(path)
    testing = [line for line in lines if line.mark.endswith("_testing")]
    return [(known.server_s(line.local_s) - begin_s, line.power_w) for line in testing or lines]


def _check(made: PowerRun, path: Path) -> None:
    count = len(made.running_w)
    if count < FEWEST_READINGS:
        first_s, last_s = made.readings[0][0], made.readings[-1][0]
        raise BadInputError(
            f"{path}: {count} readings while loadgen ran, at least {FEWEST_READINGS} are needed: the log covers "
            f"{first_s:.0f} to {last_s:.0f} s, the run 0 to {made.duration_s:.0f} s",
            fix="are both of the same run? time zones come from client.json, client.log, server.json and server.log",
        )


def _quantiles(facts: dict[str, Any]) -> dict[float, float]:
    """Share → latency, of the percentiles that loadgen logs."""
    found = {}
    for key, value in facts.items():
        if key.startswith("result_") and key.endswith("_percentile_latency_ns"):
            found[0.01 * float(key.split("_")[1])] = 1e-9 * float(value)
    return found
