"""Payloads of `pipeline.*`: a run asks, is answered, and reports how far it is."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from faregate.events.data import EventData, EventPart
from faregate.events.fields import Count, Credits, Id, Items, Name, Timestamp

PHASES_MAX = 64

DenialReason = Literal[
    "unknown_pipeline",
    "unknown_price",
    "request_expired",
    "quota_exceeded",
    "debt_outstanding",
    "no_allocation",
    "allocation_exhausted",
    "insufficient_credits",
]
"""Why a request is denied, in the order of precedence when several apply."""


def _without_repeats(phases: list[str]) -> list[str]:
    if len(set(phases)) != len(phases):
        raise ValueError("name each phase once")
    return phases


Phases = Annotated[
    list[Id],
    Field(min_length=1, max_length=PHASES_MAX, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_without_repeats),
]


class PipelineRequestedV1(EventData):
    """A pipeline asks to run for `items` items; the answer is initiated or denied.

    `phases` replaces the phases that the pipeline's name stands for. After `expires_at` the
    request is denied (`request_expired`) instead of decided.
    """

    pipeline_id: Id
    pipeline: Id
    user_id: Id
    org_id: Id | None = None
    batch_id: Id
    items: Items
    phases: Phases | None = None
    expires_at: Timestamp | None = None


class PipelineInitiatedV1(EventData):
    """The request is accepted and `reserved_credits` are held for it.

    `hold_id` and `hold_expires_at` are null when nothing had to be held.
    """

    pipeline_id: Name
    batch_id: Name
    user_id: Name
    org_id: Name | None
    phases: list[Name]
    pruned_phases: list[Name]
    payer: Name
    reserved_credits: Credits
    hold_id: Name | None
    hold_expires_at: Timestamp | None
    price_version: int | None


class ConsideredPayer(EventPart):
    """One account that could have paid, and what it had."""

    payer: Name
    available: Credits


class PipelineDeniedV1(EventData):
    """The request is denied: why, what it would have cost, and what would help.

    `pipeline` is the name that was asked for. `status` is the HTTP status of the same answer; `available_credits` is the most that any
    considered payer has.
    """

    pipeline_id: Name
    batch_id: Name
    user_id: Name
    org_id: Name | None
    phases: list[Name]
    reason: DenialReason
    status: Annotated[int, Field(ge=400, le=599)]
    required_credits: Annotated[int | float, Field(ge=0)]
    available_credits: Credits
    considered: list[ConsideredPayer]
    message: str
    pipeline: Name | None = None


class PipelinePhaseCompletedV1(EventData):
    """A phase of a batch is done, so it need not be paid or run again for that batch."""

    pipeline_id: Id
    batch_id: Id
    user_id: Id
    org_id: Id | None = None
    phase: Id
    items: Items | None = None


class PipelineFinishedV1(EventData):
    """A run is over; its hold closes once `usage_events` of them have been settled."""

    pipeline_id: Id
    user_id: Id
    org_id: Id | None = None
    status: Literal["succeeded", "failed", "cancelled"]
    usage_events: Count | None = None
