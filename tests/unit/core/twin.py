"""The core and the model, side by side: each command goes to both, and they must agree."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from tests.unit.core import comparing
from tests.unit.core.making import DEFAULT_BOOK, MICRO, START, Commands, key
from tests.unit.core.model import Model
from tests.unit.core.model_parts import Answer, credits_of
from tests.unit.core.model_prices import PriceBook

from faregate.ledger.core import (
    Account,
    Allocate,
    Book,
    Books,
    ChargeUnpriced,
    CloseHold,
    Command,
    Decision,
    Entry,
    Grant,
    Outcome,
    Part,
    Pipeline,
    Refund,
    Rules,
    SetMember,
    State,
    Usage,
    decide,
    parse_book,
)
from faregate.ledger.core.accounts import EPOCH

__all__ = ["DEFAULT_BOOK", "MICRO", "START", "SUBJECTS", "Commands", "Twin", "key"]

SUBJECTS = ("org:acme", "org:beta", "user:ann", "user:bob", "user:cat")


@dataclass
class Totals:
    """What an account's entries add up to."""

    amount: int = 0
    held: int = 0
    debt: int = 0
    sequence: int = 0
    at: datetime = EPOCH


@dataclass
class Twin:
    """One ledger, kept twice. `submit` decides a batch in both and compares everything."""

    rules: Rules = field(default_factory=Rules)
    now: datetime = START
    make: Commands = field(default_factory=Commands)
    entries: list[Entry] = field(default_factory=list)
    kept: dict[int, Usage] = field(default_factory=dict)
    """Usage without a price yet, by the id of its outcome."""

    def __post_init__(self) -> None:
        accounts = {s: Account(s) for s in SUBJECTS}
        self.state = State(Books(), self.rules, accounts)
        self.model = Model(self.rules)
        self.outcomes: list[Outcome] = []
        self._totals: dict[str, Totals] = defaultdict(Totals)
        self._numbers: dict[bytes, int] = {}
        self._charges: dict[int, list[Entry]] = {}
        self._terms: dict[tuple[str, int], Grant] = {}
        self._effects: set[bytes] = set()
        self._charged: set[int] = set()

    # What changes from outside.

    def apply_prices(self, document: Mapping[str, Any], since: datetime | None = None) -> Book:
        version = len(self.state.books.versions) + 1
        book = parse_book(version, since or self.now, document)
        self.state.books = Books({**self.state.books.versions, version: book})
        self.model.money.books.append(PriceBook(version, since or self.now, document))
        return book

    def wait(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def account(self, subject: str) -> Account:
        return self.state.accounts[subject]

    def allocation(self, user: str, org: str = "acme") -> Account:
        return self.account(f"member:org:{org}/user:{user}")

    def run(self, pipeline_id: str) -> Pipeline | None:
        return self.state.pipelines.get(key("pipeline", pipeline_id))

    def figures(self, subject: str) -> tuple[float, float, float]:
        """Balance, held and debt in credits."""
        a = self.account(subject)
        return a.balance / MICRO, a.held / MICRO, a.debt / MICRO

    def due_sweeps(self, *, due_only: bool = True) -> list[CloseHold]:
        return [
            self.make.sweep(p.key, p.hold.id)
            for p in self.state.pipelines.values()
            if p.hold and (p.hold.is_due(self.now) or not due_only)
        ]

    def late_charges(self) -> list[ChargeUnpriced]:
        return [self.make.charge_late(n, u) for n, u in self.kept.items()]

    def charges(self) -> list[int]:
        """The outcomes that can be refunded."""
        return list(self._charges)

    def refund(self, charge: int | None = None) -> Refund:
        """Take back a charge (the last one), with its parts as they are in the ledger."""
        charge = self.charges()[-1] if charge is None else charge
        entries = self._charges[charge]
        parts = [
            Part(
                e.subject,
                e.amount,
                e.debt_delta,
                e.grants,
                tuple(self._terms[e.subject, n] for n, _, _ in e.grants),
            )
            for e in entries
        ]
        return replace(
            self.make.refund(charge, tuple(parts)), user=entries[0].user, org=entries[0].org
        )

    # One batch.

    def do(self, command: Command) -> Answer:
        """Submit one command that must not be a sweep in vain."""
        answer = self.submit(command)[0]
        assert answer is not None
        return answer

    def submit(self, *commands: Command) -> list[Answer | None]:
        self._make_members(commands)
        before = comparing.copy_of(self.state)
        decision = decide(self.state, commands, self.now)
        assert self.state == before, "the state that was given must not change"
        again = decide(self.state, commands, self.now)
        assert comparing.comparable(again) == comparing.comparable(decision), "same input, same"
        self._compare_with_singles(commands, decision)
        answers = self._compare_with_model(commands, decision)
        comparing.check_what_is_written(before, decision)
        self._take(decision)
        self._check_entries(decision)
        self._compare_accounts()
        self._compare_runs()
        return answers

    def _make_members(self, commands: Sequence[Command]) -> None:
        """As the shell does: who is named as a member has an account as such."""
        for c in commands:
            if isinstance(c, SetMember | Allocate) and (c.org, c.user) not in self.state.members:
                subject = f"member:{c.org}/{c.user}"
                self.state.members[c.org, c.user] = subject
                self.state.accounts[subject] = Account(subject)
                self.model.money.members.add((c.org, c.user))

    def _compare_with_singles(self, commands: Sequence[Command], batch: Decision) -> None:
        total = Decision(self.state, [], [], [], {}, {}, [], [], set())
        for i, command in enumerate(commands):
            one, n = decide(total.state, [command], self.now), len(total.outcomes)
            (result,) = one.results
            if isinstance(result, Outcome):
                result = replace(result, command=i)
            total = Decision(
                one.state,
                total.entries + [replace(e, outcome=e.outcome + n) for e in one.entries],
                total.outcomes + [replace(o, command=i) for o in one.outcomes],
                [*total.results, result],
                total.pipelines | one.pipelines,
                total.completed | one.completed,
                total.unpriced + [(k + n, u) for k, u in one.unpriced],
                total.charged + one.charged,
                set(),
            )
        message = "a batch is its commands one by one"
        assert comparing.comparable(total) == comparing.comparable(batch), message

    def _compare_with_model(
        self, commands: Sequence[Command], decision: Decision
    ) -> list[Answer | None]:
        answers: list[Answer | None] = []
        outcome = 0
        for command, result in zip(commands, decision.results, strict=True):
            expected = self.model.apply(self._for_model(command), self.now)
            written: list[Entry] = []
            if isinstance(result, Outcome):
                assert result is decision.outcomes[outcome]
                written = [e for e in decision.entries if e.outcome == outcome]
                outcome += 1
                comparing.check_names(command, result, decision.state)
            for entry in written:
                if entry.kind == "hold" and entry.hold_id not in self._numbers:
                    assert entry.hold_id is not None
                    self._numbers[entry.hold_id] = len(self._numbers)
            assert comparing.answer_of(result, self._numbers) == expected
            assert [comparing.move_of(e, self._numbers) for e in written] == self.model.moves
            answers.append(expected)
        assert outcome == len(decision.outcomes)
        assert all(e.outcome < outcome for e in decision.entries)
        return answers

    def _for_model(self, command: Command) -> Command:
        if not isinstance(command, CloseHold):
            return command
        number = self._numbers.get(command.hold_id, 10**6)
        return replace(command, hold_id=number.to_bytes(16, "big"))

    def _take(self, decision: Decision) -> None:
        """Keep what the shell would write."""
        self.state = decision.state
        for outcome in decision.outcomes:
            used = {outcome.identity.event_key, outcome.identity.usage_key} - {None}
            assert not used & self._effects, "one event, one outcome, for ever"
            self._effects |= {k for k in used if k is not None}
        first = len(self.outcomes)
        assert [n for n, _ in decision.unpriced] == [
            n for n, o in enumerate(decision.outcomes) if o.result == "unpriced"
        ]
        self.kept.update({first + n: u for n, u in decision.unpriced})
        late = [o for o in decision.outcomes if o.name == "charge_unpriced"]
        assert len(decision.charged) == len(late), "kept usage goes only when it is charged"
        for charged in decision.charged:
            assert charged not in self._charged
            self._charged.add(charged)
            del self.kept[charged]
        for e in decision.entries:
            if e.kind == "usage":
                self._charges.setdefault(first + e.outcome, []).append(e)
            if e.terms:
                made = Grant(e.sequence, 0, 0, e.terms.priority, e.terms.expires_at)
                self._terms[e.subject, e.sequence] = made
        self.outcomes += decision.outcomes
        self.entries += decision.entries

    def _check_entries(self, decision: Decision) -> None:
        for e in decision.entries:
            t = self._totals[e.subject]
            assert e.sequence == t.sequence + 1, "sequences have no gap"
            assert e.at >= t.at, "time of an account never goes back"
            t.amount, t.held, t.debt = (
                t.amount + e.amount,
                t.held + e.held_delta,
                t.debt + e.debt_delta,
            )
            t.sequence, t.at = e.sequence, e.at
            assert (e.balance, e.held, e.debt) == (t.amount, t.held, t.debt)
            assert 0 <= e.held <= e.balance
            assert e.debt >= 0
            assert sum(amount for _, amount, _ in e.grants) == e.amount
            assert sum(held for _, _, held in e.grants) == e.held_delta
            if e.subject.startswith("member:"):
                assert (e.debt, e.alert) == (0, None)

    def _compare_accounts(self) -> None:
        pins: dict[tuple[str, int], int] = defaultdict(int)
        for p in self.state.pipelines.values():
            h = p.hold
            for subject, pinned in [(h.payer, h.pins), (h.member, h.member_pins)] if h else []:
                for number, part in pinned:
                    assert part > 0
                    pins[str(subject), number] += part
        money = self.model.money
        for subject, account in self.state.accounts.items():
            t, purse = self._totals[subject], money.purse(subject)
            assert (account.balance, account.held, account.debt) == (t.amount, t.held, t.debt)
            assert account.sequence == t.sequence == purse.written
            assert account.available >= 0
            assert not (account.debt and account.available), "no debt beside free credits"
            assert account.balance == sum(g.remaining for g in account.grants)
            for g in account.grants:
                assert g.held == pins[subject, g.number], "held is what open holds have pinned"
            assert account.held == sum(g.held for g in account.grants)
            assert comparing.same_grants(account, money.in_order(subject))
            assert credits_of(account.balance) == purse.balance()
            assert credits_of(account.held) == money.held(subject)
            assert credits_of(account.debt) == purse.debt
            assert credits_of(account.granted) == money.came_in(subject)
            assert account.plan == comparing.plan_of(purse)

    def _compare_runs(self) -> None:
        runs = self.model.runs
        assert self.state.pipelines.keys() == runs.runs.keys()
        for name, run in runs.runs.items():
            p = self.state.pipelines[name]
            assert (p.user, p.org, p.items) == (run.user, run.org, run.items)
            assert (list(p.phases), list(p.pruned)) == (run.phases, run.pruned)
            assert (p.hold is None) == (run.hold is None)
            if p.hold and run.hold:
                h, m = p.hold, run.hold
                assert self._numbers[h.id] == m.number
                assert (h.payer, h.member, h.state) == (m.payer, m.member, m.state)
                assert h.expires_at == m.until
                assert (credits_of(h.amount), credits_of(h.remaining)) == (
                    m.amount,
                    m.left(m.payer),
                )
                assert h.remaining == sum(part for _, part in h.pins)
                assert h.member is None or h.remaining == sum(part for _, part in h.member_pins)
                assert (h.usage_settled, h.usage_expected) == (m.settled, m.expected)
                assert h.price_version == m.version
        done = {
            (o, b, p): n for (o, b), ps in self.state.completions.items() for p, n in ps.items()
        }
        assert done == {(o, b, p): runs.covered(o, b, p) for o, b, p, _ in runs.done}
