"""The core and the model, side by side: each command goes to both, and they must agree."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

from tests.unit.core.model import Answer, Model, Move, PriceBook, credits_of

from faregate.ledger.core import (
    Account,
    Book,
    Books,
    ChargeUnpriced,
    CloseHold,
    Command,
    Decision,
    Entry,
    Finished,
    Grant,
    Identity,
    Outcome,
    PhaseCompleted,
    Pipeline,
    Rejected,
    Request,
    Rules,
    Seen,
    SetBalance,
    State,
    Usage,
    decide,
    parse_book,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
MICRO = 1_000_000
DEFAULT_BOOK: Mapping[str, Any] = {
    "pipelines": {"nlp": ["spellcheck", "nlp"], "cj_assessment": ["spellcheck", "cj_assessment"]},
    "phases": {
        "spellcheck": {"per": "item", "credits": 0},
        "nlp": {"per": "item", "credits": 0},
        "cj_assessment": {"per": "pair", "credits": 1},
    },
}
SUBJECTS = ("org:acme", "org:beta", "user:ann", "user:bob", "user:cat")


def key(kind: str, *parts: object) -> bytes:
    return sha256(repr((kind, *parts)).encode()).digest()[:16]


class Commands:
    """Makes commands from readable names; each gets an event id of its own unless told one."""

    def __init__(self) -> None:
        self._made = 0

    def _identity(self, event: str | None, content: object, usage: str | None = None) -> Identity:
        self._made += 1
        event_key = key("event", event or f"event-{self._made}")
        return Identity(event_key, key("content", content), key("usage", usage) if usage else None)

    def request(
        self,
        pipeline_id: str = "p1",
        *,
        pipeline: str = "cj_assessment",
        items: int = 10,
        user: str = "ann",
        org: str | None = None,
        batch: str = "b1",
        phases: tuple[str, ...] | None = None,
        expires_at: datetime | None = None,
        event: str | None = None,
    ) -> Request:
        content = ("request", pipeline_id, pipeline, items, user, org, batch, phases, expires_at)
        return Request(
            self._identity(event, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            pipeline,
            key("batch", batch),
            items,
            phases,
            expires_at,
        )

    def usage(
        self,
        usage_id: str,
        occurred_at: datetime,
        *,
        pipeline_id: str | None = "p1",
        phase: str | None = "cj_assessment",
        units: int | None = 1,
        user: str = "ann",
        org: str | None = None,
        byok: bool = False,
        model: str | None = None,
        event: str | None = None,
    ) -> Usage:
        content = (
            "usage",
            usage_id,
            occurred_at,
            pipeline_id,
            phase,
            units,
            user,
            org,
            byok,
            model,
        )
        return Usage(
            self._identity(event, content, usage_id),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id) if pipeline_id else None,
            occurred_at,
            byok,
            None if model else phase,
            None if model else units,
            model=model,
            input_tokens=1 if model else None,
            output_tokens=1 if model else None,
        )

    def completed(
        self,
        phase: str = "spellcheck",
        *,
        pipeline_id: str = "p1",
        batch: str = "b1",
        user: str = "ann",
        org: str | None = None,
        items: int | None = None,
    ) -> PhaseCompleted:
        content = ("completed", phase, pipeline_id, batch, user, org, items)
        return PhaseCompleted(
            self._identity(None, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            key("batch", batch),
            phase,
            items,
        )

    def finished(
        self,
        pipeline_id: str = "p1",
        *,
        usage_events: int | None = None,
        user: str = "ann",
        org: str | None = None,
        status: str = "succeeded",
    ) -> Finished:
        content = ("finished", pipeline_id, usage_events, user, org, status)
        return Finished(
            self._identity(None, content),
            f"user:{user}",
            org and f"org:{org}",
            key("pipeline", pipeline_id),
            status,
            usage_events,
        )

    def set_balance(self, subject: str, target: int) -> SetBalance:
        """`target` is in credits."""
        return SetBalance(self._identity(None, ("set", subject, target)), subject, target * MICRO)

    def grant(
        self, subject: str, micro: int, kind: Literal["purchase", "bonus"] = "purchase"
    ) -> Grant:
        return Grant(self._identity(None, ("grant", subject, micro)), subject, kind, micro)

    def sweep(self, pipeline_key: bytes, hold_id: bytes) -> CloseHold:
        own = key("event", "close", hold_id)
        return CloseHold(Identity(own, own), pipeline_key, hold_id)

    def charge_late(self, unpriced_id: int, usage: Usage) -> ChargeUnpriced:
        own = key("event", "charge", unpriced_id)
        return ChargeUnpriced(
            Identity(own, own), unpriced_id, replace(usage, identity=Identity(own, own))
        )


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
        self.model = Model(provisioning=self.rules.provisioning)
        self._totals: dict[str, Totals] = defaultdict(Totals)
        self._numbers: dict[bytes, int] = {}
        self._outcomes: list[Outcome] = []
        self._effects: set[bytes] = set()
        self._charged: set[int] = set()

    # What changes from outside.

    def apply_prices(self, document: Mapping[str, Any], since: datetime | None = None) -> Book:
        version = len(self.state.books.versions) + 1
        book = parse_book(version, since or self.now, document)
        self.state.books = Books({**self.state.books.versions, version: book})
        self.model.books.append(PriceBook(version, since or self.now, document))
        return book

    def wait(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def account(self, subject: str) -> Account:
        return self.state.accounts[subject]

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

    # One batch.

    def do(self, command: Command) -> Answer:
        """Submit one command that must not be a sweep in vain."""
        answer = self.submit(command)[0]
        assert answer is not None
        return answer

    def submit(self, *commands: Command) -> list[Answer | None]:
        before = _copy(self.state)
        decision = decide(self.state, commands, self.now)
        assert self.state == before, "the state that was given must not change"
        again = decide(self.state, commands, self.now)
        assert _comparable(again) == _comparable(decision), "same input, same decision"
        self._compare_with_singles(commands, decision)
        answers = self._compare_with_model(commands, decision)
        _check_what_is_written(before, decision)
        self._take(decision)
        self._check_entries(decision)
        self._compare_accounts()
        return answers

    def _compare_with_singles(self, commands: Sequence[Command], batch: Decision) -> None:
        total = Decision(self.state, [], [], [], {}, {}, [], [])
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
            )
        assert _comparable(total) == _comparable(batch), "a batch is its commands one by one"

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
            for entry in written:
                if entry.kind == "hold" and entry.hold_id is not None:
                    assert entry.hold_id not in self._numbers
                    self._numbers[entry.hold_id] = len(self._numbers)
            assert self._answer(result) == expected
            assert [self._move(e) for e in written] == self.model.moves
            answers.append(expected)
        assert outcome == len(decision.outcomes)
        assert all(e.outcome < outcome for e in decision.entries)
        return answers

    def _for_model(self, command: Command) -> Command:
        if not isinstance(command, CloseHold):
            return command
        number = self._numbers.get(command.hold_id, 10**6)
        return replace(command, hold_id=number.to_bytes(16, "big"))

    def _move(self, e: Entry) -> Move:
        return Move(
            e.subject,
            e.kind,
            credits_of(e.amount),
            credits_of(e.held_delta),
            credits_of(e.debt_delta),
            None if e.hold_id is None else self._numbers[e.hold_id],
            e.price_version,
            e.user,
            e.org,
        )

    def _answer(self, result: Outcome | Seen | Rejected | None) -> Answer | None:
        match result:
            case None:
                return None
            case Seen():
                return Answer("duplicate", {"of": result.result})
            case Rejected():
                return Answer("rejected", {"code": result.code})
        return Answer(result.result, self._facts(result.result, result.body or {}))

    def _facts(self, result: str, body: Mapping[str, Any]) -> dict[str, Any]:
        facts = dict(body)
        for name in ("pipeline", "items") if result in {"initiated", "denied"} else ():
            facts.pop(name)
        for name in ("reserved", "required", "available", "released", "balance", "held", "debt"):
            if name in facts:
                facts[name] = credits_of(facts[name])
        if "considered" in facts:
            facts["considered"] = [
                (c["payer"], credits_of(c["available"])) for c in facts["considered"]
            ]
        if "hold_id" in facts:
            hold, until = facts.pop("hold_id"), facts["hold_expires_at"]
            facts["hold"] = None if hold is None else self._numbers[UUID(hold).bytes]
            facts["hold_expires_at"] = None if until is None else datetime.fromisoformat(until)
        return facts

    def _take(self, decision: Decision) -> None:
        """Keep what the shell would write."""
        self.state = decision.state
        for outcome in decision.outcomes:
            used = {outcome.identity.event_key, outcome.identity.usage_key} - {None}
            assert not used & self._effects, "one event, one outcome, for ever"
            self._effects |= {k for k in used if k is not None}
        first = len(self._outcomes)
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
        self._outcomes += decision.outcomes
        self.entries += decision.entries

    def _check_entries(self, decision: Decision) -> None:
        named = {(e.outcome, e.kind, e.subject) for e in decision.entries}
        assert len(named) == len(decision.entries), "announcements get their ids from these three"
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

    def _compare_accounts(self) -> None:
        left: dict[str, int] = defaultdict(int)
        for p in self.state.pipelines.values():
            if p.hold:
                left[p.hold.payer] += p.hold.remaining
                assert 0 <= p.hold.remaining <= p.hold.amount
                assert p.hold.state != "closed" or p.hold.remaining == 0
        for subject, account in self.state.accounts.items():
            t, m = self._totals[subject], self.model
            assert (account.balance, account.held, account.debt) == (t.amount, t.held, t.debt)
            assert account.sequence == t.sequence
            assert account.held == left[subject], "held is what is left of the holds"
            assert account.available >= 0
            assert not (account.debt and account.available), "no debt beside free credits"
            assert credits_of(account.balance) == m.balance.get(subject, 0)
            assert credits_of(account.held) == m.held(subject)
            assert credits_of(account.debt) == m.owed(subject)
        self._compare_runs()

    def _compare_runs(self) -> None:
        assert self.state.pipelines.keys() == self.model.runs.keys()
        for name, run in self.model.runs.items():
            p = self.state.pipelines[name]
            assert (p.user, p.org, p.items) == (run.user, run.org, run.items)
            assert (list(p.phases), list(p.pruned)) == (run.phases, run.pruned)
            assert (p.hold is None) == (run.hold is None)
            if p.hold and run.hold:
                h, m = p.hold, run.hold
                assert self._numbers[h.id] == m.number
                assert (h.payer, h.state, h.expires_at) == (m.payer, m.state, m.until)
                assert (credits_of(h.amount), credits_of(h.remaining)) == (m.amount, m.left)
                assert (h.usage_settled, h.usage_expected) == (m.settled, m.expected)
                assert h.price_version == m.version
        done = {
            (o, b, p): n for (o, b), ps in self.state.completions.items() for p, n in ps.items()
        }
        assert done == {(o, b, p): self.model.covered(o, b, p) for o, b, p, _ in self.model.done}


def _copy(state: State) -> State:
    return replace(
        state,
        accounts=dict(state.accounts),
        pipelines=dict(state.pipelines),
        completions={k: dict(v) for k, v in state.completions.items()},
        seen=dict(state.seen),
    )


def _check_what_is_written(before: State, decision: Decision) -> None:
    """The shell writes only what the decision lists: that must be all that has changed."""
    after = decision.state
    assert before.pipelines | decision.pipelines == after.pipelines
    completions = {k: dict(v) for k, v in before.completions.items()}
    for (owner, batch, phase), items in decision.completed.items():
        completions.setdefault((owner, batch), {})[phase] = items
    assert completions == after.completions
    moved = {e.subject for e in decision.entries}
    assert {s for s, a in after.accounts.items() if a != before.accounts[s]} == moved
    new_keys = {o.identity.event_key for o in decision.outcomes}
    for name, p in decision.pipelines.items():
        if p.cause not in new_keys:  # then only its hold is updated
            assert replace(p, hold=None) == replace(before.pipelines[name], hold=None)


def _comparable(decision: Decision) -> tuple[object, ...]:
    """Exceptions compare by identity, so refusals are compared by what they say."""
    results = [(r.code, r.message) if isinstance(r, Rejected) else r for r in decision.results]
    return (results, replace(decision, results=[]))
