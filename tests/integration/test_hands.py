"""Several hands of a topic at once: each of other partitions, each in a transaction of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import ConsumerRecord, TopicPartition
from tests.helpers.proof import prove
from tests.helpers.servers import Stack
from tests.helpers.world import World, world

from faregate.consumers.loop import Loop, LoopSettings
from faregate.consumers.reading import partition_of
from faregate.consumers.sizing import BatchSize
from faregate.ledger.store import Unavailable

USERS = [f"user-{n}" for n in range(24)]


@pytest.fixture
async def here(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url, partitions=6) as made:
        yield made


def _by_tens(loop: Loop) -> None:
    """Let a batch be full, and a lag be long, with few records."""
    loop._settings = LoopSettings(batch=10, batch_under_lag=60, retry_s=0.01)
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
            if len(hands) > 1 and len(doomed) < 3:
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

        _by_tens(loop)
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
        _by_tens(started["deduction"])
        await prove(here, "deduction")


async def test_a_fault_in_one_hand_ends_the_loop_when_the_others_are_done() -> None:
    missing: Any = None
    loop = Loop(missing, missing, missing, missing, ["usage.recorded"])
    done: list[ConsumerRecord] = []

    async def take(records: list[ConsumerRecord]) -> bool:
        if records == hands[0]:
            raise RuntimeError("a bug")
        await asyncio.sleep(0.01)
        done.extend(records)
        return True

    hands: Any = (["bad"], ["good"])
    loop._take = take  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        await loop._process(*hands)
    assert done == ["good"]
