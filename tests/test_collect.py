"""Collecting: every kernel once whatever happens, in an order that covers all kinds early, and rows that are true."""

import collections
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fake_session import INVOKE_J, INVOKE_S, QUIET_W, FakeSession, kernel_cost

from device_agents.records import KernelSpec, MeasurePlan
from rig.collect.collector import collect, read_campaign, rows_from_run
from rig.collect.plan import chain_lengths, kinds_in_turn, plan_campaign
from rig.errors import BadInputError, StoreError, TransientDeviceError
from rig.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
PLAN = MeasurePlan(window_s=0.3, min_windows=10, quiet_s=0.5, rel_ci=0.02)


def conv(channels, size=14):
    return KernelSpec("conv", 1, channels, size, size, channels, size, size, 3, 3, 1, 1)


def relu(channels):
    return KernelSpec("activation", 1, channels, 56, 56, channels, 56, 56, fused="relu")


KERNELS = [conv(16), conv(32), conv(48), conv(64), relu(16), relu(64)]


@pytest.fixture
def run(tmp_path):
    return Store(tmp_path / "home").new_run("calibrate", "fake")


@pytest.fixture
def session(tmp_path):
    return FakeSession(tmp_path / "device")


def gather(session, run, **options):
    return collect(session, run, KERNELS, PLAN, runtime="virtual", **options)


def test_rows_are_the_kernels_costs(session, run):
    rows = gather(session, run)
    assert {row.kernel for row in rows} == set(KERNELS)
    for row in rows:
        seconds, joules = kernel_cost(row.kernel)
        assert row.latency_s == pytest.approx(seconds, abs=4 * row.latency_se_s + 1e-3 * seconds)
        assert row.energy_active_j == pytest.approx(joules, abs=4 * row.energy_se_j)
        assert row.latency_se_s < 0.02 * seconds
        assert row.source == "chain"
    assert len({row.group for row in rows}) == len(KERNELS)
    collected = read_campaign(run)
    assert collected.rows == rows
    assert rows_from_run(Store(run.path.parent.parent).open_run(run.id)) == rows
    assert collected.problems == []
    assert collected.kind == "simulated"
    assert collected.overhead[0] == pytest.approx(INVOKE_S, rel=0.3)
    assert collected.overhead[1] == pytest.approx(INVOKE_J, rel=0.5)
    assert collected.idle_power_w[1] < QUIET_W < collected.idle_power_w[2]


def test_a_second_call_measures_nothing(session, run):
    first = gather(session, run)
    count = len(session.measured())
    assert gather(session, run) == first
    assert len(session.measured()) == count
    assert session.pending() == []


def test_more_kernels_measure_only_the_new(session, run):
    collect(session, run, KERNELS[:3], PLAN, runtime="virtual")
    before = set(session.measured())
    rows = gather(session, run)
    counts = collections.Counter(session.measured())
    assert set(counts.values()) == {1}
    assert before < set(counts)
    assert len(rows) == len(KERNELS)


def test_without_power_there_is_latency_only(tmp_path, run):
    rows = gather(FakeSession(tmp_path / "device", power=False), run)
    assert all(row.energy_active_j is None and row.energy_se_j is None for row in rows)
    assert read_campaign(run).idle_power_w is None


def test_a_result_left_in_the_spool_is_taken_not_measured(session, run):
    (block, *_) = plan_campaign(KERNELS, PLAN, "virtual", None).blocks()
    from rig.connection.session import Subject

    job = block[3]
    session.measure(Subject(job.label, kernels=[job.kernel] * job.copies), PLAN, request_id=f"{job.identity}-0")
    session.measure(Subject("someone else's", kernels=[conv(8)]), PLAN, request_id="m-0007-1")
    gather(session, run)
    assert collections.Counter(session.measured())[f"{job.identity}-0"] == 1
    assert [record["id"] for record in session.pending()] == ["m-0007-1"]


def test_rejected_measurements_are_kept_and_repeated_a_bounded_number_of_times(tmp_path, run):
    once, always = "conv3x3 16->16 @14 x", "activation 16->16 @56 x"
    names = {job.label for jobs in plan_campaign(KERNELS, PLAN, "virtual", None).blocks() for job in jobs}
    reject = {(name, "0") for name in names if name.startswith(once)}
    reject |= {(name, attempt) for name in names if name.startswith(always) for attempt in "012"}
    session = FakeSession(tmp_path / "device", reject=reject)
    seen = []
    rows = gather(session, run, progress=seen.append)
    assert {row.kernel for row in rows} == set(KERNELS) - {relu(16)}
    problems = read_campaign(run).problems
    assert [problem.subject for problem in problems] == [relu(16).label]
    assert "throttled" in problems[0].reason
    count = len(session.measured())
    assert sum(event["event"] == "rejected" for event in run.events()) == len(reject)
    assert len(run.measurement_ids()) == count
    assert sum(p.verdict == "rejected" for p in seen) == len(reject)
    cooled = [plan.cooldown_s for request, _, plan, _ in session.asked if not request.endswith("-0")]
    assert min(cooled) >= 10.0
    gather(session, run)
    assert len(session.measured()) == count


def test_a_kernel_that_the_runtime_refuses_is_reported_and_the_others_go_on(tmp_path, run):
    session = FakeSession(tmp_path / "device", refuse={f"{conv(16).label} x{k}" for k in chain_lengths(conv(16), 160)})
    rows = gather(session, run)
    assert len(rows) == len(KERNELS) - 1
    refused = [event for event in run.events() if event["event"] == "unmeasurable"]
    assert refused
    assert "not supported" in refused[0]["reason"]
    everything = {f"{kernel.label} x{k}" for kernel in KERNELS for k in chain_lengths(kernel, 160)}
    other = Store(tmp_path / "home").new_run("calibrate", "fake")
    with pytest.raises(BadInputError, match="not one kernel"):
        gather(FakeSession(tmp_path / "device2", refuse=everything), other)


def test_a_device_that_fails_again_and_again_ends_the_campaign(tmp_path, run):
    everything = {f"{kernel.label} x{k}" for kernel in KERNELS for k in chain_lengths(kernel, 160)}
    session = FakeSession(tmp_path / "device", fail=everything)
    with pytest.raises(TransientDeviceError):
        gather(session, run)
    assert len(session.asked) == 3
    one = FakeSession(tmp_path / "device", fail={f"{conv(16).label} x{chain_lengths(conv(16), 160)[0]}"})
    assert len(gather(one, run)) == len(KERNELS) - 1


def test_the_time_limit_and_the_eta(tmp_path, run):
    session = FakeSession(tmp_path / "device", slow_s=0.05)
    seen = []
    gather(session, run, time_limit_s=0.4, progress=seen.append)
    assert 1 <= len(session.measured()) < 12
    assert run.events()[-1]["event"] == "time-limit"
    assert all(0 <= p.eta_s <= 0.4 for p in seen)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    rows = gather(session, run)
    assert len(rows) == len(KERNELS)
    assert set(collections.Counter(session.measured()).values()) == {1}


def test_a_campaign_cut_short_has_covered_every_kind():
    kernels = [conv(c) for c in range(8, 88)] + [relu(c) for c in range(8, 28)]
    first = kinds_in_turn(kernels)[:20]
    share = sum(kernel.kind == "conv" for kernel in first) / 20
    assert 0.7 <= share <= 0.9
    assert [k for k in kinds_in_turn(kernels) if k.kind == "conv"] == kernels[:80]


def test_order_and_ids_follow_from_the_inputs():
    one, two = (plan_campaign(KERNELS, PLAN, "virtual", None, seed=3) for _ in range(2))
    assert one.blocks() == two.blocks()
    assert one.to_json() == type(one).from_json(one.to_json()).to_json()
    ids = {job.identity for jobs in one.blocks() for job in jobs}
    for changed in (PLAN._replace(window_s=0.4), PLAN._replace(fps=30.0)):
        other = plan_campaign(KERNELS, changed, "virtual", None, seed=3)
        assert not ids & {job.identity for jobs in other.blocks() for job in jobs}
    assert one.blocks() != plan_campaign(KERNELS, PLAN, "virtual", None, seed=4).blocks()
    checked = [
        c for c in plan_campaign([conv(c) for c in range(8, 208)], PLAN, "virtual", None).chains if len(c.copies) == 3
    ]
    assert 0.08 < len(checked) / 200 < 0.25


def test_a_run_without_a_campaign_says_so(run):
    with pytest.raises(StoreError, match="no campaign"):
        rows_from_run(run)


CAMPAIGN = """
    import sys
    from rig.collect.collector import collect
    from rig.store.store import Store
    from fake_session import FakeSession
    from test_collect import KERNELS, PLAN
    store = Store(sys.argv[1])
    run = store.latest() or store.new_run("calibrate", "fake")
    print("ready", flush=True)
    rows = collect(FakeSession(sys.argv[2], slow_s=0.06), run, KERNELS, PLAN, runtime="virtual")
    print("rows", len(rows), flush=True)
"""


def test_killed_again_and_again_it_measures_everything_exactly_once(tmp_path):
    """SIGKILL of a real process at different moments; what the device finished is measured once and stored once."""
    command = [sys.executable, "-c", textwrap.dedent(CAMPAIGN), str(tmp_path / "home"), str(tmp_path / "device")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")}
    kills = 0
    for delay_s in (0.1, 0.25, 0.33, 0.41, None):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline() == "ready\n"
        if delay_s is None:
            out, _ = process.communicate(timeout=60)
            assert out == f"rows {len(KERNELS)}\n"
            break
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3
    device = FakeSession(tmp_path / "device")
    counts = collections.Counter(device.measured())
    assert set(counts.values()) == {1}
    run = Store(tmp_path / "home").latest()
    assert run.measurement_ids() == set(counts)
    assert len((run.path / "measurements.jsonl").read_text().splitlines()) == len(counts)
    assert device.pending() == []
