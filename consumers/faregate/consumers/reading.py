"""Which offsets a batch of records comes to, and where it has to stop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aiokafka import ConsumerRecord, TopicPartition

from faregate.consumers.dlq import DeadLetter
from faregate.ledger.batch import Submission
from faregate.ledger.core import Rejected
from faregate.ledger.store import Result

Batch = list[tuple[ConsumerRecord, Submission]]


def partition_of(record: ConsumerRecord) -> TopicPartition:
    """Give the partition that a record came from."""
    return TopicPartition(record.topic, record.partition)


def in_order(
    polled: dict[TopicPartition, list[ConsumerRecord]], topics: Sequence[str]
) -> list[ConsumerRecord]:
    """List polled records: earlier topics first, each partition in its own order."""
    rank = {topic: n for n, topic in enumerate(topics)}
    return [r for tp in sorted(polled, key=lambda tp: (rank[tp.topic], tp)) for r in polled[tp]]


def next_offsets(records: Iterable[ConsumerRecord]) -> dict[TopicPartition, int]:
    """Give the offset after the last record of each partition."""
    ends: dict[TopicPartition, int] = {}
    for record in records:
        ends[partition_of(record)] = max(ends.get(partition_of(record), 0), record.offset + 1)
    return ends


def up_to_dead(
    records: Sequence[ConsumerRecord], dead: Sequence[DeadLetter]
) -> dict[TopicPartition, int]:
    """Give the offsets to keep with a batch: none beyond a record whose dead letter is not sent."""
    ends = next_offsets(records)
    for letter in dead:
        ends[partition_of(letter.record)] = min(
            ends[partition_of(letter.record)], letter.record.offset
        )
    return ends


def rejected(batch: Batch, results: Sequence[Result]) -> list[DeadLetter]:
    """Give a dead letter for each record that the ledger can never accept."""
    return [
        DeadLetter(record, result.code, result.message)
        for (record, _), result in zip(batch, results, strict=True)
        if isinstance(result, Rejected)
    ]
