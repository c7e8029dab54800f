"""Information density, NetScore and the survey's five: exact values, published orders, reasons for what is missing."""

import compared_runs
import pytest

from rig.compression.footprint import Footprint
from rig.report.network_figures import counted_files, information_density, net_score, network_figures, reasons, shown
from rig.report.survey import survey_table
from rig.results import parse_result, read_result
from tests.agent_setup import small_model

# Top-1 on ImageNet in %, millions of parameters, 10⁹ MAC, as published with each network.
PUBLISHED = {
    "SqueezeNext 1.0-23": (59.05, 0.72, 0.282),
    "CondenseNet G=C=8": (71.0, 2.9, 0.274),
    "MobileNetV2": (72.0, 3.4, 0.300),
    "MobileNetV1 128 px": (64.4, 4.2, 0.186),
    "MobileNetV1 160 px": (67.2, 4.2, 0.290),
    "DenseNet-121": (74.9, 8.0, 2.87),
    "ResNet-50": (75.3, 25.6, 3.86),
}


def test_information_density_is_per_cent_a_million():
    assert information_density(0.75, 25_000_000) == pytest.approx(3.0)


def test_net_score_by_hand():
    assert net_score(1.0, 1e6, 1e9) == pytest.approx(80.0)  # 20·log10(100²)
    assert net_score(0.1, 1e6, 1e9) == pytest.approx(40.0)
    assert net_score(1.0, 1e8, 1e9) == pytest.approx(60.0)
    assert net_score(1.0, 1e6, 1e11) == pytest.approx(60.0)


def test_net_score_gives_the_order_of_its_paper():
    scores = {name: net_score(a / 100, 1e6 * p, 1e9 * m) for name, (a, p, m) in PUBLISHED.items()}
    assert sorted(scores, key=scores.__getitem__, reverse=True) == list(PUBLISHED)
    expected = [77.8, 75.0, 74.2, 73.4, 72.2, 61.4, 55.1]
    assert list(scores.values()) == pytest.approx(expected, abs=0.06)


def result(**changes):
    return parse_result({**compared_runs.optimize(), **changes}, "example")


def figures_of(role, **changes):
    run = result(**changes)
    return network_figures(getattr(run, role), run.stages, role)


def test_figures_of_a_compressed_network():
    run = compared_runs.optimize()
    run["result"] |= {"weight_bytes": 1_000_000, "peak_activation_bytes": 65_536}
    parsed = parse_result(run, "example")
    found = network_figures(parsed.result, parsed.stages, "result")
    assert found["memory_bytes"].quantity.value == 1_065_536
    assert found["compression_s"].quantity.value == pytest.approx(120.0)  # shrink and fine-tune
    assert found["training_memory_bytes"].quantity.value == 800_000_000
    assert found["flops"].quantity.value == 80_000_000
    density = found["information_density"].quantity
    assert (density.lo, density.value, density.hi) == pytest.approx((91.5 / 0.27, 92.0 / 0.27, 92.5 / 0.27))
    score = found["net_score"].quantity
    assert score.value == pytest.approx(net_score(0.92, 270_000, 40_000_000))
    assert score.lo < score.value < score.hi
    assert shown("memory_bytes", found["memory_bytes"]) == "1.07 MB"
    assert shown("params", found["params"]) == "270,000"
    assert shown("flops", found["flops"]) == "80.0 MFLOP"


def test_of_the_baseline_its_own_training_counts():
    found = figures_of("baseline")
    assert found["training_memory_bytes"].quantity.value == 900_000_000
    assert found["compression_s"] == (None, "not compressed")


def test_a_baseline_of_an_earlier_run_says_so():
    found = figures_of("baseline", stages=[{"name": "baseline", "seconds": 0.0}])
    assert found["training_memory_bytes"].why == "trained by an earlier run"


def test_an_older_run_lacks_figures_and_says_why():
    found = figures_of("result", stages=[{"name": "shrink", "seconds": 5.0}])
    assert found["training_memory_bytes"].why == "the run is older than this figure"
    assert found["memory_bytes"].why == "the run does not say"
    assert shown("memory_bytes", found["memory_bytes"]) == "–"
    assert "memory footprint: the run does not say" in reasons(found, ("memory_bytes", "latency_s"))


def test_without_power_source_energy_has_a_reason():
    run = parse_result(compared_runs.optimize(powered=False, simulated=False), "example")
    assert network_figures(run.result)["energy_active_j"] == (None, "no power source")


def test_accuracy_zero_has_no_score():
    run = compared_runs.optimize(accuracy=0.0)
    run["result"]["accuracy_test"].update(lo=0.0, hi=0.01)
    found = network_figures(parse_result(run, "example").result)
    assert found["net_score"].why == "no score of an accuracy of zero"
    assert found["information_density"].quantity.value == 0.0


def test_a_measured_network_has_what_its_file_says():
    run = compared_runs.optimize()
    run["result"] |= {"macs": None, "params": None, "accuracy_test": None}
    found = network_figures(parse_result(run, "x").result, counted=Footprint(5_000_000, 10_000, 40_000, 2_000))
    assert (found["flops"].quantity.value, found["params"].quantity.value) == (10_000_000, 10_000)
    assert found["memory_bytes"].quantity.value == 42_000
    assert found["accuracy_test"].why == "rig measure knows no accuracy"
    assert found["net_score"].why == found["accuracy_test"].why


def test_a_file_that_cannot_be_counted_is_told(tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "broken.onnx").write_bytes(b"no network")
    run = compared_runs.optimize()
    run["result"]["onnx"] = "/elsewhere/broken.onnx"
    found = counted_files(parse_result(run, "x"), tmp_path)
    assert found["baseline"] == "the run does not say and its network file is gone"
    assert found["result"].startswith("its network file cannot be counted")


def test_an_outside_file_counts_only_where_it_is_the_measured_one(tmp_path):
    small_model(tmp_path / "n.onnx")
    run = compared_runs.measured(tmp_path / "store", tmp_path / "n.onnx")
    parsed = read_result(run.path)
    assert counted_files(parsed, run.path)["network"].params == 8 * 8 * 9 + 8
    small_model(tmp_path / "n.onnx", channels=4)
    assert counted_files(parsed, run.path) == {"network": "its network file has changed"}
    small_model(run.path / "artifacts" / "n.onnx")  # the run's own goes before it
    assert counted_files(parsed, run.path)["network"].params == 8 * 8 * 9 + 8


def test_an_outside_file_of_unknown_digest_does_not_count(tmp_path):
    small_model(tmp_path / "n.onnx")
    run = compared_runs.measured(tmp_path / "store", tmp_path / "n.onnx")
    run.update(onnx_sha256=None)
    told = counted_files(read_result(run.path), run.path)
    assert told == {"network": "the run does not say and keeps no digest of its network file"}


def test_the_survey_table_has_a_dash_and_its_reason():
    run = result(stages=[{"name": "shrink", "seconds": 5.0}])
    table = survey_table(run, {})
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["memory footprint"] == ("–", "–")
    assert rows["compression time"] == ("–", "5.00 s")
    assert all("SIMULATED" in cell for cell in rows["inference time"])
    assert "memory footprint: the run does not say (result)" in table.caption
    assert "not compressed (baseline)" in table.caption
