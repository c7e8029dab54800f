"""Boosted regression trees: grown by scikit-learn, kept as flat arrays, evaluated by numpy for all rows at once.

Two ways to grow them: exact splits and few trees (``BoostedTrees``) where rows are few, histograms of the features and
many trees (``HistogramTrees``) where they are thousands.
"""

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


class HistogramTrees:
    """Gradient boosting on binned features (Ke et al. 2017, LightGBM): thousands of rows in seconds.

    State: ``feature``, ``threshold``, ``child`` (the left child; the right one follows it; a leaf is its own child and
    its threshold infinite), ``value`` (0 but in leaves) over all nodes of all trees, ``root`` and ``base``.
    """

    def __init__(self, trees: int = 160, rate: float = 0.1, leaves: int = 20, least: int = 8, depth: int = 7) -> None:
        self.settings = {
            "max_iter": trees,
            "learning_rate": rate,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": least,
            "max_depth": depth,
            "max_features": 0.3,  # each split sees some of the features: many of them say nearly the same
            "max_bins": 128,
        }
        self.arrays_: dict[str, NDArray[np.generic]] = {}
        self.depth_ = 0

    def fit(self, features: Floats, target: Floats, weight: Floats, loss: str = "squared_error") -> HistogramTrees:
        """Fit to features (n, d), target (n,), weight (n,); ``loss`` as scikit-learn names it."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        # Weighted quantiles of every feature take longer than the trees: where all rows weigh alike, none are given.
        given = None if np.ptp(weight) <= 1e-12 * weight.max() else weight
        grown = HistGradientBoostingRegressor(
            loss=loss, l2_regularization=1.0, early_stopping=False, random_state=0, **self.settings
        ).fit(features, target, sample_weight=given)
        parts: list[dict[str, NDArray[np.generic]]] = []
        roots, offset = [], 0
        for (predictor,) in grown._predictors:
            parts.append(_side_by_side(predictor.nodes, offset))
            roots.append(offset)
            offset += len(predictor.nodes)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        base = np.asarray(grown._baseline_prediction, dtype=np.float64).reshape(-1)
        return self.from_arrays(arrays | {"root": np.array(roots, np.int32), "base": base})

    def predict(self, features: Floats) -> Floats:
        """Values (n,) of features (n, d)."""
        rows, width = features.shape
        flat, first = np.ascontiguousarray(features).ravel(), (np.arange(rows) * width)[:, None]
        node = np.broadcast_to(self._root, (rows, len(self._root)))
        for _ in range(self.depth_):
            node = self._child[node] + (flat[first + self._feature[node]] > self._threshold[node])
        result: Floats = self._value[node].sum(axis=1) + self._base
        return result

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The flat arrays."""
        return dict(self.arrays_)

    def from_arrays(self, arrays: Mapping[str, NDArray[np.generic]]) -> HistogramTrees:
        """Take over flat arrays; returns self."""
        self.arrays_ = {name: np.asarray(value) for name, value in arrays.items()}
        # What ``predict`` indexes with is kept in the machine's own index type: else every step would convert it.
        self._feature, self._child, self._root = (self.arrays_[k].astype(np.intp) for k in ("feature", "child", "root"))
        self._threshold, self._value = (self.arrays_[k].astype(np.float64) for k in ("threshold", "value"))
        self._base = float(np.asarray(self.arrays_["base"], dtype=np.float64)[0])
        self.depth_, level = 0, self._root
        while len(level := level[self._child[level] != level]):
            level = np.concatenate([self._child[level], self._child[level] + 1])
            self.depth_ += 1
        return self


def _side_by_side(nodes: NDArray[np.void], offset: int) -> dict[str, NDArray[np.generic]]:
    """One grown tree, its nodes renumbered level by level so that the two children of a node are neighbours."""
    order, position = [0], 0
    child = np.arange(len(nodes))
    while position < len(order):
        node = nodes[order[position]]
        if not node["is_leaf"]:
            child[position] = len(order)
            order += [int(node["left"]), int(node["right"])]
        position += 1
    own = nodes[np.array(order, dtype=np.intp)]
    leaf = own["is_leaf"].astype(bool)
    return {
        "feature": np.where(leaf, 0, own["feature_idx"]).astype(np.int32),
        "threshold": np.where(leaf, np.inf, own["num_threshold"]).astype(np.float64),
        "child": (child + offset).astype(np.int32),
        "value": np.where(leaf, own["value"], 0.0).astype(np.float64),
    }
