"""Suspicions of fraud: what the stream said, and what platform admins decide about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from faregate.gateway.answers import rejection
from faregate.gateway.callers import Admin, GuardedRoute
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer, Body, Id
from faregate.gateway.idempotency import Key
from faregate.gateway.problems import Problem, responses
from faregate.ledger import fraud_reviews, once
from faregate.ledger.core import Rejected

router = APIRouter(route_class=GuardedRoute, tags=["Admin"])


class FraudReview(Answer):
    """The newest decision about a case."""

    verdict: str
    by: str | None = Field(description="Who decided; null once they were erased.")
    reason: str | None
    at: datetime


class FraudCase(Answer):
    """Something unusual about how users came or used their trial. It blocks nobody."""

    case_id: str
    rule: str
    account: str = Field(description="What it is about: domain:…, referral:… or user:…")
    count: int
    users: list[str] = Field(description="Up to 50 of them.")
    first_at: datetime | None
    at: datetime | None
    review: FraudReview | None


class FraudCases(Answer):
    """Every case that is kept in Kafka, oldest first."""

    cases: list[FraudCase]


class NewReview(Body):
    """A decision. `reason` is a code and stays for ever."""

    verdict: Literal["confirmed", "dismissed"]
    reason: Id | None = None


@router.get("/v1/admin/fraud", responses=responses(401, 403, 503))
async def fraud(request: Request, caller: Admin) -> FraudCases:  # noqa: ARG001 - who may
    """List what the stream `fraud` found suspicious, with what was decided about it."""
    found = await _cases(request)
    decided = await fraud_reviews.reviews(gateway_of(request).store)
    return FraudCases(
        cases=[
            FraudCase(**_fields(case), review=_answer(decided.get(case_id)))
            for case_id, case in found.items()
        ]
    )


@router.post(
    "/v1/admin/fraud/{case_id}", responses=responses(400, 401, 403, 404, 409, 413, 415, 503)
)
async def review_fraud(
    request: Request, caller: Admin, key: Key, case_id: str, body: NewReview
) -> FraudReview:
    """Decide about a case. It goes into the audit log; credits and users stay as they are."""
    store = gateway_of(request).store
    content = {"case_id": case_id, "verdict": body.verdict, "reason": body.reason}
    call = key.call(store.keys, caller.user_id, content)
    if before := await once.found(store.pool, call):
        return _said(fraud_reviews.reviewed(before))
    if case_id not in await _cases(request):
        raise Problem("not_found", "There is no such case.")
    try:
        done = await fraud_reviews.review(
            store,
            case_id,
            body.verdict,
            actor=caller.user_id,
            reason=body.reason,
            call=call,
        )
    except Rejected as error:
        raise rejection(error) from None
    return _said(done)


async def _cases(request: Request) -> dict[str, dict[str, Any]]:
    try:
        return dict(await gateway_of(request).fraud_cases())
    except OSError:
        detail = "Kafka does not answer; suspicions are kept there."
        raise Problem("check_unavailable", detail, headers={"Retry-After": "1"}) from None


def _fields(case: dict[str, Any]) -> dict[str, Any]:
    names = ("case_id", "rule", "account", "count", "users", "first_at", "at")
    return {name: case[name] for name in names}


def _answer(review: fraud_reviews.Review | None) -> FraudReview | None:
    return None if review is None else _said(review)


def _said(review: fraud_reviews.Review) -> FraudReview:
    return FraudReview(verdict=review.verdict, by=review.actor, reason=review.reason, at=review.at)
