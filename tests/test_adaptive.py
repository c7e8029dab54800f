"""Rounds of measuring until the held-out error is met: it stops, goes on where it was, says what it would take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import Configuration, KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernel_cost import KernelCosts, KernelRow
from power_models.validate import Prediction
from rig.collect import adaptive
from rig.collect.adaptive import DESIGN_FILE, check_errors, measure_until, next_batch, read_batches
from rig.collect.rows import Collected
from rig.collect.targets import CHECKED, CHOSEN_BY, FITTED, Targets, draw_targets
from rig.store.store import Run, Store
from rig.workloads.families import rough_seconds
from rig.workloads.onnx_builder import NetworkBuilder

BOARD = BoardModel.load("pi4")
CONFIGURATION = Configuration("virtual-pi4", "1", "virtual", "1", 4, False, "", "board_input")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = NetworkBuilder(1)
    x = net.activation("relu", net.conv(net.input(1, 1, 28, 28), (1, 16), (3, 3)))
    for c_in, c_out, stride in ((16, 24, 2), (24, 32, 1), (32, 48, 2), (48, 64, 1)):
        x = net.activation("relu", net.conv(x, (c_in, c_out), (3, 3), stride=stride))
        x = net.activation("relu", net.node("Add", net.conv(x, (c_out, c_out)), x))
    x = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    path = tmp_path_factory.mktemp("network") / "small.onnx"
    path.write_bytes(net.model(net.fc(x, 64, 10)).SerializeToString())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Store(tmp_path).new_run("calibrate", "virtual-pi4", argv=["rig"], request={})


@pytest.fixture(scope="module")
def targets(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return draw_targets([network], "virtual", 0, tmp_path_factory.mktemp("run"))


class Model:
    """Prices as the rough guess does: enough to weigh kernels by."""

    known_kinds = ()


class Fitted:
    """What a fit leaves: held-out networks off by ``error``."""

    def __init__(self, error: float, networks: int = 10) -> None:
        self.model = Model()
        factors = 1 + error * np.where(np.arange(networks) % 2, 1.0, -1.0)
        found = [Prediction(str(i), "network", 1.0, float(f), 0.5, 2.0, False) for i, f in enumerate(factors)]
        self.networks = {"latency_s": found}


class Device:
    """Measures kernels by the simulated board's own cost, and remembers what it was asked for."""

    def __init__(self, patience: int = 10**6) -> None:
        self.asked: list[list[KernelSpec]] = []
        self.patience = patience

    def __call__(self, kernels: list[KernelSpec]) -> tuple[Collected, bool]:
        self.asked.append(list(kernels))
        rows = [row(spec) for spec in kernels[: self.patience]]
        collected = Collected(rows, (0.0, 0.0), None, "simulated", [], CONFIGURATION, [])
        return collected, len(kernels) <= self.patience


def row(spec: KernelSpec) -> KernelRow:
    seconds, joules = BOARD.kernel_cost(spec)
    return KernelRow(spec, seconds, 0.01 * seconds, joules, 0.01 * joules, "chain", spec.label)


def falling(start: float):
    """A fit whose error falls as the rows grow."""
    return lambda collected: Fitted(start * 16 / len(collected.rows))


def test_three_sets_are_drawn_apart_and_what_is_measured_is_written(targets: Targets) -> None:
    assert len(targets.kernels(None)) == CHOSEN_BY + 1  # the network itself too
    assert (len(targets.fitted), len(targets.held_out)) == (FITTED, CHECKED)
    assert all(context.path.exists() for context in [*targets.fitted, *targets.held_out])
    assert not {c.name for c in targets.fitted} & {c.name for c in targets.held_out}
    assert targets.fitted[0].name == "small"
    assert targets.notes == []


def test_without_a_network_the_general_ones_are_the_target(tmp_path: Path) -> None:
    found = draw_targets([], "virtual", 0, tmp_path)
    assert len(found.chosen_by) == CHOSEN_BY
    assert all(context.name.startswith("context-") for context in found.held_out)


def test_it_stops_when_the_error_is_met_for_sure(run: Run, targets: Targets) -> None:
    device = Device()
    outcome = measure_until(run, targets, device, falling(0.2), 0.05, 500, 3.0)
    assert (outcome.why, outcome.more) == ("reached", None)
    assert outcome.rounds[-1].upper <= 0.05 < outcome.rounds[-2].upper
    assert [len(asked) for asked in device.asked] == [r.kernels for r in outcome.rounds]
    for before, after in zip(device.asked, device.asked[1:], strict=False):
        assert after[: len(before)] == before
    assert len(set(device.asked[-1])) == len(device.asked[-1])


def test_every_kind_of_the_networks_is_in_the_first_batch(run: Run, targets: Targets) -> None:
    device = Device()
    measure_until(run, targets, device, falling(0.01), 0.5, 500, 3.0)
    assert {k.kind for k in device.asked[0]} == {k.kind for network in targets.kernels(None) for k in network}


def test_as_many_kernels_as_allowed_and_what_it_would_take(run: Run, targets: Targets) -> None:
    device = Device()
    outcome = measure_until(run, targets, device, lambda collected: Fitted(0.08), 0.05, 30, 3.0)
    assert outcome.why == "kernels"
    assert len(device.asked[-1]) == 30
    assert outcome.more is None or outcome.more > 0
    assert outcome.to_json("5%", 20)["reached"] is False


def test_the_time_ends_it(run: Run, targets: Targets) -> None:
    outcome = measure_until(run, targets, Device(patience=10), falling(0.9), 0.05, 500, 3.0)
    assert (outcome.why, len(outcome.rounds)) == ("time", 1)


def test_a_killed_campaign_goes_on_with_the_same_kernels(run: Run, targets: Targets, tmp_path: Path) -> None:
    whole = Device()
    measure_until(run, targets, whole, falling(0.2), 0.05, 500, 3.0)
    other = Store(tmp_path / "other").new_run("calibrate", "virtual-pi4", argv=["rig"], request={})
    with pytest.raises(KeyboardInterrupt):
        measure_until(other, targets, Killed(2), falling(0.2), 0.05, 500, 3.0)
    resumed = Device()
    measure_until(other, targets, resumed, falling(0.2), 0.05, 500, 3.0)
    assert resumed.asked[-1] == whole.asked[-1]
    assert read_batches(other) == read_batches(run)
    (other.path / DESIGN_FILE).unlink()  # even without the file, the same kernels follow from the same rows
    again = Device()
    measure_until(other, targets, again, falling(0.2), 0.05, 500, 3.0)
    assert again.asked == whole.asked


class Killed(Device):
    """Is killed in the middle of a round."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        self.rounds = rounds

    def __call__(self, kernels: list[KernelSpec]) -> tuple[Collected, bool]:
        if len(self.asked) == self.rounds:
            raise KeyboardInterrupt
        return super().__call__(kernels)


def test_few_checks_are_no_proof() -> None:
    (error,) = check_errors(Fitted(0.01, networks=3).networks).values()
    assert math.isinf(error.upper)
    (error,) = check_errors(Fitted(0.04, networks=12).networks).values()
    assert error.mean == pytest.approx(0.04)
    assert error.upper >= error.mean


def test_the_forecast_follows_the_expected_deviation(targets: Targets) -> None:
    rows: Sequence[KernelRow] = []
    batch = next_batch(targets, rows, None, None, 16, 3.0)
    assert batch.needed(0.05, 0.04) == 1  # already met: any kernel will do
    assert batch.needed(1e-9, 1.0) is None
    halved = batch.needed(0.5, 1.0)
    assert halved is not None
    assert batch.ahead[halved - 1] <= 0.5 * batch.deviation < (batch.ahead[halved - 2] if halved > 1 else math.inf)


def test_with_a_base_the_first_batch_is_small_and_still_holds_every_kind(run: Run, targets: Targets) -> None:
    device = Device()
    measure_until(run, targets, device, falling(0.01), 0.5, 500, 3.0, base=Board())  # type: ignore[arg-type]
    assert len(device.asked[0]) == 8
    assert {k.kind for k in device.asked[0]} == {k.kind for network in targets.kernels(None) for k in network}


class Board:
    """A base that prices as another board runs: a fifth slower, convolutions twice."""

    known_kinds = tuple((kind, "float32") for kind in ("conv", "add", "fc", "global_avg_pool"))

    def predict(self, kernels: Sequence[KernelSpec]) -> KernelCosts:
        seconds = np.array([(2.0 if k.kind == "conv" else 1.2) * BOARD.kernel_cost(k)[0] for k in kernels])
        nothing = np.zeros(len(kernels))
        return KernelCosts(
            seconds, seconds, seconds, *[nothing] * 3, nothing > 0, [""] * len(kernels), ["x"] * len(kernels), {}
        )


def test_for_onnx_runtime_kernels_are_those_of_its_graph(network: Path, tmp_path: Path) -> None:
    """An addition is part of the convolution before it there, and cannot be a candidate of its own."""
    found = draw_targets([network], "onnxruntime", 0, tmp_path)
    found.chosen_by = found.chosen_by[:4]
    kernels = [kernel for one in found.kernels(16) for kernel in one]
    assert any("add" in kernel.fused for kernel in kernels)
    batch = next_batch(found, [], None, 16, 12, 3.0)
    assert all(adaptive.measurable(kernel, "onnxruntime", 3.0) for kernel in batch.kernels)
    assert adaptive.measurable(found.probe(3.0), "onnxruntime", 3.0)


def test_too_long_a_kernel_is_not_measured(targets: Targets) -> None:
    limit = float(np.median([rough_seconds(k) for network in targets.kernels(None) for k in network]))
    assert all(rough_seconds(k) <= limit for k in next_batch(targets, [], None, None, 20, limit).kernels)
    assert adaptive.measurable(targets.kernels(None)[0][0], "virtual", 3.0)
