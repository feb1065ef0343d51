"""What finance and operations do: grant credits, set a balance; and what the sweeper does."""

from __future__ import annotations

from faregate.events.amounts import LIMIT_MICRO, format_credits
from faregate.ledger.core.holds import close_hold, due_reason
from faregate.ledger.core.model import CloseHold, Grant, Outcome, Rejected, SetBalance
from faregate.ledger.core.posting import Work, pay_debt, post


def set_balance(work: Work, index: int, cmd: SetBalance) -> Outcome:
    """Leave `balance = target`, `debt = 0`. Raises Rejected `below_held` (409)."""
    account = work.state.accounts[cmd.subject]
    if cmd.target < account.held:
        held = format_credits(account.held)
        message = f"{held} credits are held by running pipelines: set at least that, or wait"
        raise Rejected("below_held", message)
    amount = cmd.target - account.balance
    post(work, cmd.subject, "adjustment", amount=amount, debt=-account.debt, reason=cmd.reason)
    return Outcome(index, cmd.identity, "set_balance", "set", body={"account": cmd.subject})


def grant(work: Work, index: int, cmd: Grant) -> Outcome:
    """Add credits; debt takes its part first. Raises Rejected `amount_out_of_range`."""
    if work.state.accounts[cmd.subject].balance + cmd.amount >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "a balance must stay below 10^9 credits")
    post(work, cmd.subject, cmd.kind, amount=cmd.amount, reason=cmd.reason)
    pay_debt(work, cmd.subject)
    return Outcome(index, cmd.identity, "grant", "granted", body={"account": cmd.subject})


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
