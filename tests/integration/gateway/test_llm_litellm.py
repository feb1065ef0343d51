"""Behind a real LiteLLM proxy: what it reports as usage is what is charged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from pydantic import SecretStr
from tests.helpers.litellm import LiteLLM, litellm
from tests.integration.gateway.calling import Person
from tests.integration.gateway.llm_world import Street, street

from faregate.ledger.core import Rules
from faregate.ledger.store import open_store

pytestmark = [pytest.mark.stack, pytest.mark.litellm, pytest.mark.timeout(600)]

ASKED: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Say hello."}]
POEM = "Roses are red, ledgers are true; whoever spends credits, the entries know who."


def reporting(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    """A model whose answer has this usage, whatever it says."""
    message = {"role": "assistant", "content": "Hello"}
    return {
        "mock_response": {
            "id": "chatcmpl-odd",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": input_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": input_tokens + output_tokens,
            },
        }
    }


@pytest.fixture(scope="module")
def proxy() -> Iterator[LiteLLM]:
    models = {
        "gpt-3.5-turbo": reporting(137, 41),
        "gpt-4o-mini": reporting(1_001, 333),
        "gpt-4": {"mock_response": POEM},
        "gpt-4-turbo": {"mock_response": "litellm.RateLimitError"},
        "claude-3-sonnet": {"mock_response": "litellm.InternalServerError"},
    }
    with litellm(models) as running:
        yield running


@pytest.fixture
async def here(pool: asyncpg.Pool, proxy: LiteLLM) -> AsyncIterator[Street]:
    store = await open_store(pool, Rules(provisioning="manual"))
    settings = {"base_url": proxy.url, "api_key": SecretStr(proxy.key)}
    async with street(store, settings) as found:
        yield found


def client(here: Street, person: Person) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{here.url}/v1", api_key=person.token or "", max_retries=0, timeout=60
    )


async def test_odd_token_counts_are_charged_to_the_last_one(here: Street) -> None:
    ada = await here.rich(1_000)
    async with client(here, ada) as ai:
        answer = await ai.chat.completions.create(model="gpt-3.5-turbo", messages=ASKED)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (137, 41)
    assert await here.at_rest(ada) == round(1_000 - 178 * 0.09, 6)
    entry = await here.newest(ada)
    assert (entry["amount"], entry["input_tokens"], entry["output_tokens"]) == (-16.02, 137, 41)


async def test_a_vendors_price_is_rounded_up_to_the_increment(here: Street) -> None:
    ada = await here.rich(1_000)
    answer = await here.chat(ada, "gpt-4o-mini")
    assert answer["usage"]["total_tokens"] == 1_334
    assert answer.headers["x-credits-charged"] == "0.1", "0.0524925 before it"


async def test_a_stream_is_charged_by_its_last_chunk(here: Street) -> None:
    ada = await here.rich(10_000)
    async with client(here, ada) as ai:
        chunks = await ai.chat.completions.create(
            model="gpt-4", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
        found = [c async for c in chunks]
    said = "".join(c.choices[0].delta.content or "" for c in found if c.choices)
    usage = found[-1].usage
    assert said == POEM
    assert usage is not None
    assert usage.completion_tokens > 10
    assert await here.at_rest(ada) == round(10_000 - usage.total_tokens * 0.48, 6)


async def test_who_did_not_ask_for_the_usage_of_a_stream_pays_by_it_all_the_same(
    here: Street,
) -> None:
    ada = await here.rich(10_000)
    async with client(here, ada) as ai:
        chunks = await ai.chat.completions.create(model="gpt-4", messages=ASKED, stream=True)
        found = [c async for c in chunks]
    assert [c.usage for c in found] == [None] * len(found)
    entry = await here.newest(ada)
    tokens = entry["input_tokens"] + entry["output_tokens"]
    assert await here.at_rest(ada) == round(10_000 - tokens * 0.48, 6)


async def test_its_errors_cost_nothing(here: Street) -> None:
    ada = await here.rich(10_000)
    assert (await here.chat(ada, "claude-3-sonnet")).problem == (502, "upstream_error")
    assert (await here.chat(ada, "gpt-4-turbo")).problem == (429, "rate_limited")
    assert await here.at_rest(ada) == 10_000


async def test_a_wrong_key_of_ours_is_not_the_callers_fault(
    pool: asyncpg.Pool, proxy: LiteLLM
) -> None:
    store = await open_store(pool, Rules(provisioning="manual"))
    wrong = {"base_url": proxy.url, "api_key": SecretStr("sk-wrong-key-of-the-installation")}
    async with street(store, wrong) as found:
        ada = await found.rich(1_000)
        refused = await found.chat(ada)
        assert refused.problem == (502, "upstream_error")
        assert "sk-wrong" not in str(refused.json)
        assert await found.at_rest(ada) == 1_000
