"""Seconds and joules of a kernel on the simulated board; the model is described in docs/virtual-board.md.

    latency = dispatch + smooth maximum of (arithmetic on four cores, memory traffic) + work on one core
    active energy = watts of the cores while busy or stalled + joules per multiply-accumulate and per byte

Everything here is at nominal frequency and temperature. The formulas use plain arithmetic only, so the fitting study
hands in columns of numbers instead of numbers and gets columns back.
"""

import copy
import json
import math
import pkgutil
import random
from typing import Any, Dict, NamedTuple, Sequence, Tuple

from device_agents.records import KernelSpec
from device_agents.virtual_board.work import BlockSizes, work_of

DTYPES = {"float32": "float32", "int8": "int8", "uint8": "int8"}

# Published sizes; a sibling board may have others.
_BLOCK_CHOICES = (4, 8, 16)


class Cost(NamedTuple):
    """Cost of a kernel, split by what changes it: core seconds scale with the clock, memory seconds do not;
    time joules grow with a longer run, work joules do not."""

    core_s: Any
    memory_s: Any
    time_j: Any
    work_j: Any

    @property
    def latency_s(self) -> Any:
        """Mean latency in seconds."""
        return self.core_s + self.memory_s

    @property
    def active_j(self) -> Any:
        """Energy above quiet power, in joules."""
        return self.time_j + self.work_j


def price(work: Any, c: Dict[str, Any]) -> Cost:
    """Price counts (numbers, or columns of numbers) with one dtype's constants; pure."""
    # The share of the traffic that the L2 cannot hold goes to DRAM; likewise of an inner loop's panel and the L1.
    beyond_l2 = 1.0 / (1.0 + (c["l2_bytes"] / work.map_bytes) ** c["l2_sharpness"])
    beyond_l1 = 1.0 / (1.0 + (c["l1_bytes"] / work.panel_bytes) ** c["l1_sharpness"])
    patches_beyond_l2 = 1.0 / (1.0 + (c["patch_l2_bytes"] / work.patch_bytes) ** c["l2_sharpness"])
    patch_dram_bytes = 2.0 * work.patch_bytes * patches_beyond_l2
    map_dram_bytes = work.activation_bytes * beyond_l2
    dram_bytes = map_dram_bytes + work.weight_bytes
    l2_bytes = work.activation_bytes
    depthwise_macs = work.depthwise_macs + work.large_depthwise_macs * c["large_tap_factor"]
    gemm_s = work.gemm_macs * c["gemm_s_per_mac"]
    depthwise_s = depthwise_macs * c["depthwise_s_per_mac"]
    spill_s = (gemm_s + depthwise_s) * beyond_l1 * c["l1_miss_slowdown"]
    arithmetic_s = (
        gemm_s
        + depthwise_s
        + spill_s
        + work.gemv_macs * c["gemv_s_per_mac"]
        + work.gemm_outputs * c["output_s_per_element"]
        + work.packed_elements * c["pack_s_per_element"]
    )
    traffic_s = (
        l2_bytes * c["l2_s_per_byte"]
        + map_dram_bytes * c["dram_s_per_byte"]
        + work.weight_bytes * c["weight_s_per_byte"]
    )
    sharp = c["overlap_sharpness"]
    streamed_s = (arithmetic_s**sharp + traffic_s**sharp) ** (1.0 / sharp)
    stalled_s = streamed_s - arithmetic_s
    patch_stall_s = patch_dram_bytes * c["patch_dram_s_per_byte"]
    dispatch_s = work.launches * c["launch_s"] + work.group_calls * c["group_call_s"]
    single_s = (
        work.passes * c["pass_s_per_element"]
        + work.patch_gathers * c["patch_s_per_gather"]
        + work.patch_elements * c["patch_s_per_element"]
        + dispatch_s
    )
    time_j = (
        arithmetic_s * c["busy_w"]
        + stalled_s * c["stalled_w"]
        + patch_stall_s * c["patch_stall_w"]
        + single_s * c["single_core_w"]
    )
    work_j = (
        work.gemm_macs * c["gemm_j_per_mac"]
        + depthwise_macs * c["depthwise_j_per_mac"]
        + work.gemv_macs * c["gemm_j_per_mac"]
        + l2_bytes * c["l2_j_per_byte"]
        + (dram_bytes + patch_dram_bytes) * c["dram_j_per_byte"]
    )
    return Cost(arithmetic_s + single_s, stalled_s + patch_stall_s, time_j, work_j)


def _row_bytes(spec: KernelSpec) -> int:
    return spec.in_channels * spec.in_width * (4 if spec.dtype == "float32" else 1)


class BoardModel:
    """Constants of one board, and the price of a kernel on it.

    ``constants``: as in pi4.json: ``quiet_w``, ``invoke_s``, ``invoke_w``, ``blocks`` and ``dtypes`` (one dict of
    physical constants each), ``board`` (thermal, clocks), ``surprise``. Raises ValueError for a missing entry.
    """

    def __init__(self, constants: Dict[str, Any], surprise: bool = False) -> None:
        for name in ("name", "quiet_w", "invoke_s", "invoke_w", "blocks", "dtypes", "board", "surprise"):
            if name not in constants:
                raise ValueError("virtual board: the constants lack %r" % name)
        self.constants = constants
        self.surprise = surprise
        self.name = str(constants["name"])
        self.quiet_w = float(constants["quiet_w"])
        self._blocks = {dtype: BlockSizes(**sizes) for dtype, sizes in constants["blocks"].items()}
        self._prices: Dict[str, Dict[str, float]] = constants["dtypes"]
        self._cache: Dict[KernelSpec, Cost] = {}

    @classmethod
    def load(cls, name: str = "pi4", surprise: bool = False) -> "BoardModel":
        """Read shipped constants by name; raises ValueError naming the known boards."""
        return cls(json.loads(_read_constants(name)), surprise)

    def blocks(self, dtype: str) -> BlockSizes:
        """Block sizes of a dtype; raises ValueError for a dtype without constants."""
        return self._blocks[self._dtype(dtype)]

    def _dtype(self, dtype: str) -> str:
        known = DTYPES.get(dtype)
        if known is None or known not in self._prices:
            raise ValueError("virtual board %s: no cost for dtype %r; known: %s" % (self.name, dtype, sorted(DTYPES)))
        return known

    def kernel_parts(self, spec: KernelSpec) -> Cost:
        """Price one kernel, split into parts (:class:`Cost`); raises ValueError for an unknown kind or dtype."""
        found = self._cache.get(spec)
        if found is None:
            dtype = self._dtype(spec.dtype)
            found = price(work_of(spec, self._blocks[dtype]), self._prices[dtype])
            if self.surprise:
                found = self._with_surprise(spec, found)
            self._cache[spec] = found
        return found

    def kernel_cost(self, spec: KernelSpec) -> Tuple[float, float]:
        """Mean latency in seconds and active energy in joules of one kernel at nominal frequency and temperature."""
        parts = self.kernel_parts(spec)
        return parts.latency_s, parts.active_j

    def inference_parts(self, kernels: Sequence[KernelSpec]) -> Cost:
        """Price one inference: the call itself and every kernel."""
        invoke_s = float(self.constants["invoke_s"])
        total = [invoke_s, 0.0, invoke_s * float(self.constants["invoke_w"]), 0.0]
        for spec in kernels:
            for i, value in enumerate(self.kernel_parts(spec)):
                total[i] += value
        return Cost(*total)

    def inference_cost(self, kernels: Sequence[KernelSpec]) -> Tuple[float, float]:
        """Mean latency in seconds and active energy in joules of one inference, the call's own cost included."""
        parts = self.inference_parts(kernels)
        return parts.latency_s, parts.active_j

    def _with_surprise(self, spec: KernelSpec, cost: Cost) -> Cost:
        # Rows whose bytes are a multiple of the stride below fall into the same cache sets.
        effect = self.constants["surprise"]
        if spec.kind not in ("conv", "depthwise") or _row_bytes(spec) % int(effect["row_bytes_multiple"]):
            return cost
        extra_s = cost.latency_s * float(effect["slowdown"])
        watts = float(self._prices[self._dtype(spec.dtype)]["stalled_w"])
        return cost._replace(memory_s=cost.memory_s + extra_s, time_j=cost.time_j + extra_s * watts)

    def with_facts(self, facts: Dict[str, Any]) -> "BoardModel":
        """The same board with some ``board`` constants (heat, clock, jitter) replaced; ValueError for a new name."""
        known = self.constants["board"]
        unknown = sorted(set(facts) - set(known))
        if unknown:
            raise ValueError("virtual board %s: no constant %s; known: %s" % (self.name, unknown[0], sorted(known)))
        constants = copy.deepcopy(self.constants)
        constants["board"].update(facts)
        return BoardModel(constants, self.surprise)

    def perturbed(self, seed: int) -> "BoardModel":
        """A sibling board: constants moved by lognormal factors, block sizes redrawn; same seed, same board."""
        rng = random.Random("virtual-board-%d" % seed)
        constants = copy.deepcopy(self.constants)
        constants["name"] = "%s~%d" % (self.name, seed)
        shared: Dict[str, float] = {}
        for dtype in sorted(constants["dtypes"]):
            prices = constants["dtypes"][dtype]
            for key in sorted(prices):
                same = key in constants.get("shared", ())
                if not same or key not in shared:
                    shared[key] = _factor(rng, key)
                prices[key] *= shared[key]
        for dtype in sorted(constants["blocks"]):
            sizes = constants["blocks"][dtype]
            for key in ("out_channels", "depthwise_channels"):
                sizes[key] = rng.choice(_BLOCK_CHOICES)
        for key, spread in (("quiet_w", 0.1), ("invoke_s", 0.2)):
            constants[key] *= _lognormal(rng, spread)
        for key, spread in (("thermal_k_per_w", 0.1), ("thermal_j_per_k", 0.15)):
            constants["board"][key] *= _lognormal(rng, spread)
        return BoardModel(constants, self.surprise)


def _lognormal(rng: random.Random, spread: float) -> float:
    return math.exp(max(-1.7, min(1.7, rng.gauss(0.0, 1.0))) * spread)


def _factor(rng: random.Random, key: str) -> float:
    # Watts differ less between boards than times do; exponents are the model's, not the board's.
    if key.endswith("sharpness"):
        return 1.0
    return _lognormal(rng, 0.08 if key.endswith("_w") else 0.16)


def _read_constants(name: str) -> str:
    if name not in BOARDS:
        raise ValueError("virtual board: no constants for board %r; known: %s" % (name, ", ".join(BOARDS)))
    # pkgutil reads inside the agent's zip too.
    data = pkgutil.get_data("device_agents.virtual_board", "%s.json" % name)
    if data is None:
        raise ValueError("virtual board: %s.json is not in this installation of the agent; install it again" % name)
    return data.decode("utf-8")


BOARDS = ("pi4",)
