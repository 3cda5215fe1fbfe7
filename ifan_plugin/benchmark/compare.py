"""Which of two models is better, scene by scene; and what training with several seeds says of a recipe."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from ifan_plugin.benchmark.cells import is_finite

LEVEL = 0.05
"""Of the tests: a smaller p-value, corrected for the number of pairs (Holm), counts as a difference."""

FEWEST = 6
"""Scenes from which on Wilcoxon's test can fall below that level: its smallest p-value is 2 / 2^n."""


def paired(first: Sequence[float], second: Sequence[float], *, more_is_better: bool) -> dict[str, Any]:
    """Two models' figures on the same scenes.

    Args:
        first, second: a figure a scene, in the same order; at least one scene.
        more_is_better: false for errors.

    Returns:
        ``scenes``, ``better``, ``worse`` (on how many the first is so), ``difference`` (mean of first - second),
        ``interval`` (95 % confidence of that mean, Student's t; None for one scene or equal differences) and ``p``
        (Wilcoxon's signed-rank test, two-sided; None where all differences are nought).
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    signs = np.sign(differences) * (1 if more_is_better else -1)
    count, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    half = float(stats.t.ppf(0.975, count - 1)) * error if error > 0 else None
    return {
        "scenes": count, "better": int((signs > 0).sum()), "worse": int((signs < 0).sum()), "difference": mean,
        "interval": None if half is None else [mean - half, mean + half],
        "p": float(stats.wilcoxon(differences).pvalue) if differences.any() else None,
    }  # fmt: skip


def comparisons(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Mapping[str, bool]]) -> list[dict[str, Any]]:
    """Each pair of models on each test set, the better one first.

    Args:
        rows: of a report; those with random weights are left out.
        metrics: test set -> metric -> whether more is better.

    Returns:
        What :func:`paired` gives with ``dataset``, ``metric``, ``first``, ``second``, and ``holm``: the p-value
        corrected for the number of pairs of that test set and metric.
    """
    found = []
    for dataset, wanted in metrics.items():
        for metric, more in wanted.items():
            pairs = []
            for one, other in itertools.combinations(rows, 2):
                values = _common(one, other, dataset, metric)
                if values is None:
                    continue
                pair = paired(*values, more_is_better=more)
                first, second = one["name"], other["name"]
                if (pair["difference"] > 0) != more and pair["difference"] != 0:
                    first, second = second, first
                    pair = paired(values[1], values[0], more_is_better=more)
                pairs.append({"dataset": dataset, "metric": metric, "first": first, "second": second, **pair})
            for pair, corrected in zip(pairs, holm([pair["p"] for pair in pairs])):
                found.append({**pair, "holm": corrected})
    return found


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number by Holm's method; None stays."""
    order = sorted((value, index) for index, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, index) in enumerate(order):
        largest = max(largest, min(1.0, value * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def verdict(pair: Mapping[str, Any]) -> str:
    """One line: which is better, on how many scenes, and whether that could be chance."""
    better = f"{pair['first']} is better than {pair['second']} on {pair['better']} of {pair['scenes']} scenes"
    if pair["holm"] is None:
        return f"{pair['first']} and {pair['second']} are equal on all {pair['scenes']} scenes"
    if pair["scenes"] < FEWEST:
        return f"{better}: too few to tell from chance"
    return better if pair["holm"] < LEVEL else f"{better}, which may be chance"


def repeated(rows: Sequence[Mapping[str, Any]], datasets: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of one recipe with several seeds, put together.

    Returns:
        For each group of two rows or more: ``group``, ``rows`` (names) and ``quality``: test set -> metric -> mean and
        standard deviation (n - 1) of the rows' figures.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("group") is not None and not row["random_weights"]:
            members.setdefault(row["group"], []).append(row)
    found = []
    for group, among in members.items():
        if len(among) < 2:
            continue
        quality: dict[str, dict[str, list[float]]] = {}
        for dataset in datasets:
            means = [row["quality"][dataset]["mean"] for row in among if dataset in row["quality"]]
            for metric in {metric: None for mean in means for metric in mean}:
                values = [mean[metric] for mean in means if is_finite(mean.get(metric))]
                if len(values) > 1:
                    quality.setdefault(dataset, {})[metric] = [statistics.mean(values), statistics.stdev(values)]
        found.append({"group": group, "rows": [row["name"] for row in among], "quality": quality})
    return found


def _common(
    one: Mapping[str, Any], other: Mapping[str, Any], dataset: str, metric: str
) -> tuple[list[float], list[float]] | None:
    """The figures of the scenes that both have; None where there are none, or a row's weights are random."""
    if one["random_weights"] or other["random_weights"]:
        return None
    both = [
        {image["image"]: image.get(metric) for image in row["quality"].get(dataset, {}).get("images", ())}
        for row in (one, other)
    ]
    keys = [key for key in both[0] if is_finite(both[0][key]) and is_finite(both[1].get(key))]
    return ([both[0][key] for key in keys], [both[1][key] for key in keys]) if keys else None
