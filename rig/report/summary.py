"""Section 1 of the report in words: the verdict, the table before and after, and the three caveats that matter most."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from rig.plotting.budget import NAMES, UNITS, value_of
from rig.plotting.energy import REMAINDER, energy_data
from rig.plotting.figure import ReportTable, listed, plural
from rig.plotting.numbers import bare, display_unit, percent
from rig.plotting.prediction import prediction_data, summarize
from rig.plotting.trace_data import TraceData
from rig.results import BudgetLimit, Network, RunResult, Warning_
from rig.units import Quantity

CAVEATS = 3


def headline(result: RunResult) -> str:
    """One sentence a person can quote: verdict, value against target, cost in accuracy."""
    mark = "SIMULATED: " if result.simulated else ""
    if result.result is not None and result.baseline is not None and result.verdict is not None:
        against = listed([_against(limit, result.result) for limit in result.budget])
        accuracy = _accuracy_sentence(result.baseline, result.result)
        return f"{mark}{result.verdict.upper()}: {against}.{accuracy}{_used_sentence(result)}"
    if result.network is not None:
        network = result.network
        rate = f"at {network.fps:g} fps" if network.fps else "back to back"
        if network.power_w is None:
            why = "This device has no power meter: power and energy are not known."
            return f"{mark}{network.name}: latency {bare(network.latency_s, 's')} {rate}. {why}"
        energy = (
            ""
            if network.energy_active_j is None
            else f"; energy above quiet {bare(network.energy_active_j, 'J')} per inference"
        )
        latency = bare(network.latency_s, "s")
        return f"{mark}{network.name}: {bare(network.power_w, 'W')} {rate}{energy}; latency {latency}."
    parts = []
    for data in prediction_data(result.validation):
        s = summarize(data.points)
        parts.append(f"{data.quantity.lower()} within {percent(s.median, 1)} (median of {s.n} held out)")
    return f"{mark}The cost model of {result.device.name} predicts {listed(parts)}."


def _against(limit: BudgetLimit, network: Network) -> str:
    factor, unit = display_unit([limit.limit], UNITS[limit.quantity])
    rate = f" at {limit.fps:g} fps" if limit.fps else ""
    of_what = "the baseline’s active part" if limit.quantity in ("power", "energy") else "the baseline"
    asked = f" ({percent(limit.relative)} of {of_what})" if limit.relative else ""
    value = value_of(network, limit.quantity)
    shown = bare(value, limit.unit) if limit.quantity != "params" else f"{network.params:,}"
    return f"{NAMES[limit.quantity].lower()} {shown}{rate} against a target of {limit.limit / factor:.4g} {unit}{asked}"


def _accuracy_sentence(before: Network, after: Network) -> str:
    if before.accuracy_test is None or after.accuracy_test is None:
        return ""
    points = points_text(before.accuracy_test, after.accuracy_test)
    return f" Test accuracy {bare(after.accuracy_test, '%')}, {points} against the baseline."


def _used_sentence(result: RunResult) -> str:
    return "" if result.budget_used is None else f" Budget used: {bare(result.budget_used, '%')}."


def points_text(before: Quantity, after: Quantity) -> str:
    """Difference of two shares in points, half-widths added in quadrature (independent intervals)."""
    difference = 100 * ((after.value or 0.0) - (before.value or 0.0))
    if before.half_width is None or after.half_width is None:
        return f"{difference:+.2f} points".replace("-", "−")
    half = 100 * math.hypot(before.half_width, after.half_width)
    return f"{'+' if difference > 0 else ''}{Quantity.around(difference, half).format()} points".replace("-", "−")


def change_text(before: Quantity | None, after: Quantity | None) -> str:
    """Relative change; its interval adds the relative half-widths in quadrature (independent measurements)."""
    if before is None or after is None or not before.value or after.value is None:
        return "n/a"
    ratio = after.value / before.value
    if before.relative is None or after.relative is None:
        return f"{100 * (ratio - 1):+.0f} %".replace("-", "−")
    half = ratio * math.hypot(before.relative, after.relative)
    return f"{'+' if ratio > 1 else ''}{Quantity.around(ratio - 1, half).format('%')}".replace("-", "−")


class _Row(NamedTuple):
    name: str
    before: str
    after: str
    change: str


def networks_table(result: RunResult) -> ReportTable | None:
    """Before and after (or one network alone): power, energies, latency, accuracy, size."""
    after = result.result or result.network
    if after is None:
        return None
    before = result.baseline
    mark = " SIMULATED" if result.simulated else ""
    rows = [*_quantity_rows(before, after), *_plain_rows(before, after, mark), *_size_rows(before, after)]
    if before is None:
        pairs = tuple((row.name, row.after) for row in rows)
        return ReportTable(
            "networks", f"{after.name} in figures", ("Quantity", "Value"), pairs, (False, True), _interval_note()
        )
    columns = ("Quantity", "Baseline", "Result", "Change")
    return ReportTable(
        "networks",
        "Before and after",
        columns,
        tuple(tuple(row) for row in rows),
        (False, True, True, True),
        _interval_note(),
    )


def _interval_note() -> str:
    return "± and [ ] are 95 % intervals over independent windows. 1 MAC = 2 FLOP; 1 MB = 10⁶ bytes."


def _quantity_rows(before: Network | None, after: Network) -> Iterable[_Row]:
    rate = f"at {after.fps:g} fps" if after.fps else "back to back"
    for name, field, unit in (
        (f"Power {rate}", "power_w", "W"),
        ("Quiet power", "idle_power_w", "W"),
        ("Energy above quiet, per inference", "energy_active_j", "J"),
        ("Energy in all, per inference", "energy_j", "J"),
        ("Latency, mean", "latency_s", "s"),
    ):
        old, new = (None if n is None else getattr(n, field) for n in (before, after))
        yield _Row(name, _shown(old, unit), _shown(new, unit), change_text(old, new))
    if after.accuracy_test is not None:
        old, new = (None if before is None else before.accuracy_test), after.accuracy_test
        yield _Row(
            "Test accuracy", _shown(old, "%"), _shown(new, "%"), points_text(old, new) if old is not None else ""
        )


def _shown(quantity: Quantity | None, unit: str) -> str:
    return "not measured" if quantity is None else quantity.format(unit)


def _plain_rows(before: Network | None, after: Network, mark: str) -> Iterable[_Row]:
    for name, field in (("Latency, p50", "latency_p50_s"), ("Latency, p99", "latency_p99_s")):
        old, new = (None if n is None else getattr(n, field) for n in (before, after))
        yield _Row(name, _time(old, mark), _time(new, mark), change_text(_exact(old), _exact(new)))
    if after.frames is not None and after.fps is not None:
        yield _Row("Deadlines missed", "n/a" if before is None else _missed(before, mark), _missed(after, mark), "")


def _exact(value: float | None) -> Quantity | None:
    return None if value is None else Quantity(float(value))


def _time(value: float | None, mark: str) -> str:
    return "n/a" if value is None else Quantity(value).format("s") + mark


def _missed(network: Network, mark: str) -> str:
    if network.missed_deadlines is None or network.frames is None:
        return "n/a"
    return f"{network.missed_deadlines} of {network.frames:,}{mark}"


def _size_rows(before: Network | None, after: Network) -> Iterable[_Row]:
    for name, field, scale, unit, digits in (
        ("Multiply-accumulates (MAC)", "macs", 1e6, "MMAC", 2),
        ("Parameters", "params", 1, "", 0),
        ("Model file", "size_bytes", 1e6, "MB", 3),
    ):
        old, new = (None if n is None else getattr(n, field) for n in (before, after))
        if new is None:
            continue
        texts = ["n/a" if v is None else f"{v / scale:,.{digits}f} {unit}".strip() for v in (old, new)]
        yield _Row(name, *texts, change_text(_exact(old), _exact(new)))


def caveats(result: RunResult, traces: Iterable[TraceData]) -> list[str]:
    """The three most important things a reader must know before quoting the figures, chosen from the data."""
    found = [*_origin_caveats(result), *_trace_caveats(traces), *_share_caveats(result), *_prediction_caveats(result)]
    found += [(4.0, _warning_text(w)) for w in result.warnings if w.code != "no-power"]  # has its own caveat
    if result.schema_name == "rig.optimize/1" and not isinstance(result.seed, list):
        found.append(
            (
                9.0,
                f"One training seed ({result.seed}): another seed may give another network. "
                "Repeat with --seed to see the spread.",
            )
        )
    if result.device.boundary:
        found.append(
            (
                10.0,
                f"Power is of the {result.device.boundary.replace('_', ' ')}: what lies outside it "
                "(supply losses, peripherals) is not counted.",
            )
        )
    found.append(
        (
            11.0,
            "The result holds for this device, runtime, thread count and power mode; "
            "another configuration must be measured anew.",
        )
    )
    ordered = sorted(found, key=lambda item: item[0])
    return [text for _, text in ordered[:CAVEATS]]


def _warning_text(warning: Warning_) -> str:
    text = warning.message[:1].upper() + warning.message[1:].rstrip(".") + "."
    return f"{text} Fix: {warning.fix}" if warning.fix else text


def _origin_caveats(result: RunResult) -> Iterable[tuple[float, str]]:
    if result.simulated:
        yield (
            0.0,
            f"Simulated: every watt, joule and second comes from the virtual board {result.device.name}, none from "
            "hardware. Repeat on a real board before quoting.",
        )
    if not result.has_power:
        yield 1.0, "This device has no power meter: latency stands in place of energy, and says nothing about watts."
    if result.verdict == "undecided":
        yield 1.5, "Undecided: the interval straddles the target. Measure longer before relying on either answer."
    network = result.result or result.network
    if network is not None and network.missed_deadlines:
        yield (
            2.0,
            f"{network.missed_deadlines} of {network.frames or 0:,} deadlines were missed: the frame rate is not held.",
        )


def _trace_caveats(traces: Iterable[TraceData]) -> Iterable[tuple[float, str]]:
    traces = list(traces)
    left_out = {
        t.subject: sorted({s.reason for s in t.spans if not s.used and not s.idle and s.reason != "warm-up"})
        for t in traces
        if t.rejected is None
    }
    touched = [subject for subject, reasons in left_out.items() if reasons]
    if touched:
        reasons = sorted({reason for subject in touched for reason in left_out[subject]})
        yield 2.5, f"Windows of {listed(touched)} were left out ({listed(reasons)}): see section 2."
    for trace in traces:
        if trace.rejected is not None:
            yield 0.5, f"The measurement of {trace.subject} was rejected: {trace.rejected}."
        elif len(trace.windows) < 3:
            yield (
                3.0,
                f"{trace.subject}: only {plural(len(trace.windows), 'measured window')}, so its interval is weak.",
            )


def _share_caveats(result: RunResult) -> Iterable[tuple[float, str]]:
    network = result.result or result.network
    if network is not None and network.power_w is not None and network.idle_power_w is not None:
        share = (network.idle_power_w.value or 0.0) / (network.power_w.value or math.inf)
        if share > 0.5:
            what = "what remains" if result.result is not None else "the power"
            yield 5.0, f"Quiet power is {percent(share)} of {what}; compression cannot remove it."
    data = energy_data(result)
    if data is None:
        return
    kernels = [k for k in result.kernels.after or result.kernels.before if k.extrapolated]
    if kernels:
        yield (
            4.5,
            f"{plural(len(kernels), 'kernel')} of the network outside the calibrated range: "
            "what section 3 says of them (▲) is extrapolated.",
        )
    last, whole = data.rows[-1], data.totals[1]
    if last.label == REMAINDER and last.after is not None and whole is not None and whole.value:
        share = last.after.cost.value / whole.value
        if abs(share) > 0.10:
            yield (
                6.0,
                f"{percent(share)} of the measured {data.quantity} is not explained by its kernels "
                "(the remainder in section 3).",
            )


def _prediction_caveats(result: RunResult) -> Iterable[tuple[float, str]]:
    for data in prediction_data(result.validation):
        s = summarize(data.points)
        if s.bounded >= 20 and s.covered / s.bounded < 0.90:
            yield (
                3.5,
                f"{data.quantity}: the 95 % intervals of the prediction cover only {percent(s.covered / s.bounded)} "
                "of the held-out subjects: they are too narrow.",
            )
        if s.median > 0.10:
            yield (
                3.6,
                f"{data.quantity}: the median prediction is off by {percent(s.median)}; rely on the measurement.",
            )
