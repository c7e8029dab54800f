"""``rig compare`` on stored example runs: rows, means, pairs, equal cost, the figure's data, and bad input."""

import json

import compared_runs
import numpy as np
import pytest

from rig import cli
from rig.store.store import Store
from tests.agent_setup import small_model

METHODS = {"morphnet": 0.920, "allocate": 0.923}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    return tmp_path / "home"


@pytest.fixture
def rig(capsys):
    def call(*words):
        code = cli.main(["compare", *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def compared(rig):
    def call(*words):
        code, out, err = rig(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def study(root, seeds=(0, 1, 2), **changes):
    """Two methods at two shares of the latency, over seeds whose baselines differ."""
    for share in (0.5, 0.3):
        for method, accuracy in METHODS.items():
            for seed in seeds:
                drift = 0.001 * seed
                loss = 0.01 if share == 0.3 else 0.0
                noise = 0.0002 * (seed - 1) * (1 if method == "morphnet" else -1)
                made = compared_runs.optimize(
                    method, seed, accuracy + drift - loss + noise, 0.925 + drift, share * 0.98, share, **changes
                )
                compared_runs.put(root, made)


def refused(said, *texts):
    code, out, err = said
    assert (code, out) == (2, "")
    for text in texts:
        assert text in err
    assert "Fix: " in err


# --- what it says -----------------------------------------------------------------------------------------------


def test_one_run_gives_its_baseline_and_its_result(root, compared):
    compared_runs.put(root, compared_runs.optimize(None))
    found = compared("o-0001")
    assert [(row["method"], row["runs"]) for row in found["rows"]] == [
        ("baseline", ["o-0001"]),
        ("morphnet", ["o-0001"]),
    ]
    result = found["rows"][1]
    assert result["target"] == "latency 50 %"
    assert result["cost_ratio"]["quantity"]["value"] == pytest.approx(0.5)
    assert result["cost_ratio"]["how"] == "measured in turn, 6 rounds"
    assert result["accuracy_change"]["quantity"]["value"] == pytest.approx(-0.005)
    assert "independent" in result["accuracy_change"]["how"]
    assert result["figures"]["net_score"]["quantity"]["value"] == pytest.approx(98.2, abs=0.1)
    assert result["figures"]["memory_bytes"] == {
        "quantity": None,
        "why": "the run does not say and its network file is gone",
    }
    assert (found["cost"], found["kind"], found["schema"]) == ("energy_active_j", "simulated", "rig.compare/1")


def test_a_study_is_grouped_by_method_target_and_seed(root, compared):
    study(root)
    found = compared("o-")
    assert len(found["rows"]) == 3 + 12  # each baseline once, whatever the number of runs that measured it
    assert all(len(row["runs"]) == 4 for row in found["rows"][:3])
    means = {mean["label"]: mean for mean in found["means"]}
    assert set(means) == {
        "resnet20 (baseline)",
        *(f"{method}, latency {share} %" for method in METHODS for share in (50, 30)),
    }
    mean = means["allocate, latency 30 %"]
    assert mean["seeds"] == [0, 1, 2]
    assert mean["accuracy"]["value"] == pytest.approx(0.914)
    assert mean["change"]["how"] == "paired over 3 seeds"
    assert mean["change"]["quantity"]["value"] == pytest.approx(-0.012)
    half = 4.302652730 * 0.0002 / 3**0.5  # the seeds' own differences of 0.001 cancel in pairs
    assert mean["change"]["quantity"]["hi"] - mean["change"]["quantity"]["value"] == pytest.approx(half, rel=1e-3)
    assert mean["cost_ratio"]["value"] == pytest.approx(0.294)


def test_methods_are_paired_at_each_target(root, compared):
    study(root)
    pairs = {pair["target"]: pair for pair in compared("o-")["pairs"]}
    assert set(pairs) == {"latency 50 %", "latency 30 %"}
    pair = pairs["latency 30 %"]
    assert (pair["before"], pair["after"]) == ("morphnet", "allocate")
    assert pair["accuracy"]["quantity"]["value"] == pytest.approx(0.003)
    assert pair["accuracy"]["seeds"] == [0, 1, 2]
    assert pair["cost_ratio"]["value"] == pytest.approx(1.0)


def test_one_seed_is_paired_over_test_images_of_the_same_digest(root, compared):
    rng = np.random.default_rng(1)
    baseline = rng.random(4000) < 0.925
    better, worse = baseline ^ (rng.random(4000) < 0.01), baseline ^ (rng.random(4000) < 0.02)
    for method, right, images in (("morphnet", worse, "a"), ("allocate", better, "a"), ("uniform", better, "b")):
        made = compared_runs.optimize(method, 0, float(right.mean()), float(baseline.mean()))
        compared_runs.put(root, made, {"baseline": baseline, "result": right}, images)
    found = compared("o-")
    change = next(row for row in found["rows"] if row["method"] == "morphnet")["accuracy_change"]
    assert change["how"] == "one seed, paired over 4000 test images"
    assert change["quantity"]["value"] == pytest.approx(worse.mean() - baseline.mean())
    assert change["quantity"]["hi"] - change["quantity"]["lo"] < 0.011  # independent intervals: 0.022
    how = {(pair["before"], pair["after"]): pair["accuracy"]["how"] for pair in found["pairs"]}
    assert how["morphnet", "allocate"] == "one seed, paired over 4000 test images"
    assert how["morphnet", "uniform"] == "one seed, no answers to pair: no interval"  # other images


def test_runs_with_other_baselines_are_not_paired(root, compared):
    compared_runs.put(root, compared_runs.optimize("morphnet", 0, 0.92, baseline=0.925))
    compared_runs.put(root, compared_runs.optimize("allocate", 0, 0.93, baseline=0.935))
    (pair,) = compared("o-")["pairs"]
    assert pair["accuracy"] == {"quantity": None, "how": "no seed and baseline in common", "seeds": []}


def test_the_front_has_the_means_that_nothing_beats(root, compared):
    for method, accuracy, cost in (("a", 0.92, 0.5), ("b", 0.91, 0.6), ("c", 0.90, 0.3), ("d", 0.90, 0.4)):
        compared_runs.put(root, compared_runs.optimize(method, 0, accuracy, cost=cost))
    assert compared("o-")["front"] == ["c, latency 50 %", "a, latency 50 %", "resnet20 (baseline)"]


def test_models_are_neither_averaged_nor_paired_with_each_other(root, compared, rig):
    for model, accuracy in (("resnet20", 0.92), ("resnet8", 0.80)):
        for seed in (0, 1):
            for method in METHODS:
                made = compared_runs.optimize(method, seed, accuracy + 0.001 * seed, accuracy + 0.005)
                compared_runs.put(root, {**made, "model": model})
    found = compared("o-")
    means = {mean["label"]: mean for mean in found["means"]}
    assert means["resnet20: morphnet, latency 50 %"]["accuracy"]["value"] == pytest.approx(0.9205)
    assert means["resnet8: morphnet, latency 50 %"]["accuracy"]["value"] == pytest.approx(0.8005)
    assert {"resnet20 (baseline)", "resnet8 (baseline)"} < set(means)
    assert means["resnet8: allocate, latency 50 %"]["change"]["how"] == "paired over 2 seeds"
    assert [(pair["model"], pair["accuracy"]["seeds"]) for pair in found["pairs"]] == [
        ("resnet20", [0, 1]),
        ("resnet8", [0, 1]),
    ]
    assert "resnet8: allocate over morphnet" in rig("o-")[1]


def test_repeats_of_one_seed_are_as_sure_as_one_of_them(root, compared):
    for _ in range(2):
        compared_runs.put(root, compared_runs.optimize("a", 0, 0.92))
    mean = next(mean for mean in compared("o-")["means"] if mean["method"] == "a")
    assert (mean["seeds"], mean["accuracy"]["n"]) == ([0], 10000)
    assert (mean["accuracy"]["lo"], mean["accuracy"]["hi"]) == pytest.approx((0.915, 0.925))
    assert (mean["cost_ratio"]["lo"], mean["cost_ratio"]["hi"]) == pytest.approx((0.496, 0.504))
    assert mean["change"]["quantity"]["value"] == pytest.approx(-0.005)
    assert mean["change"]["how"].endswith("mean of 2 runs of one seed")


def test_repeats_do_not_count_among_the_seeds(root, compared):
    for seed, accuracy in ((0, 0.92), (0, 0.92), (1, 0.93)):
        compared_runs.put(root, compared_runs.optimize("a", seed, accuracy))
    mean = next(mean for mean in compared("o-")["means"] if mean["method"] == "a")
    assert (mean["accuracy"]["value"], mean["accuracy"]["n"]) == (pytest.approx(0.925), 2)
    assert mean["accuracy"]["hi"] - mean["accuracy"]["value"] == pytest.approx(12.7062 * 0.005, rel=1e-4)


def test_a_seed_with_several_baselines_is_one_seed_without_interval(root, compared):
    for baseline in (0.925, 0.935):
        for method, gain in (("a", 0.0), ("b", 0.001)):
            compared_runs.put(root, compared_runs.optimize(method, 0, baseline - 0.005 + gain, baseline))
    (pair,) = compared("o-")["pairs"]
    assert pair["accuracy"]["seeds"] == [0]
    assert pair["accuracy"]["quantity"]["value"] == pytest.approx(0.001)
    assert (pair["accuracy"]["quantity"]["lo"], pair["accuracy"]["quantity"]["n"]) == (None, 1)
    compared_runs.put(root, compared_runs.optimize("a", 1, 0.920))
    compared_runs.put(root, compared_runs.optimize("b", 1, 0.924))
    (pair,) = compared("o-")["pairs"]
    assert (pair["accuracy"]["seeds"], pair["accuracy"]["quantity"]["lo"]) == ([0, 1], None)
    assert pair["accuracy"]["quantity"]["value"] == pytest.approx(0.0025)
    assert pair["accuracy"]["how"] == "seed 0 with several baselines: no interval"


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_cost_not_above_zero_gives_no_ratio_and_a_reason(root, compared, rig, in_turn):
    for method in ("a", "b"):
        for seed in (0, 1):
            made = compared_runs.optimize(method, seed, in_turn=in_turn)
            if method == "b":
                made["result"]["energy_active_j"].update(value=-1e-4, lo=-3e-4, hi=1e-4)
                if in_turn:
                    made["cost_ratio"]["energy_active_j"].update(value=-0.01, lo=-0.03, hi=0.01)
            compared_runs.put(root, made)
    found = compared("o-", "--cost", "energy", "--equal-cost", "50%")
    row = next(row for row in found["rows"] if row["method"] == "b")
    assert row["cost_ratio"]["quantity"] is None
    assert "not above zero" in row["cost_ratio"]["how"]
    found = compared("o-", "--cost", "energy")
    mean = next(mean for mean in found["means"] if mean["method"] == "b")
    assert (mean["cost_ratio"], mean["no_ratio"]) == (None, row["cost_ratio"]["how"])
    (pair,) = found["pairs"]
    assert (pair["cost_ratio"], pair["no_ratio"]) == (None, row["cost_ratio"]["how"])
    assert f"cost ratio, b over a at latency 50 %: {pair['no_ratio']}" in rig("o-", "--cost", "energy")[1]


def test_a_run_whose_ratio_of_the_cost_is_missing_is_not_called_older(root, compared):
    made = compared_runs.optimize()
    del made["cost_ratio"]["energy_active_j"]
    compared_runs.put(root, made)
    how = compared("o-0001", "--cost", "energy")["rows"][1]["cost_ratio"]["how"]
    assert how == "of the two means (the run keeps none measured in turn)"


def test_targets_are_kept_apart_by_what_they_are_not_by_how_they_read(root, compared):
    exact = compared_runs.optimize("a", 0, 0.92)
    near = compared_runs.optimize("b", 0, 0.92, share=0.500001)
    energy, active = compared_runs.optimize("c", 0, 0.92), compared_runs.optimize("d", 0, 0.92)
    for made, only in ((energy, False), (active, True)):
        made["budget"] = [{"quantity": "energy", "limit": 0.01, "unit": "J", "relative": 0.5, "active_only": only}]
    for made in (exact, near, energy, active):
        compared_runs.put(root, made)
    found = compared("o-")
    assert [row["target"] for row in found["rows"][1:]] == [
        "latency 50.0 %",
        "latency 50.0001 %",
        "energy 50 %",
        "active energy 50 %",
    ]
    assert found["pairs"] == []
    assert len({mean["label"] for mean in found["means"]}) == 5


def test_an_older_run_has_a_ratio_of_means_and_says_so(root, compared):
    compared_runs.put(root, compared_runs.optimize(in_turn=False))
    ratio = compared("o-0001", "--cost", "latency")["rows"][1]["cost_ratio"]
    assert ratio["quantity"]["value"] == pytest.approx(0.5)
    assert ratio["quantity"]["hi"] == pytest.approx(0.5 + 0.5 * 0.01 * 2**0.5)
    assert "older" in ratio["how"]


def test_a_network_that_was_retrained_from_scratch_is_a_row_of_its_own(root, compared):
    made = compared_runs.optimize()
    made["weights"] = "continued"
    made["stages"].append({"name": "from scratch", "seconds": 500.0})
    fresh = compared_runs.optimize(accuracy=0.915)
    made["retrained"] = {"accuracy_test": fresh["result"]["accuracy_test"], "accuracy_change": None, "epochs": 16}
    compared_runs.put(root, made)
    rows = {row["method"]: row for row in compared("o-0001")["rows"]}
    again = rows["morphnet from scratch"]
    assert again["figures"]["accuracy_test"]["quantity"]["value"] == pytest.approx(0.915)
    assert again["cost"] == rows["morphnet"]["cost"]
    seconds = [row["figures"]["compression_s"]["quantity"]["value"] for row in (rows["morphnet"], again)]
    assert seconds == pytest.approx([120.0, 620.0])


def test_equal_cost_voids_what_is_off_the_median(root, compared):
    for method, cost, accuracy in (("a", 0.50, 0.92), ("b", 0.51, 0.91), ("c", 0.54, 0.95)):
        compared_runs.put(root, compared_runs.optimize(method, 0, accuracy, cost=cost))
    found = compared("o-", "--equal-cost", "3%")
    void = {row["method"]: row["void"] for row in found["rows"]}
    assert void == {"baseline": None, "a": None, "b": None, "c": "cost +5.9 % off the median, 3 % are allowed"}
    assert found["equal_cost"] == {"allowed": 0.03, "void": [["o-0003"]]}
    assert [w["code"] for w in found["warnings"]] == ["unequal-cost"]
    assert not any("c, " in mean["label"] for mean in found["means"])
    assert not any("c" in (pair["before"], pair["after"]) for pair in found["pairs"])
    assert "c, latency 50 %" not in found["front"]
    assert compared("o-", "--equal-cost", "6%")["equal_cost"]["void"] == []


def test_equal_cost_does_not_judge_what_has_no_target_among_several(root, compared, tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"a network")
    (tmp_path / "m.onnx").write_bytes(b"another network")
    compared_runs.measured(root, tmp_path / "n.onnx", 0.1)
    compared_runs.measured(root, tmp_path / "m.onnx", 0.2)
    for share in (0.5, 0.3):
        compared_runs.put(root, compared_runs.optimize("a", 0, 0.92, cost=share, share=share))
    found = compared("o-", "m-0001", "m-0002", "--equal-cost", "3%")
    assert found["equal_cost"]["void"] == []
    told = [w["message"] for w in found["warnings"] if w["code"] == "no-target"]
    assert told == [f"m-000{n} (measured) has no target, and there is not exactly one: not judged" for n in (1, 2)]
    one = compared("o-0001", "m-0001", "--equal-cost", "3%")
    assert ["m-0001"] in one["equal_cost"]["void"]


def test_equal_cost_is_asked_of_each_target_by_itself(root, compared):
    study(root)
    assert compared("o-", "--equal-cost", "3%")["equal_cost"]["void"] == []


def test_a_seed_measured_twice_is_warned_of_and_counts_once(root, compared):
    for accuracy in (0.920, 0.924):
        compared_runs.put(root, compared_runs.optimize("a", 0, accuracy))
    compared_runs.put(root, compared_runs.optimize("b", 0, 0.923))
    found = compared("o-")
    assert "o-0001 and o-0002" in found["warnings"][0]["message"]
    assert found["pairs"][0]["accuracy"]["quantity"]["value"] == pytest.approx(0.001)


def test_tables_have_every_row_and_the_reasons(root, rig):
    study(root, seeds=(0, 1))
    code, out, err = rig("o-", "--equal-cost", "3%")
    assert (code, err) == (0, "")
    for text in ("SIMULATED", "NETSCORE", "92.0", "paired over 2 seeds", "allocate over morphnet", "Front "):
        assert text in out
    assert "– memory footprint: the run does not say and its network file is gone (o-0001 and 7 more)" in out
    assert sum(line.startswith(("morphnet ", "allocate ")) for line in out.splitlines()) == 2 * 8 + 2


# --- which runs -------------------------------------------------------------------------------------------------


def test_runs_by_id_folder_and_store_are_each_taken_once(root, compared, tmp_path):
    one = compared_runs.put(root, compared_runs.optimize("a"))
    compared_runs.put(tmp_path / "other", compared_runs.optimize("b"))
    found = compared("o-0001", str(one.path), str(tmp_path / "other"))
    assert [row["method"] for row in found["rows"]] == ["baseline", "a", "b"]


def test_a_network_file_is_found_by_its_content(root, compared, tmp_path):
    compared_runs.put(root, compared_runs.optimize())
    file = tmp_path / "small.onnx"
    file.write_bytes(b"a network")
    compared_runs.measured(root, file, 0.7)
    compared_runs.measured(root, file, 0.4)
    renamed = file.rename(tmp_path / "renamed.onnx")
    found = compared(str(renamed), "o-0001")
    row = found["rows"][-1]
    assert (row["method"], row["runs"]) == ("measured", ["m-0002"])  # the newest
    assert row["cost"]["value"] == pytest.approx(0.4 * compared_runs.BASE_ENERGY_J)
    assert row["figures"]["accuracy_test"]["why"] == "rig measure knows no accuracy"
    assert row["figures"]["params"]["why"]


def test_a_file_measured_on_a_real_board_is_found_by_its_records(root, compared, tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"a network")
    compared_runs.measured(root, tmp_path / "n.onnx", older=True)
    assert compared(str(tmp_path / "n.onnx"))["compared"] == ["m-0001"]


def test_a_file_measured_on_a_simulated_board_is_found_and_counted(root, compared, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RIG_LOCK_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    file = small_model(tmp_path / "small.onnx")
    assert cli.main(["measure", "small.onnx", "--device", "virtual-pi4", "--json"]) == 0
    capsys.readouterr()
    monkeypatch.chdir("/")  # the path that the run keeps must not depend on where one stands
    (row,) = compared(str(file))["rows"]
    assert row["figures"]["params"]["quantity"]["value"] == 8 * 8 * 9 + 8
    small_model(file, channels=4)  # another network of the same name
    row = compared("m-0001")["rows"][0]
    assert row["figures"]["params"] == {"quantity": None, "why": "its network file has changed"}


def test_unfinished_runs_of_a_store_are_passed_over_and_named(root, compared):
    compared_runs.put(root, compared_runs.optimize())
    Store(root).new_run("optimize", "virtual-pi4", argv=["rig", "optimize", "--device", "virtual-pi4"])
    found = compared(str(root))
    assert found["compared"] == ["o-0001"]
    assert found["warnings"][0]["message"] == "o-0002 has no result and is left out"
    assert found["warnings"][0]["fix"] == "rig optimize --device virtual-pi4 --resume"


def test_an_unknown_run_is_refused(root, rig):
    compared_runs.put(root, compared_runs.optimize())
    refused(rig("o-0001", "o-0009"), "no run o-0009", "latest: o-0001")
    refused(rig("x-"), "no run x-")


def test_an_unfinished_run_is_refused_with_the_resuming_command(root, rig):
    compared_runs.put(root, compared_runs.optimize())
    Store(root).new_run("optimize", "virtual-pi4", argv=["rig", "optimize", "--seed", "1"])
    refused(rig("o-0001", "o-0002"), "o-0002 is unfinished (running)", "rig optimize --seed 1 --resume")


def test_the_resuming_command_can_be_pasted(root, rig):
    Store(root).new_run("optimize", "virtual-pi4", argv=["rig", "optimize", "--data", "my data"])
    refused(rig("o-0001"), "rig optimize --data 'my data' --resume")


def test_a_run_of_another_command_is_refused(root, rig):
    Store(root).new_run("calibrate", "virtual-pi4")
    refused(rig("c-0001"), "c-0001 is a calibrate run")


@pytest.mark.parametrize(
    ("field", "value"), [("name", "pi4"), ("runtime_version", "2"), ("power_mode", "ondemand"), ("boundary", "wall")]
)
def test_other_devices_and_configurations_are_refused(root, rig, field, value):
    compared_runs.put(root, compared_runs.optimize())
    other = compared_runs.optimize(seed=1)
    other["device"][field] = value
    compared_runs.put(root, other)
    said = {"name": "device"}.get(field, field.replace("_", " "))
    refused(rig("o-0001", "o-0002"), f"{said} is ", f"{value!r} in o-0002")


def test_simulated_and_measured_are_never_put_side_by_side(root, rig):
    compared_runs.put(root, compared_runs.optimize())
    other = compared_runs.optimize(simulated=False)
    other["device"] = {**compared_runs.optimize()["device"], "simulated": False}
    compared_runs.put(root, other)
    refused(rig("o-"), "o-0001 is simulated, o-0002 measured")


def test_other_tasks_are_refused(root, rig):
    compared_runs.put(root, compared_runs.optimize())
    compared_runs.put(root, {**compared_runs.optimize(), "task": "digits"})
    refused(rig("o-"), "fashion-mnist in o-0001, digits in o-0002")


def test_energy_that_nobody_measured_is_refused(root, rig, compared):
    compared_runs.put(root, compared_runs.optimize(powered=False, simulated=False))
    refused(rig("o-0001", "--cost", "energy"), "no energy was measured in o-0001", "--cost latency")
    assert compared("o-0001")["cost"] == "latency_s"


def test_power_at_other_rates_and_paced_times_are_refused(root, rig, tmp_path):
    compared_runs.put(root, compared_runs.optimize())
    other = compared_runs.optimize(seed=1)
    other["result"]["fps"] = 30.0
    compared_runs.put(root, other)
    refused(rig("o-", "--cost", "power"), "different frame rates", "30 fps in o-0002")
    (tmp_path / "n.onnx").write_bytes(b"a network")
    compared_runs.measured(root, tmp_path / "n.onnx", fps=60.0)
    refused(rig("o-0001", "m-0001", "--cost", "latency"), "m-0001: measured at a frame rate")


@pytest.mark.parametrize("cost", ["latency", "energy"])
def test_paced_measurements_at_different_rates_are_refused(root, rig, compared, tmp_path, cost):
    (tmp_path / "n.onnx").write_bytes(b"a network")
    for fps in (60.0, 60.0, 30.0):
        compared_runs.measured(root, tmp_path / "n.onnx", fps=fps)
    refused(
        rig("m-", "--cost", cost), "at different frame rates cannot be compared: 60 fps in m-0002, 30 fps in m-0003"
    )
    assert len(compared("m-0001", "m-0002", "--cost", cost)["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cost", "flops"), "--cost flops: not a cost"),
        (("--equal-cost", "3"), "--equal-cost: no unit"),
        (("--plot", "front.gif"), "front.gif: not a picture"),
        (("missing.onnx",), "no such file: missing.onnx"),
    ],
    ids=["cost", "equal cost", "plot", "file"],
)
def test_wrong_options_are_refused(root, rig, words, said):
    compared_runs.put(root, compared_runs.optimize())
    refused(rig("o-0001", *words), said)


def test_a_network_that_was_never_measured_is_refused(root, rig, tmp_path):
    (tmp_path / "new.onnx").write_bytes(b"a network")
    refused(rig(str(tmp_path / "new.onnx")), "has not been measured", "rig measure")


def test_an_empty_folder_is_refused(root, rig, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(rig(str(tmp_path / "empty")), "holds no optimize runs")


# --- the figure -------------------------------------------------------------------------------------------------


def test_the_figure_has_all_seeds_the_means_and_the_front(root, compared, tmp_path):
    study(root, seeds=(0, 1))
    found = compared("o-", "--cost", "latency", "--out", str(tmp_path / "out"), "--plot", str(tmp_path / "front.pdf"))
    files = [tmp_path / "out" / name for name in ("compare.json", "pareto.png", "pareto.svg", "pareto.csv")]
    assert found["artifacts"]["out"] == [str(file) for file in files]
    assert files[1].read_bytes().startswith(b"\x89PNG")
    assert "SIMULATED" in files[2].read_text()
    assert (tmp_path / "front.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "front.csv").read_text() == files[3].read_text()
    lines = files[3].read_text().splitlines()
    assert lines[0].split(",")[:6] == ["what", "method", "target", "runs", "seed", "cost_ms"]
    kinds = [line.split(",")[0] for line in lines[1:]]
    assert (kinds.count("seed"), kinds.count("mean")) == (2 + 8, 5)
    assert json.loads(files[0].read_text())["rows"] == found["rows"]


def test_the_same_runs_draw_the_same_picture(root, compared, tmp_path):
    study(root, seeds=(0,))
    for name in ("a", "b"):
        compared("o-", "--out", str(tmp_path / name))
    for suffix in ("svg", "png"):
        assert (tmp_path / "a" / f"pareto.{suffix}").read_bytes() == (tmp_path / "b" / f"pareto.{suffix}").read_bytes()


def test_without_any_accuracy_nothing_is_drawn_and_that_is_said(root, compared, tmp_path):
    (tmp_path / "n.onnx").write_bytes(b"a network")
    compared_runs.measured(root, tmp_path / "n.onnx")
    found = compared("m-0001", "--plot", str(tmp_path / "front.png"))
    assert [w["code"] for w in found["warnings"]] == ["no-accuracy"]
    assert not (tmp_path / "front.png").exists()
