"""What the runtime makes of chains and networks: shares of companions, profiled kernels, and a real ONNX Runtime."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from agent_setup import small_model
from fake_session import FakeSession

from device_agents.records import KernelSpec, MeasurePlan
from power_models.kernels import kernel_graph
from rig.collect.collector import Context, collect, read_campaign
from rig.collect.plan import plan_campaign
from rig.collect.profile import own_shares, profiler_cost_s
from rig.collect.rows import load_campaign
from rig.collect.subjects import ExecutedGraph, ExecutedKernel, found_block
from rig.connection.session import Session
from rig.errors import DeviceBusyError
from rig.profiles import load_profile
from rig.store.store import Store
from rig.workloads.context_networks import context_designs

ROOT = Path(__file__).resolve().parent.parent
PLAN = MeasurePlan(window_s=0.3, min_windows=10, quiet_s=0.5, rel_ci=0.02)
WIDE = KernelSpec("conv", 1, 32, 14, 14, 64, 14, 14, 3, 3, 1, 1)
NARROW = WIDE._replace(in_channels=64, out_channels=32)
REORDER = KernelSpec("reorder_out", 1, 64, 14, 14, 64, 14, 14)


@pytest.fixture
def run(tmp_path):
    return Store(tmp_path / "home").new_run("calibrate", "fake")


def keep(run, identity, kernels):
    """Put a graph where ``keep_graph`` would: (kernel, share) in order."""
    listed = [
        {"name": f"n{i}", "op": "Conv", "kernel": k.to_json(), "share": share} for i, (k, share) in enumerate(kernels)
    ]
    run.write_json(f"artifacts/graphs/{identity}.json", {"subject": "s", "kernels": listed})


def test_the_difference_of_a_pair_is_divided_by_the_profile(tmp_path, run):
    (chains,) = plan_campaign([WIDE], PLAN, "virtual", None).chains
    copies = chains.copies[1]
    pair = [(WIDE, 0.6 / copies), (NARROW, 0.3 / copies)] * copies
    keep(run, chains.identities[1], [*pair, (REORDER, 0.1)])
    rows = collect(FakeSession(tmp_path / "device"), run, [WIDE], PLAN, runtime="virtual")
    by_kernel = {row.kernel: row for row in rows}
    assert set(by_kernel) == {WIDE, NARROW}
    assert by_kernel[WIDE].latency_s == pytest.approx(2 * by_kernel[NARROW].latency_s)
    assert by_kernel[WIDE].energy_active_j == pytest.approx(2 * by_kernel[NARROW].energy_active_j)
    assert {row.group for row in rows} == {rows[0].group}
    assert all(row.latency_se_s > 0.04 * row.latency_s for row in rows)


def test_equal_companions_of_one_copy_add_up(tmp_path, run):
    """A copy that brings two equal reorders leaves two of them beside it, and no more of the kernel's own share."""
    (chains,) = plan_campaign([WIDE], PLAN, "virtual", None).chains
    copies = chains.copies[1]
    keep(run, chains.identities[1], [(WIDE, 0.8 / copies), (REORDER, 0.1 / copies), (REORDER, 0.1 / copies)] * copies)
    rows = collect(FakeSession(tmp_path / "device"), run, [WIDE], PLAN, runtime="virtual")
    by_kernel = {row.kernel: row for row in rows}
    assert by_kernel[WIDE].latency_s == pytest.approx(8 * by_kernel[REORDER].latency_s)


class NetworkSession(FakeSession):
    """Answers for a whole network: two kernels."""

    def _record(self, subject, plan, request_id):
        return super()._record(
            type("Fake", (), {"name": subject.name, "kernels": subject.kernels or [WIDE, NARROW]}), plan, request_id
        )


def test_profiled_kernels_become_rows_of_their_network(tmp_path, run):
    path = tmp_path / "net.onnx"
    path.write_bytes(context_designs(1, 0)[0].model().SerializeToString())
    contexts = [Context("net", path)]
    quick = PLAN._replace(min_windows=6)
    (job,) = plan_campaign([WIDE], PLAN, "virtual", None, contexts=contexts, context_plan=quick).contexts
    keep(run, job.identity, [(WIDE, 0.7), (NARROW, 0.3)])
    session = NetworkSession(tmp_path / "device")
    rows = collect(session, run, [WIDE], PLAN, runtime="virtual", contexts=contexts, context_plan=quick)
    collected = read_campaign(run)
    (network,) = collected.networks
    kernels_s = network.measurement.latency_s.value - collected.overhead[0]
    profiled = [row for row in rows if row.source == "profile"]
    assert [(row.kernel, row.latency_s, row.group) for row in profiled] == [
        (WIDE, pytest.approx(0.7 * kernels_s), "net"),
        (NARROW, pytest.approx(0.3 * kernels_s), "net"),
    ]
    assert all(row.energy_active_j is None for row in profiled)
    assert [plan for request, _, plan, _ in session.asked if request.startswith("n-")] == [quick]
    assert load_campaign(run).context_plan == quick
    keep(run, job.identity, [(WIDE, 1.0), (NARROW, 0.0)])
    problems = read_campaign(run).problems
    assert problems[0] == ("net: n1", "the profile has no time for it")


def graph_of(times_s, total_s):
    kernels = [ExecutedKernel(f"n{i}", "Conv", WIDE, t / sum(times_s), t) for i, t in enumerate(times_s)]
    return ExecutedGraph(kernels, total_s)


def test_what_the_profiler_adds_to_each_node_is_taken_off():
    """Nodes of 2 and 50 µs under a profiler that adds 3 µs to each, and a call of 10 µs."""
    graphs = [graph_of([5e-6, 53e-6] * n, n * 52e-6 + 10e-6) for n in (2, 3, 5, 8)]
    node_cost_s = profiler_cost_s(graphs, 10e-6)
    assert node_cost_s == pytest.approx(3e-6)
    shares = own_shares(graphs[0], node_cost_s)
    assert sum(shares) == pytest.approx(1.0)
    assert shares[1] / shares[0] == pytest.approx(25.0)
    assert profiler_cost_s(graphs[:2], 10e-6) == 0.0
    assert own_shares(graph_of([1e-6, 1e-6], None), node_cost_s) == [0.5, 0.5]


@pytest.mark.slow
def test_on_this_computer_every_kernel_has_a_row_or_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    kernels = [
        KernelSpec("conv", 1, 32, 14, 14, 32, 14, 14, 3, 3, 1, 1, fused="relu"),
        WIDE,
        KernelSpec("fc", 1, 128, 1, 1, 128, 1, 1),
        KernelSpec("conv", 1, 32, 14, 14, 32, 14, 14, 3, 3, 1, 1, dtype="int8"),
    ]
    plan = MeasurePlan(warmup_s=0.05, warmup_max_s=0.5, window_s=0.05, min_windows=8, rel_ci=0.05, max_s=1.0)
    run = Store(tmp_path / "home").new_run("calibrate", "local")
    with Session(load_profile("local"), "test") as session:
        try:
            rows = collect(session, run, kernels, plan, runtime="onnxruntime")
        except DeviceBusyError as error:
            pytest.skip(error.message)
        count = len(run.measurement_ids())
        assert collect(session, run, kernels, plan, runtime="onnxruntime") == rows
    assert len(run.measurement_ids()) == count
    collected = read_campaign(run)
    assert collected.rows == rows
    assert collected.kind == "measured"
    reasons = {problem.subject: problem.reason for problem in collected.problems}
    assert any("int8" in reason for reason in reasons.values())
    for kernel in kernels:
        assert kernel.label in {row.kernel.label for row in rows} or any(s.startswith(kernel.label) for s in reasons)


REAL_CAMPAIGN = """
    from rig.collect.collector import collect
    from rig.workloads.grid import design
    from rig.profiles import load_profile
    from rig.connection.session import Session
    from rig.store.store import Store
    store = Store()
    run = store.latest() or store.new_run("calibrate", "virtual-pi4")
    profile = load_profile("virtual-pi4")
    with Session(profile, "test") as session:
        print("ready", flush=True)
        rows = collect(session, run, design(8, 0), profile.plan.to_plan()._replace(min_windows=40), runtime="virtual")
    print("rows", len(rows), flush=True)
"""


@pytest.mark.slow
def test_a_killed_host_resumes_from_the_agents_spool(tmp_path):
    """SIGKILL of a host with a real agent: what the agent finished alone is taken from its spool, nothing twice."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RIG_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", textwrap.dedent(REAL_CAMPAIGN)]
    for delay_s in (0.5, 1.0, None):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout.readline() == "ready\n"
        if delay_s is None:
            assert process.communicate(timeout=120)[0] == "rows 8\n"
            break
        time.sleep(delay_s)
        process.kill()
        process.wait()
        process.stdout.close()
    run = Store(tmp_path / "home").latest()
    lines = (run.path / "measurements.jsonl").read_text().splitlines()
    jobs = [job for jobs in load_campaign(run).blocks() for job in jobs]
    assert len(lines) == len(run.measurement_ids()) >= len(jobs)
    starts = [record["started_utc"] for record in run.measurements(arrays=False)]
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize("block", [16, 8, 0])
def test_the_block_of_the_layout_is_found_in_the_runtimes_own_graphs(tmp_path, block):
    graphs = []
    for design in context_designs(4, 0):
        path = tmp_path / f"{design.name}.onnx"
        path.write_bytes(design.model().SerializeToString())
        nodes = kernel_graph(path, "onnxruntime", block=block)
        kernels = [ExecutedKernel(node.name, node.op, node.spec, 1.0, 1e-6) for node in nodes]
        graphs.append((path, ExecutedGraph(kernels, 1e-3)))
    assert found_block(graphs) == block
    assert found_block([]) is None


def test_a_graph_without_reorders_has_no_blocked_layout(tmp_path):
    """As on an arm64 board: the blocked rules agree on the convolution, and invent a reorder beside it."""
    path = small_model(tmp_path / "small.onnx")
    nodes = kernel_graph(path, "onnxruntime", block=0)
    assert len(kernel_graph(path, "onnxruntime", block=16)) > len(nodes)
    kernels = [ExecutedKernel(node.name, node.op, node.spec, 1.0, 1e-6) for node in nodes]
    assert found_block([(path, ExecutedGraph(kernels, 1e-3))]) == 0
