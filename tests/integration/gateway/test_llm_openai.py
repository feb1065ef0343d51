"""The official `openai` client, unchanged: only its base URL and key are ours."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from tests.integration.gateway.calling import Person
from tests.integration.gateway.llm_world import Street, street
from tests.integration.gateway.provider import (
    CUT,
    DONE,
    chunk,
    last,
    says,
    stream,
    usage,
    whole,
)

from faregate.ledger import acts
from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = pytest.mark.stack

ASKED: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Say hello."}]
MODEL = "gpt-3.5-turbo"


@pytest.fixture
async def here(pool: asyncpg.Pool) -> AsyncIterator[Street]:
    async with street(await open_store(pool, Rules(provisioning="manual"))) as found:
        yield found


def client(here: Street, person: Person) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key=person.token or "")


async def test_a_completion(here: Street) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = whole("Hello", usage=(61, 39))
    async with client(here, ada) as ai:
        raw = await ai.chat.completions.with_raw_response.create(model=MODEL, messages=ASKED)
        answer = raw.parse()
        assert answer.choices[0].message.content == "Hello"
        assert answer.usage is not None
        assert answer.usage.total_tokens == 100
        assert raw.headers["x-credits-charged"] == "9"
    assert await here.at_rest(ada) == 991


async def test_a_stream(here: Street) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = stream(chunk("Hel"), chunk("lo"), last(), usage(61, 39), DONE)
    async with client(here, ada) as ai:
        chunks = await ai.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        text = "".join([c.choices[0].delta.content or "" async for c in chunks])
        assert text == "Hello"
        asked = await ai.chat.completions.create(
            model=MODEL, messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        *_, end = [c async for c in asked]
        assert end.usage is not None
        assert end.usage.completion_tokens == 39
    assert await here.at_rest(ada) == 982


async def test_a_stream_that_breaks_off_is_an_error_there(here: Street) -> None:
    ada = await here.rich(1_000)
    here.provider.answer = stream(chunk("Hel"), CUT)
    async with client(here, ada) as ai:
        chunks = await ai.chat.completions.create(model=MODEL, messages=ASKED, stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            [c async for c in chunks]


async def test_the_list_of_models(here: Street) -> None:
    ada = await here.person()
    async with client(here, ada) as ai:
        assert MODEL in [m.id async for m in ai.models.list()]


async def test_errors_are_the_clients_own(here: Street) -> None:
    ada = await here.rich(10)
    here.provider.answer = whole(usage=(1, 1))

    async def failure(person: Person, model: str = MODEL) -> openai.APIStatusError:
        async with client(here, person) as ai:
            with pytest.raises(openai.APIStatusError) as caught:
                await ai.chat.completions.create(model=model, messages=ASKED)
        return caught.value

    stranger = Person(here.http, "no-token")
    assert isinstance(await failure(stranger), openai.AuthenticationError)
    unpriced = await failure(ada, "gpt-17")
    assert isinstance(unpriced, openai.UnprocessableEntityError)
    assert unpriced.code == "unknown_price"
    poor = await failure(ada)
    assert (poor.status_code, poor.code) == (402, "insufficient_credits")
    assert here.provider.calls == []

    await here.set_balance(f"user:{ada.user_id}", 1_000)
    here.provider.answer = says(400, {"error": {"message": "no such tool"}})
    assert isinstance(await failure(ada), openai.BadRequestError)
    here.provider.answer = says(500, {})
    before = len(here.provider.calls)
    assert isinstance(await failure(ada), openai.InternalServerError)
    assert len(here.provider.calls) == before + 3, "the client tries such errors again"


async def test_a_quota_that_is_used_up_is_not_tried_again(here: Street) -> None:
    ada = await here.rich(1_000)
    await acts.set_quota(here.store, f"user:{ada.user_id}", 1, actor="test", key="quota")
    here.provider.answer = whole(usage=(1, 1))
    async with client(here, ada) as ai:
        await ai.chat.completions.create(model=MODEL, messages=ASKED)
        with pytest.raises(openai.RateLimitError) as caught:
            await ai.chat.completions.create(model=MODEL, messages=ASKED)
    assert caught.value.code == "quota_exceeded"
    assert caught.value.response.headers["x-ratelimit-remaining"] == "0"
    assert len(here.provider.calls) == 1
