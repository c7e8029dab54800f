"""A power monitor, an energy counter and the log of a meter at the host, as files whose watts follow a real load.

The physical edge of these tests. A process of its own (``python following_trees.py ROOT PID``), so that nothing in the
tested process keeps it waiting: it reads the processor time of PID's agent's runtime process from /proc.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

UPDATE_S = 0.040  # of the monitor's and the meter's mean power
QUIET_W, ACTIVE_W = 3.0, 2.5  # waiting, and on top of it one core busy
RAPL_GAIN = 1.06  # of the energy counter


class FollowingTrees:
    """The files under ``root``: ``hwmon`` (INA226), ``powercap`` (RAPL), ``log`` (CSV)."""

    def __init__(self, root: Path) -> None:
        self.hwmon, self.powercap, self.log = root / "hwmon", root / "powercap", root / "meter.csv"
        monitor, zone = self.hwmon / "hwmon0", self.powercap / "intel-rapl:0"
        (root / "1-0040").mkdir()
        for folder in (monitor, zone):
            folder.mkdir(parents=True)
        (monitor / "device").symlink_to(root / "1-0040")
        files = {"name": "ina226", "in1_input": "5000", "curr1_input": "600", "update_interval": "3"}
        for name, text in {**files, "power1_input": f"{QUIET_W * 1e6:.0f}"}.items():
            (monitor / name).write_text(text + "\n")
        for name, text in {"name": "package-0", "max_energy_range_uj": str(10**12), "energy_uj": "0"}.items():
            (zone / name).write_text(text + "\n")
        self.log.write_text("time,power\n")
        self._process = subprocess.Popen([sys.executable, __file__, str(root), str(os.getpid())])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def follow(root: Path, pid: int) -> None:
    """Write until killed."""
    power, energy = root / "hwmon/hwmon0/power1_input", root / "powercap/intel-rapl:0/energy_uj"
    draw = random.Random(1)
    joules, mean_j, since_s = 0.0, 0.0, time.monotonic()
    before_s, before_cpu_s, runtime = time.monotonic(), 0.0, None
    while True:
        time.sleep(0.008)
        if runtime is None:  # looking through all processes takes milliseconds
            runtime = runtime_of(pid)
            before_cpu_s = cpu_s(runtime)
        now_s, now_cpu_s = time.monotonic(), cpu_s(runtime)
        used_j = QUIET_W * (now_s - before_s) + ACTIVE_W * max(0.0, now_cpu_s - before_cpu_s)
        before_s, before_cpu_s = now_s, now_cpu_s
        joules, mean_j = joules + used_j, mean_j + used_j
        replace(energy, 1e6 * RAPL_GAIN * joules)
        if now_s - since_s >= UPDATE_S - 0.004:
            mean_w = mean_j / (now_s - since_s)
            replace(power, 1e6 * (mean_w + draw.gauss(0.0, 0.01)))
            with (root / "meter.csv").open("a") as log:
                log.write(f"{time.time():.4f},{mean_w:.5f}\n")
            mean_j, since_s = 0.0, now_s


def replace(path: Path, value: float) -> None:
    """At once: a driver's file is never read half."""
    new = path.with_name(path.name + ".new")
    new.write_text(f"{round(max(value, 0.0))}\n")
    os.replace(new, path)


def runtime_of(pid: int) -> int | None:
    """The runtime process of the agent that the process ``pid`` started."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cmdline").read_bytes().endswith(b"\0runtime\0") and parent(parent(int(entry.name))) == pid:
                return int(entry.name)
        except (OSError, IndexError):
            continue  # it ended while we looked
    return None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def cpu_s(pid: int | None) -> float:
    """Processor time of a process with one thread that counts; 0 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) * 1e-9
    except OSError:
        return 0.0


if __name__ == "__main__":
    follow(Path(sys.argv[1]), int(sys.argv[2]))
