"""The gateway as a process: killed in the middle of a call, its memory, the master key's rotation."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from tests.helpers.processes import Supervisor, environment, faregate_processes
from tests.helpers.servers import Stack
from tests.integration.gateway.calling import PASSWORD, Person
from tests.integration.gateway.llm_world import CHAT, HELLO
from tests.integration.gateway.provider import Provider, chunk, provider, stream, whole

from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.store import Store, open_store

pytestmark = [pytest.mark.stack, pytest.mark.faults]

KEYS = "/api/v1/settings/byok-keys"
OWN = {"X-BYOK-Provider": "openrouter"}
CANARY = "sk-or-v1-canary-of-a-real-process-0123456789"
BODY = {"model": "gpt-3.5-turbo", "messages": HELLO}


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture
async def behind() -> AsyncIterator[Provider]:
    async with provider() as found:
        yield found


@pytest.fixture
def env(stack: Stack, database_url: str, behind: Provider) -> dict[str, str]:
    return environment(
        stack.kafka,
        database_url,
        gateway_port="0",
        log_format="json",
        llm_base_url=behind.url,
        llm_timeout_s="2",
        byok_openrouter_base_url=behind.url,
        master_key=new_key(),
    )


@asynccontextmanager
async def gateway(env: Mapping[str, str], *more: str) -> AsyncIterator[tuple[Supervisor, str]]:
    """Run a gateway process (and others); gives its address."""
    async with faregate_processes(env, "gateway", *more) as procs:
        lines = [json.loads(x) for x in procs.log("gateway").splitlines() if x.startswith("{")]
        port = next(x["port"] for x in lines if x["event"] == "gateway_started")
        yield procs, f"http://127.0.0.1:{port}"


@asynccontextmanager
async def somebody(url: str, store: Store, credits_: float = 1_000) -> AsyncIterator[Person]:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        new = {"email": f"{secrets.token_hex(4)}@example.com", "password": PASSWORD}
        made = await Person(http).post("/auth/register", new)
        assert made.status == 201, made.json
        user = f"user:{made['user_id']}"
        micro = round(credits_ * 1_000_000)
        await acts.set_balance(store, user, micro, actor="test", key=secrets.token_hex(4))
        yield Person(http, made["access_token"], made["user_id"])


async def account(store: Store, person: Person) -> tuple[int, int]:
    """Give balance and held in micro-credits."""
    row = await store.pool.fetchrow(
        "SELECT a.balance, a.held FROM accounts a JOIN subjects s ON s.account_id = a.id"
        " WHERE s.subject = $1",
        f"user:{person.user_id}",
    )
    return row["balance"], row["held"]


async def test_the_hold_of_a_gateway_that_was_killed_is_released_and_nothing_charged(
    env: dict[str, str], behind: Provider, pool: asyncpg.Pool
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    behind.answer = stream(chunk("Once"), 60)
    async with gateway(env, "sweeper") as (procs, url), somebody(url, store) as ada:
        with pytest.raises(httpx.HTTPError):
            async with ada.http.stream(
                "POST",
                CHAT,
                json={**BODY, "stream": True},
                headers={"Authorization": f"Bearer {ada.token}"},
            ) as answer:
                async for _ in answer.aiter_bytes():
                    assert (await account(store, ada))[1] > 0
                    procs.kill("gateway")
        live = await pool.fetchval(
            "SELECT max(expires_at) - now() FROM pipelines WHERE state = 'live'"
        )
        assert 0 < live.total_seconds() <= 62, "the call's time-out and a minute"
        await expire_holds(pool)
        until = asyncio.get_running_loop().time() + 20
        while (await account(store, ada))[1]:
            assert asyncio.get_running_loop().time() < until, "a hold was left behind"
            await asyncio.sleep(0.1)
        assert await account(store, ada) == (1_000_000_000, 0)


async def expire_holds(pool: asyncpg.Pool) -> None:
    """Let the time of all holds be over, instead of waiting for a minute."""
    await pool.execute("UPDATE pipelines SET expires_at = now() - interval '1 second'")


async def test_a_gateway_that_opens_keys_dumps_no_core_and_logs_none(
    env: dict[str, str], behind: Provider, pool: asyncpg.Pool, tmp_path: Path
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    secret = tmp_path / "master.key"
    secret.write_text(env.pop("FAREGATE_MASTER_KEY") + "\n")
    env |= {"FAREGATE_MASTER_KEY_FILE": str(secret), "FAREGATE_LOG_LEVEL": "debug"}
    async with gateway(env) as (procs, url), somebody(url, store) as ada:
        stored = await ada.post(KEYS, {"provider": "openrouter", "api_key": CANARY})
        assert stored.status == 201
        behind.answer = whole()
        answer = await ada.post(CHAT, BODY, headers=OWN)
        assert answer.status == 200
        assert behind.call.headers["authorization"] == f"Bearer {CANARY}"
        usage_id = answer.headers["x-faregate-usage-id"]
        code, explained = await asyncio.to_thread(command, env, "explain", usage_id)
        assert (code, "gpt-3.5-turbo" in str(explained)) == (0, True)
        limits = Path(f"/proc/{procs.pid('gateway')}/limits").read_text()
        (core,) = [line.split() for line in limits.splitlines() if line.startswith("Max core")]
        assert core[4:6] == ["0", "0"]
        assert "byok_key_stored" in procs.log("gateway")
        assert CANARY not in procs.log("gateway")
        assert secret.read_text().strip() not in procs.log("gateway")


def command(env: Mapping[str, str], *arguments: str) -> tuple[int, Any]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
    done = subprocess.run(
        [sys.executable, "-m", "faregate.runtime", *arguments, "--json"],
        env={**clean, **env},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.stdout.startswith("{"), done.stderr
    return done.returncode, json.loads(done.stdout)


async def test_the_master_key_is_rotated_from_the_command_line(
    env: dict[str, str], behind: Provider, pool: asyncpg.Pool
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    behind.answer = whole()
    rotating = {
        **env,
        "FAREGATE_OLD_MASTER_KEY": env["FAREGATE_MASTER_KEY"],
        "FAREGATE_MASTER_KEY": (await asyncio.to_thread(command, env, "byok", "new-master-key"))[1][
            "master_key"
        ],
    }
    code, refused = await asyncio.to_thread(command, env, "byok", "rotate")
    assert (code, "FAREGATE_OLD_MASTER_KEY" in refused["message"]) == (2, True)
    async with gateway(env) as (_, url), somebody(url, store) as ada:
        await ada.post(KEYS, {"provider": "openrouter", "api_key": CANARY})
    async with gateway(rotating) as (_, url), httpx.AsyncClient(base_url=url) as http:
        ada.http = http
        assert (await ada.post(CHAT, BODY, headers=OWN)).status == 200
        code, done = await asyncio.to_thread(command, rotating, "byok", "rotate")
        assert (code, done) == (0, {"rotated": 1, "done": 1, "remaining": 0, "damaged": 0})
        assert (await ada.post(CHAT, BODY, headers=OWN)).status == 200
        assert behind.call.headers["authorization"] == f"Bearer {CANARY}"
    code, done = await asyncio.to_thread(
        command, {**rotating, "FAREGATE_OLD_MASTER_KEY": new_key()}, "byok", "rotate"
    )
    assert (code, done["rotated"]) == (0, 0)
    code, done = await asyncio.to_thread(
        command,
        {**rotating, "FAREGATE_MASTER_KEY": new_key(), "FAREGATE_OLD_MASTER_KEY": new_key()},
        "byok",
        "rotate",
    )
    assert (code, done["remaining"]) == (1, 1)
