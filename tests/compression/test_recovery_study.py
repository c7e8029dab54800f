"""The study of what is left of a cut's damage, tiny: every block and group once, rows kept, a table from them."""

from __future__ import annotations

import pytest
from study_scripts import study_in

from experiments.shared.pieces import Results
from rig.compression.tasks import load_task

study = study_in("recovery")


@pytest.mark.slow
def test_every_cut_is_tried_once_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "AFTER", (0, 2))
    task, results = load_task("digits", "resnet8"), Results(tmp_path / "results.json", study.place)
    study.study(task, 0, 1.0, results, tmp_path)
    rows = results.rows()
    blocks = {row["what"] for row in rows if row["kind"] == "block"}
    assert blocks == {"layer1.0", "layer2.0", "layer3.0"}
    assert {row["kept"] for row in rows if row["kind"] == "group"} == {1 / 2, 1 / 8}
    assert all(len(row["added"]) == 3 for row in rows)
    assert max(abs(row["added"][0] - row["added"][1]) for row in rows) > 0.01  # the statistics matter
    before = results.path.read_bytes()
    study.study(task, 0, 1.0, results, tmp_path)
    assert results.path.read_bytes() == before
    shown = study.tables(rows)
    assert "without block layer2.0" in shown
    assert "conv1 to 1/8" in shown
