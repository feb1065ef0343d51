"""Several hands of a topic at once: each of other partitions, each in a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import CorruptRecordException
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, world

from faregate.consumers.loop import Loop, LoopSettings
from faregate.consumers.offsets import Offsets
from faregate.consumers.reading import partition_of
from faregate.consumers.sizing import BatchSize
from faregate.ledger.store import Unavailable

USAGE = "usage.recorded"
ONE, TWO = TopicPartition(USAGE, 0), TopicPartition(USAGE, 1)
RECORD = ConsumerRecord(USAGE, 0, 5, 0, 0, None, None, None, 0, 0, ())
USERS = [f"user-{n}" for n in range(24)]


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url, partitions=6) as made:
        yield made


def _by_fives(loop: Loop) -> None:
    """Let a batch be full, and a lag be long, with few records."""
    loop._settings = LoopSettings(batch=5, batch_under_lag=60, retry_s=0.01, late_s=0)
    loop._size = BatchSize(loop._settings)


@pytest.mark.stack
async def test_a_hand_that_fails_is_read_again_and_nothing_of_it_is_passed_over(
    here: World,
) -> None:
    await here.send(*(here.usage(USERS[n % 24], units=n % 3 + 1) for n in range(900)))
    async with here.running("deduction", "relay") as started:
        loop, rounds, busy = started["deduction"], list[int](), set[TopicPartition]()
        doomed: list[list[ConsumerRecord]] = []
        process, decide = loop._process, loop._decide

        async def seen(*hands: list[ConsumerRecord]) -> bool:
            rounds.append(len(hands))
            if len(hands) > 1 and len(doomed) < min(3, len(hands)):
                doomed.append(hands[len(doomed)])
            return bool(await process(*hands))

        async def failing(records: Sequence[ConsumerRecord], batch: Any, dead: Any) -> Any:
            mine = {partition_of(r) for r in records}
            assert not mine & busy, "a partition is in one hand only"
            busy.update(mine)
            try:
                if any(records is hand for hand in doomed):
                    raise Unavailable("the database is away")
                return await decide(records, batch, dead)
            finally:
                busy.difference_update(mine)

        _by_fives(loop)
        loop._process, loop._decide = seen, failing
        await prove(here, "deduction")
    assert len(doomed) == max(rounds) == 3, rounds


@pytest.mark.stack
async def test_the_same_usage_in_two_hands_at_once_is_charged_once(here: World) -> None:
    """A careless sender gives repetitions another key, so they are in other partitions."""
    sent = [here.usage(USERS[n % 24]) for n in range(300)]
    keys = [f"user:{USERS[(n + 7) % 24]}".encode() for n in range(300)]
    astray = [replace(record, key=key) for record, key in zip(sent, keys, strict=True)]
    await here.send(*sent, *astray)
    async with here.running("deduction", "relay") as started:
        _by_fives(started["deduction"])
        await prove(here, "deduction")


class Polled:
    """A consumer of two partitions, the second of which cannot be read; `meanwhile` comes first."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        self.meanwhile = meanwhile
        self.paused: set[TopicPartition] = set()

    def assignment(self) -> set[TopicPartition]:
        return {ONE, TWO}

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused.update(partitions)

    async def getmany(
        self, *partitions: TopicPartition, **_: int
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        if not partitions:
            return {ONE: [RECORD]}
        if self.meanwhile:
            await self.meanwhile()
            return {}
        raise CorruptRecordException("record of TWO")


def _polling(consumer: Polled) -> tuple[Loop, list[ConsumerRecord]]:
    missing: Any = None
    offsets, settings = Offsets(missing, "g", missing), LoopSettings(retry_s=0)
    loop = Loop(cast("Any", consumer), missing, missing, offsets, [USAGE], settings)
    loop._size.most = 250  # much waits
    processed: list[ConsumerRecord] = []

    async def process(*hands: list[ConsumerRecord]) -> bool:
        processed.extend(record for hand in hands for record in hand)
        return True

    async def pass_markers() -> None:
        return

    loop._process, loop._pass_markers = process, pass_markers  # type: ignore[method-assign]
    return loop, processed


async def test_a_partition_that_cannot_be_read_keeps_no_other_from_being_decided() -> None:
    loop, processed = _polling(Polled())
    await loop._step()
    assert (processed, loop._unplaced) == ([RECORD], {ONE, TWO})


async def test_where_little_waits_there_is_one_hand() -> None:
    """Accounts of a hand are locked as long as the process works for the other ones."""
    consumer = Polled()
    loop, processed = _polling(consumer)
    loop._size.most = 200
    await loop._step()
    assert (processed, consumer.paused) == ([RECORD], set()), "nothing was read beside it"


async def test_what_was_read_before_a_rebalance_is_not_decided_after_it() -> None:
    async def rebalance() -> None:
        await loop.on_partitions_revoked([])

    loop, processed = _polling(Polled(rebalance))
    await loop._step()
    assert (processed, loop._unplaced) == ([], {ONE, TWO}), "and no offset is passed over"


async def test_a_fault_in_one_hand_ends_the_loop_when_the_others_are_done() -> None:
    missing: Any = None
    loop = Loop(missing, missing, missing, missing, [USAGE])
    done: list[ConsumerRecord] = []

    async def take(records: list[ConsumerRecord]) -> float | None:
        if records == hands[0]:
            raise RuntimeError("a bug")
        await asyncio.sleep(0.01)
        done.extend(records)
        return 0.01

    hands: Any = (["bad"], ["good"])
    loop._take = take  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        await loop._process(*hands)
    assert done == ["good"]
