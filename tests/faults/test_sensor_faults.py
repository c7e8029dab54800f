"""A power source dies, hangs, prints garbage or runs backwards under the real agent: no invented watt, nothing lost.

The source is one of the agent's own, on an interpreter of the test's (interpreters.py): its watts follow the load that
the agent really runs, until a file tells it to misbehave. One test has a monitor's hwmon folder instead.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agents.records import PowerTrace
from rig.connection.session import Session, Subject
from rig.profiles import DeviceProfile
from rig.quality.verdict import assess
from tests.agent_setup import QUICK, isolated, local_profile, small_model
from tests.faults.interpreters import STEPPING_CLOCK, with_rogue_sensor, wrapped
from tests.faults.monitor import BUSY_W, IDLE_W, PowerMonitor

__all__ = ["isolated"]  # a fixture

PLAN = QUICK._replace(quiet_s=0.6, window_s=0.25, min_windows=4, max_s=1.0)
BRIEF = QUICK._replace(quiet_s=0.2, window_s=0.1, min_windows=4, max_s=0.4)


PATIENCE_S = 2.5  # with a power source that hangs; ten seconds otherwise


def impatient(folder: Path, python: str) -> str:
    """An interpreter on which the agent gives a power source up sooner."""
    options = f'$([ "$3" = supervise ] && echo --source-patience-s {PATIENCE_S})'
    return wrapped(folder / "impatient", python, after=options)


class Rogue:
    """A profile whose power source obeys ``tell``."""

    def __init__(self, folder: Path, site: str = "") -> None:
        self.orders = folder / "orders"
        python = impatient(folder, with_rogue_sensor(folder / "device", self.orders, site))
        self.profile: DeviceProfile = local_profile(sensors=("battery",), python=python)

    def tell(self, order: str) -> None:
        self.orders.write_text(order)


@pytest.fixture
def rogue(isolated: Path) -> Rogue:
    return Rogue(isolated)


def subject_in(folder: Path) -> Subject:
    return Subject("small", path=small_model(folder / "m.onnx", size=64, channels=16))


def later(action: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    """A progress callback that acts once the windows have begun."""
    done: list[None] = []

    def act(progress: dict[str, Any]) -> None:
        if progress["windows"] and not done:
            done.append(None)
            action()

    return act


def mean_w(record: dict[str, Any], phase: dict[str, Any], inside_s: float = 0.0) -> float:
    return PowerTrace(**record["trace"]).mean_w(phase["t0_s"] + inside_s, phase["t1_s"] - inside_s)


def assert_honest(record: dict[str, Any]) -> None:
    """The watts are those of the load that ran: idle while waiting, more by the share of a processor that it had."""
    assert record["trace_problem"] is None
    quiet = [phase for phase in record["phases"] if phase["name"] == "quiet_after"]
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    assert mean_w(record, quiet[0], 0.1) == pytest.approx(IDLE_W, abs=0.25)
    busy_w = sum(mean_w(record, window, 0.02) for window in windows[:-1]) / len(windows[:-1])
    assert IDLE_W + 0.3 < busy_w < IDLE_W + 1.5 * BUSY_W  # others may want the processor too


MISBEHAVIOURS = {
    "die": "was killed by SIGSEGV",
    "break": "ended with exit status 1",
    "print garbage": "sent garbage",
    "not a number": "holds what is no number",
    "time runs backwards": "time went back",
    "counter runs backwards": "counter went back",
}


def test_a_source_that_misbehaves(rogue: Rogue, isolated: Path) -> None:
    subject = subject_in(isolated)
    with Session(rogue.profile, "test") as session:
        agent = session.hello["agent"]["pid"]
        for order, seen in MISBEHAVIOURS.items():
            tell = later(lambda order=order: rogue.tell(order))
            record = session.measure(subject, BRIEF, request_id=order.replace(" ", "-"), on_progress=tell)
            session.ack([record["id"]])
            rogue.orders.unlink(missing_ok=True)
            # The measurement itself is whole, and kept; its watts are refused with the reason.
            assert (record["phases"][-1]["name"], record["stopped"] in ("precise", "max_s")) == ("quiet_after", True)
            verdict = assess(record)
            assert (verdict.verdict, verdict.power_w) == ("rejected", None), order
            assert seen in str(verdict.reason)
            assert verdict.latency_s.value
        honest = session.measure(subject, PLAN, request_id="honest")
        session.ack(["honest"])
        assert session.pending() == []
        assert session.hello["agent"]["pid"] == agent, "the supervisor outlives its children"
    assert_honest(honest)


@pytest.mark.slow
def test_a_source_that_hangs_is_given_up(rogue: Rogue, isolated: Path) -> None:
    subject = subject_in(isolated)
    with Session(rogue.profile, "test") as session:
        record = session.measure(subject, PLAN, request_id="a", on_progress=later(lambda: rogue.tell("hang")))
        again = session.measure(subject, PLAN, request_id="b")
    assert f"did not answer for {PATIENCE_S}" in record["trace_problem"]
    assert record["phases"][-1]["name"] == "quiet_after"
    assert_honest(again)


@pytest.mark.slow
def test_a_source_that_hangs_when_asked_what_it_is_hides_no_other(rogue: Rogue, isolated: Path) -> None:
    rogue.tell("hang at probe")
    profile = rogue.profile.model_copy(update={"sensors": ("battery", "virtual")})
    with Session(profile, "test") as session:
        states = session.hello["sensors"]
        assert states["battery"]["state"] == "absent"
        assert "hung" in states["battery"]["reason"]
        assert states["battery"]["fix"]
        assert session.source == "virtual"


@pytest.mark.slow
def test_the_wall_clock_steps_by_hours_at_every_look(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the board and on the host: nothing but labels is made of the time of day."""
    import time as host_time

    real, looks = host_time.time, iter(range(1, 1_000_000))
    monkeypatch.setattr(host_time, "time", lambda: real() + (-1) ** (look := next(looks)) * 6 * 3600.0 * look)
    stepping = Rogue(isolated, STEPPING_CLOCK)
    with Session(stepping.profile, "test", lost_after_s=5.0) as session:
        pid = session.hello["agent"]["pid"]
        record = session.measure(subject_in(isolated), PLAN, request_id="a")
        other = session.measure(subject_in(isolated), PLAN, request_id="b")
        session.ack(["a", "b"])
        assert session.hello["agent"]["pid"] == pid, "no deadline took a step for silence"
    assert record["started_utc"][:10] != other["started_utc"][:10], "the labels stepped"
    for one in (record, other):
        assert_honest(one)
        starts = [phase["t0_s"] for phase in one["phases"]]
        assert starts == sorted(starts)
        assert 0 < one["phases"][-1]["t1_s"] - starts[0] < 30.0
        assert "clock" not in str(assess(one).reason)


@pytest.mark.slow
def test_a_monitor_whose_bus_hangs_and_one_that_says_nonsense(isolated: Path) -> None:
    agent: list[int] = []
    subject = subject_in(isolated)
    with PowerMonitor(isolated / "sys", lambda: agent[0] if agent else None) as monitor:
        profile = local_profile(sensors=("ina2xx",), sensor_options={"ina2xx": monitor.options})
        with Session(profile, "test") as session:
            agent.append(int(session.hello["agent"]["pid"]))
            record = session.measure(subject, PLAN, request_id="a")
            nonsense = session.measure(
                subject, PLAN, request_id="b", on_progress=later(lambda: monitor.say("-3 of something"))
            )
            session.ack(["a", "b"])
    assert_honest(record)
    # The machine may be shared: then the load drifts, or the sampler waits for its turn.
    shared = ("drifting", "no sample for")
    assert assess(record).ok or any(words in str(assess(record).reason) for words in shared)
    assert "power1_input" in nonsense["trace_problem"]
    assert assess(nonsense).power_w is None


@pytest.mark.slow
def test_a_read_that_blocks_in_the_kernel(isolated: Path) -> None:
    agent: list[int] = []
    with PowerMonitor(isolated / "sys", lambda: agent[0] if agent else None) as monitor:
        python = impatient(isolated, sys.executable)
        profile = local_profile(sensors=("ina2xx",), sensor_options={"ina2xx": monitor.options}, python=python)
        with Session(profile, "test") as session:
            agent.append(int(session.hello["agent"]["pid"]))
            hang = later(lambda: threading.Thread(target=monitor.hang).start())
            record = session.measure(subject_in(isolated), PLAN, request_id="a", on_progress=hang)
            session.ack(["a"])
    assert f"did not answer for {PATIENCE_S}" in record["trace_problem"]
    assert record["phases"][-1]["name"] == "quiet_after"
