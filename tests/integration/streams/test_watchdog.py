"""A stream that has records and reads none is ended; one that has read all, or cannot yet, is not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from tests.helpers.kafka import Raw, ends_of, send
from tests.helpers.streams import Account, Streams, denial, registration, worker

from faregate.runtime.supervisor import die_with_parent
from faregate.streams.faults import StreamsFault
from faregate.streams.options import Options
from faregate.streams.sources import application
from faregate.streams.watchdog import Watchdog
from faregate.streams.worker import EXIT_FAULT

pytestmark = [pytest.mark.stack, pytest.mark.faults]

PROGRAM = Path(__file__).with_name("a_stream_that_hangs.py")
PATIENCE_S = 0.8


@pytest.mark.parametrize("when", [[], ["starting"]])
def test_a_stream_that_reads_nothing_ends_so_that_it_is_started_again(
    streams: Streams, when: list[str]
) -> None:
    acme = Account("org:stuck")
    streams.feed(acme.grant(1))
    process = subprocess.Popen(
        [sys.executable, PROGRAM, streams.kafka, streams.prefix, "2", *when],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - as the supervisor does
    )
    with process:
        try:
            said, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"stream_stuck" in said, said.decode()
    assert f"{streams.prefix}credits.ledger/".encode() in said
    assert process.returncode in {1, EXIT_FAULT}, "1 if it could still stop in order"
    assert (b"streams_started" in said) == (not when)


def test_a_stream_that_has_read_all_stays(streams: Streams, tmp_path: Path) -> None:
    with worker(streams.kafka, streams.prefix, tmp_path, "fraud", watchdog_s="3") as running:
        asyncio.run(_send_in_a_transaction(streams, registration("ada", campaign="spring")))
        sleep(8)
        assert running.running.poll() is None
        assert not running.logged("stream_stuck")
        place = asyncio.run(_behind(streams, "users.registered", "fraud"))
        assert place, "the mark of the transaction lies behind what is committed"


async def _send_in_a_transaction(streams: Streams, raw: Raw) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=streams.kafka, transactional_id=streams.prefix)
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(
                streams.prefix + raw.topic, raw.value, raw.key, headers=list(raw.headers)
            )
    finally:
        await producer.stop()


async def _behind(streams: Streams, topic: str, stream: str) -> list[TopicPartition]:
    ends = await ends_of(streams.kafka, [streams.prefix + topic])
    async with member(streams, stream) as client:
        return [tp for tp, end in ends.items() if end > (await client.committed(tp) or 0)]


@asynccontextmanager
async def member(streams: Streams, stream: str) -> AsyncIterator[AIOKafkaConsumer]:
    """Run a client that reads and commits offsets of a stream's group."""
    client = AIOKafkaConsumer(
        bootstrap_servers=streams.kafka,
        group_id=application(streams.prefix, stream),
        enable_auto_commit=False,
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


class Faust:
    """What a watchdog asks Faust: which partitions it owns, and how far its tables are."""

    def __init__(self, streams: Streams) -> None:
        self.owned: set[TopicPartition] = set()
        self.recovery = SimpleNamespace(in_recovery=False, active_offsets={})
        self.stream = SimpleNamespace(
            name="denials",
            options=Options(streams.kafka, streams.prefix, watchdog_s=PATIENCE_S),
            partitions=2,
            app=SimpleNamespace(
                consumer=SimpleNamespace(assignment=lambda: self.owned),
                tables=SimpleNamespace(recovery=self.recovery),
            ),
        )

    async def is_ended(self, within_s: float = 4 * PATIENCE_S) -> bool:
        """Look as often as it is looked, for so long."""
        dog, until = Watchdog(cast("Any", self.stream)), monotonic() + within_s
        while monotonic() < until:
            await asyncio.sleep(PATIENCE_S / 8)
            try:
                await dog.look()
            except StreamsFault as fault:
                assert "start it again" in str(fault)
                return True
        return False


async def test_what_counts_is_what_it_owns_and_whether_it_can_read_yet(streams: Streams) -> None:
    faust, topic = Faust(streams), f"{streams.prefix}pipeline.denied"
    mine, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    raw = denial("user:ada")
    assert not await faust.is_ended(), "there is nothing to read"
    await send(streams.kafka, streams.prefix, [Raw(raw.topic, raw.value, raw.key, raw.headers, 0)])
    faust.owned = {other}
    assert not await faust.is_ended(), "the record is of a partition that another worker owns"
    faust.owned = {mine}
    assert await faust.is_ended()
    faust.owned = set()
    assert await faust.is_ended(), "it hangs before it owns anything"

    # What it owns is read from its changelog first.
    faust.owned, faust.recovery.in_recovery = {mine}, True
    recovering = asyncio.create_task(_recover(faust))
    assert not await faust.is_ended()
    recovering.cancel()
    assert await faust.is_ended(), "that does not get on either"
    faust.recovery.in_recovery = False

    # Others commit: a worker that owns nothing has nothing to do.
    await send(
        streams.kafka,
        streams.prefix,
        [Raw(raw.topic, raw.value, raw.key, raw.headers, 1)] * 1000,
    )
    faust.owned = set()
    async with member(streams, "denials") as client:
        committing = asyncio.create_task(_commit(client, other))
        assert not await faust.is_ended()
        committing.cancel()
        client.assign([mine, other])
        await client.commit({mine: 1, other: 1000})
    assert not await faust.is_ended(), "all is read"


async def _recover(faust: Faust) -> None:
    for offset in range(10_000):
        faust.recovery.active_offsets = {TopicPartition("changelog", 0): offset}
        await asyncio.sleep(PATIENCE_S / 8)


async def _commit(client: AIOKafkaConsumer, tp: TopicPartition) -> None:
    client.assign([tp])
    for offset in range(1, 1000):
        await client.commit({tp: offset})
        await asyncio.sleep(PATIENCE_S / 8)
