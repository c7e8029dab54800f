"""The board in virtual time: determinism, jitter, warm-up, clocks, heat, and its timeline."""

import io
import itertools
import json
import statistics
import time

import pytest

from device_agents.records import KernelSpec
from device_agents.virtual_board.board import VirtualBoard
from device_agents.virtual_board.physics import BoardModel

MODEL = BoardModel.load("pi4")
LAYER = KernelSpec("conv", 1, 64, 28, 28, 64, 28, 28, 3, 3, 1, 1)
NETWORK = [LAYER] * 4


def segments(text):
    """(seconds, watts) of every segment of a timeline."""
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines[0]["kind"] == "simulated"
    at_s, found = 0.0, []
    for line in lines[1:]:
        assert line["t"] == pytest.approx(at_s, abs=1e-6)
        found += list(zip(line["d"], line["w"], strict=True))
        at_s += sum(line["d"])
    return found


def test_same_seed_same_timeline():
    texts = []
    for seed in (5, 5, 6):
        stream = io.StringIO()
        board = VirtualBoard(MODEL, seed, stream)
        board.idle(1.0)
        board.infer_many(NETWORK, 50)
        texts.append(stream.getvalue())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_timeline_holds_all_time_and_all_energy():
    stream = io.StringIO()
    board = VirtualBoard(MODEL, 1, stream)
    board.idle(2.0)
    latencies = board.infer_for(NETWORK, 3.0)
    latencies.append(board.infer(NETWORK))
    board.idle(0.25)
    board.infer_many([LAYER._replace(in_height=4, in_width=4, out_height=4, out_width=4)], 1000)
    found = segments(stream.getvalue())
    assert sum(d for d, _ in found) == pytest.approx(board.now_s, rel=1e-9)
    assert sum(d * w for d, w in found) == pytest.approx(board.energy_j, rel=1e-9)
    assert len(found) < len(latencies) + 1000  # very short inferences are written together


def test_every_call_flushes_whole_lines(tmp_path):
    path = tmp_path / "timeline.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        board = VirtualBoard(MODEL, 1, stream)
        for call in (lambda: board.idle(0.1), lambda: board.infer(NETWORK), lambda: board.infer_many(NETWORK, 9)):
            call()
            text = path.read_text(encoding="utf-8")
            assert text.endswith("\n")
            assert sum(d for d, _ in segments(text)) == pytest.approx(board.now_s)


def test_mean_latency_and_energy_are_nominal_after_warm_up():
    board = VirtualBoard(MODEL, 2)
    board.infer_many(NETWORK, 50)
    nominal_s, nominal_j = MODEL.inference_cost(NETWORK)
    before_s, before_j = board.now_s, board.energy_j
    latencies = board.infer_for(NETWORK, 300.0)
    span_s, span_j = board.now_s - before_s, board.energy_j - before_j
    assert statistics.mean(latencies) == pytest.approx(nominal_s, rel=0.01)
    power_w = MODEL.quiet_w + nominal_j / nominal_s
    assert span_j / span_s == pytest.approx(power_w, rel=0.01)


def test_latencies_are_autocorrelated_with_rare_outliers():
    board = VirtualBoard(MODEL, 3)
    board.infer_many(NETWORK, 50)
    latencies = board.infer_for(NETWORK, 120.0)
    median = statistics.median(latencies)
    assert max(latencies) > median + 0.015
    assert 0.002 < sum(x > 1.2 * median for x in latencies) / len(latencies) < 0.15
    calm = [min(x, 1.05 * median) - median for x in latencies]
    spread = statistics.fmean(x * x for x in calm)
    neighbours = statistics.fmean(a * b for a, b in itertools.pairwise(calm))
    assert neighbours / spread > 0.2


def test_first_inferences_are_slower():
    board = VirtualBoard(MODEL, 4)
    latencies = board.infer_many(NETWORK, 60)
    assert latencies[0] > 1.5 * statistics.median(latencies[20:])
    assert latencies[0] > latencies[4] > 0.9 * statistics.median(latencies[20:])


def test_quiet_power_when_idle():
    board = VirtualBoard(MODEL, 1)
    board.idle(60.0)
    assert board.energy_j / board.now_s == pytest.approx(2.89, abs=0.03)


def test_a_hot_board_throttles_and_recovers():
    board = VirtualBoard(MODEL, 1, ambient_c=48.0)
    cold = board.infer_for(NETWORK, 5.0)
    assert board.throttled == []
    board.infer_for(NETWORK, 900.0)
    assert board.throttled_bits & 1 << 2
    assert board.throttled == ["throttled", "throttled-occurred"]
    assert 78.0 < board.temp_c < 86.0
    assert board.freq_hz < 1.5e9
    hot = board.infer_for(NETWORK, 5.0)
    assert statistics.median(hot) > 1.05 * statistics.median(cold[20:])
    board.idle(300.0)
    assert board.throttled == ["throttled-occurred"]
    assert board.freq_hz == 1.5e9


def test_at_room_temperature_it_does_not_throttle():
    board = VirtualBoard(MODEL, 1)
    board.infer_for(NETWORK, 900.0)
    assert board.throttled == []
    assert 55.0 < board.temp_c < 75.0


def test_governors():
    slow, fast = VirtualBoard(MODEL, 1, governor="powersave"), VirtualBoard(MODEL, 1)
    assert slow.freq_hz == 6e8
    for board in (slow, fast):
        board.infer_many(NETWORK, 30)
    medians = [statistics.median(board.infer_many(NETWORK, 200)) for board in (slow, fast)]
    assert 1.3 < medians[0] / medians[1] < 2.6
    sinking = VirtualBoard(MODEL, 1, governor="ondemand")
    sinking.infer(NETWORK)
    sinking.idle(0.1)
    assert sinking.freq_hz == 6e8
    sinking.infer(NETWORK)
    assert sinking.freq_hz == 1.5e9
    with pytest.raises(ValueError, match="known: performance"):
        VirtualBoard(MODEL, 1, governor="turbo")


def test_paced_power_is_quiet_power_plus_rate_times_active_energy():
    board = VirtualBoard(MODEL, 7)
    board.infer_many(NETWORK, 50)
    before_s, before_j = board.now_s, board.energy_j
    latencies, missed = board.infer_paced(NETWORK, 10.0, 120.0)
    assert len(latencies) == 1200
    assert missed < 60
    power_w = (board.energy_j - before_j) / (board.now_s - before_s)
    active_w = 10.0 * MODEL.inference_cost(NETWORK)[1]
    assert power_w - MODEL.quiet_w == pytest.approx(active_w, rel=0.03)
    assert board.infer_paced(NETWORK, 1e4, 0.5)[1] > 0
    with pytest.raises(ValueError, match="above 0"):
        board.infer_paced(NETWORK, 0.0, 1.0)


def test_repeated_inference_costs_microseconds():
    kernels = NETWORK * 15
    board = VirtualBoard(MODEL, 1, io.StringIO())
    board.infer(kernels)
    begin = time.process_time()
    board.infer_many(kernels, 2000)
    assert (time.process_time() - begin) / 2000 < 100e-6  # usually about 4 microseconds


def test_negative_idle_is_refused():
    with pytest.raises(ValueError, match="negative"):
        VirtualBoard(MODEL, 1).idle(-1.0)
