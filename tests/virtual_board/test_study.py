"""The study's limits on the committed constants, and that the virtual board and the cost models stay strangers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "experiments" / "virtual-board"

# Issue limits: mean absolute percentage errors in sample, the worst network, and the real board's busy watts.
LIMITS = {"float32": (4.0, 4.0, 4.5), "int8": (3.0, 3.0, 4.5)}


@pytest.fixture(scope="module")
def study():
    sys.path.insert(0, str(STUDY))
    try:
        import study as module
    finally:
        sys.path.remove(str(STUDY))
        for name in ("study", "fit", "start", "measured"):  # other studies use such names too
            sys.modules.pop(name, None)
    return module


@pytest.fixture(scope="module")
def networks(study):
    return study.read_networks()


@pytest.mark.parametrize("dtype", sorted(LIMITS))
def test_committed_constants_stay_within_the_limits(study, networks, dtype):
    summary = study.summarise(study.in_sample(networks)[dtype])
    latency, energy, active = LIMITS[dtype]
    assert summary.latency_percent <= latency
    assert summary.energy_percent <= energy
    assert summary.active_percent <= active
    assert summary.worst_percent <= 15.0
    assert summary.busy_low_w > 5.3
    assert summary.busy_high_w < 6.7


def test_the_runtime_prices_what_the_fit_priced(study, networks):
    board = study.BoardModel.load("pi4")
    errors = study.in_sample(networks)
    for network in networks[::9]:
        latency_s, active_j = board.inference_cost(network.kernels)
        place = errors[network.dtype].names.index(network.name)
        assert latency_s / network.latency_s - 1.0 == pytest.approx(errors[network.dtype].latency[place], abs=1e-9)
        assert active_j / network.active_j - 1.0 == pytest.approx(errors[network.dtype].active[place], abs=1e-9)


def test_one_quiet_power_is_replaced_and_no_other(networks):
    assert [n.name for n in networks if n.quiet_replaced] == ["mobilenet-v1-1.0-128-quantized"]
    assert len(networks) == 94


def imported_by(folder):
    """Dotted names imported anywhere in a package's files."""
    names = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_cost_models_and_virtual_board_never_import_each_other():
    assert not [name for name in imported_by("device_agents/virtual_board") if name.startswith("power_models")]
    assert not [name for name in imported_by("power_models") if "virtual_board" in name]


def test_the_board_needs_the_standard_library_only():
    code = (
        "import sys; sys.path.insert(0, %r)\n"
        "import device_agents.virtual_board.sensor\n"
        "from device_agents.virtual_board.physics import BoardModel\n"
        "BoardModel.load('pi4').perturbed(1)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'numpy', 'scipy', 'power_models', 'rig', 'torch'}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code % str(ROOT)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
