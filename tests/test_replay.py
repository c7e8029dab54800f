"""Stored runs read again and served as devices; the golden ones must come out as they were."""

from __future__ import annotations

import json
import shlex
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_records import synthetic_record

from device_agents.sensors import raw, sysfs
from rig import cli
from rig.profiles import load_profile, profile_names
from rig.replay import analysis as replay
from rig.store import evidence
from rig.store.run import TRACE_ARRAYS
from rig.store.store import Run, Store
from tests.agent_setup import QUICK_PLAN, isolated, small_model

__all__ = ["isolated"]  # a fixture

ARCHIVES = sorted((Path(__file__).parent / "golden" / "runs").glob("*.tar.gz"))
SERVED = {"virtual": "simulated", "local": "measured", "board": "measured"}


def name_of(archive: Path) -> str:
    return archive.name.removesuffix(".tar.gz")


@pytest.fixture
def golden(request: pytest.FixtureRequest, isolated: Path) -> Run:
    """A golden run, unpacked into a store of its own."""
    runs = isolated / "home" / "runs"
    runs.mkdir(parents=True)
    with tarfile.open(request.param) as archive:
        archive.extractall(runs, filter="data")
    return Store().open_run(next(runs.iterdir()).name)


every_golden = pytest.mark.parametrize("golden", ARCHIVES, indirect=True, ids=name_of)
virtual = pytest.mark.parametrize("golden", [path for path in ARCHIVES if name_of(path) == "virtual"], indirect=True)


def rig(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert cli.main([*words, "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_there_is_a_golden_run_of_each_sort() -> None:
    assert {name_of(path) for path in ARCHIVES} == set(SERVED)


@every_golden
def test_golden_run_is_concluded_as_it_was(golden: Run) -> None:
    compared = replay.compare(golden)
    assert compared.differences == []
    assert compared.left_out == []
    assert compared.counts["records"] == len(golden.measurement_ids())
    assert compared.counts["rows"] >= 4
    assert compared.counts["predictions"] > 0 or golden.manifest["device"] != "virtual-pi4"


@every_golden
def test_golden_run_serves_the_same_campaign(
    golden: Run, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    served = rig(capsys, "replay", golden.id, "--serve")
    words = [word if word != golden.manifest["device"] else served["profile"] for word in golden.manifest["argv"][1:]]
    again = rig(capsys, *words)
    before = golden.read_json("result.json")
    for part in ("kernels", "idle_power_w", "overhead"):
        assert list(replay.differences(part, before[part], again[part])) == []
    assert again["kind"] == SERVED[request.node.callspec.id]
    assert [note["code"] for note in again["warnings"]].count("replayed") == 1
    replayed = Store().open_run(again["run_id"])
    for record in replayed.measurements(arrays=False):
        assert record["replayed"]["run"] == golden.id
        kept = evidence.of_measurement(replayed.path, record["id"])
        assert kept == evidence.of_measurement(golden.path, record["replayed"]["id"])


@virtual
def test_a_device_is_asked_for_nothing_that_the_run_lacks(
    golden: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    served = rig(capsys, "replay", golden.id, "--serve")
    error = rig(capsys, "measure", str(small_model(tmp_path / "other.onnx")), "--device", served["profile"], code=2)[
        "error"
    ]
    assert f"run {golden.id} holds no measurement of other" in error["message"]


@virtual
def test_a_changed_trace_is_found(golden: Run, capsys: pytest.CaptureFixture[str]) -> None:
    identity = next(record["id"] for record in golden.measurements(arrays=False) if record["id"].startswith("k"))
    path = golden.path / "traces" / f"{identity}.npz"
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["power_w"] = arrays["power_w"] * 1.001
    np.savez_compressed(path, **arrays)
    found = rig(capsys, "replay", golden.id, code=1)
    assert found["verdict"] == "different"
    assert any(identity in one["where"] and "power_w" in one["where"] for one in found["differences"])
    assert any(one["where"].startswith("rows") for one in found["differences"])


@virtual
def test_a_folder_from_elsewhere_is_replayed(golden: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    moved = golden.path.rename(tmp_path / "from-the-field")
    assert rig(capsys, "replay", str(moved))["verdict"] == "same"
    error = rig(capsys, "replay", golden.id, code=2)["error"]
    assert golden.id in error["message"]


def test_a_calibration_near_a_named_network_is_replayed_without_its_file(
    isolated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = isolated / "config" / "devices"
    devices.mkdir(parents=True)
    (devices / "virtual-pi4.toml").write_text(f"{QUICK_PLAN}\n[grid]\ncontexts = 2\n")
    named = small_model(isolated / "named.onnx")
    command = ("calibrate", "--device", "virtual-pi4", "--kernels", "8", "--around", str(named))
    run = Store().open_run(rig(capsys, *command)["run_id"])
    named.unlink()
    served = rig(capsys, "replay", run.id, "--serve")
    words = shlex.split(served["next"])[1:]
    assert str(named) not in words
    again = rig(capsys, *words)
    assert again["counts"]["networks_measured"] == 3
    assert list(replay.differences("rows", run.read_json("result.json")["kernels"], again["kernels"])) == []
    moved = run.path.rename(isolated / "from-the-field")
    compared = rig(capsys, "replay", str(moved))
    assert (compared["verdict"], compared["warnings"]) == ("same", [])
    assert compared["counts"]["predictions"] > 0


@pytest.mark.parametrize("name", profile_names())
def test_a_served_profile_is_the_run_s_own(isolated: Path, name: str) -> None:
    profile = load_profile(name)
    run = Store().new_run("measure", name, profile=evidence.profile_facts(profile))
    path = replay.write_profile(run, isolated / "config" / "devices")
    served = load_profile(path.stem)
    for part in ("simulated", "sensors", "boundary", "power_mode", "runtime", "plan", "grid"):
        assert getattr(served, part) == getattr(profile, part)
    assert served.transport.kind == "replay"
    assert served.missing_host() is None


def test_addresses_and_keys_do_not_enter_a_manifest() -> None:
    profile = load_profile("pi4")
    reached = profile.transport.model_copy(update={"host": "board.lan", "identity_file": "/keys/secret"})
    facts = json.dumps(evidence.profile_facts(profile.model_copy(update={"transport": reached})))
    assert "board.lan" not in facts
    assert "secret" not in facts


def test_evidence_is_stored_beside_the_record(isolated: Path) -> None:
    run = Store().new_run("measure", "pi4")
    kept = {
        "tree": [{"path": "/sys/name", "text": "ina226"}],
        "readings": [{"t_s": 1.5, "path": "/sys/p", "text": "7"}],
    }
    record = synthetic_record("m-1", subject="net", latency_s=1e-3, active_j=1e-3, quiet_w=2.0)
    run.add_measurement({**record, "evidence": kept})
    assert evidence.of_measurement(run.path, "m-1") == kept
    stored = run.measurement("m-1")
    assert "evidence" not in stored
    assert all(stored["trace"][name] == record["trace"].get(name) for name in TRACE_ARRAYS)
    assert evidence.of_measurement(run.path, "m-2") == {}


def test_what_a_sensor_reads_is_kept_within_bounds(tmp_path: Path) -> None:
    raw.start()
    for number in range(1000):
        path = tmp_path / f"attribute-{number % 100}"
        path.write_text(f"{number}\n")
        assert sysfs.text(str(path)) == str(number)
    raw.note("tegrastats", "x" * 100_000)
    kept = raw.kept()
    assert kept["reading_count"] == [{"count": 1001}]
    assert len(kept["tree"]) == raw.MOST_SOURCES
    assert kept["tree"][0] == {"path": str(tmp_path / "attribute-0"), "text": "0"}
    assert [entry["text"] for entry in kept["readings"][:20]] == [str(number) for number in range(20)]
    assert len(kept["readings"]) == raw.FIRST_READINGS + raw.LAST_READINGS
    assert len(kept["readings"][-1]["text"]) == raw.LONGEST_TEXT
    raw.start()
    assert raw.kept()["readings"] == []
