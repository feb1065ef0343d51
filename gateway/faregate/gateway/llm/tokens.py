"""How many tokens a text has, without a tokenizer: one for every three bytes, rounded up.

English takes about one token for four bytes and other scripts about one for three, so this is an
upper bound for most texts. The same rule reserves for a prompt and charges for what an upstream
delivered without saying its usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BYTES_PER_TOKEN = 3
PER_MESSAGE = 8
"""For the role of a message and what separates it from the next one."""
PER_IMAGE = 1_600
"""An image costs tokens by its size, not by the bytes that it is sent in."""

_ASKED = ("messages", "tools", "functions", "response_format")
_NO_TEXT = frozenset({"role", "type", "id", "index", "object", "finish_reason"})


def tokens_of(size: int) -> int:
    """Give the tokens of a text of `size` bytes."""
    return -(-size // BYTES_PER_TOKEN)


def prompt_tokens(document: Mapping[str, Any]) -> int:
    """Estimate the tokens of a request: everything that the model is given to read."""
    images = sum(1 for _ in _images(document.get("messages")))
    size = sum(
        len(
            json.dumps(_without_images(document[name]), ensure_ascii=False).encode(
                "utf-8", "surrogatepass"
            )
        )
        for name in _ASKED
        if document.get(name) is not None
    )
    messages = document.get("messages")
    count = len(messages) if isinstance(messages, list) else 0
    return tokens_of(size) + PER_MESSAGE * count + PER_IMAGE * images


def text_bytes(part: object) -> int:
    """Count the bytes of all texts in a part of an answer: content, reasoning, tool calls."""
    if isinstance(part, str):
        return len(part.encode("utf-8", "surrogatepass"))
    if isinstance(part, Mapping):
        return sum(text_bytes(v) for k, v in part.items() if k not in _NO_TEXT)
    if isinstance(part, Sequence) and not isinstance(part, bytes):
        return sum(text_bytes(item) for item in part)
    return 0


def _is_image(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") in {"image_url", "input_image", "image"}


def _images(value: object) -> Iterator[object]:
    if _is_image(value):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _images(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _images(inner)


def _without_images(value: Any) -> Any:
    if _is_image(value):
        return {"type": "image"}
    if isinstance(value, dict):
        return {name: _without_images(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_images(inner) for inner in value]
    return value
