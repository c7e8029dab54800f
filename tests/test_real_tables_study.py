"""The study of measured tables: which units it does, what it stores of one, and the tables it writes of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tables_made_up import kernel_table, network_table

from power_models import cross_validation
from power_models.evaluation import Predicted, Row, measured
from power_models.measured_tables import read_table

FOLDER = Path(__file__).parent.parent / "experiments" / "real-tables"
sys.path.insert(0, str(FOLDER))
try:
    import study
    import summary
finally:
    sys.path.remove(str(FOLDER))
    for name in ("study", "summary"):  # other studies use such names too
        sys.modules.pop(name, None)


@pytest.fixture
def five_per_cent_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions that are 5 % too high, with intervals of ± 10 %, in place of fitting."""

    def hold_out(rows: list[Row], fold: Any, fit: Any, references: bool = True) -> cross_validation.HeldOut:
        test = [rows[i] for i in fold.rows]
        truth = measured(test, "latency_s") * 1.05
        ours = {"latency_s": Predicted(truth, truth * 0.9, truth * 1.1)}
        return cross_validation.HeldOut(fold.label, fold.rows.tolist(), {"ours": ours}, 1.0)

    monkeypatch.setattr(study, "hold_out", hold_out)


def test_units_of_both_shapes(tmp_path: Path) -> None:
    kernels = read_table(kernel_table(tmp_path / "kernels.csv", 40))
    names = [f"{one.protocol} {one.name}" for one in study.units(kernels, 2, study.PROTOCOLS, None)]
    assert names[:2] == ["folds 0", "folds 1"]
    assert "levels kernel_h-3" in names
    assert not any(name.startswith("family") for name in names)
    assert len(list(study.units(kernels, 0, ["levels"], 2))) == 8  # two levels of four columns
    one, other = (read_table(network_table(tmp_path / f"{n}.jsonl", 12, seed=n)) for n in (1, 2))
    assert study.similar(one, [one, other]) is other
    units = list(study.units(one, 1, study.PROTOCOLS, None, other))
    assert [unit.protocol for unit in units].count("family") == 3
    assert {unit.base for unit in units if unit.protocol == "transfer"} == {other}


@pytest.mark.usefixtures("five_per_cent_off")
def test_a_unit_is_scored_by_part_and_tables_are_written(tmp_path: Path) -> None:
    table = read_table(kernel_table(tmp_path / "t4_conv_latency.csv", 60, power=False, quiet=False))
    results = tmp_path / "results"
    results.mkdir()
    for unit in study.units(table, 2, ["folds"], None):
        result = study.do(unit)
        (results / unit.file.name).write_text(study.json.dumps(result))
        assert result["methods"]["ours"]["latency_s"]["all"]["mape"] == pytest.approx(0.05)
        assert result["rows"] == 60
        assert len(result["code"]) == 12
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    summary.write_readme(results, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| T4 | latency | ≤ 10 % | **5.00** ± 0.00 % |" in text
    assert "| t4_conv_latency | latency | 100.0 % |" in text
    assert "levels left out" not in text
    assert "| T4 | cost model | 5.0 % | 5.0 % | 5.0 % | 5.0 % | 5.0 % |" in text
