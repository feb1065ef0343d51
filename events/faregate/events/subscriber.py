"""Calls typed handlers for events; what a handler has not finished is delivered again."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from faregate.events.codec import InvalidRecord, decode, parse
from faregate.events.data import EventData
from faregate.events.envelope import Event
from faregate.events.topics import TOPIC_OF_TYPE, topic_name

_log = logging.getLogger(__name__)
_POLL_MS = 500
# A bound for what is delivered again after a crash, and for the time between two polls.
_BATCH_RECORDS = 100
# A topic that is created after the subscriber started is noticed within this time.
_METADATA_AGE_MS = 30_000

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
    committed and comes again. Types without a handler are passed over.

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
        """Read until `stop` is called or a handler raises (its exception comes out of here)."""
        if not self._handlers:
            raise RuntimeError("register a handler first: @subscriber.on(PipelineDeniedV1)")
        topics = sorted({topic_name(self._prefix, TOPIC_OF_TYPE[name]) for name in self._handlers})
        consumer = AIOKafkaConsumer(*topics, **self._options)
        try:
            await consumer.start()
            while not self._stopping:
                batch = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH_RECORDS)
                for partition, records in batch.items():
                    await self._handle_partition(consumer, partition, records)
        finally:
            self._stopping = False
            await consumer.stop()

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
