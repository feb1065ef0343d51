"""Organizations: make one, read it, invite somebody, leave it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import asyncpg
from fastapi import APIRouter, Path, Request, Response

from faregate.gateway.answers import rejection
from faregate.gateway.callers import Caller, GuardedRoute, Manager, Reader, require_role
from faregate.gateway.context import VIA, Gateway, gateway_of
from faregate.gateway.fields import Answer, Body, Email, Id, Text
from faregate.gateway.idempotency import Key
from faregate.gateway.organizations import create_org, name_of
from faregate.gateway.problems import Problem, responses
from faregate.ledger import acts, once, reading_orgs
from faregate.ledger.core import Rejected

router = APIRouter(route_class=GuardedRoute, tags=["Organizations"])

_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('faregate.members ' || $1, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('faregate.members ' || $1, 0))"

OrgId = Annotated[Id, Path(description="The org's id.")]
UserId = Annotated[Id, Path(description="The user's id.")]


class NewOrg(Body):
    """An organization to be made."""

    name: Text


class Org(Answer):
    """An organization, and what the caller is in it."""

    org_id: str
    name: str
    role: Literal["admin", "member"]


class Member(Answer):
    """Somebody who belongs to an organization."""

    user_id: str
    role: str


class OrgDetails(Org):
    """An organization with its members (for its admins) and how its credits may be spent."""

    spending_policy: str
    members: list[Member] | None


class Invite(Body):
    """Who is invited, and as what."""

    email: Email
    role: Literal["admin", "member"] = "member"


class Invited(Answer):
    """`member`: at once, since they are known; `invited`: as soon as they register."""

    org_id: str
    email: str
    role: str
    status: Literal["member", "invited"]
    user_id: str | None


@router.post("/api/v1/org", status_code=201, responses=responses(400, 401, 403, 409, 413, 415, 503))
async def create(request: Request, caller: Manager, key: Key, body: NewOrg) -> Org:
    """Make an organization; the caller is its admin, members need an allocation."""
    gateway = gateway_of(request)
    try:
        org_id = await create_org(gateway, caller, body.name, key.of(caller.user_id))
    except Rejected as error:
        raise rejection(error) from None
    await gateway.lago.customers.want(f"org:{org_id}")
    return Org(org_id=org_id, name=body.name, role="admin")


@router.get("/api/v1/org/{org_id}", responses=responses(400, 401, 403, 404, 503))
async def details(request: Request, caller: Reader, org_id: OrgId) -> OrgDetails:
    """Read an organization that the caller belongs to."""
    gateway = gateway_of(request)
    role = await require_role(gateway, caller, org_id, admin=False, reads=True)
    found = await reading_orgs.organization(gateway.store, f"org:{org_id}")
    members = await reading_orgs.members(gateway.store, f"org:{org_id}")
    shown = [Member(user_id=m["user_id"], role=m["role"]) for m in members]
    return OrgDetails(
        org_id=org_id,
        name=await name_of(gateway, org_id),
        role="admin" if role == "admin" else "member",
        spending_policy=found["policy"],
        members=shown if role == "admin" else None,
    )


@router.post(
    "/api/v1/org/{org_id}/invite",
    status_code=201,
    responses=responses(400, 401, 403, 409, 413, 415, 503),
)
async def invite(
    request: Request, caller: Manager, key: Key, org_id: OrgId, body: Invite
) -> Invited:
    """Invite somebody by e-mail address: a known user is a member at once."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=True)
    content = {"org_id": org_id, "email": body.email, "role": body.role}
    call = key.call(gateway.store.keys, caller.user_id, content)
    answer = await once.found(gateway.store.pool, call)
    if answer is None:
        answer = await _invited(gateway, caller, org_id, body, call)
    user = await _member(gateway, answer["user"])
    if user is not None:
        try:
            await acts.set_member(
                gateway.store,
                f"org:{org_id}",
                user,
                body.role,
                actor=caller.user_id,
                key=f"{key.of(caller.user_id)} {org_id}",
                via=VIA,
            )
        except Rejected as error:
            raise rejection(error) from None
    return Invited(
        org_id=org_id,
        email=body.email,
        role=body.role,
        status=answer["status"],
        user_id=user and user.removeprefix("user:"),
    )


@router.delete(
    "/api/v1/org/{org_id}/members/{user_id}",
    status_code=204,
    response_class=Response,
    responses=responses(400, 401, 403, 404, 409, 503),
)
async def remove(
    request: Request, caller: Manager, key: Key, org_id: OrgId, user_id: UserId
) -> Response:
    """Leave an org, or as its admin remove a member: what is free of their allocation goes back.

    What they hold still settles. The only admin of an org cannot leave it.
    """
    gateway = gateway_of(request)
    call = key.call(gateway.store.keys, caller.user_id, {"org_id": org_id, "user_id": user_id})
    named = f"{key.of(caller.user_id)} {org_id}"
    async with _one_at_a_time(gateway, org_id) as connection:
        if not await acts.was_done(gateway.store, VIA, named):
            await _require_removable(gateway, caller, org_id, user_id)
        async with connection.transaction():
            if await once.answered(connection, call) is None:
                await once.remember(connection, call, {})
        try:
            await acts.set_member(
                gateway.store,
                f"org:{org_id}",
                f"user:{user_id}",
                "removed",
                actor=caller.user_id,
                key=named,
                via=VIA,
            )
        except Rejected as error:
            raise rejection(error) from None
    return Response(status_code=204)


@asynccontextmanager
async def _one_at_a_time(gateway: Gateway, org_id: str) -> AsyncIterator[asyncpg.Connection]:
    """Let nobody else remove members of an org: two admins who leave at once would leave none.

    Raises Problem `conflict` where somebody does.
    """
    async with gateway.store.pool.acquire() as connection:
        if not await connection.fetchval(_TRY_LOCK, org_id):
            detail = "Somebody else is removing a member of this organization just now."
            raise Problem("conflict", detail, helps="Try again in a moment.")
        try:
            yield connection
        finally:
            await connection.execute(_UNLOCK, org_id)


async def _require_removable(gateway: Gateway, caller: Caller, org_id: str, user_id: str) -> None:
    """Check that there is such a member, and that the caller may end that.

    An org keeps an admin: nobody else could do anything for it. Raises Problem.
    """
    is_self = user_id == caller.user_id
    await require_role(gateway, caller, org_id, admin=not is_self)
    roles = await reading_orgs.roles(gateway.store, f"org:{org_id}")
    if user_id not in roles:
        detail = "This user is not a member of the organization."
        raise Problem("not_found", detail, helps="Read who is one with GET /api/v1/org/{org_id}.")
    if is_self and [u for u, role in roles.items() if role == "admin"] == [user_id]:
        detail = "You are the only admin of this organization."
        raise Problem("conflict", detail, helps="Make somebody else an admin of it first.")


async def _invited(
    gateway: Gateway, caller: Caller, org_id: str, body: Invite, call: once.Call | None
) -> once.Answer:
    """Invite whoever is not known; of who is, only keep what is to be done: an act does it.

    `user` is the number of their account, so a repeat means the same person whatever happened to
    addresses since.
    """
    user = await gateway.users.by_email(body.email)
    if user is None:
        return await gateway.users.invite(org_id, body.email, body.role, caller.user_id, call)
    if user.user_id == caller.user_id and body.role != "admin":
        raise Problem("conflict", "Somebody else must change your own role.")
    await gateway.store.names.renew()
    (number,) = (await gateway.store.names.ids([f"user:{user.user_id}"])).values()
    async with gateway.store.pool.acquire() as connection, connection.transaction():
        if before := await once.answered(connection, call):
            return before
        answer = {"status": "member", "user": number}
        await once.remember(connection, call, answer)
        return answer


async def _member(gateway: Gateway, number: int | None) -> str | None:
    """Give the user of an account; None where there is none, and for one that was erased."""
    if number is None:
        return None
    subject = (await gateway.store.names.subjects([number]))[number]
    return subject if subject.startswith("user:") else None
