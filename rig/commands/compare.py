"""``rig compare``: runs of one device → rows → means, paired differences and the Pareto front → tables, a figure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rig.commands.options import CompareOptions, command_words
from rig.errors import BadInputError
from rig.output import plain, warning
from rig.store.store import Store
from rig.units import Quantity, parse_share
from rig.wording import boundary_words, count, figure, label

if TYPE_CHECKING:
    from rig.comparison.rows import Row
    from rig.comparison.runs import Compared
    from rig.comparison.summary import Summary
    from rig.console import Console

PICTURES = (".png", ".svg", ".pdf")
MISSING = "–"
MADE = ("method", "target", "seed", "runs", "network", "verdict", "void")


def run(options: CompareOptions) -> dict[str, Any]:
    """Compare; raises BadInputError for runs that are unknown, unfinished or not comparable, StoreError."""
    if options.plot is not None and options.plot.suffix.lower() not in PICTURES:
        raise BadInputError(f"--plot {options.plot}: not a picture", f"end the name in {', '.join(PICTURES)}")
    allowed = None if options.equal_cost is None else parse_share(options.equal_cost, "--equal-cost")
    store = Store()
    from rig.comparison.rows import chosen_cost, make_rows, mark_unequal
    from rig.comparison.runs import read_runs
    from rig.comparison.summary import summarize

    found = read_runs(options.runs, store)
    cost = chosen_cost(found.runs, options.cost)
    rows = make_rows(found.runs, cost)
    void: list[dict[str, Any]] = []
    if allowed is not None:
        rows, void = mark_unequal(rows, allowed)
    summary = summarize(rows)
    notes = [*found.warnings, *void, *_repeated(rows)]
    result = plain(_result(options, found.runs, cost, allowed, rows, summary))
    files, missing = _drawn(options, found.runs, rows, summary, result)
    return {**result, "artifacts": files, "warnings": [*notes, *missing, *store.problems]}


def _result(
    options: CompareOptions,
    runs: Sequence[Compared],
    cost: str,
    allowed: float | None,
    rows: Sequence[Row],
    summary: Summary,
) -> dict[str, Any]:
    first = runs[0]
    return {
        "run_id": None,
        "command_line": shlex.join(command_words("compare", options)),
        "device": first.device,
        "kind": first.result.kind,
        "basis": first.result.basis,
        "task": next((run.result.task for run in runs if run.result.task), None),
        "compared": [run.name for run in runs],
        "cost": cost,
        "equal_cost": None if allowed is None else {"allowed": allowed, "void": [r.runs for r in rows if r.void]},
        "rows": [_row_json(row) for row in rows],
        "means": [_named(mean) for mean in summary.means],
        "pairs": [_named(pair) for pair in summary.pairs],
        "front": summary.front,
        "next": f"rig report {runs[-1].name}",
    }


def _row_json(row: Row) -> dict[str, Any]:
    figures = {key: {"quantity": found.quantity, "why": found.why or None} for key, found in row.figures.items()}
    pairs = {name: None if found is None else found._asdict() for name, found in _pairs_of(row).items()}
    return {**{name: getattr(row, name) for name in MADE}, "cost": row.cost, **pairs, "figures": figures}


def _pairs_of(row: Row) -> dict[str, Any]:
    return {"cost_ratio": row.cost_ratio, "accuracy_change": row.change}


def _named(record: Any) -> dict[str, Any]:
    """A NamedTuple as a dict, the differences in it too."""
    return {name: _named(value) if hasattr(value, "_asdict") else value for name, value in record._asdict().items()}


def _repeated(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of one method, target and seed: they are not independent."""
    seen: dict[tuple[Any, ...], list[str]] = {}
    for row in rows:
        if row.target is not None and row.void is None:
            seen.setdefault((row.method, row.target, row.baseline, row.seed), []).extend(row.runs)
    return [
        warning(
            "repeated-seed",
            f"{' and '.join(names)} are {key[0]} at {key[1]} with seed {key[3]}: in pairs they count as their mean",
            "compare one of them",
        )
        for key, names in seen.items()
        if len(names) > 1
    ]


def _drawn(
    options: CompareOptions, runs: Sequence[Compared], rows: Sequence[Row], summary: Summary, result: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The files asked for, and a warning where there is nothing to draw."""
    if options.plot is None and options.out is None:
        return {}, []
    from rig.durable import disk_errors
    from rig.output import to_text
    from rig.plotting.figure import write_csv, write_picture
    from rig.plotting.pareto import pareto_data, pareto_figure

    data = pareto_data(rows, summary, result["cost"], runs[0].result.simulated)
    picture = None if data is None else pareto_figure(data)
    files: dict[str, Any] = {}
    if options.out is not None:
        with disk_errors("writing the comparison", options.out):
            options.out.mkdir(parents=True, exist_ok=True)
            (options.out / "compare.json").write_text(to_text(result) + "\n", encoding="utf-8")
            files["out"] = [str(options.out / "compare.json")]
            if picture is not None:
                files["out"] += [
                    str(write_picture(picture, options.out / f"pareto{suffix}")) for suffix in PICTURES[:2]
                ]
                files["out"].append(str(write_csv(picture, options.out / "pareto.csv")))
    if options.plot is not None and picture is not None:
        with disk_errors("drawing the comparison", options.plot):
            options.plot.parent.mkdir(parents=True, exist_ok=True)
            files["plot"] = str(write_picture(picture, options.plot))
            files["numbers"] = str(write_csv(picture, options.plot.with_suffix(".csv")))
    if picture is None:
        return files, [warning("no-accuracy", "no accuracy is known, so nothing was drawn", "compare optimize runs")]
    return files, []


# --- what a person sees -----------------------------------------------------------------------------------------


def show(result: Mapping[str, Any], console: Console) -> None:
    """Networks, their sizes, means and differences; what is missing is a dash with its reason below."""
    from rig.comparison.rows import COST_NAMES

    mark, number = label(result["kind"], result["basis"]), len(result["compared"])
    console.line(
        f"{number} run{'' if number == 1 else 's'} on {result['device']['name']}, {result['task'] or 'no task'}   "
        f"{mark}, {boundary_words(result['device']['boundary'])}; intervals are 95 %"
    )
    console.line(f"Cost      {COST_NAMES[result['cost']]}")
    console.line()
    _costs(result, console)
    console.line()
    _sizes(result, console)
    _means(result, console)
    _pairs(result, console)
    console.line(f"Front     {'; '.join(result['front']) or 'no accuracy is known'}")
    for name, files in result["artifacts"].items():
        console.line(f"{name.capitalize():<10}{', '.join(files) if isinstance(files, list) else files}")


def _points(data: Mapping[str, Any] | None) -> str:
    """A change of accuracy in percentage points."""
    if data is None or data["quantity"] is None:
        return MISSING
    return figure(Quantity.from_json(dict(data["quantity"])).scaled(100.0), "")


def _percent(data: Mapping[str, Any] | None) -> str:
    return figure(data, "%") if data else MISSING


def _of(row: Mapping[str, Any], key: str) -> str:
    """A figure of a row as text."""
    from rig.report.network_figures import FIGURES

    quantity, unit = row["figures"][key]["quantity"], FIGURES[key].unit
    if quantity is None:
        return MISSING
    if unit in ("FLOP", "params"):
        return count(quantity["value"], unit if unit == "FLOP" else "")
    return figure(quantity, unit)


def _named_row(row: Mapping[str, Any]) -> list[str]:
    return [row["method"], row["target"] or MISSING, MISSING if row["seed"] is None else str(row["seed"]), _runs(row)]


def _runs(row: Mapping[str, Any]) -> str:
    return _shortened(row["runs"])


def _shortened(runs: Sequence[str]) -> str:
    names = list(dict.fromkeys(runs))
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _how(result: Mapping[str, Any], key: str) -> str:
    """What the differences of the rows are of, each once."""
    return "; ".join(dict.fromkeys(row[key]["how"] for row in result["rows"] if row[key] is not None)) or MISSING


def _costs(result: Mapping[str, Any], console: Console) -> None:
    rows = []
    for row in result["rows"]:
        change, ratio = row["accuracy_change"], row["cost_ratio"]
        figures = [_of(row, key) for key in ("accuracy_test", "latency_s", "energy_active_j", "power_w")]
        state = "void" if row["void"] else row["verdict"] or MISSING
        ratio_text = _percent(ratio["quantity"]) if ratio else MISSING
        rows.append([*_named_row(row), figures[0], _points(change), *figures[1:], ratio_text, state])
    columns = [
        "METHOD",
        "TARGET",
        "SEED",
        "RUN",
        "ACCURACY",
        "POINTS",
        "TIME",
        "ACTIVE ENERGY",
        "POWER",
        "OF BASELINE",
        "VERDICT",
    ]
    console.table(columns, rows, right=("SEED", *columns[4:-1]))
    console.line(f"POINTS       {_how(result, 'accuracy_change')}")
    console.line(f"OF BASELINE  {_how(result, 'cost_ratio')}")


def _sizes(result: Mapping[str, Any], console: Console) -> None:
    keys = {
        "ARITHMETIC": "flops",
        "PARAMETERS": "params",
        "MEMORY": "memory_bytes",
        "COMPRESSION": "compression_s",
        "TRAINING PEAK": "training_memory_bytes",
        "DENSITY": "information_density",
        "NETSCORE": "net_score",
    }
    rows = [[*_named_row(row), *(_of(row, key) for key in keys.values())] for row in result["rows"]]
    console.table(["METHOD", "TARGET", "SEED", "RUN", *keys], rows, right=("SEED", *keys))
    from rig.report.network_figures import FIGURES

    why: dict[str, tuple[list[str], list[str]]] = {}
    for row in result["rows"]:
        for key in ("accuracy_test", "energy_active_j", "power_w", *keys.values()):
            if row["figures"][key]["quantity"] is None:
                names, runs = why.setdefault(row["figures"][key]["why"], ([], []))
                names.append(FIGURES[key].name)
                runs += row["runs"]
    for text, (names, runs) in why.items():
        console.line(f"{MISSING} {', '.join(dict.fromkeys(names))}: {text} ({_shortened(runs)})")


def _means(result: Mapping[str, Any], console: Console) -> None:
    from rig.comparison.rows import UNITS

    if all(len(mean["seeds"]) < 2 for mean in result["means"]):
        return
    console.line()
    rows = [
        [
            mean["label"],
            str(len(mean["seeds"]) or 1),
            _percent(mean["accuracy"]),
            _points(mean["change"]),
            figure(mean["cost"], UNITS[result["cost"]]),
            _percent(mean["cost_ratio"]),
            mean["change"]["how"] if mean["change"] else MISSING,
        ]
        for mean in result["means"]
    ]
    columns = ["MEAN", "SEEDS", "ACCURACY", "POINTS", "COST", "OF BASELINE", "POINTS ARE"]
    console.table(columns, rows, right=columns[1:-1])
    for mean in result["means"]:
        if mean["no_ratio"]:
            console.line(f"{MISSING} of baseline, {mean['label']}: {mean['no_ratio']}")


def _pairs(result: Mapping[str, Any], console: Console) -> None:
    if not result["pairs"]:
        return
    console.line()
    several = len({pair["model"] for pair in result["pairs"]}) > 1
    rows = [
        [
            f"{pair['model']}: {_over(pair)}" if several else _over(pair),
            pair["target"],
            _points(pair["accuracy"]),
            _percent(pair["cost_ratio"]),
            pair["accuracy"]["how"],
        ]
        for pair in result["pairs"]
    ]
    console.table(["PAIR", "TARGET", "POINTS", "COST RATIO", "POINTS ARE"], rows, right=("POINTS", "COST RATIO"))
    for pair in result["pairs"]:
        if pair["no_ratio"]:
            console.line(f"{MISSING} cost ratio, {_over(pair)} at {pair['target']}: {pair['no_ratio']}")


def _over(pair: Mapping[str, Any]) -> str:
    return f"{pair['after']} over {pair['before']}"
