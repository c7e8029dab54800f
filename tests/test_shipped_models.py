"""The cost models that come with the rig: they price a network on a fresh install, and say what they are."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from power_models.kernel_cost import KernelCostModel
from power_models.measured_tables import read_table
from power_models.network_cost import price_network
from rig.commands import devices, predict
from rig.commands.options import DevicesOptions, PredictOptions
from rig.cost_models import SHIPPED_FOLDER, load_cost_model, shipped_devices, shipped_warnings
from rig.errors import NoCostModelError
from rig.profiles import load_profile
from rig.store.store import Store
from rig.workloads.onnx_builder import NetworkBuilder

sys.path.insert(0, str(Path(__file__).parent / "power_models"))
from synthetic_device import CONFIGURATION, rows

TABLES = {"pi4": "rpi4_tflite.jsonl.gz", "odroid-n2plus": "odroid_n2plus_tflite.jsonl.gz"}


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    return Store()


@pytest.fixture
def network(tmp_path: Path) -> Path:
    net = NetworkBuilder(1)
    x = net.activation("relu6", net.conv(net.input(1, 3, 96, 96), (3, 16), (3, 3), stride=2))
    x = net.activation("relu6", net.conv(x, (16, 16), (3, 3), groups=16))
    x = net.activation("relu6", net.conv(x, (16, 64)))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    path = tmp_path / "net.onnx"
    path.write_bytes(net.model(net.fc(x, 64, 10)).SerializeToString())
    return path


def test_every_table_has_its_model_and_its_profile() -> None:
    assert shipped_devices() == sorted(TABLES)
    for name in TABLES:
        assert load_profile(name).transport.kind == "ssh"


@pytest.mark.parametrize("name", sorted(TABLES))
def test_it_prices_the_networks_that_it_was_fitted_to(name: str, fresh: Store) -> None:
    model = load_cost_model(fresh, name)
    networks = read_table(SHIPPED_FOLDER.parent / "data" / TABLES[name]).networks
    costs = [price_network(model, n.kernels) for n in networks]
    off = np.abs([c.latency_s[0] / n.latency_s - 1 for c, n in zip(costs, networks, strict=True)])
    inside = [c.energy_j[1] <= n.energy_active_j <= c.energy_j[2] for c, n in zip(costs, networks, strict=True)]
    assert off.mean() < 0.04
    assert np.mean(inside) > 0.9
    assert (model.kind, model.configuration.device, model.configuration.runtime) == ("imported", name, "tflite")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_it_is_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (SHIPPED_FOLDER / name).iterdir()) < 1_000_000


def test_predict_works_on_a_fresh_install_and_says_what_the_figures_are(fresh: Store, network: Path) -> None:
    result = predict.run(PredictOptions(network, "pi4", fps="30"))
    assert (result["kind"], result["basis"]) == ("predicted", "imported")
    assert 0 < result["network"]["latency_s"]["value"] < 0.1
    (said,) = [w for w in result["warnings"] if w["code"] == "shipped-model"]
    assert "MLPerf" in said["message"]
    assert "TFLite" in said["message"]
    assert said["fix"] == "rig calibrate --device pi4 --from pi4"


def test_ones_own_model_comes_first(fresh: Store) -> None:
    own = KernelCostModel.fit(rows(10, 1), CONFIGURATION, "measured")
    own.save(fresh.model_folder("pi4"))
    found = load_cost_model(fresh, "pi4")
    assert found.kind == "measured"
    assert shipped_warnings(found) == []


def test_a_device_without_any_model_is_told_of_those_there_are(fresh: Store) -> None:
    with pytest.raises(NoCostModelError, match="odroid-n2plus, pi4"):
        load_cost_model(fresh, "jetson-nano")


def test_devices_lists_them_as_public_models(fresh: Store) -> None:
    found = {row["name"]: row for row in devices.run(DevicesOptions())["devices"]}
    assert sorted(name for name, row in found.items() if row["shipped_model"]) == sorted(TABLES)
    assert not any(found[name]["calibrated"] for name in TABLES)
