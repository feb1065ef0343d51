"""The one consumer loop: poll -> decode -> lock, decide, write (offsets included) -> next.

Everything that can go wrong is answered in one of three ways. Retry: the batch is sought back and
read again (database or broker away, partition lost meanwhile); that is safe, since what was
written is a duplicate then (rule 4). DLQ: the one bad record is set apart, the rest goes on.
Crash: anything else ends the process, and whoever supervises it starts a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from faregate.consumers import collector, headers, intake, journal, spans
from faregate.consumers.asker import Asker
from faregate.consumers.bisecting import bisect
from faregate.consumers.commits import Commits
from faregate.consumers.dlq import DeadLetter, bury
from faregate.consumers.held import ILLEGAL_STATE, Held, seek
from faregate.consumers.loop_settings import LoopSettings
from faregate.consumers.offsets import Offsets
from faregate.consumers.reading import (
    Batch,
    all_below,
    backlog,
    beside,
    in_order,
    in_time,
    latest,
    next_offsets,
    partition_of,
    rejected,
    split_at,
    up_to_dead,
)
from faregate.consumers.sizing import BatchSize
from faregate.events import TOPICS, InvalidRecord
from faregate.ledger.batch import Position
from faregate.ledger.database import TRANSIENT
from faregate.ledger.store import BadValue, Result, Store, WentBack

log = structlog.get_logger("faregate.loop")

_CATCH_UP_S = 5.0
_MORE_MS = 20


class Loop(ConsumerRebalanceListener):  # type: ignore[misc]
    """One member of one consumer group."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        dlq: AIOKafkaProducer,
        store: Store,
        offsets: Offsets,
        topics: Sequence[str],
        settings: LoopSettings | None = None,
        *,
        prefix: str = "",
    ) -> None:
        """Read `topics` (full names), earlier ones first within a batch.

        All but the last are only read along, for the completions in them: what else is in there,
        dead letters included, is for the group that they are the last topic of.
        """
        self._consumer = consumer
        self._dlq = dlq
        self._store = store
        self._offsets = offsets
        self._topics = list(topics)
        self._types = {t: TOPICS[t.removeprefix(prefix)].types for t in topics}
        self._settings = settings or LoopSettings()
        self._size = BatchSize(self._settings)
        self._unplaced: set[TopicPartition] = set()
        self._assignments = 0
        self._held = Held(consumer)
        self._away: set[TopicPartition] = set()
        self._asker = Asker(dlq.client) if len(topics) > 1 else None
        self._ahead: list[ConsumerRecord] = []
        self._commits = Commits(consumer)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Finish the batch in hand, then return from `run`."""
        self._stopping.set()

    @property
    def waits(self) -> bool:
        """Tell whether it stands still on purpose: a dead letter or the database has to wait."""
        return bool(self._held.unburied or self._away)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget partitions that are somebody else's now."""
        lost = list(revoked)
        self._drop_ahead(lost)
        self._offsets.forget(lost)
        self._commits.forget(lost)
        self._assignments += 1
        self._held.forget(lost)
        self._unplaced.difference_update(lost)
        self._away.difference_update(lost)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Keep new partitions paused until the loop has sought them to the kept offsets."""
        new = list(assigned)
        self._assignments += 1
        self._consumer.pause(*new)
        self._unplaced.update(new)

    async def run(self) -> None:
        """Consume until `stop`. Raises what only a new process can mend."""
        self._consumer.subscribe(self._topics, listener=self)
        collector.settle()
        committer = asyncio.create_task(self._commits.run(self._settings.commit_every_s))
        try:
            while not self._stopping.is_set():
                await self._step()
        finally:
            committer.cancel()
            await self._commits.commit()

    async def _step(self) -> None:
        if self._unplaced:
            await self._place()
        self._held.release(self._unplaced)
        hands: list[list[ConsumerRecord]] = []
        fault = None
        try:
            await self._poll_hands(hands)
        except (KafkaError, UnicodeDecodeError) as error:
            fault = error
        if hands:
            await self._process(*hands)
        elif not self._ahead and not fault:
            await self._pass_markers()
        if fault:
            if isinstance(fault, UnicodeDecodeError):
                headers.tolerate()
            log.warning("poll_failed", error=repr(fault))
            self._start_over()
            await self._pause_s(self._settings.retry_s)

    async def _pass_markers(self) -> None:
        """Keep positions beyond what is never polled: the markers of a producer's transactions."""
        try:
            out = self._held.unburied | self._unplaced
            passed = await self._offsets.pass_markers(self._consumer, out)
        except (KafkaError, WentBack, *TRANSIENT) as error:
            log.info("cannot_keep_offsets", error=repr(error))
            self._start_over()
        else:
            self._commits.note(passed)

    async def _place(self) -> None:
        new, assignments = sorted(self._unplaced), self._assignments
        try:
            placed = await self._offsets.place(self._consumer, new)
        except (*TRANSIENT, KafkaError) as error:
            log.warning("cannot_read_offsets", error=repr(error))
            await self._pause_s(self._settings.retry_s)
            return
        if new and not placed:
            await self._pause_s(self._settings.retry_s)
            return
        if assignments != self._assignments:
            return  # what was placed first may have been paused again since
        self._unplaced.difference_update(new)
        self._commits.note(placed)
        places = [f"{tp.topic}[{tp.partition}]@{o}" for tp, o in placed.items()]
        log.info("assigned", partitions=places)

    def _start_over(self) -> None:
        """Drop what is in hand and read again from the kept offsets, wherever the client is.

        A client whose poll fails may have moved on beyond records that it never gave.
        """
        ours = self._consumer.assignment()
        self._ahead.clear()
        self._consumer.pause(*ours)
        self._unplaced.update(ours)

    async def _poll_hands(self, hands: list[list[ConsumerRecord]]) -> None:
        """Read a batch, and more beside it where much waits in a topic that is read alone.

        What was read before a poll failed is in `hands`: one bad partition stops no other.
        """
        assignments = self._assignments
        if records := await self._poll():
            hands.append(records)
        if records and not self._asker and self._size.much_waits:
            await beside(hands, self._consumer, self._size.most)
            if assignments != self._assignments:
                hands.clear()
                self._start_over()  # perhaps not by us

    async def _poll(self) -> list[ConsumerRecord]:
        ahead, self._ahead = self._ahead, []
        wait_ms = 0 if ahead else int(self._settings.poll_s * 1000)
        polled = await self._consumer.getmany(timeout_ms=wait_ms, max_records=self._size.most)
        records = ahead + in_order(polled, self._topics)
        return await self._catch_up(self._asker, records) if self._asker and records else records

    async def _catch_up(self, asker: Asker, hand: list[ConsumerRecord]) -> list[ConsumerRecord]:
        """Read the co-partitions up to the time of what is in hand, and merge them by time.

        So a decision sees every completion acknowledged before its request was sent, and none that
        came later, also when all is read again: the broker writes the time. A backlog goes in
        batches; it is bounded when nothing more comes, or a held record is first.
        """
        assignments = self._assignments
        first = await asker.end_offsets(self._consumer.assignment())
        hand = [r for r in hand if partition_of(r) in first]
        behind = await self._behind(first)
        same = assignments == self._assignments and first.keys() <= self._consumer.assignment()
        if same and not behind and all_below(hand, first):
            return in_time(hand)  # all that was there when these had been read
        hand = [r for r in await self._freshen(hand, first) if partition_of(r) in first]
        ends = await asker.end_offsets(first)  # what lies before the first ends was there by then
        read_to = latest(hand)
        newest = max((r.timestamp for r in hand if r.offset < first[partition_of(r)]), default=0)
        behind, until = set(ends), monotonic() + _CATCH_UP_S
        while behind := {
            tp
            for tp in behind - self._held.keys()
            if read_to.get(tp, 0) <= newest and await self._before(tp, ends[tp])
        }:
            if self._stopping.is_set() or assignments != self._assignments:
                break
            if monotonic() > until:
                log.warning("decided_without_all_progress", behind=[f"{tp}" for tp in behind])
                break
            more = await self._more(len(hand), behind if len(hand) >= self._size.most else ())
            if not more:
                continue
            hand = hand + more
            read_to |= latest(hand)
            if len(hand) >= self._size.most:
                sure = min(newest, *(read_to.get(tp, 0) for tp in behind))
                early, hand = split_at(hand, sure)
                if early and not await self._process(in_time(early)):
                    self._start_over()
                    return []
                hand = [r for r in hand if partition_of(r) not in self._held]
            until = monotonic() + _CATCH_UP_S
        if self._stopping.is_set() or assignments != self._assignments:
            self._start_over()  # not now, and perhaps not by us
            return []
        now, self._ahead = split_at(hand, newest)
        return in_time(now)

    async def _freshen(
        self, hand: list[ConsumerRecord], ends: dict[TopicPartition, int]
    ) -> list[ConsumerRecord]:
        """Take what came since the client fetched what is in hand: it asks again only then."""
        assignments = self._assignments
        while len(hand) < self._size.most and await self._behind(ends):
            moved = self._stopping.is_set() or assignments != self._assignments
            if moved or not (more := await self._more(len(hand))):
                break
            hand = hand + more
        return hand

    async def _behind(self, ends: dict[TopicPartition, int]) -> set[TopicPartition]:
        """Give those that are not read up to these ends, but for held ones."""
        return {tp for tp in ends.keys() - self._held.keys() if await self._before(tp, ends[tp])}

    async def _more(
        self, in_hand: int, partitions: Iterable[TopicPartition] = ()
    ) -> list[ConsumerRecord]:
        """Read on; of all partitions, since the client asks for nothing while it has anything."""
        size, wait_ms = self._size.beside(in_hand), _MORE_MS
        polled = await self._consumer.getmany(*partitions, timeout_ms=wait_ms, max_records=size)
        return in_order(polled, self._topics)

    async def _before(self, tp: TopicPartition, end: int) -> bool:
        try:
            return bool(await self._consumer.position(tp) < end)
        except ILLEGAL_STATE:
            return False

    async def _process(self, *hands: list[ConsumerRecord]) -> bool:
        """Decide hands, each in a transaction of its own; tell whether all could be done now."""
        done = await asyncio.gather(*map(self._take, hands), return_exceptions=True)
        times = [one for one in done if isinstance(one, float)]
        if faults := [one for one in done if isinstance(one, BaseException)]:
            raise faults[0] if len(faults) == 1 else BaseExceptionGroup("several hands", faults)
        if len(times) == len(hands):
            aged = () if self._asker else hands  # requests are late at once
            self._size.took(max(times), *backlog(self._consumer, self._offsets.owned, aged))
        elif self._away:
            self._size.failed()
        return len(times) == len(hands)

    async def _take(self, records: list[ConsumerRecord]) -> float | None:
        """Decide records and bury what is dead; give the seconds that deciding took, or None."""
        batch, dead = self._decode(records)
        started, ends = monotonic(), next_offsets(records)
        try:
            dead += await self._decide(records, batch, dead)
        except WentBack as error:
            log.warning("database_went_back", error=str(error))
            self._store.forget()
            self._start_over()
            return None
        except TRANSIENT as error:
            log.warning("database_away", error=str(error), waiting=len(records))
            self._away |= ends.keys()
            self._seek_back(records)
            await self._pause_s(self._settings.retry_s)
            return None
        spent = monotonic() - started
        self._away -= ends.keys()
        if dead:
            ends = await self._bury(dead, ends)
        else:
            self._held.unburied -= ends.keys()
        self._commits.note(ends)
        return spent

    def _decode(self, records: Sequence[ConsumerRecord]) -> tuple[Batch, list[DeadLetter]]:
        batch: Batch = []
        dead: list[DeadLetter] = []
        for record in records:
            try:
                submission = intake.read(record, self._store.keys, self._types[record.topic])
            except InvalidRecord as error:
                dead.append(DeadLetter(record, error.code, error.message))
            else:
                if record.topic == self._topics[-1] or intake.is_completion(submission):
                    batch.append((record, submission))
        return batch, self._ours(dead)

    def _ours(self, dead: Iterable[DeadLetter]) -> list[DeadLetter]:
        return [letter for letter in dead if letter.record.topic == self._topics[-1]]

    async def _decide(
        self, records: Sequence[ConsumerRecord], batch: Batch, dead: Sequence[DeadLetter]
    ) -> list[DeadLetter]:
        """Apply the batch with its offsets; give what turned out dead in it."""
        kept: dict[TopicPartition, int] = {}

        def position_of(results: Sequence[Result]) -> Position:
            found = self._ours(rejected(batch, results))
            kept.update(up_to_dead(records, [*dead, *found]))
            return self._offsets.position(kept)

        try:
            results = await spans.decided(self._store, self._topics[-1], batch, position_of)
        except BadValue as error:
            found = self._ours(await bisect(self._store, batch, error))
            await self._offsets.advance(up_to_dead(records, [*dead, *found]))
            return found
        self._offsets.kept_by_batch(kept)
        journal.decisions(batch, results)
        return self._ours(rejected(batch, results))

    async def _bury(
        self, dead: list[DeadLetter], ends: dict[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Send dead letters, then keep the offsets beyond them; hold the partition if it fails."""
        dead.sort(key=lambda d: (d.record.topic, d.record.partition, d.record.offset))
        try:
            await bury(self._dlq, dead)
            await self._offsets.advance(ends)
        except (KafkaError, WentBack, *TRANSIENT) as error:
            first = {partition_of(d.record): d.record.offset for d in reversed(dead)}
            self._hold(first, error)
            return {tp: first.get(tp, end) for tp, end in ends.items()}
        self._held.unburied -= ends.keys()
        journal.dead(dead)
        return ends

    def _hold(self, first: dict[TopicPartition, int], error: BaseException) -> None:
        self._drop_ahead(first)  # it is sought back
        for tp, offset in first.items():
            self._held.hold(tp, offset, self._settings.hold_s, error)

    def _seek_back(self, records: Sequence[ConsumerRecord]) -> None:
        for record in reversed([*records, *self._ahead]):
            seek(self._consumer, partition_of(record), record.offset)
        self._ahead = []

    def _drop_ahead(self, gone: Iterable[TopicPartition]) -> None:
        self._ahead = [r for r in self._ahead if partition_of(r) not in gone]

    async def _pause_s(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


__all__ = ["Loop", "LoopSettings"]
