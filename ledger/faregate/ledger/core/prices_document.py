"""Reads the sections of a price document. What is not certain is refused, with what to change."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

from faregate.events.amounts import MICRO
from faregate.ledger.core.prices_models import (
    DEFAULT_MARGIN,
    DEFAULT_USD_PER_CREDIT,
    ModelPrice,
    Per,
    PhasePrice,
    Tier,
)
from faregate.ledger.core.prices_values import (
    LIMIT,
    InvalidBook,
    parse_amount,
    parse_count,
    parse_flag,
    parse_number,
    parse_positive,
    parse_table,
    require_keys,
)

MOST_MARGIN = 1000
SECTIONS = ("pipelines", "phases", "vendor", "increment", "providers", "models", "tiers")

_USD = ("input_usd_per_1k", "output_usd_per_1k")
_MODEL_KEYS = {  # kind: the keys that it needs, and all that it may have
    "vendor": (_USD, (*_USD, "margin")),
    "credits_per_1k": (("credits",), ("credits", *_USD)),
    "tier_rate": ((), _USD),
}


SHOWN_BESIDE = frozenset(
    {"version", "versions", "in_force", "effective_from", "applied_at", "applied_by"}
)
"""What is shown of a version beside its book. It is no part of the document."""


def without_shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Give the book of what was shown of a version, so that it can be edited and applied again."""
    return {name: value for name, value in document.items() if name not in SHOWN_BESIDE}


def require_sections(document: Mapping[str, Any]) -> None:
    """Refuse a document with a section that no book has."""
    require_keys("the price book", parse_table("the price book", document), SECTIONS)


def section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Give a section of the document; an empty one where it has none."""
    return parse_table(f"[{name}]", document.get(name, {}))


def parse_phase(name: str, raw: object) -> PhasePrice:
    """Read `{"per": "item|pair|flat", "credits": N}`."""
    where = f"phase {name!r}"
    table, keys = parse_table(where, raw), ("per", "credits")
    require_keys(where, table, keys, keys)
    if table["per"] not in get_args(Per):
        raise InvalidBook(f"{where}: per must be one of {', '.join(get_args(Per))}")
    return PhasePrice(table["per"], parse_amount(f"{where}: credits", table["credits"]))


def parse_pipeline(name: str, raw: object) -> tuple[str, ...]:
    """Read a list of different phase names."""
    good = isinstance(raw, list | tuple) and raw and all(isinstance(p, str) and p for p in raw)
    if not good or len(set(raw)) != len(raw):  # type: ignore[call-overload, arg-type]
        raise InvalidBook(f"pipeline {name!r} must be a list of different phase names")
    return tuple(raw)  # type: ignore[arg-type]


def parse_vendor(table: Mapping[str, Any]) -> tuple[Decimal, Decimal]:
    """Read the section `vendor`: the margin, and what a credit is worth in USD."""
    require_keys("[vendor]", table, ("margin", "usd_per_credit"))
    margin = parse_positive("[vendor] margin", table.get("margin", DEFAULT_MARGIN), MOST_MARGIN)
    usd = table.get("usd_per_credit", DEFAULT_USD_PER_CREDIT)
    return margin, parse_positive("[vendor] usd_per_credit", usd)


def parse_provider(name: str, raw: object) -> bool:
    """Read `{"active": true}`: whether requests for its models are let in."""
    where = f"provider {name!r}"
    if "/" in name:
        raise InvalidBook(f"{where}: the name of a provider has no '/'")
    table = parse_table(where, raw)
    require_keys(where, table, ("active",))
    return parse_flag(f"{where}: active", table.get("active", True))


def parse_model(name: str, raw: object, margin: Decimal, usd_per_credit: Decimal) -> ModelPrice:
    """Read the price of a model; `margin` and `usd_per_credit` are the book's."""
    where = f"model {name!r}"
    if name.startswith("/") or name.endswith("/"):
        raise InvalidBook(f"{where} must be named 'provider/model' or 'model'")
    table = parse_table(where, raw)
    _require_model_keys(where, table)
    numbers = {key: parse_number(f"{where}: {key}", table[key]) for key in _USD if key in table}
    if len(numbers) == 1:
        raise InvalidBook(f"{where} needs both {' and '.join(_USD)}, or neither; 0 is a price")
    has_credits, has_margin = "credits" in table, "margin" in table
    price = ModelPrice(
        name,
        table["kind"],
        numbers.get(_USD[0]),
        numbers.get(_USD[1]),
        parse_amount(f"{where}: credits", table["credits"]) if has_credits else None,
        parse_positive(f"{where}: margin", table["margin"], MOST_MARGIN) if has_margin else None,
        parse_flag(f"{where}: active", table.get("active", True)),
    )
    if price.kind == "vendor":
        factor = Fraction(price.margin or margin) / Fraction(usd_per_credit)
        if any(Fraction(usd) * factor >= LIMIT for usd in numbers.values()):
            raise InvalidBook(f"{where} must cost less than {LIMIT:,} credits per 1K tokens")
    return price


def parse_tier(name: str, raw: object) -> Tier:
    """Read `{"credits": N, "calls": N, "rate": credits per 1K tokens, "renews": true}`."""
    where = f"tier {name!r}"
    table = parse_table(where, raw)
    require_keys(where, table, ("credits", "calls", "rate", "renews"), ("credits",))
    micro = parse_amount(f"{where}: credits", table["credits"])
    has_calls, has_rate = "calls" in table, "rate" in table
    return Tier(
        name,
        micro,
        parse_count(f"{where}: calls", table["calls"]) if has_calls else None,
        Fraction(parse_number(f"{where}: rate", table["rate"])) * MICRO if has_rate else None,
        parse_flag(f"{where}: renews", table.get("renews", micro > 0)),
    )


def _require_model_keys(where: str, table: Mapping[str, Any]) -> None:
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in _MODEL_KEYS:
        raise InvalidBook(f"{where}: kind must be one of {', '.join(_MODEL_KEYS)}")
    needed, known = _MODEL_KEYS[kind]
    require_keys(f"{where} ({kind})", table, ("kind", *known, "active"), needed)
