"""Which offsets a batch of records comes to, and where it has to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from time import time

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from faregate.consumers.dlq import DeadLetter
from faregate.ledger.batch import Submission
from faregate.ledger.core import Rejected
from faregate.ledger.store import Result

_HANDS = 3
"""So many transactions at once: while the database works, one of them has the processor."""

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


async def beside(hands: list[list[ConsumerRecord]], consumer: AIOKafkaConsumer, most: int) -> None:
    """Add more hands of what is fetched of a topic, each of partitions that are in no other.

    Partitions of one topic are apart from each other: they can be decided in any order. Raises what
    the client does.
    """
    taken = {partition_of(r) for hand in hands for r in hand}
    while len(hands) < _HANDS and (rest := consumer.assignment() - taken):
        polled = await consumer.getmany(*rest, timeout_ms=0, max_records=most)
        if not polled:
            break
        hands.append([r for records in polled.values() for r in records])
        taken |= polled.keys()


def _times(records: Sequence[ConsumerRecord]) -> list[int]:
    """Give each record's time in ms; within its partition it never goes back."""
    latest: dict[TopicPartition, int] = {}
    times = []
    for record in records:
        tp = partition_of(record)
        latest[tp] = max(latest.get(tp, 0), record.timestamp)
        times.append(latest[tp])
    return times


def latest(records: Sequence[ConsumerRecord]) -> dict[TopicPartition, int]:
    """Give the time (ms) up to which each partition is among `records`."""
    times: dict[TopicPartition, int] = {}
    for record in records:
        tp = partition_of(record)
        times[tp] = max(times.get(tp, 0), record.timestamp)
    return times


def in_time(records: Sequence[ConsumerRecord]) -> list[ConsumerRecord]:
    """Merge partitions by time, each in its own order; at the same time progress comes first."""
    times = _times(records)
    order = sorted(range(len(records)), key=lambda n: (times[n], records[n].topic))
    return [records[n] for n in order]


def split_at(
    records: Sequence[ConsumerRecord], time_ms: int
) -> tuple[list[ConsumerRecord], list[ConsumerRecord]]:
    """Split records in those up to a time and those after it."""
    times = _times(records)
    early = [r for r, at in zip(records, times, strict=True) if at <= time_ms]
    return early, [r for r, at in zip(records, times, strict=True) if at > time_ms]


def next_offsets(records: Iterable[ConsumerRecord]) -> dict[TopicPartition, int]:
    """Give the offset after the last record of each partition."""
    ends: dict[tuple[str, int], int] = {}
    for record in records:
        place = record.topic, record.partition
        if record.offset >= ends.get(place, 0):
            ends[place] = record.offset + 1
    return {TopicPartition(*place): end for place, end in ends.items()}


def all_below(records: Iterable[ConsumerRecord], ends: Mapping[TopicPartition, int]) -> bool:
    """Tell whether each record lies before the end of its partition."""
    return all(r.offset < ends[partition_of(r)] for r in records)


def backlog(
    consumer: AIOKafkaConsumer,
    kept: Mapping[TopicPartition, int],
    hands: Iterable[Sequence[ConsumerRecord]],
) -> tuple[int, float]:
    """Count the records beyond the kept offsets, as of the last fetch: without asking the broker.

    And give how old what is in hand is (s), by the clocks of its producers; infinite for nothing.
    """
    ours = kept.keys() & consumer.assignment()
    count = sum(max(0, (consumer.highwater(tp) or 0) - kept[tp]) for tp in ours)
    oldest_ms = min((r.timestamp for hand in hands for r in hand), default=-inf)
    return count, time() - oldest_ms / 1000


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
