"""Where a consumer goes on reading: the offsets beside the money, not Kafka's (rule 7)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError

from faregate.consumers.predecessor import Predecessor
from faregate.consumers.topic_ids import ClusterTopics
from faregate.ledger.batch import Offset, Position
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store
from faregate.ledger.write import put_offsets

log = structlog.get_logger("faregate.offsets")


class Offsets:
    """The kept offsets of one consumer group in one cluster."""

    def __init__(
        self,
        store: Store,
        consumer: str,
        topics: ClusterTopics,
        predecessor: Predecessor | None = None,
    ) -> None:
        """Keep the offsets of group `consumer`; after a restore it waits for `predecessor`."""
        self._store = store
        self._consumer = consumer
        self._topics = topics
        self._predecessor = predecessor
        self._waiting = False
        self._known: dict[TopicPartition, int] = {}

    @property
    def owned(self) -> dict[TopicPartition, int]:
        """The partitions that are read here, each with what is kept as far as is known here."""
        return dict(self._known)

    def position(self, next_offsets: dict[TopicPartition, int]) -> Position:
        """Give what a batch's transaction keeps; a topic without an id is a fault."""
        offsets = [
            Offset(
                self._topics.ids[tp.topic], tp.partition, tp.topic, offset, self._known.get(tp, 0)
            )
            for tp, offset in next_offsets.items()
        ]
        return Position(self._topics.cluster, self._consumer, offsets)

    def kept_by_batch(self, next_offsets: dict[TopicPartition, int]) -> None:
        """Note what a committed transaction has kept, to see it if the database goes back."""
        for tp, offset in next_offsets.items():
            if tp in self._known:
                self._known[tp] = max(self._known[tp], offset)

    def forget(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget partitions that are somebody else's now."""
        for tp in revoked:
            self._known.pop(tp, None)

    async def kept(self) -> dict[tuple[UUID, int], int]:
        """Read the kept offsets by (topic id, partition)."""
        rows = await self._store.pool.fetch(SQL["offsets"], self._topics.cluster, self._consumer)
        return {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}

    async def advance(self, next_offsets: dict[TopicPartition, int]) -> None:
        """Keep offsets without a batch: after its dead letters are acknowledged."""
        async with self._store.pool.acquire() as connection, connection.transaction():
            await put_offsets(connection, self.position(next_offsets))
        self.kept_by_batch(next_offsets)

    async def pass_markers(
        self, consumer: AIOKafkaConsumer, leave_out: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Keep, when nothing is in hand, positions beyond what is kept; give those."""
        beyond: dict[TopicPartition, int] = {}
        for tp, kept in self._known.items():
            if tp not in leave_out and tp in consumer.assignment():
                position = await consumer.position(tp)
                if position > kept:
                    beyond[tp] = position
        if beyond:
            await self.advance(beyond)
        return beyond

    async def place(
        self, consumer: AIOKafkaConsumer, assigned: Iterable[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Seek every newly assigned partition to its kept offset, or its start if there is none.

        Finds out, too, when the database is older than what Kafka remembers (a restored backup):
        that is written to `recoveries`, and reading starts again where the database is, once the
        predecessor has read again what comes before. Until then nothing is placed.
        """
        kept = await self.kept()
        offsets = {tp: kept.get((self._topics.ids[tp.topic], tp.partition)) for tp in assigned}
        if not self._waiting:
            await self._compare(consumer, offsets)
        if self._waiting and self._predecessor and not await self._predecessor.reached():
            return {}
        self._waiting = False
        placed: dict[TopicPartition, int] = {}
        for tp, offset in offsets.items():
            try:
                if offset is None:
                    await consumer.seek_to_beginning(tp)
                else:
                    consumer.seek(tp, offset)
                consumer.resume(tp)
            except IllegalStateError:
                continue  # revoked meanwhile; its new owner places it
            placed[tp] = offset or 0
        ours = consumer.assignment()
        self._known.update({tp: o for tp, o in placed.items() if tp in ours})
        return placed

    async def _compare(
        self, consumer: AIOKafkaConsumer, offsets: dict[TopicPartition, int | None]
    ) -> None:
        """Look for a restored backup before anything is read again."""
        behind: list[str] = []
        for tp, offset in offsets.items():
            before = max(await consumer.committed(tp) or 0, self._known.get(tp, 0))
            if before > (offset or 0):
                behind.append(f"{tp.topic}[{tp.partition}] {before} -> {offset or 0}")
        if behind:
            await self._recovered(behind)

    async def _recovered(self, behind: list[str]) -> None:
        detail = f"{self._consumer}: the database is behind Kafka: {', '.join(sorted(behind))}"
        await self._store.pool.execute(SQL["add_recovery"], detail)
        log.warning("database_restored", consumer=self._consumer, replaying=behind)
        if self._predecessor:
            await self._predecessor.notice()
            self._waiting = True
