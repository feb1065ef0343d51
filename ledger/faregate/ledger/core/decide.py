"""`decide`: the one function that turns commands into entries and outcomes (rule 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from faregate.ledger.core.accounts import LedgerFault
from faregate.ledger.core.admin import (
    close_due_hold,
    grant,
    refresh_due,
    refund,
    revoke,
    set_balance,
)
from faregate.ledger.core.commands import (
    AddGrant,
    Allocate,
    ChargeUnpriced,
    CloseHold,
    Command,
    Deduct,
    Finished,
    PhaseCompleted,
    Refresh,
    Refund,
    Register,
    Release,
    Request,
    Reserve,
    Revoke,
    SetAlerts,
    SetBalance,
    SetMember,
    SetPolicy,
    SetQuota,
    SetTier,
    Settle,
    Unlock,
    Usage,
)
from faregate.ledger.core.deducting import deduct
from faregate.ledger.core.model import Entry, Outcome, Pipeline, Rejected, Seen, State
from faregate.ledger.core.orgs import allocate, set_member, set_policy
from faregate.ledger.core.plans import set_alerts, set_quota, set_tier
from faregate.ledger.core.posting import Work
from faregate.ledger.core.progress import finished, phase_completed
from faregate.ledger.core.provisioning import register, unlock
from faregate.ledger.core.requests import request
from faregate.ledger.core.reserving import release, reserve, settle
from faregate.ledger.core.usage import charge_unpriced, usage

PENDING = -1
"""`Seen.outcome_id` of an outcome of this same batch, which has no id yet."""

Result = Outcome | Seen | Rejected | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a batch comes to.

    `results` has one item per command, in order: an Outcome (accepted now), Seen (a duplicate:
    nothing happened), Rejected (to the DLQ) or None (a sweep that found nothing left to do).
    """

    state: State
    entries: list[Entry]
    outcomes: list[Outcome]
    results: list[Result]
    pipelines: dict[bytes, Pipeline]
    completed: dict[tuple[str, bytes, str], int | None]
    unpriced: list[tuple[int, Usage]]
    charged: list[int]
    planned: set[str]
    """Accounts whose plan changed, whether or not there is an entry of theirs."""


def decide(state: State, commands: Sequence[Command], now: datetime) -> Decision:
    """Decide `commands` in order over `state` at `now` (the database's time, timezone-aware).

    `state` is not changed. Every account that a command may touch must be in it. Raises
    LedgerFault on a broken invariant (a bug); a command that can never be accepted gives a
    Rejected in `results` and leaves no trace.
    """
    own = replace(
        state,
        accounts=dict(state.accounts),
        pipelines=dict(state.pipelines),
        completions={k: dict(v) for k, v in state.completions.items()},
        seen=dict(state.seen),
    )
    work = Work(own, now)
    results = [_one(work, i, command) for i, command in enumerate(commands)]
    return Decision(
        own,
        work.entries,
        work.outcomes,
        results,
        work.touched,
        work.completed,
        work.unpriced,
        work.charged,
        {s for s in work.planned if own.accounts[s].plan != state.accounts[s].plan},
    )


def _one(work: Work, index: int, command: Command) -> Result:
    known = _known(work, command)
    if known is not None:
        return known
    written = len(work.entries)
    work.before.clear()
    work.put_before.clear()
    try:
        outcome = _HANDLERS[type(command)](work, index, command)
    except Rejected as rejected:
        work.undo(written)  # what time had brought comes another time
        return rejected
    if outcome is not None:
        work.outcomes.append(outcome)
        _remember(work, outcome)
    elif len(work.entries) != written:
        raise LedgerFault("a command wrote entries and came to nothing")
    return outcome


def _known(work: Work, command: Command) -> Seen | Rejected | None:
    """Give the stored outcome of the same identity and content; other content is a conflict."""
    identity = command.identity
    seen = work.state.seen.get(identity.event_key)
    what = "id"
    if seen is None and identity.usage_key is not None:
        seen = work.state.seen.get(identity.usage_key)
        what = "usage_id"
    if seen is None and identity.is_repeat:
        return Rejected("never_begun", "this was not done before")
    if seen is None or seen.fingerprint in (identity.fingerprint, *identity.also):
        return seen
    message = f"this {what} was used before by the same source with other content"
    return Rejected("idempotency_conflict", message)


def _remember(work: Work, outcome: Outcome) -> None:
    identity = outcome.identity
    seen = Seen(identity.fingerprint, PENDING, outcome.result)
    work.state.seen[identity.event_key] = seen
    if identity.usage_key is not None:
        work.state.seen[identity.usage_key] = seen


_HANDLERS: dict[type, Callable[[Work, int, Any], Outcome | None]] = {
    Usage: usage,
    Request: request,
    PhaseCompleted: phase_completed,
    Finished: finished,
    Register: register,
    SetBalance: set_balance,
    Revoke: revoke,
    AddGrant: grant,
    Refund: refund,
    SetTier: set_tier,
    SetQuota: set_quota,
    SetAlerts: set_alerts,
    SetPolicy: set_policy,
    SetMember: set_member,
    Allocate: allocate,
    Unlock: unlock,
    Deduct: deduct,
    Reserve: reserve,
    Settle: settle,
    Release: release,
    CloseHold: close_due_hold,
    Refresh: refresh_due,
    ChargeUnpriced: charge_unpriced,
}
