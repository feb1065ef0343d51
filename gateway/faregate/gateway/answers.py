"""What a stored command means to its caller: an answer, or the problem that it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from math import ceil
from typing import Any

from faregate.events.amounts import to_credits
from faregate.gateway.group import Answered
from faregate.gateway.problems import OF_REJECTION, REASONS, Problem
from faregate.gateway.stored import Stored
from faregate.ledger.core import Rejected
from faregate.ledger.core.messages import denial_message
from faregate.ledger.store import BadValue, Unavailable


def accepted(answered: Answered) -> Stored:
    """Give what was stored of a command that was let in.

    Raises Problem for one that was refused or can never be accepted, and Unavailable.
    """
    if isinstance(answered, Unavailable):
        raise answered
    if isinstance(answered, Rejected):
        raise rejection(answered)
    if isinstance(answered, BadValue):
        raise Problem("validation_failed", "A value of this request cannot be stored.")
    if answered is None:
        raise Problem("conflict", "There was nothing to do.")
    if answered.result == "refused":
        raise denial(answered.body)
    return answered


def rejection(error: Rejected) -> Problem:
    """Give the problem of a command that can never be accepted."""
    reason = OF_REJECTION.get(error.code)
    if reason is None:
        reason = "validation_failed" if error.code.startswith("invalid_") else "conflict"
    if reason == "unknown_hold":  # somebody else's, or none: it says the same
        return Problem(reason, code=reason)
    return Problem(reason, _sentence(error.message), code=error.code)


def denial(body: Mapping[str, Any], now: datetime | None = None) -> Problem:
    """Give the problem of a refusal, from its outcome's body (amounts in micro-credits)."""
    reason = body["reason"]
    headers, more = {}, {}
    if reason == "quota_exceeded":
        resets_at = datetime.fromisoformat(body["resets_at"])
        left = (resets_at - (now or datetime.now(UTC))).total_seconds()
        headers = {"Retry-After": str(max(1, ceil(left)))}
        more = {"resets_at": body["resets_at"]}
    is_priced = reason != "unknown_price"  # what has no price is not free
    text = denial_message(body) if is_priced else REASONS[reason].title + "."
    return Problem(
        reason,
        text,
        headers=headers,
        required_credits=to_credits(body.get("required", 0)) if is_priced else None,
        available_credits=to_credits(body.get("available", 0)),
        **more,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else text
