"""Payloads of `credits.*`: ledger entries, checkpoints and alerts, as announced by the relay."""

from typing import Annotated, Literal

from pydantic import StringConstraints

from faregate.events.data import EventData, EventPart
from faregate.events.fields import Account, Count, Credits, SignedCredits, Timestamp

EntryKind = Literal[
    "purchase", "bonus", "refund", "adjustment", "usage", "expiry", "hold", "release", "debt"
]
"""What a ledger entry is for (contract, "Money")."""

ChainHead = Annotated[str, StringConstraints(pattern="^([0-9a-f]{2})*$")]


class GrantPart(EventPart):
    """How much of an entry came out of, or went into, one grant."""

    grant_id: str
    amount: SignedCredits


class LedgerEntryData(EventData):
    """One entry of an account's ledger: what moved, and the values after it.

    `amount` moves the balance, `held_delta` what is held, `debt_delta` the debt; `balance`,
    `held`, `available` and `debt` are the values after. `sequence` has no gaps per account.
    """

    account: Account
    kind: EntryKind
    amount: SignedCredits
    held_delta: SignedCredits
    debt_delta: SignedCredits
    balance: SignedCredits
    held: Credits
    available: SignedCredits
    debt: Credits
    sequence: Count
    usage_id: str | None = None
    pipeline_id: str | None = None
    hold_id: str | None = None
    user_id: str | None = None
    org_id: str | None = None
    provider: str | None = None
    model: str | None = None
    phase: str | None = None
    units: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    byok: bool | None = None
    price_version: int | None = None
    grants: list[GrantPart] | None = None
    reason: str | None = None
    at: Timestamp


class CreditsGrantedV1(LedgerEntryData):
    """Credits came in: bought, or given."""

    kind: Literal["purchase", "bonus"]


class CreditsHeldV1(LedgerEntryData):
    """Credits are reserved for a pipeline."""

    kind: Literal["hold"]


class CreditsReleasedV1(LedgerEntryData):
    """Reserved credits are free again."""

    kind: Literal["release"]


class CreditsDeductedV1(LedgerEntryData):
    """Usage was paid; 0 for what costs nothing."""

    kind: Literal["usage"]


class CreditsRefundedV1(LedgerEntryData):
    """Credits were given back."""

    kind: Literal["refund"]


class CreditsExpiredV1(LedgerEntryData):
    """A grant ran out of time."""

    kind: Literal["expiry"]


class CreditsAdjustedV1(LedgerEntryData):
    """An operator set the balance right."""

    kind: Literal["adjustment"]


class DebtPaidV1(LedgerEntryData):
    """A rise in what is available paid debt first."""

    kind: Literal["debt"]


class LedgerCheckpointV1(EventData):
    """The state of an account at `sequence`, and the head of its hash chain (hex)."""

    account: Account
    sequence: Count
    balance: SignedCredits
    held: Credits
    debt: Credits
    chain_head: ChainHead
    epoch: int = 0


class AlertData(EventData):
    """Something about an account that its owner should know.

    `threshold` is the one that was crossed, in credits.
    """

    account: Account
    threshold: Credits | None = None
    balance: SignedCredits
    available: SignedCredits
    debt: Credits
    usage_id: str | None = None
    model: str | None = None
    phase: str | None = None


class CreditsLowV1(AlertData):
    """What is available fell to a threshold."""


class CreditsExhaustedV1(AlertData):
    """Nothing is available any more."""


class DebtIncurredV1(AlertData):
    """Usage was not covered and became debt."""


class UsageUnpricedV1(AlertData):
    """Usage has no price yet; it is kept, and charged once a price is applied."""
