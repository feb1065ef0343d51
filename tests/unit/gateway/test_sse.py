"""Server-sent events arrive in any pieces, and are the same events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.gateway.llm import sse

STREAM = b': hello\n\ndata: {"a": 1}\n\nevent: x\r\ndata:{"b":\r\ndata: 2}\r\n\r\ndata: [DONE]\n\ndata: cut'
EVENTS = [b'{"a": 1}', b'{"b":\n2}', b"[DONE]"]


async def in_pieces(cuts: list[int]) -> list[bytes]:
    async def source() -> AsyncIterator[bytes]:
        places = sorted({0, len(STREAM), *(c % len(STREAM) for c in cuts)})
        for start, end in pairwise(places):
            yield STREAM[start:end]

    return [event async for event in sse.events(source())]


@given(st.lists(st.integers(0, 200), max_size=30))
async def test_events_do_not_depend_on_how_they_are_cut(cuts: list[int]) -> None:
    assert await in_pieces(cuts) == EVENTS


async def test_an_event_without_end_is_given_up() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"data: " + b"x" * 100_000

    with pytest.raises(sse.EventTooLarge):
        [event async for event in sse.events(endless())]


def test_what_is_written_reads_the_same() -> None:
    assert sse.frame(b'{"a": 1}') == b'data: {"a": 1}\n\n'
    assert sse.comment("x=1") == b": x=1\n\n"
