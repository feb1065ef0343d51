"""Reading request bodies strictly: bounded depth, exact numbers, no NaN (contract: Money).

What is checked before it is parsed costs time in proportion to the body, whatever is in it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

from faregate.gateway.problems import Problem, invalid

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A text, or what begins one and never ends: so no byte is looked at twice."""
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(sorted(set(range(256)) - set(b"[]{}")))
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")
"""May be half of a surrogate pair; only escapes can bring one into UTF-8."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_SHOWN = 100
_MAX_DIGITS = 100
"""Of one number, sign, point and exponent included: a double needs 25."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _decimal(text: str) -> Decimal:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number may have at most {_MAX_DIGITS} digits")
    try:
        return Decimal(text)
    except InvalidOperation:
        raise ValueError("a number has an exponent that is out of range") from None


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number may have at most {_MAX_DIGITS} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):  # readers differ on which of them counts
        names = Counter(name for name, _ in pairs)
        raise invalid(names.most_common(1)[0][0][:_SHOWN], "the name stands twice in one object")
    return made


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_decimal, parse_int=_integer, parse_constant=_refuse
)


def parse_json(body: bytes, max_depth: int) -> Any:
    """Read a JSON body; numbers with a decimal point become Decimal.

    Raises Problem `validation_failed` for what is not JSON in UTF-8 or is nested too deep, for
    names that stand twice in an object, numbers of more than 100 digits, and lone surrogates.
    """
    if body.count(b"{") + body.count(b"[") > max_depth and _is_deeper(body, max_depth):
        raise invalid("body", f"JSON may be nested at most {max_depth} deep")
    try:
        found = _DECODER.decode(body.decode("utf-8"))
        half = _half(found) if _HALF_PAIR.search(body) else None
    except RecursionError:
        raise invalid("body", f"JSON may be nested at most {max_depth} deep") from None
    except ValueError as error:
        raise invalid("body", f"not valid JSON: {_said(error)}") from None
    if half is not None:
        raise invalid(half[:_SHOWN] or "body", "the text has half of a surrogate pair")
    return found


def _half(value: Any, place: str = "") -> str | None:
    """Find the first text with half of a surrogate pair: where it is, or None."""
    if isinstance(value, str):
        return place if _SURROGATE.search(value) else None
    if isinstance(value, dict):
        inner = [(f"{place}.{name}".lstrip("."), name, one) for name, one in value.items()]
        wrong = (place if _SURROGATE.search(n) else _half(one, at) for at, n, one in inner)
    elif isinstance(value, list):
        wrong = (_half(one, f"{place}.{n}".lstrip(".")) for n, one in enumerate(value))
    else:
        return None
    return next((found for found in wrong if found is not None), None)


def _said(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return "it must be UTF-8" if isinstance(error, UnicodeError) else str(error)


def _is_deeper(body: bytes, max_depth: int) -> bool:
    """Tell whether brackets are nested deeper, those within texts left out.

    Each round takes the innermost pairs out. Brackets that do not match are the parser's to find.
    """
    left = _TEXT.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(max_depth):
        inner = left.replace(b"[]", b"")
        if len(inner) == len(left):
            return False
        left = inner
    return bool(left)


def too_large(limit: int) -> Problem:
    """Give the problem of a body beyond `limit` bytes."""
    text = f"A body may have at most {limit:,} bytes."
    return Problem("body_too_large", text, headers={"Connection": "close"})
