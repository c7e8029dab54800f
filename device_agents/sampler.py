"""The sampler process: reads one power source at its own rate, undisturbed by the runtime's GIL and memory.

tick        tick        tick        tick        ticks are at absolute times; a late reading does not move the next
──┼───────────┼───────────┼───────────┼──► time
  └ read      └─ read     missed      └ read    a tick whose successor has come too is not made up for, but counted
                     ├─ not ready ─┤            a chip that has nothing new yet is waited for: a late reading costs
                                                no other one

Every sample has the time stamp of its own reading, so that a late one makes two stretches of the energy unequal and
neither of them wrong. What a missed tick costs depends on the source: an energy counter loses nothing (the next
reading holds it all), a chip that averages loses the conversions that nobody read, and energy goes over the gap by a
straight line.
"""

import gc
import sys
import time
from typing import Any, Dict, List, Optional

from device_agents.child import die_with_parent
from device_agents.examination import resident_bytes
from device_agents.priority import wake_promptly
from device_agents.protocol import AgentError, LineWriter, claim_stdout, now_s, serve
from device_agents.sensors import SENSORS, make_sensor, raw

# Samples in one answer: a millisecond or two of writing.
MOST_SAMPLES = 2000


class Sampler(object):
    """Answers probe, open, drain, clock, usage and close; polls the open sensor between requests."""

    def __init__(self, scheduling: str = "ordinary") -> None:
        self._scheduling = scheduling
        self._sensor: Any = None
        self._opened: Any = None
        self._period_s: Optional[float] = None
        self._next_s = 0.0
        self._samples: List[Any] = []
        self._problem: Optional[str] = None
        self._read_s: List[float] = []
        self._missed = 0
        self._latest_s = 0.0

    def handlers(self) -> Dict[str, Any]:
        """op -> function."""
        return {
            "probe": self.probe,
            "open": self.open,
            "drain": self.drain,
            "clock": self.clock,
            "usage": self.usage,
            "evidence": self.evidence,
            "close": self.close,
        }

    @staticmethod
    def probe(request: Dict[str, Any]) -> Dict[str, Any]:
        """State, reason and fix of every sensor of this version, and of the ``names`` that it does not have."""
        states = {}
        known = set() if request.get("only") else set(SENSORS)
        for name in sorted(known | set(request["names"])):
            try:
                sensor = make_sensor(name, request["options"].get(name, {}))
                state, reason, fix = sensor.probe()
            except AgentError as error:
                state, reason, fix = "unsupported", error.message, error.fix
            states[name] = {"state": state, "reason": reason, "fix": fix}
        return states

    def open(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Open a sensor and start polling it; returns its description.

        One that loses nothing between measurements (virtual time) stays open, and starts from its present. Whatever
        breaks on the way is an AgentError that names the source and what to do.
        """
        raw.start()
        wanted = [request["name"], request["options"]]
        if self._sensor is not None and self._opened == wanted and self._problem is None:
            sensor, self._sensor = self._sensor, None
            description = _described(sensor, request["name"])
            self._sensor = sensor
            return description
        self._close()
        sensor = make_sensor(request["name"], request["options"])
        state, reason, fix = sensor.probe()
        if state != "ok":
            raise AgentError("no-sensor", "power source %s: %s" % (request["name"], reason), fix)
        description = _described(sensor, request["name"])
        self._sensor, self._opened = sensor, wanted
        if not getattr(sensor, "polls_on_demand", False):
            gc.collect()  # none while sampling: main() turned the collector off
            self._period_s = 1.0 / description["rate_hz"]
            self._next_s = now_s()
        return description

    def idle(self) -> Optional[float]:
        """Poll if it is time; seconds until the next time."""
        if self._period_s is None or self._problem is not None:
            return None
        at_s = now_s()
        if at_s >= self._due_s():
            self._latest_s = max(self._latest_s, at_s - self._next_s)
            self._poll()
            behind = int((now_s() - self._next_s) / self._period_s)
            self._missed += behind
            self._next_s += (behind + 1) * self._period_s
        return max(0.0, self._due_s() - now_s())

    def _due_s(self) -> float:
        """The next tick, or later where the source has nothing new before: a late reading does not cost the next."""
        ready_s = getattr(self._sensor, "ready_s", 0.0)
        return ready_s if ready_s > self._next_s else self._next_s

    def drain(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """The oldest samples not fetched yet, and whether there are ``more``; ``problem`` once reading failed.

        ``missed``: ticks without a reading, and ``latest_s``: how late the latest reading began, both since opening.
        An answer is bounded, because writing a long one would miss a tick.
        """
        if self._sensor is not None and self._period_s is None and self._problem is None:
            self._poll()
        samples, self._samples = self._samples[:MOST_SAMPLES], self._samples[MOST_SAMPLES:]
        times = sorted(self._read_s)
        return {
            "samples": samples,
            "more": bool(self._samples),
            "missed": self._missed,
            "latest_s": self._latest_s,
            "scheduling": self._scheduling,
            "problem": self._problem,
            "stamp_uncertainty_s": 0.5 * times[len(times) // 2] if times else 0.0,
        }

    def clock(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """``count`` exchanges of four time stamps with the sensor's clock; none where it is the device's own."""
        exchange = getattr(self._sensor, "clock_exchange", None)
        exchanges = [exchange() for _ in range(request["count"])] if exchange is not None else []
        if self._period_s is not None:
            # Ticks that passed meanwhile belong to no phase of a measurement: they are not missed.
            self._next_s += max(0, int((now_s() - self._next_s) / self._period_s)) * self._period_s
        return {"exchanges": exchanges}

    def usage(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """What sampling has cost so far: processor time and resident memory of this process, seconds a reading."""
        times = sorted(self._read_s)
        return {
            "at_s": now_s(),
            "cpu_s": time.process_time(),
            "rss_bytes": resident_bytes(),
            "read_s": times[len(times) // 2] if times else None,
        }

    @staticmethod
    def evidence(request: Dict[str, Any]) -> Dict[str, Any]:
        """What the source really said since it was opened."""
        return raw.kept()

    def close(self, request: Dict[str, Any]) -> Dict[str, Any]:
        """Stop polling between measurements."""
        if not getattr(self._sensor, "polls_on_demand", False):
            self._close()
        self._samples = []
        return {}

    def _close(self) -> None:
        sensor, self._sensor = self._sensor, None
        self._period_s, self._problem, self._samples, self._read_s = None, None, [], []
        self._missed, self._latest_s = 0, 0.0
        if sensor is not None:
            sensor.close()

    def _poll(self) -> None:
        before_s = now_s()
        try:
            self._samples.extend(self._sensor.poll())
        except (OSError, ValueError) as error:
            self._problem = "reading failed: %s" % error
        except AgentError as error:
            self._problem = "%s%s" % (error.message, "; " + error.fix if error.fix else "")
        if len(self._read_s) < 1000:
            self._read_s.append(now_s() - before_s)


def _described(sensor: Any, name: str) -> Dict[str, Any]:
    """Open a sensor and let it describe itself; one that breaks is closed, and named with what its probe then says."""
    try:
        sensor.open()
        description: Dict[str, Any] = sensor.describe()
        return description
    except AgentError:
        sensor.close()
        raise
    except (OSError, ValueError) as error:
        sensor.close()
        state, reason, fix = sensor.probe()
        because = "" if state == "ok" else ": %s" % reason
        message = "power source %s broke as it was opened: %s%s" % (name, error, because)
        raise AgentError("no-sensor", message, fix or "look at it with rig doctor, then at its wiring") from error


def main() -> None:
    """Serve the supervisor until it closes the pipe."""
    die_with_parent()
    gc.disable()  # a collection takes milliseconds at a time that it chooses; nothing here makes cycles as it samples
    sampler = Sampler(wake_promptly())
    serve(sys.stdin.buffer, LineWriter(claim_stdout()), sampler.handlers(), sampler.idle)
