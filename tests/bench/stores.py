"""The store without Kafka: its limit, many keys, and pairs of reserve and settle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from tests.bench import events, settle
from tests.bench.figures import Figure, rate
from tests.bench.lane import BenchFailed, modules, open_lane_store
from tests.bench.world import BATCH, World
from tests.helpers.servers import drop_database

from faregate.ledger.batch import Offset, Position, Submission, needs_of
from faregate.ledger.core import Outcome, decide
from faregate.ledger.load import PriceCache, load, lock
from faregate.ledger.store import Store
from faregate.ledger.write import write

_PARTITIONS = 6


@dataclass(slots=True)
class Recorder:
    """Hands on what a transaction writes, and remembers it."""

    connection: Any
    writes: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.connection, name)

        async def recorded(*args: Any, **options: Any) -> Any:
            self.writes.append((name, args, options))
            return await method(*args, **options)

        return recorded

    async def replay(self, connection: asyncpg.Connection, *, new_rows_only: bool) -> None:
        """Write the same again, with nothing to compute."""
        for name, args, options in self.writes:
            if not new_rows_only or name == "copy_records_to_table":
                await getattr(connection, name)(*args, **options)
        if new_rows_only:  # the outbox row stands in one statement with what is left out
            await connection.execute("INSERT INTO outbox (tx) VALUES (nextval('tx_seq'))")


_recorded: dict[bool, list[Recorder]] = {}


async def copy_limit(world: World) -> dict[str, Figure]:
    """Measure the limit of deductions from accounts with one grant."""
    limits = await _copy_limit(world, rich=False, new_rows_only=(False, True))
    return {"copy_limit_per_s": limits[0], "copy_of_new_rows_per_s": limits[1]}


async def rich_copy_limit(world: World) -> dict[str, Figure]:
    """Measure the limit of deductions from accounts with three grants."""
    (limit,) = await _copy_limit(world, rich=True, new_rows_only=(False,))
    return {"rich_copy_limit_per_s": limit}


async def _copy_limit(world: World, *, rich: bool, new_rows_only: Sequence[bool]) -> list[Figure]:
    """Write the rows of the deductions' transactions, ready-made, in the same batches.

    They are recorded from real transactions and replayed on copies of the same database: outcomes,
    entries and refs by COPY into the same tables with all indexes, constraints and triggers, and
    the outbox row, the accounts, the holds and the offsets as they are written.
    With `new_rows_only` it leaves out the rows that are not new: accounts, holds, offsets.
    """
    if rich not in _recorded:
        source = await world.database(rich=rich)
        _recorded[rich] = await _record(source, world.sizes.copy)
        await drop_database(world.admin, source)
    found = []
    for only in new_rows_only:
        database = await world.database(rich=rich)
        async with open_lane_store(database) as store, store.pool.acquire() as connection:
            begin = perf_counter()
            for batch in _recorded[rich]:
                async with connection.transaction():
                    await batch.replay(connection, new_rows_only=only)
            found.append(rate(world.sizes.copy, perf_counter() - begin))
        await drop_database(world.admin, database)
    return found


async def _record(database: str, n: int) -> list[Recorder]:
    batches, prices, topic = [], PriceCache(), uuid4()
    async with open_lane_store(database) as store:
        for number, submissions in enumerate(_batches(store, events.many(n))):
            batches.append(await _record_one(store, prices, submissions, topic, number))
    return batches


async def _record_one(
    store: Store, prices: PriceCache, submissions: Sequence[Submission], topic: UUID, number: int
) -> Recorder:
    commands = [s.command for s in submissions]
    needs = needs_of(commands)
    ids = await store.names.ids(needs.subjects)
    sources = {events.SOURCE: await store.names.source(events.SOURCE)}
    end = (number + 1) * BATCH // _PARTITIONS
    offsets = [Offset(topic, n, "usage.recorded", end) for n in range(_PARTITIONS)]
    async with store.pool.acquire() as connection, connection.transaction():
        locked = await lock(connection, needs, ids, waits=True)
        loaded = await load(connection, store.names, prices, store.rules, needs, ids, locked)
        decision = decide(loaded.state, commands, loaded.now)
        recorder = Recorder(connection)
        writer: Any = recorder
        await write(
            writer,
            store.keys,
            loaded,
            decision,
            submissions,
            sources,
            store.checkpoint_every,
            Position("bench", "deduction", offsets),
        )
    return recorder


def _batches(store: Store, users: Sequence[str], size: int = BATCH) -> list[list[Submission]]:
    made = [events.submission(events.usage(user), store.keys) for user in users]
    return [made[start : start + size] for start in range(0, len(made), size)]


async def many_keys(world: World) -> dict[str, Figure]:
    """Apply the same batches to an empty ledger and to one with many keys, turn by turn."""
    empty, big = await world.lane("few"), await world.lane("keys", big=True)
    spent = {"store_per_s": 0.0, "store_10m_keys_per_s": 0.0}
    async with open_lane_store(empty.database) as few, open_lane_store(big.database) as many:
        users = events.many(world.sizes.store)
        turns = zip(_batches(few, users), _batches(many, users), strict=True)
        for for_few, for_many in turns:
            spent["store_per_s"] += await _timed(few, for_few)
            spent["store_10m_keys_per_s"] += await _timed(many, for_many)
        for store in (few, many):
            await store.pool.execute("DELETE FROM outbox")
    return {name: rate(world.sizes.store, seconds) for name, seconds in spent.items()}


async def _timed(store: Store, batch: Sequence[Submission]) -> float:
    begin = perf_counter()
    results = await store.apply(batch)
    seconds = perf_counter() - begin
    if not all(isinstance(result, Outcome) for result in results):
        raise BenchFailed("not every event was accepted")
    return seconds


async def pairs(world: World) -> dict[str, Figure]:
    """Reserve, then settle: concurrent batches of requests, each followed by their usage."""
    lane, n = await world.lane("pairs", ()), world.sizes.pairs // settle.PROCESSES
    arguments = [(str(number), str(n)) for number in range(settle.PROCESSES)]
    async with modules(lane, settle.__name__, arguments) as processes:
        for process in processes:
            await process.logged("assigned")
        begin = perf_counter()
        for process in processes:
            process.go()
        end = max([await process.logged("done") for process in processes])
    connection = await asyncpg.connect(lane.database)
    await connection.execute("DELETE FROM outbox")
    await connection.close()
    return {"reserve_settle_pairs_per_s": rate(n * settle.PROCESSES, end - begin)}
