"""The one place that changes an account: every change of credits is an entry.

Invariants, checked on each entry (rules 5 and 10): balance, held and debt are never negative, held
never exceeds balance, and what an entry does to grants sums up to what it does to the account.
After each command there is no debt while anything is available: `pay_debt` follows every rise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from faregate.ledger.core import alerts
from faregate.ledger.core.accounts import (
    Account,
    Delta,
    Grant,
    LedgerFault,
    Plan,
    burn,
    moved,
    with_grants,
    with_plan,
)
from faregate.ledger.core.commands import Usage
from faregate.ledger.core.model import (
    Entry,
    GrantTerms,
    Kind,
    Outcome,
    Pins,
    Pipeline,
    Seen,
    State,
)

_GRANTED = frozenset({"purchase", "bonus", "adjustment", "expiry"})


@dataclass(slots=True)
class Work:
    """A batch being decided: the state so far, and what it has written."""

    state: State
    now: datetime
    entries: list[Entry] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    results: list[Outcome | Seen | Exception] = field(default_factory=list)
    touched: dict[bytes, Pipeline] = field(default_factory=dict)
    planned: set[str] = field(default_factory=set)
    completed: dict[tuple[str, bytes, str], int | None] = field(default_factory=dict)
    unpriced: list[tuple[int, Usage]] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)
    before: dict[str, Account] = field(default_factory=dict)
    """Accounts as they were before the command in hand, to undo it."""
    put_before: dict[bytes, tuple[Pipeline | None, Pipeline | None]] = field(default_factory=dict)
    """Pipelines likewise, as they stood in the state and in `touched`."""

    def put(self, pipeline: Pipeline) -> Pipeline:
        """Keep a pipeline's new state and mark it to be written."""
        key, pipelines, touched = pipeline.key, self.state.pipelines, self.touched
        if key not in self.put_before:
            self.put_before[key] = (pipelines.get(key), touched.get(key))
        pipelines[key] = touched[key] = pipeline
        return pipeline

    def undo(self, written: int) -> None:
        """Leave no trace of the command in hand; there were `written` entries before it."""
        del self.entries[written:]
        self.state.accounts.update(self.before)
        for key, (stood, touched) in self.put_before.items():
            _put_back(self.state.pipelines, key, stood)
            _put_back(self.touched, key, touched)

    def plan(self, subject: str, **changes: Any) -> Plan:
        """Change an account's plan and mark it to be written."""
        return self.put_plan(subject, replace(self.state.accounts[subject].plan, **changes))

    def put_plan(self, subject: str, plan: Plan) -> Plan:
        """Give an account this plan and mark it to be written."""
        old = self.state.accounts[subject]
        self.before.setdefault(subject, old)
        self.state.accounts[subject] = with_plan(old, plan)
        self.planned.add(subject)
        return plan


def _put_back(pipelines: dict[bytes, Pipeline], key: bytes, before: Pipeline | None) -> None:
    if before is None:
        del pipelines[key]
    else:
        pipelines[key] = before


def post(
    work: Work,
    subject: str,
    kind: Kind,
    *,
    amount: int = 0,
    held: int = 0,
    debt: int = 0,
    grants: Sequence[Delta] = (),
    known: Iterable[Grant] = (),
    terms: GrantTerms | None = None,
    hold_id: bytes | None = None,
    user: str | None = None,
    org: str | None = None,
    price_version: int | None = None,
    usage: Usage | None = None,
    reason: str | None = None,
    tier: str | None = None,
) -> Entry:
    """Write one entry: move the balance by `amount`, held and debt by their deltas (micro).

    `grants` says which grants that moves; `known` has the terms of those that may have dropped
    out. Raises LedgerFault when the account would break an invariant; nothing is kept then.
    """
    old = work.state.accounts[subject]
    work.before.setdefault(subject, old)
    at = max(old.last_at, work.now)
    after = moved(with_grants(old.grants, known) if known else old.grants, grants)
    granted = old.granted + amount if kind in _GRANTED else old.granted
    values = old.balance + amount, old.held + held, old.debt + debt
    alert, plan = alerts.after(work.state.rules, old, kind, values[0] - values[1])
    if plan is not old.plan:
        work.planned.add(subject)
    new = Account(subject, *values, old.sequence + 1, at, after, granted, plan)
    _check(new, amount, held, grants)
    entry = Entry(
        len(work.outcomes),
        subject,
        new.sequence,
        at,
        kind,
        amount,
        held,
        debt,
        *values,
        hold_id,
        user,
        org,
        price_version,
        usage,
        reason,
        tuple(grants),
        terms,
        tier,
        alert,
    )
    work.state.accounts[subject] = new
    work.entries.append(entry)
    return entry


def _check(a: Account, amount: int, held: int, grants: Sequence[Delta]) -> None:
    if a.balance < 0 or a.held < 0 or a.debt < 0 or a.held > a.balance:
        raise LedgerFault(f"balance {a.balance}, held {a.held}, debt {a.debt} cannot be")
    if sum([g[1] for g in grants]) != amount or sum([g[2] for g in grants]) != held:
        raise LedgerFault(f"grants moved by {list(grants)} for {amount} and {held} held")


def add_grant(
    work: Work, subject: str, kind: Kind, amount: int, terms: GrantTerms, reason: str | None
) -> int:
    """Write the entry that makes a grant; give the grant's number. Call `pay_debt` after it."""
    number = work.state.accounts[subject].sequence + 1
    new = Grant(number, 0, 0, terms.priority, terms.expires_at)
    post(
        work,
        subject,
        kind,
        amount=amount,
        grants=((number, amount, 0),),
        known=(new,),
        terms=terms,
        reason=reason,
    )
    return number


def spend(account: Account, amount: int) -> tuple[Delta, ...]:
    """Give the deltas that take `amount` out of what is free, in burn order."""
    return tuple((number, -part, 0) for number, part in burn(account, amount))


def take(pins: Pins, amount: int) -> tuple[Pins, Pins]:
    """Split `amount` off from pinned parts, first ones first: (taken, left)."""
    taken, left = [], []
    for number, part in pins:
        now = min(part, amount)
        amount -= now
        if now:
            taken.append((number, now))
        if part > now:
            left.append((number, part - now))
    return tuple(taken), tuple(left)


def joined(settled: Pins, free: Iterable[tuple[int, int]]) -> tuple[Delta, ...]:
    """Give the deltas of a charge: `settled` out of what was pinned, `free` out of the rest."""
    if not free:
        return tuple([(number, -part, -part) for number, part in settled])
    if not settled:
        return tuple([(number, -part, 0) for number, part in free])
    deltas = {number: (-part, -part) for number, part in settled}
    for number, part in free:
        amount, held = deltas.get(number, (0, 0))
        deltas[number] = (amount - part, held)
    return tuple((number, amount, held) for number, (amount, held) in deltas.items())


def pay_debt(work: Work, subject: str) -> None:
    """Let debt take what has become available (rule 10); call it after every rise."""
    account = work.state.accounts[subject]
    paid = min(account.debt, account.available)
    if paid > 0:
        grants = spend(account, paid)
        post(work, subject, "debt", amount=-paid, debt=-paid, grants=grants, reason="debt_paid")
