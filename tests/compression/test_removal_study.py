"""The study of removal during training, on a made-up device and a tiny network: every variant gives a whole row."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from stairs import build, stairs
from training_cases import INPUT, small_task

FOLDER = Path(__file__).parent.parent.parent / "experiments" / "removal-while-training"
sys.path.insert(0, str(FOLDER))
try:
    import study
finally:
    sys.path.remove(str(FOLDER))
    sys.modules.pop("study", None)  # other studies use such names too


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, *INPUT, generator=generator), torch.randint(0, 10, (16,), generator=generator))
        for _ in range(12)
    ]
    task = small_task(model=build, loaders=lambda split: data)
    setting = study.setting_of(task, stairs, "virtual", "latency", "60%", (1, 5, 1))
    path = tmp_path_factory.mktemp("study") / "rows.json"
    study.do_missing(setting, [0], ["kept", "removed"], path)
    return study.do_missing(setting, [0], study.VARIANTS, path)


def test_every_variant_has_one_row_under_the_budget(rows):
    assert [row["variant"] for row in rows] == list(study.VARIANTS)
    for row in rows:
        assert 0.0 < row["usage"] < 1.25, row["variant"]  # the seed network uses 1.67 of the budget
        assert row["seconds"] > 0


def test_channels_leave_during_training_only_where_that_is_asked(rows):
    by_name = {row["variant"]: row for row in rows}
    for name in study.VARIANTS:
        assert bool(by_name[name]["removals"]) is name.endswith("removed"), name
    sizes = [r["parameters_after"] for r in by_name["removed"]["removals"]]
    assert sizes == sorted(sizes, reverse=True)
    assert by_name["removed"]["parameters"] <= sizes[-1]
