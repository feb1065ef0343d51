"""Several processes behind one port: they share the work and the metrics, and end together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import asyncpg
import httpx
import pytest
from tests.helpers.processes import Supervisor, environment, faregate_processes
from tests.helpers.servers import Stack
from tests.integration.gateway.calling import PASSWORD, Person

from faregate.gateway.metrics import SHARED_DIR

pytestmark = [pytest.mark.stack, pytest.mark.faults]

WORKERS = 2
CALLERS = 24


def lines(procs: Supervisor, event: str) -> list[dict[str, object]]:
    every = [json.loads(x) for x in procs.log("gateway").splitlines() if x.startswith("{")]
    return [line for line in every if line["event"] == event]


async def until_logged(procs: Supervisor, event: str, times: int) -> list[dict[str, object]]:
    async with asyncio.timeout(30):
        while len(found := lines(procs, event)) < times:
            await asyncio.sleep(0.05)
    return found


def gauges(worker: int, alive: int) -> int:
    """Count what a worker shows of its own in the metrics that all share."""
    environ = Path(f"/proc/{alive}/environ").read_bytes().split(b"\0")
    (shared,) = (x.decode() for x in environ if x.startswith(SHARED_DIR.encode() + b"="))
    return len(list(Path(shared.partition("=")[2]).glob(f"gauge_live*_{worker}.db")))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def successor(procs: Supervisor, known: set[int]) -> int:
    async with asyncio.timeout(30):
        while not (new := set(children(procs.pid("gateway"))) - known):
            await asyncio.sleep(0.02)
    return new.pop()


async def called_at_once(url: str, path: str) -> list[int]:
    """Call on many connections, so that each worker gets some."""

    async def one() -> int:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            return (await http.get(path)).status_code

    return await asyncio.gather(*(one() for _ in range(CALLERS)))


@dataclass(slots=True)
class HalfSent:
    """A call that a worker has begun: the end of its body is still to come."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes

    @classmethod
    async def begin(cls, port: int, path: str, body: dict[str, str]) -> HalfSent:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        raw = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Expect: 100-continue\r\nContent-Length: {len(raw)}\r\n\r\n".encode())
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(raw[:9])
        return cls(reader, writer, raw[9:])

    async def end(self) -> int:
        """Send the rest and give the status; 0 where nobody answers."""
        try:
            async with asyncio.timeout(10):
                self.writer.write(self.rest)
                return int((await self.reader.readline() or b"x 0").split()[1])
        except ConnectionError:
            return 0
        finally:
            self.writer.close()


async def until_refused(port: int) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                return
            writer.close()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def serving(stack: Stack, database_url: str) -> AsyncIterator[tuple[Supervisor, int]]:
    """Run a gateway of WORKERS processes; give it and the port that all of them are on."""
    env = environment(
        stack.kafka, database_url, gateway_port="0", gateway_workers=str(WORKERS), log_format="json"
    )
    async with faregate_processes(env, "gateway") as procs:
        started = await until_logged(procs, "gateway_started", WORKERS)
        port = int(str(started[0]["port"]))
        assert {line["port"] for line in started} == {port}
        yield procs, port


async def test_workers_share_a_port_and_one_that_dies_comes_back(
    stack: Stack, database_url: str, pool: asyncpg.Pool
) -> None:
    async with serving(stack, database_url) as (procs, port):
        url = f"http://127.0.0.1:{port}"
        assert set(await called_at_once(url, "/health")) == {200}
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            counted = (await http.get("/metrics")).text
            new = {"email": "ada@example.com", "password": PASSWORD}
            assert (await Person(http).post("/auth/register", new)).status == 201
        answered = [x for x in counted.splitlines() if x.startswith("faregate_http_answers_total")]
        (healthy,) = (float(x.split()[-1]) for x in answered if 'route="/health"' in x)
        assert healthy == CALLERS, "every worker's calls are counted"

        first, second = children(procs.pid("gateway"))
        os.kill(first, signal.SIGKILL)
        await until_logged(procs, "gateway_worker_died", 1)
        await until_logged(procs, "gateway_started", WORKERS + 1)
        assert set(await called_at_once(url, "/health")) == {200}
        assert second in children(procs.pid("gateway"))
        assert [gauges(worker, second) for worker in (first, second)] == [0, 1]

        ends = children(procs.pid("gateway"))
        calls = [await HalfSent.begin(port, "/api/auth/login", new) for _ in range(8)]
        procs.kill("gateway", signal.SIGTERM)
        began = monotonic()
        await until_refused(port)
        assert [await call.end() for call in calls] == [200] * 8, "what was begun is finished"
        assert await procs.wait_exit("gateway", 15) == 0
        assert monotonic() - began < 8, "nobody had to be killed after the time for it"
        assert not [pid for pid in ends if Path(f"/proc/{pid}").exists()]
    assert await pool.fetchval("SELECT count(*) FROM users") == 1


async def test_a_worker_that_does_not_stay_up_ends_the_gateway_and_others_finish(
    stack: Stack, database_url: str
) -> None:
    async with serving(stack, database_url) as (procs, port):
        logins = [{"email": f"x{n}@example.com", "password": PASSWORD} for n in range(CALLERS)]
        calls = [await HalfSent.begin(port, "/api/auth/login", login) for login in logins]
        worker, other = children(procs.pid("gateway"))
        for deaths_left in (2, 1, 0):
            os.kill(worker, signal.SIGKILL)
            if deaths_left:
                worker = await successor(procs, {worker, other})
        await until_refused(port)
        assert {await call.end() for call in calls} == {0, 401}, "the other finished its calls"
        assert await procs.wait_exit("gateway", 15) == 1
        assert "worker 0 of the gateway ended with -9, and again" in procs.log("gateway")
        assert not Path(f"/proc/{other}").exists()


async def test_a_port_that_is_taken_is_said(
    stack: Stack, database_url: str, tmp_path: Path
) -> None:
    listener = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    env = environment(
        stack.kafka, database_url, gateway_port=str(port), gateway_workers="2", log_format="json"
    )
    async with listener, Supervisor(env, tmp_path, restart=False) as procs:
        procs.start("gateway")
        assert await procs.wait_exit("gateway") == 2
        assert f"cannot listen on 127.0.0.1:{port}" in procs.log("gateway")
