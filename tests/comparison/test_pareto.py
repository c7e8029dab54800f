"""The Pareto figure: what is drawn where, what it says, and that it keeps the figures' rules."""

import compared_runs
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from rig.comparison.rows import make_rows, mark_unequal
from rig.comparison.runs import read_runs
from rig.comparison.summary import summarize
from rig.plotting.figure import render
from rig.plotting.pareto import draw_pareto, pareto_data, pareto_figure
from rig.plotting.style import drawing
from rig.store.store import Store


def data(root, cost="latency_s", allowed=None):
    runs = read_runs(["o-"], Store(root)).runs
    rows = make_rows(runs, cost)
    if allowed is not None:
        rows, _ = mark_unequal(rows, allowed)
    return pareto_data(rows, summarize(rows), cost, runs[0].result.simulated)


@pytest.fixture
def root(tmp_path):
    for method, accuracy in (("morphnet", 0.920), ("allocate", 0.923)):
        for share in (0.5, 0.3):
            for seed in (0, 1, 2):
                made = compared_runs.optimize(method, seed, accuracy - (0.5 - share) * 0.1, 0.925, share, share)
                compared_runs.put(tmp_path, made)
    return tmp_path


def drawn(found):
    with drawing():
        return draw_pareto(found, Figure().subplots())


def test_points_means_front_and_targets(root):
    found = data(root)
    assert (found.unit, found.cost, found.simulated) == ("ms", "inference time", True)
    assert len(found.points) == 3 + 12
    assert len(found.means) == 5
    assert [found.means[place].method for place in found.front] == ["allocate", "allocate", "baseline"]
    assert [found.means[place].cost.value for place in found.front] == pytest.approx([1.2, 2.0, 4.0])
    assert dict(found.targets) == pytest.approx({"latency 50 %": 2.0, "latency 30 %": 1.2})
    mean = found.means[1]
    assert (mean.seed, mean.accuracy.value) == (None, pytest.approx(92.0))
    assert found.points[-1].accuracy.lo == pytest.approx(found.points[-1].accuracy.value - 0.5)


def test_a_target_on_another_cost_is_not_drawn(root):
    assert data(root, "energy_active_j").targets == ()


def test_methods_are_joined_over_targets_and_simulated_marks_are_hollow(root):
    ax = drawn(data(root))
    large = [line for line in ax.get_lines() if line.get_markersize() == 7 and len(line.get_xdata())]
    assert [len(line.get_xdata()) for line in large] == [1, 2, 2]
    assert [line.get_linestyle() for line in large[1:]] == ["-", "--"]
    assert len({line.get_marker() for line in large}) == 3
    assert {to_hex(line.get_markerfacecolor()) for line in large} == {"#ffffff"}
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "allocate (SIMULATED)" in texts
    assert "SIMULATED" in ax.get_xlabel()


def test_measured_marks_are_filled(tmp_path):
    made = compared_runs.optimize(powered=False, simulated=False)
    compared_runs.put(tmp_path, made)
    ax = drawn(data(tmp_path))
    large = [line for line in ax.get_lines() if line.get_markersize() == 7 and len(line.get_xdata())]
    assert "#ffffff" not in {to_hex(line.get_markerfacecolor()) for line in large}
    assert "SIMULATED" not in ax.get_xlabel() + pareto_figure(data(tmp_path)).caption


def test_void_rows_are_crossed_out_and_in_no_mean(root):
    compared_runs.put(root, compared_runs.optimize("morphnet", 7, 0.99, 0.925, 0.6, 0.5))
    found = data(root, allowed=0.03)
    assert [point.runs for point in found.points if point.void] == ["o-0013"]
    assert max(mean.accuracy.value for mean in found.means) < 93
    figure = pareto_figure(found)
    assert "Crossed out: void." in figure.caption
    assert sum(row[-1] is True for row in figure.rows) == 1
    assert "void: unequal cost" in [text.get_text() for text in drawn(found).get_legend().get_texts()]


def test_caption_alt_and_numbers_say_what_is_seen(root):
    figure = pareto_figure(data(root))
    assert figure.caption.startswith(
        "SIMULATED. No other mean is both cheaper and more accurate than allocate at latency 30 % (90.3 % at 1.20 ms), "
    )
    assert "SIMULATED" in figure.alt
    assert len(figure.rows) == 20
    assert {len(row) for row in figure.rows} == {len(figure.columns)}


def test_text_is_never_below_eight_points_nor_outside_the_picture(root):
    with drawing():
        canvas = render(pareto_figure(data(root)))
        canvas.canvas.draw()
        (ax,) = canvas.axes
        texts = [text for text in canvas.findobj(Text) if text.get_text()]
        boxes = [t.get_window_extent() for t in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.get_legend())]
    assert min(text.get_fontsize() for text in texts) >= 8.0
    for box in boxes:
        assert min(box.x0, box.y0) >= -1
        assert box.x1 <= canvas.bbox.x1 + 1
        assert box.y1 <= canvas.bbox.y1 + 1


def test_eleven_methods_still_have_a_mark_each(tmp_path):
    for number in range(11):
        compared_runs.put(tmp_path, compared_runs.optimize(f"method {number}", 0, 0.9 + 0.001 * number))
    found = data(tmp_path)
    assert len(drawn(found).get_legend().get_texts()) >= 12
