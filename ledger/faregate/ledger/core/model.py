"""Plain data of the core: rules, holds, entries, outcomes, and the state that is decided over."""

from __future__ import annotations

from dataclasses import field
from datetime import datetime, timedelta
from typing import Any, Literal

from faregate.events.records import dataclass
from faregate.ledger.core.accounts import Account, Delta
from faregate.ledger.core.commands import Identity, Usage
from faregate.ledger.core.prices import Books

HoldState = Literal["live", "closing", "closed"]
Kind = Literal[
    "purchase",
    "bonus",
    "refund",
    "adjustment",
    "usage",
    "expiry",
    "hold",
    "release",
    "debt",
]
Pins = tuple[tuple[int, int], ...]
"""Grants of one account, each with the part of it that a hold has pinned."""


class Rejected(Exception):
    """A command that can never be accepted. The loop sends its record to the DLQ (409 over HTTP).

    `code` is short and stable (`idempotency_conflict`, `payer_mismatch`, ...), `message` is for
    the person who reads the DLQ.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Welcome:
    """How the welcome grant depends on who comes (amounts in micro-credits)."""

    days: float | None = None
    """The welcome grant expires after so many days; None: never."""
    verified_only: bool = False
    """Nothing before the e-mail address is verified."""
    by_referral: tuple[tuple[str, int], ...] = ()
    referral_bonus: int = 0
    """What the user who sent a new one gets."""
    arms: tuple[tuple[str, int], ...] = ()
    """Amounts to compare with each other (A/B): users are spread over them by their id."""
    milestones: tuple[tuple[str, int], ...] = ()
    """Parts of the amount that are released later, each when its milestone is reached."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Settings that decisions rest on. Times are durations, amounts micro-credits."""

    hold_ttl: timedelta = timedelta(seconds=3600)
    grace: timedelta = timedelta(seconds=30)
    max_age: timedelta = timedelta(days=35)
    max_ahead: timedelta = timedelta(minutes=5)
    provisioning: Literal["auto", "manual"] = "manual"
    welcome_micro: int = 5_000_000
    welcome: Welcome = Welcome()
    low_micro: int = 0
    low_percent: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits reserved for one pipeline. `remaining` counts in the payer's `held`."""

    id: bytes
    payer: str
    amount: int
    remaining: int
    price_version: int
    state: HoldState
    expires_at: datetime
    usage_settled: int = 0
    usage_expected: int | None = None
    pins: Pins = ()
    """Where `remaining` is: parts of the payer's grants, in burn order."""
    member: str | None = None
    """The member's account whose allocation is held as well."""
    member_pins: Pins = ()

    @property
    def is_settled(self) -> bool:
        """Tell whether it is closed and all the usage has settled that was said to come."""
        if self.state != "closed" or self.usage_expected is None:
            return False
        return self.usage_settled >= self.usage_expected

    def is_due(self, now: datetime) -> bool:
        """Tell whether its time (or, when closing, its grace) is over."""
        return self.state != "closed" and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline that was let in; `hold` is None when it cost nothing."""

    key: bytes
    user: str
    org: str | None
    items: int
    phases: tuple[str, ...]
    pruned: tuple[str, ...]
    hold: Hold | None
    cause: bytes
    settled: bool = False
    """Whether its caller has settled it for good, where it has no hold to say so."""

    @property
    def is_settled(self) -> bool:
        """Tell whether all the usage has settled that was said to come."""
        return self.hold.is_settled if self.hold else self.settled


@dataclass(frozen=True, slots=True)
class GrantTerms:
    """What a new grant is, beside its amount. People and texts in it can be erased later."""

    priority: int
    expires_at: datetime | None
    source: str | None = None
    allocated_by: str | None = None
    notes: str | None = None
    layer: str | None = None
    arm: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger, with the account's values after it. Amounts are micro-credits."""

    outcome: int
    """Index of its outcome in the decision."""
    subject: str
    sequence: int
    at: datetime
    kind: Kind
    amount: int
    held_delta: int
    debt_delta: int
    balance: int
    held: int
    debt: int
    hold_id: bytes | None = None
    user: str | None = None
    org: str | None = None
    price_version: int | None = None
    usage: Usage | None = None
    reason: str | None = None
    grants: tuple[Delta, ...] = ()
    """What it did to which grants; sums up to `amount` and `held_delta`."""
    terms: GrantTerms | None = None
    """Those of the grant that it makes, if it makes one."""
    tier: str | None = None
    """The user's tier, where the price depended on it."""
    alert: str | None = None
    """What it raised: `low:<threshold in micro-credits>`, `exhausted`, or both with a comma."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The calls of a user's running period; a `limit` of None: as many as they like."""

    limit: int | None
    used: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an accepted command.

    `body` is what is announced; accounts appear in it as subjects and are stored as numbers.
    """

    command: int
    """Index of its command in the batch."""
    identity: Identity
    name: str
    result: str
    user: str | None = None
    org: str | None = None
    body: dict[str, Any] | None = None
    calls: int = 0
    """How many calls it counted against the user's quota."""
    quota: Quota | None = None
    """What was left of that quota with them counted: for the answer, and not stored."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An outcome that is already stored, found by a dedupe key."""

    fingerprint: bytes
    outcome_id: int
    result: str


@dataclass(slots=True)
class State:
    """All that a batch of commands can touch, loaded under the account locks."""

    books: Books
    rules: Rules = field(default_factory=Rules)
    accounts: dict[str, Account] = field(default_factory=dict)
    pipelines: dict[bytes, Pipeline] = field(default_factory=dict)
    completions: dict[tuple[str, bytes], dict[str, int | None]] = field(default_factory=dict)
    seen: dict[bytes, Seen] = field(default_factory=dict)
    members: dict[tuple[str, str], str] = field(default_factory=dict)
    """Subject of the account of an org's member, by org and user."""
