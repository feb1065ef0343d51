"""Behind a real Keycloak: its tokens, its keys when they change, its users as it tells of them."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from tests.helpers.keycloak import REALM, Keycloak, keycloak
from tests.integration.gateway.calling import PASSWORD, Person, Town, all_fine
from tests.integration.keycloak.people import (
    change_address,
    mailbox,
    register_by_form,
    sign_in,
    verify_address,
)

from faregate.gateway.identity.keycloak import signature_of
from faregate.gateway.server import GatewayProcess, make_gateway
from faregate.gateway.settings import GatewaySettings
from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = [pytest.mark.stack, pytest.mark.keycloak, pytest.mark.timeout(600)]

SECRET = "the secret of the two"
BALANCE = "/api/v1/credits/balance"
KEYS_S = 3.0
EVENTS = [
    "access.REGISTER",
    "access.VERIFY_EMAIL",
    "access.UPDATE_EMAIL",
    "access.UPDATE_PROFILE",
    "access.DELETE_ACCOUNT",
    "admin.USER-.*",
]


@pytest.fixture(scope="module")
def issuer() -> Iterator[Keycloak]:
    with keycloak(Path(__file__).with_name("realm.json")) as running:
        yield running


@pytest.fixture
async def here(pool: asyncpg.Pool, issuer: Keycloak) -> AsyncIterator[Town]:
    """A gateway that listens; users get 5 credits."""
    store = await open_store(pool, Rules(provisioning="auto"))
    settings = GatewaySettings(
        port=0,
        oidc_issuer=issuer.issuer,
        oidc_audience="faregate",
        oidc_keys_s=KEYS_S,
        identity_webhook_secret=SecretStr(SECRET),
    )
    gateway = make_gateway(store, settings, all_fine)
    process = GatewayProcess(gateway)
    running = asyncio.create_task(process.run())
    url = f"http://127.0.0.1:{process.port}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            yield Town(gateway, http)
    finally:
        process.stop()
        await running


@asynccontextmanager
async def told_by(issuer: Keycloak, here: Town) -> AsyncIterator[None]:
    """Let Keycloak post what happens to its users, as its operator sets it up."""
    webhook = {
        "enabled": True,
        "url": str(here.http.base_url.join("/webhooks/identity")),
        "secret": SECRET,
        "eventTypes": EVENTS,
    }
    place = f"/realms/{REALM}/webhooks"
    made = issuer.call("POST", place, webhook).headers["location"].rpartition("/")[2]
    try:
        yield
    finally:
        issuer.call("DELETE", f"{place}/{made}")


async def until(
    check: Callable[[], Awaitable[Any]], what: str, issuer: Keycloak, seconds: float = 20
) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := await check():
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {what} after {seconds} s:\n{issuer.log.read_text()[-3000:]}")


def part(token: str, index: int) -> dict[str, Any]:
    text = token.split(".")[index]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


async def status(here: Town, token: str) -> int:
    return (await Person(here.http, token).get(BALANCE)).status


async def grants(here: Town, user_id: str) -> list[tuple[float, str]]:
    """What somebody was given, and by which layer of provisioning."""
    rows = await here.store.pool.fetch(
        """SELECT g.amount, g.layer FROM grants g JOIN subjects s USING (account_id)
        WHERE s.subject = $1 ORDER BY g.id""",
        f"user:{user_id}",
    )
    return [(row["amount"] / 1_000_000, row["layer"]) for row in rows]


async def known(here: Town, user_id: str) -> str | None:
    user = await here.gateway.users.by_id(user_id)
    return None if user is None else f"{user.name} <{user.email}>"


async def org_that_invites(here: Town, email: str) -> str:
    org = str(uuid4())
    await acts.set_member(
        here.store, f"org:{org}", "user:boss", "admin", actor="boss", key=f"made {org}"
    )
    await here.gateway.users.invite(org, email, "member", "boss")
    return org


async def test_who_signs_in_there_is_let_in_and_provisioned_with_the_first_call(
    issuer: Keycloak, here: Town
) -> None:
    token = sign_in(issuer)["access_token"]
    seen = await Person(here.http, token).get(BALANCE)
    assert (seen.status, seen["credits_remaining"]) == (200, 5)
    assert seen["user_id"] == part(token, 1)["sub"]
    for path in ("/auth/register", "/api/auth/login"):
        off = await here.nobody.post(path, {"email": "a@b.example", "password": PASSWORD})
        assert off.status == 404


async def test_tokens_for_others_of_others_and_of_other_kinds_are_refused(
    issuer: Keycloak, here: Town
) -> None:
    good = sign_in(issuer)
    tokens = {
        "for another audience": sign_in(issuer, client_id="another-app")["access_token"],
        "of another realm": issuer.root(),
        "an ID token for the same audience": good["id_token"],
        "a refresh token": good["refresh_token"],
        "with another subject": _with_subject(good["access_token"], "somebody"),
    }
    assert "faregate" in part(good["id_token"], 1)["aud"]
    for name, token in tokens.items():
        refused = await Person(here.http, token).get(BALANCE)
        assert refused.problem == (401, "unauthenticated"), name
    assert await status(here, good["access_token"]) == 200


def _with_subject(token: str, subject: str) -> str:
    head, body, signature = token.split(".")
    changed = json.dumps({**part(token, 1), "sub": subject}).encode()
    body = base64.urlsafe_b64encode(changed).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


async def test_only_who_has_the_role_gets_the_scope_of_admins(issuer: Keycloak, here: Town) -> None:
    scope = {
        "name": "faregate:admin",
        "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": "true"},
    }
    made = issuer.admin("POST", "/client-scopes", scope).headers["location"].rpartition("/")[2]
    role = issuer.admin("GET", "/roles/credits-admin").json()
    issuer.admin("POST", f"/client-scopes/{made}/scope-mappings/realm", [role])
    (app,) = issuer.admin("GET", "/clients", params={"clientId": "app"}).json()
    issuer.admin("PUT", f"/clients/{app['id']}/optional-client-scopes/{made}")
    asked = "openid faregate:admin"
    boss = sign_in(issuer, "boss", scope=asked)["access_token"]
    assert (await Person(here.http, boss).get("/v1/admin/audit")).status == 200
    ada = sign_in(issuer, scope=asked)["access_token"]
    refused = await Person(here.http, ada).get("/v1/admin/audit")
    assert refused.problem == (403, "forbidden")
    assert await status(here, ada) == 200


async def test_keys_change_while_it_runs_and_withdrawn_ones_are_refused_in_time(
    issuer: Keycloak, here: Town
) -> None:
    old = sign_in(issuer)["access_token"]
    assert await status(here, old) == 200
    realm_id = issuer.admin("GET", "").json()["id"]
    kind = "org.keycloak.keys.KeyProvider"
    components = issuer.admin("GET", "/components", params={"type": kind}).json()
    (first,) = [c for c in components if c["providerId"] == "rsa-generated"]
    second = {
        "name": "the next one",
        "providerId": "rsa-generated",
        "providerType": kind,
        "parentId": realm_id,
        "config": {"priority": ["200"], "keySize": ["2048"], "algorithm": ["RS256"]},
    }
    made = issuer.admin("POST", "/components", second).headers["location"].rpartition("/")[2]
    place = f"/components/{first['id']}"
    try:
        new = sign_in(issuer)["access_token"]
        assert part(new, 0)["kid"] != part(old, 0)["kid"]

        async def accepted() -> bool:
            return await status(here, new) == 200

        await until(accepted, "accepted", issuer, 6)
        assert await status(here, old) == 200, "the old key still verifies"

        first["config"]["enabled"] = ["false"]
        issuer.admin("PUT", place, first)
        began = time.monotonic()

        async def refused() -> bool:
            return await status(here, old) == 401

        await until(refused, "refused", issuer, KEYS_S + 2)
        assert time.monotonic() - began <= KEYS_S + 1
        assert await status(here, new) == 200
    finally:
        first["config"]["enabled"] = ["true"]
        issuer.admin("PUT", place, first)
        issuer.admin("DELETE", f"/components/{made}")


async def test_a_user_that_is_made_there_is_provisioned_here_before_they_come(
    issuer: Keycloak, here: Town
) -> None:
    org = await org_that_invites(here, "bob@example.com")
    async with told_by(issuer, here):
        bob = issuer.add_user("bob", PASSWORD, email="bob@example.com", emailVerified=True)

        async def invited() -> bool:
            return org in await here.gateway.memberships.of(bob)

        await until(invited, "invited", issuer)
        assert await grants(here, bob) == [(5.0, "eager")]
        assert await known(here, bob) == "Bob Test <bob@example.com>"
        token = sign_in(issuer, "bob")["access_token"]
        mine = Person(here.http, token)
        assert (await mine.get(f"/api/v1/org/{org}"))["role"] == "member"
        assert (await mine.get(BALANCE))["credits_remaining"] == 5

        issuer.admin("DELETE", f"/users/{bob}")

        async def forgotten() -> bool:
            return await known(here, bob) is None

        await until(forgotten, "forgotten", issuer)
    assert await grants(here, bob) == [(5.0, "eager")]


async def test_who_registers_there_is_provisioned_and_known_once_verified(
    issuer: Keycloak, here: Town
) -> None:
    org = await org_that_invites(here, "cyd@example.com")
    async with told_by(issuer, here):
        cyd = register_by_form(issuer, "cyd@example.com")

        async def welcomed() -> list[Any]:
            return await grants(here, cyd)

        assert await until(welcomed, "welcomed", issuer) == [(5.0, "eager")]
        assert await known(here, cyd) == "Cyd Test <None>", "nobody has proven the address"
        assert await here.gateway.memberships.of(cyd) == {}
        async with mailbox() as (port, mails):
            await asyncio.to_thread(verify_address, issuer, cyd, port, mails)

        async def joined() -> dict[str, str]:
            return dict(await here.gateway.memberships.of(cyd))

        assert await until(joined, "a member", issuer) == {org: "member"}
        assert await known(here, cyd) == "Cyd Test <cyd@example.com>"
        change_address(issuer, "cyd", "eve@example.com")

        async def forgotten() -> bool:
            return await known(here, cyd) == "Cyd Test <None>"

        await until(forgotten, "forgotten", issuer)
    assert await grants(here, cyd) == [(5.0, "eager")]


async def test_events_in_keycloaks_own_form_say_the_same(issuer: Keycloak, here: Town) -> None:
    dan = register_by_form(issuer, "dan@example.com")
    user = issuer.admin("GET", f"/users/{dan}").json()
    issuer.admin("PUT", f"/users/{dan}", {**user, "emailVerified": True})
    eli = issuer.add_user("eli", PASSWORD, email="eli@example.com", emailVerified=True)
    by_users = issuer.admin("GET", "/events", params={"user": dan}).json()
    by_admins = issuer.admin("GET", "/admin-events", params={"resourceTypes": "USER"}).json()
    ours = [e for e in by_admins if e["resourcePath"] in {f"users/{dan}", f"users/{eli}"}]
    assert {"REGISTER"} <= {e["type"] for e in by_users}
    assert [e["operationType"] for e in ours] == ["CREATE", "UPDATE"]
    for event in [*ours, *by_users, *ours]:
        raw = json.dumps(event).encode()
        signed = {"X-Keycloak-Signature": signature_of(SECRET, raw)}
        assert (await here.nobody.post("/webhooks/identity", raw=raw, headers=signed)).status == 200
    for user_id, shown in (
        (dan, "Dan Test <dan@example.com>"),
        (eli, "Eli Test <eli@example.com>"),
    ):
        assert await grants(here, user_id) == [(5.0, "eager")]
        assert await known(here, user_id) == shown
