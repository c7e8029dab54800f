"""What reading the device's condition costs after each phase, on trees like a small board's and a large server's.

python benchmarks/phase_conditions.py
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from device_agents.board import Conditions

READINGS = 300


def put(root: Path, path: str, text: object) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def tree(root: Path, cpus: int, policies: int, zones: int) -> Path:
    """``cpus`` in ``policies`` clock groups, with thermal events counted for each, and ``zones`` thermal zones."""
    for cpu in range(cpus):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(root, f"{folder}/topology/core_id", cpu)
        put(root, f"{folder}/topology/physical_package_id", cpu * 2 // cpus)
        for kind in ("core", "package"):
            put(root, f"{folder}/thermal_throttle/{kind}_throttle_count", 0)
        policy = root / f"sys/devices/system/cpu/cpufreq/policy{cpu * policies // cpus}"
        put(policy, "scaling_cur_freq", 1500000)
        put(policy, "stats/time_in_state", "600000 100\n1500000 200")
        (root / folder / "cpufreq").symlink_to(policy)
    for zone in range(zones):
        put(root, f"sys/class/thermal/thermal_zone{zone}/temp", 45000)
        put(root, f"sys/class/thermal/cooling_device{zone}/type", "thermal-cpufreq-0")
        put(root, f"sys/class/thermal/cooling_device{zone}/cur_state", 0)
    put(root, "sys/devices/platform/soc/soc:firmware/get_throttled", 0)
    return root


def main() -> None:
    """Print the median and the worst reading of each tree."""
    for name, shape in {"4 CPUs, 1 clock, 1 zone": (4, 1, 1), "128 CPUs, 128 clocks, 8 zones": (128, 128, 8)}.items():
        with tempfile.TemporaryDirectory() as folder:
            conditions = Conditions(str(tree(Path(folder), *shape)))
            conditions.read()
            spent_s = []
            for _ in range(READINGS):
                before_s = time.perf_counter()
                conditions.read()
                spent_s.append(time.perf_counter() - before_s)
        print(f"{name}: median {1e3 * statistics.median(spent_s):.3f} ms, worst {1e3 * max(spent_s):.3f} ms")


if __name__ == "__main__":
    main()
