"""Figure data are exact (golden), figures draw, and the rules hold: hollow if simulated, bars from zero, 8 pt."""

import json
import math
import os
from pathlib import Path

import example_runs as example
import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from rig.plotting.budget import budget_figure, budget_panels, draw_budget
from rig.plotting.energy import OTHER, REMAINDER, draw_energy, energy_data, energy_figure, energy_table, family
from rig.plotting.figure import plural, render, svg_text, write_csv
from rig.plotting.flops import FlopsPoint, draw_flops, flops_data, flops_figure, iso_pairs
from rig.plotting.layers import PER_FIGURE, draw_layers, layer_note, layers_data, layers_figure
from rig.plotting.numbers import compact, quantile, wilson
from rig.plotting.prediction import (
    draw_errors,
    draw_scatter,
    error_bins,
    error_table,
    prediction_data,
    prediction_figure,
    summarize,
)
from rig.plotting.steering import controller_data, controller_figure, draw_round_series, rounds_data, rounds_figure
from rig.plotting.style import drawing
from rig.plotting.trace import draw_trace, merged_spans, trace_figure, windows_figure
from rig.plotting.trace_data import mean_interval, trace_data
from rig.results import Layer, parse_result

GOLDEN = Path(__file__).parent / "golden" / "report_figures.json"


def result(simulated=True, powered=True):
    return parse_result(example.optimize_result(simulated, powered), "example")


def trace(simulated=True, powered=True, **options):
    record = example.record("base-0", "example", 4.3, 0.01, simulated, powered)
    return trace_data(record, record["trace"], **options)


def figures(simulated=True, powered=True):
    """Every figure of the example, by key."""
    r = result(simulated, powered)
    made = [budget_figure(r), trace_figure(trace(simulated, powered), "baseline"), energy_figure(energy_data(r))]
    made += [windows_figure(trace(simulated, powered), "baseline"), rounds_figure(rounds_data(r))]
    made += [controller_figure(controller_data(r), r.simulated), *map(layers_figure, layers_data(r.layers))]
    made += [prediction_figure(prediction_data(r.validation)), flops_figure(flops_data(r))]
    return {figure.key: figure for figure in made}


def axes():
    return Figure().subplots()


def as_json(value):
    """Ten digits: the same on every machine, and far finer than any figure."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.10g}"))


@pytest.mark.parametrize("simulated", [True, False])
def test_figure_data_equal_the_golden_file(simulated):
    name = "simulated" if simulated else "measured"
    made = {
        key: {"title": f.title, "caption": f.caption, "alt": f.alt, "columns": f.columns, "rows": f.rows}
        for key, f in figures(simulated).items()
    }
    for figure in made.values():
        figure["count"] = len(figure["rows"])
        figure["rows"] = figure["rows"][:40]  # the first forty tell; traces have thousands
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("RIG_WRITE_GOLDEN"):
        golden[name] = as_json(made)
        GOLDEN.write_text(json.dumps(golden, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert as_json(made) == golden[name]


@pytest.mark.parametrize(("simulated", "powered"), [(True, True), (False, True), (False, False)])
def test_every_figure_says_whether_it_is_simulated(simulated, powered):
    for key, figure in figures(simulated, powered).items():
        if key.startswith("layers"):
            continue  # widths are exact: nothing in them is simulated
        assert ("SIMULATED" in figure.caption) == simulated, key
        assert ("SIMULATED" in figure.alt) == simulated, key
        assert figure.title.endswith("?"), key
        assert len(figure.rows[0]) == len(figure.columns), key


def test_simulated_bars_are_hatched_and_measured_ones_are_not():
    for simulated in (True, False):
        with drawing():
            ax = draw_budget(budget_panels(result(simulated))[0], axes())
        assert all(bool(patch.get_hatch()) == simulated for patch in ax.patches)
        assert ax.get_xlim()[0] == 0


def test_simulated_markers_are_hollow():
    white = to_rgba("white")
    for simulated in (True, False):
        r = result(simulated)
        with drawing():
            ax = draw_scatter(prediction_data(r.validation)[0], axes())
        filled = [line.get_markerfacecolor() for line in ax.lines if line.get_marker() in ("o", "s", "^")]
        assert filled
        assert all((to_rgba(colour) == white) == simulated for colour in filled)
        assert all(("SIMULATED" in text.get_text()) == simulated for text in ax.get_legend().get_texts())


def test_text_is_never_below_eight_points():
    for figure in figures().values():
        with drawing():
            canvas = Figure(figsize=(6.7, figure.height_mm / 25.4), layout="constrained")
            figure.draw(canvas)
            texts = canvas.findobj(matplotlib.text.Text)
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= 8.0, figure.key


@pytest.mark.parametrize(("simulated", "powered"), [(True, True), (False, False)])
def test_no_text_leaves_the_picture(simulated, powered):
    for key, figure in figures(simulated, powered).items():
        with drawing():
            canvas = render(figure)
            canvas.canvas.draw()
            edge = canvas.bbox.x1, canvas.bbox.y1
            texts = [text for text in canvas.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
            legends = [legend.get_window_extent() for legend in canvas.findobj(matplotlib.legend.Legend)]
            drawn = {t for ax in canvas.axes for t in [*ax.texts, ax.xaxis.label, ax.yaxis.label]}
            boxes = [*legends, *(t.get_window_extent() for t in texts if t in drawn)]
        for box in boxes:
            assert min(box.x0, box.y0) >= -1, key
            assert box.x1 <= edge[0] + 1, key
            assert box.y1 <= edge[1] + 1, key


def test_svg_is_the_same_twice_and_carries_the_alt_text():
    figure = figures()["flops"]
    first, second = svg_text(figure), svg_text(figure)
    assert first == second
    assert 'role="img"' in first
    assert "SIMULATED" in first.split(">", 1)[0]
    assert "<metadata" not in first
    assert "202" not in first.split("</defs>")[0].split("<defs>")[0]  # no date


# --- energy -----------------------------------------------------------------------------------------------------


def test_kernels_and_remainder_sum_to_the_measured_total():
    data = energy_data(result())
    for side, measured in ((1, data.totals[0]), (2, data.totals[1])):
        assert math.fsum(row[side].cost.value for row in data.rows if row[side]) == pytest.approx(measured.value)
    assert data.rows[-1].label == REMAINDER


def test_more_than_twelve_families_become_other():
    raw = example.optimize_result()
    for index in range(20):
        extra = {**raw["kernels"]["before"][0], "name": f"k{index}", "label": f"kind{index} @8"}
        raw["kernels"]["before"].append(extra)
    data = energy_data(parse_result(raw, "example"))
    assert len(data.rows) == 14
    assert data.rows[12].label.startswith(OTHER)
    assert math.fsum(row.before.cost.value for row in data.rows if row.before) == pytest.approx(data.totals[0].value)


def test_a_negative_remainder_is_drawn_left_of_zero():
    raw = example.optimize_result()
    raw["baseline"]["energy_active_j"] = example.quantity(0.02, 0.0004)
    data = energy_data(parse_result(raw, "example"))
    assert data.rows[-1].before.cost.value < 0
    with drawing():
        ax = draw_energy(data, axes())
    assert ax.get_xlim()[0] < 0


def test_a_family_is_a_label_without_its_widths():
    assert family("conv3x3 16->32 @28 s2") == "conv3x3 @28 s2"
    assert family("hardswish") == "hardswish"


def test_energy_without_a_meter_is_latency():
    data = energy_data(result(False, False))
    assert (data.quantity, data.unit) == ("latency", "ms")
    assert "time" in energy_figure(data).title
    assert not any("mJ" in column for column in energy_table(data).columns)


# --- traces -----------------------------------------------------------------------------------------------------


def test_trace_is_put_on_the_runtime_clock():
    data = trace()
    idle = [mean for t, mean in data.mean if t < 1.9]
    busy = [mean for t, mean in data.mean if 2.1 < t < 14.9]
    assert max(idle) < 2.8 < min(busy)  # a sensor clock 38 ms ahead would smear the step over the edge
    assert data.spans[0].t0_s == 0


def test_envelope_holds_every_sample_and_the_mean():
    record = example.record("x", "example", 4.3, 0.01)
    data = trace_data(record, record["trace"])
    assert max(high for _, _, high in data.envelope) == pytest.approx(max(record["trace"]["power_w"]))
    for (t, low, high), (t_mean, mean) in zip(data.envelope, data.mean, strict=True):
        assert t == t_mean
        assert low <= mean <= high


def test_a_long_trace_widens_its_bins_and_says_so():
    record = example.record("x", "example", 4.3, 0.01)
    for phase in record["phases"]:
        phase["t0_s"], phase["t1_s"] = 40 * phase["t0_s"], 40 * phase["t1_s"]
    times = np.linspace(record["phases"][0]["t0_s"], record["phases"][-1]["t1_s"], 20000)
    data = trace_data({**record, "clock": None}, {**record["trace"], "times_s": times, "power_w": np.full(20000, 3.0)})
    assert data.bin_s > 0.1
    assert len(data.mean) <= 1201


def test_throttled_windows_are_hatched_with_their_reason():
    record = example.record("x", "example", 4.3, 0.01, throttled=True)
    data = trace_data(record, record["trace"])
    assert len(data.windows) == 9
    assert any(reason.startswith("throttled") for *_, reason in merged_spans(data))
    with drawing():
        ax = draw_trace(data, axes())
    assert any("throttled" in text.get_text() for text in ax.texts)
    assert any(patch.get_hatch() for patch in ax.patches)


def test_a_rejected_measurement_uses_no_window_and_says_why():
    data = trace(rejected="too hot: 91.0 °C, the limit is 85.0 °C")
    figure = trace_figure(data, "result")
    assert data.windows == ()
    assert "No: the measurement was rejected (too hot: 91.0 °C" in figure.caption
    assert svg_text(figure)


def test_without_a_meter_the_trace_is_latency():
    data = trace(False, False)
    assert (data.quantity, data.unit, len(data.windows)) == ("latency", "ms", 10)
    assert "no power meter" in trace_figure(data, "result").caption


def test_mean_interval_is_students():
    mean = mean_interval([1.0, 2.0, 3.0])
    assert (mean.value, mean.hi - mean.value) == (2.0, pytest.approx(4.303 / math.sqrt(3)))
    assert mean_interval([1.0]).lo is None
    assert math.isnan(mean_interval([]).value)


# --- prediction, flops, layers ----------------------------------------------------------------------------------


def test_error_summary_counts_coverage():
    raw = [v for v in example.validation() if v["quantity"] == "latency_s"][:3]
    for row, (low, high) in zip(raw, ((0.9, 1.1), (1.05, 1.2), (0.9, 1.0)), strict=True):
        row["measured"] = example.quantity(1.0, 0.01)
        row["predicted"] = {**example.quantity(0.5 * (low + high), None), "lo": low, "hi": high, "kind": "predicted"}
    r = parse_result({**example.calibrate_result(), "validation": raw}, "example")
    s = summarize(prediction_data(r.validation)[0].points)
    assert (s.n, s.covered, s.bounded) == (3, 2, 3)
    assert s.median == pytest.approx(0.05)


def test_errors_beyond_the_edge_are_counted_in_the_outer_bins():
    r = parse_result(example.calibrate_result(), "example")
    data = prediction_data(r.validation)[0]
    far = [p._replace(predicted=p.predicted._replace(value=9 * p.measured.value)) for p in data.points[:4]]
    edges, counts = error_bins([*far, *data.points])
    assert sum(counts) == len(data.points) + 4
    assert counts[-1] == 4
    with drawing():
        ax = draw_errors(data._replace(points=(*far, *data.points)), axes())
    assert "4 beyond" in ax.get_xlabel()
    assert len(edges) == len(counts) + 1


def test_error_table_has_kinds_networks_and_all():
    rows = error_table(prediction_data(result().validation)).rows
    names = [row[1] for row in rows if row[0].startswith("Latency")]
    assert names[-2:] == ["whole networks", "all"]
    assert "conv3x3" in names


def test_iso_pairs_have_equal_macs_and_are_apart():
    points = [
        FlopsPoint("a", "conv", 1.0, 1.0),
        FlopsPoint("b", "depthwise", 1.01, 4.0),
        FlopsPoint("c", "fc", 1.1, 9.0),
    ]
    (pair,) = iso_pairs(points)
    assert (pair.dear.label, pair.cheap.label, pair.ratio) == ("b", "a", 4.0)


def test_flops_name_the_operation_counted():
    with drawing():
        ax = draw_flops(flops_data(result()), axes())
    assert "1 MAC = 2 FLOP" in ax.get_xlabel()


def test_layers_of_long_networks_are_split_and_none_is_lost():
    layers = [Layer(name=f"l{i}", group=i // 2, before=64, after=32, prunable=True) for i in range(2 * PER_FIGURE + 1)]
    parts = layers_data(layers)
    assert [name for part in parts for name in (la.name for la in part.layers)] == [la.name for la in layers]
    assert len(parts) == 3
    assert "part 2 of 3" in layers_figure(parts[1]).title


def test_layer_notes():
    assert layer_note(Layer(name="a", before=8, after=8, prunable=False, why="output")) == "not prunable: output"
    assert layer_note(Layer(name="a", before=8, after=0, prunable=True, removed=True)) == "removed"
    assert layer_note(Layer(name="a", before=8, after=8, prunable=True)) == "8 kept"


def test_tied_layers_are_joined():
    with drawing():
        ax = draw_layers(layers_data(result().layers)[0], axes())
    assert "tied (move together)" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_missing_measurements_leave_a_gap_and_are_never_zero():
    raw = example.optimize_result()
    raw["rounds"][1]["measured"] = {"power": None}
    data = rounds_data(parse_result(raw, "example"))
    assert data.series[0].measured[1] is None
    with drawing():
        ax = draw_round_series(data.series[0], data.rounds, True, axes())
    assert min(y for line in ax.lines for y in line.get_ydata()) > 3
    assert "measured n/a" in rounds_figure(data).alt


def test_csv_leaves_missing_values_empty(tmp_path):
    figure = figures()["trace_baseline"]
    lines = write_csv(figure, tmp_path / "x.csv").read_text().splitlines()
    assert lines[0] == "series,time_s,mean_w,low_w,high_w"
    assert lines[1].endswith(",,")
    assert len(lines) == len(figure.rows) + 1


def test_small_numbers():
    assert plural(1, "window") == "1 window"
    assert compact(1234.6) == "1,230"
    assert compact(-0.012345) == "−0.0123"
    assert quantile([1.0, 2.0, 4.0], 0.9) == pytest.approx(3.6)
    assert wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(95, 100)
    assert (round(low, 3), round(high, 3)) == (0.888, 0.978)
