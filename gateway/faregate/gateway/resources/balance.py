"""What one has: the balance in both of its shapes, and the transactions behind it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request

from faregate.gateway.callers import GuardedRoute, Reader, payer_of
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer, Number
from faregate.gateway.lazily import provision
from faregate.gateway.paging import Cursor, From, Limit, To
from faregate.gateway.problems import responses
from faregate.ledger import reading

router = APIRouter(route_class=GuardedRoute, tags=["Own credits"])


class Balance(Answer):
    """The caller's own account."""

    user_id: str
    credits_remaining: Number
    credits_allocated: Number
    tier: str
    last_reset: datetime | None
    next_reset: datetime | None
    created_at: datetime | None
    updated_at: datetime | None
    held: Number
    debt: Number


class Allocation(Answer):
    """Credits that came in together, and what is left of them."""

    id: int
    userId: str  # noqa: N815 - the contract's name
    totalCredits: Number  # noqa: N815
    remainingCredits: Number  # noqa: N815
    allocatedBy: str | None  # noqa: N815
    allocatedAt: datetime  # noqa: N815
    expiresAt: datetime | None  # noqa: N815
    notes: str | None


class Allocations(Answer):
    """The caller's own account, as the allocations that it is made of."""

    userId: str  # noqa: N815 - the contract's name
    totalCredits: Number  # noqa: N815
    activeAllocations: list[Allocation]  # noqa: N815


class Transaction(Answer):
    """One entry of the ledger. `amount` moves the balance, `held_delta` what is reserved."""

    id: int
    account: str
    transaction_type: str
    amount: Number
    held_delta: Number
    debt_delta: Number
    balance_after: Number
    held_after: Number
    debt_after: Number
    created_at: datetime
    user_id: str | None = None
    org_id: str | None = None
    provider: str | None = None
    model: str | None = None
    phase: str | None = None
    units: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    byok: bool | None = None
    price_version: int | None = None
    reason: str | None = None
    reference: str | None = None
    hold_id: str | None = None


class Transactions(Answer):
    """A page of entries, newest first; `next_cursor` leads to older ones."""

    transactions: list[Transaction]
    next_cursor: str | None


_ERRORS = responses(400, 401, 403, 503)


@router.get("/api/v1/credits/balance", responses=responses(401, 403, 503))
async def balance(request: Request, caller: Reader) -> Balance:
    """Give the caller's own balance. `credits_remaining` is what is free: balance less held."""
    gateway = gateway_of(request)
    await provision(gateway, caller.user)
    found = await reading.account(gateway.store, caller.user)
    return Balance(
        user_id=caller.user_id,
        credits_remaining=found["available"],
        credits_allocated=found["granted"],
        tier=found["tier"],
        last_reset=found["period_start"],
        next_reset=found["period_end"],
        created_at=found.get("created_at"),
        updated_at=found.get("updated_at"),
        held=found["held"],
        debt=found["debt"],
    )


@router.get("/api/credits/balance", responses=responses(401, 403, 503))
async def allocations(request: Request, caller: Reader) -> Allocations:
    """Give the caller's own balance and the allocations behind it, in the order they burn."""
    gateway = gateway_of(request)
    await provision(gateway, caller.user)
    found = await reading.account(gateway.store, caller.user)
    grants = reading.burn_order(await reading.grants(gateway.store, caller.user))
    live = [allocation(caller.user_id, g) for g in grants if g["state"] == "live"]
    return Allocations(
        userId=caller.user_id, totalCredits=found["available"], activeAllocations=live
    )


def allocation(user_id: str, grant: dict[str, Any]) -> Allocation:
    """Write a grant in the shape of the older interface."""
    return Allocation(
        id=grant["id"],
        userId=user_id,
        totalCredits=grant["amount"],
        remainingCredits=grant["remaining"],
        allocatedBy=grant["allocated_by"],
        allocatedAt=grant["at"],
        expiresAt=grant["expires_at"],
        notes=grant["notes"],
    )


@router.get("/api/v1/credits/transactions", responses=_ERRORS)
async def transactions(
    request: Request,
    caller: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    since: From = None,
    until: To = None,
) -> Transactions:
    """List entries, newest first: the caller's own, or with X-Faregate-Org the org's.

    Members see what they used of the org; its admins see everything.
    """
    gateway = gateway_of(request)
    subject, only = caller.user, None
    if "x-faregate-org" in request.headers:
        payer = await payer_of(request, caller)
        if payer.refused:
            raise payer.refused
        subject = payer.org or caller.user
    if subject != caller.user:
        role = (await gateway.memberships.of(caller.user_id)).get(subject.removeprefix("org:"))
        only = None if role == "admin" else caller.user_id
    rows = await reading.history(gateway.store, subject, limit, cursor, since=since, until=until)
    shown = [r for r in rows if only is None or r.get("user_id") == only]
    more = str(rows[-1]["sequence"]) if len(rows) == limit else None
    return Transactions(transactions=[transaction(r) for r in shown], next_cursor=more)


def transaction(row: dict[str, Any]) -> Transaction:
    """Write an entry as people know it."""
    return Transaction(
        transaction_type=row["kind"],
        created_at=row["at"],
        balance_after=row["balance"],
        held_after=row["held"],
        debt_after=row["debt"],
        reference=row.get("correlation_id") or row.get("usage_id"),
        **{name: row[name] for name in _SAME if name in row},
    )


_SAME = (
    "id",
    "account",
    "amount",
    "held_delta",
    "debt_delta",
    "user_id",
    "org_id",
    "provider",
    "model",
    "phase",
    "units",
    "input_tokens",
    "output_tokens",
    "byok",
    "price_version",
    "reason",
    "hold_id",
)

__all__ = ["Allocation", "allocation", "router"]
