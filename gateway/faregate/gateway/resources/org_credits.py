"""What an organization has: buy for it, allocate it to members, see who used what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from faregate.events.amounts import to_credits
from faregate.gateway.answers import rejection
from faregate.gateway.callers import Caller, GuardedRoute, Manager, Reader, require_role
from faregate.gateway.context import VIA, Gateway, gateway_of
from faregate.gateway.fields import Amount, Answer, Body, Email, Id, Note, Number, Timestamp
from faregate.gateway.idempotency import Key
from faregate.gateway.paging import From, To
from faregate.gateway.problems import Problem, invalid, responses
from faregate.gateway.resources.orgs import OrgId
from faregate.ledger import acts, reading_orgs
from faregate.ledger.core import Rejected

router = APIRouter(
    prefix="/api/v1/credits/organization/{org_id}",
    route_class=GuardedRoute,
    tags=["Organization credits"],
)


class OrgCredits(Answer):
    """An org's account. `allocated_credits`: what members may still spend of it (limits)."""

    org_id: str
    total_credits: Number
    allocated_credits: Number
    available_credits: Number
    held: Number
    debt: Number


class Purchase(Body):
    """Credits that were bought."""

    credits: Amount
    reference: Note | None = Field(None, description="The invoice, for people.")


class Purchased(OrgCredits):
    """The org's account after a purchase of `credits`."""

    credits: Number
    reference: str | None


class NewAllocation(Body):
    """How much more a member may spend; named by id or e-mail address."""

    user_id: Id | None = None
    email: Email | None = None
    credits: Amount
    expires_at: Timestamp | None = None


class MyAllocation(Answer):
    """What a member may spend of the org's credits."""

    allocated: Number
    used: Number
    remaining: Number


class Allocated(MyAllocation):
    """The member's allocation after it was raised."""

    org_id: str
    user_id: str


class Attribution(Answer):
    """Usage by what was asked for. `total` is what the ledger charged, refunds taken off."""

    org_id: str
    group_by: list[str]
    since: datetime | None = Field(serialization_alias="from")
    until: datetime | None = Field(serialization_alias="to")
    rows: list[dict[str, Any]]
    total: Number
    totals: dict[str, Any]


@router.get("", responses=responses(400, 401, 403, 404, 503))
async def credits_(request: Request, caller: Reader, org_id: OrgId) -> OrgCredits:
    """Read the account of an org that the caller belongs to."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=False, reads=True)
    return OrgCredits(**await _account(gateway, org_id))


@router.post("/purchase", responses=responses(400, 401, 403, 409, 413, 415, 503))
async def purchase(
    request: Request, caller: Manager, key: Key, org_id: OrgId, body: Purchase
) -> Purchased:
    """Add bought credits; debt takes its part first."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=True)
    if not (gateway.settings.self_purchase or caller.is_admin):
        raise Problem("forbidden", "Credits are bought through billing here.")
    try:
        await acts.grant(
            gateway.store,
            f"org:{org_id}",
            "purchase",
            body.credits,
            actor=caller.user_id,
            key=f"{key.of(caller.user_id)}",
            via=VIA,
            notes=body.reference,
        )
    except Rejected as error:
        raise rejection(error) from None
    account = await _account(gateway, org_id)
    return Purchased(**account, credits=to_credits(body.credits), reference=body.reference)


@router.post("/allocate", responses=responses(400, 401, 403, 404, 409, 413, 415, 503))
async def allocate(
    request: Request, caller: Manager, key: Key, org_id: OrgId, body: NewAllocation
) -> Allocated:
    """Let a member spend more. Allocations may together exceed the balance; spending may not."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=True)
    user_id = await _user(gateway, caller, org_id, body)
    try:
        await acts.allocate(
            gateway.store,
            f"org:{org_id}",
            f"user:{user_id}",
            body.credits,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            expires_at=body.expires_at,
            allocated_by=caller.user_id,
        )
    except Rejected as error:
        raise rejection(error) from None
    mine = await _allocation(gateway, org_id, user_id)
    return Allocated(org_id=org_id, user_id=user_id, **mine)


@router.get("/my-allocation", responses=responses(400, 401, 403, 404, 503))
async def my_allocation(request: Request, caller: Reader, org_id: OrgId) -> MyAllocation:
    """Read what the caller may spend of the org's credits."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=False, reads=True)
    return MyAllocation(**await _allocation(gateway, org_id, caller.user_id))


@router.get("/usage-attribution", responses=responses(400, 401, 403, 404, 503))
async def attribution(
    request: Request,
    caller: Reader,
    org_id: OrgId,
    group_by: Annotated[
        str, Query(max_length=100, description="Any of member,model,phase,day, with commas.")
    ] = "member",
    since: From = None,
    until: To = None,
) -> Attribution:
    """Say who used what of the org's credits, for its admins."""
    gateway = gateway_of(request)
    await require_role(gateway, caller, org_id, admin=True, reads=True)
    groups = [g for g in group_by.split(",") if g]
    try:
        found = await reading_orgs.usage(gateway.store, f"org:{org_id}", groups, since, until)
    except ValueError as error:
        raise invalid("group_by", str(error)) from None
    return Attribution(
        org_id=org_id,
        group_by=found["group_by"],
        since=since,
        until=until,
        rows=[{**row, "credits": row["net"]} for row in found["rows"]],
        total=found["total"]["net"],
        totals=found["total"],
    )


async def _account(gateway: Gateway, org_id: str) -> dict[str, Any]:
    found = await reading_orgs.organization(gateway.store, f"org:{org_id}")
    return {
        "org_id": org_id,
        "total_credits": found["balance"],
        "allocated_credits": found["allocated"],
        "available_credits": found["available"],
        "held": found["held"],
        "debt": found["debt"],
    }


async def _allocation(gateway: Gateway, org_id: str, user_id: str) -> dict[str, Any]:
    found = await reading_orgs.members(gateway.store, f"org:{org_id}", f"user:{user_id}")
    member = found[0] if found else {"allocated": 0, "used": 0, "remaining": 0}
    return {name: member[name] for name in ("allocated", "used", "remaining")}


async def _user(gateway: Gateway, caller: Caller, org_id: str, body: NewAllocation) -> str:
    """Find who is meant: a member, a user who can sign in, or (for platform admins) anybody."""
    if (body.user_id is None) == (body.email is None):
        raise invalid("user_id", "send either user_id or email")
    if body.email is not None:
        user = await gateway.users.by_email(body.email)
        if user is None:
            raise Problem("account_not_found", "Nobody has this e-mail address: invite them.")
        return user.user_id
    user_id = str(body.user_id).removeprefix("user:")
    known = org_id in await gateway.memberships.of(user_id)
    if not (known or caller.is_admin or await gateway.users.by_id(user_id)):
        raise Problem("account_not_found", "There is no such user: invite them first.")
    return user_id
