"""The studies of peers, targets and ablations: equal cost, families, tables, and the tiny variant of each for real."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from example_runs import optimize_result
from stairs import INPUT, build, stairs

from device_agents.records import Configuration
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCostModel, KernelRow
from power_models.kernels import kernel_graph
from power_models.tables import NetworkTables
from rig.commands.options import command_words
from rig.compression import tasks
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.surgery import function_difference
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.measurement import Measurement, Windows
from rig.store.store import Store
from rig.units import Quantity
from rig.workloads.grid import design

STUDIES = Path(__file__).resolve().parent.parent / "experiments"
FOLDERS = [STUDIES / name for name in ("peers", "targets", "ablations")]
# The task file of the targets is no module of the study: loading it reads all of Fashion-MNIST.
NAMES = sorted(path.stem for folder in FOLDERS for path in folder.glob("*.py") if path.stem != "short")


@pytest.fixture(scope="module")
def parts():
    """The studies' modules, imported as their scripts import each other; forgotten afterwards."""
    before = {name: sys.modules.pop(name, None) for name in NAMES}
    sys.path[:0] = [str(folder) for folder in FOLDERS]
    try:
        found = SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        for folder in FOLDERS:
            sys.path.remove(str(folder))
        for name in NAMES:
            sys.modules.pop(name, None)
            if before[name] is not None:
                sys.modules[name] = before[name]
    return found


# --- equal cost ---------------------------------------------------------------------------------------------------


def pool(parts, count=200, error=1.0):
    """Candidates of one width whose predicted share is off by a factor."""
    return [
        parts.equal_cost.Priced(parts.equal_cost.Candidate(f"{k}", {"a": k}, ()), error * (k / count) ** 2, float(k))
        for k in range(1, count + 1)
    ]


def exactly(share):
    return Quantity.around(share, 0.001, n=4)


@pytest.mark.parametrize("error", [1.0, 0.6, 1.7])
def test_a_wrong_prediction_is_corrected_by_what_is_measured(parts, error):
    looks = parts.equal_cost.find_equal(
        pool(parts, error=error), lambda c: exactly((c.widths["a"] / 200) ** 2), goal=0.3, most_looks=10
    )
    assert abs(looks[-1].value / 0.3 - 1) <= parts.equal_cost.CLOSE
    assert len(looks) <= 4
    assert len({look.priced.candidate.key for look in looks}) == len(looks)


def test_no_candidate_is_looked_at_that_cannot_be_near(parts):
    """A family whose smallest network costs half: one look says so."""
    dear = [one._replace(predicted=0.5 + one.predicted) for one in pool(parts)]
    looked = []

    def measure(candidate):
        looked.append(candidate)
        return exactly(0.5 + (candidate.widths["a"] / 200) ** 2)

    looks = parts.equal_cost.find_equal(dear, measure, goal=0.15, most_looks=10)
    assert len(looked) == 1
    assert parts.equal_cost.is_void(looks[-1].share, 0.15, ours=False) is not None


def test_of_candidates_that_cost_alike_the_one_with_most_multiplications_is_taken(parts):
    priced, candidate = parts.equal_cost.Priced, parts.equal_cost.Candidate
    alike = [priced(candidate(f"{k}", {"a": k}, ()), 0.3 + 1e-4 * k, float(k)) for k in range(20)]
    looks = parts.equal_cost.find_equal(alike, lambda c: exactly(0.3), goal=0.3, most_looks=5)
    assert looks[-1].priced.candidate.widths == {"a": 19}


def test_stairs_that_skip_the_goal_leave_the_nearest_and_a_void_row(parts):
    stepped = pool(parts, error=1.0)
    looks = parts.equal_cost.find_equal(
        stepped, lambda c: exactly(0.2 if c.widths["a"] < 110 else 0.4), goal=0.3, most_looks=6
    )
    assert looks[-1].value in (0.2, 0.4)
    assert 3 < len(looks) <= 6  # halved until nothing is left between
    assert "% off the budget" in parts.equal_cost.is_void(looks[-1].share, 0.3, ours=False)


@pytest.mark.parametrize(
    ("share", "ours", "void"),
    [
        (0.3, False, False),
        (0.308, False, False),
        (0.311, False, True),
        (0.28, False, True),
        (0.28, True, False),
        (0.311, True, True),
    ],
)
def test_a_row_is_void_beyond_three_per_cent_and_ours_may_only_use_less(parts, share, ours, void):
    assert (parts.equal_cost.is_void(exactly(share), 0.3, ours) is not None) == void


def measured(latency_s, windows):
    """A measurement with these windows."""
    quantity = Quantity.around(latency_s, 0.01 * latency_s)
    times = tuple(float(k) for k in range(len(windows)))
    return Measurement(
        "m", "s", None, "measured", "ok", None, quantity, quantity, quantity, windows=Windows(times, times, windows)
    )


def test_two_speeds_are_told_from_noise(parts):
    rng = np.random.default_rng(0)
    beside = [measured(1e-3, (1e-3,) * 16) for _ in range(6)]
    one = [measured(4e-4, tuple(4e-4 * rng.lognormal(0, 0.02, 16))) for _ in range(6)]
    assert parts.equal_cost.two_modes(one, beside) is None
    two = [measured(4e-4, tuple((4e-4 if k % 3 else 5e-4) * rng.lognormal(0, 0.02, 16))) for k in range(6)]
    found = parts.equal_cost.two_modes(two, beside)
    assert found["slow_share"] == pytest.approx(1 / 3)
    assert found["slower_by"] == pytest.approx(0.25, abs=0.02)
    # A host that is slower as a whole in one round is slower for the baseline too.
    drifting = [measured(4e-4 * f, tuple(4e-4 * f * rng.lognormal(0, 0.02, 16))) for f in (1, 1, 1, 1.25, 1.25, 1.25)]
    slower = [measured(1e-3 * f, (1e-3 * f,) * 16) for f in (1, 1, 1, 1.25, 1.25, 1.25)]
    assert parts.equal_cost.two_modes(drifting, slower) is None


# --- families -----------------------------------------------------------------------------------------------------


def random_task():
    """Noise to train on, of the small network's shape."""
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(8, *INPUT, generator=generator), torch.randint(0, 10, (8,), generator=generator)) for _ in range(2)
    ]
    loss = torch.nn.functional.cross_entropy
    return tasks.Task("noise", "noise", build, loss, lambda split: data, lambda net, split: 0.0, INPUT, 16)


@pytest.fixture(scope="module")
def small():
    """The small residual network (two blocks in each of two stages), its template and its tables."""
    torch.manual_seed(0)
    network = build().eval()
    groups = find_groups(network, torch.zeros(1, *INPUT))
    template = make_template(kernel_graph(to_onnx(network, INPUT), "virtual"), groups)
    largest = {g.name: round(g.width * 1.5) if g.prunable else g.width for g in groups}
    return network, template, NetworkTables(template.kernels, stairs, largest)


def test_the_hand_picked_families_are_disjoint_buildable_and_in_sixteens(parts, small):
    _, template, tables = small
    families = {base: parts.peer_families.pool_of(base, template, tables, 0) for base in parts.peer_families.HAND_BASES}
    keys = [one.candidate.key for family in families.values() for one in family]
    assert len(keys) == len(set(keys)) > 10
    of_stage = template.stages()
    assert [len(blocks) for blocks in of_stage.values()] == [2, 2]
    for base, family in families.items():
        for one in family:
            lost = [sum(b in one.candidate.removed for b in blocks) for blocks in of_stage.values()]
            assert min(lost) == parts.peer_families.HAND_BASES.index(base)
            widths = template.layer_widths(one.candidate.widths, one.candidate.removed)
            assert all(width % 16 == 0 for width in widths.values())
    cheapest = min(families["hand-1"], key=lambda one: one.predicted)
    network = build(template.layer_widths(cheapest.candidate.widths, cheapest.candidate.removed))
    assert network(torch.zeros(1, *INPUT)).shape == (1, 10)
    assert cheapest.predicted < 0.6


def test_a_person_keeps_the_published_widths_where_the_cost_allows_it(parts, small):
    _, template, tables = small
    preference = parts.peer_families.like_published(template)
    whole = parts.peer_families.pool_of("hand-0", template, tables, 0)
    best = max(whole, key=preference).candidate
    gone = {g for b in template.blocks if b.name in best.removed for g in b.inner}
    assert all(width == template.seed_widths()[name] for name, width in best.widths.items() if name not in gone)


def test_uniform_widths_follow_the_ratio_in_ones_and_eights(parts, small):
    _, template, tables = small
    found = [one.candidate for one in parts.peer_families.pool_of("uniform", template, tables, 0)]
    seed = {g.name: g.width for g in template.groups if g.prunable}
    assert any(all(c.widths[name] == round(0.5 * width) for name, width in seed.items()) for c in found)
    eights = [c for c in found if "multiples of 8" in c.label]
    assert eights
    assert all(c.widths[name] % 8 == 0 for c in eights for name in seed)


@pytest.mark.parametrize("method", ["taylor", "magnitude"])
def test_what_torch_pruning_leaves_is_rebuilt_with_its_weights(parts, small, method):
    baseline, template, _ = small

    def ladder():
        return parts.peer_families.pruned_ladder(baseline, random_task(), template, method, 0, 6)

    made = [candidate for candidate, _ in ladder()]
    sizes = [sum(candidate.widths.values()) for candidate in made]
    assert sizes[:6] == sorted(sizes[:6], reverse=True)
    assert sizes[5] < 0.5 * sizes[0]
    for wanted in (made[2], made[8]):
        network = build(template.layer_widths(wanted.widths))
        network.load_state_dict(parts.peer_families.weights_at(wanted, ladder()))  # shapes and names agree
        assert float(network(torch.ones(1, *INPUT)).detach().abs().max()) > 0


def test_torch_pruning_is_tried_with_a_ceiling_for_each_layer_too(parts, small):
    baseline, template, _ = small
    ladder = parts.peer_families.pruned_ladder(baseline, random_task(), template, "taylor", 0, 25)
    last = {
        candidate.label: candidate for candidate, _ in ladder if ", 99 % of channels, multiples of 1" in candidate.label
    }
    free, held = (last[label] for label in sorted(last, key=len))
    groups = [g for g in template.groups if g.prunable]
    assert any(free.widths[g.name] < 0.1 * g.width for g in groups)
    assert sum(held.widths[g.name] for g in groups) > sum(free.widths[g.name] for g in groups)


def test_pruning_nothing_leaves_the_function(parts, small, monkeypatch):
    monkeypatch.setattr(parts.peer_families, "MOST_PRUNED", 0.0)
    baseline, template, _ = small
    ((first, weights), *_) = parts.peer_families.pruned_ladder(baseline, random_task(), template, "magnitude", 0, 1)
    assert first.widths == template.seed_widths()
    again = build()
    again.load_state_dict(weights)
    assert function_difference(again, baseline, torch.randn(2, *INPUT)) < 1e-5


# --- tables -------------------------------------------------------------------------------------------------------


def row(parts, peer, seed, change, val=0.9, share=0.3, **fields):
    return {
        **{"device": "virtual-pi4", "network": "resnet20", "budget": 30, "peer": peer, "seed": seed, "variant": "full"},
        **{"kind": "simulated", "void": None, "share": {"value": share, "lo": share, "hi": share, "n": 8}},
        **{"planned": {"value": share}, "aligned": None, "modes": None, "verdict": None},
        **{"baseline_test": 0.92 + 0.001 * seed, "result_test": 0.92 + 0.001 * seed + change / 100, "result_val": val},
        **{"images": 10000, "epochs": 16, "macs_share": 0.2, "seconds": 100.0},
        **fields,
    }


def test_differences_are_paired_by_seed_with_students_interval(parts):
    ours = [row(parts, "morphnet", seed, change) for seed, change in enumerate((-0.2, 0.1, 0.4))]
    theirs = [row(parts, "uniform", seed, change) for seed, change in enumerate((-1.2, -1.0, -0.5))]
    found = parts.peer_table.paired(ours, theirs)
    assert found["value"] == pytest.approx(1.0)
    # Differences 1.0, 1.1, 0.9: standard deviation 0.1, t of two degrees of freedom 4.303.
    assert found["hi"] - found["value"] == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert parts.peer_table.paired(ours[:1], theirs)["lo"] is None
    assert parts.peer_table.paired(ours, [{**theirs[0], "void": "too dear"}]) is None


def test_the_best_by_hand_is_chosen_by_validation_and_pays_for_all_that_were_tried(parts):
    rows = [row(parts, "hand-0", 0, -0.1, val=0.90), row(parts, "hand-1", 0, -0.5, val=0.92)]
    rows += [row(parts, "hand-2", 0, 0.3, val=0.95, void="too cheap")]
    (best,) = parts.peer_table.best_by_hand(rows)
    assert parts.peer_table.change(best) == pytest.approx(-0.5)
    assert best["epochs"] == 32


def test_tables_show_void_rows_and_speeds_and_mark_what_is_simulated(parts, tmp_path):
    rows = [row(parts, "morphnet", seed, 0.0) for seed in range(5)]
    rows += [row(parts, "uniform", seed, -1.0, modes={"slower_by": 0.2} if seed == 1 else None) for seed in range(5)]
    rows += [row(parts, "taylor", 0, 0.0, void="costs 35.0 % of the baseline", result_test=None)]
    rows += [row(parts, "magnitude", 0, -9.0, share=0.35, void="costs 35.0 % of the baseline")]
    rows += [row(parts, "magnitude", 1, -9.0, share=0.25, void="costs 25.0 % of the baseline")]
    for one in rows:
        parts.peer_pieces.results_in(tmp_path, "full").keep(one)
    (tmp_path / "README.md").write_text(f"words\n\n{parts.peer_table.MARK}\nold\n")
    parts.peer_table.write_readme(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "costs SIMULATED" in text
    assert "VOID: torch-pruning, global Taylor: seed 0 costs 35.0 %" in text
    dearer = "seed 0 costs 35.0 % of the baseline; trained as it is it changes by -9.00 points; ours, which cost less"
    assert f"VOID: torch-pruning, global magnitude: {dearer}, less it: morphnet +9.00\n" in text
    assert "seed 1 costs 25.0 % of the baseline; trained as it is it changes by -9.00 points\n" in text
    assert "uniform width, from scratch: the host ran the network of 1 seed(s) at two speeds" in text
    assert "| uniform width, from scratch | 5 | 30.0 [30.0, 30.0] | -1.00 [-1.00, -1.00] |" in text
    assert "+1.00 [+1.00, +1.00]" in text
    assert "old" not in text


def test_the_whole_network_trained_as_long_is_in_the_table_of_each_budget(parts, tmp_path):
    results = parts.peer_pieces.results_in(tmp_path, "full")
    for budget in (50, 30):
        results.keep(row(parts, "morphnet", 0, 0.25, budget=budget))
    results.keep(row(parts, "whole", 0, 0.75, budget=100, share=1.0))
    text = parts.peer_table.all_tables(tmp_path)
    assert text.count("| the whole network, from scratch | 1 | 100.0 | +0.75 | 20 | -0.50 |") == 2
    assert "at 100 %" not in text


def test_a_network_by_hand_has_the_name_of_its_own_family(parts, tmp_path):
    results = parts.peer_pieces.results_in(tmp_path, "full")
    for network in ("resnet20", "mobilenetv2-0.5"):
        results.keep(row(parts, "hand-1", 0, 0.25, network=network))
    residual, depthwise = parts.peer_table.all_tables(tmp_path).split("### mobilenetv2-0.5")
    assert "| by hand, a block fewer a stage (ResNet-14) |" in residual
    assert "| by hand, a block fewer a stage |" in depthwise


@pytest.mark.parametrize(
    ("fields", "redo", "wanted"),
    [
        (None, False, True),
        ({}, True, False),
        ({"void": "too dear", "share": 0.35, "result_test": None}, False, True),
        ({"void": "too dear", "share": 0.35}, True, False),  # a bound: trained as it is
        ({"void": "too cheap", "share": 0.25, "result_test": None}, False, False),
        ({"void": "too cheap", "share": 0.25, "result_test": None}, True, True),
    ],
)
def test_what_is_run_again(parts, fields, redo, wanted):
    piece = parts.peer_pieces.Piece("virtual-pi4", "resnet20", 30, "uniform", 0, "full")
    known = None if fields is None else row(parts, "uniform", 0, -1.0, **fields)
    assert parts.peers.to_do(piece, known, redo) == wanted


def test_all_fine_tuning_of_a_network_is_at_one_rate(parts):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4))
    plans = {
        peer: parts.peer_runs.last_training(
            parts.peer_pieces.Piece("virtual-pi4", "mobilenetv2-0.5", 30, peer, 0, "full"), network, 280
        )
        for peer in ("uniform", "taylor", "morphnet-flops")
    }
    assert plans["taylor"].learning_rate == plans["morphnet-flops"].learning_rate < plans["uniform"].learning_rate
    assert [plans[peer].epochs for peer in plans] == [8, 6, 5]


@pytest.mark.parametrize("study", ["peers", "targets", "ablations"])
def test_each_readme_is_what_its_script_writes(parts, study, tmp_path):
    folder = STUDIES / study
    text = (folder / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    results = folder / "results-full.json"
    if results.exists():
        (tmp_path / results.name).write_bytes(results.read_bytes())
    {"peers": parts.peer_table, "targets": parts.targets, "ablations": parts.ablations}[study].write_readme(tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text


def test_pieces_cover_everything_once_and_a_network_without_a_family_has_no_hand_picked_row(parts):
    size = parts.peer_pieces.VARIANTS["full"]
    every = parts.peer_pieces.pieces("local", "full")
    hand = len(parts.peer_families.HAND_BASES)
    cut = sum(len(parts.peer_pieces.PEERS) - 1 - (0 if network.hand else 2 * hand) for network in size.networks)
    whole = len(size.networks)  # whatever the budget, once
    budgets = len(size.budgets) - 1
    assert len(set(every)) == len(every) == (cut * budgets + whole) * len(size.seeds)
    assert {(p.peer, p.budget) for p in every if "whole" in p or p.budget == 100} == {("whole", 100)}
    assert {p.seed for p in parts.ablations.pieces("local", "full")} == set(range(5))


# --- targets ------------------------------------------------------------------------------------------------------


def test_targets_are_drawn_within_reach_and_repeat(parts):
    reach = parts.target_draws.Reach((1e-3, 4e-3), (1e-4, 2e-4), 2.7, True)
    drawn = parts.target_draws.draw("virtual-pi4", reach, 20, 5)
    assert drawn == parts.target_draws.draw("virtual-pi4", reach, 20, 5)
    assert drawn != parts.target_draws.draw("virtual-pi4-201", reach, 20, 5)
    assert [t.feasible for t in drawn] == [True] * 20 + [False] * 5
    assert {t.quantity for t in drawn} == {"power", "energy", "latency"}
    assert {t.text.endswith("%") for t in drawn if t.feasible} == {True, False}
    for target in drawn:
        if target.quantity == "power":
            assert 150 <= float(target.fps) <= 500
        if target.quantity == "latency" and target.text.endswith("s"):
            assert (1e-4 < float(target.text[:-1]) < 1e-3) == target.feasible
    blind = parts.target_draws.draw("local", reach._replace(metered=False), 20, 5)
    assert {t.quantity for t in blind} == {"latency"}


def test_counts_ask_more_of_simulated_boards(parts):
    def one(number, verdict, used, feasible=True, refused=None, trained=True):
        facts = {"number": number, "verdict": verdict, "feasible": feasible, "refused": refused, "trained": trained}
        return {**facts, "used": {"value": used}}

    rows = [one(0, "met", 0.97), one(1, "met", 0.92), one(2, "missed", 1.1)]
    rows += [one(20, None, None, False, "too low", False), one(21, None, None, False, "too low", True)]
    on_local, on_virtual = (parts.targets.counts(rows, board) for board in ("local", "virtual-pi4"))
    assert (on_local["met"], on_local["asked"], on_local["well_used"], on_virtual["well_used"]) == (2, 3, 2, 1)
    assert (on_local["refused"], on_local["infeasible"]) == (1, 2)


# --- the tiny variants, for real ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store of the tests' own with a model of the simulated board, fitted to few of its kernels."""
    root = tmp_path_factory.mktemp("studies")
    board = BoardModel.load("pi4")
    rows = [
        KernelRow(spec, latency_s, 0.01 * latency_s, energy_j, 0.01 * energy_j, "chain", str(number))
        for number, spec in enumerate(design(60, 1))
        for latency_s, energy_j in [board.kernel_cost(spec)]
    ]
    configuration = Configuration("virtual-pi4", "virtual-pi4-0", "virtual", "1", 4, True, "performance", "board_input")
    model = KernelCostModel.fit(rows, configuration, "simulated", overhead=board.inference_cost([]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIG_HOME", str(root / "home"))
        patch.setenv("RIG_CONFIG", str(root / "config"))
        model.save(Store().model_folder("virtual-pi4"))
        yield root


def run_script(module, *words):
    """A script of a study in this process, its tiny variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["script", *words, "--variant", "tiny"])
        return module.main()


@pytest.mark.slow
def test_the_whole_network_is_trained_as_long_as_the_others_at_its_own_cost(parts, home):
    asked = ("--device", "virtual-pi4", "--out", str(home / "whole"))
    assert run_script(parts.peers, "run", *asked, "--peer", "whole") == 0
    (found,) = json.loads((home / "whole" / "results-tiny.json").read_text())
    assert (found["budget"], found["epochs"], found["void"]) == (100, 4, None)
    assert (found["removed"], found["macs_share"], found["looks"]) == ([], 1.0, 1)
    assert found["share"]["value"] == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_a_peer_is_measured_before_training_and_again_after_it(parts, home, capsys):
    asked = ("--device", "virtual-pi4", "--out", str(home / "peers"))
    assert run_script(parts.peers, "run", *asked, "--peer", "morphnet-flops") == 0
    (found,) = json.loads((home / "peers" / "results-tiny.json").read_text())
    assert (found["kind"], found["peer"], found["epochs"]) == ("simulated", "morphnet-flops", 4)
    assert (found["void"] is None) == (abs(found["share"]["value"] / 0.8 - 1) <= 0.03)
    if found["void"] is None:  # it was trained and measured again
        assert found["share"]["n"] == 3
        assert 0 <= found["result_test"] <= 1
        assert found["seconds"] > 0
    capsys.readouterr()
    assert run_script(parts.peers, "list", *asked, "--peer", "morphnet-flops", "--peer", "magnitude") == 0
    missing, done = capsys.readouterr().out.splitlines()
    assert missing.endswith("missing")
    assert "of the cost" in done or "VOID" in done


@pytest.mark.slow
def test_infeasible_targets_are_refused_before_training(parts, home):
    asked = ("--board", "virtual-pi4", "--number", "1", "--out", str(home / "targets"))
    assert run_script(parts.targets, "run", *asked) == 0
    (found,) = json.loads((home / "targets" / "results-tiny.json").read_text())
    assert not found["feasible"]
    assert found["refused"]
    assert not found["trained"]


# --- runs that are there are taken from the store -----------------------------------------------------------------


def finished_run(options, quantity):
    """A finished ``rig optimize`` run of these options in the store; its result."""
    result = {
        **optimize_result(),
        "blocks": {"removed": ["layer1.2"], "trials": []},
        "widths": {"conv1": 16},
        "usage": {quantity: {"value": 0.97, "lo": 0.96, "hi": 0.98, "level": 0.95, "n": 6, "kind": "simulated"}},
        "stages": [
            {"name": "baseline", "seconds": 9.0, "accuracy_val": 0.93},
            {"name": "shrink", "seconds": 3.0, "accuracy_val": 0.92, "reached": 0.98},
            {"name": "removal", "seconds": 0.0, "accuracy_val": 0.92, "accuracy_drop": 0.001},
            {"name": "fine-tune", "seconds": 4.0, "accuracy_val": 0.925},
        ],
    }
    run = Store().new_run("optimize", "virtual-pi4", argv=command_words("optimize", options))
    run.write_json("result.json", result)
    run.update(state="done")
    return result


@pytest.fixture
def empty_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))


def test_a_finished_run_of_ours_is_a_row_at_the_measured_share(parts, empty_home, monkeypatch):
    piece = parts.peer_pieces.Piece("virtual-pi4", "resnet20", 30, "morphnet", 2, "full")
    result = finished_run(parts.peer_ours.options_of(piece), "energy")
    known = {"baseline_val": 0.93, "baseline_test": 0.92}
    ground = SimpleNamespace(reference=lambda seed: None, accuracies=lambda network, name: known)
    monkeypatch.setattr(parts.peer_ours, "ground_of", lambda *where: ground)
    found = parts.peer_runs.row_of(piece)  # would train for minutes if it were not taken from the store
    assert found["share"]["value"] == pytest.approx(0.3 * 0.97)
    assert (found["void"], found["epochs"], found["seconds"]) == (None, 16, 7.0)
    assert found["result_test"] == result["result"]["accuracy_test"]["value"]
    assert {key: found[key] for key in known} == known  # not of the shorter training that is cut
    assert "--target-energy 30%" in " ".join(command_words("optimize", parts.peer_ours.options_of(piece)))


def test_a_finished_target_is_counted_as_met(parts, empty_home):
    target = parts.target_draws.Target("virtual-pi4", 3, "power", "3.21W", "120", True)
    finished_run(parts.targets.options_of(target, "full"), "power")
    found = parts.targets.run_target(target, "full")
    assert found["used"]["value"] == 0.97
    counted = parts.targets.counts([found], "virtual-pi4")
    assert (counted["asked"], counted["met"], counted["well_used"]) == (1, int(found["verdict"] == "met"), 1)


def test_an_ablation_has_a_store_of_its_own_and_the_whole_method_the_users(parts, empty_home):
    whole, off = (parts.ablations.Piece("virtual-pi4", 30, name, 1, "full") for name in ("none", "blocks"))
    assert parts.ablations.options_of(whole) == parts.ablations.options_of(off)
    finished_run(parts.ablations.options_of(whole), "energy")
    assert parts.ablations.run_piece(whole)["reached"] == 0.98
    user = os.environ["RIG_HOME"]
    with parts.ablations.store_of("blocks"):
        assert Store().runs() == []
        assert Store().root == Path(user) / "ablations" / "blocks"
        assert (Store().root / "baselines").resolve() == Path(user) / "baselines"
        finished_run(parts.ablations.options_of(off), "energy")
    assert os.environ["RIG_HOME"] == user
    rows = [parts.ablations.run_piece(whole), {**parts.ablations.run_piece(off), "result_test": 0.90}]
    text = parts.ablations.table_of(rows)
    gain = 100 * (rows[0]["result_test"] - 0.90)
    assert f"| {gain:+.2f} | 98 | 0.10 | 1.0 |" in text
