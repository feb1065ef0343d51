"""An upstream of models that answers at once: what is left of a call's time is the gateway's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from tests.bench.client import HOST

_COMPLETION = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-3.5-turbo",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
_BODY = json.dumps(_COMPLETION).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Content-Length: " + str(len(_BODY)).encode() + b"\r\n\r\n" + _BODY
)


class _Answering(asyncio.Protocol):
    """Answers every request alike, once all of it is there."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0 or self._transport is None:
            return
        at = self._buffer.lower().find(b"content-length:", 0, head)
        length = 0 if at < 0 else int(self._buffer[at + 15 : self._buffer.find(b"\r", at)])
        if len(self._buffer) >= head + 4 + length:
            self._buffer = self._buffer[head + 4 + length :]
            self._transport.write(_ANSWER)


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """Run one; give its port."""
    server = await asyncio.get_running_loop().create_server(_Answering, HOST, 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
