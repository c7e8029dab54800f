"""What the device says of itself in sysfs and procfs: identity, temperature, clock, throttling; absent means None."""

import glob
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from device_agents.protocol import AgentError

# Raspberry Pi documentation, vcgencmd get_throttled: bits of the present, and the same since boot.
PI_THROTTLE_BITS = {
    0: "undervoltage",
    1: "frequency-capped",
    2: "throttled",
    3: "soft-temperature-limit",
    16: "undervoltage-occurred",
    17: "frequency-capped-occurred",
    18: "throttled-occurred",
    19: "soft-temperature-limit-occurred",
}
PI_BITS = re.compile(r"(?:throttled=)?(?:0x)?([0-9a-f]{1,8})\Z", re.ASCII | re.IGNORECASE)
VCGENCMD_TIMEOUT_S = 2.0
CARD_TIMEOUT_S = 5.0  # NVML starts in tenths of a second; a card that is lost may never answer

# Cooling devices that slow something down; the others are fans (Linux: Documentation/driver-api/thermal).
SLOWING_DEVICE = re.compile(r"(thermal-)?(cpufreq|devfreq)|processor\Z|.*throttle", re.IGNORECASE)

MOST_CLOCKS = 16  # policies whose clock is read: on a server each read interrupts another core


def read_text(path: str) -> Optional[str]:
    """A small file's text, stripped; None where it is absent or unreadable."""
    pieces: List[bytes] = []
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        while not pieces or pieces[-1]:
            pieces.append(os.read(descriptor, 65536))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return b"".join(pieces).decode("utf-8", "replace").strip("\x00 \n")


class Conditions(object):
    """The device's condition, read after each phase of a measurement; its sources are looked for at the first reading.

    Without vcgencmd and NVML a reading is a few file reads. vcgencmd is started once a reading, and only on a Raspberry
    Pi whose kernel does not show the same bits in sysfs. ``card``: options of the nvml sensor where the measurement
    runs on an NVIDIA card, None where it does not. ``root`` is the file system's.
    """

    def __init__(self, root: str = "/", card: Optional[Dict[str, Any]] = None) -> None:
        self._root = root
        self._card = None if card is None else _Card(card)
        self._found = False
        self._zones: List[str] = []
        self._clocks: List[Tuple[str, int]] = []
        self._flags: List[Callable[[], List[str]]] = []
        self._spent: Dict[str, Dict[int, int]] = {}

    def read(self) -> Dict[str, Any]:
        """``temp_c`` (the hottest zone), ``throttled`` (names of the flags set), ``freq_hz`` and ``cpu_freq_hz``.

        ``freq_hz`` is the mean clock of the CPUs at this moment, ``cpu_freq_hz`` that since the last reading, where the
        kernel counts the time spent at each clock. With a card also ``gpu_temp_c`` and ``gpu_freq_hz``, or
        ``gpu_problem`` where it was never readable.
        """
        if not self._found:
            self._find()
        flags: List[str] = []
        for source in self._flags:
            flags.extend(flag for flag in source() if flag not in flags)
        seen = {
            "temp_c": self._temperature_c(),
            "throttled": flags,
            "freq_hz": self._frequency_hz(),
            "cpu_freq_hz": self._mean_frequency_hz(),
        }
        if self._card is not None:
            about_card, reasons = self._card.read()
            seen.update(about_card)
            flags.extend(reasons)
        return seen

    def close(self) -> None:
        """Let go of the card."""
        if self._card is not None:
            self._card.close()

    def _find(self) -> None:
        self._found = True
        self._zones = self._glob("sys/class/thermal/thermal_zone*/temp")
        policies: Dict[str, int] = {}
        for folder in self._glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
            real = os.path.realpath(folder)
            policies[real] = policies.get(real, 0) + 1
        every = max(1, -(-len(policies) // MOST_CLOCKS))
        self._clocks = sorted(policies.items())[::every]
        for find in (_pi_bits, _thermal_events, _slowing_devices, _over_currents):
            self._flags.extend(find(self._glob, self._root))

    def _glob(self, pattern: str) -> List[str]:
        return sorted(glob.glob(os.path.join(glob.escape(self._root), pattern)))

    def _temperature_c(self) -> Optional[float]:
        """The hottest thermal zone that reads as a temperature (zones out of -20 to 150 °C are not)."""
        read = (_number(read_text(path), 1e-3) for path in self._zones)
        known = [celsius for celsius in read if celsius is not None and -20.0 < celsius < 150.0]
        return max(known) if known else None

    def _frequency_hz(self) -> Optional[float]:
        read = [(_number(read_text(folder + "/scaling_cur_freq"), 1e3), cpus) for folder, cpus in self._clocks]
        return _weighted([(hertz, cpus) for hertz, cpus in read if hertz is not None])

    def _mean_frequency_hz(self) -> Optional[float]:
        """Mean clock since the last call, from time_in_state (Linux: Documentation/cpu-freq/cpufreq-stats.rst)."""
        means = []
        for folder, cpus in self._clocks:
            spent = _time_in_state(read_text(folder + "/stats/time_in_state"))
            before, self._spent[folder] = self._spent.get(folder), spent
            if before is None or before.keys() != spent.keys():
                continue
            ticks = {kilohertz: spent[kilohertz] - before[kilohertz] for kilohertz in spent}
            total = sum(ticks.values())
            if total > 0 and min(ticks.values()) >= 0:
                means.append((1e3 * sum(khz * count for khz, count in ticks.items()) / total, cpus))
        return _weighted(means)


class _Card(object):
    """An NVIDIA card's clocks and what holds them down, through the nvml sensor; a card that hangs is given up."""

    def __init__(self, options: Dict[str, Any]) -> None:
        self._options = options
        self._sensor: Any = None
        self._problem: Optional[str] = None
        self._has_answered = False

    def read(self) -> Tuple[Dict[str, Any], List[str]]:
        """(gpu_temp_c and gpu_freq_hz, throttle reasons); one that stopped answering has the reason unreadable-nvml."""
        answer: List[Any] = []
        if self._problem is None:
            asking = threading.Thread(target=self._ask, args=(answer,), name="nvml", daemon=True)
            asking.start()
            asking.join(CARD_TIMEOUT_S)
            if not answer:
                self._problem = self._problem or "NVML gave no answer in %.0f s" % CARD_TIMEOUT_S
        if answer:
            self._has_answered = True
            return answer[0], answer[1]
        return {"gpu_problem": self._problem}, ["unreadable-nvml"] if self._has_answered else []

    def close(self) -> None:
        """Let go of NVML; one that hangs is left to the end of the process."""
        sensor, self._sensor = self._sensor, None
        if sensor is not None and self._problem is None:
            sensor.close()

    def _ask(self, answer: List[Any]) -> None:
        from device_agents.sensors.nvml import Sensor

        try:
            if self._sensor is None:
                sensor = Sensor(self._options)
                sensor.open()
                self._sensor = sensor
            about = {"gpu_temp_c": self._sensor.temperature_c(), "gpu_freq_hz": self._sensor.frequency_hz()}
            answer.extend([about, self._sensor.throttle_reasons()])
        except AgentError as error:
            self._problem = error.message


_conditions: Dict[str, Conditions] = {}


def conditions(root: str = "/") -> Dict[str, Any]:
    """What ``Conditions(root).read()`` says, its sources looked for once a process."""
    if root not in _conditions:
        _conditions[root] = Conditions(root)
    return _conditions[root].read()


def card_in_use(request: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The nvml options of the NVIDIA card that a ``measure`` request runs on; None where it names none."""
    if request.get("source") == "nvml":
        return {"index": (request.get("source_options") or {}).get("index", 0)}
    return {} if (request.get("options") or {}).get("provider") == "cuda" else None


def pi_throttle_flags(text: str) -> List[str]:
    """Names of the bits set, from the firmware's hexadecimal number, with ``throttled=`` before it or not."""
    match = PI_BITS.match(text.strip())
    if match is None:
        return ["unreadable-get_throttled:%.40s" % text.strip()]
    value = int(match.group(1), 16)
    return [name for bit, name in sorted(PI_THROTTLE_BITS.items()) if value >> bit & 1]


_Glob = Callable[[str], List[str]]


def _pi_bits(find: _Glob, root: str) -> List[Callable[[], List[str]]]:
    """The firmware's bits from sysfs, else from vcgencmd, else the undervoltage alarm of the mainline kernel."""
    paths = find("sys/devices/platform/soc*/*firmware/get_throttled")
    if paths:
        return [lambda: pi_throttle_flags(read_text(paths[0]) or "no answer")]
    model = read_text(os.path.join(root, "proc/device-tree/model")) or ""
    command = shutil.which("vcgencmd") if "Raspberry Pi" in model else None
    if command is not None:
        argv = [command, "get_throttled"]
        return [lambda: _vcgencmd_flags(argv)]
    alarms = find("sys/class/hwmon/hwmon*/in0_lcrit_alarm") if "Raspberry Pi" in model else []
    return [lambda: ["undervoltage"] if any(read_text(path) == "1" for path in alarms) else []] if alarms else []


def _vcgencmd_flags(argv: List[str]) -> List[str]:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=VCGENCMD_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return ["unreadable-get_throttled:%s" % type(error).__name__]
    return pi_throttle_flags(done.stdout.decode("ascii", "replace"))


def _thermal_events(find: _Glob, root: str) -> List[Callable[[], List[str]]]:
    """x86: how often a core and a package were too hot since boot; siblings of one core count the same events."""
    found = []
    for kind in ("core", "package"):
        paths: Dict[Any, str] = {}
        for path in find("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/%s_throttle_count" % kind):
            place = os.path.join(os.path.dirname(os.path.dirname(path)), "topology")
            core = read_text(os.path.join(place, "core_id")) if kind == "core" else None
            package = read_text(os.path.join(place, "physical_package_id"))
            paths.setdefault((package, core) if package is not None else path, path)
        if paths:
            found.append(_counting("%s-thermal-events" % kind, list(paths.values())))
    return found


def _slowing_devices(find: _Glob, root: str) -> List[Callable[[], List[str]]]:
    """Cooling devices that slow a processor down, while they do."""
    found = []
    for path in find("sys/class/thermal/cooling_device*/type"):
        kind = read_text(path) or ""
        if SLOWING_DEVICE.match(kind):
            found.append(_while_above_zero("thermal-cap:" + kind, os.path.join(os.path.dirname(path), "cur_state")))
    return found


def _over_currents(find: _Glob, root: str) -> List[Callable[[], List[str]]]:
    """Jetson: how often the supply was overdrawn (Jetson Linux Developer Guide, over-current event counters)."""
    paths = find("sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt")
    return [_counting("over-current-events:" + os.path.basename(path).split("_")[0], [path]) for path in paths]


def _counting(name: str, paths: List[str]) -> Callable[[], List[str]]:
    """A flag that carries its count, so that one more event is another flag."""

    def flags() -> List[str]:
        events = sum(int(_number(read_text(path), 1.0) or 0) for path in paths)
        return ["%s:%d" % (name, events)] if events else []

    return flags


def _while_above_zero(name: str, path: str) -> Callable[[], List[str]]:
    return lambda: [name] if (_number(read_text(path), 1.0) or 0.0) > 0.0 else []


def _time_in_state(text: Optional[str]) -> Dict[int, int]:
    """kHz -> ticks of 10 ms; empty for anything else."""
    rows = [line.split() for line in (text or "").splitlines()]
    if not all(len(row) == 2 and row[0].isdigit() and row[1].isdigit() for row in rows):
        return {}
    return {int(row[0]): int(row[1]) for row in rows}


def _weighted(values: List[Tuple[float, int]]) -> Optional[float]:
    cpus = sum(weight for _, weight in values)
    return sum(value * weight for value, weight in values) / cpus if cpus else None


def governor(root: str = "/") -> Optional[str]:
    """The cpufreq governors in use, joined by "+" where they differ."""
    paths = glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"))
    names = sorted({text for text in (read_text(path) for path in paths) if text})
    return "+".join(names) or None


def serial(root: str = "/") -> str:
    """The board's serial number, else the machine id's start, else the host name."""
    for path in ("proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number"):
        text = read_text(os.path.join(root, path))
        if text:
            return text
    text = read_text(os.path.join(root, "etc/machine-id"))
    return "machine-" + text[:12] if text else platform.node()


def identity(root: str = "/") -> Dict[str, Any]:
    """Model, CPU, kernel and interpreter of the device."""
    return {
        "model": read_text(os.path.join(root, "proc/device-tree/model")),
        "cpu": _cpu_name(root),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "hostname": platform.node(),
    }


def _cpu_name(root: str) -> Optional[str]:
    text = read_text(os.path.join(root, "proc/cpuinfo")) or ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return None


def _number(text: Optional[str], scale: float) -> Optional[float]:
    try:
        return None if text is None else float(text) * scale
    except ValueError:
        return None
