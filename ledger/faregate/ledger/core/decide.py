"""`decide`: the one function that turns commands into entries and outcomes (rule 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from faregate.ledger.core.admin import close_due_hold, grant, set_balance
from faregate.ledger.core.model import (
    ChargeUnpriced,
    CloseHold,
    Command,
    Entry,
    Finished,
    Grant,
    LedgerFault,
    Outcome,
    PhaseCompleted,
    Pipeline,
    Rejected,
    Request,
    Seen,
    SetBalance,
    State,
    Usage,
)
from faregate.ledger.core.posting import Work
from faregate.ledger.core.progress import finished, phase_completed
from faregate.ledger.core.requests import request
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
    )


def _one(work: Work, index: int, command: Command) -> Result:
    known = _known(work, command)
    if known is not None:
        return known
    written = len(work.entries)
    try:
        outcome = _dispatch(work, index, command)
    except Rejected as rejected:
        if len(work.entries) != written:
            raise LedgerFault("a command was rejected after it had written entries") from rejected
        return rejected
    if outcome is not None:
        work.outcomes.append(outcome)
        _remember(work, outcome)
    return outcome


def _known(work: Work, command: Command) -> Seen | Rejected | None:
    """Give the stored outcome of the same identity and content; other content is a conflict."""
    identity = command.identity
    seen = work.state.seen.get(identity.event_key)
    what = "id"
    if seen is None and identity.usage_key is not None:
        seen = work.state.seen.get(identity.usage_key)
        what = "usage_id"
    if seen is None or seen.fingerprint == identity.fingerprint:
        return seen
    message = f"this {what} was used before by the same source with other content"
    return Rejected("idempotency_conflict", message)


def _remember(work: Work, outcome: Outcome) -> None:
    identity = outcome.identity
    seen = Seen(identity.fingerprint, PENDING, outcome.result)
    work.state.seen[identity.event_key] = seen
    if identity.usage_key is not None:
        work.state.seen[identity.usage_key] = seen


def _dispatch(work: Work, index: int, command: Command) -> Outcome | None:  # noqa: PLR0911
    match command:
        case Usage():
            return usage(work, index, command)
        case Request():
            return request(work, index, command)
        case PhaseCompleted():
            return phase_completed(work, index, command)
        case Finished():
            return finished(work, index, command)
        case SetBalance():
            return set_balance(work, index, command)
        case Grant():
            return grant(work, index, command)
        case CloseHold():
            return close_due_hold(work, index, command)
        case ChargeUnpriced():
            return charge_unpriced(work, index, command)
