"""A program that follows the ledger's announcements and keeps its own balances by them."""

from typing import Any, NamedTuple

from tests.simulation.database import Broken, Row

from faregate.ledger.core import Entry


class Fact(NamedTuple):
    """What is announced of an entry or an outcome; its id is derived from their rows."""

    id: tuple[Any, ...]
    entry: Entry | None
    answer: tuple[bytes, str] | None


class Downstream:
    def __init__(self) -> None:
        self.facts: set[tuple[Any, ...]] = set()
        self.sequences: dict[str, int] = {}
        self.balances: dict[str, tuple[int, int, int]] = {}
        self.answers: dict[bytes, str] = {}
        """Whether each request was initiated or denied."""

    def records_of(self, number: int, row: Row) -> list[Fact]:
        """What one row of the outbox announces."""
        counts: dict[tuple[int, str, str], int] = {}
        facts = []
        for entry in row.entries:
            what = (entry.outcome, entry.kind, entry.subject)
            counts[what] = n = counts.get(what, 0) + 1
            cause = row.outcomes[entry.outcome].identity.event_key
            facts.append(Fact((cause, entry.kind, entry.subject, n), entry, None))
        for outcome in row.outcomes:
            if outcome.name == "request":
                cause = outcome.identity.event_key
                facts.append(Fact((cause, "answer"), None, (cause, outcome.result)))
        return facts

    def receive(self, fact: Fact) -> None:
        """Take an announcement; one that was there before changes nothing."""
        if fact.id in self.facts:
            return
        self.facts.add(fact.id)
        if fact.answer is not None:
            cause, result = fact.answer
            if cause in self.answers:
                raise Broken("a request was answered twice")
            self.answers[cause] = result
        entry = fact.entry
        if entry is None:
            return
        before = self.sequences.get(entry.subject, 0)
        if entry.sequence != before + 1:
            raise Broken(
                f"{entry.subject}: entry {entry.sequence} was announced after entry {before}"
            )
        self.sequences[entry.subject] = entry.sequence
        balance, held, debt = self.balances.get(entry.subject, (0, 0, 0))
        now = (balance + entry.amount, held + entry.held_delta, debt + entry.debt_delta)
        if now != (entry.balance, entry.held, entry.debt):
            raise Broken(f"{entry.subject}: what was announced does not add up to {now}")
        self.balances[entry.subject] = now
