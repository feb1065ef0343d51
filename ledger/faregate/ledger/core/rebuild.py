"""Rebuild: fold the ledger's entries into accounts again, as a second opinion on the live ones.

Plain arithmetic over the deltas that entries carry. Nothing of what decides is used here, so a
mistake there shows as a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from faregate.ledger.core.accounts import EPOCH, NEVER, Account, Grant
from faregate.ledger.core.model import Entry

COMES_IN = frozenset({"purchase", "bonus", "adjustment", "expiry"})
"""Kinds that change what an account was granted in all."""


class Unsound(Exception):
    """Entries that cannot be: a gap, less than nothing, or a grant that nobody made."""


@dataclass(slots=True)
class Lot:
    """A grant as the entries make it; one with nothing left stays known, a refund may fill it."""

    number: int
    priority: int
    expires_at: datetime | None
    remaining: int = 0
    held: int = 0

    @property
    def order(self) -> tuple[int, datetime, int]:
        """Lower priority number first, then soonest expiry (none last), then oldest."""
        return (self.priority, self.expires_at or NEVER, self.number)


@dataclass(slots=True)
class Rebuilt:
    """An account as its entries make it."""

    subject: str
    balance: int = 0
    held: int = 0
    debt: int = 0
    sequence: int = 0
    granted: int = 0
    last_at: datetime = EPOCH
    lots: dict[int, Lot] = field(default_factory=dict)
    """Every grant there ever was, by number."""
    holds: dict[bytes, dict[int, int]] = field(default_factory=dict)
    """What each hold still has pinned, by hold and grant."""

    @property
    def available(self) -> int:
        """What is owned and not reserved."""
        return self.balance - self.held

    def grants(self) -> tuple[Grant, ...]:
        """Give the grants with something left, in burn order."""
        live = [lot for lot in self.lots.values() if lot.remaining]
        if len(live) > 1:
            live.sort(key=lambda lot: lot.order)
        return tuple([Grant(t.number, t.remaining, t.held, t.priority, t.expires_at) for t in live])

    def pins(self, hold_id: bytes) -> tuple[tuple[int, int], ...]:
        """Give the parts of grants that a hold still has pinned, in burn order."""
        parts = self.holds.get(hold_id, {})
        return tuple((n, parts[n]) for n in sorted(parts, key=lambda n: self.lots[n].order))

    def remaining(self, hold_id: bytes) -> int:
        """Give what is left of a hold on this account."""
        return sum(self.holds.get(hold_id, {}).values())

    def add(self, entry: Entry) -> None:
        """Take the account's next entry. Raises Unsound when it does not follow."""
        if entry.sequence != self.sequence + 1:
            raise Unsound(f"{self.subject}: entry {entry.sequence} follows {self.sequence}")
        if entry.at < self.last_at:
            raise Unsound(f"{self.subject}: entry {entry.sequence} is older than the one before")
        self.sequence, self.last_at = entry.sequence, entry.at
        self.balance += entry.amount
        self.held += entry.held_delta
        self.debt += entry.debt_delta
        if entry.kind in COMES_IN:
            self.granted += entry.amount
        amount = held = 0
        for number, more, pinned in entry.grants:
            self._move(entry, number, more, pinned)
            amount, held = amount + more, held + pinned
        if (amount, held) != (entry.amount, entry.held_delta):
            raise Unsound(f"{self.subject}: grants of entry {entry.sequence} do not sum up to it")
        if not 0 <= self.held <= self.balance or self.debt < 0:
            raise Unsound(
                f"{self.subject}: entry {entry.sequence} leaves balance {self.balance}, "
                f"held {self.held}, debt {self.debt}"
            )

    def _move(self, entry: Entry, number: int, more: int, pinned: int) -> None:
        lot = self.lots.get(number)
        if lot is None:
            if number != entry.sequence or entry.terms is None:
                raise Unsound(f"{self.subject}: nobody made grant {number}")
            lot = Lot(number, entry.terms.priority, entry.terms.expires_at)
            self.lots[number] = lot
        lot.remaining += more
        lot.held += pinned
        if not 0 <= lot.held <= lot.remaining:
            raise Unsound(
                f"{self.subject}: entry {entry.sequence} leaves {lot.remaining} of grant {number}, "
                f"{lot.held} held"
            )
        if pinned:
            self._pin(entry, number, pinned)

    def _pin(self, entry: Entry, number: int, pinned: int) -> None:
        if entry.hold_id is None:
            raise Unsound(f"{self.subject}: entry {entry.sequence} moves held for no hold")
        parts = self.holds.setdefault(entry.hold_id, {})
        left = parts.pop(number, 0) + pinned
        if left < 0:
            raise Unsound(f"{self.subject}: entry {entry.sequence} releases what was not held")
        if left:
            parts[number] = left
        elif not parts:
            del self.holds[entry.hold_id]


def rebuild(entries: Iterable[Entry]) -> dict[str, Rebuilt]:
    """Fold entries, in order for each account, into accounts by subject.

    Raises Unsound at the first entry that cannot be.
    """
    accounts: dict[str, Rebuilt] = {}
    for entry in entries:
        account = accounts.get(entry.subject)
        if account is None:
            account = accounts[entry.subject] = Rebuilt(entry.subject)
        account.add(entry)
    return accounts


def differences(rebuilt: Rebuilt, live: Account) -> list[str]:
    """Say in what a live account differs from what its entries make it; empty: in nothing."""
    pairs = (
        ("balance", live.balance, rebuilt.balance),
        ("held", live.held, rebuilt.held),
        ("debt", live.debt, rebuilt.debt),
        ("sequence", live.sequence, rebuilt.sequence),
        ("granted", live.granted, rebuilt.granted),
        ("last_at", live.last_at, rebuilt.last_at),
        ("grants", live.grants, rebuilt.grants()),
    )
    return [
        f"{name} is {is_now}, the entries make it {made}"
        for name, is_now, made in pairs
        if is_now != made
    ]


def calls_in_period(
    counted: Iterable[tuple[str, datetime, int]], starts: Mapping[str, datetime]
) -> dict[str, int]:
    """Count the calls of each user in their running period, as (user, at, calls) say.

    `starts` has the start of the period of each user who is in one.
    """
    calls = dict.fromkeys(starts, 0)
    for user, at, number in counted:
        start = starts.get(user)
        if start is not None and at >= start:
            calls[user] += number
    return calls
