"""Why something was not let in: the reasons, and the facts that say what would help."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from faregate.ledger.core import quotas
from faregate.ledger.core.payers import Payer, can_pay
from faregate.ledger.core.posting import Work

STATUS = {
    "unknown_pipeline": 422,
    "unknown_price": 422,
    "request_expired": 410,
    "quota_exceeded": 429,
    "debt_outstanding": 402,
    "no_allocation": 403,
    "allocation_exhausted": 402,
    "insufficient_credits": 402,
}
"""HTTP status of each reason for a denial, in the contract's order of precedence."""


def facts(
    work: Work, user: str, payers: list[Payer], reason: str, required: int | None
) -> dict[str, Any]:
    """Give what the body of every denial says, whoever asked (amounts in micro-credits)."""
    accounts = [work.state.accounts[p.subject] for p in payers]
    body: dict[str, Any] = {
        "reason": reason,
        "status": STATUS[reason],
        "required": required or 0,
        "available": max(can_pay(work, p) for p in payers),
        "considered": [{"payer": p.subject, "available": can_pay(work, p)} for p in payers],
        "held": sum(a.held for a in accounts),
        "debts": [a.subject for a in accounts if a.debt],
    }
    if reason == "quota_exceeded":
        body["calls"] = quotas.limit(work, user)
        body["resets_at"] = rfc3339(quotas.resets_at(work, user))
    if payers[0].member:
        body["allocation"] = work.state.accounts[payers[0].member].available
    return body


def rfc3339(moment: datetime) -> str:
    """Write a moment in UTC as events have it."""
    return moment.isoformat().replace("+00:00", "Z")
