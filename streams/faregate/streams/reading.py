"""From records to events: what is no valid event is skipped, with a log line and a count."""

from collections.abc import Sequence
from typing import Any, TypeVar

import structlog

from faregate.events import Event, EventData, InvalidRecord, decode, parse

log = structlog.get_logger("faregate.streams")

Data = TypeVar("Data", bound=EventData)


class Reader:
    """Reads the records of one stream, and counts what it took and what it skipped."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.read_ = 0
        self.skipped = 0

    def read(self, message: Any, model: type[Data]) -> tuple[Event, Data] | None:
        """Give the event of a Kafka message, or None: it is no event of that kind."""
        headers: Sequence[tuple[str, bytes]] = message.headers or ()
        try:
            event = decode(message.value, headers)
            data = parse(event)
        except InvalidRecord as error:
            self._skip(message, error.code, error.message)
            return None
        if not isinstance(data, model):
            self._skip(message, "unexpected_type", f"{event.type} is not read here")
            return None
        self.read_ += 1
        return event, data

    def _skip(self, message: Any, code: str, said: str) -> None:
        self.skipped += 1
        log.warning(
            "record_skipped",
            stream=self.stream,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            error=code,
            message=said,
            skipped=self.skipped,
        )
