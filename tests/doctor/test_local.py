"""``rig doctor`` on this computer through the real agent: sensor trees whose watts follow the load that really runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.commands import calibrate_sensor, doctor
from rig.commands.options import CalibrateSensorOptions, DoctorOptions
from rig.output import exit_code
from tests.agent_setup import isolated
from tests.doctor.following_trees import ACTIVE_W, QUIET_W, RAPL_GAIN, UPDATE_S, FollowingTrees

__all__ = ["isolated"]

pytestmark = pytest.mark.alone

METER = """
[meter]
kind = "log"
path = "{}"
rate_hz = 25.0
window_s = 0.04
boundary = "package"
gain_uncertainty = 0.001
"""


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


@pytest.mark.slow
def test_sources_that_follow_the_real_load_are_found_out(isolated: Path, trees: FollowingTrees) -> None:
    device(isolated, '["ina2xx", "rapl", "battery"]', trees)
    result = doctor.run(DoctorOptions("local", steps=8))
    sources = {source["name"]: source for source in result["sources"]}
    monitor = sources["ina2xx"]
    # A shared machine of few cores: files and sampler are late by some milliseconds now and then.
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


@pytest.mark.slow
def test_a_source_calibrated_against_the_meter_at_the_host(isolated: Path, trees: FollowingTrees) -> None:
    device(isolated, '["rapl"]', trees, meter=True)
    asked = CalibrateSensorOptions("local", "rapl", against="meter", levels=5, level_time="2.1s")
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
