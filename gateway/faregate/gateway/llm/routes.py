"""The LLM proxy over HTTP, as OpenAI's clients speak it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from faregate.gateway.callers import GuardedRoute, Payer, Reader, SpendingPayer, StrictRequest
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Answer
from faregate.gateway.idempotency import Key
from faregate.gateway.llm.asked import ChatRequest, read
from faregate.gateway.llm.money import Fare, reserve
from faregate.gateway.llm.rate_headers import of_call, rate_headers
from faregate.gateway.middleware import late_body
from faregate.gateway.problems import Problem, responses
from faregate.ledger.core.prices_models import unique_names
from faregate.ledger.database import TRANSIENT

_AGAIN = frozenset({500, 502, 503, 504})
_EVENT = {
    "description": "One server-sent event of the stream; comments between them are no events.",
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {
            "description": "A `chat.completion.chunk` as JSON; at the end `[DONE]`, or an `error`.",
            "type": "string",
            "minLength": 1,
        }
    },
}
_DESCRIBED = {
    "description": "A completion, as the upstream answered it; with `stream` its chunks as events.",
    "content": {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {"schema": _EVENT},
    },
    "headers": {
        name: {"schema": {"type": "string"}}
        for name in (
            "X-Credits-Charged",
            "X-Credits-Remaining",
            "X-Faregate-Usage-Id",
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
            "RateLimit",
            "RateLimit-Policy",
        )
    },
}


class OpenAIRoute(GuardedRoute):
    """A route whose problems have the member `error` as well, where OpenAI's clients look."""

    async def arrived(self, request: StrictRequest) -> None:
        """Wait for the body within the time of any other call: answers take longer than that."""
        limit = gateway_of(request).settings.timeout_s
        try:
            async with asyncio.timeout(limit):
                await request.body()
        except TimeoutError:
            raise late_body(limit) from None

    def explain(self, problem: Problem) -> None:
        """Say it in the member `error`, and whether the same call may succeed later."""
        problem.more["error"] = {
            "message": f"{problem.detail} {problem.help}",
            "type": problem.reason,
            "param": None,
            "code": problem.reason,
        }
        if problem.status not in _AGAIN and problem.reason != "rate_limited":
            problem.headers["X-Should-Retry"] = "false"  # the same call fails again


router = APIRouter(route_class=OpenAIRoute, tags=["LLM"])


class Model(Answer):
    """A model that can be called."""

    id: str
    object: str = "model"
    created: int
    owned_by: str


class Models(Answer):
    """The models that have a price, as OpenAI lists them."""

    object: str = "list"
    data: list[Model]


@router.post("/v1/chat/completions", responses=responses(
    400, 401, 402, 403, 409, 413, 415, 422, 429, 502, 503, 504) | {200: _DESCRIBED},
    response_class=Response)  # fmt: skip
@router.post("/api/v1/llm/chat/completions", responses=responses(
    400, 401, 402, 403, 409, 413, 415, 422, 429, 502, 503, 504) | {200: _DESCRIBED},
    response_class=Response)  # fmt: skip
async def complete(
    request: Request,
    payer: SpendingPayer,
    key: Key,
    body: ChatRequest,
    x_byok_provider: Annotated[
        str | None,
        Header(max_length=50, description="Go out with your own key of this provider: 0 credits."),
    ] = None,
) -> Response:
    """Ask a model. The estimate is held, what the upstream reports is charged.

    Answers are not kept: a repeated Idempotency-Key is a 409, and nothing is charged for it.
    """
    gateway = gateway_of(request)
    asked = read(
        body,
        await request.body(),
        byok=x_byok_provider is not None,
        default_max_tokens=gateway.llm.settings.default_max_tokens,
    )
    if x_byok_provider is None:
        target, version = gateway.llm.platform(), 0
    else:
        target, opened = await gateway.llm.own(payer.user, x_byok_provider.strip().lower())
        version = opened.version
    fare: Fare | None = None
    try:
        fare = await reserve(
            gateway,
            payer,
            key.of(payer.caller.user_id),
            asked,
            provider=target.provider,
            ttl_s=gateway.llm.ttl_s,
        )
        answer = await gateway.llm.call(target, fare)
    except Problem as problem:
        if problem.reason == "byok_key_invalid":
            await gateway.llm.vault.mark(payer.user, str(target.provider), version, "refused")
        problem.headers |= of_call(fare.quota) if fare else await _rates(gateway, payer)
        raise
    answer.headers.update(of_call(fare.quota))
    return answer


async def _rates(gateway: Gateway, payer: Payer) -> dict[str, str]:
    """Give the rate headers; an answer does not fail for want of them."""
    try:
        return await rate_headers(gateway.store, payer.user)
    except TRANSIENT:
        return {}


@router.get("/v1/models", responses=responses(401, 403, 503))
@router.get("/api/v1/llm/models", responses=responses(401, 403, 503))
async def models(request: Request, _caller: Reader) -> Models:
    """List the models that have a price in force and are active."""
    books, now = await gateway_of(request).store.books()
    book = books.in_force(now)
    if book is None:
        return Models(data=[])
    unique = unique_names(book.models)
    created = max(0, int((book.effective_from - datetime.fromtimestamp(0, UTC)).total_seconds()))
    return Models(
        data=[
            Model(
                id=price.bare_name if price.bare_name in unique else name,
                created=created,
                owned_by=price.provider or "faregate",
            )
            for name, price in sorted(book.models.items())
            if book.is_active(None, name)
        ]
    )


__all__ = ["router"]
