"""One call upstream, from its hold to its charge. It runs apart from the caller's connection.

What is charged (docs/llm.md): what the upstream reports; without a report, or when a stream breaks
off or its caller leaves, the estimate of what was sent and delivered; nothing when the upstream
failed before anything was delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from decimal import Decimal
from typing import Any

import aiohttp
import structlog
from starlette.responses import Response

from faregate.gateway.llm.money import Fare, Settled
from faregate.gateway.llm.reported import (
    Used,
    delivered,
    estimate,
    parse,
    reference_of,
    usage_of,
)
from faregate.gateway.llm.streams import Stream, StreamedAnswer
from faregate.gateway.llm.upstream import Reply, Target, Upstream, unreachable
from faregate.gateway.problems import Problem

log = structlog.get_logger("faregate.gateway")

_SETTLING_S = 5.0
"""An answer waits so long for its charge; after that it goes without saying it."""


class Exchange:
    """A call. `run` owns its hold; `answered` is what the caller gets."""

    def __init__(self, upstream: Upstream, target: Target, fare: Fare, timeout_s: float) -> None:
        self._upstream = upstream
        self._target = target
        self._fare = fare
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + timeout_s
        self._stream: Stream | None = None
        self.answered: asyncio.Future[Response] = loop.create_future()
        self.answered.add_done_callback(lambda f: f.cancelled() or f.exception())

    def leave(self) -> bool:
        """End a stream early: what was delivered is charged. False where there is no stream."""
        if self._stream is not None:
            self._stream.gone.set()
        return self._stream is not None

    async def run(self) -> None:
        """Make the call. Whatever happens, the hold is settled or released."""
        try:
            await self._call()
        except Problem as problem:
            await self._released()
            self._fail(problem)
        except asyncio.CancelledError:
            await self._released()
            self._fail(Problem("check_unavailable", "The gateway is being stopped."))
            raise
        except Exception:
            log.exception("llm_internal_error")
            await self._released()
            self._fail(Problem("internal", "Something went wrong here; it was logged."))

    async def _call(self) -> None:
        async with AsyncExitStack() as opened:
            try:
                async with asyncio.timeout_at(self._deadline):
                    completion = self._upstream.completion(self._target, self._fare.asked)
                    reply = await opened.enter_async_context(completion)
                    content = None if reply.is_stream else await reply.whole()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise unreachable(error) from None
            if content is None:
                await self._streamed(reply)
                return
        await self._whole(reply, content)

    async def _whole(self, reply: Reply, content: bytes) -> None:
        document = parse(content)
        if document is None or "error" in document:
            raise Problem("upstream_error", "The upstream did not answer with a completion.")
        used = usage_of(document) or self._estimate(delivered(document))
        settled = await self._settled(used, reference_of(document))
        self._answer(Response(content, media_type=reply.media_type, headers=self._headers(settled)))

    async def _streamed(self, reply: Reply) -> None:
        stream = self._stream = Stream(shows_usage=self._fare.asked.shows_usage)
        reading = asyncio.create_task(stream.read(reply.pieces()))
        waits = [asyncio.create_task(e.wait()) for e in (stream.begun, stream.gone)]
        try:
            await self._until(reading, *waits)
            if stream.begun.is_set():
                self._answer(StreamedAnswer(stream, reply.media_type, self._stream_headers()))
                await self._until(reading, waits[1])
        finally:
            for task in (reading, *waits):
                task.cancel()
            await asyncio.gather(reading, *waits, return_exceptions=True)
            await self._close(stream, reading)

    async def _until(self, *tasks: asyncio.Task[Any]) -> None:
        left = self._deadline - asyncio.get_running_loop().time()
        await asyncio.wait(tasks, timeout=max(0, left), return_when=asyncio.FIRST_COMPLETED)

    async def _close(self, stream: Stream, reading: asyncio.Task[None]) -> None:
        """Charge a stream that has ended, in whatever way, and tell its caller."""
        cut = TimeoutError() if reading.cancelled() else reading.exception()
        if not stream.begun.is_set():
            if cut is None:
                raise Problem("upstream_error", "The stream was empty.")
            raise cut if isinstance(cut, Problem) else unreachable(cut)
        if cut is not None:
            left = stream.gone.is_set()
            log.info("llm_stream_cut", by="caller" if left else type(cut).__name__)
        used = stream.used(whole=cut is None) or self._estimate(stream.delivered)
        settled = await self._settled(used, stream.reference)
        stream.end(None if settled is None else _said(self._headers(settled)), whole=cut is None)

    def _estimate(self, delivered_bytes: int) -> Used:
        return estimate(self._fare.asked.input_tokens, delivered_bytes)

    async def _settled(self, used: Used, reference: str | None) -> Settled | None:
        """Settle, and give what it came to; None while that is not known yet."""
        self._count("reported" if used.is_reported else "estimated")
        settling = self._fare.gateway.llm.spawn(self._fare.settle(used, reference))
        await asyncio.wait([settling], timeout=_SETTLING_S)
        return settling.result() if settling.done() and not settling.cancelled() else None

    async def _released(self) -> None:
        """Release; the caller does not wait long for it."""
        self._count("nothing")
        releasing = self._fare.gateway.llm.spawn(self._fare.release())
        await asyncio.wait([releasing], timeout=_SETTLING_S)

    def _count(self, charged: str) -> None:
        key = "byok" if self._fare.provider else "credits"
        self._fare.gateway.metrics.llm_calls.labels(charged, key).inc()

    def _headers(self, settled: Settled | None) -> dict[str, str]:
        named = {"X-Faregate-Usage-Id": self._fare.usage_id}
        if settled is None:
            return named
        return {
            "X-Credits-Charged": _credits(settled.cost),
            "X-Credits-Remaining": _credits(settled.remaining),
            **named,
        }

    def _stream_headers(self) -> dict[str, str]:
        """Give what is known before the stream ends: what is left with its estimate held."""
        remaining = _credits(self._fare.available)
        return {"X-Credits-Remaining": remaining, "X-Faregate-Usage-Id": self._fare.usage_id}

    def _answer(self, response: Response) -> None:
        if self.answered.done():  # its caller has gone
            self.leave()
        else:
            self.answered.set_result(response)

    def _fail(self, problem: Problem) -> None:
        if not self.answered.done():
            self.answered.set_exception(problem)


def _credits(micro: int) -> str:
    """Write credits as a plain number."""
    return format(Decimal(micro).scaleb(-6).normalize(), "f")


def _said(headers: Mapping[str, str]) -> str:
    """Write headers that came too late to be headers."""
    return " ".join(f"{name.lower()}={value}" for name, value in headers.items())
