"""Holds: reserve before, settle as it goes, release the rest (a streaming session is a hold)."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, StrictBool

from faregate.gateway import commands
from faregate.gateway.answers import accepted, rejection
from faregate.gateway.callers import (
    GuardedRoute,
    HoldPayer,
    PartsPayer,
    Payer,
    RepeatingPayer,
    holding,
)
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.fields import Amount, AmountOrZero, Answer, Body, Credits, Id, Seconds, Tokens
from faregate.gateway.group import Answered
from faregate.gateway.idempotency import Key
from faregate.gateway.problems import Problem, ProblemBody, invalid, responses
from faregate.gateway.resources.spending import either
from faregate.gateway.stored import Stored
from faregate.ledger import once
from faregate.ledger.batch import Submission
from faregate.ledger.core import Rejected
from faregate.ledger.database import TRANSIENT

router = APIRouter(route_class=GuardedRoute, tags=["Holds"])

MAX_OPERATIONS = 100


class Reservation(Body):
    """Either `credits`, or a `model` with at most `max_tokens` in its answer."""

    credits: Amount | None = None
    model: Id | None = None
    provider: Id | None = None
    max_tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    ttl_s: Seconds | None = Field(None, description="Released by itself after so long.")
    reference: Id | None = Field(None, description="What the caller calls it.")


class Held(Answer):
    """A hold. It ends with `settle` (final), `release`, or at `expires_at`."""

    hold_id: UUID
    reserved_credits: Credits
    expires_at: datetime | None
    payer: str
    price_version: int | None


class Settlement(Body):
    """What was used: `credits`, or tokens of the model that the hold was made for."""

    credits: AmountOrZero | None = None
    model: Id | None = None
    provider: Id | None = None
    tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    final: StrictBool = Field(default=True, description="Release the rest.")


class Settled(Answer):
    """What was charged, and the payer's balance after it."""

    hold_id: UUID
    entry_id: int | None
    credits: Credits
    balance: Credits | None
    payer: str
    price_version: int | None


class Released(Answer):
    """What came free; 0 where nothing was left."""

    hold_id: UUID
    released_credits: Credits


class ReserveOperation(Reservation):
    """Reserve."""

    op: Literal["reserve"]


class SettleOperation(Settlement):
    """Settle."""

    op: Literal["settle"]
    hold_id: UUID


class ReleaseOperation(Body):
    """Release."""

    op: Literal["release"]
    hold_id: UUID


Operation = Annotated[
    ReserveOperation | SettleOperation | ReleaseOperation, Field(discriminator="op")
]


class Operations(Body):
    """Several operations, decided in order in one transaction; each stands for itself."""

    operations: Annotated[list[Operation], Field(min_length=1, max_length=MAX_OPERATIONS)]


class Results(Answer):
    """One result for each operation, in order: its answer, or its problem."""

    results: list[Held | Settled | Released | ProblemBody]


@router.post(
    "/api/v1/holds",
    status_code=201,
    responses=responses(400, 401, 402, 403, 409, 413, 415, 422, 429, 503),
)
async def reserve(request: Request, payer: RepeatingPayer, key: Key, body: Reservation) -> Held:
    """Hold credits: they are the caller's to use until the hold ends."""
    gateway = gateway_of(request)
    submission = await _reserve(gateway, payer, key.of(payer.caller.user_id), body)
    return _held(submission, await _one(gateway, payer, submission))


@router.post("/api/v1/holds/batch", responses=responses(400, 401, 403, 409, 413, 415, 503))
async def batch(request: Request, payer: PartsPayer, key: Key, body: Operations) -> Results:
    """Do several operations at once, in one transaction; one that fails spoils no other."""
    gateway, name = gateway_of(request), key.of(payer.caller.user_id)
    whole = sha256(body.model_dump_json().encode()).hexdigest()
    made: list[Submission | Problem] = []
    held = [o.hold_id for o in body.operations if not isinstance(o, ReserveOperation)]
    holders = await gateway.holders.of_all(held) if held else {}
    for number, operation in enumerate(body.operations):
        who = payer
        if not isinstance(operation, ReserveOperation):
            who = holding(payer.caller, holders[operation.hold_id])
        try:
            made.append(await _submission(gateway, who, f"{name} {number}", operation, whole))
        except Problem as problem:
            made.append(problem)
    submissions = [m for m in made if isinstance(m, Submission)]
    ways = [{"org": way, "batch": whole} for way in payer.ways]
    if (call := key.call(gateway.store.keys, payer.caller.user_id, *ways)) is not None:
        await _claim(gateway, call)
    answers = iter(await gateway.store.answer(submissions) if submissions else [])
    results = [
        m.body() if isinstance(m, Problem) else _result(request, payer, op, m, next(answers))
        for op, m in zip(body.operations, made, strict=True)
    ]
    return Results(results=results)


@router.post(
    "/api/v1/holds/{hold_id}/settle",
    responses=responses(400, 401, 403, 404, 409, 413, 415, 422, 503),
)
async def settle(
    request: Request, payer: HoldPayer, key: Key, hold_id: UUID, body: Settlement
) -> Settled:
    """Charge what was used. Beyond the hold it is taken from what is free, then owed."""
    gateway = gateway_of(request)
    submission = await _settle(gateway, payer, key.of(payer.caller.user_id), hold_id, body)
    return _settled(hold_id, await _one(gateway, payer, submission))


@router.post("/api/v1/holds/{hold_id}/release", responses=responses(400, 401, 403, 404, 409, 503))
async def release(request: Request, payer: HoldPayer, key: Key, hold_id: UUID) -> Released:
    """Give back what is left of a hold; doing it twice is harmless."""
    gateway = gateway_of(request)
    submission = commands.release(gateway, payer, key.of(payer.caller.user_id), hold_id)
    return _released(hold_id, await _one(gateway, payer, submission))


async def _one(gateway: Gateway, payer: Payer, submission: Submission) -> Stored:
    (answered,) = await gateway.store.answer([submission])
    payer.refuse(answered)
    return accepted(answered)


async def _submission(
    gateway: Gateway, payer: Payer, key: str, operation: Any, whole: str
) -> Submission:
    """Make one operation of a batch; `whole` is the digest of all of them."""
    if isinstance(operation, ReserveOperation):
        return await _reserve(gateway, payer, key, operation, whole)
    if isinstance(operation, SettleOperation):
        return await _settle(gateway, payer, key, operation.hold_id, operation, whole)
    return commands.release(gateway, payer, key, operation.hold_id, whole)


async def _claim(gateway: Gateway, call: once.Call) -> None:
    """Keep a batch's key for this batch, before any of it is done.

    Its operations are commands with keys of their own, but not all of them leave a trace: the key
    of one that was refused would be free for another batch. Raises Rejected `idempotency_conflict`.
    """
    async with gateway.store.pool.acquire() as connection, connection.transaction():
        if await once.answered(connection, call) is None:
            await once.remember(connection, call, {})


async def _reserve(
    gateway: Gateway, payer: Payer, key: str, body: Reservation, whole: str | None = None
) -> Submission:
    either("credits", body.credits, body.model)
    tokens = None
    if body.model is not None:
        if body.max_tokens is None:
            raise invalid("max_tokens", "send the most tokens that the answer may have")
        tokens = commands.Tokens(body.model, body.provider, body.input_tokens or 0, body.max_tokens)
    submission = commands.reserve(
        gateway,
        payer,
        key,
        amount=body.credits,
        tokens=tokens,
        content={**body.model_dump(mode="json"), "batch": whole},
        ttl_s=body.ttl_s,
        reference=body.reference,
    )
    await commands.remember_model(gateway, submission)
    return submission


async def _settle(
    gateway: Gateway,
    payer: Payer,
    key: str,
    hold_id: UUID,
    body: Settlement,
    whole: str | None = None,
) -> Submission:
    counts = (body.tokens, body.input_tokens, body.output_tokens)
    by_tokens = any(count is not None for count in counts)
    if by_tokens == (body.credits is not None):
        raise invalid("credits", "send either credits, or the tokens that were used")
    if body.tokens is not None and counts[1:] != (None, None):
        raise invalid("tokens", "send either tokens, or input_tokens and output_tokens")
    return commands.settle(
        gateway,
        payer,
        key,
        hold_id,
        cost=body.credits,
        tokens=await _tokens(gateway, hold_id, body) if by_tokens else None,
        content={**body.model_dump(mode="json"), "batch": whole},
        final=body.final,
    )


async def _tokens(gateway: Gateway, hold_id: UUID, body: Settlement) -> commands.Tokens:
    named = (body.provider, body.model) if body.model else await commands.model_of(gateway, hold_id)
    if named is None:
        raise invalid("model", "the hold was made for credits: say the model, or send credits")
    provider, model = named
    inputs = body.tokens or body.input_tokens or 0
    return commands.Tokens(str(model), provider, inputs, body.output_tokens or 0)


def _result(
    request: Request, payer: Payer, operation: Any, submission: Submission, answered: Answered
) -> Any:
    try:
        payer.refuse(answered)
        stored = accepted(answered)
    except Problem as problem:
        return problem.to(request.scope).body()
    except TRANSIENT:
        return Problem("check_unavailable").to(request.scope).body()
    except Rejected as error:
        return rejection(error).body()
    if isinstance(operation, ReserveOperation):
        return _held(submission, stored)
    if isinstance(operation, SettleOperation):
        return _settled(operation.hold_id, stored)
    return _released(operation.hold_id, stored)


def _held(submission: Submission, stored: Stored) -> Held:
    key: bytes = submission.command.pipeline_key  # type: ignore[union-attr,assignment]
    return Held(
        hold_id=UUID(bytes=key),
        reserved_credits=stored.body["reserved"],
        expires_at=stored.body["hold_expires_at"],
        payer=stored.body["payer"],
        price_version=stored.body["price_version"],
    )


def _settled(hold_id: UUID, stored: Stored) -> Settled:
    payer = str(stored.body["payer"])
    entry = stored.entry("usage", payer)
    return Settled(
        hold_id=hold_id,
        entry_id=entry.id if entry else None,
        credits=stored.body["cost"],
        balance=entry.balance if entry else None,
        payer=payer,
        price_version=stored.body["price_version"],
    )


def _released(hold_id: UUID, stored: Stored) -> Released:
    return Released(hold_id=hold_id, released_credits=stored.body["released"])
