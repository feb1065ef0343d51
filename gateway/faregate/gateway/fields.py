"""The types of fields in requests and answers, each with its JSON Schema."""

from __future__ import annotations

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, TypeGuard

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from faregate.events.amounts import parse_credits, to_credits
from faregate.events.fields import ID_MAX_CHARS, Id, Timestamp, find_unsafe

_EMAIL = re.compile(r"[^\s@\"<>(),:;\\\[\]]{1,64}@(?:[\w-]{1,63}\.)*[\w-]{1,63}")
_EMAIL_CHARS = 254
_AMOUNT: dict[str, Any] = {
    "type": "number",
    "exclusiveMinimum": 0,
    "exclusiveMaximum": 1_000_000_000,
    "description": "Credits, at most 6 decimals.",
}


def _positive(value: object) -> int:
    return parse_credits(value)


def _zero_allowed(value: object) -> int:
    return parse_credits(value, allow_zero=True)


def is_email(value: object) -> TypeGuard[str]:
    """Tell whether something is an e-mail address, without characters that cannot be seen."""
    form = isinstance(value, str) and len(value) <= _EMAIL_CHARS and _EMAIL.fullmatch(value)
    return bool(form and not find_unsafe(str(value)))


def _email(value: object) -> str:
    if not is_email(value):
        raise ValueError(
            "write an e-mail address such as ada@example.com, without invisible characters"
        )
    return value


def _text(value: object) -> object:
    if isinstance(value, str) and find_unsafe(value.replace("\n", " ").replace("\t", " ")):
        raise ValueError("control, zero-width and text-direction characters are not allowed")
    return value


def _whole(value: object) -> object:
    """Take 100 and 100.0 for a whole number; refuse booleans and texts."""
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return int(value) if abs(value) < 10**12 else value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("send a whole number")  # noqa: TRY004 - pydantic wants ValueError
    return value


Amount = Annotated[int, BeforeValidator(_positive), WithJsonSchema(_AMOUNT)]
"""Credits above 0 in a request; micro-credits inside."""

AmountOrZero = Annotated[
    int,
    BeforeValidator(_zero_allowed),
    WithJsonSchema({**{k: v for k, v in _AMOUNT.items() if k[:3] != "exc"}, "minimum": 0}),
]
"""Credits, 0 allowed, in a request; micro-credits inside."""

Email = Annotated[
    str,
    BeforeValidator(_email),
    WithJsonSchema({"type": "string", "format": "email", "maxLength": _EMAIL_CHARS}),
]

Text = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=ID_MAX_CHARS)]
"""A name or a short remark."""

Note = Annotated[str, BeforeValidator(_text), Field(min_length=1, max_length=2000)]

Tokens = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=1_000_000_000)]

Seconds = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=86_400)]

Days = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=36_500)]

Whole = Annotated[int, BeforeValidator(_whole)]

Credits = Annotated[
    int,
    PlainSerializer(to_credits, return_type=float | int),
    WithJsonSchema({"type": "number", "description": "Credits, at most 6 decimals."}),
]
"""Micro-credits inside, credits in an answer."""

Number = Annotated[
    float | int,
    WithJsonSchema({"type": "number", "description": "Credits, at most 6 decimals."}),
]
"""Credits in an answer, as `to_credits` gives them."""


class Body(BaseModel):
    """A request body: unknown fields are ignored, so that newer clients go on working."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Answer(BaseModel):
    """An answer's body."""

    model_config = ConfigDict(serialize_by_alias=True, populate_by_name=True)


__all__ = [
    "Amount",
    "AmountOrZero",
    "Answer",
    "Body",
    "Credits",
    "Days",
    "Email",
    "Id",
    "Note",
    "Number",
    "Seconds",
    "Text",
    "Timestamp",
    "Tokens",
    "Whole",
    "datetime",
    "is_email",
]
