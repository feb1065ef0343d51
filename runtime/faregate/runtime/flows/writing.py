"""Writes a report's files: `report.txt`, `report.html`, `summary.json`, `errors.log`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faregate.runtime.flows.page import as_html
from faregate.runtime.flows.records import Call, Check, Report, StepResult, failed_of
from faregate.runtime.flows.text import as_text, calls_of, value_of

TEXT, PAGE, SUMMARY, ERRORS = "report.txt", "report.html", "summary.json", "errors.log"
_PAGE_OF_JSON = 2


def write(report: Report, folder: Path) -> dict[str, str]:
    """Write all files into a folder, which is made; give their places by name. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = as_json(report)
    texts = {
        TEXT: as_text(report),
        PAGE: as_html(report),
        SUMMARY: json.dumps(summary, indent=_PAGE_OF_JSON, default=str) + "\n",
        ERRORS: "".join(f"{line}\n" for line in errors(report)),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: str((folder / name).absolute()) for name in texts}


def as_json(report: Report) -> dict[str, Any]:
    """Give the report as one JSON object. Amounts are credits, times milliseconds where named."""
    return {
        "ok": report.ok,
        "status": report.status,
        "url": report.url,
        "version": report.version,
        "began": report.began.isoformat(),
        "seconds": report.seconds,
        "ledger_checked": report.ledger,
        "counts": report.counts,
        "flows": [
            {
                "name": flow.name,
                "title": flow.title,
                "status": flow.status,
                "seconds": round(flow.seconds, 3),
                "steps": [_step(step) for step in flow.steps],
            }
            for flow in report.flows
        ],
        "timings": [asdict(row) for row in report.timings],
        "errors": [
            {"flow": flow, "step": step, **_check(check), "call": _call(check.call)}
            for flow, step, check in failed_of(report.steps)
        ],
    }


def errors(report: Report) -> Iterator[str]:
    """Give one line for each claim that does not hold, and then what was sent and answered."""
    for flow, step, check in failed_of(report.steps):
        yield f"{flow}/{step}: {check.what} ({check.where})"
        yield f"  expected: {value_of(check.expected)}"
        yield f"  came: {value_of(check.came)}"
        if check.call is not None:
            call = check.call
            yield f"  request: {call.method} {call.path} {value_of(call.sent)}"
            yield f"  answer: {call.status or 'none'} {value_of(call.answer)}"
            yield f"  correlation id: {call.correlation_id}"


def _step(step: StepResult) -> dict[str, Any]:
    return {
        "name": step.name,
        "title": step.title,
        "status": step.status,
        "began": step.began.isoformat(),
        "seconds": step.seconds,
        "why": step.why,
        "checks": [_check(check) for check in step.checks],
        "balances": [asdict(balance) for balance in step.balances],
        "calls": [asdict(calls) for calls in calls_of(step)],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "what": check.what,
        "expected": check.expected,
        "came": check.came,
        "ok": check.ok,
        "where": check.where,
    }


def _call(call: Call | None) -> dict[str, Any] | None:
    return None if call is None else asdict(call)
