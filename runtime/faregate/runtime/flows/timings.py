"""What calls may take: typical figures of the field, that 95 % of the calls are to be within.

Only calls that were made one after the other for this are measured, from sending a request to
having read its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from faregate.runtime.flows.records import Call, Timing

SHARE = 0.95
DEDUCT, TRACKING, ORG_CHECK, BYOK_DETECTION, SIGN_IN, REGISTRATION = (
    "deduct",
    "tracking",
    "org_check",
    "byok_detection",
    "sign_in",
    "registration",
)
SAMPLES = 20
"""So that 95 % of them is a whole number, and one slow call is no miss."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One row: which calls, and what they may take."""

    name: str
    what: str
    limit_ms: float


TABLE = (
    Limit(DEDUCT, "a synchronous deduction", 50),
    Limit(TRACKING, "the count of calls, read right after a call", 20),
    Limit(ORG_CHECK, "a check of what an organization would pay", 30),
    Limit(BYOK_DETECTION, "a call with X-BYOK-Provider, up to finding that no key is stored", 10),
    Limit(SIGN_IN, "a sign-in", 300),
    Limit(REGISTRATION, "a registration with its credit account, beyond a median sign-in", 50),
)


def timings(calls: Iterable[Call]) -> list[Timing]:
    """Compare calls with the table."""
    taken: dict[str, list[float]] = {row.name: [] for row in TABLE}
    for call in calls:
        if call.timed is not None and call.status is not None:
            taken[call.timed].append(call.ms)
    if taken[REGISTRATION] and taken[SIGN_IN]:
        usual = median(taken[SIGN_IN])  # both hash a password; what is more is for the rest
        taken[REGISTRATION] = [max(0.0, ms - usual) for ms in taken[REGISTRATION]]
    else:
        taken[REGISTRATION] = []
    return [_row(limit, sorted(taken[limit.name])) for limit in TABLE]


def percentile(values: Sequence[float], share: float) -> float:
    """Give the smallest of sorted values that so many of them do not exceed."""
    return values[max(0, ceil(share * len(values)) - 1)]


def _row(limit: Limit, values: Sequence[float]) -> Timing:
    if not values:
        return Timing(limit.name, limit.what, limit.limit_ms, 0, 0, None, None, None, None)
    within = sum(value <= limit.limit_ms for value in values)
    return Timing(
        limit.name,
        limit.what,
        limit.limit_ms,
        len(values),
        within,
        round(percentile(values, 0.5), 2),
        round(percentile(values, SHARE), 2),
        round(values[-1], 2),
        within >= SHARE * len(values),
    )
