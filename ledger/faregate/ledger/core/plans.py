"""What operations set about an account: its tier, its quota, its alerts."""

from __future__ import annotations

from faregate.ledger.core.commands import SetAlerts, SetQuota, SetTier
from faregate.ledger.core.model import Outcome, Rejected
from faregate.ledger.core.posting import Work
from faregate.ledger.core.renewal import begin_period, gives, refresh, tier_of


def set_tier(work: Work, index: int, cmd: SetTier) -> Outcome:
    """Put an account on a tier. Raises Rejected `unknown_tier`.

    Up (it gives as many credits each period or more), or from no running period: at once. A new
    period begins now, the new tier's credits are granted in full, what is free of the old tier's
    grant expires. Down: from the next period on, unless `now` is said.
    """
    book = work.state.books.in_force(work.now)
    names = list(book.tiers) if book else []
    if cmd.tier not in names:
        raise Rejected(
            "unknown_tier", f"there is no tier {cmd.tier!r}; there are: {', '.join(names)}"
        )
    refresh(work, cmd.subject)
    plan = work.state.accounts[cmd.subject].plan
    up = _each_period(work, cmd.tier) >= _each_period(work, plan.tier)
    if plan.tier == cmd.tier:
        result = "unchanged" if plan.next_tier is None else "kept"
        work.plan(cmd.subject, next_tier=None)
    elif cmd.now or plan.period_start is None or up:
        result = "changed"
        begin_period(work, cmd.subject, tier_of(work, cmd.tier), work.now, "tier_change")
    else:
        result = "scheduled"
        work.plan(cmd.subject, next_tier=cmd.tier)
    body = {"account": cmd.subject, "tier": cmd.tier, "from": plan.tier}
    return Outcome(index, cmd.identity, "set_tier", result, body=body)


def _each_period(work: Work, name: str) -> int:
    offer = tier_of(work, name)
    return offer.credits_micro if gives(offer) else 0


def set_quota(work: Work, index: int, cmd: SetQuota) -> Outcome:
    """Allow another number of calls a period than the tier does; None: as the tier says."""
    work.plan(cmd.subject, call_limit=cmd.calls)
    body = {"account": cmd.subject, "calls": cmd.calls}
    return Outcome(index, cmd.identity, "set_quota", "set", body=body)


def set_alerts(work: Work, index: int, cmd: SetAlerts) -> Outcome:
    """Set the thresholds of CreditsLowV1 and arm them; None: as the settings say."""
    work.plan(
        cmd.subject, low_micro=cmd.low_micro, low_percent=cmd.low_percent, alerted=()
    )  # fmt: skip
    body = {"account": cmd.subject, "low": cmd.low_micro, "percent": cmd.low_percent}
    return Outcome(index, cmd.identity, "set_alerts", "set", body=body)
