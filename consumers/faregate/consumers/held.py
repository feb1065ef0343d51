"""Partitions that stand still for a while, because a dead letter of theirs could not be sent."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from time import monotonic

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError

log = structlog.get_logger("faregate.loop")

ILLEGAL_STATE = (IllegalStateError, AssertionError)
"""What the client raises for a partition that is no longer its own."""


class Held(dict[TopicPartition, float]):
    """Those that are paused, each with the moment (monotonic, seconds) until which it is."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        super().__init__()
        self._consumer = consumer
        self.unburied: set[TopicPartition] = set()
        """Those whose dead letter is still not sent, whether or not they are paused for it now."""

    def hold(self, tp: TopicPartition, offset: int, seconds: float, error: BaseException) -> None:
        """Stand still before an offset for some time, if the partition is still ours."""
        log.error(
            "dead_letter_not_sent",
            partition=f"{tp.topic}[{tp.partition}]@{offset}",
            error=repr(error),
            fix="create the topic with `faregate topics apply`; the partition waits",
        )
        seek(self._consumer, tp, offset)
        try:
            self._consumer.pause(tp)
        except ILLEGAL_STATE:
            return
        self[tp] = monotonic() + seconds
        self.unburied.add(tp)

    def forget(self, lost: Iterable[TopicPartition]) -> None:
        """Forget partitions that are somebody else's now."""
        for tp in lost:
            self.pop(tp, None)
            self.unburied.discard(tp)

    def release(self, unplaced: Collection[TopicPartition]) -> None:
        """Resume those whose time is over, but for those that are paused for another reason."""
        for tp in [tp for tp, until in self.items() if monotonic() >= until]:
            del self[tp]
            if tp not in unplaced:
                with suppress(*ILLEGAL_STATE):
                    self._consumer.resume(tp)


def seek(consumer: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> None:
    """Read on from an offset, if the partition is still ours."""
    try:
        consumer.seek(tp, offset)
    except ILLEGAL_STATE:
        log.info("partition_lost", partition=f"{tp.topic}[{tp.partition}]")
