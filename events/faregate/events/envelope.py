"""The CloudEvents 1.0 envelope, reduced to what Faregate reads and writes."""

from datetime import datetime
from typing import Any

from faregate.events.records import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One event: who says what, when, and about which chain of events.

    (`source`, `id`) identifies it for ever. `data` is the JSON object of the payload, not yet
    validated (`codec.parse` does that). `time` is timezone-aware when present. `correlationid`,
    `causationid` and `traceparent` are CloudEvents extensions; others are not kept. `tracestate`
    travels in the header of that name alone.
    """

    id: str
    source: str
    type: str
    data: dict[str, Any]
    time: datetime | None = None
    subject: str | None = None
    correlationid: str | None = None
    causationid: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
