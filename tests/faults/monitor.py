"""A power monitor as Linux shows it (the hwmon folder of an INA226); its watts follow what the runtime really does."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.agent_setup import children_of

IDLE_W, BUSY_W = 2.0, 3.0
VOLTS = 5.0
PERIOD_S = 0.004
SMOOTHED_S = 0.02


class PowerMonitor:
    """Rewrites the chip's files from the runtime process's processor time until it is stopped.

    ``agent_pid()``: the supervisor's process id, None where there is none. ``options``: of the sensor ``ina2xx``.
    """

    def __init__(self, root: Path, agent_pid: Callable[[], int | None]) -> None:
        self.options = {"root": str(root / "hwmon"), "via": "hwmon"}
        self.folder = root / "hwmon" / "hwmon0"
        self._agent_pid = agent_pid
        self._runtime: tuple[int, int] | None = None  # of which agent, process id
        self._history: list[tuple[float, float]] = []
        self._stop = threading.Event()
        device = root / "1-0040"
        device.mkdir(parents=True)
        self.folder.mkdir(parents=True)
        (self.folder / "device").symlink_to(device)
        for name, text in (("name", "ina226"), ("update_interval", "4"), ("shunt_resistor", "10000")):
            (self.folder / name).write_text(text + "\n")
        self._show(IDLE_W)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PowerMonitor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def hang(self) -> None:
        """From now on reading the power blocks, as a driver does whose bus hangs."""
        self._stop.set()
        self._thread.join()
        os.mkfifo(self.folder / ".fifo")
        (self.folder / ".fifo").replace(self.folder / "power1_input")  # at once: the file is never missing

    def say(self, text: str) -> None:
        """From now on the power file holds this."""
        self._stop.set()
        self._thread.join()
        self._replace("power1_input", text)

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            at_s, cpu_s = time.monotonic(), self._cpu_s()
            self._history = [(t, c) for t, c in self._history if t > at_s - SMOOTHED_S] + [(at_s, cpu_s)]
            first_s, first_cpu_s = self._history[0]
            share = max(cpu_s - first_cpu_s, 0.0) / (at_s - first_s) if at_s > first_s else 0.0
            self._show(IDLE_W + BUSY_W * share)

    def _cpu_s(self) -> float:
        """Processor seconds of the runtime process so far; 0 while there is none."""
        agent = self._agent_pid()
        if agent is None:
            return 0.0
        try:
            if self._runtime is None or self._runtime[0] != agent:
                self._runtime = (agent, children_of(agent)["runtime"])
            return float(Path(f"/proc/{self._runtime[1]}/schedstat").read_text().split()[0]) * 1e-9
        except (OSError, KeyError, IndexError):
            self._runtime = None
            return 0.0

    def _show(self, watts: float) -> None:
        self._replace("in1_input", f"{VOLTS * 1e3:.0f}")
        self._replace("curr1_input", f"{watts / VOLTS * 1e3:.0f}")
        self._replace("power1_input", f"{watts * 1e6:.0f}")

    def _replace(self, name: str, text: str) -> None:
        """Whole or not at all, as a read of sysfs is."""
        partial = self.folder / f".{name}"
        partial.write_text(text + "\n")
        partial.replace(self.folder / name)
