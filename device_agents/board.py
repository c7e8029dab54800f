"""What the device says of itself in sysfs and procfs: identity, temperature, clock, throttling; absent means None."""

import glob
import os
import platform
import sys
from typing import Any, Dict, List, Optional

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


def read_text(path: str) -> Optional[str]:
    """A small file's text, stripped; None where it is absent or unreadable."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip("\x00 \n")
    except OSError:
        return None


def conditions(root: str = "/") -> Dict[str, Any]:
    """``temp_c`` (the hottest zone), ``throttled`` (flag names) and ``freq_hz`` (mean over CPUs) of this moment."""
    return {"temp_c": temperature_c(root), "throttled": throttle_flags(root), "freq_hz": frequency_hz(root)}


def temperature_c(root: str = "/") -> Optional[float]:
    """The hottest thermal zone that reads as a temperature (zones out of -20 to 150 °C are not)."""
    hottest = None
    for path in glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*/temp")):
        celsius = _number(read_text(path), 1e-3)
        if celsius is not None and -20.0 < celsius < 150.0 and (hottest is None or celsius > hottest):
            hottest = celsius
    return hottest


def frequency_hz(root: str = "/") -> Optional[float]:
    """Mean present clock of the CPUs."""
    paths = glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    values = [_number(read_text(path), 1e3) for path in paths]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def throttle_flags(root: str = "/") -> List[str]:
    """Names of the throttle flags set: Raspberry Pi firmware bits, or x86 thermal throttle events so far."""
    flags = []
    bits = read_text(os.path.join(root, "sys/devices/platform/soc/soc:firmware/get_throttled"))
    if bits:
        try:
            value = int(bits, 16)
        except ValueError:
            value = 0
            flags.append("unreadable-get_throttled:" + bits)
        flags.extend(name for bit, name in sorted(PI_THROTTLE_BITS.items()) if value >> bit & 1)
    counts = glob.glob(os.path.join(root, "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"))
    events = sum(int(_number(read_text(path), 1.0) or 0) for path in counts)
    if events:
        flags.append("core-thermal-events:%d" % events)
    return flags


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
