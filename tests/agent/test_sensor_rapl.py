"""RAPL on the recorded tree of an Intel machine, and on what other machines have beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from device_agents.protocol import AgentError
from device_agents.sensors import rapl
from device_agents.sensors.rapl import Sensor
from tests.contracts.ttar import unpack

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "sensors" / "rapl_intel.ttar"
RANGE_UJ = 262143328850
DRAM_RANGE_UJ = 262143999938

Machine = Callable[..., None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(GOLDEN, tmp_path) / "sys/class/powercap"


def zone(root: Path, folder: str, name: str, microjoules: int = 1000, most: int = RANGE_UJ) -> None:
    (root / folder).mkdir(exist_ok=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (root / folder / file).write_text(f"{value}\n")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, root: Path) -> Machine:
    """``run(seconds, zone=watts, ...)``: time passes and counters go on; while the sensor waits they do so by 1 W."""
    clock_s = [100.0]
    monkeypatch.setattr(rapl, "now_s", lambda: clock_s[0])
    still: set[str] = set()

    def go_on(seconds: float, **watts: float) -> None:
        clock_s[0] += seconds
        for path in root.glob("intel-rapl*:*/energy_uj"):
            key = path.parent.name.replace("intel-rapl", "").replace("-", "").replace(":", "_").lstrip("_")
            power = watts.get("all", watts.get("z" + key, 0.0))
            if key not in still:
                most = int((path.parent / "max_energy_range_uj").read_text())
                path.write_text(f"{(int(path.read_text()) + round(power * seconds * 1e6)) % most}\n")

    monkeypatch.setattr(rapl.time, "sleep", lambda seconds: go_on(seconds, all=1.0))
    go_on.still = still  # type: ignore[attr-defined]
    return go_on


def test_the_recorded_package_wraps_at_its_own_range(root: Path, run: Machine) -> None:
    sensor = Sensor({"root": str(root)})
    assert sensor.probe() == ("ok", "package-0", "")
    (root / "intel-rapl:0/energy_uj").write_text(f"{RANGE_UJ - 100_000}\n")
    sensor.open()
    for _ in range(3):
        run(0.02, z0=20.0, z0_0=11.0)  # its core zone is a part of it
        [(t_s, watts, counter_j)] = sensor.poll()
        assert watts == pytest.approx(20.0)
    assert counter_j == pytest.approx(1.2)
    assert t_s > 100.0
    seen = sensor.describe()
    assert (seen["boundary"], seen["rail"], seen["total"]) == ("package", "package-0", ["package-0"])
    assert seen["rails"] == ["package-0", "package-0/core"]
    assert seen["includes"] == "processor package only; not memory modules, mainboard, disks, cards, power supply"
    assert seen["counts_energy"]


def test_packages_and_their_memory_are_summed_and_nothing_is_counted_twice(root: Path, run: Machine) -> None:
    zone(root, "intel-rapl:0:1", "uncore", 6564982278)
    zone(root, "intel-rapl:0:2", "dram", 2469474853, DRAM_RANGE_UJ)
    zone(root, "intel-rapl:1", "package-1")
    zone(root, "intel-rapl:1:0", "dram", DRAM_RANGE_UJ - 1000, DRAM_RANGE_UJ)
    zone(root, "intel-rapl:2", "psys")
    zone(root, "intel-rapl-mmio:0", "package-0")
    sensor = Sensor({"root": str(root)})
    total = ["package-0", "package-0/dram", "package-1", "package-1/dram"]
    assert sensor.probe() == ("ok", "+".join(total), "")
    sensor.open()
    run(0.02, z0=20.0, z0_0=11.0, z0_1=2.0, z0_2=3.0, z1=8.0, z1_0=1.5, z2=60.0, zmmio_0=20.0)
    [(_, watts, counter_j)] = sensor.poll()
    assert watts == pytest.approx(32.5)
    assert counter_j == pytest.approx(0.65)
    seen = sensor.describe()
    assert seen["total"] == total
    assert seen["rails"] == [*total[:1], "package-0/core", "package-0/uncore", *total[1:], "psys"]
    assert seen["includes"].startswith("processor package and its memory modules; not mainboard")
    assert seen["step_w"] == pytest.approx(2 * 61e-6 * 50)


@pytest.mark.parametrize(
    ("rail", "boundary", "watts"),
    [("psys", "board_input", 60.0), ("package-0", "package", 20.0), ("package-0/core", "rail", 11.0)],
)
def test_one_zone_alone(root: Path, run: Machine, rail: str, boundary: str, watts: float) -> None:
    zone(root, "intel-rapl:1", "psys")
    sensor = Sensor({"root": str(root), "rail": rail})
    sensor.open()
    run(0.02, z0=20.0, z0_0=11.0, z1=60.0)
    assert sensor.poll()[0][1] == pytest.approx(watts)
    seen = sensor.describe()
    assert (seen["boundary"], seen["total"]) == (boundary, [rail])
    assert seen["rails"] == ["package-0", "package-0/core", "psys"]
    assert (seen["gain_uncertainty"], "compare it with a meter" in seen["includes"]) == (
        (0.1, True) if rail == "psys" else (0.05, False)
    )


def test_mmio_is_read_where_it_is_no_twin(root: Path, run: Machine) -> None:
    for folder in ("intel-rapl:0:0", "intel-rapl:0"):
        (root / folder / "name").unlink()
    zone(root, "intel-rapl-mmio:0", "package-0")
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run(0.02, zmmio_0=9.0)
    assert sensor.poll()[0][1] == pytest.approx(9.0)


def test_amd_has_a_package_and_its_cores(tmp_path: Path, run: Machine, root: Path) -> None:
    zone(root, "intel-rapl:0", "package-0", 0, 65532610987)
    zone(root, "intel-rapl:0:0", "core", 0, 65532610987)
    zone(root, "intel-rapl:1", "package-1", 65532610987 - 10, 65532610987)
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run(0.1, z0=100.0, z0_0=80.0, z1=50.0)
    assert sensor.poll()[0][1:] == pytest.approx((150.0, 15.0))


def test_memory_that_is_not_counted_is_left_out_by_name(
    root: Path, run: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rapl, "MOVES_WITHIN_S", 0.05)
    zone(root, "intel-rapl:0:2", "dram", 0)
    run.still.add("0_2")  # type: ignore[attr-defined]
    sensor = Sensor({"root": str(root)})
    assert sensor.probe() == ("ok", "package-0; package-0/dram stands still: left out", "")
    sensor.open()
    assert sensor.describe()["rail"] == "package-0"
    assert sensor.describe()["includes"].endswith("; package-0/dram stands still: left out")
    assert Sensor({"root": str(root), "rail": "package-0/dram"}).probe()[0] == "absent"
    (root / "intel-rapl:0:2/energy_uj").unlink()
    (root / "intel-rapl:0:2/energy_uj").mkdir()  # reading it fails
    state, reason, _ = Sensor({"root": str(root)}).probe()
    assert (state, "package-0/dram cannot be read" in reason) == ("ok", True)


def test_a_counter_that_never_moves_is_no_source(root: Path, run: Machine) -> None:
    run.still.update(("0", "0_0"))  # type: ignore[attr-defined]
    state, reason, fix = Sensor({"root": str(root)}).probe()
    assert (state, "stands still at 240422366267" in reason, "virtual machine" in fix) == ("absent", True, True)


def test_no_sample_before_every_counter_has_moved_and_an_error_after_a_second(root: Path, run: Machine) -> None:
    zone(root, "intel-rapl:1", "package-1")
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run.still.add("1")  # type: ignore[attr-defined]
    for _ in range(49):
        run(0.02, z0=20.0)
        assert sensor.poll() == []
    run.still.clear()  # type: ignore[attr-defined]
    run(0.02, z0=20.0, z1=8.0)
    [(_, watts, _)] = sensor.poll()
    assert watts == pytest.approx(20.0 + 8.0 * 0.02)  # nothing was lost
    run.still.add("1")  # type: ignore[attr-defined]
    for _ in range(49):
        run(0.02, z0=20.0)
        assert sensor.poll() == []
    run(0.1, z0=20.0)
    with pytest.raises(OSError, match="intel-rapl:1/energy_uj is stale: it stands still for 1"):
        sensor.poll()


def test_a_sampler_that_was_kept_from_running_does_not_call_the_counter_stale(root: Path, run: Machine) -> None:
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run(30.0)
    assert sensor.poll() == []
    run(0.02, z0=20.0)
    assert len(sensor.poll()) == 1


def test_a_counter_that_was_reset_is_no_wrap(root: Path, run: Machine) -> None:
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run(0.02, z0=20.0)
    sensor.poll()
    (root / "intel-rapl:0/energy_uj").write_text("5\n")
    with pytest.raises(OSError, match=r"jumped from 240422.* was it reset"):
        sensor.poll()


def test_a_gap_in_which_it_may_have_wrapped_is_an_error(root: Path, run: Machine) -> None:
    sensor = Sensor({"root": str(root)})
    sensor.open()
    run(61.0, z0=20.0)
    with pytest.raises(OSError, match="not read for 61 s: it may have wrapped unseen"):
        sensor.poll()


def test_a_zone_that_there_is_not_names_those_there_are(root: Path, tmp_path: Path) -> None:
    state, reason, fix = Sensor({"root": str(root), "rail": "psys"}).probe()
    assert (state, reason) == ("absent", f"no RAPL zone psys in {root}; there are package-0, package-0/core")
    assert "option rail" in fix
    assert Sensor({"root": str(tmp_path / "none")}).probe()[0] == "absent"
    with pytest.raises(AgentError, match="no RAPL package zone"):
        Sensor({"root": str(tmp_path / "none")}).open()
    assert Sensor({"root": str(tmp_path / "none")}).describe()["rail"] == "package"
