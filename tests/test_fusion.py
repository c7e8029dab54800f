"""Which operators a runtime fuses, found by measurement: arithmetic, networks, and the simulated board's own truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from power_models import fusion_rules
from power_models.fusion_rules import MeasuredPair, judge_pair, rules_from
from power_models.graph_fusion import BARE, ONNXRUNTIME, TENSORRT, VIRTUAL
from power_models.kernels import from_optimized, kernel_graph
from rig import cli
from rig.collect import fusion as collecting
from rig.collect.fusion import measure_fusion, networks_of, side_for
from rig.commands import calibrate_fusion
from rig.connection.session import Session
from rig.errors import BadInputError, StoreError, TransientDeviceError
from rig.profiles import load_profile
from rig.store.store import Store
from rig.workloads.executed_kernels import RULES_FILE, measured_rules
from rig.workloads.fusion_pairs import CHEAPEST, PAIRS, SIDES, UNITS, network, surroundings
from rig.workloads.onnx_builder import NetworkBuilder
from tests.agent_setup import QUICK_PLAN

ort = pytest.importorskip("onnxruntime")


def rounds(saved_us, own_us=3.0, noise_us=0.05, n=6, seed=0):
    """Rounds of k = 10 units around 500 µs, with drift that is common to a round."""
    random = np.random.default_rng(seed)
    drift = 1.0 + 0.05 * random.standard_normal((n, 1))
    totals = 1e-6 * np.array([500.0, 600.0, 500.0 + 10 * own_us, 600.0 + 10 * (own_us - saved_us)])
    return totals * drift + 1e-6 * 10 * noise_us * random.standard_normal((n, 4))


def judged(saved_us, own_us=3.0, least_us=3.0, **how):
    least = np.full(how.get("n", 6), 1e-6 * least_us)
    return judge_pair("conv", "relu", rounds(saved_us, own_us, **how), least, 10)


def test_what_is_saved_decides():
    fused, separate = judged(3.0), judged(0.0)
    assert fused.verdict == "fused"
    assert fused.saving_lo_s < 3e-6 < fused.saving_hi_s
    assert separate.verdict == "separate"
    assert separate.saving_lo_s < 0.0 < separate.saving_hi_s
    assert judged(1.5).verdict == "undecided"
    assert judged(3.0, noise_us=5.0).verdict == "undecided"


def test_a_costly_function_saves_no_arithmetic_by_being_fused():
    assert judged(2.7, own_us=8.0, least_us=3.0).verdict == "fused"
    assert judged(2.7, own_us=8.0, least_us=8.0).verdict == "separate"


def test_an_operator_that_costs_nothing_by_itself_tells_nothing():
    assert judged(0.0, own_us=0.0).verdict == "undecided"
    assert judged(3.0, least_us=0.0).verdict == "undecided"


def test_the_interval_covers():
    """95 % of 200 drawn campaigns of four rounds have the truth inside, within binomial tolerance."""
    covered = sum(
        pair.saving_lo_s <= 2e-6 <= pair.saving_hi_s
        for pair in (judge_pair("a", "b", _independent(seed), np.full(4, 3e-6), 10) for seed in range(200))
    )
    assert 181 <= covered <= 198


def _independent(seed):
    random = np.random.default_rng([seed, 1])
    totals = 1e-6 * np.array([500.0, 600.0, 530.0, 610.0])
    return totals + 1e-6 * random.standard_normal((4, 4))


def test_two_rounds_tell_no_interval():
    with pytest.raises(ValueError, match="2 rounds"):
        judged(3.0, n=2)


def pair(first, second, verdict):
    margin = {"fused": (1.0, 2.0), "separate": (-2.0, -1.0), "undecided": (-1.0, 1.0)}[verdict]
    return MeasuredPair(first, second, 0.0, 0.0, 0.0, 1.0, 1.0, *margin, 4)


def test_rules_take_what_was_measured_and_keep_what_was_not():
    measured = [
        pair("conv", "relu", "separate"),
        pair("conv+add", "relu", "fused"),
        pair("conv", "add", "fused"),
        pair("conv", "batch_norm", "separate"),
        pair("add", "relu", "undecided"),
        pair("sigmoid", "mul", "separate"),
        pair("max_pool", "relu", "fused"),
    ]
    rules = rules_from(measured, VIRTUAL)
    assert "relu" not in rules.activations["conv"]
    assert "relu6" in rules.activations["conv"]
    assert "relu" in rules.activations["add"]
    assert rules.activations["conv+add"] == {"relu"}
    assert rules.activations["max_pool"] == {"relu"}
    assert (rules.adds, rules.merges_gates) == ({"conv"}, False)
    assert rules.folds_affine == VIRTUAL.folds_affine - {"conv"}


def test_kernel_lists_follow_measured_rules():
    net = NetworkBuilder(0)
    x = net.input(1, 16, 8, 8)
    y = net.activation("relu", net.conv(x, (16, 16)))
    model = net.model(net.activation("relu", net.node("Add", net.conv(y, (16, 16)), y)))

    def listed(rules):
        return [(n.spec.kind, n.spec.fused, n.inputs) for n in kernel_graph(model, rules)]

    assert [row[:2] for row in listed("virtual")] == [("conv", "relu"), ("conv", ""), ("add", "relu")]
    fuses = [pair("conv", "add", "fused"), pair("conv+add", "relu", "fused"), pair("conv", "relu", "separate")]
    assert listed(rules_from(fuses, BARE)) == [
        ("conv", "", (-1,)),
        ("activation", "relu", (0,)),
        ("conv", "add+relu", (1, 1)),
    ]
    assert listed(TENSORRT)[-1][:2] == ("conv", "add+relu")


def test_an_addition_is_taken_along_where_its_operand_exists():
    """The first convolution of a projection block runs before the branch that it is added to."""
    net = NetworkBuilder(0)
    x = net.input(1, 16, 8, 8)
    short = net.conv(x, (16, 16))
    branch = net.activation("relu", net.conv(x, (16, 16)))
    model = net.model(net.node("Add", short, net.max_pool(branch, 3, 1, 1)))
    nodes = kernel_graph(model, TENSORRT)
    assert [(n.spec.kind, n.inputs) for n in nodes] == [("conv", (-1,)), ("max_pool", (0,)), ("conv", (-1, 1))]


def test_rules_are_kept_with_the_device_and_a_damaged_file_is_said(tmp_path):
    store = Store(tmp_path)
    assert measured_rules(store, "board") is None
    path = store.model_folder("board") / RULES_FILE
    measured = [pair("conv", "add", "fused")]
    fusion_rules.save(path, measured, "virtual", {"run": "u-0001"})
    assert fusion_rules.load(path)[0] == measured
    assert measured_rules(store, "board").adds == {"conv"}
    path.write_text(path.read_text()[:50])
    with pytest.raises(StoreError, match="measure them again"):
        measured_rules(store, "board")


def counted_truth(first, second, count):
    """fused or separate, by the numbers of kernels of the four networks: what the engine itself says."""
    roles = networks_of([(first, second)]).roles[first, second]
    base, a, b, ab = (count(network(*roles[role])) for role in ("base", "first", "second", "both"))
    return "fused" if a + b - ab - base >= UNITS / 2 else "separate"


@pytest.mark.parametrize("first_second", PAIRS, ids="|".join)
def test_the_networks_tell_what_onnx_runtime_fuses(first_second, tmp_path):
    """By its own graph: nothing of what is counted is folded away, and the cheapest kernel is one kernel."""

    def kernels(model):
        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        random = np.random.default_rng(0)
        feed = {i.name: random.standard_normal(i.shape, dtype=np.float32) for i in session.get_inputs()}
        for out in session.run(None, feed):
            assert np.isfinite(out).all()
            assert np.abs(out[out != 0]).min() > 1e-30
        return len(from_optimized(options.optimized_model_filepath, original=model))

    first, second = first_second
    around = surroundings((first, second))
    assert kernels(network(around, (CHEAPEST,))) - kernels(network(around, ())) == UNITS
    known = {("conv", "batch_norm"), ("conv", "add"), ("conv+add", "relu"), ("depthwise", "batch_norm")}
    known |= {("batch_norm", "relu"), ("conv", "hardswish"), ("depthwise", "hardswish"), ("sigmoid", "mul")}
    ruled = first_second in known or second in ONNXRUNTIME.activations.get(first.removesuffix("+batch_norm"), ())
    assert counted_truth(first, second, kernels) == ("fused" if ruled else "separate")


@pytest.mark.parametrize("first_second", [("conv", "relu"), ("fc", "relu"), ("sigmoid", "mul")], ids="|".join)
def test_larger_tensors_are_other_sizes_of_the_same_kernels(first_second):
    small, large = (kernel_graph(network(surroundings(first_second, side), ("relu",)), "virtual") for side in (4, 16))
    assert [node.spec.kind for node in small] == [node.spec.kind for node in large]
    assert large[1].spec.output_bytes == 16 * small[1].spec.output_bytes


def test_an_unknown_operator_is_named():
    with pytest.raises(BadInputError, match="'fft'"):
        networks_of([("conv", "fft")])


@pytest.fixture
def board(tmp_path, monkeypatch):
    for name in ("RIG_HOME", "RIG_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("RIG_LOCK_DIR", str(tmp_path))
    profile = load_profile("virtual-pi4")
    with Session(profile, "test") as session:
        yield session, Store().new_run("fusion", profile.name), profile


MEASURED = (("conv", "relu"), ("conv", "add"), ("max_pool", "relu"), ("fc", "relu"))


def test_what_is_found_on_the_simulated_board_is_its_compiler_s_truth(board):
    session, run, profile = board
    plan = profile.plan.to_plan()._replace(window_s=0.6, min_windows=8, max_s=6.0)
    found = measure_fusion(session, run, MEASURED, plan, "virtual", rounds=4)
    for one in found:
        truth = counted_truth(one.first, one.second, lambda model: len(kernel_graph(model, VIRTUAL)))
        assert (one.first, one.second, one.verdict) == (one.first, one.second, truth)
    # Nothing is measured twice, and the same comes out.
    count = len(run.measurement_ids())
    assert measure_fusion(session, run, MEASURED, plan, "virtual", rounds=4) == found
    assert len(run.measurement_ids()) == count
    rules = rules_from(found, BARE)
    assert (set(rules.activations), rules.adds) == ({"conv", "fc"}, frozenset())


def test_tensors_are_as_large_as_the_cheapest_kernel_needs_to_be_seen(board, monkeypatch):
    session, run, profile = board
    plan = profile.plan.to_plan()._replace(window_s=0.1, min_windows=3, max_s=1.0)
    assert side_for(session, run, plan, "virtual") == SIDES[0]  # dispatch alone is seen on a Pi
    other = Store().new_run("fusion", profile.name)
    monkeypatch.setattr(collecting, "SEEN_S", 20e-6)
    side = side_for(session, other, plan, "virtual")
    assert side in SIDES[1:]
    count = len(other.measurement_ids())
    assert count == 2 * (SIDES.index(side) + 1)
    assert (side_for(session, other, plan, "virtual"), len(other.measurement_ids())) == (side, count)


def test_a_network_that_stays_rejected_ends_it(board):
    session, run, profile = board
    hot = profile.plan.to_plan()._replace(max_temp_c=20.0, window_s=0.1, min_windows=3, max_s=0.5)
    with pytest.raises(TransientDeviceError, match="rejected 3 times"):
        measure_fusion(session, run, [("conv", "relu")], hot, "virtual", rounds=3)
    with pytest.raises(BadInputError, match="2 rounds"):
        measure_fusion(session, run, [("conv", "relu")], hot, "virtual", rounds=2)


def test_the_command_saves_rules_that_predictions_use(tmp_path, monkeypatch, capsys):
    """With few pairs and coarse windows: what is said, what is kept, and that the rest stays the base's."""
    for name in ("RIG_HOME", "RIG_CONFIG"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("RIG_LOCK_DIR", str(tmp_path))
    folder = tmp_path / "RIG_CONFIG" / "devices"
    folder.mkdir(parents=True)
    (folder / "virtual-pi4.toml").write_text(QUICK_PLAN + "\n[grid]\nfusion_rounds = 3\n")
    monkeypatch.setattr(calibrate_fusion, "PAIRS", (("conv", "add"), ("conv", "relu")))
    assert cli.main(["calibrate", "--device", "virtual-pi4", "--fusion", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["run_id"], said["base"]) == ("simulated", "u-0001", "virtual")
    assert [(row["first"], row["second"]) for row in said["pairs"]] == [("conv", "add"), ("conv", "relu")]
    for row in said["pairs"]:
        assert row["saving_s"]["lo"] <= row["saving_s"]["value"] <= row["saving_s"]["hi"]
        assert row["saving_s"]["n"] == 3
    rules = measured_rules(Store(), "virtual-pi4")
    assert rules.activations["conv"] >= VIRTUAL.activations["conv"] - {"relu"}
    assert Path(said["artifacts"]["rules"]).name == RULES_FILE
    # On a terminal: a line a pair, from the same measurements where the run is not finished, else from new ones.
    assert cli.main(["calibrate", "--device", "virtual-pi4", "--fusion"]) == 0
    out = capsys.readouterr().out
    assert "conv | add" in out
    assert "Rules" in out


def test_too_few_rounds_in_a_profile_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "config" / "devices"
    folder.mkdir(parents=True)
    (folder / "virtual-pi4.toml").write_text("[grid]\nfusion_rounds = 2\n")
    assert cli.main(["calibrate", "--device", "virtual-pi4", "--fusion", "--json"]) == 2
    assert "grid.fusion_rounds is 2" in json.loads(capsys.readouterr().out)["error"]["message"]
