"""`publish`: events as any service publishes them, and copies of them."""

from __future__ import annotations

from dataclasses import dataclass

from aiokafka import TopicPartition

from faregate.events import Event, EventData, PublishedRecord, Publisher, new_event_id

SOURCE = "/faregate/testing"


@dataclass(frozen=True, slots=True)
class Published:
    """What was published, as a marker for `expect_no_event(…, after=…)`."""

    records: tuple[PublishedRecord, ...]

    @property
    def event(self) -> Event:
        """The event; its copies are the same."""
        return self.records[0].event

    @property
    def ends(self) -> dict[TopicPartition, int]:
        """The offset after the last copy, for each partition they went to."""
        ends: dict[TopicPartition, int] = {}
        for record in self.records:
            place = TopicPartition(record.topic, record.partition)
            ends[place] = max(ends.get(place, 0), record.offset + 1)
        return ends


class Publish:
    """Publishes events; `await publish(event)` returns when Kafka has acknowledged it."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def __call__(
        self, data: EventData, *, duplicates: int = 0, id_: str | None = None
    ) -> Published:
        """Publish an event, and `duplicates` copies of it with the same id.

        `id_`: to publish with an id that was used before.
        """
        if duplicates < 0:
            raise ValueError("duplicates is how many copies follow the event: 0 or more")
        event_id = id_ or new_event_id()
        records = [await self._publisher.publish(data, id=event_id) for _ in range(1 + duplicates)]
        return Published(tuple(records))
