"""A row a network: its figures, its cost, its accuracy against the baseline of its own run, and whether it counts.

An optimize run gives two rows. Baselines that are the same trained network (task, model, seed, accuracy) are one row,
its cost the mean over the runs that measured it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from rig.comparison.answers import Answers, Right, read_answers
from rig.comparison.paired import Difference, mean_over_seeds, over_images
from rig.comparison.runs import Compared
from rig.errors import BadInputError
from rig.output import warning
from rig.report.network_figures import FROM_SCRATCH, Figure, counted_files, network_figures, stages_of_result
from rig.results import BudgetLimit, Network
from rig.units import Quantity

COSTS = {"latency": "latency_s", "energy": "energy_active_j", "power": "power_w"}
COST_NAMES = {"latency_s": "inference time", "energy_active_j": "energy above quiet", "power_w": "power"}
UNITS = {"latency_s": "s", "energy_active_j": "J", "power_w": "W"}
BASELINE, MEASURED_ONLY = "baseline", "measured"
USUAL_METHOD = "morphnet"  # of runs from before a result said its method
UNPAIRED = "intervals of both accuracies, taken as independent (no answers stored)"

Key = tuple[str, str, int, float]  # task, model, seed and accuracy of a baseline: the same trained network
# Quantity, relative or absolute limit with its unit, frame rate and active_only, of each limit of a budget.
Target = tuple[tuple[str, float | None, float | None, str, float | None, bool], ...]


@dataclass(frozen=True)
class Row:
    """One network. ``cost_ratio``: to its baseline, measured in turn with it; ``change``: of its accuracy against it.

    ``baseline``: which trained network it comes from, None where there is none. ``void``: why the row does not count.
    ``target`` is for people, ``limits`` the target exactly; ``subject``: task and model it was made from, if known.
    """

    runs: tuple[str, ...]
    method: str
    target: str | None
    seed: int | None
    network: str
    figures: Mapping[str, Figure]
    cost: Quantity
    limits: Target | None = None
    subject: tuple[str | None, str | None] = (None, None)
    limit: BudgetLimit | None = None
    cost_ratio: Difference | None = None
    change: Difference | None = None
    baseline: Key | None = None
    verdict: str | None = None
    right: tuple[str, Right] | None = field(default=None, compare=False)
    void: str | None = None

    @property
    def accuracy(self) -> Quantity | None:
        """Test accuracy, None where it is not known."""
        return self.figures["accuracy_test"].quantity


def chosen_cost(runs: Sequence[Compared], asked: str | None) -> str:
    """The quantity to compare: as asked, else energy where all runs measured it, else latency.

    Raises BadInputError where a run has not measured it, or at another frame rate than the others.
    """
    if asked is not None and asked not in COSTS:
        raise BadInputError(f"--cost {asked}: not a cost", f"write one of {', '.join(COSTS)}")
    lacking = [run.name for run in runs if any(n.energy_active_j is None for n in networks_of(run).values())]
    name = asked or ("latency" if lacking else "energy")
    if name != "latency":
        missing = [r.name for r in runs if any(getattr(n, COSTS[name]) is None for n in networks_of(r).values())]
        if missing:
            raise BadInputError(
                f"no {name} was measured in {', '.join(missing)}: no power source", "--cost latency, or leave them out"
            )
    _check_rates(runs, name)
    return COSTS[name]


def _check_rates(runs: Sequence[Compared], cost: str) -> None:
    """Power is compared at one frame rate, latency and energy too; optimize runs have the latter back to back."""
    if cost == "power":
        rates = {n.fps: run.name for run in runs for n in networks_of(run).values()}
        if len(rates) > 1:
            shown = ", ".join(f"{f'{fps:g} fps' if fps else 'back to back'} in {name}" for fps, name in rates.items())
            raise BadInputError(f"power at different frame rates cannot be compared: {shown}", "--cost energy")
        return
    paced = [run.name for run in runs if run.result.network is not None and run.result.network.fps]
    if paced and len(paced) < len(runs):
        raise BadInputError(
            f"{', '.join(paced)}: measured at a frame rate, the others back to back",
            "rig measure the network without --fps, and compare that run",
        )
    paces = {run.result.network.fps: run.name for run in runs if run.result.network is not None}
    if len(paces) > 1:
        shown = ", ".join(f"{fps:g} fps in {name}" for fps, name in paces.items())
        raise BadInputError(
            f"{COST_NAMES[COSTS[cost]]} at different frame rates cannot be compared: {shown}",
            "rig measure the networks at one rate, or without --fps",
        )


def networks_of(run: Compared) -> dict[str, Network]:
    """Role → network of a run."""
    roles = {"baseline": run.result.baseline, "result": run.result.result, "network": run.result.network}
    return {role: network for role, network in roles.items() if network is not None}


def make_rows(runs: Sequence[Compared], cost: str) -> list[Row]:
    """All rows: baselines first, then results and measured networks in the order of the runs."""
    baselines: dict[Key | str, list[Row]] = {}
    others: list[Row] = []
    for run in runs:
        answers = read_answers(run.folder)
        counted = counted_files(run.result, run.folder)
        for role, network in networks_of(run).items():
            figures = network_figures(network, stages_of_result(run.result), role, counted.get(role))
            row = _row(run, role, network, figures, cost, answers)
            if role == "baseline":
                baselines.setdefault(row.baseline or run.name, []).append(row)
            else:
                others += [row, *_from_scratch(run, row, network)]
    return [_merged(same) for same in baselines.values()] + _told_apart(others)


def _told_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, targets that differ but read alike shown with all their digits."""
    meant: dict[str | None, set[Target | None]] = {}
    for row in rows:
        meant.setdefault(row.target, set()).add(row.limits)
    return [
        replace(row, target=_exact_label(row.limits)) if row.limits and len(meant[row.target]) > 1 else row
        for row in rows
    ]


def _exact_label(limits: Target) -> str:
    shown = []
    for quantity, relative, limit, unit, fps, active in limits:
        bound = f"{limit!r} {unit}" if relative is None else f"{100 * relative!r} %"
        shown.append(f"{_quantity(quantity, active)} {bound}" + (f" at {fps!r} fps" if fps else ""))
    return " and ".join(shown)


def _row(
    run: Compared, role: str, network: Network, figures: Mapping[str, Figure], cost: str, answers: Answers | None
) -> Row:
    own = getattr(network, cost)
    seed = run.result.seed if isinstance(run.result.seed, int) else None
    right = (answers.images, answers.right[role]) if answers is not None and role in answers.right else None
    row = Row((run.name,), BASELINE, None, seed, network.name, figures, own, baseline=_key(run), right=right)
    row = replace(row, subject=(run.result.task, run.result.model))
    if role == "baseline":
        return row
    if role == "network":
        return replace(row, method=MEASURED_ONLY, baseline=None, seed=None, subject=(None, None))
    return replace(
        row,
        method=run.result.method or USUAL_METHOD,
        target=" and ".join(target_label(limit) for limit in _sorted(run.result.budget)),
        limits=tuple(_exactly(limit) for limit in _sorted(run.result.budget)),
        limit=next((limit for limit in run.result.budget if _limits(limit, cost)), None),
        verdict=run.result.verdict,
        cost_ratio=_ratio(run, cost),
        change=_change(run, answers, seed),
    )


def _from_scratch(run: Compared, row: Row, network: Network) -> list[Row]:
    """The same network with fresh weights, where the run trained it so too: another accuracy at the same cost."""
    again = run.result.retrained
    if again is None or again.accuracy_test is None:
        return []
    fresh = network.model_copy(update={"accuracy_test": again.accuracy_test})
    figures = network_figures(fresh, run.result.stages, "result", counted_files(run.result, run.folder).get("result"))
    change = Difference(again.accuracy_change, UNPAIRED)
    return [replace(row, method=f"{row.method} {FROM_SCRATCH}", figures=figures, change=change, right=None)]


def _key(run: Compared) -> Key | None:
    before, seed = run.result.baseline, run.result.seed
    if before is None or before.accuracy_test is None or before.accuracy_test.value is None:
        return None
    if run.result.task is None or run.result.model is None or not isinstance(seed, int):
        return None
    return run.result.task, run.result.model, seed, round(before.accuracy_test.value, 9)


def _sorted(limits: Sequence[BudgetLimit]) -> list[BudgetLimit]:
    return sorted(limits, key=lambda limit: (limit.quantity, limit.active_only, limit.fps or 0.0))


def _exactly(limit: BudgetLimit) -> tuple[str, float | None, float | None, str, float | None, bool]:
    """A limit as it was asked for: a relative one comes to another absolute limit in each run."""
    absolute = limit.limit if limit.relative is None else None
    return limit.quantity, limit.relative, absolute, limit.unit, limit.fps, limit.active_only


def _quantity(name: str, active: bool) -> str:
    return f"active {name}" if active else name


def target_label(limit: BudgetLimit) -> str:
    """A limit in few words: ``latency 50 %``, ``power 3.6 W at 60 fps``."""
    rate = f" at {limit.fps:g} fps" if limit.fps else ""
    what = _quantity(limit.quantity, limit.active_only)
    if limit.relative is not None:
        return f"{what} {100 * limit.relative:.4g} %{rate}"
    return f"{what} {Quantity(limit.limit).format('' if limit.unit == 'params' else limit.unit)}{rate}"


def _limits(limit: BudgetLimit, cost: str) -> bool:
    """Whether a limit bounds the very quantity compared (an absolute energy limit is of the whole board)."""
    same = COSTS.get(limit.quantity) == cost
    return same and (limit.quantity != "energy" or limit.active_only)


def _ratio(run: Compared, cost: str) -> Difference:
    """Result over baseline: from rounds in turn where the run keeps it, else of the two means."""
    kept = run.result.cost_ratio.get(cost)
    if kept is not None and not (kept.value or 0.0) > 0.0:
        return Difference(None, "the ratio measured in turn is not above zero")
    if kept is not None:
        return Difference(kept, f"measured in turn, {kept.n} rounds")
    both = networks_of(run)
    before, after = getattr(both["baseline"], cost), getattr(both["result"], cost)
    for whose, quantity in (("baseline", before), ("result", after)):
        if not (quantity.value or 0.0) > 0.0:
            return Difference(None, f"no ratio: the {whose}'s {COST_NAMES[cost]} is not above zero")
    value = after.value / before.value
    older = "cost_ratio" not in run.result.model_fields_set
    why = f"of the two means (the run {'is older than paired ratios' if older else 'keeps none measured in turn'})"
    if before.relative is None or after.relative is None:
        return Difference(Quantity(value, kind=after.kind, basis=after.basis), why)
    half = value * (before.relative**2 + after.relative**2) ** 0.5
    return Difference(Quantity.around(value, half, kind=after.kind, basis=after.basis), why)


def _change(run: Compared, answers: Answers | None, seed: int | None) -> Difference:
    """Accuracy of the result minus that of its own baseline."""
    if answers is not None and {"baseline", "result"} <= set(answers.right):
        return over_images(answers.right["baseline"], answers.right["result"], seed)
    both = networks_of(run)
    before, after = both["baseline"].accuracy_test, both["result"].accuracy_test
    if before is None or after is None or before.value is None or after.value is None:
        return Difference(None, "not evaluated")
    value = after.value - before.value
    if before.half_width is None or after.half_width is None:
        return Difference(Quantity(value), "no interval is stored")
    half = (before.half_width**2 + after.half_width**2) ** 0.5
    return Difference(Quantity.around(value, half, n=after.n), UNPAIRED)


def _merged(same: list[Row]) -> Row:
    """One baseline measured in several runs."""
    if len(same) == 1:
        return same[0]
    names = tuple(name for row in same for name in row.runs)
    return replace(same[0], runs=names, cost=mean_over_seeds([row.cost for row in same], within=True))


# --- equal cost -------------------------------------------------------------------------------------------------


def mark_unequal(rows: Sequence[Row], limit: float) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows whose cost is off the median of their target by more than ``limit`` made void, with a warning each.

    Costs are taken relative to the baseline measured in turn where every row of the target has that, else as they are.
    Networks that were only measured belong to the one target (of one model) there is; where there is not exactly one
    they are not judged, which a warning says.
    """
    compressed = [row for row in rows if row.method != BASELINE]
    targets = list(dict.fromkeys((row.subject, row.limits) for row in compressed if row.limits is not None))
    groups: dict[Any, list[Row]] = {target: [] for target in targets}
    unjudged = []
    for row in compressed:
        if row.limits is None and len(targets) != 1:
            unjudged.append(row)
        else:
            groups[targets[0] if row.limits is None else (row.subject, row.limits)].append(row)
    verdicts: dict[int, str] = {}
    for group in groups.values():
        costs = _comparable_costs(group)
        middle = median(costs)
        if middle <= 0.0:
            verdicts |= {id(row): "the median cost is not above zero" for row in group}
            continue
        for row, cost in zip(group, costs, strict=True):
            off = cost / middle - 1.0
            if abs(off) > limit:
                verdicts[id(row)] = f"cost {100 * off:+.1f} % off the median, {100 * limit:g} % are allowed"
    marked = [replace(row, void=verdicts.get(id(row), row.void)) for row in rows]
    fix = "give each method a target that it meets at the same cost, or compare with a wider --equal-cost"
    notes = [
        warning("unequal-cost", f"{', '.join(row.runs)} ({row.method}) is void: {row.void}", fix)
        for row in marked
        if row.void
    ]
    notes += [
        warning(
            "no-target",
            f"{', '.join(row.runs)} ({row.method}) has no target, and there is not exactly one: not judged",
            "compare it with the runs of one target",
        )
        for row in unjudged
    ]
    return marked, notes


def _comparable_costs(group: Sequence[Row]) -> list[float]:
    ratios = [row.cost_ratio.quantity if row.cost_ratio is not None else None for row in group]
    if all(ratio is not None and ratio.value for ratio in ratios):
        return [float(ratio.value or 0.0) for ratio in ratios if ratio is not None]
    return [float(row.cost.value or 0.0) for row in group]
