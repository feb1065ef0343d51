"""Load the state that a batch of commands can touch, under the account locks (rules 2 and 3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import stored
from faregate.ledger.batch import Needs
from faregate.ledger.core import Account, Books, Hold, Pipeline, Rules, Seen, State, parse_book
from faregate.ledger.names import Ids, Names, erased
from faregate.ledger.queries import SQL

_PARTS = ("context", "seen", "pipeline", "completion", "member")
"""The kinds of rows that the query `state` gives."""

_LOCK_FREE = SQL["lock_accounts"].removesuffix(";") + " SKIP LOCKED;"


class PayerMoved(Exception):
    """A hold or a member appeared, between look and lock, that is not locked: take it again."""


class NamesMoved(Exception):
    """An account is not whose it is remembered to be (a restored backup): forget, then again."""


class NamesErased(Exception):
    """Somebody has been erased since names were looked up: take the batch again."""


@dataclass(slots=True)
class Loaded:
    """The state for the core, and what writing it back needs."""

    state: State
    now: datetime
    tx: int
    ids: dict[str, int]
    heads: dict[str, bytes]
    requests: dict[bytes, int]
    """Outcome id that each known pipeline was let in by."""


class PriceCache:
    """All price versions; read again as soon as the load query sees a newer one (rule 13)."""

    def __init__(self) -> None:
        self._newest: int | None = None
        self._books = Books()

    async def books(self, connection: asyncpg.Connection, newest: int | None) -> Books:
        """Give all versions up to `newest`, the number that this transaction sees."""
        if newest != self._newest:
            rows = await connection.fetch(SQL["price_versions"])
            self._books = Books(
                {
                    r["version"]: parse_book(
                        r["version"], r["effective_from"], json.loads(r["book"])
                    )
                    for r in rows
                }
            )
            self._newest = newest
        return self._books


def _uuids(keys: Iterable[bytes]) -> list[UUID]:
    return [UUID(k) for k in sorted(keys)]


async def lock(
    connection: asyncpg.Connection, needs: Needs, ids: Ids, *, waits: bool
) -> list[asyncpg.Record]:
    """Lock every account of the batch, once whoever has locked one of them is done.

    Where it does not wait it leaves those out.
    """
    sql = SQL["lock_accounts"] if waits else _LOCK_FREE
    locked: list[asyncpg.Record] = await connection.fetch(
        sql, sorted(ids.values()), _uuids(needs.pipelines), *_pairs(needs, ids)
    )
    return locked


def _pairs(needs: Needs, ids: Ids) -> tuple[list[int], list[int]]:
    pairs = [(ids[org], ids[user]) for org, user in sorted(needs.pairs)]
    return [org for org, _ in pairs], [user for _, user in pairs]


async def load(
    connection: asyncpg.Connection,
    names: Names,
    prices: PriceCache,
    rules: Rules,
    needs: Needs,
    ids: Ids,
    locked: Sequence[asyncpg.Record],
) -> Loaded:
    """Read what the batch rests on, once its accounts are locked.

    Raises PayerMoved, NamesMoved and NamesErased when it must be tried again.
    """
    batches = {(ids[s], batch): (s, batch) for s, batch in needs.batches}
    parts: dict[str, list[asyncpg.Record]] = {p: [] for p in _PARTS}
    for row in await connection.fetch(
        SQL["state"],
        _uuids(needs.events),
        _uuids(needs.usages),
        _uuids(needs.pipelines),
        [a for a, _ in batches],
        [UUID(b) for _, b in batches],
        *_pairs(needs, ids),
    ):
        parts[row["part"]].append(row)
    (context,) = parts["context"]
    if context["erasures"] != ids.erasures:
        # The lock may have waited for an erasure, and then shows the name from before it.
        names.as_of(context["erasures"])
        raise NamesErased
    subjects = _subjects(ids, locked)
    if not subjects.keys() >= {row["account_id"] for row in parts["member"]}:
        raise PayerMoved
    state = State(await prices.books(connection, context["price_version"]), rules)
    loaded = Loaded(
        state, context["now"], context["tx"], {s: i for i, s in subjects.items()}, {}, {}
    )
    for row in locked:
        subject = subjects[row["id"]]
        loaded.heads[subject] = row["chain_head"]
        state.accounts[subject] = account_of(subject, row)
        org, user = subjects.get(row["org_id"]), subjects.get(row["user_id"])
        if org and user:
            state.members[org, user] = subject
    if not state.members.keys() >= needs.members:
        raise NamesMoved  # it is remembered from before a backup was restored
    _take_seen(state, parts["seen"])
    await _take_pipelines(connection, names, loaded, parts["pipeline"])
    for row in parts["completion"]:
        key = batches[row["account_id"], row["batch_key"].bytes]
        state.completions.setdefault(key, {})[row["phase"]] = row["items"]
    return loaded


def _subjects(ids: Mapping[str, int], locked: Sequence[asyncpg.Record]) -> dict[int, str]:
    """Give the subject of each locked account: what is remembered must be what is there."""
    there = {r["id"]: r["subject"] or erased(r["id"]) for r in locked}
    if any(there.get(i) != s for s, i in ids.items()):
        raise NamesMoved
    return there


def account_of(subject: str, row: asyncpg.Record) -> Account:
    """Read an account's row as the core has it."""
    return Account(
        subject,
        row["balance"],
        row["held"],
        row["debt"],
        row["sequence"],
        row["last_at"],
        stored.grants_of(row["grants"]),
        row["granted"],
        stored.plan_of(row["plan"]),
    )


def _take_seen(state: State, rows: Sequence[asyncpg.Record]) -> None:
    for row in rows:
        seen = Seen(row["fingerprint"].bytes, row["outcome_id"], row["result"])
        state.seen[row["event_key"].bytes] = seen
        if row["usage_key"] is not None:
            state.seen[row["usage_key"].bytes] = seen


async def _take_pipelines(
    connection: asyncpg.Connection, names: Names, loaded: Loaded, rows: Sequence[asyncpg.Record]
) -> None:
    if not rows:
        return
    involved = {
        i for r in rows for i in (r["user_id"], r["org_id"], r["payer_id"], r["member_id"]) if i
    }
    known = {i: s for s, i in loaded.ids.items()}
    if not involved <= known.keys():
        known.update(await names.subjects(involved - known.keys(), connection))
    for row in rows:
        pipeline = _pipeline(row, known)
        hold, accounts = pipeline.hold, loaded.state.accounts
        if hold and (hold.payer not in accounts or (hold.member and hold.member not in accounts)):
            raise PayerMoved
        loaded.state.pipelines[pipeline.key] = pipeline
        loaded.requests[pipeline.key] = row["outcome_id"]
        loaded.ids.update({known[i]: i for i in (row["user_id"], row["org_id"]) if i})


@lru_cache(1024)
def _phases(text: str) -> tuple[str, ...]:
    """Read a JSON list of phases; few different ones come again and again."""
    return tuple(json.loads(text))


def _pipeline(row: asyncpg.Record, subjects: Mapping[int, str]) -> Pipeline:
    hold = None
    if row["hold_id"] is not None:
        hold = Hold(
            row["hold_id"].bytes,
            subjects[row["payer_id"]],
            row["amount"],
            row["remaining"],
            row["price_version"],
            row["state"],
            row["expires_at"],
            row["usage_settled"],
            row["usage_expected"],
            stored.pins_of(row["pins"]),
            subjects[row["member_id"]] if row["member_id"] else None,
            stored.pins_of(row["member_pins"]),
        )
    return Pipeline(
        row["pipeline_key"].bytes,
        subjects[row["user_id"]],
        subjects[row["org_id"]] if row["org_id"] else None,
        row["items"],
        _phases(row["phases"]),
        _phases(row["pruned"]),
        hold,
        b"",
        settled=hold is None and row["state"] == "closed",
    )
