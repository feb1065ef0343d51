"""What an upstream reports: the tokens of a call, and what it delivered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from faregate.events.fields import ID_MAX_CHARS, find_unsafe
from faregate.gateway.llm.tokens import text_bytes, tokens_of

_MOST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Used:
    """Tokens of a call; `is_reported` tells that the upstream counted them."""

    input_tokens: int
    output_tokens: int
    is_reported: bool


def usage_of(document: Mapping[str, Any]) -> Used | None:
    """Read the usage of an answer or a chunk; None if it says none that can be used."""
    said = document.get("usage")
    if not isinstance(said, Mapping):
        return None
    counts = [said.get("prompt_tokens"), said.get("completion_tokens")]
    if counts[1] is None and isinstance(counts[0], int):
        counts[1] = 0  # some say nothing of an answer without tokens
    if any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c <= _MOST for c in counts):
        return None
    return Used(int(counts[0] or 0), int(counts[1] or 0), is_reported=True)


def estimate(input_tokens: int, delivered_bytes: int) -> Used:
    """Estimate a call from what was sent, and the text that came back."""
    return Used(input_tokens, tokens_of(delivered_bytes), is_reported=False)


def delivered(document: Mapping[str, Any]) -> int:
    """Count the bytes of text in the choices of an answer or a chunk."""
    choices = document.get("choices")
    if not isinstance(choices, list):
        return 0
    return sum(
        text_bytes(choice.get("delta") or choice.get("message") or choice.get("text"))
        for choice in choices
        if isinstance(choice, Mapping)
    )


def is_bare(chunk: Mapping[str, Any]) -> bool:
    """Tell whether a chunk brings nothing of the answer: no text, and no reason for its end."""
    choices = chunk.get("choices") or []
    return not any(
        isinstance(c, Mapping) and (c.get("finish_reason") or c.get("delta")) for c in choices
    )


def reference_of(document: Mapping[str, Any]) -> str | None:
    """Give the id that the answer has, which the caller sees too."""
    found = document.get("id")
    if not isinstance(found, str) or not 0 < len(found) <= ID_MAX_CHARS or find_unsafe(found):
        return None
    return found.strip() or None


def parse(text: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
