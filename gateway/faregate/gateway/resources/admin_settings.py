"""What platform admins set and read: the increment, prices, tiers, the audit log, grants."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import ConfigDict, Field, StrictBool, WithJsonSchema

from faregate.events.amounts import to_credits
from faregate.gateway.answers import rejection
from faregate.gateway.callers import Admin, GuardedRoute
from faregate.gateway.context import gateway_of
from faregate.gateway.fields import Answer, Body, Id, Number, Timestamp
from faregate.gateway.idempotency import Key
from faregate.gateway.paging import Cursor, Limit
from faregate.gateway.problems import Problem, invalid, responses
from faregate.ledger import pricing, reading, reading_audit
from faregate.ledger.core import InvalidBook, Rejected

router = APIRouter(route_class=GuardedRoute, tags=["Admin"])

_READ = responses(400, 401, 403, 503)


class NewIncrement(Body):
    """What vendor prices are rounded up to: 0.01, 0.1 or 1.0 credits. Without it: 400, as any other."""

    model_config = ConfigDict(json_schema_extra={"required": ["increment"]})

    increment: Annotated[Any, WithJsonSchema({"type": "number", "enum": [0.01, 0.1, 1.0]})] = None


class Increment(Answer):
    """What vendor prices are rounded up to, and what it may be."""

    increment: Number
    allowed: list[float]
    updated_by: str
    updated_at: datetime


class NewPrices(Body):
    """A whole price book, in force from `effective_from` (now by default)."""

    book: dict[str, Any] = Field(
        examples=[{"phases": {"cj_assessment": {"per": "pair", "credits": 1}}}]
    )
    effective_from: Timestamp | None = None
    backdate: StrictBool = False


class AppliedPrices(Answer):
    """The version that was made, and usage that had waited for a price."""

    version: int
    effective_from: datetime
    unpriced: int
    priced: int


class AuditEntry(Answer):
    """One administrative act, also one that was refused."""

    id: int
    action: str
    result: str
    user_id: str | None = Field(description="Who did it; null once they were erased.")
    resource_type: str | None
    resource_id: str | None
    metadata: dict[str, Any]
    at: datetime


class Audit(Answer):
    """A page of the audit log, newest first."""

    entries: list[AuditEntry]
    next_cursor: str | None


class Grants(Answer):
    """A page of the grants of an account, oldest first."""

    grants: list[dict[str, Any]]
    next_cursor: str | None


class Tiers(Answer):
    """The tiers of the prices in force, by name."""

    tiers: dict[str, dict[str, Any]]


SubjectType = Annotated[Literal["org", "user"], Query()]


@router.get("/admin/settings/credit-increment", responses=_READ)
async def increment(request: Request, caller: Admin) -> Increment:  # noqa: ARG001
    """Read what vendor prices are rounded up to."""
    return _increment(await pricing.increment(gateway_of(request).store))


@router.put(
    "/admin/settings/credit-increment", responses=responses(400, 401, 403, 409, 413, 415, 503)
)
async def set_increment(request: Request, caller: Admin, key: Key, body: NewIncrement) -> Increment:
    """Round vendor prices up to another increment from now on, in every process at once."""
    store = gateway_of(request).store
    call = key.call(store.keys, caller.user_id, {"increment": _plain(body.increment)})
    try:
        done = await pricing.set_increment(store, body.increment, actor=caller.user_id, call=call)
    except InvalidBook as error:
        errors = [{"field": "increment", "message": str(error)}]
        raise Problem(
            "validation_failed", f"increment: {error}", errors=errors, allowed=pricing.ALLOWED
        ) from None
    except Rejected as error:
        raise rejection(error) from None
    return _increment(done)


def _increment(found: pricing.Increment) -> Increment:
    return Increment(
        increment=to_credits(found.micro),
        allowed=list(pricing.ALLOWED),
        updated_by=found.updated_by,
        updated_at=found.updated_at,
    )


@router.get("/v1/admin/prices", responses=_READ | responses(404))
async def prices(
    request: Request,
    caller: Admin,  # noqa: ARG001 - who may
    version: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> dict[str, Any]:
    """Read a version of the price book: the one in force by default."""
    found = await pricing.prices(gateway_of(request).store, version)
    if found is None:
        raise Problem("not_found", "There is no such version of the prices.")
    return found


@router.post(
    "/v1/admin/prices", status_code=201, responses=responses(400, 401, 403, 409, 413, 415, 503)
)
async def apply_prices(request: Request, caller: Admin, key: Key, body: NewPrices) -> AppliedPrices:
    """Add a whole price book as a new version."""
    store, book, start = gateway_of(request).store, _plain(body.book), body.effective_from
    content = {"book": book, "from": start and start.isoformat(), "backdate": body.backdate}
    try:
        done = await pricing.apply_prices(
            store,
            book,
            start,
            by=caller.user_id,
            backdate=body.backdate,
            call=key.call(store.keys, caller.user_id, content),
        )
    except InvalidBook as error:
        raise invalid("book", str(error)) from None
    except Rejected as error:
        raise rejection(error) from None
    return AppliedPrices(
        version=done.book.version,
        effective_from=done.book.effective_from,
        unpriced=done.unpriced,
        priced=done.priced,
    )


def _plain(value: Any) -> Any:
    """Give Decimals as the numbers that JSON has: a book is stored as a document."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, str | bool | int) else float(value)


@router.get("/v1/admin/tiers", responses=_READ)
async def tiers(request: Request, caller: Admin) -> Tiers:  # noqa: ARG001
    """Read the tiers of the prices in force."""
    found = await pricing.prices(gateway_of(request).store)
    return Tiers(tiers=found["tiers"] if found else {})


@router.get("/v1/admin/grants", responses=_READ)
async def grants(
    request: Request,
    caller: Admin,  # noqa: ARG001 - who may
    subject_type: SubjectType,
    subject_id: Annotated[Id, Query()],
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Grants:
    """List the grants that an account ever had, with what is left of each."""
    store = gateway_of(request).store
    found = await reading.grants(store, f"{subject_type}:{subject_id}")
    page = [g for g in found if g["number"] > (cursor or 0)]
    more = str(page[limit - 1]["number"]) if len(page) > limit else None
    return Grants(grants=page[:limit], next_cursor=more)


@router.get("/v1/admin/audit", responses=_READ)
async def audit(
    request: Request,
    caller: Admin,  # noqa: ARG001 - who may
    subject_type: Annotated[Literal["org", "user"] | None, Query()] = None,
    subject_id: Annotated[Id | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Audit:
    """List administrative acts, newest first: all, or those on one account."""
    if (subject_type is None) != (subject_id is None):
        raise invalid("subject_id", "send both subject_type and subject_id, or neither")
    subject = f"{subject_type}:{subject_id}" if subject_id else None
    rows = await reading_audit.audit(gateway_of(request).store, subject, limit, cursor)
    more = str(rows[-1]["id"]) if len(rows) == limit else None
    return Audit(entries=[_entry(row) for row in rows], next_cursor=more)


def _entry(row: dict[str, Any]) -> AuditEntry:
    kind, _, name = (row["account"] or "").partition(":")
    return AuditEntry(
        id=row["id"],
        action=row["action"],
        result=row["result"],
        user_id=row["actor"],
        resource_type=kind or None,
        resource_id=name or None,
        metadata=row["metadata"],
        at=row["at"],
    )
