"""A whole benchmark run in small: everything is measured and written as other programs read it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.bench.figures import RATIOS, TARGETS

from faregate.streams import NAMES

ROOT = Path(__file__).parents[2]
PROMISED = (
    "deductions_per_s",
    "deductions_hot_account_per_s",
    "naive_per_s",
    "copy_limit_per_s",
    "decision_p50_ms",
    "decision_p99_ms",
    *(f"streams_{name}_per_s" for name in NAMES),
)


@pytest.mark.stack
@pytest.mark.timeout(300)
def test_a_quick_run_writes_every_figure_in_the_promised_format(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--output", str(path)],
        cwd=ROOT,
        check=True,
        timeout=280,
    )
    run = json.loads(path.read_text())
    assert set(run) == {"machine", "versions", "results"}
    assert {"cores", "cpu", "memory_gib", "load_average"} <= set(run["machine"])
    assert {"python", "postgresql", "kafka", "faregate"} <= set(run["versions"])
    results = run["results"]
    assert set(results) >= {*PROMISED, *(r.name for r in RATIOS), *(t.name for t in TARGETS)}
    for figure in results.values():
        assert set(figure) == {"value", "unit", "n", "seconds"}
        assert figure["value"] > 0
        assert figure["n"] > 0
