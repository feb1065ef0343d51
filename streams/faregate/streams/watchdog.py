"""Finds a stream that has records to read and reads none.

Faust has been seen to take over the partition of a killed worker and never to read it, without a
word in its log. So Faust is not asked whether it reads: what the stream's group has committed is held
against what is there, with a fresh connection. A table that is still being read from its changelog is
not being stuck. It runs on the stream's own loop, so code that blocks that is not found.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted

from faregate.events import topic_name
from faregate.streams.faults import StreamsFault
from faregate.streams.internal import links_topic
from faregate.streams.options import Options
from faregate.streams.sources import SOURCES, application

if TYPE_CHECKING:
    from faregate.streams.apps.base import Stream

log = structlog.get_logger("faregate.streams")

_LOOKS = 8
"""So often within its patience."""
_MOST_S = 15.0
_READ_MS = 5_000
_LOOK_S = 60.0


class Watchdog:
    """Ends one stream when nothing of a partition with records was committed for `watchdog_s`.

    A stream that owns no partition looks at all of them, since it may hang before it gets one.
    """

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream
        self._places = _places(stream.name, stream.options, stream.partitions)
        self._since: dict[TopicPartition, tuple[object, float]] = {}

    async def run(self) -> None:
        """Watch until cancelled. Raises StreamsFault."""
        every_s = min(_MOST_S, self._stream.options.watchdog_s / _LOOKS)
        while True:
            asleep = monotonic()
            await asyncio.sleep(every_s)
            if monotonic() - asleep > 2 * every_s:
                self._since.clear()  # this process stood still itself
            await self.look()

    async def look(self) -> None:
        """Look once. Raises StreamsFault."""
        patience_s = self._stream.options.watchdog_s
        try:
            async with (
                asyncio.timeout(_LOOK_S),
                _client(self._stream.name, self._stream.options) as client,
            ):
                still = await self._still(client, patience_s)
        except (KafkaError, OSError, TimeoutError):
            self._since.clear()
            return
        if still:
            places = [f"{tp.topic}/{tp.partition}" for tp in still]
            log.critical("stream_stuck", stream=self._stream.name, partitions=places)
            raise StreamsFault(
                f"{self._stream.name} has not read {', '.join(places)} for {patience_s:.0f} s; "
                "start it again"
            )

    async def _still(self, client: AIOKafkaConsumer, patience_s: float) -> list[TopicPartition]:
        """Give the partitions for which it is stuck."""
        ends = await client.end_offsets(self._places)
        committed = {tp: await client.committed(tp) or 0 for tp in self._places}
        owned = self._owned()
        recovery = self._stream.app.tables.recovery
        recovered = dict(recovery.active_offsets) if recovery.in_recovery else None
        now, before = monotonic(), self._since
        self._since = {}
        for tp in owned or self._places:
            if committed[tp] < ends[tp]:
                mark = (committed[tp], recovered, bool(owned))
                seen, since = before.get(tp, (mark, now))
                self._since[tp] = (mark, since if seen == mark else now)
        # Who owns nothing gives whoever does the time to end first.
        limit_s = patience_s if owned else 2 * patience_s
        still = [tp for tp, (_, since) in self._since.items() if now - since >= limit_s]
        if not owned and len(still) < len(self._since):
            return []
        for tp in still:
            waits = await _has_records(client, tp, committed[tp])
            if not waits or (await client.committed(tp) or 0) != committed[tp]:
                del self._since[tp]
        return [tp for tp in still if tp in self._since]

    def _owned(self) -> list[TopicPartition]:
        try:
            assigned = self._stream.app.consumer.assignment()
        except ConsumerNotStarted:
            return []
        return [tp for tp in self._places if tp in assigned]


async def _has_records(client: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> bool:
    """Read one: the marks that transactions leave are no records, and there may be no others."""
    client.assign([tp])
    client.seek(tp, offset)
    try:
        return bool(await client.getmany(timeout_ms=_READ_MS, max_records=1))
    except UnicodeDecodeError:  # there is one, if with a header that this client cannot read
        return True


def _places(name: str, options: Options, partitions: int) -> Sequence[TopicPartition]:
    topics = [topic_name(options.prefix, topic) for topic in SOURCES[name]]
    if name == "fraud":
        topics.append(links_topic(options.prefix))
    return [TopicPartition(topic, number) for topic in topics for number in range(partitions)]


@asynccontextmanager
async def _client(name: str, options: Options) -> AsyncIterator[AIOKafkaConsumer]:
    """Ask for a group without being a member of it."""
    client = AIOKafkaConsumer(
        **{**options.kafka, "bootstrap_servers": options.bootstrap},
        group_id=application(options.prefix, name),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    try:
        await client.start()
        yield client
    finally:
        await client.stop()
