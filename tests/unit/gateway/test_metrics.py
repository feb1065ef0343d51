"""All metrics are in one list, each with a comment, and the documents have the same list."""

from __future__ import annotations

import ast
import re
from typing import Any

from tests.tidy.repository import ROOT

from faregate.gateway.metrics import Metrics

ROW = re.compile(r"^\| `(faregate_\w+)` \| (.*?) \| (.+) \|$", re.MULTILINE)
SOURCE = ROOT / "gateway/faregate/gateway/metrics.py"


def documented() -> dict[str, set[str]]:
    """Names and labels, as docs/operations.md has them."""
    rows = ROW.findall((ROOT / "docs/operations.md").read_text())
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels, _ in rows}


def test_what_is_exported_is_documented_and_what_is_documented_is_exported() -> None:
    made = Metrics()
    exported = set(re.findall(r"^# TYPE (\S+) ", made.text().decode(), re.MULTILINE))
    assert exported == documented().keys()
    labels = {}
    for family in vars(made).values():
        if family is not made.registry and hasattr(family, "_labelnames"):
            kind = family.describe()[0].type
            labels[family._name + ("_total" if kind == "counter" else "")] = set(family._labelnames)
    assert labels == documented()


def test_each_metric_has_a_comment_and_none_is_made_elsewhere() -> None:
    lines = SOURCE.read_text().splitlines()
    names = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
    made = [
        node.lineno
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and getattr(node.value.func, "id", "") in names
    ]
    assert len(made) == len(documented())
    assert [line for line in made if not lines[line - 2].lstrip().startswith("# ")] == []
    parts = ("events", "ledger", "consumers", "gateway", "runtime")
    using = {
        path.name: re.findall(r"^.*prometheus_client.*$", path.read_text(), re.MULTILINE)
        for part in parts
        for path in (ROOT / part).rglob("*.py")
        if path != SOURCE and "prometheus_client" in path.read_text()
    }
    assert using == {
        "health.py": ["from prometheus_client import CONTENT_TYPE_LATEST"],
        "workers.py": ["from prometheus_client.multiprocess import mark_process_dead"],
    }


def test_what_cannot_be_told_is_not_told() -> None:
    made = Metrics()
    up: dict[str, dict[str, Any]] = {
        "kafka": {"ok": True},
        "database": {"ok": True, "outbox": 3, "overdue_holds": 1},
    }
    made.found({**up, "lag": {"ok": True, "deduction": 7}})
    text = made.text().decode()
    assert 'faregate_consumer_lag{consumer="deduction"} 7.0' in text
    assert "faregate_outbox_waiting 3.0" in text
    assert "faregate_holds_overdue 1.0" in text
    away = {"ok": False, "error": "TimeoutError"}
    made.found({"kafka": {"ok": True}, "database": away, "lag": away})
    text = made.text().decode()
    assert 'faregate_server_up{server="database"} 0.0' in text
    assert 'faregate_server_up{server="kafka"} 1.0' in text
    assert 'faregate_consumer_lag{consumer="deduction"} NaN' in text
    assert "faregate_outbox_waiting NaN" in text
