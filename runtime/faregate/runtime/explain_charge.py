"""What else there is to say about charges: which grants paid, by which prices, what was refunded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.events.amounts import MICRO, to_credits
from faregate.ledger.acts_refunds import refund_key
from faregate.ledger.acts_sending import READING
from faregate.ledger.core import Books
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.ledger.write import TX_BITS

Value = dict[str, Any]


async def charge_facts(
    store: Store,
    connection: asyncpg.Connection,
    books: Books,
    rows: Sequence[asyncpg.Record],
) -> Value:
    """Say of a charge, by its entries `rows`, what its payers paid with."""
    usage = [r for r in rows if r["kind"] == "usage"]
    subjects = await store.names.subjects({r["account_id"] for r in usage}, connection)
    value: Value = {"grants": [], "allocation": None, "tier": None, "increment": None}
    for row in usage:
        if subjects[row["account_id"]].startswith("member:"):
            value["allocation"] = {
                "credits": to_credits(-row["amount"]),
                "left": to_credits(row["balance"] - row["held"]),
            }
            continue
        value["grants"] = await _grants(connection, row)
        value["tier"] = row["tier"]
        value["increment"] = _increment(books, row)
    return value


async def _grants(connection: asyncpg.Connection, row: asyncpg.Record) -> list[Value]:
    flat = row["grants"] or []
    taken = {flat[n]: -flat[n + 1] for n in range(0, len(flat), 3) if flat[n + 1]}
    found = await connection.fetch(READING["named_grants"], row["account_id"], list(taken))
    made = {g["number"]: g for g in found}
    return [
        {
            "number": number,
            "credits": to_credits(micro),
            "kind": made[number]["kind"] if number in made else None,
            "source": made[number]["source"] if number in made else None,
            "expires_at": _iso(made.get(number)),
        }
        for number, micro in taken.items()
    ]


def _iso(grant: asyncpg.Record | None) -> str | None:
    return grant["expires_at"].isoformat() if grant and grant["expires_at"] else None


def _increment(books: Books, row: asyncpg.Record) -> float | None:
    """Give what the price was rounded up to; None where it was not."""
    book = books.versions.get(row["price_version"])
    if book is None or row["model"] is None or row["byok"]:
        return None
    price = book.model(row["provider"], row["model"])
    return book.increment / MICRO if price and price.kind == "vendor" else None


async def refunds(
    store: Store, connection: asyncpg.Connection, event_keys: Collection[UUID]
) -> tuple[list[Value], list[asyncpg.Record]]:
    """Find what of charges, named by their event keys, was given back, and the entries of that."""
    keys = [UUID(refund_key(store, key.bytes)) for key in event_keys]
    found = await connection.fetch(READING["refunds_of"], keys)
    entries = await entries_of(connection, found)
    reasons = {e["outcome_id"]: e["reason"] for e in entries if e["kind"] == "refund"}
    return [
        {
            "at": row["at"].isoformat(),
            "credits": to_credits(row["amount"]),
            "by": row["actor"],
            "reason": reasons.get(row["id"]),
            "usage_id": row["usage_id"],
            "charge_id": row["charge_id"],
        }
        for row in found
    ], entries


async def entries_of(
    connection: asyncpg.Connection, outcomes: Sequence[asyncpg.Record]
) -> list[asyncpg.Record]:
    """Read the entries of outcomes, in the order they were written."""
    if not outcomes:
        return []
    ids = [o["id"] for o in outcomes]
    first, end = min(ids) >> TX_BITS << TX_BITS, (max(ids) >> TX_BITS) + 1 << TX_BITS
    return list(await connection.fetch(SQL["entries_of_outcomes"], ids, first, end))
