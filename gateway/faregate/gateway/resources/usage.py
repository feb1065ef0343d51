"""How many calls one has made, and what they cost, by period."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BeforeValidator

from faregate.events.amounts import to_credits
from faregate.gateway.callers import Caller, GuardedRoute, Reader
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Answer, Number
from faregate.gateway.lazily import provision
from faregate.gateway.problems import responses
from faregate.ledger import reading, reading_orgs
from faregate.ledger.core.accounts import PERIOD

router = APIRouter(prefix="/api/v1/usage", route_class=GuardedRoute, tags=["Usage"])

_MAX_PERIODS = 24
_CALLS = """
SELECT floor(extract(epoch FROM at - $2) / $3)::bigint AS period, sum(calls)::bigint AS calls
FROM outcomes WHERE user_id = $1 AND calls > 0 AND at >= $4 GROUP BY 1"""


class Period(Answer):
    """One period of 30 days. A limit of null: as many calls as they like."""

    period_start: datetime | None
    period_end: datetime | None
    api_calls_used: int
    api_calls_limit: int | None
    remaining: int | None
    credits_used: Number


class Periods(Answer):
    """Periods, newest first."""

    periods: list[Period]


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


@router.get("/current", responses=responses(401, 403, 503))
async def current(request: Request, caller: Reader) -> Period:
    """Give the calls and credits of the running period, whoever paid for them."""
    gateway = gateway_of(request)
    await provision(gateway, caller.user)
    return await _current(gateway, caller)


@router.get("/history", responses=responses(400, 401, 403, 503))
async def history(
    request: Request,
    caller: Reader,
    limit: Annotated[int, BeforeValidator(_whole), Query(ge=1, le=_MAX_PERIODS)] = 12,
) -> Periods:
    """Give the running period, and those before it in which there was any usage."""
    gateway = gateway_of(request)
    await provision(gateway, caller.user)
    now = await _current(gateway, caller)
    periods = [now]
    account = await reading.current(gateway.store, caller.user)
    if now.period_start is None or account is None:
        return Periods(periods=periods)
    start, first = now.period_start, account["created_at"]
    rows = await gateway.store.pool.fetch(
        _CALLS, account["id"], start, PERIOD.total_seconds(), start - PERIOD * limit
    )
    calls = {row["period"]: row["calls"] for row in rows}
    for back in range(1, limit):
        begin = start - PERIOD * back
        if begin + PERIOD <= first:
            break
        used = await _credits(gateway, caller, begin, begin + PERIOD)
        if used or calls.get(-back):
            periods.append(_period(begin, calls.get(-back, 0), now.api_calls_limit, used))
    return Periods(periods=periods)


async def _current(gateway: Gateway, caller: Caller) -> Period:
    quota: dict[str, Any] = await reading.quota(gateway.store, caller.user)
    start = datetime.fromisoformat(quota["period_start"]) if quota["period_start"] else None
    used = await _credits(gateway, caller, start, None)
    return Period(
        period_start=start,
        period_end=quota["period_end"],
        api_calls_used=quota["used"],
        api_calls_limit=quota["limit"],
        remaining=quota["remaining"],
        credits_used=used,
    )


def _period(begin: datetime, calls: int, limit: int | None, used: float) -> Period:
    return Period(
        period_start=begin,
        period_end=begin + timedelta(seconds=PERIOD.total_seconds()),
        api_calls_used=calls,
        api_calls_limit=limit,
        remaining=None if limit is None else max(limit - calls, 0),
        credits_used=used,
    )


async def _credits(
    gateway: Gateway, caller: Caller, since: datetime | None, until: datetime | None
) -> float:
    """Sum up what the caller's usage was charged to them and to orgs that they are or were in."""
    orgs = await gateway.memberships.ever(caller.user_id)
    micro = 0
    for subject in (caller.user, *(f"org:{org}" for org in orgs)):
        found = await reading_orgs.usage(gateway.store, subject, ("member",), since, until)
        own = [row["net"] for row in found["rows"] if row["user_id"] == caller.user_id]
        micro += sum(round(net * 1_000_000) for net in own)
    return to_credits(micro)
