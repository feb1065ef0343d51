"""The audit log: every administrative act, also those that were refused, chained by hash.

A row is written in the transaction of what it tells of. Its hash covers the row before it, a keyed
hash of who acted (their name itself can be erased) and account numbers instead of names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import asyncpg
from asyncpg.pgproto.pgproto import UUID

from faregate.ledger.batch import Submission
from faregate.ledger.core import Allocate, Command, Decision, Outcome, Refund, Rejected, Revoke
from faregate.ledger.keys import Keys
from faregate.ledger.load import Loaded
from faregate.ledger.queries import SQL

GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class Act:
    """One administrative act, as it is logged."""

    actor: str
    action: str
    result: str
    account_id: int | None = None
    outcome_id: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


async def write(
    connection: asyncpg.Connection,
    keys: Keys,
    loaded: Loaded,
    decision: Decision,
    submissions: Sequence[Submission],
) -> None:
    """Log the acts of a batch: those that were done, and those that were refused."""
    acts = []
    numbers = {o.command: n for n, o in enumerate(decision.outcomes)}
    for n, (submission, result) in enumerate(zip(submissions, decision.results, strict=True)):
        if submission.actor is None or not isinstance(result, Outcome | Rejected):
            continue
        command, done = submission.command, isinstance(result, Outcome)
        acts.append(
            Act(
                submission.actor,
                action_of(command),
                result.result if isinstance(result, Outcome) else f"refused: {result.code}",
                _account_of(command, loaded.ids),
                (loaded.tx << 14) + numbers[n] if done else None,
                _metadata(command, loaded.ids),
            )
        )
    if acts:
        await append(connection, keys, loaded.now, acts)


async def append(
    connection: asyncpg.Connection, keys: Keys, at: datetime, acts: Sequence[Act]
) -> None:
    """Append acts to the log, within the caller's transaction. One writer at a time."""
    await connection.execute(SQL["lock_audit"])
    last = await connection.fetchrow(SQL["last_audit"])
    number, head = (last["id"], last["hash"]) if last else (0, GENESIS)
    rows = []
    for act in acts:
        number += 1
        text = json.dumps(act.metadata, sort_keys=True, separators=(",", ":"))
        actor_key = UUID(keys.actor(act.actor))
        row = (number, at, actor_key, act.action, act.result, act.account_id, act.outcome_id, text)
        head = row_hash(head, row)
        rows.append((*row, head, act.actor))
    await connection.executemany(SQL["add_audit"], rows)


def row_hash(previous: bytes, row: Sequence[Any]) -> bytes:
    """Hash a row: id, at, actor_key, action, result, account_id, outcome_id, metadata."""
    number, at, actor_key, action, result, account_id, outcome_id, metadata = row[:8]
    found = json.loads(metadata, parse_float=_number)
    canonical = json.dumps(found, sort_keys=True, separators=(",", ":"))
    parts = (
        number,
        at.astimezone(UTC).isoformat(),
        actor_key.hex,
        action,
        result,
        account_id,
        outcome_id,
    )
    return sha256(previous + json.dumps([*parts, canonical]).encode()).digest()


def _number(text: str) -> float:
    """Read a number alike as it is written and as PostgreSQL gives it back: 1e16 is 10^16."""
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else float(text)


def action_of(command: Command) -> str:
    """Name a command as the log does: `SetBalance` is `set_balance`."""
    name = type(command).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def _account_of(command: Command, ids: Mapping[str, int]) -> int | None:
    if isinstance(command, Refund):
        return ids.get(command.parts[0].subject)
    for name in ("subject", "org", "user"):
        subject = getattr(command, name, None)
        if subject is not None:
            return ids.get(subject)
    return None


_LOGGED = (
    "target",
    "kind",
    "amount",
    "priority",
    "expires_at",
    "tier",
    "now",
    "calls",
    "low_micro",
    "low_percent",
    "policy",
    "role",
    "milestone",
    "charge_id",
)


def _metadata(command: Command, ids: Mapping[str, int]) -> dict[str, Any]:
    """Say what was asked for, without any name: amounts are micro-credits."""
    values = {name: getattr(command, name, None) for name in _LOGGED}
    found = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
        if value is not None
    }
    if isinstance(command, Refund):
        found["amount"] = command.parts[0].debt - command.parts[0].amount
    if isinstance(command, Revoke):
        found["grant"] = command.number
    if isinstance(command, Allocate) and command.amount is None:
        found["reclaimed"] = "all"
    user = getattr(command, "user", None)
    if user is not None and getattr(command, "org", None) is not None:
        found["user_id"] = ids.get(user)
    return found
