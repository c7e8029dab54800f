"""The power samples of one measurement as they come in from the sampler process, and the energy of each window."""

import bisect
from typing import Any, Dict, List, Optional

from device_agents.child import Child, ChildDied, ChildSilent
from device_agents.clocks import ClockMap, Exchange, exchanges_from, fit_clock
from device_agents.protocol import AgentError, clock_domain
from device_agents.records import PowerTrace

# How long the sampler process may take for an answer; a sensor read that hangs longer is given up.
SAMPLER_DEADLINE_S = 10.0

# A sensor is called stale when nothing new came for this many of its periods, and at least this long.
STALE_PERIODS = 5.0
STALE_AT_LEAST_S = 2.0

CLOCK_EXCHANGES = 8


class LiveTrace(object):
    """A sensor being sampled. Its failure ends the trace with a ``problem``; it never ends the measurement.

    ``description``: what the sensor says of itself. Times inside are the sensor's; arguments are the runtime's.
    """

    def __init__(self, sampler: Child, name: str, options: Dict[str, Any]) -> None:
        self._sampler = sampler
        self.name = name
        self.problem: Optional[str] = None
        self._times: List[float] = []
        self._watts: List[float] = []
        self._counter: List[float] = []
        self._exchanges: List[Exchange] = []
        self._stamp_uncertainty_s = 0.0
        sampler.start()
        self.description = sampler.ask({"op": "open", "name": name, "options": options}, SAMPLER_DEADLINE_S)
        self._same_clock = self.description["clock"] == clock_domain()

    @property
    def period_s(self) -> float:
        """Seconds between two samples."""
        return 1.0 / float(self.description["rate_hz"])

    @property
    def lag_s(self) -> float:
        """How long after an instant the samples around it are complete."""
        return 2.0 * self.period_s + float(self.description.get("window_s") or 0.0)

    def exchange_clocks(self) -> None:
        """Compare the sensor's clock with the runtime's, where they are two."""
        if self._same_clock or self.problem is not None:
            return
        answer = self._ask({"op": "clock", "count": CLOCK_EXCHANGES})
        if answer is not None:
            self._exchanges.extend(exchanges_from(answer["exchanges"]))

    def drain(self) -> None:
        """Fetch the samples that are new."""
        if self.problem is not None:
            return
        answer = self._ask({"op": "drain"})
        if answer is None:
            return
        for sample in answer["samples"]:
            self._times.append(sample[0])
            self._watts.append(sample[1])
            if len(sample) > 2:
                self._counter.append(sample[2])
        self._stamp_uncertainty_s = answer["stamp_uncertainty_s"]
        self.problem = answer["problem"]

    def clock_map(self, reference_s: float) -> Optional[ClockMap]:
        """Runtime clock → sensor clock; None where they were never compared."""
        if self._same_clock:
            return ClockMap(0.0, 0.0, reference_s, self._stamp_uncertainty_s)
        return fit_clock(self._exchanges) if self._exchanges else None

    def energy_j(self, t0_s: float, t1_s: float, clock: ClockMap) -> Optional[float]:
        """Energy between two times of the runtime's clock; None where the samples do not reach that far."""
        begin_s, end_s = clock.there_s(t0_s), clock.there_s(t1_s)
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
            return self._sampler.ask(request, SAMPLER_DEADLINE_S)
        except ChildSilent as silence:
            self.problem = "power source %s did not answer for %.1f s" % (self.name, silence.waited_s)
        except ChildDied as death:
            self.problem = "the process that reads power source %s was %s" % (self.name, death.how)
        except AgentError as error:
            self.problem = error.message
        return None
