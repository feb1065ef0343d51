"""Users' own keys: sealed, never shown, and calls with them cost nothing and count."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator

import asyncpg
import openai
import pytest
import structlog
from pydantic import SecretStr
from tests.integration.gateway.calling import Person
from tests.integration.gateway.llm_world import HELLO, MASTER_KEY, UPSTREAM_KEY, Street, street
from tests.integration.gateway.provider import DONE, chunk, last, says, stream, whole

from faregate.gateway.byok.rotation import rotate
from faregate.gateway.byok.sealing import master_key, new_master_key
from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.erase import erase
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack

KEYS = "/api/v1/settings/byok-keys"
CANARY = "sk-or-v1-canary0123456789abcdef0123456789abcdef"
OWN = {"X-BYOK-Provider": "openrouter"}


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    async with street(await open_store(pool, Rules(provisioning="manual"))) as found:
        yield found


async def with_key(here: Street, credits_: float = 1_000, key: str = CANARY) -> Person:
    ada = await here.rich(credits_) if credits_ else await here.person()
    stored = await ada.post(KEYS, {"provider": "openrouter", "api_key": key})
    assert stored.status == 201, stored.json
    return ada


async def test_a_key_is_stored_listed_masked_and_taken_out(here: Street) -> None:
    ada = await here.person()
    stored = await ada.post(KEYS, {"provider": "OpenRouter", "api_key": CANARY})
    assert stored.status == 201
    assert set(stored.json) == {"provider", "masked", "created_at"}
    assert (stored["provider"], stored["masked"]) == ("openrouter", "sk-…cdef")
    (listed,) = (await ada.get(KEYS))["keys"]
    assert listed["status"] == "stored"
    assert listed["masked"] == "sk-…cdef"
    assert (await ada.call("DELETE", f"{KEYS}/openrouter")).status == 204
    assert (await ada.get(KEYS))["keys"] == []
    assert (await ada.call("DELETE", f"{KEYS}/openrouter")).problem == (404, "not_found")


async def test_a_call_with_ones_own_key_costs_nothing_and_counts(here: Street) -> None:
    ada = await with_key(here)
    here.provider.answer = whole(usage=(61, 39))
    answer = await here.chat(ada, headers=OWN)
    assert answer.status == 200
    assert answer.headers["x-credits-charged"] == "0"
    assert here.provider.call.headers["authorization"] == f"Bearer {CANARY}"
    assert await here.at_rest(ada) == 1_000
    entry = await here.newest(ada)
    assert (entry["amount"], entry["byok"], entry["provider"]) == (0, True, "openrouter")
    assert (entry["input_tokens"], entry["output_tokens"]) == (61, 39)
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 1


async def test_without_the_header_platform_credits_pay(here: Street) -> None:
    ada = await with_key(here)
    here.provider.answer = whole(usage=(61, 39))
    assert (await here.chat(ada)).headers["x-credits-charged"] == "9"
    assert here.provider.call.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert await here.at_rest(ada) == 991


async def test_who_has_no_credits_calls_with_their_own_key_also_models_without_a_price(
    here: Street,
) -> None:
    ada = await with_key(here, credits_=0)
    here.provider.answer = stream(chunk("Hello"), last(), DONE)
    answer = await here.chat(
        ada, "meta-llama/llama-9", stream=True, provider={"sort": "price"}, headers=OWN
    )
    assert answer.status == 200
    assert here.provider.call.body == {
        "model": "meta-llama/llama-9",
        "messages": HELLO,
        "stream": True,
        "provider": {"sort": "price"},
    }
    assert await here.at_rest(ada) == 0
    assert (await here.newest(ada))["model"] == "meta-llama/llama-9"


async def test_the_quota_ends_calls_with_ones_own_key_too(here: Street) -> None:
    ada = await with_key(here)
    await acts.set_quota(here.store, f"user:{ada.user_id}", 1, actor="test", key="quota")
    here.provider.answer = whole()
    assert (await here.chat(ada, headers=OWN)).status == 200
    assert (await here.chat(ada, headers=OWN)).problem == (429, "quota_exceeded")


async def test_the_openai_client_sends_the_header_like_any_other(here: Street) -> None:
    ada = await with_key(here)
    here.provider.answer = whole("Hello")
    async with openai.AsyncOpenAI(
        base_url=f"{here.url}/v1", api_key=ada.token or "", default_headers=OWN
    ) as ai:
        answer = await ai.chat.completions.create(
            model="gpt-4", messages=[{"role": "user", "content": "Hi"}]
        )
    assert answer.choices[0].message.content == "Hello"
    assert await here.at_rest(ada) == 1_000


async def test_a_call_with_a_key_that_is_not_stored_is_told_so(here: Street) -> None:
    ada = await here.rich(1_000)
    missing = await here.chat(ada, headers=OWN)
    assert missing.problem == (400, "byok_key_missing")
    unknown = await here.chat(ada, headers={"X-BYOK-Provider": "http://evil.example"})
    assert unknown.problem == (400, "validation_failed")
    assert here.provider.calls == []
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 0


async def test_a_key_that_its_provider_refuses_is_named_as_the_cause(here: Street) -> None:
    ada = await with_key(here)
    for status in (401, 403):
        here.provider.answer = says(status, {"error": {"message": f"bad key {CANARY}"}})
        refused = await here.chat(ada, headers=OWN)
        assert refused.problem == (401, "byok_key_invalid")
        assert CANARY not in str(refused.json)
    assert (await ada.get(KEYS))["keys"][0]["status"] == "refused"
    assert await here.at_rest(ada) == 1_000


async def test_nobody_uses_or_sees_the_key_of_another(here: Street) -> None:
    ada, eve = await with_key(here), await here.rich(1_000)
    assert (await eve.get(KEYS))["keys"] == []
    assert (await here.chat(eve, headers=OWN)).problem == (400, "byok_key_missing")
    assert (await eve.call("DELETE", f"{KEYS}/openrouter")).status == 404
    assert len((await ada.get(KEYS))["keys"]) == 1


async def test_a_row_put_in_the_place_of_another_does_not_open(here: Street) -> None:
    ada, eve = await with_key(here), await with_key(here, key="sk-or-v1-the-key-of-eve")
    await here.store.pool.execute(
        """UPDATE byok_keys e SET (sealed, data_key) = (a.sealed, a.data_key) FROM byok_keys a
           WHERE e.owner = $1 AND a.owner = $2""",
        f"user:{eve.user_id}",
        f"user:{ada.user_id}",
    )
    assert (await here.chat(eve, headers=OWN)).problem == (503, "byok_not_configured")
    assert here.provider.calls == []


async def test_a_new_key_takes_the_place_of_the_old_one(here: Street) -> None:
    ada = await with_key(here)
    await ada.post(KEYS, {"provider": "openrouter", "api_key": "sk-or-v1-another-key-0123"})
    here.provider.answer = whole()
    await here.chat(ada, headers=OWN)
    assert here.provider.call.headers["authorization"] == "Bearer sk-or-v1-another-key-0123"
    assert len((await ada.get(KEYS))["keys"]) == 1


async def test_a_key_is_checked_with_its_provider_where_that_is_set(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"byok_check": True}) as found:
        ada, new = await found.person(), {"provider": "openrouter", "api_key": CANARY}
        found.provider.answer = says(401, {})
        assert (await ada.post(KEYS, new)).problem == (401, "byok_key_invalid")
        found.provider.answer = says(500, {})
        assert (await ada.post(KEYS, new)).problem == (502, "upstream_error")
        assert (await ada.get(KEYS))["keys"] == []
        found.provider.answer = says(200, {"data": {}})
        assert (await ada.post(KEYS, new)).status == 201
        assert (found.provider.call.method, found.provider.call.path) == ("GET", "/v1/key")
        assert (await ada.get(KEYS))["keys"][0]["status"] == "valid"


async def test_without_a_master_key_nothing_is_stored(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"master_key": None}) as found:
        ada = await found.rich(100)
        refused = await ada.post(KEYS, {"provider": "openai", "api_key": CANARY})
        assert refused.problem == (503, "byok_not_configured")
        assert (await found.chat(ada, headers=OWN)).problem == (503, "byok_not_configured")


async def test_a_rotation_that_was_interrupted_goes_on_while_calls_are_made(
    pool: asyncpg.Pool,
) -> None:
    old, new = master_key(MASTER_KEY), master_key(new_master_key())
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store) as before:
        people = [await with_key(before, credits_=0, key=f"{CANARY}-{n}") for n in range(5)]
    both = {
        "master_key": SecretStr(base64.b64encode(new.raw).decode()),
        "old_master_key": SecretStr(MASTER_KEY),
    }
    async with street(store, both) as found:
        found.provider.answer = whole()
        for person in people:
            person.http = found.http

        await interrupted(pool, old, new)
        counts = "SELECT count(*) FROM byok_keys WHERE master_id = $1"
        assert await pool.fetchval(counts, new.id) == 2
        for n, person in enumerate(people):  # some rows are under the one, some under the other
            assert (await found.chat(person, headers=OWN)).status == 200
            assert found.provider.call.headers["authorization"] == f"Bearer {CANARY}-{n}"
        done = await rotate(pool, old, new, batch=2)
        assert (done.rotated, done.done, done.remaining, done.damaged) == (3, 5, 0, 0)
        assert (await rotate(pool, old, new)).rotated == 0

    only_new = {"master_key": both["master_key"]}
    async with street(store, only_new) as after:
        after.provider.answer = whole()
        for person in people:
            person.http = after.http
            assert (await after.chat(person, headers=OWN)).status == 200
    async with street(store) as with_old:
        people[0].http = with_old.http
        assert (await with_old.chat(people[0], headers=OWN)).problem == (503, "byok_not_configured")


async def interrupted(pool: asyncpg.Pool, old: object, new: object) -> None:
    """Rotate one batch of two, and be killed in the middle of the next one."""
    from faregate.gateway.byok import rotation

    seen, whole_row = 0, rotation._rotated

    async def dying(*args: object) -> bool:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise asyncio.CancelledError
        return await whole_row(*args)  # type: ignore[arg-type]

    rotation._rotated = dying  # type: ignore[assignment]
    try:
        with pytest.raises(asyncio.CancelledError):
            await rotate(pool, old, new, batch=2)  # type: ignore[arg-type]
    finally:
        rotation._rotated = whole_row


async def test_a_key_is_nowhere_but_in_the_request_to_its_provider(
    here: Street, database_url: str
) -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(said))
    answers = []
    try:
        ada = await with_key(here)
        answers.append(await ada.get(KEYS))
        for wrong in (
            {"provider": "nobody", "api_key": CANARY},
            {"provider": "openrouter", "api_key": CANARY * 20},
            {"provider": "openrouter", "api_key": [CANARY]},
            {"provider": "openrouter", "api_key": f"{CANARY} "},
            {"provider": CANARY * 3, "api_key": 1},
            {"api_key": CANARY},
        ):
            answers.append(await ada.post(KEYS, wrong))
            assert answers[-1].status == 400
        for answer in (
            whole(),
            says(401, {"error": {"message": CANARY}}),
            says(400, {"error": {"message": f"with {CANARY} this cannot be"}}),
            says(500, CANARY.encode()),
            says(200, CANARY.encode()),
            stream(chunk("Hello")),
        ):
            here.provider.answer = answer
            answers.append(await here.chat(ada, headers=OWN))
        await here.at_rest(ada)
    finally:
        structlog.reset_defaults()
        logging.getLogger().setLevel(before)
        logging.getLogger().removeHandler(handler)
    assert "byok_key_stored" in said.getvalue()
    assert CANARY not in said.getvalue()
    for reply in answers:
        assert CANARY not in json.dumps(reply.json), reply.json
        assert CANARY not in str(dict(reply.headers))
    assert CANARY not in repr(here.gateway)
    assert MASTER_KEY not in repr(here.gateway)
    assert await occurrences(database_url, CANARY) == 0
    assert await occurrences(database_url, MASTER_KEY) == 0
    assert await occurrences(database_url, "cj_assessment") > 0, "it does look"


async def occurrences(url: str, text: str) -> int:
    """Count the rows of all tables that have a text anywhere, also as bytes."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
            " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        found = 0
        for table in tables:
            found += await connection.fetchval(
                f"SELECT count(*) FROM {table['name']} t WHERE t::text LIKE $1 OR t::text LIKE $2",
                f"%{text}%",
                f"%{text.encode().hex()}%",
            )
        return int(found)
    finally:
        await connection.close()


async def test_the_keys_of_somebody_who_is_erased_are_erased(
    here: Street, database_url: str
) -> None:
    ada, eve = await with_key(here), await with_key(here)
    connection = await asyncpg.connect(database_url)
    try:
        await erase(connection, here.store.keys, f"user:{ada.user_id}", by="test", force=True)
    finally:
        await connection.close()
    assert await here.gateway.llm.vault.list(f"user:{ada.user_id}") == []
    assert len((await eve.get(KEYS))["keys"]) == 1


async def test_what_is_no_provider_has_no_key(here: Street) -> None:
    ada = await here.person()
    for name in ("nobody", "%00", "x" * 50, "%F0%9F%99%82"):
        assert (await ada.call("DELETE", f"{KEYS}/{name}")).problem == (404, "not_found")


def test_a_gateway_process_leaves_no_core_dump() -> None:
    script = (
        "import resource, ctypes\n"
        "from faregate.gateway.byok.memory import forbid_core_dumps\n"
        "forbid_core_dumps()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(0, 0) 0\n"
