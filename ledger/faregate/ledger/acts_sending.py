"""How an act gets into the ledger: one submission, once, and what became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.events.amounts import LIMIT_MICRO
from faregate.events.fields import ID_RULE, is_id
from faregate.ledger import bodies
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Command, Identity, Rejected, Seen
from faregate.ledger.database import TRANSIENT
from faregate.ledger.queries import statements
from faregate.ledger.store import Store, Unavailable

CLI = "faregate/cli"
"""The source of acts from the command line. Keys are unique within their source."""

READING = statements("reading.sql")

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,199}")


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an act: the same again for whoever asks twice with the same key.

    Amounts in `body` are micro-credits, accounts are subjects. `repeated`: it was done before.
    """

    outcome_id: int
    result: str
    at: datetime
    body: Mapping[str, Any]
    repeated: bool = False


def identity(
    store: Store,
    via: str,
    key: str,
    command: str,
    *contents: Mapping[str, object],
    usage_key: bytes | None = None,
) -> Identity:
    """Name an act by its source and key; the same key with other content is a conflict.

    `contents` are ways to say the same, mostly one; the first is kept.
    """
    keys = store.keys
    written = [{n: _plain(v) for n, v in c.items() if v is not None} for c in contents]
    first, *also = [keys.fingerprint(command, content) for content in written]
    return Identity(keys.event(via, key), first, usage_key, tuple(also))


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


async def send(
    store: Store,
    command: Command,
    refs: Refs,
    actor: str | None,
    key: str | None = None,
    *,
    erasures: int | None = None,
) -> Done:
    """Apply a command and read what is stored of it; once more when the answer was lost.

    `erasures`: how many there were when names for it were read from the ledger (Store.apply).
    Raises Rejected, Unavailable.
    """
    submission = Submission(command, refs, actor)
    try:
        return await _sent(store, submission, erasures)
    except TRANSIENT:
        try:
            return await _sent(store, submission, erasures)
        except TRANSIENT as error:
            message = f"{error}. It may have happened: repeat it with the same idempotency key"
            raise Unavailable(f"{message}, {key or refs.event_id}") from error


async def _sent(store: Store, submission: Submission, erasures: int | None) -> Done:
    (result,) = await store.apply([submission], erasures=erasures)
    if isinstance(result, Rejected):
        raise result
    if result is None:
        raise Rejected("nothing_to_do", "the command had nothing to do")
    if isinstance(result, Seen):
        row = await store.pool.fetchrow(READING["outcome"], result.outcome_id)
    else:
        event_key = UUID(submission.command.identity.event_key)
        row = await store.pool.fetchrow(READING["outcome_of_key"], event_key)
    if row is None:  # the same act came twice in this very transaction: now it has a number
        raise Unavailable("the same act was done at the same time")
    return await _done(store, row, repeated=isinstance(result, Seen))


async def _done(store: Store, row: asyncpg.Record, *, repeated: bool) -> Done:
    stored = json.loads(row["body"]) if row["body"] else {}
    subjects = await store.names.subjects(bodies.accounts_in(stored))
    return Done(
        row["id"], row["result"], row["at"], bodies.to_public(stored, subjects), repeated
    )  # fmt: skip


async def was_done(store: Store, via: str, key: str) -> bool:
    """Tell whether an act of this key has been done: it was allowed then, whatever is since."""
    event_key = UUID(store.keys.event(via, key))
    return await store.pool.fetchrow(READING["outcome_of_key"], event_key) is not None


def account_named(subject: str, *kinds: str) -> str:
    """Check that `subject` names an account of these kinds. Raises Rejected `unknown_subject`.

    An id that events may not hold would make an account whose announcements nobody can read.
    """
    kind, _, name = subject.partition(":")
    allowed = kinds or ("org", "user")
    if kind not in allowed or not is_id(name):
        wanted = " or ".join(f"{k}:<id>" for k in allowed)
        message = f"{subject!r} is not an account: write {wanted}; an id has {ID_RULE}"
        raise Rejected("unknown_subject", message)
    return subject


def amount_of(micro: int, *, least: int = 1) -> int:
    """Check an amount in micro-credits. Raises Rejected `amount_out_of_range`."""
    if not least <= micro < LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "an amount must be above 0 and below 10^9 credits")
    return micro


def code(what: str, value: str | None) -> str | None:
    """Check a word that goes into rows that nobody can ever change, so it must name nobody.

    Raises Rejected `invalid_code`.
    """
    if value is not None and not _CODE.fullmatch(value):
        message = (
            f"a {what} is a short code such as double_charge (letters, digits and _ . : / -): it "
            "stays in the ledger for ever, so it is no place for names or sentences"
        )
        raise Rejected("invalid_code", message)
    return value
