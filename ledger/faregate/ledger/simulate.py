"""`prices simulate`: price the usage of a period again, as if other prices had been in force.

Another price book prices everything; another increment or margin changes each version as it was
and prices by the version that the charge names. Everything is recorded facts: which requests would
have been denied is told by what their payer had then, not by what the other prices would have left
of it. Reads only; all arithmetic is on whole micro-credits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from faregate.ledger.core import Book, Books, parse_book
from faregate.ledger.core.prices import with_increment
from faregate.ledger.queries import SQL as STORE_SQL
from faregate.ledger.scan import PATIENCE_S, SQL, Progress, chunks, one_state

SHOWN = 1000
"""So many requests that would have been denied are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Change:
    """Other prices: a whole book, or another increment (micro-credits) or margin in each version."""

    book: Mapping[str, Any] | None = None
    increment: int | None = None
    margin: float | None = None

    def under(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give a version's document with the change. Raises InvalidBook."""
        changed = dict(document) if self.book is None else dict(self.book)
        if self.increment is not None:
            changed = with_increment(changed, self.increment)
        if self.margin is not None:
            changed["vendor"] = {**changed.get("vendor", {}), "margin": self.margin}
        return changed


@dataclass(slots=True)
class Payer:
    """What one payer was charged, and would have been. Amounts are micro-credits."""

    events: int = 0
    charged: int = 0
    would_be: int = 0


@dataclass(slots=True)
class Kind:
    """Usage that has no price under the other prices: left out of all sums."""

    events: int = 0
    charged: int = 0


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that was let in and would not have been. Amounts are micro-credits."""

    at: datetime
    pipeline_id: str | None
    user_id: int
    org_id: int | None
    reason: str
    required: int | None
    had: int


@dataclass(slots=True)
class Simulation:
    """What other prices would have come to. Accounts are numbers; `names` has their subjects."""

    payers: dict[int, Payer] = field(default_factory=dict)
    unpriced: dict[tuple[str | None, str | None, str | None], Kind] = field(default_factory=dict)
    """By phase, provider and model."""
    as_said: int = 0
    """Charges whose amount the caller said: no price book prices them, so they stay."""
    requests: int = 0
    denied: list[Denial] = field(default_factory=list)
    denied_total: int = 0
    names: dict[int, str] = field(default_factory=dict)

    def total(self) -> Payer:
        """Sum up all payers."""
        found = self.payers.values()
        return Payer(
            sum(p.events for p in found),
            sum(p.charged for p in found),
            sum(p.would_be for p in found),
        )


async def simulate(
    pool: asyncpg.Pool,
    change: Change,
    start: datetime | None = None,
    end: datetime | None = None,
    progress: Progress | None = None,
) -> Simulation:
    """Price again what was charged from `start` on and before `end`. Raises InvalidBook."""
    found = Simulation()
    async with pool.acquire() as connection, one_state(connection):
        prices = _Prices(await connection.fetch(STORE_SQL["price_versions"]), change)
        total, done = 0, 0
        if progress:
            total = await connection.fetchval(SQL["simulate_count"], start, end, timeout=PATIENCE_S)
        async for rows in chunks(connection, SQL["simulate_usage"], start, end):
            for row in rows:
                _charge(found, prices, row)
            done += len(rows)
            if progress:
                progress(done, total)
        async for rows in chunks(connection, SQL["simulate_requests"], start, end):
            for row in rows:
                await _decide(connection, found, prices, row)
            done += len(rows)
            if progress:
                progress(done, total)
        involved = {i for d in found.denied for i in (d.user_id, d.org_id) if i} | set(found.payers)
        named = await connection.fetch(SQL["names_of_accounts"], sorted(involved))
    found.names = {r["account_id"]: r["name"] for r in named}
    return found


class _Prices:
    """The books that would have been in force."""

    def __init__(self, rows: list[asyncpg.Record], change: Change) -> None:
        documents = {r["version"]: (r["effective_from"], json.loads(r["book"])) for r in rows}
        self._one: Book | None = None
        if change.book is not None:
            self._one = parse_book(0, datetime.now(UTC), change.under({}))
            documents = {}
        self._books = Books(
            {
                version: parse_book(version, since, change.under(document))
                for version, (since, document) in documents.items()
            }
        )

    def of(self, version: int | None, at: datetime) -> Book | None:
        """Give the book that prices what version priced, or what happened at a time."""
        if self._one is not None:
            return self._one
        return self._books.in_force(at) if version is None else self._books.versions.get(version)


def _charge(found: Simulation, prices: _Prices, row: asyncpg.Record) -> None:
    cost: int | None
    if row["phase"] is None and row["model"] is None:
        cost = row["charged"]
        found.as_said += 1
    else:
        cost = _cost(prices.of(row["price_version"], row["at"]), row)
    if cost is None:
        kind = found.unpriced.setdefault((row["phase"], row["provider"], row["model"]), Kind())
        kind.events += 1
        kind.charged += row["charged"]
        return
    payer = found.payers.setdefault(row["account_id"], Payer())
    payer.events += 1
    payer.charged += row["charged"]
    payer.would_be += cost


def _cost(book: Book | None, row: asyncpg.Record) -> int | None:
    if row["byok"]:
        return 0
    if book is None:
        return None
    if row["model"] is None:
        return book.cost(row["phase"], row["units"])
    tokens = (row["input_tokens"] or 0, row["output_tokens"] or 0)
    return book.tokens_cost(row["provider"], row["model"], *tokens, row["tier"] or "free")


async def _decide(
    connection: asyncpg.Connection, found: Simulation, prices: _Prices, row: asyncpg.Record
) -> None:
    """Decide a request again by what its payers had then."""
    found.requests += 1
    body = json.loads(row["body"])
    book = prices.of(body["price_version"], row["at"])
    required = book.required(body["phases"], body["items"]) if book else None
    had, reason = 0, "unknown_price"
    if required is not None:
        if required <= body["reserved"]:
            return
        had, reason = await _available(connection, row, body["payer"], required)
        if had >= required:
            return
    found.denied_total += 1
    if len(found.denied) < SHOWN:
        found.denied.append(
            Denial(
                row["at"],
                row["pipeline_id"],
                row["user_id"],
                row["org_id"],
                reason,
                required,
                had,
            )
        )


async def _available(
    connection: asyncpg.Connection, row: asyncpg.Record, payer: int, required: int
) -> tuple[int, str]:
    """Give the most that the request could have been paid with, and why that is too little."""
    had, reason = row["payer_had"], "insufficient_credits"
    if had is None:
        had, reason = await _had(connection, payer, row["id"])
    allocation = row["member_had"]
    if allocation is not None or (
        payer == row["org_id"] and row["payer_had"] is None and row["allocated"]
    ):
        if allocation is None:
            allocation, _ = await _had(connection, row["member_id"], row["id"])
        if allocation < required:
            return min(had, allocation), "allocation_exhausted"
        return had, reason
    if had < required and payer == row["org_id"]:
        own, _ = await _had(connection, row["user_id"], row["id"])
        had = max(had, own)
    return had, reason


async def _had(
    connection: asyncpg.Connection, account_id: int | None, outcome_id: int
) -> tuple[int, str]:
    """Give what an account had free before an outcome; nothing while it was in debt."""
    row = await connection.fetchrow(SQL["had_before"], account_id, outcome_id)
    if row is not None and row["debt"]:
        return 0, "debt_outstanding"
    return (row["free"] if row else 0), "insufficient_credits"
