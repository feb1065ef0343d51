"""Acts on one account: balance, grants, tier, quota, alerts, milestones.

Each says who does it (`actor`, for the audit log, written in the same transaction) and has a `key`
that makes it happen once. Amounts are micro-credits. All raise Rejected and Unavailable.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from faregate.ledger.acts_sending import CLI, Done, account_named, amount_of, code, identity, send
from faregate.ledger.batch import Refs
from faregate.ledger.core import (
    AddGrant,
    Rejected,
    Revoke,
    SetAlerts,
    SetBalance,
    SetQuota,
    SetTier,
    Unlock,
)
from faregate.ledger.core.accounts import DEFAULT_PRIORITY
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store

_MOST = 10**9
_PERCENT = 100


async def set_balance(
    store: Store, subject: str, target: int, *, actor: str, key: str, via: str = CLI
) -> Done:
    """Leave `balance = target` and no debt. Rejected `below_held`: that much is held."""
    account_named(subject)
    amount_of(target, least=0)
    named = identity(store, via, key, "set_balance", {"subject": subject, "target": target})
    command = SetBalance(named, subject, target, "set_balance")
    return await send(store, command, Refs(via, key), actor)


async def grant(
    store: Store,
    subject: str,
    kind: Literal["purchase", "bonus"],
    amount: int,
    *,
    actor: str,
    key: str,
    via: str = CLI,
    priority: int = DEFAULT_PRIORITY,
    expires_at: datetime | None = None,
    expires_in: timedelta | None = None,
    allocated_by: str | None = None,
    notes: str | None = None,
    source: str | None = None,
    reason: str | None = None,
) -> Done:
    """Add credits; debt takes its part first. The account is made where there is none.

    `expires_in` counts from now, by the database's clock. `allocated_by` and `notes` can be erased
    later; `source` and `reason` are codes that stay for ever.
    """
    account_named(subject)
    amount_of(amount)
    if not 0 <= priority < _MOST:
        raise Rejected("invalid_priority", "a priority is a whole number, 0 or more: lower first")
    if expires_at is not None and expires_in is not None:
        raise Rejected("invalid_expiry", "say either when it expires or after how long")
    content: dict[str, object] = {
        "subject": subject,
        "kind": kind,
        "amount": amount,
        "priority": priority if priority != DEFAULT_PRIORITY else None,
        "expires_at": expires_at,
        "expires_in": None if expires_in is None else expires_in.total_seconds(),
        "notes": notes,
        "source": code("source", source),
    }
    named = identity(store, via, key, "grant", content)
    if expires_in is not None:
        expires_at = await store.pool.fetchval(SQL["now"]) + expires_in
    command = AddGrant(
        named,
        subject,
        kind,
        amount,
        code("reason", reason),
        priority,
        expires_at,
        source,
        allocated_by,
        notes,
    )
    return await send(store, command, Refs(via, key), actor)


async def revoke(
    store: Store,
    subject: str,
    number: int,
    *,
    actor: str,
    key: str,
    via: str = CLI,
    reason: str | None = None,
) -> Done:
    """Take back what is left of a grant, by its number; `reason` is a code that stays for ever.

    Rejected `nothing_to_revoke`: there is no such grant, or all of it is used, gone or held.
    """
    account_named(subject)
    if await store.names.find(subject) is None:
        raise Rejected("nothing_to_revoke", f"there is no account {subject}")
    content = {"subject": subject, "number": number, "reason": code("reason", reason)}
    named = identity(store, via, key, "revoke", content)
    command = Revoke(named, subject, number, reason or "revoked")
    return await send(store, command, Refs(via, key), actor)


async def set_tier(
    store: Store,
    subject: str,
    tier: str,
    *,
    actor: str,
    key: str,
    via: str = CLI,
    now: bool = False,
) -> Done:
    """Put an account on a tier. `result` says when: `changed` (now), `scheduled` (the next period).

    Rejected `unknown_tier`, with the tiers that there are.
    """
    account_named(subject)
    content: dict[str, object] = {"subject": subject, "tier": tier, "now": now}
    named = identity(store, via, key, "set_tier", content)
    return await send(store, SetTier(named, subject, tier, now), Refs(via, key), actor)


async def set_quota(
    store: Store, subject: str, calls: int | None, *, actor: str, key: str, via: str = CLI
) -> Done:
    """Allow `calls` a period; None: as many as the tier says."""
    account_named(subject)
    if calls is not None and not 0 <= calls < _MOST:
        raise Rejected("invalid_quota", "a quota is a whole number of calls, 0 or more")
    named = identity(store, via, key, "set_quota", {"subject": subject, "calls": calls})
    return await send(store, SetQuota(named, subject, calls), Refs(via, key), actor)


async def set_alerts(
    store: Store,
    subject: str,
    *,
    low: int | None,
    percent: int | None,
    actor: str,
    key: str,
    via: str = CLI,
) -> Done:
    """Set both thresholds of CreditsLowV1 (0: never; None: as the settings say), and arm them."""
    account_named(subject)
    if low is not None:
        amount_of(low, least=0)
    if percent is not None and not 0 <= percent <= _PERCENT:
        raise Rejected("invalid_percent", "a percentage is a whole number from 0 to 100")
    content: dict[str, object] = {"subject": subject, "low": low, "percent": percent}
    named = identity(store, via, key, "set_alerts", content)
    return await send(store, SetAlerts(named, subject, low, percent), Refs(via, key), actor)


async def unlock(
    store: Store, user: str, milestone: str, *, actor: str, key: str, via: str = CLI
) -> Done:
    """Release the part of a user's welcome credits that waits for a milestone.

    Rejected: `unknown_milestone`, `not_provisioned`.
    """
    account_named(user, "user")
    named = identity(store, via, key, "unlock", {"user": user, "milestone": milestone})
    return await send(store, Unlock(named, user, milestone), Refs(via, key), actor)
