"""ONNX Runtime crashes, runs out of memory, or is another version than the campaign began with; Python is too old.

The engine is the real one behind a package of its name that obeys a file (interpreters.py).
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from device_agents.records import KernelSpec
from rig.collect.collector import collect
from rig.collect.plan import job_of
from rig.configuration import configuration_of
from rig.connection.session import Session, Subject
from rig.errors import DeviceSetupError, ModelError, TransientDeviceError
from rig.store.store import Run, RunInfo, Store
from tests.agent_setup import LONG, QUICK, children_of, exists, isolated, local_profile, signal_child, small_model
from tests.faults.interpreters import ANCIENT, interpreter, with_onnxruntime

__all__ = ["isolated"]  # a fixture

KERNEL = KernelSpec("conv", 1, 16, 14, 14, 16, 14, 14, 3, 3, 1, 1, fused="relu")


@pytest.mark.parametrize(
    ("order", "kind", "seen"),
    [
        ("segv", TransientDeviceError, "killed by SIGSEGV during run"),
        pytest.param("kill", TransientDeviceError, "out of memory", marks=pytest.mark.slow),
        pytest.param("memory", ModelError, "not enough memory on the device during run", marks=pytest.mark.slow),
    ],
)
def test_the_engine_ends_within_an_inference(isolated: Path, order: str, kind: type[Exception], seen: str) -> None:
    orders = isolated / "orders"
    profile = local_profile(sensors=(), python=with_onnxruntime(isolated / "venv", orders))
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    with Session(profile, "test") as session:
        agent = int(session.hello["agent"]["pid"])
        session.measure(subject, QUICK, request_id="before")
        with pytest.raises(kind, match=seen) as error:
            _with_order(session, subject, orders, order)
        assert error.value.fix  # type: ignore[attr-defined]
        again = session.measure(subject, QUICK, request_id="a")
        assert again["id"] == "a"
        assert int(session.hello["agent"]["pid"]) == agent, "the supervisor survived it"
        session.ack(["before", "a"])
        assert session.pending() == []
        children = children_of(agent)
    assert not any(exists(pid) for pid in children.values())


def _with_order(session: Session, subject: Subject, orders: Path, order: str) -> None:
    told: list[None] = []

    def tell(progress: object) -> None:
        if not told:
            told.append(None)
            orders.write_text(order)

    session.measure(subject, LONG, request_id="a", on_progress=tell)


@pytest.mark.slow
def test_another_version_in_the_middle_of_a_campaign_is_refused(isolated: Path) -> None:
    orders = isolated / "orders"
    profile = local_profile(sensors=(), python=with_onnxruntime(isolated / "venv", orders))
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(max_s=0.2)
    with Session(profile, "test") as session:
        run = _run_of(session, subject)
        orders.write_text("version 1.2.3")
        signal_child(int(session.hello["agent"]["pid"]), "runtime", signal.SIGKILL)  # the next one is the other version
        with pytest.raises(
            DeviceSetupError, match=r"has changed since .*runtime_version was .*, is now 1\.2\.3"
        ) as error:
            collect(session, run, [KERNEL], plan, runtime="onnxruntime")
        assert "--fresh" in str(error.value.fix)
        assert {record["runtime_version"] for record in run.measurements(arrays=False)} <= {_version(run)}
        orders.unlink()
        signal_child(int(session.hello["agent"]["pid"]), "runtime", signal.SIGKILL)
        rows = collect(session, run, [KERNEL], plan, runtime="onnxruntime")
    assert rows
    assert {record["runtime_version"] for record in run.measurements(arrays=False)} == {_version(run)}
    ids = [record["id"] for record in run.measurements(arrays=False)]
    assert len(ids) == len(set(ids))
    assert [event["event"] for event in run.events()].count("refused") == 1


def _version(run: Run) -> str:
    assert run.info is not None
    return run.info.configuration.runtime_version


def _run_of(session: Session, subject: Subject) -> Run:
    """A run whose configuration is what the device is now."""
    record = session.measure(subject, QUICK, request_id="probe")
    session.ack(["probe"])
    run = Store().new_run("calibrate", "local")
    run.set_info(RunInfo(configuration_of(session.profile, record), "agent", record["started_utc"], record["kind"]))
    return run


@pytest.mark.slow
def test_a_spooled_result_of_another_version_is_not_taken_for_the_campaigns(isolated: Path) -> None:
    """The host is killed before it can look at a result; the next start finds it in the spool."""
    orders = isolated / "orders"
    profile = local_profile(sensors=(), python=with_onnxruntime(isolated / "venv", orders))
    subject = Subject("small", path=small_model(isolated / "m.onnx"))
    plan = QUICK._replace(max_s=0.2)
    with Session(profile, "test") as session:
        run = _run_of(session, subject)
        collect(session, run, [KERNEL], plan, runtime="onnxruntime")
        complete = run.measurement_ids()
    lines = (run.path / "measurements.jsonl").read_text().splitlines(keepends=True)
    (run.path / "measurements.jsonl").write_text("".join(lines[:-1]))
    run = Store().open_run(run.id)
    (lost,) = complete - run.measurement_ids()
    orders.write_text("version 1.2.3")
    with Session(profile, "test") as session:
        session.ack = lambda ids: None  # type: ignore[method-assign]  # killed before it could say so
        with pytest.raises(DeviceSetupError, match="has changed"):
            collect(session, run, [KERNEL], plan, runtime="onnxruntime")
    orders.unlink()
    with Session(profile, "test") as session:
        collect(session, run, [KERNEL], plan, runtime="onnxruntime")
        assert session.pending() == []
    records = list(run.measurements(arrays=False))
    assert {record["runtime_version"] for record in records} == {_version(run)}
    ids = [record["id"] for record in records]
    assert len(ids) == len(set(ids))
    assert lost in ids, "it was measured again, by the version of the campaign"
    # The same jobs, how often each was repeated aside: that is for a busy machine to say.
    assert {job_of(identity)[0] for identity in ids} == {job_of(identity)[0] for identity in complete}
    assert [event["event"] for event in run.events()].count("refused") >= 1


def test_a_python_that_is_too_old_says_so(isolated: Path) -> None:
    """The zipapp's own entry looks at the version, before anything newer is parsed."""
    with (
        pytest.raises(DeviceSetupError, match=r"Python there is too old.*3\.5 is too old, 3\.6 is needed") as error,
        Session(local_profile(python=interpreter(isolated / "venv", ANCIENT)), "test"),
    ):
        pass
    assert error.value.exit_code == 3
    assert "set python in the profile" in str(error.value.fix)


@pytest.mark.slow
def test_no_memory_to_load_a_model(isolated: Path) -> None:
    """RLIMIT_AS, set by a wrapper around the interpreter, stands for a board with too little memory."""
    import sys

    from tests.faults.interpreters import wrapped

    big = small_model(isolated / "big.onnx", size=2048, channels=32)
    python = wrapped(isolated / "python", sys.executable, before="ulimit -v 1200000")
    with Session(local_profile(sensors=(), python=python), "test") as session:
        agent = int(session.hello["agent"]["pid"])
        with pytest.raises((ModelError, TransientDeviceError)) as error:
            session.measure(Subject("big", path=big), QUICK, request_id="a")
        assert "memory" in error.value.message or "alloc" in error.value.message
        small = Subject("small", path=small_model(isolated / "m.onnx"))
        assert session.measure(small, QUICK, request_id="b")["id"] == "b"
        assert int(session.hello["agent"]["pid"]) == agent
    assert os.path.exists(big)
