"""What the identity provider tells about its users: signed, in any order, as often as it likes."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Header, Request

from faregate.gateway.callers import GuardedRoute, Public, require_json
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Answer
from faregate.gateway.identity import keycloak
from faregate.gateway.invitations import accept_invitations
from faregate.gateway.parsing import parse_json
from faregate.gateway.problems import Problem, responses
from faregate.gateway.registering import register_account

router = APIRouter(route_class=GuardedRoute, tags=["Webhooks"], dependencies=[Public])

_EVENT = {
    "description": "One event of Keycloak, a user event or an admin event, as it is.",
    "required": True,
    "content": {"application/json": {"schema": {"type": "object"}}},
}


class Received(Answer):
    """`applied`: the user is known now as the event says; `ignored`: it changes nothing here."""

    status: Literal["applied", "ignored"]


@router.post(
    "/webhooks/identity",
    responses=responses(400, 401, 404, 409, 413, 415, 503),
    openapi_extra={"requestBody": _EVENT},
)
async def identity_event(
    request: Request,
    signature: Annotated[
        str | None,
        Header(
            alias=keycloak.SIGNATURE,
            description="HMAC-SHA256 over the body with the shared secret, in lower-case hex.",
        ),
    ] = None,
) -> Received:
    """Take in an event of Keycloak: make a user known, provision their credit account.

    Everything is safe to repeat. What is of no interest is answered 200, since a sender repeats
    what is not; a 503 is to be repeated.
    """
    gateway = gateway_of(request)
    secret = gateway.settings.identity_webhook_secret
    if secret is None:
        raise Problem(
            "not_found",
            "No webhook of an identity provider is set up here.",
            helps="Tell the operator: FAREGATE_IDENTITY_WEBHOOK_SECRET is not set.",
        )
    body = await request.body()
    if not keycloak.is_signed(secret.get_secret_value(), body, signature or ""):
        gateway.metrics.identity_events.labels("refused").inc()
        raise Problem("signature_invalid", f"{keycloak.SIGNATURE} is not the body's signature.")
    require_json(request)
    event = keycloak.read(parse_json(body, gateway.settings.max_depth))
    status: Literal["applied", "ignored"] = "ignored"
    if event is not None and _of_our_realm(gateway, event) and await _apply(gateway, event):
        status = "applied"
    gateway.metrics.identity_events.labels(status).inc()
    return Received(status=status)


def _of_our_realm(gateway: Gateway, event: keycloak.UserEvent) -> bool:
    """Leave out users who cannot sign in here: a sender may be set up for every realm."""
    _, slash, realm = (gateway.settings.oidc_issuer or "").rstrip("/").rpartition("/realms/")
    return not slash or event.realm is None or event.realm == unquote(realm)


async def _apply(gateway: Gateway, event: keycloak.UserEvent) -> bool:
    """Do what an event asks for; each step is safe to repeat, so a failed one is sent again."""
    known = await gateway.outside.learn(event)
    if known == "gone":
        return event.deleted
    if event.created:
        await register_account(gateway, event.user_id)
        await gateway.lago.customers.want(f"user:{event.user_id}")
    if event.verified:
        await register_account(gateway, event.user_id, email_verified=True)
        if event.email is not None and known == "newest":
            await accept_invitations(gateway, event.user_id, event.email)
    return event.created or event.verified is not None
