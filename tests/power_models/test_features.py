"""Columns of kernels: taps on padding, views."""

from __future__ import annotations

import numpy as np
import pytest

from device_agents.records import KernelSpec
from power_models.features import KernelColumns


def window(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> KernelSpec:
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return KernelSpec("conv", 1, 8, size, size, 8, out, out, kernel, kernel, stride, padding, dilation)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(1, 3, 1, 1, 1), (3, 3, 1, 1, 1), (7, 5, 2, 2, 1), (28, 3, 2, 1, 1), (9, 3, 1, 2, 2), (6, 3, 1, 0, 1)],
)
def test_taps_inside_are_those_counted_one_by_one(size, kernel, stride, padding, dilation):
    spec = window(size, kernel, stride, padding, dilation)
    hits = [0 <= o * stride - padding + k * dilation < size for o in range(spec.out_width) for k in range(kernel)]
    assert KernelColumns.of([spec]).inside[0] == pytest.approx(np.mean(hits) ** 2)


def test_on_a_single_pixel_one_tap_of_nine_touches_its_weights():
    one, seven = window(1, 3, 1, 1), window(7, 3, 1, 1)
    columns = KernelColumns.of([one, seven])
    assert columns.weights_touched[0] == pytest.approx(columns.weight_bytes[0] / 9)
    assert columns.weights_touched[1] == pytest.approx(columns.weight_bytes[1])


def test_a_view_has_no_size():
    small, large = (KernelSpec("view", 1, c, 7, 7, c, 7, 7) for c in (2, 2000))
    columns = KernelColumns.of([small, large, window(7, 3, 1, 1)])
    assert columns.bytes_moved[0] == columns.bytes_moved[1]
    assert (columns.shape_table[0] == columns.shape_table[1]).all()
