"""The LLM proxy over HTTP, as OpenAI's clients speak it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.types import Message

from faregate.gateway.callers import GuardedRoute, Payer, Reader, SpendingPayer
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Answer
from faregate.gateway.idempotency import Key
from faregate.gateway.llm.asked import ChatRequest, read
from faregate.gateway.llm.money import reserve
from faregate.gateway.llm.rate_headers import rate_headers
from faregate.gateway.middleware import late_body
from faregate.gateway.problems import Problem, responses
from faregate.ledger.core.prices_models import unique_names
from faregate.ledger.database import TRANSIENT

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
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

    def get_route_handler(self) -> Handler:
        """Wrap the handler."""
        handler = super().get_route_handler()

        async def explaining(request: Request) -> Response:
            try:
                return await handler(await _arrived(request))
            except Problem as problem:
                problem.more["error"] = {
                    "message": f"{problem.detail} {problem.help}",
                    "type": problem.reason,
                    "param": None,
                    "code": problem.reason,
                }
                if problem.status not in _AGAIN and problem.reason != "rate_limited":
                    problem.headers["X-Should-Retry"] = "false"  # the same call fails again
                raise

        return explaining


async def _arrived(request: Request) -> Request:
    """Wait for the body, within the time of any other call: answers here take longer than that."""
    limit = gateway_of(request).settings.timeout_s
    try:
        async with asyncio.timeout(limit):
            body = await request.body()
    except TimeoutError:
        raise late_body(limit) from None
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return parts.pop() if parts else await request.receive()

    return Request(request.scope, receive)


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
    """Ask a model. The estimate is held, what the upstream reports is charged."""
    gateway = gateway_of(request)
    asked = read(
        body,
        await request.body(),
        byok=x_byok_provider is not None,
        default_max_tokens=gateway.llm.settings.default_max_tokens,
    )
    if x_byok_provider is None:
        target, version = gateway.llm.platform(), 0
        await _require_price(gateway, asked.model)
    else:
        target, opened = await gateway.llm.own(payer.user, x_byok_provider.strip().lower())
        version = opened.version
    rates: asyncio.Task[dict[str, str]] | None = None
    try:
        fare = await reserve(
            gateway,
            payer,
            key.of(payer.caller.user_id),
            asked,
            provider=target.provider,
            ttl_s=gateway.llm.ttl_s,
        )
        rates = gateway.llm.spawn(_rates(gateway, payer))  # while the upstream is at work
        answer = await gateway.llm.call(target, fare)
    except Problem as problem:
        if problem.reason == "byok_key_invalid":
            await gateway.llm.vault.mark(payer.user, str(target.provider), version, "refused")
        problem.headers |= await (rates or _rates(gateway, payer))
        raise
    answer.headers.update(await rates)
    return answer


async def _rates(gateway: Gateway, payer: Payer) -> dict[str, str]:
    """Give the rate headers; an answer does not fail for want of them."""
    try:
        return await rate_headers(gateway.store, payer.user)
    except TRANSIENT:
        return {}


async def _require_price(gateway: Gateway, model: str) -> None:
    """Raise Problem `unknown_price` for a model that has no price in force, or is inactive."""
    books, now = await gateway.store.books()
    book = books.in_force(now)
    if book is None or not book.is_active(None, model):
        raise Problem("unknown_price", f"No price is in force for the model {model!r}.")


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
