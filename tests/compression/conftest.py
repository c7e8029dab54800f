"""The small residual network of tests/stairs.py with its template and tables."""

from __future__ import annotations

import compression_case as case
import pytest
import torch
from stairs import INPUT, build, stairs

from power_models.kernels import kernel_graph
from power_models.tables import NetworkTables
from rig.compression.choosing.floors import bottlenecks
from rig.compression.cutting.groups import find_groups
from rig.compression.cutting.template import Template, make_template
from rig.compression.export import to_onnx
from rig.compression.networks import ResNet
from rig.compression.training import precision


@pytest.fixture(scope="session")
def network() -> ResNet:
    torch.manual_seed(0)
    net = build()
    for module in net.modules():  # as after training: scales, shifts and statistics of their own
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.4, 1.2)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@pytest.fixture(scope="session")
def template(network: ResNet) -> Template:
    example = torch.zeros(1, *INPUT)
    made = make_template(kernel_graph(to_onnx(network, INPUT), "virtual"), find_groups(network, example))
    return made._replace(bottlenecks=bottlenecks(network, made.groups, example))


@pytest.fixture(scope="session")
def tables(template: Template) -> NetworkTables:
    largest = {g.name: round(g.width * 1.5) if g.prunable else g.width for g in template.groups}
    return NetworkTables(template.kernels, stairs, largest)


@pytest.fixture(scope="module")
def task():
    torch.set_num_threads(1)
    return case.small_task()


@pytest.fixture(scope="module")
def survey(template):
    return case.survey_of(template)


@pytest.fixture
def one_precision(monkeypatch):
    """What is faster is measured, so it may differ from one run to the next."""
    monkeypatch.setattr(precision, "choose", lambda times_s: "float32")
