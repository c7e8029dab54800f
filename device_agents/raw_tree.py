"""Heat, clocks, governors and throttle bits as the device's kernel writes them: evidence kept with a record."""

import glob
import os
from typing import Dict, List

from device_agents.board import read_text

PATTERNS = (
    "sys/class/thermal/thermal_zone*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "proc/device-tree/model",
    "proc/loadavg",
)
MOST_FILES = 16  # of each pattern


def raw_tree(root: str = "/") -> List[Dict[str, str]]:
    """``path`` and ``text`` of each file that is there now, not interpreted."""
    found = []
    for pattern in PATTERNS:
        for path in sorted(glob.glob(os.path.join(root, pattern)))[:MOST_FILES]:
            text = read_text(path)
            if text is not None:
                found.append({"path": path, "text": text})
    return found
