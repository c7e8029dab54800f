"""Which kernels a network is priced as: the runtime's own graph on the device, kept; else rules, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch

from device_agents.records import Configuration
from device_agents.runtimes import onnx_runtime
from power_models import fusion_rules
from power_models.fusion_rules import MeasuredPair
from power_models.kernel_cost import KernelCostModel
from power_models.kernels import kernel_graph
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import make_template
from rig.compression.export import to_onnx
from rig.errors import DeviceBusyError, UnsupportedOperatorError
from rig.profiles import load_profile
from rig.store.store import Store
from rig.workloads.context_networks import context_network
from rig.workloads.executed_kernels import RULES_FILE, executed_kernels
from rig.workloads.onnx_builder import NetworkBuilder
from tests.stairs import INPUT, build

pytest.importorskip("onnxruntime")

LOCAL = Configuration("local", "serial", "onnxruntime", "1", 1, False, "", "")


def model_of(**fields) -> KernelCostModel:
    """A cost model of which only the configuration matters here."""
    return KernelCostModel(LOCAL._replace(**fields), "measured", {}, {}, (), layout_block=16)


class OwnRuntime:
    """A session on this computer's ONNX Runtime, by the agent's own code."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, 0

    def inspect(self, path, shape=None, runs=30):
        self.asked += 1
        subject = {"name": path.stem, "format": "onnx", "path": str(path), "shape": shape}
        engine = onnx_runtime.load(subject, {"threads": 1, "spinning": False}, str(self.folder))
        return engine.kernel_facts(runs)


class Busy:
    def inspect(self, path, shape=None, runs=30):
        raise DeviceBusyError("local is in use by another session")


class Damaged:
    def inspect(self, path, shape=None, runs=30):
        return {"model_b64": "AAAA", "nodes": []}


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RIG_CONFIG", str(tmp_path / "config"))
    return Store(tmp_path / "home")


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(context_network(3, "mobile", image=(3, 32)), path)
    return path


def specs(nodes):
    return Counter((node.spec, node.weight) for node in nodes)


def test_the_runtime_is_asked_once_a_network(store, network, tmp_path):
    session, profile, model = OwnRuntime(tmp_path), load_profile("local"), model_of()
    first = executed_kernels(profile, model, store, network, session=session)
    again = executed_kernels(profile, model, store, network, session=session)
    assert (first.source, first.why, session.asked) == ("runtime", None, 1)
    assert again.nodes == first.nodes
    assert {node.op for node in first.nodes} - {node.op for node in kernel_graph(network)}, "operators of the runtime"
    # Another version of the runtime, or other options, may make something else of it.
    executed_kernels(profile, model_of(runtime_version="2"), store, network, session=session)
    other = profile.model_copy(update={"runtime": profile.runtime.model_copy(update={"options": {"threads": 2}})})
    executed_kernels(other, model, store, network, session=session)
    assert session.asked == 3


def test_without_the_device_what_was_kept_is_used(store, network, tmp_path):
    profile, model = load_profile("local"), model_of()
    asked = executed_kernels(profile, model, store, network, session=OwnRuntime(tmp_path))
    kept = executed_kernels(profile, model, store, network, ask=False)
    assert kept == asked


@pytest.mark.parametrize(("session", "why"), [(Busy(), "in use"), (Damaged(), "cannot be read")])
def test_a_device_that_does_not_answer_leaves_the_rules_and_says_so(store, network, session, why):
    listed = executed_kernels(load_profile("local"), model_of(), store, network, session=session)
    assert (listed.source, listed.expected) == ("rules", False)
    assert why in listed.why
    assert specs(listed.nodes) == specs(kernel_graph(network, "onnxruntime", block=16))


def test_not_asking_was_asked_for(store, network):
    listed = executed_kernels(load_profile("local"), model_of(), store, network, ask=False)
    assert (listed.source, listed.expected) == ("rules", True)


@pytest.mark.parametrize("runtime", ["virtual", "tflite", "tensorrt"])
def test_other_runtimes_have_rules(store, network, runtime):
    listed = executed_kernels(None, model_of(runtime=runtime, device="board"), store, network)
    assert (listed.source, listed.expected) == ("rules", True)
    assert listed.nodes == kernel_graph(network, runtime)


def test_a_runtime_without_rules_is_said(store, network):
    listed = executed_kernels(None, model_of(runtime="ncnn", device="board"), store, network)
    assert (listed.source, listed.expected) == ("rules", False)
    assert "those of virtual stand in" in listed.why


def test_measured_rules_take_the_place_of_assumed_ones(store, network):
    pairs = [MeasuredPair("conv", name, 0, 0, 0, 1, 1, -2, -1, 4) for name in ("relu", "relu6", "hardswish")]
    fusion_rules.save(store.model_folder("board") / RULES_FILE, pairs, "tflite", {})
    listed = executed_kernels(None, model_of(runtime="tflite", device="board"), store, network)
    assert listed.source == "measured rules"
    assert len(listed.nodes) > len(kernel_graph(network, "tflite"))
    assert "relu" not in {node.spec.fused for node in listed.nodes if node.spec.kind == "conv"}


def test_an_operator_without_a_kernel_is_named_whoever_was_asked(store, tmp_path):
    net = NetworkBuilder(0)
    path = tmp_path / "strange.onnx"
    onnx.save(net.model(net.node("Asinh", net.conv(net.input(1, 8, 8, 8), (8, 8)))), path)
    with pytest.raises(UnsupportedOperatorError, match="Asinh"):
        executed_kernels(load_profile("local"), model_of(), store, path, session=OwnRuntime(tmp_path))


def test_the_runtime_s_list_carries_the_channel_groups(store, tmp_path):
    """What optimize makes of it is what it makes of the rules: every kernel follows the same groups."""
    torch.manual_seed(0)
    network = build()
    path = tmp_path / "residual.onnx"
    onnx.save(to_onnx(network, INPUT), path)
    groups = find_groups(network, torch.zeros(1, *INPUT))
    listed = executed_kernels(load_profile("local"), model_of(), store, path, session=OwnRuntime(tmp_path))
    assert listed.source == "runtime"
    own, ruled = make_template(listed.nodes, groups), make_template(kernel_graph(path, "onnxruntime"), groups)
    assert Counter(k[1:] for k in own.kernels) == Counter(k[1:] for k in ruled.kernels)
    assert {b.name for b in own.blocks} == {b.name for b in ruled.blocks}
