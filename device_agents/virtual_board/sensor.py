"""What a meter sees of a simulated board: window means of the timeline with gain, noise, step and its own clock."""

import json
import math
import random
from typing import IO, Any, Dict, List, NamedTuple, Optional, Tuple

from device_agents.virtual_board.board import TIMELINE_FORMAT


class SensorConfig(NamedTuple):
    """A meter's data sheet: an INA226-like monitor at the board's input by default (step of 1.25 mW)."""

    name: str = "virtual"
    rail: str = "VDD_IN"
    boundary: str = "board_input"
    rate_hz: float = 100.0
    window_s: float = 0.010  # averaging window; the sample's time stamp is its end
    step_w: float = 0.00125
    noise_w: float = 0.010  # standard deviation of one sample
    gain_uncertainty: float = 0.003  # standard deviation of the gain error, one draw a meter
    clock_offset_s: float = 3.2  # spread of the offset to the board's clock
    clock_drift_ppm: float = 25.0  # spread of the drift
    exchange_delay_s: float = 0.0004  # mean one-way delay of a clock exchange
    lag_s: float = 0.0  # from the end of the window to the time stamp that the meter gives it
    declared_window_s: Optional[float] = None  # where the data sheet is wrong
    time_constant_s: Optional[float] = None  # where it averages by forgetting exponentially, and not over the window


class VirtualSensor:
    """Reads a timeline file as it grows; the same path content, config and seed give the same samples.

    ``config``: a :class:`SensorConfig`, a dict of some of its fields, or None. Raises ValueError for an unknown field.
    """

    def __init__(self, timeline_path: str, config: Any = None, seed: int = 0) -> None:
        self.config = _config(config)
        self.seed = seed
        self._path = timeline_path
        self._stream: Optional[IO[str]] = None
        rng = random.Random("virtual-sensor-%d" % seed)
        self._gain = 1.0 + self.config.gain_uncertainty * max(-2.5, min(2.5, rng.gauss(0.0, 1.0)))
        self._offset_s = self.config.clock_offset_s * rng.uniform(-1.0, 1.0)
        self._drift = self.config.clock_drift_ppm * 1e-6 * rng.uniform(-1.0, 1.0)
        self._rng = rng
        self._partial = ""
        self._ends: List[float] = []  # board time at which each segment ends
        self._energies: List[float] = []  # energy up to there
        self._start_s = 0.0
        self._start_j = 0.0
        self._next_sample = 0
        self._position = 0
        self._filtered_s: Optional[float] = None  # board time up to which the exponential average has come
        self._filtered_w = 0.0
        self.board: Optional[Dict[str, Any]] = None

    @property
    def board_now_s(self) -> float:
        """Board time up to which the timeline is written."""
        return self._ends[-1] if self._ends else self._start_s

    def sensor_time_s(self, board_s: float) -> float:
        """The meter's own clock at a board time."""
        return board_s + self._offset_s + self._drift * board_s

    def describe(self) -> Dict[str, Any]:
        """The declared data sheet; the gain and clock errors drawn are not in it."""
        config = self.config
        return {
            "name": config.name,
            "kind": "simulated",
            "rate_hz": config.rate_hz,
            "window_s": config.window_s if config.declared_window_s is None else config.declared_window_s,
            "step_w": config.step_w,
            "noise_w": config.noise_w,
            "gain_uncertainty": config.gain_uncertainty,
            "boundary": config.boundary,
            "rail": config.rail,
            "clock": "sensor",
        }

    def poll(self) -> List[Tuple[float, float]]:
        """All new samples up to the board's now: (end of the window on the meter's clock in s, W)."""
        self._read()
        period_s, window_s = 1.0 / self.config.rate_hz, self.config.window_s
        lag_s = self.config.lag_s
        step_w, noise_w, gain = self.config.step_w, self.config.noise_w, self._gain
        gauss = self._rng.gauss
        now_s = self.board_now_s
        samples = []
        previous_end_s, previous_j = -1.0, 0.0
        while True:
            # Sampling runs on the meter's clock: its period, seen from the board, is a little off.
            end_s = window_s + self._next_sample * period_s / (1.0 + self._drift)
            if end_s + lag_s > now_s:
                break
            begin_s = end_s - window_s
            begin_j = previous_j if abs(begin_s - previous_end_s) < 1e-12 else self._energy_at(begin_s)
            end_j = self._energy_at(end_s)
            previous_end_s, previous_j = end_s, end_j
            mean_w = (end_j - begin_j) / window_s
            if self.config.time_constant_s is not None:
                mean_w = self._forgetting(end_s, mean_w, self.config.time_constant_s)
            watts = gain * mean_w + gauss(0.0, noise_w)
            if step_w > 0.0:
                watts = round(watts / step_w) * step_w
            samples.append((self.sensor_time_s(end_s + lag_s), max(watts, 0.0)))
            self._next_sample += 1
        self._forget()
        return samples

    def clock_exchange(self) -> Tuple[float, float, float, float]:
        """Four time stamps of one exchange, in s: sent (board), received (meter), replied (meter), received (board)."""
        self._read()
        delay_s = self.config.exchange_delay_s
        sent_s = self.board_now_s
        received_s = sent_s + delay_s * (0.5 + self._rng.expovariate(2.0))
        replied_s = received_s + 0.2 * delay_s
        back_s = replied_s + delay_s * (0.5 + self._rng.expovariate(2.0))
        return sent_s, self.sensor_time_s(received_s), self.sensor_time_s(replied_s), back_s

    def close(self) -> None:
        """Close the timeline file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _forgetting(self, board_s: float, first_w: float, time_constant_s: float) -> float:
        """The exponential average at a board time that is not before the last one asked for; it starts at a mean."""
        if self._filtered_s is None:
            self._filtered_s, self._filtered_w = board_s, first_w
        while self._filtered_s < board_s:
            before_j = self._energy_at(self._filtered_s)
            last = self._position
            while last < len(self._ends) - 1 and self._ends[last] <= self._filtered_s:
                last += 1
            until_s = min(self._ends[last], board_s)
            if until_s <= self._filtered_s:
                break
            seconds = until_s - self._filtered_s
            watts = (self._energy_at(until_s) - before_j) / seconds
            self._filtered_w = watts + (self._filtered_w - watts) * math.exp(-seconds / time_constant_s)
            self._filtered_s = until_s
        return self._filtered_w

    def _energy_at(self, board_s: float) -> float:
        ends, position = self._ends, self._position
        # Samples go forward in time; only overlapping windows step back.
        while position > 0 and ends[position - 1] >= board_s:
            position -= 1
        last = len(ends) - 1
        while position < last and ends[position] < board_s:
            position += 1
        self._position = position
        if position:
            begin_s, begin_j = ends[position - 1], self._energies[position - 1]
        else:
            begin_s, begin_j = self._start_s, self._start_j
        length_s = ends[position] - begin_s
        if length_s <= 0.0:
            return begin_j
        return begin_j + (self._energies[position] - begin_j) * (board_s - begin_s) / length_s

    def _read(self) -> None:
        if self._stream is None:
            self._stream = open(self._path, "r", encoding="utf-8")  # noqa: SIM115 - stays open; close() closes it
        text = self._partial + self._stream.read()
        lines = text.split("\n")
        self._partial = lines.pop()  # a line that the board is still writing
        for line in lines:
            if line:
                self._take(json.loads(line))

    def _take(self, line: Dict[str, Any]) -> None:
        if "format" in line:
            if line["format"] != TIMELINE_FORMAT:
                raise ValueError(
                    "virtual sensor: timeline %s has format %r, this agent reads %d; use the board of the same agent"
                    % (self._path, line["format"], TIMELINE_FORMAT)
                )
            self.board = line
            return
        if not self._ends and not self._next_sample and line["t"] > self._start_s:
            self._join(float(line["t"]))
        at_s = self.board_now_s
        total_j = self._energies[-1] if self._energies else self._start_j
        for seconds, watts in zip(line["d"], line["w"]):
            at_s += seconds
            total_j += seconds * watts
            self._ends.append(at_s)
            self._energies.append(total_j)

    def _join(self, start_s: float) -> None:
        """The timeline begins late (its past was cut off): the first sample is the first whose window is whole."""
        self._start_s = start_s
        self._next_sample = math.ceil(start_s * self.config.rate_hz * (1.0 + self._drift))

    def _forget(self) -> None:
        """Drop segments that no later window can reach."""
        reach_s = self._next_sample / self.config.rate_hz / (1.0 + self._drift) - self.config.window_s
        if self._filtered_s is not None:
            reach_s = min(reach_s, self._filtered_s)
        keep = self._position
        while keep > 0 and self._ends[keep - 1] > reach_s:
            keep -= 1
        if keep > 4096:
            self._start_s, self._start_j = self._ends[keep - 1], self._energies[keep - 1]
            del self._ends[:keep]
            del self._energies[:keep]
            self._position -= keep


def _config(config: Any) -> SensorConfig:
    if config is None:
        return SensorConfig()
    if isinstance(config, SensorConfig):
        return config
    unknown = sorted(set(config) - set(SensorConfig._fields))
    if unknown:
        raise ValueError(
            "virtual sensor: unknown setting(s) %s; known: %s" % (", ".join(unknown), ", ".join(SensorConfig._fields))
        )
    return SensorConfig(**config)
