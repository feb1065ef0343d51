"""What else there is to say about a charge: which grants paid, by which prices, was it refunded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.events.amounts import MICRO, to_credits
from faregate.ledger.acts_refunds import refund_key
from faregate.ledger.acts_sending import READING
from faregate.ledger.core import Books
from faregate.ledger.store import Store

Value = dict[str, Any]


async def charge_facts(
    store: Store,
    connection: asyncpg.Connection,
    books: Books,
    outcome: asyncpg.Record,
    rows: Sequence[asyncpg.Record],
) -> Value:
    """Say of the charge that is `outcome`, with its entries `rows`, what its payers paid with."""
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
    return value | {"refund": await _refund(store, connection, outcome)}


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


async def _refund(
    store: Store, connection: asyncpg.Connection, outcome: asyncpg.Record
) -> Value | None:
    key = UUID(refund_key(store, outcome["event_key"].bytes))
    row = await connection.fetchrow(READING["refund_of"], key)
    if row is None:
        return None
    return {
        "at": row["at"].isoformat(),
        "credits": to_credits(json.loads(row["body"])["amount"]),
        "by": row["actor"],
    }
