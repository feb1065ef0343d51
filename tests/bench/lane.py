"""A lane: a database of its own and topics under a prefix of their own, for one measure.

Lanes stay for all rounds, so that a round begins with warm servers and nothing to wait for. The
real processes of the product are started for each round and stopped after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench import events
from tests.helpers.servers import fresh_database

from faregate.consumers.kafka import Cluster
from faregate.events.topics import DEFAULT_PARTITIONS, TOPICS, all_topics
from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import Store, open_store

RULES = Rules(provisioning="manual", low_percent=20)
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 60.0
_SEED_BATCH = 500
_POLL_S = 0.005


class BenchFailed(Exception):
    """A measure did not come to its end, or not to the right one."""


@dataclass(frozen=True, slots=True)
class Lane:
    """Where one measure runs. `database` is an administrator's URL."""

    kafka: str
    database: str
    prefix: str

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.kafka, self.prefix)


async def at_rest(lane: Lane) -> None:
    """Let the disk write what earlier measures have left to it.

    It stands still for up to half a second while it does, which is nothing of what is timed next.
    """
    connection = await asyncpg.connect(lane.database)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    await asyncio.to_thread(os.sync)


@asynccontextmanager
async def open_lane_store(database: str, *, size: int = 4) -> AsyncIterator[Store]:
    """Open the ledger in a database as the application's role."""
    pool = await make_pool(database, name="bench", size=size)
    try:
        yield await open_store(pool, RULES)
    finally:
        await pool.close()


async def seeded_database(admin: str, *, rich: bool = False) -> str:
    """Make the database that lanes are copies of: accounts with a balance and a live hold.

    `rich`: the balance is made of three grants.
    """
    url = await fresh_database(admin)
    async with open_lane_store(url) as store:
        seeds = events.rich_seeds(store.keys) if rich else events.seeds(store.keys)
        for start in range(0, len(seeds), _SEED_BATCH):
            await store.apply(seeds[start : start + _SEED_BATCH])
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("DELETE FROM outbox")
        await connection.execute("VACUUM (FREEZE, ANALYZE)")
    finally:
        await connection.close()
    return url


async def make_topics(lane: Lane, names: Sequence[str]) -> None:
    """Create topics of the contract, and any others, under the lane's prefix."""
    known = {t.name: t.configs() for t in all_topics()}
    admin = AIOKafkaAdminClient(bootstrap_servers=lane.kafka)
    await admin.start()
    try:
        wanted = [
            NewTopic(f"{lane.prefix}{n}", DEFAULT_PARTITIONS, 1, topic_configs=known.get(n, {}))
            for n in names
        ]
        answer = await admin.create_topics(wanted)
    finally:
        await admin.close()
    failed = [error for error in answer.topic_errors if error[1]]
    if failed:
        raise BenchFailed(f"topics were not created: {failed}")
    for name in names:  # until every partition has its leader
        async with Ends(lane.kafka, f"{lane.prefix}{name}") as ends:
            await ends.total()


LEDGER_TOPICS = tuple(TOPICS) + tuple(t.name for t in all_topics() if t.name not in TOPICS)


_AWAITED = {"assigned", "relay_started", "gateway_started", "done"}


class Running:
    """A process of the product, and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        stream = self.process.stderr
        while stream is not None and (raw := await stream.readline()):
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": "text", "level": "error", "text": raw.decode().rstrip()}
            if line.get("level") != "info" or line.get("event") in _AWAITED:
                self.lines.append({**line, "seen_at": perf_counter()})
                self._changed.set()
        self._changed.set()

    async def logged(self, event: str) -> float:
        """Wait until the process logs `event`; give the moment. Raises BenchFailed if it ends."""
        return float((await self.line(event))["seen_at"])

    async def line(self, event: str) -> dict[str, Any]:
        """Wait until the process logs `event`; give what it said."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                for line in self.lines:
                    if line["event"] == event:
                        return line
                if self._reader.done():
                    raise BenchFailed(f"the process ended: {self.lines[-5:]}")
                self._changed.clear()
                await self._changed.wait()

    def go(self) -> None:
        """Send a line to the process: it has waited for that."""
        if self.process.stdin is not None:
            self.process.stdin.write(b"\n")

    def troubles(self, since: float) -> list[dict[str, Any]]:
        """List what it complained about from that moment on."""
        return [x for x in self.lines if x.get("level") != "info" and x["seen_at"] >= since]

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reader


@asynccontextmanager
async def started(
    lane: Lane, *names: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[list[Running]]:
    """Run `faregate run NAME` for each name, each in a process of its own."""
    program = str(Path(sys.executable).with_name("faregate"))
    commands = [[program, "run", name] for name in names]
    async with _spawned(lane, commands, settings) as processes:
        yield processes


@asynccontextmanager
async def module(
    lane: Lane, name: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Running]:
    """Run a module of this package in a process of its own."""
    async with modules(lane, name, [()], settings) as (process,):
        yield process


@asynccontextmanager
async def modules(
    lane: Lane,
    name: str,
    arguments: Sequence[Sequence[str]],
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[list[Running]]:
    """Run a module of this package once for each list of arguments, all at the same time."""
    commands = [[sys.executable, "-m", name, *some] for some in arguments]
    async with _spawned(lane, commands, settings) as processes:
        yield processes


@asynccontextmanager
async def _spawned(
    lane: Lane, commands: Sequence[Sequence[str]], settings: Mapping[str, str] | None
) -> AsyncIterator[list[Running]]:
    environment = {
        **os.environ,
        "FAREGATE_KAFKA": lane.kafka,
        "FAREGATE_DATABASE": lane.database,
        "FAREGATE_TOPIC_PREFIX": lane.prefix,
        "FAREGATE_PROVISIONING": "manual",
        "FAREGATE_LOW_BALANCE_PERCENT": "20",
        "FAREGATE_LOG_FORMAT": "json",
        **(settings or {}),
    }
    processes: list[Running] = []
    try:
        for command in commands:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            processes.append(Running(process))
        yield processes
    except BenchFailed as error:
        logs = [line for process in processes for line in process.lines[-8:]]
        raise BenchFailed(f"{error}; logged: {logs}") from error
    finally:
        await asyncio.gather(*(process.stop() for process in processes))


class Ends:
    """Watches how many records a topic has got, without reading them."""

    def __init__(self, kafka: str, topic: str) -> None:
        self._client = AIOKafkaConsumer(bootstrap_servers=kafka, enable_auto_commit=False)
        self._partitions = [TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)]

    async def __aenter__(self) -> Self:
        await self._client.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.stop()

    async def total(self) -> int:
        """Count the records that were ever written to the topic."""
        return sum((await self._client.end_offsets(self._partitions)).values())

    async def reach(self, total: int) -> float:
        """Wait until the topic has so many records; give the moment when it was seen."""
        until = perf_counter() + DRAIN_TIMEOUT_S
        while (now := await self.total()) < total and perf_counter() < until:
            await asyncio.sleep(_POLL_S)
        moment = perf_counter()
        if now != total:
            raise BenchFailed(f"{now} records, expected exactly {total}")
        return moment
