"""What a price document is made of: exact numbers, the increments, and names that are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Any

from faregate.events.amounts import format_credits, parse_credits

LIMIT = 10**9
"""Every number in a book is below this."""
DECIMALS = 12
"""The most decimals that a price in USD, a margin or a rate may have."""

INCREMENTS = frozenset({10_000, 100_000, 1_000_000})
"""What vendor prices can be rounded up to, in micro-credits: 0.01, 0.1 or 1 credit."""
DEFAULT_INCREMENT = 100_000


class InvalidBook(ValueError):
    """A price book that cannot be applied; the message says what to change."""


class InvalidIncrement(InvalidBook):
    """An increment that is none of `INCREMENTS`."""


def parse_increment(value: object) -> int:
    """Read an increment in credits (the number 0.01, 0.1 or 1.0); gives micro-credits.

    Raises InvalidIncrement for everything else, strings and booleans included.
    """
    try:
        micro = parse_credits(value)
    except ValueError:
        micro = 0
    if micro not in INCREMENTS:
        allowed = ", ".join(format_credits(i) for i in sorted(INCREMENTS))
        raise InvalidIncrement(f"the increment must be one of the numbers {allowed} (credits)")
    return micro


def parse_amount(where: str, value: object) -> int:
    """Read an amount of credits, 0 allowed, as micro-credits. Raises InvalidBook naming `where`."""
    try:
        return parse_credits(value, allow_zero=True)
    except ValueError as error:
        raise InvalidBook(f"{where}: {error}") from error


def parse_number(where: str, value: object) -> Decimal:
    """Read a number from 0 to below `LIMIT` with at most `DECIMALS` decimals, exactly as written.

    A float counts as its shortest form. Raises InvalidBook naming `where`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise InvalidBook(f"{where} must be a number, not {_kind(value)}")
    if isinstance(value, Decimal) and value.is_nan():  # has no order: comparing it raises
        raise InvalidBook(f"{where} must be a finite number, not NaN")
    if not 0 <= value < LIMIT:
        raise InvalidBook(f"{where} must be a finite number, 0 or more and below {LIMIT:,}")
    number = Decimal(str(value)).copy_abs()  # -0.0 is 0
    # First by magnitude: the ratio of 1E-999999999 would fill the memory.
    if number and (number.adjusted() < -DECIMALS or 10**DECIMALS % Fraction(number).denominator):
        raise InvalidBook(f"{where} may have at most {DECIMALS} decimals; round it first")
    return number


def parse_positive(where: str, value: object, most: int = LIMIT) -> Decimal:
    """Read a number above 0 and at most `most`. Raises InvalidBook naming `where`."""
    number = parse_number(where, value)
    if not 0 < number <= most:
        raise InvalidBook(f"{where} must be more than 0 and at most {most:,}")
    return number


def parse_count(where: str, value: object) -> int:
    """Read a whole number from 0 to below `LIMIT`. Raises InvalidBook naming `where`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LIMIT:
        raise InvalidBook(f"{where} must be a whole number, 0 or more and below {LIMIT:,}")
    return value


def parse_flag(where: str, value: object) -> bool:
    """Read true or false. Raises InvalidBook naming `where`."""
    if not isinstance(value, bool):
        raise InvalidBook(f"{where} must be true or false, not {_kind(value)}")
    return value


def parse_table(where: str, value: object) -> Mapping[str, Any]:
    """Read a table whose keys are names. Raises InvalidBook naming `where`."""
    if not isinstance(value, Mapping):
        raise InvalidBook(f"{where} must be a table of names")
    if not all(isinstance(name, str) and name for name in value):
        raise InvalidBook(f"{where}: a name must be a text that is not empty")
    return value


def require_keys(
    where: str, table: Mapping[str, Any], known: Collection[str], needed: Collection[str] = ()
) -> None:
    """Refuse keys that are not `known`, suggesting the nearest, and say which are missing."""
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidBook(f"{where}: unknown key {key!r}{hint} (known: {', '.join(known)})")
    missing = [key for key in needed if key not in table]
    if missing:
        raise InvalidBook(f"{where} needs {' and '.join(missing)}")


def _kind(value: object) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
