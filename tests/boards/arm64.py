"""A board for tests: a real arm64 userland behind a real sshd, whose sensors follow the load that really runs on it.

     rig ══ SSH on loopback ══ sshd ─ agent ─ runtime      all of it aarch64 code, under proot and QEMU
                                        └──── sampler ◄── /sys (INA226, thermal zone, governor)
                                                             ▲ rewritten every 40 ms by a thread here
                                     CPU time of the emulated processes, from this computer's /proc

``cut()`` is a power loss: every process of the board dies at once, its files stay.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

from tests.boards.userland import emulated, environment
from tests.fakes.sshd import free_port, make_key, wait_for_port

MODEL = "Raspberry Pi 4 Model B Rev 1.4"
SERIAL = "10000000a1b2c3d4"
CPUINFO = "".join(
    f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for i in range(4)
) + (f"Hardware\t: BCM2835\nSerial\t\t: {SERIAL}\nModel\t\t: {MODEL}\n")

QUIET_W = 2.7
CORE_W = 1.2  # of a core that is busy
SUPPLY_V = 5.1
SHUNT_UOHM = 10_000
STEP_W = 25 * 2.5e-6 / (SHUNT_UOHM * 1e-6)  # of the INA226's power register at this shunt
UPDATE_MS = 36  # the INA226 as Linux sets it up: 16 averages of two conversions of 1.1 ms
WRITE_PERIOD_S = 0.04
LIST_PERIOD_S = 0.2  # between two looks for new processes
MONITOR = "devices/platform/soc/i2c-1/1-0040"
CPUS = 4
_CLOCK_BOOTTIME = time.CLOCK_BOOTTIME


class Arm64Board:
    """``userland``: as built by ``tests.boards.userland``. ``folder``: this board's own files, kept over a power loss.

    ``truth``: (s on CLOCK_BOOTTIME, W) of every value that the sensor was given.
    """

    user = "pi"

    def __init__(self, userland: Path, folder: Path) -> None:
        self.folder = folder
        self.truth: list[tuple[float, float]] = []
        self.port = free_port()
        self.identity = folder / "board" / "user_key"
        self.known_hosts = folder / "known_hosts"
        self.sysfs = folder / "sys"
        self.home = folder / "home" / self.user
        self._root = userland / "root"
        self._process: subprocess.Popen[bytes] | None = None
        self._load = _Load()
        self._power_on = threading.Event()
        self._meter: threading.Thread | None = None
        self._make_files()

    def __enter__(self) -> Arm64Board:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def profile(self) -> str:
        """What a person writes into their own pi4.toml, in TOML: how to reach it, and a plan for slow emulation."""
        return f"""\
[transport]
host = "127.0.0.1"
port = {self.port}
user = "{self.user}"
identity_file = "{self.identity}"
known_hosts = "{self.known_hosts}"

[runtime]
options = {{ threads = 1, spinning = false }}

[plan]
warmup_s = 0.3
warmup_max_s = 1.0
window_s = 0.5
min_windows = 4
rel_ci = 0.2
max_s = 2.5
quiet_s = 0.8
cooldown_s = 0.0
max_temp_c = 80.0

[grid]
contexts = 0
longest_s = 1e-4
"""

    def start(self) -> None:
        """Power on, and wait until sshd listens."""
        config, log = "/board/sshd_config", self.folder / "log"
        binds = {"sys": "/sys", "home": "/home", "tmp": "/tmp", "run": "/run", "board": "/board"}
        places = [f"{self.folder / name}:{place}" for name, place in binds.items()]
        for name in ("model", "serial-number"):
            places.append(f"{self.folder / 'device-tree' / name}:/proc/device-tree/{name}")
        places.append(f"{self.folder / 'cpuinfo'}:/proc/cpuinfo")
        command = [*emulated(self._root, *places), "/usr/sbin/sshd", "-D", "-e", "-f", config]
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                command, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._power_on.set()
        self._meter = threading.Thread(target=self._follow_load, args=(self._process.pid,), daemon=True)
        self._meter.start()
        wait_for_port(self.port, log, 120.0)

    def cut(self) -> None:
        """Power off without a word to anybody."""
        process, self._process = self._process, None
        if process is None:
            return
        self._power_on.clear()
        pids = [process.pid, *tracees(process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(10)
        if self._meter is not None:
            self._meter.join(5)

    def agents(self) -> list[str]:
        """Command lines of the rig's processes on the board."""
        if self._process is None:
            return []
        lines = []
        for pid in tracees(self._process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if ".pyz" in words:
                    lines.append(words.strip())
        return lines

    def files(self) -> list[str]:
        """What the rig has left in the board's file system, relative to the user's cache folder."""
        cache = self.home / ".cache" / "rig"
        return sorted(path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file())

    def governors(self) -> set[str]:
        """The CPU frequency governors of now."""
        return {
            path.read_text().strip() for path in self.sysfs.glob("devices/system/cpu/cpu*/cpufreq/scaling_governor")
        }

    def true_mean_w(self, t0_s: float, t1_s: float) -> float:
        """Mean over time of what the sensor showed between two times: each value until the next was written."""
        shown_j = 0.0
        for (from_s, watts), (to_s, _) in pairwise(self.truth):
            shown_j += watts * max(min(to_s, t1_s) - max(from_s, t0_s), 0.0)
        return shown_j / (t1_s - t0_s)

    def _follow_load(self, pid: int) -> None:
        """The physics: watts and degrees follow the CPU time that the emulated processes use."""
        noise = random.Random(1)
        temp_c = 45.0
        while self._power_on.is_set():
            began_s = time.monotonic()
            cores = self._load.cores(pid)
            temp_c += 0.002 * (45.0 + 6.0 * cores - temp_c)
            watts = STEP_W * round((QUIET_W + CORE_W * cores + noise.gauss(0.0, 0.006)) / STEP_W)
            self._write_sensors(watts, temp_c)
            self.truth.append((time.clock_gettime(_CLOCK_BOOTTIME), watts))
            time.sleep(max(0.0, WRITE_PERIOD_S - (time.monotonic() - began_s)))

    def _write_sensors(self, watts: float, temp_c: float) -> None:
        amperes = watts / SUPPLY_V
        monitor = f"{MONITOR}/hwmon/hwmon0"
        self._write(f"{monitor}/power1_input", str(round(watts * 1e6)))
        self._write(f"{monitor}/curr1_input", str(round(amperes * 1e3)))
        self._write(f"{monitor}/in1_input", str(round(SUPPLY_V * 1e3)))
        self._write(f"{monitor}/in0_input", str(round(amperes * SHUNT_UOHM * 1e-3)))
        self._write("class/thermal/thermal_zone0/temp", str(round(temp_c * 1e3)))

    def _write(self, name: str, text: str) -> None:
        """As a driver would: a reader sees the old value or the new one."""
        path = self.sysfs / name
        fresh = self.folder / f".{path.name}"
        fresh.write_text(text + "\n")
        fresh.replace(path)

    def _make_files(self) -> None:
        monitor = self.sysfs / MONITOR / "hwmon" / "hwmon0"
        monitor.mkdir(parents=True)
        for name in ("class/hwmon", "class/thermal/thermal_zone0", "devices/platform/soc/soc:firmware"):
            (self.sysfs / name).mkdir(parents=True)
        (self.sysfs / "class/hwmon/hwmon0").symlink_to(f"../../{MONITOR}/hwmon/hwmon0")
        (monitor / "device").symlink_to("../../../1-0040")
        self._write(f"{MONITOR}/hwmon/hwmon0/name", "ina226")
        self._write(f"{MONITOR}/hwmon/hwmon0/shunt_resistor", str(SHUNT_UOHM))
        self._write(f"{MONITOR}/hwmon/hwmon0/update_interval", str(UPDATE_MS))
        self._write("class/thermal/thermal_zone0/type", "cpu-thermal")
        self._write("devices/platform/soc/soc:firmware/get_throttled", "0")
        self._write_sensors(QUIET_W, 45.0)
        for number in range(CPUS):
            clock = f"devices/system/cpu/cpu{number}/cpufreq"
            (self.sysfs / clock).mkdir(parents=True)
            self._write(f"{clock}/scaling_governor", "ondemand")
            self._write(f"{clock}/scaling_available_governors", "conservative ondemand powersave performance")
            self._write(f"{clock}/scaling_cur_freq", "1500000")
        for name in ("online", "possible", "present"):
            self._write(f"devices/system/cpu/{name}", f"0-{CPUS - 1}")
        for name in ("board", "tmp", "run/lock", "run/sshd", "device-tree"):
            (self.folder / name).mkdir(parents=True)
        self.home.mkdir(parents=True)
        (self.folder / "device-tree/model").write_text(MODEL + "\0")
        (self.folder / "device-tree/serial-number").write_text(SERIAL + "\0")
        (self.folder / "cpuinfo").write_text(CPUINFO)
        self._make_login()

    def _make_login(self) -> None:
        board = self.folder / "board"
        make_key(self.identity)
        make_key(board / "host_key")
        (board / "authorized_keys").write_text((board / "user_key.pub").read_text())
        key = " ".join((board / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}\n")
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            "HostKey /board/host_key",
            "AuthorizedKeysFile /board/authorized_keys",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            "LoginGraceTime 300",
            "Subsystem sftp /usr/lib/openssh/sftp-server",
        ]
        (board / "sshd_config").write_text("\n".join(lines) + "\n")


class _Load:
    """How many cores the emulated processes have kept busy since the last question."""

    def __init__(self) -> None:
        self._spent_ns: dict[str, int] = {}
        self._asked_s = time.monotonic()
        self._processes: list[int] = []
        self._listed_s = 0.0

    def cores(self, pid: int) -> float:
        """``pid``: proot, whose own work is not the board's."""
        now_s = time.monotonic()
        if now_s - self._listed_s > LIST_PERIOD_S:
            self._processes, self._listed_s = tracees(pid), now_s
        spent_ns = {}
        for process in self._processes:
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{process}/task"):
                    with open(f"/proc/{process}/task/{task}/schedstat") as file:
                        spent_ns[task] = int(file.read().split()[0])
        used_ns = sum(max(ns - self._spent_ns.get(task, 0), 0) for task, ns in spent_ns.items())
        cores = used_ns * 1e-9 / max(now_s - self._asked_s, 1e-3)
        self._spent_ns, self._asked_s = spent_ns, now_s
        return min(cores, float(CPUS))


def tracees(pid: int) -> list[int]:
    """The processes that ``pid`` (proot) traces: all of the board, orphans too."""
    mark = f"\nTracerPid:\t{pid}\n".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{entry}/status").read_bytes():
                    found.append(int(entry))
    return found


def main(folder: Path) -> None:
    """Run a board in ``folder`` (kept, for the next time) until interrupted; prints the profile that reaches it."""
    from tests.boards.userland import userland

    with Arm64Board(userland(), folder) as board:
        print(f"# write this to devices/pi4.toml of the configuration folder; Ctrl-C cuts the power\n{board.profile()}")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
