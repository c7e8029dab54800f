"""The way to the board fails: cut, slow, half open, the board without power; over a real sshd on loopback.

Seen at the physical edge only: a TCP proxy stands for the cable, killing all of the agent's processes for a power cut.
"""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device_agents.protocol import LineWriter
from rig.connection.session import Session, Subject
from rig.profiles import DeviceProfile
from tests.agent_setup import QUICK, children_of, exists, isolated, local_profile, small_model, wait_until
from tests.fakes.sshd import LoopbackSshd
from tests.faults.boards import board_profile, processes_of, sent_to
from tests.faults.proxy import LinkProxy

__all__ = ["isolated"]  # a fixture

# About a second of windows, whatever they show.
SECOND = QUICK._replace(min_windows=20, rel_ci=1e-6, max_s=1.0)


@pytest.fixture
def cable(sshd: LoopbackSshd) -> Iterator[LinkProxy]:
    proxy = LinkProxy(sshd.port)
    yield proxy
    proxy.close()


@pytest.fixture
def board(sshd: LoopbackSshd, cable: LinkProxy) -> DeviceProfile:
    return board_profile(sshd, cable.port)


def once(action: Callable[[], Any]) -> Callable[[object], None]:
    """A progress callback that does something at its first call, well within the measurement."""
    done: list[Any] = []

    def act(progress: object) -> None:
        if not done:
            done.append(None)
            action()

    return act


def utc_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_the_cable_pulled_while_measuring(board: DeviceProfile, cable: LinkProxy, isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    cut_at: list[str] = []

    def pull() -> None:
        cut_at.append(utc_now())
        cable.cut()

    with Session(board, "test") as session:
        before = int(session.hello["agent"]["pid"])
        record = session.measure(subject, SECOND, request_id="a", on_progress=once(pull))
        assert record["started_utc"] < cut_at[0], "what the first agent measured is what came, nothing was repeated"
        assert int(session.hello["agent"]["pid"]) != before
        session.ack(["a"])
        assert session.pending() == []
    wait_until(lambda: not exists(before))


@pytest.mark.slow
def test_a_half_open_link_is_noticed_at_both_ends(board: DeviceProfile, cable: LinkProxy, isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    frozen_at: list[str] = []

    def freeze() -> None:
        frozen_at.append(utc_now())
        cable.freeze()

    with Session(board, "test", heartbeat_s=0.2, lost_after_s=1.5) as session:
        pid = int(session.hello["agent"]["pid"])
        children = children_of(pid)
        record = session.measure(subject, SECOND, request_id="a", on_progress=once(freeze))
        assert record["started_utc"] < frozen_at[0]
        session.ack(["a"])
        # The first agent hears nobody either: it has spooled, restored and left without the connection ever ending.
        assert not exists(pid)
        assert not any(exists(child) for child in children.values())


@pytest.mark.slow
def test_a_slow_link_only_takes_longer(sshd: LoopbackSshd, isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    slow = LinkProxy(sshd.port, delay_s=0.03)
    try:
        with Session(board_profile(sshd, slow.port), "test", heartbeat_s=0.2, lost_after_s=3.0) as session:
            pid = int(session.hello["agent"]["pid"])
            assert session.measure(subject, QUICK, request_id="a")["id"] == "a"
            clock = session.clock()
            assert int(session.hello["agent"]["pid"]) == pid, "slow is not lost"
    finally:
        slow.close()
    expected_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert clock.uncertainty_s >= 0.0275, "half of the round trip is open"
    assert abs(clock.offset_s - expected_s) <= clock.uncertainty_s


@pytest.mark.slow
def test_a_board_without_power_comes_back(
    board: DeviceProfile, sshd: LoopbackSshd, isolated: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    spool = isolated / "device-home/.cache/rig/state/board/spool.jsonl"
    booted = threading.Event()

    def lose_power() -> None:
        agent = int(session.hello["agent"]["pid"])
        sent_to(processes_of(agent), signal.SIGKILL)
        sshd.stop()
        with spool.open("ab") as file:
            file.write(b'{"key":"what was being written when the pow')

        def boot() -> None:
            time.sleep(1.5)
            sshd.restart()
            booted.set()

        threading.Thread(target=boot).start()

    with Session(board, "test") as session:
        first = session.measure(subject, QUICK, request_id="before")  # spooled, not acknowledged
        second = session.measure(subject, SECOND, request_id="during", on_progress=once(lose_power))
        assert booted.is_set()
        assert second["id"] == "during"
        assert session.measure(subject, QUICK, request_id="before") == first, "from the spool, not measured again"
        session.ack(["before", "during"])
        assert session.pending() == []
    assert spool.read_bytes() == b""
    assert "waiting up to" in capfd.readouterr().err
    assert [entry.name for entry in spool.parent.iterdir() if entry.name.startswith("run-")] == []


@pytest.mark.slow
def test_a_board_that_stays_away_is_an_error_that_says_so(board: DeviceProfile, sshd: LoopbackSshd) -> None:
    from rig.errors import UnreachableError

    with Session(board, "test", reboot_s=0.5) as session:
        agent = int(session.hello["agent"]["pid"])
        sent_to(processes_of(agent), signal.SIGKILL)
        sshd.stop()
        with pytest.raises(UnreachableError, match=r"cannot be reached|SSH failed") as error:
            session.measure(Subject("k", path=Path(__file__)), QUICK, request_id="a")
    assert error.value.exit_code == 3
    assert error.value.fix


def test_writing_to_somebody_who_does_not_read_ends_when_the_link_is_lost() -> None:
    """A result larger than all buffers, on a link that is half open: the agent must not hang in it for ever."""
    reading, writing = os.pipe()
    lost = threading.Event()
    writer = LineWriter(writing, lost.is_set)
    threading.Timer(0.2, lost.set).start()
    try:
        with pytest.raises(TimeoutError):
            writer.send({"id": "a", "record": "x" * 1_000_000})
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.slow
def test_a_stopped_agent_is_replaced(isolated: Path) -> None:
    """A board that hangs: its processes exist and answer nothing, and a request larger than the pipe is on its way."""
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "test", heartbeat_s=0.2, lost_after_s=1.0) as session:
        pid = int(session.hello["agent"]["pid"])
        stopped = once(lambda: sent_to(processes_of(pid), signal.SIGSTOP))
        assert session.measure(subject, SECOND, request_id="a", on_progress=stopped)["id"] == "a"
        assert int(session.hello["agent"]["pid"]) != pid
        session.ack(["a"])
    assert not exists(pid)
