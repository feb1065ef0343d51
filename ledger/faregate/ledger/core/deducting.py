"""A charge that must be covered: whole or not at all (rule 10, last sentence)."""

from __future__ import annotations

from faregate.ledger.core import quotas
from faregate.ledger.core.commands import Deduct
from faregate.ledger.core.denials import facts
from faregate.ledger.core.model import Outcome
from faregate.ledger.core.payers import Payer, candidates, covering, refusal
from faregate.ledger.core.posting import Work, post, spend
from faregate.ledger.core.provisioning import welcome
from faregate.ledger.core.renewal import refresh


def deduct(work: Work, index: int, cmd: Deduct) -> Outcome:
    """Charge at once what a caller waits for; a refusal is an outcome with the contract's reason."""
    welcome(work, cmd.user, "last_resort")
    member = work.state.members.get((cmd.org, cmd.user)) if cmd.org else None
    for subject in filter(None, (cmd.user, cmd.org, member)):
        refresh(work, subject)
    payers = candidates(work, cmd.user, cmd.org)
    if cmd.counts and quotas.is_used_up(work, cmd.user):
        return _refused(work, index, cmd, "quota_exceeded", payers)
    payer = covering(work, payers, cmd.cost) if cmd.cost else payers[0]
    if payer is None:
        return _refused(work, index, cmd, refusal(work, payers, cmd.cost), payers)
    for subject in filter(None, (payer.subject, payer.member)):
        grants = spend(work.state.accounts[subject], cmd.cost)
        post(
            work,
            subject,
            "usage",
            amount=-cmd.cost,
            grants=grants,
            user=cmd.user,
            org=cmd.org,
            price_version=cmd.price_version,
            usage=cmd.usage,
            reason=cmd.reason,
        )
    calls = quotas.count(work, cmd.user) if cmd.counts else 0
    body = {"payer": payer.subject, "cost": cmd.cost}
    return Outcome(index, cmd.identity, "deduct", "charged", cmd.user, cmd.org, body, calls)


def _refused(work: Work, index: int, cmd: Deduct, reason: str, payers: list[Payer]) -> Outcome:
    body = facts(work, cmd.user, payers, reason, cmd.cost)
    return Outcome(index, cmd.identity, "deduct", "refused", cmd.user, cmd.org, body)
