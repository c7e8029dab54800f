"""No room and no rights, on the board and on the host: nothing half-written, nothing lost, and what to do is said."""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path

import pytest

from device_agents.records import KernelSpec
from rig import cli
from rig.collect.collector import collect
from rig.connection.session import Session, Subject, rig_home
from rig.errors import DeviceSetupError, StoreError
from rig.profiles import load_profile
from rig.store.store import Store
from tests.agent_setup import KERNELS, QUICK, isolated, local_profile, small_model
from tests.faults.interpreters import wrapped

__all__ = ["isolated"]  # a fixture

# Nobody, not even root, makes files there.
NO_PLACE = "/sys/rig"

SPECS = [KernelSpec("conv", 1, c, 14, 14, c, 14, 14, 3, 3, 1, 1, fused="relu") for c in (16, 32, 48)]


def test_a_board_without_room_still_delivers_over_the_link(isolated: Path) -> None:
    """RLIMIT_FSIZE, set by a wrapper around the interpreter, stands for a full disk: writes fail as on one."""
    python = wrapped(isolated / "python", sys.executable, before="ulimit -f 1")  # 512 bytes: less than any result
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=(), python=python), "test") as session:
        record = session.measure(subject, QUICK, request_id="a")
        (problem,) = session.problems
        session.ack(["a"])
        assert session.measure(subject, QUICK, request_id="b")["id"] == "b"
        assert len(session.problems) == 1, "said once"
        session.ack(["b"])
    assert record["phases"]
    assert "could not keep the result: File too large" in str(problem["message"])
    assert "free some space on the device" in str(problem["fix"])
    with Session(local_profile(sensors=()), "test") as session:
        assert session.pending() == [], "no half of a result"


@pytest.mark.slow
def test_the_warning_reaches_the_person(
    isolated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = isolated / "config" / "devices"
    folder.mkdir(parents=True)
    python = wrapped(isolated / "python", sys.executable, before="ulimit -f 1")
    plan = "warmup_s = 0.1\nwarmup_max_s = 0.2\nwindow_s = 0.1\nmin_windows = 4\nmax_s = 1.0\nrel_ci = 0.9\n"
    (folder / "cramped.toml").write_text(f'python = "{python}"\n\n[plan]\n{plan}')
    model = small_model(isolated / "m.onnx")
    code = cli.main(["measure", str(model), "--device", "cramped"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "could not keep the result" in said.err
    assert "Fix: free some space on the device" in said.err


@pytest.mark.slow
def test_a_host_without_room_takes_the_result_from_the_device_later(isolated: Path) -> None:
    profile = load_profile("virtual-pi4")
    run = Store().new_run("calibrate", "virtual-pi4")
    real, lines = os.fsync, []

    def full(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith("measurements.jsonl"):
            lines.append(handle)
            if len(lines) > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)  # of this process alone: the agent is another one
        with pytest.raises(StoreError, match="No space left on device") as error, Session(profile, "test") as session:
            collect(session, run, SPECS, QUICK, runtime="virtual")
    assert "free some space" in str(error.value.fix)
    spool = rig_home() / "agent" / "virtual-pi4" / "spool.jsonl"
    (kept,) = [json.loads(line)["record"] for line in spool.read_text().splitlines() if "record" in json.loads(line)]
    before = run.measurement_ids()
    assert kept["id"] not in before
    with Session(profile, "test") as session:
        collect(session, Store().open_run(run.id), SPECS, QUICK, runtime="virtual")
        assert session.pending() == []
    records = list(Store().open_run(run.id).measurements(arrays=False))
    ids = [record["id"] for record in records]
    assert len(ids) == len(set(ids))
    assert before < set(ids)
    (taken,) = [record for record in records if record["id"] == kept["id"]]
    assert taken["started_utc"] == kept["started_utc"], "what the device kept, not measured again"


@pytest.mark.parametrize("variable", ["RIG_HOME", "XDG_CACHE_HOME"])
def test_a_home_that_may_only_be_read_is_named_with_the_way_round(
    isolated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str
) -> None:
    from rig.connection.agent_bundle import installed_bundle

    model = small_model(isolated / "m.onnx")
    installed_bundle.cache_clear()  # another home is another process, really
    monkeypatch.setenv(variable, NO_PLACE)
    try:
        code = cli.main(["measure", str(model), "--device", "local"])
    finally:
        installed_bundle.cache_clear()
    said = capsys.readouterr()
    assert code == 3
    assert NO_PLACE in said.err
    assert f"{variable} to" in said.err, "the fix names the variable to set"
    assert said.out == ""


def test_an_agent_without_a_place_for_its_state_is_a_setup_error(
    isolated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIG_HOME", NO_PLACE)
    with (
        pytest.raises(DeviceSetupError, match=r"cannot write its files.*cannot keep its state in /sys/rig") as error,
        Session(local_profile(sensors=()), "test"),
    ):
        pass
    assert "free some space, make ~/.cache writable" in str(error.value.fix)


def test_a_full_disk_does_not_cost_the_lock_or_the_session(isolated: Path) -> None:
    """Where not even the lock's note can be written."""
    python = wrapped(isolated / "python", sys.executable, before="ulimit -f 0")
    profile = load_profile("virtual-pi4").model_copy(update={"python": python})
    with Session(profile, "test") as session:
        with pytest.raises(DeviceSetupError, match="File too large") as error:
            session.measure(Subject("k", kernels=KERNELS), QUICK, request_id="a")
        assert "free some space on the device" in str(error.value.fix)
        assert session.clock().uncertainty_s < 1.0, "the agent goes on answering"
