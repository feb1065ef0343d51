"""What a caller asks of a model: the request, what may be in it, and its estimate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictBool

from faregate.gateway.fields import Body, Id, Whole
from faregate.gateway.llm.tokens import prompt_tokens
from faregate.gateway.problems import invalid

MOST_TOKENS = 1_000_000
_MOST_CHOICES = 128

PAID_FIELDS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "min_p",
        "modalities",
        "model",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "thinking",
        "tool_choice",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
"""What a call that platform credits pay for may say. Upstreams understand more, such as another
model to fall back to or another address: the price would be that of the model asked for."""

Limit = Annotated[Whole, Field(ge=1, le=MOST_TOKENS)]


class ChatRequest(Body):
    """A chat completion, as OpenAI has it; what is not named here goes upstream as it is."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Id
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    stream: StrictBool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n: Annotated[Whole, Field(ge=1, le=_MOST_CHOICES)] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A call: what goes upstream, and what it is estimated to take."""

    model: str
    content: bytes
    shows_usage: bool
    """Whether the caller wants a streamed answer to end with its usage."""
    input_tokens: int
    output_tokens: int


def read(body: ChatRequest, raw: bytes, *, byok: bool, default_max_tokens: int) -> Asked:
    """Make the call of a request that was checked; `raw` is its text.

    It is written anew, so that an upstream reads the same as we did. Raises Problem
    `validation_failed` for a field that platform credits do not pay for.
    """
    document: dict[str, Any] = json.loads(raw)
    if not byok:
        _only_paid_fields(document)
    shows_usage = bool((body.stream_options or {}).get("include_usage"))
    if body.stream and not byok:
        document["stream_options"] = {**(body.stream_options or {}), "include_usage": True}
    longest = body.max_completion_tokens or body.max_tokens or default_max_tokens
    return Asked(
        body.model,
        json.dumps(document).encode(),
        shows_usage or byok,
        prompt_tokens(document),
        longest * (body.n or 1),
    )


def _only_paid_fields(document: Mapping[str, Any]) -> None:
    unknown = next((name for name in document if name not in PAID_FIELDS), None)
    if unknown is not None:
        raise invalid(unknown[:100], "this field is not passed on in calls that credits pay for")
