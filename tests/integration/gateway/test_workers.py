"""Several processes behind one port: they share the work and the metrics, and end together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import asyncpg
import httpx
import pytest
from tests.helpers.processes import Supervisor, environment, faregate_processes
from tests.helpers.servers import Stack
from tests.integration.gateway.calling import PASSWORD, Person

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


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def called_at_once(url: str, path: str) -> list[int]:
    """Call on many connections, so that each worker gets some."""

    async def one() -> int:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            return (await http.get(path)).status_code

    return await asyncio.gather(*(one() for _ in range(CALLERS)))


async def test_workers_share_a_port_and_one_that_dies_comes_back(
    stack: Stack, database_url: str, pool: asyncpg.Pool
) -> None:
    env = environment(
        stack.kafka, database_url, gateway_port="0", gateway_workers=str(WORKERS), log_format="json"
    )
    async with faregate_processes(env, "gateway") as procs:
        started = await until_logged(procs, "gateway_started", WORKERS)
        (port,) = {line["port"] for line in started}
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

        ends = children(procs.pid("gateway"))
        procs.kill("gateway", signal.SIGTERM)
        assert await procs.wait_exit("gateway", 15) == 0
        assert not [pid for pid in ends if Path(f"/proc/{pid}").exists()]
    assert await pool.fetchval("SELECT count(*) FROM users") == 1


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
