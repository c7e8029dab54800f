"""Where the fit starts: plausible constants of a Raspberry Pi 4, and how far each may move.

Sources: Cortex-A72 software optimisation guide (one 128-bit multiply-add a cycle and core), BCM2711 data (32 KiB L1
data cache a core, 1 MiB L2 shared, LPDDR4 at 3-5 GB/s in practice), ruy's kernel sizes (8 × 8 float, 4 × 4 × 16 int8 on
arm64 without dot products).
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Prior(NamedTuple):
    """Start per dtype (float32, int8) and the factor that one width of the prior spans; the bounds lie at three."""

    float32: float
    int8: float
    factor: float


PRIORS = {
    "gemm_s_per_mac": Prior(7e-11, 3e-11, 1.5),
    "depthwise_s_per_mac": Prior(1.6e-10, 1e-10, 1.35),
    "large_tap_factor": Prior(1.2, 1.2, 1.2),
    "gemv_s_per_mac": Prior(2e-10, 1e-10, 1.7),
    "output_s_per_element": Prior(6e-10, 6e-10, 2.0),
    "pack_s_per_element": Prior(6e-10, 2e-10, 1.8),
    "patch_s_per_gather": Prior(4e-8, 3e-8, 1.7),
    "pass_s_per_element": Prior(1e-9, 1e-9, 2.0),
    "l1_miss_slowdown": Prior(0.3, 0.3, 1.7),
    "launch_s": Prior(5e-6, 5e-6, 1.4),
    "l2_bytes": Prior(4e5, 4e5, 1.4),
    "patch_l2_bytes": Prior(9e5, 9e5, 1.15),
    "l2_sharpness": Prior(2.5, 2.5, 1.4),
    "l1_bytes": Prior(32768.0, 32768.0, 1.2),
    "l2_s_per_byte": Prior(5e-11, 5e-11, 1.7),
    "dram_s_per_byte": Prior(4e-10, 4e-10, 1.5),
    "weight_s_per_byte": Prior(3e-10, 3e-10, 1.5),
    "patch_dram_s_per_byte": Prior(6e-10, 6e-10, 2.0),
    "overlap_sharpness": Prior(2.0, 2.0, 1.26),
    "busy_w": Prior(2.3, 2.3, 1.2),
    "stalled_w": Prior(1.8, 1.8, 1.15),
    "patch_stall_w": Prior(1.2, 1.2, 1.2),
    "single_core_w": Prior(1.6, 1.6, 1.2),
    "gemm_j_per_mac": Prior(8e-11, 4e-11, 1.6),
    "depthwise_j_per_mac": Prior(1e-10, 6e-11, 1.25),
    "l2_j_per_byte": Prior(4e-11, 4e-11, 1.7),
    "dram_j_per_byte": Prior(2e-10, 2e-10, 1.5),
    "invoke_s": Prior(2e-4, 2e-4, 1.4),
    "invoke_w": Prior(4.0, 4.0, 1.2),
}

# One memory, one dispatcher, one set of cores: the same for both dtypes.
SHARED = (
    "l2_bytes",
    "patch_l2_bytes",
    "l2_sharpness",
    "l1_bytes",
    "l1_sharpness",
    "l2_s_per_byte",
    "dram_s_per_byte",
    "weight_s_per_byte",
    "patch_dram_s_per_byte",
    "overlap_sharpness",
    "launch_s",
    "group_call_s",
    "stalled_w",
    "patch_stall_w",
    "single_core_w",
    "l2_j_per_byte",
    "dram_j_per_byte",
    "invoke_s",
    "invoke_w",
)

# The networks hold no grouped convolution, patches of their first layer only, and little that shows the L1's edge:
# these stay where they are (a patch is copied and packed out of the L2 at about 10 GB/s).
FIXED = {
    "float32": {"group_call_s": 4e-6, "l1_sharpness": 2.0, "patch_s_per_element": 4e-10},
    "int8": {"group_call_s": 4e-6, "l1_sharpness": 2.0, "patch_s_per_element": 1.2e-10},
}

BLOCKS = {
    "float32": {"out_channels": 8, "rows": 2, "depth": 1, "depthwise_channels": 4, "cores": 4},
    "int8": {"out_channels": 4, "rows": 4, "depth": 16, "depthwise_channels": 8, "cores": 4},
}

# Not in the table. Clocks: Raspberry Pi 4. Preemptions: calmer than the published run (mean 6 % over its median).
BOARD = {
    "frequencies_hz": [6e8, 7.5e8, 1e9, 1.2e9, 1.35e9, 1.5e9],
    "voltage_share_at_lowest": 0.86,
    "idle_saving_w_at_lowest": 0.25,
    "nominal_c": 55.0,
    "ambient_c": 25.0,
    "thermal_k_per_w": 7.0,
    "thermal_j_per_k": 14.0,
    "leakage_w_per_k": 0.0015,
    "throttle_from_c": 80.0,
    "throttle_hysteresis_k": 3.0,
    "jitter_sd": 0.012,
    "jitter_memory": 0.9,
    "jitter_white_sd": 0.006,
    "preemptions_per_s": 2.0,
    "preemption_mean_s": 0.008,
    "preemption_max_s": 0.09,
    "warmup_slowdown": 0.9,
    "warmup_inferences": 2.5,
}

SURPRISE = {
    "what": "input rows a multiple of so many bytes long fall into the same cache sets",
    "row_bytes_multiple": 1024,
    "slowdown": 0.1,
}


def start_constants(quiet_w: float) -> dict[str, Any]:
    """All constants of the board before the fit."""
    dtypes = {
        dtype: {**{n: getattr(p, dtype) for n, p in PRIORS.items() if not n.startswith("invoke")}, **FIXED[dtype]}
        for dtype in ("float32", "int8")
    }
    return {
        "name": "pi4",
        "quiet_w": quiet_w,
        "invoke_s": PRIORS["invoke_s"].float32,
        "invoke_w": PRIORS["invoke_w"].float32,
        "shared": [name for name in SHARED if not name.startswith("invoke")],
        "blocks": BLOCKS,
        "dtypes": dtypes,
        "board": BOARD,
        "surprise": SURPRISE,
    }
