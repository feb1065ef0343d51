"""A process that reserves and settles: a Python process uses one core, so the measure starts two.

It makes its work, logs `assigned`, waits for a line on its input, does the work and logs `done`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from uuid import uuid4

import uvloop
from tests.bench import events
from tests.bench.lane import open_lane_store

from faregate.consumers import collector
from faregate.ledger.batch import Submission
from faregate.ledger.core import Outcome
from faregate.ledger.store import Store

PROCESSES = 2
WORKERS = 2
BATCH = 250


def work_of(store: Store, worker: int, n: int) -> list[list[Submission]]:
    """Make batches of requests, each followed by a batch of the usage that settles them.

    Each worker has its own accounts, as the members of a consumer group have.
    """
    every = PROCESSES * WORKERS
    mine = [f"u{i}" for i in range(worker, events.ACCOUNTS, every)]
    work: list[list[Submission]] = []
    for start in range(0, n, BATCH):
        asked = [(mine[i % len(mine)], uuid4().hex) for i in range(start, min(start + BATCH, n))]
        work.append([events.submission(events.request(u, p), store.keys) for u, p in asked])
        work.append([events.submission(events.usage(u, p, 45), store.keys) for u, p in asked])
    return work


async def _apply_all(store: Store, work: Sequence[Sequence[Submission]]) -> None:
    for batch in work:
        results = await store.apply(batch)
        if not all(isinstance(result, Outcome) for result in results):
            raise RuntimeError("not every command was accepted")


def _say(event: str) -> None:
    sys.stderr.write(json.dumps({"event": event, "level": "info"}) + "\n")
    sys.stderr.flush()


async def main(number: int, n: int) -> None:
    """Do `n` pairs as process `number` of PROCESSES."""
    async with open_lane_store(os.environ["FAREGATE_DATABASE"], size=WORKERS) as store:
        first = number * WORKERS
        works = [work_of(store, first + worker, n // WORKERS) for worker in range(WORKERS)]
        collector.settle()
        _say("assigned")
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(_apply_all(store, work) for work in works))
        _say("done")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(sys.argv[1]), int(sys.argv[2])))
