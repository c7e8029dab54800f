"""The device's condition after each phase: temperature, clocks and what throttles it, from sysfs, vcgencmd and NVML."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_agents import board
from device_agents.board import Conditions, card_in_use, pi_throttle_flags
from device_agents.measure import Measurement
from device_agents.protocol import AgentError
from device_agents.records import MeasurePlan
from device_agents.sensors import nvml
from rig.quality.verdict import assess

CPU = "sys/devices/system/cpu"


def put(root: Path, path: str, text: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")
    return file


def script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + body + "\n")
    path.chmod(0o755)


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Raspberry Pi whose kernel does not show the firmware's bits: vcgencmd does, and counts its calls."""
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    script(tmp_path / "bin/vcgencmd", 'echo "$@" >> "${0%/*}/calls"; cat "${0%/*}/answer"')
    put(tmp_path, "bin/answer", "throttled=0x50000")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_temperature_and_present_clock(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 48312)
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", -256000)
    for cpu in (0, 1):
        put(tmp_path, f"{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq", 1500000 - 500000 * cpu)
    seen = board.conditions(str(tmp_path))
    assert seen["temp_c"] == pytest.approx(48.312)
    assert seen["freq_hz"] == pytest.approx(1.25e9)
    nothing = {"temp_c": None, "throttled": [], "freq_hz": None, "cpu_freq_hz": None}
    assert board.conditions(str(tmp_path / "none")) == nothing


def test_mean_clock_since_the_last_reading(tmp_path: Path) -> None:
    """Two clusters: four CPUs share one policy, two the other."""
    for cpu in range(6):
        (tmp_path / CPU / f"cpu{cpu}").mkdir(parents=True)
        (tmp_path / CPU / f"cpu{cpu}/cpufreq").symlink_to(tmp_path / CPU / f"cpufreq/policy{0 if cpu < 4 else 4}")
    little = put(tmp_path, f"{CPU}/cpufreq/policy0/stats/time_in_state", "600000 1000\n1500000 2000")
    big = put(tmp_path, f"{CPU}/cpufreq/policy4/stats/time_in_state", "1000000 0\n2000000 500")
    conditions = Conditions(str(tmp_path))
    assert conditions.read()["cpu_freq_hz"] is None  # since boot says nothing of a phase
    little.write_text("600000 1025\n1500000 2075\n")
    big.write_text("1000000 0\n2000000 600\n")
    little_hz = (0.25 * 600 + 0.75 * 1500) * 1e6
    assert conditions.read()["cpu_freq_hz"] == pytest.approx((4 * little_hz + 2 * 2.0e9) / 6)
    little.write_text("600000 1025\n1500000 2085\n")
    big.write_text("garbage\n")
    assert conditions.read()["cpu_freq_hz"] == pytest.approx(1.5e9)  # of those that can be read
    assert conditions.read()["cpu_freq_hz"] is None  # no time has passed


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("throttled=0x0\n", []),
        ("throttled=0x50000\n", ["undervoltage-occurred", "throttled-occurred"]),
        ("throttled=0x50005\n", ["undervoltage", "throttled", "undervoltage-occurred", "throttled-occurred"]),
        ("e0008", ["soft-temperature-limit", "frequency-capped-occurred", "throttled-occurred",
                   "soft-temperature-limit-occurred"]),
        ("error=1", ["unreadable-get_throttled:error=1"]),
        ("", ["unreadable-get_throttled:"]),
    ],
)  # fmt: skip
def test_bits_of_the_raspberry_pi(text: str, flags: list[str]) -> None:
    assert pi_throttle_flags(text) == flags


@pytest.mark.parametrize("folder", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware"])
def test_the_kernels_view_of_the_bits_is_preferred_to_vcgencmd(pi: Path, folder: str) -> None:
    bits = put(pi, f"sys/devices/platform/{folder}/get_throttled", "50005")
    conditions = Conditions(str(pi))
    assert conditions.read()["throttled"][:2] == ["undervoltage", "throttled"]
    bits.unlink()
    assert conditions.read()["throttled"] == ["unreadable-get_throttled:no answer"]
    assert not (pi / "bin/calls").exists()


def test_vcgencmd_is_asked_once_a_reading_on_a_pi_and_nowhere_else(pi: Path) -> None:
    conditions = Conditions(str(pi))
    assert conditions.read()["throttled"] == ["undervoltage-occurred", "throttled-occurred"]
    put(pi, "bin/answer", "throttled=0x50005")
    assert "undervoltage" in conditions.read()["throttled"]
    assert (pi / "bin/calls").read_text() == "get_throttled\nget_throttled\n"
    put(pi, "proc/device-tree/model", "Hardkernel ODROID-N2Plus")
    assert Conditions(str(pi)).read()["throttled"] == []
    assert (pi / "bin/calls").read_text().count("\n") == 2


def test_a_vcgencmd_that_hangs_or_vanishes_is_a_flag(pi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = Conditions(str(pi))
    conditions.read()
    monkeypatch.setattr(board, "VCGENCMD_TIMEOUT_S", 0.2)
    script(pi / "bin/vcgencmd", "exec sleep 60")
    assert conditions.read()["throttled"] == ["unreadable-get_throttled:TimeoutExpired"]
    (pi / "bin/vcgencmd").unlink()
    assert conditions.read()["throttled"] == ["unreadable-get_throttled:FileNotFoundError"]


def test_undervoltage_alarm_of_the_mainline_kernel(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B")
    alarm = put(tmp_path, "sys/class/hwmon/hwmon1/in0_lcrit_alarm", 0)
    conditions = Conditions(str(tmp_path))
    assert conditions.read()["throttled"] == []
    alarm.write_text("1\n")
    assert conditions.read()["throttled"] == ["undervoltage"]


def test_thermal_events_of_x86_count_a_core_and_a_package_once(tmp_path: Path) -> None:
    for cpu, core in ((0, 0), (1, 1), (2, 0), (3, 1)):  # siblings 0 and 2, 1 and 3
        put(tmp_path, f"{CPU}/cpu{cpu}/topology/core_id", core)
        put(tmp_path, f"{CPU}/cpu{cpu}/topology/physical_package_id", 0)
        put(tmp_path, f"{CPU}/cpu{cpu}/thermal_throttle/core_throttle_count", 3 * core)
        put(tmp_path, f"{CPU}/cpu{cpu}/thermal_throttle/package_throttle_count", 5)
    conditions = Conditions(str(tmp_path))
    assert conditions.read()["throttled"] == ["core-thermal-events:3", "package-thermal-events:5"]
    put(tmp_path, f"{CPU}/cpu0/thermal_throttle/core_throttle_count", 1)
    assert conditions.read()["throttled"][0] == "core-thermal-events:4"


def test_cooling_that_slows_the_cpu_is_a_flag_and_a_fan_is_none(tmp_path: Path) -> None:
    for number, (kind, state) in enumerate(
        [("pwm-fan", 3), ("thermal-cpufreq-0", 0), ("cpufreq-cpu4", 2), ("cpu-throttle-alert", 1), ("TCC Offset", 5)]
    ):
        put(tmp_path, f"sys/class/thermal/cooling_device{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/cooling_device{number}/cur_state", state)
    assert Conditions(str(tmp_path)).read()["throttled"] == [
        "thermal-cap:cpufreq-cpu4",
        "thermal-cap:cpu-throttle-alert",
    ]


def test_over_current_events_of_a_jetson(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon4/oc1_event_cnt", 0)
    put(tmp_path, "sys/class/hwmon/hwmon4/oc3_event_cnt", 2)
    assert Conditions(str(tmp_path)).read()["throttled"] == ["over-current-events:oc3:2"]


# --- a card -----------------------------------------------------------------------------------------------------


class Card:
    """In the place of the nvml sensor, whose own tests load the real pynvml."""

    closed = 0

    def __init__(self, options: dict[str, object]) -> None:
        self.options = options
        self.reasons = ["sw-thermal"]

    def open(self) -> None:
        if self.options.get("index") == 9:
            raise AgentError("no-sensor", "no GPU 9: NVML sees 1", "")

    def temperature_c(self) -> float:
        return 71.0

    def frequency_hz(self) -> float:
        return 1.41e9

    def throttle_reasons(self) -> list[str]:
        return self.reasons

    def close(self) -> None:
        Card.closed += 1


def test_a_cards_reasons_are_flags_of_the_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "Sensor", Card)
    conditions = Conditions(str(tmp_path), {"index": 0})
    seen = conditions.read()
    assert (seen["throttled"], seen["gpu_temp_c"], seen["gpu_freq_hz"]) == (["sw-thermal"], 71.0, 1.41e9)
    closed = Card.closed
    conditions.close()
    assert Card.closed == closed + 1


def test_a_card_that_stops_answering_is_a_flag_and_one_that_never_did_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "Sensor", Card)
    never = Conditions(str(tmp_path), {"index": 9})
    assert never.read()["throttled"] == []
    assert never.read()["gpu_problem"] == "no GPU 9: NVML sees 1"
    conditions = Conditions(str(tmp_path), {"index": 0})
    conditions.read()

    def lost(self: Card) -> list[str]:
        raise AgentError("no-sensor", "GPU 0: the GPU is lost", "")

    monkeypatch.setattr(Card, "throttle_reasons", lost)
    seen = conditions.read()
    assert (seen["throttled"], seen["gpu_problem"]) == (["unreadable-nvml"], "GPU 0: the GPU is lost")


def test_a_card_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    goes_on = threading.Event()
    monkeypatch.setattr(nvml, "Sensor", Card)
    monkeypatch.setattr(board, "CARD_TIMEOUT_S", 0.1)
    monkeypatch.setattr(Card, "temperature_c", lambda self: goes_on.wait(60.0) and 50.0)
    conditions = Conditions(str(tmp_path), {})
    assert conditions.read()["gpu_problem"] == "NVML gave no answer in 0 s"
    goes_on.set()
    assert conditions.read()["gpu_problem"] == "NVML gave no answer in 0 s"  # not asked again


@pytest.mark.parametrize(
    ("request_", "card"),
    [
        ({"runtime": "onnxruntime"}, None),
        ({"source": "ina2xx", "options": {"provider": "cpu"}}, None),
        ({"source": "nvml", "source_options": {"index": 1}}, {"index": 1}),
        ({"options": {"provider": "cuda"}}, {}),
    ],
)
def test_nvml_is_asked_only_where_a_card_is_in_use(request_: dict[str, object], card: object) -> None:
    assert card_in_use(request_) == card


# --- into the record and its verdict ----------------------------------------------------------------------------


class Engine:
    """A runtime process that answers at once, on a clock of its own."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def load(self, request: dict[str, object]) -> dict[str, object]:
        return {"kind": "measured"}

    def ask(self, request: dict[str, object], expected_s: float = 0.0) -> dict[str, object]:
        begun_s, self.now_s = self.now_s, self.now_s + expected_s
        count = int(expected_s / 0.01)
        return {
            "t0_s": begun_s, "t1_s": self.now_s, "count": count, "missed": 0, "latency_mean_s": 0.01,
            "latency_s": [0.01] * count,
        }  # fmt: skip


def test_a_phase_in_which_a_card_got_too_hot_rejects_the_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(range(1000))

    def reasons(self: Card) -> list[str]:
        return ["hw-thermal"] if next(readings) >= 4 else []

    monkeypatch.setattr(nvml, "Sensor", Card)
    monkeypatch.setattr(Card, "throttle_reasons", reasons)
    plan = MeasurePlan(warmup_s=0.5, warmup_max_s=1.0, window_s=1.0, min_windows=8, rel_ci=0.01, max_s=20.0)
    request = {
        "id": "m-1", "op": "measure", "runtime": "onnxruntime", "options": {"provider": "cuda"},
        "subject": {"name": "net"}, "plan": plan.to_json(),
    }  # fmt: skip
    closed = Card.closed
    measurement = Measurement(request, Engine(), None, lambda progress: None, lambda: False)  # type: ignore[arg-type]
    record = measurement.run(str(tmp_path))
    assert Card.closed == closed + 1
    assert [phase["name"] for phase in record["phases"][:2]] == ["warmup", "window"]
    assert {"temp_c", "throttled", "freq_hz", "cpu_freq_hz", "gpu_temp_c", "gpu_freq_hz"} <= set(record["phases"][1])
    made = assess(record)
    assert made.verdict == "rejected"
    assert "throttled: hw-thermal set in phase 5 of 9 (window)" in str(made.reason)
