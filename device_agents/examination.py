"""What ``rig doctor`` asks about a device beside its power sources: governor, heat, room on the disk, libraries."""

import glob
import os
import resource
import sys
from typing import Any, Dict, List, Optional

from device_agents import board

# How a library may be called where its installer noted it.
LIBRARIES = {
    "numpy": ("numpy",),
    "onnxruntime": ("onnxruntime", "onnxruntime_gpu", "onnxruntime_openvino", "onnxruntime_directml"),
    "pynvml": ("nvidia_ml_py", "pynvml"),
    "smbus2": ("smbus2",),
}


def examine(state_dir: str, root: str = "/") -> Dict[str, Any]:
    """Plain facts; what the device does not tell is None. ``state_dir``: where results are spooled."""
    return {
        "governor": board.governor(root),
        "available_governors": _governors(root),
        "nvpmodel": board.read_text(os.path.join(root, "var/lib/nvpmodel/status")),
        "conditions": board.conditions(root),
        "thermal_zones": thermal_zones(root),
        "disk_free_bytes": disk_free_bytes(state_dir),
        "disk_path": state_dir,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "libraries": libraries(sys.path),
        "rss_bytes": resident_bytes(),
    }


def thermal_zones(root: str = "/") -> List[Dict[str, Any]]:
    """Every zone that reads as a temperature, with its trip points (passive: the clock sinks; critical: off)."""
    zones = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/class/thermal/thermal_zone*"))):
        temp_c = _celsius(os.path.join(folder, "temp"))
        if temp_c is None or not -20.0 < temp_c < 150.0:
            continue
        trips = []
        for path in sorted(glob.glob(os.path.join(folder, "trip_point_*_temp"))):
            trip_c = _celsius(path)
            if trip_c is not None and 0.0 < trip_c < 150.0:  # drivers leave unused trip points at 0 or far below
                trips.append({"type": board.read_text(path[: -len("temp")] + "type"), "temp_c": trip_c})
        zones.append({"zone": board.read_text(os.path.join(folder, "type")), "temp_c": temp_c, "trips": trips})
    return zones


def disk_free_bytes(path: str) -> Optional[int]:
    """What an ordinary user may still write where ``path`` is, or will be."""
    while path and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        found = os.statvfs(path or "/")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def libraries(folders: List[str]) -> Dict[str, Optional[str]]:
    """Versions as their installers noted them, without importing anything; None where there is none."""
    found: Dict[str, Optional[str]] = {}
    for name, spellings in LIBRARIES.items():
        found[name] = None
        for folder in folders:
            for spelling in spellings:
                for path in glob.glob(os.path.join(glob.escape(folder), spelling + "-*.*-info")):
                    # NAME-VERSION.dist-info, or NAME-VERSION[-pyX.Y].egg-info
                    noted = os.path.basename(path).rsplit(".", 1)[0]
                    found[name] = found[name] or noted.split("-")[1]
    return found


def resident_bytes() -> int:
    """Resident memory of this process now; where /proc does not tell, the most it ever was."""
    text = board.read_text("/proc/self/statm")
    if text:
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _governors(root: str) -> List[str]:
    path = os.path.join(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors")
    return (board.read_text(path) or "").split()


def _celsius(path: str) -> Optional[float]:
    text = board.read_text(path)
    try:
        return None if text is None else float(text) * 1e-3
    except ValueError:
        return None
