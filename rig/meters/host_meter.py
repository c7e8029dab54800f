"""A meter at the host beside a measurement on the device: sampled in a thread, its trace attached to the record.

    device   lead  quiet_before  warm-up  window window ...  quiet_after  lag     on the device's clock
                                              │ "enough" ▲
    host    ↕↕↕↕ clock ─────────────── samples ──────────────────────────── clock ↕↕↕↕   on the host's (``now_s``)

The record comes from the device without watts; it gets ``trace`` (host's clock), ``sensor``, ``clock`` (device to host)
and its ``evidence`` (what was said, word for word), so that ``rig.quality.verdict`` judges it as it does any other.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from device_agents.clocks import ClockMap, Exchange, fit_clock
from device_agents.protocol import now_s
from device_agents.records import MeasurePlan, PowerTrace
from rig.errors import DeviceBusyError, DeviceError, DeviceSetupError
from rig.meters import Meter, Sample, make_meter
from rig.meters.clock import SteppedClock, offset_s
from rig.meters.interval import EnergyInterval
from rig.profiles import MeterSettings

HOST_CLOCK = "host"

# What rig.quality.verdict needs of a window and of a quiet phase, and room for readings that come late.
WINDOW_AVERAGES = 2.0
WINDOW_SAMPLES = 5.0
ROOM = 1.1
QUIET_SETTLING_SHARE = 0.1
CLOCK_ROOM_S = 0.1

# Samples are kept for so long: a record that a lost link left on the device may still be fetched.
KEPT_S = 3600.0

# No new sample for this many periods, and at least this long: stale.
STALE_PERIODS = 5.0
STALE_AT_LEAST_S = 2.0

CRYSTAL_DRIFT = 1e-4

JOIN_S = 15.0
LOOK_S = 0.02


class HostMeter:
    """One meter for the length of a session. ``token``: of the session, so that its own records are known again."""

    def __init__(self, settings: MeterSettings, token: str) -> None:
        self.token = token
        self._meter: Meter = make_meter(settings)
        self.name = self._meter.name
        self.description: dict[str, Any] = {"name": self.name, **self._meter.describe(), "clock": HOST_CLOCK}
        self._delay_s = settings.delay_s if settings.kind == "log" else 0.0
        self._period_s = 1.0 / float(self.description["rate_hz"])
        self._window_s = float(self.description["window_s"])
        self._lock = threading.Lock()
        self._samples: collections.deque[Sample] = collections.deque()
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._worked = False

    @property
    def request(self) -> dict[str, Any]:
        """What the agent is told: run quiet phases, wait for the meter's lag, and let the host judge the energy."""
        return {
            "name": self.name,
            "rate_hz": self.description["rate_hz"],
            "window_s": self._window_s,
            "session": self.token,
            "judged": True,
        }

    def plan_for(self, plan: MeasurePlan) -> MeasurePlan:
        """The plan with windows and quiet phases long enough for the meter; the same for the same meter and plan."""
        window_s = ROOM * max(WINDOW_AVERAGES * self._window_s, WINDOW_SAMPLES * self._period_s)
        edge_s = self._window_s + 2.0 * CLOCK_ROOM_S
        quiet_s = (edge_s + (WINDOW_SAMPLES + 2.0) * self._period_s) / (1.0 - QUIET_SETTLING_SHARE)
        window_s = max(plan.window_s, window_s)
        return plan._replace(
            window_s=window_s, quiet_s=max(plan.quiet_s, quiet_s), max_s=max(plan.max_s, plan.min_windows * window_s)
        )

    def begin(self) -> None:
        """Sample from now on. Raises DeviceSetupError or DeviceBusyError where the meter never worked in this session.

        One that worked before and fails now is noted in the record: what the device measures is kept.
        """
        self._meter.clear_evidence()
        if self._thread is not None and self._thread.is_alive() and self._problem is None:
            return
        self._halt()
        try:
            self._meter.open()
        except (DeviceSetupError, DeviceBusyError) as error:
            if not self._worked:
                raise
            self._problem = _words(error)
            return
        self._problem, self._worked, self._stop = None, True, threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(self._stop,), name="meter", daemon=True)
        self._thread.start()

    def interval(self, plan: MeasurePlan, exchanges: Sequence[Exchange]) -> EnergyInterval | None:
        """What a measurement that begins now will know of its energy; None where the clocks could not be compared."""
        try:
            clock = inverse(fit_clock(exchanges))
        except ValueError:
            return None
        begun_s = now_s()

        def placed() -> list[tuple[float, float]]:
            with self._lock:
                heard = [one for one in self._samples if one.arrived_s >= begun_s]
            return self._on_host_clock(heard)

        return EnergyInterval(plan, clock, self._window_s, placed)

    def is_enough(self, interval: EnergyInterval | None) -> bool:
        """Whether more windows would serve nothing: it is narrow, or the meter failed and its watts will be refused."""
        if interval is None or self._problem is not None:
            return True
        with self._lock:
            last_s = self._samples[-1].arrived_s if self._samples else None
        patience_s = max(STALE_PERIODS * self._period_s, STALE_AT_LEAST_S) + self._window_s + self._delay_s
        if interval.last_s is not None and (last_s is None or now_s() - last_s > patience_s):
            return True
        try:
            return interval.is_narrow
        except SteppedClock:
            return True

    def attach(self, record: Mapping[str, Any], exchanges: Sequence[Exchange]) -> dict[str, Any]:
        """The record with the meter's trace, or with the reason why it has none; ``exchanges``: host asks device."""
        if record["external_source"].get("session") != self.token:
            return without_trace(record, self.description)
        made = {**record, "sensor": self.description, "evidence": self._evidence(record, exchanges)}
        try:
            host_to_device = fit_clock(exchanges)
        except ValueError as error:
            return {**made, "trace_problem": f"the device's clock could not be compared with the host's: {error}"}
        clock = inverse(host_to_device)
        begin_s, end_s = clock.there_s(record["phases"][0]["t0_s"]), clock.there_s(record["phases"][-1]["t1_s"])
        self._wait_for(end_s)
        with self._lock:
            heard, problem = list(self._samples), self._problem
        made["evidence"] = self._evidence(record, exchanges)
        doubt_s = clock.uncertainty_s + self._meter.stamp_uncertainty_s() + _extrapolated_s(exchanges, begin_s, end_s)
        room_s = self._window_s + 2.0 * self._period_s + doubt_s
        early_s, late_s = begin_s - room_s, end_s + room_s + self._delay_s
        try:
            placed = self._on_host_clock([one for one in heard if early_s <= one.arrived_s <= late_s])
        except SteppedClock as error:
            return {**made, "trace_problem": str(error)}
        kept = [one for one in placed if begin_s - room_s <= one[0] <= end_s + room_s]
        made["clock"] = clock._replace(uncertainty_s=doubt_s).to_json()
        made["trace"] = self._trace(kept).to_json() if kept else None
        made["trace_problem"] = self._gap(kept, begin_s, end_s, problem)
        made["precision"] = {**(record.get("precision") or {}), "energy_rel": self._reached(record, clock, kept)}
        return made

    def _reached(
        self, record: Mapping[str, Any], clock: ClockMap, placed: Sequence[tuple[float, float]]
    ) -> float | None:
        """Relative half-width of the energy of all windows, as the agent notes it of a source of its own."""
        windows = [phase for phase in record["phases"] if phase.get("name") == "window"]
        if not windows:
            return None
        interval = EnergyInterval(MeasurePlan(**record["plan"]), clock, self._window_s, lambda: placed)
        interval.add({"measured": [[phase["t0_s"], phase["t1_s"], phase["count"]] for phase in windows]})
        return interval.relative

    def close(self) -> None:
        """Stop sampling and let go of the meter."""
        self._halt()

    def _sample(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                new = self._meter.samples(stop)
            except DeviceError as error:
                with self._lock:
                    self._problem = _words(error)
                return
            with self._lock:
                self._samples.extend(new)
                while self._samples and self._samples[0].arrived_s < now_s() - KEPT_S:
                    self._samples.popleft()

    def _halt(self) -> None:
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(JOIN_S)
        self._meter.close()

    def _wait_for(self, end_s: float) -> None:
        """Until the samples reach the end of the measurement, the meter failed, or it is clear that none will come."""
        patience_s = max(STALE_PERIODS * self._period_s, STALE_AT_LEAST_S) + self._window_s + self._delay_s
        until_s = max(now_s(), end_s) + patience_s
        enough_s = end_s + self._window_s + self._delay_s + self._period_s
        while now_s() < until_s:
            with self._lock:
                last_s = self._samples[-1].arrived_s if self._samples else None
                problem = self._problem
            # A sample that came so late was taken after the end, so all that matter are here.
            if problem is not None or (last_s is not None and last_s >= enough_s):
                return
            self._stop.wait(LOOK_S)

    def _on_host_clock(self, samples: Sequence[Sample]) -> list[tuple[float, float]]:
        shift_s = offset_s(samples, self._period_s) if self._meter.own_clock and samples else 0.0
        return [(one.stamp_s + shift_s, one.power_w) for one in samples]

    def _evidence(self, record: Mapping[str, Any], exchanges: Sequence[Exchange]) -> dict[str, Any]:
        """What the agent kept, what the meter said, and how the two clocks were compared (host asks device)."""
        compared = [exchange._asdict() for exchange in exchanges]
        return {**(record.get("evidence") or {}), **self._meter.evidence(), "host_clock_exchanges": compared}

    def _trace(self, samples: Sequence[tuple[float, float]]) -> PowerTrace:
        times, watts = [one[0] for one in samples], [one[1] for one in samples]
        said = self.description
        return PowerTrace(self.name, said["rail"], said["boundary"], HOST_CLOCK, times, watts)

    def _gap(
        self, samples: Sequence[tuple[float, float]], begin_s: float, end_s: float, problem: str | None
    ) -> str | None:
        """What is missing between begin and end: the meter's own error where it had one, else how long it was still."""
        times = [begin_s, *(t for t, _ in samples if begin_s < t < end_s), end_s]
        longest_s = max(later - earlier for earlier, later in pairwise(times))
        if problem is not None and (not samples or samples[-1][0] < end_s):
            return problem
        if longest_s <= max(STALE_PERIODS * self._period_s, STALE_AT_LEAST_S) and len(times) >= 4:
            return None
        return (
            f"stale: no new sample of meter {self.name} for {longest_s:.3g} s at a rate of "
            f"{self.description['rate_hz']:.6g} Hz ({len(times) - 2} in {end_s - begin_s:.3g} s)"
        )


def without_trace(record: Mapping[str, Any], description: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A record whose watts are lost: another session of the host had the meter, and its readings went with it."""
    name = record["external_source"]["name"]
    return {
        **record,
        "sensor": dict(description) if description is not None else {**record["external_source"], "clock": HOST_CLOCK},
        "trace_problem": f"measured for an earlier session of the host, which kept the readings of meter {name}",
    }


def inverse(clock: ClockMap) -> ClockMap:
    """The map the other way round: ``here = there + ...``."""
    offset, drift = clock.offset_s, clock.drift
    return ClockMap(-offset, -drift / (1.0 + drift), clock.reference_s + offset, clock.uncertainty_s)


def _words(error: DeviceError) -> str:
    return f"{error.message}; {error.fix}" if error.fix else error.message


def _extrapolated_s(exchanges: Sequence[Exchange], begin_s: float, end_s: float) -> float:
    """What two crystals may run apart between the exchanges and a measurement that lies outside of them."""
    first_s, last_s = min(one.sent_s for one in exchanges), max(one.back_s for one in exchanges)
    return CRYSTAL_DRIFT * max(first_s - begin_s, end_s - last_s, 0.0)
