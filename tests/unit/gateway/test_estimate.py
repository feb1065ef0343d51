"""What a call is estimated to take before it is made, and what its answer is taken for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faregate.gateway.llm.asked import PAID_FIELDS, ChatRequest, read
from faregate.gateway.llm.rate_headers import written
from faregate.gateway.llm.reported import (
    Used,
    delivered,
    estimate,
    is_bare,
    reference_of,
    usage_of,
)
from faregate.gateway.llm.tokens import PER_IMAGE, prompt_tokens, text_bytes, tokens_of
from faregate.gateway.problems import Problem


def asked(*, byok: bool = False, **more: Any) -> Any:
    document = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **more}
    raw = json.dumps(document).encode()
    return read(ChatRequest(**document), raw, byok=byok, default_max_tokens=100)


def test_three_bytes_are_a_token_rounded_up() -> None:
    assert [tokens_of(n) for n in (0, 1, 3, 4, 300)] == [0, 1, 1, 2, 100]


@given(st.text(max_size=500))
def test_a_prompt_is_never_estimated_below_a_third_of_its_bytes(text: str) -> None:
    tokens = prompt_tokens({"messages": [{"role": "user", "content": text}]})
    assert tokens >= len(text.encode()) / 3


def test_tools_and_formats_are_read_by_the_model_too() -> None:
    bare = {"messages": [{"role": "user", "content": "Hi"}]}
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 300}}]
    assert prompt_tokens({**bare, "tools": tools}) > prompt_tokens(bare) + 100
    assert prompt_tokens({**bare, "response_format": {"s": "x" * 300}}) > prompt_tokens(bare) + 100


def test_an_image_counts_as_one_however_it_is_sent() -> None:
    def with_image(url: str) -> int:
        image = {"type": "image_url", "image_url": {"url": url}}
        return prompt_tokens({"messages": [{"role": "user", "content": [image]}]})

    short, long = with_image("https://example.com/a.png"), with_image("data:," + "A" * 1_000_000)
    assert short == long
    assert PER_IMAGE < short < PER_IMAGE + 100


@pytest.mark.parametrize(
    ("said", "reserved"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"n": 2}, 200),
    ],
)
def test_the_answer_is_reserved_by_its_limit(said: dict[str, Any], reserved: int) -> None:
    assert asked(**said).output_tokens == reserved


def test_a_stream_is_asked_for_its_usage_and_other_options_stay() -> None:
    sent = json.loads(asked(stream=True, stream_options={"include_obfuscation": False}).content)
    assert sent["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert "stream_options" not in json.loads(asked().content)
    assert "stream_options" not in json.loads(asked(stream=True, byok=True).content)


def test_numbers_and_texts_go_upstream_as_they_came() -> None:
    text = "„Grüße“ 🙂 \ud83d"  # with half of a character, as JSON allows
    sent = json.loads(asked(temperature=0.1, seed=2**60, user=text).content)
    assert (sent["temperature"], sent["seed"]) == (0.1, 2**60)
    assert sent["user"] == text
    assert prompt_tokens({"messages": [{"content": text}]}) > 8


@pytest.mark.parametrize("name", ["api_base", "fallbacks", "model_list", "extra_headers", "route"])
def test_credits_pay_for_known_fields_only(name: str) -> None:
    with pytest.raises(Problem, match=name):
        asked(byok=False, **{name: "x"})
    assert json.loads(asked(byok=True, **{name: "x"}).content)[name] == "x"
    assert name not in PAID_FIELDS


def test_usage_is_read_where_it_is_whole() -> None:
    assert usage_of({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}) == Used(
        7, 3, is_reported=True
    )
    assert usage_of({"usage": {"prompt_tokens": 7}}) == Used(7, 0, is_reported=True)
    strange: list[Any] = [
        None,
        [],
        {},
        {"completion_tokens": 3},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
    ]
    for said in strange:
        assert usage_of({"usage": said}) is None


def test_all_text_of_an_answer_counts_and_nothing_else_does() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    delta = {"role": "assistant", "content": "né", "reasoning_content": "hm", "tool_calls": [call]}
    assert text_bytes(delta) == 3 + 2 + 1 + 7
    assert delivered({"choices": [{"delta": {"content": "ab"}}, {"delta": {"content": "c"}}]}) == 3
    assert delivered({"choices": [{"message": {"content": "abc"}}]}) == 3
    strange: list[dict[str, Any]] = [{}, {"choices": None}, {"choices": [None, 7, {}]}]
    assert [delivered(s) for s in strange] == [0, 0, 0]
    assert estimate(10, 7) == Used(10, 3, is_reported=False)


def test_a_chunk_that_only_reports_is_told_from_one_that_brings_something() -> None:
    assert is_bare({"choices": []})
    assert is_bare({"choices": [{"index": 0, "delta": {}}]})  # as LiteLLM reports usage
    assert not is_bare({"choices": [{"delta": {"content": "x"}}]})
    assert not is_bare({"choices": [{"delta": {}, "finish_reason": "stop"}]})


def test_an_answers_id_is_a_reference_if_it_can_be_stored() -> None:
    assert reference_of({"id": "chatcmpl-1"}) == "chatcmpl-1"
    for strange in (None, 7, "", "x" * 5_000, "a\x00b", " "):
        assert reference_of({"id": strange}) is None


def test_rate_headers_are_whole_numbers() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    headers = written(700, 699, now + timedelta(seconds=90.5), now)
    assert headers == {
        "X-RateLimit-Limit": "700",
        "X-RateLimit-Remaining": "699",
        "X-RateLimit-Reset": str(int(now.timestamp()) + 91),
        "RateLimit": '"calls";r=699;t=91',
        "RateLimit-Policy": '"calls";q=700;w=2592000',
    }
