"""Subscriptions become tiers: what Lago has said of each is kept, and the tier follows from all.

Nothing rests on the order in which messages come. A subscription that is over stays so; of those
with one external id the newest counts (Lago changes a plan by ending one and starting the next);
of several that are in force the one that started last. Only when what follows from all of that is
another tier than before is the account put on it: so a message that comes again, or late, changes
nothing, and a tier that an admin has set stays until Lago says something new.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg

from faregate.gateway.lago.messages import Subscription
from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.problems import Problem
from faregate.ledger import acts, pricing
from faregate.ledger.core import Rejected
from faregate.ledger.store import Store

SOURCE = ACTOR = "lago"

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('faregate.lago ' || $1, 0))"
# A plan that a subscription has had before is an old message: Lago never goes back to it.
_KEEP = """
INSERT INTO lago_subscriptions AS l
    (lago_id, subject, external_id, plan_codes, started_at, created_at, ended)
VALUES ($1, $2, $3, ARRAY[$4], $5, $6, $7)
ON CONFLICT (lago_id) DO UPDATE SET
    ended = l.ended OR EXCLUDED.ended,
    started_at = greatest(l.started_at, EXCLUDED.started_at),
    plan_codes = CASE
        WHEN l.plan_codes @> EXCLUDED.plan_codes OR EXCLUDED.started_at < l.started_at
        THEN l.plan_codes ELSE l.plan_codes || EXCLUDED.plan_codes END
WHERE l.subject = EXCLUDED.subject"""
_IN_FORCE = """
SELECT plan_code FROM (
    SELECT DISTINCT ON (external_id)
        plan_codes[cardinality(plan_codes)] AS plan_code, started_at, created_at, lago_id, ended
    FROM lago_subscriptions WHERE subject = $1
    ORDER BY external_id, created_at DESC, started_at DESC, lago_id DESC) newest
WHERE NOT ended ORDER BY started_at DESC, created_at DESC, lago_id DESC"""
_BEFORE = "SELECT tier FROM lago_tiers WHERE subject = $1"
_NOW = """
INSERT INTO lago_tiers (subject, tier) VALUES ($1, $2)
ON CONFLICT (subject) DO UPDATE SET tier = EXCLUDED.tier, at = clock_timestamp()"""


class Tiers:
    """Puts accounts on the tiers of their subscriptions."""

    def __init__(self, store: Store, settings: LagoSettings) -> None:
        self._store = store
        self._settings = settings
        # One at a time in a process: each holds a connection while the act takes another.
        self._one = asyncio.Lock()

    async def follow(self, subject: str, said: Subscription) -> str | None:
        """Take in a subscription's state; give the tier that the account is put on now, if any.

        Raises Problem `unknown_plan`, Unavailable and the driver's errors.
        """
        async with self._one, self._store.pool.acquire() as connection, connection.transaction():
            await connection.execute(_LOCK, subject)
            await connection.execute(
                _KEEP,
                said.lago_id,
                subject,
                said.external_id,
                said.plan_code,
                said.started_at,
                said.created_at,
                said.ended,
            )
            wanted = await self._wanted(connection, subject)
            if wanted == await connection.fetchval(_BEFORE, subject):
                return None
            await self._put(subject, wanted, said)
            await connection.execute(_NOW, subject, wanted)
            return wanted

    async def has_tier(self, plan_code: str) -> bool:
        """Tell whether a plan is about a tier at all. Raises Problem `unknown_plan`."""
        tier = self._settings.tier_of(plan_code)
        if not tier:
            return False
        book = await pricing.prices(self._store)
        if tier not in (book["tiers"] if book else {}):
            raise _unknown(tier)
        return True

    async def _wanted(self, connection: asyncpg.Connection, subject: str) -> str:
        rows = await connection.fetch(_IN_FORCE, subject)
        tiers = (self._settings.tier_of(row["plan_code"]) for row in rows)
        return next(filter(None, tiers), self._settings.ended_tier)

    async def _put(self, subject: str, tier: str, said: Subscription) -> None:
        """Change the tier now: a message comes when Lago has changed the subscription."""
        key = f"subscription {said.lago_id} {uuid4()}"
        try:
            await acts.set_tier(
                self._store, subject, tier, actor=ACTOR, key=key, via=SOURCE, now=True
            )
        except Rejected as error:
            if error.code == "unknown_tier":
                raise _unknown(tier) from None
            raise


def _unknown(tier: str) -> Problem:
    return Problem("unknown_plan", f"There is no tier {tier!r}, which the plan would be.")
