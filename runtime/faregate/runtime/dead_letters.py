"""Dead letters as values: what the command line shows and the gateway answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError

from faregate.consumers.kafka import Cluster
from faregate.consumers.replay import Letter, NoSuchLetter, Replayed, letter_at, letters, replay
from faregate.events import INPUT_TOPICS, InvalidRecord, decode
from faregate.gateway.dead_letters import LetterNotFound, Page, QueueUnavailable
from faregate.runtime.tail import text_of

_PLACE_WORDS = 3


def place_of(text: str) -> tuple[str, int, int]:
    """Read an id such as `usage.recorded:0:17`. Raises ValueError."""
    parts = text.rsplit(":", 2)
    if len(parts) != _PLACE_WORDS or not all(p.isascii() and p.isdigit() for p in parts[1:]):
        raise ValueError(f"{text!r} names no dead letter")
    return parts[0], int(parts[1]), int(parts[2])


async def read(cluster: Cluster, topics: Sequence[str], error: str | None) -> list[Letter]:
    """Read the dead letters of these topics that have this error (None: any), oldest first."""
    found = [x async for x in letters(cluster, topics) if error is None or x.error == error]
    return sorted(found, key=_order)


def _order(letter: Letter) -> tuple[int, str, int, int]:
    at_ms = round(letter.at.timestamp() * 1000)
    return at_ms, letter.topic, letter.partition, letter.offset


def value_of(letter: Letter) -> dict[str, Any]:
    """Give where a letter lies, why, and how often it was tried."""
    return {
        "id": letter.id,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "source_partition": letter.source_partition,
        "source_offset": letter.source_offset,
        "error": letter.error,
        "message": letter.message,
        "attempts": letter.attempts,
        "first_seen": letter.first_seen,
        "at": letter.at.isoformat(),
        "key": text_of(letter.key),
        "bytes": len(letter.value or b""),
    }


def whole_of(letter: Letter) -> dict[str, Any]:
    """Give all of a letter: its record's headers and bytes, and the event if it is one."""
    return value_of(letter) | {
        "headers": [[k, text_of(v)] for k, v in letter.own_headers],
        "value": text_of(letter.value),
        "event": _event(letter),
    }


def _event(letter: Letter) -> dict[str, Any] | None:
    try:
        event = decode(letter.value, letter.own_headers)
    except InvalidRecord:
        return None
    return {"id": event.id, "source": event.source, "type": event.type, "data": event.data}


def record_of(done: Replayed) -> dict[str, Any]:
    """Give which letter was published again, and where it lies now."""
    return {
        "id": done.letter.id,
        "topic": done.topic,
        "partition": done.partition,
        "offset": done.offset,
    }


class Queues:
    """The dead letter queues of a cluster: what the gateway knows as `DeadLetters`."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def page(
        self, topic: str | None, error: str | None, limit: int, cursor: str | None
    ) -> Page:
        """Give a page, newest first. Raises ValueError for a cursor that is none."""
        before = None if cursor is None else _cursor(cursor)
        try:
            found = await read(self._cluster, [topic] if topic else INPUT_TOPICS, error)
        except KafkaError as away:
            raise QueueUnavailable from away
        older = [x for x in reversed(found) if before is None or _order(x) < before]
        shown = older[:limit]
        more = f"{_order(shown[-1])[0]}:{shown[-1].id}" if len(older) > limit else None
        return Page([value_of(x) for x in shown], more)

    async def show(self, letter_id: str) -> dict[str, Any]:
        """Give one in full. Raises LetterNotFound."""
        return whole_of(await self._letter(letter_id))

    async def replay(self, letter_id: str) -> dict[str, Any]:
        """Publish one again. Raises LetterNotFound."""
        letter = await self._letter(letter_id)
        try:
            (done,) = await replay(self._cluster, [letter])
        except KafkaError as away:
            raise QueueUnavailable from away
        return record_of(done)

    async def _letter(self, letter_id: str) -> Letter:
        try:
            return await letter_at(self._cluster, *_known(letter_id))
        except (ValueError, NoSuchLetter) as error:
            raise LetterNotFound(str(error)) from None
        except KafkaError as away:
            raise QueueUnavailable from away


def _known(letter_id: str) -> tuple[str, int, int]:
    """Read an id whose topic is one of ours. Raises ValueError."""
    topic, partition, offset = place_of(letter_id)
    if topic not in INPUT_TOPICS:
        raise ValueError(f"{topic} has no dead letters")
    return topic, partition, offset


def _cursor(text: str) -> tuple[int, str, int, int]:
    at_ms, _, place = text.partition(":")
    if not (at_ms.isascii() and at_ms.isdigit()):
        raise ValueError("send the next_cursor of the page before")
    try:
        return int(at_ms), *place_of(place)
    except ValueError:
        raise ValueError("send the next_cursor of the page before") from None
