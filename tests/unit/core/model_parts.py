"""What the second ledger is made of: plain records. Amounts are Decimal credits."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

ZERO = Decimal(0)
LIMIT = Decimal(10) ** 9
TTL = timedelta(seconds=3600)
GRACE = timedelta(seconds=30)
OLDEST = timedelta(days=35)
NEWEST = timedelta(minutes=5)
PERIOD = timedelta(days=30)
STATUS = {
    "unknown_pipeline": 422,
    "unknown_price": 422,
    "request_expired": 410,
    "quota_exceeded": 429,
    "debt_outstanding": 402,
    "no_allocation": 403,
    "allocation_exhausted": 402,
    "insufficient_credits": 402,
}


def credits_of(micro: int) -> Decimal:
    return Decimal(micro) / 1_000_000


class Refused(Exception):
    """To the DLQ, and no trace of it in the ledger."""


@dataclass(frozen=True)
class Answer:
    """What a command came to: its result, the facts that are announced, and calls counted."""

    result: str
    facts: dict[str, Any] = field(default_factory=dict)
    calls: int = 0


@dataclass(frozen=True)
class Terms:
    """What a new lot is."""

    priority: int = 100
    until: datetime | None = None
    source: str | None = None
    by: str | None = None
    notes: str | None = None
    layer: str | None = None
    arm: str | None = None


@dataclass(frozen=True)
class Move:
    """What one ledger entry must say."""

    subject: str
    kind: str
    amount: Decimal = ZERO
    held: Decimal = ZERO
    debt: Decimal = ZERO
    lots: dict[int, tuple[Decimal, Decimal]] = field(default_factory=dict)
    """By the number of the lot: how it moves, and how what is pinned of it moves."""
    hold: int | None = None
    version: int | None = None
    user: str | None = None
    org: str | None = None
    reason: str | None = None
    tier: str | None = None
    terms: Terms | None = None
    raised: tuple[str, ...] = ()


@dataclass
class Lot:
    """Credits that came in together, numbered by the entry that they came with."""

    number: int
    left: Decimal
    priority: int
    until: datetime | None

    def over(self, now: datetime) -> bool:
        return self.until is not None and self.until <= now


@dataclass
class Held:
    """A hold, numbered in the order in which holds were made."""

    number: int
    payer: str
    amount: Decimal
    version: int
    until: datetime
    member: str | None = None
    pins: dict[str, dict[int, Decimal]] = field(default_factory=dict)
    """What it has pinned of the lots of each account."""
    state: str = "live"
    settled: int = 0
    expected: int | None = None

    def left(self, subject: str) -> Decimal:
        return sum(self.pins.get(subject, {}).values(), ZERO)


@dataclass
class Run:
    """A pipeline that was let in."""

    user: str
    org: str | None
    items: int
    phases: list[str]
    pruned: list[str]
    hold: Held | None
    is_over: bool = False
    """Without a hold: settled for good."""


@dataclass
class Purse:
    """An account. Its balance is what its lots add up to; lots that are used up stay."""

    lots: list[Lot] = field(default_factory=list)
    debt: Decimal = ZERO
    written: int = 0
    """How many entries it has."""
    tier: str = "free"
    since: datetime | None = None
    next_tier: str | None = None
    tier_lot: int | None = None
    calls: int = 0
    call_limit: int | None = None
    policy: str = "pool"
    role: str | None = None
    low: Decimal | None = None
    percent: int | None = None
    top: Decimal = ZERO
    raised: list[str] = field(default_factory=list)
    welcome: str = ""
    verified: bool = False
    registered: bool = False
    milestones: list[str] = field(default_factory=list)
    withheld: list[str] = field(default_factory=list)

    def balance(self) -> Decimal:
        return sum((lot.left for lot in self.lots), ZERO)

    def lot(self, number: int) -> Lot:
        return next(lot for lot in self.lots if lot.number == number)
