"""How long a decision takes to come back, beside a plain echo through the same Kafka.

Open loop: a request is due every 5 ms, whatever became of those before it, and its time counts
from when it was due. So a stall is felt by every request that falls into it. The requests of the
first moments do not count: by then the processes know the accounts, as they do in real life.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from time import perf_counter

from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.bench import disk, events
from tests.bench import echo as echo_process
from tests.bench.events import Raw
from tests.bench.figures import Figure, percentile, rate
from tests.bench.lane import BenchFailed, Ends, Lane, at_rest, module, started
from tests.bench.world import World

from faregate.consumers.kafka import make_producer
from faregate.events.topics import DEFAULT_PARTITIONS

RATE_PER_S = 200
ECHO_MODULE = "tests.bench.echo"
_LATE_S = 20.0


async def echo(world: World) -> dict[str, Figure]:
    """Consume and produce, nothing else: records per second."""
    lane, n = await world.lane("echo", (echo_process.IN, echo_process.OUT)), world.sizes.echo
    raws = [events.usage(user) for user in events.many(n)]
    await events.produce(lane.kafka, lane.cluster.topic(echo_process.IN), raws)
    async with Ends(lane.kafka, lane.cluster.topic(echo_process.OUT)) as ends:
        before = await ends.total()
        async with module(lane, ECHO_MODULE) as process:
            begin = await process.logged("assigned")
            end = await ends.reach(before + n)
    return {"echo_per_s": rate(n, end - begin)}


async def echo_latency(world: World) -> dict[str, Figure]:
    """Send requests through the echo."""
    lane = await world.lane("echo", (echo_process.IN, echo_process.OUT))
    async with module(lane, ECHO_MODULE) as process:
        await process.logged("assigned")
        return await _paced(lane, world, echo_process.IN, echo_process.OUT, "echo")


async def decision_latency(world: World) -> dict[str, Figure]:
    """Send requests through the real entitlements consumer and the real relay."""
    lane = await world.lane("decision")
    async with started(lane, "relay", "entitlements") as (relay, entitlements):
        await relay.logged("relay_started")
        await entitlements.logged("assigned")
        return await _paced(lane, world, "pipeline.requests", "pipeline.initiated", "decision")


async def _paced(
    lane: Lane, world: World, topic_in: str, topic_out: str, name: str
) -> dict[str, Figure]:
    warm, n = world.sizes.warm, world.sizes.paced
    users = [f"u{i % warm}" for i in range(warm + n)]
    ids = [f"{name}-{perf_counter()}-{number}" for number in range(warm + n)]
    raws = [events.request(user, i) for user, i in zip(users, ids, strict=True)]
    await at_rest(lane)
    with disk.watched(name) as found:
        due, seen = await _send_and_watch(
            lane, lane.cluster.topic(topic_in), lane.cluster.topic(topic_out), raws
        )
    missing = [i for i in ids if i not in seen]
    if missing:
        raise BenchFailed(f"{name}: {len(missing)} of {len(ids)} never came back")
    times_ms = [(seen[i] - at) * 1000 for i, at in zip(ids, due, strict=True)][warm:]
    seconds = n / RATE_PER_S
    return {
        f"{name}_p50_ms": Figure(percentile(times_ms, 50), "ms", n, seconds),
        f"{name}_p99_ms": Figure(percentile(times_ms, 99), "ms", n, seconds),
        **found,
    }


async def _send_and_watch(
    lane: Lane, topic_in: str, topic_out: str, raws: Sequence[Raw]
) -> tuple[list[float], dict[str, float]]:
    """Send at the given rate; give when each was due, and when each id was seen to be answered."""
    consumer = AIOKafkaConsumer(bootstrap_servers=lane.kafka, fetch_max_wait_ms=250)
    producer = make_producer(lane.cluster, "bench")
    await consumer.start()
    await producer.start()
    try:
        partitions = [TopicPartition(topic_out, n) for n in range(DEFAULT_PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_end(*partitions)
        watching = asyncio.create_task(_watch(consumer, len(raws)))
        begin = perf_counter() + 0.1
        due = [begin + number / RATE_PER_S for number in range(len(raws))]
        for at, raw in zip(due, raws, strict=True):
            if (early := at - perf_counter()) > 0:
                await asyncio.sleep(early)
            await producer.send(topic_in, raw.value, raw.key, headers=raw.headers)
        return due, await watching
    finally:
        await producer.stop()
        await consumer.stop()


async def _watch(consumer: AIOKafkaConsumer, n: int) -> dict[str, float]:
    seen: dict[str, float] = {}
    quiet_since = perf_counter()
    while len(seen) < n and perf_counter() - quiet_since < _LATE_S:
        polled = await consumer.getmany(timeout_ms=100)
        now = perf_counter()
        for records in polled.values():
            quiet_since = now
            for record in records:
                seen.setdefault(json.loads(record.value)["data"]["pipeline_id"], now)
    return seen
