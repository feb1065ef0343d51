"""Registering and signing in, by the embedded identity."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar
from uuid import uuid4

import structlog
from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field, SecretStr

from faregate.events.amounts import to_credits
from faregate.gateway.callers import Caller, GuardedRoute, Public
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Answer, Body, Email, Id, Number, Text
from faregate.gateway.idempotency import Key
from faregate.gateway.identity import users
from faregate.gateway.identity.embedded import Embedded
from faregate.gateway.identity.passwords import MAX_CHARS, MIN_CHARS
from faregate.gateway.identity.users import User
from faregate.gateway.invitations import accept_invitations
from faregate.gateway.organizations import create_org
from faregate.gateway.problems import Problem, responses
from faregate.gateway.registering import register_account
from faregate.gateway.settings import USER_SCOPES
from faregate.ledger import once

log = structlog.get_logger("faregate.gateway")
Value = TypeVar("Value")
router = APIRouter(route_class=GuardedRoute, tags=["Sign-in"], dependencies=[Public])

STEP_S = 3.0
"""Registering does not wait longer for the credit account, for memberships, for an organization."""


def _without_nul(value: SecretStr) -> SecretStr:
    if "\0" in value.get_secret_value():
        raise ValueError("a password has no NUL")
    return value


Secret = Annotated[SecretStr, AfterValidator(_without_nul)]
Password = Annotated[Secret, Field(min_length=MIN_CHARS, max_length=MAX_CHARS)]


class Registration(Body):
    """Somebody new."""

    email: Email
    password: Password
    name: Text | None = None
    organization: Text | None = Field(None, description="Make an organization of this name.")
    referral: Id | None = Field(None, description="Who sent them (`user:<id>`) or a campaign.")


class Registered(Answer):
    """The new user."""

    user_id: str
    org_id: str | None
    access_token: str
    credits_remaining: Number | None = Field(
        description="null: the account is provisioned with its first use."
    )


class Login(Body):
    """Who signs in; `username` is the e-mail address under another name."""

    username: Text | None = None
    email: Text | None = None
    password: Annotated[Secret, Field(min_length=1, max_length=MAX_CHARS)]


class Token(Answer):
    """A bearer token, valid for `expires_in` seconds."""

    access_token: str
    token_type: str
    expires_in: int


@router.post(
    "/auth/register", status_code=201, responses=responses(400, 404, 409, 413, 415, 429, 503)
)
async def register(request: Request, key: Key, body: Registration) -> Registered:
    """Register a user, an organization if asked, and the credit account.

    A repeat with the same Idempotency-Key and password does what could not be done before, and is
    answered with the same ids, a new token and the credits as they are now.
    """
    gateway, user_id = gateway_of(request), str(uuid4())
    embedded = _embedded(gateway)
    content = body.model_dump(exclude={"password"})
    scope = f"address {body.email.lower()}"  # nobody knows yet who calls
    done = await embedded.register(
        User(user_id, body.email, None, body.name, is_admin=False),
        body.password.get_secret_value(),
        _address(request),
        key.call(gateway.store.keys, user_id, content, scope=scope),
    )
    user_id, token = done.user.user_id, await embedded.token(done.user)
    credits_ = await _if_possible("provisioning", _provisioned(gateway, user_id, body.referral))
    org_id = await _if_possible("invitations", _joined(gateway, done, body.email))
    if body.organization is not None:
        caller = Caller(user_id, USER_SCOPES)
        named = gateway.store.keys.internal("organization on registering", user_id).hex()
        made = create_org(gateway, caller, body.organization, named)
        org_id = await _if_possible("organization", made)
    made_org = org_id if body.organization is not None else None
    await _if_possible("lago", _customers(gateway, user_id, made_org))
    return Registered(
        user_id=user_id, org_id=org_id, access_token=token, credits_remaining=credits_
    )


@router.post("/api/auth/login", responses=responses(400, 401, 404, 409, 413, 415, 429, 503))
async def login(request: Request, key: Key, body: Login) -> Token:
    """Give a token for an e-mail address and its password; each time a new one."""
    gateway = gateway_of(request)
    embedded = _embedded(gateway)
    email = body.email or body.username
    if email is None:
        raise Problem(
            "validation_failed",
            "email: send the e-mail address as `email` or `username`",
            errors=[{"field": "email", "message": "send the e-mail address"}],
        )
    password = body.password.get_secret_value()
    user, token = await embedded.login(email, password, _address(request))
    await _once(gateway, key, user, body)
    await _if_possible("invitations", accept_invitations(gateway, user.user_id, email))
    return Token(access_token=token, token_type="bearer", expires_in=embedded.token_ttl_s)  # noqa: S106


def _embedded(gateway: Gateway) -> Embedded:
    if gateway.embedded is None:
        raise Problem(
            "not_found",
            "Users sign in with the OpenID Connect issuer of this installation.",
            helps="Get a token from that issuer.",
        )
    return gateway.embedded


async def _if_possible(step: str, work: Coroutine[Any, Any, Value]) -> Value | None:
    """Do what comes after the user is there; None when it cannot be done now, whatever is wrong.

    Each of these happens later: the account with its first use, a membership with the next
    sign-in, an organization when it is asked for again.
    """
    try:
        async with asyncio.timeout(STEP_S):
            return await work
    except Exception as error:
        log.warning("registered_without", step=step, error=type(error).__name__, exc_info=True)
        return None


async def _once(gateway: Gateway, key: Key, user: User, body: Login) -> None:
    """Refuse a key that another sign-in of this user had: other fields, or a password since changed.

    The hash of the password is salted and slow; what is kept is a keyed hash of it.
    """
    content = {"username": body.username, "email": body.email, "hash": user.password_hash}
    call = key.call(gateway.store.keys, user.user_id, content)
    if call is None:
        return
    async with gateway.store.pool.acquire() as connection, connection.transaction():
        if await once.answered(connection, call) is None:
            await once.remember(connection, call, {})


async def _joined(gateway: Gateway, done: users.Registered, email: str) -> str | None:
    """Make them a member of who has invited them; give the first, also when that is done already."""
    await accept_invitations(gateway, done.user.user_id, email)
    return done.org_id


async def _customers(gateway: Gateway, user_id: str, org_id: str | None) -> None:
    """Have customers made in Lago for the user and the organization they made."""
    await gateway.lago.customers.want(f"user:{user_id}")
    if org_id is not None:
        await gateway.lago.customers.want(f"org:{org_id}")


async def _provisioned(gateway: Gateway, user_id: str, referral: str | None) -> float:
    """Make the credit account; give what is available."""
    row = await register_account(gateway, user_id, referral=referral)
    return to_credits(row["balance"] - row["held"]) if row else 0


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"
