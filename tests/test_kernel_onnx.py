"""Chains of one kernel: the runtime keeps every copy, values stay in range, and networks drawn at random are usable."""

from collections import Counter

import numpy as np
import onnx
import pytest

from device_agents.records import KernelSpec
from power_models.kernels import from_optimized, kernel_graph
from rig.errors import BadInputError
from rig.workloads.context_networks import FAMILIES, LEAST_MACS, MOST_MACS, context_network
from rig.workloads.families import convolution
from rig.workloads.grid import design
from rig.workloads.kernel_onnx import (
    arrangement,
    as_executed,
    chain_model,
    expected_kernels,
    require_copies,
    unit_kernels,
)

ort = pytest.importorskip("onnxruntime")

COPIES = 3
RELU = {"fused": "relu"}


def run(model, folder):
    """(kernels of the runtime's own graph, root mean square of the outputs)."""
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feed = {i.name: random.standard_normal(i.shape, dtype=np.float32) for i in session.get_inputs()}
    outputs = np.concatenate([out.ravel() for out in session.run(None, feed)])
    return from_optimized(options.optimized_model_filepath, original=model), float(np.sqrt(np.mean(outputs**2)))


def small(spec):
    return spec.macs < 2e7 and spec.in_channels * spec.in_height**2 < 3e5 and spec.weight_bytes < 2e6


SPECS = [spec for spec in dict.fromkeys(as_executed(spec) for spec in design(160, 11)) if small(spec)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.label} {spec.fused}")
def test_the_runtime_keeps_every_copy(spec, tmp_path):
    kernels, scale = run(chain_model(spec, COPIES, 0), tmp_path)
    require_copies(spec, COPIES, kernels)
    assert 1e-4 < scale < 1e3


@pytest.mark.parametrize(
    ("spec", "how"),
    [
        (convolution(14, 64, 64, 3)._replace(**RELU), "chain"),
        (convolution(14, 64, 64, 3, groups=64), "chain"),
        (convolution(14, 32, 64, 3), "pair"),
        (convolution(32, 3, 64, 3), "parallel"),
        (convolution(14, 32, 64, 3, 2), "parallel"),
        (KernelSpec("fc", 1, 64, 1, 1, 10, 1, 1), "parallel"),
        (convolution(14, 64, 64, 2, 2, padding=0)._replace(kind="max_pool", groups=64), "separate"),
    ],
)
def test_arrangements(spec, how):
    assert arrangement(spec) == how


def test_a_pair_s_unit_is_both_directions():
    spec = convolution(14, 32, 64, 3)._replace(**RELU)
    assert unit_kernels(spec, block=16) == [spec, spec._replace(in_channels=64, out_channels=32)]


def test_a_strided_copy_brings_a_reorder():
    spec = convolution(14, 32, 64, 3, 2)
    assert [kernel.kind for kernel in unit_kernels(spec, block=16)] == ["conv", "reorder_out"]
    assert [kernel.kind for kernel in unit_kernels(spec, block=0)] == ["conv"]


@pytest.mark.parametrize("channels", [32, 30])
@pytest.mark.parametrize("fused", ["add", "add+relu"])
def test_fused_additions(channels, fused, tmp_path):
    spec = convolution(14, channels, channels, 3)._replace(fused=fused)
    kernels, scale = run(chain_model(spec, 20, 0), tmp_path)
    require_copies(spec, 20, kernels)
    assert 0.1 < scale < 10


def test_values_stay_in_range_in_a_long_chain(tmp_path):
    _, scale = run(chain_model(convolution(7, 32, 32, 3)._replace(**RELU), 100, 0), tmp_path)
    assert 1e-2 < scale < 1e2


def test_weights_come_from_the_seed_and_differ_between_copies():
    spec = convolution(7, 16, 16, 3)
    one, same, other = (chain_model(spec, 2, seed) for seed in (0, 0, 1))
    assert one.SerializeToString() == same.SerializeToString() != other.SerializeToString()
    first, second = (onnx.numpy_helper.to_array(w) for w in one.graph.initializer if len(w.dims) == 4)
    assert not np.allclose(first, second)


def test_expected_kernels_are_counted_by_the_rules():
    counts = Counter(kernel.kind for kernel in expected_kernels(convolution(14, 64, 64, 3), 5, block=16))
    assert counts == {"conv": 5, "reorder_in": 1, "reorder_out": 1}


def test_a_folded_chain_is_refused():
    spec = convolution(14, 64, 64, 3)
    with pytest.raises(BadInputError, match=r"by 4 copies: .* has 3 of them \(3 conv"):
        require_copies(spec, 4, kernel_graph(chain_model(spec, 3, 0), "onnxruntime", block=16))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (KernelSpec("reorder_in", 1, 64, 7, 7, 64, 7, 7), "cannot be made alone"),
        (KernelSpec("add", 1, 64, 7, 7, 64, 7, 7, fused="relu", inputs=2), "not run as one kernel"),
        (KernelSpec("activation", 1, 64, 7, 7, 64, 7, 7), "not run as one kernel"),
        (convolution(7, 16, 16, 3)._replace(dtype="int8"), "data type int8"),
    ],
)
def test_what_cannot_be_made(spec, message):
    with pytest.raises(BadInputError, match=message):
        chain_model(spec, 2, 0)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_have_a_realistic_cost(seed):
    model = context_network(seed)
    assert model.SerializeToString() == context_network(seed).SerializeToString()
    macs = sum(node.spec.macs for node in kernel_graph(model))
    assert 0.2 * LEAST_MACS < macs < 3 * MOST_MACS


@pytest.mark.parametrize("family", FAMILIES)
def test_random_networks_run(family, tmp_path):
    kernels, scale = run(context_network(4, family, image=(1, 28)), tmp_path)
    assert kernels[0].spec.in_channels == 1
    assert np.isfinite(scale)


def test_random_networks_refuse():
    with pytest.raises(BadInputError, match="unknown family"):
        context_network(0, "transformer")
    with pytest.raises(BadInputError, match="too small"):
        context_network(0, image=(3, 4))
