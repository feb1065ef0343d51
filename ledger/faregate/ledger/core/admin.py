"""What finance and operations do to credits: grant, set, refund; and what the sweeper does."""

from __future__ import annotations

from datetime import datetime

from faregate.events.amounts import LIMIT_MICRO, format_credits
from faregate.ledger.core.accounts import DEFAULT_PRIORITY, Delta, Grant
from faregate.ledger.core.commands import (
    AddGrant,
    CloseHold,
    Part,
    Refresh,
    Refund,
    Revoke,
    SetBalance,
)
from faregate.ledger.core.holds import close_hold, due_reason, take_back_if_removed
from faregate.ledger.core.model import GrantTerms, Outcome, Rejected
from faregate.ledger.core.posting import Work, add_grant, pay_debt, post, spend
from faregate.ledger.core.provisioning import is_due, welcome
from faregate.ledger.core.renewal import expire, refresh


def set_balance(work: Work, index: int, cmd: SetBalance) -> Outcome:
    """Leave `balance = target`, `debt = 0`. Raises Rejected `below_held` (409)."""
    refresh(work, cmd.subject)
    account = work.state.accounts[cmd.subject]
    if cmd.target < account.held:
        held = format_credits(account.held)
        message = f"{held} credits are held by running pipelines: set at least that, or wait"
        raise Rejected("below_held", message)
    amount, number = cmd.target - account.balance, account.sequence + 1
    more = amount > 0
    post(
        work,
        cmd.subject,
        "adjustment",
        amount=amount,
        debt=-account.debt,
        grants=((number, amount, 0),) if more else spend(account, -amount),
        known=(Grant(number, 0),) if more else (),
        terms=GrantTerms(DEFAULT_PRIORITY, None, source="adjustment") if more else None,
        reason=cmd.reason,
    )
    return Outcome(index, cmd.identity, "set_balance", "set", body={"account": cmd.subject})


def grant(work: Work, index: int, cmd: AddGrant) -> Outcome:
    """Add credits; debt takes its part first.

    Raises Rejected `amount_out_of_range`, `expires_in_the_past`.
    """
    refresh(work, cmd.subject)
    in_future(work, cmd.expires_at)
    if work.state.accounts[cmd.subject].balance + cmd.amount >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "a balance must stay below 10^9 credits")
    terms = GrantTerms(
        cmd.priority, cmd.expires_at, cmd.source or cmd.kind, cmd.allocated_by, cmd.notes
    )
    number = add_grant(work, cmd.subject, cmd.kind, cmd.amount, terms, cmd.reason)
    pay_debt(work, cmd.subject)
    body = {"account": cmd.subject, "grant": number}
    return Outcome(index, cmd.identity, "grant", "granted", body=body)


def revoke(work: Work, index: int, cmd: Revoke) -> Outcome:
    """Take back what is left of one grant. Raises Rejected `nothing_to_revoke`."""
    refresh(work, cmd.subject)
    grants = work.state.accounts[cmd.subject].grants
    free = next((g.free for g in grants if g.number == cmd.number), 0)
    if not free:
        raise Rejected("nothing_to_revoke", "nothing of this grant is left that is not held")
    taken = ((cmd.number, -free, 0),)
    post(work, cmd.subject, "adjustment", amount=-free, grants=taken, reason=cmd.reason)
    body = {"account": cmd.subject, "grant": cmd.number, "amount": free}
    return Outcome(index, cmd.identity, "revoke", "revoked", body=body)


def in_future(work: Work, expires_at: datetime | None) -> None:
    """Raise Rejected `expires_in_the_past` for credits that could never be spent."""
    if expires_at is not None and expires_at <= work.now:
        raise Rejected("expires_in_the_past", "expires_at must be in the future")


def refund(work: Work, index: int, cmd: Refund) -> Outcome:
    """Take a charge back: credits return to the grants that paid it, debt goes down by the rest.

    What came from a grant that has expired since expires at once. Debt of this charge that was
    paid in the meantime comes back as a grant of its own.
    """
    for part in cmd.parts:
        refresh(work, part.subject)
        if work.state.accounts[part.subject].balance - part.amount + part.debt >= LIMIT_MICRO:
            raise Rejected("amount_out_of_range", "a balance must stay below 10^9 credits")
    total = sum(p.debt - p.amount for p in cmd.parts[:1])
    for part in cmd.parts:
        _give_back(work, cmd, part)
    body = {"account": cmd.parts[0].subject, "of": cmd.charge_id, "amount": total}
    return Outcome(index, cmd.identity, "refund", "refunded", cmd.user, cmd.org, body)


def _give_back(work: Work, cmd: Refund, part: Part) -> None:
    account = work.state.accounts[part.subject]
    owed = min(part.debt, account.debt)
    paid, number = part.debt - owed, account.sequence + 1
    back: list[Delta] = [(n, -amount, 0) for n, amount, _ in part.grants if amount]
    paying = {n for n, _, _ in back}
    known = [
        Grant(g.number, 0, 0, g.priority, g.expires_at) for g in part.known if g.number in paying
    ]
    if paid:
        back.append((number, paid, 0))
        known.append(Grant(number, 0))
    post(
        work,
        part.subject,
        "refund",
        amount=paid - part.amount,
        debt=-owed,
        grants=back,
        known=known,
        terms=GrantTerms(DEFAULT_PRIORITY, None, source="refund") if paid else None,
        user=cmd.user,
        org=cmd.org,
        reason=cmd.reason,
    )
    expire(work, part.subject)
    pay_debt(work, part.subject)
    take_back_if_removed(work, part.subject)


def close_due_hold(work: Work, index: int, cmd: CloseHold) -> Outcome | None:
    """Close the hold if it is still the same one and its time is over; None otherwise."""
    pipeline = work.state.pipelines.get(cmd.pipeline_key)
    hold = pipeline.hold if pipeline else None
    if pipeline is None or hold is None or hold.id != cmd.hold_id or not hold.is_due(work.now):
        return None
    reason = due_reason(hold)
    close_hold(work, pipeline, reason)
    body = {"reason": reason, "released": hold.remaining}
    return Outcome(index, cmd.identity, "close_hold", "closed", pipeline.user, pipeline.org, body)


def refresh_due(work: Work, index: int, cmd: Refresh) -> Outcome | None:
    """Expire and renew what time has brought about; None when there was nothing."""
    before = len(work.entries), work.state.accounts[cmd.subject].plan
    if cmd.welcome and is_due(work, cmd.subject):
        welcome(work, cmd.subject, "lazy")
    refresh(work, cmd.subject)
    if before == (len(work.entries), work.state.accounts[cmd.subject].plan):
        return None
    body = {"account": cmd.subject}
    return Outcome(index, cmd.identity, "refresh", "refreshed", body=body)
