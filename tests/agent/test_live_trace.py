"""A power source that hangs, dies, errs or goes stale: the trace says so, and invents nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from device_agents.child import Child, ChildDied, how_it_ended
from device_agents.clocks import ClockMap
from device_agents.protocol import clock_domain, now_s
from device_agents.trace import LiveTrace

# A sampler process whose sensor misbehaves: the physical edge.
STUB = """
import json, os, sys, time
description = {"rate_hz": 100.0, "window_s": 0.01, "boundary": "package", "rail": "r", "clock": "%s"}
for line in sys.stdin:
    op = json.loads(line)["op"]
    if op == "open":
        answer = description
    elif op == "drain":
        %s
    else:
        answer = {"exchanges": []}
    sys.stdout.write(json.dumps({"answer": answer}) + "\\n")
    sys.stdout.flush()
"""

Children = list[Child]


@pytest.fixture
def children() -> Iterator[Children]:
    started: Children = []
    yield started
    for child in started:
        child.kill()


def traced(children: Children, drain: str, clock: str | None = None) -> LiveTrace:
    child = Child("sampler", [sys.executable, "-c", STUB % (clock or clock_domain(), drain)])
    children.append(child)
    return LiveTrace(child, "stub", {})


def answering(samples: str, problem: str = "None") -> str:
    fields = "'more': False, 'missed': 2, 'latest_s': 0.003, 'scheduling': 'ordinary', 'stamp_uncertainty_s': 0.0"
    return f"answer = {{'samples': {samples}, 'problem': {problem}, {fields}}}"


def test_energy_of_a_window(children: Children) -> None:
    live = traced(children, answering("[[0.01 * i, 3.0] for i in range(200)]"))
    live.drain()
    assert live.energy_j(0.5, 1.5, ClockMap(0.0, 0.0, 0.0, 0.0)) == pytest.approx(3.0)
    assert live.energy_j(0.5, 5.0, ClockMap(0.0, 0.0, 0.0, 0.0)) is None
    live.check_covers(0.5, 1.5)
    assert live.problem is None


def test_a_hanging_sensor_is_given_up(children: Children) -> None:
    assert Child("sampler").patience_s == 10.0
    live = traced(children, "time.sleep(60)")
    live._sampler.patience_s = 0.2
    before_s = now_s()
    live.drain()
    live.drain()
    assert now_s() - before_s < 5.0
    assert "did not answer" in str(live.problem)
    assert live.to_json() is None


def test_a_dying_sensor_is_named_with_its_signal(children: Children) -> None:
    live = traced(children, "os.kill(os.getpid(), 11)")
    live.drain()
    assert "SIGSEGV" in str(live.problem)


def test_a_reading_error_keeps_the_samples_before_it(children: Children) -> None:
    live = traced(children, answering("[[0.0, 1.0], [0.01, 1.0]]", "'reading failed: EIO'"))
    live.drain()
    live.drain()
    assert live.problem == "reading failed: EIO"
    assert (live.to_json() or {})["power_w"] == [1.0, 1.0]


def test_a_stale_sensor_is_found(children: Children) -> None:
    live = traced(children, answering("[[t, 3.0] for t in (0.0, 0.01, 0.02, 0.03, 9.0, 9.01)]"))
    live.drain()
    live.check_covers(0.0, 9.0)
    assert "stale: no new sample for" in str(live.problem)


def test_a_counter_that_never_moves_is_stale(children: Children) -> None:
    live = traced(children, answering("[[0.01 * i, 0.0, 7.0] for i in range(200)]"))
    live.drain()
    live.check_covers(0.1, 1.5)
    assert "never moved" in str(live.problem)


def test_a_clock_never_compared_is_a_problem(children: Children) -> None:
    live = traced(children, answering("[[0.01 * i, 3.0] for i in range(200)]"), clock="elsewhere")
    live.exchange_clocks()
    live.drain()
    live.check_covers(0.1, 1.5)
    assert "could not be compared" in str(live.problem)


def test_how_a_process_ended_in_words() -> None:
    assert how_it_ended(3) == "ended with exit status 3"
    assert how_it_ended(-9) == "killed by SIGKILL"


def test_a_child_that_died_between_requests_is_not_silently_replaced(children: Children) -> None:
    child = Child("stub", [sys.executable, "-c", STUB % ("c", answering("[]"))])
    children.append(child)
    child.ask({"op": "open"}, 10.0)
    child.ask({"op": "drain"}, 10.0)
    process = child._process
    assert process is not None
    process.kill()
    process.wait()
    with pytest.raises(ChildDied, match="SIGKILL"):
        child.ask({"op": "drain"}, 10.0)


def test_how_the_sampler_kept_up_is_said(children: Children) -> None:
    live = traced(children, answering("[[0.01 * i, 3.0] for i in range(200)]"))
    live.drain()
    assert live.sampling() == {"samples": 200, "missed": 2, "latest_s": 0.003, "scheduling": "ordinary"}


def test_a_clock_that_steps_between_exchanges_ends_the_trace(children: Children) -> None:
    child = Child("sampler", [sys.executable, "-c", STUB.replace('{"exchanges": []}', STEPPING) % ("x", "answer = {}")])
    children.append(child)
    live = LiveTrace(child, "stub", {})
    live.exchange_clocks()
    assert "clock step" in str(live.problem)


STEPPING = '{"exchanges": [[t, t + 5.0 + 60.0 * (t > 3), t + 5.0 + 60.0 * (t > 3), t + 1e-4] for t in range(8)]}'
