"""Exported networks on the device: measured in turn, so that drift lands on none of them; every record stored first.

One measurement is a whole MeasureRecord (quiet, warm-up, windows, quiet). Ids are derived from what is measured, so
that a resumed run takes from the store what it has and measures what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from scipy import stats

from device_agents.records import Configuration
from rig.configuration import configuration_of
from rig.connection.session import Session, Subject
from rig.errors import DeviceBusyError, DeviceSetupError, TransientDeviceError
from rig.measurement import Measurement
from rig.profiles import WITHOUT_A_BOARD, DeviceProfile
from rig.quality.verdict import assess
from rig.store import evidence
from rig.store.store import Run, RunInfo
from rig.units import Quantity
from rig.workloads.network_file import read_kernels

ATTEMPTS = 4
BUSY_PAUSE_S = 5.0
Report = Callable[[str], None]


class Bench:
    """The run's device, held for as long as measuring takes and no longer (training needs no board)."""

    def __init__(self, profile: DeviceProfile, run: Run, report: Report) -> None:
        self.profile = profile
        self.run = run
        self.report = report
        self.session: Session | None = None
        self.configuration: Configuration | None = None
        self.meter: str | None = None
        self.patience_s = 0.0
        self._known = run.measurement_ids()

    def __enter__(self) -> Bench:
        self.session = Session(self.profile, f"rig optimize {self.run.id}").__enter__()
        self.meter = self.session.power_source
        self.session.measures_for(self.run.path)
        evidence.keep_session(self.run, self.session)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.session is not None:
            self.run.problems += self.session.problems
            self.session.__exit__(kind, error, trace)
            self.session = None

    def need_power(self) -> None:
        """Raise DeviceSetupError where the device has no working power source."""
        if self.meter is None and self.session is not None:
            states = self.session.hello["sensors"]
            why = (
                "; ".join(f"{name}: {state.get('reason')}" for name, state in states.items())
                or "none is in its profile"
            )
            raise DeviceSetupError(
                f"{self.profile.name} has no power source, so a power or energy target cannot be measured ({why})",
                f"see rig devices; or give --target-latency, or --device {WITHOUT_A_BOARD}",
            )

    def in_turn(
        self,
        networks: Mapping[str, Path],
        tag: str,
        rates: Sequence[float | None],
        rounds: int,
        enough: Callable[[dict[tuple[str, float | None], list[Measurement]]], bool] | None = None,
    ) -> dict[tuple[str, float | None], list[Measurement]]:
        """Measure every network at every rate (None: back to back), round by round; (network, rate) → measurements.

        ``enough`` may end it after any round from the third on.
        """
        found: dict[tuple[str, float | None], list[Measurement]] = {(n, r): [] for n in networks for r in rates}
        for turn in range(1, rounds + 1):
            order = list(found) if turn % 2 else list(found)[::-1]
            for name, rate in order:
                self.report(f"round {turn}: {name}" + (f" at {rate:g} fps" if rate else ""))
                identity = f"{self.run.id}-{tag}-{name}-{turn}" + (f"-{rate:.6g}fps" if rate else "")
                found[name, rate].append(self.measure(name, networks[name], identity, rate))
            if enough is not None and turn >= 3 and enough(found):
                break
        return found

    def measure(self, name: str, path: Path, identity: str, fps: float | None) -> Measurement:
        """One accepted measurement; a rejected one is kept and repeated, at most ATTEMPTS times."""
        reason = ""
        for attempt in range(1, ATTEMPTS + 1):
            record = self._record(name, path, f"{identity}-{attempt}", fps)
            measurement = assess(record)
            if measurement.ok:
                return measurement
            reason = measurement.reason or ""
            self.run.add_event("rejected", measurement=record["id"], reason=reason)
        raise TransientDeviceError(
            f"measuring {name} on {self.profile.name}: rejected {ATTEMPTS} times, last because: {reason}",
            f"remove the cause and continue with --resume; the records are in run {self.run.id}",
        )

    def _record(self, name: str, path: Path, identity: str, fps: float | None) -> dict[str, Any]:
        if identity in self._known:
            record = self.run.measurement(identity)
        else:
            if self.session is None:
                raise DeviceSetupError(
                    f"{self.profile.name}: the device is not held", "use the bench in a with statement"
                )
            record = self._ask(self.session, self._subject(name, path), fps, identity)
            self.run.add_measurement(record)
            self.session.ack([record["id"]])
            self._known.add(identity)
            evidence.keep_assessment(self.run, assess(record))
        self.configuration = configuration_of(self.profile, record)
        if self.run.info is None and self.session is not None:
            agent = self.session.hello["agent"]["agent_hash"]
            self.run.set_info(RunInfo(self.configuration, agent, record["started_utc"], record["kind"]))
        return record

    def _ask(self, session: Session, subject: Subject, fps: float | None, identity: str) -> dict[str, Any]:
        """Measure; while another holds the device, wait up to ``patience_s``: hours of training are at stake."""
        deadline_s = time.monotonic() + self.patience_s
        while True:
            try:
                return session.measure(subject, self.profile.plan.to_plan(fps), request_id=identity)
            except DeviceBusyError as busy:
                if time.monotonic() > deadline_s:
                    raise
                self.report(f"waiting: {busy.message}")
                time.sleep(BUSY_PAUSE_S)

    def _subject(self, name: str, path: Path) -> Subject:
        if self.profile.simulated:
            return Subject(name, kernels=[n.spec for n in read_kernels(path, self.profile.runtime.name)])
        return Subject(name, path=path)


def pooled(measurements: Sequence[Measurement], quantity: str) -> Quantity | None:
    """Mean of a quantity over measurements with its 95 % interval: scatter between and doubt within, and the gain once.

    None where the device has no power source.
    """
    values = [getattr(m, quantity) for m in measurements]
    if not values or any(v is None or v.value is None for v in values):
        return None
    middle = float(np.mean([v.value for v in values]))
    n = len(values)
    if quantity not in measurements[0].budget:
        half = float(np.mean([v.half_width or 0.0 for v in values]))
        return Quantity.around(middle, half, n=n, kind=measurements[0].kind)
    within = [m.half_width(quantity, without=("gain",)) for m in measurements]
    gain = float(np.mean([m.budget[quantity].get("gain", 0.0) for m in measurements]))
    common = math.sqrt(sum(w * w for w in within)) / n
    scatter = 0.0
    if n >= 2:
        spread = float(np.std([v.value for v in values], ddof=1))
        scatter = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n) if n >= 3 else spread
    half = math.hypot(max(common, scatter), gain)
    return Quantity.around(middle, half, n=sum(v.n or 1 for v in values), kind=measurements[0].kind)
