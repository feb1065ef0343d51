"""Events of an identity provider: signed, repeated, late, of other realms; and what they let in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from pydantic import SecretStr
from tests.integration.gateway.calling import PASSWORD, Person, Reply, Town, town

from faregate.gateway.identity.keycloak import signature_of
from faregate.ledger import acts
from faregate.ledger.core import Rules, Welcome
from faregate.ledger.store import Store, open_store

pytestmark = pytest.mark.stack

SECRET = "the secret of the two"
PATH = "/webhooks/identity"
T0 = 1_770_000_000_000


def set_up(store: Store, **settings: Any) -> AbstractAsyncContextManager[Town]:
    issuer = "https://id.example.com/realms/main"
    named = {"oidc_issuer": issuer, "oidc_audience": "faregate", **settings}
    return town(store, identity_webhook_secret=SecretStr(SECRET), **named)


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Town]:
    """Users get 5 credits, 2 more once their address is verified."""
    welcome = Welcome(milestones=(("email_verified", 2_000_000),))
    store = await open_store(
        pool, Rules(provisioning="auto", welcome_micro=7_000_000, welcome=welcome)
    )
    async with set_up(store) as found:
        yield found


async def tell(here: Town, event: Any, secret: str = SECRET) -> Reply:
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    signed = {"X-Keycloak-Signature": signature_of(secret, raw)}
    return await here.nobody.post(PATH, raw=raw, headers=signed)


def registered(user_id: str, at: int = T0, **more: Any) -> dict[str, Any]:
    return {
        "type": "REGISTER",
        "time": at,
        "realmId": "main",
        "userId": user_id,
        "details": {"username": "ada", "email": "ada@example.com"},
        **more,
    }


def verified(user_id: str, at: int = T0 + 1, email: str = "ada@example.com") -> dict[str, Any]:
    return {"type": "VERIFY_EMAIL", "time": at, "userId": user_id, "details": {"email": email}}


def gave_up(user_id: str, at: int | None) -> dict[str, Any]:
    return {**verified(user_id), "type": "UPDATE_EMAIL", "time": at}


def by_admin(operation: str, user_id: str, at: int = T0, **user: Any) -> dict[str, Any]:
    return {
        "operationType": operation,
        "resourceType": "USER",
        "resourcePath": f"users/{user_id}",
        "time": at,
        "representation": json.dumps(user) if user else None,
    }


async def told(here: Town, *events: Mapping[str, Any]) -> list[str]:
    found = []
    for event in events:
        reply = await tell(here, event)
        assert reply.status == 200, reply.json
        found.append(reply["status"])
    return found


async def entries(here: Town, user_id: str) -> list[tuple[str, int]]:
    rows = await here.store.pool.fetch(
        """SELECT e.kind, e.amount FROM entries e JOIN subjects s USING (account_id)
        WHERE s.subject = $1 ORDER BY e.sequence""",
        f"user:{user_id}",
    )
    return [(row["kind"], row["amount"] // 1_000_000) for row in rows]


async def known(here: Town) -> dict[str, str]:
    rows = await here.store.pool.fetch("SELECT user_id, email FROM users WHERE email IS NOT NULL")
    return {row["user_id"]: row["email"] for row in rows}


async def org_that_invites(here: Town, email: str = "ada@example.com") -> str:
    """An org that waits for an address, as its admin has left it."""
    org_id = str(uuid4())
    await acts.set_member(
        here.store, f"org:{org_id}", "user:boss", "admin", actor="boss", key=f"made {org_id}"
    )
    await here.gateway.users.invite(org_id, email, "member", "boss")
    return org_id


async def orgs(here: Town, user_id: str) -> set[str]:
    return set(await here.gateway.memberships.of(user_id))


async def test_who_registers_is_welcomed_once_however_often_it_is_told(here: Town) -> None:
    event = registered("ada")
    assert await told(here, event, event) == ["applied"] * 2
    replies = await asyncio.gather(*(tell(here, event) for _ in range(8)))
    assert {reply.status for reply in replies} == {200}
    await told(here, {**event, "time": T0 + 5, "id": str(uuid4())})
    await told(here, by_admin("CREATE", "ada", username="ada"))
    assert await entries(here, "ada") == [("purchase", 5)]
    announced = await here.store.pool.fetchval("SELECT count(*) FROM outbox")
    assert announced == 1, "the relay publishes the grant as it does that of any registration"


async def test_one_event_in_two_processes_at_once_is_one_user(here: Town) -> None:
    async with set_up(here.store) as there:
        made = by_admin("CREATE", "ada", email="ada@example.com", emailVerified=True)
        replies = await asyncio.gather(*(tell(one, made) for one in (here, there) * 5))
    assert {reply.status for reply in replies} == {200}
    assert sorted(await entries(here, "ada")) == [("bonus", 2), ("purchase", 5)]
    assert await known(here) == {"ada": "ada@example.com"}


async def test_a_verified_address_is_known_and_what_waited_for_it_comes(here: Town) -> None:
    org = await org_that_invites(here)
    await told(here, registered("ada"))
    assert (await known(here), await orgs(here, "ada")) == ({}, set())
    event = verified("ada")
    assert await told(here, event, event) == ["applied"] * 2
    assert await known(here) == {"ada": "ada@example.com"}
    assert await orgs(here, "ada") == {org}
    assert await entries(here, "ada") == [("purchase", 5), ("bonus", 2)]


async def test_a_name_is_known_at_once_and_the_address_once_it_is_verified(here: Town) -> None:
    details = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Byron"}
    await told(here, registered("ada", details=details))
    user = await here.gateway.users.by_id("ada")
    assert user is not None
    assert (user.name, user.email) == ("Ada Byron", None)
    await told(here, verified("ada"))
    user = await here.gateway.users.by_email("ADA@example.com")
    assert user is not None
    assert (user.user_id, user.name) == ("ada", "Ada Byron")
    newer = {"email": "ada@example.com", "emailVerified": True, "lastName": "Lovelace"}
    await told(here, by_admin("UPDATE", "ada", T0 + 9, firstName="Ada", **newer))
    await told(here, registered("ada", details=details))
    assert (user := await here.gateway.users.by_id("ada")) is not None
    assert user.name == "Ada Lovelace"
    await told(here, by_admin("DELETE", "ada"))
    assert await here.gateway.users.by_id("ada") is None


async def test_an_address_that_nobody_has_proven_lets_nobody_in(here: Town) -> None:
    org = await org_that_invites(here, "boss@example.com")
    details = {"username": "eve", "email": "boss@example.com"}
    claims: dict[str, Any] = {"email": "boss@example.com", "emailVerified": False}
    await told(
        here,
        registered("eve", details=details),
        by_admin("CREATE", "eve", **claims),
        by_admin("UPDATE", "eve", T0 + 1, **claims),
        by_admin("UPDATE", "eve", T0 + 2, email="boss@example.com"),
        by_admin("UPDATE", "eve", T0 + 3, email="boss@example.com", emailVerified="true"),
    )
    assert (await known(here), await orgs(here, "eve")) == ({}, set())
    assert await here.gateway.users.by_email("boss@example.com") is None
    await told(here, by_admin("CREATE", "real", email="Boss@example.com", emailVerified=True))
    assert await orgs(here, "real") == {org}


async def test_verified_before_created_is_the_same(here: Town) -> None:
    org = await org_that_invites(here)
    assert await told(here, verified("ada"), registered("ada")) == ["applied"] * 2
    unverified = by_admin("CREATE", "ada", email="ada@example.com", emailVerified=False)
    await told(here, unverified)
    assert await known(here) == {"ada": "ada@example.com"}, "it was created before it was verified"
    assert sorted(await entries(here, "ada")) == [("bonus", 2), ("purchase", 5)]
    assert await orgs(here, "ada") == {org}


@pytest.mark.parametrize(
    "gone", [by_admin("DELETE", "ada"), {**verified("ada"), "type": "DELETE_ACCOUNT"}]
)
async def test_deleted_is_final_also_when_it_comes_first(here: Town, gone: dict[str, Any]) -> None:
    org = await org_that_invites(here)
    late = [
        registered("ada", T0 + 9),
        verified("ada", T0 + 9),
        by_admin("CREATE", "ada", T0 + 9, email="ada@example.com", emailVerified=True),
    ]
    assert await told(here, gone, *late, gone) == ["applied", *["ignored"] * 3, "applied"]
    assert (await entries(here, "ada"), await known(here)) == ([], {})
    await told(here, registered("ada2"), verified("ada2"))
    assert await known(here) == {"ada2": "ada@example.com"}
    assert await orgs(here, "ada2") == {org}


async def test_who_is_deleted_keeps_their_credits_and_leaves_their_address(here: Town) -> None:
    await told(here, registered("ada"), verified("ada"), by_admin("DELETE", "ada", T0 + 2))
    assert await known(here) == {}
    assert await entries(here, "ada") == [("purchase", 5), ("bonus", 2)]
    assert not await here.gateway.outside.note("ada", "ada@example.com", time.time())
    assert await known(here) == {}, "a token that is still valid brings the address back"


async def test_who_changes_their_address_is_not_invited_by_the_old_one(here: Town) -> None:
    await told(here, registered("ada"), verified("ada"))
    changed = gave_up("ada", T0 + 5)
    await told(here, changed, verified("ada"))
    assert await known(here) == {}, "the older event came again"
    org = await org_that_invites(here)
    await told(here, verified("ada"))
    assert await orgs(here, "ada") == set(), "it was theirs once"
    await told(here, verified("ada", T0 + 9, "countess@example.com"), changed)
    assert await known(here) == {"ada": "countess@example.com"}
    await told(here, verified("bob", T0 + 1))
    assert await known(here) == {"ada": "countess@example.com", "bob": "ada@example.com"}
    assert await orgs(here, "bob") == {org}


async def test_an_address_is_one_users_until_they_have_it_no_more(here: Town) -> None:
    await told(here, verified("ada"), verified("bob"))
    assert await known(here) == {"ada": "ada@example.com"}
    assert await entries(here, "bob") == [("purchase", 5), ("bonus", 2)]
    org = await org_that_invites(here)
    await told(here, verified("bob", T0 + 5))
    assert not await here.gateway.outside.note("bob", "ada@example.com", time.time())
    assert await orgs(here, "bob") == set(), "the invitation is for who has the address"
    await told(here, verified("ada", T0 + 6))
    assert await orgs(here, "ada") == {org}


async def test_a_token_does_not_bring_back_an_address_that_was_given_up_since(here: Town) -> None:
    note = here.gateway.outside.note
    assert await note("ada", "ada@example.com", None), "nothing was said so far"
    await told(here, gave_up("ada", T0 + 5_000))
    for issued_at in (T0 / 1000, T0 / 1000 + 4.999, None):
        assert not await note("ada", "ada@example.com", issued_at)
    assert await known(here) == {}
    assert await note("ada", "ada@example.com", T0 / 1000 + 5)
    await told(here, verified("ada", T0 + 9_000))
    assert await note("ada", "Ada@example.com", T0 / 1000 + 5), "an event has said so as well"
    assert not await note("ada", "countess@example.com", T0 / 1000 + 5)
    assert await known(here) == {"ada": "ada@example.com"}


@pytest.mark.parametrize(
    "event",
    [
        "UPDATE users SET email = NULL; UPDATE identity_state SET at = to_timestamp(1770000005)",
        "UPDATE identity_state SET deleted = true; DELETE FROM users",
    ],
    ids=["given up", "deleted"],
)
async def test_a_token_waits_for_an_event_that_is_under_way(
    here: Town, database_url: str, event: str
) -> None:
    await told(here, verified("ada"))
    other = await asyncpg.connect(database_url)
    try:
        async with other.transaction():
            await other.execute(event)
            note = asyncio.create_task(
                here.gateway.outside.note("ada", "ada@example.com", T0 / 1000 + 1)
            )
            await asyncio.sleep(0.2)
        assert not await note
    finally:
        await other.close()
    assert await known(here) == {}


async def test_an_older_event_that_comes_again_loses_also_when_keycloak_is_ahead(
    here: Town,
) -> None:
    ahead = int(time.time() * 1000) + 5_000
    old, new = verified("ada", ahead), gave_up("ada", ahead + 400)
    await told(here, old, new, old)
    assert await known(here) == {}
    await told(here, verified("ada", ahead + 800), new)
    assert await known(here) == {"ada": "ada@example.com"}


async def test_a_time_that_cannot_be_does_not_outlast_what_comes_later(here: Town) -> None:
    now = int(time.time() * 1000)
    await told(here, verified("ada", T0 * 2), gave_up("ada", now + 1_000))
    assert await known(here) == {}
    await told(here, verified("ada", now + 2_000), gave_up("ada", T0 * 2))
    assert await known(here) == {}, "it counts as it comes, not as late"
    assert await here.gateway.outside.note("ada", "ada@example.com", now / 1000 + 3)


async def test_events_without_a_time_count_as_they_come(here: Town) -> None:
    untimed = {**verified("ada"), "time": None}, gave_up("ada", None)
    await told(here, *untimed)
    assert await known(here) == {}
    await told(here, untimed[0], gave_up("ada", T0))
    assert await known(here) == {"ada": "ada@example.com"}, "one with a time was older"
    await told(here, verified("ada", int(time.time() * 1000) + 5_000), untimed[1])
    assert await known(here) == {}, "nor is it late behind a clock that is ahead"


async def test_users_of_another_realm_are_left_out(here: Town) -> None:
    other, ours = ({**registered("ada"), "realmName": name} for name in ("master", "main"))
    assert await told(here, other) == ["ignored"]
    assert await entries(here, "ada") == []
    assert await told(here, ours) == ["applied"]


async def test_what_is_of_no_interest_is_taken_so_that_it_is_not_sent_again(here: Town) -> None:
    for event in ({**registered("ada"), "type": "LOGIN"}, by_admin("UPDATE", "ada", firstName="A")):
        assert await told(here, event) == ["ignored"]
    assert await here.store.pool.fetchval("SELECT count(*) FROM subjects") == 0


async def test_what_is_not_signed_with_the_secret_changes_nothing(here: Town) -> None:
    raw = json.dumps(registered("ada")).encode()
    good = signature_of(SECRET, raw)
    wrong: list[dict[str, str]] = [
        {},
        {"X-Keycloak-Signature": ""},
        {"X-Keycloak-Signature": good[:-1] + ("0" if good[-1] != "0" else "1")},
        {"X-Keycloak-Signature": signature_of("another", raw)},
        {"X-Keycloak-Signature": signature_of(SECRET, raw + b" ")},
        {"Authorization": f"Bearer {good}"},
    ]
    for headers in wrong:
        refused = await here.nobody.post(PATH, raw=raw, headers=headers)
        assert refused.problem == (401, "signature_invalid")
        assert good not in str(refused.json)
    assert await here.store.pool.fetchval("SELECT count(*) FROM subjects") == 0


async def test_a_signed_body_is_bounded_and_must_be_an_event(here: Town) -> None:
    cases = [
        (b"not json", 400),
        (b"[" * 100 + b"]" * 100, 400),
        (b"{}", 400),
        (b"\xff", 400),
        (json.dumps(registered("a\x00b")).encode(), 400),
        (json.dumps(registered("ada", more="x" * 1_048_576)).encode(), 413),
    ]
    for raw, status in cases:
        assert (await tell(here, raw)).status == status, raw[:20]
    raw = json.dumps(registered("ada")).encode()
    signed = {"X-Keycloak-Signature": signature_of(SECRET, raw), "Content-Type": "text/plain"}
    assert (await here.nobody.post(PATH, raw=raw, headers=signed)).status == 415


async def test_without_a_secret_there_is_no_webhook(store: Store) -> None:
    async with town(store) as found:
        off = await tell(found, registered("ada"), "")
        assert off.problem == (404, "not_found")
        assert "FAREGATE_IDENTITY_WEBHOOK_SECRET" in off["help"]


async def test_with_the_embedded_identity_an_event_does_not_touch_who_signs_in_with_it(
    pool: asyncpg.Pool,
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with set_up(store, oidc_issuer=None, oidc_audience=None) as found:
        ada = await found.person("ada@example.com")
        event = verified(ada.user_id, T0, "eve@example.com")
        changed = {**event, "type": "UPDATE_EMAIL", "time": T0 + 1}
        await told(found, event, changed, verified("eve"), by_admin("DELETE", ada.user_id))
        assert await known(found) == {ada.user_id: "ada@example.com"}
        signed_in = await found.nobody.post(
            "/api/auth/login", {"email": "ada@example.com", "password": PASSWORD}
        )
        assert signed_in.status == 200


async def test_while_the_database_is_away_the_sender_is_asked_to_repeat(
    here: Town, database_url: str
) -> None:
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute("ALTER TABLE identity_state RENAME TO away")
        refused = await tell(here, verified("ada"))
        assert refused.problem == (503, "check_unavailable")
        await owner.execute("ALTER TABLE away RENAME TO identity_state")
    finally:
        await owner.close()
    assert await told(here, verified("ada")) == ["applied"]
    assert await known(here) == {"ada": "ada@example.com"}


async def test_a_welcome_for_verified_users_waits_for_the_event(pool: asyncpg.Pool) -> None:
    welcome = Welcome(verified_only=True)
    store = await open_store(
        pool, Rules(provisioning="auto", welcome_micro=5_000_000, welcome=welcome)
    )
    async with set_up(store) as found:
        await told(found, registered("ada"))
        assert await entries(found, "ada") == []
        await told(found, verified("ada"))
        assert await entries(found, "ada") == [("purchase", 5)]


async def test_the_events_are_counted_by_what_became_of_them(here: Town) -> None:
    await told(here, registered("ada"), {**registered("ada"), "type": "LOGIN"})
    await tell(here, registered("ada"), "another")
    text = here.gateway.metrics.text().decode()
    for result in ("applied", "ignored", "refused"):
        assert f'faregate_identity_events_total{{result="{result}"}} 1.0' in text


async def test_nobody_signs_in_by_an_event(here: Town) -> None:
    await told(here, by_admin("CREATE", "ada", email="ada@example.com", emailVerified=True))
    for path in ("/auth/register", "/api/auth/login"):
        body = {"email": "ada@example.com", "password": PASSWORD}
        assert (await here.nobody.post(path, body)).problem == (404, "not_found")
    assert (await Person(here.http, "ada").get("/api/v1/credits/balance")).status == 401
