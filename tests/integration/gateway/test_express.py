"""The quick ways give what the slow ones give: routes, answers, transactions side by side."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from tests.helpers.locks import account_locked
from tests.integration.gateway.calling import Person, Reply, Town

from faregate.gateway.app import bare_app, create_app
from faregate.gateway.middleware import Edge
from faregate.gateway.stored import read_back, written

pytestmark = pytest.mark.stack

CHECK, DEDUCT, HOLDS = "/api/credits/check", "/api/v1/credits/deduct", "/api/v1/holds"
CALCULATE, BALANCE = "/api/v1/credits/calculate", "/api/v1/credits/balance"
CHAT = "/v1/chat/completions"
ASKED = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Hi."}]}
CALLS: list[dict[str, Any]] = [
    {"path": CHECK, "body": {"credits": 5}},
    {"path": CHECK, "body": {"credits": 5_000}},
    {"path": CHECK, "body": {"credits": "5"}},
    {"path": CHECK, "body": {}},
    {"path": CHECK, "body": [1]},
    {"path": CHECK, "raw": b""},
    {"path": CHECK, "raw": b"{"},
    {"path": CHECK, "raw": b'{"credits": NaN}'},
    {"path": CHECK, "raw": b'{"credits": 5}', "headers": {"Content-Type": "text/plain"}},
    {"path": CHECK, "raw": b'{"credits": 5}', "headers": {"Content-Type": "application/x+json"}},
    {"path": CHECK, "body": {"credits": 5}, "headers": {"X-Faregate-Org": "nobodys"}},
    {"path": CHECK, "body": {"credits": 5}, "headers": {"Authorization": "Bearer x.y.z"}},
    {"path": CHECK, "body": {"credits": 5}, "headers": {"Authorization": "Basic x"}},
    {"path": DEDUCT, "body": {"credits": 5, "reference": "r"}, "key": "once"},
    {"path": DEDUCT, "body": {"credits": 6, "reference": "r"}, "key": "once"},
    {"path": DEDUCT, "body": {"credits": -1}},
    {"path": DEDUCT, "body": {"credits": 5, "model": "gpt-4"}},
    {"path": DEDUCT, "body": {"model": "nobodys", "tokens": 5}},
    {"path": DEDUCT, "body": {"credits": 5_000}, "key": "too much"},
    {"path": DEDUCT, "body": {"credits": 5}, "key": "k" * 201},
    {"path": CALCULATE, "body": {"model": "gpt-3.5-turbo", "tokens": 100}},
    {"path": CALCULATE, "body": {"model": "\u202e", "tokens": 100}},
    {"path": HOLDS, "body": {"credits": 1}, "key": "hold"},
    {"path": f"{HOLDS}/batch", "body": {"operations": [{"op": "none"}]}},
    {"path": f"{HOLDS}/no-uuid/settle", "body": {"credits": 1}},
    {"path": f"{HOLDS}/{uuid4()}/settle", "body": {"credits": 1}},
    {"path": f"{HOLDS}/{{hold_id}}/settle", "body": {"credits": 1}},
    {"path": f"{HOLDS}/{uuid4()}/release"},
    {"path": CHAT, "body": ASKED},
    {"path": CHAT, "body": {**ASKED, "n": 0}},
    {"path": CHAT, "body": {**ASKED, "fallbacks": ["another"]}},
    {"path": CHAT, "body": ASKED, "headers": {"X-BYOK-Provider": "nobodys"}},
    {"path": CHAT, "body": ASKED, "headers": {"X-BYOK-Provider": "x" * 51}},
    {"path": CHAT, "body": ASKED, "headers": {"Authorization": "Bearer x.y.z"}},
    {"path": CHAT, "raw": b"{"},
    {"path": CHAT, "raw": b""},
    {"path": CHAT, "raw": b"{}", "headers": {"Content-Type": "text/plain"}},
    {"method": "GET", "path": BALANCE},
    {"method": "GET", "path": f"{BALANCE}/"},
    {"method": "DELETE", "path": CHECK},
]


@pytest.fixture
async def slow(here: Town) -> Any:
    """Call the same gateway through FastAPI alone."""
    app = bare_app(here.gateway.settings)
    app.state.gateway = here.gateway
    app.add_middleware(Edge, settings=here.gateway.settings, metrics=here.gateway.metrics)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
        yield http


async def test_every_call_is_answered_as_fastapi_answers_it(
    here: Town, slow: httpx.AsyncClient
) -> None:
    ada = await here.rich(100)
    same = Person(slow, ada.token, ada.user_id)
    for call in CALLS:
        said = {"method": "POST", **call}
        quick, slowly = await ada.call(**said), await same.call(**said)
        assert seen(quick) == seen(slowly), call
    assert await here.balance(ada) == 94


def seen(reply: Reply) -> tuple[int, Any, dict[str, str]]:
    body = {k: v for k, v in (reply.json or {}).items() if k != "updated_at"}
    return reply.status, body, {k: v for k, v in reply.headers.items() if k != "content-length"}


async def test_a_browsers_call_from_another_origin_is_answered_as_allowed(here: Town) -> None:
    settings = here.gateway.settings
    object.__setattr__(settings, "cors_origins", ("https://app.example.com",))
    transport = httpx.ASGITransport(create_app(here.gateway))
    ada = await here.rich(100)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as http:
        person = Person(http, ada.token)
        answer = await person.post(
            CHECK, {"credits": 5}, headers={"Origin": "https://app.example.com"}
        )
    assert answer["sufficient"] is True
    assert answer.headers["access-control-allow-origin"] == "https://app.example.com"


async def test_what_was_just_written_is_what_is_read_back(here: Town) -> None:
    batches: list[tuple[Any, Any]] = []
    take = here.gateway.store.take

    async def noting(submissions: Any, *more: Any, **named: Any) -> Any:
        applied = await take(submissions, *more, **named)
        batches.append((submissions, applied))
        return applied

    here.gateway.store.take = noting  # type: ignore[method-assign]
    ada, eve = await here.rich(100), await here.person()
    bob = await here.member(eve, await here.org(eve, 1_000), 50)
    for person, credits_ in ((ada, 5), (bob, 7), (bob, 70), (ada, 5_000), (eve, 1)):
        await person.post(DEDUCT, {"credits": credits_})
    for person in (ada, bob):
        held = await person.post(HOLDS, {"credits": 9})
        await person.post(f"{HOLDS}/{held['hold_id']}/settle", {"credits": 4, "final": False})
        await person.post(f"{HOLDS}/{held['hold_id']}/release")
        await person.post(f"{HOLDS}/{held['hold_id']}/release")
    await bob.post(DEDUCT, {"model": "gpt-3.5-turbo", "tokens": 100})
    checked = 0
    for submissions, applied in batches:
        found = written(applied)
        checked += len(found)
        assert found == await read_back(here.store, submissions)
    assert checked > 12


async def test_who_waits_for_an_account_holds_up_nobody_else(
    here: Town, pool: asyncpg.Pool
) -> None:
    ada, bob = await here.rich(100), await here.rich(100)
    async with account_locked(pool, f"user:{ada.user_id}"):
        waits = asyncio.create_task(ada.post(DEDUCT, {"credits": 1}))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*(bob.post(DEDUCT, {"credits": 1}) for _ in range(5)))
        assert {a.status for a in answers} == {200}
        assert not waits.done()
    assert (await waits).status == 200
