"""rig fit and rig evaluate on made-up tables: what is stored, what is refused, what predict makes of it."""

from __future__ import annotations

import json
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from tables_made_up import QUIET_W, kernel_table, network_table

from power_models import cross_validation
from power_models.code_digest import code_digest
from power_models.cross_validation import HeldOut
from power_models.drift import NONE, Drift
from power_models.evaluation import Predicted, measured, predict
from power_models.kernel_cost import CannotFit, KernelRow
from power_models.measured_tables import TableKernel, read_table
from power_models.table_fit import fit_rows, kernel_rows
from rig import cli, evaluations, table_sources
from rig.collect.rows import Collected
from rig.commands import evaluate as evaluate_command
from rig.profiles import SHIPPED_FOLDER
from rig.store.store import Store
from rig.table_sources import UNKNOWN

ROWS = 20  # few: fitting is tested elsewhere


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def own_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIG_HOME", str(home))
    monkeypatch.setenv("RIG_CONFIG", str(home / "config"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kernel_table(tmp_path_factory.mktemp("tables") / "kernels.csv", ROWS)


def rig(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def fitted(home: Path, table: Path) -> dict[str, Any]:
    """The made-up board, fitted once for all tests; one row of its table is damaged."""
    damaged = table.with_name("damaged.csv")
    lines = table.read_text().splitlines()
    damaged.write_text(
        "\n".join([*lines, lines[-1].replace("conv,1,", "conv,0,").replace("wise,1,", "wise,0,")]) + "\n"
    )
    from rig.commands import fit
    from rig.commands.options import FitOptions

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIG_HOME", str(home))
        return fit.run(FitOptions((str(damaged),), "made-up", boundary="wall"))


def network(tmp_path: Path) -> Path:
    """A network of two of the table's kinds."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = {"w1": np.ones((32, 16, 3, 3), np.float32), "w2": np.ones((32, 1, 3, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w2"], ["y"], name="second", pads=[1, 1, 1, 1], group=32),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 28, 28])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 28, 28])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "net.onnx"
    )
    return tmp_path / "net.onnx"


def test_a_fit_says_and_stores_what_it_was_made_of(fitted: dict[str, Any], home: Path, table: Path) -> None:
    (source,) = fitted["sources"]
    assert (source["rows"], source["what"], len(source["sha256"])) == (ROWS, "kernels", 64)
    assert source["unusable"] == [{"line": ROWS + 2, "reason": "batch is '0'; a whole number from 1 on is needed"}]
    assert any(f"line {ROWS + 2}" in note["message"] for note in fitted["warnings"])
    assert fitted["device"]["boundary"] == "wall"
    assert fitted["idle_power_w"]["value"] == pytest.approx(QUIET_W)
    assert fitted["kind"] == "imported"
    assert set(fitted["held_out"]) == {"latency_s", "power_w", "energy_j", "energy_active_j"}
    assert fitted["held_out"]["latency_s"]["median"] < 0.3
    run = Store(home).open_run(fitted["run_id"])
    assert run.manifest["sources"] == fitted["sources"]
    assert run.manifest["state"] == "done"
    assert run.read_json("result.json")["schema"] == "rig.fit/1"


def test_predict_prices_a_device_without_a_profile(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = rig(capsys, "predict", str(network(tmp_path)), "--device", "made-up", "--fps", "30")
    assert (code, said["kind"], said["basis"]) == (0, "predicted", "imported")
    assert [row["kind"] for row in said["kernels"]] == ["conv", "depthwise"]
    assert said["network"]["power_w"]["value"] == pytest.approx(
        QUIET_W + 30 * said["network"]["energy_active_j"]["value"], rel=1e-6
    )
    assert said["next"] == "rig evaluate --device made-up TABLE"


@pytest.mark.parametrize("command", ["measure", "calibrate"])
def test_a_device_without_a_profile_is_not_measured(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    model = [str(network(tmp_path))] if command == "measure" else []
    code, said = rig(capsys, command, *model, "--device", "made-up")
    assert code == 2
    assert "can be priced, not measured" in said["error"]["message"]
    assert "made-up.toml" in said["error"]["fix"]


def test_devices_list_what_can_be_priced_only(
    fitted: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rig.commands import devices

    monkeypatch.setattr(devices, "profile_names", lambda: ["pi4"])
    assert cli.main(["devices"]) == 0
    assert "made-up" in capsys.readouterr().out
    rows = {row["name"]: row for row in rig(capsys, "devices")[1]["devices"]}
    assert (rows["made-up"]["state"], rows["made-up"]["calibrated"]) == ("priced only", True)
    assert rows["pi4"]["state"] == "not set up"


def test_an_unknown_device_is_still_unknown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, said = rig(capsys, "predict", str(network(tmp_path)), "--device", "virtual-pi5")
    assert (code, said["error"]["code"]) == (2, "unknown-device")


@pytest.mark.parametrize("what", ["fit", "evaluate"])
def test_its_report_is_drawn(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path, what: str
) -> None:
    run_id = fitted["run_id"]
    if what == "evaluate":
        code, said = rig(capsys, "evaluate", "--device", "made-up", str(table))
        assert code == 0
        run_id = said["run_id"]
    code, _ = rig(capsys, "report", run_id, "--out", str(tmp_path / "page.html"))
    assert code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "made-up" in page
    assert "Can I trust the prediction?" in page


def test_evaluate_scores_the_stored_model(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = kernel_table(tmp_path / "other.csv", 50, seed=7)
    code, said = rig(capsys, "evaluate", "--device", "made-up", str(other), "--group", "kernel_size")
    assert code == 0
    ours = said["methods"]["ours"]
    assert ours["latency_s"]["all"]["n"] == 50
    assert ours["latency_s"]["all"]["median"] < 0.3
    assert ours["energy_active_j"]["all"]["coverage"] > 0.8
    assert {"kind=conv", "kind=depthwise"} <= set(ours["power_w"])
    assert set(said["levels"]) == {"kernel_size=1x1", "kernel_size=3x3", "kernel_size=5x5"}
    assert list(said["methods"]) == ["ours"]
    assert not said["warnings"]
    code, said = rig(capsys, "evaluate", "--device", "made-up", fitted["sources"][0]["path"])
    assert "in-sample" in [note["code"] for note in said["warnings"]]


def test_the_model_that_comes_with_the_rig_has_seen_its_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = SHIPPED_FOLDER / "data" / "rpi4_tflite.jsonl.gz"
    code, said = rig(capsys, "evaluate", "--device", "pi4", str(table))
    assert code == 0
    assert "in-sample" in [note["code"] for note in said["warnings"]]
    assert said["methods"]["ours"]["latency_s"]["dtype=int8"]["mape"] < 0.05
    assert said["methods"]["ours"]["power_w"]["all"]["mape"] < 0.02


def test_a_table_with_a_kind_never_fitted_counts_its_rows_as_unpriced(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = kernel_table(tmp_path / "other.csv", 20, seed=9)
    other.write_text(other.read_text().replace("depthwise,", "softmax,"))
    code, said = rig(capsys, "evaluate", "--device", "made-up", str(other))
    assert code == 0
    assert said["methods"]["ours"]["latency_s"]["all"]["unpriced"] == 5
    assert any(note["code"] == "unpriced" for note in said["warnings"])


def test_folds_hold_out_every_row_and_references_stand_beside(
    capsys: pytest.CaptureFixture[str], table: Path, home: Path
) -> None:
    words = ("evaluate", "--device", "nobody", str(table), "--folds", "2", "--repeats", "1")
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    for name in ("cost model", "FLOPs line", "NeuralPower polynomial", "nn-Meter forest", "lookup", "constant power"):
        assert name in shown
    run = Store(home).latest("evaluate", "nobody")
    assert run is not None
    result = run.read_json("result.json")
    assert result["methods"]["ours"]["latency_s"]["all"]["n"] == ROWS
    assert result["methods"]["forest"]["power_w"]["all"]["n"] == ROWS
    assert result["protocol"] == {"folds": 2, "repeats": 1, "group": None, "from": None, "held_out": True}
    assert len((run.path / evaluations.FOLDS_FILE).read_text().splitlines()) == 2


def test_an_interrupted_evaluation_is_gone_on_with(
    capsys: pytest.CaptureFixture[str], table: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from power_models import cross_validation

    words = ("evaluate", "--device", "stopped", str(table), "--folds", "3", "--repeats", "1")
    done: list[str] = []

    def second_is_interrupted(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
        done.append(fold.label)
        if len(done) == 2:
            raise KeyboardInterrupt
        from power_models.evaluation import Predicted, measured

        truth = measured([rows[i] for i in fold.rows], "latency_s")
        return HeldOut(fold.label, fold.rows.tolist(), {"ours": {"latency_s": Predicted(truth, truth, truth)}}, 0.0)

    monkeypatch.setattr(cross_validation, "hold_out", second_is_interrupted)
    code, said = rig(capsys, *words)
    assert code == 130
    assert "1 folds are stored in e-" in said["error"]["message"]
    assert said["error"]["fix"] == f"rig evaluate {table} --device stopped --folds 3 --repeats 1"
    code, said = rig(capsys, *words)
    assert code == 0
    assert done == ["fold 1", "fold 2", "fold 2", "fold 3"]
    assert said["methods"]["ours"]["latency_s"]["all"]["n"] == ROWS
    assert len([m for m in Store(home).runs() if m["device"] == "stopped"]) == 1


def test_a_torn_line_of_folds_is_done_again(table: Path, tmp_path: Path) -> None:
    class Folder:
        path = tmp_path

    line = {"repeat": 0, "fold": 0, "label": "fold 1", "rows": [0], "predicted": {}, "fit_s": 1.0}
    (tmp_path / evaluations.FOLDS_FILE).write_text(json.dumps(line) + "\n" + json.dumps(line)[:20])
    assert list(evaluations.stored_folds(Folder())) == [(0, 0)]  # type: ignore[arg-type]


def latency_table(path: Path, count: int) -> Path:
    """Latencies of so many convolutions, nothing else."""
    rng = random.Random(1)
    lines = ["kind,batch,in_channels,in_height,in_width,out_channels,kernel_h,kernel_w,stride,padding,groups,latency_s"]
    for channels in range(8, 8 + 4 * count, 4):
        seconds = (2e-5 + 2e-10 * 9 * 196 * 16 * channels) * rng.gauss(1, 0.02)
        lines.append(f"conv,1,16,14,14,{channels},3,3,1,1,1,{seconds}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_campaign_that_drifted_is_shown_with_and_without_its_lines(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``rig evaluate`` shows both: a price of a kernel is worth what the second says."""
    monkeypatch.setattr(cross_validation, "hold_out", quick_hold_out)
    table = latency_table(tmp_path / "drifts.csv", 12)
    code, said = rig(capsys, "fit", str(table), "--device", "drifts")
    assert code == 0
    assert said["held_out"]["latency_s"]["mape"] == pytest.approx(0.01)
    assert said["held_out_place_not_told"]["latency_s"]["mape"] == pytest.approx(0.2)
    assert cli.main(["fit", str(table), "--device", "drifts"]) == 0
    shown = capsys.readouterr().out
    assert "latency: error 1.0 %" in shown
    assert "latency, lines not told: error 20.0 %" in shown


def quick_hold_out(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
    """What holding out tells of a campaign that drifted, without fitting: 1 % off, and 20 % without the lines."""
    truth = measured([rows[i] for i in fold.rows], "latency_s")
    found = {
        name: {"latency_s": Predicted(truth * off, truth * 0.7, truth * 1.3)}
        for name, off in ((cross_validation.OURS, 1.01), (cross_validation.PLACE_NOT_TOLD, 1.2))
    }
    return HeldOut(fold.label, fold.rows.tolist(), found, 0.0)


def test_a_table_without_drift_is_shown_once(fitted: dict[str, Any]) -> None:
    assert fitted["held_out_place_not_told"] == {}


def test_rows_of_several_tables_have_each_its_own_lines(tmp_path: Path) -> None:
    """From the files to what is shown: of two campaigns the one that drifted is predicted at its lines, no other."""
    first, second = (read_table(latency_table(tmp_path / name, 12)) for name in ("a.csv", "b.csv"))
    assert first.sha256 == second.sha256, "one campaign, given twice"
    second = read_table(latency_table(tmp_path / "b.csv", 13))
    both = [*first.kernels, *second.kernels]
    assert {row.campaign for row in kernel_rows(both)} == {first.sha256, second.sha256}
    drifts = {first.sha256: Drift(1e-5, 4.0, 13.0), second.sha256: NONE}
    model = replace(fit_rows(both, UNKNOWN, "imported"), drifts=drifts)
    late = [first.kernels[-1], second.kernels[-2]]
    told, untold = (predict(model, late, same)["latency_s"].value for same in (True, False))
    assert late[0].kernel == late[1].kernel
    assert told[0] - untold[0] == pytest.approx((13 - 4) * 1e-5)
    assert told[1] == untold[1] == pytest.approx(untold[0] - 4e-5)


def test_a_fold_that_cannot_be_fitted_is_named_and_the_others_are_kept(
    capsys: pytest.CaptureFixture[str], table: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "--device", "folds", str(table), "--folds", "3", "--repeats", "1")
    done: list[str] = []
    broken = True

    def second_fails(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
        done.append(fold.label)
        if broken and fold.label == "fold 2":
            raise CannotFit("none of 13 rows is usable")
        return quick_hold_out(rows, fold, fit)

    monkeypatch.setattr(cross_validation, "hold_out", second_fails)
    code, said = rig(capsys, *words)
    assert code == 2
    message = said["error"]["message"]
    assert message.startswith(f"{table}: fold 2, ")
    assert "none of 13 rows is usable; the other 2 folds are kept in e-" in message
    assert said["error"]["fix"] == "give a table with more usable rows, or other folds"
    run = Store(home).latest("evaluate", "folds")
    assert run is not None
    assert run.manifest["state"] == "failed"
    assert sorted(evaluations.stored_folds(run)) == [(0, 0), (0, 2)]
    broken = False
    code, said = rig(capsys, *words)
    assert code == 0
    assert done == ["fold 1", "fold 2", "fold 3", "fold 2"]
    assert said["run_id"] == run.id
    assert said["methods"]["ours"]["latency_s"]["all"]["n"] == ROWS


def test_a_fit_whose_check_fails_is_saved_unchecked(
    capsys: pytest.CaptureFixture[str], table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
        raise CannotFit("none of 16 rows is usable")

    monkeypatch.setattr(cross_validation, "hold_out", fails)
    code, said = rig(capsys, "fit", str(table), "--device", "unchecked")
    assert code == 0
    (note,) = [one for one in said["warnings"] if one["code"] == "unchecked"]
    assert "none of 16 rows is usable" in note["message"]


def test_another_error_of_a_fold_is_not_taken_for_a_bad_table(
    capsys: pytest.CaptureFixture[str], table: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the program is told as one, and leaves no run that seems to be at work."""

    def mistaken(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(cross_validation, "hold_out", mistaken)
    for device, words in (("wrong", ("evaluate", "--folds", "2", "--repeats", "1")), ("wrong-fit", ("fit",))):
        with pytest.raises(ValueError, match="broadcast"):
            cli.main([*words, str(table), "--device", device])
        run = Store(home).latest(words[0], device)
        assert run is not None
        assert run.manifest["state"] == "failed"


def test_rows_of_which_none_is_usable_cannot_be_fitted(tmp_path: Path) -> None:
    rows = [replace(row, latency_s=0.0) for row in read_table(latency_table(tmp_path / "a.csv", 12)).kernels]
    with pytest.raises(CannotFit, match="none of 12 rows is usable"):
        fit_rows(rows, UNKNOWN, "imported")


def test_stored_runs_are_campaigns_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tables are: the lines of one have nothing to do with those of another."""
    kernels = read_table(latency_table(tmp_path / "a.csv", 3)).kernels
    rows = [KernelRow(row.kernel, row.latency_s, 0.0, None, None, "chain", "g") for row in kernels]
    collected = Collected(rows, (0.0, 0.0), None, "measured", [], UNKNOWN, [])
    monkeypatch.setattr(table_sources, "_read_run", lambda store, name: collected)
    sources = table_sources.read_sources(["c-0001", "c-0002"], "two", Store(tmp_path))
    assert [row.campaign for row in kernel_rows([row for row in sources.rows if isinstance(row, TableKernel)])] == [
        *["c-0001"] * 3,
        *["c-0002"] * 3,
    ]
    assert {row.campaign for row in sources.kernels} == {"c-0001", "c-0002"}


def test_an_evaluation_by_other_code_is_begun_anew(
    capsys: pytest.CaptureFixture[str], table: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "--device", "changed", str(table), "--folds", "2", "--repeats", "1")
    stop = True

    def first_then_interrupted(rows: Any, fold: Any, fit: Any, references: bool = True) -> HeldOut:
        if stop and fold.label == "fold 2":
            raise KeyboardInterrupt
        return quick_hold_out(rows, fold, fit)

    monkeypatch.setattr(cross_validation, "hold_out", first_then_interrupted)
    assert rig(capsys, *words)[0] == 130
    run = Store(home).latest("evaluate", "changed")
    assert run is not None
    assert run.manifest["request"]["code"] == code_digest()
    stop = False
    monkeypatch.setattr(evaluate_command, "code_digest", lambda: "0" * 12)
    code, said = rig(capsys, *words)
    assert code == 0
    assert said["run_id"] != run.id, "folds of other code are not put beside those of this one"


def test_the_digest_changes_with_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from power_models import code_digest as module

    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "a.py"))
    before = module.code_digest()
    assert len(before) == 12
    assert module.code_digest() == before
    (tmp_path / "b.py").write_text("# changed\n")
    assert module.code_digest() != before


def test_a_measured_model_is_replaced_only_when_asked(
    fitted: dict[str, Any], capsys: pytest.CaptureFixture[str], table: Path, home: Path, tmp_path: Path
) -> None:
    about = home / "models" / "made-up" / "model.json"
    kept = shutil.copytree(about.parent, tmp_path / "kept")
    data = json.loads(about.read_text())
    about.write_text(json.dumps({**data, "kind": "measured"}))
    try:
        code, said = rig(capsys, "fit", str(table), "--device", "made-up")
        assert code == 2
        assert "was measured on the device" in said["error"]["message"]
        assert "--replace" in said["error"]["fix"]
        assert json.loads(about.read_text())["kind"] == "measured"
        small = kernel_table(tmp_path / "small.csv", 16)
        code, said = rig(capsys, "fit", str(small), "--device", "made-up", "--replace")
        assert (code, said["replaced"]) == (0, "measured")
        assert json.loads(about.read_text())["kind"] == "imported"
    finally:
        shutil.rmtree(about.parent)
        shutil.copytree(kept, about.parent)


def test_a_table_without_quiet_power_knows_power_flat_out_only(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = kernel_table(tmp_path / "tx2_gpu_conv.csv", 16, quiet=False)
    code, said = rig(capsys, "fit", str(table), "--device", "no-quiet")
    assert (code, said["idle_power_w"], said["device"]["boundary"]) == (0, None, "rail")
    assert any(note["code"] == "no-quiet-power" for note in said["warnings"])
    model = network(tmp_path)
    code, said = rig(capsys, "predict", str(model), "--device", "no-quiet")
    network_row = said["network"]
    assert network_row["power_w"]["value"] == pytest.approx(
        network_row["energy_active_j"]["value"] / network_row["latency_s"]["value"], rel=1e-6
    )
    assert rig(capsys, "predict", str(model), "--device", "no-quiet", "--fps", "10")[1]["network"]["power_w"] is None
    assert cli.main(["predict", str(model), "--device", "no-quiet"]) == 0
    assert "an inference in all" in capsys.readouterr().out


def test_a_table_of_latencies_alone_gives_a_model_of_time(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = kernel_table(tmp_path / "time.csv", 16, power=False, quiet=False)
    code, said = rig(capsys, "fit", str(table), "--device", "time-only")
    assert code == 0
    assert list(said["held_out"]) == ["latency_s"]
    assert [note["code"] for note in said["warnings"]] == ["no-power"]


def test_whole_networks_give_a_model_of_kernels_from_which_another_can_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = network_table(tmp_path / "networks.jsonl", 24)
    code, said = rig(capsys, "fit", str(table), "--device", "board")
    assert code == 0
    assert said["sources"][0]["what"] == "networks"
    assert said["device"]["runtime"] == "tflite"
    assert {"conv/float32", "depthwise/int8"} <= set(said["kinds"])
    code, said = rig(capsys, "predict", str(network(tmp_path)), "--device", "board", "--fps", "10")
    assert code == 0
    assert said["network"]["power_w"]["value"] > QUIET_W
    code, said = rig(capsys, "evaluate", str(table), "--device", "board", "--group", "family")
    assert code == 0
    assert said["methods"]["ours"]["latency_s"]["all"]["median"] < 0.1
    assert set(said["levels"]) == {"family=net-v1", "family=net-v2", "family=other"}
    kernels = kernel_table(tmp_path / "kernels.csv", 12, quiet=False)
    code, both = rig(capsys, "fit", str(table), str(kernels), "--device", "both")
    assert (code, [one["rows"] for one in both["sources"]]) == (0, [24, 12])
    assert both["idle_power_w"]["value"] == pytest.approx(QUIET_W)
    code, said = rig(capsys, "evaluate", str(table), str(kernels), "--device", "both")
    latency = said["methods"]["ours"]["latency_s"]
    assert (latency["what=kernel"]["n"], latency["what=network"]["n"]) == (12, 24)
    assert latency["what=kernel"]["median"] < 0.3
    other = network_table(tmp_path / "other.jsonl", 12, seed=3, device="another")
    code, said = rig(capsys, "fit", str(other), "--device", "like-board", "--from", "board")
    assert (code, said["base"]) == (0, "board")
    words = ("evaluate", str(table), "--device", "board", "--folds", "2", "--repeats", "1", "--from", "board")
    code, said = rig(capsys, *words)
    assert code == 0
    assert "base-in-sample" in [note["code"] for note in said["warnings"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "MISSING.csv", "--device", "x"), "no such table: MISSING.csv"),
        (("fit", "c-0042", "--device", "x"), "no run c-0042"),
        (("fit", "FOLDER", "--device", "x"), "cannot be read: Is a directory"),
        (("fit", "EMPTY", "--device", "x"), "is empty"),
        (("fit", "TABLE", "--device", "../x"), "cannot be a folder name"),
        (("fit", "TABLE", "--device", "x", "--boundary", "moon"), "--boundary moon"),
        (("fit", "NETWORKS", "OTHER", "--device", "x"), "the tables are of 2 devices"),
        (("fit", "NETWORKS", "--device", "x", "--from", "nobody"), "no cost model for nobody"),
        (("evaluate", "TABLE", "--device", "x"), "no cost model for x"),
        (("evaluate", "TABLE", "--device", "x", "--folds", "99"), "between 2 and 20 folds"),
        (("evaluate", "TABLE", "--device", "x", "--folds", "2", "--group", "colour"), "no column colour"),
        (("evaluate", "TABLE", "--device", "x", "--folds", "1"), "--folds"),
    ],
)
def test_bad_input_is_named(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], table: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").write_text("")
    places = {
        "TABLE": table,
        "FOLDER": tmp_path,
        "EMPTY": tmp_path / "empty.csv",
        "NETWORKS": network_table(tmp_path / "a.jsonl", 4),
        "OTHER": network_table(tmp_path / "b.jsonl", 4, device="another"),
    }
    code, found = rig(capsys, *(str(places.get(word, word)) for word in words))
    assert code == 2, found
    assert said in found["error"]["message"]


def test_configuration_comes_from_the_table(tmp_path: Path) -> None:
    from rig.table_sources import read_sources

    sources = read_sources([str(network_table(tmp_path / "a.jsonl", 4))], "me", Store())
    configuration = sources.configuration
    assert (configuration.device, configuration.runtime, configuration.runtime_version) == ("me", "tflite", "2.7.1")
    assert configuration.boundary == "wall"
    assert sources.kind == "imported"


def test_every_method_and_quantity_has_words() -> None:
    from power_models.cross_validation import LATENCY_X_POWER, MEASURED_LATENCY_X_POWER, OURS, PLACE_NOT_TOLD
    from power_models.evaluation import QUANTITIES
    from power_models.references import KERNEL_REFERENCES, NETWORK_REFERENCES

    methods = {OURS, PLACE_NOT_TOLD, LATENCY_X_POWER, MEASURED_LATENCY_X_POWER, *KERNEL_REFERENCES, *NETWORK_REFERENCES}
    assert methods == set(evaluate_command.METHODS)
    assert set(QUANTITIES) == set(evaluate_command.NAMES)


@pytest.fixture
def golden_run(home: Path) -> str:
    """A stored calibration of the simulated board, in the store of these tests."""
    archive = Path(__file__).parent / "golden" / "runs" / "virtual.tar.gz"
    with tarfile.open(archive) as packed:
        name = packed.getnames()[0].split("/")[0]
        packed.extractall(home / "runs", filter="data")
    return name


def test_a_stored_run_is_fitted_like_a_table(golden_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = rig(capsys, "fit", golden_run, "--device", "from-run")
    assert code == 0, said
    assert said["kind"] == "simulated"
    assert said["sources"][0]["what"] == "run"
    assert said["sources"][0]["rows"] > 5
    assert said["device"]["runtime"] == "virtual"
    assert said["idle_power_w"]["value"] > 2


def test_simulated_and_published_measurements_are_not_put_together(
    golden_run: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = rig(capsys, "fit", golden_run, str(table), "--device", "mixed")
    assert code == 2
    assert "simulated and real" in said["error"]["message"]
