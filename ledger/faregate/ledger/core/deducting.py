"""A charge that must be covered: whole or not at all (rule 10, last sentence)."""

from __future__ import annotations

from faregate.events.amounts import LIMIT_MICRO
from faregate.ledger.core import quotas
from faregate.ledger.core.commands import Deduct
from faregate.ledger.core.denials import facts
from faregate.ledger.core.model import Outcome, Rejected
from faregate.ledger.core.payers import Payer, candidates, covering, involved, refusal
from faregate.ledger.core.posting import Work, post, spend
from faregate.ledger.core.provisioning import welcome
from faregate.ledger.core.renewal import refresh
from faregate.ledger.core.usage import NO_PRICE, Price, cost_of


def deduct(work: Work, index: int, cmd: Deduct) -> Outcome:
    """Charge at once what a caller waits for; a refusal is an outcome with the contract's reason.

    Raises Rejected: `unknown_price`, `amount_out_of_range`.
    """
    welcome(work, cmd.user, "last_resort")
    for subject in involved(work, cmd.user, cmd.org):
        refresh(work, subject)
    payers, price = candidates(work, cmd.user, cmd.org), _price(work, cmd)
    cost = price.cost
    if cost is None:
        raise Rejected("unknown_price", "no price is in force for what is to be deducted")
    if cost >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "an amount must be below 10^9 credits")
    if cmd.counts and quotas.is_used_up(work, cmd.user):
        return _refused(work, index, cmd, "quota_exceeded", payers, cost)
    payer = covering(work, payers, cost) if cost else payers[0]
    if payer is None:
        return _refused(work, index, cmd, refusal(work, payers, cost), payers, cost)
    for subject in filter(None, (payer.subject, payer.member)):
        grants = spend(work.state.accounts[subject], cost)
        post(
            work,
            subject,
            "usage",
            amount=-cost,
            grants=grants,
            user=cmd.user,
            org=cmd.org,
            price_version=price.version,
            usage=cmd.usage,
            reason=cmd.reason,
            tier=price.tier,
        )
    calls = quotas.count(work, cmd.user) if cmd.counts else 0
    body = {"payer": payer.subject, "cost": cost}
    return Outcome(index, cmd.identity, "deduct", "charged", cmd.user, cmd.org, body, calls)


def _price(work: Work, cmd: Deduct) -> Price:
    """Price it here, under the lock: by what is in force, and the tier that the user is on."""
    if cmd.cost is not None:
        return Price(cmd.price_version, cmd.cost)
    book = work.state.books.in_force(work.now)
    if cmd.usage is None or book is None:
        return NO_PRICE
    return Price(book.version, 0) if cmd.usage.byok else cost_of(work, book, cmd.usage)


def _refused(
    work: Work, index: int, cmd: Deduct, reason: str, payers: list[Payer], cost: int
) -> Outcome:
    body = facts(work, cmd.user, payers, reason, cost)
    return Outcome(index, cmd.identity, "deduct", "refused", cmd.user, cmd.org, body)
