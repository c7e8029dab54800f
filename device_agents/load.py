"""A known load for looking at power sources: on and off at known times, while one or more sources are sampled.

     lag │ on_s │ off_s │ on_s │ off_s │ …  │ lag        each step's edges are the runtime process's own time stamps
         t_on   t_off   t_end
     sampler on ────────────────────────────────►        one sampler process a source, all at the same time

The host makes the pattern and reads the answer; nothing here knows what it is for. Nothing is spooled: a step response
is quickly taken again.
"""

from typing import Any, Callable, Dict, List, Optional

from device_agents.board import conditions
from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.measure import PROGRESS_PERIOD_S, Runtime, load_request
from device_agents.protocol import AgentError, now_s
from device_agents.trace import LiveTrace

# Steps of about this many seconds are run between two looks at the samples: a sampler holds them meanwhile.
CHUNK_S = 0.5


class _Source(object):
    """One power source under the load: its trace, or why there is none, and what sampling it costs."""

    def __init__(self, wanted: Dict[str, Any], sampler: Child, options: Dict[str, Any]) -> None:
        self.name = str(wanted["name"])
        self.sampler = sampler
        self.trace: Optional[LiveTrace] = None
        self.problem: Optional[str] = None
        self._before: Optional[Dict[str, Any]] = None
        try:
            self.trace = LiveTrace(sampler, self.name, dict(options, **wanted.get("options", {})))
        except AgentError as error:
            self.problem = "%s%s" % (error.message, "; " + error.fix if error.fix else "")
        except ChildDied as death:
            self.problem = "the process that reads power source %s: %s" % (self.name, death.how)
        except ChildSilent as silence:
            self.problem = "power source %s did not answer for %.1f s" % (self.name, silence.waited_s)

    def begin(self) -> None:
        """Compare clocks, and note what the sampler has used so far."""
        if self.trace is not None:
            self.trace.exchange_clocks()
            self._before = self._usage()

    def end(self, t0_s: float, t1_s: float) -> Dict[str, Any]:
        """The source's part of the answer."""
        trace = self.trace
        answer: Dict[str, Any] = {"name": self.name, "trace": None, "sensor": None, "clock": None, "usage": None}
        answer["trace_problem"] = self.problem
        if trace is None:
            return answer
        trace.exchange_clocks()
        trace.drain()
        trace.check_covers(t0_s, t1_s)
        clock = trace.clock_map(t0_s)
        answer["usage"] = self._used(self._usage())
        answer["trace"] = trace.to_json()
        answer["trace_problem"] = trace.problem
        answer["sensor"] = dict(trace.description, name=self.name)
        answer["clock"] = None if clock is None else clock.to_json()
        trace.close()
        return answer

    def _usage(self) -> Optional[Dict[str, Any]]:
        try:
            return self.sampler.ask({"op": "usage"}, self.sampler.patience_s)
        except (AgentError, ChildDied, ChildSilent):
            return None  # the trace itself says what happened to the sampler

    def _used(self, after: Optional[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
        before = self._before
        if before is None or after is None or after["at_s"] <= before["at_s"]:
            return None
        share = (after["cpu_s"] - before["cpu_s"]) / (after["at_s"] - before["at_s"])
        return {"core_share": share, "rss_bytes": after["rss_bytes"], "read_s": after["read_s"]}


class LoadPattern(object):
    """Runs one ``load`` request; ``report`` gets progress dicts, ``abandoned()`` says whether to stop early."""

    def __init__(
        self,
        request: Dict[str, Any],
        runtime: Runtime,
        samplers: List[Child],
        report: Callable[[Dict[str, Any]], None],
        abandoned: Callable[[], bool],
    ) -> None:
        self._request = request
        self._steps = _steps(request)
        self._runtime = runtime
        self._samplers = samplers
        self._report = report
        self._abandoned = abandoned
        self._spans: List[List[float]] = []
        self._reported_s = 0.0

    def run(self, run_dir: str) -> Dict[str, Any]:
        """Drive the load; returns spans (t_on, t_off, t_end of each step), sources, conditions and the load's facts."""
        facts = self._runtime.load(load_request(self._request, run_dir))
        options = facts.pop("sensor_options", {})
        wanted = self._request.get("sources", [])
        sources = [_Source(one, sampler, options) for one, sampler in zip(wanted, self._samplers)]
        traces = [source.trace for source in sources if source.trace is not None]
        asked_s = float(self._request.get("lag_s", 0.0))
        lag_s = max([trace.lag_s for trace in traces] + [asked_s])
        before = self._wait(lag_s)
        for source in sources:
            source.begin()
        self._drive(traces)
        after = self._wait(lag_s)
        begin_s, end_s = self._spans[0][0], self._spans[-1][2]
        return dict(
            facts,
            spans=self._spans,
            sources=[source.end(begin_s, end_s) for source in sources],
            conditions={"before": before, "after": after},
        )

    def _drive(self, traces: List[LiveTrace]) -> None:
        chunk: List[List[float]] = []
        for index, step in enumerate(self._steps):
            chunk.append(step)
            seconds = sum(on_s + off_s for on_s, off_s in chunk)
            if seconds < CHUNK_S and index + 1 < len(self._steps):
                continue
            if self._abandoned():
                raise AgentError("abandoned", "the host gave the load up")
            answer = self._runtime.ask({"op": "pattern", "steps": chunk}, seconds)
            self._spans.extend(answer["spans"])
            for trace in traces:
                trace.drain()
            chunk = []
            self._tell(index + 1)

    def _tell(self, done: int) -> None:
        at_s = now_s()
        if at_s - self._reported_s >= PROGRESS_PERIOD_S or done == len(self._steps):
            self._reported_s = at_s
            self._report({"phase": "load", "steps": done, "of": len(self._steps)})

    def _wait(self, seconds: float) -> Dict[str, Any]:
        """Wait, and return the conditions: the engine's own where it knows better than the board's sysfs."""
        phase = self._runtime.ask({"op": "wait", "seconds": seconds}, seconds)
        return _conditions(phase) or conditions()


def _conditions(phase: Dict[str, Any]) -> Dict[str, Any]:
    return {key: phase[key] for key in ("temp_c", "throttled", "freq_hz") if key in phase}


def _steps(request: Dict[str, Any]) -> List[List[float]]:
    steps = request.get("steps")
    try:
        pairs = [[float(on_s), float(off_s)] for on_s, off_s in steps or []]
    except (TypeError, ValueError):
        pairs = []
    if not pairs or any(on_s < 0.0 or off_s < 0.0 or on_s + off_s <= 0.0 for on_s, off_s in pairs):
        raise AgentError("bad-request", "load: steps are pairs of seconds on and off, not %r" % (steps,))
    return pairs
