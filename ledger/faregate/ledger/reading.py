"""What an account has and had: balance, entries, grants, quota; as JSON-ready values, in credits.

Whoever reads an account whose time has come (a grant is due, a tier renews) brings it to now first,
as the sweeper would: so what is read is always what the ledger's entries sum up to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from faregate.events.amounts import to_credits
from faregate.ledger import stored
from faregate.ledger.acts_sending import READING
from faregate.ledger.batch import Refs, Submission
from faregate.ledger.core import Grant, Identity, Refresh
from faregate.ledger.core.accounts import PERIOD
from faregate.ledger.core.alerts import threshold
from faregate.ledger.core.quotas import limit
from faregate.ledger.names import bare_id
from faregate.ledger.snapshot import seen_now
from faregate.ledger.store import Store

SOURCE = "faregate"
_NEWEST = 2**62
_NEWEST_ENTRIES = 2_000
_MOMENT = timedelta(microseconds=1)
_COPIED = (
    "usage_id",
    "pipeline_id",
    "phase",
    "provider",
    "model",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "price_version",
    "tier",
    "reason",
    "correlation_id",
)
Value = dict[str, Any]


async def account(store: Store, subject: str, at: datetime | None = None) -> Value:
    """Give what an account has (or had at a time) and its plan; zeros if nobody has named it."""
    row = await current(store, subject)
    if row is None:
        return _amounts(subject, None) | await _plan(store, subject)
    if at is None:
        return _amounts(subject, row) | await _plan(store, subject, row)
    sequence = await sequence_at(store, row["id"], at)
    then = await store.pool.fetchrow(READING["entry"], row["id"], sequence)
    return _amounts(subject, then) | {
        "tier": stored.plan_of(row["plan"]).tier,
        "at": _iso(_utc(at)),
    }


async def current(store: Store, subject: str) -> asyncpg.Record | None:
    """Read an account's row; first let time have its effect, if it is due."""
    row = await store.pool.fetchrow(READING["account"], subject)
    if row is not None and row["due"]:
        await bring_to_now(store, subject)
        row = await store.pool.fetchrow(READING["account"], subject)
    return row


async def bring_to_now(store: Store, *subjects: str) -> None:
    """Expire and renew what is due, as the sweeper does. Raises Unavailable."""
    if subjects:
        keys = [uuid4().bytes for _ in subjects]
        identities = [Identity(key, key) for key in keys]
        commands = [Refresh(i, s) for i, s in zip(identities, subjects, strict=True)]
        await store.apply([Submission(c, Refs(SOURCE)) for c in commands])


def _amounts(subject: str, row: asyncpg.Record | None) -> Value:
    balance, held, debt = (row["balance"], row["held"], row["debt"]) if row else (0, 0, 0)
    return {
        "account": subject,
        "balance": to_credits(balance),
        "held": to_credits(held),
        "available": to_credits(balance - held),
        "debt": to_credits(debt),
    }


async def _plan(store: Store, subject: str, row: asyncpg.Record | None = None) -> Value:
    quota_ = await quota(store, subject)
    plan = stored.plan_of(row["plan"] if row else "{}")
    value: Value = {
        "tier": plan.tier,
        "next_tier": plan.next_tier,
        "granted": to_credits(row["granted"]) if row else 0,
        "period_start": quota_["period_start"],
        "period_end": quota_["period_end"],
        "calls_used": quota_["used"],
        "calls_limit": quota_["limit"],
        "calls_remaining": quota_["remaining"],
    }
    if subject.startswith("org:"):
        value["policy"] = plan.policy
    if row:
        at = row["last_at"] if row["sequence"] else row["created_at"]
        value |= {"created_at": _iso(row["created_at"]), "updated_at": _iso(at)}
    return value


async def quota(store: Store, subject: str) -> Value:
    """Give the calls of an account's running period; a `limit` of None: as many as they like.

    `period_end` is when the count begins anew; None before the first call.
    """
    work = await seen_now(store, subject)
    plan, allowed = work.state.accounts[subject].plan, limit(work, subject)
    start = plan.period_start
    return {
        "tier": plan.tier,
        "used": plan.calls,
        "limit": allowed,
        "remaining": None if allowed is None else max(allowed - plan.calls, 0),
        "period_start": _iso(start),
        "period_end": _iso(start + PERIOD) if start else None,
    }


async def sequence_at(store: Store, account_id: int, at: datetime) -> int:
    """Give the last sequence of an account at or before a time."""
    return await sequence_before(store, account_id, _utc(at) + _MOMENT)


async def sequence_before(store: Store, account_id: int, at: datetime) -> int:
    """Give the last sequence of an account before a time; 0 for none."""
    found = await store.pool.fetchval(READING["sequence_before"], account_id, _utc(at))
    return int(found or 0)


async def history(
    store: Store,
    subject: str,
    limit: int,
    before: int | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[Value]:
    """List an account's entries, newest first; an account that nobody has named yet has none.

    `before` is a sequence; `since` counts in, `until` does not.
    """
    account_id = await store.names.find(subject)
    if account_id is None:
        return []
    after, end = await span(store, account_id, since, until)
    upper = min(before or _NEWEST, end + 1)
    rows = await store.pool.fetch(READING["history"], account_id, upper, after, limit)
    return await entries(store, rows)


async def span(
    store: Store, account_id: int, since: datetime | None, until: datetime | None
) -> tuple[int, int]:
    """Give a period as sequences: entries after the first, up to the second."""
    after = 0 if since is None else await sequence_before(store, account_id, since)
    end = _NEWEST if until is None else await sequence_before(store, account_id, until)
    return after, end


async def entries(store: Store, rows: Sequence[asyncpg.Record]) -> list[Value]:
    """Write rows of `entries` (joined with refs) as JSON-ready values; amounts in credits.

    A refund has the `usage_id` and `pipeline_id` of the charge that it gave back, and its outcome
    as `charge_id`.
    """
    ids = {r[n] for r in rows for n in ("account_id", "user_id", "org_id") if r[n] is not None}
    subjects = await store.names.subjects(ids)
    values = [_entry(row, subjects) for row in rows]
    refunds = {r["outcome_id"] for r in rows if r["kind"] == "refund"}
    if refunds:
        found = await store.pool.fetch(READING["charges_of_refunds"], list(refunds))
        charges = {r["id"]: r for r in found}
        for row, value in zip(rows, values, strict=True):
            if row["kind"] == "refund" and row["outcome_id"] in charges:
                value.update(_charge(charges[row["outcome_id"]]))
    return values


def _charge(row: asyncpg.Record) -> Value:
    names = ("charge_id", "usage_id", "pipeline_id")
    return {name: row[name] for name in names if row[name] is not None}


def _entry(row: asyncpg.Record, subjects: Mapping[int, str]) -> Value:
    value: Value = {
        "id": row["id"],
        "account": subjects[row["account_id"]],
        "sequence": row["sequence"],
        "at": row["at"].isoformat(),
        "kind": row["kind"],
    }
    for name in ("amount", "held_delta", "debt_delta", "balance", "held", "debt"):
        value[name] = to_credits(row[name])
    for name in ("user_id", "org_id"):
        if row[name] is not None:
            value[name] = bare_id(subjects[row[name]])
    value.update({name: row[name] for name in _COPIED if row[name] is not None})
    if row["hold_id"] is not None:
        value["hold_id"] = str(row["hold_id"])
    flat = row["grants"] or []
    moved = [(flat[n], flat[n + 1]) for n in range(0, len(flat), 3) if flat[n + 1]]
    if moved:
        value["grants"] = [{"number": n, "amount": to_credits(amount)} for n, amount in moved]
    value["hash"] = row["hash"].hex()
    return value


async def grants(store: Store, subject: str, at: datetime | None = None) -> list[Value]:
    """List all grants an account ever had, oldest first, with what is left of each (or was).

    `state`: `live`, `spent`, `expired` (something of it expired, or will have when looked at).
    """
    row = await current(store, subject)
    if row is None:
        return []
    made = await store.pool.fetch(READING["made_grants"], row["id"])
    when = row["now"] if at is None else _utc(at)
    if at is None:
        left = {g.number: (g.remaining, g.held) for g in stored.grants_of(row["grants"])}
    else:
        sequence = await sequence_at(store, row["id"], at)
        made = [m for m in made if m["number"] <= sequence]
        rows = await store.pool.fetch(READING["grants_at"], row["id"], sequence)
        left = {r["number"]: (r["remaining"], r["held"]) for r in rows}
    return [_grant(store, subject, m, left.get(m["number"], (0, 0)), when) for m in made]


def _grant(
    store: Store, subject: str, made: asyncpg.Record, left: tuple[int, int], when: datetime
) -> Value:
    remaining, held = left
    over = made["expires_at"] is not None and made["expires_at"] <= when
    return {
        "id": made["id"],
        "grant_id": store.keys.grant(subject, made["number"]),
        "number": made["number"],
        "at": _iso(made["at"]),
        "kind": made["kind"],
        "amount": to_credits(made["amount"]),
        "remaining": to_credits(remaining),
        "held": to_credits(held),
        "state": "live" if remaining and not (over and remaining > held) else _gone(over),
        "priority": made["priority"],
        "expires_at": _iso(made["expires_at"]),
        "source": made["source"],
        "allocated_by": made["allocated_by"],
        "notes": made["notes"],
        "layer": made["layer"],
        "arm": made["arm"],
    }


def _gone(over: bool) -> str:
    return "expired" if over else "spent"


def burn_order(found: Sequence[Value]) -> list[Value]:
    """Sort live grants as they burn; what is gone comes after them, newest first."""

    def key(value: Value) -> tuple[Any, ...]:
        expires = value["expires_at"]
        at = datetime.fromisoformat(expires) if expires else None
        if value["state"] != "live":
            return (1, -value["number"])
        return (0, *Grant(value["number"], 0, 0, value["priority"], at).burn_order)

    return sorted(found, key=key)


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()


def _utc(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


async def alerts(store: Store, subject: str) -> Value:
    """Give what CreditsLowV1 is raised at: what was set, what holds, and what has been raised."""
    row = await current(store, subject)
    plan = stored.plan_of(row["plan"] if row else "{}")
    return {
        "account": subject,
        "low": None if plan.low_micro is None else to_credits(plan.low_micro),
        "percent": plan.low_percent,
        "threshold": to_credits(threshold(store.rules, plan)),
        "raised": list(plan.alerted),
    }


async def busiest(store: Store, most: int) -> list[Value]:
    """List the accounts that moved last, as they are: it looks, and brings none of them to now."""
    rows = await store.pool.fetch(READING["busiest"], _NEWEST_ENTRIES, most)
    return [_amounts(row["subject"], row) | {"at": _iso(row["last_at"])} for row in rows]
