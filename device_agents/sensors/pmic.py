"""The power management chip of a Raspberry Pi 5, read through ``vcgencmd pmic_read_adc``.

It reports current and voltage of the rails that it makes, not the board's input: the converter's own losses, and
whatever hangs on the 5 V line, are missing from the sum.
"""

import math
import re
import subprocess
from typing import Any, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError, clock_domain, now_s
from device_agents.sensors import raw

_LINE = re.compile(r"\s*(\w+)_(?:(A)\s+current|(V)\s+volt)\([0-9]+\)=(-?[0-9]+\.[0-9]+|-?nan)([AV])\s*", re.ASCII)
VOLTAGE_ONLY = ("EXT5V", "BATT")

CALL_TIMEOUT_S = 4.0  # a loaded board starts the program late; probe and open stay below the sampler's deadline
RATE_HZ = 10.0  # a call takes tens of milliseconds
# VDD_CORE, the coarsest channel: recorded currents are multiples of 8.93 mA, at 0.86 V.
STEP_A = 8.93e-3
STEP_W = 0.008
# One owner's fit against a wall meter is 1.1327 * sum + 0.6444 W: at 5 W the sum is a fifth below the input.
UNFITTED_GAIN = 0.25
FITTED_GAIN = 0.05


def parse(text: str) -> Dict[str, float]:
    """Rail name -> W, current times voltage of the same name.

    A current down to two steps below zero is one that is not there. ValueError on any line that is not a reading, on a
    current or voltage clearly below zero, and where a current lacks its voltage or a voltage its current
    (EXT5V and BATT have none by design): a rail left out would make the sum low.
    """
    amperes: Dict[str, float] = {}
    volts: Dict[str, float] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None or (match.group(2) or match.group(3)) != match.group(5):
            raise ValueError("pmic_read_adc printed %r" % line[:120])
        name, into = match.group(1), amperes if match.group(2) else volts
        if name in into:
            raise ValueError("pmic_read_adc printed %s_%s twice" % (name, match.group(5)))
        into[name] = float(match.group(4))
    if not amperes:
        raise ValueError("pmic_read_adc printed no current")
    for name in sorted(set(volts) - set(amperes) - set(VOLTAGE_ONLY)):
        raise ValueError("pmic_read_adc printed %s_V without its current %s_A" % (name, name))
    return {name: _watts(name, current_a, volts.get(name)) for name, current_a in amperes.items()}


class Sensor(object):
    """The sum over the PMIC's rails, W = slope * sum + intercept_w.

    ``options``: ``command`` (executable or argument list, to which "pmic_read_adc" is added), ``slope`` and
    ``intercept_w``: a board's own fit against a meter at its input (1 and 0 W where none was made).
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        command = options.get("command", ["vcgencmd"])
        self._argv = (list(command) if isinstance(command, list) else [str(command)]) + ["pmic_read_adc"]
        self._fitted = "slope" in options
        self._slope = _number(options, "slope", 1.0)
        self._intercept_w = _number(options, "intercept_w", 0.0)
        if self._slope <= 0.0:
            raise AgentError("bad-request", "pmic: slope = %r" % self._slope, "a slope is above 0, usually 1.0 to 1.3")
        self._names: List[str] = []

    def probe(self) -> Tuple[str, str, str]:
        """Whether the PMIC can be read: one reading is taken."""
        try:
            rails = self._read()
        except PermissionError as error:
            return "denied", str(error), "sudo usermod -aG video $USER, then log in again"
        except (OSError, ValueError) as error:
            return (
                "absent",
                str(error),
                "only a Raspberry Pi 5 has this; update its firmware: sudo rpi-eeprom-update -a",
            )
        return "ok", "%d rails" % len(rails), ""

    def describe(self) -> Dict[str, Any]:
        """Without a fit of this board the gain is unknown by a quarter: the sum is below the board's input."""
        rail, names = "sum of PMIC rails", self._names or ["PMIC rails"]
        if self._fitted or self._intercept_w != 0.0:
            rail = "%g * sum of PMIC rails + %g W" % (self._slope, self._intercept_w)
        return {
            "rate_hz": RATE_HZ,
            "update_s": 1.0 / RATE_HZ,
            "window_s": 0.0,
            "step_w": STEP_W * self._slope,
            "noise_w": 0.0,
            "gain_uncertainty": FITTED_GAIN if self._fitted else UNFITTED_GAIN,
            "counts_energy": False,
            "boundary": "rail",
            "rail": rail,
            "rails": names,
            "total": names,
            "includes": "the rails that the PMIC makes; not its own losses, USB ports, fan, boards on the 5 V pins",
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Learn the rails; OSError or AgentError where they cannot be read."""
        try:
            self._names = sorted(self._read())
        except ValueError as error:
            raise AgentError("no-sensor", str(error)) from error

    def poll(self) -> List[Tuple[float, float]]:
        """One sample, stamped at the middle of the call; it waits for the call. OSError, ValueError: no reading."""
        before_s = now_s()
        rails = self._read()
        t_s = 0.5 * (before_s + now_s())
        if sorted(rails) != self._names:
            changed = ", ".join(sorted(set(rails) ^ set(self._names)))
            raise ValueError("the rails of the PMIC changed while measuring: %s" % changed)
        return [(t_s, self._slope * sum(rails.values()) + self._intercept_w)]

    def close(self) -> None:
        """Nothing is held open."""
        self._names = []

    def _read(self) -> Dict[str, float]:
        command = " ".join(self._argv)
        try:
            done = subprocess.run(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=CALL_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as error:
            raise OSError("%s gave no answer in %.1f s" % (command, CALL_TIMEOUT_S)) from error
        text = done.stdout.decode("ascii", "replace")
        raw.note(command, text)
        if done.returncode != 0:
            problem = "%s ended with exit status %d: %s" % (command, done.returncode, text.strip()[:200])
            # The firmware's device file belongs to group video.
            raise PermissionError(problem) if "ermission denied" in text or "/dev/vc" in text else OSError(problem)
        return parse(text)


def _watts(name: str, current_a: float, voltage_v: Optional[float]) -> float:
    if voltage_v is None:
        raise ValueError("pmic_read_adc printed %s_A without its voltage %s_V" % (name, name))
    watts = current_a * voltage_v
    if not math.isfinite(watts) or current_a < -2.0 * STEP_A or voltage_v < 0.0:
        raise ValueError("pmic_read_adc printed %s_A = %r A at %s_V = %r V" % (name, current_a, name, voltage_v))
    return watts


def _number(options: Dict[str, Any], name: str, default: float) -> float:
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AgentError("bad-request", "pmic: %s = %r" % (name, value), "set a finite number")
    return float(value)
