"""Processes of the agent end where they should not, and the device's disk holds what a power cut left there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from rig.connection.session import Session, Subject, rig_home
from rig.errors import DeviceBusyError, TransientDeviceError
from rig.profiles import DeviceProfile
from tests.agent_setup import (
    LONG,
    QUICK,
    children_of,
    exists,
    isolated,
    local_profile,
    signal_once,
    small_model,
    wait_until,
)
from tests.faults.boards import processes_of, sent_to

__all__ = ["isolated"]  # a fixture


@pytest.fixture
def profile() -> DeviceProfile:
    return local_profile(sensors=())


def pid_of(session: Session) -> int:
    return int(session.hello["agent"]["pid"])


def state_folder() -> Path:
    return rig_home() / "agent" / "local"


@pytest.mark.slow
def test_killed_for_memory_is_said_to_be(isolated: Path, profile: DeviceProfile) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        session.measure(subject, QUICK, request_id="warm")
        kill = signal_once(pid_of(session), "runtime", signal.SIGKILL)
        with pytest.raises(TransientDeviceError, match=r"killed by SIGKILL .*out of memory"):
            session.measure(subject, LONG, request_id="a", on_progress=kill)
        assert session.measure(subject, QUICK, request_id="b")["id"] == "b"
        session.ack(["warm", "b"])
        assert session.pending() == []


def test_the_lock_of_a_dead_holder_is_free_at_once(isolated: Path, profile: DeviceProfile) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "alice") as first, Session(profile, "bob") as second:
        first.measure(subject, QUICK, request_id="a")
        with pytest.raises(DeviceBusyError, match=r"alice .* is measuring on this device since 20") as busy:
            second.measure(subject, QUICK, request_id="b")
        assert "end that process on the device" in str(busy.value.fix)
        orphans = processes_of(pid_of(first))
        os.kill(pid_of(first), signal.SIGKILL)
        wait_until(lambda: not any(exists(pid) for pid in orphans))  # its last thread has ended too
        assert second.measure(subject, QUICK, request_id="b")["id"] == "b"


def test_two_agents_share_one_spool(isolated: Path, profile: DeviceProfile) -> None:
    """Another host's results stay, whoever acknowledges what."""
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "bob") as bob:  # started first: it read the spool before anything was in it
        with Session(profile, "alice") as alice:
            of_alice = alice.measure(subject, QUICK, request_id="of-alice")
        bob.measure(subject, QUICK, request_id="of-bob")
        bob.ack(["of-bob"])
        assert bob.measure(subject, QUICK, request_id="of-alice") == of_alice, "served, not measured again"
    with Session(profile, "alice") as alice:
        assert alice.pending() == [of_alice]
        alice.ack(["of-alice"])


def test_the_files_of_a_killed_agent_are_cleared_away(isolated: Path, profile: DeviceProfile) -> None:
    with Session(profile, "one") as living:
        with Session(profile, "two") as killed:
            assert len(list(state_folder().glob("run-*"))) == 2
            sent_to(processes_of(pid_of(killed)), signal.SIGKILL)
            wait_until(lambda: not exists(pid_of(killed)))
        with Session(profile, "three"):
            assert len(list(state_folder().glob("run-*"))) == 2, "one of the living, one of the third"
        assert children_of(pid_of(living))
    assert list(state_folder().glob("run-*")) == []


def test_a_spool_cut_within_a_line_loses_nothing_that_was_sent(isolated: Path, profile: DeviceProfile) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        first = session.measure(subject, QUICK, request_id="a")
        sent_to(processes_of(pid_of(session)), signal.SIGKILL)
    with (state_folder() / "spool.jsonl").open("ab") as file:
        file.write(json.dumps({"key": "b@0", "record": first}).encode()[:200])
    with Session(profile, "test") as session:
        assert session.pending() == [first]
        assert session.problems == [], "a result that was never sent is nothing to be told about"
        session.ack(["a"])


@pytest.mark.slow
def test_damage_in_the_middle_of_the_spool_is_moved_aside_and_said(isolated: Path, profile: DeviceProfile) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        first = session.measure(subject, QUICK, request_id="a")
        second = session.measure(subject, QUICK, request_id="b")
        sent_to(processes_of(pid_of(session)), signal.SIGKILL)
    spool = state_folder() / "spool.jsonl"
    line_of_first, line_of_second = spool.read_bytes().splitlines(keepends=True)
    spool.write_bytes(line_of_first + b"\0" * 4096 + b"\n" + line_of_second)  # as a block that never reached the disk
    with Session(profile, "test") as session:
        assert session.pending() == [first, second]
        (problem,) = session.problems
        assert "1 damaged lines of the device's spool were moved to" in str(problem["message"])
        session.ack(["a", "b"])
    assert (state_folder() / "spool.jsonl.damaged").read_bytes() == b"\0" * 4096 + b"\n"
    with Session(profile, "test") as session:
        assert session.problems == []


def test_the_spool_does_not_grow_for_ever_beside_a_result_nobody_fetches(tmp_path: Path) -> None:
    from device_agents import spool as spooling
    from device_agents.spool import Spool

    path = tmp_path / "spool.jsonl"
    spool = Spool(str(path))
    spool.add("of another host", {"x": 1})
    for i in range(30):
        spool.add(f"k{i}", {"x": "y" * (spooling.COMPACT_BYTES // 10)})
        spool.acknowledge([f"k{i}"])
        assert path.stat().st_size < 1.3 * spooling.COMPACT_BYTES
    assert Spool(str(path)).keys() == ["of another host"]
