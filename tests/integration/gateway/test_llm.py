"""Calls of a model that credits pay for: estimated, held, made, settled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from tests.integration.gateway.llm_world import (
    CHAT,
    HELLO,
    UPSTREAM_KEY,
    Street,
    frames,
    street,
    text_of,
)
from tests.integration.gateway.provider import (
    DONE,
    chunk,
    completion,
    last,
    says,
    stream,
    usage,
    whole,
)

from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    async with street(await open_store(pool, Rules(provisioning="manual"))) as found:
        yield found


async def test_a_call_costs_what_the_upstream_reports(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole("Hello", usage=(61, 39))
    answer = await here.chat(ada)
    assert (answer.status, answer.json) == (200, completion("Hello", (61, 39)))
    assert answer.headers["x-credits-charged"] == "9"
    assert answer.headers["x-credits-remaining"] == "9991"
    assert await here.at_rest(ada) == 9_991

    entry = await here.newest(ada)
    assert (entry["amount"], entry["model"]) == (-9, "gpt-3.5-turbo")
    assert (entry["input_tokens"], entry["output_tokens"]) == (61, 39)
    assert entry["reference"] == "chatcmpl-17"
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 1


async def test_the_upstream_sees_the_request_and_its_own_key_and_nothing_of_the_caller(
    here: Street,
) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = whole()
    await here.chat(ada, temperature=0.25, user="u-1", headers={"X-Secret": "mine"})
    call = here.provider.call
    assert (call.method, call.path) == ("POST", "/v1/chat/completions")
    assert call.body == {
        "model": "gpt-3.5-turbo",
        "messages": HELLO,
        "temperature": 0.25,
        "user": "u-1",
    }
    assert call.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert str(ada.token) not in str(call.headers)
    assert "x-secret" not in call.headers


async def test_while_a_call_is_made_its_estimate_is_held(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(usage=(61, 39), after_s=2)
    calling = asyncio.create_task(here.chat(ada, max_tokens=100))
    while not here.provider.calls:
        await asyncio.sleep(0.02)
    held = await here.held(ada)
    assert held > 100 * 0.09, "the answer's limit and the prompt"
    assert held < 150 * 0.09
    assert (await calling).status == 200
    assert await here.at_rest(ada) == 9_991


async def test_both_addresses_are_the_same_call(here: Street) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = whole(usage=(60, 40))
    body = {"model": "openai/gpt-3.5-turbo", "messages": HELLO}
    answer = await ada.post("/api/v1/llm/chat/completions", body)
    assert (answer.status, answer.headers["x-credits-charged"]) == (200, "9")


async def test_a_model_without_a_price_is_refused_before_anybody_is_called(here: Street) -> None:
    ada = await here.rich(1_000)
    for model in ("gpt-17", "nobody/gpt-4"):
        refused = await here.chat(ada, model)
        assert refused.problem == (422, "unknown_price")
        assert "required_credits" not in refused.json, "what has no price does not cost 0"
    assert here.provider.calls == []
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 0


async def test_who_cannot_pay_the_estimate_is_refused_before_anybody_is_called(
    here: Street,
) -> None:
    ada = await here.rich(5)
    refused = await here.chat(ada)
    assert refused.problem == (402, "insufficient_credits")
    assert refused["available_credits"] == 5
    assert refused["error"]["code"] == "insufficient_credits"
    assert here.provider.calls == []
    assert (await ada.get("/api/v1/usage/current"))["api_calls_used"] == 0


async def test_a_call_beyond_its_estimate_is_charged_whole(here: Street) -> None:
    ada = await here.rich(10)
    here.provider.answer = whole(usage=(100, 50))
    answer = await here.chat(ada, max_tokens=10)
    assert (answer.status, answer.headers["x-credits-charged"]) == (200, "13.5")
    assert answer.headers["x-credits-remaining"] == "0"
    assert (await ada.get("/api/v1/credits/balance"))["debt"] == 3.5
    assert (await here.chat(ada)).problem == (402, "debt_outstanding")


async def test_a_member_pays_from_what_the_organization_allocated(here: Street) -> None:
    boss = await here.person()
    org = await here.org(boss, 10_000)
    member = await here.member(boss, org, 2_500)
    here.provider.answer = whole(usage=(61, 39))
    answer = await here.chat(member)
    assert (answer.headers["x-credits-charged"], answer.headers["x-credits-remaining"]) == (
        "9",
        "2491",
    )
    account = await boss.get(f"/api/v1/credits/organization/{org}")
    assert (account["total_credits"], account["held"]) == (9_991, 0)
    here.provider.answer = stream(chunk("Hello"), last(), usage(61, 39), DONE)
    answer, text = await streamed(here, member)
    assert 2_300 < float(answer.headers["x-credits-remaining"]) < 2_491, "not what the org has"
    assert " x-credits-remaining=2482 " in text


async def test_each_answer_tells_what_is_left_of_the_quota(here: Street) -> None:
    ada = await here.rich(10_000)
    admin = await here.admin()
    await admin.post(
        "/v1/admin/tiers", {"subject_type": "user", "subject_id": ada.user_id, "tier": "trial"}
    )
    here.provider.answer = whole()
    headers = (await here.chat(ada)).headers
    assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("700", "699")
    ends_in = int(headers["x-ratelimit-reset"]) - datetime.now(UTC).timestamp()
    assert 29 * 86_400 < ends_in <= 30 * 86_400 + 2
    assert headers["ratelimit"].startswith('"calls";r=699;t=25')
    assert headers["ratelimit-policy"] == '"calls";q=700;w=2592000'


async def test_past_the_quota_a_call_is_refused_and_told_when_it_begins_anew(here: Street) -> None:
    ada = await here.rich(10_000)
    await set_quota(here, ada.user_id, 2)
    here.provider.answer = whole()
    assert [(await here.chat(ada)).status for _ in range(2)] == [200, 200]
    refused = await here.chat(ada)
    assert refused.problem == (429, "quota_exceeded")
    assert 0 < int(refused.headers["retry-after"]) <= 30 * 86_400
    assert refused.headers["x-ratelimit-remaining"] == "0"
    assert refused.headers["x-should-retry"] == "false"
    assert len(here.provider.calls) == 2


async def set_quota(here: Street, user_id: str, calls: int) -> None:
    from faregate.ledger import acts

    await acts.set_quota(here.store, f"user:{user_id}", calls, actor="test", key="quota")


async def test_a_stream_arrives_in_pieces_and_costs_what_its_last_chunk_says(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(
        {**chunk("Hel"), "usage": None}, chunk("lo"), last(), usage(61, 39), DONE
    )
    answer, text = await streamed(here, ada)
    found = frames(text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert text_of(found) == "Hello"
    assert found[-1] == "[DONE]"
    assert not any("usage" in f for f in found[:-1]), "nobody asked for it"
    assert ": x-credits-charged=9 x-credits-remaining=9991 " in text
    assert answer.headers["x-credits-remaining"] < "9991", "the estimate is held at its start"
    assert await here.at_rest(ada) == 9_991
    assert here.provider.call.body["stream_options"] == {"include_usage": True}


async def streamed(here: Street, person: Any, **more: Any) -> tuple[Any, str]:
    body = {"model": "gpt-3.5-turbo", "messages": HELLO, "stream": True, **more}
    headers = {"Authorization": f"Bearer {person.token}"}
    async with here.http.stream("POST", CHAT, json=body, headers=headers) as answer:
        text = b"".join([piece async for piece in answer.aiter_bytes()]).decode()
    return answer, text


async def test_who_asks_for_the_usage_of_a_stream_sees_it(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk("Hello"), last(), usage(61, 39), DONE)
    _, text = await streamed(here, ada, stream_options={"include_usage": True})
    assert frames(text)[-2]["usage"]["completion_tokens"] == 39


async def test_chunks_are_passed_on_as_they_come(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk("Hel"), 0.6, chunk("lo"), last(), usage(1, 1), DONE)
    body = {"model": "gpt-3.5-turbo", "messages": HELLO, "stream": True}
    headers = {"Authorization": f"Bearer {ada.token}"}
    began = asyncio.get_running_loop().time()
    async with here.http.stream("POST", CHAT, json=body, headers=headers) as answer:
        pieces = answer.aiter_bytes()
        assert b"Hel" in await anext(pieces)
        assert asyncio.get_running_loop().time() - began < 0.5
        assert b"lo" in b"".join([piece async for piece in pieces])
    assert await here.at_rest(ada) == 9_999.82


async def test_an_idempotency_key_is_good_for_one_call(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(usage=(61, 39))
    body = {"model": "gpt-3.5-turbo", "messages": HELLO}
    assert (await ada.post(CHAT, body, key="k-1")).status == 200
    again = await ada.post(CHAT, body, key="k-1")
    assert again.problem == (409, "conflict")
    other = await ada.post(CHAT, {**body, "n": 2}, key="k-1")
    assert other.problem == (409, "idempotency_conflict")
    assert len(here.provider.calls) == 1
    assert await here.at_rest(ada) == 9_991


async def test_a_refusal_is_given_again_to_the_same_key(here: Street) -> None:
    ada = await here.rich(1)
    body = {"model": "gpt-3.5-turbo", "messages": HELLO}
    assert (await ada.post(CHAT, body, key="k-1")).problem == (402, "insufficient_credits")
    assert (await ada.post(CHAT, body, key="k-1")).problem == (402, "insufficient_credits")


async def test_what_could_change_the_model_or_its_address_is_not_passed_on(here: Street) -> None:
    ada = await here.rich(1_000)
    for field in ("api_base", "fallbacks", "models", "mock_response", "api_key"):
        refused = await here.chat(ada, **{field: "http://elsewhere.example"})
        assert refused.problem == (400, "validation_failed")
        assert refused["errors"][0]["field"] == field
    assert here.provider.calls == []


async def test_a_request_that_names_two_models_is_refused(here: Street) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = whole(usage=(100, 0))
    twice = (
        b'{"model":"gpt-4","model":"gpt-3.5-turbo","messages":' + json.dumps(HELLO).encode() + b"}"
    )
    answer = await ada.post(CHAT, raw=twice)
    assert answer.problem == (400, "validation_failed")
    assert answer["errors"][0]["field"] == "model"
    assert here.provider.calls == []
    assert await here.at_rest(ada) == 1_000


NO_REQUESTS: list[dict[str, Any]] = [
    {"messages": []},
    {"messages": "hello"},
    {"max_tokens": 0},
    {"max_tokens": 2_000_000},
    {"n": 129},
    {"model": ""},
    {"stream": "perhaps"},
]


async def test_a_request_that_is_none_names_its_field(here: Street) -> None:
    ada = await here.rich(1_000)
    for wrong in NO_REQUESTS:
        refused = await ada.post(CHAT, {"model": "gpt-4", "messages": HELLO, **wrong})
        assert refused.problem == (400, "validation_failed")
        assert refused["errors"][0]["field"] in wrong
    assert here.provider.calls == []


async def test_models_with_a_price_are_listed(here: Street) -> None:
    ada = await here.person()
    for place in ("/v1/models", "/api/v1/llm/models"):
        listed = await ada.get(place)
        assert {"id": "gpt-4", "object": "model", "created": 0, "owned_by": "openai"} in listed[
            "data"
        ]
        assert len(listed["data"]) == 5


async def test_an_inactive_model_is_not_listed_and_not_called(here: Street) -> None:
    from faregate.ledger.pricing import apply_prices

    ada = await here.rich(1_000)
    models = {
        "openai/gpt-4": {"kind": "credits_per_1k", "credits": 480, "active": False},
        "openai/gpt-3.5-turbo": {"kind": "credits_per_1k", "credits": 90},
    }
    await apply_prices(here.store, {"models": models}, None, by="test")
    assert (await here.chat(ada, "gpt-4")).problem == (422, "unknown_price")
    assert [m["id"] for m in (await ada.get("/v1/models"))["data"]] == ["gpt-3.5-turbo"]


async def test_without_an_upstream_there_is_nothing_to_call(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"base_url": None}) as found:
        ada = await found.rich(1_000)
        assert (await found.chat(ada)).problem == (503, "llm_not_configured")
        assert await found.at_rest(ada) == 1_000


async def test_nobody_calls_without_a_token(here: Street) -> None:
    assert (await here.chat(here.nobody)).problem == (401, "unauthenticated")
    assert (await here.nobody.get("/v1/models")).problem == (401, "unauthenticated")


async def test_many_calls_at_once_take_what_they_cost_and_leave_no_hold(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(usage=(61, 39))
    answers = await asyncio.gather(*(here.chat(ada, max_tokens=100) for _ in range(100)))
    assert {a.status for a in answers} == {200}
    assert await here.at_rest(ada) == 10_000 - 100 * 9


async def test_metrics_tell_what_calls_were_charged_by(here: Street) -> None:
    ada = await here.rich(10_000)
    for answer in (whole(), whole(usage=None), whole(usage=None), says(500, {})):
        here.provider.answer = answer
        await here.chat(ada)
    text = here.gateway.metrics.text().decode()
    for charged, count in (("reported", 1), ("estimated", 2), ("nothing", 1)):
        line = f'faregate_llm_calls_total{{charged="{charged}",key="credits"}} {count}.0'
        assert line in text
    assert "faregate_llm_given_up_total 0.0" in text


async def test_an_upstream_that_speaks_of_no_completion_is_an_error(here: Street) -> None:
    ada = await here.rich(1_000)
    for body in (b"<html>", [1], {"error": {"message": "no"}}):
        here.provider.answer = says(200, body)
        assert (await here.chat(ada)).problem == (502, "upstream_error")
    assert await here.at_rest(ada) == 1_000


async def test_a_body_that_does_not_arrive_is_not_waited_for(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, timeout_s=0.5) as found:
        port = int(found.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{{".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        assert answer.startswith(b"HTTP/1.1 408 ")
        writer.close()
