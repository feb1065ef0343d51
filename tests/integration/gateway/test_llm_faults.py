"""What a call costs when something goes wrong, and that no hold is ever left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from tests.helpers.locks import account_locked
from tests.integration.gateway.calling import Person
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
    CUT,
    DONE,
    chunk,
    cut_in_half,
    last,
    says,
    stream,
    usage,
    whole,
)

from faregate.consumers.sweeper import Sweeper, SweeperSettings
from faregate.gateway.llm.tokens import prompt_tokens, tokens_of
from faregate.ledger.core import Rules
from faregate.ledger.store import Unavailable, open_store

pytestmark = pytest.mark.stack

PER_TOKEN = 0.09
TEXT = "Once upon a time there was a ledger that never lost a credit. " * 4
PROMPT = prompt_tokens({"messages": HELLO})


def estimated(text: str) -> float:
    """The price of the prompt and so much text, by our own count."""
    return round((PROMPT + tokens_of(len(text.encode()))) * PER_TOKEN, 6)


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"timeout_s": 1.5}) as found:
        yield found


async def streamed(here: Street, person: Person) -> tuple[int, str]:
    body = {"model": "gpt-3.5-turbo", "messages": HELLO, "stream": True}
    headers = {"Authorization": f"Bearer {person.token}"}
    async with here.http.stream("POST", CHAT, json=body, headers=headers) as answer:
        text = b"".join([piece async for piece in answer.aiter_bytes()]).decode()
        return answer.status_code, text


async def test_without_usage_the_estimate_of_what_was_sent_and_received_is_charged(
    here: Street,
) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(TEXT, usage=None)
    answer = await here.chat(ada)
    assert answer.status == 200
    assert float(answer.headers["x-credits-charged"]) == estimated(TEXT)
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT), 6)


async def test_a_stream_without_usage_is_charged_by_its_text(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), chunk(TEXT), last(), DONE)
    _, text = await streamed(here, ada)
    assert frames(text)[-1] == "[DONE]"
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT + TEXT), 6)


async def test_usage_that_is_no_count_is_none(here: Street) -> None:
    ada = await here.rich(10_000)
    strange: list[Any] = [{"prompt_tokens": -5, "completion_tokens": 1}, {"prompt_tokens": "7"}, []]
    for said in strange:
        before = await here.at_rest(ada)
        body = {"choices": [{"message": {"content": TEXT}}], "usage": said}
        here.provider.answer = says(200, body)
        answer = await here.chat(ada)
        assert float(answer.headers["x-credits-charged"]) == estimated(TEXT)
        assert await here.at_rest(ada) == round(before - estimated(TEXT), 6)


async def test_a_stream_that_is_cut_is_charged_for_what_was_delivered(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), chunk(TEXT), CUT)
    status, text = await streamed(here, ada)
    found = frames(text)
    assert status == 200
    assert text_of(found) == TEXT + TEXT
    assert found[-1]["error"]["code"] == "upstream_error", "it is not mistaken for the end"
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT + TEXT), 6)
    entry = await here.newest(ada)
    assert (entry["input_tokens"], entry["output_tokens"]) == (PROMPT, tokens_of(len(TEXT) * 2))


async def test_a_stream_that_ends_without_its_end_was_cut(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT))
    _, text = await streamed(here, ada)
    assert "error" in frames(text)[-1]
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT), 6)


async def test_a_stream_cut_after_its_usage_costs_what_that_says(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), last(), usage(61, 39), CUT)
    await streamed(here, ada)
    assert await here.at_rest(ada) == 9_991


async def test_an_error_in_the_middle_of_a_stream_is_a_cut(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), {"error": {"message": "overloaded"}}, DONE)
    _, text = await streamed(here, ada)
    assert "error" in frames(text)[-1]
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT), 6)


async def test_a_stream_that_stops_coming_ends_with_the_time_of_the_call(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), 30, chunk(TEXT), DONE)
    _, text = await asyncio.wait_for(streamed(here, ada), 10)
    assert "error" in frames(text)[-1]
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT), 6)


async def test_a_stream_that_goes_on_and_on_ends_with_the_time_of_the_call(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(*[part for _ in range(200) for part in (chunk("more "), 0.1)])
    _, text = await asyncio.wait_for(streamed(here, ada), 10)
    found = frames(text)
    assert "error" in found[-1]
    assert await here.at_rest(ada) == round(10_000 - estimated(text_of(found)), 6)


async def test_a_caller_who_leaves_a_stream_pays_for_what_was_delivered(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = stream(chunk(TEXT), chunk(TEXT), 1.2, *[chunk(TEXT)] * 50, DONE)
    body = {"model": "gpt-3.5-turbo", "messages": HELLO, "stream": True}
    headers = {"Authorization": f"Bearer {ada.token}"}
    async with here.http.stream("POST", CHAT, json=body, headers=headers) as answer:
        seen = 0
        async for piece in answer.aiter_bytes():
            seen += piece.count(b"data:")
            if seen == 2:
                break
    assert await here.at_rest(ada) == round(10_000 - estimated(TEXT + TEXT), 6)
    await asyncio.wait_for(here.provider.left.wait(), 5)  # upstream is not asked for more


async def test_a_caller_who_does_not_wait_for_an_answer_is_charged_for_it(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(usage=(61, 39), after_s=0.6)
    body = json.dumps({"model": "gpt-3.5-turbo", "messages": HELLO}).encode()
    port = int(here.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ada.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    while not here.provider.calls:
        await asyncio.sleep(0.02)
    writer.close()
    assert await here.at_rest(ada) == 9_991


@pytest.mark.parametrize("status", [500, 503, 401, 403, 302, 418])
async def test_an_upstream_that_fails_costs_nothing(here: Street, status: int) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = says(status, {"error": {"message": f"bad key {UPSTREAM_KEY}"}})
    failed = await here.chat(ada)
    assert failed.problem == (502, "upstream_error")
    assert failed["upstream_status"] == status
    assert UPSTREAM_KEY not in str(failed.json)
    assert await here.at_rest(ada) == 10_000


async def test_what_is_wrong_with_the_request_is_said_in_the_upstreams_words(here: Street) -> None:
    ada = await here.rich(10_000)
    for status in (400, 404, 422):
        said = {"error": {"message": f"max_tokens is too large, says {UPSTREAM_KEY}"}}
        here.provider.answer = says(status, said)
        refused = await here.chat(ada)
        assert refused.problem == (400, "upstream_refused")
        assert "max_tokens is too large, says ***" in refused["detail"]
    assert await here.at_rest(ada) == 10_000


async def test_a_busy_upstream_is_waited_for(here: Street) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = says(429, {}, retry_after="17")
    refused = await here.chat(ada)
    assert refused.problem == (429, "rate_limited")
    assert refused.headers["retry-after"] == "17"
    assert await here.at_rest(ada) == 10_000


async def test_an_upstream_that_takes_too_long_costs_nothing(here: Street) -> None:
    ada = await here.rich(10_000)
    for slow in (whole(after_s=30), stream(30, chunk(TEXT), DONE)):
        here.provider.answer = slow
        assert (await here.chat(ada)).problem == (504, "upstream_timeout")
        assert await here.at_rest(ada) == 10_000


async def test_an_answer_that_breaks_off_before_anything_was_delivered_costs_nothing(
    here: Street,
) -> None:
    ada = await here.rich(10_000)
    for broken in (
        cut_in_half(TEXT),
        stream(CUT),
        stream(),
        stream(DONE),
        stream({"error": {"message": "no"}}),
        stream("no json"),
    ):
        here.provider.answer = broken
        assert (await here.chat(ada)).problem == (502, "upstream_error")
        assert await here.at_rest(ada) == 10_000


async def test_an_upstream_that_is_not_there_costs_nothing(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"base_url": "http://127.0.0.1:9"}) as found:
        ada = await found.rich(10_000)
        assert (await found.chat(ada)).problem == (502, "upstream_error")
        assert await found.at_rest(ada) == 10_000


async def test_a_call_is_charged_once_the_database_is_back(
    here: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await here.rich(10_000)
    here.provider.answer = whole(usage=(61, 39), after_s=0.3)
    calling = asyncio.create_task(here.chat(ada))
    while not here.provider.calls:
        await asyncio.sleep(0.02)
    answer, away = here.gateway.store.answer, 3

    async def flaky(submissions: Any) -> Any:
        nonlocal away
        away -= 1
        if away >= 0:
            raise Unavailable("away")
        return await answer(submissions)

    monkeypatch.setattr(here.gateway.store, "answer", flaky)
    assert (await calling).headers["x-credits-charged"] == "9"
    assert await here.at_rest(ada) == 9_991


async def test_a_process_that_ends_charges_the_streams_it_has_begun(pool: asyncpg.Pool) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"timeout_s": 60}) as found:
        ada = await found.rich(10_000)
        found.provider.answer = stream(chunk(TEXT), 50, DONE)
        reading = asyncio.create_task(streamed(found, ada))
        while not found.provider.calls:
            await asyncio.sleep(0.02)
        await asyncio.sleep(1.0)
        await found.gateway.llm.close()
        assert await found.at_rest(ada) == round(10_000 - estimated(TEXT), 6)
        assert "error" in frames((await reading)[1])[-1]


async def test_a_process_that_ends_charges_nothing_for_answers_that_have_not_come(
    pool: asyncpg.Pool,
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, {"timeout_s": 60}) as found:
        ada = await found.rich(10_000)
        found.provider.answer = whole(after_s=50)
        calling = asyncio.create_task(found.chat(ada))
        while not found.provider.calls:
            await asyncio.sleep(0.02)
        await found.gateway.llm.close()
        assert (await calling).problem == (503, "check_unavailable")
        assert await found.at_rest(ada) == 10_000


async def test_the_hold_of_a_killed_process_is_released_by_the_sweeper(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(pool, Rules(provisioning="manual", grace=timedelta(0)))
    async with street(store, {"timeout_s": 0.5, "hold_margin_s": 0.5}) as found:
        ada = await found.rich(10_000)
        found.provider.answer = whole(after_s=30)

        async def dead(*_: object) -> None:
            """A process that is gone releases nothing."""

        monkeypatch.setattr("faregate.gateway.llm.money.Fare.release", dead)
        calling = asyncio.create_task(found.chat(ada))
        while not found.provider.calls:
            await asyncio.sleep(0.02)
        assert await found.held(ada) > 0
        sweeper = Sweeper(store, SweeperSettings(0.1))
        sweeping = asyncio.create_task(sweeper.run())
        assert await found.at_rest(ada) == 10_000
        sweeper.stop()
        await sweeping
        await calling


async def test_a_call_that_is_turned_away_leaves_nothing_to_release(
    pool: asyncpg.Pool,
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    async with street(store, max_waiting_about_one=1) as here:
        ada = await here.rich(100)
        async with asyncio.TaskGroup() as calls, account_locked(pool, f"user:{ada.user_id}"):
            spend = {"credits": 1, "reference": "r"}
            queue = here.gateway.store
            calls.create_task(ada.post("/api/v1/credits/deduct", spend))
            while not any(lane.is_apart for lane in queue._lanes.values()):
                await asyncio.sleep(0.01)
            calls.create_task(ada.post("/api/v1/credits/deduct", spend))
            while not queue._size:
                await asyncio.sleep(0.01)
            refused = await here.chat(ada)
            assert refused.problem == (503, "check_unavailable")
            assert not here.gateway.llm._tasks
