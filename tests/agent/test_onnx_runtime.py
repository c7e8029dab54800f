"""The ONNX Runtime engine in this process: inputs, threads, providers, refused models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from device_agents.protocol import AgentError
from device_agents.runtimes import onnx_runtime, runtime_module
from tests.agent_setup import small_model


def subject(path: Path, **more: object) -> dict[str, object]:
    return {"name": "m", "format": "onnx", "path": str(path), **more}


def test_inputs_are_seeded_normal_and_never_zero_or_tiny(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx", size=64)
    first, again, other = (onnx_runtime.load(subject(model), {"seed": seed}, str(tmp_path)) for seed in (1, 1, 2))
    values = first._feed["x"]
    assert np.array_equal(values, again._feed["x"])
    assert not np.array_equal(values, other._feed["x"])
    assert np.abs(values).min() >= 0.999e-3
    assert abs(float(values.mean())) < 0.05
    assert float(values.std()) == pytest.approx(1.0, rel=0.05)
    assert first.facts()["inputs"]["seed"] == 1


def test_integer_inputs_are_small_indices(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.INT64, [1, 50])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 50])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path / "integers.onnx"
    onnx.save(model, path)
    engine = onnx_runtime.load(subject(path), {}, str(tmp_path))
    assert set(engine._feed["x"].ravel()) <= set(range(10))
    assert engine.facts()["inputs"]["distribution"] == "uniform integers 0 to 9"


def test_threads_and_spinning_are_set_explicitly(tmp_path: Path) -> None:
    engine = onnx_runtime.load(subject(small_model(tmp_path / "m.onnx")), {"threads": 2}, str(tmp_path))
    options = engine._session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"threads": 0}, "bad-request", "threads is 0"),
        ({"thread": 1}, "bad-request", "no option thread"),
        ({"provider": "tpu"}, "bad-request", "provider 'tpu' is unknown"),
        ({"affinity": [4096]}, "bad-request", "cannot be used"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: dict[str, object], code: str, text: str) -> None:
    with pytest.raises(AgentError, match=text) as error:
        onnx_runtime.load(subject(small_model(tmp_path / "m.onnx")), options, str(tmp_path))
    assert error.value.code == code


def test_affinity_is_given_back(tmp_path: Path) -> None:
    model, before = small_model(tmp_path / "m.onnx"), os.sched_getaffinity(0)
    one = onnx_runtime.load(subject(model), {"affinity": [min(before)]}, str(tmp_path))
    assert one.facts()["environment"]["cpu_affinity"] == [min(before)]
    onnx_runtime.load(subject(model), {}, str(tmp_path))
    assert os.sched_getaffinity(0) == before


def test_a_shape_must_fit_the_model(tmp_path: Path) -> None:
    model = small_model(tmp_path / "m.onnx", size="side")
    for shape, code in (([1, 8, "side", 16], "model"), ([1, 9, 16, 16], "bad-request"), ({"y": [1]}, "bad-request")):
        with pytest.raises(AgentError) as error:
            onnx_runtime.load(subject(model, shape=shape), {}, str(tmp_path))
        assert error.value.code == code


def test_a_slow_model_is_profiled_fewer_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = onnx_runtime.load(subject(small_model(tmp_path / "m.onnx")), {}, str(tmp_path))
    monkeypatch.setattr(onnx_runtime, "PROFILE_BUDGET_S", 0.0)
    facts = engine.kernel_facts(30)
    assert facts["runs"] == 3
    assert all(node["count"] == 3 for node in facts["nodes"])


def test_unknown_runtime_names_the_nearest() -> None:
    with pytest.raises(AgentError, match="no runtime named 'onnxruntim'") as error:
        runtime_module("onnxruntim")
    assert error.value.fix == "did you mean onnxruntime?"
