"""The board's physics: every kind, positive and growing costs, steps, siblings, the surprise."""

import json
import math
from pathlib import Path

import pytest

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel, Cost
from device_agents.virtual_board.work import KINDS, work_of

BOARD = BoardModel.load("pi4")


def conv(channels_in=32, channels_out=32, size=28, kernel=3, **fields):
    """A same-size convolution."""
    return KernelSpec(
        kind="conv",
        batch=1,
        in_channels=channels_in,
        in_height=size,
        in_width=size,
        out_channels=channels_out,
        out_height=size,
        out_width=size,
        kernel_h=kernel,
        kernel_w=kernel,
        padding=kernel // 2,
        **fields,
    )


def of_kind(kind, dtype="float32", channels=32, size=28):
    """A plausible kernel of any kind."""
    spec = conv(channels, channels, size, 1)._replace(kind=kind, dtype=dtype)
    if kind == "depthwise":
        return spec._replace(kernel_h=3, kernel_w=3, padding=1, groups=channels)
    if kind in ("max_pool", "avg_pool"):
        return spec._replace(
            kernel_h=2, kernel_w=2, stride=2, out_height=size // 2, out_width=size // 2, groups=channels
        )
    if kind in ("global_avg_pool", "reduce"):
        return spec._replace(out_height=1, out_width=1)
    if kind == "fc":
        return spec._replace(in_height=1, in_width=1, out_height=1, out_width=1)
    if kind in ("add", "mul", "concat"):
        return spec._replace(inputs=2)
    return spec._replace(fused="hardswish") if kind == "activation" else spec


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_costs_time_and_energy_at_believable_power(kind, dtype):
    latency_s, active_j = BOARD.kernel_cost(of_kind(kind, dtype))
    assert 1e-6 < latency_s < 0.1
    assert 0.3 < active_j / latency_s < 6.0
    parts = BOARD.kernel_parts(of_kind(kind, dtype))
    assert all(part >= 0.0 for part in parts)
    assert (parts.latency_s, parts.active_j) == (latency_s, active_j)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "view"])
@pytest.mark.parametrize("grown", [{"channels": 64}, {"size": 56}])
def test_more_channels_or_pixels_cost_more(kind, grown):
    if kind == "fc" and "size" in grown:
        grown = {"channels": 128}
    small, large = BOARD.kernel_cost(of_kind(kind)), BOARD.kernel_cost(of_kind(kind, **grown))
    assert large[0] > small[0]
    assert large[1] > small[1]


def test_int8_is_faster_than_float32():
    assert BOARD.kernel_cost(conv(dtype="int8"))[0] < 0.5 * BOARD.kernel_cost(conv())[0]


def test_channels_run_in_blocks():
    block = BOARD.blocks("float32").out_channels
    gemm = [work_of(conv(channels_out=n), BOARD.blocks("float32")).gemm_macs for n in (block + 1, 2 * block)]
    assert gemm[0] == gemm[1]
    at_edge = BOARD.kernel_cost(conv(256, 2 * block, 14))[0]
    inside = BOARD.kernel_cost(conv(256, 2 * block - 1, 14))[0]
    beyond = BOARD.kernel_cost(conv(256, 2 * block + 1, 14))[0]
    assert beyond - at_edge > 3.0 * (at_edge - inside)


def test_depthwise_is_slower_per_mac_than_a_dense_convolution():
    dense, depthwise = conv(256, 256, 14), of_kind("depthwise", channels=256, size=14)
    rate = [BOARD.kernel_cost(spec)[0] / spec.macs for spec in (dense, depthwise)]
    assert rate[1] > 1.5 * rate[0]


def test_narrow_layers_on_large_maps_draw_less_than_wide_layers_on_small_maps():
    narrow, wide = conv(8, 8, 224, 3), conv(512, 512, 14, 1)
    watts = [energy / latency for latency, energy in map(BOARD.kernel_cost, (narrow, wide))]
    assert watts[0] < watts[1] - 0.5


def test_groups_dilation_stride_and_activation_are_priced():
    plain = BOARD.kernel_cost(conv())[0]
    assert BOARD.kernel_cost(conv(dilation=2))[0] > plain
    assert BOARD.kernel_cost(conv(fused="hard_swish"))[0] > plain
    assert BOARD.kernel_cost(conv(fused="add+relu"))[0] > plain
    assert BOARD.kernel_cost(conv(fused="relu")) == BOARD.kernel_cost(conv())
    grouped = work_of(conv(64, 64, groups=8), BOARD.blocks("float32"))
    assert grouped.group_calls == 7.0
    assert BOARD.kernel_cost(conv(64, 64, groups=8))[0] < BOARD.kernel_cost(conv(64, 64))[0]


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (conv()._replace(kind="fft"), "'fft'"),
        (conv(dtype="float16"), "'float16'"),
        (conv(fused="relu+asinh"), "'asinh'"),
        (conv(channels_in=0), "in_channels"),
        (conv(30, 32, groups=4), "4 groups"),
    ],
)
def test_what_is_unknown_is_an_error_that_names_it(spec, named):
    with pytest.raises(ValueError, match=named):
        BOARD.kernel_cost(spec)


def test_unknown_board_names_the_known_ones():
    with pytest.raises(ValueError, match="known: pi4"):
        BoardModel.load("pi9")


def test_missing_constant_is_named():
    with pytest.raises(ValueError, match="'quiet_w'"):
        BoardModel({"name": "x"})


def test_an_inference_is_its_call_and_its_kernels():
    kernels = [conv(), of_kind("add"), of_kind("depthwise")]
    latency_s, active_j = BOARD.inference_cost(kernels)
    called_s, called_j = BOARD.inference_cost([])
    assert latency_s == pytest.approx(called_s + sum(BOARD.kernel_cost(k)[0] for k in kernels), rel=1e-12)
    assert active_j == pytest.approx(called_j + sum(BOARD.kernel_cost(k)[1] for k in kernels), rel=1e-12)
    assert called_s > 0.0


def test_siblings_differ_realistically_and_repeatably():
    spec = conv()
    ratios = [BOARD.perturbed(seed).kernel_cost(spec)[0] / BOARD.kernel_cost(spec)[0] for seed in range(12)]
    assert max(ratios) > 1.05
    assert min(ratios) < 0.95
    assert all(0.4 < ratio < 2.5 for ratio in ratios)
    assert BOARD.perturbed(3).constants == BOARD.perturbed(3).constants
    assert len({BOARD.perturbed(seed).blocks("float32") for seed in range(12)}) > 1
    assert BOARD.constants == BoardModel.load("pi4").constants
    for seed in range(12):
        latency_s, active_j = BOARD.perturbed(seed).kernel_cost(spec)
        assert 0.3 < active_j / latency_s < 7.0


def test_the_surprise_slows_a_share_of_kernels_moderately():
    odd = BoardModel.load("pi4", surprise=True)
    specs = [conv(c, c, size, k) for c in range(8, 136, 4) for size in (7, 8, 14, 16, 28, 32, 56) for k in (1, 3)]
    ratios = [odd.kernel_cost(spec)[0] / BOARD.kernel_cost(spec)[0] for spec in specs]
    slowed = [ratio for ratio in ratios if ratio > 1.0]
    assert 0.05 < len(slowed) / len(ratios) < 0.5
    assert all(ratio == pytest.approx(1.0 + odd.constants["surprise"]["slowdown"]) for ratio in slowed)
    assert odd.perturbed(1).surprise


def test_constants_file_says_what_fitted_it_and_that_it_is_simulated():
    path = Path(__file__).resolve().parents[2] / "device_agents" / "virtual_board" / "pi4.json"
    header = json.loads(path.read_text(encoding="utf-8"))["header"]
    assert header["kind"] == "simulated"
    assert header["fitted_by"] == "python experiments/virtual-board/fit.py"


def test_cost_sums():
    cost = Cost(1.0, 2.0, 3.0, 4.0)
    assert math.isclose(cost.latency_s, 3.0)
    assert math.isclose(cost.active_j, 7.0)
