"""Who may pay, in which order, and why nobody does (contract: Who pays)."""

from __future__ import annotations

from dataclasses import dataclass

from faregate.ledger.core.posting import Work


@dataclass(frozen=True, slots=True)
class Payer:
    """Somebody who may pay: an account, and the member's allocation that must cover it as well."""

    subject: str
    member: str | None = None


def involved(work: Work, user: str, org: str | None) -> list[str]:
    """List the accounts that a decision about a user, for an org or not, may rest on."""
    if org is None:
        return [user]
    member = work.state.members.get((org, user))
    return [org, user] if member is None else [org, user, member]


def candidates(work: Work, user: str, org: str | None) -> list[Payer]:
    """Who may pay, in order (contract: Who pays).

    `pool`: the org, then the user's own balance. `allocated`: the org within the allocation.
    """
    if org is None:
        return [Payer(user)]
    if work.state.accounts[org].plan.policy == "allocated":
        return [Payer(org, member_of(work, user, org))]
    return [Payer(org), Payer(user)]


def member_of(work: Work, user: str, org: str) -> str | None:
    """Give the account of a user's allocation; None for who is no member, or not any more."""
    member = work.state.members.get((org, user))
    if member is None or work.state.accounts[member].plan.role == "removed":
        return None
    return member


def can_pay(work: Work, payer: Payer) -> int:
    """Give the most that a payer could cover now, in micro-credits."""
    free = work.state.accounts[payer.subject].available
    if payer.member:
        return min(free, work.state.accounts[payer.member].available)
    return 0 if is_allocated(work, payer.subject) else free


def is_allocated(work: Work, subject: str) -> bool:
    """Tell whether an account is an org whose members need an allocation."""
    return work.state.accounts[subject].plan.policy == "allocated"


def refusal(work: Work, payers: list[Payer], required: int) -> str:
    """Give the first of the contract's reasons why none of `payers` covers `required`."""
    accounts = work.state.accounts
    if any(accounts[p.subject].debt for p in payers):
        return "debt_outstanding"
    payer = payers[0]
    if is_allocated(work, payer.subject):
        member = accounts[payer.member] if payer.member else None
        if member is None or member.granted <= 0:
            return "no_allocation"
        if member.available < required:
            return "allocation_exhausted"
    return "insufficient_credits"


def covering(work: Work, payers: list[Payer], required: int) -> Payer | None:
    """Give the first payer who covers the whole and owes nothing; never split (contract)."""
    for payer in payers:
        if work.state.accounts[payer.subject].debt == 0 and can_pay(work, payer) >= required:
            return payer
    return None
