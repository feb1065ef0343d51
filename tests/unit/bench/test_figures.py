"""From rounds to figures, and from figures to a verdict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bench.figures import (
    RATIOS,
    TARGETS,
    Figure,
    missed,
    percentile,
    rate,
    read,
    regressions,
    summarise,
    to_json,
)


def figure(value: float, unit: str = "ratio") -> Figure:
    return Figure(value, unit, 5, 1.0)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)]
)
def test_a_percentile_is_one_of_the_values_by_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


def test_the_p99_of_few_values_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_figure_is_the_median_of_its_rounds() -> None:
    rounds = {"deductions_per_s": [rate(100, seconds) for seconds in (1.0, 2.0, 50.0)]}
    assert summarise(rounds) == {"deductions_per_s": Figure(50.0, "1/s", 100, 2.0)}


def test_a_ratio_is_the_median_of_the_ratios_and_not_the_ratio_of_the_medians() -> None:
    # The machine was ten times slower in the second round, for both alike.
    rounds = {
        "deductions_per_s": [rate(200, 1.0), rate(20, 1.0), rate(240, 1.0)],
        "naive_per_s": [rate(2, 1.0), rate(1, 5.0), rate(2, 1.0)],
    }
    found = summarise(rounds)["deductions_to_naive"]
    assert (found.value, found.unit, found.n) == (100.0, "ratio", 3)


def test_a_ratio_needs_both_of_its_figures() -> None:
    assert "deductions_to_naive" not in summarise({"deductions_per_s": [rate(1, 1.0)]})


@pytest.mark.parametrize(
    ("name", "before", "now", "worse"),
    [
        ("deductions_to_copy_limit", 0.20, 0.18, False),
        ("deductions_to_copy_limit", 0.20, 0.17, True),
        ("deductions_to_copy_limit", 0.20, 0.40, False),
        ("decision_p99_to_echo_p99", 2.0, 2.2, False),
        ("decision_p99_to_echo_p99", 2.0, 2.4, True),
        ("decision_p99_to_echo_p99", 2.0, 1.0, False),
    ],
)
def test_a_ratio_that_is_worse_by_more_than_15_percent_is_a_regression(
    name: str, before: float, now: float, *, worse: bool
) -> None:
    found = regressions({name: figure(now)}, {name: figure(before)})
    assert len(found) == worse
    assert all(line.startswith(f"{name}: ") for line in found)


def test_absolute_figures_are_never_regressions_since_machines_differ() -> None:
    now, before = {"deductions_per_s": figure(1.0)}, {"deductions_per_s": figure(1000.0)}
    assert regressions(now, before) == []


def test_what_only_one_of_two_runs_measured_is_not_compared() -> None:
    assert regressions({}, {"deductions_to_naive": figure(100)}) == []
    assert regressions({"deductions_to_naive": figure(100)}, {}) == []


def test_a_target_that_is_not_reached_is_named() -> None:
    results = {"decision_p99_ms": figure(30, "ms"), "deductions_to_naive": figure(150)}
    assert missed(results) == ["decision_p99_ms: 30, wanted <= 25"]


def test_a_run_can_be_read_back(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    results = {"naive_per_s": Figure(12.5, "1/s", 150, 12.0)}
    path.write_text(to_json({"cores": 4}, {"python": "3.11"}, results))
    assert read(path) == results
    assert set(json.loads(path.read_text())) == {"machine", "versions", "results"}
    assert read(tmp_path / "missing.json") == {}


def test_every_target_is_measured_or_a_ratio() -> None:
    ratios = {ratio.name for ratio in RATIOS}
    measured = {name for ratio in RATIOS for name in (ratio.over, ratio.under)}
    gateway = {t.name for t in TARGETS if t.name.startswith("http_")}  # the quick run has them all
    assert {target.name for target in TARGETS} <= ratios | measured | gateway
