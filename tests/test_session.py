"""The real agent over the local transport: the production path, with its processes killed and its links cut."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from device_agents.records import PowerTrace
from rig.connection.session import Session, Subject
from rig.errors import (
    BadInputError,
    DeviceBusyError,
    DeviceSetupError,
    ModelError,
    TransientDeviceError,
)
from rig.profiles import load_profile
from tests.agent_setup import (
    KERNELS,
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

__all__ = ["isolated"]  # a fixture

RECORD_KEYS = {
    "format_version", "id", "subject", "subject_sha256", "fps", "plan", "runtime", "runtime_version", "options", "kind",
    "serial", "started_utc", "phases", "trace", "trace_problem", "sensor", "clock", "inputs", "environment", "kernels",
}  # fmt: skip


def agent_pid(session: Session) -> int:
    return int(session.hello["agent"]["pid"])


def virtual(**options: object) -> Session:
    profile = load_profile("virtual-pi4")
    runtime = profile.runtime.model_copy(update={"options": {**profile.runtime.options, **options}})
    return Session(profile.model_copy(update={"runtime": runtime}), "test")


def test_measures_an_onnx_file_without_a_power_source(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    heard = []
    with Session(local_profile(sensors=()), "test") as session:
        record = session.measure(subject, QUICK, request_id="a", on_progress=heard.append)
        session.ack(["a"])
    assert set(record) >= RECORD_KEYS
    assert record["kind"] == "measured"
    assert record["trace"] is None
    assert record["trace_problem"] is None
    assert {phase["name"] for phase in record["phases"]} == {"warmup", "window"}
    assert all(0 < value < 0.1 for phase in record["phases"] for value in phase["latency_s"])
    assert record["inputs"]["distribution"] == "normal"
    assert heard[0]["phase"] == "warmup"
    assert not list((isolated / "cache" / "rig").glob("model-*"))


def test_paced_run_keeps_the_rate_and_counts_misses(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(fps=200.0, window_s=0.1, min_windows=2)
    with Session(local_profile(sensors=()), "test") as session:
        record = session.measure(subject, plan, request_id="a")
        hopeless = session.measure(subject, plan._replace(fps=1e6, window_s=0.01), request_id="b")
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    assert all(phase["count"] + phase["missed"] >= 20 for phase in windows)
    assert all(phase["t1_s"] - phase["t0_s"] >= 0.1 for phase in windows)
    assert sum(phase["missed"] for phase in hopeless["phases"]) > 100


def test_profile_scales_shares_to_the_unprofiled_latency(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "test") as session:
        record = session.measure(subject, QUICK, request_id="a", profile=True)
    windows = [phase for phase in record["phases"] if phase["name"] == "window"]
    mean_s = sum(w["latency_mean_s"] * w["count"] for w in windows) / sum(w["count"] for w in windows)
    assert sum(kernel["latency_s"] for kernel in record["kernels"]) == pytest.approx(mean_s)
    assert any(kernel["op"] in ("Conv", "FusedConv") for kernel in record["kernels"])


def test_inspect_returns_the_optimized_graph_without_weights(isolated: Path) -> None:
    import base64

    import onnx

    model = small_model(isolated / "m.onnx", channels=32)
    with Session(local_profile(sensors=()), "test") as session:
        facts = session.inspect(model, runs=5)
    graph = onnx.load_model_from_string(base64.b64decode(facts["model_b64"])).graph
    names = {node.name for node in graph.node}
    assert {node["name"] for node in facts["nodes"]} <= names
    assert len(base64.b64decode(facts["model_b64"])) < 32 * 32 * 9 * 4
    assert facts["total_latency_s"] > 0
    assert sum(node["share"] for node in facts["nodes"]) == pytest.approx(1.0)


def test_bad_models_and_requests_are_named(isolated: Path) -> None:
    broken = isolated / "broken.onnx"
    broken.write_bytes(b"not a model")
    dynamic = small_model(isolated / "dynamic.onnx", size="side")
    with Session(local_profile(sensors=()), "test") as session:
        with pytest.raises(ModelError, match="cannot load"):
            session.measure(Subject("broken", path=broken), QUICK, request_id="a")
        with pytest.raises(ModelError, match="dynamic") as error:
            session.measure(Subject("dynamic", path=dynamic), QUICK, request_id="b")
        assert "--shape" in str(error.value.fix)
        fixed = Subject("dynamic", path=dynamic, shape=[1, 8, 16, 16])
        assert session.measure(fixed, QUICK, request_id="c")["inputs"]["tensors"][0]["shape"] == [1, 8, 16, 16]
        with pytest.raises(ModelError, match="cannot be read"):
            session.measure(Subject("absent", path=isolated / "absent.onnx"), QUICK, request_id="d")
        with pytest.raises(BadInputError, match="format onnx"):
            session.measure(Subject("kernels", kernels=KERNELS), QUICK, request_id="e")
        with pytest.raises(BadInputError, match="plan"):
            session.measure(fixed, QUICK._replace(window_s=0.0), request_id="f")


def test_unsupported_sensors_are_said_to_be(isolated: Path) -> None:
    with Session(local_profile(sensors=("crystal-ball",)), "test") as session:
        assert session.hello["sensors"]["crystal-ball"]["state"] == "unsupported"
        assert "not supported by this version" in session.hello["sensors"]["crystal-ball"]["reason"]
        assert session.source is None


def test_no_python_is_a_setup_error(isolated: Path) -> None:
    with (
        pytest.raises(DeviceSetupError, match="python-that-is-not-there"),
        Session(local_profile(python="python-that-is-not-there"), "test"),
    ):
        pass


def test_virtual_measurement_is_simulated_and_its_energy_is_the_boards(isolated: Path) -> None:
    plan = QUICK._replace(quiet_s=1.0, window_s=0.5, rel_ci=0.05, max_s=20.0)
    with virtual() as session:
        record = session.measure(Subject("k", kernels=KERNELS), plan, request_id="a")
    assert record["kind"] == "simulated"
    assert record["trace_problem"] is None
    assert record["stopped"] == "precise"
    assert [record["phases"][0]["name"], record["phases"][-1]["name"]] == ["quiet_before", "quiet_after"]
    trace, clock = PowerTrace(**record["trace"]), record["clock"]
    quiet_w, busy_w = (_power_w(trace, clock, record["phases"][i]) for i in (0, 3))
    assert 2.0 < quiet_w < busy_w < 10.0
    assert 0 < clock["uncertainty_s"] < 0.01


def _power_w(trace: PowerTrace, clock: dict[str, float], phase: dict[str, float]) -> float:
    def there(t_s: float) -> float:
        return t_s + clock["offset_s"] + clock["drift"] * (t_s - clock["reference_s"])

    return trace.mean_w(there(phase["t0_s"]), there(phase["t1_s"]))


def test_measurements_of_one_session_share_its_processes(isolated: Path) -> None:
    with virtual() as session:
        session.measure(Subject("k", kernels=KERNELS), QUICK, request_id="a0")
        before = children_of(agent_pid(session))
        for i in range(20):
            session.measure(Subject("k", kernels=KERNELS), QUICK, request_id=f"a{i + 1}")
            session.ack([f"a{i + 1}"])
        assert children_of(agent_pid(session)) == before
    assert not any(exists(pid) for pid in before.values())


def test_runtime_crash_is_reported_with_its_signal_and_survived(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "test") as session:
        session.measure(subject, QUICK, request_id="warm")
        crash = signal_once(agent_pid(session), "runtime", signal.SIGSEGV)
        with pytest.raises(TransientDeviceError, match="SIGSEGV"):
            session.measure(subject, LONG, request_id="a", on_progress=crash)
        pid = agent_pid(session)
        assert session.measure(subject, QUICK, request_id="b")["id"] == "b"
        assert agent_pid(session) == pid


def test_sampler_death_ends_the_trace_not_the_measurement(isolated: Path) -> None:
    with virtual() as session:
        session.measure(Subject("k", kernels=KERNELS), QUICK, request_id="a")
        kill = signal_once(agent_pid(session), "sampler", signal.SIGKILL)
        plan = LONG._replace(max_s=20.0)
        record = session.measure(Subject("k", kernels=KERNELS), plan, request_id="b", on_progress=kill)
        again = session.measure(Subject("k", kernels=KERNELS), QUICK, request_id="c")
    assert "SIGKILL" in record["trace_problem"]
    assert record["phases"][-1]["name"] == "quiet_after"
    assert again["trace_problem"] is None


def test_the_same_id_is_not_measured_twice(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "test") as session:
        first = session.measure(subject, QUICK, request_id="a")
        assert session.measure(subject, QUICK, request_id="a") == first
        other = session.measure(subject, QUICK._replace(window_s=0.06), request_id="a")
        assert other["started_utc"] != first["started_utc"]
        session.ack(["a"])
        assert session.measure(subject, QUICK, request_id="a")["started_utc"] != first["started_utc"]


def test_unacknowledged_results_are_served_by_the_next_session(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "test") as session:
        first = session.measure(subject, QUICK, request_id="a")
        os.kill(agent_pid(session), signal.SIGKILL)
    with Session(local_profile(sensors=()), "test") as session:
        assert session.pending() == [first]
        assert session.measure(subject, QUICK, request_id="a") == first
        session.ack(["a"])
    with Session(local_profile(sensors=()), "test") as session:
        assert session.pending() == []


def test_an_agent_killed_while_measuring_is_replaced_and_nothing_is_left_behind(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(min_windows=40, rel_ci=1e-6, max_s=2.0)
    with Session(local_profile(sensors=()), "test") as session:
        session.measure(subject, QUICK, request_id="done")
        pid, orphans = agent_pid(session), children_of(agent_pid(session))
        killed = []

        def kill_once(progress: object) -> None:
            if not killed:
                killed.append(os.kill(pid, signal.SIGKILL))

        record = session.measure(subject, plan, request_id="a", on_progress=kill_once)
        assert record["id"] == "a"
        assert agent_pid(session) != pid
        assert [pending["id"] for pending in session.pending()] == []  # "done" is known to this session already
        session.ack(["done", "a"])
    wait_until(lambda: not any(exists(orphan) for orphan in orphans.values()))


def test_a_lost_host_lets_the_agent_finish_and_spool(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(min_windows=40, rel_ci=1e-6, max_s=1.0)
    session = Session(local_profile(sensors=()), "test")
    session.__enter__()
    pid = agent_pid(session)

    def hang_up(progress: object) -> None:
        session._connection._channel.stdin.close()
        raise ConnectionAbortedError("the host is gone")

    with pytest.raises(ConnectionAbortedError):
        session.measure(subject, plan, request_id="a", on_progress=hang_up)
    wait_until(lambda: not exists(pid))
    with contextlib.suppress(TransientDeviceError):
        session.close()
    with Session(local_profile(sensors=()), "test") as session:
        assert [record["id"] for record in session.pending()] == ["a"]
        session.ack(["a"])


def test_the_second_on_one_device_is_told_who_holds_it(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(local_profile(sensors=()), "alice") as first, Session(local_profile(sensors=()), "bob") as second:
        first.measure(subject, QUICK, request_id="a")
        with pytest.raises(DeviceBusyError, match="alice"):
            second.measure(subject, QUICK, request_id="b")
        assert second.hello["device"] == "local"


def test_giving_up_ends_the_measurement_at_its_next_window(isolated: Path) -> None:
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    session = Session(local_profile(sensors=()), "test")
    session.__enter__()
    pid = agent_pid(session)

    def interrupt(progress: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.measure(subject, LONG, request_id="a", on_progress=interrupt)
    session.close(abandon=True)
    assert not exists(pid)


def test_clock_of_the_device_is_this_one_within_the_round_trip(isolated: Path) -> None:
    with Session(local_profile(sensors=()), "test") as session:
        clock = session.clock()
    expected_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
    assert abs(clock.offset_s - expected_s) <= clock.uncertainty_s + 1e-4
    assert clock.uncertainty_s < 0.1


def test_hello_is_json(isolated: Path) -> None:
    with virtual() as session:
        assert json.loads(json.dumps(session.hello)) == session.hello
        assert session.source == "virtual"


def test_a_real_time_sensor_is_sampled_while_measuring(isolated: Path) -> None:
    zone = isolated / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "max_energy_range_uj").write_text("262143328850\n")
    stop = threading.Event()
    counting = threading.Thread(target=_count_energy, args=(zone, 5.0, stop))
    counting.start()
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(quiet_s=0.5, window_s=0.3, min_windows=4)
    try:
        with Session(local_profile(sensors=()), "test") as session:
            request = {
                "id": "a",
                "op": "measure",
                "runtime": "onnxruntime",
                "source": "rapl",
                "source_options": {"root": str(isolated / "powercap")},
                "subject": session._sent_subject(subject),
                "plan": plan.to_json(),
            }
            record = session._connection.ask(request, 60.0)["record"]
    finally:
        stop.set()
        counting.join()
    assert record["trace_problem"] is None
    assert record["clock"]["offset_s"] == 0.0
    assert record["sensor"]["name"] == "rapl"
    trace = PowerTrace(**record["trace"])
    whole = (record["phases"][0]["t0_s"], record["phases"][-1]["t1_s"])
    assert trace.mean_w(*whole) == pytest.approx(5.0, rel=0.1)


def _count_energy(zone: Path, watts: float, stop: threading.Event) -> None:
    """What the processor does: a counter that follows energy, replaced whole so that no reader sees half a number."""
    started_s = time.monotonic()
    while True:
        (zone / "partial").write_text(f"{int((time.monotonic() - started_s) * watts * 1e6)}\n")
        (zone / "partial").replace(zone / "energy_uj")
        if stop.wait(0.002):
            return
