"""What is reported of every network: cost, size, five figures of a survey of compression, and two that balance them.

Five (KISTI survey of network compression, ch. 4): memory footprint, compression time, inference time, peak memory in
training, accuracy. Information density a/p: accuracy in % over millions of parameters (Canziani, Paszke, Culurciello
2016, arXiv 1605.07678). NetScore 20·log10(a²/(p^½·m^½)), a in %, p in millions (Wong 2018, arXiv 1806.05512; the survey
writes it without the 20).

NetScore's m is in billions of multiply-accumulates, as public implementations of it have it (in millions every value
would be lower by 30, and no order would change). Checked against the order of the paper's ranking with the networks'
published accuracies, sizes and MACs: SqueezeNext-23 77.8, CondenseNet (G=C=8) 75.0, MobileNetV2 74.2, MobileNetV1 at
128 px 73.4 and at 160 px 72.2, DenseNet-121 61.4, ResNet-50 55.1 (tests/test_network_figures.py). Any unit gives that
order; the paper's single values, which would settle the unit, were not at hand.

A figure that a run lacks comes with the reason (``why``); it is never zero.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from rig.comparison.runs import measured_digests
from rig.compression.footprint import Footprint, footprint_of_file
from rig.errors import BadInputError
from rig.results import Network, RunResult, Stage
from rig.units import Quantity
from rig.wording import count, figure

TRAINING_OF_THE_BASELINE = "baseline"  # the stage that trains the network before anything is compressed
FROM_SCRATCH = "from scratch"
MISSING = "–"

Counted = Footprint | str  # or why nothing was counted


class Figure(NamedTuple):
    """One figure, or why there is none."""

    quantity: Quantity | None
    why: str = ""


class Kind(NamedTuple):
    """What a figure is called, and its SI unit (``""``: a count or a score)."""

    name: str
    unit: str


FIGURES: dict[str, Kind] = {
    "accuracy_test": Kind("test accuracy", "%"),
    "latency_s": Kind("inference time", "s"),
    "energy_active_j": Kind("energy above quiet", "J"),
    "energy_j": Kind("energy in all", "J"),
    "power_w": Kind("power", "W"),
    "flops": Kind("arithmetic", "FLOP"),
    "params": Kind("parameters", "params"),
    "memory_bytes": Kind("memory footprint", "B"),
    "weight_bytes": Kind("of it weights", "B"),
    "compression_s": Kind("compression time", "s"),
    "training_memory_bytes": Kind("peak memory in training", "B"),
    "information_density": Kind("information density", "%/M"),
    "net_score": Kind("NetScore", ""),
}
SURVEY = (
    "memory_bytes",
    "compression_s",
    "latency_s",
    "training_memory_bytes",
    "accuracy_test",
    "information_density",
    "net_score",
)


def information_density(accuracy: float, params: float) -> float:
    """Accuracy (a fraction) in per cent over millions of parameters."""
    return 100.0 * accuracy / (params / 1e6)


def net_score(accuracy: float, params: float, macs: float) -> float:
    """NetScore of an accuracy (a fraction), a number of parameters and multiply-accumulates; see the module."""
    return 20.0 * math.log10((100.0 * accuracy) ** 2 / math.sqrt(params / 1e6 * (macs / 1e9)))


def network_figures(
    network: Network, stages: Iterable[Stage] = (), role: str = "network", counted: Counted | None = None
) -> dict[str, Figure]:
    """All of FIGURES for one network; ``role``: baseline, result (of an optimize run) or network (only measured).

    ``counted``: of the network's file, where the result itself does not say (``rig measure``, an older rig).
    """
    uncounted = counted if isinstance(counted, str) else "the run does not say"
    counted = None if isinstance(counted, str) else counted
    unpowered = "no power source" if network.energy_active_j is None and network.power_w is None else "not measured"
    macs = network.macs if network.macs is not None else counted.macs if counted else None
    params = network.params if network.params is not None else counted.params if counted else None
    weights, activations = network.weight_bytes, network.peak_activation_bytes
    if weights is None and counted is not None:
        weights, activations = counted.weight_bytes, counted.peak_activation_bytes
    accuracy = _found(network.accuracy_test, "rig measure knows no accuracy" if role == "network" else "not evaluated")
    whole = None if weights is None or activations is None else weights + activations
    return {
        "accuracy_test": accuracy,
        **{name: _found(getattr(network, name), unpowered) for name in ("energy_active_j", "energy_j", "power_w")},
        "latency_s": Figure(network.latency_s),
        "flops": _exact(None if macs is None else 2 * macs, uncounted),
        "params": _exact(params, uncounted),
        "memory_bytes": _exact(whole, uncounted),
        "weight_bytes": _exact(weights, uncounted),
        **_training(list(stages), role),
        "information_density": _of_accuracy(accuracy, params, lambda a: information_density(a, params or 1)),
        "net_score": _of_accuracy(
            accuracy, params and macs, lambda a: net_score(a, params or 1, macs or 1), above_zero=True
        ),
    }


def _found(quantity: Quantity | None, why: str) -> Figure:
    return Figure(None, why) if quantity is None or quantity.value is None else Figure(quantity)


def _exact(number: float | None, why: str) -> Figure:
    return Figure(None, why) if number is None else Figure(Quantity(float(number)))


def _of_accuracy(
    accuracy: Figure, size: int | None, made: Callable[[float], float], above_zero: bool = False
) -> Figure:
    """A figure that rises with accuracy, its interval that of the accuracy (sizes are exact)."""
    found = accuracy.quantity
    if found is None or found.value is None:
        return Figure(None, accuracy.why)
    if not size:
        return Figure(None, "parameters or arithmetic are not known")
    ends = [None if x is None or (above_zero and x <= 0) else made(x) for x in (found.value, found.lo, found.hi)]
    if ends[0] is None:
        return Figure(None, "no score of an accuracy of zero")
    return Figure(Quantity(*ends, level=found.level, n=found.n, kind=found.kind, basis=found.basis))


def _training(stages: list[Stage], role: str) -> dict[str, Figure]:
    """Compression time (search and fine-tuning, not the baseline's training) and the peak memory of the training.

    Of a baseline the memory of its own training; time spent on the device is in neither.
    """
    if role == "network":
        return dict.fromkeys(("compression_s", "training_memory_bytes"), Figure(None, "measured only, not trained"))
    of_baseline = role == "baseline"
    own = [stage for stage in stages if (stage.name == TRAINING_OF_THE_BASELINE) == of_baseline]
    trained = [stage for stage in own if stage.seconds]
    seconds = Figure(None, "not compressed") if of_baseline else _exact(_sum(trained), "the run keeps no times")
    peaks = [stage.peak_memory_bytes for stage in trained if stage.peak_memory_bytes]
    if peaks:
        return {"compression_s": seconds, "training_memory_bytes": _exact(max(peaks), "")}
    why = "trained by an earlier run" if of_baseline and not trained else "the run is older than this figure"
    return {"compression_s": seconds, "training_memory_bytes": Figure(None, why)}


def stages_of_result(result: RunResult) -> list[Stage]:
    """The stages behind the result: a retraining from scratch beside weights that were continued is not among them."""
    beside = result.weights == "continued"
    return [stage for stage in result.stages if not (beside and stage.name == FROM_SCRATCH)]


def _sum(stages: list[Stage]) -> float | None:
    return math.fsum(stage.seconds or 0.0 for stage in stages) if stages else None


def shown(key: str, found: Figure) -> str:
    """A figure in a table: with its interval, without the kind (which stands once beside the table)."""
    if found.quantity is None:
        return MISSING
    unit = FIGURES[key].unit
    if unit in ("FLOP", "params"):
        return count(found.quantity.value, unit if unit == "FLOP" else "")
    return figure(found.quantity, unit)


def reasons(found: dict[str, Figure], keys: Iterable[str]) -> list[str]:
    """``inference time: why there is none`` of every missing one of these figures."""
    return [f"{FIGURES[key].name}: {found[key].why}" for key in keys if found[key].quantity is None and found[key].why]


def counted_files(result: RunResult, folder: Path) -> dict[str, Counted]:
    """By role, what is counted in the file of a network that the result itself says too little of, or why nothing is.

    The file is looked for in the run's own ``artifacts``, then where the result says: there another may lie by now, so
    it counts only where it is, by its SHA-256, the one that was measured.
    """
    networks = {"baseline": result.baseline, "result": result.result, "network": result.network}
    found: dict[str, Counted] = {}
    for role, network in networks.items():
        if network is None or not network.onnx or not _says_too_little(network):
            continue
        outside = Path(network.onnx)
        kept = folder / "artifacts" / outside.name
        why = None if kept.is_file() else _not_the_measured(outside, folder)
        found[role] = why or _counted(kept if kept.is_file() else outside, result)
    return found


def _not_the_measured(path: Path, folder: Path) -> str | None:
    """Why a file outside the run folder is not counted; None where it is the one measured."""
    if not path.is_file():
        return "the run does not say and its network file is gone"
    known = measured_digests(folder) if (folder / "manifest.json").is_file() else set()
    if not known:
        return "the run does not say and keeps no digest of its network file"
    return None if hashlib.sha256(path.read_bytes()).hexdigest() in known else "its network file has changed"


def _says_too_little(network: Network) -> bool:
    return network.weight_bytes is None or network.peak_activation_bytes is None or network.params is None


def _counted(path: Path, result: RunResult) -> Counted:
    try:
        return footprint_of_file(path, result.device.runtime)
    except BadInputError as error:  # an operator without a rule, a shape left open: measured all the same
        return f"its network file cannot be counted: {error.message}"
