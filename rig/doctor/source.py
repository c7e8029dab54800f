"""One power source, characterized: a load it sees, in as many passes as its slowness needs.

pass 1   half periods by what the source declares      trace ─► updates, quantum ─► step response
pass 2   longer ones, where the response reached over half of a half period (or the load was not seen)
pass 3   once more, where it still does
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rig.doctor.load import Load, steps
from rig.doctor.load_curve import BOXCAR, SHAPES, LoadCurve
from rig.doctor.readings import fresh, noise_w, quantum, step_error_w, updates
from rig.doctor.response import fit_step_response
from rig.doctor.step_response import StepResponse
from rig.quality.power import TO_AND_FRO, on_runtime_clock
from rig.store.store import utc_now

if TYPE_CHECKING:
    from rig.connection.session import Session

PASSES = 3
SHORTEST_HALF_S, LONGEST_HALF_S = 0.2, 5.0
HALF_PER_REACH = 3.0  # a half period holds the source's reach so many times
ENOUGH_REACH = 0.5  # of a half period: a response that reaches further is looked at again
UNSEEN_FACTOR = 5.0  # how much longer the half periods get where nothing was seen
FIRST_LAG_S = 0.5  # waited before and after a first pass beside what the source declares
WINDOW_RATIO, WINDOW_SLACK_S = 1.5, 0.002  # a measured window that far from the declared one contradicts it


@dataclass(frozen=True)
class SourceTrace:
    """One source's part of the agent's answer to ``load``, its samples on the runtime's clock."""

    name: str
    times_s: np.ndarray
    power_w: np.ndarray
    counter_j: np.ndarray | None
    sensor: Mapping[str, Any]
    clock: Mapping[str, Any]
    usage: Mapping[str, Any] | None
    problem: str | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SourceTrace:
        """Read one of ``sources``; a source without samples has empty arrays and a problem."""
        trace, clock = data.get("trace") or {}, data.get("clock") or {}
        counter = trace.get("energy_counter_j")
        times_s = on_runtime_clock(np.asarray(trace.get("times_s", ()), dtype=float), dict(clock))
        problem = data.get("trace_problem")
        if len(times_s) == 0 and problem is None:
            problem = "no sample came"
        return cls(
            str(data["name"]),
            times_s,
            np.asarray(trace.get("power_w", ()), dtype=float),
            None if counter is None else np.asarray(counter, dtype=float),
            data.get("sensor") or {},
            clock,
            data.get("usage"),
            problem,
        )


@dataclass(frozen=True)
class Finding:
    """What was found out about one source; ``spans`` and ``trace`` are those of the last pass (the picture)."""

    name: str
    declared: Mapping[str, Any]
    response: StepResponse | None
    spacing_s: float | None
    update_period_s: float | None
    held: bool
    counts_energy: bool
    step_w: float | None
    noise_w: float | None
    busy_noise_w: float | None
    usage: Mapping[str, Any] | None
    clock: Mapping[str, Any]
    problem: str | None
    kind: str
    serial: str
    agent_hash: str
    passes: int
    spans: Sequence[Sequence[float]] = ()
    trace: SourceTrace | None = None
    answer: Mapping[str, Any] | None = None

    @property
    def seen(self) -> bool:
        """Whether a step response was found."""
        return self.response is not None and self.response.seen

    @property
    def contradiction(self) -> str | None:
        """Where the measured window contradicts the declared one: the words for it."""
        response, declared_s = self.response, self.declared.get("window_s")
        if response is None or not response.seen or declared_s is None or self.counts_energy:
            return None
        doubt_s = response.window_half_width_s + WINDOW_SLACK_S + 0.25 * (self.spacing_s or 0.0)
        low_s, high_s = declared_s / WINDOW_RATIO - doubt_s, declared_s * WINDOW_RATIO + doubt_s
        if low_s <= response.window_s <= high_s:
            return None
        how = "" if response.time_constant_s is None else " (99 % of what it forgets exponentially)"
        return f"it averages over {response.window_s:.3g} s{how}, and declares {declared_s:.3g} s"

    def to_json(self) -> dict[str, Any]:
        """What is stored by serial number, and put into later records."""
        response = self.response if self.seen else None
        fitted = {} if response is None else _response_json(response, self)
        return {
            "made_utc": utc_now(),
            "agent_hash": self.agent_hash,
            "kind": self.kind,
            "declared": dict(self.declared),
            "spacing_s": self.spacing_s,
            "update_period_s": self.update_period_s,
            "held": self.held,
            "counts_energy": self.counts_energy,
            "step_w": self.step_w,
            "noise_w": self.noise_w,
            "busy_noise_w": self.busy_noise_w,
            "sampling": dict(self.usage) if self.usage else None,
            "contradiction": self.contradiction,
            **fitted,
        }


def _response_json(response: StepResponse, finding: Finding) -> dict[str, Any]:
    # Between two updates a held value grows old: on average by half of the update period.
    stale_s = 0.5 * (finding.update_period_s or 0.0) if finding.held else 0.0
    # A counter is read at an instant: what it is behind is its lag, and its window is between two readings.
    delay_s = response.lag_s if finding.counts_energy else response.delay_s
    half_width_s = response.lag_half_width_s if finding.counts_energy else response.delay_half_width_s
    return {
        "shape": None if finding.counts_energy else response.shape,
        "shape_told": None if finding.counts_energy else response.shape_told,
        "window_s": 0.0 if finding.counts_energy else response.window_s,
        "time_constant_s": None if finding.counts_energy else response.time_constant_s,
        "window_half_width_s": response.window_half_width_s,
        "lag_s": response.lag_s,
        "lag_half_width_s": response.lag_half_width_s,
        "delay_s": delay_s + stale_s,
        "delay_half_width_s": half_width_s,
        "quiet_w": response.quiet_w,
        "active_w": response.active_w,
        "active_half_width_w": response.active_half_width_w,
        "residual_w": response.residual_w,
        "explained": response.explained,
    }


def drive(
    session: Session,
    load: Load,
    pattern: Sequence[tuple[float, float]],
    sources: Sequence[str],
    lag_s: float = 0.0,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Give the device a load while sources are sampled; the agent's answer."""
    from rig.connection.session import Subject

    options, meter = session.profile.sensor_options, session.meter_name
    wanted = [{"name": name, "options": options.get(name, {})} for name in sources if name != meter]
    subject = None
    if load.kernels is not None or load.model is not None:
        subject = Subject("load", path=load.model, kernels=load.kernels)
    return session.load(
        load.runtime, load.options, subject, pattern, wanted, lag_s, meter is not None and meter in sources, on_progress
    )


def characterize(
    session: Session,
    load: Load,
    source: str,
    count: int,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Finding:
    """Find out about one source; a source that fails gives a Finding with its ``problem``."""
    half_s, finding = SHORTEST_HALF_S, None
    for number in range(1, PASSES + 1):
        if number == 1:
            half_s = _first_half_s(session, load, source)
        answer = drive(session, load, steps(count, half_s, number), [source], FIRST_LAG_S + half_s, on_progress)
        finding = found_in(answer, number)
        longer_s = _longer_s(finding, half_s)
        if finding.problem is not None or longer_s is None or longer_s <= half_s:
            break
        half_s = longer_s
    if finding is None:
        raise AssertionError("unreachable: there is at least one pass")
    return finding


def together(session: Session, load: Load, findings: Sequence[Finding], count: int) -> list[Finding]:
    """The sources that saw the load once more, all at the same time: only then can their watts be compared."""
    names = [found.name for found in findings if found.seen]
    if len(names) < 2:
        return []
    half_s = max(LoadCurve(found.spans).half_period_s for found in findings if found.seen)
    answer = drive(session, load, steps(count, half_s, PASSES + 1), names, FIRST_LAG_S + half_s)
    return [found_in(answer, index=index) for index in range(len(answer["sources"]))]


def _first_half_s(session: Session, load: Load, source: str) -> float:
    """Half periods for what the source declares; one short step tells what that is."""
    answer = drive(session, load, [(0.05, 0.05)], [source])
    declared = answer["sources"][0]["sensor"] or {}
    reach_s = float(declared.get("window_s") or 0.0) + 1.0 / float(declared.get("rate_hz") or 100.0)
    return min(max(SHORTEST_HALF_S, HALF_PER_REACH * reach_s), LONGEST_HALF_S)


def _longer_s(finding: Finding, half_s: float) -> float | None:
    """The half period of another pass; None where this one was long enough."""
    response = finding.response
    if response is None or not response.seen:
        return min(UNSEEN_FACTOR * half_s, LONGEST_HALF_S)
    reach_s = response.window_s + max(response.lag_s, 0.0) + (finding.update_period_s or 0.0)
    if finding.noise_w is None:  # too few samples between two edges
        return min(max(2.0 * half_s, HALF_PER_REACH * reach_s), LONGEST_HALF_S)
    return min(HALF_PER_REACH * reach_s, LONGEST_HALF_S) if reach_s > ENOUGH_REACH * half_s else None


def found_in(answer: Mapping[str, Any], passes: int = 1, index: int = 0) -> Finding:
    """Read one source's trace under a known load."""
    trace = SourceTrace.from_json(answer["sources"][index])
    spans = answer["spans"]
    described = {key: value for key, value in trace.sensor.items() if key != "name"}
    values = trace.power_w if trace.counter_j is None else trace.counter_j
    known: dict[str, Any] = {"response": None, "spacing_s": None, "update_period_s": None, "held": False}
    known |= {"step_w": None, "noise_w": None, "busy_noise_w": None}
    if len(values) >= 4:
        known |= _read(spans, trace, values)
    return Finding(
        name=trace.name,
        declared=described,
        counts_energy=trace.counter_j is not None,
        usage=None if answer.get("kind") == "simulated" else trace.usage,
        clock=trace.clock,
        problem=trace.problem,
        kind=str(answer.get("kind", "measured")),
        serial=str(answer["serial"]),
        agent_hash=str(answer["agent_hash"]),
        passes=passes,
        spans=spans,
        trace=trace,
        answer=answer,
        **known,
    )


def _read(spans: Sequence[Sequence[float]], trace: SourceTrace, values: np.ndarray) -> dict[str, Any]:
    update = updates(trace.times_s, values)
    times_s, power_w = _news(trace, values) if update.held else (trace.times_s, trace.power_w)
    spacing_s = update.period_s if update.held and update.period_s else update.spacing_s
    step_w = quantum(values)
    if trace.counter_j is not None and step_w is not None:
        step_w /= spacing_s  # the counter's joules, over one update
    # Between two readings of a counter every instant counts alike.
    shapes = SHAPES if trace.counter_j is None else (BOXCAR,)
    response = fit_step_response(spans, times_s, power_w, spacing_s, step_w, shapes)
    found: dict[str, Any] = {
        "response": response,
        "spacing_s": update.spacing_s,
        "update_period_s": update.period_s,
        "held": update.held,
        "step_w": step_w,
        "noise_w": None,
        "busy_noise_w": None,
    }
    if response is not None and response.seen:
        load = LoadCurve(spans)
        settle_s = max(response.centre_s, response.window_s - response.centre_s) + update.spacing_s
        for name, on in (("noise_w", False), ("busy_noise_w", True)):
            stretches = load.stretches(on, settle_s, response.delay_s)
            found[name] = noise_w(times_s, power_w, stretches, step_w)
        if step_w:
            # Less noise than that may be one step to and fro at this level, and none at the next.
            noise = min(found["noise_w"] or 0.0, found["busy_noise_w"] or 0.0)
            error_w = step_error_w(step_w, noise if noise > TO_AND_FRO * step_w else 0.0)
            response = response.rounded(error_w)
        found["response"] = response.timed(float(trace.clock.get("uncertainty_s") or 0.0))
    return found


def _news(trace: SourceTrace, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples that say something new: of a counter, the mean power since it last did."""
    new = fresh(values)
    times_s = trace.times_s[new]
    if trace.counter_j is None:
        return times_s, trace.power_w[new]
    return times_s[1:], np.diff(trace.counter_j[new]) / np.diff(times_s)
