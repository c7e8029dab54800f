"""tegrastats: the power that a Jetson's INA3221 monitors see, as NVIDIA's own tool prints it, one line an interval.

Source: NVIDIA Jetson Linux Developer Guide, "tegrastats Utility"; each figure is "now/mean since start", in mW.
"""

import collections
import re
import subprocess
import threading
from typing import Any, Deque, Dict, List, Optional, Tuple

from device_agents.child import die_with_parent, how_it_ended
from device_agents.protocol import AgentError, LineReader, clock_domain, now_s
from device_agents.sensors import raw
from device_agents.sensors.jetson_rails import INCLUDES, TOTAL_RAILS, missing_total

# "NAME now/mean" with or without mW, and a third number on new releases. Memory is "a/bMB": a line that is cut short
# there must not become a rail. A name's numbers may not touch another character ("GPU@30C", "CPU [0%@1190]").
_POWER = re.compile(
    r"(?<!\S)([0-9]*[A-Z][A-Z0-9_]*)[ \t]+(-?[0-9]{1,6})(?:mW)?(?:/-?[0-9]{1,6}(?:mW)?){1,2}(?!\S)", re.ASCII
)
_MEMORY = ("RAM", "SWAP", "IRAM")

# INA3221 data sheet (SBOS576), 8.3: six conversions of 1.1 ms in turn, no averaging, which is the driver's default.
WINDOW_S = 0.0066
# One 40 uV step of the shunt (same source) is 8 mA on 5 mOhm at 5 V, 4 mA on 10 mOhm at 19 V, 20 mA on 2 mOhm at 20 V.
STEPS_W = {"POM_5V_IN": 0.04, "VDD_IN": 0.08}
OTHER_STEP_W = 0.4
OFFSET_STEPS = 3.0  # its offset is 80 uV at most, and one step of noise: so far below zero may a rail be at no load

STALE_INTERVALS = 5.0
STALE_EXTRA_S = 1.0
START_S = 3.0
BURST_LINES = 5  # so many within one interval: the lines did not come when they were made


def parse_line(text: str) -> Dict[str, float]:
    """Rail name -> W at present; empty where the line has no power. ValueError where a rail comes twice."""
    rails: Dict[str, float] = {}
    for name, milliwatts in _POWER.findall(text):
        if name in _MEMORY:
            continue
        if name in rails:
            raise ValueError("rail %s comes twice in the line %s" % (name, _quoted(text)))
        rails[name] = int(milliwatts) * 1e-3
    return rails


def total(rails: Dict[str, float]) -> Tuple[str, str, float]:
    """(name, boundary, W) of the board's power.

    A total rail counts alone. AGX Xavier, AGX Orin and Thor print none: their rails are parts side by side and are
    summed, which leaves out what the carrier board takes. ValueError without any rail, and where a board's total is
    missing beside its parts.
    """
    for name in TOTAL_RAILS:
        if name in rails:
            return name, "board_input", rails[name]
    if not rails:
        raise ValueError("no power rail to add up")
    lacking = missing_total(rails)
    if lacking is not None:
        raise ValueError("%s is missing: there are only its parts, %s" % (lacking, ", ".join(sorted(rails))))
    return "+".join(sorted(rails)) + " (module rails, carrier excluded)", "module", sum(rails.values())


class Sensor(object):
    """tegrastats as a child process.

    ``options``: ``command`` (executable, or an argument list), ``interval_ms`` (10 to 1000), ``rail`` (one rail alone).
    """

    def __init__(self, options: Dict[str, Any]) -> None:
        command = options.get("command", "tegrastats")
        interval_ms = options.get("interval_ms", 100)
        if not isinstance(interval_ms, int) or not 10 <= interval_ms <= 1000:
            raise AgentError(
                "bad-request", "tegrastats: interval_ms = %r" % (interval_ms,), "set a whole number from 10 to 1000"
            )
        self._argv = list(command) if isinstance(command, list) else [str(command)]
        self._argv += ["--interval", str(interval_ms)]
        self._interval_s = interval_ms * 1e-3
        self._rail: Optional[str] = options.get("rail")
        self._child: Optional[_Lines] = None
        self._problem = "tegrastats is not running"
        self._names: List[str] = []
        self._label, self._boundary = "", ""
        self._listed: List[str] = []
        self._last_s = 0.0

    def probe(self) -> Tuple[str, str, str]:
        """Whether tegrastats runs here and prints power: one line is read."""
        try:
            self.open()
        except PermissionError:
            return "denied", "%s may not be run by this user" % self._argv[0], "sudo chmod a+x " + self._argv[0]
        except OSError as error:
            return "absent", "tegrastats cannot be started: %s" % error, "it is part of JetPack; is this a Jetson?"
        except AgentError as error:
            return "absent", error.message, error.fix
        self.close()
        return "ok", self._label, ""

    def describe(self) -> Dict[str, Any]:
        """Rail and boundary are known once open. The vendor states no accuracy for the board: 5 % is declared."""
        return {
            "rate_hz": 1.0 / self._interval_s,
            "update_s": self._interval_s,
            "window_s": WINDOW_S,
            "step_w": STEPS_W.get(self._label, OTHER_STEP_W),
            "noise_w": 0.0,
            "gain_uncertainty": 0.05,
            "counts_energy": False,
            "boundary": self._boundary or "module",
            "rail": self._label or "tegrastats",
            "rails": self._listed or ["tegrastats"],
            "total": self._names or ["tegrastats"],
            "includes": INCLUDES[self._boundary or "module"],
            "clock": clock_domain(),
        }

    def open(self) -> None:
        """Start tegrastats and learn the rails from its first line; OSError where it cannot be started."""
        self.close()
        self._child = _Lines(self._argv)
        deadline_s = now_s() + START_S + 2.0 * self._interval_s
        line = self._child.wait(deadline_s)
        if line is None:
            raise self._failed(self._child.ended() or "printed no line in %.1f s" % (START_S + 2.0 * self._interval_s))
        self._last_s = line[0]
        self._names = []
        self._label, self._boundary, _ = self._power(line[1])

    def poll(self) -> List[Tuple[float, float]]:
        """(arrival of the line, W) of every new line; AgentError once tegrastats ended, hangs or prints no power."""
        child = self._child
        if child is None:
            raise AgentError("no-sensor", self._problem)
        ended = child.ended()  # before the lines are taken: the last ones still count
        lines = child.take()
        if len(lines) >= BURST_LINES and lines[-1][0] - lines[0][0] < self._interval_s:
            raise self._failed("printed %d lines at once: their times are lost" % len(lines))
        if not lines:
            silent_s = now_s() - self._last_s
            if ended is not None:
                raise self._failed(ended)
            if silent_s > STALE_INTERVALS * self._interval_s + STALE_EXTRA_S:
                raise self._failed("is stale: no line for %.1f s" % silent_s)
            return []
        self._last_s = lines[-1][0]
        return [(t_s, self._power(text)[2]) for t_s, text in lines]

    def close(self) -> None:
        """End tegrastats."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def _power(self, text: str) -> Tuple[str, str, float]:
        raw.note("tegrastats", text)
        try:
            rails = parse_line(text)
        except ValueError as error:
            raise self._failed("cannot be read: %s" % error) from error
        if not rails:
            raise self._failed(
                "printed no power in the line %s" % _quoted(text), "use another power source: INA3221, or a meter"
            )
        if self._rail is not None:
            if self._rail not in rails:
                raise self._failed("has no rail %s, only %s" % (self._rail, ", ".join(sorted(rails))))
            boundary = "board_input" if self._rail in TOTAL_RAILS else "rail"
            label, watts, names = self._rail, rails[self._rail], [self._rail]
        else:
            try:
                label, boundary, watts = total(rails)
            except ValueError as error:
                raise self._failed("cannot be read: %s" % error) from error
            names = [label] if boundary == "board_input" else sorted(rails)
        if self._names and names != self._names:
            raise self._failed("changed its rails from %s to %s" % (", ".join(self._names), ", ".join(names)))
        for name in names:
            if rails[name] < -OFFSET_STEPS * STEPS_W.get(name, OTHER_STEP_W):
                raise self._failed(
                    "gives %g W for %s: the current flows backwards" % (rails[name], name),
                    "name another rail as the option rail; is power fed into the board behind this one?",
                )
        self._names, self._listed = names, sorted(rails)
        return label, boundary, watts

    def _failed(self, what: str, fix: str = "") -> AgentError:
        """End the child, so that nothing more is read from it; the error says ``what`` now and at every later poll."""
        self.close()
        self._problem = "tegrastats %s" % what
        return AgentError("no-sensor", self._problem, fix or "run it by hand: " + " ".join(self._argv))


class _Lines(object):
    """A child process and the lines of its standard output, each stamped at its arrival by a thread of its own."""

    def __init__(self, argv: List[str]) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, close_fds=True, preexec_fn=die_with_parent
        )
        self._lines: Deque[Tuple[float, str]] = collections.deque(maxlen=1000)
        self._new = threading.Event()
        self._eof = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="tegrastats", daemon=True)
        self._thread.start()

    def take(self) -> List[Tuple[float, str]]:
        """(now_s at arrival, text) of the lines since the last call; does not wait."""
        return [self._lines.popleft() for _ in range(len(self._lines))]

    def wait(self, deadline_s: float) -> Optional[Tuple[float, str]]:
        """The first line, left in place; None at the end of the output or once ``now_s()`` is past the deadline."""
        self._new.wait(max(0.0, deadline_s - now_s()))
        return self._lines[0] if self._lines else None

    def ended(self) -> Optional[str]:
        """How the process ended; None while its output is open."""
        if not self._eof.is_set():
            return None
        try:
            return how_it_ended(self._process.wait(0.2))
        except subprocess.TimeoutExpired:
            return "closed its output"

    def close(self) -> None:
        """End the process and the thread."""
        self._closing.set()
        self._process.terminate()
        try:
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        reader = LineReader(self._process.stdout.fileno())
        try:
            while not self._closing.is_set():
                line = reader.read(0.5)
                if line is not None:
                    self._lines.append((now_s(), line.decode("ascii", "replace")))
                    self._new.set()
        except EOFError:
            self._eof.set()
            self._new.set()


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
