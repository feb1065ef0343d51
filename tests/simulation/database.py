"""What stands for PostgreSQL: tables, row locks on accounts, and transactions that are all or
nothing. It does with a decision what the shell's SQL does, and nothing of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.simulation.books import Price, make_book

from faregate.ledger.batch import Needs
from faregate.ledger.core import (
    Account,
    Books,
    Command,
    Decision,
    Entry,
    Outcome,
    Pipeline,
    Rules,
    Seen,
    State,
    Usage,
)
from faregate.ledger.core.renewal import due_at, gives

START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
TICK = timedelta(milliseconds=1)


class Conflict(Exception):
    """A unique constraint, or a payer that is not locked: take the batch again."""


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass(slots=True)
class Loaded:
    """What a transaction has read under its locks."""

    state: State
    now: datetime
    commands: Sequence[Command]
    causes: dict[bytes, bytes]
    """The request that each known pipeline was let in by."""
    prices: list[Price]


@dataclass(slots=True)
class Row:
    """One row of the outbox: what a transaction has to announce."""

    entries: list[Entry]
    outcomes: list[Outcome]


@dataclass(slots=True)
class Database:
    rules: Rules
    now: datetime = START
    books: Books = field(default_factory=Books)
    prices: list[Price] = field(default_factory=list)
    accounts: dict[str, Account] = field(default_factory=dict)
    members: dict[tuple[str, str], str] = field(default_factory=dict)
    pipelines: dict[bytes, Pipeline] = field(default_factory=dict)
    completions: dict[tuple[str, bytes], dict[str, int | None]] = field(default_factory=dict)
    seen: dict[bytes, Seen] = field(default_factory=dict)
    unpriced: dict[int, Usage] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    charges: list[tuple[int, Outcome, list[Entry]]] = field(default_factory=list)
    counted: list[tuple[str, datetime, int]] = field(default_factory=list)
    due: dict[str, datetime] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    outbox: dict[int, Row] = field(default_factory=dict)
    locks: dict[str, object] = field(default_factory=dict)
    outcomes: int = 0
    transactions: int = 0

    # Locks.

    def ensure(self, needs: Needs) -> None:
        """An account needs its row before it can be locked."""
        for org, user in needs.members:
            if (org, user) not in self.members:
                subject = f"member:{org[4:]}/{user[5:]}"
                self.members[org, user] = subject
                self.accounts[subject] = Account(subject)
        for subject in needs.subjects:
            if subject not in self.accounts:
                self.accounts[subject] = Account(subject)

    def wanted(self, needs: Needs) -> set[str]:
        """Those named, payers of the pipelines' holds, and members of the orgs."""
        subjects = set(needs.subjects)
        for key in needs.pipelines:
            pipeline = self.pipelines.get(key)
            if pipeline and pipeline.hold:
                subjects.add(pipeline.hold.payer)
                if pipeline.hold.member:
                    subjects.add(pipeline.hold.member)
        for pair in needs.pairs:
            if pair in self.members:
                subjects.add(self.members[pair])
        return subjects

    def lock(self, owner: object, needs: Needs) -> set[str] | None:
        """Lock all accounts of a batch; None while another transaction has one of them."""
        wanted, locks = self.wanted(needs), self.locks
        if locks and not wanted.isdisjoint(locks):
            return None
        for subject in wanted:
            locks[subject] = owner
        return wanted

    def unlock(self, owner: object) -> None:
        """A transaction has ended, one way or the other."""
        if self.locks:
            self.locks = {s: o for s, o in self.locks.items() if o is not owner}

    # Read.

    def load(self, locked: set[str], needs: Needs, commands: Sequence[Command]) -> Loaded:
        self.now += TICK
        state = State(self.books, self.rules)
        for subject in locked:
            state.accounts[subject] = self.accounts[subject]
        for key in (*needs.events, *needs.usages):
            seen = self.seen.get(key)
            if seen is not None:
                state.seen[key] = seen
        for pair in needs.pairs:
            if pair in self.members:
                state.members[pair] = self.members[pair]
        causes = {}
        for key in needs.pipelines:
            pipeline = self.pipelines.get(key)
            if pipeline is not None:
                hold = pipeline.hold
                if hold and not {hold.payer, hold.member or hold.payer} <= locked:
                    raise Conflict
                state.pipelines[key] = pipeline
                causes[key] = pipeline.cause
        for batch in needs.batches:
            done = self.completions.get(batch)
            if done is not None:
                state.completions[batch] = dict(done)
        return Loaded(state, self.now, commands, causes, self.prices)

    # Write.

    def check_unique(self, loaded: Loaded, decision: Decision) -> None:
        """The constraints that two transactions without a common account can meet on."""
        for outcome in decision.outcomes:
            if outcome.identity.event_key in self.seen or outcome.identity.usage_key in self.seen:
                raise Conflict
        new = {o.identity.event_key for o in decision.outcomes}
        for key, pipeline in decision.pipelines.items():
            if pipeline.cause in new:
                now = self.pipelines.get(key)
                if (now.cause if now else None) != loaded.causes.get(key):
                    raise Conflict

    def put_offset(self, partition: int, position: int) -> None:
        self.offsets[partition] = max(position, self.offsets.get(partition, 0))

    def put_accounts(self, decision: Decision) -> None:
        accounts = decision.state.accounts
        for subject in {e.subject for e in decision.entries} | decision.planned:
            account = accounts[subject]
            self.accounts[subject] = account
            due = due_at(account, renewing=self._renews(account))
            if due is None:
                self.due.pop(subject, None)
            else:
                self.due[subject] = due

    def _renews(self, account: Account) -> bool:
        plan = account.plan
        if plan.period_start is None:
            return False
        book = self.books.in_force(self.now)
        tier = book.tiers.get(plan.next_tier or plan.tier) if book else None
        return plan.next_tier is not None or (tier is not None and gives(tier))

    def put_outcomes(self, loaded: Loaded, decision: Decision) -> None:
        first = self.outcomes
        self.outcomes += len(decision.outcomes)
        for n, outcome in enumerate(decision.outcomes):
            identity = outcome.identity
            seen = Seen(identity.fingerprint, first + n, outcome.result)
            self.seen[identity.event_key] = seen
            if identity.usage_key is not None:
                self.seen[identity.usage_key] = seen
            if outcome.calls and outcome.user:
                self.counted.append((outcome.user, loaded.now, outcome.calls))
            if outcome.result == "charged":
                parts = [e for e in decision.entries if e.outcome == n and e.kind == "usage"]
                self.charges.append((first + n, outcome, parts))
        for charged in decision.charged:
            del self.unpriced[charged]
        for n, usage in decision.unpriced:
            self.unpriced[first + n] = usage

    def put_pipelines(self, decision: Decision) -> None:
        """New ones whole, of known ones the hold, or that what held nothing is settled."""
        new = {o.identity.event_key for o in decision.outcomes}
        for key, pipeline in decision.pipelines.items():
            if pipeline.cause in new or pipeline.hold or pipeline.settled:
                self.pipelines[key] = pipeline

    def put_outbox(self, decision: Decision) -> None:
        self.transactions += 1
        self.outbox[self.transactions] = Row(decision.entries, decision.outcomes)

    def commit(self, loaded: Loaded, decision: Decision) -> None:
        """Write a decision, all of it. Raises Conflict, and then nothing is written."""
        if not decision.outcomes:
            return
        self.check_unique(loaded, decision)
        self.put_accounts(decision)
        self.entries += decision.entries
        self.put_outcomes(loaded, decision)
        self.put_pipelines(decision)
        for (payer, batch, phase), items in decision.completed.items():
            self.completions.setdefault((payer, batch), {})[phase] = items
        self.put_outbox(decision)

    # What changes without the core.

    def apply_prices(self, document: int, increment: int, since: datetime) -> None:
        version = len(self.prices) + 1
        book = make_book(version, since, document, increment)
        self.books = Books({**self.books.versions, version: book})
        self.prices = [*self.prices, Price(version, since, document, increment)]
