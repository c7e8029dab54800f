from collections.abc import Sequence

import numpy as np
import pytest
import torch
from stairs import BLOCK, stairs

from device_agents.records import KernelSpec
from power_models.tables import Channels, NetworkTables, SizedKernel, WidthTable, parameters, resized, width_grid

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
