"""What people decided about suspicions of fraud: acts in the audit log, and nothing else.

A suspicion is a signal and may be wrong; a review blocks nobody either. What is decided stays in
the log for ever and is chained like every act; the newest review of a case counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

import asyncpg

from faregate.ledger import audit, once
from faregate.ledger.acts_sending import READING, code
from faregate.ledger.core import Rejected
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store

Verdict = Literal["confirmed", "dismissed"]
ACTION = "review_fraud"


@dataclass(frozen=True, slots=True)
class Review:
    """The newest decision about a case; `actor` is None once they were erased."""

    case_id: str
    verdict: str
    actor: str | None
    reason: str | None
    at: datetime


async def review(
    store: Store,
    case_id: str,
    verdict: str,
    *,
    actor: str,
    reason: str | None = None,
    call: once.Call | None = None,
) -> Review:
    """Decide about a case; saying what holds already changes nothing.

    `reason` is a code: it stays for ever. With `call` it happens once. Raises Rejected
    `unknown_case`, `invalid_verdict`, `invalid_code`, `idempotency_conflict`.
    """
    case = _case(case_id)
    if verdict not in get_args(Verdict):
        wanted = " or ".join(get_args(Verdict))
        raise Rejected("invalid_verdict", f"{verdict!r} is no verdict: say {wanted}")
    metadata = {"case_id": case, "verdict": verdict}
    if (word := code("reason", reason)) is not None:
        metadata["reason"] = word
    async with store.pool.acquire() as connection, connection.transaction():
        if before := await once.answered(connection, call):
            return reviewed(before)
        await connection.execute(SQL["lock_audit"])
        known = (await _reviews(connection)).get(case)
        if known is None or (known.verdict, known.reason) != (verdict, word):
            now = await connection.fetchval(SQL["now"])
            act = audit.Act(actor, ACTION, verdict, metadata=metadata)
            await audit.append(connection, store.keys, now, [act])
            known = Review(case, verdict, actor, word, now)
        said = {"case_id": case, "verdict": verdict, "by": known.actor, "reason": word}
        await once.remember(connection, call, said | {"at": known.at.isoformat()})
    return known


def reviewed(answer: once.Answer) -> Review:
    """Read a review as a repeat of its call finds it."""
    at = datetime.fromisoformat(answer["at"])
    return Review(answer["case_id"], answer["verdict"], answer["by"], answer["reason"], at)


async def reviews(store: Store) -> Mapping[str, Review]:
    """Give the newest review of every case that has one."""
    async with store.pool.acquire() as connection:
        return await _reviews(connection)


async def _reviews(connection: asyncpg.Connection) -> dict[str, Review]:
    found = {}
    for row in await connection.fetch(READING["fraud_reviews"]):
        said = json.loads(row["metadata"])
        found[said["case_id"]] = Review(
            said["case_id"], said["verdict"], row["actor"], said.get("reason"), row["at"]
        )
    return found


def _case(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        message = f"{text!r} is not the id of a case: see what there is with faregate fraud list"
        raise Rejected("unknown_case", message) from None
