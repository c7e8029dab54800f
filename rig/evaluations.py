"""The steps of an evaluation: folds that were done before are read, the others done and stored, all of them scored.

folds.jsonl    of a run folder: one line a fold (repeat, what was held out, predictions by method), appended durably
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rig.durable import append_json
from rig.errors import BadInputError
from rig.profiles import SHIPPED_FOLDER
from rig.units import Quantity

if TYPE_CHECKING:
    import numpy as np

    from power_models.cross_validation import Fit, HeldOut
    from power_models.evaluation import Predicted, Row, Scores
    from power_models.kernel_cost import CannotFit
    from power_models.table_folds import Fold
    from rig.store.store import Run, Store

FOLDS_FILE = "folds.jsonl"
MOST_POINTS = 400  # of a quantity are drawn in a report
UNFINISHED = ("running", "interrupted", "failed")


class Plan(NamedTuple):
    """Which folds are held out in each repeat, and whether each is a whole level of a column."""

    repeats: list[list[Fold]]
    by_level: bool


class FailedFold(NamedTuple):
    """A fold whose other rows nothing could be fitted to: which one, and why."""

    which: str
    error: CannotFit


def plan_folds(rows: Sequence[Row], folds: int, repeats: int, group: str | None) -> Plan:
    """Random folds, seeded 0, 1, …; with ``group`` whole levels are left out; BadInputError for what cannot be."""
    from power_models.table_folds import MOST_LEVELS, level_folds, levels, random_folds

    try:
        if group is None:
            return Plan([random_folds(rows, folds, seed) for seed in range(repeats)], False)
        if len(set(levels(rows, group).tolist())) <= MOST_LEVELS:
            return Plan([level_folds(rows, group, folds, 0)], True)  # nothing is random about it
        return Plan([level_folds(rows, group, folds, seed) for seed in range(repeats)], False)
    except ValueError as error:
        option = "--folds" if group is None else "--group"
        raise BadInputError(f"{option}: {error}", fix="rig evaluate --help shows examples") from error


def unfinished_run(store: Store, device: str, request: Mapping[str, Any]) -> Run | None:
    """The newest evaluation of the same request that did not finish and that nobody is at."""
    for manifest in reversed(store.runs()):
        same = manifest["device"] == device and manifest.get("request") == request
        if same and manifest["command"] == "evaluate" and manifest["state"] in UNFINISHED:
            return store.open_run(manifest["id"])
    return None


def was_seen(store: Store, device: str, files: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the device's cost model was fitted to one of the tables: by ``rig fit``, or as it comes with the rig."""
    from rig.cost_models import calibrated_devices, shipped_devices

    tables = {one["sha256"] for one in files if one["sha256"]}
    if device not in calibrated_devices(store.root) and device in shipped_devices():
        published = [path for path in (SHIPPED_FOLDER / "data").iterdir() if path.name.endswith(".jsonl.gz")]
        return not tables.isdisjoint(hashlib.sha256(path.read_bytes()).hexdigest() for path in published)
    fits = [one for one in store.runs() if one["command"] == "fit" and one["device"] == device]
    return not tables.isdisjoint(source["sha256"] for one in fits for source in one.get("sources", []))


def stored_folds(run: Run) -> dict[tuple[int, int], HeldOut]:
    """(repeat, fold) → what was done; a line that a kill tore is left out, its fold is done again."""
    from power_models.cross_validation import HeldOut

    path = run.path / FOLDS_FILE
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            data = json.loads(line)
            found[int(data["repeat"]), int(data["fold"])] = HeldOut.from_json(data)
        except (ValueError, KeyError, TypeError):
            continue
    return found


def held_out_folds(
    run: Run, rows: Sequence[Row], plan: Plan, fit: Fit, told: Callable[[str], None], failed: list[FailedFold]
) -> Iterator[tuple[int, HeldOut]]:
    """Every fold in order, (repeat, predictions): as stored, or done now and stored.

    A fold outside of which nothing can be fitted is none of them; it is added to ``failed``.
    """
    from power_models.cross_validation import hold_out
    from power_models.kernel_cost import CannotFit

    done = stored_folds(run)
    total = sum(len(folds) for folds in plan.repeats)
    number = 0
    for repeat, folds in enumerate(plan.repeats):
        for place, fold in enumerate(folds):
            number += 1
            if (repeat, place) not in done:
                told(f"{number} of {total}: {fold.label}, {len(fold.rows)} rows held out")
                try:
                    made = hold_out(rows, fold, fit)
                except CannotFit as error:
                    which = f"{fold.label} of repeat {repeat + 1}" if len(plan.repeats) > 1 else fold.label
                    failed.append(FailedFold(f"{which}, {len(fold.rows)} rows held out", error))
                    continue
                line = {"repeat": repeat, "fold": place, **made.to_json()}
                append_json(run.path / FOLDS_FILE, line, f"storing fold {number} of {run.id}")
                done[repeat, place] = made
            yield repeat, done[repeat, place]


def scored(rows: Sequence[Row], plan: Plan, done: Sequence[tuple[int, HeldOut]]) -> dict[str, Any]:
    """``methods``: scores by method, quantity and part, the mean over repeats; ``levels`` where levels were left out.

    ``levels``: by level, method and quantity; ``median_level``: the median over levels, by method and quantity.
    """
    from power_models.cross_validation import pooled
    from power_models.evaluation import mean_scores, median_scores

    repeats = [[one for repeat, one in done if repeat == number] for number in range(len(plan.repeats))]
    each = [pooled(rows, folds) for folds in repeats]
    methods: dict[str, Any] = {}
    for method, quantities in each[0].items():
        for quantity, parts in quantities.items():
            own = methods.setdefault(method, {}).setdefault(quantity, {})
            for part in parts:
                every = [found[method][quantity][part] for found in each if part in found[method].get(quantity, {})]
                own[part] = _plain(mean_scores(every))
    if not plan.by_level:
        return {"methods": methods, "levels": {}, "median_level": {}}
    by_level = {one.label: pooled(rows, [one]) for one in repeats[0]}
    levels = {
        label: {m: {q: _plain(parts["all"]) for q, parts in found.items()} for m, found in methods_of.items()}
        for label, methods_of in by_level.items()
    }
    median: dict[str, dict[str, Any]] = {}
    for method, quantities in methods.items():
        for quantity in quantities:
            every = [f[method][quantity]["all"] for f in by_level.values() if quantity in f.get(method, {})]
            if every:  # else measured in some levels, predicted in others, and never both
                median.setdefault(method, {})[quantity] = _plain(median_scores(every))
    return {"methods": methods, "levels": levels, "median_level": median}


def of_model(rows: Sequence[Row], predicted: Mapping[str, Predicted], group: str | None) -> dict[str, Any]:
    """As ``scored``, of one model's predictions of all rows; with ``group`` also by level (nothing is left out)."""
    import numpy as np

    from power_models.cross_validation import OURS
    from power_models.evaluation import scores_by_part
    from power_models.table_folds import in_order, levels

    def of(index: np.ndarray) -> dict[str, dict[str, Scores]]:
        members = [rows[i] for i in index]
        return scores_by_part(members, {q: own.take(index) for q, own in predicted.items()})

    whole = of(np.arange(len(rows)))
    methods = {OURS: {q: {part: _plain(s) for part, s in parts.items()} for q, parts in whole.items()}}
    by_level: dict[str, Any] = {}
    if group is not None:
        try:
            values = levels(rows, group)
        except ValueError as error:
            raise BadInputError(f"--group: {error}", fix="rig evaluate --help shows examples") from error
        for level in in_order(values.tolist()):
            found = of(np.flatnonzero(values == level))
            by_level[f"{group}={level}"] = {OURS: {q: _plain(parts["all"]) for q, parts in found.items()}}
    return {"methods": methods, "levels": by_level, "median_level": {}}


def _plain(scores: Scores) -> dict[str, Any]:
    return dict(scores._asdict())


def validation(rows: Sequence[Row], predicted: Mapping[str, Predicted], kind: str) -> list[dict[str, Any]]:
    """Measured against predicted, as ``validation`` of docs/design.md; of many rows an even choice.

    Where quiet power is unknown, the energies are those of the whole boundary.
    """
    import numpy as np

    from power_models.evaluation import measured

    known = any(row.idle_power_w is not None for row in rows)
    found = []
    for quantity, source in (
        ("latency_s", "latency_s"),
        ("energy_active_j", "energy_active_j" if known else "energy_j"),
    ):
        if source not in predicted:
            continue
        truth, own = measured(rows, source), predicted[source]
        there = np.flatnonzero(np.isfinite(truth) & np.isfinite(own.value))
        chosen = there[np.unique(np.linspace(0, len(there) - 1, min(len(there), MOST_POINTS)).astype(int))]
        for i in chosen.tolist() if len(there) else []:
            is_kernel = len(rows[i].kernels) == 1
            bounds = (float(own.value[i]), float(own.lo[i]), float(own.hi[i]))
            found.append(
                {
                    "name": rows[i].name,
                    "what": "kernel" if is_kernel else "network",
                    "kind": rows[i].kernels[0].kind if is_kernel else "network",
                    "quantity": quantity,
                    "measured": Quantity(float(truth[i]), kind=kind).to_json(),
                    "predicted": Quantity(*bounds, kind="predicted", basis=kind).to_json(),
                    "extrapolated": False,
                }
            )
    return found
