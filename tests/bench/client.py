"""A lean HTTP client: requests are bytes made beforehand, answers are read no further than needed.

What is measured shares the machine with it, so it costs a few microseconds for each call: one
request at a time on each kept connection, no parsing of headers beyond status and length.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Self, cast

from tests.bench.lane import BenchFailed

HOST = "127.0.0.1"
_SHOWN = 300


class Connection(asyncio.Protocol):
    """One kept connection. `call` must not be used again before its answer is there."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self._buffer = b""
        self._status = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self._buffer.lower().find(b"content-length:", 0, head) + 15
        end = self._buffer.find(b"\r", start)
        total = head + 4 + int(self._buffer[start:end])
        if len(self._buffer) >= total:
            self._status = int(self._buffer[9:12])
            answer, self._buffer = self._buffer[head + 4 : total], self._buffer[total:]
            self._answered(answer)

    def _answered(self, answer: bytes) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BenchFailed(f"the connection broke: {exc}"))

    async def call(self, request: bytes, *expected: int) -> bytes:
        """Send a request; give the body of its answer. Raises BenchFailed for another status."""
        if self._transport is None:
            raise BenchFailed("not connected")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        answer = await self._waiting
        if self._status not in (expected or (200, 201)):
            raise BenchFailed(f"{self._status}: {answer[:_SHOWN]!r} to {request[:80]!r}")
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Client:
    """Connections to one port of this machine, taken and given back."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._every: list[Connection] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in self._every:
            connection.close()

    async def connect(self, n: int) -> list[Connection]:
        """Open connections for callers that keep them."""
        return [await self._open() for _ in range(n)]

    async def call(self, request: bytes, *expected: int) -> bytes:
        """Call on whatever connection is free, or a new one."""
        connection = self._idle.pop() if self._idle else await self._open()
        try:
            return await connection.call(request, *expected)
        finally:
            self._idle.append(connection)

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, HOST, self._port)
        self._every.append(connection)
        return connection


def request(
    method: str,
    path: str,
    token: str | None = None,
    body: object = None,
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """Write a request."""
    content = b"" if body is None else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


Script = Callable[[Connection, int, Callable[[], bool]], Awaitable[list[float]]]
"""What one caller does on their connection, by number, until told to stop: the times of calls."""


async def all_at_once(client: Client, callers: int, script: Script, seconds: float) -> Timed:
    """Let so many callers call for `seconds`, each as soon as their answer is there."""
    connections = await client.connect(callers)
    begin = perf_counter()
    until = begin + seconds
    times = await asyncio.gather(
        *(script(c, n, lambda: perf_counter() < until) for n, c in enumerate(connections))
    )
    spent = perf_counter() - begin
    return Timed([t for some in times for t in some], spent)


async def paced(client: Client, requests: Sequence[bytes], per_s: float, *expected: int) -> Timed:
    """Send one request after the other when it is due, whatever became of those before.

    A time counts from when the request was due, so a stall is felt by all that fall into it.
    """
    begin = perf_counter() + 0.05
    times = [0.0] * len(requests)

    async def one(number: int, due: float) -> None:
        await client.call(requests[number], *expected)
        times[number] = perf_counter() - due

    under_way: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    def done(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        if error := task.exception():
            failed.append(error)

    for number in range(len(requests)):
        due = begin + number / per_s
        if (early := due - perf_counter()) > 0:
            await asyncio.sleep(early)
        task = asyncio.create_task(one(number, due))
        under_way.add(task)
        task.add_done_callback(done)
    while under_way:
        await asyncio.wait(tuple(under_way))
    if failed:
        raise BenchFailed(f"{len(failed)} of {len(requests)} calls failed: {failed[0]}")
    return Timed(times, len(requests) / per_s)


class Timed:
    """How long calls took, in seconds, and how long all of them together."""

    def __init__(self, times: Sequence[float], spent: float) -> None:
        self.times = times
        self.spent = spent


def value_of(answer: bytes, name: str) -> Any:
    """Read one member of an answer."""
    return json.loads(answer)[name]
