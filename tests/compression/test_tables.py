from collections.abc import Sequence

import numpy as np
import pytest
import torch
from stairs import BLOCK, stairs

from device_agents.records import KernelSpec
from power_models.tables import (
    Channels,
    NetworkTables,
    SizedKernel,
    TableError,
    WidthTable,
    parameters,
    resized,
    width_grid,
)

CONV = KernelSpec("conv", 1, 16, 14, 14, 32, 14, 14, 3, 3, 1, 1)


def one_kernel(largest_in=48, largest_out=48):
    kernel = SizedKernel("k", CONV, Channels(0, (("a", 1),)), Channels(0, (("b", 1),)))
    return NetworkTables([kernel], stairs, {"a": largest_in, "b": largest_out})


def test_lookup_is_the_price_itself_at_every_width():
    tables = one_kernel()
    for a, b in [(1, 1), (7, 8), (7, 9), (48, 48), (16, 17)]:
        seconds, joules = stairs([resized(CONV, a, b)])
        assert tables.totals({"a": a, "b": b})[:2] == pytest.approx([seconds[0], joules[0]])


def test_the_hardware_block_is_found():
    assert one_kernel().block == BLOCK


def test_stairs_are_kept_and_the_marginal_is_the_secant_over_a_block():
    tables = one_kernel()
    at = [tables.totals({"a": 16, "b": b})[0] for b in range(17, 25)]
    assert np.ptp(at) == 0.0  # a plateau: its local slope is zero
    marginal = tables.marginals({"a": 16, "b": 24})["b"][0]
    low, high = (tables.totals({"a": 16, "b": b})[0] for b in (16, 24))
    assert marginal == pytest.approx((high - low) / BLOCK)
    assert marginal > 0


def test_marginals_are_never_negative_on_hardware_that_is_not_monotone():
    def odd(specs):
        seconds = np.array([1e-3 if s.out_channels % 16 else 5e-4 for s in specs])
        return seconds, seconds

    kernel = SizedKernel("k", CONV, Channels(16), Channels(0, (("b", 1),)))
    tables = NetworkTables([kernel], odd, {"b": 64}, block=8)
    assert all((tables.marginals({"b": b})["b"] >= 0).all() for b in range(1, 65))


def test_interpolation_has_the_secant_as_its_gradient_by_finite_differences():
    tables = one_kernel()
    for a, b in [(16.0, 24.0), (13.5, 20.25), (40.0, 33.0)]:
        x = torch.tensor(a, dtype=torch.float64, requires_grad=True)
        y = torch.tensor(b, dtype=torch.float64, requires_grad=True)
        cost = tables.relaxed({"a": x, "b": y}, quantity=0)
        cost.backward()
        with torch.no_grad():
            back_a = tables.relaxed({"a": x - BLOCK, "b": y}, 0)
            back_b = tables.relaxed({"a": x, "b": y - BLOCK}, 0)
        # the interpolated cost is float32 inside the sum
        assert x.grad.item() == pytest.approx(((cost - back_a) / BLOCK).item(), rel=2e-3)
        assert y.grad.item() == pytest.approx(((cost - back_b) / BLOCK).item(), rel=2e-3)


def test_no_channels_cost_nothing_and_beyond_the_table_is_an_error():
    table = WidthTable(np.array([4]), np.array([4, 8]), np.ones((4, 1, 2)), tied=False)
    assert table.lookup(0, 8).tolist() == [0, 0, 0, 0]
    with pytest.raises(ValueError, match="beyond the table"):
        table.lookup(4, 9)


def test_wide_layers_get_a_coarse_grid_that_holds_both_ends():
    grid = width_grid(1280)
    assert grid[0] == 1
    assert grid[-1] == 1280
    assert len(grid) < 130
    assert set(range(1, 33)) <= set(grid.tolist())


WIDE = KernelSpec("conv", 1, 256, 14, 14, 512, 14, 14, 1, 1)


def wide_kernel(price):
    kernel = SizedKernel("k", WIDE, Channels(0, (("a", 1),)), Channels(0, (("b", 1),)))
    return NetworkTables([kernel], price, {"a": 384, "b": 768})


def smooth(specs):
    """Seconds that rise evenly with the channels, and bend where a cache ends."""
    work = np.array([float(s.in_channels * s.out_channels) for s in specs])
    moved = np.array([float(s.in_channels + s.out_channels) for s in specs])
    seconds = 1e-6 + 1e-9 * work + 1e-8 * moved * (1.0 + 1.0 / (1.0 + (600.0 / moved) ** 2))
    return seconds, 2.0 * seconds


def test_a_wide_layer_keeps_its_stairs_between_the_grid_points():
    tables = wide_kernel(stairs)
    (table,) = set(tables._of_kernel)
    assert table.stairs == (BLOCK, BLOCK)
    assert tables.block == BLOCK
    assert table.values[0].size < 2500
    at = [tables.totals({"a": 200, "b": b})[0] for b in range(529, 537)]
    assert np.ptp(at) == 0.0
    random = np.random.default_rng(1)
    for a, b in zip(random.integers(1, 385, 60).tolist(), random.integers(1, 769, 60).tolist(), strict=True):
        seconds, joules = stairs([resized(WIDE, a, b)])
        assert tables.totals({"a": a, "b": b})[:2] == pytest.approx([seconds[0], joules[0]], rel=2e-3)


def test_without_stairs_a_wide_layer_rises_evenly():
    tables = wide_kernel(smooth)
    (table,) = set(tables._of_kernel)
    assert table.stairs == (1, 1)
    rises = np.diff([tables.totals({"a": 200, "b": b})[0] for b in range(500, 560)])
    assert (rises > 0).all()


@pytest.mark.parametrize("price", [stairs, smooth])
def test_the_error_that_is_stated_is_the_error_found_elsewhere(price):
    tables = wide_kernel(price)
    random = np.random.default_rng(2)
    widths = [(a, b) for a, b in random.integers(17, 385, (200, 2)).tolist()]
    for position, name in enumerate(("latency_s", "energy_active_j")):
        stated = tables.error[name]
        true = price([resized(WIDE, a, b) for a, b in widths])[position]
        found = TableError.of([tables.totals({"a": a, "b": b})[position] for a, b in widths], true)
        assert stated.n == 32
        assert found.mean <= 2.0 * stated.mean + 1e-4
        assert stated.worst < 0.01


def test_a_table_of_every_width_has_no_error():
    assert set(one_kernel().error.values()) == {TableError(0.0, 0.0, 0)}


def test_work_and_parameters_are_those_of_the_width_itself():
    tables = wide_kernel(stairs)
    for a, b in [(203, 601), (17, 18), (383, 767)]:
        same = resized(WIDE, a, b)
        assert tables.totals({"a": a, "b": b})[2:] == pytest.approx([same.macs, parameters(same)])


def test_tables_are_priced_together():
    calls = []

    def price(specs):
        calls.append(len(specs))
        return stairs(specs)

    kernels = [
        SizedKernel(str(side), WIDE._replace(in_height=side), Channels(0, (("a", 1),)), Channels(0, (("b", 1),)))
        for side in range(1, 9)
    ]
    NetworkTables(kernels, price, {"a": 100, "b": 200})
    assert len(calls) == 1
    assert TableError.of([1.0, 2.0], [0.0, float("nan")]) == TableError()


def test_totals_agree_with_the_priced_network(template, tables):
    seed = template.seed_widths()
    seconds, joules = stairs([k.spec for k in template.kernels])
    assert tables.totals(seed)[:2] == pytest.approx([seconds.sum(), joules.sum()])
    assert tables.totals(seed)[2] == sum(k.spec.macs for k in template.kernels)


@pytest.mark.parametrize(
    "spec",
    [
        KernelSpec("conv", 1, 48, 14, 14, 96, 7, 7, 3, 3, 2, 1),
        KernelSpec("conv", 2, 48, 14, 14, 96, 14, 14, 1, 1),
        KernelSpec("depthwise", 1, 48, 14, 14, 48, 14, 14, 3, 3, 1, 1, groups=48),
        KernelSpec("fc", 1, 48, 1, 1, 96, 1, 1, dtype="int8"),
        KernelSpec("add", 1, 48, 14, 14, 48, 14, 14, inputs=2),
        KernelSpec("avg_pool", 1, 48, 14, 14, 48, 7, 7, 2, 2, 2, groups=48),
    ],
    ids=lambda spec: spec.label,
)
def test_a_table_holds_each_kernel_resized_with_its_macs_and_parameters(spec: KernelSpec) -> None:
    tied = spec.kind not in ("conv", "fc")
    channels = (Channels(0, (("b" if tied else "a", 1),)), Channels(0, (("b", 1),)))
    asked: list[KernelSpec] = []

    def price(specs: Sequence[KernelSpec]) -> tuple[np.ndarray, np.ndarray]:
        asked.extend(specs)
        return np.ones(len(specs)), np.ones(len(specs))

    tables = NetworkTables([SizedKernel("k", spec, *channels)], price, {"a": 48, "b": spec.out_channels}, block=8)
    widths = {"a": 24, "b": 32}
    same = resized(spec, 32 if tied else 24, 32)
    assert same in asked
    assert tables.totals(widths)[2:].tolist() == [same.macs, parameters(same)]
