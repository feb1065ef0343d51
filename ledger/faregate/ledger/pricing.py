"""Prices as people set and read them: applying a book, the increment, what a call would cost.

A version is never changed, only followed. The increment is a setting of the whole product
(`system_settings`) and part of every version, since a version alone says what it prices. Both are
written under one lock, so the newest version always has the increment in force.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import asyncpg

from faregate.events.amounts import MICRO
from faregate.ledger import audit, once
from faregate.ledger.acts_sending import READING, account_named
from faregate.ledger.core import Book, Books, Identity, Rejected, Usage, parse_book
from faregate.ledger.core.prices import INCREMENTS, parse_increment, with_increment
from faregate.ledger.core.usage import cost_of
from faregate.ledger.queries import SQL
from faregate.ledger.snapshot import snapshot
from faregate.ledger.store import Store

ALLOWED = tuple(micro / MICRO for micro in sorted(INCREMENTS))
"""The increments that there are, as numbers of credits."""

_ATTEMPTS = 5
_NOW_S = timedelta(seconds=60)
_NOBODY = Identity(bytes(16), bytes(16))
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class AppliedPrices:
    """A new version of the price book, and the usage that had waited for one.

    `unpriced` events had no price so far. Of these the new version prices `priced`: they are
    charged as soon as it is in force.
    """

    book: Book
    backdated: bool
    unpriced: int
    priced: int


async def apply_prices(
    store: Store,
    document: Mapping[str, Any],
    effective_from: datetime | None,
    *,
    by: str,
    backdate: bool = False,
    call: once.Call | None = None,
) -> AppliedPrices:
    """Add a whole price book as a new version, in force from `effective_from` (now by default).

    A book without an increment gets the one in force, and keeps it. With `call` it happens once.
    Raises InvalidBook for what is no price book, and Rejected: `backdated` for a time in the past
    (over a minute ago) without `backdate` (usage that arrives late would be priced anew),
    `increment_differs`, `idempotency_conflict`.
    """
    now = await store.pool.fetchval(SQL["now"])
    parse_book(0, now, document)
    backdated = effective_from is not None and effective_from < now - _NOW_S
    rows = await store.pool.fetch(SQL["unpriced_kinds"])  # it may take long: before the lock

    async def apply(connection: asyncpg.Connection, setting: asyncpg.Record) -> AppliedPrices:
        if before := await once.answered(connection, call):
            _, books = await _versions(connection)
            return AppliedPrices(**{**before, "book": books.versions[before["book"]]})
        if backdated and not backdate:
            message = "prices cannot start in the past: usage that arrives late would be priced"
            raise Rejected("backdated", f"{message} anew. If that is meant, say --backdate")
        whole = _with_setting(document, setting)
        book = await _insert(connection, whole, effective_from, by)
        act = {
            "version": book.version,
            "effective_from": book.effective_from.isoformat(),
            "backdated": backdated,
        }
        unpriced = sum(r["events"] for r in rows)
        priced = sum(r["events"] for r in rows if _has_price(book, r))
        done = AppliedPrices(book, backdated, unpriced, priced)
        await _log(store, connection, by, "apply_prices", "applied", act)
        counts = {"backdated": backdated, "unpriced": unpriced, "priced": priced}
        await once.remember(connection, call, {"book": book.version, **counts})
        return done

    return await _locked(store, by, "apply_prices", apply)


def _has_price(book: Book, row: asyncpg.Record) -> bool:
    if row["model"] is not None:
        return book.model(row["provider"], row["model"]) is not None
    return book.cost(row["phase"], 1) is not None


def _with_setting(document: Mapping[str, Any], setting: asyncpg.Record) -> dict[str, Any]:
    """Pin the increment in force into a book that names none. Raises Rejected."""
    micro = _micro(setting)
    if "increment" in document and parse_increment(document["increment"]) != micro:
        message = (
            f"this book rounds up to {document['increment']}, but the increment in force is "
            f"{_text(micro)}. Take that line out, or change the increment first"
        )
        raise Rejected("increment_differs", message)
    return with_increment(document, micro)


async def _insert(
    connection: asyncpg.Connection,
    document: Mapping[str, Any],
    effective_from: datetime | None,
    by: str,
) -> Book:
    text = json.dumps(document)
    row = await connection.fetchrow(SQL["apply_prices"], effective_from, by, text)
    return parse_book(row["version"], row["effective_from"], document)


@asynccontextmanager
async def _lock(store: Store) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Record]]:
    async with store.pool.acquire() as connection, connection.transaction():
        yield connection, await connection.fetchrow(READING["lock_increment"])


async def _locked(
    store: Store,
    by: str,
    action: str,
    work: Callable[[asyncpg.Connection, asyncpg.Record], Awaitable[Value]],
) -> Value:
    """Do `work` in a transaction of its own, with the lock of all prices; log a refusal as well."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with _lock(store) as (connection, setting):
                return await work(connection, setting)
        except Rejected as refused:
            async with _lock(store) as (connection, _):
                await _log(store, connection, by, action, f"refused: {refused.code}", {})
            raise
        except asyncpg.UniqueViolationError:  # a version that was put in past the lock
            if attempt == _ATTEMPTS:
                raise
    raise Rejected("conflict", "other price versions keep being applied; try again")


async def _log(
    store: Store,
    connection: asyncpg.Connection,
    actor: str,
    action: str,
    result: str,
    metadata: Mapping[str, Any],
) -> None:
    now = await connection.fetchval(SQL["now"])
    act = audit.Act(actor, action, result, metadata=metadata)
    await audit.append(connection, store.keys, now, [act])


@dataclass(frozen=True, slots=True)
class Increment:
    """What vendor prices are rounded up to (micro-credits), who set it, and when.

    `versions` are the price versions that a change made; none where it was so before.
    """

    micro: int
    updated_by: str
    updated_at: datetime
    old_micro: int
    versions: tuple[int, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether asking for it changed anything."""
        return bool(self.versions) or self.micro != self.old_micro


async def increment(store: Store) -> Increment:
    """Give the increment in force."""
    row = await store.pool.fetchrow(READING["increment"])
    micro = _micro(row)
    return Increment(micro, row["updated_by"], row["updated_at"], micro)


async def set_increment(
    store: Store, value: object, *, actor: str, call: once.Call | None = None
) -> Increment:
    """Round vendor prices up to 0.01, 0.1 or 1.0 credits from now on, in every process at once.

    The book in force goes on as a new version with it, and so does each version that is to come.
    Holds that are live keep their version. With `call` it happens once. Raises InvalidIncrement,
    naming what is allowed, and Rejected `idempotency_conflict`.
    """
    micro = parse_increment(value)

    async def change(connection: asyncpg.Connection, setting: asyncpg.Record) -> Increment:
        if before := await once.answered(connection, call):
            by, at = before["by"] or "erased", datetime.fromisoformat(before["updated_at"])
            return Increment(micro, by, at, before["old_micro"], tuple(before["versions"]))
        done = await _changed(store, connection, setting, micro, actor)
        answer = {"micro": micro, "by": done.updated_by, "updated_at": done.updated_at.isoformat()}
        made = {"old_micro": done.old_micro, "versions": done.versions}
        await once.remember(connection, call, answer | made)
        return done

    return await _locked(store, actor, "set_increment", change)


async def _changed(
    store: Store, connection: asyncpg.Connection, setting: asyncpg.Record, micro: int, actor: str
) -> Increment:
    old = _micro(setting)
    documents, books = await _versions(connection)
    now = await connection.fetchval(SQL["now"])
    follow = [(v, at) for v, at in _to_follow(books, now) if books.versions[v].increment != micro]
    if old == micro and not follow:
        await _log(store, connection, actor, "set_increment", "unchanged", {"new": micro / MICRO})
        return Increment(micro, setting["updated_by"], setting["updated_at"], old)
    made = [
        await _insert(connection, with_increment(documents[v], micro), at, actor)
        for v, at in follow
    ]
    await connection.execute(READING["set_increment"], _text(micro), actor)
    numbers = [book.version for book in made]
    act = {"old": old / MICRO, "new": micro / MICRO, "versions": numbers}
    await _log(store, connection, actor, "set_increment", "set", act)
    row = await connection.fetchrow(READING["increment"])
    return Increment(micro, row["updated_by"], row["updated_at"], old, tuple(numbers))


async def _versions(connection: asyncpg.Connection) -> tuple[dict[int, Mapping[str, Any]], Books]:
    rows = await connection.fetch(SQL["price_versions"])
    documents = {r["version"]: json.loads(r["book"]) for r in rows}
    books = {r["version"]: _book(r) for r in rows}
    return documents, Books(books)


def _to_follow(books: Books, now: datetime) -> list[tuple[int, datetime]]:
    """List the versions that are in force, from `now` or a time to come on, in that order.

    From `now` and not from when it is written: what starts in between must stay the later one.
    """
    current = books.in_force(now)
    found = [(current.version, now)] if current else []
    starts = sorted({b.effective_from for b in books.versions.values() if b.effective_from > now})
    then = [(b.version, at) for at in starts if (b := books.in_force(at)) is not None]
    return found + then


def _micro(setting: Mapping[str, Any]) -> int:
    return parse_increment(Decimal(setting["value"]))


def _text(micro: int) -> str:
    return str(micro / MICRO)


@dataclass(frozen=True, slots=True)
class Quote:
    """What a call, or units of a phase, would cost now (micro-credits), and by which prices.

    `vendor_cost_usd` is what the provider takes, where the book says.
    """

    micro: int
    price_version: int
    increment_micro: int
    vendor_cost_usd: Decimal | None = None
    tier: str | None = None


async def calculate(
    store: Store,
    *,
    model: str | None = None,
    provider: str | None = None,
    input_tokens: int = 0,
    output_tokens: int = 0,
    phase: str | None = None,
    units: int = 1,
    user: str | None = None,
) -> Quote:
    """Say what tokens of a model, or units of a phase, cost by the prices in force.

    `user` is whose tier a price may depend on. Raises Rejected `unknown_price`.
    """
    who = account_named(user, "user") if user else "user:-"
    work = await snapshot(store, who)
    book = work.state.books.in_force(work.now)
    usage = Usage(
        _NOBODY,
        who,
        None,
        None,
        work.now,
        phase=phase,
        units=units if phase else None,
        provider=provider,
        model=model,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
    )
    price = cost_of(work, book, usage)
    if book is None or price.cost is None:
        raise Rejected("unknown_price", f"no price is in force for {model or phase!r}")
    usd = book.vendor_cost_usd(provider, model, input_tokens, output_tokens) if model else None
    return Quote(price.cost, book.version, book.increment, usd, price.tier)


async def price_books(connection: asyncpg.Connection | asyncpg.Pool) -> Books:
    """Read all versions of the price book."""
    rows = await connection.fetch(SQL["price_versions"])
    return Books({r["version"]: _book(r) for r in rows})


def _book(row: Mapping[str, Any]) -> Book:
    return parse_book(row["version"], row["effective_from"], json.loads(row["book"]))


async def prices(store: Store, version: int | None = None) -> dict[str, Any] | None:
    """Give a version of the price book (the one in force by default) and what versions there are.

    The book is whole, as a document that can be applied again. None when there is no such version,
    or none is in force.
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
        **_applied(row),
        **_whole(books.versions[row["version"]], json.loads(row["book"])),
        "versions": [{"version": r["version"], **_applied(r)} for r in rows],
    }


def _applied(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "effective_from": row["effective_from"].isoformat(),
        "applied_at": row["applied_at"].isoformat(),
        "applied_by": row["applied_by"],
    }


def _whole(book: Book, document: Mapping[str, Any]) -> dict[str, Any]:
    """Give a book as a document with all its sections, also those that it leaves to the defaults."""
    return {
        "pipelines": {},
        "phases": {},
        "providers": {},
        "models": {},
        "tiers": {name: _tier(tier) for name, tier in book.tiers.items()},
        **document,
        "vendor": {"margin": _number(book.margin), "usd_per_credit": _number(book.usd_per_credit)},
        "increment": book.increment / MICRO,
    }


def _tier(tier: Any) -> dict[str, Any]:
    value: dict[str, Any] = {"credits": _number(Decimal(tier.credits_micro) / MICRO)}
    if tier.calls is not None:
        value["calls"] = tier.calls
    if tier.rate is not None:
        value["rate"] = float(tier.rate / MICRO)
    return value | {"renews": tier.renews}


def _number(value: Decimal) -> int | float:
    return int(value) if value == int(value) else float(value)


__all__ = [
    "ALLOWED",
    "AppliedPrices",
    "Increment",
    "Quote",
    "apply_prices",
    "calculate",
    "increment",
    "price_books",
    "prices",
    "set_increment",
]
