"""Calls typed handlers for events; what a handler has not finished is delivered again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from faregate.events.codec import InvalidRecord, decode, parse
from faregate.events.connecting import start
from faregate.events.data import EventData
from faregate.events.envelope import Event
from faregate.events.topics import TOPIC_OF_TYPE, TopicsFailed, no_topic, topic_name

_log = logging.getLogger(__name__)
_POLL_MS = 500
# A bound for what is delivered again after a crash, and for the time between two polls.
_BATCH_RECORDS = 100
# A topic that is created after the subscriber started is noticed within this time.
_METADATA_AGE_MS = 30_000
# A broker that has nothing for some partitions answers for none of its own until this is over:
# with aiokafka's 500 a backlog in one partition was read at 2,500 records a second.
_FETCH_WAIT_MS = 50
_TOPICS_S = 10.0
_TOPICS_POLL_S = 0.5
_CLOSE_S = 5.0

Data = TypeVar("Data", bound=EventData)
Handler = Callable[[Data, Event], Awaitable[None]]
OnInvalid = Callable[[InvalidRecord, ConsumerRecord], Awaitable[None]]


async def log_and_skip(error: InvalidRecord, record: ConsumerRecord) -> None:
    """Log where the record is and what is wrong with it, and go on with the next one."""
    where = f"{record.topic}[{record.partition}]@{record.offset}"
    _log.warning("skipped a record that is no valid event: %s: %s", where, error)


class Subscriber:
    """Reads events as a member of the consumer group `group` and calls their handlers.

    Delivery is at least once and in order per partition: an offset is committed after the
    handlers of everything before it have returned, so handlers must bear repetition (use
    (`event.source`, `event.id`)). A handler that raises stops the subscriber; its record is not
    committed and comes again. Types without a handler are passed over. A group that is new begins
    with the oldest record there is.

    A record that is no valid event goes to `on_invalid`; the default logs it and SKIPS it. Give
    your own to keep such records or, by raising, to stop at them. `kafka` goes to aiokafka
    (TLS, SASL, session timeouts); what makes reading safe is fixed.

        subscriber = Subscriber("localhost:9092", "essay-runner")

        @subscriber.on(PipelineDeniedV1)
        async def denied(data: PipelineDeniedV1, event: Event) -> None: ...

        await subscriber.run()
    """

    def __init__(
        self,
        bootstrap: str,
        group: str,
        *,
        prefix: str = "",
        on_invalid: OnInvalid = log_and_skip,
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        if not group:
            raise ValueError('name the consumer group, e.g. "essay-runner"')
        self._options: dict[str, Any] = {
            "metadata_max_age_ms": _METADATA_AGE_MS,
            "fetch_max_wait_ms": _FETCH_WAIT_MS,
            **(kafka or {}),
            "bootstrap_servers": bootstrap,
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": "read_committed",
        }
        self._prefix = prefix
        self._on_invalid = on_invalid
        self._handlers: dict[str, Handler[Any]] = {}
        self._stopping = False

    def on(self, model: type[Data]) -> Callable[[Handler[Data]], Handler[Data]]:
        """Register the decorated coroutine function for one event type.

        Raises ValueError for an unknown type or a second handler for the same one.
        """
        name = model.__name__
        if name not in TOPIC_OF_TYPE:
            raise ValueError(f"{name} is no event type; known: {', '.join(TOPIC_OF_TYPE)}")
        if name in self._handlers:
            raise ValueError(f"{name} has a handler already; call both from one")

        def register(handler: Handler[Data]) -> Handler[Data]:
            self._handlers[name] = handler
            return handler

        return register

    def stop(self) -> None:
        """Ask `run` to return after the current record; safe in handlers and signal handlers."""
        self._stopping = True

    async def run(self) -> None:
        """Read until `stop` is called or a handler raises (its exception comes out of here).

        Raises TopicsFailed when a topic is not there, and stays away for ten seconds, and
        KafkaRefused when a broker does not let us in.
        """
        if not self._handlers:
            raise RuntimeError("register a handler first: @subscriber.on(PipelineDeniedV1)")
        topics = sorted({topic_name(self._prefix, TOPIC_OF_TYPE[name]) for name in self._handlers})
        consumer = AIOKafkaConsumer(**self._options)
        try:
            await start(consumer.start, self._options["bootstrap_servers"], self._options)
            await self._see(consumer, topics)
            consumer.subscribe(topics)
            while not self._stopping:
                batch = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
                for partition, records in batch.items():
                    await self._handle_partition(consumer, partition, records)
        finally:
            self._stopping = False
            await _close(consumer)

    async def _see(self, consumer: AIOKafkaConsumer, topics: Sequence[str]) -> None:
        """Wait until all topics are there; whoever makes them may have started with us."""
        deadline = asyncio.get_running_loop().time() + _TOPICS_S
        while missing := set(topics) - await consumer.topics():
            if self._stopping:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise TopicsFailed(
                    no_topic(missing, self._options["bootstrap_servers"], self._prefix)
                )
            await asyncio.sleep(_TOPICS_POLL_S)

    async def _handle_partition(
        self,
        consumer: AIOKafkaConsumer,
        partition: TopicPartition,
        records: list[ConsumerRecord],
    ) -> None:
        done = None
        try:
            for record in records:
                if self._stopping or partition not in consumer.assignment():
                    break  # a partition that moved is read on by its new owner
                await self._handle(record)
                done = record.offset + 1
        finally:
            if done is not None:
                await _commit(consumer, partition, done)

    async def _handle(self, record: ConsumerRecord) -> None:
        try:
            event = decode(record.value, record.headers)
            handler = self._handlers.get(event.type)
            data = parse(event) if handler else None
        except InvalidRecord as error:
            await self._on_invalid(error, record)
            return
        if handler:
            await handler(data, event)


async def _commit(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> None:
    """Commit; a partition that moved meanwhile is its new owner's to repeat."""
    try:
        await consumer.commit({partition: offset})
    except (CommitFailedError, IllegalStateError) as error:
        _log.info("%s moved during a batch, it will be read again: %s", partition, error)


async def _close(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect, within a few seconds.

    `asyncio.run` cancels all tasks at once when a program is interrupted, those of the client too:
    nobody reads the answer to what `stop` says then, and it would wait for 40 seconds.
    """
    try:
        await asyncio.wait_for(consumer.stop(), _CLOSE_S)
    except (KafkaError, TimeoutError):
        _log.info("the group was not left in time: its coordinator will notice by itself")
        await consumer._client.close()  # noqa: SLF001 - there is no other way to disconnect
