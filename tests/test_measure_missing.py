"""``rig predict --measure-missing`` on the simulated board: measured into the calibration, fitted again, priced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from device_agents.records import KernelSpec
from power_models.kernels import kernel_graph
from rig import cli
from rig.collect.missing import missing_kernels
from rig.cost_models import load_cost_model
from rig.replay import analysis
from rig.sensors.store import SOURCES_FILE
from rig.store.store import Store
from rig.workloads.onnx_builder import NetworkBuilder
from tests.agent_setup import QUICK_PLAN

DEVICE = "virtual-pi4"


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A store with a small calibration without networks, in which many a kind is not."""
    root = tmp_path_factory.mktemp("missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIG_HOME", str(root / "home"))
        patch.setenv("RIG_CONFIG", str(root / "config"))
        patch.setenv("RIG_LOCK_DIR", str(root))
        folder = root / "config" / "devices"
        folder.mkdir(parents=True)
        (folder / f"{DEVICE}.toml").write_text(QUICK_PLAN + "\n[grid]\ncontexts = 0\n")
        assert cli.main(["calibrate", "--device", DEVICE, "--kernels", "12", "--json"]) == 0
        yield root


def strange_network(path: Path) -> Path:
    """A convolution far from what was measured, an LRN, and a resized image."""
    net = NetworkBuilder(0)
    x = net.activation("relu", net.conv(net.input(1, 3, 224, 224), (3, 16), (3, 3), 2))
    x = net.node("LRN", x, size=5, alpha=1e-4, beta=0.75)
    x = net.node("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="linear")
    x = net.conv(net.node("Softmax", x, axis=1), (16, 1500), (1, 1), 2)
    onnx.save(net.model(net.node("GlobalAveragePool", x)), path)
    return path


def said(capsys, *words: str) -> tuple[int, dict]:
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_what_is_missing_is_measured_and_the_prediction_repeated(home, tmp_path, capsys):
    path = strange_network(tmp_path / "strange.onnx")
    store = Store()
    before = load_cost_model(store, DEVICE)
    wanted = missing_kernels(before, kernel_graph(path))
    assert "lrn" in {kernel.kind for kernel in wanted.never_measured}
    code, refused = said(capsys, "predict", str(path), "--device", DEVICE)
    assert (code, refused["error"]["code"]) == (2, "unsupported-operator")
    assert "--measure-missing" in refused["error"]["fix"]

    sources = store.open_run("c-0001").path / SOURCES_FILE
    sources.unlink()
    code, found = said(capsys, "predict", str(path), "--device", DEVICE, "--measure-missing")
    assert code == 0
    assert sources.is_file(), "read by the calibration of the run that it goes into"
    assert (found["kind"], found["basis"]) == ("predicted", "simulated")
    measured = found["measured"]
    assert measured["run_id"] == found["run_id"] == "c-0001"
    assert {row["label"] for row in measured["kernels"]} == {
        f"{kernel.label} +{kernel.fused}" if kernel.fused else kernel.label for kernel in wanted.kernels
    }
    assert {row["was"] for row in measured["kernels"]} <= {"never measured", "extrapolated"}
    assert all(row["latency_s"]["kind"] == "simulated" for row in measured["kernels"])
    assert not measured["unmeasured"]
    _check_model(store, before, wanted.kernels)
    _check_prices(found, measured)

    # Nothing is missing any more: nothing is measured, and the run still comes out as it was concluded.
    count = len(store.open_run("c-0001").measurement_ids())
    code, again = said(capsys, "predict", str(path), "--device", DEVICE, "--measure-missing")
    assert (code, again["measured"]) == (0, None)
    assert again["network"] == found["network"]
    assert len(store.open_run("c-0001").measurement_ids()) == count
    compared = analysis.compare(store.open_run("c-0001"))
    assert (compared.differences, compared.left_out) == ([], [])


def _check_model(store: Store, before, kernels: list[KernelSpec]) -> None:
    """The saved model knows them, and all that it knew."""
    after = load_cost_model(store, DEVICE)
    assert set(after.known_kinds) > set(before.known_kinds)
    assert after.configuration == before.configuration
    assert not after.predict(kernels).extrapolated.any()


def _check_prices(found: dict, measured: dict) -> None:
    """What was measured on the spot is priced near its measurement."""
    priced = {row["label"]: row for row in found["kernels"] if row["calls"] == 1}
    for row in measured["kernels"]:
        value, now = row["latency_s"]["value"], priced[row["label"]]["latency_s"]
        assert now["lo"] <= value <= now["hi"] or now["value"] == pytest.approx(value, rel=0.3)


def test_it_says_on_a_terminal_what_it_measured(home, tmp_path, capsys):
    net = NetworkBuilder(1)
    x = net.node("Gather", net.input(1, 12, 9, 9), net.constant(np.arange(6, dtype=np.int64)), axis=1)
    onnx.save(net.model(net.conv(x, (6, 8))), tmp_path / "gather.onnx")
    code = cli.main(["predict", str(tmp_path / "gather.onnx"), "--device", DEVICE, "--measure-missing"])
    out = capsys.readouterr().out
    assert code == 0
    assert "Measured gather 12->6 @9" in out
    assert "stored in c-0001, cost model fitted again" in out


def test_a_model_that_was_not_calibrated_here_says_so(home, tmp_path, capsys, monkeypatch):
    other = tmp_path / "home"
    load_cost_model(Store(), DEVICE).save(Store(other).model_folder(DEVICE))
    monkeypatch.setenv("RIG_HOME", str(other))
    net = NetworkBuilder(2)
    onnx.save(net.model(net.node("ReduceMax", net.input(1, 7, 50, 50), axes=[1])), tmp_path / "reduce.onnx")
    code, refused = said(capsys, "predict", str(tmp_path / "reduce.onnx"), "--device", DEVICE, "--measure-missing")
    assert code == 2
    assert "was not calibrated in this store" in refused["error"]["message"]
    assert refused["error"]["fix"] == f"rig calibrate --device {DEVICE}"
