"""Measure in rounds, choosing each round's kernels for the networks to be priced, until their held-out error is met.

    first batch ─► measure ─► fit ─► error of networks held out ─┬─ at most what was asked: done
                      ▲                                         ├─ as many kernels as allowed, or the time is up: done,
                      │                                         │  and how many more it would take
                      └── the kernels that make totals surest ◄─┘

Batches are kept in the run folder before they are measured, and the next one follows from what the store holds: a run
that was killed goes on with the same kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from device_agents.records import KernelSpec
from power_models.design import Surveyor, one_of_each, prior_of_rows, totals_of
from power_models.features import Floats
from power_models.kernel_process import ErrorPrior
from power_models.transfer_fit import START
from rig.workloads.families import rough_seconds

if TYPE_CHECKING:
    from power_models.kernel_cost import KernelCostModel, KernelRow
    from power_models.validate import Prediction
    from rig.collect.rows import Collected
    from rig.collect.targets import Targets
    from rig.store.store import Run

DESIGN_FILE = "artifacts/design.json"
HELD_OUT_FILE = "artifacts/held-out.json"
FIRST_BATCH, LEAST_BATCH, GROWTH = 16, 8, 0.25
LEVEL = 0.9  # one-sided: how sure it must be that the error is met
FEWEST_CHECKS = 4
MOST_CANDIDATES = 1500
LOOK_AHEAD = 200  # kernels, for what it would take


class CheckError(NamedTuple):
    """Mean |relative error| over the held-out networks, and the bound that it is under with 90 % confidence."""

    mean: float
    upper: float
    networks: int


class Round(NamedTuple):
    """After so many kernels: errors by quantity, and the deviation that the design expects of a network's total."""

    kernels: int
    errors: dict[str, CheckError]
    deviation: float | None

    @property
    def upper(self) -> float:
        """The worse quantity's bound; infinite where too few networks were held out."""
        return max((error.upper for error in self.errors.values()), default=math.inf)

    @property
    def mean(self) -> float:
        """The worse quantity's error."""
        return max((error.mean for error in self.errors.values()), default=math.inf)

    def to_json(self) -> dict[str, Any]:
        """The plain form."""
        errors = {
            quantity: {"mean": e.mean, "upper": e.upper if math.isfinite(e.upper) else None, "networks": e.networks}
            for quantity, e in self.errors.items()
        }
        return {"kernels": self.kernels, "errors": errors, "deviation": self.deviation}


class Outcome(NamedTuple):
    """How it ended: ``reached``, ``kernels`` (the limit on their number), ``time``, or ``nothing left``.

    ``more``: how many more kernels it would take, by the design's own account; None where it is met, or where more
    kernels of these networks would not do.
    """

    rounds: list[Round]
    why: str
    more: int | None

    def to_json(self, asked: str, networks: int) -> dict[str, Any]:
        """As ``design`` of a calibration's result: what was asked, what it took, what it would take."""
        last = self.rounds[-1]
        return {
            "asked": asked,
            "reached": self.why == "reached",
            "stopped_by": self.why,
            "error": last.mean if last.errors else None,
            "error_at_most": last.upper if math.isfinite(last.upper) else None,
            "kernels": last.kernels,
            "networks": networks,
            "kernels_more": self.more,
            "rounds": [round_.to_json() for round_ in self.rounds],
        }


class Fit(Protocol):
    """What a fit must give: the model, and the predictions of held-out networks by quantity."""

    @property
    def model(self) -> KernelCostModel:
        """The fitted model."""

    @property
    def networks(self) -> Any:
        """Predictions by quantity."""


Measure = Callable[[list[KernelSpec]], "tuple[Collected, bool]"]  # kernels → what there is now, whether time was left


def measure_until(
    run: Run,
    targets: Targets,
    measure: Measure,
    fit: Callable[[Collected], Fit],
    limit: float,
    most_kernels: int,
    longest_s: float,
    tell: Callable[[str], None] = lambda text: None,
    base: KernelCostModel | None = None,
) -> Outcome:
    """Measure, round by round. ``measure`` gets all kernels asked for so far and measures what is missing.

    ``base``: the model to start from, where there is one: then only what differs from it is unsure.
    """
    asked = read_batches(run)
    if not asked:
        first = min(LEAST_BATCH if base is not None else FIRST_BATCH, most_kernels)
        asked = next_batch(targets, [], base, None, first, longest_s, base=base).kernels
        _keep(run, asked, [])
    rounds: list[Round] = []
    while True:
        collected, in_time = measure(asked)
        fitted = fit(collected)
        rows = [row for row in collected.rows if row.source == "chain"]
        count = max(LEAST_BATCH, math.ceil(GROWTH * len(asked)))
        block = collected.layout_block
        batch = next_batch(targets, rows, fitted.model, block, count, longest_s, asked, base)
        measured = len({row.kernel for row in rows} & set(asked))
        rounds.append(Round(measured, check_errors(fitted.networks), batch.deviation))
        tell(_told(rounds[-1], limit))
        why = _why_over(rounds[-1], limit, in_time, len(asked) >= most_kernels, not batch.kernels)
        if why:
            _keep(run, asked, rounds)
            more = None if why == "reached" else batch.needed(limit, rounds[-1].upper)
            return Outcome(rounds, why, more)
        asked = [*asked, *batch.kernels[: most_kernels - len(asked)]]
        _keep(run, asked, rounds)


def _why_over(last: Round, limit: float, in_time: bool, spent: bool, nothing: bool) -> str | None:
    if last.upper <= limit:
        return "reached"
    if not in_time:
        return "time"
    return "kernels" if spent else "nothing left" if nothing else None


def _told(last: Round, limit: float) -> str:
    if not last.errors:
        return f"{last.kernels} kernels; no held-out network could be priced yet"
    return (
        f"{last.kernels} kernels: held-out networks are off by {100 * last.mean:.1f} %"
        f" (at most {100 * last.upper:.1f} %; asked for {100 * limit:g} %)"
    )


def check_errors(networks: Any) -> dict[str, CheckError]:
    """The errors of held-out networks, by quantity (quantities without a prediction are left out)."""
    return {quantity: _check_error(found) for quantity, found in networks.items() if found}


def _check_error(predictions: Sequence[Prediction]) -> CheckError:
    from scipy.stats import t

    size = np.array([abs(p.predicted / p.measured - 1) for p in predictions])
    n, mean = len(size), float(size.mean())
    if n < FEWEST_CHECKS:
        return CheckError(mean, math.inf, n)
    return CheckError(mean, mean + float(t.ppf(LEVEL, n - 1) * size.std(ddof=1) / math.sqrt(n)), n)


class Batch(NamedTuple):
    """The next kernels; the networks' expected deviation now, and after each further kernel of a long look ahead."""

    kernels: list[KernelSpec]
    deviation: float
    ahead: list[float]

    def needed(self, limit: float, now: float) -> int | None:
        """How many more kernels until an error of ``now`` falls to ``limit``, if it falls as the deviation does."""
        for number, deviation in enumerate(self.ahead, 1):
            if now * deviation <= limit * self.deviation:
                return number
        return None


def next_batch(
    targets: Targets,
    rows: Sequence[KernelRow],
    model: KernelCostModel | None,
    block: int | None,
    count: int,
    longest_s: float,
    asked: Sequence[KernelSpec] = (),
    base: KernelCostModel | None = None,
) -> Batch:
    """The kernels to measure next, none of ``asked``; the same for the same rows and model."""
    networks = targets.kernels(block)
    totals = totals_of(networks, lambda kernels: _seconds(kernels, model))
    taken = set(asked)
    weight = dict(zip(totals.kernels, totals.shares.sum(axis=0).tolist(), strict=True))
    worth = sorted(totals.kernels, key=lambda kernel: -weight[kernel])
    candidates = [k for k in worth if k not in taken and measurable(k, targets.runtime, longest_s)][:MOST_CANDIDATES]
    measured = list(dict.fromkeys([*(row.kernel for row in rows), *asked]))
    prior = _prior(rows, base)
    if not candidates:
        return Batch([], 0.0, [])
    surveyor = Surveyor(prior, totals, candidates, measured)
    now = surveyor.deviation
    first = one_of_each(candidates, np.array([weight[kernel] for kernel in candidates]), measured)
    chosen = surveyor.choose(LOOK_AHEAD, first)
    return Batch([candidates[i] for i in chosen.places[: max(count, len(first))]], now, chosen.deviation)


def _prior(rows: Sequence[KernelRow], base: KernelCostModel | None) -> ErrorPrior:
    """The process's scales: of the costs, or of what they differ from the base's."""
    if base is None:
        return prior_of_rows([row.kernel for row in rows], np.log([row.latency_s for row in rows]))
    known = set(base.known_kinds)
    rows = [row for row in rows if (row.kernel.kind, row.kernel.dtype) in known]
    kernels = [row.kernel for row in rows]
    off = np.log([row.latency_s for row in rows]) - np.log(base.predict(kernels).latency_s) if rows else np.zeros(0)
    return prior_of_rows(kernels, off, START)


def measurable(kernel: KernelSpec, runtime: str, longest_s: float) -> bool:
    """Whether the kernel can be measured by itself, in reasonable time."""
    if rough_seconds(kernel) > longest_s:
        return False
    if runtime == "virtual":
        return True
    from rig.workloads.kernel_onnx import KINDS, as_executed

    return kernel.kind in KINDS and as_executed(kernel) == kernel


def _seconds(kernels: Sequence[KernelSpec], model: KernelCostModel | None) -> Floats:
    """The model's prices; a rough guess of what it does not know."""
    cost = np.array([rough_seconds(kernel) for kernel in kernels])
    if model is None:
        return cost
    known = set(model.known_kinds)
    priced = [i for i, kernel in enumerate(kernels) if (kernel.kind, kernel.dtype) in known]
    if priced:
        cost[priced] = model.predict([kernels[i] for i in priced]).latency_s
    return cost


def read_batches(run: Run) -> list[KernelSpec]:
    """The kernels that were chosen so far, in order; none for a run that has not begun."""
    if not (run.path / DESIGN_FILE).exists():
        return []
    return [KernelSpec.from_json(data) for data in run.read_json(DESIGN_FILE)["kernels"]]


def _keep(run: Run, kernels: Sequence[KernelSpec], rounds: Sequence[Round]) -> None:
    about = {"kernels": [kernel.to_json() for kernel in kernels], "rounds": [r.to_json() for r in rounds]}
    run.write_json(DESIGN_FILE, {"schema": "rig.design/1", **about})
