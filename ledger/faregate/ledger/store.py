"""The store: one transaction for a batch of commands, whoever sends it (rules 1 to 4, 7).

`apply` loads under the account locks, calls the core once, and writes entries, outcomes, the
outbox row and the consumer's offsets together. Consumers, command line and gateway all come in
through here, and nothing else changes a balance.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg
from asyncpg.exceptions._base import DataError as DriverDataError

from faregate.events import tracing
from faregate.ledger import failpoints
from faregate.ledger.batch import Needs, Position, Submission, needs_of
from faregate.ledger.core import (
    Books,
    Entry,
    LedgerFault,
    Outcome,
    Rejected,
    Rules,
    Seen,
    decide,
)
from faregate.ledger.database import TRANSIENT, Unavailable
from faregate.ledger.keys import Keys
from faregate.ledger.load import NamesErased, NamesMoved, PayerMoved, PriceCache, load, lock
from faregate.ledger.names import Ids, Names
from faregate.ledger.queries import SQL
from faregate.ledger.write import TX_BITS, WentBack, checkpoint, write
from faregate.ledger.write_pipelines import Conflict

Result = Outcome | Seen | Rejected | None
PositionOf = Callable[[Sequence[Result]], Position | None]
Without = Callable[[AbstractSet[str]], Sequence[Submission]]
"""Gives the submissions that can go on without accounts which somebody else has locked."""

_ATTEMPTS = 8

_BEGIN = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off"
"""All that is asked in the transaction finds its rows by their keys, however many they are. Left to
itself the server plans most of it anew for each batch; and a plan that is kept from when a table
was empty would read the whole of it until somebody analyzes it."""

_COMMIT_AND_TELL = "COMMIT; BEGIN; SET LOCAL synchronous_commit = off; NOTIFY outbox; COMMIT"
"""The relay is told in a transaction of its own, sent together with the commit. The server lets
transactions that tell somebody something commit one after the other, each until the disk has it;
and a relay that is not told looks by itself, four times a second."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a batch: a result for each submission, and what its transaction wrote.

    `outcomes` and `entries` have the ids from `first_id` on, each in their order.
    """

    results: list[Result]
    first_id: int
    at: datetime
    outcomes: Sequence[Outcome]
    entries: Sequence[Entry]


@dataclass(slots=True)
class _Work:
    """What one transaction is to decide."""

    submissions: Sequence[Submission]
    without: Without | None = None
    needs: Needs = field(init=False)

    def __post_init__(self) -> None:
        self._find_needs()

    def _find_needs(self) -> None:
        self.needs = needs_of([s.command for s in self.submissions])

    def narrow(self, busy: AbstractSet[str]) -> bool:
        """Leave out who needs these accounts, where somebody is left then. This is asked once."""
        some = self.without(busy) if self.without and busy else ()
        self.without = None
        if some:
            self.submissions = some
            self._find_needs()
        return bool(some)


class BadValue(Exception):
    """One of the batch can never be written (rule 11): bisect it and set that one apart."""


_BAD_VALUE = (
    asyncpg.DataError,
    DriverDataError,  # the driver's own, which shares only the name
    asyncpg.CheckViolationError,
    LedgerFault,
    struct.error,  # a number beyond 64 bits
    OverflowError,
    UnicodeEncodeError,
)


@dataclass(slots=True)
class Store:
    """The ledger behind a pool of connections. Make it with `open_store`."""

    pool: asyncpg.Pool
    keys: Keys
    rules: Rules
    checkpoint_every: int = 100
    names: Names = field(init=False)
    _prices: PriceCache = field(init=False, default_factory=PriceCache)

    def __post_init__(self) -> None:
        self.names = Names(self.pool, self.keys)

    async def apply(
        self,
        submissions: Sequence[Submission],
        position_of: PositionOf | None = None,
        *,
        erasures: int | None = None,
    ) -> list[Result]:
        """Decide and write a batch in one transaction; give one result per submission, in order.

        `position_of` turns the results into the offsets that are kept with them. Who took names
        from the ledger itself says how many `erasures` there were then: a name that was erased
        since would be a new account's, so that is Unavailable. Raises
        Unavailable (try again with the same identities: a commit whose answer was lost shows as
        duplicates) and BadValue (nothing was written; one of
        the batch never can be: PostgreSQL refuses a value, or the core an impossible account),
        and WentBack when the database is older than the position knows (nothing was written).
        """
        return (await self._take(_Work(submissions), position_of, erasures)).results

    async def take(
        self, submissions: Sequence[Submission], *, without: Without | None = None
    ) -> Applied:
        """Do what `apply` does, and give what was written as well: it is committed.

        Where somebody else has locked accounts that are named, `without` is asked once for the
        submissions that can do without: the batch is these then. It waits where there are none.
        """
        return await self._take(_Work(submissions, without))

    async def _take(
        self, work: _Work, position_of: PositionOf | None = None, erasures: int | None = None
    ) -> Applied:
        if erasures is not None:
            self.names.as_of(erasures)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with _span(work.submissions, attempt) as span:
                    return await self._transaction(work, position_of, erasures, span)
            except (PayerMoved, NamesErased, Conflict):
                continue
            except NamesMoved:
                self.forget()
            except _BAD_VALUE as error:
                raise BadValue(f"{type(error).__name__}: {_without_detail(error)}") from error
            except TRANSIENT as error:
                if attempt == _ATTEMPTS or not _worth_another_try(error):
                    raise Unavailable(f"{type(error).__name__}: {error}") from error
                await self._after_fault(error)
        raise Unavailable("the same rows kept changing; try again")

    async def books(self) -> tuple[Books, datetime]:
        """Give all price versions there are now, and the database's time."""
        async with self.pool.acquire() as connection:
            row = await connection.fetchrow(SQL["newest_prices"])
            return await self._prices.books(connection, row["version"]), row["now"]

    def forget(self) -> None:
        """Drop everything that is remembered of the database: it may be a restored backup."""
        self.names.forget()
        self._prices = PriceCache()

    async def _after_fault(self, error: BaseException) -> None:
        if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
            await self.pool.expire_connections()

    async def _transaction(
        self,
        work: _Work,
        position_of: PositionOf | None,
        erasures: int | None,
        span: tracing.Span,
    ) -> Applied:
        if erasures is not None:
            now = await self.pool.fetchval(SQL["erasures"])
            self.names.as_of(now)
            if now != erasures:  # before an account is made for a name that was erased
                raise Unavailable("somebody has been erased in the meantime: look again")
        ids = await self.names.ids(work.needs.subjects)
        if work.needs.members:
            await self.names.ensure_members(work.needs.members, ids)
        wanted = {s.refs.source for s in work.submissions}
        sources = {source: await self.names.source(source) for source in wanted}
        async with self.pool.acquire() as connection:
            await connection.execute(_BEGIN)
            try:
                ids, locked = await self._locked(connection, work, ids)
                loaded = await load(
                    connection, self.names, self._prices, self.rules, work.needs, ids, locked
                )
                commands = [s.command for s in work.submissions]
                decision = decide(loaded.state, commands, loaded.now)
                span.set(
                    {
                        "faregate.ledger.commands": len(commands),
                        "faregate.ledger.accounts": len(loaded.state.accounts),
                        "faregate.ledger.entries": len(decision.entries),
                    }
                )
                position = position_of(decision.results) if position_of else None
                await write(
                    connection,
                    self.keys,
                    loaded,
                    decision,
                    work.submissions,
                    sources,
                    self.checkpoint_every,
                    position,
                )
                failpoints.reach("before_commit")
            except BaseException:
                with suppress(asyncpg.InterfaceError):  # the server has ended the session
                    if not connection.is_closed():
                        await connection.execute("ROLLBACK")
                raise
            with suppress(asyncpg.ProgramLimitExceededError):  # committed, and nobody can be told
                await connection.execute(_COMMIT_AND_TELL if decision.outcomes else "COMMIT")
            failpoints.reach("after_commit")
        first, outcomes = loaded.tx << TX_BITS, decision.outcomes
        return Applied(decision.results, first, loaded.now, outcomes, decision.entries)

    async def _locked(
        self, connection: asyncpg.Connection, work: _Work, ids: Ids
    ) -> tuple[Ids, list[asyncpg.Record]]:
        """Lock the accounts of a batch, or of those of it that need none which others have locked.

        A wait begins with no lock held, since all locks are taken in one order (rule 3).
        """
        if not work.without:
            return ids, await self._lock(connection, work.needs, ids, waits=True)
        locked = await self._lock(connection, work.needs, ids, waits=False)
        there = {row["id"] for row in locked}
        busy = {subject for subject, i in ids.items() if i not in there}
        if work.narrow(busy) or not busy:
            return ids.only(work.needs.subjects), locked
        await connection.execute(f"ROLLBACK; {_BEGIN}")
        return ids, await self._lock(connection, work.needs, ids, waits=True)

    async def _lock(
        self, connection: asyncpg.Connection, needs: Needs, ids: Ids, *, waits: bool
    ) -> list[asyncpg.Record]:
        """Take the locks of a batch: where a transaction waits for other ones."""
        return await lock(connection, needs, ids, waits=waits)

    async def checkpoint(self, limit: int = 1000) -> int:
        """Announce the state of accounts that moved since their last checkpoint; count them."""
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(SQL["lock_uncheckpointed"], limit)
            if not rows:
                return 0
            states: list[dict[str, Any]] = [
                checkpoint(
                    r["id"], r["sequence"], r["balance"], r["held"], r["debt"], r["chain_head"]
                )
                for r in rows
            ]
            context = await connection.fetchrow(SQL["context"])
            await connection.execute(SQL["mark_checkpointed"], [r["id"] for r in rows])
            await connection.execute(SQL["put_outbox"], context["tx"], json.dumps(states))
            return len(rows)


def _span(submissions: Sequence[Submission], attempt: int) -> AbstractContextManager[tracing.Span]:
    """Open the span of one transaction, which shows in the trace of each caller."""
    return tracing.span(
        "ledger transaction",
        contexts=(tracing.context_of(s.refs.traceparent, s.refs.tracestate) for s in submissions),
        attributes={
            "faregate.ledger.commands": len(submissions),
            "faregate.ledger.attempt": attempt,
        },
        mirrored=True,
    )


def _without_detail(error: BaseException) -> str:
    """Give the message alone: PostgreSQL's detail quotes the row, and this goes into logs."""
    return str(error.args[0]) if error.args else ""


def _worth_another_try(error: BaseException) -> bool:
    """At once, that is: a lost connection or a full server is for the caller's back-off."""
    return isinstance(
        error,
        asyncpg.TransactionRollbackError
        | asyncpg.UniqueViolationError
        | asyncpg.InvalidCachedStatementError
        | asyncpg.ReadOnlySQLTransactionError,
    )


async def open_store(pool: asyncpg.Pool, rules: Rules, *, checkpoint_every: int = 100) -> Store:
    """Make a store on a migrated database. Raises Unavailable when it cannot be read."""
    try:
        row = await pool.fetchrow(SQL["ledger"])
    except TRANSIENT as error:
        raise Unavailable(f"{type(error).__name__}: {error}") from error
    return Store(pool, Keys(row["hash_key"]), rules, checkpoint_every)


__all__ = ["Applied", "BadValue", "Result", "Store", "Unavailable", "WentBack", "open_store"]
