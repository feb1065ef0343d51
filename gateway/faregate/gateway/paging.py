"""Pages and periods of lists: `?limit=&cursor=` and `?from=&to=` (RFC 3339)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query
from pydantic import BeforeValidator

from faregate.events.fields import parse_time

MAX_PAGE = 200


def _whole(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit()):
        raise ValueError("send a whole number")
    return value


def _moment(value: object) -> object:
    return None if value is None else parse_time(value)


Limit = Annotated[
    int, BeforeValidator(_whole), Query(ge=1, le=MAX_PAGE, description="At most so many.")
]
Cursor = Annotated[
    int | None,
    BeforeValidator(_whole),
    Query(ge=1, le=2**62, description="The `next_cursor` of the page before."),
]
From = Annotated[
    datetime | None,
    BeforeValidator(_moment),
    Query(alias="from", description="From this moment on (RFC 3339)."),
]
To = Annotated[
    datetime | None,
    BeforeValidator(_moment),
    Query(alias="to", description="Before this moment (RFC 3339)."),
]
