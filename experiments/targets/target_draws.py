"""Boards, and the targets drawn for each: what can be asked of it, at random within what a survey says is reachable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.shared.stored_runs import environment, run_of
from rig.compression.bench import Bench
from rig.compression.survey import Settings, Survey, feasible_budget, take_survey
from rig.compression.tasks import load_task
from rig.cost_models import load_cost_model
from rig.output import plain
from rig.profiles import load_profile
from rig.store.store import Store
from rig.units import Limit

# Seeds of perturbed boards that nothing was tuned on (experiments/cost-models looked at 0 to 9, tuned on 101 to 104).
PERTURBED = {"virtual-pi4-201": 201, "virtual-pi4-202": 202, "virtual-pi4-203": 203}
BOARDS = ("virtual-pi4", "local", *PERTURBED)
FEASIBLE, INFEASIBLE = 20, 5
INSIDE = (0.12, 0.88)  # of the reachable range: where feasible targets are drawn
NEAR = 0.999  # of the baseline: the loosest limit there is, to ask what can be reached
PACE = (0.15, 0.5)  # of the rate that the baseline could just keep: near it, a board's own interruptions lose frames

PROFILE = """description = "simulated board with constants of its own (seed {seed}), for the study of targets"
simulated = true
sensors = ["virtual"]
boundary = "board_input"
power_mode = "performance"
[runtime]
name = "virtual"
options = {{ board = "pi4", seed = {seed}, perturb = {seed}, threads = 4, spinning = true }}
[plan]
warmup_s = 0.5
window_s = 1.0
min_windows = 10
rel_ci = 0.02
max_s = 60.0
quiet_s = 2.0
"""


class Target(NamedTuple):
    """What ``rig optimize`` is asked: ``text`` of one quantity, ``fps`` with power; ``feasible``: as it was drawn."""

    board: str
    number: int
    quantity: str
    text: str
    fps: str | None
    feasible: bool

    @property
    def name(self) -> str:
        """How a person calls it."""
        return f"{self.board}, target {self.number}: {self.asked}"

    @property
    def asked(self) -> str:
        """The limit in words."""
        return f"{self.quantity} {self.text}" + (f" at {self.fps} fps" if self.fps else "")


class Reach(NamedTuple):
    """(latency s, active energy J) of the baseline and of the narrowest network; quiet power; if there is a meter."""

    baseline: tuple[float, float]
    narrowest: tuple[float, float]
    idle_power_w: float
    metered: bool


@contextmanager
def home_of(board: str) -> Iterator[None]:
    """The store and the profiles of a board: perturbed ones have their own, below the user's store."""
    if board not in PERTURBED:
        yield
        return
    root = Store().root / "targets"
    profile = root / "config" / "devices" / f"{board}.toml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text(PROFILE.format(seed=PERTURBED[board]), encoding="utf-8")
    with environment(RIG_HOME=str(root), RIG_CONFIG=str(root / "config")):
        yield


def reach_of(board: str, task_name: str, model_name: str | None) -> Reach:
    """What the board can reach with a task's network, by one survey; kept in the store."""
    profile, task = load_profile(board), load_task(task_name, model_name)
    store = Store(Store().root / "targets-reach")
    words = ["targets", "reach", board, Path(task_name).stem, str(model_name)]
    run = run_of(store, words, board)
    if (run.path / "reach.json").exists():
        kept = run.read_json("reach.json")
        return Reach(tuple(kept["baseline"]), tuple(kept["narrowest"]), kept["idle_power_w"], kept["metered"])
    bench = Bench(profile, run, lambda text: None)
    bench.patience_s = 1800.0
    loose = Settings((Limit("latency", "s", None, NEAR),), None, 0, 1, 1, 1, rounds=1)
    survey = take_survey(bench, task, load_cost_model(Store(), board), loose)
    metered = bench.meter is not None
    reach = Reach(
        (float(survey.measured[0]), float(survey.measured[1])),
        (_lowest(survey, loose, "latency"), _lowest(survey, loose, "energy") if metered else 0.0),
        survey.idle_power_w,
        metered,
    )
    run.write_json("reach.json", plain(reach._asdict()))
    run.update(state="done")
    return reach


def _lowest(survey: Survey, settings: Settings, quantity: str) -> float:
    """The narrowest network's latency or active energy, as the product tells it before it trains."""
    limit = Limit(quantity, {"latency": "s", "energy": "J"}[quantity], None, NEAR)
    _, reachable = feasible_budget(survey, settings._replace(limits=(limit,)))
    return reachable[quantity][0]


def draw(board: str, reach: Reach, feasible: int, infeasible: int) -> list[Target]:
    """The board's targets, the same each time: powers at a frame rate, energies and latencies in turn."""
    kinds = ("power", "energy", "latency") if reach.metered else ("latency",)
    return [
        _drawn(board, reach, number, kinds[number % len(kinds)], number < feasible)
        for number in range(feasible + infeasible)
    ]


def _drawn(board: str, reach: Reach, number: int, quantity: str, feasible: bool) -> Target:
    """One target: absolute or as a share of the baseline's active part, by a coin; infeasible ones are absolute."""
    rng = random.Random(f"{board} {number}")
    place = rng.uniform(*INSIDE)
    below = rng.uniform(0.3, 0.8)
    absolute = not feasible or rng.random() < 0.5
    pace = rng.uniform(*PACE)
    low, high = np.asarray(reach.narrowest), np.asarray(reach.baseline)
    latency_s, active_j = low + place * (high - low) if feasible else below * low
    if quantity == "latency":
        return Target(board, number, quantity, _text(latency_s, high[0], "s", absolute), None, feasible)
    if quantity == "energy":
        # Whole-board energy holds quiet power over the network's latency, which is taken to fall as its energy does.
        whole = active_j + reach.idle_power_w * latency_s
        text = f"{whole:.6g}J" if absolute else _text(active_j, high[1], "J", False)
        return Target(board, number, quantity, text, None, feasible)
    fps = float(f"{pace / high[0]:.3g}")
    watts = reach.idle_power_w + fps * active_j
    text = f"{watts:.6g}W" if absolute else _text(active_j, high[1], "W", False)
    return Target(board, number, quantity, text, f"{fps:g}", feasible)


def _text(value: float, whole: float, unit: str, absolute: bool) -> str:
    return f"{value:.6g}{unit}" if absolute else f"{100.0 * value / whole:.2f}%"
