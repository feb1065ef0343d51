"""Short words for the examples: give, use, owe; and what entries and answers say."""

from typing import Any

from tests.unit.core.model_parts import Answer
from tests.unit.core.twin import DEFAULT_BOOK, MICRO, Twin

from faregate.ledger.core import Entry


def micro(credits_: float) -> int:
    return round(credits_ * MICRO)


def give(twin: Twin, subject: str, amount: float, **terms: Any) -> None:
    assert twin.do(twin.make.grant(subject, micro(amount), **terms)).result == "granted"


def use(twin: Twin, usage_id: str, units: int = 1, **fields: Any) -> Answer:
    return twin.do(twin.make.usage(usage_id, twin.now, units=units, **fields))


def owe(twin: Twin, subject: str, amount: int) -> None:
    """Let usage that nobody reserved for leave the (empty) account in debt."""
    kind, _, name = subject.partition(":")
    whose = {"org": name, "user": "cat"} if kind == "org" else {"user": name}
    use(twin, f"debt-of-{subject}", amount, pipeline_id=None, **whose)
    assert twin.figures(subject) == (0, 0, amount)


def kinds(entries: list[Entry]) -> list[tuple[str, str, float, float, float]]:
    return [
        (e.subject, e.kind, e.amount / MICRO, e.held_delta / MICRO, e.debt_delta / MICRO)
        for e in entries
    ]


def amounts(entries: list[Entry]) -> list[tuple[str, float]]:
    return [(e.kind, e.amount / MICRO) for e in entries]


def reason(answer: Answer) -> object:
    return answer.facts.get("reason") or answer.facts.get("code")


def priced(price: float, phase: str = "cj_assessment") -> dict[str, Any]:
    return {**DEFAULT_BOOK, "phases": {phase: {"per": "item", "credits": price}}}


def left(twin: Twin, subject: str) -> dict[int, float]:
    """What is left of each grant, by its number, in burn order."""
    return {g.number: g.remaining / MICRO for g in twin.account(subject).grants}
