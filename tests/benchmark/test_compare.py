"""Paired tests against SciPy's own and against hand-made figures; recipes with several seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ifan_plugin.benchmark import compare, page_evidence, plots


def row(name: str, values: list[float | None], *, random: bool = False, group: str | None = None) -> dict:
    images = [{"image": f"s{index}", "psnr": value, "mae": 1.0} for index, value in enumerate(values)]
    there = [value for value in values if value is not None]
    quality = {"set": {"mean": {"psnr": float(np.mean(there))}, "images": images}}
    return {"name": name, "random_weights": random, "group": group, "quality": quality}


def test_a_pair_against_scipys_tests():
    rng = np.random.default_rng(0)
    second = rng.normal(25, 2, 20)
    first = second + rng.normal(0.3, 0.5, 20)
    found = compare.paired(list(first), list(second), more_is_better=True)
    reference = stats.ttest_rel(first, second)
    interval = reference.confidence_interval(0.95)
    assert found["difference"] == pytest.approx((first - second).mean())
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert found["p"] == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert (found["scenes"], found["better"] + found["worse"]) == (20, 20)
    assert found["better"] == (first > second).sum()
    assert compare.paired(list(first), list(second), more_is_better=False)["better"] == found["worse"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0], [1.0], {"scenes": 1, "better": 0, "worse": 0, "difference": 0.0, "interval": None, "p": None}),
        ([2.0], [1.0], {"scenes": 1, "better": 1, "worse": 0, "difference": 1.0, "interval": None, "p": 1.0}),
        ([2.0, 3.0], [1.0, 2.0], {"scenes": 2, "better": 2, "worse": 0, "difference": 1.0, "interval": None, "p": 0.5}),
    ],
)
def test_few_scenes_prove_nothing(first, second, expected):
    assert compare.paired(first, second, more_is_better=True) == expected


def test_holms_correction():
    assert compare.holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert compare.holm([0.9, 0.8]) == [1.0, 1.0]
    assert compare.holm([]) == []


def test_pairs_stand_with_the_better_first_and_without_random_weights():
    values = [20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0, 28.0, 29.0]
    rows = [
        row("worse", values), row("better", [value + 1 + value / 100 for value in values]),
        row("random", values, random=True), row("elsewhere", [None] * 9 + [30.0]),
    ]  # fmt: skip
    found = compare.comparisons(rows, {"set": {"psnr": True}, "other": {"psnr": True}})
    assert [(pair["first"], pair["second"], pair["scenes"]) for pair in found] == [
        ("better", "worse", 10), ("elsewhere", "worse", 1), ("better", "elsewhere", 1),
    ]  # fmt: skip
    assert found[0]["better"] == 10
    assert found[0]["holm"] == pytest.approx(3 * found[0]["p"])
    assert compare.verdict(found[0]) == "better is better than worse on 10 of 10 scenes"
    assert compare.verdict(found[1]).endswith("on 1 of 1 scenes: too few to tell from chance")
    errors = compare.comparisons(rows[:2], {"set": {"mae": False}})
    assert compare.verdict(errors[0]) == "worse and better are equal on all 10 scenes"


def test_seeds_of_one_recipe_give_mean_and_deviation():
    rows = [
        row("a", [20.0, 22.0], group="mine"), row("b", [21.0, 23.0], group="mine"), row("c", [25.0, 25.0]),
        row("d", [1.0, 1.0], group="mine", random=True), row("e", [1.0, 1.0], group="alone"),
    ]  # fmt: skip
    found = compare.repeated(rows, ["set"])
    assert [(group["group"], group["rows"]) for group in found] == [("mine", ["a", "b"])]
    assert found[0]["quality"]["set"]["psnr"] == pytest.approx([21.5, 0.5**0.5])


def test_a_recipe_with_seeds_is_one_point_with_a_bar():
    rows = [row("a", [20.0, 22.0], group="mine"), row("b", [21.0, 23.0], group="mine"), row("c", [25.0, 25.0])]
    rows = [{**each, "latency_s": 2.0} for each in rows]
    report = {"groups": compare.repeated(rows, ["set"])}
    psnr = {each["name"]: each["quality"]["set"]["mean"]["psnr"] for each in rows}
    found = page_evidence.measured_points(report, rows, psnr, "set", "latency_s")
    assert found == [("mine", 2.0, 21.5, pytest.approx(0.5**0.5)), ("c", 2.0, 25.0, 0.0)]
    points = [plots.Point(name, cost, value, spread=spread) for name, cost, value, spread in found]
    svg = plots.scatter(points, "latency (s)", "PSNR (dB)", "a plot")
    assert svg.count('<path class="axis"') == 2  # the axes, and the bar of the one
    assert "mine: 2, 21.5 ± 0.71" in svg
