"""Payloads of `signals.*`: what the streams derive. They inform; no money moves by them.

A signal may come again with the id it had (a stream that was killed repeats itself), and for a
moment it may be behind the ledger. Whoever needs the truth reads the ledger.
"""

from typing import Annotated, Literal

from pydantic import Field

from faregate.events.data import EventData, EventPart
from faregate.events.fields import Account, Count, Credits, Name, SignedCredits, Timestamp
from faregate.events.pipeline import DenialReason

Seconds = Annotated[int | float, Field(ge=0)]


class BurnRateV1(EventData):
    """How fast an account is charged, and for how long that can go on.

    The rates are credits per minute, hour and day over hopping windows of event time. `runway_s`
    is how long `available` lasts at the rate of the hour; null: nothing is being used.
    """

    account: Account
    per_minute: Credits
    per_hour: Credits
    per_day: Credits
    available: SignedCredits
    runway_s: Seconds | None
    sequence: Count
    at: Timestamp


class RunwayLowV1(EventData):
    """At its rate the account is empty sooner than `threshold_s`; said once until it recovers."""

    account: Account
    per_hour: Credits
    available: SignedCredits
    runway_s: Seconds
    threshold_s: Seconds
    sequence: Count
    at: Timestamp


class DenialRateV1(EventData):
    """How often somebody was denied in one window of time, by reason and by pipeline.

    `account` is whom the requests were for: the org if they named one, else the user.
    `baseline` is what the windows before had on average.
    """

    account: Account
    window_start: Timestamp
    window_end: Timestamp
    denials: Count
    reasons: dict[DenialReason, Count]
    pipelines: dict[str, Count]
    baseline: Seconds


class DenialSpikeV1(DenialRateV1):
    """Far more denials than the account's own baseline; said once per window."""

    factor: Annotated[int | float, Field(gt=0)]


class SpendingShare(EventPart):
    """What one user, model or phase was charged."""

    name: Name
    credits: Credits
    events: Count


class AttributionV1(EventData):
    """Who and what an org was charged for in one window, the largest first.

    `total` is exact, `other_…` is what names beyond the listed ones were charged. `closed` says
    that the window is over. `sequence` is the last entry of the account that is counted.
    """

    account: Account
    window: Literal["hour", "day"]
    window_start: Timestamp
    window_end: Timestamp
    closed: bool
    total: Credits
    events: Count
    users: list[SpendingShare]
    models: list[SpendingShare]
    phases: list[SpendingShare]
    other_users: Credits
    other_models: Credits
    other_phases: Credits
    sequence: Count


FraudRule = Literal["many_registrations", "trial_drained", "referral_ring"]
"""What looked unusual."""


class FraudSuspectedV1(EventData):
    """Something about how users came or used their trial is unusual. A person decides.

    `account` is what it is about: `domain:<domain>`, `referral:<campaign or user>`, or
    `user:<id>`. `case_id` stays the same for the same suspicion; `users` lists up to 50.
    """

    case_id: Name
    rule: FraudRule
    account: Account
    count: Count
    users: list[Name]
    window_start: Timestamp
    window_end: Timestamp
    limit: Seconds
    credits: Credits | None = None


ReconcileProblem = Literal[
    "gap", "repeat_differs", "wrong_sum", "checkpoint_differs", "not_announced"
]
"""How what was announced contradicts itself."""


class AccountSums(EventPart):
    """The state of an account after an entry."""

    balance: SignedCredits
    held: SignedCredits
    debt: SignedCredits


class ReconcileAlertV1(EventData):
    """What was announced about an account does not add up.

    `gap`: the entries `sequence` to `through` were not announced before the next one.
    `repeat_differs`: `sequence` was announced twice, with other content. `wrong_sum`: the entry
    does not lead from the state before to the state after. `checkpoint_differs`: the checkpoint
    says otherwise. `not_announced`: the checkpoint is ahead of what was announced.
    """

    account: Account
    problem: ReconcileProblem
    sequence: Count
    through: Count | None = None
    expected: AccountSums | None = None
    found: AccountSums | None = None
    event_id: Name | None = None
    at: Timestamp
