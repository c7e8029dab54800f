"""What the agent keeps on, and reads from, the device: spool, lock, journal, RAPL tree, temperatures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from device_agents import board
from device_agents.lock import DeviceLock
from device_agents.protocol import AgentError
from device_agents.sensors.rapl import Sensor
from device_agents.spool import Spool, request_key
from device_agents.state import PinnedState


def test_spool_keeps_until_acknowledged_and_empties_then(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(str(path))
    spool.add("a", {"x": 1})
    spool.add("b", {"x": 2})
    spool.acknowledge(["a"])
    assert Spool(str(path)).keys() == ["b"]
    assert Spool(str(path)).get("b") == {"x": 2}
    spool.acknowledge(["b", "never heard of"])
    assert path.stat().st_size == 0


def test_spool_drops_a_line_cut_short_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    Spool(str(path)).add("a", {"x": 1})
    with path.open("ab") as file:
        file.write(b'{"key":"b","rec')
    spool = Spool(str(path))
    assert spool.keys() == ["a"]
    spool.add("c", {"x": 3})
    assert Spool(str(path)).keys() == ["a", "c"]


def test_request_key_tells_other_plans_and_subjects_apart() -> None:
    request = {"id": "m-1", "plan": {"window_s": 1.0}, "subject": {"name": "a"}}
    assert request_key(request) == request_key(dict(request, slack_s=3))
    assert request_key(request) != request_key(dict(request, plan={"window_s": 2.0}))


def test_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    path = str(tmp_path / "sub" / "lock")
    first, second = DeviceLock(path, "alice"), DeviceLock(path, "bob")
    first.acquire()
    first.acquire()
    with pytest.raises(AgentError, match="alice is measuring on this device since 20"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


@pytest.fixture
def cpus(tmp_path: Path) -> Path:
    for cpu, governor in ((0, "ondemand"), (1, "schedutil")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(governor + "\n")
        (folder / "scaling_available_governors").write_text("ondemand schedutil performance\n")
        (folder / "scaling_cur_freq").write_text(f"{1500000 - 500000 * cpu}\n")
    return tmp_path


def governors(root: Path) -> list[str]:
    return [
        path.read_text().strip() for path in sorted(root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"))
    ]


def test_governor_is_pinned_journalled_and_restored(cpus: Path) -> None:
    journal = cpus / "journal.json"
    state = PinnedState(str(journal), str(cpus))
    assert state.pin("performance") == {"wanted": "performance", "pinned": True, "reason": ""}
    assert governors(cpus) == ["performance", "performance"]
    # A power cut here: the next start has only the journal.
    assert PinnedState(str(journal), str(cpus)).restore() == []
    assert governors(cpus) == ["ondemand", "schedutil"]
    assert not journal.exists()


def test_what_cannot_be_pinned_is_recorded_not_forced(cpus: Path, tmp_path: Path) -> None:
    state = PinnedState(str(cpus / "journal.json"), str(cpus))
    outcome = state.pin("MAXN")
    assert not outcome["pinned"]
    assert "offers ondemand schedutil performance" in outcome["reason"]
    assert governors(cpus) == ["ondemand", "schedutil"]
    nowhere = PinnedState(str(tmp_path / "j"), str(tmp_path / "empty")).pin("performance")
    assert nowhere["reason"] == "the device has no cpufreq governors"


def test_a_journal_that_cannot_be_restored_is_kept_and_said(cpus: Path) -> None:
    journal = cpus / "journal.json"
    journal.write_text(json.dumps([[str(cpus / "gone/scaling_governor"), "ondemand"]]))
    problems = PinnedState(str(journal), str(cpus)).restore()
    assert "could not be set back to ondemand" in problems[0]
    assert journal.exists()


def test_conditions_of_a_board(cpus: Path) -> None:
    zone = cpus / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("48312\n")
    dead = cpus / "sys/class/thermal/thermal_zone1"
    dead.mkdir()
    (dead / "temp").write_text("-256000\n")
    firmware = cpus / "sys/devices/platform/soc/soc:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text("50005\n")
    seen = board.conditions(str(cpus))
    assert seen["temp_c"] == pytest.approx(48.312)
    assert seen["freq_hz"] == pytest.approx(1.25e9)
    assert seen["throttled"] == ["undervoltage", "throttled", "undervoltage-occurred", "throttled-occurred"]
    assert board.conditions(str(cpus / "none")) == {"temp_c": None, "throttled": [], "freq_hz": None}


def rapl_tree(root: Path, **counters: int) -> Path:
    """Zones as on a two-package Intel machine; psys, mmio and children must be left alone."""
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:1": "package-1",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for folder, name in zones.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "name").write_text(name + "\n")
        (root / folder / "max_energy_range_uj").write_text("1000000\n")
        (root / folder / "energy_uj").write_text("0\n")
    return root


def set_counter(root: Path, package: int, microjoules: int) -> None:
    (root / f"intel-rapl:{package}" / "energy_uj").write_text(f"{microjoules}\n")


def test_rapl_sums_packages_alone_and_unwraps(tmp_path: Path) -> None:
    root = rapl_tree(tmp_path)
    sensor = Sensor({"root": str(root)})
    assert sensor.probe()[0] == "ok"
    set_counter(root, 0, 900_000)
    sensor.open()
    set_counter(root, 0, 100_000)  # wrapped: 0.2 J
    set_counter(root, 1, 300_000)
    [(_, watts, counter_j)] = sensor.poll()
    assert counter_j == pytest.approx(0.5)
    assert watts > 0
    assert sensor.describe()["boundary"] == "package"
    assert sensor.describe()["rail"] == "package-0+package-1"


def test_rapl_without_permission_names_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = rapl_tree(tmp_path)

    def refuse(path: str) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("device_agents.sensors.rapl._integer", refuse)  # root may read everything
    state, reason, fix = Sensor({"root": str(root)}).probe()
    assert (state, "root only" in reason) == ("denied", True)
    assert fix.startswith("sudo chmod a+r ")


def test_rapl_absent_and_unreadable(tmp_path: Path) -> None:
    assert Sensor({"root": str(tmp_path / "none")}).probe()[0] == "absent"
    root = rapl_tree(tmp_path)
    (root / "intel-rapl:0" / "energy_uj").write_text("garbage")
    assert Sensor({"root": str(root)}).probe()[0] == "absent"


def test_a_failed_rapl_read_is_an_error_not_a_zero(tmp_path: Path) -> None:
    root = rapl_tree(tmp_path)
    sensor = Sensor({"root": str(root)})
    sensor.open()
    (root / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(OSError, match="energy_uj"):
        sensor.poll()
