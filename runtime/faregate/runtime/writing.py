"""Administrative commands, sent through the same store as everything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import asyncpg

from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import (
    Book,
    Grant,
    Identity,
    Outcome,
    Rejected,
    Seen,
    SetBalance,
    parse_book,
)
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store, Unavailable

SOURCE = "faregate/cli"
_ATTEMPTS = 5
_NOW_S = timedelta(seconds=60)


async def set_balance(store: Store, subject: str, target: int, key: str) -> Outcome | Seen:
    """Set a balance (micro-credits). `key` makes it happen once. Raises Rejected, Unavailable."""
    content = {"subject": subject, "target": target}
    identity = _identity(store, "set_balance", key, content)
    command = SetBalance(identity, subject, target, "set_balance")
    return await _apply(store, Submission(command, Refs(SOURCE, key)))


async def grant(
    store: Store, subject: str, kind: Literal["purchase", "bonus"], amount: int, key: str
) -> Outcome | Seen:
    """Grant credits (micro-credits). `key` makes it happen once. Raises Rejected, Unavailable."""
    content = {"subject": subject, "kind": kind, "amount": amount}
    identity = _identity(store, "grant", key, content)
    return await _apply(
        store, Submission(Grant(identity, subject, kind, amount), Refs(SOURCE, key))
    )


def _identity(store: Store, command: str, key: str, content: dict[str, object]) -> Identity:
    keys = store.keys
    return Identity(keys.event(SOURCE, key), keys.fingerprint(command, content))


async def _apply(store: Store, submission: Submission) -> Outcome | Seen:
    """Apply a command; once more when the answer was lost, with the same key: it happens once."""
    try:
        (result,) = await store.apply([submission])
    except Unavailable:
        try:
            (result,) = await store.apply([submission])
        except Unavailable as error:
            key = submission.refs.event_id
            message = f"{error}. It may have happened: repeat it with --idempotency-key {key}"
            raise Unavailable(message) from error
    if isinstance(result, Rejected):
        raise result
    if result is None:
        raise Rejected("nothing_to_do", "the command had nothing to do")
    return result


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
) -> AppliedPrices:
    """Add a whole price book as a new version, in force from `effective_from` (now by default).

    Raises InvalidBook for what is no price book, and Rejected `backdated` for a time in the past
    (over a minute ago) without `backdate`: usage that arrives late would be priced anew.
    """
    now = await store.pool.fetchval(SQL["now"])
    parse_book(0, now, document)
    backdated = effective_from is not None and effective_from < now - _NOW_S
    if backdated and not backdate:
        message = "prices cannot start in the past: usage that arrives late would be priced anew"
        raise Rejected("backdated", f"{message}. If that is meant, say --backdate")
    row = await _insert_prices(store, document, effective_from, by)
    book = parse_book(row["version"], row["effective_from"], document)
    return await _applied(store, book, backdated=backdated)


async def _insert_prices(
    store: Store, document: Mapping[str, Any], effective_from: datetime | None, by: str
) -> asyncpg.Record:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return await store.pool.fetchrow(
                SQL["apply_prices"], effective_from, by, json.dumps(document)
            )
        except asyncpg.UniqueViolationError:  # somebody else took the next version number
            if attempt == _ATTEMPTS:
                raise
    raise Rejected("conflict", "other price versions keep being applied; try again")


async def _applied(store: Store, book: Book, *, backdated: bool) -> AppliedPrices:
    rows = await store.pool.fetch(SQL["unpriced_kinds"])
    priced = [r for r in rows if book.cost(r["phase"], 1) is not None]
    return AppliedPrices(
        book,
        backdated,
        sum(r["events"] for r in rows),
        sum(r["events"] for r in priced),
    )
