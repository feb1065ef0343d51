"""The field types that event payloads are made of, each with its JSON Schema."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema

ID_MAX_CHARS = 200
_EXACT_CREDITS = 2**53 / 1_000_000

# C0, DEL and C1; ALM; zero width space, (non-)joiner, LRM and RLM; line separators and bidi
# embeddings; word joiner; bidi isolates; BOM. They make two ids look alike, turn a line of a log
# around, or (NUL) cannot be stored at all. Written with escapes that Python, Rust and ECMA share.
UNSAFE_CHARACTERS = (
    r"\u0000-\u001F\u007F-\u009F\u061C\u200B-\u200F\u2028-\u202E\u2060\u2066-\u2069\uFEFF"
)
ID_PATTERN = rf"^[^\s{UNSAFE_CHARACTERS}]([^{UNSAFE_CHARACTERS}]*[^\s{UNSAFE_CHARACTERS}])?$"
ID_RULE = (
    f"1 to {ID_MAX_CHARS} characters, without control, zero-width or text-direction characters "
    "and without blanks at either end"
)
find_unsafe = re.compile(f"[{UNSAFE_CHARACTERS}\ud800-\udfff]").search
"""Finds the first character that no identifier may hold (lone surrogates included), or None."""


def is_id(text: str) -> bool:
    """Tell whether `text` is an identifier by `ID_RULE`."""
    return 1 <= len(text) <= ID_MAX_CHARS and text == text.strip() and not find_unsafe(text)


# RFC 3339, section 5.6. datetime.fromisoformat alone takes more (dates, weeks, no offset).
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
).fullmatch

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
"""To the database's driver they are minus infinity and infinity: they come back without an offset."""


def parse_time(value: object) -> datetime:
    """Read an RFC 3339 string, or a timezone-aware datetime, as a datetime in UTC.

    Raises ValueError for anything else: naive times, numbers, dates that do not exist.
    Digits beyond the microsecond are cut off.
    """
    if isinstance(value, str) and _RFC_3339(value):
        moment = datetime.fromisoformat(value.upper())
    elif not isinstance(value, datetime):
        raise ValueError('send an RFC 3339 time with an offset, e.g. "2025-06-01T12:00:00Z"')
    elif value.utcoffset() is None:
        raise ValueError("the time needs an offset, e.g. datetime.now(UTC)")
    else:
        moment = value
    if moment.tzinfo is not UTC:
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            raise ValueError("the time is outside of the years 1 to 9999 in UTC") from None
    inside = _FIRST.year < moment.year < _LAST.year  # quicker than to compare the moments
    if not inside and not _FIRST < moment < _LAST:
        raise ValueError("the first and the last microsecond of the calendar cannot be kept")
    return moment


def _check_amount(value: object, *, signed: bool) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("send the amount as a number")  # noqa: TRY004 - pydantic wants ValueError
    if not -_EXACT_CREDITS <= value <= _EXACT_CREDITS:  # NaN and infinities end here as well
        raise ValueError("the amount must be finite and below 9 * 10^9 credits")
    if round(value, 6) != value:
        raise ValueError("the amount may have at most 6 decimals; use amounts.to_credits")
    if value < 0 and not signed:
        raise ValueError("the amount must not be negative")
    return value


def _check_credits(value: object) -> object:
    return _check_amount(value, signed=False)


def _check_signed_credits(value: object) -> object:
    return _check_amount(value, signed=True)


def _absent_is_false(value: object) -> object:
    return False if value is None else value


Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_MAX_CHARS, pattern=ID_PATTERN)]
"""An identifier given by somebody else: see `ID_RULE`."""

Name = Annotated[str, StringConstraints(min_length=1)]
"""A name that Faregate announces; it was checked when it came in."""

Account = Name
"""Whose credits: `org:<id>` or `user:<id>`."""

Timestamp = Annotated[datetime, BeforeValidator(parse_time)]
"""A moment in UTC; an RFC 3339 string in JSON."""

Flag = Annotated[
    bool,
    BeforeValidator(_absent_is_false),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
]
"""A boolean that is false when null."""

_AMOUNT: dict[str, Any] = {
    "type": "number",
    "description": "Credits, at most 6 decimals.",
}
Credits = Annotated[
    int | float, BeforeValidator(_check_credits), WithJsonSchema({**_AMOUNT, "minimum": 0})
]
"""Credits as a JSON number, 0 or more, at most 6 decimals. Build it with `to_credits`."""

SignedCredits = Annotated[
    int | float, BeforeValidator(_check_signed_credits), WithJsonSchema(_AMOUNT)
]
"""Credits as a JSON number with a sign, at most 6 decimals. Build it with `to_credits`."""

Items = Annotated[int, Field(ge=1, le=1_000_000)]
Units = Annotated[int, Field(ge=1, le=1_000_000_000)]
Tokens = Annotated[int, Field(ge=0, le=1_000_000_000)]
Count = Annotated[int, Field(ge=0)]
