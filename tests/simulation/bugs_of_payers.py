"""Bugs of who pays and with what: grants, debt, tiers, quotas, allocations (rule 10, contract)."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from tests.simulation.planting import both, bug, everywhere, nothing, within

from faregate.ledger.core import Grant, GrantTerms, admin, renewal, requests, usage
from faregate.ledger.core.accounts import NEVER, PERIOD, burn
from faregate.ledger.core.payers import Payer
from faregate.ledger.core.posting import joined, pay_debt, post

Plant = AbstractContextManager[Any]


@bug
def the_burn_order_is_swapped() -> Plant:
    order = property(lambda g: (-g.priority, g.expires_at or NEVER, g.number))
    return patch.object(Grant, "burn_order", order)


@bug
def what_expires_sooner_is_not_burned_first() -> Plant:
    return patch.object(Grant, "burn_order", property(lambda g: (g.priority, g.number)))


@bug
def an_expired_grant_still_pays() -> Plant:
    return everywhere("expire", nothing)


@bug
def a_hold_gives_back_what_has_expired_meanwhile() -> Plant:
    from faregate.ledger.core import holds

    return within(holds, "expire", nothing)


@bug
def debt_is_not_paid_first() -> Plant:
    return everywhere("pay_debt", nothing)


@bug
def usage_that_is_not_covered_is_forgiven() -> Plant:
    def posted(original: Any, *args: Any, **more: Any) -> Any:
        return original(*args, **{**more, "debt": 0})

    return within(usage, "post", posted)


@bug
def a_user_pays_for_what_the_org_cannot() -> Plant:
    def posted(original: Any, work: Any, subject: str, kind: str, **more: Any) -> Any:
        debt, user = more["debt"], more["user"]
        account = work.state.accounts[user]
        if subject != user and 0 < debt <= account.available:
            original(work, subject, kind, **{**more, "debt": 0})
            grants = joined((), burn(account, debt))
            return original(
                work, user, kind, **{**more, "debt": 0, "amount": -debt, "held": 0,
                                     "grants": grants, "hold_id": None}
            )  # fmt: skip
        return original(work, subject, kind, **more)

    return within(usage, "post", posted)


@bug
def setting_a_balance_leaves_the_debt() -> Plant:
    def posted(original: Any, work: Any, subject: str, kind: str, **more: Any) -> Any:
        if kind == "adjustment":
            more["debt"] = 0
        return original(work, subject, kind, **more)

    return within(admin, "post", posted)


@bug
def who_owes_may_go_on() -> Plant:
    def covering(_: Any, work: Any, payers: Any, required: int) -> Any:
        from faregate.ledger.core.payers import can_pay

        return next((p for p in payers if can_pay(work, p) >= required or p.member), None)

    def reasons(original: Any, work: Any, payers: Any, required: int) -> Any:
        reason = original(work, payers, required)
        return "insufficient_credits" if reason == "debt_outstanding" else reason

    return both(everywhere("covering", covering), everywhere("refusal", reasons))


# Refunds.


@bug
def a_refund_ignores_expiry() -> Plant:
    return within(admin, "expire", nothing)


@bug
def a_refund_forgets_what_was_debt() -> Plant:
    def back(original: Any, work: Any, cmd: Any, part: Any) -> None:
        original(work, cmd, replace(part, debt=0))

    return within(admin, "_give_back", back)


@bug
def a_refund_makes_a_grant_of_its_own() -> Plant:
    def back(original: Any, work: Any, cmd: Any, part: Any) -> None:
        amount, number = -part.amount, work.state.accounts[part.subject].sequence + 1
        grants = ((number, amount, 0),) if amount else ()
        post(
            work, part.subject, "refund", amount=amount, debt=0, grants=grants,
            known=(Grant(number, 0),), terms=GrantTerms(100, None),
        )  # fmt: skip
        pay_debt(work, part.subject)

    return within(admin, "_give_back", back)


# Tiers, quotas, provisioning, alerts.


@bug
def a_renewal_comes_twice() -> Plant:
    def begin(original: Any, work: Any, subject: str, offer: Any, start: Any, why: Any) -> None:
        original(work, subject, offer, start, why)
        if why == "renewal":
            original(work, subject, offer, start, why)

    return within(renewal, "begin_period", begin)


@bug
def renewals_are_not_caught_up() -> Plant:
    def renew(original: Any, work: Any, subject: str) -> None:
        plan = work.state.accounts[subject].plan
        late = work.now - PERIOD - (work.now - plan.period_start) % PERIOD
        work.plan(subject, period_start=max(plan.period_start, late))
        original(work, subject)

    return within(renewal, "_renew", renew)


@bug
def a_new_tier_keeps_the_credits_of_the_old() -> Plant:
    return within(renewal, "_replace", nothing)


@bug
def the_quota_is_off_by_one() -> Plant:
    from faregate.ledger.core import quotas

    def used_up(_: Any, work: Any, user: str) -> Any:
        allowed = quotas.limit(work, user)
        return allowed is not None and work.state.accounts[user].plan.calls > allowed

    return within(quotas, "is_used_up", used_up)


@bug
def calls_with_an_own_key_are_not_counted() -> Plant:
    def count(original: Any, work: Any, cmd: Any, pipeline: Any) -> Any:
        return 0 if cmd.byok else original(work, cmd, pipeline)

    return within(usage, "_count", count)


@bug
def a_pipeline_is_counted_for_each_of_its_calls() -> Plant:
    def count(original: Any, work: Any, cmd: Any, _: Any) -> Any:
        return original(work, cmd, None)

    return within(usage, "_count", count)


@bug
def the_welcome_is_given_twice() -> Plant:
    def welcome(original: Any, work: Any, user: str, layer: str, *more: Any) -> Any:
        if layer == "eager":
            work.plan(user, welcome="pending")
        return original(work, user, layer, *more)

    return everywhere("welcome", welcome)


@bug
def a_referral_is_paid_twice() -> Plant:
    def thank(original: Any, work: Any, cmd: Any) -> Any:
        work.plan(cmd.user, registered=False)
        return original(work, cmd)

    return everywhere("_thank", thank)


@bug
def an_alert_is_raised_with_each_entry() -> Plant:
    from faregate.ledger.core import alerts

    def after(original: Any, rules: Any, old: Any, kind: str, available: int) -> Any:
        fresh = replace(old, plan=replace(old.plan, alerted=()))
        return original(rules, fresh, kind, available)

    return within(alerts, "after", after)


# Allocations.


@bug
def the_allocation_moves_and_the_org_does_not() -> Plant:
    def posted(original: Any, work: Any, subject: str, kind: str, **more: Any) -> Any:
        if work.state.accounts[subject].plan.policy == "allocated":
            more |= {"amount": 0, "held": 0, "debt": 0, "grants": ()}
        return original(work, subject, kind, **more)

    return within(usage, "post", posted)


@bug
def the_org_moves_and_the_allocation_does_not() -> Plant:
    return within(usage, "_member", nothing)


@bug
def a_hold_does_not_hold_the_allocation() -> Plant:
    def hold(original: Any, work: Any, payer: Any, amount: int, **more: Any) -> Any:
        return original(work, Payer(payer.subject), amount, **more)

    return within(requests, "take_hold", hold)


@bug
def who_was_removed_keeps_the_allocation() -> Plant:
    return everywhere("take_back_if_removed", nothing)


@bug
def an_allocation_may_exceed_the_org() -> Plant:
    def can_pay(original: Any, work: Any, payer: Any) -> Any:
        if payer.member:
            return work.state.accounts[payer.member].available
        return original(work, payer)

    return everywhere("can_pay", can_pay)
