"""Users' own keys over HTTP: put in and taken out, never read."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Request, Response
from pydantic import Field, SecretStr, StringConstraints, field_validator

from faregate.gateway.byok.providers import PROVIDERS
from faregate.gateway.byok.vault import Kept, Status, masked
from faregate.gateway.callers import GuardedRoute, Manager, Reader
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer, Body
from faregate.gateway.idempotency import Key
from faregate.gateway.llm.upstream import Target
from faregate.gateway.problems import Problem, responses

log = structlog.get_logger("faregate.gateway")
router = APIRouter(route_class=GuardedRoute, tags=["BYOK"])

Provider = Annotated[
    str,
    StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=50),
    Field(examples=["openrouter"]),
]


class NewKey(Body):
    """A key of a provider; it is sealed, and never shown again."""

    provider: Provider
    api_key: Annotated[SecretStr, Field(min_length=8, max_length=512)]

    @field_validator("api_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("a key has printable ASCII characters and no blanks")
        return value


class StoredKey(Answer):
    """What may be seen of a stored key."""

    provider: str
    masked: str
    created_at: datetime


class KeyStatus(StoredKey):
    """A stored key: `stored`, `valid` (its provider said so) or `refused` (it said no)."""

    status: Status
    status_at: datetime


class StoredKeys(Answer):
    """All keys of the caller."""

    object: Literal["list"] = "list"
    keys: list[KeyStatus]


@router.post(
    "/api/v1/settings/byok-keys",
    status_code=201,
    responses=responses(400, 401, 403, 409, 413, 415, 502, 503),
)
async def store_key(request: Request, caller: Manager, key: Key, body: NewKey) -> StoredKey:
    """Store a key in the place of the one before; checked with its provider where that is set."""
    gateway = gateway_of(request)
    llm = gateway.llm
    target = Target(llm.place(body.provider), body.api_key, body.provider)
    if llm.vault.is_locked:
        raise Problem("byok_not_configured")
    prints = llm.vault.fingerprints(body.api_key)
    contents = [{"provider": body.provider, "key": one} for one in prints]
    call = key.call(gateway.store.keys, caller.user_id, *contents)
    if at := await llm.vault.stored_at(call):
        return _stored(body, at)
    status: Status = "stored"
    if llm.settings.byok_check:
        if not await llm.accepts(target):
            raise Problem(
                "byok_key_invalid", f"{body.provider} refused the key; it was not stored."
            )
        status = "valid"
    at = await llm.vault.put(caller.user, body.provider, body.api_key, status, call)
    log.info("byok_key_stored", provider=body.provider)
    return _stored(body, at)


def _stored(body: NewKey, at: datetime) -> StoredKey:
    return StoredKey(provider=body.provider, masked=masked(body.api_key), created_at=at)


@router.get("/api/v1/settings/byok-keys", responses=responses(401, 403, 503))
async def list_keys(request: Request, caller: Reader) -> StoredKeys:
    """List the caller's keys, masked."""
    kept = await gateway_of(request).llm.vault.list(caller.user)
    return StoredKeys(keys=[_status(one) for one in kept])


def _status(kept: Kept) -> KeyStatus:
    return KeyStatus(
        provider=kept.provider,
        masked=kept.masked,
        created_at=kept.created_at,
        status=kept.status,
        status_at=kept.status_at,
    )


@router.delete(
    "/api/v1/settings/byok-keys/{provider}",
    status_code=204,
    response_class=Response,
    responses=responses(400, 401, 403, 404, 409, 503),
)
async def delete_key(request: Request, caller: Manager, key: Key, provider: Provider) -> Response:
    """Forget a key."""
    gateway, known = gateway_of(request), provider in PROVIDERS
    call = key.call(gateway.store.keys, caller.user_id, {"provider": provider})
    if not known or not await gateway.llm.vault.delete(caller.user, provider, call):
        raise Problem("not_found", "You have stored no key of this provider.")
    log.info("byok_key_deleted")
    return Response(status_code=204)
