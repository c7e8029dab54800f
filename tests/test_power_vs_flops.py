"""The study on FLOPs, seconds and joules: its statistics, its results from the shipped table, its README, its loop."""

from __future__ import annotations

import gzip
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from example_runs import optimize_result
from scipy import stats

from experiments.shared.stored_runs import finished, runs_of
from rig.errors import BadInputError
from rig.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "experiments" / "power-vs-flops"
SHIPPED = ROOT / "rig" / "devices" / "data" / "rpi4_tflite.jsonl.gz"
RESULTS = FOLDER / "results.json"


@pytest.fixture(scope="module")
def parts():
    """The study's modules, imported as its scripts import each other; forgotten afterwards."""
    names = [path.stem for path in FOLDER.glob("*.py")]
    before = {name: sys.modules.pop(name, None) for name in names}
    sys.path.insert(0, str(FOLDER))
    try:
        found = SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)
            if before[name] is not None:
                sys.modules[name] = before[name]
    return found


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pi4(parts):
    (float32, int8), kernels, left_out = parts.measured_sets.read_sets([SHIPPED])
    assert (kernels, left_out) == ([], [])
    return float32, int8


@pytest.fixture(scope="module")
def again(parts):
    """The study of the shipped table, computed anew."""
    return parts.study.study([SHIPPED])


# --- results and README -------------------------------------------------------------------------------------------


def differing(found, expected, where=""):
    """Paths at which two JSON values differ, numbers by more than a thousandth."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or found.keys() != expected.keys():
            return [where]
        return [d for key in expected for d in differing(found[key], expected[key], f"{where}/{key}")]
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            return [where]
        return [d for i, one in enumerate(expected) for d in differing(found[i], one, f"{where}/{i}")]
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return [] if math.isclose(found, expected, rel_tol=1e-3, abs_tol=1e-6) else [f"{where}: {found} != {expected}"]
    return [] if found == expected else [f"{where}: {found} != {expected}"]


def test_the_shipped_table_gives_the_committed_results(again, committed):
    results = again[0]
    assert list(results["networks"]) == ["Raspberry Pi 4, float32", "Raspberry Pi 4, int8"]
    for part in ("networks", "precision"):
        for label, found in results[part].items():
            assert differing(found, committed[part][label]) == []


def test_the_readme_is_what_the_script_writes_from_the_results(parts, committed):
    template = (FOLDER / "README.template.md").read_text(encoding="utf-8")
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == parts.readme.render(committed, template, FOLDER)


def test_the_readme_changes_with_the_results(parts, committed):
    changed = json.loads(json.dumps(committed))
    changed["networks"]["Raspberry Pi 4, float32"]["errors"]["active by macs, two"]["mape"]["value"] = 0.987
    template = (FOLDER / "README.template.md").read_text(encoding="utf-8")
    assert "98.7 %" in parts.readme.render(changed, template, FOLDER)


def test_the_readme_shows_the_figures_that_it_draws(again, parts, tmp_path):
    results, networks, kernels = again
    drawn = {path.name for path in parts.figures.draw_all(results, networks, kernels, tmp_path)}
    assert drawn == {"joules.png", "watts.png", "decisions.png", "precision.png"}
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in drawn | {"kernels.png", "recovered.png"}:
        assert f"]({name})" in text
        assert 5_000 < (FOLDER / name).stat().st_size < 150_000


def test_without_all_tables_the_readme_is_refused_and_says_what_is_missing(again, parts):
    template = (FOLDER / "README.template.md").read_text(encoding="utf-8")
    with pytest.raises(parts.shown.MissingFigure, match=r"give the study (that|a) table"):
        parts.readme.render(again[0], template, FOLDER)


def test_another_board_gets_results_figures_and_tables(parts, tmp_path, monkeypatch, capsys):
    """One family of a board that the README does not know: what cannot be told is a dash, and the README stays away."""
    with gzip.open(SHIPPED, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    few = [{**row, "device": "new"} for row in rows if row["dtype"] == "int8" and "mobilenet-v1" in row["network"]]
    table = tmp_path / "few.jsonl"
    table.write_text("\n".join(map(json.dumps, few)) + "\n")
    monkeypatch.setattr(sys, "argv", ["study.py", str(table), "--out", str(tmp_path)])
    for name in ("figures", "readme"):  # imported by main
        monkeypatch.setitem(sys.modules, name, getattr(parts, name))
    assert parts.study.main() == 0
    assert "README.md not written" in capsys.readouterr().err
    assert not (tmp_path / "README.md").exists()
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| new, int8 | 16 (4) |" in text
    assert "None: results.json has no board at two precisions" in text
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["networks"]["new, int8"]
    assert found["errors"]["active by macs, two"]["family_left_out"]["value"] is None
    assert found["decisions"]["macs"]["close_two_families"] == {
        "pairs": 0,
        "wrong": None,
        "extra_when_wrong": None,
        "extra_worst": None,
    }


def test_tables_without_power_are_named_as_left_out(parts, tmp_path):
    table = tmp_path / "latency_only.csv"
    table.write_text(
        "kind,batch,in_channels,in_height,in_width,out_channels,kernel_h,kernel_w,stride,padding,groups,latency_s\n"
        "conv,1,3,8,8,4,3,3,1,1,1,0.001\n"
    )
    networks, kernels, left_out = parts.measured_sets.read_sets([table])
    assert (networks, kernels) == ([], [])
    assert left_out == ["latency_only.csv: 1 kernels without power"]


def test_known_values_of_the_published_table(committed):
    """What data sheets of the same table say: FLOPs rank at 0.97, seconds × watts within 2.6 and 1.4 %."""
    float32, int8 = (committed["networks"][f"Raspberry Pi 4, {dtype}"] for dtype in ("float32", "int8"))
    assert float32["rank"]["macs energy"]["spearman"]["value"] == pytest.approx(0.974, abs=0.001)
    assert float32["rank"]["macs energy over latency"]["spearman"]["value"] == pytest.approx(0.458, abs=0.001)
    assert int8["rank"]["macs energy over latency"]["spearman"]["value"] == pytest.approx(0.858, abs=0.001)
    assert float32["errors"]["energy by latency, one"]["mape"]["value"] == pytest.approx(0.026, abs=0.002)
    assert int8["errors"]["energy by latency, one"]["mape"]["value"] == pytest.approx(0.013, abs=0.002)


# --- statistics of weights are those of the replicated sample -----------------------------------------------------


def test_weighted_statistics_equal_the_replicated_sample(parts, pi4):
    float32, _ = pi4
    draw = parts.resampling.draws_of("a draw", float32.architecture, 1)
    places = np.repeat(np.arange(len(float32)), draw[0].astype(int))
    x, y = float32.macs, float32.power_w
    assert len(set(places)) < len(float32)
    assert parts.resampling.spearman(x, y)(draw)[0] == pytest.approx(stats.spearmanr(x[places], y[places])[0])
    assert parts.resampling.kendall(x, y)(draw)[0] == pytest.approx(stats.kendalltau(x[places], y[places])[0], abs=1e-5)
    assert parts.resampling.mean(y)(draw)[0] == pytest.approx(np.mean(y[places]))
    for share in (0.1, 0.5, 0.9):
        expected = np.quantile(y[places], share, method="inverted_cdf")
        assert parts.resampling.quantile(y, share)(draw)[0] == expected


def test_draws_keep_clusters_together_and_repeat(parts, pi4):
    float32, _ = pi4
    draws = parts.resampling.draws_of("label", float32.architecture, 50)
    for one in range(int(float32.architecture.max()) + 1):
        members = draws[:, float32.architecture == one]
        assert np.ptp(members, axis=1).max() == 0
    assert np.array_equal(draws, parts.resampling.draws_of("label", float32.architecture, 50))


def test_bootstrap_intervals_of_a_mean_cover(parts):
    """Clusters of four equal values: the interval must be that of the clusters, not of four times as many networks."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 4)
    held = 0
    for trial in range(200):
        values = rng.normal(size=30)[clusters]
        draws = parts.resampling.draws_of(f"trial {trial}", clusters, 300)
        found = parts.resampling.estimate(parts.resampling.mean(values), draws)
        held += found["lo"] <= 0.0 <= found["hi"]
    assert 0.87 <= held / 200 <= 0.99


# --- scales -------------------------------------------------------------------------------------------------------


def test_scales_minimize_the_error_that_is_reported(parts):
    rng = np.random.default_rng(1)
    x = rng.uniform(1, 100, 60)[:, None]
    y = (3 + 2 * x[:, 0]) * rng.lognormal(0, 0.3, 60)
    one = parts.scales.one_parameter(x, y)
    factor = one(np.ones((1, 1)))[0]

    def error(c):
        return np.abs(c * x[:, 0] / y - 1).mean()

    assert error(factor) == pytest.approx(min(error(c) for c in np.linspace(0.2, 2, 2001) * factor), rel=1e-3)
    line = parts.scales.two_parameters(x, y)
    a = line(np.zeros((1, 1)))[0]
    b = line(np.ones((1, 1)))[0] - a
    reached = np.abs(line(x) / y - 1).mean()
    for step in (-0.02, 0.02):
        assert reached <= np.abs((a + step + b * x[:, 0]) / y - 1).mean() + 1e-6
        assert reached <= np.abs((a + (b + step) * x[:, 0]) / y - 1).mean() + 1e-6


def test_held_out_errors_do_not_see_the_network(parts):
    """A network that is off by ten times keeps its whole error when the others are exact."""
    x = np.linspace(1, 10, 40)
    y = 2 * x
    y[7] *= 10
    errors = parts.scales.random_fold_errors(parts.scales.two_parameters, x, y)
    assert errors[:, 7] == pytest.approx(-0.9, abs=1e-3)
    assert np.abs(np.delete(errors, 7, axis=1)).max() < 1e-3


# --- pairs and decisions ------------------------------------------------------------------------------------------


def test_pairs_and_decisions_are_those_of_a_plain_loop(parts, pi4):
    float32, _ = pi4
    x, y, n = float32.macs, float32.active_j, len(float32)
    equal, close, wrong = [], 0, []
    for i in range(n):
        for j in range(i + 1, n):
            if float32.architecture[i] == float32.architecture[j]:
                continue
            cheap, dear = (i, j) if x[i] < x[j] else (j, i)
            if x[dear] <= 1.05 * x[cheap]:
                equal.append(max(y[i], y[j]) / min(y[i], y[j]))
            if x[cheap] < x[dear] < 1.25 * x[cheap]:
                close += 1
                wrong += [y[cheap] / y[dear] - 1] if y[cheap] > y[dear] else []
    draws = parts.resampling.draws_of("loop", float32.architecture, 20)
    pairs = parts.pairs.equal_pairs(float32, x, y, draws)
    assert pairs["pairs"] == len(equal)
    assert pairs["largest"] == pytest.approx(max(equal))
    assert pairs["median"]["value"] == pytest.approx(np.quantile(equal, 0.5, method="inverted_cdf"))
    found = parts.pairs.decisions(float32, x, y, draws)
    assert found["close"]["pairs"] == close
    assert found["close"]["wrong"]["value"] == pytest.approx(len(wrong) / close)
    assert found["close"]["extra_when_wrong"] == pytest.approx(np.mean(wrong))
    assert sum(one["pairs"] for one in found["bins"]) == found["all"]["pairs"]


def test_a_perfect_proxy_is_never_wrong(parts, pi4):
    float32, _ = pi4
    draws = parts.resampling.draws_of("perfect", float32.architecture, 20)
    found = parts.pairs.decisions(float32, 3 * float32.active_j, float32.active_j, draws)
    assert found["all"]["wrong"] == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    assert found["regret_mj"]["value"] == 0.0


def test_watts_at_equal_fps_follow_from_quiet_power_and_active_energy(again):
    float32 = again[0]["networks"]["Raspberry Pi 4, float32"]
    pair = float32["equal_macs"]["extremes"][0]
    assert pair["fps"] * pair["dearer"]["latency_ms"] <= 1000 < (pair["fps"] + 1) * pair["dearer"]["latency_ms"]
    for role in ("cheaper", "dearer"):
        above_w = pair["fps"] * pair[role]["energy_mj"] / 1e3
        assert pair[role]["power_at_fps_w"] == pytest.approx(float32["idle_power_w"] + above_w, rel=1e-4)


# --- layers, width, resolution, precision -------------------------------------------------------------------------


def priced(parts, pi4, price):
    """The Pi 4's networks with joules by a price list: a kernel → joules."""
    float32, _ = pi4
    joules = np.array([sum(price(kernel) for kernel in kernels) for kernels in float32.kernels])
    return parts.measured_sets.CostSet(**{**vars(float32), "active_j": joules, "energy_j": joules})


def test_layer_prices_are_recovered_from_totals(parts, pi4):
    def price(kernel):
        a_mac = {"depthwise": 2e-9, "fc": 3e-9}.get(kernel.kind, 5e-10)
        return a_mac * kernel.macs + 1e-10 * (kernel.input_bytes + kernel.output_bytes)

    found = parts.layers.joules_per_mac(priced(parts, pi4, price))["kinds"]
    kernels = [k for kernels in pi4[0].kernels for k in kernels]
    for kind in ("1×1 convolution", "depthwise"):
        own = [k for k in kernels if parts.layers.kind_of(k) == kind]
        truth = 1e9 * sum(price(k) for k in own) / sum(k.macs for k in own)
        assert found[kind]["nj_per_mac"]["value"] == pytest.approx(truth, rel=0.02)
        assert found[kind]["nj_per_mac"]["lo"] <= truth * 1.02
        assert found[kind]["nj_per_mac"]["hi"] >= truth * 0.98


def layer(kind, mmac, value, half):
    return {
        "label": f"{kind} {value}",
        "kind": kind,
        "mmac": mmac,
        "nj_per_mac": {"value": value, "lo": value - half, "hi": value + half},
    }


def test_equal_layers_are_told_apart_by_kind_macs_and_intervals(parts):
    cheap, dear = layer("1×1 convolution", 10.0, 0.3, 0.05), layer("1×1 convolution", 10.4, 0.5, 0.1)
    others = [
        layer("1×1 convolution", 10.0, 0.9, 0.7),  # not told apart from any
        layer("1×1 convolution", 20.0, 2.0, 0.1),  # other MACs
        layer("depthwise", 10.0, 3.0, 0.1),  # another kind
    ]
    found = parts.recovered.equal_layers([dear, *others, cheap])
    assert (found["cheaper"], found["dearer"]) == (cheap, dear)
    assert found["ratio"] == pytest.approx(0.5 / 0.3)
    assert parts.recovered.equal_layers([cheap, *others]) is None


def test_recovered_layers_of_the_shipped_table_are_those_committed(parts):
    """Prices of the cost model as it is today, within a tenth (it may be refitted); their sum is the measured total."""
    committed = json.loads((FOLDER / "recovered.json").read_text(encoding="utf-8"))
    again = parts.recovered.study_table(SHIPPED)
    assert set(again) == {name for name in committed if name.startswith("Raspberry Pi 4")}
    for name, facts in again.items():
        assert facts["recovered_mj"] == pytest.approx(facts["measured_mj"], rel=0.05)
        for kind, bounds in committed[name]["kinds"].items():
            assert facts["kinds"][kind] == pytest.approx(bounds, rel=0.1)


def test_elasticity_is_one_where_joules_follow_flops_and_a_half_where_they_follow_the_root(parts, pi4):
    sets = parts.measured_sets
    float32, _ = pi4
    for key in (sets.same_but_for_width, sets.same_but_for_resolution):
        follows = parts.layers.elasticity(float32, key, 7 * float32.macs)
        assert follows["slope"]["value"] == pytest.approx(1.0)
        assert follows["saved"]["value"] == pytest.approx(0.5)
        root = parts.layers.elasticity(float32, key, np.sqrt(float32.macs))
        assert root["saved"]["value"] == pytest.approx(1 - math.sqrt(0.5))
    assert parts.layers.elasticity(float32, lambda kernels: kernels, float32.macs) is None


def test_groups_are_those_of_the_names(parts, pi4):
    """By names: MobileNet v1 and v2 at several image sizes are one architecture; keys come from kernels alone."""
    float32, _ = pi4
    named = {}
    for name, code in zip(float32.names, float32.architecture, strict=True):
        if name.startswith(("mobilenet-v1", "mobilenet-v2")):
            named.setdefault(name.rsplit("-", 3)[0], set()).add(int(code))
    assert all(len(codes) == 1 for codes in named.values())
    assert len(set.union(*named.values())) == len(named) == 10


def test_precision_pairs_are_the_same_network(parts, pi4):
    float32, int8 = pi4
    pairs = parts.precision.pairs_of(float32, int8)
    assert len(pairs) == 45
    for i, j in pairs:
        assert float32.names[i].replace("-non-quantized", "").replace("_float", "") == int8.names[j].replace(
            "-quantized", ""
        ).replace("_uint8", "")
        assert float32.macs[i] == int8.macs[j]


# --- the loop -----------------------------------------------------------------------------------------------------


def loop_rows(gain, slope, noise, seeds=(0, 1, 2)):
    """Rows as the loop would give: accuracy is ``slope`` points an e-fold of cost, ``gain`` more by joules."""
    rng = np.random.default_rng(5)
    rows = []
    for seed in seeds:
        for resource, costs in (("energy", (0.7, 0.55, 0.45)), ("flops", (0.72, 0.58, 0.5))):
            for share, cost in zip((70, 55, 45), costs, strict=True):
                points = 92 + 0.2 * seed + slope * math.log(cost) + gain * (resource == "energy")
                rows.append(
                    {
                        "device": "virtual-pi4",
                        "resource": resource,
                        "share": share,
                        "seed": seed,
                        "variant": "full",
                        "kind": "simulated",
                        "verdict": "met",
                        "baseline_test": 0.925,
                        "result_test": (points + rng.normal(0, noise)) / 100,
                        "macs_share": 0.3,
                        "energy_active_j": {"value": cost, "lo": 0.99 * cost, "hi": 1.01 * cost},
                        "latency_s": None,
                    }
                )
    return rows


def test_the_comparison_finds_gain_and_cost_at_equal_accuracy(parts):
    found = parts.loop.compare(loop_rows(gain=0.5, slope=2.0, noise=0.05), "energy_active_j")
    assert (found["seeds"], found["pieces"]) == (3, 18)
    assert found["points"]["lo"] <= 0.5 <= found["points"]["hi"]
    assert found["points"]["value"] == pytest.approx(0.5, abs=0.1)
    assert found["cost"]["lo"] <= math.exp(-0.25) <= found["cost"]["hi"] < 1.0


def test_no_cost_factor_where_accuracy_does_not_follow_cost(parts):
    found = parts.loop.compare(loop_rows(gain=0.0, slope=0.0, noise=0.2), "energy_active_j")
    assert found["cost"] is None
    assert found["points"]["lo"] < 0 < found["points"]["hi"]


def test_too_few_pieces_are_not_compared(parts):
    assert parts.loop.compare(loop_rows(0.5, 2.0, 0.05, seeds=(0,)), "energy_active_j") is None
    assert parts.loop.compare(loop_rows(0.5, 2.0, 0.05), "latency_s") is None


def test_the_loop_is_not_claimed_before_it_is_measured_and_marked_simulated_after(parts, tmp_path):
    assert "Not measured yet" in parts.loop_table.loop_table(tmp_path)
    assert "not measured yet" in parts.loop_table.loop_answer(tmp_path)
    for row in loop_rows(0.5, 2.0, 0.05):
        parts.loop.results_in(tmp_path, "full").keep(row)
        parts.loop.results_in(tmp_path, "full").keep(row)
    assert len(json.loads((tmp_path / "loop-full.json").read_text())) == 18
    for text in (parts.loop_table.loop_table(tmp_path), parts.loop_table.loop_answer(tmp_path)):
        assert "SIMULATED" in text
        assert "3 seeds, 18 networks" in text


def test_pieces_cover_each_seed_resource_and_budget_once(parts):
    for device, budgets in parts.loop.BUDGETS.items():
        pieces = parts.loop.pieces(device, "full")
        assert len(set(pieces)) == len(pieces) == 3 * sum(map(len, budgets.values()))
        assert {p.resource for p in pieces} == set(budgets)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_finished_piece_is_taken_from_the_store_and_an_unfinished_one_is_found(parts, home):
    piece = parts.loop.Piece("virtual-pi4", "energy", 55, 1, "quick")
    asked = "rig optimize --device virtual-pi4 --task fashion-mnist --model resnet20 --target-energy 55%"
    words = f"{asked} --seed 1 --epochs-shrink 2 --epochs-finetune 2".split()
    options = parts.loop.options_of(piece)
    assert runs_of(options) == []
    run = Store().new_run("optimize", "virtual-pi4", argv=words)
    assert [m["id"] for m in runs_of(options)] == [run.id]
    assert finished(options) is None
    result = {**optimize_result(), "blocks": {"removed": ["layer1.2"], "trials": []}}
    run.write_json("result.json", result)
    run.update(state="done")
    row = parts.loop.run_piece(piece)  # would train for minutes if it were not taken from the store
    before, after = result["baseline"], result["result"]
    assert row["macs_share"] == after["macs"] / before["macs"]
    assert row["energy_active_j"]["value"] == after["energy_active_j"]["value"] / before["energy_active_j"]["value"]
    assert (row["seed"], row["resource"], row["share"], row["kind"]) == (1, "energy", 55, "simulated")


def test_networks_of_another_device_are_refused_before_it_has_made_them(parts, home):
    piece = parts.loop.Piece("local", "flops", 25, 0, "full")
    with pytest.raises(BadInputError, match="virtual-pi4 has not finished this piece"):
        parts.loop.measure_networks_of("virtual-pi4", piece)


def test_a_share_carries_both_intervals_and_missing_costs_stay_missing(parts):
    before = {"value": 2.0, "lo": 1.94, "hi": 2.06}
    after = {"value": 1.0, "lo": 0.96, "hi": 1.04}
    share = parts.loop._share(before, after)
    assert share["value"] == 0.5
    assert share["hi"] - share["value"] == pytest.approx(0.5 * math.hypot(0.03, 0.04))
    assert parts.loop._share(before, None) is None


def test_the_script_lists_pieces_and_refuses_unknown_ones():
    script = [sys.executable, str(FOLDER / "loop.py")]
    listed = subprocess.run([*script, "list", "--device", "local", "--seed", "0"], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == 6
    refused = subprocess.run([*script, "run", "--device", "local", "--share", "99"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "no such piece" in refused.stderr
