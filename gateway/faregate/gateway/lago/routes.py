"""`POST /webhooks/lago` (docs/lago.md)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from faregate.gateway.callers import GuardedRoute, Public, require_json
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer
from faregate.gateway.lago.service import Result
from faregate.gateway.parsing import parse_json
from faregate.gateway.problems import Problem, responses

router = APIRouter(route_class=GuardedRoute, tags=["Webhooks"], dependencies=[Public])

_MESSAGE: dict[str, Any] = {
    "parameters": [
        {
            "name": "X-Lago-Signature",
            "in": "header",
            "required": True,
            "description": "Of the body: HMAC-SHA256 in base64, or a JWT, as the settings say.",
            "schema": {"type": "string"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "title": "LagoMessage",
                    "description": "A message that Lago publishes, with the object it is about.",
                    "properties": {
                        "webhook_type": {"type": "string"},
                        "object_type": {"type": "string"},
                        "organization_id": {"type": "string"},
                    },
                    "required": ["webhook_type"],
                }
            }
        },
    },
}


class Taken(Answer):
    """What a message did. `unchanged`: it was known; `ignored`: it is not about credits."""

    result: Result
    reason: str | None


@router.post(
    "/webhooks/lago",
    responses=responses(400, 401, 404, 413, 415, 422, 503),
    openapi_extra=_MESSAGE,
)
async def webhook(request: Request) -> Taken:
    """Take a message of Lago: a subscription becomes a tier, what was paid for is granted."""
    gateway = gateway_of(request)
    if gateway.lago.signature is None:
        raise Problem("not_found", "Webhooks of Lago are not set up in this installation.")
    require_json(request)
    body = await request.body()
    gateway.lago.signature.check(body, request.headers)
    result, reason = await gateway.lago.take(parse_json(body, gateway.settings.max_depth))
    return Taken(result=result, reason=reason)
