"""The audit log as people read it: who did what, when, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from faregate.events.amounts import to_credits
from faregate.ledger.acts_sending import READING
from faregate.ledger.names import bare_id
from faregate.ledger.store import Store

_NEWEST = 2**62
_MICRO = ("target", "amount", "low_micro")
Value = dict[str, Any]


async def audit(
    store: Store, subject: str | None = None, limit: int = 50, before: int | None = None
) -> list[Value]:
    """List administrative acts, newest first: all, or those on one account. Amounts in credits."""
    account_id = await store.names.find(subject) if subject is not None else None
    if subject is not None and account_id is None:
        return []
    rows = await store.pool.fetch(READING["audit"], account_id, before or _NEWEST, limit)
    read = [(row, json.loads(row["metadata"])) for row in rows]
    named = {i for row, m in read for i in (row["account_id"], m.get("user_id")) if i is not None}
    subjects = await store.names.subjects(named)
    return [
        {
            "id": row["id"],
            "at": row["at"].isoformat(),
            "actor": row["actor"],
            "action": row["action"],
            "result": row["result"],
            "account": subjects[row["account_id"]] if row["account_id"] is not None else None,
            "outcome_id": row["outcome_id"],
            "metadata": _readable(metadata, subjects),
        }
        for row, metadata in read
    ]


def _readable(metadata: Mapping[str, Any], subjects: Mapping[int, str]) -> Value:
    value = dict(metadata)
    for name in _MICRO:
        if name in value:
            value[name.removesuffix("_micro")] = to_credits(value.pop(name))
    if "low_percent" in value:
        value["percent"] = value.pop("low_percent")
    if value.get("user_id") is not None:
        value["user_id"] = bare_id(subjects[value["user_id"]])
    return value
