"""The edges of a running gateway: limits, unknown paths, servers that are away, facts to Kafka."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from tests.helpers.processes import environment, faregate_processes
from tests.helpers.servers import Stack, drop_database
from tests.helpers.world import World, world
from tests.integration.gateway.calling import Person, Town, all_fine, town

from faregate.gateway.app import create_app
from faregate.gateway.server import make_gateway
from faregate.gateway.settings import GatewaySettings
from faregate.ledger.store import Store

pytestmark = pytest.mark.stack

PASSWORD = "correct horse battery"


async def test_health_and_version_need_no_token_and_metrics_name_nobody(here: Town) -> None:
    ada = await here.rich(5)
    await ada.get("/api/v1/credits/balance")
    health = await here.nobody.get("/health")
    assert (health.status, health.json) == (200, {"status": "ok", "version": "0"})
    assert (await here.nobody.get("/api/version")).json == {"version": "0"}
    assert (await here.nobody.get("/ready"))["ready"] is True
    text = (await here.http.get("/metrics")).text
    counted = 'faregate_http_answers_total{method="GET",route="/api/v1/credits/balance"'
    assert counted in text
    assert ada.user_id not in text
    assert ada.email not in text


async def test_an_unknown_path_or_method_is_a_problem_like_any_other(here: Town) -> None:
    for path in ("/", "/nope", "/api/v1/credits", "/health/", "/docs", "/openapi.json"):
        assert (await here.nobody.get(path)).problem == (404, "not_found"), path
    refused = await here.nobody.call("DELETE", "/api/v1/credits/balance")
    assert refused.problem == (405, "method_not_allowed")
    assert refused.headers["allow"] == "GET"
    refused = await here.nobody.call("DELETE", "/v1/admin/orgs/acme/policy")
    assert refused.headers["allow"] == "GET, PUT"


async def test_bodies_are_bounded_in_size_depth_and_kind(here: Town) -> None:
    ada, path = await here.rich(5), "/api/v1/credits/deduct"
    limit = here.gateway.settings.max_body
    large = b'{"reference": "' + b"x" * limit + b'"}'
    assert (await ada.post(path, raw=large)).problem == (413, "body_too_large")

    async def streamed() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * (limit // 10)

    answer = await here.http.post(
        path,
        content=streamed(),
        headers={"Authorization": f"Bearer {ada.token}", "Content-Type": "application/json"},
    )
    assert (answer.status_code, answer.json()["reason"]) == (413, "body_too_large")
    deep = b'{"credits": ' + b"[" * 40 + b"]" * 40 + b"}"
    assert (await ada.post(path, raw=deep)).problem == (400, "validation_failed")
    refused = await ada.post(path, raw=b"credits=1", headers={"Content-Type": "text/plain"})
    assert refused.problem == (415, "unsupported_media_type")


async def test_pages_of_other_origins_may_not_call(here: Town, store: Store) -> None:
    asking = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    refused = await here.nobody.call("OPTIONS", "/api/v1/credits/deduct", headers=asking)
    assert "access-control-allow-origin" not in refused.headers
    async with town(store, cors_origins=("https://app.example",)) as open_to:
        asking["Origin"] = "https://app.example"
        allowed = await open_to.nobody.call("OPTIONS", "/api/v1/credits/deduct", headers=asking)
        assert allowed.headers["access-control-allow-origin"] == "https://app.example"


async def test_a_fault_of_ours_is_a_problem_that_says_nothing_of_it(
    here: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await here.rich(5)

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("faregate.ledger.reading.account", broken)
    failed = await ada.get("/api/v1/credits/balance")
    assert failed.problem == (500, "internal")
    assert "secret" not in str(failed.json)


async def test_with_the_database_away_nothing_is_allowed(
    stack: Stack, store: Store, pool: asyncpg.Pool, database_url: str
) -> None:
    async with town(store) as here:
        ada = await here.rich(100)
        assert (await ada.post("/api/credits/check", {"credits": 1}))["sufficient"]
        await drop_database(stack.database, database_url)
        for method, path, body in (
            ("POST", "/api/credits/check", {"credits": 1}),
            ("POST", "/api/v1/credits/deduct", {"credits": 1, "reference": "r"}),
            ("POST", "/api/v1/holds", {"credits": 1, "reference": "r"}),
            ("POST", "/api/v1/holds/batch", {"operations": [{"op": "reserve", "credits": 1}]}),
            ("GET", "/api/v1/credits/balance", None),
            ("GET", "/api/v1/usage/current", None),
            ("POST", "/api/auth/login", {"email": ada.email, "password": PASSWORD}),
            ("POST", "/auth/register", {"email": "a@b.example", "password": PASSWORD}),
        ):
            refused = await ada.call(method, path, body)
            assert refused.problem == (503, "check_unavailable"), path
            assert "sufficient" not in str(refused.json)
            assert ("Idempotency-Key" in refused["help"]) == (method == "POST"), path
        again = await ada.post("/api/v1/holds", {"credits": 1, "reference": "r"}, key="k")
        assert again["help"] == "Try again with the same Idempotency-Key: it happens once."
        assert (await here.nobody.get("/health")).status == 200


async def test_a_call_that_takes_too_long_is_given_up(store: Store, database_url: str) -> None:
    async with town(store) as before:
        ada = await before.rich(5)
    async with town(store, timeout_s=0.5) as here:
        ada.http = here.http
        locker = await asyncpg.connect(database_url)
        try:
            async with locker.transaction():
                await locker.execute("LOCK TABLE accounts IN EXCLUSIVE MODE")
                late = await ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": "r"})
                assert late.problem == (503, "check_unavailable")
        finally:
            await locker.close()


async def test_with_the_queue_full_calls_are_turned_away_and_none_is_lost(store: Store) -> None:
    async with town(store, max_waiting=10) as here:
        ada = await here.rich(100)
        body = {"credits": 1, "reference": "r"}
        answers = await asyncio.gather(
            *(ada.post("/api/v1/credits/deduct", body) for _ in range(60))
        )
        counted = {s: sum(a.status == s for a in answers) for s in (200, 503)}
        assert counted[200] + counted[503] == 60
        assert counted[503] > 0
        assert await here.balance(ada) == 100 - counted[200]


async def test_a_command_that_cannot_be_written_costs_only_itself(
    here: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faregate.ledger.store import BadValue
    from faregate.ledger.store import Store as Plain

    ada, bad = await here.rich(100), "poison"
    take = Plain.take

    async def refusing(self: Any, submissions: Any, **more: Any) -> Any:
        if any(s.refs.correlation_id == bad for s in submissions):
            raise BadValue("one of them cannot be written")
        return await take(self, submissions, **more)

    monkeypatch.setattr(Plain, "take", refusing)
    references = [bad if n == 7 else f"r{n}" for n in range(20)]
    answers = await asyncio.gather(
        *(ada.post("/api/v1/credits/deduct", {"credits": 1, "reference": r}) for r in references)
    )
    assert [a.status for a in answers] == [400 if r == bad else 200 for r in references]
    assert await here.balance(ada) == 81


async def test_not_ready_says_which_server_is_away(store: Store) -> None:
    async def probe() -> dict[str, Any]:
        return {**await all_fine(), "kafka": {"ok": False, "error": "KafkaConnectionError"}}

    gateway = make_gateway(store, GatewaySettings(), probe)
    transport = httpx.ASGITransport(create_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://x.test") as http:
        not_ready = await Person(http).get("/ready")
        assert not_ready.problem == (503, "check_unavailable")
        assert "kafka" in not_ready["detail"]
        assert not_ready["help"] == "Try again in a moment."


@pytest.fixture
async def installation(stack: Stack, database_url: str) -> AsyncIterator[World]:
    async with world(stack.kafka, database_url) as made:
        yield made


async def test_what_is_done_over_http_reaches_kafka_like_everything_else(
    installation: World,
) -> None:
    async with town(installation.store) as here, installation.running("relay"):
        ada = await here.rich(100)
        charged = await ada.post("/api/v1/credits/deduct", {"credits": 9, "reference": "r"})
        hold = (await ada.post("/api/v1/holds", {"credits": 20}))["hold_id"]
        await ada.post(f"/api/v1/holds/{hold}/settle", {"credits": 5})
        await installation.settled()
        facts = await installation.announced("credits.ledger")
    account = f"user:{ada.user_id}"
    assert {key for _, key, _ in facts} == {account.encode()}
    assert [(e.type, e.data["amount"], e.data["held_delta"]) for _, _, e in facts] == [
        ("CreditsAdjustedV1", 100, 0),
        ("CreditsDeductedV1", -9, 0),
        ("CreditsHeldV1", 0, 20),
        ("CreditsDeductedV1", -5, -5),
        ("CreditsReleasedV1", 0, -15),
    ]
    assert facts[1][2].data["balance"] == charged["balance"] == 91


async def test_two_processes_are_one_gateway(installation: World) -> None:
    env = installation.environment(gateway_port="0", provisioning="auto")
    async with (
        faregate_processes(env, "gateway", "gateway#2") as procs,
        httpx.AsyncClient(timeout=30, trust_env=False) as http,
    ):
        first, second = (_address(procs.log(name)) for name in ("gateway", "gateway#2"))
        new = {"email": "root@example.com", "password": PASSWORD}
        made = await Person(http).post(f"{first}/auth/register", new)
        await installation.pool.execute("UPDATE users SET is_admin = true")
        signed_in = await Person(http).post(f"{second}/api/auth/login", new)
        root = Person(http, signed_in["access_token"], made["user_id"])
        call = {"model": "gpt-4o-mini", "input_tokens": 100, "output_tokens": 100}
        for increment, cost in ((1.0, 1), (0.01, 0.02), (0.1, 0.1)):
            path = "/admin/settings/credit-increment"
            assert (await root.put(first + path, {"increment": increment})).status == 200
            found = await root.post(f"{second}/api/v1/credits/calculate", call)
            assert (found["credits"], found["increment"]) == (cost, increment)
            assert (await root.get(second + path))["increment"] == increment
        spend = {"credits": 1, "reference": "r"}
        answers = [
            await root.post(f"{place}/api/v1/credits/deduct", spend, key="k")
            for place in (first, second)
        ]
        assert answers[0].json == answers[1].json
        refused = await root.post(f"{second}/api/v1/credits/deduct", {"credits": 2}, key="k")
        assert refused.problem == (409, "idempotency_conflict")
        assert (await root.get(f"{second}/api/v1/credits/balance"))["credits_remaining"] == 4


def _address(log: str) -> str:
    (line,) = [x for x in log.splitlines() if "gateway_started" in x]
    return f"http://127.0.0.1:{json.loads(line)['port']}"


async def test_the_real_process_serves_and_the_first_admin_comes_from_the_command_line(
    installation: World,
) -> None:
    env = environment(
        installation.kafka,
        installation.database,
        installation.prefix,
        log_format="json",
        gateway_port="0",
    )
    made = await asyncio.to_thread(_users, env, "create", "root@example.com", "--admin")
    assert (made["email"], made["is_admin"]) == ("root@example.com", True)
    again = await asyncio.to_thread(_users, env, "create", "ROOT@example.com")
    assert again["error"] == "email_taken"
    async with faregate_processes(env, "gateway", "relay") as procs:
        async with httpx.AsyncClient(base_url=_address(procs.log("gateway"))) as http:
            ready = await Person(http).get("/ready")
            assert (ready.status, ready["checks"]["lag"]["ok"]) == (200, True), ready.json
            signed_in = await Person(http).post(
                "/api/auth/login", {"username": "root@example.com", "password": PASSWORD}
            )
            root = Person(http, signed_in["access_token"])
            target = {"subject_type": "org", "subject_id": "acme", "balance": 12.5}
            done = await root.post("/v1/admin/credits/set", target)
            assert (done.status, done["balance"]) == (200, 12.5)
        assert PASSWORD not in procs.log("gateway")
        assert str(root.token) not in procs.log("gateway")


def _users(env: dict[str, str], *words: str) -> Any:
    command = [sys.executable, "-m", "faregate.runtime", "users", *words, "--password-stdin"]
    done = subprocess.run(
        [*command, "--json"],
        input=f"{PASSWORD}\n",
        env={**_plain_environment(), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return json.loads(done.stdout)


def _plain_environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if not k.startswith("FAREGATE_")}
