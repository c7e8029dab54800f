"""MorphNet that takes dead channels out while it shrinks: later epochs are narrower, a stop changes nothing."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import compression_case as case
import example_runs as example
import odd_networks as odd
import pytest
import torch
from training_cases import values

from power_models.regularizer import CostRegularizer
from rig.compression import outcome
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.removal import cut_of, narrowed
from rig.compression.methods import morphnet
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.training import load_state
from rig.compression.training.removing import Removing
from rig.plotting.figure import Paragraph
from rig.report.sections import ReportInput, sections
from rig.results import parse_result
from rig.wording import removal_words, scale_words

pytestmark = pytest.mark.usefixtures("one_precision")
ASKED = {"morph_rounds": 2, "prune_every": 4}
EPOCHS = 32


class Stop(Exception):
    pass


class Stopping(case.Quiet):
    """A console that stops the second round in the middle."""

    def __init__(self):
        self.round = ""

    def stage(self, text):
        self.round = text

    def update(self, text):
        if self.round.startswith("shrink 2: training") and text.startswith("step 43 "):
            raise Stop


def searched(folder, task, survey, network, state=None, progress=None):
    workplace = case.workplace_in(folder, task, EPOCHS, **ASKED)
    workplace.state.update(state or {})
    workplace.progress = progress or workplace.progress
    try:
        found = morphnet.MorphNet().search(workplace, network, survey, case.budget_of(survey, "latency"))
    except Stop:
        return workplace, None
    return workplace, found


def test_later_epochs_are_narrower_and_a_stopped_run_ends_the_same(task, survey, network, tmp_path):
    workplace, whole = searched(tmp_path / "whole", task, survey, network)
    stages = {stage["name"]: stage for stage in workplace.stages}
    assert list(stages) == ["blocks", "shrink", "expand 1", "shrink 2", "removal"]
    trained = math.ceil((EPOCHS - workplace.state["blocks_first"]["epochs"]) / 2)
    for name in ("shrink", "shrink 2"):
        sizes = [epoch["parameters"] for epoch in stages[name]["epochs"]]
        assert len(sizes) == trained
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[-1] < sizes[0]
        assert all(epoch["time_s"] > 0 for epoch in stages[name]["epochs"])
        assert all(math.ceil(cut["step"] / 4) % 4 == 0 for cut in stages[name]["removals"])  # four batches an epoch
    widths = {g.name: g.width for g in whole.template.groups if g.prunable}
    assert widths == {name: whole.alive[name] for name in widths}  # the last cut left the living alone
    assert all(whole.importance[name].shape == (width,) for name, width in widths.items())

    stopped, none = searched(tmp_path / "stopped", task, survey, network, progress=Stopping())
    assert none is None
    assert load_state(stopped.checkpoint("shrink-2"))["widths"]  # of a network that was made narrower
    resumed, again = searched(tmp_path / "stopped", task, survey, network, stopped.state)
    assert again.alive == whole.alive
    assert torch.equal(values(again.network), values(whole.network))
    assert [s.get("removals") for s in resumed.stages] == [s.get("removals") for s in workplace.stages]
    assert len(next(stage for stage in resumed.stages if stage["name"] == "shrink 2")["epochs"]) == trained


def test_a_cut_changes_neither_the_record_nor_who_is_condemned(survey, network):
    whole = copy.deepcopy(network)
    groups = find_groups(whole, torch.zeros(1, *case.INPUT))
    dead = next(g for g in groups if g.name == "layer1.0.conv1")
    with torch.no_grad():
        for scale in dead.scales:
            scale.weight[:4] = 0.0
            scale.bias[:4] = 0.0
    budget = case.budget_of(survey, "latency")
    regularizer = CostRegularizer(groups, survey.tables, budget.gradient)
    generator = torch.Generator().manual_seed(0)
    for group in groups:
        if group.prunable:
            regularizer.resistance[group.name] = torch.rand(group.width, generator=generator) * (group.norms() > 0)
    shrinker = Shrinker(regularizer, budget, StrengthController(2.0, 1.0), gradient_on=False)
    removing = Removing(shrinker, whole, torch.zeros(1, *case.INPUT))
    before = {group.name: ratio for group, ratio in regularizer._ratios(1.0)}
    shrinker.after_step(1, 1, 0.1, 1.0)
    cut = removing.surgery(1)
    assert cut.kept[dead.name] == list(range(4, 16))
    removing.adopt(narrowed(whole, cut, case.build, cut.table))
    shrinker.after_step(1, 1, 0.1, 1.0)
    first, second = shrinker.history
    assert first["alive_share"] == second["alive_share"] < 1.0
    for group, ratio in regularizer._ratios(1.0):
        torch.testing.assert_close(ratio, before[group.name][cut.kept[group.name]])


def test_grouped_convolutions_keep_two_units():
    network = odd.Grouped()
    groups = find_groups(network, odd.EXAMPLE)
    units = {g.name: g for g in groups if g.quantum > 1}
    assert units
    cut = cut_of(groups, {name: torch.ones(g.width, dtype=torch.bool) for name, g in units.items()})
    assert {name: cut.kept[name] for name in units} == {name: [0, 1] for name in units}
    spared = cut_of(groups, {name: torch.arange(g.width) != 2 for name, g in units.items()})
    assert {name: spared.kept[name] for name in units} == {name: [0, 2] for name in units}


# --- what is said of it ---------------------------------------------------------------------------------------------

CUT = {"step": 8, "parameters_before": 5000, "parameters_after": 4000}
UNDONE = {"step": 12, "parameters_before": 4000, "undone": "taking dead channels out of conv1 changes the answers"}


def test_the_summary_says_what_left_and_what_could_not():
    epochs = [{"time_s": 4.0, "parameters": 5000}, {"time_s": 3.0, "parameters": 4000}]
    said = removal_words([{"name": "baseline"}, {"name": "shrink", "removals": [CUT, UNDONE], "epochs": epochs}])
    assert said == [
        "shrink: dead channels left once while it was trained, 5,000 → 4,000 parameters; its first epoch took 4 s, its "
        "last 3 s",
        "shrink: 1 removals would have changed the network's answers and were undone",
    ]
    assert removal_words([{"name": "shrink", "removals": [], "epochs": epochs}]) == []


def test_a_removal_that_was_undone_is_warned_of():
    (entry,) = outcome.not_removed([{"name": "shrink", "removals": [CUT, UNDONE]}, {"name": "removal"}])
    assert entry["code"] == "not-removed"
    assert UNDONE["undone"] in entry["message"]
    assert outcome.not_removed([{"name": "shrink", "removals": [CUT]}]) == []


def test_layers_without_batch_norm_are_named_with_what_shrank():
    layers = [
        SimpleNamespace(name=f"conv{i}", shrunk_by=kind)
        for i, kind in enumerate(["batch-norm", "gates", "filters", "gates", None])
    ]
    assert scale_words([vars(layer) for layer in layers]) == [
        "without batch-norm, shrunk by gates, folded into them: conv1, conv3",
        "without batch-norm, shrunk by the norms of their filters (group lasso): conv2",
    ]


def test_the_report_says_what_left_and_what_shrank():
    data = example.optimize_result()
    epochs = [{"time_s": 4.0, "parameters": 5000}, {"time_s": 3.0, "parameters": 4000}]
    data["stages"].append({"name": "shrink", "seconds": 7.0, "removals": [CUT], "epochs": epochs})
    data["layers"][0]["shrunk_by"] = "gates"
    parts = sections(ReportInput(parse_result(data, "a run"), {}, {}))
    (removed,) = (part for part in parts if part.number == 5)
    said = [block.text for block in removed.blocks if isinstance(block, Paragraph)]
    assert said[0].startswith("Shrink: dead channels left once while it was trained, 5,000 → 4,000 parameters")
    assert said[1] == f"Without batch-norm, shrunk by gates, folded into them: {data['layers'][0]['name']}."
