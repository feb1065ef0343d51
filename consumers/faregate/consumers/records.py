"""Look through topics without being a member of any group: nothing is ever committed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster, make_reader
from faregate.consumers.topic_ids import describe

_POLL_MS = 500


async def there_now(
    cluster: Cluster, topics: Iterable[str], client: str
) -> AsyncIterator[ConsumerRecord]:
    """Yield every record that is in these topics (full names) now, in order per partition.

    A topic that does not exist has none. Raises aiokafka's errors when Kafka is away.
    """
    described = await describe(cluster, topics)
    partitions = [
        TopicPartition(name, number)
        for name, count in described.partitions.items()
        for number in range(count)
    ]
    if not partitions:
        return
    reader = make_reader(cluster, client)
    try:
        await reader.start()
        reader.assign(partitions)
        ends = await reader.end_offsets(partitions)
        await reader.seek_to_beginning(*partitions)
        while behind := [tp for tp in partitions if await reader.position(tp) < ends[tp]]:
            for tp, records in (await reader.getmany(*behind, timeout_ms=_POLL_MS)).items():
                for record in records:
                    if record.offset < ends[tp]:
                        yield record
    finally:
        with suppress(KafkaError):
            await reader.stop()
