"""The design of a calibration: deterministic, without repeats, in range, and with every kind that must be priced."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from device_agents.records import KernelSpec
from device_agents.virtual_board.physics import BoardModel
from power_models.kernels import kernel_graph
from rig.errors import BadInputError
from rig.workloads import kernel_onnx
from rig.workloads.context_networks import context_network
from rig.workloads.families import MAX_ELEMENTS, MAX_MACS
from rig.workloads.grid import KINDS, design, resized

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
PRICED = ("resnet50", "squeezenet", "vgg19", "bvlc_alexnet", "zfnet512", "densenet121", "shufflenet")


@pytest.fixture(scope="module")
def task():
    return [node.spec for node in kernel_graph(context_network(1, "mobile", image=(1, 28)))]


def test_same_arguments_same_design(task):
    assert design(120, 3, task) == design(120, 3, task)
    assert design(120, 3) != design(120, 4)


@pytest.mark.parametrize("n", [1, 7, 60, 400])
def test_as_many_as_asked_and_no_repeats(n, task):
    for chosen in (design(n, 0), design(n, 0, task)):
        assert len(chosen) == n
        assert len(set(chosen)) == n


def test_limits():
    for spec in design(500, 5):
        assert spec.macs <= MAX_MACS
        assert spec.in_channels * spec.in_height * spec.in_width <= MAX_ELEMENTS
        assert min(spec.out_height, spec.out_width, spec.in_channels, spec.out_channels) >= 1
        assert spec.in_channels % spec.groups == 0
        assert spec.out_channels % spec.groups == 0


@pytest.mark.parametrize("name", PRICED)
def test_every_kind_of_the_networks_to_be_priced(name):
    needed = {node.spec.kind for node in kernel_graph(LIGHT / f"light_{name}.onnx")}
    assert needed <= {spec.kind for spec in design(150, 0)}


def test_shares_of_kinds():
    counts = Counter(spec.kind for spec in design(1000, 0))
    assert set(counts) == set(KINDS)
    assert 450 < counts["conv"] < 560
    assert 90 < counts["depthwise"] < 150


def test_space_is_filled():
    convs = [spec for spec in design(1000, 2) if spec.kind == "conv"]
    assert {(spec.kernel_h, spec.stride) for spec in convs} >= {(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (7, 2), (11, 4)}
    assert any(1 < spec.groups < spec.in_channels for spec in convs)
    channels = np.log2([spec.out_channels for spec in convs])
    occupied, _ = np.histogram(channels, bins=np.arange(1, 12))
    assert (occupied[1:] > 0.03 * len(convs)).all()
    assert 0.2 < np.mean([spec.out_channels % 8 != 0 for spec in convs]) < 0.7


def test_neighbourhood_holds_the_network_and_narrow_versions(task):
    chosen = design(400, 0, task)
    weighted = [spec for spec in chosen if spec.kind in ("conv", "depthwise")]
    assert {spec.kind for spec in task} <= {spec.kind for spec in chosen}
    widest = max(spec.in_channels for spec in task)
    assert sum(spec in set(task) for spec in weighted) > 5
    assert any(spec.in_channels < 0.25 * widest and spec not in set(task) for spec in weighted)


def test_kinds_of_the_network_are_added_to_those_asked_for():
    lrn = KernelSpec("lrn", 1, 96, 27, 27, 96, 27, 27, kernel_h=5)
    chosen = design(60, 0, around=[lrn], kinds=["conv"])
    assert {spec.kind for spec in chosen} == {"conv", "lrn"}
    assert lrn in chosen


def test_data_type_is_that_asked_for():
    assert {spec.dtype for spec in design(60, 0, dtype="int8")} == {"int8"}


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.999, 0.999), (0.3, 0.8)])
def test_resized_kernels_stay_valid(point, task):
    for base in task:
        spec = resized(base, point)
        assert spec.in_channels % spec.groups == 0
        assert spec.out_channels % spec.groups == 0
        assert 0.1 * base.in_channels - 0.5 <= spec.in_channels <= 1.5 * base.in_channels + 0.5
        if base.kind not in ("conv", "fc"):
            assert spec.in_channels == spec.out_channels
        if base.in_channels <= 4:
            assert spec.in_channels == base.in_channels


def test_wrong_wishes():
    with pytest.raises(BadInputError, match="0 kernels"):
        design(0, 0)
    with pytest.raises(BadInputError, match="no family of kernels for einsum"):
        design(10, 0, kinds=["conv", "einsum"])


def test_every_kind_can_be_measured_on_both_runtimes():
    chosen = design(1500, 0)
    assert {spec.kind for spec in chosen} == set(KINDS) <= set(kernel_onnx.KINDS)
    wanted = {"relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "leaky_relu", "erf"}
    assert {spec.fused for spec in chosen if spec.kind == "activation"} == wanted
    assert {spec.kernel_h for spec in chosen if spec.kind == "resize"} == {1, 2}
    board = BoardModel.load("pi4")
    assert all(board.kernel_cost(spec)[0] > 0 for spec in chosen)


def test_an_older_design_is_still_the_same():
    """Version 1, of which runs are stored: a digest of what it chose when it was today's."""
    chosen = design(60, 0, version=1)
    assert not {"gather", "reduce", "resize"} & {spec.kind for spec in chosen}
    digest = hashlib.sha256(json.dumps([spec.to_json() for spec in chosen], sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "2e33b893a038f1ea"
