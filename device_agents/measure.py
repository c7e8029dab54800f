"""One measurement, seen from the supervisor: phases of the runtime process, samples of the sampler, one record.

     lead  quiet_before   warmup (until level)   window window window ...   quiet_after  lag
     ─────┼─────────────┼──────────────────────┼────────────────────────┼──────────────┼────
     sampler on ───────────────────────────────────────────────────────────────────────────►
                                                 until the 95 % half-widths of latency and energy
                                                 are within plan.rel_ci, or plan.max_s has passed (a
                                                 host with a meter of its own says when energy is)

Without a power source there are no quiet phases.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Optional

from device_agents.board import Conditions, card_in_use
from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.external import external_source
from device_agents.intervals import has_no_slope, relative_half_width, thin
from device_agents.protocol import AgentError, now_s
from device_agents.pulse import is_quiet
from device_agents.records import MeasurePlan
from device_agents.timing import MAX_SAMPLES
from device_agents.trace import LiveTrace

RECORD_FORMAT_VERSION = 1  # 1: first version

# A warm-up is over when this many chunks in a row are level.
LEVEL_CHUNKS = 5

# How often the host hears of progress at most: a measurement in virtual time takes milliseconds.
PROGRESS_PERIOD_S = 0.2

PROFILED_RUNS = 30

# A window's energy is looked for until this many windows later.
LAGGING_WINDOWS = 20

# A window is no mean of fewer samples, nor of less than so many averaging windows of the sensor; quiet phases lose one
# averaging window at their ends.
WINDOW_SAMPLES = 5.0
WINDOW_AVERAGES = 2.0
QUIET_AVERAGES = 4.0


class Runtime(NamedTuple):
    """The runtime process with its deadlines: a phase of s seconds may take 2 s + ``slack_s``."""

    child: Child
    slack_s: float

    def load(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Load a subject, in a new process where the last one has ended."""
        self.child.start()
        return self.ask(request)

    def ask(self, request: Dict[str, Any], expected_s: float = 0.0) -> Dict[str, Any]:
        """Ask and wait; a crash or silence becomes an AgentError that says so."""
        try:
            return self.child.ask(request, 2.0 * expected_s + self.slack_s)
        except ChildDied as death:
            likely = " (out of memory? see dmesg)" if death.how.endswith("SIGKILL") else ""
            raise AgentError(
                "runtime-crashed",
                "the runtime process %s during %s%s" % (_was(death.how), request["op"], likely),
                "try the model alone on the device; its last output is in the agent's log",
            ) from death
        except ChildSilent as silence:
            raise AgentError(
                "deadline",
                "the runtime did not answer %s for %.0f s and was ended" % (request["op"], silence.waited_s),
                "give more time (slack_s), or measure a smaller model",
            ) from silence


def _was(how: str) -> str:
    return "was " + how if how.startswith("killed") else how


class Measurement(object):
    """Runs one ``measure`` request; ``report`` gets progress dicts, ``abandoned()`` says whether to stop early.

    ``enough()``: whether the host, where it has the meter, finds the energy precise.
    """

    def __init__(
        self,
        request: Dict[str, Any],
        runtime: Runtime,
        sampler: Child,
        report: Callable[[Dict[str, Any]], None],
        abandoned: Callable[[], bool],
        enough: Callable[[], bool] = lambda: True,
    ) -> None:
        self._request = request
        self._plan = _plan(request)
        self._runtime = runtime
        self._sampler = sampler
        self._report = report
        self._abandoned = abandoned
        self._enough = enough
        self._conditions = Conditions(card=card_in_use(request))
        self._external = external_source(request)
        self._trace: Optional[LiveTrace] = None
        self._phases: List[Dict[str, Any]] = []
        self._reported_s = 0.0
        self._untold: List[List[float]] = []  # windows of which a host that judges has not heard

    def run(self, run_dir: str) -> Dict[str, Any]:
        """Measure and return the part of the record that the measurement itself knows."""
        request, plan = self._request, self._plan
        facts = self._runtime.load(load_request(request, run_dir))
        sensor_options = dict(facts.pop("sensor_options", {}), **request.get("source_options", {}))
        self._wait_only(plan.cooldown_s)
        problem = None
        if request.get("source"):
            problem = self._open_source(request["source"], sensor_options)
        try:
            settled, stopped, precision = self._measure_phases()
            kernels = self._kernels() if request.get("profile") else None
            return self._record(
                facts, problem, {"settled": settled, "stopped": stopped, "precision": precision}, kernels
            )
        finally:
            self._conditions.close()
            if self._trace is not None:
                self._trace.close()

    def _open_source(self, name: str, options: Dict[str, Any]) -> Optional[str]:
        """Start the sampler; the text of what is wrong where it cannot."""
        try:
            self._trace = LiveTrace(self._sampler, name, options, self._request.get("sensor_known"))
        except AgentError as error:
            if error.code == "bad-request":
                raise
            return "%s%s" % (error.message, "; " + error.fix if error.fix else "")
        except ChildDied as death:
            return "the process that reads power source %s %s" % (name, _was(death.how))
        except ChildSilent as silence:
            return "power source %s did not answer for %.1f s" % (name, silence.waited_s)
        return None

    def _measure_phases(self) -> Any:
        trace = self._trace
        watched = trace or self._external  # the external one's trace is the host's business, its lag is ours
        if watched is not None:
            self._wait_only(watched.lag_s)
            if trace is not None:
                trace.exchange_clocks()
            self._quiet("quiet_before")
        settled = self._warm_up()
        stopped, precision = self._windows()
        if watched is not None:
            self._quiet("quiet_after")
            self._wait_only(watched.lag_s)
            if trace is not None:
                trace.exchange_clocks()
                trace.drain()
                trace.check_covers(self._phases[0]["t0_s"], self._phases[-1]["t1_s"])
        return settled, stopped, precision

    def _run(self, seconds: float) -> Dict[str, Any]:
        if self._abandoned():
            raise AgentError("abandoned", "the host gave the measurement up")
        return self._runtime.ask({"op": "run", "seconds": seconds, "fps": self._plan.fps}, seconds)

    def _wait_only(self, seconds: float) -> None:
        if seconds > 0.0:
            self._runtime.ask({"op": "wait", "seconds": seconds}, seconds)

    def _quiet(self, name: str) -> None:
        if self._abandoned():
            raise AgentError("abandoned", "the host gave the measurement up")
        seconds = max(self._plan.quiet_s, QUIET_AVERAGES * self._averaging_s, self._quiet_samples_s())
        phase = self._runtime.ask({"op": "wait", "seconds": seconds}, seconds)
        self._keep(name, phase)

    def _keep(self, name: str, phase: Dict[str, Any]) -> None:
        if "temp_c" not in phase:
            phase.update(self._conditions.read())
        phase["name"] = name
        self._phases.append(phase)
        if self._trace is not None:
            self._trace.drain()
        if name == "window" and self._judged:
            self._untold.append([phase["t0_s"], phase["t1_s"], phase["count"]])
        at_s = now_s()
        if at_s - self._reported_s >= PROGRESS_PERIOD_S:
            self._reported_s = at_s
            windows = sum(1 for one in self._phases if one["name"] == "window")
            progress = {"phase": name, "windows": windows, "latency_mean_s": phase["latency_mean_s"]}
            if self._judged:
                progress["measured"], self._untold = self._untold, []
            self._report(progress)

    def _warm_up(self) -> bool:
        """Run until neither latency nor power has a slope; False where warmup_max_s passed first."""
        plan = self._plan
        chunk_s = max(plan.warmup_s, plan.warmup_max_s / 50.0) / LEVEL_CHUNKS
        shortest_s = max(plan.warmup_s, self._averaging_s)  # the first window's first samples reach back into it
        chunks: List[Dict[str, Any]] = []
        while True:
            chunks.append(self._run(chunk_s))
            spent_s = chunks[-1]["t1_s"] - chunks[0]["t0_s"]
            settled = spent_s >= shortest_s and len(chunks) >= LEVEL_CHUNKS and self._level(chunks[-LEVEL_CHUNKS:])
            if settled or spent_s >= max(shortest_s, plan.warmup_max_s):
                break
        self._keep("warmup", _joined(chunks))
        return settled

    def _level(self, chunks: List[Dict[str, Any]]) -> bool:
        tolerance = 0.5 * self._plan.rel_ci
        if not has_no_slope([chunk["latency_mean_s"] for chunk in chunks], tolerance):
            return False
        if self._trace is None:
            return True
        self._trace.drain()
        watts = [self._power_w(chunk) for chunk in chunks]
        known = [value for value in watts if value is not None]
        return len(known) < 4 or has_no_slope(known, tolerance)

    def _power_w(self, phase: Dict[str, Any]) -> Optional[float]:
        if self._trace is None:
            return None
        clock = self._trace.clock_map(phase["t0_s"])
        if clock is None or phase["t1_s"] <= phase["t0_s"]:
            return None
        energy_j = self._trace.energy_j(phase["t0_s"], phase["t1_s"], clock)
        return None if energy_j is None else energy_j / (phase["t1_s"] - phase["t0_s"])

    def _windows(self) -> Any:
        """Windows until precise enough: why it stopped, and the relative half-widths reached."""
        plan = self._plan
        window_s = self._window_s()
        windows: List[Dict[str, Any]] = []
        energies: List[Optional[float]] = []
        while True:
            window = self._run(window_s)
            self._keep("window", window)
            windows.append(window)
            energies.append(None)
            # A sensor lags: the energy of the last few windows may be known only now.
            for i in range(max(0, len(windows) - LAGGING_WINDOWS), len(windows)):
                if energies[i] is None:
                    energies[i] = self._energy_per_inference(windows[i])
            # Watts cannot be told apart by window as latencies can: with a power source every window counts.
            every = self._sampling or self._external is not None
            used = windows if every else [one for one in windows if is_quiet(one)]
            latency = relative_half_width([one["latency_mean_s"] for one in used])
            known = [value for value in energies if value is not None]
            energy = relative_half_width(known)
            precision = {"latency_rel": latency, "energy_rel": energy}
            if window.get("temp_c") is not None and window["temp_c"] > plan.max_temp_c:
                return "temperature", precision
            if (
                len(used) >= plan.min_windows
                and _narrow(latency, plan)
                and (not self._sampling or (_narrow(energy, plan) and len(known) >= plan.min_windows - 1))
                and (not self._judged or self._enough())
            ):
                return "precise", precision
            if window["t1_s"] - windows[0]["t0_s"] >= plan.max_s:
                return "max_s", precision

    def _window_s(self) -> float:
        """Seconds of a window: the plan's, or more where the sensor is too slow for that."""
        watched = self._trace or self._external
        if watched is None:
            return self._plan.window_s
        needed_s = max(WINDOW_AVERAGES * self._averaging_s, WINDOW_SAMPLES * watched.period_s)
        return max(self._plan.window_s, needed_s)

    def _quiet_samples_s(self) -> float:
        """Seconds of a quiet phase whose inner part, nine tenths less an averaging window, holds enough samples."""
        if self._trace is None:
            return 0.0
        return (self._averaging_s + (WINDOW_SAMPLES + 1.0) * self._trace.period_s) / 0.9

    @property
    def _averaging_s(self) -> float:
        watched = self._trace or self._external
        return watched.window_s if watched is not None else 0.0

    @property
    def _judged(self) -> bool:
        return self._external is not None and self._external.judged

    @property
    def _sampling(self) -> bool:
        return self._trace is not None and self._trace.problem is None

    def _energy_per_inference(self, window: Dict[str, Any]) -> Optional[float]:
        power_w = self._power_w(window)
        return None if power_w is None else power_w * (window["t1_s"] - window["t0_s"]) / window["count"]

    def _kernels(self) -> List[Dict[str, Any]]:
        """In-context shares of each kernel, scaled to the mean latency of the windows (unprofiled)."""
        facts = self._runtime.ask({"op": "kernel_facts", "runs": PROFILED_RUNS})
        windows = [phase for phase in self._phases if phase["name"] == "window"]
        inferences = sum(window["count"] for window in windows)
        total_s = sum(window["latency_mean_s"] * window["count"] for window in windows) / inferences
        kernels = []
        for node in facts["nodes"]:
            kernels.append(
                {
                    "name": node["name"],
                    "op": node["op_name"],
                    "latency_s": node["share"] * total_s,
                    "share": node["share"],
                    "input_shapes": node["input_shapes"],
                    "output_shapes": node["output_shapes"],
                    "provider": node["provider"],
                }
            )
        return kernels

    def _record(
        self,
        facts: Dict[str, Any],
        problem: Optional[str],
        how: Dict[str, Any],
        kernels: Optional[List[Dict[str, Any]]],
    ) -> Dict[str, Any]:
        request, trace = self._request, self._trace
        record = {
            "format_version": RECORD_FORMAT_VERSION,
            "id": request["id"],
            "asked_by": request.get("asked_by"),
            "subject": request["subject"]["name"],
            "fps": self._plan.fps,
            "plan": self._plan.to_json(),
            "runtime": request["runtime"],
            "options": request.get("options", {}),
            "phases": self._phases,
            "trace": None,
            "trace_problem": problem,
            "sensor": None,
            "sampling": None,
            "external_source": None if self._external is None else self._external.asked,
            "clock": None,
            "kernels": kernels,
        }
        record.update(facts)
        record.update(how)
        if trace is not None:
            clock = trace.clock_map(self._phases[0]["t0_s"])
            record["trace"] = trace.to_json()
            record["trace_problem"] = trace.problem
            record["sensor"] = dict(trace.description, name=trace.name)
            record["sampling"] = trace.sampling()
            record["clock"] = None if clock is None else clock.to_json()
            record["evidence"] = trace.evidence()
        return record


def load_request(request: Dict[str, Any], run_dir: str) -> Dict[str, Any]:
    """What the runtime process is asked to load for a ``measure`` or ``inspect`` request."""
    for field in ("runtime", "subject"):
        if field not in request:
            raise AgentError("bad-request", "%s lacks the field %s" % (request.get("op"), field))
    return {
        "op": "load",
        "runtime": request["runtime"],
        "subject": request["subject"],
        "options": request.get("options", {}),
        "run_dir": run_dir,
    }


def _plan(request: Dict[str, Any]) -> MeasurePlan:
    try:
        plan = MeasurePlan(**request["plan"])
    except (KeyError, TypeError) as error:
        raise AgentError("bad-request", "plan: %s" % error, "send the fields of MeasurePlan") from error
    if plan.window_s <= 0 or plan.max_s <= 0 or plan.min_windows < 1 or (plan.fps is not None and not plan.fps > 0):
        raise AgentError("bad-request", "plan: window_s, max_s, min_windows and fps must be above 0: %s" % (plan,))
    return plan


def _narrow(half_width: Optional[float], plan: MeasurePlan) -> bool:
    return half_width is not None and half_width <= plan.rel_ci


def _joined(chunks: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Consecutive chunks as one phase."""
    joined = dict(chunks[-1])
    count = sum(chunk["count"] for chunk in chunks)
    joined["t0_s"] = chunks[0]["t0_s"]
    joined["count"] = count
    joined["missed"] = sum(chunk["missed"] for chunk in chunks)
    joined["latency_mean_s"] = sum(chunk["latency_mean_s"] * chunk["count"] for chunk in chunks) / count
    joined["latency_s"] = thin([value for chunk in chunks for value in chunk["latency_s"]], MAX_SAMPLES)
    return joined
