"""The power sources the agent can read, one file each; docs/writing-a-sensor.md shows how to add one.

A sensor module offers ``Sensor(options)`` with

- ``probe() -> (state, reason, fix)``: state is "ok", "absent" (not on this device) or "denied" (not readable);
- ``describe() -> dict``, once open:

  - ``rate_hz`` how often it is polled, ``update_s`` how often the source makes a new value, ``window_s`` the time that
    one sample averages over, ``step_w``, ``noise_w`` (0: not known), ``gain_uncertainty`` (relative);
  - ``counts_energy``: whether its samples carry a counter;
  - ``rails``: all that the source shows; ``total``: those of them that a sample adds up; ``rail``: that sum's name;
    ``boundary``: wall, board_input, module, package or rail; ``includes``: what is in it and what is not, in words;
  - ``clock``: the domain of its time stamps;
- ``open()``, ``close()``;
- ``poll() -> list of (t_s, w)`` or ``(t_s, w, counter_j)``: every new sample, in order, on the sensor's own clock;
- ``clock_exchange() -> (sent_s, received_s, replied_s, back_s)`` where that clock is not the device's own: the first
  and last on the runtime's clock, the middle two on the sensor's;
- ``ready_s``: the time (``now_s``) before which nothing new can come, where that is known: it is not polled before;
- ``polls_on_demand = True`` where nothing is lost by polling only when asked (virtual time).

Reading fails by raising OSError or AgentError: a failed reading is never a number.
"""

import difflib
import importlib
from typing import Any, Dict

from device_agents.protocol import AgentError

SENSORS = {
    "battery": "device_agents.sensors.battery",
    "ina2xx": "device_agents.sensors.ina2xx",
    "ina3221": "device_agents.sensors.ina3221",
    "nvml": "device_agents.sensors.nvml",
    "pmic": "device_agents.sensors.pmic",
    "rapl": "device_agents.sensors.rapl",
    "tegrastats": "device_agents.sensors.tegrastats",
    "virtual": "device_agents.sensors.virtual",
    "virtual_reference": "device_agents.sensors.virtual_reference",
}


def make_sensor(name: str, options: Dict[str, Any]) -> Any:
    """A sensor that is not open yet; AgentError "no-sensor" names the known ones and the nearest."""
    if name not in SENSORS:
        near = difflib.get_close_matches(name, sorted(SENSORS), n=1)
        raise AgentError(
            "no-sensor",
            "power source %r is not supported by this version, which has %s" % (name, ", ".join(sorted(SENSORS))),
            "did you mean %s?" % near[0] if near else "name another source in the device profile",
        )
    return importlib.import_module(SENSORS[name]).Sensor(options)
