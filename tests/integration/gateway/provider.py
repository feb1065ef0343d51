"""A provider in a test: a small HTTP server that answers calls of a model as the test says.

provider.answer = whole("Hello", usage=(7, 3))
provider.answer = stream(chunk("Hel"), chunk("lo"), last(), usage(7, 2), DONE)
provider.answer = stream(chunk("Hel"), CUT)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

CUT = object()
"""The connection breaks here."""
DONE = "[DONE]"
ID = "chatcmpl-17"


@dataclass(slots=True)
class Call:
    """What a provider was asked."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Answer = Callable[[Call, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Provider:
    """The server. `calls` has what came, `left` tells that a caller went before the end."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer | None = None

    @property
    def call(self) -> Call:
        """The newest call."""
        return self.calls[-1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            call = await _read(reader)
            self.calls.append(call)
            assert self.answer is not None
            gone = asyncio.create_task(reader.read())
            answering = asyncio.ensure_future(self.answer(call, writer))
            await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.left.set()
                answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    return Call(method, path, headers, json.loads(raw) if raw else {})


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Run one."""
    made = Provider()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server:
        yield made


def completion(text: str, usage: tuple[int, int] | None) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    answer: dict[str, Any] = {
        "id": ID,
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    if usage:
        answer["usage"] = _usage(usage)
    return answer


def _usage(tokens: tuple[int, int]) -> dict[str, int]:
    return {
        "prompt_tokens": tokens[0],
        "completion_tokens": tokens[1],
        "total_tokens": sum(tokens),
    }


def whole(
    text: str = "Hello", usage: tuple[int, int] | None = (7, 3), after_s: float = 0
) -> Answer:
    """Answer at once, or later."""
    return says(200, completion(text, usage), after_s=after_s)


def says(status: int, body: Any, after_s: float = 0, **headers: str) -> Answer:
    """Answer with any status and JSON."""

    async def answer(_call: Call, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after_s)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        more = "".join(f"{n.replace('_', '-')}: {v}\r\n" for n, v in headers.items())
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}"
            f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode()
            + raw
        )
        await writer.drain()

    return answer


def cut_in_half(text: str) -> Answer:
    """Promise an answer, and break off in the middle of it."""

    async def answer(_call: Call, writer: asyncio.StreamWriter) -> None:
        raw = json.dumps(completion(text, (7, 3))).encode()
        head = f"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n"
        writer.write(head.encode() + b"\r\n" + raw[: len(raw) // 2])
        await writer.drain()

    return answer


def _chunk(**more: Any) -> dict[str, Any]:
    return {"id": ID, "object": "chat.completion.chunk", "created": 1, "model": "m", **more}


def chunk(text: str) -> dict[str, Any]:
    return _chunk(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


def last() -> dict[str, Any]:
    return _chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])


def usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return _chunk(choices=[], usage=_usage((input_tokens, output_tokens)))


def stream(*parts: Any) -> Answer:
    """Answer with events: objects, texts, numbers (seconds to wait), CUT."""

    async def answer(_call: Call, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
        writer.write(head.encode() + b"\r\n")
        for part in parts:
            if part is CUT:
                return
            if isinstance(part, int | float):
                await asyncio.sleep(part)
                continue
            event = f"data: {part if isinstance(part, str) else json.dumps(part)}\n\n".encode()
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return answer
