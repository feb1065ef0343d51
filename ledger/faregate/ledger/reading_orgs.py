"""What an organization has and its members may spend; what was used, by whom and for what.

JSON-ready values in credits; sums are made of integers by the database, so they are the ledger's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

import asyncpg

from faregate.events.amounts import to_credits
from faregate.ledger import stored
from faregate.ledger.acts_sending import READING
from faregate.ledger.names import bare_id, erased
from faregate.ledger.reading import account, bring_to_now, span
from faregate.ledger.store import Store

GROUPS = ("member", "model", "phase", "day")
"""What usage can be attributed to."""
Value = dict[str, Any]
_SUMS = ("charged", "refunded")
_COUNTS = ("events", "units", "input_tokens", "output_tokens")


async def members(store: Store, org: str, user: str | None = None) -> list[Value]:
    """List the members of an org (or one), also removed ones of whom something is still held."""
    return [_member(row) for row in await _rows(store, org, user)]


async def roles(store: Store, org: str) -> dict[str, str]:
    """Give the role of each user who is a member now: nobody who was erased, or removed."""
    found = {r["user_subject"]: stored.plan_of(r["plan"]).role for r in await _rows(store, org)}
    return {bare_id(s): role for s, role in found.items() if s and role in ("admin", "member")}


async def _rows(store: Store, org: str, user: str | None = None) -> list[asyncpg.Record]:
    org_id, user_id = await store.names.find(org), await store.names.find(user) if user else None
    if org_id is None or (user and user_id is None):
        return []
    rows = await store.pool.fetch(READING["members"], org_id, user_id)
    due = [r["subject"] for r in rows if r["due"]]
    if due:
        await bring_to_now(store, *due)
        rows = await store.pool.fetch(READING["members"], org_id, user_id)
    return [r for r in rows if _counts(stored.plan_of(r["plan"]).role, r["held"])]


def _counts(role: str | None, held: int) -> bool:
    return role is not None and (role != "removed" or held > 0)


def _member(row: asyncpg.Record) -> Value:
    subject = row["user_subject"] or erased(row["user_id"])
    return {
        "user_id": bare_id(subject),
        "role": stored.plan_of(row["plan"]).role,
        "allocated": to_credits(row["granted"]),
        "used": to_credits(row["granted"] - row["balance"]),
        "held": to_credits(row["held"]),
        "remaining": to_credits(row["balance"] - row["held"]),
        "since": row["created_at"].isoformat(),
    }


async def organization(store: Store, org: str) -> Value:
    """Give an org's account, and what of its credits is allocated to members and not yet used."""
    found, rows = await account(store, org), await _rows(store, org)
    left = sum(row["balance"] for row in rows)
    return found | {"members": len(rows), "allocated": to_credits(left)}


async def usage(
    store: Store,
    subject: str,
    group_by: Collection[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> Value:
    """Attribute what an account was charged between two times, `since` counting in.

    Rows have `charged` (what usage cost, debt included), `refunded` (at the time of the refund, for
    what the charge was for) and `net`. `total` is the sum of the rows, and the ledger's to the
    micro-credit. Raises ValueError for a group that does not exist.
    """
    unknown = sorted(set(group_by) - set(GROUPS))
    if unknown:
        raise ValueError(f"usage is grouped by {', '.join(GROUPS)}, not by {unknown[0]!r}")
    account_id = await store.names.find(subject)
    rows: list[asyncpg.Record] = []
    if account_id is not None:
        after, end = await span(store, account_id, since, until)
        groups = [name in group_by for name in GROUPS]
        rows = await store.pool.fetch(READING["usage"], account_id, after, end, *groups)
    subjects = await store.names.subjects({r["user_id"] for r in rows if r["user_id"]})
    return {
        "account": subject,
        "from": since.isoformat() if since else None,
        "to": until.isoformat() if until else None,
        "group_by": [name for name in GROUPS if name in group_by],
        "rows": [_names(r, group_by, subjects) | _numbers([r]) for r in rows] if group_by else [],
        "total": _numbers(rows),
    }


def _names(row: asyncpg.Record, group_by: Collection[str], subjects: Mapping[int, str]) -> Value:
    value: Value = {}
    if "member" in group_by:
        value["user_id"] = bare_id(subjects[row["user_id"]]) if row["user_id"] else None
    if "model" in group_by:
        value |= {"provider": row["provider"], "model": row["model"]}
    if "phase" in group_by:
        value["phase"] = row["phase"]
    if "day" in group_by:
        value["day"] = row["day"].isoformat()
    return value


def _numbers(rows: Collection[asyncpg.Record]) -> Value:
    charged, refunded = (sum(r[name] for r in rows) for name in _SUMS)
    amounts = {"charged": charged, "refunded": refunded, "net": charged - refunded}
    counts = {name: sum(r[name] for r in rows) for name in _COUNTS}
    return {name: to_credits(micro) for name, micro in amounts.items()} | counts
