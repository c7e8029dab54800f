"""Boosted regression trees: grown by scikit-learn, kept as flat arrays, evaluated by numpy for all rows at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from power_models.features import Floats


class BoostedTrees:
    """Gradient boosting (Friedman 2001) with shallow trees and subsampling.

    State: ``feature`` (−1 in a leaf), ``threshold``, ``left``, ``right``, ``value`` over all nodes of all trees,
    and ``root``: the index of each tree's first node.
    """

    TREES, DEPTH, RATE, SUBSAMPLE, LEAF = 60, 3, 0.15, 0.7, 3

    def __init__(self) -> None:
        self.arrays_: dict[str, NDArray[np.generic]] = {}
        self.depth_ = 0

    def fit(self, features: Floats, target: Floats, weight: Floats) -> BoostedTrees:
        """Fit to features (n, d), target (n,), weight (n,)."""
        from sklearn.ensemble import GradientBoostingRegressor  # type: ignore[import-untyped, unused-ignore]

        grown = GradientBoostingRegressor(
            n_estimators=self.TREES,
            max_depth=self.DEPTH,
            learning_rate=self.RATE,
            subsample=self.SUBSAMPLE,
            min_samples_leaf=self.LEAF,
            random_state=0,
        ).fit(features, target, sample_weight=weight)
        base = float(grown.init_.predict(features[:1])[0])
        fields: dict[str, list[NDArray[np.generic]]] = {
            k: [] for k in ("feature", "threshold", "left", "right", "value")
        }
        roots, offset = [], 0
        for estimator in grown.estimators_[:, 0]:
            tree = estimator.tree_
            leaf = tree.children_left < 0
            own = np.arange(tree.node_count)
            fields["feature"].append(np.where(leaf, -1, tree.feature).astype(np.int32))
            fields["threshold"].append(tree.threshold.astype(np.float64))
            fields["left"].append((np.where(leaf, own, tree.children_left) + offset).astype(np.int32))
            fields["right"].append((np.where(leaf, own, tree.children_right) + offset).astype(np.int32))
            fields["value"].append(self.RATE * tree.value[:, 0, 0])
            roots.append(offset)
            offset += tree.node_count
        arrays = {name: np.concatenate(parts) for name, parts in fields.items()}
        return self.from_arrays(arrays | {"root": np.array(roots, np.int32), "base": np.array([base])})

    def predict(self, features: Floats) -> Floats:
        """Values (n,) of features (n, d)."""
        # The trees were grown on single precision: compare in it, or rows on a threshold fall on the wrong side.
        table = features.astype(np.float32).astype(np.float64)
        feature, threshold = self.arrays_["feature"], self.arrays_["threshold"]
        left, right = self.arrays_["left"], self.arrays_["right"]
        node = np.broadcast_to(self.arrays_["root"], (len(table), len(self.arrays_["root"]))).copy()
        rows = np.arange(len(table))[:, None]
        for _ in range(self.depth_):
            goes_left = table[rows, feature[node]] <= threshold[node]  # a leaf's children are itself
            node = np.where(goes_left, left[node], right[node])
        result: Floats = self.arrays_["value"][node].sum(axis=1) + self.arrays_["base"][0]
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The flat arrays."""
        return dict(self.arrays_)

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> BoostedTrees:
        """Take over flat arrays; returns self."""
        self.arrays_ = {name: np.asarray(value) for name, value in arrays.items()}
        self.depth_ = self._deepest()
        return self

    def _deepest(self) -> int:
        feature = np.asarray(self.arrays_["feature"], dtype=np.int64)
        level, depth = np.asarray(self.arrays_["root"], dtype=np.int64), 0
        while True:
            level = level[feature[level] >= 0]
            if not len(level):
                return depth
            level = np.concatenate([self.arrays_["left"][level], self.arrays_["right"][level]])
            depth += 1
