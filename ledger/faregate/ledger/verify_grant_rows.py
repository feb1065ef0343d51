"""What is wrong with grants, pins, allocations, refunds and plans, said in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from faregate.ledger.verify_report import Findings

Row = Mapping[str, Any]


def _grant(findings: Findings, row: Row) -> None:
    where = f"number {row['number']} (id {row['id']})"
    if row["missing"]:
        message = "missing, the entry that made it is there"
    elif row["made_by_none"]:
        message = "no entry made it"
    else:
        message = f"the entry that made it says another {', '.join(row['differ'])}"
    findings.add("grant", "grants", where, message, row["account_id"])


def _pins(findings: Findings, row: Row) -> None:
    account = row["account_id"]
    where = f"pipeline_key {row['pipeline_key']} (hold_id {row['hold_id']})"
    left = 0 if account is None else row["remaining"]
    message = f"{left} of it are left, and it has pinned {row['pinned']} of grants"
    findings.add("pins", "pipelines", where, message, account)


def _pinned_grant(findings: Findings, row: Row) -> None:
    message = (
        f"grant {row['number']} has {row['held'] or 0} held, live holds have pinned "
        f"{row['pinned'] or 0} of it"
    )
    findings.add("pins", "accounts", f"(id {row['account_id']})", message, row["account_id"])


def _twin(findings: Findings, row: Row) -> None:
    if row["kind"] not in {"hold", "usage", "release"}:
        message = f"an allocation never owes, and gets no {row['kind']}"
    elif row["alone"]:
        message = f"the org has no such {row['kind']} of the same outcome"
    else:
        message = (
            f"it moves held by {row['held_delta']} and costs {row['cost']}, at the org by "
            f"{row['org_held_delta']} and {row['org_cost']}"
        )
    where = f"sequence {row['sequence']} (id {row['id']})"
    findings.add("allocation", "entries", where, message, row["account_id"])


def _refund(findings: Findings, row: Row) -> None:
    wrong = []
    if row["of_none"]:
        wrong.append(f"its outcome {row['outcome_id']} is no refund")
    if row["again"]:
        wrong.append(f"the charge {row['charge']} had been refunded before")
    if row["id"] is None:
        wrong.append(f"nothing came back of the charge {row['charge']}, which cost {row['cost']}")
    elif not row["of_none"] and row["back"] != row["cost"]:
        wrong.append(f"{row['back']} came back of {row['cost'] or 0} that it cost here")
    if row["says_other"]:
        wrong.append("its outcome says another amount")
    message = "; ".join(wrong)
    if row["id"] is None:
        where = f"id {row['outcome_id']} (refund)"
        findings.add("refund", "outcomes", where, message)
        return
    where = f"sequence {row['sequence']} (id {row['id']})"
    findings.add("refund", "entries", where, message, row["account_id"])


def _plan(findings: Findings, row: Row) -> None:
    wrong = [f"{name} is not what the newest outcome about it says" for name in row["differ"]]
    if row["other_calls"]:
        wrong.append(
            f"calls are {row['calls']}, {row['counted']} were counted since its period began"
        )
    if row["other_tier"]:
        now = " then ".join(t for t in (row["tier"], row["next_tier"]) if t)
        said = f"outcome {row['tier_outcome']} says {row['tier_said']}"
        nobody = "nobody has set one"
        wrong.append(f"the tier is {now}, {said if row['tier_outcome'] else nobody}")
    if row["other_period"]:
        wrong.append("its period does not end when the grant of its tier expires")
    message = "; ".join(wrong)
    findings.add("plan", "accounts", f"(id {row['account_id']})", message, row["account_id"])


GRANT_CHECKS: Mapping[str, Callable[[Findings, Row], None]] = {
    "grants": _grant,
    "pins": _pins,
    "pinned_grants": _pinned_grant,
    "twins": _twin,
    "refunds": _refund,
    "plans": _plan,
}
"""Statements of verify_grants.sql that give what is wrong, each with what says it."""
