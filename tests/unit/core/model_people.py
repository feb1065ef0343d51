"""The second ledger's people: who is welcomed, with how much, and what members may spend."""

from datetime import timedelta
from decimal import Decimal
from hashlib import sha256

from tests.unit.core.model_money import Money
from tests.unit.core.model_parts import ZERO, Answer, Purse, Refused, Terms, credits_of

from faregate.ledger.core import Allocate, Register, SetMember, Unlock


class People:
    def __init__(self, money: Money) -> None:
        self.money = money

    # Provisioning.

    def may_be_welcomed(self, user: str) -> bool:
        """Automatic, a user, for the first time: no entry yet and no tier that somebody set."""
        rules, purse = self.money.rules, self.money.purse(user)
        if rules.provisioning != "auto" or not rules.welcome_micro or not user.startswith("user:"):
            return False
        return purse.welcome != "given" and _is_new(purse)

    def is_due(self, user: str) -> bool:
        verified = self.money.purse(user).verified or not self.money.rules.welcome.verified_only
        return self.may_be_welcomed(user) and verified

    def tier(self, user: str) -> str:
        """The tier that prices a call: that of the welcome, if it is about to come."""
        tier = self.money.purse(user).tier
        return "trial" if tier == "free" and self.is_due(user) else tier

    def welcome(self, user: str, layer: str, referral: str | None = None) -> bool:
        money, purse = self.money, self.money.purse(user)
        if not self.may_be_welcomed(user):
            return False
        if not self.is_due(user):
            purse.welcome = "pending"
            return False
        purse.welcome = "given"
        parts = dict(money.rules.welcome.milestones)
        purse.withheld = [name for name in parts if name not in purse.milestones]
        if purse.tier == "free":
            purse.tier, purse.since = "trial", purse.since or money.now
        arm, amount = self._amount(user, referral)
        amount -= sum((credits_of(parts[name]) for name in purse.withheld), ZERO)
        if amount > 0:
            money.add(
                user, "purchase", amount, self._terms(_source(referral), layer, arm), "welcome"
            )
            money.pay_debt(user)
        return True

    def _amount(self, user: str, referral: str | None) -> tuple[str | None, Decimal]:
        rules = self.money.rules.welcome
        for name, micro in rules.by_referral:
            if name == referral:
                return None, credits_of(micro)
        if not rules.arms:
            return None, credits_of(self.money.rules.welcome_micro)
        number = int(sha256(user.encode()).hexdigest()[:16], 16)
        arm, micro = rules.arms[number % len(rules.arms)]
        return arm, credits_of(micro)

    def _terms(self, source: str, layer: str, arm: str | None = None) -> Terms:
        days = self.money.rules.welcome.days
        until = None if days is None else self.money.now + timedelta(days=days)
        return Terms(until=until, source=source, layer=layer, arm=arm)

    def register(self, cmd: Register) -> Answer:
        purse = self.money.purse(cmd.user)
        purse.verified = purse.verified or cmd.email_verified
        given = self.welcome(cmd.user, "eager", cmd.referral)
        bonus = self._thank(cmd)
        released = self.reach(cmd.user, "email_verified") if cmd.email_verified else ZERO
        facts = {
            "welcome": purse.welcome or "none",
            "referral_bonus": bonus,
            "released": released,
            "layer": "eager",
        }
        return Answer("provisioned" if given else "registered", facts)

    def _thank(self, cmd: Register) -> Decimal:
        """The first registration of a welcomed user says who sent them."""
        bonus, sender = credits_of(self.money.rules.welcome.referral_bonus), cmd.referrer
        purse = self.money.purse(cmd.user)
        if purse.registered or purse.welcome != "given":
            return ZERO
        purse.registered = True
        if not bonus or sender in {None, cmd.user} or not self.money.purse(str(sender)).written:
            return ZERO
        self.money.bring_up(sender)
        self.money.add(str(sender), "bonus", bonus, Terms(source="referral_bonus"), "referral")
        self.money.pay_debt(str(sender))
        return bonus

    def unlock(self, cmd: Unlock) -> Answer:
        purse, parts = self.money.purse(cmd.user), dict(self.money.rules.welcome.milestones)
        if cmd.milestone not in parts:
            raise Refused("unknown_milestone")
        if purse.welcome != "given":
            raise Refused("not_provisioned")
        amount = self.reach(cmd.user, cmd.milestone)
        if not amount:
            return Answer("unchanged")
        facts = {"account": cmd.user, "milestone": cmd.milestone, "amount": amount}
        return Answer("unlocked", facts)

    def reach(self, user: str, milestone: str) -> Decimal:
        """Each milestone counts once: before the welcome came, its part comes with that."""
        purse, parts = self.money.purse(user), dict(self.money.rules.welcome.milestones)
        if milestone not in parts or milestone in purse.milestones:
            return ZERO
        if purse.welcome != "given":
            if self.money.rules.provisioning == "auto" and _is_new(purse):
                purse.milestones.append(milestone)
            return ZERO
        if milestone not in purse.withheld:
            return ZERO
        self.money.bring_up(user)
        purse.milestones.append(milestone)
        amount, name = credits_of(parts[milestone]), f"milestone:{milestone}"
        self.money.add(user, "bonus", amount, self._terms(name, "milestone"), name)
        self.money.pay_debt(user)
        return amount

    # Members of organizations.

    def account(self, org: str, user: str) -> str | None:
        """What a user may spend of an org's; None for somebody who is not (or no more) a member."""
        member = f"member:{org}/{user}"
        known = (org, user) in self.money.members
        return member if known and self.money.purse(member).role != "removed" else None

    def set_member(self, cmd: SetMember) -> Answer:
        member = f"member:{cmd.org}/{cmd.user}"
        purse = self.money.purse(member)
        before = purse.role
        if cmd.role == "removed" and before in {None, "removed"}:
            raise Refused("not_a_member")
        self.money.bring_up(member)
        purse.role = cmd.role
        self.take_back(member)
        return Answer("set", {"account": member, "role": cmd.role, "from": before})

    def take_back(self, member: str) -> None:
        """Whoever is a member no more keeps only what is held."""
        free = self.money.available(member)
        if self.money.purse(member).role == "removed" and free:
            self.money.take(member, "adjustment", free, reason="member_removed")

    def allocate(self, cmd: Allocate) -> Answer:
        money, member = self.money, f"member:{cmd.org}/{cmd.user}"
        money.bring_up(member)
        outside = money.purse(member).role in {None, "removed"}
        if outside and (cmd.amount is None or cmd.amount < 0):
            raise Refused("not_a_member")
        free = money.available(member)
        change = -free if cmd.amount is None else credits_of(cmd.amount)
        number = None
        if change > 0:
            if cmd.expires_at is not None and cmd.expires_at <= money.now:
                raise Refused("expires_in_the_past")
            money.require_room(member, change)
            terms = Terms(
                until=cmd.expires_at, source="allocation", by=cmd.allocated_by, notes=cmd.notes
            )
            number = money.add(member, "adjustment", change, terms, "allocation")
        elif change < 0:
            if -change > free:
                raise Refused("below_held")
            money.take(member, "adjustment", -change, reason="allocation")
        if outside:
            money.purse(member).role = "member"
        return Answer("allocated", {"account": member, "amount": change, "grant": number})


def _is_new(purse: Purse) -> bool:
    """No entry yet and no tier that somebody set, or waiting for the welcome."""
    return purse.welcome == "pending" or (purse.written == 0 and purse.tier == "free")


def _source(referral: str | None) -> str:
    """No person is named in what can never be erased."""
    if not referral:
        return "welcome"
    if referral.startswith("user:"):
        return "referral:user"
    return "referral:other" if "@" in referral else f"referral:{referral}"
