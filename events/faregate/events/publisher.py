"""Publishes events from an app: typed, keyed, and without duplicates from retried sends."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from faregate.events.codec import decode, encode
from faregate.events.connecting import start
from faregate.events.data import EventData
from faregate.events.envelope import Event
from faregate.events.topics import (
    MAX_MESSAGE_BYTES,
    TOPIC_OF_TYPE,
    no_topic,
    routing_subject,
    topic_name,
)

_TOPIC_S = 10.0


class PublishFailed(RuntimeError):
    """The broker did not acknowledge the event.

    It may still have arrived: publish again with the same `event_id`, which changes nothing if so.
    """

    def __init__(self, event_id: str, message: str) -> None:
        self.event_id = event_id
        super().__init__(message)


@dataclass(frozen=True)
class PublishedRecord:
    """Where an acknowledged event is."""

    topic: str
    partition: int
    offset: int
    event: Event


class Publisher:
    """An async context manager that publishes events to the cluster at `bootstrap`.

    `source` names the publishing program for ever: (`source`, event id) is the identity of an
    event. `kafka` goes to aiokafka (TLS, SASL, linger); what makes publishing safe is fixed.

        async with Publisher("localhost:9092", "/essays/scoring") as publisher:
            await publisher.publish(PipelineRequestedV1(...))
    """

    def __init__(
        self,
        bootstrap: str,
        source: str,
        *,
        prefix: str = "",
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        if not source:
            raise ValueError('name the publishing program as source, e.g. "/essays/scoring"')
        self._options: dict[str, Any] = {
            **(kafka or {}),
            "bootstrap_servers": bootstrap,
            "acks": "all",
            "enable_idempotence": True,
            "max_request_size": MAX_MESSAGE_BYTES,
        }
        self._source = source
        self._prefix = prefix
        self._producer: AIOKafkaProducer | None = None
        self._seen: set[str] = set()

    async def __aenter__(self) -> Self:
        """Connect; raises aiokafka's KafkaConnectionError when the cluster cannot be reached.

        KafkaRefused, which is one, says why a broker does not let us in.
        """
        producer = AIOKafkaProducer(**self._options)
        try:
            await start(producer.start, self._options["bootstrap_servers"], self._options)
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send what is buffered and disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def publish(
        self,
        data: EventData,
        *,
        id: str | None = None,  # noqa: A002 - the CloudEvents attribute
        correlation_id: str | None = None,
        causation_id: str | None = None,
        traceparent: str | None = None,
        tracestate: str | None = None,
        key: str | None = None,
    ) -> PublishedRecord:
        """Publish one event and wait until every in-sync replica has it.

        The topic follows from the type of `data`, the key from whom it is about. `id` defaults
        to a new UUIDv7; give your own to be able to repeat a call after a crash.
        `correlation_id` defaults to the data's `pipeline_id`. `traceparent` and `tracestate` (W3C
        Trace Context) lead from your trace to what Faregate does about the event.
        Raises TypeError for what is no event, ValueError for what is too large, no JSON or has an
        envelope that readers refuse, and PublishFailed when the broker does not acknowledge it.
        """
        if self._producer is None:
            raise RuntimeError("open the publisher first: async with Publisher(...) as publisher")
        name = _topic_of(data)
        event = Event(
            id=id or new_event_id(),
            source=self._source,
            type=type(data).__name__,
            data=data.to_data(),
            time=datetime.now(UTC),
            correlationid=correlation_id or getattr(data, "pipeline_id", None),
            causationid=causation_id,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        topic = topic_name(self._prefix, name)
        value, headers = encode(event)
        _require_fits(value)
        decode(value, headers)  # nobody could read an id or source that this refuses
        try:
            await self._see(self._producer, topic)
            sent = await self._producer.send_and_wait(
                topic, value, key=(key or routing_subject(data)).encode(), headers=headers
            )
        except UnknownTopicOrPartitionError as error:
            message = no_topic([topic], self._options["bootstrap_servers"], self._prefix)
            raise PublishFailed(event.id, f"{event.type} {event.id}: {message}") from error
        except KafkaError as error:
            message = f"{event.type} {event.id} was not acknowledged by {topic}: {error!r}"
            raise PublishFailed(event.id, message) from error
        return PublishedRecord(sent.topic, sent.partition, sent.offset, event)

    async def _see(self, producer: AIOKafkaProducer, topic: str) -> None:
        """Wait for a topic once, for not as long as for a broker that is away.

        Raises UnknownTopicOrPartitionError when brokers answer and do not have it.
        """
        if topic in self._seen:
            return
        try:
            async with asyncio.timeout(_TOPIC_S):
                await producer.partitions_for(topic)
        except TimeoutError:
            known = await producer.client.fetch_all_metadata()
            if topic not in known.topics():
                raise UnknownTopicOrPartitionError(topic) from None
            return
        self._seen.add(topic)


def new_event_id() -> str:
    """Make a UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    random = int.from_bytes(os.urandom(10), "big")
    bits = time.time_ns() // 1_000_000 << 80 | random
    bits = bits & ~(0xF << 76) | 7 << 76  # version
    return str(UUID(int=bits & ~(0b11 << 62) | 0b10 << 62))  # variant


def _topic_of(data: EventData) -> str:
    name = type(data).__name__
    if name not in TOPIC_OF_TYPE:
        raise TypeError(f"{name} is no event type; known: {', '.join(TOPIC_OF_TYPE)}")
    return TOPIC_OF_TYPE[name]


def _require_fits(value: bytes) -> None:
    # 4 KiB for key, headers and the framing of a batch.
    limit = MAX_MESSAGE_BYTES - 4096
    if len(value) > limit:
        raise ValueError(f"the event has {len(value):,} bytes, the limit is {limit:,}")
