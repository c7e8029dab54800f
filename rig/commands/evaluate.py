"""``rig evaluate``: tables → the stored model's errors on them; with ``--folds`` errors on rows held out in turn."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from power_models.code_digest import code_digest
from rig import evaluations
from rig.commands.options import EvaluateOptions, command_words
from rig.configuration import described
from rig.cost_models import load_cost_model
from rig.errors import BadInputError
from rig.output import Interrupted, plain, warning
from rig.store.store import Run, Store, utc_now
from rig.table_sources import Sources, base_model, read_sources, rows_record
from rig.wording import boundary_words, label

if TYPE_CHECKING:
    from device_agents.records import Configuration
    from power_models.cross_validation import Fit, HeldOut
    from power_models.evaluation import Predicted
    from rig.console import Console, Progress

NAMES = {"latency_s": "latency", "power_w": "power", "energy_j": "energy", "energy_active_j": "active energy"}
METHODS = {
    "ours": "cost model",
    "ours_place_not_told": "the same, lines not told",
    "flops_line": "FLOPs line",
    "latency_x_power": "its latency × constant power",
    "measured_latency_x_power": "measured latency × constant power",
    "polynomial": "NeuralPower polynomial",
    "forest": "nn-Meter forest",
    "raw_forest": "forest on raw columns",
    "lookup": "lookup, interpolated",
    "kind_sums": "non-negative sums a kind",
}
SHOWN_LEVELS = 24


def run(options: EvaluateOptions) -> dict[str, Any]:
    """Score and store; raises BadInputError, NoCostModelError, StoreError, Interrupted (with the resuming command)."""
    store = Store()
    sources = read_sources(options.tables, options.device, store, options.boundary, options.runtime)
    words = shlex.join(command_words("evaluate", options))
    request = {
        "sources": [[one["path"], one["sha256"]] for one in sources.files],
        "folds": options.folds,
        "repeats": options.repeats if options.folds else None,
        "group": options.group,
        "from": options.base,
        "code": code_digest(),
    }
    if options.folds is None:
        model = load_cost_model(store, options.device)
        from power_models.evaluation import predict

        predicted = predict(model, sources.rows)
        found = evaluations.of_model(sources.rows, predicted, options.group)
        stored = store.new_run(
            "evaluate", options.device, argv=shlex.split(words), request=request, sources=sources.files
        )
        kind, configuration = model.kind, model.configuration
    else:
        from power_models.cross_validation import fit_tables

        plan = evaluations.plan_folds(sources.rows, options.folds, options.repeats, options.group)
        unfinished = evaluations.unfinished_run(store, options.device, request) if options.resume else None
        stored = unfinished or store.new_run(
            "evaluate", options.device, argv=shlex.split(words), request=request, sources=sources.files
        )
        base = base_model(store, options.base, sources.rows)
        fit = fit_tables(sources.configuration, sources.kind, base)
        done = _folds(stored, sources, plan, fit, words, resumed=unfinished is not None)
        found = evaluations.scored(sources.rows, plan, done)
        predicted = _first_repeat(sources, done)
        kind, configuration = sources.kind, sources.configuration
    judged = options.device if options.folds is None else options.base
    seen = judged is not None and evaluations.was_seen(store, judged, sources.files)
    result = plain(_result(options, sources, stored, found, predicted, (kind, configuration), words, seen))
    if result["validation"]:
        stored.write_json("result.json", {**result, "schema": "rig.evaluate/1"})
    stored.update(state="done", finished_utc=utc_now())
    return {**result, "warnings": [*result["warnings"], *store.problems, *stored.problems]}


def _folds(
    stored: Run, sources: Sources, plan: evaluations.Plan, fit: Fit, words: str, resumed: bool
) -> list[tuple[int, HeldOut]]:
    """All folds, those of an unfinished run as they were stored; BadInputError names those that cannot be fitted."""
    from rig.console import Progress

    failed: list[evaluations.FailedFold] = []
    with Progress() as progress:
        verb = f"going on with {stored.id}" if resumed else f"run {stored.id}"
        progress.stage(f"{verb}: cross-validating {rows_record(sources.files)}")
        stored.update(state="running")
        try:
            done = list(evaluations.held_out_folds(stored, sources.rows, plan, fit, _teller(progress), failed))
        except KeyboardInterrupt:
            stored.update(state="interrupted", finished_utc=utc_now())
            number = len(evaluations.stored_folds(stored))
            raise Interrupted(f"interrupted; {number} folds are stored in {stored.id}", resume=words) from None
        except BaseException:
            stored.update(state="failed", finished_utc=utc_now())
            raise
    if failed:
        stored.update(state="failed", finished_utc=utc_now())
        tables = ", ".join(one["path"] for one in sources.files)
        more = f" (and {len(failed) - 1} more folds)" if failed[1:] else ""
        raise BadInputError(
            f"{tables}: {failed[0].which}: {failed[0].error}{more}; "
            f"the other {len(done)} folds are kept in {stored.id}",
            fix="give a table with more usable rows, or other folds",
        ) from failed[0].error
    return done


def _teller(progress: Progress) -> Any:
    return lambda text: progress.update(text)


def _first_repeat(sources: Sources, done: Sequence[tuple[int, HeldOut]]) -> dict[str, Predicted]:
    """Our held-out predictions of every row, in the rows' order, of the first repeat."""
    import numpy as np

    from power_models.cross_validation import OURS
    from power_models.evaluation import Predicted

    folds = [fold for repeat, fold in done if repeat == 0]
    found: dict[str, Predicted] = {}
    for fold in folds:
        for quantity, own in fold.predicted[OURS].items():
            whole = found.setdefault(quantity, Predicted.none(len(sources.rows)))
            for column, values in zip(whole, own, strict=True):
                column[np.array(fold.rows)] = values
    return found


def _result(
    options: EvaluateOptions,
    sources: Sources,
    stored: Run,
    found: Mapping[str, Any],
    predicted: Mapping[str, Predicted],
    of: tuple[str, Configuration],
    words: str,
    seen: bool,
) -> dict[str, Any]:
    kind, configuration = of
    return {
        "run_id": stored.id,
        "command_line": words,
        "device": described(configuration, None, kind == "simulated"),
        "kind": "predicted",
        "basis": kind,
        "sources": sources.files,
        "protocol": {
            "folds": options.folds,
            "repeats": options.repeats if options.folds else None,
            "group": options.group,
            "from": options.base,
            "held_out": options.folds is not None,
        },
        **found,
        "validation": evaluations.validation(sources.rows, predicted, sources.kind),
        "artifacts": {"run": str(stored.path)},
        "warnings": [*sources.warnings, *_warnings(options, sources, configuration, found, seen)],
        "next": f"rig report {stored.id}",
    }


def _warnings(
    options: EvaluateOptions, sources: Sources, configuration: Configuration, found: Mapping[str, Any], seen: bool
) -> list[dict[str, Any]]:
    notes = []
    ours = found["methods"].get("ours", {})
    unpriced = max((parts["all"]["unpriced"] for parts in ours.values()), default=0)
    if not ours:
        notes.append(warning("unpriced", "no row has a price: the model knows none of these kinds", "rig fit them"))
    elif unpriced:
        message = f"{unpriced} rows have no price (a kind that the model was never fitted to) and count nowhere"
        notes.append(warning("unpriced", message, "give the model rows of that kind"))
    here, there = sources.configuration.boundary, configuration.boundary
    if options.folds is None and here and there and here != there:
        message = (
            f"the tables' power is {boundary_words(here)}, the model's {boundary_words(there)}: not the same watts"
        )
        notes.append(warning("other-boundary", message, "score it on tables measured at the same place"))
    if seen and options.folds is not None:
        message = f"the model of {options.base} was fitted to this very table: it knows the rows that are held out"
        notes.append(warning("base-in-sample", message, "leave --from out, or fit that model to another board's table"))
    elif seen:
        message = f"the model of {options.device} was fitted to this very table: errors on new rows are larger"
        notes.append(warning("in-sample", message, "add --folds 5 to hold rows out"))
    return notes


def show(result: Mapping[str, Any], console: Console) -> None:
    """A table a quantity: methods on the whole, the parts of our own, levels that were left out."""
    protocol = result["protocol"]
    how = _protocol_words(protocol)
    console.line(f"{rows_record(result['sources'])}: {how}   {label('predicted', result['basis'])}")
    methods = result["methods"]
    for quantity in methods.get("ours", {}):
        console.line()
        rows = [_line(METHODS[m], found[quantity]["all"]) for m, found in methods.items() if quantity in found]
        parts = methods["ours"][quantity]
        rows += [_line(f"  cost model, {part}", scores) for part, scores in parts.items() if part != "all"]
        rows += _level_lines(result, quantity)
        heads = [NAMES[quantity].upper(), "N", "MAPE", "MEDIAN", "P90", "±5 %", "±10 %", "RANK", "R2", "COVERED", "±"]
        console.table(heads, rows, right=heads[1:])
    console.line()
    console.line(
        "MAPE: mean error; ±5 %: share of rows within; RANK: Spearman; COVERED: by 95 % intervals; ±: half-width"
    )


def _protocol_words(protocol: Mapping[str, Any]) -> str:
    if not protocol["held_out"]:
        return "the stored model"
    base = f", starting from the model of {protocol['from']}" if protocol["from"] else ""
    if protocol["group"]:
        return f"levels of {protocol['group']} left out{base}"
    return f"{protocol['folds']} random folds, mean of {protocol['repeats']} repeats{base}"


def _level_lines(result: Mapping[str, Any], quantity: str) -> list[list[str]]:
    levels = {
        name: found["ours"][quantity] for name, found in result["levels"].items() if quantity in found.get("ours", {})
    }
    rows = [_line(f"  {name}", scores) for name, scores in list(levels.items())[:SHOWN_LEVELS]]
    if quantity in result["median_level"].get("ours", {}):
        for method, found in result["median_level"].items():
            if quantity in found:
                rows.append(_line(f"median level, {METHODS[method]}", found[quantity]))
    return rows


def _line(name: str, scores: Mapping[str, Any]) -> list[str]:
    shares = [scores[key] for key in ("mape", "median", "p90", "within_5", "within_10")]
    others = [scores["spearman"], scores["r2"]]
    intervals = [scores["coverage"], scores["half_width"]]
    return [
        name,
        str(scores["n"]),
        *("-" if value is None else f"{100 * value:.1f} %" for value in shares),
        *("-" if value is None else f"{value:.3f}" for value in others),
        *("-" if value is None else f"{100 * value:.1f} %" for value in intervals),
    ]
