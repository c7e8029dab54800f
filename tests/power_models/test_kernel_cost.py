"""The cost model on a device whose costs are known."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from device_agents.records import KernelSpec
from power_models.kernel_cost import KernelCostModel, MixedConfigurations, UnpricedKernel
from power_models.network_cost import price_network
from power_models.validate import predict_rows, summarize

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import BLOCK, CONFIGURATION, conv, cost, kernels, rows


@pytest.fixture(scope="module")
def model() -> KernelCostModel:
    return KernelCostModel.fit(
        rows(110, 1), CONFIGURATION, "simulated", idle_power_w=(2.9, 2.85, 2.95), overhead=(1e-4, 2e-4)
    )


def test_held_out_kernels_are_within_five_percent_and_covered(model: KernelCostModel) -> None:
    for predictions in predict_rows(model, rows(200, 2)).values():
        summary = summarize(predictions)
        assert summary.median < 0.05
        assert 0.88 <= summary.coverage <= 1.0
        assert summary.width < 1.6


def test_the_channel_steps_of_the_device_are_kept(model: KernelCostModel) -> None:
    costs = model.predict([conv(64, c, 28) for c in range(33, 65)]).latency_s
    rises = np.diff(np.log(costs))
    at_a_block = np.array([c % BLOCK == 0 for c in range(33, 64)])
    assert rises[at_a_block].min() > 2 * np.abs(rises[~at_a_block]).max()


def test_a_saved_model_predicts_the_same_numbers(model: KernelCostModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = KernelCostModel.load(tmp_path)
    assert loaded.configuration == CONFIGURATION
    assert loaded.idle_power_w == (2.9, 2.85, 2.95)
    mine, theirs = model.predict(kernels(30, 5)), loaded.predict(kernels(30, 5))
    for name in ("latency_s", "latency_lo_s", "latency_hi_s", "energy_j", "energy_lo_j", "energy_hi_j"):
        np.testing.assert_allclose(getattr(mine, name), getattr(theirs, name), rtol=1e-12)
    assert mine.chosen == theirs.chosen


def test_loading_and_predicting_import_neither_scikit_learn_nor_scipy(model: KernelCostModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    program = (
        "import sys; from power_models.kernel_cost import KernelCostModel; from power_models.network_cost import"
        " price_network; from device_agents.records import KernelSpec;"
        f"m = KernelCostModel.load({str(tmp_path)!r});"
        "price_network(m, [KernelSpec('conv', 1, 16, 8, 8, 16, 8, 8, 3, 3, 1, 1)]);"
        "bad = [n for n in ('sklearn', 'scipy', 'torch', 'onnx') if n in sys.modules]; sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_kind_that_was_never_measured_has_no_price(model: KernelCostModel) -> None:
    unknown = KernelSpec("softmax", 1, 10, 1, 1, 10, 1, 1)
    with pytest.raises(UnpricedKernel, match=r"softmax.*node head/probabilities.*add/float32"):
        model.predict([conv(16, 16, 8), unknown], ["conv1", "head/probabilities"])


def test_a_dtype_that_was_never_measured_has_no_price(model: KernelCostModel) -> None:
    with pytest.raises(UnpricedKernel, match="conv/int8"):
        model.predict([conv(16, 16, 8)._replace(dtype="int8")])


def test_a_form_never_measured_is_priced_wide_and_flagged(model: KernelCostModel) -> None:
    costs = model.predict([conv(64, 64, 14, kernel=1)])
    assert costs.extrapolated.all()
    assert costs.latency_hi_s[0] / costs.latency_lo_s[0] > 1.3


def test_rows_of_another_configuration_are_refused() -> None:
    some = rows(10, 1)
    some[3] = some[3]._replace(configuration=CONFIGURATION._replace(threads=1))
    with pytest.raises(MixedConfigurations, match="threads: 4 here, 1 in the row"):
        KernelCostModel.fit(some, CONFIGURATION, "simulated")


def test_no_usable_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of 2 rows"):
        KernelCostModel.fit([row._replace(latency_s=-1.0) for row in rows(2, 1)], CONFIGURATION, "simulated")


def test_rows_without_energy_give_a_latency_model() -> None:
    bare = [row._replace(energy_active_j=None, energy_se_j=None) for row in rows(12, 1)]
    costs = KernelCostModel.fit(bare, CONFIGURATION, "measured").predict(kernels(5, 3))
    assert np.isfinite(costs.latency_s).all()
    assert np.isnan(costs.energy_j).all()


def test_rows_lost_in_noise_are_listed() -> None:
    some = rows(12, 1)
    some[0] = some[0]._replace(energy_active_j=-1e-9)
    fitted = KernelCostModel.fit(some, CONFIGURATION, "measured")
    assert len(fitted.unusable) == 1
    assert "not positive" in fitted.unusable[0]


def test_a_handful_of_rows_is_enough_for_a_wide_model() -> None:
    few = KernelCostModel.fit(rows(8, 1), CONFIGURATION, "measured")
    costs = few.predict(kernels(20, 2))
    assert np.isfinite(costs.latency_s).all()
    assert np.isfinite(few.predict([conv(4096, 4096, 64)]).latency_s).all()


def test_one_row_of_a_kind_far_from_all_others_is_unsure_but_not_absurdly() -> None:
    lone = KernelSpec("lrn", 1, 64, 14, 14, 64, 14, 14, 5, 1)
    members = rows(60, 1)
    members.append(members[-1]._replace(kernel=lone, latency_s=3e-4, energy_active_j=4e-4, group="lone"))
    model = KernelCostModel.fit(members, CONFIGURATION, "simulated")
    costs = model.predict([lone._replace(in_channels=512, out_channels=512, in_height=56, out_height=56)])
    for value, lo, hi in (
        (costs.latency_s, costs.latency_lo_s, costs.latency_hi_s),
        (costs.energy_j, costs.energy_lo_j, costs.energy_hi_j),
    ):
        assert 1.5 < hi[0] / value[0] < 20.01
        assert 1.5 < value[0] / lo[0] < 20.01


def test_far_outside_the_rows_cost_grows_with_work_and_is_flagged(model: KernelCostModel) -> None:
    costs = model.predict([conv(512, 512, 32), conv(2048, 2048, 32)])
    assert costs.extrapolated[1]
    ratio = costs.latency_s[1] / costs.latency_s[0]
    true = cost(conv(2048, 2048, 32))[0] / cost(conv(512, 512, 32))[0]
    assert 0.6 * true < ratio < 1.6 * true
    widths = costs.latency_hi_s / costs.latency_lo_s
    assert widths[1] > widths[0]


def test_an_older_or_damaged_model_is_refused(model: KernelCostModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | {"format_version": 99}))
    with pytest.raises(ValueError, match="format version 99"):
        KernelCostModel.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(about))
    (tmp_path / "arrays.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="calibrate the device again"):
        KernelCostModel.load(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        KernelCostModel.load(tmp_path / "nowhere")


def test_ten_thousand_kernels_are_one_table(model: KernelCostModel) -> None:
    table = [conv(a, b, 14) for a in range(1, 101) for b in range(1, 101)]
    started = time.process_time()
    model.predict(table)
    assert time.process_time() - started < 1.0  # half a second on an idle core


class TestNetwork:
    def test_a_network_is_the_sum_of_its_kernels_and_the_overhead(self, model: KernelCostModel) -> None:
        chosen = kernels(30, 7)
        costs, network = model.predict(chosen), price_network(model, chosen)
        assert network.latency_s[0] == pytest.approx(costs.latency_s.sum() + 1e-4)
        assert network.energy_j[0] == pytest.approx(costs.energy_j.sum() + 2e-4)
        np.testing.assert_allclose(network.kernels.latency_s, costs.latency_s)

    def test_many_different_kernels_are_surer_than_one_of_them_repeated(self, model: KernelCostModel) -> None:
        chosen = kernels(40, 8)
        costs, network = model.predict(chosen), price_network(model, chosen)
        alone = float((costs.latency_s @ np.log(costs.latency_hi_s / costs.latency_lo_s)) / costs.latency_s.sum())
        assert np.log(network.latency_s[2] / network.latency_s[1]) < 0.9 * alone
        repeated = price_network(model, [chosen[0]] * 40).latency_s
        one = float(np.log(costs.latency_hi_s[0] / costs.latency_lo_s[0]))
        assert np.log(repeated[2] / repeated[1]) > 0.7 * one

    def test_networks_are_covered(self, model: KernelCostModel) -> None:
        inside = []
        for seed in range(100, 160):
            chosen = kernels(25, seed)
            network = price_network(model, chosen)
            seconds = sum(cost(spec)[0] for spec in chosen) + 1e-4
            inside.append(network.latency_s[1] <= seconds <= network.latency_s[2])
            assert abs(network.latency_s[0] / seconds - 1) < 0.06
        assert np.mean(inside) >= 0.85

    def test_power_at_a_rate_and_flat_out(self, model: KernelCostModel) -> None:
        network = price_network(model, kernels(30, 7))
        fps = 0.5 / network.latency_s[0]
        value, low, high = network.power_w(fps)
        assert low < value < high
        assert value == pytest.approx(2.9 + fps * network.energy_j[0])
        assert network.power_w()[0] == pytest.approx(2.9 + network.energy_j[0] / network.latency_s[0])
        with pytest.raises(ValueError, match="lower the rate"):
            network.power_w(2.0 / network.latency_s[0])

    def test_an_empty_network_has_no_price(self, model: KernelCostModel) -> None:
        with pytest.raises(ValueError, match="no kernels"):
            price_network(model, [])
