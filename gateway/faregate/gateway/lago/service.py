"""What one gateway process has of Lago, and what it does about a message."""

from __future__ import annotations

from typing import Any, Literal

import structlog

from faregate.gateway.lago.customers import Customers
from faregate.gateway.lago.messages import Purchase, Subscription, kind_of, read
from faregate.gateway.lago.payers import subject_of
from faregate.gateway.lago.settings import LagoSettings
from faregate.gateway.lago.signature import Signature, refused
from faregate.gateway.lago.tiers import ACTOR, SOURCE, Tiers
from faregate.gateway.metrics import Metrics
from faregate.gateway.problems import Problem
from faregate.ledger import acts
from faregate.ledger.core import Rejected
from faregate.ledger.store import Store

log = structlog.get_logger("faregate.gateway")

Result = Literal["applied", "unchanged", "ignored"]
Taken = tuple[Result, str | None]
"""What a message did, and why that and no more."""

_ID_CHARS = 64


class Lago:
    """Takes webhooks in, and makes customers. Raises ValueError for a key that cannot be used."""

    def __init__(self, store: Store, settings: LagoSettings, metrics: Metrics) -> None:
        self.settings = settings
        self.customers = Customers(store.pool, settings, metrics)
        self.signature = Signature(settings) if settings.takes_webhooks else None
        self._store = store
        self._metrics = metrics
        self._tiers = Tiers(store, settings)

    async def take(self, payload: Any) -> Taken:
        """Act on a message whose signature was checked.

        Raises Problem for what Lago must show as failed, Unavailable and the driver's errors.
        """
        try:
            self._ours(payload)
            result, reason = await self._taken(payload)
        except Problem as problem:
            self._tell(payload, "refused", problem.reason)
            raise
        self._tell(payload, result, reason)
        return result, reason

    async def _taken(self, payload: Any) -> Taken:
        meaning = read(payload, self.settings)
        if isinstance(meaning, Subscription):
            if not await self._tiers.has_tier(meaning.plan_code):
                return "ignored", "plan_without_tier"
            subject = await self._subject(meaning.customer)
            tier = await self._tiers.follow(subject, meaning)
            return ("applied", None) if tier else ("unchanged", "same_tier")
        if isinstance(meaning, Purchase):
            return await self._grant(await self._subject(meaning.customer), meaning)
        return "ignored", meaning.reason

    async def _subject(self, customer: str) -> str:
        return await subject_of(self._store.pool, self.settings, customer)

    async def _grant(self, subject: str, bought: Purchase) -> Taken:
        """Grant what was paid for, once for ever: its key is Lago's id of the money."""
        try:
            done = await acts.grant(
                self._store,
                subject,
                bought.kind,
                bought.micro,
                actor=ACTOR,
                key=bought.key,
                via=SOURCE,
                source=SOURCE,
                reason=bought.key.replace(" ", ":"),
            )
        except Rejected as error:
            if error.code != "idempotency_conflict":
                raise
            # It was granted, and is now said to be another amount or somebody else's.
            log.warning("lago_purchase_differs", purchase=bought.key)
            return "unchanged", "granted_otherwise_before"
        return ("unchanged", "granted_before") if done.repeated else ("applied", None)

    def _ours(self, payload: Any) -> None:
        """Refuse the message of another of Lago's organizations. Raises Problem."""
        wanted = self.settings.organization
        said = payload.get("organization_id") if isinstance(payload, dict) else None
        if wanted is not None and said != wanted:
            raise refused("it is that of another organization")

    def _tell(self, payload: Any, result: str, reason: str | None) -> None:
        """Leave a trace of every message, without any name of a person."""
        kind = kind_of(payload)
        self._metrics.lago_webhooks.labels(kind, result).inc()
        found = payload.get(kind) if isinstance(payload, dict) else None
        webhook_type = payload.get("webhook_type") if isinstance(payload, dict) else None
        tell = log.warning if result == "refused" or reason == "not_taken_back" else log.info
        tell(
            "lago_webhook",
            type=str(webhook_type)[:_ID_CHARS],
            lago_id=str(found.get("lago_id"))[:_ID_CHARS] if isinstance(found, dict) else None,
            result=result,
            reason=reason,
        )

    async def close(self) -> None:
        """Close connections."""
        await self.customers.close()
