"""Whoever registers becomes a customer in Lago; registering never waits for it or fails by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from tests.helpers.lago import wallet_transaction
from tests.helpers.world import until
from tests.integration.gateway.lago_world import Office, office
from tests.integration.gateway.provider import Provider, provider, says

from faregate.gateway.identity.keycloak import signature_of
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack

API_KEY = "lago-api-key-canary"
MADE = says(200, {"customer": {"lago_id": "x"}})


@pytest.fixture
async def api() -> AsyncIterator[Provider]:
    """Lago's API, as far as it is called."""
    async with provider() as found:
        found.answer = MADE
        yield found


@pytest.fixture
async def lago(pool: asyncpg.Pool, api: Provider) -> AsyncIterator[Office]:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with office(store, **told(api)) as found:
        yield found


def told(api: Provider) -> dict[str, Any]:
    url = api.url.removesuffix("/v1")
    return {"api_url": url, "api_key": SecretStr(API_KEY), "api_timeout_s": 1.0, "retry_s": 0.1}


async def statuses(lago: Office) -> dict[str, str]:
    rows = await lago.store.pool.fetch("SELECT subject, status FROM lago_customers")
    return {row["subject"]: row["status"] for row in rows}


async def all_are(lago: Office, status: str) -> None:
    async def done() -> bool:
        return set((await statuses(lago)).values()) == {status}

    await until(done, 15, f"customers to be {status}")


async def test_who_registers_becomes_a_customer_under_the_name_that_webhooks_use(
    lago: Office, api: Provider
) -> None:
    ada = await lago.town.person(name="Ada", organization="Acme")
    await all_are(lago, "made")
    assert [(c.method, c.path) for c in api.calls] == [("POST", "/api/v1/customers")] * 2
    assert {c.headers["authorization"] for c in api.calls} == {f"Bearer {API_KEY}"}
    sent = {c.body["customer"]["external_id"]: c.body["customer"] for c in api.calls}
    (org,) = [name for name in sent if name.startswith("org:")]
    assert sent == {
        f"user:{ada.user_id}": {
            "external_id": f"user:{ada.user_id}",
            "email": ada.email,
            "name": "Ada",
        },
        org: {"external_id": org, "name": "Acme"},
    }
    later = await ada.post("/api/v1/org", {"name": "Later"})
    await all_are(lago, "made")
    assert f"org:{later['org_id']}" in await statuses(lago)
    for customer in sent:
        assert await lago.did(wallet_transaction(customer, "1.0")) == ("applied", None)
        assert (await lago.account(customer))[1] == 2


async def test_registering_does_not_wait_for_lago_and_does_not_fail_by_it(
    lago: Office, api: Provider
) -> None:
    api.answer = says(200, {}, after_s=30)
    began = monotonic()
    ada = await lago.town.person()
    assert monotonic() - began < 15
    await lago.town.person()
    assert ada.token
    assert set((await statuses(lago)).values()) == {"wanted"}
    api.answer = MADE
    await all_are(lago, "made")


@pytest.mark.parametrize("status", [301, 401, 429, 500])
async def test_what_may_be_mended_is_sent_again_until_it_is(
    lago: Office, api: Provider, status: int
) -> None:
    api.answer = says(status, {"error": "no"}, location="http://127.0.0.1:1/")
    await lago.town.person()

    async def twice() -> bool:
        return len(api.calls) >= 2

    await until(twice, 10, "a second try")
    assert set((await statuses(lago)).values()) == {"wanted"}
    api.answer = MADE
    await all_are(lago, "made")
    assert len({c.body["customer"]["external_id"] for c in api.calls}) == 1


async def test_what_lago_refuses_is_not_sent_for_ever(lago: Office, api: Provider) -> None:
    api.answer = says(422, {"error_details": {"email": ["invalid_email_format"]}})
    await lago.town.person()
    await all_are(lago, "refused")
    await asyncio.sleep(0.3)
    assert len(api.calls) == 1


async def test_what_a_process_left_behind_is_sent_by_the_next_and_once_by_two(
    pool: asyncpg.Pool, api: Provider
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with office(store, api_key=SecretStr(API_KEY), api_url="http://127.0.0.1:1") as lago:
        for _ in range(3):
            await lago.town.person()
    await pool.execute("UPDATE lago_customers SET next_try_at = now()")
    more = {**told(api), "retry_s": 10.0}
    async with office(store, **more) as one, office(store, **more) as two:
        for each in (one, two):
            each.town.gateway.lago.customers.wake()
        await all_are(one, "made")
    ids = [c.body["customer"]["external_id"] for c in api.calls]
    assert len(ids) == len(set(ids)) == 3


async def test_without_an_api_key_nothing_is_kept_or_sent(
    pool: asyncpg.Pool, api: Provider
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with office(store, **{**told(api), "api_key": None}) as lago:
        await lago.town.person()
        lago.town.gateway.lago.customers.wake()
        assert await statuses(lago) == {}
    assert api.calls == []


async def test_the_key_and_the_address_are_in_no_log(
    lago: Office, api: Provider, capfd: pytest.CaptureFixture[str]
) -> None:
    api.answer = says(401, {"error": API_KEY})
    ada = await lago.town.person()

    async def tried() -> bool:
        return len(api.calls) >= 2

    await until(tried, 10, "a second try")
    said = "".join(capfd.readouterr())
    assert "lago_customer" in said
    assert API_KEY not in said
    assert ada.email not in said
    assert ada.user_id not in said


async def test_a_database_that_is_away_for_a_moment_loses_no_customer(
    lago: Office, api: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    customers = lago.town.gateway.lago.customers
    real = customers._make
    failures = iter([ConnectionRefusedError(), httpx.PoolTimeout("x")])

    async def broken(subject: str) -> None:
        for error in failures:
            raise error
        await real(subject)

    monkeypatch.setattr(customers, "_make", broken)
    await lago.town.person()
    await all_are(lago, "made")
    assert len(api.calls) == 1


async def test_a_user_whom_an_identity_provider_tells_of_becomes_one_as_well(
    pool: asyncpg.Pool, api: Provider
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    secret, user_id = "the secret of the two", str(uuid4())
    event = {"type": "REGISTER", "time": 1_770_000_000_000, "userId": user_id}
    async with office(store, identity_webhook_secret=secret, **told(api)) as lago:
        raw = json.dumps(event).encode()
        signed = {"X-Keycloak-Signature": signature_of(secret, raw)}
        for _ in range(2):
            reply = await lago.nobody.post("/webhooks/identity", raw=raw, headers=signed)
            assert reply.status == 200, reply.json
        await all_are(lago, "made")
    assert [c.body["customer"]["external_id"] for c in api.calls] == [f"user:{user_id}"]
