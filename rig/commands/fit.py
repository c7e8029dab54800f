"""``rig fit``: tables of measurements, stored runs → rows → cost model → checked on a held-out fifth → saved."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rig import evaluations, table_sources
from rig.commands.options import FitOptions, command_words
from rig.configuration import described
from rig.cost_models import MODEL_FILE, load_cost_model
from rig.errors import BadInputError, StoreError
from rig.output import Interrupted, plain, warning
from rig.store.store import Store, utc_now
from rig.table_sources import Sources, read_sources, rows_record
from rig.units import Quantity
from rig.wording import boundary_words, figure, label

if TYPE_CHECKING:
    from power_models.composition import CompositionModel
    from power_models.cross_validation import HeldOut
    from power_models.kernel_cost import KernelCostModel
    from rig.console import Console

CHECK_FOLDS = 5
FEWEST_TO_CHECK = 10
NAMES = {
    "latency_s": "latency",
    "power_w": "power",
    "energy_j": "energy",
    "energy_active_j": "active energy",
}


def run(options: FitOptions) -> dict[str, Any]:
    """Fit and save; raises BadInputError, StoreError, Interrupted."""
    store = Store()
    folder = store.model_folder(options.device)
    replaced = _replaced(store, options, folder)
    sources = read_sources(options.tables, options.device, store, options.boundary, options.runtime)
    base = table_sources.base_model(store, options.base, sources.rows)
    words = shlex.join(command_words("fit", options))
    stored = store.new_run("fit", options.device, argv=shlex.split(words), sources=sources.files)
    from rig.console import Progress

    with Progress() as progress:
        try:
            progress.stage(f"fitting the cost model to {rows_record(sources.files)}")
            model = _fit(sources, base)
            progress.stage("checking it on a fifth of the rows, by a model fitted to the others")
            checked = _check(sources, base)
        except KeyboardInterrupt:
            stored.update(state="interrupted", finished_utc=utc_now())
            raise Interrupted("interrupted; nothing was saved", resume=words) from None
        except BaseException:
            stored.update(state="failed", finished_utc=utc_now())
            raise
    model.save(folder)
    result = plain(_result(options, sources, model, checked, replaced, words))
    result |= {"run_id": stored.id, "artifacts": {"run": str(stored.path), "cost_model": str(folder)}}
    if result["validation"]:
        result["next"] = f"rig predict MODEL.onnx --device {options.device}"
        stored.write_json("result.json", {**result, "schema": "rig.fit/1"})
    else:
        stored.write_json("artifacts/fit.json", result)
    stored.update(state="done", finished_utc=utc_now())
    return {**result, "warnings": [*result["warnings"], *store.problems, *stored.problems]}


def _replaced(store: Store, options: FitOptions, folder: Path) -> str | None:
    """The kind of the model that will be replaced; BadInputError for one that was measured, without ``--replace``."""
    if not (folder / MODEL_FILE).is_file():
        return None
    try:
        kind = load_cost_model(store, options.device).kind
    except StoreError:
        kind = "damaged"
    if kind != "imported" and not options.replace:
        what = "is damaged" if kind == "damaged" else f"was {kind} on the device"
        raise BadInputError(
            f"{options.device} has a cost model that {what}; a table would take its place",
            fix=f"add --replace, or choose another name, as --device {options.device}-table",
        )
    return kind


def _fit(sources: Sources, base: CompositionModel | None) -> KernelCostModel:
    from power_models.evaluation import Row
    from power_models.measured_tables import TableNetwork
    from power_models.table_fit import fit_rows

    apart: dict[str, Any] = {}
    rows: list[Row] = sources.rows
    if sources.kernels and not any(isinstance(row, TableNetwork) for row in rows):
        # The kernels of runs have standard errors, which rows of tables have not.
        rows = sources.table_rows
        apart = {"more": sources.kernels, "overhead": sources.overhead, "idle_power_w": sources.idle_power_w}
    try:
        model = fit_rows(rows, sources.configuration, sources.kind, base=base, **apart)
    except ValueError as error:
        raise BadInputError(f"fitting: {error}", fix="give a table with more usable rows") from error
    model.layout_block = sources.layout_block
    return model


class _Checked(NamedTuple):
    """Predictions of a fifth of the rows by a model of the others; or why there are none."""

    held_out: HeldOut | None
    why: str = ""


def _check(sources: Sources, base: CompositionModel | None) -> _Checked:
    from power_models.cross_validation import fit_tables, hold_out
    from power_models.kernel_cost import CannotFit
    from power_models.table_folds import random_folds

    if len({row.kernels for row in sources.rows}) < FEWEST_TO_CHECK:
        return _Checked(None, f"fewer than {FEWEST_TO_CHECK} different rows")
    fold = random_folds(sources.rows, CHECK_FOLDS, 0)[0]
    fit = fit_tables(sources.configuration, sources.kind, base)
    try:
        return _Checked(hold_out(sources.rows, fold, fit, references=False))
    except CannotFit as error:
        return _Checked(None, f"without a fifth of the rows nothing can be fitted ({error})")


def _result(
    options: FitOptions,
    sources: Sources,
    model: KernelCostModel,
    checked: _Checked,
    replaced: str | None,
    words: str,
) -> dict[str, Any]:
    from power_models.cross_validation import OURS, PLACE_NOT_TOLD
    from power_models.evaluation import scores_by_part

    made = checked.held_out
    held = [] if made is None else [sources.rows[i] for i in made.rows]
    by_method = {} if made is None else made.predicted
    predicted = by_method.get(OURS, {})
    scores, untold = (
        {quantity: dict(parts["all"]._asdict()) for quantity, parts in scores_by_part(held, own).items()}
        for own in (predicted, by_method.get(PLACE_NOT_TOLD, {}))
    )
    idle = model.idle_power_w
    return {
        "command_line": words,
        "device": described(model.configuration, None, model.kind == "simulated"),
        "kind": model.kind,
        "basis": None,
        "base": options.base,
        "sources": sources.files,
        "kinds": [f"{kind}/{dtype}" for kind, dtype in model.known_kinds],
        "idle_power_w": Quantity(*idle, kind=model.kind).to_json() if idle else None,
        "held_out": scores,
        "held_out_place_not_told": untold,  # of a table that drifted: rows whose lines the model is not told
        "validation": evaluations.validation(held, predicted, model.kind),
        "replaced": replaced,
        "warnings": [*sources.warnings, *_warnings(options, sources, model, checked)],
        "next": f"rig predict MODEL.onnx --device {options.device}",
    }


def _warnings(options: FitOptions, sources: Sources, model: KernelCostModel, checked: _Checked) -> list[dict[str, Any]]:
    found = table_sources.unknown_boundary(sources)
    if model.unusable:
        shown = "; ".join(model.unusable[:3]) + (f" and {len(model.unusable) - 3} more" if model.unusable[3:] else "")
        found.append(warning("unusable-rows", f"the fit cannot use all of each row: {shown}", None))
    powered = any(row.power_w is not None for row in sources.rows)
    if not powered:
        message = "the tables hold no power: the model knows time, not energy"
        found.append(warning("no-power", message, "give a table with power_w or energy_j"))
    elif model.idle_power_w is None:
        message = "the tables do not state quiet power: energies are whole ones, and power is known flat out only"
        found.append(warning("no-quiet-power", message, "give a table with idle_power_w for power at a frame rate"))
    if checked.held_out is None:
        message = f"{checked.why}, so the model is unchecked"
        found.append(warning("unchecked", message, f"rig evaluate --device {options.device} ANOTHER-TABLE"))
    return found


def show(result: Mapping[str, Any], console: Console) -> None:
    """What the model was fitted to, and how well it predicts the fifth that it had not seen."""
    device = result["device"]
    where = f", {boundary_words(device['boundary'])}" if device["boundary"] else ""
    console.line(f"Fitted    {rows_record(result['sources'])}   {label(result['kind'], None)}{where}")
    console.line(f"Kinds     {', '.join(result['kinds'])}")
    if result["idle_power_w"]:
        console.line(f"Quiet     {figure(result['idle_power_w'], 'W')}")
    for quantity, scores in result["held_out"].items():
        console.line(f"Held out  {NAMES[quantity]}: {_errors(scores)}")
        alone = result["held_out_place_not_told"].get(quantity)
        if alone not in (None, scores):
            console.line(f"          {NAMES[quantity]}, lines not told: {_errors(alone)}")
    old = f", in place of one that was {result['replaced']}" if result["replaced"] else ""
    console.line(f"Model     saved to {result['artifacts']['cost_model']}{old}")


def _errors(scores: Mapping[str, Any]) -> str:
    covered = scores["coverage"]
    more = "" if covered is None else f", intervals cover {100 * covered:.0f} %"
    mean, median, p90 = (f"{100 * scores[name]:.1f} %" for name in ("mape", "median", "p90"))
    return f"error {mean}, median {median}, P90 {p90}{more} of {scores['n']} rows"
