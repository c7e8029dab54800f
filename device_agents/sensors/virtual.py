"""The meter of the simulated board: reads the timeline that the virtual runtime writes; all of it is simulated."""

import os
from typing import Any, Dict, List, Tuple

from device_agents.protocol import AgentError

# A campaign of a thousand measurements would otherwise fill the disk with power segments.
LONGEST_TIMELINE_BYTES = 8000000


class Sensor(object):
    """``options``: timeline (the file that the board writes), seed, ``meter`` (fields of the simulated data sheet)."""

    polls_on_demand = True
    shortens_timeline = True

    def __init__(self, options: Dict[str, Any]) -> None:
        from device_agents.virtual_board.sensor import VirtualSensor

        self._path = str(options.get("timeline", ""))
        try:
            self._meter = VirtualSensor(self._path, options.get("meter"), int(options.get("seed", 0)))
        except ValueError as error:
            raise AgentError("bad-request", str(error), "correct runtime.options.meter") from error

    def probe(self) -> Tuple[str, str, str]:
        """Always there: the simulated board brings its meter."""
        return "ok", "simulated", ""

    def describe(self) -> Dict[str, Any]:
        """The simulated meter's data sheet."""
        description: Dict[str, Any] = self._meter.describe()
        description["update_s"] = 1.0 / description["rate_hz"]
        description["counts_energy"] = False
        description["rails"] = description["total"] = [description["rail"]]
        description["includes"] = "the whole simulated board"
        return description

    def open(self) -> None:
        """Start at the board's present: what lies before was another measurement's.

        The board waits while this is called, so that a long timeline can be emptied here once it has been read.
        """
        if not os.path.isfile(self._path):
            raise AgentError("no-sensor", "the simulated board has not been started", "use it with runtime virtual")
        self._meter.poll()
        if self.shortens_timeline and os.path.getsize(self._path) > LONGEST_TIMELINE_BYTES:
            self._meter.close()  # the next poll reads from the start
            os.truncate(self._path, 0)

    def poll(self) -> List[Tuple[float, float]]:
        """New samples up to the board's now."""
        samples: List[Tuple[float, float]] = self._meter.poll()
        return samples

    def clock_exchange(self) -> Tuple[float, float, float, float]:
        """Four time stamps of one exchange between board and meter."""
        stamps: Tuple[float, float, float, float] = self._meter.clock_exchange()
        return stamps

    def close(self) -> None:
        """Close the timeline."""
        self._meter.close()
