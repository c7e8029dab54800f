"""Before anything is trained: the seed network on the device, and whether what is asked can be met at all.

Costs do not depend on the values of weights, so the untrained network tells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from power_models.kernel_cost import KernelCostModel, UnpricedKernel
from power_models.tables import Array, NetworkTables
from rig.compression import export
from rig.compression.bench import Bench
from rig.compression.budget import Budget, check_feasible, resolve
from rig.compression.choosing.floors import bottlenecks
from rig.compression.cutting.groups import find_groups, require_prunable
from rig.compression.cutting.template import Template, make_template
from rig.compression.cutting.verified_surgery import rehearsed
from rig.compression.tasks import Task
from rig.compression.trial import Trial
from rig.errors import NoCostModelError, UnsupportedOperatorError
from rig.quality.verdict import paced_line
from rig.store.store import Store
from rig.units import Limit
from rig.workloads.executed_kernels import executed_kernels

GROWTH = 1.5  # how much wider than the seed network a group may become
PACEABLE = 0.97  # of a frame's time: a network that needs more cannot be paced
SURVEY_ROUNDS = 2


class Ablation(NamedTuple):
    """Parts of a method that a study switches off to see what they contribute.

    gradient_on: the regularizer presses at all (else importance alone chooses channels); steer_by_flops: it prices
    channels by their FLOPs, whatever the limits are of; expand: what is left of the budget is used; remove_blocks:
    whole residual blocks may go.
    """

    gradient_on: bool = True
    steer_by_flops: bool = False
    expand: bool = True
    remove_blocks: bool = True


class Settings(NamedTuple):
    """What was asked: limits, frame rate, seed, epochs of the three trainings, rounds on the device, and how.

    method: a name of ``methods.METHODS``; morph_rounds: how often MorphNet shrinks; widths: the network to train from
    scratch in place of a search, layer → channels; retrain: train the final network from scratch too; importance: what
    the allocator scores channels by (``importance.IMPORTANCES``); ema, label_smoothing: of fine-tuning; prune_every:
    epochs of shrinking after which dead channels leave the network (0: at its end); without_norm: what shrinks where
    there is no batch-norm, filters or gates.
    """

    limits: tuple[Limit, ...]
    fps: float | None
    seed: int
    epochs_baseline: int
    epochs_shrink: int
    epochs_finetune: int
    rounds: int
    method: str = "morphnet"
    morph_rounds: int = 1
    widths: Mapping[str, int] | None = None
    retrain: bool = False
    importance: str = "taylor"
    ablation: Ablation = Ablation()
    ema: float = 0.0
    label_smoothing: float = 0.0
    prune_every: int = 0
    without_norm: str = "filters"

    @property
    def epochs(self) -> int:
        """Of the three trainings together."""
        return self.epochs_baseline + self.epochs_shrink + self.epochs_finetune


class Survey(NamedTuple):
    """The seed network on the device, before training: measured and predicted totals (4,), and its template.

    ``paced_line``: power over the frame rate (JSON), None without a frame rate or a power source.
    """

    path: Path
    template: Template
    tables: NetworkTables
    measured: Array
    predicted: Array
    idle_power_w: float
    trial: Trial
    paced_line: dict[str, Any] | None


def take_survey(bench: Bench, task: Task, cost_model: KernelCostModel, settings: Settings) -> Survey:
    """Export the untrained seed network, price it, and measure it on the device.

    Raises ModelError where nothing of the network can be compressed, DeviceSetupError without a power source for a
    power target, UnsupportedOperatorError for an operator that was never measured, NoCostModelError where the device
    is not in the configuration of its cost model.
    """
    torch.manual_seed(settings.seed)
    network = task.model()
    example = torch.zeros(1, *task.input_shape)
    groups = find_groups(network, example, task.model)
    path = bench.run.path / "artifacts" / "seed.onnx"
    if not path.exists():
        export.save_checked(network, task.input_shape, path)
    with bench:
        if any(limit.quantity in ("power", "energy") for limit in settings.limits):
            bench.need_power()
        store = Store(bench.run.path.parent.parent)
        listed = executed_kernels(bench.profile, cost_model, store, path, session=bench.session)
        template = rehearsed(network, task.model, make_template(listed.nodes, groups), example)
        template = template._replace(bottlenecks=bottlenecks(network, template.groups, example))
        require_prunable(template.groups, template.blocks)
        tables = _tables(template, cost_model, path)
        predicted = tables.totals(template.seed_widths())
        rates = rates_of(settings, float(predicted[0]), bench)
        trial = Trial.measure(bench, {"baseline": path}, "survey", rates, rounds=SURVEY_ROUNDS)
        _check_configuration(bench, cost_model)
        line = _paced_line(bench, path, trial, settings.fps)
    measured = predicted.copy()
    measured[0] = trial.latency_s("baseline")
    measured[1] = trial.energy_active_j("baseline")
    return Survey(path, template, tables, measured, predicted, trial.idle_power_w("baseline"), trial, line)


def rates_of(settings: Settings, baseline_s: float, bench: Bench) -> list[float | None]:
    """Back to back, and the asked frame rate where the baseline can keep it and there is a power source."""
    fps = settings.fps
    return [None, fps] if fps and fps * baseline_s < PACEABLE and bench.meter else [None]


def feasible_budget(survey: Survey, settings: Settings) -> tuple[Budget, dict[str, list[float]]]:
    """The limits in absolute terms, and of each the values reachable: [narrowest network, baseline].

    Raises before any training where the limits cannot be met (InfeasibleTargetError, BadInputError).
    """
    budget = resolve(settings.limits, settings.fps, survey.idle_power_w, survey.measured)
    narrowest = {g.name: 1 if g.prunable else g.width for g in survey.template.groups}
    without = survey.template.removed_kernels([b.name for b in survey.template.blocks])
    reach = survey.tables.totals(narrowest, without)
    # Without a power source both energies are zero.
    reach[:2] *= np.divide(survey.measured[:2], survey.predicted[:2], out=np.ones(2), where=survey.predicted[:2] > 0)
    check_feasible(budget, reach, settings.fps)
    return budget, {b.name: [b.value(reach), b.value(survey.measured)] for b in budget.bounds}


def _tables(template: Template, cost_model: KernelCostModel, seed: Path) -> NetworkTables:
    def price(specs: Any) -> tuple[Array, Array]:
        costs = cost_model.predict(specs)
        return costs.latency_s, costs.energy_j

    largest = {g.name: round(g.width * GROWTH) if g.prunable else g.width for g in template.groups}
    try:
        return NetworkTables(template.kernels, price, largest, *cost_model.overhead)
    except UnpricedKernel as error:
        fix = f"rig calibrate --device {cost_model.configuration.device} --around {seed}"
        raise UnsupportedOperatorError(str(error), fix) from error


def _check_configuration(bench: Bench, cost_model: KernelCostModel) -> None:
    found = bench.configuration
    differing = found.differences(cost_model.configuration) if found is not None else []
    if differing:
        shown = "; ".join(f"{field} is {a!r}, was {b!r} when calibrated" for field, a, b in differing)
        raise NoCostModelError(
            f"{bench.profile.name} is not in the configuration of its cost model: {shown}",
            f"rig calibrate --device {bench.profile.name}",
        )


def _paced_line(bench: Bench, path: Path, trial: Trial, fps: float | None) -> dict[str, Any] | None:
    """Power over the frame rate at three rates, fitted, and whether it is a line."""
    if fps is None or ("baseline", fps) not in trial.found:
        return None
    slower = bench.in_turn({"baseline": path}, "line", [fps / 2, fps / 4], 1)
    line = paced_line([m for several in (trial.found["baseline", fps], *slower.values()) for m in several])
    return {
        "idle_power_w": line.idle_power_w.to_json(),
        "energy_active_j": line.energy_active_j.to_json(),
        "linear": line.linear,
        "worst_residual_w": line.worst_residual_w,
        "fps": list(line.fps),
    }
