"""Errors as RFC 9457 problems: `application/problem+json`, one reason each, with what would help.

Reasons are stable words; texts may change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Reason:
    """What is always said about one kind of problem."""

    status: int
    title: str
    help: str


_BUY = "Buy credits for the payer, or wait until held credits are released."
_SAME_KEY = "Try again with the same Idempotency-Key: it happens once."
_A_KEY = (
    "Try again in a moment; with an Idempotency-Key, where the call takes one, it happens once."
)
_SAFE = ("GET", "HEAD", "OPTIONS")
_ASK = "Ask an admin of the organization for an allocation."

REASONS: Mapping[str, Reason] = {
    "validation_failed": Reason(400, "The request is not valid", "Correct the named fields."),
    "org_ambiguous": Reason(
        400,
        "The caller belongs to several organizations",
        "Say which one, or user:<your id> for your own account, with the header X-Faregate-Org.",
    ),
    "unauthenticated": Reason(
        401,
        "No valid token",
        "Send `Authorization: Bearer <token>` with a token that is valid now.",
    ),
    "sign_in_failed": Reason(401, "Sign-in failed", "Check e-mail address and password."),
    "signature_invalid": Reason(
        401, "The signature is not good", "Sign the body with the secret that is set here."
    ),
    "byok_key_missing": Reason(
        400,
        "No key is stored for this provider",
        "Store one with POST /api/v1/settings/byok-keys, or leave X-BYOK-Provider out.",
    ),
    "upstream_refused": Reason(
        400, "The upstream refused the request", "Correct it; nothing was charged."
    ),
    "byok_key_invalid": Reason(401, "The provider refused the key", "Store a valid key."),
    "insufficient_credits": Reason(402, "Insufficient credits", _BUY),
    "allocation_exhausted": Reason(402, "The allocation is used up", _ASK),
    "debt_outstanding": Reason(402, "Usage is still owed", "Buy credits: that pays debt first."),
    "no_allocation": Reason(403, "Nothing allocated to this member", _ASK),
    "forbidden": Reason(403, "Not allowed", "Use a token or a role that may do this."),
    "not_a_member": Reason(
        403, "Not a member of this organization", "Ask one of its admins to invite you."
    ),
    "not_found": Reason(404, "Not found", "Check the path."),
    "account_not_found": Reason(
        404, "No such account", "Check the id; an account begins with its first credits."
    ),
    "unknown_hold": Reason(
        404, "No such hold", "Use the hold_id that was answered to the same caller and org."
    ),
    "method_not_allowed": Reason(405, "Method not allowed", "Use a method named in Allow."),
    "request_timeout": Reason(
        408, "The request did not arrive in time", "Send it again, at once and whole."
    ),
    "idempotency_conflict": Reason(
        409, "The Idempotency-Key was used for another request", "Send a new key."
    ),
    "hold_settled": Reason(
        409,
        "The hold was settled for good",
        "If more was used than that, deduct it; settle with `final: false` while more is to come.",
    ),
    "below_held": Reason(409, "Below what is held", "Wait until held credits are released."),
    "conflict": Reason(409, "Conflict with the current state", "Read the state, then try again."),
    "email_taken": Reason(409, "The e-mail address is registered", "Sign in instead."),
    "request_expired": Reason(410, "The request has expired", "Send a new one."),
    "body_too_large": Reason(413, "The body is too large", "Send less at once."),
    "unsupported_media_type": Reason(
        415, "Not JSON", "Send the body as `Content-Type: application/json`."
    ),
    "unknown_pipeline": Reason(422, "Unknown pipeline", "Ask an admin to add it to the prices."),
    "unknown_price": Reason(
        422, "No price for this model or phase", "Ask an admin to add it to the prices."
    ),
    "unknown_plan": Reason(
        422, "No tier for this plan", "Map it with FAREGATE_LAGO_PLANS, then send it again."
    ),
    "unknown_customer": Reason(
        422,
        "No account for this customer",
        "Give the customer an external id such as user:<id> or org:<id>, then send it again.",
    ),
    "head_too_large": Reason(
        431, "Address or headers are too large", "Send fewer and shorter headers."
    ),
    "quota_exceeded": Reason(
        429, "The quota of calls is used up", "Wait for the next period, or change the tier."
    ),
    "rate_limited": Reason(429, "Too many tries", "Wait as long as Retry-After says."),
    "upstream_error": Reason(
        502, "The upstream failed", "Try again: nothing was charged for this call."
    ),
    "upstream_timeout": Reason(
        504, "The upstream took too long", "Try again: nothing was charged for this call."
    ),
    "llm_not_configured": Reason(
        503, "No upstream for LLM calls", "Tell the operator: FAREGATE_LLM_BASE_URL is not set."
    ),
    "byok_not_configured": Reason(
        503,
        "Users' own keys cannot be kept here",
        "Tell the operator: FAREGATE_MASTER_KEY is not set, or is another one than before.",
    ),
    "internal": Reason(500, "Internal error", "Try again; if it stays so, tell the operator."),
    "check_unavailable": Reason(
        503,
        "Nothing can be decided now",
        "Try again in a moment.",
    ),
}

OF_REJECTION: Mapping[str, str] = {
    "idempotency_conflict": "idempotency_conflict",
    "below_held": "below_held",
    "unknown_hold": "unknown_hold",
    "hold_settled": "hold_settled",
    "beyond_hold": "not_a_member",
    "payer_mismatch": "unknown_hold",  # somebody else's hold is none that this caller knows of
    "unknown_price": "unknown_price",
    "amount_out_of_range": "validation_failed",
    "expires_in_the_past": "validation_failed",
    "invalid_code": "validation_failed",
    "unknown_tier": "validation_failed",
    "unknown_milestone": "validation_failed",
    "not_a_member": "not_found",
}
"""The reason for a command that the core can never accept; `conflict` where none is named."""


class FieldError(BaseModel):
    """One field of a request that is not valid."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """An error (RFC 9457). Amounts are credits."""

    model_config = ConfigDict(title="Problem")

    type: str = Field(examples=["urn:faregate:problem:insufficient_credits"])
    title: str
    status: int
    detail: str
    reason: str = Field(examples=["insufficient_credits"])
    required_credits: float | None = Field(None, description="What the call would have taken.")
    available_credits: float | None = Field(None, description="The most that a payer has.")
    help: str = Field(description="What would help.")
    errors: list[FieldError] | None = Field(None, description="Fields that are not valid.")


class Problem(Exception):
    """An error that is answered as it is. `more` are further members of the body."""

    def __init__(
        self,
        reason: str,
        detail: str | None = None,
        *,
        helps: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        known = REASONS[reason]
        super().__init__(detail or known.title)
        self.reason = reason
        self.status = known.status
        self.detail = detail or f"{known.title}."
        self.help = helps or known.help
        self._own_help = helps is not None
        self.headers = dict(headers or {})
        self.more = more

    def to(self, scope: Mapping[str, Any]) -> Self:
        """Say how this call (its ASGI scope) may be repeated: a key is of use to unsafe ones."""
        if self.reason == "check_unavailable" and not self._own_help:
            sent = any(name == b"idempotency-key" for name, _ in scope["headers"])
            if scope["method"] not in _SAFE:
                self.help = _SAME_KEY if sent else _A_KEY
        return self

    def body(self) -> dict[str, Any]:
        """Give the members of the problem, in the contract's order."""
        return {
            "type": f"urn:faregate:problem:{self.reason}",
            "title": REASONS[self.reason].title,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
            **{name: value for name, value in self.more.items() if value is not None},
            "help": self.help,
        }

    def response(self) -> Response:
        """Write it."""
        headers = dict(self.headers)
        if self.status == REASONS["unauthenticated"].status:
            headers.setdefault("WWW-Authenticate", "Bearer")
        return Response(json.dumps(self.body()), self.status, headers, MEDIA_TYPE)


def invalid(field: str, message: str) -> Problem:
    """Give the problem of one field: `credits: the amount must be more than 0`."""
    return Problem(
        "validation_failed",
        f"{field}: {message}",
        errors=[{"field": field, "message": message}],
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error statuses of a route for OpenAPI; one with a body may also wait for it (408)."""
    late = {408} if 413 in statuses else set()  # noqa: PLR2004
    return {status: documented(status) for status in sorted({*statuses, *late})}


def documented(status: int) -> dict[str, Any]:
    """Document one error status: what its reasons are."""
    reasons = [name for name, known in REASONS.items() if known.status == status]
    return {
        "description": "Reason: " + ", ".join(f"`{name}`" for name in reasons),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
