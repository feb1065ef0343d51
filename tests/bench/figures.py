"""What a run found, how rounds become figures, and how a run is compared with an earlier one.

Pure: nothing here measures. A figure is the median of its rounds; a ratio is the median of the
ratios of the rounds, since the two things that it compares ran side by side in each of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any, Literal

TOLERANCE = 0.15
"""A ratio that is worse by more than this is a regression."""

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one round measured, or the median of all: `n` events or requests took `seconds`.

    `results` of the written file holds exactly these fields.
    """

    value: float
    unit: str
    n: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Two figures of the same run, divided."""

    name: str
    over: str
    under: str
    better: Better = "higher"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure is to reach: at least, or (`lower`) at most, `bound`."""

    name: str
    bound: float
    better: Better = "higher"

    def met(self, value: float) -> bool:
        """Tell whether `value` is good enough."""
        return value >= self.bound if self.better == "higher" else value <= self.bound


RATIOS = (
    Ratio("deductions_to_copy_limit", "deductions_per_s", "copy_limit_per_s"),
    Ratio("deductions_to_copy_of_new_rows", "deductions_per_s", "copy_of_new_rows_per_s"),
    Ratio("deductions_to_rival", "deductions_per_s", "rival_per_s"),
    Ratio("deductions_to_naive", "deductions_per_s", "naive_per_s"),
    Ratio("rich_to_copy_limit", "rich_deductions_per_s", "rich_copy_limit_per_s"),
    Ratio("rich_to_naive", "rich_deductions_per_s", "naive_per_s"),
    Ratio("rich_to_deductions", "rich_deductions_per_s", "deductions_per_s"),
    Ratio("deductions_to_echo", "deductions_per_s", "echo_per_s"),
    Ratio("hot_account_to_many", "deductions_hot_account_per_s", "deductions_per_s"),
    Ratio("deductions_10m_keys_to_empty", "deductions_10m_keys_per_s", "deductions_per_s"),
    Ratio("store_10m_keys_to_empty", "store_10m_keys_per_s", "store_per_s"),
    Ratio("decision_p99_to_echo_p99", "decision_p99_ms", "echo_p99_ms", "lower"),
    Ratio("pairs_to_copy_limit", "reserve_settle_pairs_per_s", "copy_limit_per_s"),
    Ratio("http_check_to_noop", "http_check_per_s", "http_noop_per_s"),
    Ratio("http_deduct_to_noop", "http_deduct_per_s", "http_noop_per_s"),
    Ratio("http_hold_calls_to_noop", "http_hold_calls_per_s", "http_noop_per_s"),
    Ratio("http_pairs_to_pairs", "http_pairs_per_s", "reserve_settle_pairs_per_s"),
)

TARGETS = (
    Target("deductions_to_copy_limit", 0.15),
    Target("deductions_to_naive", 100),
    Target("rich_to_copy_limit", 0.12),
    Target("rich_to_naive", 100),
    Target("deductions_10m_keys_to_empty", 0.6),
    Target("store_10m_keys_to_empty", 0.6),
    Target("decision_p99_ms", 25, "lower"),
    Target("decision_p99_to_echo_p99", 3, "lower"),
    Target("reserve_settle_pairs_per_s", 8000),
    Target("http_hold_calls_per_s", 2000),
    Target("http_pairs_per_s", 2900),
    Target("http_hold_p99_ms", 20, "lower"),
    Target("http_hold_beside_p99_ms", 20, "lower"),
    Target("http_deduct_p95_ms", 50, "lower"),
    Target("http_tracking_p95_ms", 20, "lower"),
    Target("http_org_check_p95_ms", 30, "lower"),
    Target("http_byok_detection_p95_ms", 10, "lower"),
    Target("http_sign_in_p95_ms", 300, "lower"),
    Target("http_register_account_ms", 50, "lower"),
)


def percentile(values: Sequence[float], percent: float) -> float:
    """Give the nearest-rank percentile: a value that was measured. Raises ValueError on nothing."""
    if not values:
        raise ValueError("no values, no percentile")
    rank = ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def rate(n: int, seconds: float) -> Figure:
    """Give the sample of a round that did `n` things in `seconds`."""
    return Figure(n / seconds, "1/s", n, seconds)


def summarise(rounds: Mapping[str, Sequence[Figure]]) -> dict[str, Figure]:
    """Turn the samples of all rounds into figures, the ratios among them included."""
    figures = {name: _middle(samples) for name, samples in rounds.items() if samples}
    for ratio in RATIOS:
        over, under = rounds.get(ratio.over, ()), rounds.get(ratio.under, ())
        values = [a.value / b.value for a, b in zip(over, under, strict=False) if b.value]
        if values:
            spent = sum(a.seconds + b.seconds for a, b in zip(over, under, strict=False))
            figures[ratio.name] = Figure(median(values), "ratio", len(values), spent)
    return figures


def _middle(samples: Sequence[Figure]) -> Figure:
    first = samples[0]
    return Figure(
        median(s.value for s in samples), first.unit, first.n, median(s.seconds for s in samples)
    )


def regressions(now: Mapping[str, Figure], baseline: Mapping[str, Figure]) -> list[str]:
    """Name each ratio that is worse than in the baseline by more than TOLERANCE."""
    found = []
    for ratio in RATIOS:
        if ratio.name not in now or ratio.name not in baseline:
            continue
        value, before = now[ratio.name].value, baseline[ratio.name].value
        worse = before / value - 1 if ratio.better == "higher" else value / before - 1
        if worse > TOLERANCE:
            found.append(
                f"{ratio.name}: {value:.3g} was {before:.3g} ({ratio.better} is better, "
                f"worse by {worse:.0%})"
            )
    return found


def missed(figures: Mapping[str, Figure]) -> list[str]:
    """Name each target that was measured and not reached."""
    return [
        f"{t.name}: {figures[t.name].value:.3g}, wanted {'>=' if t.better == 'higher' else '<='} "
        f"{t.bound:g}"
        for t in TARGETS
        if t.name in figures and not t.met(figures[t.name].value)
    ]


def to_json(
    machine: Mapping[str, Any], versions: Mapping[str, str], figures: Mapping[str, Figure]
) -> str:
    """Write a run in the format that other programs read (contract, last paragraph)."""
    results = {name: asdict(figure) for name, figure in figures.items()}
    return json.dumps({"machine": machine, "versions": versions, "results": results}, indent=2)


def read(path: Path) -> dict[str, Figure]:
    """Read the results of an earlier run; nothing when there is no such file."""
    if not path.exists():
        return {}
    return {name: Figure(**f) for name, f in json.loads(path.read_text())["results"].items()}
