"""Virtual boards that differ in everything a measurement must be right in spite of, and the agent measuring on them.

Each board draws its own constants (``perturb``), heat (leakage, time constant, ambient), and meter: gain, clock (within
300 ms and 50 ppm), averaging window 10 ms to 1 s, step up to 0.4 W, noise, sample rate. Truth is the physics' own:
``BoardModel`` for seconds and joules, and the quiet power at the board's true temperature, which the record carries
because a simulated board's thermometer is exact. Nothing of the truth comes from the meter.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device_agents.child import Child
from device_agents.measure import Measurement, Runtime
from device_agents.records import KernelSpec, MeasurePlan
from device_agents.virtual_board.physics import BoardModel

GAIN_UNCERTAINTY = 0.02  # before calibration: a 1 % shunt and a chip, twice
CLOCK_OFFSET_S, CLOCK_DRIFT_PPM = 0.3, 50.0


@dataclass(frozen=True)
class Board:
    """What one board and its meter drew; ``options``: of the virtual runtime."""

    seed: int
    options: dict[str, Any]

    @property
    def meter(self) -> dict[str, Any]:
        """The meter's data sheet."""
        return dict(self.options["meter"])

    def model(self) -> BoardModel:
        """The physics, for the truth."""
        return BoardModel.load("pi4").perturbed(self.options["perturb"]).with_facts(self.options["facts"])


def drawn_board(seed: int) -> Board:
    """Board number ``seed``; the same seed gives the same board."""
    rng = random.Random(f"measurement-truth-{seed}")
    window_s = 10.0 ** rng.uniform(-2.0, 0.0)
    meter = {
        "window_s": window_s,
        "rate_hz": min(100.0, max(2.0, rng.choice((1.0, 2.0, 5.0)) / window_s)),
        "step_w": 10.0 ** rng.uniform(-3.0, math.log10(0.4)),
        "noise_w": rng.uniform(0.005, 0.03),
        "gain_uncertainty": GAIN_UNCERTAINTY,
        "clock_offset_s": CLOCK_OFFSET_S,
        "clock_drift_ppm": CLOCK_DRIFT_PPM,
    }
    facts = {
        "leakage_w_per_k": rng.uniform(0.0015, 0.006),
        "thermal_j_per_k": rng.uniform(3.0, 14.0),  # 20 to 100 s at 7 K/W
        "ambient_c": rng.uniform(15.0, 35.0),
    }
    return Board(seed, {"board": "pi4", "seed": seed, "perturb": 1000 + seed, "facts": facts, "meter": meter})


class Bench:
    """The agent's own measurement with its two processes, on one board after the other.

    ``folder``: where the boards write their timelines.
    """

    def __init__(self, folder: Path, runtime: Child, sampler: Child) -> None:
        self.folder = folder
        self._runtime, self._sampler = runtime, sampler
        self._count = 0

    def measure(
        self, board: Board, kernels: Sequence[KernelSpec], plan: MeasurePlan, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One MeasureRecord, as the supervisor gets it. ``options``: of the source, in place of the board's."""
        self._count += 1
        folder = self.folder / f"board-{board.seed}"
        folder.mkdir(exist_ok=True)
        request = {
            "id": f"b{board.seed}-{self._count}",
            "op": "measure",
            "runtime": "virtual",
            "options": board.options,
            "source": "virtual",
            "source_options": dict(options or {}),
            "subject": {"name": f"s{self._count}", "format": "kernels", "kernels": [k.to_json() for k in kernels]},
            "plan": plan.to_json(),
        }
        measurement = Measurement(request, Runtime(self._runtime, 120.0), self._sampler, lambda _: None, lambda: False)
        return measurement.run(str(folder))


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """The agent's runtime and sampler processes for as long as the block lasts."""
    children = [Child(role, [sys.executable, "-m", "device_agents", role]) for role in ("runtime", "sampler")]
    for child in children:
        child.start()
    try:
        yield Bench(folder, *children)
    finally:
        for child in children:
            child.stop()


def drawn_kernel(rng: random.Random) -> KernelSpec:
    """A convolution, depthwise convolution or matrix product as networks have them."""
    channels, size = rng.choice((16, 24, 32, 48, 64, 96, 128)), rng.choice((7, 14, 28, 56))
    kind = rng.choice(("conv", "conv", "conv1", "depthwise"))
    if kind == "depthwise":
        return KernelSpec(
            "depthwise", 1, channels, size, size, channels, size, size, 3, 3, 1, 1, 1, channels, fused="relu"
        )
    taps = 1 if kind == "conv1" else 3
    return KernelSpec("conv", 1, channels, size, size, channels, size, size, taps, taps, 1, taps // 2, fused="relu")


def true_mean_latency_s(model: BoardModel, kernels: Sequence[KernelSpec]) -> float:
    """Mean latency of an inference: preemptions add what the jitter's mean leaves out, but for its square."""
    facts = model.constants["board"]
    share = facts["preemptions_per_s"] * facts["preemption_mean_s"]
    return model.inference_cost(kernels)[0] * (1.0 - share**2)


def true_quiet_w(model: BoardModel, temp_c: float) -> float:
    """Quiet power at a temperature, at the highest clock."""
    facts = model.constants["board"]
    return float(model.quiet_w + facts["leakage_w_per_k"] * (temp_c - facts["nominal_c"]))


def true_quiet_phase_w(model: BoardModel, phase: Mapping[str, Any]) -> float:
    """Mean quiet power over a quiet phase without its first tenth, from the temperature at its end.

    The board's temperature relaxes exponentially towards what waiting settles at.
    """
    facts = model.constants["board"]
    tau_s = facts["thermal_k_per_w"] * facts["thermal_j_per_k"]
    settled_c = facts["ambient_c"] + facts["thermal_k_per_w"] * true_quiet_w(model, phase["temp_c"])
    seconds = 0.9 * (phase["t1_s"] - phase["t0_s"])
    away_c = (phase["temp_c"] - settled_c) * tau_s / seconds * math.expm1(seconds / tau_s)
    return true_quiet_w(model, settled_c + away_c)


def true_window_quiet_w(model: BoardModel, record: Mapping[str, Any]) -> float:
    """Mean quiet power over the windows, from the true temperatures at their ends."""
    total_j = total_s = 0.0
    before_c = None
    for phase in record["phases"]:
        if phase["name"] == "window" and before_c is not None:
            seconds = phase["t1_s"] - phase["t0_s"]
            total_j += seconds * true_quiet_w(model, 0.5 * (before_c + phase["temp_c"]))
            total_s += seconds
        before_c = phase["temp_c"]
    return total_j / total_s
