"""The one place that changes an account: every change is an entry.

Invariants, checked on each entry (rules 5 and 10): balance, held and debt are never negative, held
never exceeds balance. After each command there is no debt while anything is available: `pay_debt`
follows every rise, and the table checks it once more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from faregate.ledger.core.model import (
    Account,
    Entry,
    Kind,
    LedgerFault,
    Outcome,
    Pipeline,
    Seen,
    State,
    Usage,
)


@dataclass(slots=True)
class Work:
    """A batch being decided: the state so far, and what it has written."""

    state: State
    now: datetime
    entries: list[Entry] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    results: list[Outcome | Seen | Exception] = field(default_factory=list)
    touched: dict[bytes, Pipeline] = field(default_factory=dict)
    completed: dict[tuple[str, bytes, str], int | None] = field(default_factory=dict)
    unpriced: list[tuple[int, Usage]] = field(default_factory=list)
    charged: list[int] = field(default_factory=list)

    def put(self, pipeline: Pipeline) -> Pipeline:
        """Keep a pipeline's new state and mark it to be written."""
        self.state.pipelines[pipeline.key] = self.touched[pipeline.key] = pipeline
        return pipeline


def post(
    work: Work,
    subject: str,
    kind: Kind,
    *,
    amount: int = 0,
    held: int = 0,
    debt: int = 0,
    tier: str | None = None,
    hold_id: bytes | None = None,
    user: str | None = None,
    org: str | None = None,
    price_version: int | None = None,
    usage: Usage | None = None,
    reason: str | None = None,
) -> Entry:
    """Write one entry: move the balance by `amount`, held and debt by their deltas (micro).

    Raises LedgerFault when the account would break an invariant; nothing is kept then.
    """
    old = work.state.accounts[subject]
    at = max(old.last_at, work.now)
    new = Account(
        subject,
        old.balance + amount,
        old.held + held,
        old.debt + debt,
        old.sequence + 1,
        at,
        tier or old.tier,
    )
    _check(new)
    entry = Entry(
        len(work.outcomes),
        subject,
        new.sequence,
        at,
        kind,
        amount,
        held,
        debt,
        new.balance,
        new.held,
        new.debt,
        hold_id,
        user,
        org,
        price_version,
        usage,
        reason,
    )
    work.state.accounts[subject] = new
    work.entries.append(entry)
    return entry


def _check(a: Account) -> None:
    if a.balance < 0 or a.held < 0 or a.debt < 0 or a.held > a.balance:
        raise LedgerFault(f"balance {a.balance}, held {a.held}, debt {a.debt} cannot be")


def pay_debt(work: Work, subject: str) -> None:
    """Let debt take what has become available (rule 10); call it after every rise."""
    account = work.state.accounts[subject]
    paid = min(account.debt, account.available)
    if paid > 0:
        post(work, subject, "debt", amount=-paid, debt=-paid, reason="debt_paid")


def welcome(work: Work, subject: str) -> None:
    """Provision a user that is seen for the first time (contract: Provisioning, lazy layer)."""
    rules = work.state.rules
    if rules.provisioning != "auto" or not rules.welcome_micro:
        return
    if subject.startswith("user:") and work.state.accounts[subject].sequence == 0:
        amount = rules.welcome_micro
        post(work, subject, "purchase", amount=amount, tier="trial", reason="welcome")
