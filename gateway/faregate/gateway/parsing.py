"""Reading request bodies strictly: bounded depth, exact numbers, no NaN (contract: Money)."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

from faregate.gateway.problems import Problem, invalid

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse)


def parse_json(body: bytes, max_depth: int) -> Any:
    """Read a JSON body; numbers with a decimal point become Decimal.

    Raises Problem `validation_failed` for what is not JSON in UTF-8, or nested too deep.
    """
    if body.count(b"{") + body.count(b"[") > max_depth and _depth(body) > max_depth:
        raise invalid("body", f"JSON may be nested at most {max_depth} deep")
    try:
        return _DECODER.decode(body.decode("utf-8"))
    except RecursionError:
        raise invalid("body", f"JSON may be nested at most {max_depth} deep") from None
    except ValueError as error:
        raise invalid("body", f"not valid JSON: {_said(error)}") from None


def _said(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "it must be UTF-8" if isinstance(error, UnicodeError) else str(error)


def _depth(body: bytes) -> int:
    """Count how deep brackets are nested, those within texts left out."""
    depth = deepest = 0
    for byte in _TEXT.sub(b"", body):
        if byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest


def too_large(limit: int) -> Problem:
    """Give the problem of a body beyond `limit` bytes."""
    return Problem("body_too_large", f"A body may have at most {limit:,} bytes.")
