"""``rig doctor`` on this computer through the real agent: sensor trees whose watts follow the load that really runs."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.commands import calibrate_sensor, doctor
from rig.commands.options import CalibrateSensorOptions, DoctorOptions
from rig.output import exit_code
from tests.agent_setup import children_of, isolated

__all__ = ["isolated"]

UPDATE_S = 0.040
QUIET_W, ACTIVE_W = 3.0, 2.5
RAPL_GAIN = 1.06
METER = """
[meter]
kind = "log"
path = "{}"
rate_hz = 25.0
window_s = 0.04
boundary = "package"
gain_uncertainty = 0.001
"""


class FollowingTrees:
    """A power monitor, an energy counter and the log of a meter at the host as files: the physical edge.

    Watts follow the processor time of the agent's runtime process, which a thread reads from /proc.
    """

    def __init__(self, root: Path) -> None:
        self.hwmon, self.powercap = root / "hwmon", root / "powercap"
        monitor, zone = self.hwmon / "hwmon0", self.powercap / "intel-rapl:0"
        (root / "1-0040").mkdir()
        for folder in (monitor, zone):
            folder.mkdir(parents=True)
        (monitor / "device").symlink_to(root / "1-0040")
        for name, text in {"name": "ina226", "in1_input": "5000", "curr1_input": "600", "update_interval": "3"}.items():
            (monitor / name).write_text(text + "\n")
        for name, text in {"name": "package-0", "max_energy_range_uj": str(10**12)}.items():
            (zone / name).write_text(text + "\n")
        self._power, self._energy = monitor / "power1_input", zone / "energy_uj"
        self.log = root / "meter.csv"
        self.log.write_text("time,power\n")
        self._stop = threading.Event()
        self._draw = random.Random(1)
        self._write(self._power, QUIET_W * 1e6)
        self._write(self._energy, 0.0)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10.0)

    def _follow(self) -> None:
        joules, mean_j, since_s = 0.0, 0.0, time.monotonic()
        before_s, before_cpu_s, pid = time.monotonic(), 0.0, None
        while not self._stop.wait(0.01):
            if pid is None:  # looking through all processes takes milliseconds
                pid = runtime_pid()
                before_cpu_s = cpu_s(pid)
            now_s, now_cpu_s = time.monotonic(), cpu_s(pid)
            used_j = QUIET_W * (now_s - before_s) + ACTIVE_W * max(0.0, now_cpu_s - before_cpu_s)
            before_s, before_cpu_s = now_s, now_cpu_s
            joules += used_j
            mean_j += used_j
            self._write(self._energy, 1e6 * RAPL_GAIN * joules)
            if now_s - since_s >= UPDATE_S - 0.005:
                mean_w = mean_j / (now_s - since_s)
                self._write(self._power, 1e6 * (mean_w + self._draw.gauss(0.0, 0.01)))
                with self.log.open("a") as log:
                    log.write(f"{time.time():.4f},{mean_w:.5f}\n")
                mean_j, since_s = 0.0, now_s

    @staticmethod
    def _write(path: Path, value: float) -> None:
        """At once: a driver's file is never read half."""
        new = path.with_name(path.name + ".new")
        new.write_text(f"{round(max(value, 0.0))}\n")
        os.replace(new, path)


def runtime_pid() -> int | None:
    """The agent's runtime process, a descendant of this one."""
    for agent in children_of(os.getpid()).values():
        pid = children_of(agent).get("runtime")
        if pid is not None:
            return pid
    return None


def cpu_s(pid: int | None) -> float:
    """Processor time of a process with one thread that counts; 0 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) * 1e-9
    except OSError:
        return 0.0


@pytest.fixture
def trees(isolated: Path) -> Iterator[FollowingTrees]:
    made = FollowingTrees(isolated)
    yield made
    made.stop()


def device(isolated: Path, sensors: str, trees: FollowingTrees | None, meter: bool = False) -> None:
    folder = isolated / "config" / "devices"
    folder.mkdir(parents=True)
    roots = (trees.hwmon, trees.powercap) if trees else (isolated / "none", isolated / "none")
    (folder / "local.toml").write_text(
        f"sensors = {sensors}\nruntime = {{ options = {{ threads = 1 }} }}\n"
        f'[sensor_options.ina2xx]\nroot = "{roots[0]}"\nvia = "hwmon"\nboundary = "package"\n'
        f'iio_root = "{isolated / "none"}"\n'
        f'[sensor_options.rapl]\nroot = "{roots[1]}"\n' + (METER.format(trees.log) if meter and trees else "")
    )


def test_sources_that_follow_the_real_load_are_found_out(isolated: Path, trees: FollowingTrees) -> None:
    device(isolated, '["ina2xx", "rapl", "battery"]', trees)
    result = doctor.run(DoctorOptions("local", steps=8))
    sources = {source["name"]: source for source in result["sources"]}
    monitor = sources["ina2xx"]
    # A shared machine of few cores: the helper and the sampler are late by some milliseconds now and then.
    assert monitor["update_period_s"] == pytest.approx(UPDATE_S, abs=0.015)
    assert monitor["window_s"]["value"] == pytest.approx(UPDATE_S, abs=0.035)
    assert abs(monitor["lag_s"]["value"]) < 0.030
    assert monitor["quiet_w"] == pytest.approx(QUIET_W, abs=0.4)
    assert 0.2 * ACTIVE_W < monitor["active_w"]["value"] < 1.3 * ACTIVE_W, "of a core that others may share"
    assert 0.0 < monitor["noise_w"] < 0.5
    assert "declares 0.0035 s" in monitor["contradiction"]
    assert sources["rapl"]["counts_energy"]
    for name in ("ina2xx", "rapl"):
        sampling = sources[name]["sampling"]
        assert 0.0 < sampling["core_share"] < 0.5
        assert 5e6 < sampling["rss_bytes"] < 60e6
        assert Path(result["artifacts"][name]).is_file()
    (agreement,) = result["agreement"]
    assert agreement["same_boundary"]
    assert agreement["ratio"]["value"] == pytest.approx(RAPL_GAIN, abs=0.15)
    facts = result["facts"]
    assert facts["python"].startswith("3.")
    assert facts["libraries"]["numpy"]
    assert facts["disk_free_bytes"] > 0
    assert result["clock"]["uncertainty_s"] < 0.1
    names = {check["name"]: check["status"] for check in result["checks"]}
    assert {"runtime", "clock", "governor", "heat", "disk there", "disk here", "libraries"} <= set(names)
    if sources.get("battery", {}).get("state") == "absent":
        assert names["battery"] == "SKIP"


def test_a_source_calibrated_against_the_meter_at_the_host(isolated: Path, trees: FollowingTrees) -> None:
    device(isolated, '["rapl"]', trees, meter=True)
    asked = CalibrateSensorOptions("local", "rapl", against="meter", levels=5, level_time="1.8s")
    result = calibrate_sensor.run(asked)
    assert result["gain"]["value"] == pytest.approx(1.0 / RAPL_GAIN, abs=0.05)
    assert result["calibration"]["fit"]["levels"] == 5
    assert result["calibration"]["reference"]["clock"] == "host"
    assert result["gain"]["lo"] <= 1.0 / RAPL_GAIN <= result["gain"]["hi"]
    assert result["kind"] == "measured"


def test_a_device_without_a_power_source_is_looked_at_all_the_same(isolated: Path) -> None:
    device(isolated, '["ina2xx", "rapl"]', None)
    result = doctor.run(DoctorOptions("local", steps=4))
    assert exit_code(result) == 0
    assert result["agreement"] == []
    rows = {check["name"]: check for check in result["checks"]}
    assert (rows["power"]["status"], rows["rapl"]["status"]) == ("WARN", "WARN")
    assert "time only" in rows["power"]["text"]
    assert rows["rapl"]["fix"]
    assert {"clock", "heat", "libraries"} <= set(rows)
    assert all(note["fix"] for note in result["warnings"] if note["code"] == "warn-rapl")


def test_a_runtime_that_is_not_there_blocks_measuring_and_nothing_else(isolated: Path) -> None:
    folder = isolated / "config" / "devices"
    folder.mkdir(parents=True)
    (folder / "local.toml").write_text('sensors = []\n[runtime]\nname = "tensorrt"\n')
    result = doctor.run(DoctorOptions("local", steps=4))
    assert (result["verdict"], exit_code(result)) == ("blocked", 3)
    assert any(check["status"] == "FAIL" and check["name"] == "runtime" for check in result["checks"])
