"""The load that a device is given to look at its power sources, and the pattern of its steps.

Steps are jittered pseudo-randomly: a pattern of one period would catch every edge at the same phase of the sensor's
own sampling, and could not tell a lag from a lag of one period more.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from device_agents.records import KernelSpec
from rig.profiles import DeviceProfile

JITTER = 0.4  # of a half period, either way

# Something that keeps the simulated board's four cores busy, short beside any averaging window.
SIMULATED_LOAD = [KernelSpec("conv", 1, 64, 28, 28, 64, 28, 28, 3, 3, 1, 1, fused="relu")]


class Load(NamedTuple):
    """What the agent is asked to run as a load: a runtime of its, that runtime's options, and the subject."""

    runtime: str
    options: dict[str, Any]
    kernels: list[KernelSpec] | None = None
    model: Path | None = None
    words: str = ""


@contextmanager
def load_for(profile: DeviceProfile) -> Iterator[Load]:
    """The load that this device's power sources see: its cores, or its GPU where the runtime uses one."""
    if profile.simulated:
        yield Load(profile.runtime.name, profile.runtime.options, SIMULATED_LOAD, None, "a simulated convolution")
    elif str(profile.runtime.options.get("provider", "cpu")) != "cpu":
        with tempfile.TemporaryDirectory(prefix="rig-load-") as folder:
            model = _convolutions(Path(folder) / "load.onnx")
            yield Load(profile.runtime.name, profile.runtime.options, None, model, "convolutions on the GPU")
    else:
        threads = profile.runtime.options.get("threads")
        yield Load("cpu_load", {"threads": threads} if threads else {}, None, None, "hashing on the CPU")


def steps(count: int, half_period_s: float, seed: int = 0) -> list[tuple[float, float]]:
    """``count`` pairs of seconds on and off, each within ±40 % of half a period."""
    draw = random.Random(f"rig-doctor-{seed}")

    def jittered() -> float:
        return half_period_s * (1.0 + JITTER * (2.0 * draw.random() - 1.0))

    return [(jittered(), jittered()) for _ in range(count)]


def duty_levels(levels: int, level_s: float, period_s: float) -> tuple[list[tuple[float, float]], list[int]]:
    """Load levels from idle to full by duty cycle: the steps, and how many steps each level has.

    The levels come up and then down again, each for half of ``level_s``: a slow drift cancels in their means.
    """
    shares = [i / (levels - 1) for i in range(levels)]
    periods = max(2, round(0.5 * level_s / period_s))
    pairs, counts = [], []
    for share in [*shares, *reversed(shares)]:
        pairs += [(share * period_s, (1.0 - share) * period_s)] * periods
        counts.append(periods)
    return pairs, counts


def _convolutions(path: Path) -> Path:
    """A chain of convolutions wide enough to fill a GPU."""
    import onnx

    from rig.workloads.onnx_builder import NetworkBuilder

    network = NetworkBuilder(seed=0)
    x = network.input(1, 256, 56, 56)
    for _ in range(8):
        x = network.conv(x, (256, 256), (3, 3))
    onnx.save(network.model(x), path)
    return path
