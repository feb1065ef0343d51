"""Calls that are no commands of the ledger: the same key and body happen once, whoever answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from tests.helpers.routes import routes
from tests.integration.gateway.calling import PASSWORD, Person, Reply, Town, everything, town
from tests.integration.gateway.llm_world import MASTER_KEY, street
from tests.integration.gateway.provider import says
from tests.unit.gateway.test_idempotency import EXEMPT, UNSAFE

from faregate.gateway.byok.sealing import new_master_key
from faregate.gateway.identity.passwords import Passwords
from faregate.gateway.llm.settings import LlmSettings
from faregate.ledger import pricing
from faregate.ledger.core import Rules
from faregate.ledger.erase import erase
from faregate.ledger.store import open_store
from faregate.ledger.verify import verify

pytestmark = pytest.mark.stack

KEYS = "/api/v1/settings/byok-keys"
SECRET = "sk-or-v1-canary0123456789abcdef"
CASE_ID = "018f3a1e-0000-7000-8000-000000000001"
INCREMENT = "/admin/settings/credit-increment"
REGISTER, LOGIN, PRICES = "/auth/register", "/api/auth/login", "/v1/admin/prices"


async def one_case() -> dict[str, Any]:
    return {CASE_ID: {"case_id": CASE_ID}}


@asynccontextmanager
async def gateway(pool: asyncpg.Pool, master: str = MASTER_KEY, **settings: Any) -> Any:
    """Run a gateway of its own on the database, as another process would."""
    store = await open_store(pool, Rules(provisioning="manual"))
    llm = LlmSettings(master_key=SecretStr(master), **settings.pop("llm", {}))
    chosen = {"sign_ins_per_minute": 1000, **settings}
    async with town(store, fraud_cases=one_case, llm=llm, **chosen) as found:
        yield found


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Town]:
    async with gateway(pool) as found:
        yield found


@pytest.fixture
async def there(pool: asyncpg.Pool) -> AsyncIterator[Town]:
    async with gateway(pool) as found:
        yield found


@dataclass(frozen=True, slots=True)
class Call:
    """A call, and the same with something else in it. `fresh` differs from answer to answer."""

    who: Person
    method: str
    path: str
    body: dict[str, Any] | None = None
    changed: dict[str, Any] = field(default_factory=dict)
    elsewhere: str | None = None
    fresh: tuple[str, ...] = ()

    async def made(self, at: Town, key: str, **changed: Any) -> Reply:
        person = Person(at.http, self.who.token)
        path = self.elsewhere if changed.pop("elsewhere", False) and self.elsewhere else self.path
        body = None if self.body is None else {**self.body, **changed}
        return await person.call(self.method, path, body, key=key)

    def seen(self, reply: Reply) -> Any:
        body = reply.json or {}
        return reply.status, {k: v for k, v in body.items() if k not in self.fresh}


async def calls(here: Town) -> dict[str, Call]:
    """One of each. Some find a key of a provider, an org and a user there."""
    admin, ada, bob = await here.admin(), await here.person(), await here.person()
    org = await here.org(ada)
    for provider in ("openai", "groq"):
        stored = await ada.post(KEYS, {"provider": provider, "api_key": SECRET})
        assert stored.status == 201, stored.json
    invite = f"/api/v1/org/{org}/invite"
    book = {"phases": {"x": {"per": "flat", "credits": 0.5}}}
    start = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    new = {"email": "new@example.com", "password": PASSWORD, "organization": "New"}
    return {
        "prices": Call(admin, "POST", PRICES, {"book": book}, {"effective_from": start}),
        "increment": Call(admin, "PUT", INCREMENT, {"increment": 1.0}, {"increment": 0.01}),
        "review": Call(
            admin,
            "POST",
            f"/v1/admin/fraud/{CASE_ID}",
            {"verdict": "confirmed"},
            {"verdict": "dismissed"},
        ),
        "unknown": Call(ada, "POST", invite, {"email": "who@example.com"}, {"role": "admin"}),
        "known": Call(ada, "POST", invite, {"email": bob.email}, {"email": "no@example.com"}),
        "put": Call(
            ada, "POST", KEYS, {"provider": "openrouter", "api_key": SECRET}, {"api_key": "s" * 9}
        ),
        "delete": Call(ada, "DELETE", f"{KEYS}/openai", elsewhere=f"{KEYS}/groq"),
        "register": Call(
            here.nobody, "POST", REGISTER, new, {"name": "Else"}, fresh=("access_token",)
        ),
        "login": Call(
            here.nobody,
            "POST",
            LOGIN,
            {"email": bob.email, "password": PASSWORD},
            {"username": bob.email},
            fresh=("access_token",),
        ),
    }


async def test_a_repeat_gets_the_first_answer_and_moves_no_row_also_in_another_process(
    here: Town, there: Town, owner: asyncpg.Connection
) -> None:
    found = await calls(here)
    firsts = {}
    for name, call in found.items():
        firsts[name] = await call.made(here, name)
        assert firsts[name].status < 300, (name, firsts[name].json)
    for name, call in found.items():
        before = await everything(owner)
        for place in (here, there):
            again = await call.made(place, name)
            assert call.seen(again) == call.seen(firsts[name]), name
        assert await everything(owner) == before, name
        conflict = await call.made(there, name, elsewhere=True, **call.changed)
        assert conflict.problem == (409, "idempotency_conflict"), name
    assert (await verify(owner)).ok


async def test_ten_at_once_have_one_effect(
    here: Town, there: Town, owner: asyncpg.Connection
) -> None:
    found = await calls(here)
    for name, call in found.items():
        before = await everything(owner)
        places = (here, there) * 5
        answers = await asyncio.gather(*(call.made(place, name) for place in places))
        assert answers[0].status < 300, (name, answers[0].json)
        assert [call.seen(a) for a in answers] == [call.seen(answers[0])] * 10, name
        added = await everything(owner) - before
        rows = [table for table, _ in added.elements()]
        logged = 1 + (name == "register") if name in {"prices", "review", "known"} else None
        for table in ("users", "org_names", "price_versions", "http_calls", "invitations"):
            assert rows.count(f"public.{table}") <= 1, (name, table)
        if logged is not None:
            assert rows.count("public.audit") == logged, name
    version = await owner.fetchval("SELECT last_value FROM byok_key_versions")
    assert version == 3, "two that were there, and one"


async def test_the_key_of_another_caller_is_another_key(here: Town) -> None:
    found = await calls(here)
    assert (await found["prices"].made(here, "k1"))["version"] == 2
    admin, eve = await here.admin(), await here.person()
    other = await admin.post(PRICES, {"book": {"phases": {}}}, key="k1")
    assert (other.status, other["version"]) == (201, 3)
    assert (await found["put"].made(here, "k1")).status == 201
    mine = {"provider": "openrouter", "api_key": "another key".replace(" ", "-")}
    assert (await eve.post(KEYS, mine, key="k1")).status == 201
    assert (await found["register"].made(here, "k1")).status == 201
    stranger = {"email": "other@example.com", "password": "another password"}
    assert (await here.nobody.post(REGISTER, stranger, key="k1")).status == 201
    assert (await found["login"].made(here, "k1")).status == 200
    signed_in = {"email": eve.email, "password": PASSWORD}
    assert (await here.nobody.post(LOGIN, signed_in, key="k1")).status == 200


async def test_who_repeats_a_registration_proves_that_it_was_theirs(
    pool: asyncpg.Pool, owner: asyncpg.Connection
) -> None:
    async with gateway(pool, sign_ins_per_minute=3) as here:
        new = {"email": "Ada@example.com", "password": PASSWORD}
        first = await here.nobody.post(REGISTER, new, key="k1")
        again = await here.nobody.post(REGISTER, new, key="k1")
        assert again["user_id"] == first["user_id"]
        ada = Person(here.http, again["access_token"])
        assert (await ada.get("/api/v1/credits/balance"))["user_id"] == first["user_id"]
        for other in (None, "k2"):
            taken = await here.nobody.post(REGISTER, new, key=other)
            assert taken.problem == (409, "email_taken")
        guess = {**new, "password": "a guess at it"}
        for _ in range(3):
            refused = await here.nobody.post(REGISTER, guess, key="k1")
            assert refused.problem == (409, "idempotency_conflict")
        limited = await here.nobody.post(REGISTER, new, key="k1")
        assert limited.problem == (429, "rate_limited"), "or the key would let anybody try"
        rows = await owner.fetchval("SELECT string_agg(h::text, ' ') FROM http_calls h")
        for text in ("ada@", "Ada@", PASSWORD, "k1"):
            assert text not in rows


async def test_repeating_a_registration_does_what_could_not_be_done(
    here: Town, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = {"email": "late@example.com", "password": PASSWORD, "organization": "Late"}
    monkeypatch.setattr("faregate.gateway.resources.auth.STEP_S", 0.2)
    locker = await asyncpg.connect(database_url)
    try:
        async with locker.transaction():
            await locker.execute("LOCK TABLE accounts IN EXCLUSIVE MODE")
            first = await here.nobody.post(REGISTER, new, key="k1")
    finally:
        await locker.close()
    assert (first.status, first["org_id"], first["credits_remaining"]) == (201, None, None)
    monkeypatch.undo()
    again = await here.nobody.post(REGISTER, new, key="k1")
    assert (again["user_id"], again["credits_remaining"]) == (first["user_id"], 0)
    late = Person(here.http, again["access_token"])
    assert (await late.get(f"/api/v1/org/{again['org_id']}"))["name"] == "Late"


async def test_an_invitation_brings_the_same_org_to_a_repeated_registration(
    here: Town, owner: asyncpg.Connection
) -> None:
    boss = await here.person()
    org = await here.org(boss)
    await boss.post(f"/api/v1/org/{org}/invite", {"email": "new@example.com"}, key="k1")
    new = {"email": "new@example.com", "password": PASSWORD}
    for _ in range(2):
        made = await here.nobody.post(REGISTER, new, key="k1")
        assert made["org_id"] == org
    again = await boss.post(f"/api/v1/org/{org}/invite", {"email": "new@example.com"}, key="k1")
    assert (again["status"], again["user_id"]) == ("invited", None), "as it was answered first"
    await erase(owner, here.store.keys, f"org:{org}", by="test", force=True)
    assert not await owner.fetchval("SELECT count(*) FROM http_calls WHERE answer ->> 'org' <> ''")
    assert (await here.nobody.post(REGISTER, new, key="k1"))["org_id"] is None


async def test_a_sign_in_with_a_used_key_is_still_checked(here: Town) -> None:
    ada = await here.person()
    body = {"email": ada.email, "password": PASSWORD}
    assert (await here.nobody.post(LOGIN, body, key="k1")).status == 200
    wrong = await here.nobody.post(LOGIN, {**body, "password": "a guess"}, key="k1")
    assert wrong.problem == (401, "sign_in_failed")
    again = await here.nobody.post(LOGIN, body, key="k1")
    assert (await Person(here.http, again["access_token"]).get(KEYS)).status == 200
    hashed = await Passwords().hash("a new password")
    await here.store.pool.execute("UPDATE users SET password_hash = $1", hashed)
    new = {**body, "password": "a new password"}
    changed = await here.nobody.post(LOGIN, new, key="k1")
    assert changed.problem == (409, "idempotency_conflict")
    assert (await here.nobody.post(LOGIN, new, key="k2")).status == 200


async def test_an_old_key_neither_puts_a_deleted_key_back_nor_deletes_a_new_one(
    here: Town,
) -> None:
    ada = await here.person()
    new = {"provider": "openrouter", "api_key": SECRET}
    first = await ada.post(KEYS, new, key="put")
    assert (await ada.call("DELETE", f"{KEYS}/openrouter", key="out")).status == 204
    again = await ada.post(KEYS, new, key="put")
    assert (again.status, again.json) == (201, first.json)
    assert (await ada.get(KEYS))["keys"] == []
    assert (await ada.post(KEYS, new, key="put 2")).status == 201
    assert (await ada.call("DELETE", f"{KEYS}/openrouter", key="out")).status == 204
    assert len((await ada.get(KEYS))["keys"]) == 1


async def test_a_repeated_key_is_not_checked_again_and_known_after_a_rotation(
    pool: asyncpg.Pool,
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    new = {"provider": "openrouter", "api_key": SECRET}
    async with street(store, {"byok_check": True}) as here:
        ada = await here.person()
        here.provider.answer = says(500, {})
        assert (await ada.post(KEYS, new, key="k1")).problem == (502, "upstream_error")
        here.provider.answer = says(200, {"data": {}})
        first = await ada.post(KEYS, new, key="k1")
        here.provider.answer = says(401, {})
        again = await ada.post(KEYS, new, key="k1")
        assert (again.status, again.json) == (201, first.json)
        assert len(here.provider.calls) == 2
    rotated = new_master_key()
    both = {"old_master_key": SecretStr(MASTER_KEY)}
    for llm, status in ((both, 201), ({}, 409)):
        async with gateway(pool, rotated, llm=llm) as here:
            asked = await Person(here.http, ada.token).post(KEYS, new, key="k1")
            assert asked.status == status, "the old master key says whether it is the same"


async def test_what_failed_is_decided_anew(here: Town) -> None:
    admin, ada = await here.admin(), await here.person()
    past = {"book": {"phases": {}}, "effective_from": "2020-01-01T00:00:00Z"}
    assert (await admin.post(PRICES, past, key="k1")).status == 409
    assert (await admin.post(PRICES, {"book": {"phases": 1}}, key="k1")).status == 400
    assert (await admin.post(PRICES, {"book": {"phases": {}}}, key="k1")).status == 201
    assert (await admin.put(INCREMENT, {"increment": 7}, key="k1")).status == 400
    assert (await admin.put(INCREMENT, {"increment": 1}, key="k1")).status == 200
    gone = await ada.call("DELETE", f"{KEYS}/openai", key="k1")
    assert gone.problem == (404, "not_found")
    await ada.post(KEYS, {"provider": "openai", "api_key": SECRET})
    assert (await ada.call("DELETE", f"{KEYS}/openai", key="k1")).status == 204
    org = await here.org(ada)
    invite = f"/api/v1/org/{org}/invite"
    assert (await ada.post(invite, {"email": ada.email}, key="k1")).problem == (409, "conflict")
    assert (await ada.post(invite, {"email": "x@example.com"}, key="k1")).status == 201


async def test_prices_that_were_not_late_are_not_late_when_they_are_repeated(
    here: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = await here.admin()
    start = (datetime.now(UTC) + timedelta(milliseconds=300)).isoformat()
    new = {"book": {"phases": {}}, "effective_from": start}
    first = await admin.post(PRICES, new, key="k1")
    monkeypatch.setattr(pricing, "_NOW_S", timedelta(0))
    await asyncio.sleep(0.4)
    assert (await admin.post(PRICES, new)).status == 409
    again = await admin.post(PRICES, new, key="k1")
    assert (again.status, again.json) == (201, first.json)


async def test_of_who_is_erased_no_call_is_left_and_no_answer_names_them(
    here: Town, owner: asyncpg.Connection
) -> None:
    found = await calls(here)
    for name, call in found.items():
        assert (await call.made(here, name)).status < 300
    boss = found["prices"].who
    other = await here.admin()
    unchanged = await other.put(INCREMENT, {"increment": 1.0}, key="k1")
    assert unchanged["updated_by"] == boss.user_id
    bob = await here.gateway.users.by_email(str(found["known"].body["email"]))  # type: ignore[index]
    new = await here.gateway.users.by_email("new@example.com")
    assert bob is not None
    assert new is not None
    people = [boss.user_id, found["put"].who.user_id, bob.user_id, new.user_id]
    for user_id in people:
        done = await erase(owner, here.store.keys, f"user:{user_id}", by="test", force=True)
        assert done.found
    (left,) = await owner.fetch("SELECT answer::text FROM http_calls")
    rows = [row for (table, row) in await everything(owner) if table != "public.price_versions"]
    for text in (*people, bob.email, new.email):
        assert [row for row in rows if str(text) in row] == [], text
    again = await other.put(INCREMENT, {"increment": 1.0}, key="k1")
    assert {**unchanged.json, "updated_by": "erased"} == again.json, left
    assert (await verify(owner)).ok


async def test_a_key_that_is_empty_or_too_long_is_refused_by_every_route(here: Town) -> None:
    admin = await here.admin()
    for name, route in routes().items():
        if not (route.methods or set()) & UNSAFE or name in EXEMPT:
            continue
        method, path = name.split()
        for key in ("", "k" * 201):
            refused = await admin.call(method, path, {}, headers={"Idempotency-Key": key})
            assert refused.problem == (400, "validation_failed"), name
            fields = [error["field"] for error in refused["errors"]]
            assert "idempotency-key" in fields, name
