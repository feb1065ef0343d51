"""Amounts of credits: integer micro-credits inside, JSON numbers outside.

One credit is 1,000,000 micro-credits. All arithmetic is done on the integers; a JSON number with
up to six decimals is only ever what people and other programs see (contract, "Money").
"""

from decimal import Decimal
from math import isfinite

MICRO = 1_000_000
"""Micro-credits in one credit."""
LIMIT_MICRO = 10**9 * MICRO
"""Amounts are below this many micro-credits, so that a double carries them exactly."""

_LIMIT = LIMIT_MICRO // MICRO
_DECIMALS = len(str(MICRO)) - 1


def parse_credits(value: object, *, allow_zero: bool = False) -> int:
    """Turn an amount from outside into micro-credits.

    Takes an int, a finite float whose shortest form has at most six decimals, or a Decimal.
    The amount must be above 0 (or 0 itself with `allow_zero`) and below 10⁹ credits.
    Raises ValueError, with a message that says what to send instead, for everything else:
    booleans, strings, NaN, infinities, more decimals, amounts out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        kind = "null" if value is None else f"of type {type(value).__name__}"
        message = f"the amount must be a number such as 12.5, not {kind}"
        raise ValueError(message)  # noqa: TRY004 - bad input from outside is one kind of error
    micro = _to_micro(value)
    if micro < 0 or (micro == 0 and not allow_zero):
        least = "0 or more" if allow_zero else "more than 0"
        raise ValueError(f"the amount must be {least} credits")
    return micro


def parse_signed_credits(value: object) -> int:
    """Turn a signed amount from outside into micro-credits; as `parse_credits`, 0 allowed."""
    if isinstance(value, Decimal) and value.is_nan():  # has no order: comparing it raises
        return parse_credits(value)
    if isinstance(value, int | float | Decimal) and value < 0:
        return -parse_credits(-value, allow_zero=True)
    return parse_credits(value, allow_zero=True)


def to_credits(micro: int) -> int | float:
    """Give the JSON number for `micro` micro-credits: an int when whole, else ≤ 6 decimals.

    Exact for |micro| up to 2**53 (about 9 * 10⁹ credits); amounts stay below `LIMIT_MICRO`.
    """
    whole, rest = divmod(micro, MICRO)
    return micro / MICRO if rest else whole


def format_credits(micro: int) -> str:
    """Write `micro` micro-credits for people: "10,000", "0.1", "-2.5"."""
    whole, rest = divmod(abs(micro), MICRO)
    decimals = f"{rest:0{_DECIMALS}d}".rstrip("0")
    return f"{'-' if micro < 0 else ''}{whole:,}{'.' if decimals else ''}{decimals}"


def _to_micro(value: float | Decimal) -> int:
    """Scale a finite number by `MICRO` without ever rounding; ValueError where that can't be."""
    if isinstance(value, int):
        _require_in_range(value)
        return value * MICRO
    _require_finite(value)
    _require_in_range(value)
    if isinstance(value, Decimal):
        return _decimal_to_micro(value)
    # Below 10⁹ the product is off by less than half a micro-credit, and dividing back is
    # correctly rounded: it gives `value` again only if its shortest form has ≤ 6 decimals.
    micro = round(value * MICRO)
    if micro / MICRO != value:
        raise _too_many_decimals()
    return micro


def _decimal_to_micro(value: Decimal) -> int:
    """Scale by rounding first, then comparing: linear in the digits, which may be a million."""
    rounded = round(value, _DECIMALS)
    if rounded != value:
        raise _too_many_decimals()
    return int(rounded.scaleb(_DECIMALS))


def _require_finite(value: float | Decimal) -> None:
    if not (value.is_finite() if isinstance(value, Decimal) else isfinite(value)):
        raise ValueError("the amount must be a finite number such as 12.5, not NaN or infinity")


def _require_in_range(value: float | Decimal) -> None:
    if not -_LIMIT < value < _LIMIT:
        raise ValueError("the amount must be below 1,000,000,000 credits; split it")


def _too_many_decimals() -> ValueError:
    return ValueError(f"the amount may have at most {_DECIMALS} decimals; round it first")
