"""Memory counted by hand on small kernel lists and on a real export; peak memory of a stretch of work."""

import numpy as np
import pytest

from device_agents.records import KernelSpec
from power_models.kernels import KernelNode
from rig.compression.export import save_checked
from rig.compression.footprint import PeakMemory, footprint, footprint_of_file, peak_activation_bytes
from rig.errors import BadInputError

CONV = KernelSpec("conv", 1, 4, 8, 8, 4, 8, 8, 3, 3, 1, 1, fused="relu")
TENSOR = 4 * 8 * 8 * 4  # bytes of four channels of 8 × 8 floats


def node(spec, *inputs, weight=None):
    return KernelNode(spec, "n", inputs, weight, spec.kind)


def test_a_chain_holds_two_tensors():
    chain = [node(CONV, -1, weight="a"), node(CONV, 0, weight="b"), node(CONV, 1, weight="c")]
    assert peak_activation_bytes(chain) == 2 * TENSOR


def test_a_shortcut_holds_a_third():
    fused = CONV._replace(fused="add+relu")
    block = [node(CONV, -1, weight="a"), node(CONV, 0, weight="b"), node(fused, 1, 0, weight="c")]
    assert peak_activation_bytes(block) == 3 * TENSOR


def test_an_input_that_is_read_late_stays():
    add = KernelSpec("add", 1, 4, 8, 8, 4, 8, 8, inputs=2)
    assert peak_activation_bytes([node(CONV, -1), node(CONV, 0), node(add, 1, -1)]) == 3 * TENSOR


def test_outputs_stay_and_views_take_nothing():
    view = KernelSpec("view", 1, 4, 8, 8, 4, 8, 8)
    two_heads = [node(CONV, -1), node(CONV, 0), node(CONV, 0)]  # the first head is an output: it stays
    assert peak_activation_bytes(two_heads) == 3 * TENSOR
    assert peak_activation_bytes([node(CONV, -1), node(view, 0), node(CONV, 1)]) == 2 * TENSOR


def test_a_shared_weight_counts_once():
    counted = footprint([node(CONV, -1, weight="w"), node(CONV, 0, weight="w")])
    assert counted.weight_bytes == 4 * 4 * 9 * 4 + 4 * 4
    assert counted.params == 4 * 4 * 9 + 4
    assert counted.macs == 2 * CONV.macs


def test_int8_weights_have_four_byte_biases():
    counted = footprint([node(CONV._replace(dtype="int8"), -1, weight="w")])
    assert (counted.params, counted.weight_bytes) == (4 * 4 * 9 + 4, 4 * 4 * 9 + 16)


def test_a_real_network(network, tmp_path):
    """The stem and the first block of tests/stairs.py: input, two tensors of the first stage beside the sum."""
    from stairs import INPUT

    path = tmp_path / "net.onnx"
    save_checked(network, INPUT, path)
    counted = footprint_of_file(path, "virtual")
    weights = sum(p.numel() for name, p in network.named_parameters() if p.dim() > 1)
    assert weights < counted.params < sum(p.numel() for p in network.parameters())  # batch-norm folded into biases
    assert counted.weight_bytes == 4 * counted.params
    stage = network.conv1.out_channels * INPUT[1] * INPUT[2] * 4
    assert counted.peak_activation_bytes == 3 * stage


def test_a_runtime_without_rules_is_named(tmp_path):
    with pytest.raises(BadInputError, match="no kernel rules for runtime 'abacus'"):
        footprint_of_file(tmp_path / "x.onnx", "abacus")


def test_peak_memory_sees_what_was_freed_again():
    with PeakMemory() as quiet:
        pass
    with PeakMemory() as busy:
        taken = np.ones(30_000_000)  # 240 MB
        del taken
    assert busy.of == quiet.of
    if busy.of == "process":  # elsewhere the mark cannot be set back
        with PeakMemory() as after:
            pass
        assert busy.peak_bytes - quiet.peak_bytes > 200e6
        assert busy.peak_bytes - after.peak_bytes > 200e6
    assert busy.facts() == {"peak_memory_bytes": busy.peak_bytes, "peak_memory_of": busy.of}


def test_peak_memory_without_the_mark_is_that_of_the_process(tmp_path):
    with PeakMemory(proc=tmp_path / "nothing") as peak:
        pass
    assert peak.of == "process since it began"
    assert peak.peak_bytes > 10e6


def test_the_mark_is_read_in_kibibytes(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t  2048 kB\n")
    (tmp_path / "clear_refs").write_text("")
    with PeakMemory(proc=tmp_path) as peak:
        pass
    assert (peak.peak_bytes, peak.of) == (2048 * 1024, "process")
    assert (tmp_path / "clear_refs").read_text() == "5"


class Card:
    """What torch.cuda answers of its allocator."""

    def __init__(self, allocated):
        self.allocated, self.resets = allocated, 0

    def reset_peak_memory_stats(self):
        self.resets += 1

    def max_memory_allocated(self):
        return self.allocated


def test_on_a_gpu_it_is_what_torch_allocated_there():
    card = Card(5_000_000)
    with PeakMemory(cuda=card) as peak:
        pass
    assert (peak.facts(), card.resets) == ({"peak_memory_bytes": 5_000_000, "peak_memory_of": "gpu"}, 1)


def test_a_gpu_that_was_not_used_does_not_count():
    with PeakMemory(cuda=Card(0)) as peak:
        pass
    assert peak.of.startswith("process")
    assert peak.peak_bytes > 10e6
