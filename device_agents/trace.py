"""The power samples of one measurement as they come in from the sampler process, and the energy of each window."""

import bisect
from typing import Any, Dict, List, Optional

from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.clocks import ClockMap, Exchange, exchanges_from, fit_clock
from device_agents.protocol import AgentError, clock_domain
from device_agents.records import PowerTrace

# A sensor is called stale when nothing new came for this many of its periods, and at least this long.
STALE_PERIODS = 5.0
STALE_AT_LEAST_S = 2.0

# Clocks are compared by so many exchanges at a time, until they are known this well or so many times.
CLOCK_EXCHANGES = 8
CLOCK_GOOD_S = 2.5e-4
CLOCK_ROUNDS = 5


class LiveTrace(object):
    """A sensor being sampled. Its failure ends the trace with a ``problem``; it never ends the measurement.

    ``description``: what the sensor says of itself; ``known``: what the host measured of it (window_s, delay_s,
    update_period_s), which counts for more. Times inside are the sensor's; arguments are the runtime's.
    """

    def __init__(
        self, sampler: Child, name: str, options: Dict[str, Any], known: Optional[Dict[str, Any]] = None
    ) -> None:
        self._sampler = sampler
        self._known = known or {}
        self.name = name
        self.problem: Optional[str] = None
        self._times: List[float] = []
        self._watts: List[float] = []
        self._counter: List[float] = []
        self._exchanges: List[Exchange] = []
        self._clock: Optional[ClockMap] = None
        self._stamp_uncertainty_s = 0.0
        self._kept: Dict[str, Any] = {"missed": 0, "latest_s": 0.0, "scheduling": None}
        sampler.start()
        self.description = sampler.ask({"op": "open", "name": name, "options": options}, sampler.patience_s)
        self._same_clock = self.description["clock"] == clock_domain()
        if self._known.get("declared_window_s") != self.description.get("window_s"):
            self._known = {}  # it was measured when the source was set up otherwise

    @property
    def period_s(self) -> float:
        """Seconds between two samples that are new."""
        return max(1.0 / float(self.description["rate_hz"]), float(self._known.get("update_period_s") or 0.0))

    @property
    def window_s(self) -> float:
        """Seconds that one sample averages over, up to its time stamp."""
        known = self._known.get("window_s")
        return float((self.description.get("window_s") if known is None else known) or 0.0)

    @property
    def delay_s(self) -> float:
        """Seconds from the middle of what a sample averages over to its time stamp."""
        known = self._known.get("delay_s")
        return 0.5 * self.window_s if known is None else float(known)

    @property
    def lag_s(self) -> float:
        """How long after an instant the samples around it are complete."""
        return 2.0 * self.period_s + self.delay_s + 0.5 * self.window_s

    def exchange_clocks(self) -> None:
        """Compare the sensor's clock with the runtime's, where they are two."""
        if self._same_clock or self.problem is not None:
            return
        found: List[Exchange] = []
        try:
            for _ in range(CLOCK_ROUNDS):
                answer = self._ask({"op": "clock", "count": CLOCK_EXCHANGES})
                if answer is None or not answer["exchanges"]:
                    break
                found.extend(exchanges_from(answer["exchanges"]))
                if fit_clock(found).uncertainty_s <= CLOCK_GOOD_S:
                    break
            self._exchanges.extend(found)
            self._clock = fit_clock(self._exchanges) if self._exchanges else None
        except ValueError as error:
            self.problem = "clock step: %s" % error

    def drain(self) -> None:
        """Fetch the samples that are new."""
        more = True
        while more and self.problem is None:
            answer = self._ask({"op": "drain"})
            if answer is None:
                return
            for sample in answer["samples"]:
                self.problem = self._backwards(sample)
                if self.problem is not None:
                    return
                self._times.append(sample[0])
                self._watts.append(sample[1])
                if len(sample) > 2:
                    self._counter.append(sample[2])
            self._stamp_uncertainty_s = answer["stamp_uncertainty_s"]
            self._kept = {key: answer[key] for key in self._kept}
            # What a failed reading left behind is still fetched.
            more = answer["more"]
            if not more:
                self.problem = answer["problem"]

    def _backwards(self, sample: List[float]) -> Optional[str]:
        """What is wrong with a sample that comes after a later one, or whose counter has lost energy."""
        if self._times and sample[0] < self._times[-1]:
            return "clock step: the source's time went back by %.6g s" % (self._times[-1] - sample[0])
        if len(sample) > 2 and self._counter and sample[2] < self._counter[-1]:
            return "the source's energy counter went back from %.6g to %.6g J" % (self._counter[-1], sample[2])
        return None

    def clock_map(self, reference_s: float) -> Optional[ClockMap]:
        """Runtime clock → sensor clock; None where they were never compared."""
        if self._same_clock:
            return ClockMap(0.0, 0.0, reference_s, self._stamp_uncertainty_s)
        return self._clock

    def energy_j(self, t0_s: float, t1_s: float, clock: ClockMap) -> Optional[float]:
        """Energy between two times of the runtime's clock; None where the samples do not reach that far.

        A sample stands for the middle of its averaging window, half a window before its time stamp.
        """
        behind_s = float(self._known.get("delay_s") or 0.0) if self._counter else self.delay_s
        begin_s, end_s = clock.there_s(t0_s) + behind_s, clock.there_s(t1_s) + behind_s
        first = max(0, bisect.bisect_right(self._times, begin_s) - 1)
        last = bisect.bisect_left(self._times, end_s) + 1
        part = self._as_trace(slice(first, last))
        try:
            return part.energy_j(begin_s, end_s)
        except ValueError:
            return None  # not covered: the caller goes on without this window's energy

    def check_covers(self, t0_s: float, t1_s: float) -> None:
        """Note a problem where samples are missing before, inside or after [t0_s, t1_s] (the runtime's clock)."""
        clock = self.clock_map(t0_s)
        if self.problem is not None:
            return
        if clock is None:
            self.problem = "the sensor's clock could not be compared with the device's"
            return
        inside = [clock.there_s(t0_s)] + [t for t in self._times if clock.there_s(t0_s) < t < clock.there_s(t1_s)]
        inside.append(clock.there_s(t1_s))
        gap_s = max(b - a for a, b in zip(inside, inside[1:]))  # noqa: RUF007 - pairwise is 3.10's
        if len(inside) < 4:
            self.problem = "%d samples in %.3f s" % (len(inside) - 2, t1_s - t0_s)
        elif gap_s > max(STALE_PERIODS * self.period_s, STALE_AT_LEAST_S):
            self.problem = "stale: no new sample for %.3f s at a rate of %.6g Hz" % (gap_s, 1.0 / self.period_s)
        elif self._counter and self._counter[-1] == self._counter[0]:
            self.problem = "stale: the energy counter never moved"

    def to_json(self) -> Optional[Dict[str, Any]]:
        """The PowerTrace as a dict; None without samples."""
        return self._as_trace(slice(None)).to_json() if self._times else None

    def sampling(self) -> Dict[str, Any]:
        """How the sampler kept up: ``samples``, ``missed`` ticks, by how much the latest reading came too late, and how
        it is scheduled (``priority``)."""
        return dict(self._kept, samples=len(self._times))

    def evidence(self) -> Dict[str, Any]:
        """What the source really said (``sensors/raw.py``) and how the clocks were compared: lists of plain dicts."""
        kept: Dict[str, Any] = {}
        if self._sampler.running:
            try:
                kept = self._sampler.ask({"op": "evidence"}, self._sampler.patience_s)
            except (AgentError, ChildDied, ChildSilent) as error:
                kept = {"lost": [{"text": "the sampler could not hand over what it read: %s" % error}]}
        return dict(kept, clock_exchanges=[dict(exchange._asdict()) for exchange in self._exchanges])

    def close(self) -> None:
        """Stop sampling."""
        if self._sampler.running:
            self._ask({"op": "close"})

    def _as_trace(self, part: slice) -> PowerTrace:
        description = self.description
        counter = self._counter[part] if self._counter else None
        return PowerTrace(
            self.name,
            str(description["rail"]),
            str(description["boundary"]),
            str(description["clock"]),
            self._times[part],
            self._watts[part],
            counter,
        )

    def _ask(self, request: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        try:
            return self._sampler.ask(request, self._sampler.patience_s)
        except ChildSilent as silence:
            self.problem = "power source %s did not answer for %.1f s" % (self.name, silence.waited_s)
        except ChildDied as death:
            was = "was " if death.how.startswith("killed") else ""
            self.problem = "the process that reads power source %s %s%s" % (self.name, was, death.how)
        except AgentError as error:
            self.problem = error.message
        return None
