"""The price book: what a phase costs, in which version, from when on.

A phase costs so much per item, per pair of items (n(n-1)/2) or flat (contract: Prices). An
explicit zero is a price; a phase that is not in the book has none, and that is never zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from faregate.events.amounts import parse_credits

Per = Literal["item", "pair", "flat"]


class InvalidBook(ValueError):
    """A price book that cannot be applied; the message says what to change."""


@dataclass(frozen=True, slots=True)
class PhasePrice:
    """The price of one phase: `micro` micro-credits for each unit."""

    per: Per
    micro: int

    def units_for(self, items: int) -> int:
        """Give the units that a run over `items` items takes."""
        if self.per == "pair":
            return items * (items - 1) // 2
        return items if self.per == "item" else 1


@dataclass(frozen=True, slots=True)
class Book:
    """One version of the prices, in force from `effective_from` until a later one is."""

    version: int
    effective_from: datetime
    pipelines: Mapping[str, tuple[str, ...]]
    phases: Mapping[str, PhasePrice]

    def required(self, phases: Sequence[str], items: int) -> int | None:
        """Price a run of `phases` over `items` in micro-credits; None if a phase has no price."""
        total = 0
        for phase in phases:
            price = self.phases.get(phase)
            if price is None:
                return None
            total += price.micro * price.units_for(items)
        return total

    def cost(self, phase: str | None, units: int | None) -> int | None:
        """Price `units` of usage of `phase` in micro-credits; None if it has no price."""
        price = self.phases.get(phase) if phase is not None else None
        return None if price is None or units is None else price.micro * units


@dataclass(frozen=True, slots=True)
class Books:
    """All versions of the price book."""

    versions: Mapping[int, Book] = field(default_factory=dict)

    def in_force(self, at: datetime) -> Book | None:
        """Give the version in force at `at`: the latest start, then the highest number."""
        started = (b for b in self.versions.values() if b.effective_from <= at)
        return max(started, key=lambda b: (b.effective_from, b.version), default=None)

    def first_priced(
        self, phase: str | None, units: int | None, after: datetime, until: datetime
    ) -> Book | None:
        """Give the first version that started in (`after`, `until`] and prices `phase`."""
        later = [b for b in self.versions.values() if after < b.effective_from <= until]
        priced = (b for b in later if b.cost(phase, units) is not None)
        return min(priced, key=lambda b: (b.effective_from, b.version), default=None)


def parse_book(version: int, effective_from: datetime, document: Mapping[str, Any]) -> Book:
    """Check and read a book as it is written in a price file or stored.

    `document` is `{"pipelines": {name: [phase, ...]}, "phases": {name: {"per", "credits"}}}`.
    Raises InvalidBook with what to change.
    """
    unknown = set(document) - {"pipelines", "phases"}
    if unknown:
        raise InvalidBook(f"unknown section {sorted(unknown)}: a book has [pipelines] and [phases]")
    phases = {str(n): _phase(str(n), p) for n, p in _table(document, "phases").items()}
    pipelines = {str(n): _pipeline(str(n), p) for n, p in _table(document, "pipelines").items()}
    return Book(version, effective_from, pipelines, phases)


def _table(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = document.get(name, {})
    if not isinstance(table, Mapping):
        raise InvalidBook(f"[{name}] must be a table of names")
    return table


def _phase(name: str, raw: object) -> PhasePrice:
    if not isinstance(raw, Mapping) or set(raw) != {"per", "credits"}:
        raise InvalidBook(f'phase {name!r} needs exactly: per = "item|pair|flat", credits = N')
    if raw["per"] not in get_args(Per):
        raise InvalidBook(f"phase {name!r}: per must be one of item, pair, flat")
    try:
        return PhasePrice(raw["per"], parse_credits(raw["credits"], allow_zero=True))
    except ValueError as error:
        raise InvalidBook(f"phase {name!r}: credits: {error}") from error


def _pipeline(name: str, raw: object) -> tuple[str, ...]:
    good = isinstance(raw, list | tuple) and raw and all(isinstance(p, str) and p for p in raw)
    if not good or len(set(raw)) != len(raw):  # type: ignore[call-overload, arg-type]
        raise InvalidBook(f"pipeline {name!r} must be a list of different phase names")
    return tuple(raw)  # type: ignore[arg-type]
