"""The second ledger's administration: grants, balances, refunds, tiers, quotas, alerts."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from tests.unit.core.model_money import Money
from tests.unit.core.model_parts import ZERO, Answer, Move, Refused, Terms, credits_of
from tests.unit.core.model_people import People

from faregate.ledger.core import (
    AddGrant,
    Refresh,
    Refund,
    Revoke,
    SetAlerts,
    SetBalance,
    SetPolicy,
    SetQuota,
    SetTier,
)


class Acts:
    def __init__(self, money: Money, people: People) -> None:
        self.money = money
        self.people = people

    def set_balance(self, cmd: SetBalance) -> Answer:
        money, subject, target = self.money, cmd.subject, credits_of(cmd.target)
        money.bring_up(subject)
        if target < money.held(subject):
            raise Refused("below_held")
        change, forgiven = target - money.purse(subject).balance(), -money.owed(subject)
        said: dict[str, Any] = {"debt": forgiven, "reason": cmd.reason}
        if change > 0:
            number = money.purse(subject).written + 1
            terms = Terms(source="adjustment")
            money.move(subject, "adjustment", {number: change}, new=terms, **said)
        else:
            money.take(subject, "adjustment", -change, **said)
        return Answer("set", {"account": subject})

    def grant(self, cmd: AddGrant) -> Answer:
        money, amount = self.money, credits_of(cmd.amount)
        money.bring_up(cmd.subject)
        if cmd.expires_at is not None and cmd.expires_at <= money.now:
            raise Refused("expires_in_the_past")
        money.require_room(cmd.subject, amount)
        terms = Terms(
            cmd.priority, cmd.expires_at, cmd.source or cmd.kind, cmd.allocated_by, cmd.notes
        )
        number = money.add(cmd.subject, cmd.kind, amount, terms, cmd.reason)
        money.pay_debt(cmd.subject)
        return Answer("granted", {"account": cmd.subject, "grant": number})

    def revoke(self, cmd: Revoke) -> Answer:
        money = self.money
        money.bring_up(cmd.subject)
        left = [
            money.free(cmd.subject, lot)
            for lot in money.purse(cmd.subject).lots
            if lot.number == cmd.number
        ]
        if not sum(left):
            raise Refused("nothing_to_revoke")
        (amount,) = left
        money.move(cmd.subject, "adjustment", {cmd.number: -amount}, reason=cmd.reason)
        facts = {"account": cmd.subject, "grant": cmd.number, "amount": amount}
        return Answer("revoked", facts)

    def refund(self, cmd: Refund, charge: Sequence[Move]) -> Answer:
        """`charge`: what this ledger itself wrote for it."""
        for part in charge:
            self.money.bring_up(part.subject)
            self.money.require_room(part.subject, part.debt - part.amount)
        for part in charge:
            self._give_back(cmd, part)
        facts = {
            "account": charge[0].subject,
            "of": cmd.charge_id,
            "amount": charge[0].debt - charge[0].amount,
        }
        return Answer("refunded", facts)

    def _give_back(self, cmd: Refund, part: Move) -> None:
        money, subject = self.money, part.subject
        still_owed = min(part.debt, money.owed(subject))
        back = {number: -amount for number, (amount, _) in part.lots.items() if amount}
        terms = None
        if part.debt > still_owed:
            back[money.purse(subject).written + 1] = part.debt - still_owed
            terms = Terms(source="refund")
        money.move(
            subject,
            "refund",
            back,
            debt=-still_owed,
            new=terms,
            user=cmd.user,
            org=cmd.org,
            reason=cmd.reason,
        )
        money.expire(subject)
        money.pay_debt(subject)
        self.people.take_back(subject)

    def set_tier(self, cmd: SetTier) -> Answer:
        money, subject = self.money, cmd.subject
        book = money.book_at(money.now)
        if book is None or cmd.tier not in book.tiers():
            raise Refused("unknown_tier")
        money.bring_up(subject)
        purse = money.purse(subject)
        before = purse.tier
        if before == cmd.tier:
            result = "unchanged" if purse.next_tier is None else "kept"
            purse.next_tier = None
        elif cmd.now or purse.since is None or self._each(cmd.tier) >= self._each(before):
            result = "changed"
            included = money.offer(cmd.tier).credits
            money.begin_period(subject, cmd.tier, money.now, included, "tier_change")
        else:
            result = "scheduled"
            purse.next_tier = cmd.tier
        return Answer(result, {"account": subject, "tier": cmd.tier, "from": before})

    def _each(self, tier: str) -> Decimal:
        offer = self.money.offer(tier)
        return offer.credits if offer.renews else ZERO

    def set_quota(self, cmd: SetQuota) -> Answer:
        self.money.purse(cmd.subject).call_limit = cmd.calls
        return Answer("set", {"account": cmd.subject, "calls": cmd.calls})

    def set_alerts(self, cmd: SetAlerts) -> Answer:
        purse = self.money.purse(cmd.subject)
        purse.low = None if cmd.low_micro is None else credits_of(cmd.low_micro)
        purse.percent, purse.raised = cmd.low_percent, []
        return Answer(
            "set", {"account": cmd.subject, "low": cmd.low_micro, "percent": cmd.low_percent}
        )

    def set_policy(self, cmd: SetPolicy) -> Answer:
        purse = self.money.purse(cmd.org)
        before, purse.policy = purse.policy, cmd.policy
        return Answer("set", {"account": cmd.org, "policy": cmd.policy, "from": before})

    def refresh(self, cmd: Refresh) -> Answer | None:
        purse = self.money.purse(cmd.subject)
        before = purse.written, purse.since, purse.tier, purse.welcome
        if cmd.welcome and self.people.is_due(cmd.subject):
            self.people.welcome(cmd.subject, "lazy")
        self.money.bring_up(cmd.subject)
        if before == (purse.written, purse.since, purse.tier, purse.welcome):
            return None
        return Answer("refreshed", {"account": cmd.subject})
