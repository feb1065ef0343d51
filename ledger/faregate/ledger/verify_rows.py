"""What is compared row by row inside PostgreSQL: outcomes, holds, requests, triggers.

Each check asks for the rows that are wrong, so a sound ledger sends none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import asyncpg

from faregate.ledger.database import APP_ROLE
from faregate.ledger.queries import statements
from faregate.ledger.verify_grant_rows import GRANT_CHECKS
from faregate.ledger.verify_report import Finding, Findings

SQL = {**statements("verify.sql"), **statements("verify_grants.sql")}

PATIENCE_S = 3600.0
"""How long one statement over the whole ledger may take."""

Row = Mapping[str, Any]


async def check_rows(
    connection: asyncpg.Connection, findings: Findings, since: datetime | None
) -> None:
    """Add what is wrong between entries, outcomes, holds and requests."""
    for name, explain in {**_CHECKS, **GRANT_CHECKS}.items():
        rows = await connection.fetch(SQL[name], since, timeout=PATIENCE_S)
        for row in rows:
            explain(findings, row)
        if rows and rows[0]["total"] > len(rows):
            findings.count_more(name, rows[0]["total"] - len(rows))


def _cause(findings: Findings, row: Row) -> None:
    wrong = [message for column, message in _CAUSE_MESSAGES.items() if row[column]]
    findings.add(
        "cause",
        "entries",
        f"sequence {row['sequence']} (id {row['id']})",
        "; ".join(wrong).format(outcome=row["outcome_id"]),
        row["account_id"],
    )


_CAUSE_MESSAGES = {
    "missing": "its outcome {outcome} is missing",
    "other_cause": "its cause is not the event_key of its outcome {outcome}",
    "too_old": "it is older than its outcome {outcome}",
    "other_user": "its outcome {outcome} names another user",
    "other_org": "its outcome {outcome} names another org",
    "unknown_price": "its price version is missing",
}


def _outcome(findings: Findings, row: Row) -> None:
    wrong = []
    if row["entries"] != row["found"]:
        wrong.append(f"it wrote {row['entries']} entries, {row['found']} name it")
    if row["of_nobody"]:
        wrong.append("it names a user or org that is missing in subjects")
    if not wrong:
        wrong.append(
            f"its result {row['result']!r} does not fit its entries: {row['charges']} usage, "
            f"{row['holds']} hold, {row['adjustments']} adjustment"
        )
    where = f"id {row['id']} ({row['command']}, {row['result']})"
    findings.add("outcome", "outcomes", where, "; ".join(wrong))


def _price(findings: Findings, row: Row) -> None:
    message = (
        f"{row['units']} of {row['phase']} cost {row['charged']} micro-credits here, price version "
        f"{row['price_version']} makes it {row['should']}"
    )
    where = f"sequence {row['sequence']} (id {row['id']})"
    findings.add("price", "entries", where, message, row["account_id"])


def _hold(findings: Findings, row: Row) -> None:
    hold, account = row["hold_id"], row["account_id"]
    if hold is None:
        message = f"entries that name no hold moved held by {row['by_entries']}"
        findings.add("hold", "entries", "without hold_id", message, account)
    elif row["pipeline_key"] is None:
        message = f"entries hold {row['by_entries']} for it, and no pipeline does"
        findings.add("hold", "entries", f"hold_id {hold}", message, account)
    elif row["without_entries"]:
        where = f"pipeline_key {row['pipeline_key']} (hold_id {hold})"
        message = "no entry of its payer names this hold"
        findings.add("hold", "pipelines", where, message, account)
    else:
        where = f"pipeline_key {row['pipeline_key']} (hold_id {hold})"
        message = (
            f"amount {row['amount']} and remaining {row['remaining']}, the entries make it "
            f"{row['amount_by_entries']} and {row['by_entries']}"
        )
        findings.add("hold", "pipelines", where, message, account)


def _request(findings: Findings, row: Row) -> None:
    where = f"pipeline_key {row['pipeline_key']}"
    what = "is missing" if row["missing"] else "says something else"
    message = f"the outcome {row['outcome_id']} that let it in {what}"
    findings.add("request", "pipelines", where, message, row["account_id"])


_CHECKS: Mapping[str, Callable[[Findings, Row], None]] = {
    "causes": _cause,
    "outcomes": _outcome,
    "prices": _price,
    "holds": _hold,
    "requests": _request,
}


async def check_triggers(connection: asyncpg.Connection) -> list[Finding]:
    """Say what keeps the ledger from being append-only (rule 5); empty when nothing does.

    Cheap: it reads the catalog. Processes call it when they start.
    """
    findings = []
    for row in await connection.fetch(SQL["triggers"]):
        name = f"{row['name']} trigger append_only"
        if row["enabled"] is None:
            wrong = "the trigger is missing: rows can be changed"
        elif row["enabled"] != "A":
            wrong = "the trigger is not ENABLE ALWAYS: rows can be changed"
        elif not row["complete"] or not row["refuses"]:
            wrong = "the trigger does not refuse every UPDATE, DELETE and TRUNCATE"
        else:
            continue
        findings.append(Finding("trigger", row["name"], name, wrong))
    for row in await connection.fetch(SQL["privileges"], APP_ROLE):
        name, wrong = row["name"], f"the role {APP_ROLE} may {row['privilege']} it"
        findings.append(Finding("privilege", name, f"{name} role {APP_ROLE}", wrong))
    return findings


async def notes(connection: asyncpg.Connection) -> dict[str, Any]:
    """Collect what is worth knowing and no drift. Amounts are micro-credits."""
    state = await connection.fetchrow(SQL["state"], timeout=PATIENCE_S)
    unpriced = await connection.fetch(SQL["unpriced"])
    recoveries = await connection.fetch(SQL["recoveries"])
    return {
        **dict(state),
        "unpriced": await connection.fetchval(SQL["unpriced_count"]),
        "unpriced_first": [_plain(row) for row in unpriced],
        "recoveries": [_plain(row) for row in recoveries],
    }


def _plain(row: Row) -> dict[str, Any]:
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in row.items()}
