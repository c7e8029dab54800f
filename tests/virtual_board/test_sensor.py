"""The meter: means are the timeline's within the gain, samples are windows on its own clock, reading is incremental."""

import statistics
import time

import pytest

from device_agents.records import KernelSpec
from device_agents.virtual_board.board import VirtualBoard
from device_agents.virtual_board.physics import BoardModel
from device_agents.virtual_board.sensor import SensorConfig, VirtualSensor

MODEL = BoardModel.load("pi4")
NETWORK = [KernelSpec("conv", 1, 64, 28, 28, 64, 28, 28, 3, 3, 1, 1)] * 3
PERFECT = {"noise_w": 0.0, "step_w": 0.0, "gain_uncertainty": 0.0}


@pytest.fixture
def board_and_path(tmp_path):
    path = tmp_path / "timeline.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        yield VirtualBoard(MODEL, 11, stream), str(path)


def watch(path, config=None, seed=0):
    """A sensor and all its samples."""
    sensor = VirtualSensor(path, config, seed)
    samples = sensor.poll()
    sensor.close()
    return sensor, samples


def test_a_perfect_meter_integrates_the_timeline(board_and_path):
    board, path = board_and_path
    board.idle(1.0)
    board.infer_for(NETWORK, 4.0)
    board.idle(board_remainder(board))
    sensor, samples = watch(path, dict(PERFECT, clock_drift_ppm=0.0))
    assert sensor.board["kind"] == "simulated"
    assert sum(w for _, w in samples) * 0.01 == pytest.approx(board.energy_j, rel=1e-6)


def board_remainder(board):
    """Seconds to the next whole hundredth."""
    return 0.01 - board.now_s % 0.01


def test_mean_of_a_long_trace_is_true_within_the_gain(board_and_path):
    board, path = board_and_path
    board.infer_for(NETWORK, 60.0)
    true_w = board.energy_j / board.now_s
    gains = []
    for seed in range(20):
        sensor, samples = watch(path, None, seed)
        gains.append(statistics.fmean(w for _, w in samples) / true_w - 1.0)
        assert abs(gains[-1]) < 4.0 * sensor.describe()["gain_uncertainty"]
    assert 0.5 * 0.003 < statistics.pstdev(gains) < 2.0 * 0.003


def test_samples_are_quantised_noisy_and_seeded(board_and_path):
    board, path = board_and_path
    board.idle(20.0)
    _, samples = watch(path, None, 3)
    watts = [w for _, w in samples]
    assert all(abs(w / 0.00125 - round(w / 0.00125)) < 1e-6 for w in watts)
    assert 0.007 < statistics.pstdev(watts) < 0.014
    assert watch(path, None, 3)[1] == samples
    assert watch(path, None, 4)[1] != samples


def test_polling_in_pieces_gives_the_same_samples(board_and_path):
    board, path = board_and_path
    piecewise = VirtualSensor(path, None, 5)
    collected = piecewise.poll()
    for _ in range(6):
        board.infer_for(NETWORK, 1.3)
        board.idle(0.21)
        collected += piecewise.poll()
    assert piecewise.poll() == []
    piecewise.close()
    assert collected == watch(path, None, 5)[1]


def test_overlapping_and_sparse_windows(board_and_path):
    board, path = board_and_path
    board.infer_for(NETWORK, 30.0)
    true_w = board.energy_j / board.now_s
    for shape in ({"rate_hz": 50.0, "window_s": 0.2}, {"rate_hz": 1.0, "window_s": 1.0}):
        _, samples = watch(path, dict(PERFECT, **shape))
        assert len(samples) == pytest.approx(30 * shape["rate_hz"], abs=12)
        assert statistics.fmean(w for _, w in samples) == pytest.approx(true_w, rel=0.01)


def test_clock_exchange_reveals_offset_and_drift(board_and_path):
    board, path = board_and_path
    sensor = VirtualSensor(path, {"clock_drift_ppm": 100.0}, 1)
    offsets = []
    for _ in range(2):
        found = []
        for _ in range(40):
            sent_s, received_s, replied_s, back_s = sensor.clock_exchange()
            assert sent_s < back_s
            assert received_s < replied_s
            found.append(0.5 * (received_s - sent_s + replied_s - back_s))
        assert statistics.median(found) == pytest.approx(sensor.sensor_time_s(sent_s) - sent_s, abs=4e-4)
        offsets.append(statistics.median(found))
        board.idle(1000.0)
    sensor.close()
    drift = sensor.sensor_time_s(1000.0) - sensor.sensor_time_s(0.0) - 1000.0
    assert abs(drift) > 1e-3
    assert offsets[1] - offsets[0] == pytest.approx(drift, abs=5e-4)


def test_sample_times_are_window_ends_on_the_meters_clock(board_and_path):
    board, path = board_and_path
    board.idle(1.0)
    board.infer_for(NETWORK, 1.0)
    sensor, samples = watch(path, PERFECT, 2)
    switch_s = sensor.sensor_time_s(1.0)
    before = [w for t, w in samples if t <= switch_s]
    after = [w for t, w in samples if t > switch_s + 0.0101]
    assert max(before) < 3.0 < 4.5 < min(after)


def test_polling_ten_virtual_seconds_is_quick(board_and_path):
    board, path = board_and_path
    sensor = VirtualSensor(path)
    spent = []
    for _ in range(5):
        board.infer_for(NETWORK[:1], 10.0)
        begin = time.process_time()
        assert len(sensor.poll()) > 900
        spent.append(time.process_time() - begin)
    sensor.close()
    assert min(spent) < 0.05  # usually 2 to 7 ms


def test_describe_and_unknown_settings(tmp_path):
    sensor = VirtualSensor(str(tmp_path / "none"), SensorConfig(name="wall", boundary="wall"))
    told = sensor.describe()
    assert told["boundary"] == "wall"
    assert {"rate_hz", "window_s", "step_w", "noise_w", "gain_uncertainty", "rail", "clock", "kind"} <= set(told)
    with pytest.raises(ValueError, match="rate_khz"):
        VirtualSensor("x", {"rate_khz": 1.0})


def test_a_timeline_of_another_format_is_refused(tmp_path):
    path = tmp_path / "timeline.jsonl"
    path.write_text('{"format": 99}\n', encoding="utf-8")
    sensor = VirtualSensor(str(path))
    with pytest.raises(ValueError, match="format 99"):
        sensor.poll()
    sensor.close()
