"""One installation of the product in a test: topics of its own prefix, a database of its own.

What is sent is remembered, so that `proof.prove` can compare the ledger with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
from tests.helpers.kafka import CONTENT_TYPE, Raw, read_all, send, structured
from tests.helpers.ledger import Ledger
from tests.helpers.processes import environment

from faregate.consumers.kafka import Cluster
from faregate.consumers.lag import lag_of
from faregate.consumers.offsets import Offsets
from faregate.consumers.topic_ids import describe_all
from faregate.events import Event, decode
from faregate.events.topics import INPUT_TOPICS, TOPICS, apply_topics, dlq_of
from faregate.ledger.core import Rules
from faregate.ledger.database import make_pool
from faregate.ledger.store import Store, open_store
from faregate.runtime import processes
from faregate.runtime.servers import Servers
from faregate.runtime.settings import Settings
from faregate.testing import topics

ANNOUNCED = tuple(name for name in TOPICS if name not in INPUT_TOPICS)


@dataclass(slots=True)
class World:
    """Where it is, and what was sent to it."""

    kafka: str
    database: str
    prefix: str
    pool: asyncpg.Pool
    store: Store
    usages: dict[str, int] = field(default_factory=dict)
    """Usage ids that were sent and must be charged once, with their units."""
    requests: set[str] = field(default_factory=set)
    """Pipeline ids that were asked for and must be answered."""

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.kafka, self.prefix, 6000)

    def environment(self, **more: str) -> dict[str, str]:
        return environment(self.kafka, self.database, self.prefix, log_format="json", **more)

    def usage(
        self,
        user: str | None = "alice",
        *,
        org: str | None = None,
        pipeline: str | None = None,
        units: int = 1,
        usage_id: str | None = None,
        **more: Any,
    ) -> Raw:
        """Make a usage event that must be charged once."""
        usage_id = usage_id or f"u-{uuid4().hex}"
        data = {
            "usage_id": usage_id,
            "user_id": user,
            "org_id": org,
            "pipeline_id": pipeline,
            "occurred_at": datetime.now(UTC).isoformat(),
            "phase": "cj_assessment",
            "units": units,
            **more,
        }
        self.usages[usage_id] = units
        return raw("usage.recorded", "UsageRecordedV1", data, usage_id)

    def request(
        self,
        pipeline_id: str | None = None,
        user: str = "alice",
        *,
        org: str | None = None,
        items: int = 10,
        batch_id: str | None = None,
        event_id: str | None = None,
        **more: Any,
    ) -> Raw:
        """Make a request for `cj_assessment` that must be answered."""
        pipeline_id = pipeline_id or f"p-{uuid4().hex}"
        data = {
            "pipeline_id": pipeline_id,
            "pipeline": "cj_assessment",
            "user_id": user,
            "org_id": org,
            "batch_id": batch_id or f"b-{pipeline_id}",
            "items": items,
            **more,
        }
        self.requests.add(pipeline_id)
        return raw("pipeline.requests", "PipelineRequestedV1", data, event_id or pipeline_id)

    async def send(self, *records: Raw) -> list[tuple[int, int]]:
        return await send(self.kafka, self.prefix, records)

    async def announced(self, *topics: str) -> list[tuple[str, bytes, Event]]:
        """Read what was announced: (topic without prefix, key, event)."""
        names = [self.prefix + t for t in topics or ANNOUNCED]
        records = await read_all(self.kafka, names)
        return [
            (r.topic.removeprefix(self.prefix), r.key, decode(r.value, r.headers)) for r in records
        ]

    async def dead(self, topic: str) -> list[Any]:
        """Read the dead letter queue of one of the contract's topics."""
        return await read_all(self.kafka, [self.prefix + dlq_of(topic)])

    async def lag(self, consumer: str) -> int:
        """Count what a consumer group has not kept yet."""
        topics = await describe_all(
            self.cluster, [self.prefix + t for t in processes.CONSUMERS[consumer]]
        )
        offsets = Offsets(self.store, consumer, topics)
        return await lag_of(self.cluster, topics, await offsets.kept())

    async def settled(self, *consumers: str, timeout_s: float = 40) -> None:
        """Wait until the groups have read everything, and everything is announced."""

        async def done() -> bool:
            for consumer in consumers:
                if await self.lag(consumer):
                    return False
            return not await self.pool.fetchval("SELECT EXISTS (SELECT FROM outbox)")

        await until(done, timeout_s, f"{consumers} to read all and the relay to publish it")

    @asynccontextmanager
    async def running(self, *names: str, **settings: Any) -> AsyncIterator[dict[str, Any]]:
        """Run processes of the product on this event loop for the length of the block."""
        config = Settings(
            topic_prefix=self.prefix,
            session_timeout_ms=6000,
            log_level="warning",
            **{"provisioning": "manual", **settings},
        )
        servers = Servers(self.kafka, self.database)
        async with AsyncExitStack() as resources:
            started = {
                n: await processes._start(resources, config, servers, n.partition("#")[0])
                for n in names
            }
            tasks = [asyncio.create_task(p.run(), name=n) for n, p in started.items()]
            try:
                yield started
            finally:
                for process in started.values():
                    process.stop()
                await asyncio.wait(tasks, timeout=9)
            for task in tasks:
                task.result()


def raw(topic: str, type_: str, data: dict[str, Any], event_id: str, **more: Any) -> Raw:
    """Make a record as a good client would send it."""
    org, user = data.get("org_id"), data.get("user_id")
    key = f"org:{org}" if org else f"user:{user}"
    value = structured(type_, {k: v for k, v in data.items() if v is not None}, event_id, **more)
    return Raw(topic, value, key.encode(), (CONTENT_TYPE,))


def completed(batch_id: str, phase: str, pipeline_id: str, user: str = "alice", **more: Any) -> Raw:
    """Make a completion of a phase."""
    data = {
        "pipeline_id": pipeline_id,
        "batch_id": batch_id,
        "user_id": user,
        "phase": phase,
        **more,
    }
    return raw("pipeline.progress", "PipelinePhaseCompletedV1", data, f"c-{uuid4().hex}")


def registered(user: str, event_id: str | None = None, **more: Any) -> Raw:
    """Make a registration."""
    data = {"user_id": user, **more}
    return raw("users.registered", "UserRegisteredV1", data, event_id or f"s-{uuid4().hex}")


def finished(pipeline_id: str, user: str = "alice", **more: Any) -> Raw:
    """Make the end of a pipeline."""
    data = {"pipeline_id": pipeline_id, "user_id": user, "status": "succeeded", **more}
    return raw("pipeline.progress", "PipelineFinishedV1", data, f"f-{uuid4().hex}")


@asynccontextmanager
async def world(kafka: str, database: str, *, partitions: int = 2) -> AsyncIterator[World]:
    """Make an installation on a migrated database; its topics are deleted afterwards."""
    prefix = f"t{uuid4().hex[:10]}."
    await apply_topics(kafka, prefix=prefix, partitions=partitions)
    pool = await make_pool(database, name="test", size=4)
    store = await open_store(pool, Rules(provisioning="manual"))
    try:
        yield World(kafka, database, prefix, pool, store)
    finally:
        pool.terminate()
        await topics.delete_topics(kafka, prefix)


async def delete_topics(kafka: str, prefix: str, names: Iterable[str]) -> None:
    """Delete topics of a prefix (named without it), and wait until they are gone."""
    wanted = [prefix + n for n in names]
    async with topics.kafka_admin(kafka) as client:
        await client.delete_topics(wanted)

        async def gone() -> bool:
            return not set(wanted) & set(await client.list_topics())

        await until(gone, 20, "topics to be gone")


async def until(
    condition: Callable[[], Awaitable[bool]], timeout_s: float = 30, what: str = "it"
) -> None:
    """Poll until the condition holds; fail with what was waited for."""
    end = monotonic() + timeout_s
    while not await condition():
        if monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s for {what}")
        await asyncio.sleep(0.05)


async def gather_all(work: Sequence[Awaitable[Any]]) -> list[Any]:
    """Run everything at once; the first error is raised."""
    return list(await asyncio.gather(*work))
