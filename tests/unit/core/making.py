"""Commands from readable names: users and orgs are bare ids, subjects in full, amounts as said."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal

from faregate.ledger.core import (
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Deduct,
    Finished,
    Identity,
    Part,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Release,
    Request,
    Reserve,
    Revoke,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Settle,
    Unlock,
    Usage,
)

START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MICRO = 1_000_000
DEFAULT_BOOK: Mapping[str, Any] = {
    "pipelines": {"nlp": ["spellcheck", "nlp"], "cj_assessment": ["spellcheck", "cj_assessment"]},
    "phases": {
        "spellcheck": {"per": "item", "credits": 0},
        "nlp": {"per": "item", "credits": 0},
        "cj_assessment": {"per": "pair", "credits": 1},
    },
}


def key(kind: str, *parts: object) -> bytes:
    return sha256(repr((kind, *parts)).encode()).digest()[:16]


class Commands:
    """Makes commands from readable names; each gets an event id of its own unless told one."""

    def __init__(self) -> None:
        self._made = 0

    def _identity(self, event: str | None, content: object, usage: str | None = None) -> Identity:
        self._made += 1
        event_key = key("event", event or f"event-{self._made}")
        return Identity(event_key, key("content", content), key("usage", usage) if usage else None)

    def request(
        self,
        pipeline_id: str = "p1",
        *,
        pipeline: str = "cj_assessment",
        items: int = 10,
        user: str = "ann",
        org: str | None = None,
        batch: str = "b1",
        phases: tuple[str, ...] | None = None,
        expires_at: datetime | None = None,
        event: str | None = None,
    ) -> Request:
        content = ("request", pipeline_id, pipeline, items, user, org, batch, phases, expires_at)
        return Request(
            self._identity(event, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            pipeline,
            key("batch", batch),
            items,
            phases,
            expires_at,
        )

    def usage(
        self,
        usage_id: str,
        occurred_at: datetime,
        *,
        pipeline_id: str | None = "p1",
        phase: str | None = "cj_assessment",
        units: int | None = 1,
        user: str = "ann",
        org: str | None = None,
        byok: bool = False,
        model: str | None = None,
        tokens: tuple[int, int] = (1, 1),
        event: str | None = None,
    ) -> Usage:
        content = (
            "usage",
            usage_id,
            occurred_at,
            pipeline_id,
            phase,
            units,
            user,
            org,
            byok,
            model,
            tokens,
        )
        return Usage(
            self._identity(event, content, usage_id),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id) if pipeline_id else None,
            occurred_at,
            byok,
            None if model else phase,
            None if model else units,
            model=model,
            input_tokens=tokens[0] if model else None,
            output_tokens=tokens[1] if model else None,
        )

    def completed(
        self,
        phase: str = "spellcheck",
        *,
        pipeline_id: str = "p1",
        batch: str = "b1",
        user: str = "ann",
        org: str | None = None,
        items: int | None = None,
    ) -> PhaseCompleted:
        content = ("completed", phase, pipeline_id, batch, user, org, items)
        return PhaseCompleted(
            self._identity(None, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            key("batch", batch),
            phase,
            items,
        )

    def finished(
        self,
        pipeline_id: str = "p1",
        *,
        usage_events: int | None = None,
        user: str = "ann",
        org: str | None = None,
        status: str = "succeeded",
    ) -> Finished:
        content = ("finished", pipeline_id, usage_events, user, org, status)
        return Finished(
            self._identity(None, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            status,
            usage_events,
        )

    def set_balance(self, subject: str, target: int) -> SetBalance:
        """`target` is in credits."""
        return SetBalance(self._identity(None, ("set", subject, target)), subject, target * MICRO)

    def grant(
        self,
        subject: str,
        micro: int,
        kind: Literal["purchase", "bonus"] = "purchase",
        **terms: Any,
    ) -> AddGrant:
        """`terms`: priority, expires_at, source, allocated_by, notes, reason."""
        identity = self._identity(None, ("grant", subject, micro, kind, terms))
        return AddGrant(identity, subject, kind, micro, **terms)

    def revoke(self, subject: str, number: int) -> Revoke:
        return Revoke(self._identity(None, ("revoke", subject, number)), subject, number, "slip")

    def deduct(
        self, micro: int, *, user: str = "ann", org: str | None = None, counts: bool = False
    ) -> Deduct:
        identity = self._identity(None, ("deduct", micro, user, org, counts))
        return Deduct(
            identity, f"user:{user}", org and f"org:{org}", micro, 1, None, "call", counts
        )

    def reserve(
        self,
        hold: str,
        micro: int | None,
        *,
        user: str = "ann",
        org: str | None = None,
        usage: Usage | None = None,
        ttl: timedelta | None = None,
        counts: bool = False,
    ) -> Reserve:
        identity = self._identity(None, ("reserve", hold, micro, user, org, ttl))
        own, pays = f"user:{user}", org and f"org:{org}"
        return Reserve(identity, own, pays, key("pipeline", hold), micro, usage, ttl, counts)

    def settle(
        self,
        hold: str,
        micro: int | None,
        *,
        user: str = "ann",
        org: str | None = None,
        usage: Usage | None = None,
        final: bool = True,
        within: bool = False,
    ) -> Settle:
        identity = self._identity(None, ("settle", hold, micro, user, org, final))
        own, pays = f"user:{user}", org and f"org:{org}"
        return Settle(identity, own, pays, key("pipeline", hold), micro, usage, final, within)

    def release(self, hold: str, *, user: str = "ann", org: str | None = None) -> Release:
        identity = self._identity(None, ("release", hold, user, org))
        return Release(identity, f"user:{user}", org and f"org:{org}", key("pipeline", hold))

    def refund(
        self, charge: int, parts: tuple[Part, ...], user: str | None = None, org: str | None = None
    ) -> Refund:
        """`charge` is the number of the outcome that charged."""
        identity = self._identity(None, ("refund", charge), f"refund-{charge}")
        return Refund(identity, charge, user, org, parts, "complaint")

    def register(self, user: str = "ann", *, verified: bool = False, **sent: Any) -> Register:
        """`sent`: referral, referrer (a subject)."""
        identity = self._identity(None, ("register", user, verified, sent))
        return Register(identity, f"user:{user}", verified, **sent)

    def unlock(self, milestone: str, user: str = "ann") -> Unlock:
        return Unlock(self._identity(None, ("unlock", user, milestone)), f"user:{user}", milestone)

    def tier(self, subject: str, tier: str, *, now: bool = False) -> SetTier:
        return SetTier(self._identity(None, ("tier", subject, tier, now)), subject, tier, now)

    def quota(self, subject: str, calls: int | None) -> SetQuota:
        return SetQuota(self._identity(None, ("quota", subject, calls)), subject, calls)

    def alerts(self, subject: str, micro: int | None, percent: int | None) -> SetAlerts:
        identity = self._identity(None, ("alerts", subject, micro, percent))
        return SetAlerts(identity, subject, micro, percent)

    def policy(self, policy: Literal["pool", "allocated"], org: str = "acme") -> SetPolicy:
        return SetPolicy(self._identity(None, ("policy", org, policy)), f"org:{org}", policy)

    def member(
        self, user: str, role: Literal["admin", "member", "removed"] = "member", org: str = "acme"
    ) -> SetMember:
        identity = self._identity(None, ("member", org, user, role))
        return SetMember(identity, f"org:{org}", f"user:{user}", role)

    def allocate(
        self,
        user: str,
        micro: int | None,
        org: str = "acme",
        expires_at: datetime | None = None,
    ) -> Allocate:
        identity = self._identity(None, ("allocate", org, user, micro, expires_at))
        return Allocate(
            identity, f"org:{org}", f"user:{user}", micro, expires_at, "user:admin", "for essays"
        )

    def refresh(self, subject: str, *, welcome: bool = False) -> Refresh:
        self._made += 1
        own = key("event", "refresh", self._made)
        return Refresh(Identity(own, own), subject, welcome)

    def sweep(self, pipeline_key: bytes, hold_id: bytes) -> CloseHold:
        own = key("event", "close", hold_id)
        return CloseHold(Identity(own, own), pipeline_key, hold_id)

    def charge_late(self, unpriced_id: int, usage: Usage) -> ChargeUnpriced:
        own = key("event", "charge", unpriced_id)
        return ChargeUnpriced(
            Identity(own, own), unpriced_id, replace(usage, identity=Identity(own, own))
        )
