"""What the agent says of the device beside its sensors, on trees handed in; and the plain CPU load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from device_agents import examination
from device_agents.load import LoadPattern
from device_agents.protocol import AgentError
from device_agents.runtimes import cpu_load
from rig.connection.clock import ClockMap
from rig.doctor import device
from rig.doctor.load import load_for
from rig.profiles import load_profile


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "61000",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "80000",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "-274000",
        "sys/class/thermal/thermal_zone1/temp": "-256000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_available_governors": "ondemand performance",
        "var/lib/nvpmodel/status": "pmode:0002",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


def test_the_device_says_what_it_is_like(tree: Path) -> None:
    facts = examination.examine(str(tree / "not" / "there" / "yet"), str(tree))
    assert facts["governor"] == "ondemand"
    assert facts["available_governors"] == ["ondemand", "performance"]
    assert facts["nvpmodel"] == "pmode:0002"
    assert facts["thermal_zones"] == [
        {"zone": "cpu-thermal", "temp_c": 61.0, "trips": [{"type": "passive", "temp_c": 80.0}]}
    ]
    assert facts["disk_free_bytes"] > 0
    assert facts["rss_bytes"] > 1e6
    nothing = examination.examine("/", str(tree / "nothing"))
    assert (nothing["governor"], nothing["nvpmodel"], nothing["thermal_zones"]) == (None, None, [])


def test_versions_are_read_without_importing(tmp_path: Path) -> None:
    names = ("numpy-1.24.2.egg-info", "onnxruntime_gpu-1.18.0.dist-info", "numpy_quaternion-9.dist-info")
    for name in names:
        (tmp_path / name).mkdir()
    found = examination.libraries([str(tmp_path / "none"), str(tmp_path)])
    assert found == {"numpy": "1.24.2", "onnxruntime": "1.18.0", "pynvml": None, "smbus2": None}


def test_the_load_lasts_as_long_as_asked_on_its_cores() -> None:
    engine = cpu_load.load({"format": "load"}, {"threads": 2}, "")
    before_s = time.process_time()
    phase = engine.run(0.2, None)
    used_s = time.process_time() - before_s
    rest = engine.wait(0.05)
    engine.close()
    assert 0.2 <= phase["t1_s"] - phase["t0_s"] < 0.5
    assert used_s > 0.1
    assert rest["t1_s"] - rest["t0_s"] >= 0.05
    with pytest.raises(AgentError, match="format load"):
        cpu_load.load({"format": "onnx"}, {}, "")
    with pytest.raises(AgentError, match="no frames"):
        engine.run(0.1, 30.0)


@pytest.mark.parametrize("steps", [None, [], [[1.0]], [[-1.0, 1.0]], [[0.0, 0.0]], "fast"])
def test_a_pattern_that_is_none_is_refused(steps: object) -> None:
    with pytest.raises(AgentError, match="pairs of seconds"):
        LoadPattern({"steps": steps}, None, [], print, bool)  # type: ignore[arg-type]


def heat(now_c: float, trip_c: float | None = None, **conditions: Any) -> device.Check:
    trips = [] if trip_c is None else [{"type": "passive", "temp_c": trip_c}]
    zones = [{"zone": "cpu", "temp_c": now_c, "trips": trips}]
    return device.heat_check(load_profile("local"), zones, {"temp_c": now_c, "throttled": [], **conditions})


def test_heat_is_judged_by_the_nearest_limit() -> None:
    assert heat(50.0).status == "PASS"
    assert heat(78.0).status == "WARN"
    assert heat(50.0, 55.0).status == "WARN"
    assert "55 °C (passive)" in heat(50.0, 55.0).text
    assert heat(90.0).status == "FAIL"
    assert heat(50.0, throttled=["undervoltage"]).status == "WARN"
    assert device.heat_check(load_profile("local"), [], None).status == "SKIP"


def test_clocks_are_judged_by_what_is_known_of_them() -> None:
    assert device.clock_check(ClockMap(3.2, 1e-5, 0.0, 0.0005), 60.0).status == "PASS"
    assert device.clock_check(ClockMap(3.2, 0.0, 0.0, 0.050), 60.0).status == "WARN"
    assert device.clock_check(ClockMap(3.2, 0.02, 0.0, 0.0005), 60.0).status == "FAIL"
    assert "drift not told" in device.clock_check(ClockMap(3.2, 0.0, 0.0, 0.0005), 0.0).text


def test_governors_and_modes() -> None:
    profile = load_profile("pi4")
    assert (
        device.governor_check(profile, {"governor": "ondemand"}, {"wanted": "performance", "pinned": True}).status
        == "PASS"
    )
    refused = {"wanted": "performance", "pinned": False, "reason": "permission denied"}
    assert "permission denied" in device.governor_check(profile, {"governor": "ondemand"}, refused).text
    assert device.governor_check(load_profile("local"), {"governor": "ondemand"}, None).status == "WARN"
    assert device.governor_check(load_profile("local"), {"governor": None}, None).status == "SKIP"
    assert device.mode_check({"nvpmodel": None}) is None


def test_a_disk_that_is_nearly_full_blocks(tmp_path: Path) -> None:
    checks = device.disk_checks({"disk_free_bytes": 1e6, "disk_path": "/x"}, tmp_path / "home" / "devices")
    assert [check.status for check in checks] == ["FAIL", "PASS"]
    assert "/x" in str(checks[0].fix)


def test_a_sampler_that_costs_much_is_said() -> None:
    assert device.sampling_check("s", {"core_share": 0.2, "rss_bytes": 2e7, "read_s": 0.001}, False).status == "WARN"
    assert device.sampling_check("s", {"core_share": 0.01, "rss_bytes": 2e7, "read_s": None}, False).status == "PASS"
    assert device.sampling_check("s", None, True).status == "SKIP"


def test_a_gpu_is_loaded_with_convolutions_that_its_runtime_can_run() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    profile = load_profile("desktop-gpu")
    with load_for(profile) as load:
        assert (load.runtime, load.options["provider"]) == ("onnxruntime", "cuda")
        assert load.model is not None
        session = onnxruntime.InferenceSession(str(load.model), providers=["CPUExecutionProvider"])
        assert session.get_inputs()[0].shape == [1, 256, 56, 56]
        path = load.model
    assert not path.exists()
    with load_for(load_profile("pi4")) as load:
        assert (load.runtime, load.options) == ("cpu_load", {"threads": 4})
