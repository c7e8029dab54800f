"""What each command was asked to do, as plain data; targets stay as they were typed (``rig.units`` reads them)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DevicesOptions:
    """``rig devices``: ``probe`` also contacts boards over the network."""

    probe: bool = False
    json: bool = False


@dataclass(frozen=True)
class DoctorOptions:
    """``rig doctor``: ``source`` names the power sources to look at (none: all that work), ``steps`` of load each."""

    device: str
    source: tuple[str, ...] = ()
    steps: int = 16
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class CalibrateSensorOptions:
    """``rig calibrate-sensor``: ``against`` a source or the host's meter, or ``points`` that a person read."""

    device: str
    source: str
    against: str | None = None
    points: Path | None = None
    reference_uncertainty: str | None = None
    levels: int = 6
    level_time: str | None = None
    json: bool = False


@dataclass(frozen=True)
class CalibrateOptions:
    """``rig calibrate``: ``kernels`` is how many to measure, ``around`` and ``task`` name networks to measure near.

    ``error``: measure until held-out networks are priced so well (``kernels`` at most). ``base``: a device whose cost
    model to start from.
    """

    device: str
    time: str | None = None
    kernels: int | None = None
    around: tuple[Path, ...] = ()
    task: str | None = None
    model: str | None = None
    seed: int = 0
    resume: bool = True
    json: bool = False
    error: str | None = None
    base: str | None = None
    fusion: bool = False


@dataclass(frozen=True)
class MeasureOptions:
    """``rig measure``: ``shape`` replaces dynamic input dimensions, ``explain`` lists the parts of each interval."""

    model: Path
    device: str
    fps: str | None = None
    shape: str | None = None
    explain: bool = False
    json: bool = False


@dataclass(frozen=True)
class PredictOptions:
    """``rig predict``: nothing is measured, but what is missing with ``measure_missing``.

    ``offline``: the device is not asked for its runtime's graph either, kernel lists are made by rules.
    """

    model: Path
    device: str
    fps: str | None = None
    shape: str | None = None
    json: bool = False
    measure_missing: bool = False
    offline: bool = False


@dataclass(frozen=True)
class FitOptions:
    """``rig fit``: ``tables`` are files or runs; ``boundary`` and ``runtime`` say what the tables do not.

    ``base``: a device whose cost model, fitted to networks, is the start.
    """

    tables: tuple[str, ...]
    device: str
    base: str | None = None
    boundary: str | None = None
    runtime: str | None = None
    replace: bool = False
    json: bool = False


@dataclass(frozen=True)
class EvaluateOptions:
    """``rig evaluate``: ``folds`` None scores the stored model; ``group`` is a column whose levels are left out."""

    tables: tuple[str, ...]
    device: str
    folds: int | None = None
    repeats: int = 10
    group: str | None = None
    base: str | None = None
    boundary: str | None = None
    runtime: str | None = None
    resume: bool = True
    json: bool = False


@dataclass(frozen=True)
class OptimizeOptions:
    """``rig optimize``: at least one target; None for model, epochs and rounds means the task's own default.

    ``widths``: the network of that file is trained from scratch, in place of a search; ``retrain``: the one that was
    found is trained from scratch too. ``ema``, ``label_smoothing``: of fine-tuning; ``batch``: images a step, of a
    built-in task. ``prune_every``: epochs of shrinking (0: at its end); ``without_norm``: None is the usual way.
    """

    device: str
    task: str
    model: str | None = None
    target_power: str | None = None
    fps: str | None = None
    target_energy: str | None = None
    target_latency: str | None = None
    target_flops: str | None = None
    target_params: str | None = None
    seed: int = 0
    epochs_baseline: int | None = None
    epochs_shrink: int | None = None
    epochs_finetune: int | None = None
    rounds: int | None = None
    method: str = "morphnet"
    morph_rounds: int = 1
    importance: str | None = None
    widths: Path | None = None
    retrain: bool = False
    resume: bool = False
    out: Path | None = None
    json: bool = False
    ema: float = 0.0
    label_smoothing: float = 0.0
    batch: int | None = None
    prune_every: int = 0
    without_norm: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """``rig report``: ``run`` None means the latest run."""

    run: str | None = None
    format: str = "html"
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class CompareOptions:
    """``rig compare``: ``runs`` are ids, their beginnings, folders or network files; ``cost`` None: energy or time."""

    runs: tuple[str, ...]
    cost: str | None = None
    equal_cost: str | None = None
    plot: Path | None = None
    out: Path | None = None
    json: bool = False


@dataclass(frozen=True)
class ReplayOptions:
    """``rig replay``: ``run`` is an id or a folder; ``serve`` makes a device of it."""

    run: str
    serve: bool = False
    json: bool = False


@dataclass(frozen=True)
class ImportOptions:
    """``rig import``: ``source`` says whose logs are in ``folder``; ``device`` None means as the logs call it."""

    source: str
    folder: Path
    device: str | None = None
    json: bool = False


SPELLED = {"base": "from"}  # what is a keyword of the language
POSITIONAL = {
    "measure": "model",
    "predict": "model",
    "report": "run",
    "replay": "run",
    "fit": "tables",
    "evaluate": "tables",
    "compare": "runs",
}


def command_words(command: str, options: Any) -> list[str]:
    """The command line that asks for these options; what has its default value is left out."""
    words, flags = ["rig", command], []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name == "json":
            continue
        if field.name == POSITIONAL.get(command):
            words += [str(one) for one in value] if isinstance(value, tuple) else [str(value)]
        elif field.name == "resume" and not value:
            flags.append("--fresh")
        elif value is True:
            flags.append(f"--{field.name.replace('_', '-')}")
        else:
            name = SPELLED.get(field.name, field.name.replace("_", "-"))
            for one in value if isinstance(value, tuple) else (value,):
                flags += [f"--{name}", str(one)]
    return words + flags


def measure_options_of(words: Sequence[str]) -> MeasureOptions:
    """The options of a ``rig measure`` command line that ``command_words`` wrote."""
    given: dict[str, Any] = {}
    rest = iter(words[2:])
    for word in rest:
        if word == "--explain":
            given["explain"] = True
        elif word.startswith("--"):
            given[word[2:]] = next(rest)
        else:
            given["model"] = Path(word)
    return MeasureOptions(**given)
