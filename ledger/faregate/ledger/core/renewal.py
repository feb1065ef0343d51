"""What time brings to an account: grants expire, periods end, tiers renew.

`refresh` runs before anything is decided about an account, and by the sweeper: so a grant whose
time is over never pays, whether or not somebody has come by since.
"""

from __future__ import annotations

from datetime import datetime

from faregate.ledger.core.accounts import DEFAULT_PRIORITY, PERIOD, Account, Grant
from faregate.ledger.core.model import GrantTerms
from faregate.ledger.core.posting import Work, add_grant, pay_debt, post
from faregate.ledger.core.prices import Tier


def tier_of(work: Work, name: str) -> Tier:
    """Give what a tier offers by the prices in force; one that nobody defines offers nothing."""
    book = work.state.books.in_force(work.now)
    found = book.tiers.get(name) if book else None
    return found or Tier(name, 0, None, None, renews=False)


def refresh(work: Work, subject: str) -> None:
    """Bring an account to now: end periods that are over, expire grants that are due."""
    start = work.state.accounts[subject].plan.period_start
    if start is not None and work.now >= start + PERIOD:
        _renew(work, subject)
    expire(work, subject)


def expire(work: Work, subject: str) -> None:
    """Take what is free of grants whose time is over; what a hold has pinned goes when released."""
    for grant in work.state.accounts[subject].grants:
        if grant.is_due(work.now):
            _end(work, subject, grant, "expired")


def _end(work: Work, subject: str, grant: Grant, reason: str) -> None:
    lost = grant.free
    deltas = ((grant.number, -lost, 0),)
    post(work, subject, "expiry", amount=-lost, grants=deltas, reason=reason)


def _renew(work: Work, subject: str) -> None:
    """Begin each period that should have begun by now, as if on time: it may pay debt."""
    while True:
        plan = work.state.accounts[subject].plan
        if plan.period_start is None or work.now < plan.period_start + PERIOD:
            return
        start = plan.period_start + PERIOD
        offer = tier_of(work, plan.next_tier or plan.tier)
        reason = "renewal" if gives(offer) else "tier_change" if plan.next_tier else None
        if reason is None:  # then nothing happens in the periods between
            start += (work.now - start) // PERIOD * PERIOD
        begin_period(work, subject, offer, start, reason)


def gives(offer: Tier) -> bool:
    """Tell whether a tier gives credits for each new period."""
    return offer.renews and offer.credits_micro > 0


def begin_period(
    work: Work, subject: str, offer: Tier, start: datetime, reason: str | None
) -> None:
    """Start a period of a tier; with a `reason`, grant what the tier includes.

    Each tier's grant replaces what is free of the last one, and expires with its own period.
    """
    old = work.state.accounts[subject].plan.tier_grant
    work.plan(
        subject,
        tier=offer.name,
        next_tier=None,
        tier_grant=None,
        period_start=start,
        calls=0,
    )
    if reason and offer.credits_micro:
        terms = GrantTerms(DEFAULT_PRIORITY, start + PERIOD, source=f"tier:{offer.name}")
        number = add_grant(work, subject, "purchase", offer.credits_micro, terms, reason)
        work.plan(subject, tier_grant=number, top=_top(work, subject, old))
        pay_debt(work, subject)
    _replace(work, subject, old)
    expire(work, subject)


def _replace(work: Work, subject: str, old: int | None) -> None:
    """End what is free of the last period's grant, where that one has not ended by itself."""
    for grant in work.state.accounts[subject].grants:
        if grant.number == old and grant.free and not grant.is_due(work.now):
            _end(work, subject, grant, "tier_change")


def _top(work: Work, subject: str, old: int | None) -> int:
    """Give what is available in the new period: 100 % of it must not count what is replaced."""
    account = work.state.accounts[subject]
    gone = [g.free for g in account.grants if g.number == old or g.is_due(work.now)]
    return account.available - sum(gone)


def due_at(account: Account, *, renewing: bool) -> datetime | None:
    """Say when time next changes an account by itself, for the sweeper; None: never.

    `renewing`: whether its tier (or the next one) gives credits or changes at the period's end.
    """
    moments = [g.expires_at for g in account.grants if g.expires_at and g.remaining > g.held]
    if renewing and account.plan.period_start is not None:
        moments.append(account.plan.period_start + PERIOD)
    return min(moments, default=None)
