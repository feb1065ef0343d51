"""The echo: a process that consumes and produces, with the same clients and the same event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvloop
from aiokafka import TopicPartition

from faregate.consumers import collector
from faregate.consumers.kafka import Cluster, make_consumer, make_producer
from faregate.events.topics import DEFAULT_PARTITIONS

IN, OUT = "echo.in", "echo.out"
_POLL = 2_000


async def main() -> None:
    """Send everything on `echo.in` to `echo.out` until SIGTERM; offsets are committed then."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    cluster = Cluster(os.environ["FAREGATE_KAFKA"], os.environ["FAREGATE_TOPIC_PREFIX"])
    consumer, producer = make_consumer(cluster, "echo"), make_producer(cluster, "echo")
    await consumer.start()
    await producer.start()
    consumer.assign([TopicPartition(cluster.topic(IN), n) for n in range(DEFAULT_PARTITIONS)])
    collector.settle()
    sys.stderr.write('{"event": "assigned", "level": "info"}\n')
    sys.stderr.flush()
    while not stopping.is_set():
        polled = await consumer.getmany(timeout_ms=200, max_records=_POLL)
        sent = [
            await producer.send(cluster.topic(OUT), r.value, r.key, headers=list(r.headers))
            for records in polled.values()
            for r in records
        ]
        await asyncio.gather(*sent)
    await consumer.commit()
    await consumer.stop()
    await producer.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
