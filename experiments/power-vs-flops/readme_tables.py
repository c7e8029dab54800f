"""The README's tables, of the results of the sets that were given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layers
from shown import FORMATS, MissingFigure, number, table, with_interval


def _networks(results: dict[str, Any]) -> dict[str, Any]:
    if not results["networks"]:
        raise MissingFigure("results.json has no networks; give the study a table of networks")
    return dict(results["networks"])


def _target(one: dict[str, Any]) -> str:
    return "active" if one["active_known"] else "energy"


def rank_table(results: dict[str, Any]) -> str:
    """Rank correlations of FLOPs and seconds with joules and watts."""
    rows = []
    for label, one in _networks(results).items():
        rank, target = one["rank"], _target(one)
        rows.append(
            [
                label,
                f"{one['networks']} ({one['architectures']})",
                FORMATS["rank3"](rank[f"macs {target}"]["spearman"]),
                FORMATS["rank"](rank[f"macs {target}"]["kendall"]),
                FORMATS["rank3"](rank[f"latency {target}"]["spearman"]),
                FORMATS["rank"](rank["macs power"]["spearman"]),
                FORMATS["rank"](rank["latency power"]["spearman"]),
            ]
        )
    head = ["", "networks (architectures)", "FLOPs–joules", "the same, Kendall", "seconds–joules"]
    return table([*head, "FLOPs–watts flat out", "seconds–watts flat out"], rows)


def error_table(results: dict[str, Any]) -> str:
    """Held-out errors of joules by FLOPs, seconds and per-kind sums."""
    rows = []
    for label, one in _networks(results).items():
        errors, target = one["errors"], _target(one)
        flops = errors[f"{target} by macs, two"]
        rows.append(
            [
                label,
                FORMATS["pct"](errors[f"{target} by macs, one"]["mape"]),
                FORMATS["pct"](flops["mape"]),
                FORMATS["pctv"](flops["family_left_out"]),
                FORMATS["sharev"](flops["worst"]),
                FORMATS["pct"](errors["energy by latency, one"]["mape"]),
                FORMATS["pct"](errors[f"{target} by latency, one"]["mape"]),
                FORMATS["pctv"](errors[f"{target} by latency, one"]["worst"]),
                FORMATS["pctv"](errors[f"{target} by per kind"]["mape"]),
                FORMATS["pctv"](errors[f"{target} by per kind"]["family_left_out"]),
            ]
        )
    head = [
        "",
        "FLOPs, one parameter",
        "FLOPs, two",
        "two, family left out",
        "worst network",
        "seconds × watts: whole-board joules",
    ]
    return table([*head, "seconds × watts: active joules", "worst network", "per-kind sums", "family left out"], rows)


def equal_table(results: dict[str, Any]) -> str:
    """Pairs of equal FLOPs, and of equal seconds: by what factor joules differ."""
    rows = []
    for label, one in _networks(results).items():
        flops, seconds = one["equal_macs"], one["equal_seconds"]
        rows.append(
            [
                label,
                f"{flops['pairs']:,}",
                FORMATS["times"](flops["median"]),
                FORMATS["times"](flops["p90"]),
                FORMATS["timesv"](flops["largest"]),
                f"{seconds['pairs']:,}",
                FORMATS["times"](seconds["median"]),
                FORMATS["times"](seconds["p90"]),
                FORMATS["timesv"](seconds["largest"]),
            ]
        )
    head = ["", "pairs, equal FLOPs", "median", "90th percentile", "largest"]
    return table([*head, "pairs, equal seconds", "median", "90th percentile", "largest"], rows)


def extremes_table(results: dict[str, Any]) -> str:
    """The most different pair of equal FLOPs of each set, with watts at the rate that both can serve."""
    rows = []
    for label, one in _networks(results).items():
        for pair in one["equal_macs"]["extremes"][:1]:
            cheap, dear = pair["cheaper"], pair["dearer"]
            watts = "–"
            if "fps" in pair:
                watts = f"{cheap['power_at_fps_w']:.2f} / {dear['power_at_fps_w']:.2f} W at {pair['fps']:.0f} fps"
            rows.append(
                [
                    label,
                    f"{cheap['name']} / {dear['name']}",
                    f"{number(cheap['mmac'], 3)} / {number(dear['mmac'], 3)}",
                    f"{number(cheap['energy_mj'], 3)} / {number(dear['energy_mj'], 3)} mJ",
                    f"{pair['ratio']:.2f}×",
                    watts,
                    f"{cheap['power_w']:.2f} / {dear['power_w']:.2f} W",
                ]
            )
    head = ["", "cheaper / dearer", "MMAC", "joules above quiet power*", "ratio", "board power at equal fps"]
    return table([*head, "flat out"], rows)


def precision_table(results: dict[str, Any]) -> str:
    """int8 over float32 of the same networks."""
    if not results["precision"]:
        raise MissingFigure("results.json has no board at two precisions; give the study a table that has both")
    rows = []
    for board, one in results["precision"].items():
        cells = [board, f"{one['networks']} ({one['architectures']})"]
        for name in ("power_w", "latency_s", "energy_j", "active_j"):
            ratio = one[name]
            lo, hi = ratio["range"]
            cells.append(f"{FORMATS['rank'](ratio['median'])}; {lo:.2f} to {hi:.2f}")
        cells += [FORMATS["sharev"](one["power_w"]["above_1"]), FORMATS["pctv"](one["one_constant_power"]["mape"])]
        rows.append(cells)
    head = ["", "networks (architectures)", "watts", "seconds", "joules", "active joules", "watts rise in"]
    return table([*head, "seconds × one power for both: error"], rows)


def decision_table(results: dict[str, Any]) -> str:
    """Wrong choices by FLOPs and by seconds."""
    rows = []
    for label, one in _networks(results).items():
        for proxy, name in (("macs", "FLOPs"), ("latency", "seconds")):
            found = one["decisions"][proxy]
            close = found["close"]
            rows.append(
                [
                    f"{label}, by {name}",
                    FORMATS["pct"](found["all"]["wrong"]),
                    f"{close['pairs']:,}",
                    FORMATS["share"](close["wrong"]),
                    _share_of(found["close_one_family"]),
                    FORMATS["sharev"](close["extra_when_wrong"]),
                    FORMATS["sharev"](close["extra_worst"]),
                    _millijoules(found["regret_mj"]),
                    FORMATS["pctv"](found["far"]["wrong"]),
                ]
            )
    head = ["", "wrong, all pairs", "pairs within 25 %", "wrong of these", "of one family"]
    head += ["extra joules when wrong", "at worst"]
    return table([*head, "lost a choice", "wrong, 2× apart or more"], rows)


def _share_of(found: dict[str, Any]) -> str:
    return f"{FORMATS['share'](found['wrong'])} of {found['pairs']:,}"


def _millijoules(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "–"
    if found["lo"] is None:
        return f"{number(found['value'])} mJ"
    return f"{number(found['value'])} mJ [{number(found['lo'])}, {number(found['hi'])}]"


def layer_table(results: dict[str, Any]) -> str:
    """Recovered joules a MAC by kind of layer."""
    kinds = layers.KINDS
    rows = []
    for label, one in _networks(results).items():
        cells = [label]
        for kind in kinds:
            found = one["layers"]["kinds"].get(kind)
            if found is None:
                cells.append("–")
                continue
            macs, joules = (FORMATS["sharev"](found[f"share_of_{what}"]) for what in ("macs", "joules"))
            cost = with_interval(found["nj_per_mac"], 1.0, 2, "")
            cells.append(f"{cost}; {macs} of MACs, {joules} of joules")
        depthwise = one["layers"]["kinds"].get("depthwise")
        cells.append("–" if depthwise is None else FORMATS["times"](depthwise["over_base"]))
        rows.append(cells)
    return table(["", *(f"{kind}, nJ a MAC" for kind in kinds), "depthwise over 1×1"], rows)


def recovered_table(results: dict[str, Any]) -> str:
    """Joules a MAC of the layers of single networks, from the cheapest to the dearest of each kind."""
    if "recovered" not in results:
        raise MissingFigure("there is no recovered.json; run recovered.py on tables of networks with quiet power")
    rows = []
    for name, facts in results["recovered"].items():
        cells = [name, f"{number(facts['recovered_mj'], 3)} / {number(facts['measured_mj'], 3)} mJ"]
        for kind in layers.KINDS:
            low, high = facts["kinds"].get(kind, (None, None))
            one = low == high
            cells.append("–" if low is None else number(low) if one else f"{number(low)} to {number(high)}")
        pair = facts["equal"]
        cells.append("none" if pair is None else f"{pair['ratio']:.2f}×")
        rows.append(cells)
    head = ["", "whole, recovered / measured", *layers.KINDS]
    return table([*head, "layers of one kind and equal MACs, intervals apart"], rows)


def elasticity_table(results: dict[str, Any]) -> str:
    """Half of the FLOPs by narrowing, or by a smaller image: how much of joules and seconds goes."""
    rows = []
    for label, one in _networks(results).items():
        found = one["elasticity"]
        cells = [label]
        for how in ("width", "resolution"):
            group = found[how]
            if group is None:
                cells += ["–", "–", "–"]
                continue
            seconds = found[f"{how}, seconds"]
            cells += [f"{group['networks']} in {group['groups']}", FORMATS["share"](group["saved"])]
            cells.append(FORMATS["share"](seconds["saved"]))
        rows.append(cells)
    head = ["", "narrower: networks in groups", "joules saved", "seconds saved"]
    return table([*head, "smaller image: networks in groups", "joules saved", "seconds saved"], rows)


def kernel_table(results: dict[str, Any]) -> str:
    """Kernels with rail watts: ranks, errors, equal FLOPs."""
    if not results["kernels"]:
        raise MissingFigure("results.json has no kernels; give the study a table of kernels with power")
    rows = []
    for label, one in results["kernels"].items():
        errors, equal, both = one["errors"]["long"], one["equal_macs"], one["equal_macs_and_seconds"]
        power = one["power_w"]
        rows.append(
            [
                label,
                f"{one['long']:,} of {one['kernels']:,}",
                f"{power['p5']:.1f} to {power['p95']:.1f} W",
                FORMATS["rank"](one["spearman"]["macs energy"]),
                FORMATS["pct"](errors["macs two"]),
                FORMATS["pct"](errors["latency one"]),
                f"{FORMATS['times'](equal['power']['median'])}, {FORMATS['timesv'](equal['power']['p90'])}",
                f"{FORMATS['times'](equal['energy']['median'])}, {FORMATS['timesv'](equal['energy']['p90'])}",
                f"{both['pairs']:,}: {FORMATS['timesv'](both['median'])}, {FORMATS['timesv'](both['p90'])}",
            ]
        )
    head = [
        "",
        "kernels ≥ 10 ms",
        "rail power, 5–95 %",
        "FLOPs–joules, Spearman",
        "FLOPs, two parameters",
        "seconds × watts",
    ]
    head += [
        "equal FLOPs: watts differ, median, 90th",
        "equal FLOPs: joules differ",
        "equal FLOPs and seconds: joules differ",
    ]
    return table(head, rows)


def explained_table(results: dict[str, Any]) -> str:
    """What the rail's watts follow."""
    kernels = results["kernels"]
    if not kernels:
        raise MissingFigure("results.json has no kernels; give the study a table of kernels with power")
    known = [row["known"] for row in next(iter(kernels.values()))["watts_explained"]]
    rows = [
        [name, *(FORMATS["rank"](one["watts_explained"][k]["r2"]) for one in kernels.values())]
        for k, name in enumerate(known)
    ]
    return table(["known to the fit", *(f"{label}: R² of log watts" for label in kernels)], rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "rank": rank_table,
    "error": error_table,
    "equal": equal_table,
    "extremes": extremes_table,
    "precision": precision_table,
    "decisions": decision_table,
    "layers": layer_table,
    "recovered": recovered_table,
    "elasticity": elasticity_table,
    "kernels": kernel_table,
    "explained": explained_table,
}
