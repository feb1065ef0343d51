"""The loop's own behaviour: batch sizes, catching up, held partitions, rebalances, the watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError
from tests.helpers.kafka import Raw
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, completed, delete_topics, until, world

from faregate.consumers.loop import Loop, LoopSettings
from faregate.consumers.offsets import Offsets
from faregate.consumers.sizing import BatchSize
from faregate.consumers.topic_ids import describe_all
from faregate.consumers.watchdog import Watchdog
from faregate.events.topics import apply_topics

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


class FakeConsumer:
    """Remembers what is paused and where it was sought to."""

    def __init__(self, *assigned: TopicPartition) -> None:
        self.assigned = set(assigned)
        self.paused: set[TopicPartition] = set()

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused -= set(partitions)


class FakeOffsets:
    """Places partitions at 0; `meanwhile` happens once, between the first and the rest."""

    def __init__(self, meanwhile: Callable[[], Any]) -> None:
        self.meanwhile: Callable[[], Any] | None = meanwhile

    def forget(self, _revoked: Iterable[TopicPartition]) -> None:
        return

    async def place(
        self, consumer: FakeConsumer, assigned: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        for tp in assigned:
            consumer.resume(tp)
            if self.meanwhile:
                happens, self.meanwhile = self.meanwhile, None
                await happens()
        return dict.fromkeys(assigned, 0)


def _loop(consumer: Any = None, offsets: Any = None, **settings: Any) -> Loop:
    missing: Any = None
    return Loop(consumer, missing, missing, offsets, ["usage.recorded"], LoopSettings(**settings))


async def test_a_rebalance_while_partitions_are_placed_leaves_none_paused() -> None:
    consumer = FakeConsumer(ONE, TWO)

    async def rebalance() -> None:
        await loop.on_partitions_revoked([ONE, TWO])
        await loop.on_partitions_assigned([ONE, TWO])

    loop = _loop(consumer, FakeOffsets(rebalance))
    await loop.on_partitions_assigned([ONE, TWO])
    assert consumer.paused == {ONE, TWO}, "nothing is read before it is placed"
    await loop._place()
    await loop._place()
    assert (consumer.paused, loop._unplaced) == (set(), set())


class SoughtConsumer(FakeConsumer):
    """Remembers where each partition was sought to last."""

    def __init__(self, *assigned: TopicPartition) -> None:
        super().__init__(*assigned)
        self.sought: dict[TopicPartition, int] = {}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought[partition] = offset


def _record(tp: TopicPartition, offset: int) -> Any:
    return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, None, None, 0, 0, ())


async def test_what_was_read_ahead_is_dropped_with_its_partition_and_sought_back_with_a_batch() -> (
    None
):
    consumer = SoughtConsumer(ONE, TWO)
    loop = _loop(consumer, FakeOffsets(_nothing))
    loop._ahead = [_record(ONE, 5), _record(TWO, 7), _record(TWO, 8)]
    await loop.on_partitions_revoked([ONE])
    assert [r.offset for r in loop._ahead] == [7, 8]
    loop._seek_back([_record(ONE, 3), _record(ONE, 4)])
    assert (consumer.sought, loop._ahead) == ({ONE: 3, TWO: 7}, [])
    loop._ahead = [_record(ONE, 5)]
    loop._start_over()
    assert loop._ahead == []


async def _nothing() -> None:
    return


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url) as made:
        await made.ledger.set_balance("user:alice", 10_000)
        yield made


@pytest.mark.stack
async def test_a_poll_that_fails_half_way_loses_nothing(here: World) -> None:
    """The client has moved on by then; the loop goes back to the kept offsets."""
    async with here.running("entitlements", "relay") as started:
        loop = started["entitlements"]
        client = getattr(loop, "_asker", loop._consumer)
        failures, ends_of = [KafkaTimeoutError()] * 3, client.end_offsets

        async def end_offsets(partitions: list[TopicPartition]) -> Any:
            if failures:
                raise failures.pop()
            return await ends_of(partitions)

        client.end_offsets = end_offsets
        await here.send(completed("b", "nlp", "p"), *(here.request() for _ in range(10)))
        await until(lambda: _is_empty(failures), what="the polls to fail")
        await prove(here, "entitlements")


async def _is_empty(items: list[Any]) -> bool:
    return not items


@pytest.mark.stack
async def test_a_rebalance_while_catching_up_decides_nothing_in_hand(here: World) -> None:
    async with here.running("entitlements", "relay") as started:
        loop = started["entitlements"]
        before = loop._before
        interrupted: list[TopicPartition] = []

        async def rebalance_once(tp: TopicPartition, end: int) -> bool:
            if not interrupted:
                interrupted.append(tp)
                ours = loop._consumer.assignment()
                await loop.on_partitions_revoked(ours)
                await loop.on_partitions_assigned(ours)
            # As after a real one: no position is known until it is placed.
            return not loop._unplaced and bool(await before(tp, end))

        async def placed(records: list[ConsumerRecord]) -> bool:
            assert not loop._unplaced, "what is in hand may be somebody else's"
            return bool(await process(records))

        loop._before, loop._process, process = rebalance_once, placed, loop._process
        await here.send(completed("b", "cj_assessment", "p"))
        await here.send(here.request("p", batch_id="b"))
        announced = await prove(here, "entitlements")
        assert interrupted
    (decision,) = [e for _, _, e in announced if e.type == "PipelineInitiatedV1"]
    assert decision.data["pruned_phases"] == ["cj_assessment"]


@pytest.mark.stack
async def test_partitions_that_are_lost_before_the_loop_is_told_are_not_decided(
    here: World,
) -> None:
    """The client changes its assignment first, and tells of it a moment later."""
    async with here.running("entitlements", "relay") as started:
        loop = started["entitlements"]
        ask, before, process = loop._asker.end_offsets, loop._before, loop._process
        ours, asked, lost = loop._consumer.assignment, list[int](), asyncio.Event()

        async def lost_at_first(partitions: Iterable[TopicPartition]) -> Any:
            ends = await ask(partitions)
            asked.append(len(ends))
            if len(asked) == 1:
                lost.set()
            elif lost.is_set():
                lost.clear()
                await loop.on_partitions_revoked(ours())
                await loop.on_partitions_assigned(ours())
            return ends

        async def known(tp: TopicPartition, end: int) -> bool:
            return not lost.is_set() and not loop._unplaced and bool(await before(tp, end))

        async def owned(records: list[ConsumerRecord]) -> bool:
            assert not lost.is_set(), "what is in hand is somebody else's"
            return bool(await process(records))

        loop._consumer.assignment = lambda: set() if lost.is_set() else ours()
        loop._asker.end_offsets, loop._before, loop._process = lost_at_first, known, owned
        await here.send(here.request("p", batch_id="b"))
        await prove(here, "entitlements")
        assert len(asked) > 2


@pytest.mark.stack
async def test_a_consumer_that_is_told_to_stop_does_not_decide_without_the_progress(
    here: World,
) -> None:
    async with here.running("entitlements", "relay") as started:
        loop = started["entitlements"]

        async def stop_first(_tp: TopicPartition, _end: int) -> bool:
            loop.stop()
            return True

        loop._before = stop_first
        await here.send(here.request("p", batch_id="b"))
        await until(lambda: _is_set(loop._stopping), what="the stop")
    assert await here.pool.fetchval("SELECT count(*) FROM outcomes WHERE command = 'request'") == 0
    async with here.running("entitlements", "relay"):
        await prove(here, "entitlements")


async def _is_set(event: asyncio.Event) -> bool:
    return event.is_set()


@pytest.mark.stack
async def test_a_held_partition_waits_until_its_dead_letter_is_sent(here: World) -> None:
    """`waits` stays true between the attempts: the watchdog must not end such a process."""
    await delete_topics(here.kafka, here.prefix, ["usage.recorded.dlq"])
    async with here.running("deduction", "relay") as started:
        loop, seen = started["deduction"], []
        loop._settings = LoopSettings(hold_s=0.1)
        held = loop._hold

        def hold(*arguments: Any) -> None:
            seen.append(loop.waits)
            held(*arguments)

        loop._hold = hold
        await here.send(Raw("usage.recorded", b"bad", b"k", partition=0))
        await until(lambda: _longer(seen, 2), what="three attempts")
        assert seen[:3] == [False, True, True]
        await apply_topics(here.kafka, prefix=here.prefix, partitions=2)
        await prove(here, "deduction")
        assert not loop.waits
    assert [r.value for r in await here.dead("usage.recorded")] == [b"bad"]


async def _longer(items: list[Any], than: int) -> bool:
    return len(items) > than


@pytest.mark.stack
async def test_kafkas_own_lag_returns_to_zero_although_a_commit_failed(here: World) -> None:
    async with here.running("deduction", "relay") as started:
        client = started["deduction"]._consumer
        failed: list[Any] = []
        commit = client.commit

        async def commit_once(offsets: dict[TopicPartition, int]) -> None:
            if len(failed) < 2:
                failed.append(offsets)
                raise KafkaTimeoutError
            await commit(offsets)

        client.commit = commit_once
        await here.send(*(here.usage() for _ in range(5)))

        async def committed() -> bool:
            ours = client.assignment()
            return bool(ours) and sum([await client.committed(tp) or 0 for tp in ours]) == 5

        await until(committed, what="Kafka to know how far the group is")
        assert failed


@pytest.mark.stack
async def test_batches_take_a_part_of_what_waits_and_are_small_again_at_its_end(
    here: World,
) -> None:
    await here.send(*(here.usage() for _ in range(400)))
    async with here.running("deduction", "relay") as started:
        loop, sizes = started["deduction"], list[list[int]]()
        loop._settings = LoopSettings(batch=20, batch_under_lag=200, late_s=0)
        loop._size = BatchSize(loop._settings)
        process = loop._process

        async def sized(*hands: list[ConsumerRecord]) -> bool:
            sizes.append([len(hand) for hand in hands])
            return bool(await process(*hands))

        loop._process = sized
        await prove(here, "deduction")
    left, bounds = 400, [20]
    for hands in sizes:
        left -= sum(hands)
        bounds.append(max(20, left // 4))
    assert left == 0
    assert sizes[0] == [20], sizes
    assert max(map(max, sizes)) > 20, sizes
    assert all(max(hands) <= most for hands, most in zip(sizes, bounds, strict=False)), sizes


@asynccontextmanager
async def _watched(
    here: World, owned: dict[int, int], *, waits: bool = False
) -> AsyncIterator[tuple[Offsets, asyncio.Event]]:
    """Watch a group that has its partitions and does not read."""
    topics = await describe_all(here.cluster, [here.prefix + "usage.recorded"])
    offsets, gave_up = Offsets(here.store, "deduction", topics), asyncio.Event()
    offsets._known = {TopicPartition(here.prefix + "usage.recorded", n): o
                      for n, o in owned.items()}  # fmt: skip
    dog = Watchdog(
        here.cluster, offsets, topics, lambda: waits, patience_s=0.4, every_s=0.05,
        give_up=gave_up.set,
    )  # fmt: skip
    look, looking = dog._look, asyncio.Lock()

    async def look_undisturbed() -> None:
        async with looking:
            await look()

    dog._look = look_undisturbed  # type: ignore[method-assign]
    watching = asyncio.create_task(dog.run())
    try:
        yield offsets, gave_up
    finally:
        async with looking:  # aiokafka loses a connection whose opening is cancelled
            watching.cancel()
        await asyncio.wait((watching,))
        assert watching.cancelled(), watching.exception()


async def _in_time(gave_up: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(gave_up.wait(), seconds)
    except TimeoutError:
        return False
    return True


@pytest.mark.stack
@pytest.mark.parametrize(
    ("owned", "waits", "ends"),
    [
        ({0: 0, 1: 0}, False, True),
        ({}, False, True),  # it never got its partitions
        ({0: 0, 1: 0}, True, False),  # waiting for a database or a queue is not being stuck
        ({1: 0}, False, False),  # the partition is somebody else's, who may have to wait
    ],
)
async def test_the_watchdog_ends_a_process_that_is_stuck(
    here: World, owned: dict[int, int], waits: bool, ends: bool
) -> None:
    async with _watched(here, owned, waits=waits) as (_, gave_up):
        assert not await _in_time(gave_up, 0.8), "without lag there is nothing to do"
        record = here.usage()
        await here.send(Raw(record.topic, record.value, record.key, record.headers, 0))
        assert await _in_time(gave_up, 5 if ends else 1.2) is ends


@pytest.mark.stack
async def test_the_watchdog_leaves_a_slow_process_alone(here: World) -> None:
    record = here.usage()
    await here.send(*[Raw(record.topic, record.value, record.key, record.headers, 0)] * 100)
    async with _watched(here, {0: 0}) as (offsets, gave_up):
        tp = TopicPartition(here.prefix + "usage.recorded", 0)
        for offset in range(1, 8):
            await offsets.advance({tp: offset})
            assert not await _in_time(gave_up, 0.2)
        assert await _in_time(gave_up, 5), "and then it stands still"
