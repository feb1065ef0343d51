"""After a restore: which requests must be decided again before their usage is read again.

Kafka keeps no order between topics. In normal work usage follows the decision that let it in; when
a restored database reads everything anew, it must do so again, or usage would be charged past the
hold that was made for it. So the groups that settle and close holds wait for the one that makes
them, and that one for the group that welcomes users.
"""

from __future__ import annotations

from time import monotonic

import structlog
from aiokafka import TopicPartition

from faregate.consumers.kafka import Cluster
from faregate.consumers.lag import ends_of
from faregate.consumers.topic_ids import ClusterTopics
from faregate.ledger.queries import SQL
from faregate.ledger.store import Store

log = structlog.get_logger("faregate.predecessor")

_PATIENCE_S = 60.0


class Predecessor:
    """The group `consumer`, which has to read `topics` up to where they ended at `notice`."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        consumer: str,
        topics: ClusterTopics,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._consumer = consumer
        self._topics = topics
        self._patience_s = patience_s
        self._goals: dict[TopicPartition, int] = {}
        self._left = 0
        self._moved_at = 0.0

    async def notice(self) -> None:
        """Note where the topics end now. Raises aiokafka's errors."""
        self._goals = await ends_of(self._cluster, self._topics)
        self._left, self._moved_at = 0, monotonic()

    async def reached(self) -> bool:
        """Tell whether the group has read up to there, or has stood still for too long."""
        rows = await self._store.pool.fetch(SQL["offsets"], self._topics.cluster, self._consumer)
        kept = {(r["topic_id"], r["partition"]): r["next_offset"] for r in rows}
        left = sum(
            max(0, goal - kept.get((self._topics.ids[tp.topic], tp.partition), 0))
            for tp, goal in self._goals.items()
        )
        if left != self._left:
            self._left, self._moved_at = left, monotonic()
            log.info("waiting_for_requests", group=self._consumer, records=left)
        if left and monotonic() - self._moved_at > self._patience_s:
            log.warning("not_waiting_any_longer", group=self._consumer, records=left)
            return True
        return bool(left == 0)
