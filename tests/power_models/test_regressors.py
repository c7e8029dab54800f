"""The contract of every candidate, and the parts they are made of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from power_models.families import family_of
from power_models.features import KernelColumns, physical_terms, shape_features
from power_models.fitting import grouped_folds
from power_models.intervals import conformal_quantile
from power_models.regressors import CANDIDATES, make_regressor

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_device import conv, cost, kernels, rows


@pytest.fixture(scope="module")
def convolutions() -> tuple[KernelColumns, np.ndarray]:
    chosen = [spec for spec in kernels(300, 3) if spec.kind == "conv"]
    return KernelColumns.of(chosen), np.log([cost(spec)[0] for spec in chosen])


@pytest.mark.parametrize("name", sorted(CANDIDATES))
def test_candidate(name: str, convolutions: tuple[KernelColumns, np.ndarray]) -> None:
    columns, log_cost = convolutions
    index = np.arange(len(columns))
    train, test = index[index % 4 > 0], index[index % 4 == 0]
    weight = np.ones(len(train))
    made = make_regressor(name, ("conv",)).fit(columns.take(train), log_cost[train], weight)
    predicted = made.predict(columns.take(test))
    assert predicted.shape == test.shape
    assert np.isfinite(predicted).all()
    limit = 0.6 if name == "flops" else 0.12
    assert np.median(np.abs(predicted - log_cost[test])) < limit
    arrays = made.to_arrays()
    assert all(array.dtype != object for array in arrays.values())
    again = make_regressor(name, ("conv",)).from_arrays(arrays)
    np.testing.assert_allclose(again.predict(columns.take(test)), predicted, rtol=1e-12)


def test_unknown_candidate_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="roofline_gp"):
        make_regressor("oracle", ("conv",))


def test_columns_agree_with_the_record() -> None:
    chosen = kernels(50, 4)
    columns = KernelColumns.of(chosen)
    np.testing.assert_allclose(columns.macs, [spec.macs for spec in chosen])
    np.testing.assert_allclose(columns.weight_bytes, [spec.weight_bytes for spec in chosen])
    moved = [spec.input_bytes + spec.output_bytes + spec.weight_bytes for spec in chosen]
    np.testing.assert_allclose(columns.bytes_moved, moved)


def test_taking_rows_before_or_after_making_tables_is_the_same() -> None:
    columns, index = KernelColumns.of(kernels(20, 4)), np.array([3, 1, 7], dtype=np.intp)
    kinds = ("add", "conv", "depthwise")
    early = columns.take(index)
    columns.make_tables()
    late = columns.take(index)
    np.testing.assert_array_equal(shape_features(early, kinds), shape_features(late, kinds))
    for a, b in zip(physical_terms(early, kinds), physical_terms(late, kinds), strict=True):
        np.testing.assert_array_equal(a, b)


def test_families_separate_algorithms_and_dtypes() -> None:
    assert family_of(conv(8, 8, 14, kernel=1)) == "conv_1x1/float32"
    assert family_of(conv(8, 8, 14)) == "conv_kxk/float32"
    assert family_of(conv(8, 8, 14, groups=2)) == "conv_grouped/float32"
    assert family_of(conv(8, 8, 1, kernel=1)) == "fc/float32"
    assert family_of(conv(8, 8, 14)._replace(dtype="int8")) == "conv_kxk/int8"


def test_folds_keep_groups_and_equal_kernels_together() -> None:
    some = rows(60, 1)
    grouped = [row._replace(group=f"network {i % 12}") for i, row in enumerate(some)] + [some[0]]
    folds = grouped_folds(grouped, 5)
    assert sorted(np.concatenate(folds).tolist()) == list(range(61))
    fold_of = {int(i): f for f, fold in enumerate(folds) for i in fold}
    for i in range(60):
        assert fold_of[i] == fold_of[i % 12]
    assert fold_of[60] == fold_of[0]


def test_a_group_that_is_most_of_the_rows_is_dealt_out() -> None:
    folds = grouped_folds([row._replace(group="campaign") for row in rows(50, 1)], 5)
    assert {len(fold) for fold in folds} == {10}


def test_conformal_quantile_is_the_finite_sample_one() -> None:
    scores = np.arange(1.0, 100.0)
    assert conformal_quantile(scores) == 95.0
    assert conformal_quantile(np.array([1.0, 2.0])) > 2.0
