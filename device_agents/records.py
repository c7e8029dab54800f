"""The shared nouns: what goes over the wire, into the files and between the packages.

Plain data in SI units; every physical name ends in its unit. NamedTuples, because the agent's floor is Python 3.6.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

FORMAT_VERSION = 1  # 1: first version

DTYPE_BYTES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int32": 4, "int64": 8, "bool": 1}

WEIGHTED_KINDS = ("conv", "depthwise", "fc")


class KernelSpec(NamedTuple):
    """One kernel as the runtime executes it (convolution, batch-norm and activation are one kernel).

    ``kind``: conv, depthwise, fc, add, mul, activation, max_pool, avg_pool, global_avg_pool, concat, softmax, lrn,
    batch_norm, transpose, slice, pad, reorder_in, reorder_out, view ... An ``fc`` has height = width = 1.
    ``fused``: what the kernel absorbed, joined by "+": "relu", "add+relu", "hardswish", "" (nothing).
    ``inputs``: number of activation tensors read (add, mul, concat).
    ``stride``, ``padding``, ``dilation``: of the height axis; ``out_height``/``out_width`` are explicit, so that
    asymmetric padding and ceil-mode pooling lose nothing. Of an avg/max pool, in_channels = out_channels = groups.
    """

    kind: str
    batch: int
    in_channels: int
    in_height: int
    in_width: int
    out_channels: int
    out_height: int
    out_width: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    dtype: str = "float32"
    fused: str = ""
    inputs: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one execution (0 for kernels without weights)."""
        if self.kind not in WEIGHTED_KINDS:
            return 0
        per_output = self.kernel_h * self.kernel_w * self.in_channels // max(self.groups, 1)
        return self.batch * self.out_channels * self.out_height * self.out_width * per_output

    @property
    def input_bytes(self) -> int:
        """Bytes of activations read; of an add the second input too (concat's in_channels is already the sum)."""
        copies = self.inputs if self.kind in ("add", "mul") else 1
        extra = 0
        if self.kind in WEIGHTED_KINDS and "add" in self.fused.split("+"):
            extra = self.batch * self.out_channels * self.out_height * self.out_width
        elements = self.batch * self.in_channels * self.in_height * self.in_width * copies + extra
        return elements * DTYPE_BYTES[self.dtype]

    @property
    def output_bytes(self) -> int:
        """Bytes of activations written."""
        return self.batch * self.out_channels * self.out_height * self.out_width * DTYPE_BYTES[self.dtype]

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and 4-byte biases read."""
        if self.kind not in WEIGHTED_KINDS:
            return 0
        weights = self.out_channels * self.kernel_h * self.kernel_w * self.in_channels // max(self.groups, 1)
        return weights * DTYPE_BYTES[self.dtype] + 4 * self.out_channels

    @property
    def label(self) -> str:
        """Short human name, such as ``conv3x3 64->128 @28 s2``."""
        size = "%dx%d" % (self.kernel_h, self.kernel_w) if self.kernel_h * self.kernel_w > 1 else ""
        if self.kind in ("conv", "depthwise") and not size:
            size = "1x1"
        stride = " s%d" % self.stride if self.stride > 1 else ""
        return "%s%s %d->%d @%d%s" % (self.kind, size, self.in_channels, self.out_channels, self.in_height, stride)

    def to_json(self) -> Dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "KernelSpec":
        """Read a dict with at least the non-default fields; unknown keys are an error (ValueError)."""
        unknown = sorted(set(data) - set(cls._fields))
        if unknown:
            raise ValueError("KernelSpec: unknown field(s) %s" % ", ".join(unknown))
        return cls(**data)


class MeasurePlan(NamedTuple):
    """How one subject is measured: quiet, warm-up, windows until the interval is narrow enough, quiet.

    ``fps``: None means back to back. ``rel_ci``: wanted half-width of the 95 % interval of latency and of energy,
    relative. ``max_s``: the longest that all windows together may take. ``min_windows`` windows of ``window_s`` each.
    """

    fps: Optional[float] = None
    warmup_s: float = 0.5
    warmup_max_s: float = 10.0
    window_s: float = 1.0
    min_windows: int = 10
    rel_ci: float = 0.02
    max_s: float = 60.0
    quiet_s: float = 2.0
    cooldown_s: float = 0.0
    max_temp_c: float = 85.0

    def to_json(self) -> Dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())


class PowerTrace(NamedTuple):
    """What a power source saw; ``boundary``: wall, board_input, module, package, rail; ``clock``: whose time stamps."""

    source: str
    rail: str
    boundary: str
    clock: str
    times_s: List[float]
    power_w: List[float]
    energy_counter_j: Optional[List[float]] = None

    def energy_j(self, t0_s: float, t1_s: float) -> float:
        """Energy between two times of the trace's own clock: counter difference, or the trapezoid rule.

        Raises ValueError where the trace does not reach over [t0_s, t1_s].
        """
        times = self.times_s
        if len(times) < 2 or t0_s < times[0] or t1_s > times[-1] or t1_s <= t0_s:
            raise ValueError(
                "power trace of %s does not cover [%.6f, %.6f] s (has %d samples%s)"
                % (
                    self.source,
                    t0_s,
                    t1_s,
                    len(times),
                    ", %.6f to %.6f s" % (times[0], times[-1]) if times else "",
                )
            )
        if self.energy_counter_j is not None:
            return _interpolate(times, self.energy_counter_j, t1_s) - _interpolate(times, self.energy_counter_j, t0_s)
        total = 0.0
        previous_t, previous_w = t0_s, _interpolate(times, self.power_w, t0_s)
        for t, w in zip(times, self.power_w):
            if t <= t0_s:
                continue
            if t >= t1_s:
                break
            total += 0.5 * (previous_w + w) * (t - previous_t)
            previous_t, previous_w = t, w
        last_w = _interpolate(times, self.power_w, t1_s)
        return total + 0.5 * (previous_w + last_w) * (t1_s - previous_t)

    def mean_w(self, t0_s: float, t1_s: float) -> float:
        """Mean power over [t0_s, t1_s]; raises as ``energy_j`` does."""
        return self.energy_j(t0_s, t1_s) / (t1_s - t0_s)

    def to_json(self) -> Dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())


def _interpolate(times: List[float], values: List[float], t: float) -> float:
    low, high = 0, len(times) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if times[middle] <= t:
            low = middle
        else:
            high = middle
    if times[high] == times[low]:
        return values[high]
    share = (t - times[low]) / (times[high] - times[low])
    return values[low] + share * (values[high] - values[low])


class Configuration(NamedTuple):
    """The key of a cost model: what must be equal before two measurements may be put together."""

    device: str
    serial: str
    runtime: str
    runtime_version: str
    threads: int
    spinning: bool
    power_mode: str
    boundary: str

    def to_json(self) -> Dict[str, Any]:
        """The fields as a plain dict."""
        return dict(self._asdict())

    def differences(self, other: "Configuration") -> List[Tuple[str, Any, Any]]:
        """(field, mine, theirs) wherever the two differ."""
        return [(f, a, b) for f, a, b in zip(self._fields, self, other) if a != b]
