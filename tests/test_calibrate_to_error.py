"""``rig calibrate --error --from`` on the simulated board: stopped by the time, gone on with, replayed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from power_models.kernel_cost import KernelCostModel
from power_models.transfer import TransferredModel
from rig.collect.collector import _Collector
from rig.collect.plan import Job
from rig.collect.rows import read_campaign
from rig.commands.calibrate import run
from rig.commands.options import CalibrateOptions, command_words
from rig.errors import BadInputError
from rig.output import Interrupted
from rig.replay.analysis import refit
from rig.store.store import Store
from rig.workloads.onnx_builder import NetworkBuilder

sys.path.insert(0, str(Path(__file__).parent / "power_models"))
from synthetic_device import CONFIGURATION, rows


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    own = tmp_path / "config" / "devices"
    own.mkdir(parents=True)
    plan = "[plan]\nwindow_s = 0.3\nmin_windows = 4\nrel_ci = 0.05\nquiet_s = 0.5\nwarmup_s = 0.1\n"
    (own / "virtual-pi4.toml").write_text(plan)
    return tmp_path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    net = NetworkBuilder(1)
    x = net.activation("relu", net.conv(net.input(1, 1, 28, 28), (1, 16), (3, 3), stride=2))
    x = net.activation("relu", net.conv(x, (16, 32), (3, 3), stride=2))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    path = tmp_path / "small.onnx"
    path.write_bytes(net.model(net.fc(x, 32, 10)).SerializeToString())
    return path


@pytest.mark.slow
def test_it_goes_on_where_it_was_interrupted_and_ends_with_the_error_met(
    home: Path, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    KernelCostModel.fit(rows(30, 1), CONFIGURATION, "simulated").save(Store().model_folder("made-up"))
    options = CalibrateOptions("virtual-pi4", around=(network,), error="20%", base="made-up")
    whole, measured = _Collector._measure, []

    def interrupted(self: _Collector, job: Job) -> None:
        if len(measured) == 30:
            raise KeyboardInterrupt
        measured.append(job.identity)
        whole(self, job)

    with monkeypatch.context() as patched:
        patched.setattr(_Collector, "_measure", interrupted)
        with pytest.raises(Interrupted, match="measurements are saved"):
            run(options)
    again = run(options)
    design = again["design"]
    assert design["reached"], design
    assert design["error"] <= design["error_at_most"] <= 0.2
    assert (design["networks"], again["base"]) == (20, "made-up")
    assert [manifest["id"] for manifest in Store().runs()] == [again["run_id"]]
    assert len({identity for identity in again["measurements"] if identity.rpartition("-")[0] in measured}) >= 30
    assert again["held_out_networks"]["latency_s"]["n"] == 12
    store = Store()
    assert isinstance(KernelCostModel.load(store.model_folder("virtual-pi4")), TransferredModel)
    stored = store.open_run(again["run_id"])
    fitted = refit(stored, read_campaign(stored))
    assert fitted.network_summaries["latency_s"].mean == pytest.approx(
        again["held_out_networks"]["latency_s"]["mean"], rel=1e-3
    )


def test_what_is_no_error_is_refused_before_anything_is_measured(home: Path) -> None:
    for text in ("5", "0%", "120%", "five"):
        with pytest.raises(BadInputError, match="--error"):
            run(CalibrateOptions("virtual-pi4", error=text))
    assert Store().runs() == []


def test_the_command_line_is_told_back_as_it_was_typed() -> None:
    words = command_words("calibrate", CalibrateOptions("my-pi", error="5%", base="pi4"))
    assert words == ["rig", "calibrate", "--device", "my-pi", "--error", "5%", "--from", "pi4"]
