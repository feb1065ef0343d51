"""Taking a charge back: whole, once, to the grants that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger import audit
from faregate.ledger.acts_sending import CLI, READING, Done, code, send
from faregate.ledger.batch import Refs
from faregate.ledger.core import Grant, Identity, Part, Refund, Rejected
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store, Unavailable

_ATTEMPTS = 5


async def refund(
    store: Store,
    *,
    actor: str,
    key: str,
    via: str = CLI,
    usage_id: str | None = None,
    source: str | None = None,
    entry_id: int | None = None,
    outcome_id: int | None = None,
    subject: str | None = None,
    reason: str | None = None,
) -> Done:
    """Refund one charge, and all of it.

    It is named by `usage_id` (with its `source` if several programs have one), by an entry of it,
    or by its outcome; with `subject` it must be that account's charge or that user's usage.
    A charge is refunded once, whoever asks how often: later answers are the first one's, with
    `repeated`. Rejected: `unknown_charge`, `ambiguous_usage`, `not_charged`, `nothing_to_refund`,
    `amount_out_of_range`.
    """
    event_key = store.keys.event(via, key)
    for attempt in range(1, _ATTEMPTS + 1):
        erasures = await store.pool.fetchval(SQL["erasures"])
        try:
            charge = await _charge(store, usage_id, source, entry_id, outcome_id, subject)
            command = await _command(store, charge, event_key, code("reason", reason))
        except Rejected as refused:
            await _log(store, actor, refused, subject, entry_id, outcome_id)
            raise
        try:
            return await send(store, command, Refs(via, key), actor, erasures=erasures)
        except Unavailable:
            # Who paid may have been erased since: their name would be a new account's.
            now = await store.pool.fetchval(SQL["erasures"])
            if now == erasures or attempt == _ATTEMPTS:
                raise
    raise Unavailable("people keep being erased; try again")


async def _command(store: Store, charge: _Charge, event_key: bytes, reason: str | None) -> Refund:
    """Make the command from the charge's entries, which never change. Raises Rejected."""
    parts = [await _part(store, row, charge.subjects) for row in charge.rows]
    # The payer's first, then the member's whose allocation went down with it.
    parts.sort(key=lambda part: part.subject.startswith("member:"))
    if not any(part.amount or part.debt for part in parts):
        raise Rejected("nothing_to_refund", "this usage cost nothing")
    first = charge.rows[0]
    named = Identity(
        event_key,
        store.keys.fingerprint("refund", {"charge": charge.outcome_id}),
        refund_key(store, charge.event_key),
    )
    user, org = charge.subjects.get(first["user_id"]), charge.subjects.get(first["org_id"])
    return Refund(named, charge.outcome_id, user, org, tuple(parts), reason)


async def _log(
    store: Store,
    actor: str,
    refused: Rejected,
    subject: str | None,
    entry_id: int | None,
    outcome_id: int | None,
) -> None:
    """Log a refund that was refused before there was anything to decide.

    Whose charge was meant, and by which number; a usage_id is no part of the log, which never
    changes and names nobody.
    """
    account_id = await store.names.find(subject) if subject is not None else None
    asked = {"entry_id": entry_id, "charge_id": outcome_id}
    numbers = {name: number for name, number in asked.items() if number is not None}
    result = f"refused: {refused.code}"
    act = audit.Act(actor, "refund", result, account_id, metadata=numbers)
    async with store.pool.acquire() as connection, connection.transaction():
        now = await connection.fetchval(SQL["now"])
        await audit.append(connection, store.keys, now, [act])


def refund_key(store: Store, event_key: bytes) -> bytes:
    """Name the refund of a charge, whoever asks for it: so there is one."""
    return store.keys.internal("refund", event_key.hex())


class _Charge:
    """A charge as the ledger has it: its outcome, its usage entries, names of their accounts."""

    def __init__(self, outcome: Any, rows: Sequence[asyncpg.Record], subjects: Any) -> None:
        self.outcome_id: int = outcome["id"]
        self.event_key: bytes = outcome["event_key"].bytes
        self.rows = rows
        self.subjects: dict[int | None, str] = dict(subjects)

    def concerns(self, subject: str) -> bool:
        """Tell whether an account paid for it, or used it."""
        named = {self.subjects[r["account_id"]] for r in self.rows}
        return subject in named | {self.subjects.get(r["user_id"]) for r in self.rows}


async def _charge(
    store: Store,
    usage_id: str | None,
    source: str | None,
    entry_id: int | None,
    outcome_id: int | None,
    subject: str | None,
) -> _Charge:
    """Find the one charge that is meant. Raises Rejected."""
    if usage_id is not None:
        outcomes = await _of_usage(store, usage_id, source)
        what = f"usage {usage_id!r}"
    else:
        name, number = (
            ("outcome_of_entry", entry_id) if entry_id is not None else ("charged", outcome_id)
        )
        outcomes = await store.pool.fetch(READING[name], number)
        what = f"an entry {entry_id}" if entry_id is not None else f"an outcome {outcome_id}"
    if not outcomes:
        raise Rejected("unknown_charge", f"the ledger knows no {what.removeprefix('an ')}")
    charges = [c for o in outcomes if (c := await _read(store, o)) is not None]
    if not charges:
        raise Rejected("not_charged", f"{what} took no credits, so there is nothing to give back")
    ours = [c for c in charges if subject is None or c.concerns(subject)]
    if not ours:
        raise Rejected("unknown_charge", f"{what} was not charged to {subject}, and is not theirs")
    if len(ours) > 1:
        message = f"{what} was sent by several programs: say which (its source)"
        raise Rejected("ambiguous_usage", message)
    return ours[0]


async def _of_usage(store: Store, usage_id: str, source: str | None) -> list[asyncpg.Record]:
    """Find what was charged under a usage_id: usage events, and what a caller deducted so."""
    sources = [r["source"] for r in await store.pool.fetch(SQL["all_sources"])]
    wanted = [s for s in sources if source in {None, s}]
    keys = [UUID(store.keys.usage(s, usage_id)) for s in wanted]
    found = list(await store.pool.fetch(READING["outcomes_of_usage"], keys))
    if found:
        return found
    try:
        rows = await store.pool.fetch(READING["outcomes_of_reference"], usage_id)
    except asyncpg.QueryCanceledError as error:  # it has no index: the ledger is too large for it
        message = f"no usage event is called {usage_id!r}; if it was a deduction, name its entry"
        raise Rejected("unknown_charge", message) from error
    return [r for r in rows if source in {None, r["source"]}]


async def _read(store: Store, outcome: asyncpg.Record) -> _Charge | None:
    """Read a charge; None where the outcome took nothing (or waits for a price)."""
    if outcome["result"] == "unpriced":
        late = UUID(store.keys.late_charge(outcome["event_key"].bytes))
        row = await store.pool.fetchrow(READING["charge_of_key"], late)
        if row is None:
            return None
        outcome = row
    rows = await store.pool.fetch(READING["charge"], outcome["id"])
    if not rows:
        return None
    ids = {r[n] for r in rows for n in ("account_id", "user_id", "org_id") if r[n] is not None}
    return _Charge(outcome, rows, await store.names.subjects(ids))


async def _part(store: Store, row: asyncpg.Record, subjects: dict[int | None, str]) -> Part:
    """Give what a charge took from one account, with the terms of the grants it took from."""
    flat = row["grants"] or []
    deltas = tuple((flat[n], flat[n + 1], flat[n + 2]) for n in range(0, len(flat), 3))
    numbers = [number for number, _, _ in deltas]
    terms = await store.pool.fetch(READING["grant_terms"], row["account_id"], numbers)
    known = tuple(Grant(t["number"], 0, 0, t["priority"], t["expires_at"]) for t in terms)
    return Part(subjects[row["account_id"]], row["amount"], row["debt_delta"], deltas, known)
