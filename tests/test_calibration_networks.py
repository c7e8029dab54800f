"""What a calibration of a real runtime measures whole, and what of it the fit does not see."""

import pytest

from device_agents.records import KernelSpec
from power_models.kernel_cost import KernelRow
from rig import calibration
from rig.commands.calibrate import run
from rig.commands.options import CalibrateOptions
from rig.errors import BadInputError
from rig.profiles import load_profile
from rig.workloads import calibration_networks
from rig.workloads.context_networks import FAMILIES, context_designs
from rig.workloads.network_file import read_kernels
from tests.agent_setup import QUICK_PLAN

LOCAL = load_profile("local")
CONV = KernelSpec("conv", 1, 32, 14, 14, 64, 14, 14, 3, 3, 1, 1)
BACK = CONV._replace(in_channels=64, out_channels=32)


def with_grid(**grid):
    return LOCAL.model_copy(update={"grid": grid})


def test_designs_are_varied_from_the_first_few_on():
    designs = context_designs(24, 0)
    assert designs == context_designs(24, 0)
    assert {design.family for design in designs} == set(FAMILIES)
    assert {design.image[0] for design in designs} == {1, 3}
    assert {design.image[1] for design in designs} >= {28, 32, 224}
    small = [design for design in designs if design.image[1] <= 32]
    assert len(small) >= 12
    assert sum(design.family == "residual" for design in small) >= 6
    assert context_designs(12, 0) == designs[:12]


def test_networks_are_written_once_and_some_held_out(tmp_path):
    profile = with_grid(contexts=7)
    networks = calibration_networks.draw_networks(profile, (tmp_path / "mine.onnx",), 0, tmp_path)
    assert networks.fitted[0].name == "mine"
    assert len(networks.fitted) == 7
    assert len(networks.held_out) == 1
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "artifacts" / "contexts").iterdir()}
    assert len(before) == 7
    assert calibration_networks.draw_networks(profile, (tmp_path / "mine.onnx",), 0, tmp_path) == networks
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_simulated_board_measures_networks_too(tmp_path):
    networks = calibration_networks.draw_networks(load_profile("virtual-pi4"), (), 0, tmp_path)
    assert len(networks.fitted) == 24
    assert len(networks.held_out) == 4
    none = calibration_networks.draw_networks(with_grid(contexts=0), (), 0, tmp_path)
    assert none == ([], [])


def test_plans_of_chains_and_networks_come_from_the_profile():
    plans = calibration_networks.plans_of(with_grid(chain_plan={"window_s": 0.07}))
    assert plans.chains.window_s == 0.07
    assert plans.networks == LOCAL.plan.to_plan()
    with pytest.raises(BadInputError, match=r"grid\.context_plan is not a plan"):
        calibration_networks.plans_of(with_grid(context_plan={"windows": 3}))
    with pytest.raises(BadInputError, match=r"grid\.contexts is 'many'"):
        calibration_networks.network_count(with_grid(contexts="many"))


def test_the_fit_sees_neither_held_out_kernels_nor_what_was_measured_with_them():
    rows = [
        KernelRow(CONV, 1e-3, 1e-5, None, None, "chain", "pair"),
        KernelRow(BACK, 1e-3, 1e-5, None, None, "chain", "pair"),
        KernelRow(BACK, 1e-3, 1e-5, None, None, "profile", "net-a"),
        KernelRow(CONV, 1e-3, 1e-5, None, None, "profile", "net-a"),
        KernelRow(BACK, 1e-3, 1e-5, None, None, "profile", "net-b"),
    ]
    held = calibration.HeldOut(frozenset({CONV}), frozenset({"net-b"}))
    assert held.rows(rows) == [rows[0], rows[4]]
    assert held.training(rows) == [rows[2]]


def test_held_out_kernels_are_as_the_runtime_executes_them():
    grid = calibration.choose_kernels(60, 0, [], "onnxruntime")
    assert not any("relu" in spec.fused for spec in [*grid.fitted, *grid.held_out] if spec.kind == "add")
    assert not set(grid.fitted) & set(grid.held_out)


def test_what_is_held_out_is_measured_among_the_rest():
    mixed = calibration.interleaved(list("abcdef"), list("XY"))
    assert [item for item in mixed if item.islower()] == list("abcdef")
    assert mixed.index("X") < mixed.index("d") < mixed.index("Y")
    assert calibration.interleaved([], []) == []


def test_a_network_without_its_task_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path))
    with pytest.raises(BadInputError, match="--model without --task"):
        run(CalibrateOptions("virtual-pi4", model="resnet20"))


@pytest.mark.slow
def test_the_network_of_a_task_is_measured_near_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_HOME", str(tmp_path))
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    (tmp_path / "config" / "devices").mkdir(parents=True)
    (tmp_path / "config" / "devices" / "virtual-pi4.toml").write_text(QUICK_PLAN)
    result = run(CalibrateOptions("virtual-pi4", kernels=24, task="digits", model="resnet8", time="20s"))
    measured = {row["name"] for row in result["kernels"]["before"]}
    own = {node.spec.label for node in read_kernels(tmp_path / "networks" / "digits-resnet8.onnx", "virtual")}
    assert len(own & measured) >= 4
    assert result["counts"]["networks_asked"] == calibration_networks.DEFAULT_CONTEXTS_VIRTUAL + 1
    assert "--task digits --model resnet8" in result["command_line"]
