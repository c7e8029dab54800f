"""The study of removal during training, on a made-up device and a tiny network: every variant gives a whole row."""

from __future__ import annotations

import pytest
import torch
from stairs import build, stairs
from study_scripts import study_in
from training_cases import INPUT, small_task, values

from power_models.regularizer import CostRegularizer
from rig.compression.cutting.groups import find_groups
from rig.compression.methods.controller import StrengthController
from rig.compression.methods.shrinker import Shrinker
from rig.compression.training import TrainingPlan, load_state, train
from rig.compression.training.removing import Removing

study = study_in("removal-while-training")


@pytest.fixture(scope="module")
def setting() -> study.Setting:
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(12)
    ]
    task = small_task(model=build, loaders=lambda split: data)
    return study.setting_of(task, stairs, "virtual", "latency", "60%", (1, 5, 1))


def check(rows: list[dict]) -> None:
    for row in rows:
        name = row["variant"]
        assert 0.0 < row["usage"] < 1.25, name  # the seed network uses 1.67 of the budget
        assert row["seconds"] > 0
        assert bool(row["removals"]) is name.endswith("removed"), name
        sizes = [r["parameters_after"] for r in row["removals"]]
        assert sizes == sorted(sizes, reverse=True)


def test_rows_that_are_done_are_kept_and_removal_happens_where_it_is_asked(setting, tmp_path):
    path = tmp_path / "rows.json"
    (first,) = study.do_missing(setting, [0], ["removed"], path)
    rows = study.do_missing(setting, [0], ["removed", "start"], path)
    assert rows[0] == first
    assert [row["variant"] for row in rows] == ["removed", "start"]
    assert first["parameters"] <= first["removals"][-1]["parameters_after"]
    check(rows)


def test_a_line_that_is_down_earlier_makes_rows_of_its_own_and_removes_earlier(setting, tmp_path):
    path = tmp_path / "rows.json"
    (late,) = study.do_missing(setting._replace(ramp=1.0), [0], ["published-removed"], path)
    early = study.do_missing(setting._replace(ramp=0.2), [0], ["published-removed"], path)[0]
    assert [row["ramp"] for row in (early, late)] == [0.2, 1.0]
    check([early, late])
    halfway = [row["removals"][len(row["removals"]) // 2]["parameters_after"] for row in (early, late)]
    assert halfway[0] < halfway[1]


class Stop(Exception):
    pass


def test_shrinking_with_surgery_goes_on_from_a_checkpoint_of_a_narrower_network(setting, tmp_path):
    def shrinking(name: str, progress=None):
        network = study.fresh(setting, 0)
        groups = find_groups(network, setting.example, like=setting.template.groups)
        regularizer = CostRegularizer(groups, setting.tables, setting.budget.gradient)
        start = setting.budget.usage(setting.tables.totals(setting.template.seed_widths()))
        shrinker = Shrinker(regularizer, setting.budget, StrengthController(start, 1.0))
        hook = Removing(shrinker, network, setting.example)
        plan = TrainingPlan(5, 0.05, seed=1, precision="float32")
        return train(network, setting.task, plan, hook=hook, checkpoint=tmp_path / name, progress=progress), hook

    def stop(step: int, total: int, loss: float) -> None:
        if step == 50:
            raise Stop

    whole, first = shrinking("whole.pt")
    with pytest.raises(Stop):
        shrinking("half.pt", stop)
    assert load_state(tmp_path / "half.pt")["widths"]
    again, second = shrinking("half.pt")
    assert again.network is second.network
    assert torch.equal(values(again.network), values(whole.network))
    assert first.hook.history == second.hook.history
    assert again.facts["removals"] == whole.facts["removals"]


@pytest.mark.slow
def test_every_variant_gives_a_row(setting, tmp_path):
    rows = study.do_missing(setting, [0, 1], study.VARIANTS, tmp_path / "rows.json")
    assert [row["variant"] for row in rows] == [*study.VARIANTS, *study.VARIANTS]
    check(rows)
