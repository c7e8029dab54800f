"""``rig optimize`` with a meter at the host: the watts of a socket instrument decide, on this computer's own agent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from power_models.kernel_cost import KernelCostModel, KernelRow
from rig.commands import measure, optimize
from rig.commands.options import MeasureOptions, OptimizeOptions
from rig.compression import export, loop
from rig.compression.tasks import load_task
from rig.store.store import Store
from rig.workloads.network_file import read_kernels
from tests.agent_setup import children_of, isolated
from tests.fakes.scpi_instrument import ScpiInstrument, profile_text
from tests.faults.test_host_killed import agents_of
from tests.power_models.synthetic_device import cost

__all__ = ["isolated"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.alone]

IDLE_W, BUSY_W = 2.0, 3.0
PROFILE = """
description = "a bench"
[meter]
kind = "scpi"
resource = "{}"
instrument = "acme"
[plan]
warmup_s = 0.05
warmup_max_s = 0.1
window_s = 0.1
min_windows = 3
rel_ci = 0.9
max_s = 1.0
quiet_s = 0.3
cooldown_s = 0.0
"""


def watts_of(home: Path) -> Callable[[float], float]:
    """A board's power: idle, and more by the share of a core that the agent's runtime process has."""
    runtime: list[int] = []
    history: list[tuple[float, float]] = []

    def watts(t_s: float) -> float:
        now_s = time.monotonic()
        try:
            if not runtime:
                runtime.extend(children_of(pid)["runtime"] for pid in agents_of(home)[:1])
            spent_s = float(Path(f"/proc/{runtime[0]}/schedstat").read_text().split()[0]) * 1e-9
        except (OSError, LookupError):
            runtime.clear()
            history.clear()
            return IDLE_W
        history[:] = [one for one in history if one[0] > now_s - 0.06] + [(now_s, spent_s)]
        (then_s, before_s), (_, now_spent_s) = history[0], history[-1]
        return IDLE_W + (BUSY_W * (now_spent_s - before_s) / (now_s - then_s) if now_s > then_s else 0.0)

    return watts


def calibrated(isolated: Path) -> None:
    """A cost model of the device: the kernels of the task's network at several widths, at made-up costs."""
    seed = isolated / "seed.onnx"
    export.save_seed(load_task("digits", "resnet8"), seed)
    said = measure.run(MeasureOptions(seed, "bench"))
    run = Store().open_run(said["run_id"])
    assert run.info is not None
    assert run.info.configuration.boundary == "board_input"
    rows = []
    for spec in sorted({node.spec for node in read_kernels(seed, "onnxruntime")}, key=str):
        for share in (0.25, 0.5, 0.75, 1.0, 1.5):
            narrowed = spec._replace(
                in_channels=max(1, round(share * spec.in_channels)),
                out_channels=max(1, round(share * spec.out_channels)),
            )
            seconds, joules = cost(narrowed)
            rows.append(KernelRow(narrowed, seconds, 0.01 * seconds, joules, 0.01 * joules, "chain", f"{len(rows)}"))
    KernelCostModel.fit(rows, run.info.configuration, "measured").save(Store().model_folder("bench"))


def test_a_network_is_compressed_by_the_meters_watts(isolated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    for name, few in (("CANDIDATE_ROUNDS", 1), ("CONFIRM_ROUNDS", 3), ("CONFIRM_ROUNDS_MOST", 3)):
        monkeypatch.setattr(loop, name, few)  # the line is tested here, not its precision
    for name in ("instruments", "devices"):
        (isolated / "config" / name).mkdir(parents=True)
    (isolated / "config/instruments/acme.toml").write_text(profile_text(rate_hz=20.0, window_s=0.05))
    with ScpiInstrument(watts_of(isolated / "home"), window_s=0.05) as instrument:
        (isolated / "config/devices/bench.toml").write_text(PROFILE.format(instrument.resource))
        calibrated(isolated)
        asked = OptimizeOptions(
            "bench", "digits", "resnet8", target_energy="40%", epochs_baseline=1, epochs_shrink=1, epochs_finetune=1,
            rounds=1,
        )  # fmt: skip
        result = optimize.run(asked)
    assert result["device"]["meter"] == "meter-acme"
    assert result["kind"] == "measured"
    before, after = result["baseline"], result["result"]
    quiet_w, busy_w = before["idle_power_w"]["value"], before["power_w"]["value"]
    assert 0.99 * IDLE_W < quiet_w < busy_w < IDLE_W + 1.5 * BUSY_W  # the instrument's own noise is on both
    assert after["energy_j"]["value"] < before["energy_j"]["value"]
    # Without a block a change of layout may come in that this small calibration never had: named, and not priced.
    known = {kernel["kind"] for kernel in result["kernels"]["before"]}
    assert {kernel["kind"] for kernel in result["kernels"]["after"]} <= known
    run = Store().open_run(result["run_id"])
    records = list(run.measurements(arrays=False))
    assert {record["sensor"]["name"] for record in records} == {"meter-acme"}
    rejected = {event["measurement"] for event in run.events() if event["event"] == "rejected"}  # by a busy computer
    assert all(record["trace_problem"] is None for record in records if record["id"] not in rejected)
    assert len(rejected) < len(records) / 2
    assert "READ?" in instrument.heard
