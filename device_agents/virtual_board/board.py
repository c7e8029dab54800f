"""The simulated board in virtual time: it runs kernel lists, waits, warms up, throttles, and writes down its power.

    quiet power ──┐                       ┌─ jitter (autocorrelated), preemptions (Poisson, some ms each)
    leakage(T) ───┼─► power segments ◄────┤  warm-up of a kernel list, clock of the governor or the throttle
    active energy ┘        │              └─ thermal RC: temperature follows power
                           └─► timeline file, one JSON line a batch: {"t": start, "d": [seconds], "w": [watts]}

No real time passes: ``now_s`` moves by what the physics says, so a minute on the board costs milliseconds.
"""

import json
import math
import random
from typing import IO, Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel

TIMELINE_FORMAT = 1  # 1: first version

GOVERNORS = ("performance", "ondemand", "powersave")

# Bits of the Raspberry Pi firmware's get_throttled (Raspberry Pi documentation, vcgencmd).
THROTTLE_BITS = {2: "throttled", 18: "throttled-occurred"}

# Inferences shorter than this are written together: far below any sensor's averaging window, energy is kept exactly.
_SEGMENT_S = 0.001
_IDLE_STEP_S = 0.5
_RAMP_S = 0.010  # how long the ondemand governor takes to raise the clock
_SINKS_AFTER_S = 0.020  # how long idle until it lowers it


class _Job(NamedTuple):
    kernels: Any
    core_s: float
    memory_s: float
    time_j: float
    work_j: float


class VirtualBoard:
    """One simulated board; the same model, seed and calls give the same timeline.

    ``timeline``: text stream that gets the power segments, or None. ``ambient_c``: temperature of the surroundings.
    ``governor``: performance (highest clock), ondemand (sinks when idle) or powersave (lowest clock).
    """

    def __init__(
        self,
        model: BoardModel,
        seed: int = 0,
        timeline: Optional[IO[str]] = None,
        ambient_c: Optional[float] = None,
        governor: str = "performance",
    ) -> None:
        self.model = model
        self.seed = seed
        self.now_s = 0.0
        self.energy_j = 0.0  # true energy since the start: what a perfect meter would have counted
        self._facts: Dict[str, Any] = model.constants["board"]
        self.ambient_c = float(self._facts["ambient_c"] if ambient_c is None else ambient_c)
        self._resistance = float(self._facts["thermal_k_per_w"])
        self._tau_s = self._resistance * float(self._facts["thermal_j_per_k"])
        self.temp_c = self.ambient_c + model.quiet_w * self._resistance
        self._rng = random.Random("virtual-board-%s-%d" % (model.name, seed))
        self._throttle_bits = 0
        self._level = len(self._facts["frequencies_hz"]) - 1
        self.set_governor(governor)
        self._jitter = 0.0
        self._next_preemption_s = self._rng.expovariate(float(self._facts["preemptions_per_s"]))
        self._last_job: Optional[_Job] = None
        self._runs_of_job = 0
        self._idle_s = 1.0
        self._jobs: Dict[int, _Job] = {}
        self._timeline = timeline
        self._durations: List[float] = []
        self._watts: List[float] = []
        self._batch_start_s = 0.0
        self._write({"format": TIMELINE_FORMAT, "board": model.name, "seed": seed, "kind": "simulated"})

    # -- what can be read from the board ---------------------------------------------------------------------------

    @property
    def serial(self) -> str:
        """Serial number of the simulated board."""
        return "virtual-%s-%d" % (self.model.name, self.seed)

    @property
    def freq_hz(self) -> float:
        """Clock of the cores."""
        return float(self._facts["frequencies_hz"][self._level])

    @property
    def throttled_bits(self) -> int:
        """Bits as ``get_throttled`` gives them: 2 throttled now, 18 throttled since the start."""
        return self._throttle_bits

    @property
    def throttled(self) -> List[str]:
        """Names of the bits that are set."""
        return [name for bit, name in sorted(THROTTLE_BITS.items()) if self._throttle_bits >> bit & 1]

    def quiet_power_w(self) -> float:
        """Power of the loaded, waiting board at its present temperature and clock."""
        leak = float(self._facts["leakage_w_per_k"]) * (self.temp_c - float(self._facts["nominal_c"]))
        saved = float(self._facts["idle_saving_w_at_lowest"]) * (1.0 - self._clock_share())
        return self.model.quiet_w + leak - saved

    # -- what the board can be told --------------------------------------------------------------------------------

    def set_governor(self, governor: str) -> None:
        """Choose how the clock is set; raises ValueError for an unknown governor."""
        if governor not in GOVERNORS:
            raise ValueError("virtual board: no governor %r; known: %s" % (governor, ", ".join(GOVERNORS)))
        self.governor = governor
        self._level = 0 if governor == "powersave" else len(self._facts["frequencies_hz"]) - 1

    def infer(self, kernels: Sequence[KernelSpec]) -> float:
        """Run one inference and return its latency in seconds."""
        latency_s = self._run(self._job(kernels))
        self._flush()
        return latency_s

    def infer_many(self, kernels: Sequence[KernelSpec], count: int) -> List[float]:
        """Run ``count`` inferences back to back; the latencies in seconds."""
        job = self._job(kernels)
        latencies = [self._run(job) for _ in range(count)]
        self._flush()
        return latencies

    def infer_for(self, kernels: Sequence[KernelSpec], seconds: float) -> List[float]:
        """Run back to back until ``seconds`` have passed (at least once); the latencies in seconds."""
        job = self._job(kernels)
        until_s = self.now_s + seconds
        latencies = [self._run(job)]
        while self.now_s < until_s:
            latencies.append(self._run(job))
        self._flush()
        return latencies

    def infer_paced(self, kernels: Sequence[KernelSpec], fps: float, seconds: float) -> Tuple[List[float], int]:
        """Run at a frame rate for ``seconds``: latencies in seconds, and the number of missed deadlines."""
        if not fps > 0.0:
            raise ValueError("virtual board: fps is %r; it must be above 0" % (fps,))
        job = self._job(kernels)
        start_s, latencies, missed = self.now_s, [], 0
        frames = max(1, round(seconds * fps))
        for frame in range(frames):
            latencies.append(self._run(job))
            due_s = start_s + (frame + 1) / fps
            if self.now_s > due_s:
                missed += 1
            else:
                self._wait(due_s - self.now_s)
        self._flush()
        return latencies, missed

    def idle(self, seconds: float) -> None:
        """Wait, loaded and quiet."""
        if seconds < 0.0:
            raise ValueError("virtual board: cannot idle %r s; it must not be negative" % (seconds,))
        self._wait(seconds)
        self._flush()

    # -- one inference ---------------------------------------------------------------------------------------------

    def _job(self, kernels: Sequence[KernelSpec]) -> _Job:
        # By identity: the runtime hands in the same list many times (and must not change it); the job keeps it alive.
        job = self._jobs.get(id(kernels))
        if job is None or job.kernels is not kernels or len(kernels) != len(job.kernels):
            parts = self.model.inference_parts(kernels)
            job = _Job(kernels, parts.core_s, parts.memory_s, parts.time_j, parts.work_j)
            if len(self._jobs) > 256:
                self._jobs.clear()
            self._jobs[id(kernels)] = job
        return job

    def _clock_share(self) -> float:
        return self.freq_hz / float(self._facts["frequencies_hz"][-1])

    def _stretch(self, job: _Job) -> float:
        facts, rng = self._facts, self._rng
        memory, spread = facts["jitter_memory"], facts["jitter_sd"]
        self._jitter = memory * self._jitter + math.sqrt(1.0 - memory * memory) * spread * rng.gauss(0.0, 1.0)
        white = facts["jitter_white_sd"]
        # Preemptions add their mean share below; the rest is made shorter, so that the mean stays nominal.
        share = facts["preemptions_per_s"] * facts["preemption_mean_s"]
        variance = spread * spread + white * white
        factor = math.exp(self._jitter + white * rng.gauss(0.0, 1.0) - 0.5 * variance) * (1.0 - share)
        if job is not self._last_job or self._idle_s > 30.0:
            self._last_job, self._runs_of_job = job, 0
        if self._runs_of_job < 20:
            factor *= 1.0 + facts["warmup_slowdown"] * math.exp(-self._runs_of_job / facts["warmup_inferences"])
            self._runs_of_job += 1
        return float(factor)

    def _clocked(self, job: _Job) -> Tuple[float, float]:
        """Seconds and work-energy factor at the present clock."""
        share = self._clock_share()
        if share == 1.0:
            return job.core_s + job.memory_s, 1.0
        core_s = job.core_s / share
        if self.governor == "ondemand":
            # The clock rises during the inference; what was run before that was slow.
            slow_s = min(_RAMP_S, core_s)
            core_s = slow_s + (job.core_s - slow_s * share)
            self._level = len(self._facts["frequencies_hz"]) - 1
            return core_s + job.memory_s, 1.0
        lowest = float(self._facts["frequencies_hz"][0]) / float(self._facts["frequencies_hz"][-1])
        voltage = 1.0 - (1.0 - float(self._facts["voltage_share_at_lowest"])) * (1.0 - share) / (1.0 - lowest)
        return core_s + job.memory_s, voltage * voltage

    def _run(self, job: _Job) -> float:
        nominal_s = job.core_s + job.memory_s
        clocked_s, work_factor = self._clocked(job)
        duration_s = clocked_s * self._stretch(job)
        self._next_preemption_s -= duration_s
        while self._next_preemption_s <= 0.0:
            mean_s = float(self._facts["preemption_mean_s"])
            duration_s += min(self._rng.expovariate(1.0 / mean_s), float(self._facts["preemption_max_s"]))
            self._next_preemption_s += self._rng.expovariate(float(self._facts["preemptions_per_s"]))
        busy_w = job.time_j / nominal_s * work_factor * self._clock_share()
        active_j = busy_w * duration_s + job.work_j * work_factor
        self._spend(duration_s, self.quiet_power_w() + active_j / duration_s)
        self._idle_s = 0.0
        return duration_s

    def _wait(self, seconds: float) -> None:
        self._idle_s += seconds
        if self.governor == "ondemand" and seconds > _SINKS_AFTER_S and not self._throttle_bits & 4:
            self._spend(_SINKS_AFTER_S, self.quiet_power_w())
            seconds -= _SINKS_AFTER_S
            self._level = 0
        while seconds > 0.0:
            step_s = min(seconds, _IDLE_STEP_S)
            self._spend(step_s, self.quiet_power_w())
            seconds -= step_s

    # -- power, heat, timeline -------------------------------------------------------------------------------------

    def _spend(self, duration_s: float, power_w: float) -> None:
        durations, watts = self._durations, self._watts
        if durations and durations[-1] < _SEGMENT_S and duration_s < _SEGMENT_S:
            joined_s = durations[-1] + duration_s
            watts[-1] = (watts[-1] * durations[-1] + power_w * duration_s) / joined_s
            durations[-1] = joined_s
        else:
            durations.append(duration_s)
            watts.append(power_w)
        self.now_s += duration_s
        self.energy_j += power_w * duration_s
        settled_c = self.ambient_c + power_w * self._resistance
        self.temp_c += (settled_c - self.temp_c) * -math.expm1(-duration_s / self._tau_s)
        hot_c = float(self._facts["throttle_from_c"])
        if self.temp_c >= hot_c or self._throttle_bits & 4:
            self._throttle(hot_c)

    def _throttle(self, hot_c: float) -> None:
        top = len(self._facts["frequencies_hz"]) - 1
        if self.temp_c >= hot_c:
            # One step down for every started half kelvin above the limit, as a firmware's control loop settles.
            self._level = max(0, min(self._level, top - 1 - int((self.temp_c - hot_c) / 0.5)))
            self._throttle_bits |= 1 << 2 | 1 << 18
        elif self.temp_c < hot_c - float(self._facts["throttle_hysteresis_k"]):
            self._throttle_bits &= ~(1 << 2)
            self._level = 0 if self.governor == "powersave" else top

    def _flush(self) -> None:
        if not self._durations:
            return
        self._write({"t": self._batch_start_s, "d": self._durations, "w": self._watts})
        self._durations, self._watts = [], []
        self._batch_start_s = self.now_s

    def _write(self, line: Dict[str, Any]) -> None:
        if self._timeline is not None:
            self._timeline.write(json.dumps(line) + "\n")
            self._timeline.flush()
