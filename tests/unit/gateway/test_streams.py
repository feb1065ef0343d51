"""A streamed answer on its way: bounded, counted, and ended as it should be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faregate.gateway.llm import sse
from faregate.gateway.llm.reported import Used
from faregate.gateway.llm.streams import Stream
from faregate.gateway.problems import Problem


def chunk(text: str, **more: Any) -> dict[str, Any]:
    return {"id": "c-1", "choices": [{"index": 0, "delta": {"content": text}}], **more}


async def pieces(*parts: Any) -> AsyncIterator[bytes]:
    for part in parts:
        yield sse.frame(part if isinstance(part, bytes) else json.dumps(part).encode())
        await asyncio.sleep(0)


async def turns(n: int) -> None:
    """Let everybody else on the loop go on so many times, however slow the machine is."""
    for _ in range(n):
        await asyncio.sleep(0)


async def taken(stream: Stream) -> bytes:
    return b"".join([frame async for frame in stream.frames()])


async def test_an_upstream_waits_for_a_caller_who_reads_slowly() -> None:
    stream, sent = Stream(shows_usage=False), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield sse.frame(json.dumps(chunk("x" * 1_000)).encode())
            await asyncio.sleep(0)

    reading = asyncio.create_task(stream.read(endless()))
    await turns(500)
    assert 64 <= sent <= 70
    frames = stream.frames()
    for _ in range(50):
        await anext(frames)
    await turns(500)
    assert 114 <= sent <= 125
    reading.cancel()


async def test_usage_that_comes_on_the_way_counts_only_if_the_stream_is_whole() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1}
    stream = Stream(shows_usage=True)
    with pytest.raises(Problem):
        await stream.read(pieces(chunk("Hello", usage=usage)))
    assert stream.used(whole=False) is None
    assert stream.used(whole=True) == Used(9, 1, is_reported=True)


async def test_usage_with_the_last_words_is_final() -> None:
    end = {
        "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1},
    }
    stream = Stream(shows_usage=False)
    with pytest.raises(Problem):
        await stream.read(pieces(chunk("Hello"), end))
    assert stream.used(whole=False) == Used(9, 1, is_reported=True)
    stream.end("x=1", whole=False)
    text = (await taken(stream)).decode()
    assert "finish_reason" in text
    assert "prompt_tokens" not in text, "the chunk is shown without the usage nobody asked for"
    assert text.count("data: [DONE]") == 0


async def test_a_whole_stream_ends_with_what_it_cost() -> None:
    stream = Stream(shows_usage=False)
    await stream.read(pieces(chunk("né"), b"[DONE]"))
    assert (stream.delivered, stream.reference) == (3, "c-1")
    stream.end("x-credits-charged=9", whole=True)
    assert (await taken(stream)).endswith(b": x-credits-charged=9\n\ndata: [DONE]\n\n")


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faregate.gateway.llm.streams._MAX_BYTES", 1_000)
    stream = Stream(shows_usage=False)
    with pytest.raises(Problem, match="too long"):
        await stream.read(pieces(*[chunk("x" * 100)] * 20))
