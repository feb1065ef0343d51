"""Plain data of the core: accounts, holds, commands, entries, outcomes.

Accounts are named by their subject (`org:<id>` or `user:<id>`). Keys (`event_key`, `pipeline_key`,
...) are 16-byte keyed hashes that the shell makes; the core only compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from faregate.ledger.core.prices import Books

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


class LedgerFault(Exception):
    """The core was about to break one of its own invariants. A bug: nothing is written."""


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
class Rules:
    """Settings that decisions rest on. Times are durations, amounts micro-credits."""

    hold_ttl: timedelta = timedelta(seconds=3600)
    grace: timedelta = timedelta(seconds=30)
    max_age: timedelta = timedelta(days=35)
    max_ahead: timedelta = timedelta(minutes=5)
    provisioning: Literal["auto", "manual"] = "manual"
    welcome_micro: int = 5_000_000


@dataclass(frozen=True, slots=True)
class Account:
    """What one payer has, in micro-credits. `debt > 0` implies that nothing is available."""

    subject: str
    balance: int = 0
    held: int = 0
    debt: int = 0
    sequence: int = 0
    last_at: datetime = EPOCH
    tier: str = "free"

    @property
    def available(self) -> int:
        """What is owned and not reserved."""
        return self.balance - self.held


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


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a command the same command: kept for ever (contract: Identity)."""

    event_key: bytes
    fingerprint: bytes
    usage_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Ask to run a pipeline. `phases` overrides what the price book says the pipeline does."""

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes
    pipeline: str
    batch_key: bytes
    items: int
    phases: tuple[str, ...] | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Work that was done: either `phase` and `units`, or `model` and tokens."""

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes | None
    occurred_at: datetime
    byok: bool = False
    phase: str | None = None
    units: int | None = None
    provider: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PhaseCompleted:
    """A phase is done for a batch: it is not run again, and the pipeline's hold is extended."""

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes
    batch_key: bytes
    phase: str
    items: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The pipeline ended; `usage_events` says how many usage events it will have had."""

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes
    status: str
    usage_events: int | None = None


@dataclass(frozen=True, slots=True)
class SetBalance:
    """Leave `balance = target` and no debt."""

    identity: Identity
    subject: str
    target: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """Add credits: `purchase` or `bonus`."""

    identity: Identity
    subject: str
    kind: Literal["purchase", "bonus"]
    amount: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CloseHold:
    """The sweeper's command: release what is left of a hold whose time is over."""

    identity: Identity
    pipeline_key: bytes
    hold_id: bytes


@dataclass(frozen=True, slots=True)
class ChargeUnpriced:
    """Charge usage that was kept because it had no price. `unpriced_id` is its first outcome."""

    identity: Identity
    unpriced_id: int
    usage: Usage


Command = (
    Request | Usage | PhaseCompleted | Finished | SetBalance | Grant | CloseHold | ChargeUnpriced
)


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
