"""The second ledger's money: lots, what is pinned of them, debt, expiry, periods, alerts."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any

from tests.unit.core.model_parts import (
    LIMIT,
    PERIOD,
    ZERO,
    Held,
    Lot,
    Move,
    Purse,
    Refused,
    Terms,
    credits_of,
)
from tests.unit.core.model_prices import Offer, PriceBook

from faregate.ledger.core import Rules

Parts = dict[int, Decimal]
"""Parts of lots, by their numbers."""
FOR_EVER = datetime.max.replace(tzinfo=UTC)
COMES_IN = {"purchase", "bonus", "adjustment", "refund"}


class Money:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now = datetime.min.replace(tzinfo=UTC)
        self.purses: dict[str, Purse] = {}
        self.holds: list[Held] = []
        self.books: list[PriceBook] = []
        self.members: set[tuple[str, str]] = set()
        self.moves: list[Move] = []
        """What the command in hand writes."""
        self.log: list[Move] = []

    def purse(self, subject: str) -> Purse:
        return self.purses.setdefault(subject, Purse())

    # What is asked about an account.

    def pinned(self, subject: str, lot: Lot) -> Decimal:
        return sum((h.pins.get(subject, {}).get(lot.number, ZERO) for h in self.holds), ZERO)

    def free(self, subject: str, lot: Lot) -> Decimal:
        return lot.left - self.pinned(subject, lot)

    def held(self, subject: str) -> Decimal:
        return sum((h.left(subject) for h in self.holds), ZERO)

    def available(self, subject: str) -> Decimal:
        return self.purse(subject).balance() - self.held(subject)

    def owed(self, subject: str) -> Decimal:
        return self.purse(subject).debt

    def came_in(self, subject: str) -> Decimal:
        """All that came in and neither expired nor was taken back."""
        kinds = {"purchase", "bonus", "adjustment", "expiry"}
        return sum((m.amount for m in self.log if m.subject == subject and m.kind in kinds), ZERO)

    def in_order(self, subject: str) -> list[Lot]:
        """Lower priority number first, then soonest expiry (none last), then oldest."""
        lots = self.purse(subject).lots
        return sorted(lots, key=lambda x: (x.priority, x.until or FOR_EVER, x.number))

    def choose(self, subject: str, amount: Decimal) -> Parts:
        """Say which lots pay `amount` out of what is free; there must be enough."""
        parts: Parts = {}
        for lot in self.in_order(subject):
            part = min(amount, self.free(subject, lot))
            if part > 0:
                parts[lot.number] = part
                amount -= part
        assert amount == 0
        return parts

    # Money moves here only.

    def move(
        self,
        subject: str,
        kind: str,
        lots: Mapping[int, Decimal] | None = None,
        pins: Mapping[int, Decimal] | None = None,
        *,
        debt: Decimal = ZERO,
        hold: Held | None = None,
        new: Terms | None = None,
        **said: Any,
    ) -> Move:
        """Change lots and, in `hold`, what is pinned of them; `new` are the terms of a lot made."""
        purse, had = self.purse(subject), self.available(subject)
        lots, pins = lots or {}, pins or {}
        purse.written += 1
        if new is not None:
            purse.lots.append(Lot(purse.written, ZERO, new.priority, new.until))
        for number, amount in lots.items():
            purse.lot(number).left += amount
        if hold is not None and pins:
            mine = hold.pins.setdefault(subject, {})
            for number, amount in pins.items():
                mine[number] = mine.get(number, ZERO) + amount
        purse.debt += debt
        done = Move(
            subject,
            kind,
            sum(lots.values(), ZERO),
            sum(pins.values(), ZERO),
            debt,
            {n: (lots.get(n, ZERO), pins.get(n, ZERO)) for n in {*lots, *pins}},
            None if hold is None else hold.number,
            terms=new,
            raised=tuple(self._raised(subject, kind, had)),
            **said,
        )
        self.moves.append(done)
        self.log.append(done)
        return done

    def add(
        self, subject: str, kind: str, amount: Decimal, terms: Terms, reason: str | None
    ) -> int:
        number = self.purse(subject).written + 1
        self.move(subject, kind, {number: amount}, new=terms, reason=reason)
        return number

    def take(self, subject: str, kind: str, amount: Decimal, **said: Any) -> None:
        self.move(subject, kind, minus(self.choose(subject, amount)), **said)

    def pay_debt(self, subject: str) -> None:
        paid = min(self.owed(subject), self.available(subject))
        if paid:
            self.take(subject, "debt", paid, debt=-paid, reason="debt_paid")

    def require_room(self, subject: str, amount: Decimal) -> None:
        if self.purse(subject).balance() + amount >= LIMIT:
            raise Refused("amount_out_of_range")

    def _raised(self, subject: str, kind: str, had: Decimal) -> list[str]:
        purse, has = self.purse(subject), self.available(subject)
        if subject.startswith("member:"):
            return []
        if kind in COMES_IN:
            purse.top, purse.raised = has, []
        if has >= had:
            return []
        low = self.threshold(purse)
        raised = []
        if low and has <= low < had and "low" not in purse.raised:
            raised.append(f"low:{int(low * 1_000_000)}")
            purse.raised = [*purse.raised, "low"]
        if has == 0 and "exhausted" not in purse.raised:
            raised.append("exhausted")
            purse.raised = [*purse.raised, "exhausted"]
        return raised

    def threshold(self, purse: Purse) -> Decimal:
        low = credits_of(self.rules.low_micro) if purse.low is None else purse.low
        percent = self.rules.low_percent if purse.percent is None else purse.percent
        return max(low, (purse.top * percent / 100).quantize(Decimal("1e-6"), ROUND_FLOOR))

    # Prices.

    def book_at(self, at: datetime) -> PriceBook | None:
        best = None
        for book in sorted(self.books, key=lambda b: b.version):
            if book.since <= at and (best is None or book.since >= best.since):
                best = book
        return best

    def book(self, version: int) -> PriceBook:
        return next(b for b in self.books if b.version == version)

    def offer(self, tier: str) -> Offer:
        book = self.book_at(self.now)
        return book.tiers().get(tier, Offer()) if book else Offer()

    # What time brings.

    def bring_up(self, *subjects: str | None) -> None:
        """Nothing is decided about an account before its time is up to date."""
        for subject in subjects:
            if subject is not None:
                self._renew(subject)
                self.expire(subject)

    def expire(self, subject: str) -> None:
        for lot in self.in_order(subject):
            if lot.over(self.now) and self.free(subject, lot):
                self.end(subject, lot, "expired")

    def end(self, subject: str, lot: Lot, reason: str) -> None:
        self.move(subject, "expiry", {lot.number: -self.free(subject, lot)}, reason=reason)

    def _renew(self, subject: str) -> None:
        purse = self.purse(subject)
        while purse.since is not None and self.now >= purse.since + PERIOD:
            tier, changed = purse.next_tier or purse.tier, purse.next_tier is not None
            renews = self.offer(tier).renews
            included = self.offer(tier).credits if renews or changed else ZERO
            reason = "renewal" if renews else "tier_change"
            self.begin_period(subject, tier, purse.since + PERIOD, included, reason)

    def begin_period(
        self, subject: str, tier: str, start: datetime, included: Decimal, reason: str
    ) -> None:
        purse = self.purse(subject)
        old = [x for x in purse.lots if x.number == purse.tier_lot]
        purse.tier, purse.next_tier, purse.tier_lot = tier, None, None
        purse.since, purse.calls = start, 0
        if included:
            terms = Terms(until=start + PERIOD, source=f"tier:{tier}")
            purse.tier_lot = self.add(subject, "purchase", included, terms, reason)
            going = {x.number: x for x in [*old, *(x for x in purse.lots if x.over(self.now))]}
            gone = sum((self.free(subject, x) for x in going.values()), ZERO)
            purse.top = self.available(subject) - gone
            self.pay_debt(subject)
        for lot in old:
            if self.free(subject, lot) and not lot.over(self.now):
                self.end(subject, lot, "tier_change")
        self.expire(subject)

    # Quotas.

    def call_limit(self, user: str) -> int | None:
        purse = self.purse(user)
        return self.offer(purse.tier).calls if purse.call_limit is None else purse.call_limit

    def has_calls(self, user: str) -> bool:
        limit = self.call_limit(user)
        return limit is None or self.purse(user).calls < limit

    def call(self, user: str) -> int:
        purse = self.purse(user)
        purse.since = purse.since or self.now
        purse.calls += 1
        return 1

    # To the last step back.

    def snapshot(self) -> tuple[Any, ...]:
        purses = {
            s: replace(p, lots=[replace(x) for x in p.lots], milestones=[*p.milestones])
            for s, p in self.purses.items()
        }
        return purses, len(self.log)

    def restore(self, snapshot: tuple[Any, ...]) -> None:
        self.purses, written = snapshot
        del self.log[written:]
        self.moves = []


def minus(parts: Mapping[int, Decimal]) -> Parts:
    return {number: -part for number, part in parts.items()}


def plus(*several: Iterable[tuple[int, Decimal]]) -> Parts:
    total: Parts = {}
    for parts in several:
        for number, part in parts:
            total[number] = total.get(number, ZERO) + part
    return total
