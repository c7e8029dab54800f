"""The study of gates against filters, tiny: a whole row for each way, done once."""

from __future__ import annotations

import pytest
from study_scripts import study_in

from rig.compression.methods import WITHOUT_NORM

study = study_in("gates")


@pytest.mark.slow
def test_both_ways_start_from_one_baseline_and_hold_the_budget(tmp_path):
    rows = study.do_missing(study.TINY["seeds"], study.TINY["shares"], study.TINY["epochs"], tmp_path / "rows.json")
    assert [row["way"] for row in rows] == list(WITHOUT_NORM)
    assert len({row["accuracy_baseline"] for row in rows}) == 1
    for row in rows:
        assert 0.5 < row["usage"] <= 1.0
        assert set(row["widths"]) == {f"features.{i}" for i in (0, 2, 4, 6, 8)}
    again = study.do_missing(study.TINY["seeds"], study.TINY["shares"], study.TINY["epochs"], tmp_path / "rows.json")
    assert again == rows
