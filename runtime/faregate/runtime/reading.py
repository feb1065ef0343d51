"""Reading the ledger for people and programs: accounts and entries as JSON-ready values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg

from faregate.events.amounts import to_credits
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store

_NEWEST = 2**62
_COPIED = (
    "usage_id",
    "pipeline_id",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "price_version",
    "reason",
    "correlation_id",
)


async def account(store: Store, subject: str, at: datetime | None = None) -> dict[str, Any]:
    """Give an account's balance, held, available, debt (credits) and tier; zeros if unknown."""
    row = await store.pool.fetchrow(SQL["account"], subject)
    tier = row["tier"] if row else "free"
    if row and at is not None:
        when = at if at.tzinfo else at.replace(tzinfo=UTC)
        row = await store.pool.fetchrow(SQL["account_at"], row["id"], when)
    balance, held, debt = (row["balance"], row["held"], row["debt"]) if row else (0, 0, 0)
    return {
        "account": subject,
        "balance": to_credits(balance),
        "held": to_credits(held),
        "available": to_credits(balance - held),
        "debt": to_credits(debt),
        "tier": tier,
    }


async def history(
    store: Store, subject: str, limit: int, before: int | None = None
) -> list[dict[str, Any]] | None:
    """List an account's entries, newest first; None when there is no such account."""
    account_id = await store.names.find(subject)
    if account_id is None:
        return None
    rows = await store.pool.fetch(SQL["history"], account_id, before or _NEWEST, limit)
    return await entries(store, rows)


async def entries(store: Store, rows: list[asyncpg.Record]) -> list[dict[str, Any]]:
    """Write rows of `entries` (joined with refs) as JSON-ready values; amounts in credits."""
    ids = {r[n] for r in rows for n in ("account_id", "user_id", "org_id") if r[n] is not None}
    subjects = await store.names.subjects(ids)
    return [_entry(row, subjects) for row in rows]


def _entry(row: asyncpg.Record, subjects: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": row["id"],
        "account": subjects[row["account_id"]],
        "sequence": row["sequence"],
        "at": row["at"].isoformat(),
        "kind": row["kind"],
    }
    for name in ("amount", "held_delta", "debt_delta", "balance", "held", "debt"):
        value[name] = to_credits(row[name])
    for name in ("user_id", "org_id"):
        if row[name] is not None:
            value[name] = subjects[row[name]].partition(":")[2]
    value.update({name: row[name] for name in _COPIED if row[name] is not None})
    if row["hold_id"] is not None:
        value["hold_id"] = str(row["hold_id"])
    value["hash"] = row["hash"].hex()
    return value
