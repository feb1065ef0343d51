"""What the core says, in the words of the second ledger; and what must be true of every decision."""

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from tests.unit.core.model_parts import Answer, Lot, Move, Purse, Terms, credits_of

from faregate.ledger.core import (
    Account,
    ChargeUnpriced,
    CloseHold,
    Command,
    Decision,
    Entry,
    GrantTerms,
    Outcome,
    Plan,
    Rejected,
    Seen,
    State,
)

_AMOUNTS = (
    "reserved",
    "required",
    "available",
    "released",
    "balance",
    "held",
    "debt",
    "amount",
    "cost",
    "allocation",
    "referral_bonus",
)
_ASKED = {"request": ("pipeline", "items"), "reserve": ("items",)}
_MOMENTS = ("hold_expires_at", "resets_at")


def answer_of(result: Outcome | Seen | Rejected | None, numbers: Mapping[bytes, int]) -> Any:
    """`numbers`: the holds, in the order in which they were made."""
    match result:
        case None:
            return None
        case Seen():
            return Answer("duplicate", {"of": result.result})
        case Rejected():
            return Answer("rejected", {"code": result.code})
    facts = dict(result.body or {})
    for name in _ASKED.get(result.name, ()):
        facts.pop(name, None)  # as it was said
    for name in _AMOUNTS:
        if name in facts:
            facts[name] = credits_of(facts[name])
    for name in _MOMENTS:
        if facts.get(name) is not None:
            assert facts[name].endswith("Z")
            facts[name] = datetime.fromisoformat(facts[name])
    if "considered" in facts:
        facts["considered"] = [
            (c["payer"], credits_of(c["available"])) for c in facts["considered"]
        ]
    if "hold_id" in facts:
        hold = facts.pop("hold_id")
        facts["hold"] = None if hold is None else numbers[UUID(hold).bytes]
    return Answer(result.result, facts, result.calls)


def move_of(e: Entry, numbers: Mapping[bytes, int]) -> Move:
    assert len({n for n, _, _ in e.grants}) == len(e.grants), "each grant is named once"
    return Move(
        e.subject,
        e.kind,
        credits_of(e.amount),
        credits_of(e.held_delta),
        credits_of(e.debt_delta),
        {n: (credits_of(amount), credits_of(held)) for n, amount, held in e.grants},
        None if e.hold_id is None else numbers[e.hold_id],
        e.price_version,
        e.user,
        e.org,
        e.reason,
        e.tier,
        _terms(e.terms),
        tuple(e.alert.split(",")) if e.alert else (),
    )


def _terms(terms: GrantTerms | None) -> Terms | None:
    if terms is None:
        return None
    return Terms(
        terms.priority,
        terms.expires_at,
        terms.source,
        terms.allocated_by,
        terms.notes,
        terms.layer,
        terms.arm,
    )


def plan_of(purse: Purse) -> Plan:
    micro = None if purse.low is None else int(purse.low * 1_000_000)
    return Plan(
        purse.tier,
        purse.since,
        purse.next_tier,
        purse.tier_lot,
        purse.calls,
        purse.call_limit,
        purse.policy,  # type: ignore[arg-type]
        purse.role,  # type: ignore[arg-type]
        micro,
        purse.percent,
        int(purse.top * 1_000_000),
        tuple(purse.raised),
        purse.welcome,  # type: ignore[arg-type]
        purse.verified,
        purse.registered,
        tuple(purse.milestones),
        tuple(purse.withheld),
    )


def same_grants(account: Account, lots: list[Lot]) -> bool:
    """Whether an account's grants are those of `lots` that have something left, in order."""
    mine = [(g.number, credits_of(g.remaining), g.priority, g.expires_at) for g in account.grants]
    return mine == [(x.number, x.left, x.priority, x.until) for x in lots if x.left]


def copy_of(state: State) -> State:
    return replace(
        state,
        accounts=dict(state.accounts),
        pipelines=dict(state.pipelines),
        completions={k: dict(v) for k, v in state.completions.items()},
        seen=dict(state.seen),
        members=dict(state.members),
    )


def check_what_is_written(before: State, decision: Decision) -> None:
    """The shell writes only what the decision lists: that must be all that has changed."""
    after = decision.state
    assert before.pipelines | decision.pipelines == after.pipelines
    completions = {k: dict(v) for k, v in before.completions.items()}
    for (owner, batch, phase), items in decision.completed.items():
        completions.setdefault((owner, batch), {})[phase] = items
    assert completions == after.completions
    moved = {e.subject for e in decision.entries}
    planned = {s for s, a in after.accounts.items() if a.plan != before.accounts[s].plan}
    assert decision.planned == planned
    changed = {s for s, a in after.accounts.items() if a != before.accounts[s]}
    assert changed == moved | planned
    new_keys = {o.identity.event_key for o in decision.outcomes}
    for name, p in decision.pipelines.items():
        if p.cause not in new_keys:  # then only its end is written
            was = before.pipelines[name]
            assert replace(p, hold=None) == replace(was, hold=None, settled=p.settled)
            assert p.settled >= was.settled
    for entry in decision.entries:
        if entry.terms is not None:  # the shell reads a new grant's amount there
            assert entry.grants[-1][:2] == (entry.sequence, entry.grants[-1][1])


def comparable(decision: Decision) -> tuple[object, ...]:
    """Exceptions compare by identity, so refusals are compared by what they say.

    What was planned is what has changed at the end: that of a batch is less than its commands'.
    """
    results = [(r.code, r.message) if isinstance(r, Rejected) else r for r in decision.results]
    return (results, replace(decision, results=[], planned=set()))


def check_names(command: Command, outcome: Outcome, state: State) -> None:
    """An outcome says whom it is about."""
    assert outcome.identity == command.identity
    about: Any = command.usage if isinstance(command, ChargeUnpriced) else command
    if isinstance(command, CloseHold):
        about = state.pipelines[command.pipeline_key]
    names = {f.name for f in fields(about)}
    assert outcome.user == (about.user if "user" in names else None)
    assert outcome.org == (about.org if "org" in names else None)
