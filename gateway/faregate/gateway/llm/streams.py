"""A streamed answer: chunks go to the caller as they come, and are counted on their way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from faregate.gateway.llm import sse
from faregate.gateway.llm.reported import Used, delivered, is_bare, parse, reference_of, usage_of
from faregate.gateway.problems import Problem

_WAITING = 64
"""So many chunks may wait for a caller who reads slowly; then the upstream waits too."""
_MAX_BYTES = 67_108_864


class Stream:
    """Chunks on their way. `begun`: there is one. `gone`: the caller takes no more."""

    def __init__(self, *, shows_usage: bool) -> None:
        self._shows_usage = shows_usage
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()
        self._usage: Used | None = None
        self._is_final = False
        self._size = 0
        self.delivered = 0
        """Bytes of text that came."""
        self.reference: str | None = None
        self.begun = asyncio.Event()
        self.gone = asyncio.Event()

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Take in a stream to its end. Raises Problem, and aiohttp.ClientError when it is cut."""
        try:
            async for data in sse.events(pieces):
                if data.strip() == sse.DONE:
                    return
                await self._take(data)
        except sse.EventTooLarge:
            raise Problem("upstream_error", "The answer of the upstream is too long.") from None
        raise Problem("upstream_error", "The stream broke off.")

    async def _take(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > _MAX_BYTES:
            raise sse.EventTooLarge
        chunk = parse(data)
        if chunk is None or "error" in chunk:
            raise Problem("upstream_error", "The upstream broke off with an error.")
        self.delivered += delivered(chunk)
        self.reference = self.reference or reference_of(chunk)
        used, bare = usage_of(chunk), is_bare(chunk)
        if used is not None:
            self._usage, self._is_final = used, bare or _is_last(chunk)
        if "usage" in chunk and not self._shows_usage:
            if bare:
                return
            del chunk["usage"]
            data = json.dumps(chunk, separators=(",", ":")).encode()
        await self._room.wait()
        self._put(sse.frame(data))
        self.begun.set()

    def used(self, *, whole: bool) -> Used | None:
        """Give the usage that was reported; of a stream that broke off only a final one counts."""
        return self._usage if whole or self._is_final else None

    def end(self, charged: str | None, *, whole: bool) -> None:
        """Write the end: what was charged, as a comment, and [DONE] or an error."""
        if charged is not None:
            self._put(sse.comment(charged))
        if whole:
            self._put(sse.frame(sse.DONE))
        else:
            error = {"message": "The stream broke off.", "type": "upstream_error"}
            self._put(
                sse.frame(json.dumps({"error": {**error, "code": "upstream_error"}}).encode())
            )
        self._frames.put_nowait(None)

    def _put(self, frame: bytes) -> None:
        self._frames.put_nowait(frame)
        if self._frames.qsize() >= _WAITING:
            self._room.clear()

    async def frames(self) -> AsyncIterator[bytes]:
        """Give what the caller is sent."""
        while (frame := await self._frames.get()) is not None:
            if self._frames.qsize() < _WAITING:
                self._room.set()
            yield frame


def _is_last(chunk: Mapping[str, object]) -> bool:
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(
        isinstance(c, dict) and c.get("finish_reason") for c in choices
    )


class StreamedAnswer(Response):
    """Sends a stream, and tells it when the caller has gone."""

    def __init__(self, stream: Stream, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(media_type=media_type, headers=headers)
        del self.headers["content-length"]
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Answer."""
        watching = asyncio.create_task(self._watch(receive))
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async for frame in self._stream.frames():
                await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            pass  # the caller has gone
        finally:
            self._stream.gone.set()
            watching.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._stream.gone.set()
