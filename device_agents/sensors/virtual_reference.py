"""A finer meter beside the simulated board's own, to calibrate that one against: 0.1 %, and simulated all the same."""

from typing import Any, Dict, Tuple

from device_agents.protocol import AgentError
from device_agents.sensors import virtual

# A bench power meter's data sheet; ``reference`` in the options changes fields of it.
DATA_SHEET = {
    "name": "virtual_reference",
    "rate_hz": 50.0,
    "window_s": 0.020,
    "step_w": 0.0001,
    "noise_w": 0.002,
    "gain_uncertainty": 0.001,
}

OTHER_SEED = 104729  # the reference's own draw of gain and clock, for the same board


class Sensor(virtual.Sensor):
    """``options``: timeline, seed, ``reference`` (fields of its data sheet); ``meter`` is the other one's."""

    shortens_timeline = False  # the other one may be in the middle of it

    def __init__(self, options: Dict[str, Any]) -> None:
        wanted = options.get("reference") or {}
        if not isinstance(wanted, dict):
            raise AgentError("bad-request", "reference is not a table: %r" % (wanted,), "correct sensor_options")
        sheet = dict(DATA_SHEET, **wanted)
        super(Sensor, self).__init__(dict(options, meter=sheet, seed=int(options.get("seed", 0)) + OTHER_SEED))

    def probe(self) -> Tuple[str, str, str]:
        """Always there."""
        return "ok", "simulated, for rig calibrate-sensor", ""
