"""Organizations: make one, read it, invite somebody."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request

from faregate.gateway.answers import rejection
from faregate.gateway.callers import GuardedRoute, Manager, Reader, require_role
from faregate.gateway.context import VIA, gateway_of
from faregate.gateway.fields import Answer, Body, Email, Id, Text
from faregate.gateway.idempotency import Key
from faregate.gateway.organizations import create_org, name_of
from faregate.gateway.problems import Problem, responses
from faregate.ledger import acts, reading_orgs
from faregate.ledger.core import Rejected

router = APIRouter(route_class=GuardedRoute, tags=["Organizations"])

OrgId = Annotated[Id, Path(description="The org's id.")]


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


@router.get("/api/v1/org/{org_id}", responses=responses(400, 401, 403, 503))
async def details(request: Request, caller: Reader, org_id: OrgId) -> OrgDetails:
    """Read an organization that the caller belongs to."""
    gateway = gateway_of(request)
    role = await require_role(gateway, caller, org_id, admin=False)
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
    user = await gateway.users.by_email(body.email)
    if user is None:
        await gateway.users.invite(org_id, body.email, body.role, caller.user_id)
        return Invited(
            org_id=org_id, email=body.email, role=body.role, status="invited", user_id=None
        )
    if user.user_id == caller.user_id and body.role != "admin":
        raise Problem("conflict", "Somebody else must change your own role.")
    try:
        await acts.set_member(
            gateway.store,
            f"org:{org_id}",
            f"user:{user.user_id}",
            body.role,
            actor=caller.user_id,
            key=f"{key.of(caller.user_id)} {org_id}",
            via=VIA,
        )
    except Rejected as error:
        raise rejection(error) from None
    return Invited(
        org_id=org_id, email=body.email, role=body.role, status="member", user_id=user.user_id
    )
