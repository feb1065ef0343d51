"""What platform admins do to accounts: set, grant, allocate, refund, tiers, policies."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool

from faregate.events.amounts import to_credits
from faregate.gateway.answers import rejection
from faregate.gateway.callers import Admin, GuardedRoute
from faregate.gateway.context import VIA, gateway_of
from faregate.gateway.fields import (
    Amount,
    AmountOrZero,
    Answer,
    Body,
    Days,
    Id,
    Note,
    Number,
    Timestamp,
    Whole,
)
from faregate.gateway.idempotency import Key
from faregate.gateway.problems import Problem, invalid, responses
from faregate.gateway.resources.balance import Allocation, allocation
from faregate.gateway.resources.orgs import OrgId
from faregate.ledger import acts, reading
from faregate.ledger.core import Rejected
from faregate.ledger.names import meant_subject
from faregate.ledger.store import Store

router = APIRouter(route_class=GuardedRoute, tags=["Admin"])

_ERRORS = responses(400, 401, 403, 409, 413, 415, 503)


class Subject(Body):
    """Whose account."""

    subject_type: Literal["org", "user"]
    subject_id: Id

    @property
    def subject(self) -> str:
        """The account, as the ledger has it."""
        return f"{self.subject_type}:{self.subject_id}"


class Target(Subject):
    """The balance that an account is to have."""

    balance: AmountOrZero


class Account(Answer):
    """An account after an act."""

    account: str
    balance: Number
    held: Number
    available: Number
    debt: Number
    tier: str


class NewGrant(Subject):
    """Credits to be added. Lower `priority` numbers burn first."""

    credits: Amount
    kind: Literal["purchase", "bonus"] = "purchase"
    priority: Whole = Field(100, ge=0, lt=10**9)
    expires_at: Timestamp | None = None
    notes: Note | None = None


class Granted(Account):
    """The account after a grant; `grant_number` names the grant within it."""

    credits: Number
    grant_number: int


class Revocation(Subject):
    """Which grant of an account: by its `grant_number`, as granting it answered."""

    grant_number: Whole = Field(ge=1, lt=2**62)
    reason: Id | None = Field(None, description="A short code such as wrong_account.")


class Revoked(Account):
    """The account after a grant was taken back; `credits` is what was left of it.

    `grant_held` is what running pipelines hold of it: revoke it again once that is released.
    """

    credits: Number
    grant_number: int
    grant_held: Number


class OldAllocation(Body):
    """Credits for a user, in the shape of the older interface."""

    userId: Id  # noqa: N815 - the contract's name
    credits: Amount
    expiresAt: Timestamp | None = None  # noqa: N815
    expiryDays: Days | None = None  # noqa: N815
    notes: Note | None = None
    kind: Literal["streaming", "non_streaming"] | None = None


class NewRefund(Body):
    """Which charge: by its usage id (and source, if several have it) or by one of its entries."""

    usage_id: Id | None = None
    source: Id | None = None
    entry_id: Whole | None = Field(None, ge=1, lt=2**62)
    reason: Id | None = Field(None, description="A short code such as double_charge.")


class Refunded(Answer):
    """What was given back, and to whom. `repeated`: it had been refunded before."""

    account: str
    credits: Number
    repeated: bool
    at: datetime


class NewTier(Subject):
    """The tier to be on; a lower one from the next period on, unless `now`."""

    tier: Id
    now: StrictBool = False


class TierChanged(Answer):
    """When it is in force: `changed` (now), `scheduled` (next period), `unchanged`."""

    account: str
    tier: str
    result: str


class Policy(Body):
    """How an org's credits may be spent."""

    policy: Literal["pool", "allocated"]


class OrgPolicy(Answer):
    """How an org's credits may be spent."""

    org_id: str
    policy: str


async def act(work: Awaitable[acts.Done]) -> acts.Done:
    """Do an administrative act. Raises Problem for one that is refused."""
    try:
        return await work
    except Rejected as error:
        raise rejection(error) from None


@router.post("/v1/admin/credits/set", responses=_ERRORS)
async def set_balance(request: Request, caller: Admin, key: Key, body: Target) -> Account:
    """Leave this balance and no debt; refused below what is held."""
    store, name = gateway_of(request).store, key.of(caller.user_id)
    subject = await _meant(store, body.subject)
    await act(
        acts.set_balance(store, subject, body.balance, actor=caller.user_id, key=name, via=VIA)
    )
    return Account(**await _account(store, subject))


@router.post("/v1/admin/grants", status_code=201, responses=_ERRORS)
async def grant(request: Request, caller: Admin, key: Key, body: NewGrant) -> Granted:
    """Add credits; debt takes its part first."""
    store = gateway_of(request).store
    done = await act(
        acts.grant(
            store,
            await _meant(store, body.subject),
            body.kind,
            body.credits,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            priority=body.priority,
            expires_at=body.expires_at,
            allocated_by=caller.user_id,
            notes=body.notes,
        )
    )
    return Granted(
        **await _account(store, body.subject),
        credits=to_credits(body.credits),
        grant_number=done.body["grant"],
    )


@router.post("/v1/admin/grants/revoke", responses=_ERRORS)
async def revoke(request: Request, caller: Admin, key: Key, body: Revocation) -> Revoked:
    """Take back what is left of one grant: what is neither used nor held."""
    store = gateway_of(request).store
    done = await act(
        acts.revoke(
            store,
            body.subject,
            body.grant_number,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            reason=body.reason,
        )
    )
    grants = await reading.grants(store, body.subject)
    return Revoked(
        **await _account(store, body.subject),
        credits=to_credits(done.body["amount"]),
        grant_number=body.grant_number,
        grant_held=next(g["held"] for g in grants if g["number"] == body.grant_number),
    )


@router.post("/api/credits/allocate", status_code=201, responses=_ERRORS)
async def allocate(request: Request, caller: Admin, key: Key, body: OldAllocation) -> Allocation:
    """Give a user credits; makes their account when there is none."""
    if body.expiresAt is not None and body.expiryDays is not None:
        raise invalid("expiryDays", "send either expiresAt or expiryDays")
    store = gateway_of(request).store
    subject = await _meant(store, f"user:{body.userId}", "userId")
    done = await act(
        acts.grant(
            store,
            subject,
            "purchase",
            body.credits,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            expires_at=body.expiresAt,
            expires_in=timedelta(days=body.expiryDays) if body.expiryDays else None,
            allocated_by=caller.user_id,
            notes=body.notes,
            source=body.kind,
        )
    )
    number = done.body["grant"]
    made = next(g for g in await reading.grants(store, subject) if g["number"] == number)
    return allocation(body.userId, made)


@router.post("/v1/admin/refunds", status_code=201, responses=_ERRORS | responses(404))
async def refund(request: Request, caller: Admin, key: Key, body: NewRefund) -> Refunded:
    """Take a charge back: whole, once, to the grants that it came from."""
    if (body.usage_id is None) == (body.entry_id is None):
        raise invalid("usage_id", "send either usage_id or entry_id")
    try:
        done = await acts.refund(
            gateway_of(request).store,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            usage_id=body.usage_id,
            source=body.source,
            entry_id=body.entry_id,
            reason=body.reason,
        )
    except Rejected as error:
        if error.code == "unknown_charge":
            raise Problem("not_found", f"There is no such charge: {error.message}.") from None
        raise rejection(error) from None
    return Refunded(
        account=done.body["account"],
        credits=to_credits(done.body["amount"]),
        repeated=done.repeated,
        at=done.at,
    )


@router.post("/v1/admin/tiers", responses=_ERRORS)
async def set_tier(request: Request, caller: Admin, key: Key, body: NewTier) -> TierChanged:
    """Put an account on a tier."""
    store = gateway_of(request).store
    done = await act(
        acts.set_tier(
            store,
            await _meant(store, body.subject),
            body.tier,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
            now=body.now,
        )
    )
    return TierChanged(account=body.subject, tier=body.tier, result=done.result)


@router.put("/v1/admin/orgs/{org_id}/policy", responses=_ERRORS)
async def set_policy(
    request: Request, caller: Admin, key: Key, org_id: OrgId, body: Policy
) -> OrgPolicy:
    """Say how an org's credits may be spent: `pool`, or `allocated` to its members."""
    await act(
        acts.set_policy(
            gateway_of(request).store,
            f"org:{org_id}",
            body.policy,
            actor=caller.user_id,
            key=key.of(caller.user_id),
            via=VIA,
        )
    )
    return OrgPolicy(org_id=org_id, policy=body.policy)


@router.get("/v1/admin/orgs/{org_id}/policy", responses=responses(400, 401, 403, 503))
async def policy(request: Request, caller: Admin, org_id: OrgId) -> OrgPolicy:  # noqa: ARG001
    """Read how an org's credits may be spent."""
    found = await reading.account(gateway_of(request).store, f"org:{org_id}")
    return OrgPolicy(org_id=org_id, policy=found["policy"])


async def _meant(store: Store, subject: str, field: str = "subject_id") -> str:
    """Give the account that an act may make, unless its name has its kind twice.

    One that events have made is in reach. Raises Problem `validation_failed`.
    """
    name = meant_subject(subject)
    if name is not None and await store.names.find(subject) is None:
        raise invalid(field, f"send the id alone: {subject} would be another account than {name}")
    return subject


async def _account(store: Any, subject: str) -> dict[str, Any]:
    found = await reading.account(store, subject)
    return {name: found[name] for name in Account.model_fields}
