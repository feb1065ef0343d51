"""Dead letters for platform admins: list, show, replay. The same as `faregate dlq`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import asyncpg
from fastapi import APIRouter, Path, Query, Request
from pydantic import Field

from faregate.gateway.callers import Admin, GuardedRoute
from faregate.gateway.context import Gateway, gateway_of
from faregate.gateway.dead_letters import DeadLetters, LetterNotFound, QueueUnavailable
from faregate.gateway.fields import Answer, Id
from faregate.gateway.idempotency import Key
from faregate.gateway.paging import Limit
from faregate.gateway.problems import Problem, invalid, responses
from faregate.ledger import audit, once
from faregate.ledger.queries import SQL

router = APIRouter(route_class=GuardedRoute, tags=["Admin"])

LetterId = Annotated[
    str,
    Path(
        pattern=r"^[a-z.]{1,100}:[0-9]{1,9}:[0-9]{1,18}$",
        description="As it is listed: usage.recorded:0:17.",
    ),
]
Topic = Literal["pipeline.requests", "pipeline.progress", "usage.recorded", "users.registered"]


class Letter(Answer):
    """One record that can never be processed, and why. `id` names its place in the queue."""

    id: str
    topic: str
    partition: int
    offset: int
    source_partition: int | None
    source_offset: int | None
    error: str
    message: str
    attempts: int
    first_seen: str | None
    at: str
    key: str | None
    bytes: int


class Letters(Answer):
    """A page of dead letters, newest first."""

    letters: list[Letter]
    next_cursor: str | None


class WholeLetter(Letter):
    """A dead letter with its record: headers, bytes as text, and the event if it is one."""

    headers: list[list[str | None]]
    value: str | None
    event: dict[str, Any] | None


class Record(Answer):
    """Where a record was published again."""

    id: str
    topic: str
    partition: int
    offset: int


class Replayed(Answer):
    """What was published again; the letter stays listed until its retention is over."""

    replayed: int
    records: list[Record] = Field(description="One, where it lies now.")


@router.get("/v1/admin/dlq", responses=responses(400, 401, 403, 503))
async def list_(
    request: Request,
    caller: Admin,  # noqa: ARG001 - who may
    topic: Annotated[Topic | None, Query(description="Those of one topic.")] = None,
    error: Annotated[Id | None, Query(description="Those with this error.")] = None,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(max_length=200, description="The `next_cursor` of the page before.")
    ] = None,
) -> Letters:
    """List dead letters, newest first: where they lie, why, how often they were tried."""
    try:
        page = await _queues(gateway_of(request)).page(topic, error, limit, cursor)
    except QueueUnavailable as away:
        raise _unavailable() from away
    except ValueError as wrong:
        raise invalid("cursor", str(wrong)) from None
    return Letters(letters=[Letter(**one) for one in page.letters], next_cursor=page.cursor)


@router.get("/v1/admin/dlq/{letter_id}", responses=responses(400, 401, 403, 404, 503))
async def show(request: Request, caller: Admin, letter_id: LetterId) -> WholeLetter:  # noqa: ARG001
    """Show one dead letter: its bytes, key and headers, and what was wrong."""
    return WholeLetter(**await _found(gateway_of(request), letter_id))


@router.post("/v1/admin/dlq/{letter_id}/replay", responses=responses(400, 401, 403, 404, 409, 503))
async def replay(request: Request, caller: Admin, key: Key, letter_id: LetterId) -> Replayed:
    """Publish a dead letter again to the topic it came from; again is harmless."""
    gateway = gateway_of(request)
    pool, keys, content = gateway.store.pool, gateway.store.keys, {"letter": letter_id}
    call = key.call(keys, caller.user_id, content)
    logged = key.call(keys, caller.user_id, content, step=" logged")
    if call is None:
        await _found(gateway, letter_id)
        async with pool.acquire() as connection:
            await _log(gateway, connection, caller.user_id, letter_id, logged)
        return await _published(gateway, letter_id)
    async with gateway.replaying, once.alone(pool, call) as connection:
        if before := await once.found(connection, call):
            return Replayed(replayed=1, records=[Record(**before)])
        await _found(gateway, letter_id)
        await _log(gateway, connection, caller.user_id, letter_id, logged)
        done = await _published(gateway, letter_id)
        await once.remember(connection, call, done.records[0].model_dump())
        return done


async def _published(gateway: Gateway, letter_id: str) -> Replayed:
    try:
        record = await _queues(gateway).replay(letter_id)
    except LetterNotFound as error:
        raise Problem("not_found", _sentence(error)) from None
    except QueueUnavailable as away:
        raise _unavailable() from away
    return Replayed(replayed=1, records=[Record(**record)])


async def _found(gateway: Gateway, letter_id: str) -> dict[str, Any]:
    try:
        return await _queues(gateway).show(letter_id)
    except LetterNotFound as error:
        raise Problem("not_found", _sentence(error)) from None
    except QueueUnavailable as away:
        raise _unavailable() from away


async def _log(
    gateway: Gateway,
    connection: asyncpg.Connection,
    actor: str,
    letter_id: str,
    logged: once.Call | None,
) -> None:
    """Log the act before it is done, once for its key: there is no replay without a trace."""
    act = audit.Act(actor, "dlq_replay", "requested", metadata={"letter": letter_id})
    async with connection.transaction():
        if await once.answered(connection, logged) is None:
            now = await connection.fetchval(SQL["now"])
            await audit.append(connection, gateway.store.keys, now, [act])
            await once.remember(connection, logged, {})


def _queues(gateway: Gateway) -> DeadLetters:
    if gateway.dead_letters is None:
        raise _unavailable()
    return gateway.dead_letters


def _unavailable() -> Problem:
    return Problem("check_unavailable", "Kafka does not answer; nothing was read or published.")


def _sentence(error: Exception) -> str:
    return f"No dead letter is there: {error}."
