"""A process that feeds the deduction consumer at a steady pace, beside what is measured.

It makes its events, logs `assigned`, waits for a line on its input, sends them and logs `done`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from time import perf_counter
from typing import Any

import uvloop
from tests.bench import events

from faregate.consumers import batches, collector
from faregate.consumers.announce import Record
from faregate.consumers.kafka import Cluster, make_producer

TOPIC = "usage.recorded"
_STEP_S = 0.005


def _say(event: str) -> None:
    sys.stderr.write(json.dumps({"event": event, "level": "info"}) + "\n")
    sys.stderr.flush()


async def main(n: int, per_s: float) -> None:
    """Send `n` events of usage, `per_s` of them each second, in steps of five milliseconds."""
    cluster = Cluster(os.environ["FAREGATE_KAFKA"], os.environ["FAREGATE_TOPIC_PREFIX"])
    raws = [events.usage(user) for user in events.many(n)]
    records = [Record(TOPIC, raw.key, raw.value, raw.headers) for raw in raws]
    producer = make_producer(cluster, "feed")
    await producer.start()
    try:
        collector.settle()
        _say("assigned")
        await asyncio.to_thread(sys.stdin.readline)
        begin = perf_counter()
        sent: list[asyncio.Future[Any]] = []
        given = 0
        while given < n:
            due = min(n, int((perf_counter() - begin) * per_s))
            sent += await batches.send(producer, cluster, records[given:due])
            given = due
            await asyncio.sleep(_STEP_S)
        await asyncio.gather(*sent)
        _say("done")
    finally:
        await producer.stop()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), float(sys.argv[2])))
