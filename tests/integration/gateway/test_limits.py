"""What a connection may send and how long it may take, on a real socket: the server's own edges."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from tests.integration.gateway.calling import PASSWORD, town
from tests.integration.gateway.llm_world import Street, street

from faregate.gateway.connections import MAX_HEAD, MAX_HEADERS
from faregate.ledger.core import Rules
from faregate.ledger.store import Store, open_store

pytestmark = pytest.mark.stack

LOGIN = b"POST /api/auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
async def ledger_store(pool: asyncpg.Pool) -> Store:
    return await open_store(pool, Rules(provisioning="manual"))


@pytest.fixture
async def here(ledger_store: Store) -> AsyncIterator[Street]:
    async with street(ledger_store) as found:
        yield found


@dataclass(slots=True)
class Said:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> tuple[int, str]:
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["cache-control"] == "no-store"
        problem = json.loads(self.body)
        assert problem["status"] == self.status
        return self.status, problem["reason"]


@dataclass(slots=True)
class Line:
    """A connection that sends what it is told to."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Said:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in lines)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return Said(int(first.split()[1]), headers, body)

    async def closed(self) -> bool:
        """Whether the server closes it, soon."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def line(town: Street) -> AsyncIterator[Line]:
    place = urlsplit(town.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def body(size: int) -> bytes:
    text = json.dumps({"email": "a@example.com", "password": "x" * size}).encode()
    return LOGIN + b"content-length: %d\r\n\r\n" % len(text) + text


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * MAX_HEAD + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 4_000_000,
        b"GET /health?" + b"x" * MAX_HEAD + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /" + b"x" * 4_000_000,
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-many: 1\r\n" * MAX_HEADERS + b"\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-many: 1\r\n" * 300_000,
    ],
    ids=["header", "endless header", "query", "endless path", "headers", "endless headers"],
)
async def test_a_head_is_bounded_in_size_and_number(here: Street, head: bytes) -> None:
    async with line(here) as one:
        sending = asyncio.create_task(one.send(head))
        try:
            assert (await one.answer()).reason == (431, "head_too_large")
            assert await one.closed()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    assert (await here.nobody.get("/health")).status == 200


async def test_a_head_within_the_bounds_is_read(here: Street) -> None:
    async with line(here) as one:
        many = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 250) for n in range(MAX_HEADERS - 2))
        for _ in range(2):
            await one.send(b"GET /health HTTP/1.1\r\nhost: x\r\n" + many + b"\r\n")
            assert (await one.answer()).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nbad header: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        LOGIN + b"content-length: -1\r\n\r\n",
        LOGIN + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        LOGIN + b"content-length: 99999999999999999999999999\r\n\r\n",
        LOGIN + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        LOGIN + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_a_problem_too(here: Street, sent: bytes) -> None:
    async with line(here) as one:
        await one.send(sent)
        assert (await one.answer()).reason == (400, "validation_failed")
        assert await one.closed()


async def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(here: Street) -> None:
    limit = here.gateway.settings.max_body
    async with line(here) as one:
        await one.send(LOGIN + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (limit + 1))
        assert (await one.answer()).reason == (413, "body_too_large")
        assert await one.closed()


async def test_a_body_without_a_length_is_counted(here: Street) -> None:
    piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    async with line(here) as one:
        await one.send(LOGIN + b"transfer-encoding: chunked\r\n\r\n")
        sending = asyncio.create_task(one.send(piece * 20))
        try:
            assert (await one.answer()).reason == (413, "body_too_large")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


async def test_a_head_that_trickles_in_is_not_waited_for(ledger_store: Store) -> None:
    async with street(ledger_store, head_timeout_s=1.5) as here, line(here) as one:
        began = perf_counter()
        for piece in (b"GET /health", b" HTTP/1.1\r\n", b"x: 1\r\n"):
            await one.send(piece)
            await asyncio.sleep(0.05)
        assert (await one.answer()).reason == (408, "request_timeout")
        assert await one.closed()
        assert perf_counter() - began < 15


async def test_a_connection_that_says_nothing_is_closed(ledger_store: Store) -> None:
    async with street(ledger_store, head_timeout_s=0.3) as here:
        async with line(here) as silent, line(here) as blank:
            await blank.send(b"\r\n")
            assert await silent.closed()
            assert (await blank.answer()).status in {400, 408}
            assert await blank.closed()
        async with line(here) as kept:
            for _ in range(2):
                await kept.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
                assert (await kept.answer()).status == 200
                await asyncio.sleep(0.5)  # between two calls there is the keep-alive's time


@pytest.mark.parametrize("path", ["/api/auth/login", "/v1/chat/completions"])
async def test_a_body_that_trickles_in_is_not_waited_for(ledger_store: Store, path: str) -> None:
    async with town(ledger_store) as before:
        ada = await before.rich(10)
    async with street(ledger_store, timeout_s=1.5) as here, line(here) as one:
        head = LOGIN.replace(b"/api/auth/login", path.encode())
        token = f"authorization: Bearer {ada.token}\r\n".encode()
        await one.send(head + token + b"content-length: 400\r\n\r\n{")
        for _ in range(3):
            await asyncio.sleep(0.1)
            await one.send(b" ")
        assert (await one.answer()).reason == (408, "request_timeout")
        assert await one.closed()


async def test_a_caller_that_goes_in_the_middle_of_a_body_is_no_fault_of_ours(
    here: Street, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for path in (b"/api/auth/login", b"/v1/chat/completions"):
            async with line(here) as one:
                head = LOGIN.replace(b"/api/auth/login", path)
                await one.send(head + b"content-length: 400\r\n\r\n{")
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)
    assert "rror" not in caplog.text + "".join(capfd.readouterr())
    assert (await here.nobody.get("/health")).status == 200


async def test_more_connections_than_are_allowed_are_turned_away(ledger_store: Store) -> None:
    async with street(ledger_store, max_connections=3) as here:
        lines = [await asyncio.open_connection(*_place(here)) for _ in range(3)]
        await asyncio.sleep(0.1)
        async with line(here) as one:
            refused = await one.answer()
            assert refused.reason == (503, "check_unavailable")
            assert refused.headers["retry-after"] == "1"
        for _, writer in lines:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await here.nobody.get("/health")).status == 200


def _place(town: Street) -> tuple[Any, Any]:
    place = urlsplit(town.url)
    return place.hostname, place.port


async def test_answers_are_kept_by_no_cache_and_guessed_by_no_browser(here: Street) -> None:
    ada = await here.rich(10)
    login = {"email": ada.email, "password": PASSWORD}
    for reply in (
        await here.nobody.post("/api/auth/login", login),
        await ada.get("/api/v1/credits/balance"),
        await ada.get("/nope"),
        await ada.post("/api/v1/credits/deduct", raw=b"x" * 2_000_000),
        await here.nobody.get("/metrics"),
    ):
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "server" not in reply.headers


async def test_pages_are_bounded(here: Street) -> None:
    ada, admin = await here.rich(10), await here.admin()
    for person, path in (
        (ada, "/api/v1/credits/transactions"),
        (ada, "/api/v1/usage/history"),
        (admin, "/v1/admin/audit"),
        (admin, f"/v1/admin/grants?subject_type=user&subject_id={ada.user_id}"),
    ):
        join = "&" if "?" in path else "?"
        for limit in ("0", "201", "-1", "1.5", "1e2", "", "x", "9" * 400):
            refused = await person.get(f"{path}{join}limit={limit}")
            assert refused.problem == (400, "validation_failed"), (path, limit)
        assert (await person.get(f"{path}{join}limit=1")).status == 200


async def test_the_time_for_a_call_is_that_of_a_person(here: Street) -> None:
    """A model takes as long as its upstream; nothing else does, whatever its path begins with."""
    from faregate.gateway.middleware import Edge

    edge = Edge(None, here.gateway.settings, here.gateway.metrics)  # type: ignore[arg-type]
    times = {path: edge._longest(path) for path in ("/v1/chat/completions", "/api/v1/llm/models")}
    llm = here.gateway.settings.llm
    assert times["/api/v1/llm/models"] == here.gateway.settings.timeout_s
    assert times["/v1/chat/completions"] > llm.timeout_s + llm.hold_margin_s
