"""Registering, signing in, inviting; and tokens of an outside issuer, with real keys over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey
from tests.integration.gateway.calling import PASSWORD, Person, Town, town

from faregate.gateway.identity.keycloak import UserEvent
from faregate.ledger.core import Rules
from faregate.ledger.store import Store, open_store

pytestmark = pytest.mark.stack

KEY = RSAKey.generate_key(2048, private=True)


async def test_somebody_registers_signs_in_by_either_name_and_has_an_account(
    welcoming: Town,
) -> None:
    made = await welcoming.nobody.post(
        "/auth/register", {"email": "Ada@Example.com", "password": PASSWORD, "name": "Ada"}
    )
    assert made.status == 201
    assert (made["org_id"], made["credits_remaining"]) == (None, 5)
    for body in ({"username": "ada@example.com"}, {"email": "ADA@example.com"}):
        signed_in = await welcoming.nobody.post("/api/auth/login", {**body, "password": PASSWORD})
        assert (signed_in.status, signed_in["token_type"]) == (200, "bearer")
        assert signed_in["expires_in"] == 3600
        ada = Person(welcoming.http, signed_in["access_token"])
        seen = await ada.get("/api/v1/credits/balance")
        assert (seen["user_id"], seen["credits_remaining"], seen["tier"]) == (
            made["user_id"],
            5,
            "trial",
        )


async def test_who_registers_with_an_organization_is_its_admin(welcoming: Town) -> None:
    made = await welcoming.nobody.post(
        "/auth/register",
        {"email": "boss@example.com", "password": PASSWORD, "organization": "Acme"},
    )
    boss = Person(welcoming.http, made["access_token"])
    org = await boss.get(f"/api/v1/org/{made['org_id']}")
    assert (org["name"], org["role"], org["spending_policy"]) == ("Acme", "admin", "allocated")
    assert org["members"] == [{"user_id": made["user_id"], "role": "admin"}]


async def test_registering_does_not_fail_when_the_account_cannot_be_made_now(
    welcoming: Town, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faregate.gateway.resources.auth.STEP_S", 0.2)
    locker = await asyncpg.connect(database_url)
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE accounts IN EXCLUSIVE MODE")
            made = await welcoming.nobody.post(
                "/auth/register", {"email": "late@example.com", "password": PASSWORD}
            )
            assert (made.status, made["credits_remaining"]) == (201, None)
    finally:
        await locker.close()
    late = Person(welcoming.http, made["access_token"])
    assert await welcoming.balance(late) == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"email": "not an address", "password": PASSWORD}, "email"),
        ({"email": "a@b\u200b.example", "password": PASSWORD}, "email"),
        ({"email": 5, "password": PASSWORD}, "email"),
        ({"password": PASSWORD}, "email"),
        ({"email": "a@b.example", "password": "short"}, "password"),
        ({"email": "a@b.example", "password": "x" * 1025}, "password"),
        ({"email": "a@b.example"}, "password"),
        ({"email": "a@b.example", "password": PASSWORD, "name": "\x00"}, "name"),
    ],
    ids=str,
)
async def test_a_registration_that_is_not_valid_names_the_field_and_repeats_no_value(
    here: Town, body: dict[str, Any], field: str
) -> None:
    refused = await here.nobody.post("/auth/register", body)
    assert refused.problem == (400, "validation_failed")
    assert refused["errors"][0]["field"] == field
    assert "x" * 1025 not in str(refused.json)


async def test_a_wrong_password_and_an_unknown_user_are_the_same_answer(here: Town) -> None:
    ada = await here.person()
    took, said = [], []
    for email in (ada.email, "nobody@example.com"):
        quickest = math.inf
        for _ in range(3):
            began = time.perf_counter()
            refused = await here.nobody.post(
                "/api/auth/login", {"email": email, "password": "wrong password"}
            )
            assert refused.problem == (401, "sign_in_failed")
            quickest = min(quickest, time.perf_counter() - began)
        took.append(quickest)
        said.append(refused.json)
    assert said[0] == said[1]
    assert max(took) / min(took) < 4, "an unknown user must not be told by the time it takes"
    without = await here.nobody.post("/api/auth/login", {"password": PASSWORD})
    assert without.problem == (400, "validation_failed")


async def test_after_ten_wrong_passwords_tries_must_wait(store: Store) -> None:
    async with town(store) as here:
        ada = await here.person()
        wrong = {"email": ada.email, "password": "wrong password"}
        answers = [await here.nobody.post("/api/auth/login", wrong) for _ in range(11)]
        assert [a.status for a in answers] == [401] * 10 + [429]
        assert answers[-1].problem == (429, "rate_limited")
        assert int(answers[-1].headers["retry-after"]) > 0
        right = {"email": ada.email, "password": PASSWORD}
        assert (await here.nobody.post("/api/auth/login", right)).status == 429
        bob = await here.person()
        right = {"email": bob.email, "password": PASSWORD}
        assert (await here.nobody.post("/api/auth/login", right)).status == 200


async def test_who_is_invited_before_they_register_is_a_member_then(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss, 100)
    waiting = await boss.post(
        f"/api/v1/org/{org}/invite", {"email": "New@Example.com", "role": "admin"}
    )
    assert (waiting.status, waiting["status"], waiting["user_id"]) == (201, "invited", None)
    made = await here.nobody.post(
        "/auth/register", {"email": "new@example.com", "password": PASSWORD}
    )
    assert made["org_id"] == org
    new = Person(here.http, made["access_token"], made["user_id"])
    assert (await new.get(f"/api/v1/org/{org}"))["role"] == "admin"
    entries = await here.store.pool.fetch("SELECT action, actor FROM audit ORDER BY id")
    assert ("set_member", boss.user_id) in [tuple(e) for e in entries[2:]]


async def test_admins_do_not_demote_themselves(here: Town) -> None:
    boss = await here.person()
    org = await here.org(boss)
    refused = await boss.post(f"/api/v1/org/{org}/invite", {"email": boss.email})
    assert refused.problem == (409, "conflict")


async def test_tokens_are_good_in_every_process_and_passwords_are_kept_as_hashes(
    here: Town,
) -> None:
    ada = await here.person()
    async with town(here.store) as other:
        there = Person(other.http, ada.token)
        assert (await there.get("/api/v1/credits/balance")).status == 200
    stored = await here.store.pool.fetchval("SELECT password_hash FROM users")
    assert stored.startswith("$argon2id$")


@asynccontextmanager
async def issuer() -> AsyncIterator[tuple[str, list[str]]]:
    """An OpenID Connect issuer over HTTP: discovery and keys; gives its URL and what was asked."""
    asked: list[str] = []
    url = ""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        asked.append(path)
        keys = {"keys": [{**KEY.as_dict(private=False), "kid": "k1", "use": "sig"}]}
        found = {"issuer": url, "jwks_uri": f"{url}/keys"}
        body = json.dumps(keys if path == "/keys" else found).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield url, asked


def outside(store: Store, url: str) -> AbstractAsyncContextManager[Town]:
    """Run a gateway whose users sign in with that issuer."""
    return town(store, oidc_issuer=url, oidc_audience="faregate")


def issued(url: str, **more: Any) -> str:
    now = int(time.time())
    claims = {"iss": url, "aud": "faregate", "sub": "kc-ada", "iat": now, "exp": now + 60, **more}
    return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, KEY, algorithms=["RS256"])


async def test_with_an_outside_issuer_its_tokens_are_taken_and_no_password_is(
    pool: asyncpg.Pool,
) -> None:
    store = await open_store(pool, Rules(provisioning="auto"))
    async with issuer() as (url, asked), outside(store, url) as here:
        ada = Person(here.http, issued(url))
        seen = await ada.get("/api/v1/credits/balance")
        assert (seen["user_id"], seen["credits_remaining"]) == ("kc-ada", 5)
        await ada.get("/api/v1/credits/balance")
        assert asked == ["/.well-known/openid-configuration", "/keys"]
        for path in ("/auth/register", "/api/auth/login"):
            off = await here.nobody.post(path, {"email": "a@b.example", "password": PASSWORD})
            assert off.problem == (404, "not_found")
        other = Person(here.http, issued("http://127.0.0.1:1"))
        assert (await other.get("/api/v1/credits/balance")).problem == (401, "unauthenticated")
        refused = await ada.get("/v1/admin/audit")
        assert refused.problem == (403, "forbidden")
        root = Person(here.http, issued(url, sub="root", scope="faregate:admin"))
        assert (await root.get("/v1/admin/audit")).status == 200
        only_reads = Person(here.http, issued(url, scope="faregate:read"))
        refused = await only_reads.post("/api/v1/credits/deduct", {"credits": 1})
        assert refused.problem == (403, "forbidden")


@asynccontextmanager
async def inviting(pool: asyncpg.Pool) -> AsyncIterator[tuple[Town, str, str]]:
    """Give a gateway with an outside issuer, the issuer's URL, and an org that invites new@."""
    store = await open_store(pool, Rules(provisioning="manual"))
    async with issuer() as (url, _), outside(store, url) as here:
        boss = Person(here.http, issued(url, sub="boss"), "boss")
        org = await here.org(boss)
        await boss.post(f"/api/v1/org/{org}/invite", {"email": "new@example.com"})
        yield here, url, org


async def test_an_invited_address_of_an_outside_issuer_counts_once_it_is_verified(
    pool: asyncpg.Pool,
) -> None:
    async with inviting(pool) as (here, url, org):
        unverified = issued(url, sub="eve", email="new@example.com")
        assert (await Person(here.http, unverified).get(f"/api/v1/org/{org}")).status == 403
        verified = issued(url, sub="new", email="new@example.com", email_verified=True)
        assert (await Person(here.http, verified).get(f"/api/v1/org/{org}")).status == 200


async def test_an_address_that_was_given_up_after_the_token_was_issued_lets_nobody_in(
    pool: asyncpg.Pool,
) -> None:
    async with inviting(pool) as (here, url, org):
        now = datetime.now(UTC)
        await here.gateway.outside.learn(
            UserEvent("new", now - timedelta(seconds=9), verified=False)
        )
        theirs = {"sub": "new", "email": "new@example.com", "email_verified": True}
        before = issued(url, **theirs, iat=int(now.timestamp()) - 30)
        assert (await Person(here.http, before).get(f"/api/v1/org/{org}")).status == 403
        since = issued(url, **theirs)
        assert (await Person(here.http, since).get(f"/api/v1/org/{org}")).status == 200


async def test_without_the_issuers_keys_nobody_is_let_in(store: Store) -> None:
    url = "http://127.0.0.1:9"
    async with outside(store, url) as here:
        refused = await Person(here.http, issued(url)).get("/api/v1/credits/balance")
        assert refused.problem == (503, "check_unavailable")
