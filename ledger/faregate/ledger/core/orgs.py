"""Organizations: policy, members, and what each member may spend (contract: Who pays).

An allocation is a limit on the org's credits, not credits of its own: allocations may together
exceed the org's balance, spending may not. It is kept as an account of the member in the org.
"""

from __future__ import annotations

from faregate.events.amounts import LIMIT_MICRO, format_credits
from faregate.ledger.core.accounts import DEFAULT_PRIORITY
from faregate.ledger.core.admin import in_future
from faregate.ledger.core.commands import Allocate, SetMember, SetPolicy
from faregate.ledger.core.holds import take_back_if_removed
from faregate.ledger.core.model import GrantTerms, Outcome, Rejected
from faregate.ledger.core.posting import Work, add_grant, post, spend
from faregate.ledger.core.renewal import refresh


def set_policy(work: Work, index: int, cmd: SetPolicy) -> Outcome:
    """Say how an org's credits may be spent; holds that are live keep to what they were made by."""
    before = work.state.accounts[cmd.org].plan.policy
    work.plan(cmd.org, policy=cmd.policy)
    body = {"account": cmd.org, "policy": cmd.policy, "from": before}
    return Outcome(index, cmd.identity, "set_policy", "set", None, cmd.org, body)


def set_member(work: Work, index: int, cmd: SetMember) -> Outcome:
    """Make somebody a member, change their role, or remove them.

    Whoever is removed loses what is not held of their allocation; what is held settles.
    """
    member = work.state.members[cmd.org, cmd.user]
    before = work.state.accounts[member].plan.role
    if cmd.role == "removed" and before in {None, "removed"}:
        raise Rejected("not_a_member", "this user is not a member of the org")
    refresh(work, member)
    work.plan(member, role=cmd.role)
    take_back_if_removed(work, member)
    body = {"account": member, "role": cmd.role, "from": before}
    return Outcome(index, cmd.identity, "set_member", "set", cmd.user, cmd.org, body)


def allocate(work: Work, index: int, cmd: Allocate) -> Outcome:
    """Raise or lower what a member may spend.

    Who is no member becomes one by an allocation. Raises Rejected: `amount_out_of_range`,
    `expires_in_the_past`, `below_held` (409) when more is to be taken back than is free,
    `not_a_member` when something is to be taken back of who is none.
    """
    member = work.state.members[cmd.org, cmd.user]
    refresh(work, member)
    if work.state.accounts[member].plan.role in {None, "removed"}:
        if cmd.amount is None or cmd.amount < 0:
            raise Rejected("not_a_member", "this user is not a member of the org")
        work.plan(member, role="member")
    account = work.state.accounts[member]
    amount = -account.available if cmd.amount is None else cmd.amount
    number = None
    if amount > 0:
        number = _raise(work, cmd, member, amount)
    elif amount < 0:
        if -amount > account.available:
            free = format_credits(account.available)
            message = f"only {free} credits of the allocation are neither used nor held"
            raise Rejected("below_held", message)
        grants = spend(account, -amount)
        post(work, member, "adjustment", amount=amount, grants=grants, reason="allocation")
    body = {"account": member, "amount": amount, "grant": number}
    return Outcome(index, cmd.identity, "allocate", "allocated", cmd.user, cmd.org, body)


def _raise(work: Work, cmd: Allocate, member: str, amount: int) -> int:
    in_future(work, cmd.expires_at)
    if work.state.accounts[member].balance + amount >= LIMIT_MICRO:
        raise Rejected("amount_out_of_range", "an allocation must stay below 10^9 credits")
    terms = GrantTerms(DEFAULT_PRIORITY, cmd.expires_at, "allocation", cmd.allocated_by, cmd.notes)
    return add_grant(work, member, "adjustment", amount, terms, "allocation")
