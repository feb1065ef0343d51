"""Provisioning: who comes for the first time gets welcome credits, once (contract: Provisioning).

Three layers, one rule: `eager` (they registered), `lazy` (the first decision or read about them),
`last_resort` (their first usage). Which one it was is kept with the grant.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

from faregate.ledger.core.accounts import DEFAULT_PRIORITY, Account
from faregate.ledger.core.commands import Register, Unlock
from faregate.ledger.core.model import GrantTerms, Outcome, Rejected
from faregate.ledger.core.posting import Work, add_grant, pay_debt
from faregate.ledger.core.renewal import refresh

TIER, FREE = "trial", "free"
EMAIL_VERIFIED, FIRST_PIPELINE = "email_verified", "first_pipeline"
"""The milestones that events reach by themselves, where the settings name them."""


def is_due(work: Work, user: str) -> bool:
    """Tell whether `welcome` would give something now."""
    rules, account = work.state.rules, work.state.accounts[user]
    if rules.provisioning != "auto" or not rules.welcome_micro or not user.startswith("user:"):
        return False
    if account.plan.welcome == "given" or not _is_new(account):
        return False
    return account.plan.verified or not rules.welcome.verified_only


def _is_new(account: Account) -> bool:
    """Tell whether nobody has given this account credits or a tier yet, or its welcome waits."""
    plan = account.plan
    return plan.welcome == "pending" or (not account.sequence and plan.tier == FREE)


def tier_for_price(work: Work, user: str) -> str:
    """Give the tier that prices a user's next call: the one that `welcome` is about to give."""
    tier = work.state.accounts[user].tier
    return TIER if tier == FREE and is_due(work, user) else tier


def welcome(work: Work, user: str, layer: str, referral: str | None = None) -> bool:
    """Provision a user who is seen for the first time; tell whether it happened now."""
    account = work.state.accounts[user]
    if account.sequence and account.plan.welcome != "pending":
        return False  # by far the most
    if not is_due(work, user):
        if _waits(work, user):
            work.plan(user, welcome="pending")
        return False
    arm, micro = _amount(work, user, referral)
    reached, parts = account.plan.milestones, work.state.rules.welcome.milestones
    withheld = {name: part for name, part in parts if name not in reached}
    now_micro = max(micro - sum(withheld.values()), 0)
    work.plan(user, welcome="given", withheld=tuple(withheld))
    if account.tier == FREE:  # else somebody has chosen a tier while the welcome was waiting
        work.plan(user, tier=TIER, period_start=account.plan.period_start or work.now)
    if now_micro:
        terms = _terms(work, _source(referral), layer, arm)
        add_grant(work, user, "purchase", now_micro, terms, "welcome")
        pay_debt(work, user)
    return True


def _source(referral: str | None) -> str:
    """Say where a new user came from, without naming a person."""
    if not referral:
        return "welcome"
    if referral.startswith("user:"):
        return "referral:user"
    return "referral:other" if "@" in referral else f"referral:{referral}"


def _waits(work: Work, user: str) -> bool:
    rules, plan = work.state.rules, work.state.accounts[user].plan
    waits = rules.provisioning == "auto" and rules.welcome_micro and rules.welcome.verified_only
    if not waits or plan.verified or plan.welcome or not user.startswith("user:"):
        return False
    return _is_new(work.state.accounts[user])


def _terms(work: Work, source: str, layer: str, arm: str | None) -> GrantTerms:
    days = work.state.rules.welcome.days
    expires = None if days is None else work.now + timedelta(days=days)
    return GrantTerms(DEFAULT_PRIORITY, expires, source=source, layer=layer, arm=arm)


def _amount(work: Work, user: str, referral: str | None) -> tuple[str | None, int]:
    """Give the A/B arm (None without a test) and the welcome amount."""
    rules = work.state.rules
    special = dict(rules.welcome.by_referral)
    if referral in special:
        return None, special[referral]
    if rules.welcome.arms:
        return arm_of(user, rules.welcome.arms)
    return None, rules.welcome_micro


def arm_of(user: str, arms: tuple[tuple[str, int], ...]) -> tuple[str, int]:
    """Choose a user's arm by their id alone: always the same, evenly spread."""
    number = int.from_bytes(sha256(user.encode()).digest()[:8], "big")
    return arms[number % len(arms)]


def register(work: Work, index: int, cmd: Register) -> Outcome:
    """Provision who signed up, and thank who sent them. Registering twice grants once."""
    if cmd.email_verified and not work.state.accounts[cmd.user].plan.verified:
        work.plan(cmd.user, verified=True)
    given = welcome(work, cmd.user, "eager", cmd.referral)
    bonus = _thank(work, cmd)
    released = reach(work, cmd.user, EMAIL_VERIFIED) if cmd.email_verified else 0
    result = "provisioned" if given else "registered"
    plan = work.state.accounts[cmd.user].plan
    body = {
        "welcome": plan.welcome or "none",
        "referral_bonus": bonus,
        "released": released,
        "layer": "eager",
    }
    return Outcome(index, cmd.identity, "register", result, cmd.user, None, body)


def _thank(work: Work, cmd: Register) -> int:
    """Give the referrer their bonus: to another user, who is here already.

    The first registration of a welcomed user decides, also when a decision came before it: topics
    have no order between them.
    """
    plan = work.state.accounts[cmd.user].plan
    if plan.registered or plan.welcome != "given":
        return 0
    work.plan(cmd.user, registered=True)
    bonus, referrer = work.state.rules.welcome.referral_bonus, cmd.referrer
    if not bonus or referrer is None or referrer == cmd.user:
        return 0
    if not work.state.accounts[referrer].sequence:
        return 0
    refresh(work, referrer)
    terms = GrantTerms(DEFAULT_PRIORITY, None, source="referral_bonus")
    add_grant(work, referrer, "bonus", bonus, terms, "referral")
    pay_debt(work, referrer)
    return bonus


def unlock(work: Work, index: int, cmd: Unlock) -> Outcome:
    """Release the part of the welcome credits that waited for a milestone, once.

    Raises Rejected: `unknown_milestone`, `not_provisioned`.
    """
    plan = work.state.accounts[cmd.user].plan
    parts = dict(work.state.rules.welcome.milestones)
    if cmd.milestone not in parts:
        known = ", ".join(sorted(parts)) or "none"
        raise Rejected(
            "unknown_milestone", f"no such milestone in the settings; there are: {known}"
        )
    if plan.welcome != "given":
        raise Rejected("not_provisioned", "this user has no welcome credits to release")
    if cmd.milestone in plan.milestones or cmd.milestone not in plan.withheld:
        return Outcome(index, cmd.identity, "unlock", "unchanged", cmd.user)
    amount = reach(work, cmd.user, cmd.milestone)
    body = {"account": cmd.user, "milestone": cmd.milestone, "amount": amount}
    return Outcome(index, cmd.identity, "unlock", "unlocked", cmd.user, None, body)


def reach(work: Work, user: str, milestone: str) -> int:
    """Note a milestone of the settings, once for ever; give what it has released now.

    Whoever reaches it before the welcome credits came gets its part with them.
    """
    part = dict(work.state.rules.welcome.milestones).get(milestone)
    account = work.state.accounts[user]
    plan = account.plan
    if part is None or milestone in plan.milestones:
        return 0
    if plan.welcome != "given":
        if work.state.rules.provisioning == "auto" and _is_new(account):
            work.plan(user, milestones=(*plan.milestones, milestone))
        return 0
    if milestone not in plan.withheld:
        return 0  # they had it all before this milestone was in the settings
    refresh(work, user)
    work.plan(user, milestones=(*plan.milestones, milestone))
    name = f"milestone:{milestone}"
    add_grant(work, user, "bonus", part, _terms(work, name, "milestone", None), name)
    pay_debt(work, user)
    return part
