"""Small things that every text for people needs: numbers with their nouns, and what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from decimal import Decimal

from faregate.events.amounts import MICRO, format_credits


def plain(number: float) -> str:
    """Write a number with commas and never with an exponent: `10,000`, `0.00001`."""
    return f"{Decimal(repr(number)):,f}" if isinstance(number, float) else f"{number:,}"


def counted(number: float, one: str, many: str | None = None) -> str:
    """Write a number with its noun: `1 event`, `2 events`; `many` where an `s` is not enough."""
    return f"{plain(number)} {one if number == 1 else many or f'{one}s'}"


def in_credits(micro: int) -> str:
    """Write micro-credits as credits: `1 credit`, `0.25 credits`."""
    return f"{format_credits(micro)} credit{'' if micro == MICRO else 's'}"


def meant(word: str, known: Iterable[str]) -> str:
    """Ask for the known word that is nearest to a misspelt one; nothing if none is near."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
