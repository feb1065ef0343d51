"""Reading the ledger for people and programs: accounts and entries as JSON-ready values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from faregate.events.amounts import format_credits, to_credits
from faregate.ledger.core import Book, Books, PhasePrice, parse_book
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.runtime.wording import counted, in_credits

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
) -> list[dict[str, Any]]:
    """List an account's entries, newest first; an account that nobody has named yet has none."""
    account_id = await store.names.find(subject)
    if account_id is None:
        return []
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


async def price_books(connection: asyncpg.Connection | asyncpg.Pool) -> Books:
    """Read all versions of the price book."""
    rows = await connection.fetch(SQL["price_versions"])
    return Books({r["version"]: _book(r) for r in rows})


def _book(row: Mapping[str, Any]) -> Book:
    return parse_book(row["version"], row["effective_from"], json.loads(row["book"]))


async def prices(store: Store, version: int | None = None) -> dict[str, Any] | None:
    """Give a version of the price book (the one in force by default) and what versions there are.

    None when there is no such version, or none is in force.
    """
    rows = await store.pool.fetch(SQL["price_history"], None)
    books = Books({r["version"]: _book(r) for r in rows})
    current = books.in_force(rows[0]["now"]) if rows else None
    wanted = version if version is not None else current.version if current else None
    row = next((r for r in rows if r["version"] == wanted), None)
    if row is None:
        return None
    return {
        "version": row["version"],
        "in_force": current is not None and current.version == row["version"],
        "effective_from": row["effective_from"].isoformat(),
        "applied_at": row["applied_at"].isoformat(),
        "applied_by": row["applied_by"],
        **json.loads(row["book"]),
        "versions": [
            {
                "version": r["version"],
                "effective_from": r["effective_from"].isoformat(),
                "applied_at": r["applied_at"].isoformat(),
                "applied_by": r["applied_by"],
            }
            for r in rows
        ],
    }


def priced_phases(book: Book | None, phases: Sequence[str], items: int) -> list[dict[str, Any]]:
    """Tell for each phase what a run over `items` takes and how that is computed."""
    return [priced_phase(name, book.phases.get(name) if book else None, items) for name in phases]


def priced_phase(name: str, price: PhasePrice | None, items: int) -> dict[str, Any]:
    """Tell what one phase takes over `items`; credits are None where it has no price."""
    if price is None:
        missing = dict.fromkeys(("per", "units", "credits", "required_credits"))
        return {"phase": name, **missing, "how": f"{name}: has no price"}
    units = price.units_for(items)
    total = price.micro * units
    over = {
        "item": counted(units, "item"),
        "pair": f"{counted(items, 'item')} = {counted(units, 'pair')}",
        "flat": "once",
    }[price.per]
    return {
        "phase": name,
        "per": price.per,
        "units": units,
        "credits": to_credits(price.micro),
        "required_credits": to_credits(total),
        "how": f"{name}: {over} x {format_credits(price.micro)} = {in_credits(total)}",
    }
