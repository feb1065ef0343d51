"""What the ledger has stored of a command: its outcome and the entries that it wrote.

Answers are made of this alone: of the rows that the transaction has just committed, or, for a
command that was decided before, of the same rows read back. So the second answer to the same
Idempotency-Key is the first one, also after a restart or from another process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import bodies
from faregate.ledger.batch import Submission
from faregate.ledger.store import Applied, Store
from faregate.ledger.write import TX_BITS

_OUTCOMES = """
SELECT id, event_key, command, result, user_id, org_id, at, body, calls FROM outcomes
WHERE event_key = ANY ($1::uuid[])"""

_ENTRIES = """
SELECT id, outcome_id, account_id, kind, amount, held_delta, debt_delta, balance, held, debt,
       price_version, at FROM entries
WHERE id >= $1 AND id < $2 AND outcome_id = ANY ($3::bigint[]) ORDER BY id"""


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One entry, with the account's values after it. Amounts are micro-credits."""

    id: int
    account: str
    kind: str
    amount: int
    held_delta: int
    debt_delta: int
    balance: int
    held: int
    debt: int
    price_version: int | None
    at: datetime


@dataclass(slots=True)
class Stored:
    """An outcome as it is stored; accounts in `body` are subjects. Amounts are micro-credits."""

    command: str
    result: str
    user: str | None
    org: str | None
    at: datetime
    body: Mapping[str, Any]
    entries: list[StoredEntry] = field(default_factory=list)

    def entry(self, kind: str, account: str) -> StoredEntry | None:
        """Give the entry of a kind that it wrote to an account."""
        return next((e for e in self.entries if (e.kind, e.account) == (kind, account)), None)


def written(applied: Applied) -> dict[bytes, Stored]:
    """Give what a transaction has committed, by event key: the same as `read_back` gives."""
    outcomes = applied.outcomes
    stored = [Stored(o.name, o.result, o.user, o.org, applied.at, o.body or {}) for o in outcomes]
    for n, e in enumerate(applied.entries, applied.first_id):
        stored[e.outcome].entries.append(
            StoredEntry(
                n,
                e.subject,
                e.kind,
                e.amount,
                e.held_delta,
                e.debt_delta,
                e.balance,
                e.held,
                e.debt,
                e.price_version,
                e.at,
            )
        )
    return {o.identity.event_key: s for o, s in zip(outcomes, stored, strict=True)}


async def read_back(store: Store, submissions: Sequence[Submission]) -> dict[bytes, Stored]:
    """Read what is stored of commands, by event key. Raises the driver's errors."""
    keys = [UUID(s.command.identity.event_key) for s in submissions]
    outcomes = await store.pool.fetch(_OUTCOMES, keys)
    by_transaction: dict[int, list[int]] = {}
    for row in outcomes:
        by_transaction.setdefault(row["id"] >> TX_BITS, []).append(row["id"])
    entries: list[asyncpg.Record] = []
    for tx, ids in by_transaction.items():
        entries += await store.pool.fetch(_ENTRIES, tx << TX_BITS, (tx + 1) << TX_BITS, ids)
    texts = {row["id"]: json.loads(row["body"]) if row["body"] else {} for row in outcomes}
    subjects = await store.names.subjects(_accounts(outcomes, entries, texts.values()))
    stored = {row["id"]: _stored(row, texts[row["id"]], subjects) for row in outcomes}
    for entry in entries:
        stored[entry["outcome_id"]].entries.append(_entry(entry, subjects))
    return {row["event_key"].bytes: stored[row["id"]] for row in outcomes}


def _accounts(
    outcomes: Iterable[asyncpg.Record],
    entries: Iterable[asyncpg.Record],
    texts: Iterable[Mapping[str, Any]],
) -> set[int]:
    ids = {i for row in outcomes for i in (row["user_id"], row["org_id"]) if i is not None}
    ids.update(entry["account_id"] for entry in entries)
    for text in texts:
        ids |= bodies.accounts_in(text)
    return ids


def _stored(row: asyncpg.Record, text: Mapping[str, Any], subjects: Mapping[int, str]) -> Stored:
    return Stored(
        row["command"],
        row["result"],
        subjects.get(row["user_id"]),
        subjects.get(row["org_id"]),
        row["at"],
        bodies.to_public(text, subjects),
    )


def _entry(row: asyncpg.Record, subjects: Mapping[int, str]) -> StoredEntry:
    return StoredEntry(
        row["id"],
        subjects[row["account_id"]],
        row["kind"],
        row["amount"],
        row["held_delta"],
        row["debt_delta"],
        row["balance"],
        row["held"],
        row["debt"],
        row["price_version"],
        row["at"],
    )
