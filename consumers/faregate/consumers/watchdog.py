"""Ends a consumer that has records to read and reads none.

A client can hang after a broker restart without any sign (aiokafka#1154). The watchdog looks from
outside of that client: kept offsets in the database against the partitions' ends, asked with a
fresh connection. Waiting for a database or a dead letter queue is not being stuck.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from time import monotonic

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster
from faregate.consumers.lag import lags_of
from faregate.consumers.offsets import Offsets
from faregate.consumers.topic_ids import ClusterTopics
from faregate.ledger.database import TRANSIENT

log = structlog.get_logger("faregate.watchdog")

EXIT_STUCK = 70


def end_process() -> None:
    """Leave at once: a stuck client would block an orderly exit as well."""
    os._exit(EXIT_STUCK)


class Watchdog:
    """Calls `give_up` when a partition of ours has lag and has not moved for `patience_s` seconds.

    A process that owns no partition looks at all of them, since it may hang before it gets one.
    """

    def __init__(
        self,
        cluster: Cluster,
        offsets: Offsets,
        topics: ClusterTopics,
        waits: Callable[[], bool],
        *,
        patience_s: float = 120.0,
        every_s: float = 15.0,
        give_up: Callable[[], None] = end_process,
    ) -> None:
        self._cluster = cluster
        self._offsets = offsets
        self._topics = topics
        self._waits = waits
        self._patience_s = patience_s
        self._every_s = every_s
        self._give_up = give_up
        self._moved: dict[TopicPartition, tuple[int, float]] = {}

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._look()
            except (KafkaError, *TRANSIENT):
                self._moved.clear()

    async def _look(self) -> None:
        kept = await self._offsets.kept()
        lags = await lags_of(self._cluster, self._topics, kept)
        owned = self._offsets.owned.keys()
        now, moved = monotonic(), self._moved
        self._moved = {}
        for tp, lag in lags.items():
            if lag == 0 or self._waits() or (owned and tp not in owned):
                continue
            at = kept.get((self._topics.ids[tp.topic], tp.partition), 0)
            seen, since = moved.get(tp, (at, now))
            self._moved[tp] = (at, since if seen == at else now)
        self._judge(owned=bool(owned), now=now)

    def _judge(self, *, owned: bool, now: float) -> None:
        """Give up if one of our partitions stands still; without any, only if all of them do."""
        still_s = [now - since for _, since in self._moved.values()]
        stuck_s = (max if owned else min)(still_s, default=0.0)
        if stuck_s >= self._patience_s:
            log.critical(
                "consumer_stuck", partitions=[f"{tp}" for tp in self._moved], seconds=round(stuck_s)
            )
            self._give_up()
