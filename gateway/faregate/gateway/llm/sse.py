"""Server-sent events, as chat completions are streamed: bytes in, the data of events out."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

MAX_EVENT_BYTES = 4_194_304
DONE = b"[DONE]"


class EventTooLarge(Exception):
    """One event is larger than any chunk of an answer."""


async def events(source: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Give the data of each event. What is left when the source ends is no event.

    Raises EventTooLarge, and what the source raises.
    """
    waiting, data = b"", []
    async for piece in source:
        *lines, waiting = (waiting + piece).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r")
            if text.startswith(b"data:"):
                data.append(text[5:].removeprefix(b" "))
            elif not text and data:
                yield b"\n".join(data)
                data = []
        if len(waiting) + sum(map(len, data)) > MAX_EVENT_BYTES:
            raise EventTooLarge


def frame(data: bytes) -> bytes:
    """Write one event."""
    return b"".join(b"data: " + line + b"\n" for line in data.split(b"\n")) + b"\n"


def comment(text: str) -> bytes:
    """Write a line that clients ignore."""
    return f": {text}\n\n".encode()
