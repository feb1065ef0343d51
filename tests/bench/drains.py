"""From Kafka through the ledger to Kafka: our processes, and two others doing the same work.

Time runs from the moment that the consumer has its partitions (the relay is connected by then)
until the last CreditsDeductedV1 is on credits.ledger. So the start of a process does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from time import perf_counter

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from tests.bench import events
from tests.bench.figures import Figure, rate
from tests.bench.lane import BenchFailed, Ends, Lane, open_lane_store, started
from tests.bench.world import World

from faregate.consumers import intake
from faregate.consumers.kafka import make_consumer, make_producer
from faregate.events import Event, encode
from faregate.events.topics import DEFAULT_PARTITIONS
from faregate.ledger.core import Outcome
from faregate.ledger.store import Store

IN, OUT = "usage.recorded", "credits.ledger"
_RIVAL_POLL = 500


async def deductions(world: World) -> dict[str, Figure]:
    """Drain usage of 2,000 accounts with the real consumer and relay."""
    lane = await world.lane("many")
    return {"deductions_per_s": await _drain(lane, events.many(world.sizes.deductions))}


async def rich(world: World) -> dict[str, Figure]:
    """Drain usage of 2,000 accounts that have three grants each, with alerts on."""
    lane = await world.lane("rich", rich=True)
    return {"rich_deductions_per_s": await _drain(lane, events.many(world.sizes.deductions))}


async def hot_account(world: World) -> dict[str, Figure]:
    """Drain usage of one account, so of one partition and one row lock."""
    lane = await world.lane("hot")
    return {"deductions_hot_account_per_s": await _drain(lane, [events.HOT] * world.sizes.hot)}


async def many_keys(world: World) -> dict[str, Figure]:
    """Drain usage of 2,000 accounts into a ledger that remembers many keys already."""
    lane = await world.lane("keys", big=True)
    return {"deductions_10m_keys_per_s": await _drain(lane, events.many(world.sizes.deductions))}


async def _drain(lane: Lane, users: Sequence[str]) -> Figure:
    await _produce(lane, users)
    async with Ends(lane.kafka, lane.cluster.topic(OUT)) as ends:
        before = await ends.total()
        async with started(lane, "relay") as (relay,):
            await relay.logged("relay_started")
            async with started(lane, "deduction") as (deduction,):
                begin = await deduction.logged("assigned")
                end = await ends.reach(before + len(users))
    for process in (relay, deduction):
        if troubles := process.troubles(begin):
            raise BenchFailed(f"not an undisturbed run: {troubles[:3]}")
    return rate(len(users), end - begin)


async def _produce(lane: Lane, users: Sequence[str]) -> None:
    raws = [events.usage(user) for user in users]
    await events.produce(lane.kafka, lane.cluster.topic(IN), raws)


async def rival(world: World) -> dict[str, Figure]:
    """Do it as a good engineer would who has one transaction per event.

    The same store, all partitions at the same time, the same relay (which publishes in batches),
    and one offset commit per poll.
    """
    lane, n = await world.lane("rival"), world.sizes.rival
    await _produce(lane, events.many(n))
    async with (
        Ends(lane.kafka, lane.cluster.topic(OUT)) as ends,
        open_lane_store(lane.database, size=DEFAULT_PARTITIONS) as store,
        started(lane, "relay") as (relay,),
    ):
        before = await ends.total()
        await relay.logged("relay_started")
        consumer = await _assigned(lane, "rival")
        begin, done = perf_counter(), 0
        while done < n:
            polled = await consumer.getmany(timeout_ms=200, max_records=_RIVAL_POLL)
            await asyncio.gather(*(_one_by_one(store, r) for r in polled.values()))
            await consumer.commit()
            done += sum(len(records) for records in polled.values())
        end = await ends.reach(before + n)
        await consumer.stop()
    return {"rival_per_s": rate(n, end - begin)}


async def _one_by_one(store: Store, records: Sequence[ConsumerRecord]) -> None:
    for record in records:
        await store.apply([intake.read(record, store.keys, ("UsageRecordedV1",))])


async def naive(world: World) -> dict[str, Figure]:
    """Await one transaction, one send and one offset commit for each event."""
    lane, n = await world.lane("naive"), world.sizes.naive
    await _produce(lane, events.many(n))
    producer = make_producer(lane.cluster, "naive")
    await producer.start()
    async with (
        Ends(lane.kafka, lane.cluster.topic(OUT)) as ends,
        open_lane_store(lane.database) as store,
    ):
        before = await ends.total()
        consumer = await _assigned(lane, "naive")
        begin = perf_counter()
        for _ in range(n):
            record = await consumer.getone()
            (result,) = await store.apply([intake.read(record, store.keys, ("UsageRecordedV1",))])
            if not isinstance(result, Outcome):
                raise BenchFailed(f"the usage was not charged: {result}")
            value, headers = encode(_announcement(record, result))
            await producer.send_and_wait(
                lane.cluster.topic(OUT), value, record.key, headers=headers
            )
            place = TopicPartition(record.topic, record.partition)
            await consumer.commit({place: record.offset + 1})
        end = await ends.reach(before + n)
        await consumer.stop()
    await producer.stop()
    return {"naive_per_s": rate(n, end - begin)}


def _announcement(record: ConsumerRecord, outcome: Outcome) -> Event:
    data = {"account": record.key.decode(), "kind": "usage", "amount": -1, "at": datetime.now(UTC)}
    event_id = outcome.identity.event_key.hex()
    return Event(event_id, "faregate", "CreditsDeductedV1", data, subject=record.key.decode())


async def _assigned(lane: Lane, name: str) -> AIOKafkaConsumer:
    """Give a consumer of all partitions that goes on where its group has committed."""
    consumer = make_consumer(lane.cluster, name)
    await consumer.start()
    topic = lane.cluster.topic(IN)
    consumer.assign([TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)])
    return consumer
