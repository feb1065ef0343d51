"""What can be asked of the ledger. Plain data; keys are 16-byte keyed hashes that the shell makes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from faregate.events.records import dataclass
from faregate.ledger.core.accounts import DEFAULT_PRIORITY, Delta, Grant, Policy, Role


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a command the same command: kept for ever (contract: Identity).

    `usage_key` is a second name that must be new as well: that of a piece of usage, of a refund.
    `also` are fingerprints of other ways to say the same; only `fingerprint` is kept.
    `is_repeat`: it may be nothing else, since its caller may not begin it (any more).
    """

    event_key: bytes
    fingerprint: bytes
    usage_key: bytes | None = None
    also: tuple[bytes, ...] = ()
    is_repeat: bool = False


# What comes in as events.


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
class Register:
    """Somebody signed up: provision them (eager layer). `referrer` is the user who sent them."""

    identity: Identity
    user: str
    email_verified: bool = False
    referral: str | None = None
    referrer: str | None = None


# What finance and operations do.


@dataclass(frozen=True, slots=True)
class SetBalance:
    """Leave `balance = target` and no debt."""

    identity: Identity
    subject: str
    target: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class AddGrant:
    """Add credits: `purchase` or `bonus`. Lower `priority` numbers burn first."""

    identity: Identity
    subject: str
    kind: Literal["purchase", "bonus"]
    amount: int
    reason: str | None = None
    priority: int = DEFAULT_PRIORITY
    expires_at: datetime | None = None
    source: str | None = None
    allocated_by: str | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take back what is left of a grant, named by its number: what is neither used nor held."""

    identity: Identity
    subject: str
    number: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What one charge took from one account: `amount` (<= 0) from grants, `debt` beyond them.

    `known` has the terms of the grants that it took from, whether or not something is left of them.
    """

    subject: str
    amount: int
    debt: int
    grants: tuple[Delta, ...]
    known: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Refund:
    """Take a charge back, whole and once. `parts` are its entries, as they are in the ledger.

    The identity's `usage_key` names the charge, so that two refunds of one charge are the same.
    """

    identity: Identity
    charge_id: int
    user: str | None
    org: str | None
    parts: tuple[Part, ...]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SetTier:
    """Put an account on a tier; a lower one from the next period on, unless `now` is said."""

    identity: Identity
    subject: str
    tier: str
    now: bool = False


@dataclass(frozen=True, slots=True)
class SetQuota:
    """Allow `calls` a period instead of what the tier says; None: what the tier says."""

    identity: Identity
    subject: str
    calls: int | None


@dataclass(frozen=True, slots=True)
class SetAlerts:
    """Raise CreditsLowV1 at these thresholds: micro-credits, and percent of the last top."""

    identity: Identity
    subject: str
    low_micro: int | None
    low_percent: int | None


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Say how an org's credits may be spent."""

    identity: Identity
    org: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class SetMember:
    """Make `user` a member of `org` with a role, or end that (`removed`)."""

    identity: Identity
    org: str
    user: str
    role: Role


@dataclass(frozen=True, slots=True)
class Allocate:
    """Let a member spend `amount` more of the org's credits (less, where it is negative).

    None takes back all that is not held.
    """

    identity: Identity
    org: str
    user: str
    amount: int | None
    expires_at: datetime | None = None
    allocated_by: str | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Unlock:
    """A milestone was reached: release the part of the welcome credits that waits for it."""

    identity: Identity
    user: str
    milestone: str


# What a program asks for at once, and must have an answer to (the HTTP gateway).


@dataclass(frozen=True, slots=True)
class Deduct:
    """Take `cost`, whole or not at all; without it what `usage` costs by the prices in force."""

    identity: Identity
    user: str
    org: str | None
    cost: int | None
    price_version: int | None = None
    usage: Usage | None = None
    reason: str | None = None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold credits for a caller: `amount`, or the price of `usage` (an estimate, never recorded).

    `pipeline_key` names the hold and is its id. `counts`: it is a call, by the user's quota.
    """

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes
    amount: int | None
    usage: Usage | None = None
    ttl: timedelta | None = None
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Settle:
    """Charge what was used against a hold: `cost`, or by the hold's prices what `usage` says.

    `within`: no more than is left of it, while it is open; its caller has left the org that pays.
    """

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes
    cost: int | None
    usage: Usage | None = None
    final: bool = True
    within: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Give back what is left of a hold."""

    identity: Identity
    user: str
    org: str | None
    pipeline_key: bytes


# What the engine tells itself.


@dataclass(frozen=True, slots=True)
class CloseHold:
    """The sweeper's command: release what is left of a hold whose time is over."""

    identity: Identity
    pipeline_key: bytes
    hold_id: bytes


@dataclass(frozen=True, slots=True)
class Refresh:
    """The sweeper's command: expire grants whose time is over, renew the tier.

    With `welcome` a user is provisioned as well if they are due: somebody reads their balance
    (the lazy layer).
    """

    identity: Identity
    subject: str
    welcome: bool = False


@dataclass(frozen=True, slots=True)
class ChargeUnpriced:
    """Charge usage that was kept because it had no price. `unpriced_id` is its first outcome."""

    identity: Identity
    unpriced_id: int
    usage: Usage


Administrative = (
    SetBalance
    | AddGrant
    | Revoke
    | Refund
    | SetTier
    | SetQuota
    | SetAlerts
    | SetPolicy
    | SetMember
    | Allocate
    | Unlock
)
Command = (
    Request
    | Usage
    | PhaseCompleted
    | Finished
    | Register
    | Administrative
    | Deduct
    | Reserve
    | Settle
    | Release
    | CloseHold
    | Refresh
    | ChargeUnpriced
)
