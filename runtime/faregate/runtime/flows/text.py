"""The report as text, and what all forms of it say alike."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from faregate.runtime.flows.client import route_of
from faregate.runtime.flows.records import (
    Balance,
    Call,
    Check,
    FlowResult,
    Report,
    Status,
    StepResult,
    Timing,
)
from faregate.runtime.flows.timings import SHARE, percentile

WORDS: dict[Status, str] = {
    "passed": "passed",
    "failed": "FAILED",
    "partial": "partial",
    "not_run": "not run",
}
_WIDTH = 12
_INDENT = " " * _WIDTH


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one route within a step: how many, how they were answered, what they took."""

    method: str
    route: str
    count: int
    statuses: dict[str, int]
    p50_ms: float
    p95_ms: float
    max_ms: float


def calls_of(step: StepResult) -> list[Calls]:
    """Count a step's calls by route, in the order they were first made."""
    by_route: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in step.calls:
        by_route[call.method, route_of(call)].append(call)
    return [_calls(method, route, made) for (method, route), made in by_route.items()]


def _calls(method: str, route: str, made: Sequence[Call]) -> Calls:
    taken = sorted(call.ms for call in made)
    statuses: defaultdict[str, int] = defaultdict(int)
    for call in made:
        statuses[str(call.status or "no answer")] += 1
    return Calls(
        method,
        route,
        len(made),
        dict(sorted(statuses.items())),
        round(median(taken), 2),
        round(percentile(taken, SHARE), 2),
        round(taken[-1], 2),
    )


def credits_of(amount: float | None) -> str:
    """Write an amount for people."""
    return "-" if amount is None else f"{amount:,.6f}".rstrip("0").rstrip(".")


def value_of(value: Any) -> str:
    """Write a value that was expected or came."""
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)


def headline(report: Report) -> str:
    """Say in one line how it went."""
    counts = ", ".join(f"{n} {WORDS[s].lower()}" for s, n in report.counts.items() if n)
    missed = " and ".join(row.name for row in report.timings if row.ok is False)
    slow = f"; slower than they should be: {missed}" if missed else ""
    return f"{WORDS[report.status]}: {counts}, {report.seconds:.1f} s{slow}"


def kept(timing: Timing) -> str:
    """Say whether a row of the table is kept."""
    return {True: "yes", False: "NO", None: "not measured"}[timing.ok]


def as_text(report: Report) -> str:
    """Write the whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"Faregate report   {headline(report)}"
    ledger = "and in the ledger's database" if report.ledger else "only: no --database"
    yield f"{report.url}, version {report.version}, {report.began:%Y-%m-%d %H:%M:%SZ}"
    yield f"checked on HTTP {ledger}"
    for flow in report.flows:
        yield ""
        yield f"{flow.name.upper()}: {flow.title}   {WORDS[flow.status]}, {flow.seconds:.1f} s"
        for step in flow.steps:
            yield from _step(step)
    yield ""
    yield from _timings(report.timings)


def _step(step: StepResult) -> Iterator[str]:
    checks = f"{len(step.checks)} checks, {len(step.calls)} calls, {step.seconds:.2f} s"
    yield f"  {WORDS[step.status]:<{_WIDTH - 2}}{step.title}   ({checks})"
    for why in step.why:
        yield f"{_INDENT}{'because' if step.status == 'not_run' else 'but'} {why}"
    for check in step.failures:
        yield from _failure(check)
    for balance in step.balances:
        yield f"{_INDENT}{_balance(balance)}"
    for calls in calls_of(step):
        statuses = ", ".join(f"{count} x {status}" for status, count in calls.statuses.items())
        yield (
            f"{_INDENT}{calls.method} {calls.route}: {statuses}, "
            f"median {calls.p50_ms:.1f} ms, longest {calls.max_ms:.1f} ms"
        )


def _balance(balance: Balance) -> str:
    ledger = "" if balance.ledger is None else f", ledger {credits_of(balance.ledger)}"
    return (
        f"{balance.account}: {credits_of(balance.before)} → {credits_of(balance.after)}"
        f" credits{ledger}"
    )


def _failure(check: Check) -> Iterator[str]:
    place = "in the ledger" if check.where == "ledger" else "on HTTP"
    yield f"{_INDENT}✗ {check.what} ({place})"
    yield f"{_INDENT}  expected {value_of(check.expected)}"
    yield f"{_INDENT}  came     {value_of(check.came)}"
    if check.call is not None:
        yield f"{_INDENT}  {check.call.method} {check.call.path}, {check.call.correlation_id}"


def _timings(rows: Sequence[Timing]) -> Iterator[str]:
    yield f"TIMINGS: {SHARE:.0%} of the calls are to be within the limit"
    head = ("", "limit", "within", "median", "95 %", "longest", "kept")
    yield "  " + _columns(*head)
    for row in rows:
        numbers = [
            f"{ms:.1f}" if ms is not None else "-" for ms in (row.p50_ms, row.p95_ms, row.max_ms)
        ]
        within = f"{row.within}/{row.n}" if row.n else "-"
        yield "  " + _columns(row.name, f"{row.limit_ms:g}", within, *numbers, kept(row))
    yield from (f"  {row.name}: {row.what}" for row in rows)


def _columns(name: str, *rest: str) -> str:
    return f"{name:<16}" + "".join(f"{one:>9}" for one in rest[:-1]) + f"  {rest[-1]}"


__all__ = ["FlowResult", "as_text", "calls_of", "credits_of", "headline", "kept", "value_of"]
